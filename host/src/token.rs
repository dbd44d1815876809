//! What the authority says of tokens, in the host's own words: the types of `wit/types.wit` and
//! `wit/authenticator.wit` without the sandbox they came through.

use std::time::SystemTime;

use thiserror::Error;

use crate::secret::Secret;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Timestamp = u64;

/// The current time; the epoch, where the clock stands before it.
pub(crate) fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The name of the operator token.
pub const OPERATOR: &str = "_admin";

/// What is known of a token. Its secret cannot be had from it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenInfo {
    /// Counted from 0, never used twice in one catalog.
    pub id: u64,
    /// `_admin` for the operator token.
    pub name: String,
    /// SHA-512 of the whole token text, as 128 lower-case hexadecimal digits.
    pub sha512: String,
    /// When the token was made.
    pub created_at: Timestamp,
    /// When it was last changed, if ever.
    pub updated_at: Option<Timestamp>,
    /// The number of the token that changed it.
    pub updated_by: Option<u64>,
    /// The first moment at which it is refused; `None` for never.
    pub expiry: Option<Timestamp>,
}

/// A token made just now. Its hash is durable; its secret is shown this once.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuedToken {
    /// Its record.
    pub info: TokenInfo,
    /// Its text: `apiv3_` and 86 characters.
    pub secret: Secret,
}

/// What has become of a token that was made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preset {
    /// It was taken in.
    Created(TokenInfo),
    /// It is there already; nothing was changed.
    Unchanged(TokenInfo),
    /// There is a token of its name with another secret, which stays; the one that was given is not accepted.
    Different(TokenInfo),
}

/// Whose token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Principal {
    /// The number of the token.
    pub id: u64,
    /// Whether it is the operator token, or a named admin's.
    pub operator: bool,
    /// Whether it is the secret that was the operator token's before the current one, and is accepted a while longer.
    pub replaced: bool,
}

/// A secret that waits to become that of the operator token.
#[derive(Debug)]
#[non_exhaustive]
pub struct StagedSecret {
    /// Its text, shown this once; `None` where only its hash was given.
    pub secret: Option<Secret>,
    /// SHA-512 of it, as 128 lower-case hexadecimal digits.
    pub sha512: String,
    /// The first moment at which it can no longer be confirmed.
    pub expires_at: Timestamp,
}

/// A secret beside the current one of the operator token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimedSecret {
    /// Its SHA-512, as 128 lower-case hexadecimal digits: which secret it is.
    pub sha512: String,
    /// The first moment at which it is as if it never was.
    pub until: Timestamp,
}

/// What is under way with the operator token beside its current secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// Nothing.
    Settled,
    /// This secret waits to be confirmed.
    Staged(TimedSecret),
    /// This secret, the one before the current, is still accepted.
    Overlapping(TimedSecret),
}

/// The operator token and what is under way with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorStatus {
    /// Its record.
    pub info: TokenInfo,
    /// What is under way.
    pub rotation: Rotation,
}

/// Why a token was not accepted. Whatever the case, the request must not pass.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The catalog has no such token.
    #[error("the token is not known")]
    Unknown,
    /// The token's time is over since then.
    #[error("the token expired at {0} ms since the epoch")]
    Expired(Timestamp),
    /// Nothing can be said about the token now. Trying again later may help.
    #[error("tokens cannot be checked: {0}")]
    Unavailable(String),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The credential is no known token.
    #[error("the token is not known")]
    Unauthenticated,
    /// The credential's time is over since then.
    #[error("the token expired at {0} ms since the epoch")]
    Expired(Timestamp),
    /// The credential is valid, but its token may not do this.
    #[error("only the operator token may do this")]
    Forbidden,
    /// There is no token of this name.
    #[error("there is no token named {0:?}")]
    NotFound(String),
    /// There is a token of this name already.
    #[error("there is a token named {0:?} already")]
    AlreadyExists(String),
    /// The operator token is replaced, never taken out.
    #[error("the operator token cannot be deleted")]
    OperatorProtected,
    /// The catalog holds as many tokens as it can, which is this many.
    #[error("there are {0} tokens already, more are not possible")]
    Full(u32),
    /// Something else is under way that excludes this; the text says what and how to end it.
    #[error("{0}")]
    Conflict(String),
    /// An argument is not allowed; the text says which and why.
    #[error("{0}")]
    InvalidArgument(String),
    /// Nothing was changed. Trying again later may help.
    #[error("nothing was changed: {0}")]
    Unavailable(String),
    /// The change may or may not have been made; if it was, its token is lost.
    #[error("it is not known whether the change was made: {0}")]
    UnknownOutcome(String),
    /// Nothing was changed, and trying again will not help: the catalog, the component or the machine is at fault.
    #[error("nothing was changed: {0}")]
    Internal(String),
}

/// A moment as RFC 3339 in UTC, with milliseconds where there are any (COMPAT 2.3).
#[cfg(feature = "server")]
pub fn rfc3339(at: Timestamp) -> String {
    let moment = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let precision = if at.is_multiple_of(1000) { 0 } else { 3 };
    // What lies beyond the year 9999 is as good as never, and clients can read this.
    format!("{:.precision$}", moment.unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_clients_read_them() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_744_984_965_331, "2025-04-18T14:02:45.331Z"),
            (1_744_984_965_330, "2025-04-18T14:02:45.330Z"),
            (1_744_984_965_000, "2025-04-18T14:02:45Z"),
        ] {
            assert_eq!(rfc3339(at), text);
        }
        assert!(rfc3339(u64::MAX).starts_with("9999-12-3"));
    }
}

//! The tokens of an authority, their states and the errors about them: the types of
//! `wit/types.wit`, `wit/authenticator.wit` and `wit/tokens.wit`, independent of the sandbox.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use thiserror::Error;

use crate::secret::Secret;

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z.
pub type Timestamp = u64;

/// The current time; zero, where the clock is before 1970.
pub(crate) fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The name of the operator token.
pub const OPERATOR: &str = "_admin";

/// The record of a token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenInfo {
    /// The number of the token, counted from 0 and never used twice in one catalog.
    pub id: u64,
    /// The name of the token; [`OPERATOR`] for the operator token.
    pub name: String,
    /// SHA-512 of the whole token text, as 128 lower-case hexadecimal digits.
    pub sha512: String,
    /// When the token was created or imported.
    pub created_at: Timestamp,
    /// When the token was last changed, if ever.
    pub updated_at: Option<Timestamp>,
    /// The number of the token that made that change.
    pub updated_by: Option<u64>,
    /// The first moment at which the token is refused; `None` for never.
    pub expiry: Option<Timestamp>,
    /// How the token was made.
    pub source: TokenSource,
    /// What the token may do, each as `TYPE:NAMES:ACTIONS`; `None` if it has all permissions.
    pub permissions: Option<Vec<String>>,
    /// What the token is for, in the words of its configuration.
    pub description: Option<String>,
}

/// How a token was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSource {
    /// With the current operator token, with a named token, or without a credential.
    Command,
    /// By an import, or before the catalog had format 2, which records imports.
    Imported,
    /// With the previous secret of the operator token during an overlap, or with a token that was
    /// made with that secret since its replacement.
    PreviousSecret,
}

/// A token that was just issued. Its hash is durable; the authority keeps no copy of its secret.
#[derive(Debug)]
#[non_exhaustive]
pub struct IssuedToken {
    /// The record of the token.
    pub info: TokenInfo,
    /// The token text: `apiv3_` and 86 characters.
    pub secret: Secret,
}

/// A token of a configuration, to import.
#[derive(Debug, Clone, Copy)]
pub struct ConfiguredToken<'a> {
    /// The name of the token.
    pub name: &'a str,
    /// SHA-512 of the whole token text, as 128 lower-case hexadecimal digits.
    pub sha512: &'a str,
    /// What the token may do, each as `TYPE:NAMES:ACTIONS`; `None` for everything.
    pub permissions: Option<&'a [String]>,
    /// What the token is for: visible text of 1 to 256 bytes.
    pub description: Option<&'a str>,
    /// The first moment at which the token is refused; `None` for never.
    pub expiry: Option<Timestamp>,
}

impl<'a> ConfiguredToken<'a> {
    /// A token with all permissions that never expires.
    pub const fn admin(name: &'a str, sha512: &'a str) -> Self {
        Self { name, sha512, permissions: None, description: None, expiry: None }
    }
}

/// The outcome of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The token was imported.
    Created(TokenInfo),
    /// The token was imported before; nothing was changed. Its permissions may be others than those
    /// of the configuration.
    Unchanged(TokenInfo),
    /// A token of that name exists with another secret, which stays. The given secret is not
    /// accepted.
    Different(TokenInfo),
    /// The given secret was accepted before and then revoked: its token was imported and later
    /// deleted, or the operator token had it. Nothing was changed, and the secret is not accepted.
    Revoked,
}

/// The outcome of a replacement of the operator token by the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceOutcome {
    /// The secret was replaced.
    Replaced,
    /// The operator token has the new secret already; nothing was changed.
    Unchanged,
    /// The operator token has another secret than the earlier one of the configuration; nothing was
    /// changed.
    Different,
    /// The new secret was accepted before and then revoked; nothing was changed.
    Revoked,
}

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// The current secret of the operator token. Only this kind may rotate the operator token.
    Operator,
    /// The previous secret of the operator token, during an overlap.
    PreviousOperator,
    /// Any other token with all permissions.
    NamedAdmin,
    /// A token that has the permissions of its record and no others. The commands refuse it, and
    /// [`authorize`](crate::authority::Authority::authorize) decides on each request.
    Scoped,
}

/// The token that a credential belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Principal {
    /// The number of the token.
    pub id: u64,
    /// The kind of the token.
    pub kind: TokenKind,
}

/// A secret that waits to replace the secret of the operator token.
#[derive(Debug)]
#[non_exhaustive]
pub struct StagedSecret {
    /// The token text; `None` if the client supplied its hash. The authority keeps no copy.
    pub secret: Option<Secret>,
    /// SHA-512 of the token text, as 128 lower-case hexadecimal digits.
    pub sha512: String,
    /// The first moment at which the secret can no longer be confirmed.
    pub expires_at: Timestamp,
}

/// A secret beside the current one of the operator token, with its deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpiringSecret {
    /// SHA-512 of the token text, as 128 lower-case hexadecimal digits.
    pub sha512: String,
    /// The first moment at which the secret is refused.
    pub expires_at: Timestamp,
}

/// The rotation of the operator token. At most one secret exists beside the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// The operator token has no second secret.
    Idle,
    /// This secret waits to be confirmed.
    Staged(ExpiringSecret),
    /// This secret, the previous one, is still accepted.
    Overlapping(ExpiringSecret),
}

/// The operator token and its rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorStatus {
    /// The record of the operator token.
    pub info: TokenInfo,
    /// The rotation of the operator token.
    pub rotation: Rotation,
}

/// The state of a catalog: two states of one catalog are equal if nothing was changed between them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogState {
    /// The version of the document in the store; only equality is meaningful.
    pub version: String,
    /// The identifier of the catalog, if it has one.
    pub catalog_id: Option<String>,
    /// The sequence number of the newest audit record; 0 if there is none.
    pub audit_sequence: u64,
    /// SHA-512/256 of the newest audit record, as 64 lower-case hexadecimal digits.
    pub audit_head: Option<String>,
}

/// Audit records of a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRecords {
    /// The records in ascending order, each as its line of JSON without the line's end.
    pub lines: Vec<String>,
    /// The sequence numbers that the catalog retains; `None` if it has no record.
    pub retained: Option<RangeInclusive<u64>>,
}

/// What a component is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComponentInfo {
    /// The contract with its version.
    pub contract: String,
    /// The version of the implementation.
    pub version: String,
    /// The revision of the sources, if the build recorded one.
    pub revision: Option<String>,
    /// The format number of the catalogs that the component writes.
    pub catalog_format: u32,
    /// The limits that the component enforces.
    pub limits: ComponentLimits,
}

/// The limits that a component enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComponentLimits {
    /// The most tokens that a catalog holds.
    pub max_tokens: u32,
    /// The largest document that the component loads, in bytes.
    pub max_document_bytes: u64,
    /// The number of the newest audit records that a catalog retains.
    pub max_audit_records: u32,
    /// The longest token name, in bytes.
    pub max_name_bytes: u32,
    /// The longest origin that is recorded, in bytes; a longer one is cut.
    pub max_origin_bytes: u32,
    /// The longest overlap of two operator secrets, in seconds.
    pub max_overlap_seconds: u64,
    /// The longest wait of a staged secret, in seconds.
    pub max_ttl_seconds: u64,
    /// The most permissions of a token.
    pub max_permissions: u32,
    /// The most bytes that the permissions of a token have together.
    pub max_permission_bytes: u32,
    /// The longest description of a token, in bytes.
    pub max_description_bytes: u32,
}

/// Why a token was not accepted. A host must refuse the request in every case.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// The token is not in the catalog.
    #[error("the token is not known")]
    Unknown,
    /// The token expired at this time.
    #[error("the token expired at {0} ms since the epoch")]
    Expired(Timestamp),
    /// The state of the token is unknown. A later attempt may succeed.
    #[error("tokens cannot be checked: {0}")]
    Unavailable(String),
}

/// Why a command failed. Every case but `UnknownOutcome` guarantees that nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The credential belongs to no token of the catalog.
    #[error("the token is not known")]
    Unauthenticated,
    /// The credential belongs to a token that expired at this time.
    #[error("the token expired at {0} ms since the epoch")]
    Expired(Timestamp),
    /// The credential is accepted, but its token lacks the permission.
    #[error("the token lacks the permission for this")]
    Forbidden,
    /// No token has this name.
    #[error("there is no token named {0:?}")]
    NotFound(String),
    /// A token of this name exists.
    #[error("there is a token named {0:?} already")]
    AlreadyExists(String),
    /// The operator token cannot be deleted, only replaced.
    #[error("the operator token cannot be deleted")]
    OperatorProtected,
    /// The catalog holds its maximum number of tokens, which is this number.
    #[error("there are {0} tokens already, more are not possible")]
    Full(u32),
    /// The state of the rotation excludes this command; the text explains how to end it.
    #[error("{0}")]
    Conflict(String),
    /// An argument is outside its documented range; the text names the range.
    #[error("{0}")]
    InvalidArgument(String),
    /// Nothing was changed. A later attempt may succeed.
    #[error("nothing was changed: {0}")]
    Unavailable(String),
    /// The change may or may not have been made; if it was, its token is lost.
    #[error("it is not known whether the change was made: {0}")]
    UnknownOutcome(String),
    /// Nothing was changed, and a repetition fails again: the catalog, the component or the machine
    /// is at fault.
    #[error("nothing was changed: {0}")]
    Internal(String),
}

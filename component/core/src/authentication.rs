//! Whether a credential is accepted, and what its token may do. Pure functions, like
//! [`transition`](crate::transition), and nothing here changes a catalog.

use thiserror::Error;

use crate::access::Access;
use crate::catalog::{Catalog, SecretMatch};
use crate::ports::Timestamp;
use crate::token::TokenHash;

/// The kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// The current secret of the operator token.
    Operator,
    /// The previous secret of the operator token, during an overlap.
    PreviousOperator,
    /// Any other token with all permissions.
    NamedAdmin,
    /// A token that has its own permissions and no others.
    Scoped,
}

/// The token that a credential belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The number of the token.
    pub id: u64,
    /// The kind of the token.
    pub kind: TokenKind,
}

/// Why a presented token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthError {
    /// No token of the catalog has this hash.
    #[error("the token is not known")]
    Unknown,
    /// The token has expired.
    #[error("the token expired at {at} ms")]
    Expired {
        /// Its expiry.
        at: Timestamp,
    },
}

/// Why a token may not do what a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AccessError {
    /// The token is not accepted.
    #[error(transparent)]
    Unauthenticated(#[from] AuthError),
    /// The token is accepted, and lacks the permission.
    #[error("the token lacks the permission for this")]
    Forbidden,
}

/// The token that this hash belongs to. Calls `now` only where a token has a deadline. A time
/// before the newest record of the catalog counts as the time of that record.
pub fn authenticate(
    catalog: &Catalog,
    credential: &TokenHash,
    now: impl FnOnce() -> Timestamp,
) -> Result<Principal, AuthError> {
    let now = || catalog.not_before_newest(now());
    let expired =
        |at: Timestamp, now: Timestamp| if at <= now { Err(AuthError::Expired { at }) } else { Ok(()) };
    match catalog.find(credential) {
        // Strictly later than now (docs/compatibility.md 1.13).
        Some(SecretMatch::Current(token)) => {
            token.expiry.map_or(Ok(()), |at| expired(at, now()))?;
            let kind = if token.is_operator() {
                TokenKind::Operator
            } else if token.permissions.is_some() {
                TokenKind::Scoped
            } else {
                TokenKind::NamedAdmin
            };
            Ok(Principal { id: token.id, kind })
        }
        Some(SecretMatch::Previous(previous)) => {
            let operator = catalog.operator().ok_or(AuthError::Unknown)?;
            let until = operator.expiry.map_or(previous.expires_at, |at| at.min(previous.expires_at));
            expired(until, now())?;
            Ok(Principal { id: operator.id, kind: TokenKind::PreviousOperator })
        }
        // Only `confirm` accepts a staged secret.
        Some(SecretMatch::Staged(_)) | None => Err(AuthError::Unknown),
    }
}

/// The token that this hash belongs to, if it may do this. An unknown hash costs what it costs in
/// [`authenticate`]; beyond that, the cost depends on the permissions of the token alone.
pub fn authorize(
    catalog: &Catalog,
    credential: &TokenHash,
    access: &Access<'_>,
    now: impl FnOnce() -> Timestamp,
) -> Result<Principal, AccessError> {
    let principal = authenticate(catalog, credential, now)?;
    if principal.kind != TokenKind::Scoped {
        return Ok(principal);
    }
    let permissions = catalog.numbered(principal.id).and_then(|token| token.permissions.as_ref());
    if permissions.is_some_and(|permissions| permissions.allow(access)) {
        Ok(principal)
    } else {
        Err(AccessError::Forbidden)
    }
}

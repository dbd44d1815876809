//! Writes outputs and errors for programs: a result of the contract (`wit/*.wit`) as one line of
//! JSON, in the form of `tests/conformance/README.md`.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_core::authority::{
    AuthenticateError, AuthorizeError, ImportOutcome, Issued, ReplaceOutcome, Staged,
};
use optoken_core::catalog::{MAX_TOKENS, Source, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::Timestamp;
use optoken_core::rotation::{self, ExpiringHash};
use optoken_core::token::Secret;
use optoken_core::transition::{self, AccessError, AuthError, CommandRejected};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::execute::{self, Output};

/// Returns a result as one line, without the line feed.
pub(crate) fn line(outcome: &Result<Output, execute::Error>) -> Result<Zeroizing<String>, serde_json::Error> {
    let outcome = match outcome {
        Ok(output) => Outcome::Ok(Value::from(output)),
        Err(error) => Outcome::Err(Error::from(error)),
    };
    // The text grows, and may hold a secret: the heap wipes the copies that growth leaves behind.
    serde_json::to_string(&outcome).map(Zeroizing::new)
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome<'a> {
    Ok(Value<'a>),
    Err(Error),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Issued(IssuedToken<'a>),
    Staged(StagedSecret<'a>),
    Info(TokenInfo<'a>),
    Import(Import<'a>),
    Replacement(Replacement),
    Hash(&'a str),
    Principal(Principal),
    Status(Option<OperatorStatus<'a>>),
    List(Vec<TokenInfo<'a>>),
    Audit(AuditRecords<'a>),
    State(Option<CatalogState<'a>>),
    CatalogId(&'a str),
    Nothing(()),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TokenInfo<'a> {
    id: u64,
    name: &'a str,
    sha512: String,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
    updated_by: Option<u64>,
    expiry: Option<Timestamp>,
    source: TokenSource,
    permissions: Option<Vec<&'a str>>,
    description: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum TokenSource {
    Command,
    Imported,
    PreviousSecret,
}

#[derive(Serialize)]
struct IssuedToken<'a> {
    info: TokenInfo<'a>,
    secret: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StagedSecret<'a> {
    secret: Option<&'a str>,
    sha512: String,
    expires_at: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Import<'a> {
    Created(TokenInfo<'a>),
    Unchanged(TokenInfo<'a>),
    Different(TokenInfo<'a>),
    Revoked,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Replacement {
    Replaced,
    Unchanged,
    Different,
    Revoked,
}

#[derive(Serialize)]
struct Principal {
    id: u64,
    kind: TokenKind,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum TokenKind {
    Operator,
    PreviousOperator,
    NamedAdmin,
    Scoped,
}

#[derive(Serialize)]
struct OperatorStatus<'a> {
    info: TokenInfo<'a>,
    rotation: Rotation,
}

#[derive(Serialize)]
struct AuditRecords<'a> {
    lines: &'a [String],
    retained: Option<AuditRange>,
}

#[derive(Serialize)]
struct AuditRange {
    oldest: u64,
    newest: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct CatalogState<'a> {
    version: &'a str,
    catalog_id: Option<&'a str>,
    audit_sequence: u64,
    audit_head: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Rotation {
    Idle,
    Staged(ExpiringSecret),
    Overlapping(ExpiringSecret),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ExpiringSecret {
    sha512: String,
    expires_at: Timestamp,
}

/// The errors of all functions of the contract. Cases of the same name have the same JSON.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Error {
    UnknownToken,
    Unauthenticated,
    Expired(Timestamp),
    Forbidden,
    NotFound(String),
    AlreadyExists(String),
    OperatorProtected,
    Full(usize),
    Conflict(String),
    InvalidArgument(String),
    Contended,
    #[serde(rename = "unavailable")]
    AuthenticationUnavailable,
    Unavailable(String),
    UnknownOutcome(String),
    UnreadableCatalog(String),
    NoEntropy(String),
    Other(String),
}

impl<'a> From<&'a Output> for Value<'a> {
    fn from(output: &'a Output) -> Self {
        match output {
            Output::Issued(Issued { token, secret }) => {
                Self::Issued(IssuedToken { info: token.into(), secret: secret.expose() })
            }
            Output::Staged(Staged { secret, hash, expires_at }) => Self::Staged(StagedSecret {
                secret: secret.as_ref().map(Secret::expose),
                sha512: hash.to_string(),
                expires_at: *expires_at,
            }),
            Output::Confirmed(token) | Output::Deleted(token) | Output::Described(token) => {
                Self::Info(token.into())
            }
            Output::Import(outcome) => Self::Import(match outcome {
                ImportOutcome::Created(token) => Import::Created(token.into()),
                ImportOutcome::Unchanged(token) => Import::Unchanged(token.into()),
                ImportOutcome::Different(token) => Import::Different(token.into()),
                ImportOutcome::Revoked => Import::Revoked,
            }),
            Output::Replacement(outcome) => Self::Replacement(match outcome {
                ReplaceOutcome::Replaced => Replacement::Replaced,
                ReplaceOutcome::Unchanged => Replacement::Unchanged,
                ReplaceOutcome::Different => Replacement::Different,
                ReplaceOutcome::Revoked => Replacement::Revoked,
            }),
            Output::Hash(sha512) => Self::Hash(sha512),
            Output::Principal(transition::Principal { id, kind })
            | Output::Allowed(transition::Principal { id, kind }) => Self::Principal(Principal {
                id: *id,
                kind: match kind {
                    transition::TokenKind::Operator => TokenKind::Operator,
                    transition::TokenKind::PreviousOperator => TokenKind::PreviousOperator,
                    transition::TokenKind::NamedAdmin => TokenKind::NamedAdmin,
                    transition::TokenKind::Scoped => TokenKind::Scoped,
                },
            }),
            Output::Status(status) => {
                Self::Status(status.as_ref().map(|(operator, rotation)| OperatorStatus {
                    info: operator.into(),
                    rotation: match rotation {
                        rotation::Rotation::Idle => Rotation::Idle,
                        rotation::Rotation::Staged(staged) => Rotation::Staged(staged.into()),
                        rotation::Rotation::Overlap(previous) => Rotation::Overlapping(previous.into()),
                    },
                }))
            }
            Output::List(tokens) => Self::List(tokens.iter().map(Into::into).collect()),
            Output::Audit(lines, retained) => Self::Audit(AuditRecords {
                lines,
                retained: retained.map(|(oldest, newest)| AuditRange { oldest, newest }),
            }),
            Output::State(state) => Self::State(state.as_ref().map(|state| CatalogState {
                version: &state.version,
                catalog_id: state.catalog_id.as_deref(),
                audit_sequence: state.audit_sequence,
                audit_head: state.audit_head.as_deref(),
            })),
            Output::CatalogId(id) => Self::CatalogId(id),
            Output::Done(_) | Output::OverlapEnded(_) => Self::Nothing(()),
        }
    }
}

impl From<&ExpiringHash> for ExpiringSecret {
    fn from(ExpiringHash { hash, expires_at }: &ExpiringHash) -> Self {
        Self { sha512: hash.to_string(), expires_at: *expires_at }
    }
}

impl<'a> From<&'a TokenRecord> for TokenInfo<'a> {
    fn from(token: &'a TokenRecord) -> Self {
        Self {
            id: token.id,
            name: &token.name,
            sha512: token.hash.to_string(),
            created_at: token.created_at,
            updated_at: token.updated_at,
            updated_by: token.updated_by,
            expiry: token.expiry,
            source: match token.source {
                Source::Command => TokenSource::Command,
                Source::Import => TokenSource::Imported,
                Source::PreviousSecret => TokenSource::PreviousSecret,
            },
            permissions: token.permissions.as_ref().map(|permissions| permissions.texts().collect()),
            description: token.description.as_deref(),
        }
    }
}

impl From<&execute::Error> for Error {
    fn from(error: &execute::Error) -> Self {
        let refused = |error: &AuthError| match error {
            AuthError::Unknown => Self::UnknownToken,
            AuthError::Expired { at } => Self::Expired(*at),
        };
        match error {
            execute::Error::Authenticate(AuthenticateError::Refused(error))
            | execute::Error::Authorize(AuthorizeError::Refused(AccessError::Unauthenticated(error))) => {
                refused(error)
            }
            execute::Error::Authorize(AuthorizeError::Refused(AccessError::Forbidden)) => Self::Forbidden,
            execute::Error::Authenticate(AuthenticateError::Unavailable(_))
            | execute::Error::Authorize(AuthorizeError::Unavailable(_)) => Self::AuthenticationUnavailable,
            execute::Error::Command(error) => error.into(),
        }
    }
}

impl From<&CommandError> for Error {
    fn from(error: &CommandError) -> Self {
        match error {
            CommandError::Rejected(rejected) => match rejected {
                CommandRejected::Unauthenticated(AuthError::Unknown) => Self::Unauthenticated,
                CommandRejected::Unauthenticated(AuthError::Expired { at }) => Self::Expired(*at),
                CommandRejected::Forbidden => Self::Forbidden,
                CommandRejected::NotFound(name) => Self::NotFound(name.clone()),
                CommandRejected::AlreadyExists(name) => Self::AlreadyExists(name.clone()),
                CommandRejected::OperatorProtected => Self::OperatorProtected,
                CommandRejected::Full => Self::Full(MAX_TOKENS),
                CommandRejected::Overlapping { .. }
                | CommandRejected::FormerUnknown
                | CommandRejected::ScopesFull => Self::Conflict(rejected.to_string()),
                CommandRejected::TooLong { .. }
                | CommandRejected::Name(_)
                | CommandRejected::OperatorScope
                | CommandRejected::Description
                | CommandRejected::SecretTaken(_)
                | CommandRejected::SecretRevoked => Self::InvalidArgument(rejected.to_string()),
                CommandRejected::SecretCollision => Self::NoEntropy(rejected.to_string()),
                CommandRejected::Invariant(error) => Self::Other(error.to_string()),
            },
            CommandError::Catalog(error) => Self::UnreadableCatalog(error.to_string()),
            CommandError::Contended => Self::Contended,
            CommandError::Unavailable(reason) => Self::Unavailable(reason.clone()),
            CommandError::UnknownOutcome(reason) => Self::UnknownOutcome(reason.clone()),
            CommandError::Entropy(error) => Self::NoEntropy(error.to_string()),
            CommandError::Weak(_) | CommandError::Hash(_) | CommandError::Permission(_) => {
                Self::InvalidArgument(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests;

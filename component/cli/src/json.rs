//! Answers for programs: a result of the contract (`wit/*.wit`) as one line of JSON, in the form that
//! `tests/conformance/README.md` gives every value of it.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_component::authority::{AuthenticateError, Issued, Preset, Staged};
use optoken_component::catalog::{MAX_TOKENS, TokenRecord};
use optoken_component::commit::CommandError;
use optoken_component::machine::{Denial, Principal, Refusal};
use optoken_component::ports::Timestamp;
use optoken_component::rotation::{Rotation, Timed};
use optoken_component::token::Secret;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::answer::{Answer, Failed};

/// A result as its line, without the line's end.
pub(crate) fn line(outcome: &Result<Answer, Failed>) -> Result<Zeroizing<String>, serde_json::Error> {
    let outcome = match outcome {
        Ok(answer) => Outcome::Ok(Value::from(answer)),
        Err(failed) => Outcome::Err(Error::from(failed)),
    };
    // Wiped by the heap where it grew.
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
    Preset(PresetOutcome<'a>),
    Principal(PrincipalOf),
    Status(Option<OperatorStatus<'a>>),
    List(Vec<TokenInfo<'a>>),
    Audit(&'a [String]),
    Name(&'a str),
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
enum PresetOutcome<'a> {
    Created(TokenInfo<'a>),
    Unchanged(TokenInfo<'a>),
    Different(TokenInfo<'a>),
}

#[derive(Serialize)]
struct PrincipalOf {
    id: u64,
    kind: TokenKind,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum TokenKind {
    Operator,
    ReplacedOperator,
    NamedAdmin,
}

#[derive(Serialize)]
struct OperatorStatus<'a> {
    info: TokenInfo<'a>,
    rotation: RotationOf,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum RotationOf {
    Settled,
    Staged(Timestamp),
    Overlapping(Timestamp),
}

/// The errors of all commands, whose names agree where they meet.
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
    Undecided,
    Unavailable(String),
    UnknownOutcome(String),
    UnreadableCatalog(String),
    NoEntropy(String),
    Other(String),
}

impl<'a> From<&'a Answer> for Value<'a> {
    fn from(answer: &'a Answer) -> Self {
        match answer {
            Answer::Issued(Issued { token, secret }) => {
                Self::Issued(IssuedToken { info: token.into(), secret: secret.expose() })
            }
            Answer::Staged(Staged { secret, hash, until }) => Self::Staged(StagedSecret {
                secret: secret.as_ref().map(Secret::expose),
                sha512: hash.to_string(),
                expires_at: *until,
            }),
            Answer::Confirmed(token) | Answer::Deleted(token) => Self::Info(token.into()),
            Answer::Preset(preset) => Self::Preset(match preset {
                Preset::Created(token) => PresetOutcome::Created(token.into()),
                Preset::Unchanged(token) => PresetOutcome::Unchanged(token.into()),
                Preset::Different(token) => PresetOutcome::Different(token.into()),
            }),
            Answer::Principal(Principal { id, operator, replaced }) => Self::Principal(PrincipalOf {
                id: *id,
                kind: match (operator, replaced) {
                    (true, false) => TokenKind::Operator,
                    (true, true) => TokenKind::ReplacedOperator,
                    (false, _) => TokenKind::NamedAdmin,
                },
            }),
            Answer::Status(status) => {
                Self::Status(status.as_ref().map(|(operator, rotation)| OperatorStatus {
                    info: operator.into(),
                    rotation: match rotation {
                        Rotation::None => RotationOf::Settled,
                        Rotation::Staged(Timed { until, .. }) => RotationOf::Staged(*until),
                        Rotation::Overlap(Timed { until, .. }) => RotationOf::Overlapping(*until),
                    },
                }))
            }
            Answer::List(tokens) => Self::List(tokens.iter().map(Into::into).collect()),
            Answer::Audit(lines) => Self::Audit(lines),
            Answer::Name(name) => Self::Name(name),
            Answer::Done(_) => Self::Nothing(()),
        }
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
        }
    }
}

impl From<&Failed> for Error {
    fn from(failed: &Failed) -> Self {
        match failed {
            Failed::Authenticate(AuthenticateError::Refused(Refusal::Unknown)) => Self::UnknownToken,
            Failed::Authenticate(AuthenticateError::Refused(Refusal::Expired { at })) => Self::Expired(*at),
            Failed::Authenticate(AuthenticateError::Undecided(_)) => Self::Undecided,
            Failed::Command(error) => error.into(),
        }
    }
}

impl From<&CommandError> for Error {
    fn from(error: &CommandError) -> Self {
        match error {
            CommandError::Denied(denial) => match denial {
                Denial::Unauthenticated(Refusal::Unknown) => Self::Unauthenticated,
                Denial::Unauthenticated(Refusal::Expired { at }) => Self::Expired(*at),
                Denial::Forbidden => Self::Forbidden,
                Denial::NotFound(name) => Self::NotFound(name.clone()),
                Denial::AlreadyExists(name) => Self::AlreadyExists(name.clone()),
                Denial::OperatorProtected => Self::OperatorProtected,
                Denial::Full => Self::Full(MAX_TOKENS),
                Denial::Overlapping { .. } => Self::Conflict(denial.to_string()),
                Denial::TooLong { .. } | Denial::Name(_) | Denial::SecretTaken(_) => {
                    Self::InvalidArgument(denial.to_string())
                }
                Denial::SecretNotNew => Self::NoEntropy(denial.to_string()),
                Denial::Impossible(error) => Self::Other(error.to_string()),
            },
            CommandError::Catalog(error) => Self::UnreadableCatalog(error.to_string()),
            CommandError::Contended => Self::Contended,
            CommandError::Unavailable(why) => Self::Unavailable(why.clone()),
            CommandError::UnknownOutcome(why) => Self::UnknownOutcome(why.clone()),
            CommandError::Entropy(error) => Self::NoEntropy(error.to_string()),
            CommandError::Weak(_) | CommandError::Hash(_) => Self::InvalidArgument(error.to_string()),
        }
    }
}

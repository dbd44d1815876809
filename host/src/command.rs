//! The commands of an authority, as data.
//!
//! [`Authority`](crate::authority::Authority) makes a [`Command`], the sandbox executes it; nothing
//! between them knows its kind.

use crate::secret::Secret;
use crate::token::{
    CommandError, ConfiguredToken, ImportOutcome, IssuedToken, ReplaceOutcome, StagedSecret, TokenInfo,
};

/// A command without its origin.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command<'a> {
    /// `provision.initialize`
    Initialize,
    /// `tokens.create-operator`
    CreateOperator,
    /// `tokens.create-named`
    CreateNamed {
        credential: &'a Secret,
        name: &'a str,
        permissions: Option<&'a [String]>,
        lifetime_seconds: Option<u64>,
    },
    /// `tokens.regenerate`
    Regenerate { credential: &'a Secret, overlap_seconds: u64 },
    /// `tokens.stage`
    Stage { credential: &'a Secret, sha512: Option<&'a str>, ttl_seconds: Option<u64> },
    /// `tokens.confirm`
    Confirm { credential: &'a Secret, overlap_seconds: u64 },
    /// `tokens.cancel`
    Cancel { credential: &'a Secret },
    /// `tokens.end-overlap`
    EndOverlap { credential: &'a Secret },
    /// `tokens.delete`
    Delete { credential: &'a Secret, name: &'a str },
    /// `recovery.regenerate`, for a lost secret
    Recover,
    /// `recovery.regenerate`, before an older catalog is put back
    Restore,
    /// `provision.import-hash`
    ImportHash(&'a ConfiguredToken<'a>),
    /// `provision.replace-operator`
    ReplaceOperator { current: &'a str, sha512: &'a str, overlap_seconds: u64 },
}

impl Command<'_> {
    /// The name for observers, metrics and logs.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::CreateOperator => "create_operator",
            Self::CreateNamed { .. } => "create_named",
            Self::Regenerate { .. } => "regenerate",
            Self::Stage { .. } => "stage",
            Self::Confirm { .. } => "confirm",
            Self::Cancel { .. } => "cancel",
            Self::EndOverlap { .. } => "end_overlap",
            Self::Delete { .. } => "delete",
            Self::Recover => "recover",
            Self::Restore => "restore",
            // The name in audit records and metrics.
            Self::ImportHash(_) => "preset",
            Self::ReplaceOperator { .. } => "replace",
        }
    }

    /// The log line of a success; `None` where the caller logs its own.
    pub(crate) const fn success(&self) -> Option<&'static str> {
        match self {
            Self::CreateOperator => Some("operator token created"),
            Self::CreateNamed { .. } => Some("named token created"),
            Self::Regenerate { .. } => Some("operator token regenerated"),
            Self::Stage { .. } => Some("operator token staged"),
            Self::Confirm { .. } => Some("operator token confirmed"),
            Self::Cancel { .. } => Some("no operator token is staged any more"),
            Self::EndOverlap { .. } => Some("no replaced operator token is accepted any more"),
            Self::Delete { .. } => Some("named token deleted"),
            Self::Initialize
            | Self::Recover
            | Self::Restore
            | Self::ImportHash(_)
            | Self::ReplaceOperator { .. } => None,
        }
    }
}

/// The result of a command that succeeded.
#[derive(Debug)]
pub(crate) enum Outcome {
    CatalogId(String),
    Issued(IssuedToken),
    Staged(StagedSecret),
    Changed(TokenInfo),
    Imported(ImportOutcome),
    Replaced(ReplaceOutcome),
    Done,
}

impl Outcome {
    /// The number of the token that was created, changed or deleted.
    pub(crate) const fn token_id(&self) -> Option<u64> {
        match self {
            Self::Issued(issued) => Some(issued.info.id),
            Self::Changed(info) => Some(info.id),
            Self::CatalogId(_) | Self::Staged(_) | Self::Imported(_) | Self::Replaced(_) | Self::Done => None,
        }
    }
}

/// Takes the value of one kind of outcome. The sandbox returns the kind that the command has.
macro_rules! outcome {
    ($type:ty, $pattern:pat => $value:expr) => {
        impl TryFrom<Outcome> for $type {
            type Error = CommandError;

            fn try_from(outcome: Outcome) -> Result<Self, CommandError> {
                match outcome {
                    $pattern => Ok($value),
                    _ => Err(CommandError::Internal("a command returned another kind of outcome".to_owned())),
                }
            }
        }
    };
}

outcome!(String, Outcome::CatalogId(id) => id);
outcome!(IssuedToken, Outcome::Issued(issued) => issued);
outcome!(StagedSecret, Outcome::Staged(staged) => staged);
outcome!(TokenInfo, Outcome::Changed(info) => info);
outcome!(ImportOutcome, Outcome::Imported(outcome) => outcome);
outcome!(ReplaceOutcome, Outcome::Replaced(outcome) => outcome);
outcome!((), Outcome::Done => ());

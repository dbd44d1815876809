//! Converts the errors of the core to problems of the protocol. The core knows no status.

use alloc::string::ToString as _;

use optoken_core::authority::{AuthenticateError, AuthorizeError};
use optoken_core::catalog::{MAX_TOKENS, OPERATOR};
use optoken_core::commit::CommandError;
use optoken_core::transition::{AccessError, CommandRejected};
use optoken_protocol::problem::Problem;

/// The text of the problem that no request may create the operator token.
pub(crate) const BOOTSTRAP_DISABLED: &str = "the operator token cannot be created by a request: run optoken-cli create \
     on the same directory, or set OPTOKEN_BOOTSTRAP=any in the environment of this server: then the first client may \
     create it";

/// The way to a new operator token, where the outcome of a change is unknown.
const RECOVERY: &str = "optoken-cli recover";

/// Returns the problem of a token that was not accepted.
pub(crate) fn of_authentication(error: &AuthenticateError) -> Problem {
    match error {
        AuthenticateError::Refused(_) => Problem::InvalidToken,
        AuthenticateError::Unavailable(_) => Problem::Unavailable,
    }
}

/// Returns the problem of a request that a token may not send.
pub(crate) const fn of_authorization(error: &AuthorizeError) -> Problem {
    match error {
        AuthorizeError::Refused(AccessError::Unauthenticated(_)) => Problem::InvalidToken,
        AuthorizeError::Refused(AccessError::Forbidden) => Problem::MissingPermission,
        AuthorizeError::Unavailable(_) => Problem::Unavailable,
    }
}

/// Returns the problem of a command that failed.
pub(crate) fn of_command(error: CommandError) -> Problem {
    match error {
        CommandError::Rejected(rejected) => match rejected {
            CommandRejected::Unauthenticated(_) => Problem::InvalidToken,
            CommandRejected::Forbidden => Problem::InsufficientScope,
            CommandRejected::NotFound(name) if name == OPERATOR => Problem::NoOperator,
            CommandRejected::AlreadyExists(name) => Problem::AlreadyExists(name),
            CommandRejected::Full => Problem::Full(u32::try_from(MAX_TOKENS).unwrap_or(u32::MAX)),
            CommandRejected::Overlapping { .. } | CommandRejected::ScopesFull => {
                Problem::Conflict(rejected.to_string())
            }
            CommandRejected::TooLong { .. }
            | CommandRejected::Name(_)
            | CommandRejected::OperatorScope
            | CommandRejected::Description
            | CommandRejected::SecretTaken(_)
            | CommandRejected::SecretRevoked => Problem::InvalidArgument(rejected.to_string()),
            CommandRejected::NotFound(_)
            | CommandRejected::OperatorProtected
            | CommandRejected::FormerUnknown
            | CommandRejected::SecretCollision
            | CommandRejected::Invariant(_) => Problem::Internal,
        },
        CommandError::Contended | CommandError::Unavailable(_) => Problem::Unavailable,
        CommandError::UnknownOutcome(_) => Problem::UnknownOutcome(RECOVERY),
        CommandError::Catalog(_) | CommandError::Entropy(_) => Problem::Internal,
        CommandError::Weak(_) | CommandError::Hash(_) | CommandError::Permission(_) => {
            Problem::InvalidArgument(error.to_string())
        }
    }
}

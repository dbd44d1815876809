//! Converts errors of the host into problems of the protocol, and problems into responses.
//!
//! The layers below have error types of their own, which know no status: they become HTTP here. The
//! client receives what it can act on; the cause is for the log.

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use optoken_protocol::problem::{BASIC_CHALLENGE, Problem};
use optoken_protocol::redact::redact_rest;

use crate::access::AuthorizeError;
use crate::server::message::Response;
use crate::token::{AuthenticateError, CommandError, OPERATOR};

/// Returns the response for a problem, to a client that may be offered the scheme Basic or not.
pub(crate) fn response_to(problem: &Problem, offers_basic: bool) -> Response {
    let mut response = response(problem);
    if offers_basic && response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(BASIC_CHALLENGE));
    }
    response
}

/// Returns the response for a problem.
pub(crate) fn response(problem: &Problem) -> Response {
    let mut response = Response::new(problem.body().into());
    *response.status_mut() = status(problem);
    for (name, value) in problem.headers() {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Returns the response to a request that violates HTTP. It closes the connection.
pub(crate) fn malformed_request(reason: &'static str) -> Response {
    let mut response = response(&Problem::InvalidArgument(reason.to_owned()));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns the status of a problem.
pub(crate) fn status(problem: &Problem) -> StatusCode {
    // The protocol defines no invalid status.
    StatusCode::from_u16(problem.status().code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns the problem of a query string that cannot be parsed. The error quotes the query string.
pub(crate) fn invalid_query(error: &serde_urlencoded::de::Error) -> Problem {
    Problem::InvalidQuery(redact_rest(&error.to_string()).into_owned())
}

/// Converts an unknown outcome of a command that can be repeated without a loss.
pub(crate) fn repeatable(problem: Problem) -> Problem {
    match problem {
        Problem::UnknownOutcome(_) => Problem::UnknownOutcomeRetryable,
        problem => problem,
    }
}

/// Converts an unknown outcome of the creation of a named token. The presented token stays what it
/// is, so token recovery is not the way out.
pub(crate) fn of_named(problem: Problem) -> Problem {
    match problem {
        Problem::UnknownOutcome(_) => Problem::UnknownOutcomeOfNamed,
        problem => problem,
    }
}

/// Converts an unknown outcome of the creation of the operator token, which no token is used for.
pub(crate) fn of_first(problem: Problem) -> Problem {
    match problem {
        Problem::UnknownOutcome(recovery) => Problem::UnknownOutcomeOfFirst(recovery),
        problem => problem,
    }
}

/// Returns the problem of a command with an unknown outcome.
pub(crate) fn unknown_outcome() -> Problem {
    Problem::UnknownOutcome("token recovery")
}

impl From<AuthenticateError> for Problem {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Unknown | AuthenticateError::Expired(_) => Self::InvalidToken,
            AuthenticateError::Unavailable(_) => Self::Unavailable,
        }
    }
}

impl From<AuthorizeError> for Problem {
    fn from(error: AuthorizeError) -> Self {
        match error {
            AuthorizeError::Authentication(error) => error.into(),
            AuthorizeError::Forbidden => Self::MissingPermission,
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unauthenticated | CommandError::Expired(_) => Self::InvalidToken,
            CommandError::Forbidden => Self::InsufficientScope,
            // Only a rotation needs the operator token to exist: deleting it is forbidden.
            CommandError::NotFound(name) if name == OPERATOR => Self::NoOperator,
            CommandError::NotFound(name) => Self::TokenNotFound(name),
            CommandError::OperatorProtected => Self::OperatorProtected,
            CommandError::Full(limit) => Self::Full(limit),
            CommandError::AlreadyExists(name) => Self::AlreadyExists(name),
            CommandError::Conflict(why) => Self::Conflict(why),
            CommandError::InvalidArgument(why) => Self::InvalidArgument(why),
            CommandError::Unavailable(_) => Self::Unavailable,
            CommandError::UnknownOutcome(_) => unknown_outcome(),
            CommandError::Internal(_) => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_outcome_has_advice_for_its_command() {
        let unknown = || Problem::from(CommandError::UnknownOutcome("no answer".to_owned()));
        for (problem, present, absent) in [
            (unknown(), "if the token that was used is refused", "do it again"),
            (of_named(unknown()), "its secret is lost: delete it and do it again", "recovery"),
            (of_first(unknown()), "its secret is lost: use token recovery", "the token that was used"),
            // Of recovery, too: it is open as long as it has not succeeded.
            (repeatable(unknown()), "nothing is lost, do it again", "use token recovery"),
        ] {
            let text = problem.text();
            assert!(text.contains(present) && !text.contains(absent), "{text}");
            assert_eq!(problem.status().code(), 503);
        }
        for convert in [of_named, of_first, repeatable] {
            assert_eq!(convert(Problem::Unavailable), Problem::Unavailable);
        }
    }
}

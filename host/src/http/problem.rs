//! Errors of the host as problems of the protocol, and problems as responses.
//!
//! The layers below have error types of their own and know no status; this is the one place where they become HTTP.
//! What the client is told and what the log is told are two texts: the client learns what it can act on, the log
//! learns the cause.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact;

use crate::server::serve::Response;
use crate::token::{AuthenticateError, CommandError, OPERATOR};

/// The response to a request that cannot be answered otherwise.
pub(crate) fn response(problem: &Problem) -> Response {
    let mut response = Response::new(problem.body().into());
    *response.status_mut() = status(problem);
    for (name, value) in problem.headers() {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

pub(crate) fn status(problem: &Problem) -> StatusCode {
    // An error has a status from 400 to 599.
    StatusCode::from_u16(problem.status().code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The query string cannot be read. The reason may repeat what is in it.
pub(crate) fn invalid_query(error: &serde_urlencoded::de::Error) -> Problem {
    Problem::InvalidQuery(redact(&error.to_string()).into_owned())
}

/// Nobody knows whether it was done.
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

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unauthenticated | CommandError::Expired(_) => Self::InvalidToken,
            CommandError::Forbidden => Self::InsufficientScope,
            // What can be missing by that name is the token that a rotation is about; it cannot be deleted.
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

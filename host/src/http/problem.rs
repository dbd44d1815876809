//! Everything that can go wrong with a request, as the client is told it.
//!
//! The layers below have error types of their own and know no status; this is the one place where they become HTTP.
//! What the client is told and what the log is told are two texts: the client learns what it can act on, the log
//! learns the cause. Statuses and texts are those of COMPAT 2.8, with a challenge (RFC 6750) and a content type added.

use std::borrow::Cow;

use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::credentials::Malformed;
use crate::token::{AuthenticateError, CommandError, OPERATOR};

/// What a client is told instead of what it asked for.
#[derive(Debug)]
pub(super) enum Problem {
    /// No credential was presented.
    NoCredential,
    /// The presented token is unknown, revoked or expired.
    InvalidToken,
    /// The `Authorization` header cannot be read.
    MalformedCredential,
    /// The token is good, but not for this.
    Forbidden,
    /// The path, or the method on it, does not exist. The text differs between the listeners.
    NoSuchPath(&'static str),
    /// There is no operator token to replace.
    NoOperator,
    /// There is no token of this name.
    NoSuchToken(String),
    /// There is a token of this name already.
    NameTaken(String),
    /// The operator token cannot be deleted.
    OperatorProtected,
    /// There are as many tokens as there can be, which is this many.
    Full(u32),
    /// What was asked for is not allowed; the text says what.
    Invalid(String),
    /// The body has more bytes than this.
    BodyTooLarge(usize),
    /// The body did not arrive whole.
    BodyUnreadable,
    /// Nothing was done; trying again may help.
    Unavailable,
    /// Nobody knows whether it was done.
    UnknownOutcome,
    /// It cannot be done, and trying again will not help.
    Internal,
    /// The recovery listener has done its one deed.
    RecoverySpent,
}

/// How long a client should wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

impl Problem {
    /// An error without status; there is no way to make it a success.
    const fn status(&self) -> StatusCode {
        match self {
            Self::NoCredential | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::MalformedCredential | Self::BodyUnreadable | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoSuchPath(_) | Self::NoOperator | Self::NoSuchToken(_) => StatusCode::NOT_FOUND,
            Self::OperatorProtected => StatusCode::METHOD_NOT_ALLOWED,
            Self::NameTaken(_) | Self::Full(_) => StatusCode::CONFLICT,
            Self::RecoverySpent => StatusCode::GONE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable | Self::UnknownOutcome => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn text(&self) -> Cow<'static, str> {
        match self {
            Self::NoCredential | Self::InvalidToken => "the request was not authenticated".into(),
            Self::MalformedCredential => Malformed.to_string().into(),
            Self::Forbidden => "only the operator token may regenerate the operator token".into(),
            Self::NoSuchPath(text) => (*text).into(),
            Self::NoOperator => "missing admin token, cannot update".into(),
            Self::NoSuchToken(name) => format!("the requested resource was not found: {name}").into(),
            Self::OperatorProtected => "cannot delete operator token".into(),
            Self::Full(limit) => format!(
                "there are {limit} tokens already, which is as many as there can be; delete some first"
            )
            .into(),
            Self::NameTaken(name) => format!("token name already exists, {name}").into(),
            Self::Invalid(why) => why.clone().into(),
            Self::BodyTooLarge(limit) => format!("max request size ({limit} bytes) exceeded").into(),
            Self::BodyUnreadable => "Failed to read request body".into(),
            Self::Unavailable => "tokens are not available at the moment, nothing was changed, try again".into(),
            Self::UnknownOutcome => "the token store failed in the middle of the change; if the token that was \
                 used is refused from now on, the change was made and its new token is lost: use token recovery"
                .into(),
            Self::Internal => "the server cannot do this, its log says why; nothing was changed".into(),
            Self::RecoverySpent => "token recovery is closed: it regenerates the operator token once".into(),
        }
    }

    /// RFC 6750 section 3: a bare challenge to who presented nothing, a reason to who presented something.
    const fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoCredential => Some(r#"Bearer realm="influxdb3""#),
            Self::InvalidToken => Some(r#"Bearer realm="influxdb3", error="invalid_token""#),
            Self::MalformedCredential => Some(r#"Bearer realm="influxdb3", error="invalid_request""#),
            Self::Forbidden => Some(r#"Bearer realm="influxdb3", error="insufficient_scope""#),
            _ => None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let about_credentials = matches!(
            self,
            Self::NoCredential | Self::InvalidToken | Self::MalformedCredential | Self::Forbidden
        );
        let (content_type, body) = if about_credentials {
            // The space after the colon is what clients know; serde_json writes none.
            ("application/json", format!("{{\"error\": {}}}", json!(self.text())))
        } else {
            ("text/plain; charset=utf-8", self.text().into_owned())
        };
        let mut response = (self.status(), [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], body)
            .into_response();
        let mut add = |name: HeaderName, value| {
            response.headers_mut().insert(name, axum::http::HeaderValue::from_static(value));
        };
        if let Some(challenge) = self.challenge() {
            add(WWW_AUTHENTICATE, challenge);
        }
        match self {
            Self::Unavailable => add(RETRY_AFTER, RETRY_AFTER_SECONDS),
            // The rest of such a body is not worth reading, nor is a second request here.
            Self::BodyTooLarge(_) | Self::BodyUnreadable | Self::RecoverySpent => add(CONNECTION, "close"),
            _ => {}
        }
        response
    }
}

impl From<Malformed> for Problem {
    fn from(_: Malformed) -> Self {
        Self::MalformedCredential
    }
}

impl From<AuthenticateError> for Problem {
    fn from(error: AuthenticateError) -> Self {
        tracing::warn!("cannot authenticate token: {error}");
        match error {
            AuthenticateError::Unknown | AuthenticateError::Expired(_) => Self::InvalidToken,
            AuthenticateError::Unavailable(_) => Self::Unavailable,
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        tracing::warn!("cannot carry out a token command: {error}");
        match error {
            CommandError::Unauthenticated | CommandError::Expired(_) => Self::InvalidToken,
            CommandError::Forbidden => Self::Forbidden,
            // What can be missing by that name is the token that a rotation is about; it cannot be deleted.
            CommandError::NotFound(name) if name == OPERATOR => Self::NoOperator,
            CommandError::NotFound(name) => Self::NoSuchToken(name),
            CommandError::OperatorProtected => Self::OperatorProtected,
            CommandError::Full(limit) => Self::Full(limit),
            CommandError::AlreadyExists(name) => Self::NameTaken(name),
            CommandError::InvalidArgument(why) => Self::Invalid(why),
            CommandError::Unavailable(_) => Self::Unavailable,
            CommandError::UnknownOutcome(_) => Self::UnknownOutcome,
            CommandError::Internal(_) => Self::Internal,
        }
    }
}

//! Every error that the HTTP API answers: status, text, challenge and headers
//! (`docs/compatibility.md` 2.8).
//!
//! The layers below HTTP have error types of their own, which know no status; a server converts
//! them once, here. The client gets what it can act on; the cause is for the log. The texts that a
//! client recognises are constants, which server and client share. Challenges (RFC 6750) and
//! content types are additions to InfluxDB 3.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

pub use crate::credentials::MALFORMED_CREDENTIAL;
use crate::credentials::Malformed;
use crate::json::Quoted;
use crate::media_type::{JSON, TEXT};
use crate::redact::redact_rest;

/// The text of a request without an accepted token.
pub const NOT_AUTHENTICATED: &str = "the request was not authenticated";

/// What the text of a failure has whose outcome is certain.
pub const NOTHING_CHANGED: &str = "nothing was changed";

/// How the text of [`Problem::AlreadyExists`] begins. A comma, a space and the name follow.
pub const ALREADY_EXISTS: &str = "token name already exists";

/// How the text of [`Problem::NoOperator`] begins.
pub const NO_OPERATOR: &str = "missing admin token";

/// How the text of [`Problem::TokenNotFound`] begins. A colon, a space and the name follow.
pub const TOKEN_NOT_FOUND: &str = "the requested resource was not found";

/// How the text of [`Problem::AuthDisabled`] begins.
pub const ENDPOINT_DISABLED: &str = "endpoint disabled";

/// The text of [`Problem::MissingPermission`].
pub const MISSING_PERMISSION: &str = "the token lacks the permission for this";

/// The text of [`Problem::PathNotFound`].
pub const PATH_NOT_FOUND: &str = "Not found";

/// The text of [`Problem::RecoveryPathNotFound`]. Its case distinguishes a recovery listener from a
/// main one.
pub const RECOVERY_PATH_NOT_FOUND: &str = "not found";

/// The text of [`Problem::Forbidden`] for a request that a page in a browser has sent.
pub const SENT_BY_PAGE: &str = "web pages may not ask for this: there is an Origin or Sec-Fetch header";

/// The challenge for clients that authenticate only when a server offers their scheme (RFC 7617).
/// It stands beside [`Problem::challenge`] in an answer of status 401, and never in one that may
/// reach a browser: see [`may_offer_basic`](crate::browser::may_offer_basic).
pub const BASIC_CHALLENGE: &str = r#"Basic realm="influxdb3""#;

/// How long a client waits before it tries again, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// An error, as the client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The request has no credential.
    MissingCredential,
    /// The token is unknown, revoked or expired.
    InvalidToken,
    /// The `Authorization` header does not follow its grammar.
    MalformedCredential,
    /// The token is valid, but is not the operator token.
    InsufficientScope,
    /// The token is valid, and has no permission for this request.
    MissingPermission,
    /// The main listener has no such path, or not this method on it.
    PathNotFound,
    /// The same of a recovery listener.
    RecoveryPathNotFound,
    /// There is no operator token to replace.
    NoOperator,
    /// There is no token of this name.
    TokenNotFound(String),
    /// A query names this database, which does not exist.
    DatabaseNotFound(String),
    /// A token of this name exists already.
    AlreadyExists(String),
    /// The operator token cannot be deleted.
    OperatorProtected,
    /// The catalog holds as many tokens as it can, which is this many.
    Full(u32),
    /// The command conflicts with the state of the catalog; the text has the reason.
    Conflict(String),
    /// An argument is not allowed; the text has the reason.
    InvalidArgument(String),
    /// The server runs without authentication, so it has no tokens to change.
    AuthDisabled,
    /// The query string lacks a field, or has one twice; the text has the reason.
    InvalidQuery(String),
    /// The body is not announced as JSON.
    UnsupportedMediaType,
    /// The body has this content encoding, which is not supported.
    UnsupportedEncoding(String),
    /// The body has more bytes than this, as sent or after decompression.
    BodyTooLarge(usize),
    /// The connection broke before the end of the body.
    BodyUnreadable,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is announced as gzip and is not; the text has the reason.
    InvalidGzip(String),
    /// The body is not the JSON that is expected; the text has the reason.
    InvalidJson(String),
    /// Nothing was done. Trying again may help.
    Unavailable,
    /// The command may have been carried out; if it was, its token is lost. The text names the way
    /// to recover.
    UnknownOutcome(&'static str),
    /// The command may have been carried out. Repeating it has the same result in both cases.
    UnknownOutcomeRetryable,
    /// The named token may have been created; if it was, its secret is lost.
    UnknownOutcomeOfNamed,
    /// The first operator token may have been created; if it was, its secret is lost. The text
    /// names the way to recover.
    UnknownOutcomeOfFirst(&'static str),
    /// The command cannot be carried out, and trying again does not help.
    Internal,
    /// The request is forbidden regardless of its credentials; the text has the reason.
    Forbidden(Cow<'static, str>),
    /// Token recovery requires a code, and the request has none.
    MissingRecoveryCode,
    /// The recovery code is wrong; this many attempts are left.
    WrongRecoveryCode(u32),
    /// Token recovery has succeeded once, or its time is over, or this listener got too many wrong
    /// codes.
    RecoveryClosed,
    /// The answer to forward authentication for this reason. A proxy gets status and headers alone,
    /// and no other status than 401, 403 and 503: proxies turn most others into errors of their
    /// own.
    ForwardAuth(Box<Self>),
}

/// A status of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
#[expect(missing_docs, reason = "the names are those of RFC 9110, section 15")]
pub enum ErrorStatus {
    BadRequest = 400,
    Unauthorized = 401,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    Conflict = 409,
    Gone = 410,
    ContentTooLarge = 413,
    UnsupportedMediaType = 415,
    InternalServerError = 500,
    ServiceUnavailable = 503,
}

impl ErrorStatus {
    /// Returns the status code, from 400 to 599.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

impl Problem {
    /// Returns this problem as a proxy gets it that asks for forward authentication.
    #[must_use]
    pub fn for_forward_auth(self) -> Self {
        Self::ForwardAuth(Box::new(self))
    }

    /// Returns the status.
    pub fn status(&self) -> ErrorStatus {
        match self {
            Self::MissingCredential | Self::InvalidToken => ErrorStatus::Unauthorized,
            Self::MalformedCredential
            | Self::InvalidArgument(_)
            | Self::InvalidQuery(_)
            | Self::UnsupportedEncoding(_)
            | Self::BodyUnreadable
            | Self::InvalidGzip(_)
            | Self::InvalidJson(_) => ErrorStatus::BadRequest,
            Self::InsufficientScope
            | Self::MissingPermission
            | Self::Forbidden(_)
            | Self::MissingRecoveryCode
            | Self::WrongRecoveryCode(_) => ErrorStatus::Forbidden,
            Self::PathNotFound
            | Self::RecoveryPathNotFound
            | Self::NoOperator
            | Self::TokenNotFound(_)
            | Self::DatabaseNotFound(_) => ErrorStatus::NotFound,
            Self::OperatorProtected | Self::AuthDisabled => ErrorStatus::MethodNotAllowed,
            Self::BodyTimeout => ErrorStatus::RequestTimeout,
            Self::AlreadyExists(_) | Self::Full(_) | Self::Conflict(_) => ErrorStatus::Conflict,
            Self::RecoveryClosed => ErrorStatus::Gone,
            Self::BodyTooLarge(_) => ErrorStatus::ContentTooLarge,
            Self::UnsupportedMediaType => ErrorStatus::UnsupportedMediaType,
            Self::Unavailable
            | Self::UnknownOutcome(_)
            | Self::UnknownOutcomeRetryable
            | Self::UnknownOutcomeOfNamed
            | Self::UnknownOutcomeOfFirst(_) => ErrorStatus::ServiceUnavailable,
            Self::Internal => ErrorStatus::InternalServerError,
            Self::ForwardAuth(reason) => match reason.challenge() {
                Some(_) if reason.status() == ErrorStatus::Forbidden => ErrorStatus::Forbidden,
                Some(_) => ErrorStatus::Unauthorized,
                None => ErrorStatus::ServiceUnavailable,
            },
        }
    }

    /// Returns the text for the client. It holds no token.
    pub fn text(&self) -> Cow<'static, str> {
        match self {
            Self::MissingCredential | Self::InvalidToken => NOT_AUTHENTICATED.into(),
            Self::MalformedCredential => Malformed.to_string().into(),
            Self::InsufficientScope => "only the operator token may regenerate the operator token".into(),
            Self::MissingPermission => MISSING_PERMISSION.into(),
            Self::PathNotFound => PATH_NOT_FOUND.into(),
            Self::RecoveryPathNotFound => RECOVERY_PATH_NOT_FOUND.into(),
            Self::NoOperator => format!("{NO_OPERATOR}, cannot update").into(),
            // Clients send a token where its name is expected.
            Self::TokenNotFound(name) => format!("{TOKEN_NOT_FOUND}: {}", redact_rest(name)).into(),
            Self::DatabaseNotFound(name) => {
                format!("query error: database not found: {}", redact_rest(name)).into()
            }
            Self::AlreadyExists(name) => format!("{ALREADY_EXISTS}, {}", redact_rest(name)).into(),
            Self::OperatorProtected => "cannot delete operator token".into(),
            Self::Full(limit) => format!(
                "there are {limit} tokens already, which is as many as there can be; delete some first"
            )
            .into(),
            Self::Conflict(reason) | Self::InvalidArgument(reason) => reason.clone().into(),
            Self::AuthDisabled => format!("{ENDPOINT_DISABLED}, started without auth").into(),
            Self::InvalidQuery(reason) => format!("serde error: {reason}").into(),
            Self::UnsupportedMediaType => "unacceptable content-type, expected: application/json".into(),
            Self::UnsupportedEncoding(encoding) => format!("unacceptable content-encoding: {encoding}").into(),
            Self::BodyTooLarge(limit) => format!("max request size ({limit} bytes) exceeded").into(),
            Self::BodyUnreadable => "Failed to read request body".into(),
            Self::BodyTimeout => "Failed to read request body: it did not arrive in time".into(),
            Self::InvalidGzip(reason) => format!("error decoding gzip stream: {reason}").into(),
            Self::InvalidJson(reason) => format!("serde json error: {reason}").into(),
            Self::Unavailable => {
                format!("tokens are not available at the moment, {NOTHING_CHANGED}, try again").into()
            }
            Self::UnknownOutcome(recovery) => format!(
                "the token store failed in the middle of the change; if the token that was used is refused from now on, the \
                 change was made and its new token is lost: use {recovery}"
            )
            .into(),
            Self::UnknownOutcomeRetryable => "the token store failed in the middle of the change, which may have been made; \
                 nothing is lost, do it again"
                .into(),
            Self::UnknownOutcomeOfNamed => "the token store failed in the middle of the change, which may have been made; if the \
                 list has a token of this name, its secret is lost: delete it and do it again"
                .into(),
            Self::UnknownOutcomeOfFirst(recovery) => format!(
                "the token store failed in the middle of the change, which may have been made; if there is an operator \
                 token now, its secret is lost: use {recovery}"
            )
            .into(),
            Self::Internal => {
                format!("the server cannot do this, its log has the cause; {NOTHING_CHANGED}").into()
            }
            Self::Forbidden(reason) => reason.clone(),
            Self::MissingRecoveryCode => "token recovery asks for the code that the server has written down: present it with \
                 --recovery-code -, or in the header X-Recovery-Code"
                .into(),
            Self::WrongRecoveryCode(0) => {
                "this is not the recovery code; this listener of token recovery is closed now".into()
            }
            Self::WrongRecoveryCode(left) => {
                format!("this is not the recovery code; wrong codes left before this listener is closed: {left}").into()
            }
            Self::RecoveryClosed => "token recovery is closed at this listener: one success, too many wrong codes or the \
                 time limit closes it; the next start of the server can open it again"
                .into(),
            Self::ForwardAuth(reason) => reason.text(),
        }
    }

    /// Returns the challenge (RFC 6750, section 3): a bare one to a request without a credential,
    /// otherwise one with an error code.
    pub fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::MissingCredential => Some(r#"Bearer realm="influxdb3""#),
            Self::InvalidToken => Some(r#"Bearer realm="influxdb3", error="invalid_token""#),
            Self::MalformedCredential => Some(r#"Bearer realm="influxdb3", error="invalid_request""#),
            Self::InsufficientScope | Self::MissingPermission => {
                Some(r#"Bearer realm="influxdb3", error="insufficient_scope""#)
            }
            Self::ForwardAuth(reason) => reason.challenge(),
            _ => None,
        }
    }

    /// Returns the content type; `None` if there is no body.
    pub fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::ForwardAuth(_) => None,
            Self::DatabaseNotFound(_) => Some(JSON),
            _ if self.challenge().is_some() => Some(JSON),
            _ => Some(TEXT),
        }
    }

    /// Returns the headers, in lower case. `connection: close` asks the server to close the
    /// connection after the answer.
    pub fn headers(&self) -> Vec<(&'static str, &'static str)> {
        let mut headers = vec![("cache-control", "no-store")];
        headers.extend(self.content_type().map(|content_type| ("content-type", content_type)));
        headers.extend(self.challenge().map(|challenge| ("www-authenticate", challenge)));
        match self {
            Self::Unavailable => headers.push(("retry-after", RETRY_AFTER_SECONDS)),
            Self::ForwardAuth(reason) if reason.challenge().is_none() => {
                headers.push(("retry-after", RETRY_AFTER_SECONDS));
            }
            // RFC 9110, section 15.5.6: the methods that the path supports. `DELETE` is none for
            // this token.
            Self::OperatorProtected => headers.push(("allow", "GET, HEAD, OPTIONS")),
            Self::AuthDisabled => headers.push(("allow", "OPTIONS")),
            // The server does not read the rest of such a body, nor serve a second such request on
            // the connection.
            Self::BodyTooLarge(_)
            | Self::BodyUnreadable
            | Self::BodyTimeout
            | Self::Forbidden(_)
            | Self::RecoveryClosed => headers.push(("connection", "close")),
            _ => {}
        }
        headers
    }

    /// Returns the whole body, which is empty if there is no content type.
    pub fn body(&self) -> String {
        match self.content_type() {
            // Clients know the space after the colon; serde_json writes none.
            Some(JSON) => format!("{{\"error\": {}}}", Quoted(&self.text())),
            Some(_) => self.text().into_owned(),
            None => String::new(),
        }
    }
}

impl From<Malformed> for Problem {
    fn from(_: Malformed) -> Self {
        Self::MalformedCredential
    }
}

#[cfg(test)]
mod tests;

//! Everything that can go wrong with a request, as the client is told it.
//!
//! The layers below have error types of their own and know no status; this is the one place where they become HTTP.
//! What the client is told and what the log is told are two texts: the client learns what it can act on, the log
//! learns the cause. Statuses and texts are those of COMPAT 2.8, with a challenge (RFC 6750) and a content type added.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use serde_json::json;

use crate::http::credentials::Malformed;
use crate::http::request_origin::Refusal;
use crate::http::{JSON, TEXT};
use crate::secret::redact;
use crate::server::serve::Response;
use crate::token::{AuthenticateError, CommandError, OPERATOR};

/// What a client is told instead of what it asked for.
#[derive(Debug, Clone)]
pub(crate) enum Problem {
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
    /// Something else is under way that excludes this; the text says what.
    Conflict(String),
    /// What was asked for is not allowed; the text says what.
    Invalid(String),
    /// The server was started without authentication, so there is nothing to change about tokens.
    WithoutAuth,
    /// The query string has not the fields that it needs; the text says which.
    BadQuery(String),
    /// The body is not announced as JSON.
    NotJson,
    /// The body is encoded in this way, which is neither gzip nor none.
    UnknownEncoding(String),
    /// The body has more bytes than this, as it was sent or once it is decompressed.
    BodyTooLarge(usize),
    /// The body did not arrive whole.
    BodyUnreadable,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is not the gzip it is said to be; the text says why.
    BadGzip(String),
    /// The body is not the JSON that is expected; the text says why.
    BadJson(String),
    /// Nothing was done; trying again may help.
    Unavailable,
    /// Nobody knows whether it was done.
    UnknownOutcome,
    /// The same of what can be done again, and means the same then.
    UnknownButRepeatable,
    /// It cannot be done, and trying again will not help.
    Internal,
    /// Whoever asks may not, whatever he presents.
    Unwelcome(Refusal),
    /// Token recovery asks for a code.
    NoRecoveryCode,
    /// It was another one; this many more tries are left.
    WrongRecoveryCode(u32),
    /// Token recovery has done its one deed, or its time is over.
    RecoveryClosed,
    /// A proxy is told that a request is not to pass, for this reason: by status and headers alone, and by a status that
    /// all proxies know what to do with.
    Unverified(Box<Self>),
}

/// How long a client should wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

impl Problem {
    /// The query string cannot be read. The reason may repeat what is in it.
    pub(crate) fn bad_query(error: &serde_urlencoded::de::Error) -> Self {
        Self::BadQuery(redact(&error.to_string()).into_owned())
    }

    /// The same, as a proxy is told it.
    pub(crate) fn unverified(self) -> Self {
        Self::Unverified(Box::new(self))
    }

    /// An error without status; there is no way to make it a success.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unverified(reason) if reason.challenge().is_some() => StatusCode::UNAUTHORIZED,
            Self::NoCredential | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::MalformedCredential
            | Self::Invalid(_)
            | Self::BadQuery(_)
            | Self::UnknownEncoding(_)
            | Self::BodyUnreadable
            | Self::BadGzip(_)
            | Self::BadJson(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden | Self::Unwelcome(_) | Self::NoRecoveryCode | Self::WrongRecoveryCode(_) => {
                StatusCode::FORBIDDEN
            }
            Self::NoSuchPath(_) | Self::NoOperator | Self::NoSuchToken(_) => StatusCode::NOT_FOUND,
            Self::OperatorProtected | Self::WithoutAuth => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NameTaken(_) | Self::Full(_) | Self::Conflict(_) => StatusCode::CONFLICT,
            Self::RecoveryClosed => StatusCode::GONE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unavailable | Self::UnknownOutcome | Self::UnknownButRepeatable | Self::Unverified(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn text(&self) -> Cow<'static, str> {
        match self {
            Self::NoCredential | Self::InvalidToken => "the request was not authenticated".into(),
            Self::MalformedCredential => Malformed.to_string().into(),
            Self::Forbidden => "only the operator token may regenerate the operator token".into(),
            Self::NoSuchPath(text) => (*text).into(),
            Self::NoOperator => "missing admin token, cannot update".into(),
            // Some give the token where its name is asked for.
            Self::NoSuchToken(name) => format!("the requested resource was not found: {}", redact(name)).into(),
            Self::OperatorProtected => "cannot delete operator token".into(),
            Self::Full(limit) => format!(
                "there are {limit} tokens already, which is as many as there can be; delete some first"
            )
            .into(),
            Self::NameTaken(name) => format!("token name already exists, {name}").into(),
            Self::Conflict(why) | Self::Invalid(why) => why.clone().into(),
            Self::BodyTooLarge(limit) => format!("max request size ({limit} bytes) exceeded").into(),
            Self::WithoutAuth => "endpoint disabled, started without auth".into(),
            Self::BadQuery(why) => format!("serde error: {why}").into(),
            Self::NotJson => "unacceptable content-type, expected: application/json".into(),
            Self::UnknownEncoding(encoding) => format!("unacceptable content-encoding: {encoding}").into(),
            Self::BodyUnreadable => "Failed to read request body".into(),
            Self::BodyTooSlow => "Failed to read request body: it did not arrive in time".into(),
            Self::BadGzip(why) => format!("error decoding gzip stream: {why}").into(),
            Self::BadJson(why) => format!("serde json error: {why}").into(),
            Self::Unavailable => "tokens are not available at the moment, nothing was changed, try again".into(),
            Self::UnknownOutcome => "the token store failed in the middle of the change; if the token that was \
                 used is refused from now on, the change was made and its new token is lost: use token recovery"
                .into(),
            Self::UnknownButRepeatable => "the token store failed in the middle of the change, which may have been made; nothing \
                 is lost, do it again"
                .into(),
            Self::Internal => "the server cannot do this, its log says why; nothing was changed".into(),
            Self::Unwelcome(refusal) => refusal.to_string().into(),
            Self::NoRecoveryCode => "token recovery asks for the code that the server has written down: present it with \
                 --recovery-code -, or in the header X-Recovery-Code"
                .into(),
            Self::WrongRecoveryCode(0) => "this is not the recovery code; token recovery is closed now".into(),
            Self::WrongRecoveryCode(left) => {
                format!("this is not the recovery code; wrong codes left before token recovery is closed: {left}").into()
            }
            Self::RecoveryClosed => "token recovery is closed: it regenerates the operator token once, and only for a \
                 while; the next start of the server can open it again"
                .into(),
            Self::Unverified(reason) => reason.text(),
        }
    }

    /// RFC 6750 section 3: a bare challenge to who presented nothing, a reason to who presented something.
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoCredential => Some(r#"Bearer realm="influxdb3""#),
            Self::InvalidToken => Some(r#"Bearer realm="influxdb3", error="invalid_token""#),
            Self::MalformedCredential => Some(r#"Bearer realm="influxdb3", error="invalid_request""#),
            Self::Forbidden => Some(r#"Bearer realm="influxdb3", error="insufficient_scope""#),
            Self::Unverified(reason) => reason.challenge(),
            _ => None,
        }
    }

    /// None where there is no body.
    pub(crate) const fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::NoCredential | Self::InvalidToken | Self::MalformedCredential | Self::Forbidden => {
                Some(JSON)
            }
            Self::Unverified(_) => None,
            _ => Some(TEXT),
        }
    }

    /// What is told beside the text.
    pub(crate) fn headers(&self) -> Vec<(HeaderName, &'static str)> {
        let mut headers = vec![(CACHE_CONTROL, "no-store")];
        headers.extend(self.content_type().map(|content_type| (CONTENT_TYPE, content_type)));
        headers.extend(self.challenge().map(|challenge| (WWW_AUTHENTICATE, challenge)));
        match self {
            Self::Unavailable => headers.push((RETRY_AFTER, RETRY_AFTER_SECONDS)),
            Self::Unverified(reason) if reason.challenge().is_none() => {
                headers.push((RETRY_AFTER, RETRY_AFTER_SECONDS));
            }
            // RFC 9110 section 15.5.6 asks for it: what else there is to do here. Deleting is not, for this token.
            Self::OperatorProtected => headers.push((ALLOW, "GET, OPTIONS")),
            Self::WithoutAuth => headers.push((ALLOW, "OPTIONS")),
            // The rest of such a body is not worth reading, nor is a second request here.
            Self::BodyTooLarge(_)
            | Self::BodyUnreadable
            | Self::BodyTooSlow
            | Self::Unwelcome(_)
            | Self::RecoveryClosed => headers.push((CONNECTION, "close")),
            _ => {}
        }
        headers
    }

    /// The whole body.
    pub(crate) fn body(&self) -> String {
        match self.content_type() {
            // The space after the colon is what clients know; serde_json writes none.
            Some(JSON) => format!("{{\"error\": {}}}", json!(self.text())),
            Some(_) => self.text().into_owned(),
            None => String::new(),
        }
    }

    pub(crate) fn into_response(self) -> Response {
        let mut response = Response::new(self.body().into());
        *response.status_mut() = self.status();
        for (name, value) in self.headers() {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
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
            CommandError::Forbidden => Self::Forbidden,
            // What can be missing by that name is the token that a rotation is about; it cannot be deleted.
            CommandError::NotFound(name) if name == OPERATOR => Self::NoOperator,
            CommandError::NotFound(name) => Self::NoSuchToken(name),
            CommandError::OperatorProtected => Self::OperatorProtected,
            CommandError::Full(limit) => Self::Full(limit),
            CommandError::AlreadyExists(name) => Self::NameTaken(name),
            CommandError::Conflict(why) => Self::Conflict(why),
            CommandError::InvalidArgument(why) => Self::Invalid(why),
            CommandError::Unavailable(_) => Self::Unavailable,
            CommandError::UnknownOutcome(_) => Self::UnknownOutcome,
            CommandError::Internal(_) => Self::Internal,
        }
    }
}

//! Everything that can go wrong with a request, as the client is told it: statuses, texts and challenges of
//! `host/src/http/problem.rs`, as far as there is a path here that has them.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;

use optoken_core::authority::AuthenticateError;
use optoken_core::catalog::{MAX_TOKENS, OPERATOR};
use optoken_core::commit::CommandError;
use optoken_core::transition::CommandRejected;

use crate::body::MAX_BODY_BYTES;
use crate::credentials::Malformed;
use crate::routes::{Answer, JSON, TEXT};

/// How long a client should wait before it tries again, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// What a client is told instead of what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No credential was presented.
    NoCredential,
    /// The presented token is unknown, revoked or expired.
    InvalidToken,
    /// The `Authorization` header cannot be read.
    MalformedCredential,
    /// The token is good, but not for this.
    Forbidden,
    /// The path, or the method on it, does not exist.
    NoSuchPath,
    /// There is no operator token to replace.
    NoOperator,
    /// There is a token of this name already.
    NameTaken(String),
    /// There are as many tokens as there can be.
    Full,
    /// Something else is under way that excludes this.
    Conflict(String),
    /// What was asked for is not allowed.
    Invalid(String),
    /// The body is encoded in a way that is not known here.
    UnknownEncoding(String),
    /// The body has more bytes than [`MAX_BODY_BYTES`].
    BodyTooLarge,
    /// The body did not arrive whole.
    BodyUnreadable,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is not the JSON that is expected; the text says why.
    BadJson(String),
    /// Nothing was done; trying again may help.
    Unavailable,
    /// Nobody knows whether it was done.
    UnknownOutcome,
    /// It cannot be done, and trying again will not help.
    Internal,
    /// Nobody may create the operator token by a request.
    NoBootstrap,
    /// A page in a browser has sent it.
    Page,
}

impl Problem {
    /// As a proxy is told it, which asks whether a request may pass: by status and headers alone, and by a status that all
    /// proxies know what to do with.
    pub(crate) fn unverified(&self) -> Answer {
        let mut headers = vec![("cache-control", "no-store".into())];
        let status = if let Some(challenge) = self.challenge() {
            headers.push(("www-authenticate", challenge.into()));
            401
        } else {
            headers.push(("retry-after", RETRY_AFTER_SECONDS.into()));
            503
        };
        Answer { status, headers, body: vec![].into() }
    }

    const fn status(&self) -> u16 {
        match self {
            Self::NoCredential | Self::InvalidToken => 401,
            Self::MalformedCredential
            | Self::Invalid(_)
            | Self::UnknownEncoding(_)
            | Self::BodyUnreadable
            | Self::BadJson(_) => 400,
            Self::Forbidden | Self::NoBootstrap | Self::Page => 403,
            Self::NoSuchPath | Self::NoOperator => 404,
            Self::BodyTooSlow => 408,
            Self::NameTaken(_) | Self::Full | Self::Conflict(_) => 409,
            Self::BodyTooLarge => 413,
            Self::Unavailable | Self::UnknownOutcome => 503,
            Self::Internal => 500,
        }
    }

    fn text(&self) -> Cow<'static, str> {
        match self {
            Self::NoCredential | Self::InvalidToken => "the request was not authenticated".into(),
            Self::MalformedCredential => {
                "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> \
                 <token>', supported auth-schemes are Bearer, Token and Basic"
                    .into()
            }
            Self::Forbidden => "only the operator token may regenerate the operator token".into(),
            Self::NoSuchPath => "Not found".into(),
            Self::NoOperator => "missing admin token, cannot update".into(),
            Self::NameTaken(name) => format!("token name already exists, {name}").into(),
            Self::Full => format!(
                "there are {MAX_TOKENS} tokens already, which is as many as there can be; delete some first"
            )
            .into(),
            Self::Conflict(why) | Self::Invalid(why) => why.clone().into(),
            Self::UnknownEncoding(encoding) => format!("unacceptable content-encoding: {encoding}").into(),
            Self::BodyTooLarge => format!("max request size ({MAX_BODY_BYTES} bytes) exceeded").into(),
            Self::BodyUnreadable => "Failed to read request body".into(),
            Self::BodyTooSlow => "Failed to read request body: it did not arrive in time".into(),
            Self::BadJson(why) => format!("serde json error: {why}").into(),
            Self::Unavailable => "tokens are not available at the moment, nothing was changed, try again".into(),
            Self::UnknownOutcome => {
                "the token store failed in the middle of the change; if the token that was used is refused from now on, the \
                 change was made and its new token is lost: use optoken-cli recover"
                    .into()
            }
            Self::Internal => "the server cannot do this, its log says why; nothing was changed".into(),
            Self::NoBootstrap => {
                "the operator token cannot be created by a request: run optoken-cli create on the same directory, or start \
                 with --env OPTOKEN_BOOTSTRAP=any to let whoever asks first create it"
                    .into()
            }
            Self::Page => "web pages may not ask for this: there is an Origin or Sec-Fetch header".into(),
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

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let mut headers = vec![("cache-control", "no-store".into())];
        let text = problem.text();
        let body = if let Some(challenge) = problem.challenge() {
            headers.push(("content-type", JSON.into()));
            headers.push(("www-authenticate", challenge.into()));
            // The space after the colon is what clients know; there is nothing in these texts to escape.
            format!("{{\"error\": \"{text}\"}}")
        } else {
            headers.push(("content-type", TEXT.into()));
            text.into_owned()
        };
        if problem == Problem::Unavailable {
            headers.push(("retry-after", RETRY_AFTER_SECONDS.into()));
        }
        Self { status: problem.status(), headers, body: body.into_bytes().into() }
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
            AuthenticateError::Refused(_) => Self::InvalidToken,
            AuthenticateError::Unavailable(_) => Self::Unavailable,
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Rejected(denial) => match denial {
                CommandRejected::Unauthenticated(_) => Self::InvalidToken,
                CommandRejected::Forbidden => Self::Forbidden,
                CommandRejected::NotFound(name) if name == OPERATOR => Self::NoOperator,
                CommandRejected::AlreadyExists(name) => Self::NameTaken(name),
                CommandRejected::Full => Self::Full,
                overlapping @ CommandRejected::Overlapping { .. } => Self::Conflict(overlapping.to_string()),
                CommandRejected::TooLong { .. }
                | CommandRejected::Name(_)
                | CommandRejected::SecretTaken(_) => Self::Invalid(denial.to_string()),
                CommandRejected::NotFound(_)
                | CommandRejected::OperatorProtected
                | CommandRejected::SecretCollision
                | CommandRejected::Invariant(_) => Self::Internal,
            },
            CommandError::Contended | CommandError::Unavailable(_) => Self::Unavailable,
            CommandError::UnknownOutcome(_) => Self::UnknownOutcome,
            CommandError::Catalog(_) | CommandError::Entropy(_) => Self::Internal,
            CommandError::Weak(_) | CommandError::Hash(_) => Self::Invalid(error.to_string()),
        }
    }
}

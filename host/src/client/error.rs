//! What can go wrong with a request, and what the user can try next.
//!
//! The hints name options of the command line, because a user of the command line reads them. The
//! texts of responses are recognised by the constants that servers send.

use std::error::Error;

use optoken_protocol::paths;
use optoken_protocol::problem::{
    ALREADY_EXISTS, ENDPOINT_DISABLED, ErrorStatus, MALFORMED_CREDENTIAL, MISSING_PERMISSION,
    NOT_AUTHENTICATED, NOTHING_CHANGED,
};
use optoken_protocol::token::PREFIX;
use reqwest::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use crate::client::address::{AddressError, ServerAddress};
use crate::client::exchange::{Asked, Operation, Reply};
use crate::client::not_found::Absent;
use crate::client::proxy::{ProxyError, Route};
use crate::client::tls::{TlsFailure, TrustError};
use crate::client::unix_socket::SocketError;
use crate::program;
use crate::token::OPERATOR;
use crate::visible_text::one_line;

/// The most bytes of an error text that are shown: any server may have written it. No text of this
/// program's server has as many.
const MAX_MESSAGE_BYTES: usize = 300;

/// The most bytes of the title of a web page, or of the address of a redirect.
const MAX_DETAIL_BYTES: usize = 120;

const RECOVERY_HINT: &str = "\
If the operator token is lost, start the server with --admin-token-recovery-http-bind and run:
  {program} create token --admin --regenerate --host http://127.0.0.1:8182";

/// The request failed. In a hint, `{program}` stands for the name of this program.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// The address is not that of a server.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The trusted certificates cannot be loaded.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The proxy cannot be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The token cannot be sent in a header.
    #[error("the token holds characters that no token has; was it copied whole?")]
    Token,
    /// The recovery code cannot be sent in a header.
    #[error("the recovery code holds characters that no code has; was it copied whole?")]
    RecoveryCode,
    /// No connection was made.
    #[error("cannot reach {host}: {reason}{code}\n{}", program::named(.hint))]
    Unreachable { host: String, reason: String, code: &'static str, hint: String },
    /// The socket is not that of a trusted user.
    #[error(
        "nothing was sent to {host}: {reason}\nUse a socket of root or of your own user, in a directory that no other \
         user can write, or run this as the user of the server"
    )]
    ForeignSocket { host: String, reason: String },
    /// The response is longer than any of a token server.
    #[error("{host} answers with more than {limit}, which no token server does{}", program::named(.hint))]
    TooLarge { host: String, limit: bytesize::ByteSize, hint: String },
    /// The peer did not prove that it is the server.
    #[error("the server at {host} is not trusted: {reason}\n{hint}")]
    Untrusted { host: String, reason: String, hint: String },
    /// The connection broke before the response was complete.
    #[error("{host} did not answer: {reason}{}", program::named(.hint))]
    NoAnswer { host: String, reason: String, hint: String },
    /// The response is not that of a token server.
    #[error("{host} answers, but not as a token server: {reason}")]
    NotATokenServer { host: String, reason: String },
    /// The server responded with an error.
    #[error("server responded with error [{status}]: {message}{code}{}", program::named(.hint))]
    Refused { status: StatusCode, message: String, code: String, absent: Option<Absent>, hint: String },
    /// This process cannot make connections.
    #[error("cannot start the HTTP client: {0}")]
    Start(String),
}

impl ClientError {
    /// Returns whether the server responded with one of these statuses.
    pub(crate) fn has_status(&self, statuses: &[ErrorStatus]) -> bool {
        matches!(self, Self::Refused { status, .. }
            if statuses.iter().any(|expected| expected.code() == status.as_u16()))
    }

    /// Returns what the server does not have, if it responded so.
    pub(crate) fn absent(&self) -> Option<Absent> {
        match self {
            Self::Refused { absent, .. } => *absent,
            _ => None,
        }
    }

    /// Returns whether a server of this API does not know the token. A proxy that wants a login of
    /// its own does not count.
    pub(crate) fn is_unknown_token(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::UNAUTHORIZED, message, .. }
            if message.starts_with(NOT_AUTHENTICATED))
    }

    /// Returns whether a repeated request may succeed, according to the server or to a proxy in
    /// front of it.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT,
                ..
            }
        )
    }
}

/// The response is not that of a token server, for this reason.
pub(super) fn not_a_token_server(asked: &Asked<'_>, reason: impl Into<String>) -> ClientError {
    ClientError::NotATokenServer { host: asked.name(), reason: reason.into() }
}

/// Why a request has no response.
pub(super) enum SendError {
    Http(reqwest::Error),
    Socket(SocketError),
    /// The response is longer than `limit` bytes.
    TooLarge {
        limit: usize,
    },
    /// The time limit has passed.
    Timeout,
}

/// Converts an error of the connection.
pub(super) fn transport_error(asked: &Asked<'_>, error: &SendError) -> ClientError {
    let Asked { address, route, operation, .. } = *asked;
    let host = match route.proxy() {
        Some(proxy) => format!("{} through the proxy {proxy}", asked.name()),
        None => asked.name(),
    };
    // Scripts for InfluxDB's client look for this word (docs/compatibility.md 4.1).
    let code = if operation.is_of_create() { " (ConnectError)" } else { "" };
    match error {
        SendError::Socket(error @ (SocketError::Path(_) | SocketError::Peer { .. })) => {
            ClientError::ForeignSocket { host, reason: error.to_string() }
        }
        SendError::Socket(SocketError::Connect(error)) => ClientError::Unreachable {
            host,
            reason: root_cause(error),
            code,
            hint: unreachable_hint(address, route),
        },
        SendError::Socket(error) => no_answer(address, host, operation, root_cause(error), false),
        SendError::Timeout => no_answer(address, host, operation, "operation timed out".to_owned(), true),
        SendError::TooLarge { limit } => ClientError::TooLarge {
            host,
            limit: bytesize::ByteSize(u64::try_from(*limit).unwrap_or(u64::MAX)),
            hint: format!(
                "{}\nIs {} the address of a token server?",
                no_answer_hint(operation),
                address.name()
            ),
        },
        SendError::Http(error) if error.is_connect() => {
            let reason = one_line(&root_cause(error));
            let hint = match TlsFailure::find(error).filter(|_| address.is_https()) {
                Some(TlsFailure::Untrusted { reason, hint }) => {
                    return ClientError::Untrusted { host, reason: one_line(&reason), hint };
                }
                Some(TlsFailure::OtherProtocol(hint)) if route.proxy().is_none() => hint.to_owned(),
                _ => unreachable_hint(address, route),
            };
            ClientError::Unreachable { host, reason, code, hint }
        }
        SendError::Http(error) => {
            no_answer(address, host, operation, one_line(&root_cause(error)), error.is_timeout())
        }
    }
}

fn no_answer(
    address: &ServerAddress,
    host: String,
    operation: Operation,
    reason: String,
    is_timeout: bool,
) -> ClientError {
    let mut hint = String::new();
    if !address.is_https() && address.socket().is_none() && !is_timeout {
        hint += "\nIf the server expects TLS, its URL begins with https://.";
    }
    hint += no_answer_hint(operation);
    if matches!(operation, Operation::Create | Operation::Regenerate) {
        hint = hint + "\n" + RECOVERY_HINT;
    }
    ClientError::NoAnswer { host, reason, hint }
}

fn unreachable_hint(address: &ServerAddress, route: &Route) -> String {
    match route {
        Route::Through { source, .. } => {
            return format!(
                "{source} names the proxy. Is the proxy running there, and does it permit connections to this server? \
                 {}",
                source.way_without()
            );
        }
        Route::Bypass { proxy, variable } => {
            return format!(
                "The proxy {proxy} of the environment is not used, because it would see the token; {variable} names it. \
                 To use it all the same, give it with --proxy."
            );
        }
        Route::Direct => {}
    }
    let hint = if address.socket().is_some() {
        "Token recovery is off by default, and closes after its first success. To open it there, start the server \
         with --admin-token-recovery-socket, and run this as root or as the user of the server."
    } else if address.is_recovery_port() {
        "Token recovery is off by default, and closes after its first success. To open it, start the server with:\n  \
         {program} serve --admin-token-recovery-http-bind"
    } else {
        "Is the server running there? Start it with:\n  {program} serve"
    };
    hint.to_owned()
}

/// Returns what the server may have done although its response is missing.
fn no_answer_hint(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => {
            "\nThe token may have been created, and its text is lost. If the server now reports that it exists, use \
             token recovery."
        }
        Operation::Regenerate => {
            "\nThe token may have been replaced. If the server now refuses the old token, use token recovery."
        }
        Operation::CreateNamed | Operation::CreateScoped => {
            "\nThe token may have been created, and its text is lost. If the server now reports that it exists, \
             delete it with:\n  {program} delete token --token-name NAME"
        }
        Operation::Delete => {
            "\nThe token may have been deleted. To list the tokens, run:\n  {program} show tokens"
        }
        Operation::Stage => "\nNothing is replaced yet: the old token is still in force.",
        Operation::Confirm | Operation::OperatorStatus | Operation::Authenticate | Operation::List => "",
    }
}

/// Converts a response with an error status.
pub(super) fn http_error(asked: &Asked<'_>, reply: &Reply) -> ClientError {
    let status = reply.status;
    let body = String::from_utf8_lossy(&reply.body);
    let message = message(&body);
    let absent = Absent::find(status, &body);
    let mut hint = match absent {
        Some(absent) => absent.hint(asked),
        None if status.is_redirection() => redirect_hint(asked, reply.location.as_deref()),
        None => http_hint(asked, status, &message),
    };
    // Inside TLS the proxy cannot respond itself.
    if let Some(proxy) = asked.route.proxy().filter(|_| !asked.address.is_https()) {
        hint = hint + "\nThe request passed the proxy " + proxy + ", which may have responded itself.";
    }
    // Scripts for InfluxDB's client look for this form of the status (docs/compatibility.md 4.1).
    let code =
        if asked.operation.is_of_create() { format!(" (code: {})", status.as_u16()) } else { String::new() };
    ClientError::Refused { status, message, code, absent, hint }
}

/// Returns the text of an error response, as a terminal may show it.
fn message(body: &str) -> String {
    /// An error as JSON, which some responses have.
    #[derive(Deserialize)]
    struct ErrorBody {
        error: String,
    }

    let text = match serde_json::from_str(body) {
        Ok(ErrorBody { error }) => one_line(&error),
        Err(_) => one_line(body),
    };
    if text.is_empty() {
        return "the response has no text".to_owned();
    }
    if text.starts_with('<') {
        return format!("the response is a web page: {}", cut(&without_tags(&text), MAX_DETAIL_BYTES));
    }
    cut(&text, MAX_MESSAGE_BYTES)
}

/// Returns the text of a web page, whose title is the first part of it.
fn without_tags(page: &str) -> String {
    let parts = page.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
    parts.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// Returns the beginning of a text, with an ellipsis if it is longer.
fn cut(text: &str, bytes: usize) -> String {
    match text.get(..text.floor_char_boundary(bytes)) {
        Some(beginning) if beginning.len() < text.len() => format!("{beginning}…"),
        _ => text.to_owned(),
    }
}

/// Returns what to do about a redirect. The token must not go where any server sends it.
fn redirect_hint(asked: &Asked<'_>, location: Option<&str>) -> String {
    let follows_none = "This program follows no redirect, because the token would go there.";
    let target = location.and_then(|location| asked.url.join(location).ok()).filter(|target| {
        matches!(target.scheme(), "http" | "https")
            && target.username().is_empty()
            && target.password().is_none()
    });
    let Some(target) = target else {
        return format!("\n{follows_none} Is {} the address of a token server?", asked.address.name());
    };
    let own = asked.url.path().strip_prefix(asked.address.url().path().trim_end_matches('/'));
    let base = own.and_then(|own| target.path().strip_suffix(own)).map(|base| {
        let mut url = target.clone();
        url.set_path(base);
        url.set_query(None);
        url.set_fragment(None);
        url
    });
    let is_downgrade = asked.address.is_https() && target.scheme() != "https";
    match base {
        Some(base) if !is_downgrade && base.as_str().len() <= MAX_DETAIL_BYTES => {
            format!("\n{follows_none} If {base} is the address of your server, give it with --host {base}")
        }
        _ => format!(
            "\n{follows_none} It leads to {}, {}. Is {} the address of a token server?",
            cut(target.as_str(), MAX_DETAIL_BYTES),
            if is_downgrade { "without TLS" } else { "which is not this path of another address" },
            asked.address.name()
        ),
    }
}

fn http_hint(asked: &Asked<'_>, status: StatusCode, message: &str) -> String {
    let Asked { address, operation, credential, .. } = *asked;
    let requires_operator = operation.requires_operator();
    match status {
        StatusCode::BAD_REQUEST if message.starts_with(MALFORMED_CREDENTIAL) => {
            "\nWas the token copied whole?".to_owned()
        }
        StatusCode::UNAUTHORIZED if !message.starts_with(NOT_AUTHENTICATED) => format!(
            "\nThis is not the text of a token server. Is {} the address of one? A proxy in front of it may want a login \
             of its own.",
            address.name()
        ),
        // The token of these requests is not one that the user gave.
        StatusCode::UNAUTHORIZED if matches!(operation, Operation::Confirm | Operation::Authenticate) => {
            String::new()
        }
        StatusCode::UNAUTHORIZED if credential.is_none() => format!(
            "\nGive {} token with --token-file, --token or INFLUXDB3_AUTH_TOKEN.\n{RECOVERY_HINT}",
            if requires_operator { "the operator" } else { "an admin" }
        ),
        StatusCode::UNAUTHORIZED => format!(
            "\nThis is not {}, or no longer.{}\n{RECOVERY_HINT}",
            if requires_operator { "the operator token" } else { "a token of this server" },
            match credential {
                Some(token) if !token.expose().starts_with(PREFIX) =>
                    " It does not begin with apiv3_, as tokens do.",
                _ => "",
            }
        ),
        StatusCode::FORBIDDEN if message.starts_with(MISSING_PERMISSION) => "\
             \nA token with permissions makes, lists and deletes no tokens. Give an admin token with --token-file, --token or \
             INFLUXDB3_AUTH_TOKEN."
            .to_owned(),
        StatusCode::CONFLICT if operation == Operation::Stage => format!(
            "\nWait until then, or end it with the operator token: DELETE {}",
            address.url_of(paths::OVERLAP)
        ),
        StatusCode::CONFLICT if message == format!("{ALREADY_EXISTS}, {OPERATOR}") => {
            "\nTo replace the operator token, run:\n  \
             {program} create token --admin --regenerate --token OPERATOR_TOKEN"
                .to_owned()
        }
        StatusCode::CONFLICT if message.starts_with(ALREADY_EXISTS) => {
            "\nChoose another name, or delete that token with:\n  {program} delete token --token-name NAME"
                .to_owned()
        }
        StatusCode::METHOD_NOT_ALLOWED if message.starts_with(ENDPOINT_DISABLED) => {
            "\nThe server accepts every request. To use tokens, start it without --without-auth.".to_owned()
        }
        // Of InfluxDB 3: the text of this program's server has the outcome.
        StatusCode::INTERNAL_SERVER_ERROR if !message.contains(NOTHING_CHANGED) => {
            no_answer_hint(operation).to_owned()
        }
        // No server of this API answers so, so a proxy in front of it does.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            format!("\nA proxy got no answer of the server.{}", no_answer_hint(operation))
        }
        _ => String::new(),
    }
}

/// Returns the text of the innermost cause. The errors around it add nothing.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

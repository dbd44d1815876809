//! What can go wrong with a request, and what the user can try next.
//!
//! The hints name options of the command line, because a user of the command line reads them. The
//! texts of responses are recognised by the constants that servers send.

use std::error::Error;

use optoken_protocol::paths;
use optoken_protocol::problem::{
    ALREADY_EXISTS, ENDPOINT_DISABLED, ErrorStatus, MALFORMED_CREDENTIAL, NO_OPERATOR,
    RECOVERY_PATH_NOT_FOUND, TOKEN_NOT_FOUND,
};
use reqwest::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use crate::client::address::{AddressError, ServerAddress};
use crate::client::proxy::{ProxyError, Route};
use crate::client::tls::{TlsFailure, TrustError};
use crate::client::unix_socket::SocketError;
use crate::program;
use crate::token::OPERATOR;
use crate::visible_text::one_line;

/// The most characters of an error text that are shown.
const MAX_MESSAGE_CHARS: usize = 500;

const RECOVERY_HINT: &str = "\
If the operator token is lost, start the server with --admin-token-recovery-http-bind and run:
  {program} create token --admin --regenerate --host http://127.0.0.1:8182";

/// What a request asks of the server. Hints depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Regenerate,
    Stage,
    Confirm,
    OperatorStatus,
    Authenticate,
    CreateNamed,
    Delete,
    List,
}

impl Operation {
    /// Returns whether the operator token alone permits it.
    fn requires_operator(self) -> bool {
        matches!(self, Self::Create | Self::Regenerate | Self::Stage | Self::OperatorStatus)
    }
}

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
    #[error("cannot reach {host}: {reason}\n{}", program::named(.hint))]
    Unreachable { host: String, reason: String, hint: String },
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
    #[error("server responded with error [{status}]: {message}{}", program::named(.hint))]
    Refused { status: StatusCode, message: String, hint: String },
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

    /// Returns whether a recovery listener responded that it has no such path.
    pub(crate) fn is_from_recovery_listener(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message == RECOVERY_PATH_NOT_FOUND)
    }
}

/// The response is not that of a token server, for this reason.
pub(super) fn not_a_token_server(address: &ServerAddress, reason: impl Into<String>) -> ClientError {
    ClientError::NotATokenServer { host: address.name().to_owned(), reason: reason.into() }
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
pub(super) fn transport_error(
    address: &ServerAddress,
    route: &Route,
    operation: Operation,
    error: &SendError,
) -> ClientError {
    let host = match route.proxy() {
        Some(proxy) => format!("{} through the proxy {proxy}", address.name()),
        None => address.name().to_owned(),
    };
    match error {
        SendError::Socket(error @ (SocketError::Path(_) | SocketError::Peer { .. })) => {
            ClientError::ForeignSocket { host, reason: error.to_string() }
        }
        SendError::Socket(SocketError::Connect(error)) => ClientError::Unreachable {
            host,
            reason: root_cause(error),
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
            ClientError::Unreachable { host, reason, hint }
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
        Route::Through { .. } => {
            return "Is the proxy running there, and does it permit connections to this server? To connect without it, \
                    leave out --proxy and INFLUXDB3_PROXY, or add the server to NO_PROXY."
                .to_owned();
        }
        Route::Bypass { proxy } => {
            return format!(
                "The proxy {proxy} of the environment is not used, because it would see the token. To use it all the \
                 same, give it with --proxy."
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
        Operation::CreateNamed => {
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
pub(super) fn http_error(
    address: &ServerAddress,
    route: &Route,
    operation: Operation,
    status: StatusCode,
    body: &[u8],
    had_credential: bool,
) -> ClientError {
    /// An error as JSON, which some responses have.
    #[derive(Deserialize)]
    struct ErrorBody {
        error: String,
    }

    let message = match serde_json::from_slice(body) {
        Ok(ErrorBody { error }) => error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let message: String = one_line(&message).chars().take(MAX_MESSAGE_CHARS).collect();
    let mut hint = http_hint(address, operation, status, &message, had_credential);
    // Inside TLS the proxy cannot respond itself.
    if let Some(proxy) = route.proxy().filter(|_| !address.is_https()) {
        hint = hint + "\nThe request passed the proxy " + proxy + ", which may have responded itself.";
    }
    ClientError::Refused { status, message, hint }
}

fn http_hint(
    address: &ServerAddress,
    operation: Operation,
    status: StatusCode,
    message: &str,
    had_credential: bool,
) -> String {
    let requires_operator = operation.requires_operator();
    match status {
        StatusCode::BAD_REQUEST if message.starts_with(MALFORMED_CREDENTIAL) => {
            "\nWas the token copied whole?".to_owned()
        }
        // The token of these requests is not one that the user gave.
        StatusCode::UNAUTHORIZED if matches!(operation, Operation::Confirm | Operation::Authenticate) => {
            String::new()
        }
        StatusCode::UNAUTHORIZED if !had_credential => format!(
            "\nGive {} token with --token-file, --token or INFLUXDB3_AUTH_TOKEN.\n{RECOVERY_HINT}",
            if requires_operator { "the operator" } else { "an admin" }
        ),
        StatusCode::UNAUTHORIZED => format!(
            "\nThis is not {}, or no longer.\n{RECOVERY_HINT}",
            if requires_operator { "the operator token" } else { "a token of this server" }
        ),
        StatusCode::CONFLICT if operation == Operation::Stage => format!(
            "\nWait until then, or end it with the operator token: DELETE {}",
            address.url_of(paths::OVERLAP)
        ),
        StatusCode::CONFLICT if requires_operator || message == format!("{ALREADY_EXISTS}, {OPERATOR}") => {
            "\nTo replace the operator token, run:\n  \
             {program} create token --admin --regenerate --token OPERATOR_TOKEN"
                .to_owned()
        }
        StatusCode::CONFLICT if message.starts_with(ALREADY_EXISTS) => {
            "\nChoose another name, or delete that token with:\n  {program} delete token --token-name NAME"
                .to_owned()
        }
        StatusCode::NOT_FOUND if message.starts_with(NO_OPERATOR) => {
            "\nThere is no operator token yet. To create it, run:\n  {program} create token --admin"
                .to_owned()
        }
        StatusCode::NOT_FOUND if message.starts_with(TOKEN_NOT_FOUND) => {
            "\nTo list the tokens, run:\n  {program} show tokens".to_owned()
        }
        StatusCode::NOT_FOUND => format!("\nIs {} the address of a token server?", address.name()),
        StatusCode::METHOD_NOT_ALLOWED if message.starts_with(ENDPOINT_DISABLED) => {
            "\nThe server accepts every request. To use tokens, start it without --without-auth.".to_owned()
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

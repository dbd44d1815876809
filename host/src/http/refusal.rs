//! Refused requests: a line of the log for each, and a counter by reason.
//!
//! Programs that block clients read these lines (`dist/fail2ban`). So all have one form: the
//! message, then `client_ip`, `forwarded_for` and `reason`, then the rest. A client chooses texts
//! in them, and must not be able to name another client in its place. So every such text is quoted,
//! with escapes.

use std::sync::Arc;

use hyper::{HeaderMap, Uri};
use optoken_protocol::redact::{REDACTED, redact, redact_rest, sanitize};

use crate::access::AuthorizeError;
use crate::metrics::Metrics;
use crate::server::log_throttle::LogLimiter;
use crate::server::peer::Peer;
use crate::token::{AuthenticateError, CommandError, Principal};

/// How many bytes of an address are logged that a proxy states.
const LOGGED_ADDRESS_BYTES: usize = 128;

/// How many bytes of a path or a host are logged.
const LOGGED_TEXT_BYTES: usize = 256;

/// The client of a request, as the log names it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) peer: Peer,
    /// The address that a proxy states. Any client can send such a header, so it decides nothing.
    forwarded_for: Option<String>,
}

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A credential.
    Authentication,
    /// A request that the permissions of its token do not cover.
    Authorization,
    /// A command, or a read, of an accepted token.
    Command,
    /// The creation of the operator token.
    Bootstrap,
    /// Token recovery.
    Recovery,
    /// A request that violates HTTP.
    Http,
}

/// Why it is refused: a label of the metric, and the cause for the log.
#[derive(Debug)]
pub(crate) struct Reason<'a> {
    pub(crate) label: &'static str,
    pub(crate) cause: &'a str,
}

/// Logs and counts refused requests. Each kind of line has a limit for each client.
pub(crate) struct Refusals {
    metrics: Arc<Metrics>,
    authentication: LogLimiter,
    authorization: LogLimiter,
    command: LogLimiter,
    bootstrap: LogLimiter,
    recovery: LogLimiter,
    http: LogLimiter,
}

impl Client {
    /// Returns the client of a request with these headers.
    pub(crate) fn new(peer: Peer, headers: &HeaderMap) -> Self {
        let value = ["x-forwarded-for", "x-real-ip"].into_iter().find_map(|name| headers.get(name));
        let forwarded_for = value.map(|value| {
            let value = String::from_utf8_lossy(value.as_bytes());
            sanitize(value.split(',').next().unwrap_or_default().trim(), LOGGED_ADDRESS_BYTES)
        });
        Self { peer, forwarded_for }
    }

    /// Returns a client of whose request only the connection is known.
    fn of_connection(peer: &Peer) -> Self {
        Self { peer: peer.clone(), forwarded_for: None }
    }
}

impl Refused {
    /// How the lines of this kind begin.
    const fn message(self) -> &'static str {
        match self {
            Self::Authentication => "cannot authenticate token",
            Self::Authorization => "request not permitted",
            Self::Command => "cannot carry out a token command",
            Self::Bootstrap => "creation of the operator token refused",
            Self::Recovery => "token recovery refused",
            Self::Http => "malformed request",
        }
    }

    /// The label of the metric.
    const fn label(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Command => "command",
            Self::Bootstrap => "bootstrap",
            Self::Recovery => "recovery",
            Self::Http => "http",
        }
    }
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let limiter = |kind: Refused| LogLimiter::new(kind.message());
        Self {
            metrics,
            authentication: limiter(Refused::Authentication),
            authorization: limiter(Refused::Authorization),
            command: limiter(Refused::Command),
            bootstrap: limiter(Refused::Bootstrap),
            recovery: limiter(Refused::Recovery),
            http: limiter(Refused::Http),
        }
    }

    /// Counts and logs a refused request: as a warning, or at debug level beyond the limit of the
    /// client. `text` is a path or a host of the request.
    pub(crate) fn report(&self, kind: Refused, client: &Client, reason: &Reason, text: RequestText) {
        let Reason { label, cause } = *reason;
        self.metrics.request_refused(kind.label(), label);
        let limiter = match kind {
            Refused::Authentication => &self.authentication,
            Refused::Authorization => &self.authorization,
            Refused::Command => &self.command,
            Refused::Bootstrap => &self.bootstrap,
            Refused::Recovery => &self.recovery,
            Refused::Http => &self.http,
        };
        let (client_ip, forwarded_for) = (client.peer.client_ip(), client.forwarded_for.as_deref());
        let (path, host) = match text {
            RequestText::None => (None, None),
            // Without the query string, which may hold a token.
            RequestText::Path(path) => (Some(sanitize(path, LOGGED_TEXT_BYTES)), None),
            RequestText::Host(host) => (None, Some(sanitize(host, LOGGED_TEXT_BYTES))),
        };
        let message = kind.message();
        if limiter.allow(&client.peer) {
            tracing::warn!(client_ip, forwarded_for, reason = label, path, host, "{message}: {cause}");
        } else {
            tracing::debug!(client_ip, forwarded_for, reason = label, path, host, "{message}: {cause}");
        }
    }

    /// Reports a credential that is not accepted.
    pub(crate) fn authentication(&self, client: &Client, error: &AuthenticateError, path: &str) {
        let reason = Reason { label: authentication_label(error), cause: &error.to_string() };
        self.report(Refused::Authentication, client, &reason, RequestText::Path(path));
    }

    /// Reports an accepted token whose permissions do not cover a request.
    pub(crate) fn authorization(
        &self,
        client: &Client,
        principal: Principal,
        error: &AuthorizeError,
        path: &str,
    ) {
        match error {
            AuthorizeError::Authentication(error) => self.authentication(client, error, path),
            AuthorizeError::Forbidden => {
                let cause = format!("token {} has no permission for it", principal.id);
                let reason = Reason { label: "missing_permission", cause: &cause };
                self.report(Refused::Authorization, client, &reason, RequestText::Path(path));
            }
        }
    }

    /// Reports a request that violates HTTP.
    pub(crate) fn malformed(&self, cause: &'static str, peer: &Peer) {
        let (client, reason) = (Client::of_connection(peer), Reason { label: "malformed", cause });
        self.report(Refused::Http, &client, &reason, RequestText::None);
    }

    /// Reports a failed command. The client does not receive its cause.
    pub(crate) fn command(&self, client: &Client, error: &CommandError) {
        // Clients send a token where its name is expected.
        let cause = error.to_string();
        let reason = Reason { label: command_label(error), cause: &redact_rest(&cause) };
        self.report(Refused::Command, client, &reason, RequestText::None);
    }
}

/// A text of the request that its line has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestText<'a> {
    None,
    Path(&'a str),
    Host(&'a str),
}

const fn authentication_label(error: &AuthenticateError) -> &'static str {
    match error {
        AuthenticateError::Unknown => "unknown",
        AuthenticateError::Expired(_) => "expired",
        AuthenticateError::Unavailable(_) => "unavailable",
    }
}

const fn command_label(error: &CommandError) -> &'static str {
    match error {
        CommandError::Unauthenticated => "unknown",
        CommandError::Expired(_) => "expired",
        CommandError::Forbidden => "not_operator",
        CommandError::NotFound(_) => "not_found",
        CommandError::AlreadyExists(_) => "already_exists",
        CommandError::OperatorProtected => "operator_protected",
        CommandError::Full(_) => "full",
        CommandError::Conflict(_) => "conflict",
        CommandError::InvalidArgument(_) => "invalid_argument",
        CommandError::Unavailable(_) => "unavailable",
        CommandError::UnknownOutcome(_) => "unknown_outcome",
        CommandError::Internal(_) => "internal",
    }
}

/// Returns the path of a request for the log. A token that begins before the path, in a URL with a
/// host, may end in it, where it would not be known as one.
pub(crate) fn path_for_log(uri: &Uri) -> &str {
    let begins_before = uri.authority().is_some_and(|authority| {
        let text = format!("{authority}{}", uri.path());
        redact(&text) != text
    });
    if begins_before { REDACTED } else { uri.path() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request_origin::tests::here;

    #[test]
    fn forwarded_address_is_the_first_and_bounded() {
        let client = |headers: &[(&'static str, &[u8])]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, hyper::header::HeaderValue::from_bytes(value).unwrap());
            }
            Client::new(here(), &map).forwarded_for
        };
        let long = [b'x'; 300];
        for (headers, forwarded_for) in [
            (&[][..], None),
            (&[("x-forwarded-for", &b"203.0.113.7"[..])], Some("203.0.113.7")),
            (&[("x-forwarded-for", b" 203.0.113.7 , 10.0.0.1")], Some("203.0.113.7")),
            (&[("x-forwarded-for", b"203.0.113.7"), ("x-forwarded-for", b"10.0.0.1")], Some("203.0.113.7")),
            (&[("x-real-ip", b"2001:db8::1"), ("x-forwarded-for", b"203.0.113.7")], Some("203.0.113.7")),
            (&[("x-real-ip", b"2001:db8::1")], Some("2001:db8::1")),
            (&[("x-forwarded-for", b"")], Some("")),
            (&[("x-forwarded-for", b"a\" client_ip=\"b")], Some("a\\\" client_ip=\\\"b")),
            (&[("x-forwarded-for", b"apiv3_x+/y")], Some("[token]")),
            (&[("x-forwarded-for", &long)], str::from_utf8(&long[..128]).ok()),
        ] {
            assert_eq!(client(headers).as_deref(), forwarded_for, "{headers:?}");
        }
    }
}

//! Why a request to a member failed, whether it can have changed anything, and what to do next.

use std::error::Error;
use std::fmt;

use reqwest::StatusCode;
use rustls::AlertDescription;

use crate::store::etcd::message::Fault;

/// Codes of gRPC, as the gateway states them.
mod code {
    pub(super) const INVALID_ARGUMENT: u16 = 3;
    pub(super) const NOT_FOUND: u16 = 5;
    pub(super) const PERMISSION_DENIED: u16 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u16 = 8;
    pub(super) const FAILED_PRECONDITION: u16 = 9;
    pub(super) const OUT_OF_RANGE: u16 = 11;
    pub(super) const UNIMPLEMENTED: u16 = 12;
    pub(super) const UNAUTHENTICATED: u16 = 16;
}

/// The most bytes of a foreign text in an error.
const MAX_TEXT_BYTES: usize = 300;

/// What an operator can do if a member rejects the client certificate.
const CLIENT_CERTIFICATE: &str =
    "etcd requires a client certificate of its authority: add ?cert=FILE&key=FILE";

/// What an operator can do if a member ends a handshake, as one without TLS does.
const PLAIN_PORT: &str =
    "if this port has no TLS, start etcd with a certificate, or write etcd:// on one machine";

/// A request to one member failed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// The member, without secrets.
    pub(super) endpoint: String,
    pub(super) cause: Cause,
}

#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// No connection was made, or the member rejected it before the request.
    NotSent(String),
    /// The member responded with an error.
    Refused { status: StatusCode, code: Option<u16>, text: String },
    /// The request may have arrived; no valid response came.
    Lost(String),
}

impl Failure {
    /// Returns whether the request certainly changes nothing, now and later.
    pub(super) fn changed_nothing(&self) -> bool {
        match &self.cause {
            Cause::NotSent(_) => true,
            Cause::Lost(_) => false,
            // A write that fills the database is applied and refused. Only a read shows which.
            Cause::Refused { .. } if self.is_full() => false,
            Cause::Refused { code: Some(code), .. } => matches!(
                *code,
                code::INVALID_ARGUMENT
                    | code::NOT_FOUND
                    | code::PERMISSION_DENIED
                    | code::RESOURCE_EXHAUSTED
                    | code::FAILED_PRECONDITION
                    | code::OUT_OF_RANGE
                    | code::UNIMPLEMENTED
                    | code::UNAUTHENTICATED
            ),
            // Another server, or a proxy, that passes nothing on.
            Cause::Refused { status, code: None, .. } => {
                status.is_redirection()
                    || matches!(
                        *status,
                        StatusCode::UNAUTHORIZED
                            | StatusCode::FORBIDDEN
                            | StatusCode::NOT_FOUND
                            | StatusCode::METHOD_NOT_ALLOWED
                            | StatusCode::PAYLOAD_TOO_LARGE
                    )
            }
        }
    }

    /// Makes this the failure of a request that was to follow. Only a refusal of the user stays, as
    /// another member would refuse it as well.
    pub(super) fn before_the_request(self) -> Self {
        let text = match &self.cause {
            Cause::NotSent(_) => return self,
            Cause::Refused { .. } if self.is_refusal_of_user() => return self,
            Cause::Refused { .. } => self.reason(),
            Cause::Lost(text) => text.clone(),
        };
        Self { endpoint: self.endpoint, cause: Cause::NotSent(text) }
    }

    /// Returns whether etcd has refused a user: a wrong password, or a cluster without users.
    fn is_refusal_of_user(&self) -> bool {
        let Cause::Refused { code: Some(code), .. } = self.cause else { return false };
        matches!(
            code,
            code::INVALID_ARGUMENT
                | code::PERMISSION_DENIED
                | code::FAILED_PRECONDITION
                | code::UNAUTHENTICATED
        )
    }

    /// Returns what happened, and what an operator can do.
    fn reason(&self) -> String {
        let text = match &self.cause {
            Cause::Refused { status, text, .. } if text.is_empty() => format!("HTTP {status}"),
            Cause::NotSent(text) | Cause::Lost(text) | Cause::Refused { text, .. } => text.clone(),
        };
        self.remedy().map_or_else(|| text.clone(), |remedy| format!("{text}; {remedy}"))
    }

    /// Returns whether another member responds in the same way.
    pub(super) fn is_of_all_members(&self) -> bool {
        matches!(self.cause, Cause::Refused { code: Some(_), .. }) && self.changed_nothing()
    }

    /// Returns whether the token of the user has ended, which a new one mends.
    pub(super) fn is_stale_token(&self) -> bool {
        match &self.cause {
            Cause::Refused { code: Some(code::UNAUTHENTICATED), .. } => true,
            Cause::Refused { text, .. } => text.contains("revision of auth store is old"),
            _ => false,
        }
    }

    /// Returns whether the database has reached its quota.
    pub(super) fn is_full(&self) -> bool {
        self.has_text("database space exceeded")
    }

    /// Returns whether a revision is gone by a compaction.
    pub(super) fn is_compacted(&self) -> bool {
        self.has_text("required revision has been compacted")
    }

    fn has_text(&self, words: &str) -> bool {
        matches!(&self.cause, Cause::Refused { text, .. } if text.contains(words))
    }

    /// Returns what an operator can do.
    fn remedy(&self) -> Option<&'static str> {
        match &self.cause {
            Cause::Refused { status: StatusCode::NOT_FOUND, code: None, .. } => Some(
                "the JSON gateway does not answer: start etcd 3.4 or newer without \
                 --enable-grpc-gateway=false, and check that this is a client URL of etcd",
            ),
            Cause::Refused { text, .. } => refusal_remedy(text),
            // A port with TLS closes a connection of plain text.
            Cause::Lost(text)
                if self.endpoint.starts_with("http:")
                    && (text.contains("connection closed") || text.contains("Connection reset")) =>
            {
                Some("if this port has TLS, write etcds:// instead of etcd://")
            }
            Cause::NotSent(text) | Cause::Lost(text) => connection_remedy(text),
        }
    }
}

fn first_of(text: &str, remedies: &[(&str, &'static str)]) -> Option<&'static str> {
    remedies.iter().find(|(words, _)| text.contains(words)).map(|(_, remedy)| *remedy)
}

fn refusal_remedy(text: &str) -> Option<&'static str> {
    first_of(
        text,
        &[
            (
                "database space exceeded",
                "its alarm NOSPACE stops every write: free space with `etcdctl compact` and `etcdctl defrag`, run \
                 `etcdctl alarm disarm`, and start etcd with --auto-compaction-retention=1h",
            ),
            (
                "permission denied",
                "grant the role of the user the keys of this store: `etcdctl role grant-permission ROLE \
                 --prefix=true readwrite PREFIX/`",
            ),
            (
                "user name is empty",
                "etcd requires a user: put one into the URL, as in etcds://USER@HOST/PREFIX",
            ),
            ("authentication failed", "check the user of the URL and its password"),
            (
                "authentication is not enabled",
                "run `etcdctl auth enable`, or remove user and password from the URL",
            ),
            ("request is too large", "start etcd with --max-request-bytes of 1572864 (its default) or more"),
            (
                "message larger than max",
                "start etcd with --max-request-bytes of 1572864 (its default) or more",
            ),
            ("HTTP request to an HTTPS server", "write etcds:// instead of etcd://"),
        ],
    )
}

fn connection_remedy(text: &str) -> Option<&'static str> {
    first_of(
        text,
        &[
            ("UnknownIssuer", "name the authority of its certificate with ?ca=FILE"),
            ("CertificateRequired", CLIENT_CERTIFICATE),
            // What Go sends if there is no certificate, or one of another authority.
            ("received fatal alert: BadCertificate", CLIENT_CERTIFICATE),
            ("received fatal alert: UnknownCA", CLIENT_CERTIFICATE),
            ("InvalidContentType", PLAIN_PORT),
            ("handshake eof", PLAIN_PORT),
        ],
    )
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason())
    }
}

impl Cause {
    /// Reads the body of an error.
    pub(super) fn of_response(status: StatusCode, body: &[u8]) -> Self {
        // The body of a gateway ends with trailers, as text.
        let fault = serde_json::Deserializer::from_slice(body).into_iter::<Fault>().next();
        match fault.and_then(Result::ok).filter(|fault| fault.code.is_some()) {
            Some(fault) => Self::Refused { status, code: fault.code, text: visible(fault.text()) },
            None => Self::Refused { status, code: None, text: visible(&String::from_utf8_lossy(body)) },
        }
    }

    /// Converts an error of the connection. Its texts hold no URL.
    pub(super) fn of_connection(error: &reqwest::Error) -> Self {
        let mut deepest: &dyn Error = error;
        let mut rejected = false;
        while let Some(source) = deepest.source() {
            deepest = source;
            rejected |= is_rejection(deepest);
        }
        let text = if error.is_timeout() {
            "no connection in time".to_owned()
        } else {
            visible(&deepest.to_string())
        };
        if error.is_connect() || rejected { Self::NotSent(text) } else { Self::Lost(text) }
    }
}

/// Returns whether the member has rejected the client certificate. It then reads no request, also
/// if the client has finished its handshake.
fn is_rejection(error: &(dyn Error + 'static)) -> bool {
    let within = |error: &(dyn Error + 'static)| {
        matches!(
            error.downcast_ref(),
            Some(rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                    | AlertDescription::BadCertificate
                    | AlertDescription::UnknownCA
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
            ))
        )
    };
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    within(error) || inner.is_some_and(|inner| within(inner))
}

/// Shortens a foreign text to one visible line.
fn visible(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    let text: String = text.chars().map(|next| if next.is_control() { ' ' } else { next }).collect();
    text.get(..end).unwrap_or(&text).trim().to_owned()
}

//! Checks where a request comes from, for requests that need no token: recovery, and the creation
//! of the operator token.
//!
//! A request that passes can become the operator. Any local process can send one, including a
//! browser that runs a hostile page. After DNS rebinding, a page can also read the responses of a
//! local server. It cannot keep the browser from adding headers that reveal the page. The checks
//! read the head of a request and its peer, and know nothing of what the request is for.

use std::net::SocketAddr;

use hyper::header::{HOST, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Request, Version};
use optoken_protocol::browser::is_sent_by_page;
use optoken_protocol::problem::{Problem, SENT_BY_PAGE};
use thiserror::Error;

use crate::http::refusal::{Client, Reason, Refusals, Refused, RequestText};
use crate::server::peer::Peer;
use crate::server::tls::CertificateNames;

/// The names of the loopback interface, as a URL contains them.
const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// The user id of root, which has every permission anyway.
const ROOT: u32 = 0;

/// The reason why a request is rejected, as text for the client and for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Rejection {
    /// The request has no `Host`.
    #[error("there is no Host header; ask this server by its address, such as localhost and its port")]
    MissingHost,
    /// The request has more than one `Host`.
    #[error("the request names its host more than once")]
    MultipleHosts,
    /// The `Host` is another server, or a name that its owner can point at this machine.
    #[error(
        "the Host header names no address of this listener; ask by its IP address or localhost, and its port; over TLS, also \
         by a name in its certificate"
    )]
    HostMismatch,
    /// The request line has a whole URL.
    #[error("the request names a whole URL, as requests to a proxy do")]
    AbsoluteForm,
    /// A page in a browser has sent the request.
    #[error("{SENT_BY_PAGE}")]
    BrowserOrigin,
    /// The length of the body is not stated.
    #[error("this request needs no body, and may have none with Transfer-Encoding")]
    TransferEncoding,
    /// A proxy has forwarded the request.
    #[error(
        "the request came through a proxy: it has a header that proxies add, or is HTTP/1.0; ask this server itself, on its \
         machine"
    )]
    Forwarded,
    /// The client of a Unix socket runs as a user that is neither root nor that of the server.
    #[error("the socket is for root and for the user of the server")]
    PeerUidMismatch,
    /// The client is on another machine.
    #[error(
        "the operator token can be created on the machine of the server only: run there optoken create token --admin, or \
         start the server with --admin-token-bootstrap any"
    )]
    NotLoopback,
    /// No request may create the operator token without a token.
    #[error(
        "the operator token cannot be created by a request without a token (--admin-token-bootstrap off): start the server \
         with --admin-token-file"
    )]
    BootstrapOff,
}

/// Checks a request to the recovery listener, before its path is read.
pub(crate) fn check_recovery_request<B>(request: &Request<B>, peer: &Peer) -> Result<(), Rejection> {
    let host = effective_host(request)?;
    let own = match peer {
        Peer::Tcp { local, tls, .. } => {
            let (name, port) = split_port(host);
            let port_is_right = match port {
                Some(port) => port == local.port().to_string(),
                None => local.port() == if tls.is_some() { 443 } else { 80 },
            };
            port_is_right && is_own_host(name, *local, tls.as_ref())
        }
        // A Unix socket has no address; its clients send this name.
        Peer::Unix { .. } => host.eq_ignore_ascii_case("localhost"),
    };
    if !own {
        return Err(Rejection::HostMismatch);
    }
    reject_browser_origin(request.headers())?;
    reject_forwarded(request)?;
    // Request smuggling exploits the two ways to state the length of a body. Recovery needs no
    // body.
    if request.headers().contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::TransferEncoding);
    }
    match peer {
        Peer::Unix { uid } if !is_allowed_uid(*uid, rustix::process::geteuid().as_raw()) => {
            Err(Rejection::PeerUidMismatch)
        }
        _ => Ok(()),
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        Self::Forbidden(rejection.to_string().into())
    }
}

impl Rejection {
    /// Counts and logs a rejected request.
    pub(crate) fn report<B>(self, kind: Refused, request: &Request<B>, client: &Client, refusals: &Refusals) {
        let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
        let text = host.as_deref().map_or(RequestText::None, RequestText::Host);
        let reason = Reason { label: self.label(), cause: &self.to_string() };
        refusals.report(kind, client, &reason, text);
    }

    /// Returns the label of the metric.
    const fn label(self) -> &'static str {
        match self {
            Self::MissingHost => "missing_host",
            Self::MultipleHosts => "multiple_hosts",
            Self::HostMismatch => "other_host",
            Self::AbsoluteForm => "absolute_form",
            Self::BrowserOrigin => "browser",
            Self::TransferEncoding => "transfer_encoding",
            Self::Forwarded => "forwarded",
            Self::PeerUidMismatch => "other_user",
            Self::NotLoopback => "other_machine",
            Self::BootstrapOff => "bootstrap_off",
        }
    }
}

/// Returns the one host of a request: its `Host` header, or its `:authority` of HTTP/2.
pub(crate) fn effective_host<B>(request: &Request<B>) -> Result<&str, Rejection> {
    let authority = request.uri().authority().map(Authority::as_str);
    if authority.is_some() && request.version() < Version::HTTP_2 {
        return Err(Rejection::AbsoluteForm);
    }
    // No name of this server has characters beyond ASCII.
    let hosts = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut hosts = hosts.chain(authority);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(host),
        (Some(_), Some(_)) => Err(Rejection::MultipleHosts),
        (None, _) => Err(Rejection::MissingHost),
    }
}

/// Splits `NAME[:PORT]`.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => (name, Some(port)),
        _ => (host, None),
    }
}

/// Returns whether a name is that of the server end of a connection: its address, a loopback name,
/// or a name of the certificate that it presented. The owner of any other name can point it at this
/// machine, but cannot obtain its certificate.
pub(crate) fn is_own_host(name: &str, local: SocketAddr, certified: Option<&CertificateNames>) -> bool {
    let own = match SocketAddr::new(local.ip().to_canonical(), 0) {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    let certified = certified.into_iter().flat_map(|names| names.iter()).map(String::as_str);
    LOOPBACK_NAMES.into_iter().chain([&*own]).chain(certified).any(|own| name.eq_ignore_ascii_case(own))
}

/// Rejects a request that a page in a browser has sent.
pub(crate) fn reject_browser_origin(headers: &HeaderMap) -> Result<(), Rejection> {
    if headers.iter().any(|(name, value)| is_sent_by_page(name.as_str(), value.as_bytes())) {
        return Err(Rejection::BrowserOrigin);
    }
    Ok(())
}

/// Rejects a request that a proxy has forwarded, as far as the proxy reveals itself. A proxy that
/// adds nothing to a request is indistinguishable from a local client.
pub(crate) fn reject_forwarded<B>(request: &Request<B>) -> Result<(), Rejection> {
    let forwarded = request.headers().keys().any(|name| is_forwarding_header(name.as_str()));
    // nginx and others use HTTP/1.0 towards their upstreams; clients hardly do.
    let old = request.version() < Version::HTTP_11;
    if forwarded || old { Err(Rejection::Forwarded) } else { Ok(()) }
}

/// Returns whether this is a header that proxies add. `name` is in lower case.
fn is_forwarding_header(name: &str) -> bool {
    // Cloudflare, Envoy; True-Client-IP, X-Cluster-Client-IP, Fly-Client-IP and similar.
    let begins = |prefix| name.starts_with(prefix);
    ["via", "x-real-ip", "client-ip"].contains(&name)
        || name.contains("forwarded")
        || begins("cf-")
        || begins("x-envoy-")
        || name.ends_with("-client-ip")
}

/// Returns whether the client is on this machine.
pub(crate) fn is_loopback(peer: &Peer) -> bool {
    match peer {
        Peer::Tcp { remote, .. } => remote.ip().to_canonical().is_loopback(),
        Peer::Unix { .. } => true,
    }
}

/// Returns whether a client of user `uid` may use the Unix socket of a server of user `own`.
fn is_allowed_uid(uid: u32, own: u32) -> bool {
    uid == ROOT || uid == own
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Headers that browsers and proxies add, and the result of the checks.
    pub(crate) const ADDED_HEADERS: [(&str, &str, Result<(), Rejection>); 25] = [
        ("origin", "https://evil.example", Err(Rejection::BrowserOrigin)),
        ("origin", "http://localhost:8182", Err(Rejection::BrowserOrigin)),
        ("origin", "null", Err(Rejection::BrowserOrigin)),
        ("origin", "", Err(Rejection::BrowserOrigin)),
        ("sec-fetch-site", "none", Ok(())),
        ("sec-fetch-site", "None", Err(Rejection::BrowserOrigin)),
        ("sec-fetch-site", "same-origin", Err(Rejection::BrowserOrigin)),
        ("sec-fetch-site", "cross-site", Err(Rejection::BrowserOrigin)),
        ("sec-fetch-mode", "none", Err(Rejection::BrowserOrigin)),
        ("sec-fetch-anything", "", Err(Rejection::BrowserOrigin)),
        ("x-forwarded-for", "127.0.0.1", Err(Rejection::Forwarded)),
        ("x-real-ip", "127.0.0.1", Err(Rejection::Forwarded)),
        ("forwarded", "for=127.0.0.1", Err(Rejection::Forwarded)),
        ("x-forwarded-host", "localhost", Err(Rejection::Forwarded)),
        ("x-forwarded-anything", "", Err(Rejection::Forwarded)),
        ("x-original-forwarded-for", "127.0.0.1", Err(Rejection::Forwarded)),
        ("x-envoy-external-address", "127.0.0.1", Err(Rejection::Forwarded)),
        ("cf-connecting-ip", "127.0.0.1", Err(Rejection::Forwarded)),
        ("cf-ray", "0", Err(Rejection::Forwarded)),
        ("client-ip", "127.0.0.1", Err(Rejection::Forwarded)),
        ("x-client-ip", "127.0.0.1", Err(Rejection::Forwarded)),
        ("true-client-ip", "127.0.0.1", Err(Rejection::Forwarded)),
        ("x-cluster-client-ip", "127.0.0.1", Err(Rejection::Forwarded)),
        ("accept-language", "de", Ok(())),
        ("via", "1.1 proxy", Err(Rejection::Forwarded)),
    ];

    pub(crate) fn tcp(remote: &str, local: &str) -> Peer {
        Peer::Tcp { remote: remote.parse().unwrap(), local: local.parse().unwrap(), tls: None }
    }

    pub(crate) fn here() -> Peer {
        tcp("127.0.0.1:40000", "127.0.0.1:8182")
    }

    pub(crate) fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::post("/").version(Version::HTTP_11);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    #[test]
    fn host_must_be_that_of_the_listener() {
        for (local, tls, host, own) in [
            ("127.0.0.1:8182", false, "127.0.0.1:8182", true),
            ("127.0.0.1:8182", false, "localhost:8182", true),
            ("127.0.0.1:8182", false, "LocalHost:8182", true),
            ("127.0.0.1:8182", false, "[::1]:8182", true),
            ("127.0.0.2:8182", false, "127.0.0.2:8182", true),
            ("[::ffff:127.0.0.2]:8182", false, "127.0.0.2:8182", true),
            ("[2001:db8::a]:8182", false, "[2001:DB8::A]:8182", true),
            ("127.0.0.1:80", false, "localhost", true),
            ("127.0.0.1:80", false, "[::1]", true),
            ("127.0.0.1:80", false, "localhost:80", true),
            ("127.0.0.1:443", true, "localhost", true),
            ("127.0.0.1:443", false, "localhost", false),
            ("127.0.0.1:80", true, "localhost", false),
            ("127.0.0.1:8182", true, "db.example:8182", true),
            ("127.0.0.1:8182", true, "DB.Example:8182", true),
            ("127.0.0.1:443", true, "db.example", true),
            ("127.0.0.1:8182", true, "db.example", false),
            ("127.0.0.1:8182", true, "a.db.example:8182", false),
            ("127.0.0.1:8182", true, "db.example.:8182", false),
            ("127.0.0.1:8182", true, "db:8182", false),
            ("127.0.0.1:8182", false, "db.example:8182", false),
            ("127.0.0.1:8182", false, "localhost", false),
            ("127.0.0.1:8182", false, "127.0.0.2:8182", false),
            ("127.0.0.1:8182", false, "localhost:8181", false),
            ("127.0.0.1:8182", false, "localhost:08182", false),
            ("127.0.0.1:8182", false, "localhost:8182:8182", false),
            ("127.0.0.1:8182", false, "localhost.:8182", false),
            ("127.0.0.1:8182", false, "localhost:8182.", false),
            ("127.0.0.1:8182", false, "user@localhost:8182", false),
            ("127.0.0.1:8182", false, "127.0.0.1.evil.example:8182", false),
            ("127.0.0.1:8182", false, "::1:8182", false),
            ("127.0.0.1:8182", false, "[::1]8182", false),
            ("127.0.0.1:8182", false, "0.0.0.0:8182", false),
            ("127.0.0.1:8182", false, "127.1:8182", false),
            ("127.0.0.1:8182", false, "", false),
            ("127.0.0.1:8182", false, ":8182", false),
        ] {
            let remote = "127.0.0.1:40000".parse().unwrap();
            let names = tls.then(|| CertificateNames::from(["db.example".to_owned()]));
            let peer = Peer::Tcp { remote, local: local.parse().unwrap(), tls: names };
            let checked = check_recovery_request(&request(&[("host", host)]), &peer);
            let expected = if own { Ok(()) } else { Err(Rejection::HostMismatch) };
            assert_eq!(checked, expected, "{host:?} at {local}, TLS: {tls}");
        }
    }

    #[test]
    fn request_must_have_one_host() {
        let http2 = |uri: &str, hosts: &[&str]| {
            let request = Request::post(uri).version(Version::HTTP_2);
            hosts.iter().fold(request, |request, host| request.header(HOST, *host)).body(()).unwrap()
        };
        let own = "localhost:8182";
        for (request, expected) in [
            (request(&[]), Err(Rejection::MissingHost)),
            (request(&[("host", own), ("host", own)]), Err(Rejection::MultipleHosts)),
            (
                Request::post("http://localhost:8182/").header(HOST, own).body(()).unwrap(),
                Err(Rejection::AbsoluteForm),
            ),
            (http2("http://localhost:8182/", &[]), Ok(())),
            (http2("/", &[own]), Ok(())),
            (http2("http://localhost:8182/", &[own]), Err(Rejection::MultipleHosts)),
            (http2("http://evil.example:8182/", &[]), Err(Rejection::HostMismatch)),
            (http2("/", &[]), Err(Rejection::MissingHost)),
        ] {
            assert_eq!(check_recovery_request(&request, &here()), expected, "{request:?}");
        }
    }

    #[test]
    fn headers_of_browsers_and_proxies_are_rejected() {
        for (name, value, expected) in ADDED_HEADERS {
            let request = request(&[("host", "localhost:8182"), (name, value)]);
            assert_eq!(check_recovery_request(&request, &here()), expected, "{name}: {value}");
        }
        let twice =
            [("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site"), ("host", "localhost:8182")];
        assert_eq!(check_recovery_request(&request(&twice), &here()), Err(Rejection::BrowserOrigin));
        let mut old = request(&[("host", "localhost:8182")]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(check_recovery_request(&old, &here()), Err(Rejection::Forwarded));
        let chunked = request(&[("host", "localhost:8182"), ("transfer-encoding", "chunked")]);
        assert_eq!(check_recovery_request(&chunked, &here()), Err(Rejection::TransferEncoding));
    }

    #[test]
    fn unix_socket_is_for_root_and_own_user() {
        for (uid, own, may) in
            [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1001, 1000, false), (1000, 0, false)]
        {
            assert_eq!(is_allowed_uid(uid, own), may, "{uid} at a server of {own}");
        }
        let own = Peer::Unix { uid: rustix::process::geteuid().as_raw() };
        let other = Peer::Unix { uid: 54321 };
        assert_eq!(check_recovery_request(&request(&[("host", "localhost")]), &own), Ok(()));
        assert_eq!(
            check_recovery_request(&request(&[("host", "localhost")]), &other),
            Err(Rejection::PeerUidMismatch)
        );
        assert_eq!(
            check_recovery_request(&request(&[("host", "evil.example")]), &own),
            Err(Rejection::HostMismatch)
        );
        assert_eq!(check_recovery_request(&request(&[]), &own), Err(Rejection::MissingHost));
    }
}

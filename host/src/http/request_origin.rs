//! Who may ask for what needs no token: the recovery listener's one request, and the creation of the operator token.
//!
//! Whoever gets through becomes the operator, and both listen where every program of the machine can knock, browsers
//! with the pages of others in them included. A page can make its browser send requests, give a name of its own the
//! address of this machine (DNS rebinding), and then read the answers; it cannot keep the browser from saying so in the head
//! of the request. Decides from that head and from where it came, and knows nothing of what is asked for.

use std::net::SocketAddr;

use hyper::header::{HOST, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Request, Version};
use optoken_protocol::browser::is_sent_by_page;
use optoken_protocol::problem::{Problem, SENT_BY_PAGE};
use optoken_protocol::redact::sanitize;
use thiserror::Error;

use crate::server::log_throttle::LogThrottle;
use crate::server::peer::Peer;
use crate::server::tls::CertificateNames;

/// The names that a machine has for itself, as they stand in a URL.
const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// How much of a name is logged, in bytes.
const LOGGED_HOST_BYTES: usize = 256;

/// The user that may do everything anyway.
const ROOT: u32 = 0;

/// Why somebody is not let in: what the client is told, and what the log is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Rejection {
    /// It does not say whom it asks.
    #[error("there is no Host header; ask this server by its address, such as localhost and its port")]
    MissingHost,
    /// It says so more than once.
    #[error("the request names its host more than once")]
    MultipleHosts,
    /// It asks somebody else, or by a name that anybody can give to this machine.
    #[error(
        "the Host header names no address of this listener; ask by its IP address or localhost, and its port; over TLS, also \
         by a name in its certificate"
    )]
    HostMismatch,
    /// It is a request to a proxy.
    #[error("the request names a whole URL, as requests to a proxy do")]
    AbsoluteForm,
    /// A page in a browser has sent it.
    #[error("{SENT_BY_PAGE}")]
    BrowserOrigin,
    /// It has a body of no stated length.
    #[error("this request needs no body, and may have none with Transfer-Encoding")]
    TransferEncoding,
    /// A proxy has passed it on.
    #[error(
        "the request came through a proxy: it has a header that proxies add, or is HTTP/1.0; ask this server itself, on its \
         machine"
    )]
    Forwarded,
    /// The process at the other end of the socket runs as somebody else.
    #[error("the socket is for root and for the user of the server")]
    PeerUidMismatch,
    /// It comes from another machine.
    #[error(
        "the operator token can be created on the machine of the server only: run there optoken create token --admin, or \
         start the server with --admin-token-bootstrap any"
    )]
    NotLoopback,
    /// Nobody may who has no token.
    #[error(
        "the operator token cannot be created by a request without a token (--admin-token-bootstrap off): start the server \
         with --admin-token-file"
    )]
    BootstrapOff,
}

/// Whether a request may be heard on the recovery listener, whatever it asks for.
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
        // It has no address; this is what clients of such sockets say.
        Peer::Unix { .. } => host.eq_ignore_ascii_case("localhost"),
    };
    if !own {
        return Err(Rejection::HostMismatch);
    }
    reject_browser_origin(request.headers())?;
    reject_forwarded(request)?;
    // Where the length of a body is, is what smuggling is about, and there is nothing to say in this one.
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
    /// Tells the log who was turned away, and why, as a warning if it is time for one.
    pub(crate) fn log<B>(
        self,
        what: &'static str,
        request: &Request<B>,
        peer: &Peer,
        throttle: &LogThrottle,
    ) {
        let host = request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
        // It comes from outside, and may be anything.
        let host = host.map(|host| sanitize(&host, LOGGED_HOST_BYTES));
        if throttle.allow() {
            tracing::warn!(%peer, host, "{what} refused: {self}");
        } else {
            tracing::debug!(%peer, host, "{what} refused: {self}");
        }
    }
}

/// The one name, with its port, by which the server is asked: in the `Host` header, or in the `:authority` of HTTP/2.
pub(crate) fn effective_host<B>(request: &Request<B>) -> Result<&str, Rejection> {
    let authority = request.uri().authority().map(Authority::as_str);
    if authority.is_some() && request.version() < Version::HTTP_2 {
        return Err(Rejection::AbsoluteForm);
    }
    // What is not ASCII is no name that is known.
    let hosts = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut hosts = hosts.chain(authority);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(host),
        (Some(_), Some(_)) => Err(Rejection::MultipleHosts),
        (None, _) => Err(Rejection::MissingHost),
    }
}

/// The name and the port, if there is one, of `NAME[:PORT]`.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => (name, Some(port)),
        _ => (host, None),
    }
}

/// Whether this is how this end of a connection is called on this machine, or how it has shown to be called by its
/// certificate. No other name counts: whoever owns a name can give it any address, but not a page a certificate that is
/// not its own.
pub(crate) fn is_own_host(name: &str, local: SocketAddr, certified: Option<&CertificateNames>) -> bool {
    let own = match SocketAddr::new(local.ip().to_canonical(), 0) {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    };
    let certified = certified.into_iter().flat_map(|names| names.iter()).map(String::as_str);
    LOOPBACK_NAMES.into_iter().chain([&*own]).chain(certified).any(|own| name.eq_ignore_ascii_case(own))
}

pub(crate) fn reject_browser_origin(headers: &HeaderMap) -> Result<(), Rejection> {
    if headers.iter().any(|(name, value)| is_sent_by_page(name.as_str(), value.as_bytes())) {
        return Err(Rejection::BrowserOrigin);
    }
    Ok(())
}

/// Not all proxies say that they are one. Those that say nothing at all pass for whoever runs them.
pub(crate) fn reject_forwarded<B>(request: &Request<B>) -> Result<(), Rejection> {
    let forwarded = request.headers().keys().any(|name| is_forwarding_header(name.as_str()));
    // As nginx and others speak it to the servers behind them, and hardly a client any more.
    let old = request.version() < Version::HTTP_11;
    if forwarded || old { Err(Rejection::Forwarded) } else { Ok(()) }
}

/// Whether proxies add this header. A request with one of them comes from wherever the proxy takes requests from.
fn is_forwarding_header(header: &str) -> bool {
    // Cloudflare, Envoy; and True-Client-IP, X-Cluster-Client-IP, Fly-Client-IP and their like.
    let begins = |prefix| header.starts_with(prefix);
    ["via", "x-real-ip", "client-ip"].contains(&header)
        || header.contains("forwarded")
        || begins("cf-")
        || begins("x-envoy-")
        || header.ends_with("-client-ip")
}

pub(crate) fn is_loopback(peer: &Peer) -> bool {
    match peer {
        Peer::Tcp { remote, .. } => remote.ip().to_canonical().is_loopback(),
        Peer::Unix { .. } => true,
    }
}

/// Whether a process of this user may use a socket of this server, which runs as `own`.
fn is_allowed_uid(uid: u32, own: u32) -> bool {
    uid == ROOT || uid == own
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What browsers and proxies add to a request, and what is said of it.
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
    fn the_recovery_listener_answers_to_its_own_names_only() {
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
    fn the_host_is_named_once() {
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
    fn what_a_browser_or_a_proxy_adds_is_refused() {
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
    fn the_socket_is_for_root_and_its_own_user() {
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

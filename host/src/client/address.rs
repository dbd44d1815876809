//! The address of a server: a URL, or the path of a unix socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use optoken_protocol::redact::{REDACTED, redact};
use reqwest::Url;
use thiserror::Error;

/// The address of a server that runs with its default options.
pub(crate) const DEFAULT_HOST: &str = "http://127.0.0.1:8181";

/// The port of a recovery listener that runs with its default options.
const RECOVERY_PORT: u16 = 8182;

/// What the path of a unix socket follows.
const SOCKET_PREFIX: &str = "unix:";

/// The URL of a request to a unix socket, which has neither name nor port.
const SOCKET_URL: &str = "http://localhost";

/// The address of a server.
pub(super) struct ServerAddress {
    /// The base of every request. Its path ends without a slash, or is one.
    url: Url,
    /// The path of the unix socket, if it is one.
    socket: Option<String>,
    name: String,
}

/// The text is not the address of a server.
#[derive(Debug, Error)]
pub(crate) enum AddressError {
    /// It is no URL of a server.
    #[error("{host:?} is not the URL of a server, which looks like {DEFAULT_HOST}")]
    NotAUrl { host: String },
    /// Quotes stand around it.
    #[error("{host:?} has quotes around it: give the URL without them (docker --env-file keeps them)")]
    Quoted { host: String },
    /// The URL holds a credential, which would be sent beside the token or instead of it.
    #[error(
        "the URL of a server has no user name or password; give the token with --token or INFLUXDB3_AUTH_TOKEN"
    )]
    Userinfo,
    /// The URL holds a query or a fragment, which no request would have.
    #[error(
        "the URL of a server has no query and no fragment, and {part:?} would be lost; give the address of the server \
         itself, such as {DEFAULT_HOST}, or with the path that a proxy has for it"
    )]
    NotABase { part: String },
}

impl ServerAddress {
    /// Parses a URL, or `unix:` and the path of a socket.
    pub(super) fn parse(host: &str) -> Result<Self, AddressError> {
        let host = host.trim();
        if host.starts_with(['"', '\'']) {
            return Err(AddressError::Quoted { host: host.to_owned() });
        }
        let not_a_url = || AddressError::NotAUrl { host: host.to_owned() };
        let socket = host.strip_prefix(SOCKET_PREFIX).map(str::to_owned);
        if socket.as_ref().is_some_and(String::is_empty) {
            return Err(not_a_url());
        }
        let mut url =
            Url::parse(if socket.is_some() { SOCKET_URL } else { host }).map_err(|_| not_a_url())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Userinfo);
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(not_a_url());
        }
        if url.query().is_some() || url.fragment().is_some() {
            // A token in the path may hold the mark, and its end alone would not be known as one.
            let url = redact(url.as_str());
            let part = url.find(['?', '#']).and_then(|at| url.get(at..)).unwrap_or(REDACTED);
            return Err(AddressError::NotABase { part: part.to_owned() });
        }
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&base);
        let name = if socket.is_some() { host.to_owned() } else { url.to_string() };
        Ok(Self { url, socket, name })
    }

    /// Returns the address as errors show it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the unix socket, if it is one.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.socket.as_deref().map(Path::new)
    }

    /// Returns the URL that every request begins with.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the URL of a path of this server, below the base that the user gave. InfluxDB's
    /// client drops that base, and sends the token to the root of the host.
    pub(super) fn url_of(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        // What is percent-encoded already stays as it is.
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// Returns whether every request has a path of the user before its own.
    pub(super) fn has_base_path(&self) -> bool {
        self.url.path() != "/"
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns whether requests stay on this machine.
    pub(super) fn is_loopback(&self) -> bool {
        self.local_name().is_some()
            || self
                .url
                .host_str()
                .and_then(|name| name.trim_matches(['[', ']']).parse::<IpAddr>().ok())
                .is_some_and(is_this_machine)
    }

    /// Returns the host name, if RFC 6761 6.3 reserves it for this machine.
    pub(super) fn local_name(&self) -> Option<&str> {
        self.url.host_str().filter(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        })
    }

    /// Returns the addresses of a name for this machine. A resolver may know others.
    pub(super) fn local_addresses() -> [SocketAddr; 2] {
        // The port is that of the URL.
        [(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into(), (IpAddr::V6(Ipv6Addr::LOCALHOST), 0).into()]
    }

    /// Returns whether requests cross a network without encryption.
    pub(super) fn is_plaintext(&self) -> bool {
        !self.is_https() && !self.is_loopback()
    }

    /// Returns whether this may be a recovery listener: a socket, or the default port of recovery.
    pub(super) fn is_recovery(&self) -> bool {
        self.socket.is_some() || self.is_recovery_port()
    }

    /// Returns whether this is the default port of token recovery.
    pub(super) fn is_recovery_port(&self) -> bool {
        self.url.port() == Some(RECOVERY_PORT)
    }
}

/// Returns whether a connection to this address stays on this machine. Linux connects to the
/// unspecified address as to loopback.
fn is_this_machine(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_this_machine_is_loopback() {
        for host in [
            "http://127.0.0.1",
            "http://127.1.2.3:8181",
            "http://127.1",
            "http://2130706433",
            "http://0x7f000001",
            "http://0177.0.0.1",
            "http://0.0.0.0:8181",
            "http://0",
            "http://[::1]:8181",
            "http://[0:0:0:0:0:0:0:1]",
            "http://[::]",
            "http://[::ffff:127.0.0.1]",
            "http://[::ffff:7f00:1]:8181",
            "http://[::ffff:0.0.0.0]",
            "http://localhost",
            "http://LOCALHOST:8181",
            "http://localhost.:8181",
            "https://db.localhost",
            "http://a.b.localhost.",
            " http://localhost\n",
            "unix:/run/socket",
        ] {
            let address = ServerAddress::parse(host).unwrap_or_else(|error| panic!("{host}: {error}"));
            assert!(address.is_loopback(), "{host}");
        }
        for host in [
            "http://128.0.0.1",
            "http://0.0.0.1",
            "http://10.0.0.1",
            "http://[::2]",
            "http://[::ffff:10.0.0.1]",
            "http://localhost.example",
            "http://notlocalhost",
            "http://localhost..",
            "http://127.0.0.1.example",
        ] {
            // Some are no host name at all.
            assert!(!ServerAddress::parse(host).is_ok_and(|address| address.is_loopback()), "{host}");
        }
    }

    #[test]
    fn path_of_host_is_base_of_every_request() {
        for (host, asked) in [
            ("http://a", "http://a/ping"),
            ("http://a/", "http://a/ping"),
            ("http://a//", "http://a/ping"),
            ("HTTP://A:80", "http://a/ping"),
            ("http://[::1]:1", "http://[::1]:1/ping"),
            ("https://a/influxdb", "https://a/influxdb/ping"),
            ("https://a:8181/influxdb/", "https://a:8181/influxdb/ping"),
            (" http://a/influxdb//\n", "http://a/influxdb/ping"),
            ("http://a/one/two", "http://a/one/two/ping"),
            ("http://a/one//two/", "http://a/one//two/ping"),
            ("http://a/é b", "http://a/%C3%A9%20b/ping"),
            ("http://a/%C3%A9%20b%2Fc/", "http://a/%C3%A9%20b%2Fc/ping"),
            ("http://a/one/../two/./", "http://a/two/ping"),
            ("http://a/one/%2e%2e/two", "http://a/two/ping"),
            ("unix:/run/influxdb/socket", "http://localhost/ping"),
            ("unix:/run/influxdb?#/", "http://localhost/ping"),
        ] {
            let address = ServerAddress::parse(host).unwrap_or_else(|error| panic!("{host}: {error}"));
            assert_eq!(address.url_of("/ping").as_str(), asked, "{host}");
        }
    }

    #[test]
    fn url_with_more_than_a_base_is_refused() {
        for (url, part) in [
            ("http://a?db=x", "?db=x"),
            ("http://a/influxdb?db=x#top", "?db=x#top"),
            ("http://a/?", "?"),
            ("https://a/#", "#"),
            ("http://a/influxdb#top", "#top"),
            ("http://a/apiv3_x?y#z", "[token]"),
            ("http://a/apiv3%5Fx#y", "[token]"),
        ] {
            match ServerAddress::parse(url) {
                Err(AddressError::NotABase { part: found }) => assert_eq!(found, part),
                result => {
                    panic!("{url}: {}", result.err().map(|error| error.to_string()).unwrap_or_default())
                }
            }
        }
        for url in ["\"http://a\"", "'http://a'", "\"unix:/a\""] {
            assert!(matches!(ServerAddress::parse(url), Err(AddressError::Quoted { .. })), "{url}");
        }
        for url in ["http://me@a", "http://me:secret@a/", "http://:secret@a", "http://me:secret@a/influxdb"] {
            assert!(matches!(ServerAddress::parse(url), Err(AddressError::Userinfo)), "{url}");
        }
    }
}

//! The address of a server: a URL, or the path of a unix socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

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
    /// The URL holds a credential, which would be sent beside the token or instead of it.
    #[error(
        "the URL of a server has no user name or password; give the token with --token or INFLUXDB3_AUTH_TOKEN"
    )]
    Userinfo,
    /// The URL holds a path, a query or a fragment, which no request would have.
    #[error(
        "the URL of a server ends behind its port, and {part:?} would be lost; give the address of the server itself, \
         such as {DEFAULT_HOST}"
    )]
    NotTheRoot { part: String },
}

impl ServerAddress {
    /// Parses a URL, or `unix:` and the path of a socket.
    pub(super) fn parse(host: &str) -> Result<Self, AddressError> {
        let host = host.trim();
        let not_a_url = || AddressError::NotAUrl { host: host.to_owned() };
        let socket = host.strip_prefix(SOCKET_PREFIX).map(str::to_owned);
        if socket.as_ref().is_some_and(String::is_empty) {
            return Err(not_a_url());
        }
        let url = Url::parse(if socket.is_some() { SOCKET_URL } else { host }).map_err(|_| not_a_url())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::Userinfo);
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(not_a_url());
        }
        // InfluxDB's client drops it, and sends the token to the root of that host.
        let part = url.as_str().strip_prefix(&url.origin().ascii_serialization()).unwrap_or_default();
        if socket.is_none() && part != "/" {
            return Err(AddressError::NotTheRoot { part: part.to_owned() });
        }
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

    /// Returns the URL of the root of this server.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the URL of a path of this server.
    pub(super) fn url_of(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url.set_query(None);
        url
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
    fn url_beyond_the_root_is_refused() {
        for url in ["http://a", "http://a/", "https://a:8181/", "http://[::1]:1", "http://a:80/", "HTTP://A"]
        {
            assert!(ServerAddress::parse(url).is_ok(), "{url}");
        }
        for (url, part) in [
            ("http://a/influxdb", "/influxdb"),
            ("http://a:8181/influxdb/", "/influxdb/"),
            ("http://a//", "//"),
            ("http://a?db=x", "/?db=x"),
            ("http://a/?", "/?"),
            ("https://a/#", "/#"),
            ("http://a/#top", "/#top"),
        ] {
            match ServerAddress::parse(url) {
                Err(AddressError::NotTheRoot { part: found }) => assert_eq!(found, part),
                result => {
                    panic!("{url}: {}", result.err().map(|error| error.to_string()).unwrap_or_default())
                }
            }
        }
        for url in ["http://me@a", "http://me:secret@a/", "http://:secret@a"] {
            assert!(matches!(ServerAddress::parse(url), Err(AddressError::Userinfo)), "{url}");
        }
    }
}

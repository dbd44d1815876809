//! The address of a server: a URL, or the path of a unix socket.

use std::net::IpAddr;

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
}

impl ServerAddress {
    /// Parses a URL, or `unix:` and the path of a socket.
    pub(super) fn parse(host: &str) -> Result<Self, AddressError> {
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
        let name = if socket.is_some() { host.to_owned() } else { url.to_string() };
        Ok(Self { url, socket, name })
    }

    /// Returns the address as errors show it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the unix socket, if it is one.
    pub(super) fn socket(&self) -> Option<&str> {
        self.socket.as_deref()
    }

    /// Returns the URL of a path of this server. A path in the address is ignored
    /// (docs/compatibility.md 4).
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
        self.url.host_str().is_some_and(|name| {
            name == "localhost"
                || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        })
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

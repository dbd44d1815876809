//! `--admin-token-bootstrap`: which requests may create the operator token without a token.

use std::str::FromStr;

use hyper::Request;

use crate::http::request_origin::{
    Rejection, effective_host, is_loopback, is_own_host, reject_browser_origin, reject_forwarded, split_port,
};
use crate::server::peer::Peer;

/// Which requests may create the operator token while there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Bootstrap {
    /// Requests of clients on this machine.
    #[default]
    Loopback,
    /// The first request that reaches the main listener.
    Any,
    /// None. A client with a named admin token can still create the operator token
    /// (docs/compatibility.md 2.5).
    Off,
}

impl Bootstrap {
    /// Checks a request that creates the operator token.
    pub(crate) fn check<B>(self, request: &Request<B>, peer: &Peer) -> Result<(), Rejection> {
        match self {
            Self::Off => return Err(Rejection::BootstrapOff),
            // The server does not know all its names on other machines and behind proxies, so
            // `Host` is not checked. A browser adds the origin to every POST, even to that of its
            // own page.
            Self::Any => {}
            Self::Loopback => {
                if !is_loopback(peer) {
                    return Err(Rejection::NotLoopback);
                }
                reject_forwarded(request)?;
                let (name, _) = split_port(effective_host(request)?);
                // With any port: the request may come through a tunnel.
                let own = match peer {
                    Peer::Tcp { local, tls, .. } => is_own_host(name, *local, tls.as_ref()),
                    Peer::Unix { .. } => name.eq_ignore_ascii_case("localhost"),
                };
                if !own {
                    return Err(Rejection::HostMismatch);
                }
            }
        }
        reject_browser_origin(request.headers())
    }

    /// Returns every rejection that [`check`](Self::check) can return.
    pub(crate) fn rejections(self) -> &'static [Rejection] {
        match self {
            Self::Loopback => &[
                Rejection::NotLoopback,
                Rejection::Forwarded,
                Rejection::AbsoluteForm,
                Rejection::MissingHost,
                Rejection::MultipleHosts,
                Rejection::HostMismatch,
                Rejection::BrowserOrigin,
            ],
            Self::Any => &[Rejection::BrowserOrigin],
            Self::Off => &[Rejection::BootstrapOff],
        }
    }
}

impl FromStr for Bootstrap {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "loopback" => Ok(Self::Loopback),
            "any" => Ok(Self::Any),
            "off" => Ok(Self::Off),
            _ => Err("the value is loopback, any or off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Version;

    use super::*;
    use crate::http::request_origin::tests::{ADDED_HEADERS, here, request, tcp};

    #[test]
    fn headers_of_browsers_and_proxies_are_rejected() {
        for (name, value, expected) in ADDED_HEADERS {
            let request = request(&[("host", "localhost:8182"), (name, value)]);
            assert_eq!(Bootstrap::Loopback.check(&request, &here()), expected, "{name}: {value}");
            let from_a_page = if expected == Err(Rejection::BrowserOrigin) { expected } else { Ok(()) };
            assert_eq!(Bootstrap::Any.check(&request, &here()), from_a_page, "{name}: {value}");
        }
        let mut old = request(&[("host", "localhost:8182")]);
        *old.version_mut() = Version::HTTP_10;
        assert_eq!(Bootstrap::Loopback.check(&old, &here()), Err(Rejection::Forwarded));
        assert_eq!(Bootstrap::Any.check(&old, &here()), Ok(()));
    }

    #[test]
    fn remote_clients_need_bootstrap_any() {
        use Bootstrap::{Any, Loopback, Off};
        let from = |remote: &str, host: &str, bootstrap: Bootstrap| {
            bootstrap.check(&request(&[("host", host)]), &tcp(remote, "192.0.2.1:8181"))
        };
        for (remote, host, bootstrap, expected) in [
            ("127.0.0.1:1", "localhost:8181", Loopback, Ok(())),
            ("127.9.9.9:1", "localhost", Loopback, Ok(())),
            ("[::1]:1", "[::1]:9999", Loopback, Ok(())),
            ("[::ffff:127.0.0.1]:1", "192.0.2.1:8181", Loopback, Ok(())),
            ("127.0.0.1:1", "db.example:8181", Loopback, Err(Rejection::HostMismatch)),
            ("192.0.2.1:1", "localhost:8181", Loopback, Err(Rejection::NotLoopback)),
            ("198.51.100.7:1", "192.0.2.1:8181", Loopback, Err(Rejection::NotLoopback)),
            ("[::ffff:198.51.100.7]:1", "192.0.2.1:8181", Loopback, Err(Rejection::NotLoopback)),
            ("198.51.100.7:1", "db.example:8181", Any, Ok(())),
            ("127.0.0.1:1", "localhost:8181", Off, Err(Rejection::BootstrapOff)),
        ] {
            let found = from(remote, host, bootstrap);
            assert_eq!(found, expected, "{remote} {host} {bootstrap:?}");
            if let Err(rejection) = found {
                assert!(bootstrap.rejections().contains(&rejection), "{rejection:?} is not documented");
            }
        }
    }

    #[test]
    fn bootstrap_parses() {
        for (word, bootstrap) in
            [("loopback", Bootstrap::Loopback), ("any", Bootstrap::Any), ("off", Bootstrap::Off)]
        {
            assert_eq!(word.parse(), Ok(bootstrap));
        }
        for word in ["", "Loopback", "none", "any,off"] {
            assert!(word.parse::<Bootstrap>().is_err(), "{word:?}");
        }
    }
}

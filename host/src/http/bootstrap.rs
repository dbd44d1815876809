//! Who may create the operator token, while there is none.

use std::str::FromStr;

use hyper::Request;

use crate::http::request_origin::{
    Rejection, effective_host, is_loopback, is_own_host, reject_browser_origin, reject_forwarded, split_port,
};
use crate::server::peer::Peer;

/// Who may create the operator token, while there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Bootstrap {
    /// Whoever is on this machine.
    #[default]
    Loopback,
    /// Whoever reaches the main listener first.
    Any,
    /// Nobody. Whoever has a token can create others, the operator's among them (COMPAT 2.5).
    Off,
}

impl Bootstrap {
    /// Whether a request may create the operator token, if there is none.
    pub(crate) fn check<B>(self, request: &Request<B>, peer: &Peer) -> Result<(), Rejection> {
        match self {
            Self::Off => return Err(Rejection::BootstrapOff),
            // From afar, and through proxies, a server has names that it does not know. A browser says of every POST which
            // page it is from, also where the page has the server's name.
            Self::Any => {}
            Self::Loopback => {
                if !is_loopback(peer) {
                    return Err(Rejection::NotLoopback);
                }
                reject_forwarded(request)?;
                let (name, _) = split_port(effective_host(request)?);
                // With any port: it may be that of a tunnel.
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

    /// All that [`check`](Self::check) can say.
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

    fn from_str(who: &str) -> Result<Self, Self::Err> {
        match who {
            "loopback" => Ok(Self::Loopback),
            "any" => Ok(Self::Any),
            "off" => Ok(Self::Off),
            _ => Err("it is loopback, any or off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Version;

    use super::*;
    use crate::http::request_origin::tests::{ADDED_HEADERS, here, request, tcp};

    #[test]
    fn what_a_browser_or_a_proxy_adds_is_refused() {
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
    fn the_operator_token_is_created_on_this_machine_unless_told_otherwise() {
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
    fn who_may_create_it_is_said_in_one_word() {
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

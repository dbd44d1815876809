//! The peer of a connection, and the sockets that accept connections.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::server::tls::CertificateNames;

/// The peer of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A TCP client. `local` is the address of the server on this connection, `tls` the names of
    /// the certificate that the server presented on it.
    Tcp { remote: SocketAddr, local: SocketAddr, tls: Option<CertificateNames> },
    /// A local process, with the user id that the kernel reports.
    Unix { uid: u32 },
}

/// The origin of connections, as far as limits distinguish it: an IPv4 address, a /64 of IPv6,
/// which one client has at its disposal, or a local user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ClientGroup {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of IPv6 addresses.
    V6([u16; 4]),
    /// A user of this machine.
    Uid(u32),
}

impl Peer {
    /// Returns the group that the client belongs to.
    pub(crate) fn group(&self) -> ClientGroup {
        match self {
            Self::Tcp { remote, .. } => match remote.ip().to_canonical() {
                IpAddr::V4(ip) => ClientGroup::V4(ip),
                IpAddr::V6(ip) => {
                    let [a, b, c, d, ..] = ip.segments();
                    ClientGroup::V6([a, b, c, d])
                }
            },
            Self::Unix { uid } => ClientGroup::Uid(*uid),
        }
    }

    /// Notes the names of the certificate that the server presents on the connection.
    pub(super) fn set_certificate_names(&mut self, names: &CertificateNames) {
        if let Self::Tcp { tls, .. } = self {
            *tls = Some(CertificateNames::clone(names));
        }
    }

    /// Returns the address of the client without its port, for the log.
    pub(crate) fn client_ip(&self) -> String {
        match self {
            Self::Tcp { remote, .. } => remote.ip().to_canonical().to_string(),
            Self::Unix { .. } => self.to_string(),
        }
    }
}

impl fmt::Display for ClientGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(ip) => ip.fmt(f),
            Self::V6(prefix) => {
                let mut segments = [0; 8];
                for (segment, of_prefix) in segments.iter_mut().zip(prefix) {
                    *segment = *of_prefix;
                }
                write!(f, "{}/64", Ipv6Addr::from(segments))
            }
            Self::Uid(uid) => write!(f, "uid {uid}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { remote, .. } => remote.fmt(f),
            Self::Unix { uid } => write!(f, "uid {uid}"),
        }
    }
}

/// A socket that accepts connections.
pub(crate) trait Accept: Send + Sync {
    /// The byte stream of a connection.
    type Stream: AsFd + AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection. Its peer has no certificate names yet.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_client_are_one_group() {
        let group = |remote: &str| {
            let (remote, local) = (remote.parse().unwrap(), "127.0.0.1:1".parse().unwrap());
            Peer::Tcp { remote, local, tls: None }.group().to_string()
        };
        for (remote, expected) in [
            ("203.0.113.7:1", "203.0.113.7"),
            ("203.0.113.7:2", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:1", "203.0.113.7"),
            ("[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2:ffff::]:1", "2001:db8:1:2::/64"),
            ("[2001:db8:1:3::]:1", "2001:db8:1:3::/64"),
        ] {
            assert_eq!(group(remote), expected, "{remote}");
        }
        assert_eq!(Peer::Unix { uid: 7 }.group().to_string(), "uid 7");
    }
}

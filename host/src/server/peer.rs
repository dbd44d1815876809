//! The other end of a connection, and where connections come from.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::server::tls::CertificateNames;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// It has an address; `local` is this end's. Where it speaks TLS, this end has shown that it has these names, too.
    Tcp { remote: SocketAddr, local: SocketAddr, tls: Option<CertificateNames> },
    /// It is a process of this machine, of this user.
    Unix { uid: u32 },
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { remote, .. } => remote.fmt(f),
            Self::Unix { uid } => write!(f, "uid {uid}"),
        }
    }
}

/// Where connections come from.
pub(crate) trait Accept: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

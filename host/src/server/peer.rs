//! The peer of a connection, and the sockets that accept connections.

use std::fmt;
use std::io;
use std::net::SocketAddr;

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
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

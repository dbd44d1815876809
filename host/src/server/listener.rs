//! A TCP socket that is bound, or was passed on by another program, and then served.

use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::server::connections::ConnectionLimits;
use crate::server::peer::{Accept, Peer};
use crate::server::serve::{Service, TlsHandshake, serve};
use crate::server::tls::ServerTls;

/// A socket that is bound and not served yet: clients that connect already wait.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<ServerTls>,
}

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}{hint}")]
pub(crate) struct BindError {
    address: String,
    source: io::Error,
    hint: &'static str,
}

/// The socket that was passed cannot be served.
#[derive(Debug, Error)]
pub(crate) enum FromStdError {
    /// It is that of one client already.
    #[error("the socket that was passed is a connection; for a systemd socket unit, set Accept=no")]
    IsConnection,
    /// It cannot be used.
    #[error("cannot listen on the socket that was passed")]
    Socket(#[from] io::Error),
}

impl Listener {
    /// Binds `HOST:PORT`; of several addresses that a host name has, the first.
    pub(crate) async fn bind(address: &str) -> Result<Self, BindError> {
        let bind = async || {
            let first = lookup_host(address).await?.next();
            let socket = TcpListener::bind(first.ok_or(io::ErrorKind::AddrNotAvailable)?).await?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address, tls: None })
        };
        bind().await.map_err(|source: io::Error| BindError {
            address: address.to_owned(),
            hint: match source.kind() {
                io::ErrorKind::AddrInUse => " (another server is running there, or choose another port)",
                io::ErrorKind::PermissionDenied => " (ports below 1024 are for root, or choose another port)",
                io::ErrorKind::InvalidInput => " (an address is HOST:PORT, such as 127.0.0.1:8181)",
                _ => "",
            },
            source,
        })
    }

    /// Takes over a socket that another program, such as systemd, has bound and listens on.
    pub(crate) fn from_std(socket: net::TcpListener) -> Result<Self, FromStdError> {
        if net::TcpStream::from(OwnedFd::from(socket.try_clone()?)).peer_addr().is_ok() {
            return Err(FromStdError::IsConnection);
        }
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, tls: None })
    }

    /// Speaks TLS on every connection, if there is something to speak it with.
    pub(crate) fn with_tls(self, tls: Option<ServerTls>) -> Self {
        Self { tls, ..self }
    }

    /// How a client on this machine is told where to ask: the value of `--host`, and what else it needs. Where it listens on
    /// all addresses, that of this machine alone is one of them.
    pub(crate) fn local_host(&self) -> String {
        let ip = match self.address.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, self.address.port());
        match &self.tls {
            None => format!("http://{address}"),
            Some(tls) if tls.certifies(&ip.to_string()) => format!("https://{address}"),
            Some(tls) if ip.is_loopback() && tls.certifies("localhost") => {
                format!("https://localhost:{}", address.port())
            }
            // A name that it has need not lead to this machine, and what answers here is this server.
            Some(_) => format!("https://{address} --tls-no-verify"),
        }
    }

    /// Whether somebody on this machine can ask from a loopback address.
    pub(crate) fn accepts_loopback(&self) -> bool {
        let ip = self.address.ip().to_canonical();
        ip.is_loopback() || ip.is_unspecified()
    }

    /// How a client says where it listens.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Where it listens, with the port that the system chose if it was asked for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then closes the socket at once and lets requests under way end within [`SHUTDOWN_TIMEOUT`].
    pub(crate) async fn serve(
        self,
        service: Arc<impl Service>,
        limits: ConnectionLimits,
        stop: CancellationToken,
    ) {
        let tls = self.tls.as_ref().map(|tls| Arc::new(TlsHandshake::new(&tls.config)));
        serve(self, tls, service, limits, stop).await;
    }
}

impl Accept for Listener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, remote) = self.socket.accept().await?;
        // Answers are small and complete: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        // Where it is bound to all addresses, this is the one that was asked.
        let local = stream.local_addr()?;
        let tls = self.tls.as_ref().map(|tls| Arc::clone(&tls.names));
        Ok((stream, Peer::Tcp { remote, local, tls }))
    }
}

//! A TCP listener: bound to an address, or passed by a service manager.

use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio_util::sync::CancellationToken;

use crate::certificate::{Validity, seconds_now};
use crate::private_file::ownership::quoted;
use crate::server::connections::ConnectionLimits;
use crate::server::peer::{Accept, Peer};
use crate::server::serve::{Service, serve};
use crate::server::tls::ServerTls;

/// How many connections may wait to be accepted; the system may allow fewer. A client beyond these
/// repeats its attempt after a second.
const BACKLOG: u32 = 4096;

/// A bound TCP socket. Clients that connect wait until [`serve`](Listener::serve) accepts them.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<ServerTls>,
}

/// The server cannot listen on an address.
#[derive(Debug, Error)]
#[error("cannot listen on {address}{hint}")]
pub(crate) struct BindError {
    address: String,
    source: io::Error,
    hint: &'static str,
}

/// The server cannot listen on a socket that another program passed to it.
#[derive(Debug, Error)]
pub(crate) enum FromStdError {
    /// The socket is the connection of one client.
    #[error("the socket that was passed is a connection; for a systemd socket unit, set Accept=no")]
    IsConnection,
    /// The system refuses an operation on the socket.
    #[error("cannot listen on the socket that was passed")]
    Socket(#[from] io::Error),
}

impl Listener {
    /// Binds `HOST:PORT`, to the first address of a host name.
    pub(crate) async fn bind(address: &str) -> Result<Self, BindError> {
        let bind = async || {
            let first = lookup_host(address).await?.next();
            let first = first.ok_or(io::ErrorKind::AddrNotAvailable)?;
            let socket = if first.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Connections of the last process may still be closing at this address.
            socket.set_reuseaddr(true)?;
            socket.bind(first)?;
            let socket = socket.listen(BACKLOG)?;
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

    /// Uses a listening socket that another program, such as systemd, has bound.
    pub(crate) fn from_std(socket: net::TcpListener) -> Result<Self, FromStdError> {
        if net::TcpStream::from(OwnedFd::from(socket.try_clone()?)).peer_addr().is_ok() {
            return Err(FromStdError::IsConnection);
        }
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, tls: None })
    }

    /// Serves TLS on every connection, if `tls` is given.
    pub(crate) fn with_tls(self, tls: Option<ServerTls>) -> Self {
        Self { tls, ..self }
    }

    /// Returns the value of `--host` for a client on this machine, with the option of TLS that it
    /// needs, if any. A listener on all addresses is reached by the loopback address.
    pub(crate) fn local_host(&self) -> String {
        let ip = match self.address.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, self.address.port());
        let Some(tls) = &self.tls else {
            return format!("http://{address}");
        };
        let presented = tls.presented();
        let host = if presented.certifies(&ip.to_string()) {
            address.to_string()
        } else if let Some(name) = presented.name_for(ip) {
            format!("{name}:{}", address.port())
        } else {
            return format!("https://{address} --tls-no-verify");
        };
        if presented.facts.validity_at(seconds_now()) != Validity::Now || !presented.facts.is_for_servers {
            return format!("https://{address} --tls-no-verify");
        }
        if presented.is_issued_by(rustls_native_certs::load_native_certs().certs) {
            return format!("https://{host}");
        }
        // Relative to the working directory of the server, the path is of no use elsewhere.
        let file = tls.certificate_file();
        let file = path::absolute(file).unwrap_or_else(|_| file.to_owned());
        format!("https://{host} --tls-ca {}", quoted(&file))
    }

    /// Returns whether a client on this machine can connect from a loopback address.
    pub(crate) fn accepts_loopback(&self) -> bool {
        let ip = self.address.ip().to_canonical();
        ip.is_loopback() || ip.is_unspecified()
    }

    /// Returns the URL of the bound address.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns the bound address, with the port that the system chose for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled, then closes the socket at once. Requests in flight may
    /// finish within the shutdown timeout.
    pub(crate) async fn serve(
        self,
        service: Arc<impl Service>,
        limits: ConnectionLimits,
        stop: CancellationToken,
    ) {
        let tls = self.tls.clone();
        serve(self, tls, service, limits, stop).await;
    }
}

impl Accept for Listener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, remote) = self.socket.accept().await?;
        // Responses are complete and small, so delaying them gains nothing.
        let _ = stream.set_nodelay(true);
        // On a listener of all addresses, this is the address that the client connected to.
        let local = stream.local_addr()?;
        Ok((stream, Peer::Tcp { remote, local, tls: None }))
    }
}

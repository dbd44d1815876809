//! Accepts connections, plain or with TLS, and serves a router on them, within limits, until told to stop.
//!
//! Knows nothing of what the router does.

use std::fmt;
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::unix_socket::UnixListener;

/// How long a client may take to send the head of a request, and before that for the handshake of TLS; also how long a
/// connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes the head of a request may have. Tokens take 92, proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long requests under way may take to end once the listener has been told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before trying again to accept a connection, where there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection must have been quiet before it can lose its place to another one. An answer that was given
/// has long been sent by then.
const QUIET: Duration = Duration::from_secs(1);

/// How often a handshake that failed is more than a detail. Whoever reaches the port can make one fail, as often as he
/// likes, and must not fill the log; whoever wonders why his client gets no answer must find out without changing the filter.
const COMPLAINT_INTERVAL: Duration = Duration::from_mins(1);

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    /// It has an address; `local` is this end's, on which it speaks TLS or not.
    Tcp { remote: SocketAddr, local: SocketAddr, tls: bool },
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
pub(super) trait Accept: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

/// A socket that is bound and not served yet: clients that connect already wait.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
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
pub(crate) enum AdoptError {
    /// It is that of one client already.
    #[error("the socket that was passed is a connection; for a systemd socket unit, set Accept=no")]
    Connected,
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
    pub(crate) fn adopt(socket: net::TcpListener) -> Result<Self, AdoptError> {
        if net::TcpStream::from(OwnedFd::from(socket.try_clone()?)).peer_addr().is_ok() {
            return Err(AdoptError::Connected);
        }
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, tls: None })
    }

    /// Speaks TLS on every connection, if there is a configuration for it.
    pub(crate) fn with_tls(self, config: Option<Arc<ServerConfig>>) -> Self {
        Self { tls: config, ..self }
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

    /// Serves until `stop`, then closes the socket at once and lets requests under way end within [`GRACE`]. No more
    /// than `max_connections` are open at a time; for another one, the one that has been quiet for the longest goes.
    pub(crate) async fn serve(self, router: Router, max_connections: usize, stop: CancellationToken) {
        let tls = self.tls.clone().map(|config| Arc::new(Handshake::new(config)));
        serve(self, tls, router, max_connections, stop).await;
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
        Ok((stream, Peer::Tcp { remote, local, tls: self.tls.is_some() }))
    }
}

impl UnixListener {
    /// As [`Listener::serve`].
    pub(crate) async fn serve(self, router: Router, max_connections: usize, stop: CancellationToken) {
        serve(self, None, router, max_connections, stop).await;
    }
}

async fn serve(
    socket: impl Accept,
    tls: Option<Arc<Handshake>>,
    router: Router,
    max_connections: usize,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(max_connections));
    let connections = TaskTracker::new();
    let mut guests = Guests::default();
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let place = loop {
                        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                            break place;
                        }
                        guests.show_out_the_quietest();
                        time::sleep(ACCEPT_PAUSE).await;
                    };
                    let guest = guests.welcome();
                    let connection =
                        serve_client(stream, peer, tls.clone(), guest, router.clone(), stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
    drop(socket);
    connections.close();
    // Each connection ends by itself within the grace.
    connections.wait().await;
}

/// The open connections of a listener.
#[derive(Default)]
struct Guests(Vec<Weak<Guest>>);

/// An open connection.
struct Guest {
    attention: Mutex<Attention>,
    leave: CancellationToken,
}

/// What a connection is having done for it.
struct Attention {
    requests: usize,
    /// When that number last changed.
    since: Instant,
}

/// A request under way. Ends when it is dropped, as it is also where the client takes the request back.
struct Attended(Arc<Guest>);

impl Attended {
    fn begin(guest: &Arc<Guest>) -> Self {
        guest.attend(|requests| requests + 1);
        Self(Arc::clone(guest))
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.attend(|requests| requests.saturating_sub(1));
    }
}

impl Guests {
    fn welcome(&mut self) -> Arc<Guest> {
        let attention = Mutex::new(Attention { requests: 0, since: Instant::now() });
        let guest = Arc::new(Guest { attention, leave: CancellationToken::new() });
        self.0.retain(|guest| guest.strong_count() > 0);
        self.0.push(Arc::downgrade(&guest));
        guest
    }

    fn show_out_the_quietest(&self) {
        let quiet = |guest: Arc<Guest>| Some((guest.quiet()?, guest));
        let quietest =
            self.0.iter().filter_map(Weak::upgrade).filter_map(quiet).min_by_key(|(since, _)| *since);
        if let Some((since, guest)) = quietest
            && since.elapsed() >= QUIET
        {
            guest.leave.cancel();
        }
    }
}

impl Guest {
    /// Since when no request is under way; `None` while one is.
    fn quiet(&self) -> Option<Instant> {
        let attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        (attention.requests == 0).then_some(attention.since)
    }

    fn attend(&self, change: impl FnOnce(usize) -> usize) {
        let mut attention = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        *attention = Attention { requests: change(attention.requests), since: Instant::now() };
    }
}

/// What turns a connection into one with TLS.
struct Handshake {
    acceptor: TlsAcceptor,
    complained: Mutex<Option<Instant>>,
}

impl Handshake {
    fn new(config: Arc<ServerConfig>) -> Self {
        Self { acceptor: TlsAcceptor::from(config), complained: Mutex::default() }
    }

    async fn complete<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: Peer,
    ) -> Option<TlsStream<S>> {
        let handshake = time::timeout(HEAD_TIMEOUT, self.acceptor.accept(stream)).await;
        match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Some(stream),
            // The two ends do not understand each other. Any other error is a client that went away or kept silent.
            Err(error) if error.kind() == io::ErrorKind::InvalidData && self.may_complain() => {
                tracing::warn!(%peer, "TLS handshake failed: {error}");
                None
            }
            Err(error) => {
                tracing::debug!(%peer, "TLS handshake failed: {error}");
                None
            }
        }
    }

    fn may_complain(&self) -> bool {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let may = complained.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL);
        if may {
            *complained = Some(Instant::now());
        }
        may
    }
}

async fn serve_client(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    tls: Option<Arc<Handshake>>,
    guest: Arc<Guest>,
    router: Router,
    stop: CancellationToken,
) {
    let Some(tls) = tls else {
        return serve_connection(stream, peer, guest, router, stop).await;
    };
    let stream = tokio::select! {
        stream = tls.complete(stream, peer) => stream,
        () = guest.leave.cancelled() => None,
        // Nothing has been asked for yet.
        () = stop.cancelled() => None,
    };
    if let Some(stream) = stream {
        serve_connection(stream, peer, guest, router, stop).await;
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    guest: Arc<Guest>,
    router: Router,
    stop: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    let attending = Arc::clone(&guest);
    let attend = middleware::from_fn(move |request: Request, next: Next| {
        let attended = Attended::begin(&attending);
        async move {
            let answer = next.run(request).await;
            drop(attended);
            answer
        }
    });
    let service = TowerToHyperService::new(router.layer(Extension(peer)).layer(attend));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = guest.leave.cancelled() => Ok(()),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Past the grace, the connection is dropped as it stands.
            time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, "connection ended: {error}");
    }
}

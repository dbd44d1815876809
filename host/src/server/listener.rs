//! Accepts connections, plain or with TLS, and serves a router on them, within limits, until told to stop.
//!
//! Whoever reaches a port can open connections and say nothing on them, or too much. So there are a number of places, and a
//! connection on which nothing is under way loses its own to the next that comes, or when it has been quiet for too long.
//! What is under way is never cut off. Knows nothing of what the router does.

use std::fmt;
use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::IntoResponse as _;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
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

use crate::server::log_throttle::Complaints;
use crate::server::tls::{OwnNames, ServerTls};
use crate::server::unix_socket::UnixListener;

/// The most bytes the head of a request may have. Tokens take 92, proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long requests under way may take to end once the listener has been told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before trying again to accept a connection, where there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How a listener treats its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The most connections that are open at a time. For another one, the one goes that has been quiet for the longest.
    pub(crate) places: usize,
    /// How long a connection must have been quiet before it can lose its place to another one. An answer that was given
    /// must have long been sent by then.
    pub(crate) grace: Duration,
    /// How long a connection may be quiet at all: before its first request, the handshake of TLS included, while a head
    /// arrives, and between requests.
    pub(crate) patience: Duration,
    /// What a connection is for.
    pub(crate) service: Service,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Any number of requests. It is not quiet while one of them is under way.
    Lasting,
    /// One request. It is quiet until the router says otherwise, with [`Visit::begin`].
    Brief,
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// It has an address; `local` is this end's. Where it speaks TLS, this end has shown that it has these names, too.
    Tcp { remote: SocketAddr, local: SocketAddr, tls: Option<OwnNames> },
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
    pub(crate) fn hears_loopback(&self) -> bool {
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

    /// Serves until `stop`, then closes the socket at once and lets requests under way end within [`GRACE`].
    pub(crate) async fn serve(self, router: Router, terms: Terms, stop: CancellationToken) {
        let tls = self.tls.as_ref().map(|tls| Arc::new(Handshake::new(&tls.config)));
        serve(self, tls, router, terms, stop).await;
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

impl UnixListener {
    /// As [`Listener::serve`].
    pub(crate) async fn serve(self, router: Router, terms: Terms, stop: CancellationToken) {
        serve(self, None, router, terms, stop).await;
    }
}

async fn serve(
    socket: impl Accept,
    tls: Option<Arc<Handshake>>,
    router: Router,
    terms: Terms,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(terms.places));
    let connections = TaskTracker::new();
    let mut guests = Guests::default();
    let complaints = Complaints::default();
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let place = loop {
                        if places.available_permits() == 0 {
                            guests.show_out_the_quietest(terms.grace);
                        }
                        let place = time::timeout(ACCEPT_PAUSE, Arc::clone(&places).acquire_owned());
                        if let Ok(Ok(place)) = place.await {
                            break place;
                        }
                    };
                    let guest = guests.welcome();
                    let connection =
                        serve_client(stream, peer, tls.clone(), guest, router.clone(), terms, stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    if complaints.may_warn() {
                        tracing::warn!("cannot accept a connection: {error}");
                    } else {
                        tracing::debug!("cannot accept a connection: {error}");
                    }
                    // Of files, to which connections count, there are no more for this process, or for any.
                    if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(&error) {
                        guests.show_out_the_quietest(terms.grace);
                    }
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
    answered: CancellationToken,
}

/// What a connection is having done for it.
struct Attention {
    requests: usize,
    /// When that number last changed.
    since: Instant,
    /// Whether it is being closed, so that nothing may begin any more.
    leaving: bool,
}

/// The connection that a request has come on, as its handler finds it among the request's extensions.
#[derive(Clone)]
pub(crate) struct Visit(Arc<Guest>);

/// Something that is under way on a connection, which is not closed meanwhile. Ends when it is dropped, as it is also where
/// the client takes its request back.
pub(crate) struct Attended(Arc<Guest>);

impl Visit {
    /// Says that something is under way from now on. `None` where the connection is being closed: nobody would get to
    /// read the answer.
    pub(crate) fn begin(&self) -> Option<Attended> {
        let mut attention = self.0.attention();
        if attention.leaving {
            return None;
        }
        attention.requests += 1;
        attention.since = Instant::now();
        drop(attention);
        Some(Attended(Arc::clone(&self.0)))
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut attention = self.0.attention();
        attention.requests = attention.requests.saturating_sub(1);
        attention.since = Instant::now();
    }
}

impl Guests {
    fn welcome(&mut self) -> Arc<Guest> {
        let attention = Attention { requests: 0, since: Instant::now(), leaving: false };
        let guest = Arc::new(Guest {
            attention: Mutex::new(attention),
            leave: CancellationToken::new(),
            answered: CancellationToken::new(),
        });
        self.0.retain(|guest| guest.strong_count() > 0);
        self.0.push(Arc::downgrade(&guest));
        guest
    }

    /// Closes the connection that has been quiet for the longest, if it has been for this long.
    fn show_out_the_quietest(&self, grace: Duration) {
        let quiet = |guest: Arc<Guest>| {
            let since = guest.attention().quiet_since();
            Some((since?, guest))
        };
        let quietest =
            self.0.iter().filter_map(Weak::upgrade).filter_map(quiet).min_by_key(|(since, _)| *since);
        if let Some((_, guest)) = quietest {
            guest.show_out(grace);
        }
    }
}

impl Guest {
    fn attention(&self) -> MutexGuard<'_, Attention> {
        self.attention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection if it has been quiet for this long, and tells whether it is closed. In one step with the
    /// look at it, so that nothing has begun meanwhile.
    fn show_out(&self, quiet_for: Duration) -> bool {
        let mut attention = self.attention();
        attention.leaving |= attention.quiet_since().is_some_and(|since| since.elapsed() >= quiet_for);
        if attention.leaving {
            self.leave.cancel();
        }
        attention.leaving
    }

    /// Waits until the connection is shown out, for another one or because it has been quiet for longer than `patience`.
    async fn shown_out(&self, patience: Duration) {
        let overstays = async {
            while !self.show_out(patience) {
                let since = self.attention().quiet_since();
                time::sleep(since.map_or(patience, |since| patience.saturating_sub(since.elapsed()))).await;
            }
        };
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = overstays => {}
        }
    }
}

impl Attention {
    /// Since when nothing is under way; `None` while something is.
    fn quiet_since(&self) -> Option<Instant> {
        (self.requests == 0).then_some(self.since)
    }
}

/// What turns a connection into one with TLS.
struct Handshake {
    acceptor: TlsAcceptor,
    complaints: Complaints,
}

impl Handshake {
    fn new(config: &Arc<ServerConfig>) -> Self {
        Self { acceptor: TlsAcceptor::from(Arc::clone(config)), complaints: Complaints::default() }
    }

    async fn complete<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: &Peer,
    ) -> Option<TlsStream<S>> {
        match self.acceptor.accept(stream).await {
            Ok(stream) => Some(stream),
            // The two ends do not understand each other. Any other error is a client that went away.
            Err(error) if error.kind() == io::ErrorKind::InvalidData && self.complaints.may_warn() => {
                tracing::warn!(%peer, "TLS handshake failed: {error}");
                None
            }
            Err(error) => {
                tracing::debug!(%peer, "TLS handshake failed: {error}");
                None
            }
        }
    }
}

async fn serve_client(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    tls: Option<Arc<Handshake>>,
    guest: Arc<Guest>,
    router: Router,
    terms: Terms,
    stop: CancellationToken,
) {
    let served = async {
        let peer = peer.clone();
        let Some(tls) = tls else {
            return serve_connection(stream, peer, &guest, router, terms.service, stop).await;
        };
        let stream = tokio::select! {
            stream = tls.complete(stream, &peer) => stream,
            // Nothing has been asked for yet.
            () = stop.cancelled() => None,
        };
        if let Some(stream) = stream {
            serve_connection(stream, peer, &guest, router, terms.service, stop).await;
        }
    };
    tokio::select! {
        () = served => {}
        // Nothing is under way on it, nor will anything be.
        () = guest.shown_out(terms.patience) => tracing::debug!(%peer, "connection closed: it was quiet"),
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    guest: &Arc<Guest>,
    router: Router,
    service: Service,
    stop: CancellationToken,
) {
    let brief = service == Service::Brief;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Without timers: a connection is shown out by what all of them have in common.
    builder.http1().keep_alive(!brief).max_buf_size(MAX_HEAD_BYTES);
    builder.http2().max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    if brief {
        builder.http2().max_concurrent_streams(1);
    }
    let visit = Visit(Arc::clone(guest));
    let visited = visit.clone();
    let attend = middleware::from_fn(move |request: Request, next: Next| {
        let visit = visited.clone();
        async move {
            if brief {
                let answer = next.run(request).await;
                visit.0.answered.cancel();
                return answer;
            }
            let Some(attended) = visit.begin() else {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            };
            let answer = next.run(request).await;
            drop(attended);
            answer
        }
    });
    let router = router.layer(Extension(peer.clone())).layer(Extension(visit)).layer(attend);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = guest.answered.cancelled() => None,
        () = stop.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // What is under way is still answered.
        connection.as_mut().graceful_shutdown();
        let overdue = async {
            stop.cancelled().await;
            time::sleep(GRACE).await;
        };
        tokio::select! {
            ended = connection => ended,
            // It is dropped as it stands.
            () = overdue => Ok(()),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, "connection ended: {error}");
    }
}

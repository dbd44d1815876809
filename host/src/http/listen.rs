//! Accepts connections and serves a router on them, within limits, until told to stop.
//!
//! Knows nothing of what the router does.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a client may take to send the head of a request; also how long a connection may idle.
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

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// A socket that is bound and not served yet: clients that connect already wait.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// The address cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address}{hint}")]
pub(crate) struct BindError {
    address: String,
    source: io::Error,
    hint: &'static str,
}

impl Listener {
    /// Binds `HOST:PORT`; of several addresses that a host name has, the first.
    pub(crate) async fn bind(address: &str) -> Result<Self, BindError> {
        let bind = async || {
            let first = lookup_host(address).await?.next();
            let socket = TcpListener::bind(first.ok_or(io::ErrorKind::AddrNotAvailable)?).await?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
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

    /// Where it listens, with the port that the system chose if it was asked for port 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then closes the socket at once and lets requests under way end within [`GRACE`]. No more
    /// than `max_connections` are open at a time; for another one, the one that has been quiet for the longest goes.
    pub(crate) async fn serve(self, router: Router, max_connections: usize, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(max_connections));
        let connections = TaskTracker::new();
        let mut guests = Guests::default();
        let accepting = async {
            loop {
                match self.socket.accept().await {
                    Ok((stream, peer)) => {
                        let place = loop {
                            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                                break place;
                            }
                            guests.show_out_the_quietest();
                            time::sleep(ACCEPT_PAUSE).await;
                        };
                        let guest = guests.welcome();
                        let connection = serve_connection(stream, peer, guest, router.clone(), stop.clone());
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
        drop(self.socket);
        connections.close();
        // Each connection ends by itself within the grace.
        connections.wait().await;
    }
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

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    guest: Arc<Guest>,
    router: Router,
    stop: CancellationToken,
) {
    // Answers are small and complete: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
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
    let service = TowerToHyperService::new(router.layer(Extension(Peer(peer))).layer(attend));
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

//! Accepts connections, plain or with TLS, and serves a router on them, within limits, until told to stop.
//!
//! Whoever reaches a port can open connections and say nothing on them, or too much. So there are a number of places, and a
//! connection on which nothing is under way loses its own to the next that comes, or when it has been quiet for too long.
//! What is under way is never cut off. Knows nothing of what the router does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::connections::{Guest, Guests, Service, Terms, Visit};
use crate::server::log_throttle::Complaints;
use crate::server::peer::{Accept, Peer};

/// The most bytes the head of a request may have. Tokens take 92, proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long requests under way may take to end once the listener has been told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before trying again to accept a connection, where there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

pub(super) async fn serve(
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

/// What turns a connection into one with TLS.
pub(super) struct Handshake {
    acceptor: TlsAcceptor,
    complaints: Complaints,
}

impl Handshake {
    pub(super) fn new(config: &Arc<ServerConfig>) -> Self {
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

//! Accepts connections, plain or with TLS, and serves a router on them, within limits, until told to stop.
//!
//! Whoever reaches a port can open connections and say nothing on them, or too much. So there are a number of places, and a
//! connection on which nothing is under way loses its own to the next that comes, or when it has been quiet for too long.
//! What is under way is never cut off. Knows nothing of what the router does.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustix::io::Errno;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::connections::{Guest, Guests, Mode, Terms, Visit};
use crate::server::log_throttle::Complaints;
use crate::server::peer::{Accept, Peer};

/// The most bytes the head of a request may have. Tokens take 92, proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long requests under way may take to end once the listener has been told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before trying again to accept a connection, where there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A request. Its body is received as it is read.
pub(crate) type Request = hyper::Request<Incoming>;

/// A response. Its body is complete.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// Answers the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers a request that has come on this connection. Dropped where the client goes away before that.
    fn call(self: Arc<Self>, request: Request, visit: Visit) -> impl Future<Output = Response> + Send;
}

pub(super) async fn serve<S: Service>(
    socket: impl Accept,
    tls: Option<Arc<Handshake>>,
    service: Arc<S>,
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
                    let guest = guests.welcome(peer);
                    let connection =
                        serve_client(stream, tls.clone(), guest, Arc::clone(&service), terms, stop.clone());
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

async fn serve_client<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<Arc<Handshake>>,
    guest: Arc<Guest>,
    service: Arc<S>,
    terms: Terms,
    stop: CancellationToken,
) {
    let served = async {
        let Some(tls) = tls else {
            return serve_connection(stream, &guest, service, terms.mode, stop).await;
        };
        let stream = tokio::select! {
            stream = tls.complete(stream, &guest.peer) => stream,
            // Nothing has been asked for yet.
            () = stop.cancelled() => None,
        };
        if let Some(stream) = stream {
            serve_connection(stream, &guest, service, terms.mode, stop).await;
        }
    };
    tokio::select! {
        () = served => {}
        // Nothing is under way on it, nor will anything be.
        () = guest.shown_out(terms.patience) => {
            tracing::debug!(peer = %guest.peer, "connection closed: it was quiet");
        },
    }
}

async fn serve_connection<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    guest: &Arc<Guest>,
    service: Arc<S>,
    mode: Mode,
    stop: CancellationToken,
) {
    let brief = mode == Mode::Brief;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Without timers: a connection is shown out by what all of them have in common.
    builder.http1().keep_alive(!brief).max_buf_size(MAX_HEAD_BYTES);
    builder.http2().max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    if brief {
        builder.http2().max_concurrent_streams(1);
    }
    let answer = service_fn(|request| {
        let (service, visit) = (Arc::clone(&service), Visit(Arc::clone(guest)));
        async move { Ok::<_, Infallible>(answer(service, request, visit, mode).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
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
        tracing::debug!(peer = %guest.peer, "connection ended: {error}");
    }
}

/// Answers a request, and keeps the connection open meanwhile.
async fn answer<S: Service>(service: Arc<S>, request: Request, visit: Visit, mode: Mode) -> Response {
    let method = request.method().clone();
    let response = if mode == Mode::Brief {
        let response = service.call(request, visit.clone()).await;
        visit.0.answered.cancel();
        response
    } else if let Some(attended) = visit.begin() {
        let response = service.call(request, visit).await;
        drop(attended);
        response
    } else {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    };
    framed(&method, response)
}

/// States the length of the body, and leaves the body out where the method has none in its response: over HTTP/2, hyper does
/// neither.
fn framed(method: &Method, mut response: Response) -> Response {
    // What follows a success of CONNECT is no body (RFC 9110 section 9.3.6).
    if *method == Method::CONNECT && response.status().is_success() {
        *response.body_mut() = Full::default();
        return response;
    }
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if *method == Method::HEAD {
        *response.body_mut() = Full::default();
    }
    response
}

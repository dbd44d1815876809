//! Accepts connections, plain or with TLS, and serves HTTP on them until the listener stops.
//!
//! Any client that reaches the port can open connections and leave them idle. So connections are
//! limited, and idle ones are closed after a timeout, or earlier for a new one if the listener is
//! full. Requests in flight are never cut off. Knows nothing of the API that the service
//! implements.

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

use crate::server::connections::{
    Connection, ConnectionHandle, ConnectionLimits, ConnectionMode, Connections,
};
use crate::server::log_throttle::LogThrottle;
use crate::server::peer::{Accept, Peer};

/// How many bytes the head of a request may have. A token has 92, and proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long requests in flight may take after the listener stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt to accept a connection while there are too many.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(20);

/// A request. Its body arrives while the service reads it.
pub(crate) type Request = hyper::Request<Incoming>;

/// A response with a complete body.
pub(crate) type Response = hyper::Response<Full<Bytes>>;

/// Responds to the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Responds to a request of this connection. The future is dropped if the client disconnects
    /// first.
    fn call(
        self: Arc<Self>,
        request: Request,
        connection: ConnectionHandle,
    ) -> impl Future<Output = Response> + Send;
}

/// Serves a socket until `stop` is cancelled. Then closes the socket at once, and lets requests in
/// flight finish within [`SHUTDOWN_TIMEOUT`].
pub(super) async fn serve<S: Service>(
    socket: impl Accept,
    tls: Option<Arc<TlsHandshake>>,
    service: Arc<S>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let tasks = TaskTracker::new();
    let mut connections = Connections::default();
    let throttle = LogThrottle::default();
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let permit = loop {
                        if permits.available_permits() == 0 {
                            connections.evict_longest_idle(limits.evictable_after);
                        }
                        let permit = time::timeout(ACCEPT_RETRY_DELAY, Arc::clone(&permits).acquire_owned());
                        if let Ok(Ok(permit)) = permit.await {
                            break permit;
                        }
                    };
                    let connection = connections.register(peer);
                    let served = serve_client(
                        stream,
                        tls.clone(),
                        connection,
                        Arc::clone(&service),
                        limits,
                        stop.clone(),
                    );
                    tasks.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    if throttle.allow() {
                        tracing::warn!("cannot accept a connection: {error}");
                    } else {
                        tracing::debug!("cannot accept a connection: {error}");
                    }
                    // Connections are open files: the process or the system has reached its limit.
                    if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(&error) {
                        connections.evict_longest_idle(limits.evictable_after);
                    }
                    time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = accepting => {}
    }
    drop(socket);
    tasks.close();
    // Each connection ends itself within the shutdown timeout.
    tasks.wait().await;
}

/// The server side of TLS handshakes.
pub(super) struct TlsHandshake {
    acceptor: TlsAcceptor,
    throttle: LogThrottle,
}

impl TlsHandshake {
    pub(super) fn new(config: &Arc<ServerConfig>) -> Self {
        Self { acceptor: TlsAcceptor::from(Arc::clone(config)), throttle: LogThrottle::default() }
    }

    async fn complete<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: &Peer,
    ) -> Option<TlsStream<S>> {
        match self.acceptor.accept(stream).await {
            Ok(stream) => Some(stream),
            // Client and server do not agree. With any other error the client has disconnected.
            Err(error) if error.kind() == io::ErrorKind::InvalidData && self.throttle.allow() => {
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
    tls: Option<Arc<TlsHandshake>>,
    connection: Arc<Connection>,
    service: Arc<S>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let served = async {
        let Some(tls) = tls else {
            return serve_connection(stream, &connection, service, limits.mode, stop).await;
        };
        let stream = tokio::select! {
            stream = tls.complete(stream, &connection.peer) => stream,
            // The client has sent no request yet.
            () = stop.cancelled() => None,
        };
        if let Some(stream) = stream {
            serve_connection(stream, &connection, service, limits.mode, stop).await;
        }
    };
    tokio::select! {
        () = served => {}
        // The connection has no request in flight, and accepts none.
        () = connection.evicted(limits.idle_timeout) => {
            tracing::debug!(peer = %connection.peer, "connection closed: it was idle");
        },
    }
}

async fn serve_connection<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &Arc<Connection>,
    service: Arc<S>,
    mode: ConnectionMode,
    stop: CancellationToken,
) {
    let single_request = mode == ConnectionMode::SingleRequest;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Without timers of hyper: `evicted` closes idle connections, in every phase.
    builder.http1().keep_alive(!single_request).max_buf_size(MAX_HEAD_BYTES);
    builder.http2().max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    if single_request {
        builder.http2().max_concurrent_streams(1);
    }
    let handler = service_fn(|request| {
        let (service, connection) = (Arc::clone(&service), ConnectionHandle(Arc::clone(connection)));
        async move { Ok::<_, Infallible>(handle(service, request, connection, mode).await) }
    });
    let http = builder.serve_connection(TokioIo::new(stream), handler);
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => Some(ended),
        () = connection.response_ready.cancelled() => None,
        () = stop.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // Requests in flight still receive their responses.
        http.as_mut().graceful_shutdown();
        let overdue = async {
            stop.cancelled().await;
            time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            ended = http => ended,
            // The connection is dropped with its requests.
            () = overdue => Ok(()),
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %connection.peer, "connection ended: {error}");
    }
}

/// Responds to a request, which keeps the connection from being evicted meanwhile.
async fn handle<S: Service>(
    service: Arc<S>,
    request: Request,
    connection: ConnectionHandle,
    mode: ConnectionMode,
) -> Response {
    let method = request.method().clone();
    let response = if mode == ConnectionMode::SingleRequest {
        let response = service.call(request, connection.clone()).await;
        connection.0.response_ready.cancel();
        response
    } else if let Some(in_flight) = connection.begin_request() {
        let response = service.call(request, connection).await;
        drop(in_flight);
        response
    } else {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    };
    frame_response(&method, response)
}

/// Adds `Content-Length`, and removes the body from a response to HEAD. Over HTTP/2, hyper does
/// neither.
fn frame_response(method: &Method, mut response: Response) -> Response {
    // A success of CONNECT has no body (RFC 9110, section 9.3.6).
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

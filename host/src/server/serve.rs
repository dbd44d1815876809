//! Accepts connections, plain or with TLS, and serves HTTP on them until the listener stops.
//!
//! Any client that reaches the port can open connections and leave them idle. So connections are
//! limited, and idle ones are closed after a timeout, or earlier for another one if the listener is
//! full. Requests in flight are cut off only a while after the listener stops. Knows nothing of the
//! API that the service implements.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustix::io::Errno;
use rustls::{AlertDescription, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::body::ResponseBody;
use crate::server::client_stream::{ClientStream, linger};
use crate::server::connections::{ConnectionHandle, ConnectionLimits, ConnectionMode, Connections, Place};
use crate::server::host_header;
use crate::server::log_throttle::{LogLimiter, LogThrottle};
use crate::server::peer::{Accept, Peer};
use crate::server::tls::ServerTls;

/// How many bytes the head of a request may have. A token has 92, and proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long to wait before the next attempt to accept a connection while there are too many.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(20);

/// A request. Its body arrives while the service reads it.
pub(crate) type Request = hyper::Request<Incoming>;

/// A response.
pub(crate) type Response = hyper::Response<ResponseBody>;

/// Responds to the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Responds to a request of this connection. The future is dropped if the client disconnects
    /// first.
    fn call(
        self: Arc<Self>,
        request: Request,
        connection: ConnectionHandle,
    ) -> impl Future<Output = Response> + Send;

    /// Responds to a request that violates HTTP, for this reason. The response closes the
    /// connection.
    fn reject(&self, reason: &'static str, connection: &ConnectionHandle) -> Response;
}

/// Serves a socket until `stop` is cancelled. Then closes the socket at once, and lets requests in
/// flight finish within the shutdown timeout.
pub(super) async fn serve<S: Service>(
    socket: impl Accept,
    tls: Option<ServerTls>,
    service: Arc<S>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let tls_limiter = Arc::new(LogLimiter::new("TLS handshake failed"));
    let connections = Connections::new(limits);
    let tasks = TaskTracker::new();
    let throttle = LogThrottle::default();
    let accepting = async {
        loop {
            match socket.accept().await {
                Ok((stream, mut peer)) => {
                    // A reload does not change what a connection presents.
                    let presented = tls.as_ref().map(ServerTls::presented);
                    let tls = presented.map(|presented| {
                        peer.set_certificate_names(&presented.names);
                        TlsHandshake::new(&presented.config, Arc::clone(&tls_limiter))
                    });
                    let place = connections.admit(peer).await;
                    let context = ConnectionContext {
                        service: Arc::clone(&service),
                        connections: Arc::clone(&connections),
                        limits,
                        stop: stop.clone(),
                    };
                    tasks.spawn(serve_client(stream, tls, place, context));
                }
                Err(error) => {
                    if throttle.allow() {
                        tracing::warn!("cannot accept a connection: {error}");
                    } else {
                        tracing::debug!("cannot accept a connection: {error}");
                    }
                    // Connections are open files: the process or the system has reached its limit.
                    if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(&error) {
                        connections.evict_for_file();
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

/// The server side of a TLS handshake.
struct TlsHandshake {
    acceptor: TlsAcceptor,
    limiter: Arc<LogLimiter>,
}

impl TlsHandshake {
    fn new(config: &Arc<ServerConfig>, limiter: Arc<LogLimiter>) -> Self {
        Self { acceptor: TlsAcceptor::from(Arc::clone(config)), limiter }
    }

    async fn complete<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        peer: &Peer,
    ) -> Option<TlsStream<S>> {
        match self.acceptor.accept(stream).await {
            Ok(stream) => Some(stream),
            // Client and server do not agree. With any other error the client has disconnected.
            Err(error) if error.kind() == io::ErrorKind::InvalidData && self.limiter.allow(peer) => {
                tracing::warn!(%peer, "TLS handshake failed: {error}{}", handshake_hint(&error));
                None
            }
            Err(error) => {
                tracing::debug!(%peer, "TLS handshake failed: {error}");
                None
            }
        }
    }
}

/// Returns what may be the cause of a failed handshake, for the log.
fn handshake_hint(error: &io::Error) -> &'static str {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    match error {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "; if the client speaks plain HTTP, its URL must begin with https://"
        }
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired,
        )) => "; the client refuses the certificate of this server",
        _ => "",
    }
}

/// What all connections of a listener share.
struct ConnectionContext<S> {
    service: Arc<S>,
    connections: Arc<Connections>,
    limits: ConnectionLimits,
    stop: CancellationToken,
}

impl<S> Clone for ConnectionContext<S> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
            connections: Arc::clone(&self.connections),
            limits: self.limits,
            stop: self.stop.clone(),
        }
    }
}

async fn serve_client<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<TlsHandshake>,
    place: Place,
    context: ConnectionContext<S>,
) {
    let connection = ConnectionHandle(Arc::clone(&place.connection));
    let (limits, stop) = (context.limits, context.stop.clone());
    let (stream, returned) = ClientStream::new(stream, Arc::clone(&place.connection));
    let served = async {
        let expects_bytes = match tls {
            None => serve_connection(stream, &connection, context).await,
            Some(tls) => {
                let stream = tokio::select! {
                    stream = tls.complete(stream, connection.peer()) => stream,
                    // The client has sent no request yet.
                    () = stop.cancelled() => None,
                };
                let Some(stream) = stream else { return };
                serve_connection(stream, &connection, context).await
            }
        };
        if let Some(stream) = returned.take() {
            tokio::select! {
                () = linger(stream, expects_bytes) => {}
                () = shutdown_overdue(&stop, limits) => {}
            }
        }
    };
    tokio::select! {
        () = served => {}
        // The connection has no request in flight, and accepts none.
        () = connection.0.evicted(limits.idle_timeout) => {
            tracing::debug!(peer = %connection.peer(), "connection closed: it was idle");
        },
    }
    drop(place);
}

/// Waits until requests in flight have had their time after the listener has stopped.
async fn shutdown_overdue(stop: &CancellationToken, limits: ConnectionLimits) {
    stop.cancelled().await;
    time::sleep(limits.shutdown_timeout).await;
}

/// Serves HTTP. Returns whether the client may still be sending, because the server has not read
/// all of a request.
async fn serve_connection<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &ConnectionHandle,
    context: ConnectionContext<S>,
) -> bool {
    let (limits, stop) = (context.limits, context.stop.clone());
    let single_request = limits.mode == ConnectionMode::SingleRequest;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Without timers of hyper: `evicted` closes idle connections, in every phase.
    builder.http1().keep_alive(!single_request).max_buf_size(MAX_HEAD_BYTES);
    builder.http2().max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    if single_request {
        builder.http2().max_concurrent_streams(1);
    }
    let has_body = Arc::new(AtomicBool::new(false));
    let handler = service_fn(|request: Request| {
        has_body.store(!request.body().is_end_stream(), Ordering::Relaxed);
        let (connection, context) = (connection.clone(), context.clone());
        async move { Ok::<_, Infallible>(handle(request, connection, context).await) }
    });
    let http = builder.serve_connection_with_upgrades(TokioIo::new(stream), handler);
    tokio::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => Some(ended),
        () = connection.0.response_ready.cancelled() => None,
        () = stop.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // Requests in flight still receive their responses.
        http.as_mut().graceful_shutdown();
        tokio::select! {
            ended = http => ended,
            // The connection is dropped with its requests.
            () = shutdown_overdue(&stop, limits) => Ok(()),
        }
    };
    if let Some(tunnel) = connection.take_tunnel() {
        tokio::select! {
            () = tunnel => {}
            () = shutdown_overdue(&stop, limits) => {}
        }
    }
    if let Err(error) = &ended {
        tracing::debug!(peer = %connection.peer(), "connection ended: {error}");
    }
    ended.is_err() || has_body.load(Ordering::Relaxed)
}

/// Responds to a request, which keeps the connection from being evicted meanwhile.
async fn handle<S: Service>(
    request: Request,
    connection: ConnectionHandle,
    context: ConnectionContext<S>,
) -> Response {
    let ConnectionContext { service, connections, limits, .. } = context;
    let method = request.method().clone();
    let single_request = limits.mode == ConnectionMode::SingleRequest;
    let response = if let Err(reason) = host_header::check(&request) {
        service.reject(reason, &connection)
    } else if single_request {
        service.call(request, connection.clone()).await
    } else if let Some(in_flight) = connection.begin_request() {
        connections.promote(&connection.0).await;
        let mut response = service.call(request, connection.clone()).await;
        response.body_mut().hold(in_flight);
        response
    } else {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    };
    if single_request {
        connection.0.response_ready.cancel();
    }
    frame_response(&method, response)
}

/// Adds `Content-Length`, and removes the body from a response to HEAD. Over HTTP/2, hyper does
/// neither. The length of a stream is that of its source: a response to HEAD may state the length
/// of a body that it does not have.
fn frame_response(method: &Method, mut response: Response) -> Response {
    // A success of CONNECT has no body (RFC 9110, section 9.3.6).
    if *method == Method::CONNECT && response.status().is_success() {
        *response.body_mut() = ResponseBody::default();
        return response;
    }
    if !response.body().is_stream()
        && let Some(length) = response.body().size_hint().exact()
    {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if *method == Method::HEAD {
        *response.body_mut() = ResponseBody::default();
    }
    response
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::{Body, Bytes, Frame};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::server::body::StreamError;
    use crate::server::listener::Listener;

    /// A body of ten bytes, with a pause before each.
    struct Slow(u32, Pin<Box<time::Sleep>>);

    const PAUSE: Duration = Duration::from_millis(100);

    impl Body for Slow {
        type Data = Bytes;
        type Error = StreamError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
            if self.0 == 10 {
                return Poll::Ready(None);
            }
            std::task::ready!(self.1.as_mut().poll(cx));
            self.0 += 1;
            self.1 = Box::pin(time::sleep(PAUSE));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    struct Streaming;

    impl Service for Streaming {
        async fn call(self: Arc<Self>, _: Request, _: ConnectionHandle) -> Response {
            Response::new(ResponseBody::stream(Box::pin(Slow(0, Box::pin(time::sleep(PAUSE))))))
        }

        fn reject(&self, _: &'static str, _: &ConnectionHandle) -> Response {
            Response::default()
        }
    }

    #[tokio::test]
    async fn connection_with_a_stream_is_not_idle() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let limits = ConnectionLimits {
            max_used: 1,
            max_unused: 1,
            evictable_after: Duration::from_millis(1),
            idle_timeout: PAUSE / 2,
            shutdown_timeout: Duration::ZERO,
            mode: ConnectionMode::KeepAlive,
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(Arc::new(Streaming), limits, stop.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut received = String::new();
        // Until the server closes the connection, which is idle after the response.
        stream.read_to_string(&mut received).await.unwrap();
        assert_eq!(received.matches("1\r\nx\r\n").count(), 10, "{received}");
        assert!(received.ends_with("0\r\n\r\n"), "{received}");
        stop.cancel();
        serving.await.unwrap();
    }
}

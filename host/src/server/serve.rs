//! Accepts connections, plain or with TLS, and serves HTTP on them until the listener stops.
//!
//! Any client that reaches the port can open connections and leave them idle. So connections are
//! limited, and idle ones are closed after a timeout, or earlier for another one if the listener is
//! full. Requests in flight are cut off only a while after the listener stops. Knows nothing of the
//! API that the service implements.

use std::convert::Infallible;
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{io, mem};

use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::rt::Executor;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
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
use crate::server::message::{Answer, Request, Responding, Response};
use crate::server::peer::{Accept, Peer};
use crate::server::signals::Signal;
use crate::server::tls::ServerTls;

/// How many bytes the head of a request may have. A token has 92, and proxies add some headers.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long to wait before the next attempt to accept a connection while there are too many.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(20);

/// Responds to the requests of a listener.
pub(crate) trait Service: Send + Sync + 'static {
    /// Responds to a request of this connection. Waits for nothing itself.
    fn call(self: &Arc<Self>, request: Request, connection: &ConnectionHandle) -> Answer;

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
    let context = Arc::new(ListenerContext { service, connections: Arc::clone(&connections), limits });
    let mut sweeping = pin!(connections.sweep());
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
                    tasks.spawn(serve_client(stream, tls, place, Arc::clone(&context)));
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
        () = &mut sweeping => {}
    }
    connections.stop();
    drop(socket);
    tasks.close();
    // Each connection ends itself within the shutdown timeout, or when it is idle.
    tokio::select! {
        () = tasks.wait() => {}
        () = sweeping => {}
    }
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
struct ListenerContext<S> {
    service: Arc<S>,
    connections: Arc<Connections>,
    limits: ConnectionLimits,
}

async fn serve_client<S: Service>(
    stream: impl AsFd + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<TlsHandshake>,
    place: Place,
    context: Arc<ListenerContext<S>>,
) {
    let connection = ConnectionHandle(Arc::clone(&place.connection));
    let (signals, limits) = (&place.connection.signals, context.limits);
    let (stream, returned) = ClientStream::new(stream, Arc::clone(&place.connection));
    let served = async {
        let expects_bytes = match tls {
            None => serve_connection(stream, &connection, context).await,
            Some(tls) => {
                let stream = {
                    let handshake = pin!(tls.complete(stream, connection.peer()));
                    signals.interrupt(Signal::STOP, handshake).await
                };
                // Where the listener stops, the client has sent no request yet.
                let Some(Some(stream)) = stream else { return };
                serve_connection(stream, &connection, context).await
            }
        };
        if let Some(stream) = returned.take() {
            finish_in_time(&connection, limits, pin!(linger(stream, expects_bytes))).await;
        }
    };
    // Before the place is free: the connection and its file.
    if signals.interrupt(Signal::CLOSE, pin!(served)).await.is_none() {
        // The connection has no request in flight, and accepts none.
        tracing::debug!(peer = %connection.peer(), "connection closed: it was idle");
    }
    drop(place);
}

/// Runs a part of a connection until the listener has stopped and the shutdown timeout is over,
/// which counts once for all parts. Returns `None` then.
async fn finish_in_time<F: Future>(
    connection: &ConnectionHandle,
    limits: ConnectionLimits,
    mut part: Pin<&mut F>,
) -> Option<F::Output> {
    match connection.0.signals.interrupt(Signal::STOP, part.as_mut()).await {
        Some(output) => Some(output),
        None => time::timeout_at(connection.0.deadline(limits), part).await.ok(),
    }
}

/// Serves HTTP. Returns whether the client may still be sending, because the server has not read
/// all of a request.
async fn serve_connection<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    connection: &ConnectionHandle,
    context: Arc<ListenerContext<S>>,
) -> bool {
    let limits = context.limits;
    let single_request = limits.mode == ConnectionMode::SingleRequest;
    let streams = Streams::default();
    let mut builder = auto::Builder::new(streams.clone());
    // Without timers of hyper: the listener closes idle connections, in every phase.
    builder.http1().keep_alive(!single_request).max_buf_size(MAX_HEAD_BYTES);
    builder.http2().max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    if single_request {
        builder.http2().max_concurrent_streams(1);
    }
    let service = ConnectionService { connection: connection.clone(), context };
    let mut http = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let signals = Signal::STOP | Signal::RESPONSE_READY;
    let ended = {
        let serving = pin!(streams.run_beside(http.as_mut()));
        connection.0.signals.interrupt(signals, serving).await
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // Requests in flight still receive their responses.
        http.as_mut().graceful_shutdown();
        // Or the connection is dropped with its requests.
        finish_in_time(connection, limits, pin!(streams.run_beside(http))).await.unwrap_or(Ok(()))
    };
    if let Some(tunnel) = connection.take_tunnel() {
        finish_in_time(connection, limits, pin!(tunnel)).await;
    }
    if let Err(error) = &ended {
        tracing::debug!(peer = %connection.peer(), "connection ended: {error}");
    }
    ended.is_err() || connection.0.has_body()
}

/// The new streams of a connection over HTTP/2, each of which makes one response.
///
/// Most responses are ready at once. The task of the connection makes all of them that have been
/// asked for, and then sends them together. With a task for each stream, every response would wake
/// that of the connection, and be written alone.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<Stream>>>);

/// A stream, until its response is sent.
type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
    }
}

impl Streams {
    /// Runs a connection with its streams.
    async fn run_beside<F: Future>(&self, mut http: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                let streams = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
                if streams.is_empty() {
                    return Poll::Pending;
                }
                for mut stream in streams {
                    // One that is not ready is polled again by a task of its own, with the waker of
                    // that.
                    if stream.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                        tokio::spawn(stream);
                    }
                }
            }
        })
        .await
    }
}

/// The service of one connection: marks its requests as in flight, and frames the responses.
struct ConnectionService<S> {
    connection: ConnectionHandle,
    context: Arc<ListenerContext<S>>,
}

impl<S: Service> hyper::service::Service<Request> for ConnectionService<S> {
    type Response = Response;
    type Error = Infallible;
    type Future = Responding;

    fn call(&self, request: Request) -> Responding {
        self.connection.0.note_body(!request.body().is_end_stream());
        self.respond(request).into()
    }
}

impl<S: Service> ConnectionService<S> {
    /// Responds to a request, which keeps the connection from being evicted meanwhile.
    fn respond(&self, request: Request) -> Answer {
        let ListenerContext { service, limits, .. } = &*self.context;
        let method = request.method().clone();
        if limits.mode == ConnectionMode::SingleRequest {
            return self.respond_once(method, request);
        }
        if let Err(reason) = host_header::check(&request) {
            let response = service.reject(reason, &self.connection);
            return Answer::now(frame_response(&method, response), request);
        }
        let Some((in_flight, is_used)) = self.connection.begin() else {
            let mut response = Response::default();
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Answer::now(frame_response(&method, response), request);
        };
        if !is_used {
            let (context, connection) = (Arc::clone(&self.context), self.connection.clone());
            return Answer::later(async move {
                context.connections.promote(&connection.0).await;
                let mut response = context.service.call(request, &connection).response().await;
                response.body_mut().hold(in_flight);
                frame_response(&method, response)
            });
        }
        match service.call(request, &self.connection) {
            Answer::Now { mut response, unread } => {
                response.body_mut().hold(in_flight);
                Answer::Now { response: frame_response(&method, response), unread }
            }
            Answer::Later(later) => Answer::later(async move {
                let mut response = later.await;
                response.body_mut().hold(in_flight);
                frame_response(&method, response)
            }),
        }
    }

    /// Responds to the request of a connection that serves one.
    fn respond_once(&self, method: Method, request: Request) -> Answer {
        let (context, connection) = (Arc::clone(&self.context), self.connection.clone());
        Answer::later(async move {
            let response = match host_header::check(&request) {
                Ok(()) => context.service.call(request, &connection).response().await,
                Err(reason) => context.service.reject(reason, &connection),
            };
            connection.0.signals.raise(Signal::RESPONSE_READY);
            frame_response(&method, response)
        })
    }
}

/// Adds `Content-Length`, and removes the body from a response to HEAD. Over HTTP/2, hyper does
/// neither. The length of a stream is that of its source: a response to HEAD may state the length
/// of a body that it does not have.
fn frame_response(method: &Method, mut response: Response) -> Response {
    // A success of CONNECT has no body (RFC 9110, section 9.3.6).
    if *method == Method::CONNECT && response.status().is_success() {
        *response.body_mut() = ResponseBody::default();
        response.headers_mut().remove(CONTENT_LENGTH);
        return response;
    }
    if !response.body().is_stream()
        && !response.headers().contains_key(CONTENT_LENGTH)
        && let Some(length) = response.body().size_hint().exact()
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
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
        fn call(self: &Arc<Self>, _: Request, _: &ConnectionHandle) -> Answer {
            let slow = Slow(0, Box::pin(time::sleep(PAUSE)));
            Answer::later(async { Response::new(ResponseBody::stream(Box::pin(slow))) })
        }

        fn reject(&self, _: &'static str, _: &ConnectionHandle) -> Response {
            Response::default()
        }
    }

    #[tokio::test]
    async fn ready_streams_run_in_the_task_of_their_connection() {
        // A task of its own, as `tokio::task::id` is none of the block of a test.
        tokio::spawn(run_streams()).await.unwrap();
    }

    async fn run_streams() {
        let streams = Streams::default();
        let (ran, mut order) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let mut released = Some(released);
        let note = |name: &'static str| {
            let ran = ran.clone();
            move || ran.send((name, tokio::task::id())).unwrap()
        };
        let mut polls = 0;
        let connection = poll_fn(|_| {
            polls += 1;
            if let Some(released) = released.take() {
                let (ready, waiting) = (note("ready"), note("waiting"));
                streams.execute(async move { ready() });
                streams.execute(async move {
                    let _ = released.await;
                    waiting();
                });
                note("connection")();
            }
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        streams.run_beside(pin!(connection)).await;
        release.send(()).unwrap();
        let (connection, ready) = (order.recv().await.unwrap(), order.recv().await.unwrap());
        assert_eq!((connection.0, ready.0, ready.1), ("connection", "ready", connection.1));
        let waiting = order.recv().await.unwrap();
        assert_eq!(waiting.0, "waiting");
        assert_ne!(waiting.1, connection.1);
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

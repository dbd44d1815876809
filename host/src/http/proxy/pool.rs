//! The connections to an upstream that are open: those of HTTP/1.1 serve one request at a time and
//! wait for the next, those of HTTP/2 serve many.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time;

use crate::http::proxy::body::RequestBody;
use crate::http::proxy::connect::{ConnectError, Connected, Connector, Versions};
use crate::metrics::upstream::Failure;

/// How many bytes the head of a response may have: 64 KiB.
const MAX_HEAD_BYTES: u16 = u16::MAX;

/// How many bytes of a response are read at a time, at most.
const MAX_BUFFER: usize = 256 << 10;

/// How long a connection waits for the next request. Many servers close theirs after five seconds,
/// and a request that meets the close may be lost.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// How many requests a connection of HTTP/2 serves at a time. Servers allow a hundred or more (RFC
/// 9113, section 6.5.2).
const MAX_STREAMS: usize = 100;

/// How many bytes of a stream are on their way, at most.
const STREAM_WINDOW: u32 = 256 << 10;

/// The same for all streams of a connection, so that one whose client does not read stops no other.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;

/// How often a connection of HTTP/2 is asked for a sign of life while requests are in flight, and
/// how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// The open connections.
pub(super) struct Pool {
    connector: Connector,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Shared>>,
    /// Held while a connection of HTTP/2 is made, which others wait for.
    connecting: tokio::sync::Mutex<()>,
    /// Whether the upstream has chosen HTTP/1.1 where it had the choice.
    prefers_http1: AtomicBool,
    permits: Arc<Semaphore>,
    returned: Notify,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

/// A connection of HTTP/2.
#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(Shared, Stream),
}

/// A request on a connection of HTTP/2. Its place is free when this is dropped.
pub(super) struct Stream(Arc<AtomicUsize>);

/// What a response holds until its end.
pub(super) struct Held(#[expect(dead_code, reason = "it is dropped with the response")] Option<Stream>);

/// Why there is no response.
pub(super) struct SendError {
    pub(super) failure: Failure,
    pub(super) cause: String,
    /// The request, if the upstream has received nothing of it.
    pub(super) unsent: Option<Box<Request<RequestBody>>>,
}

impl Stream {
    fn of(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl From<ConnectError> for SendError {
    fn from(error: ConnectError) -> Self {
        Self { failure: error.failure, cause: error.cause, unsent: None }
    }
}

impl Pool {
    /// Keeps at most `max_connections` open.
    pub(super) fn new(connector: Connector, max_connections: usize) -> Arc<Self> {
        Arc::new(Self {
            connector,
            idle: Mutex::default(),
            shared: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            prefers_http1: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS))),
            returned: Notify::new(),
        })
    }

    /// Closes connections that have waited for too long.
    pub(super) fn close_idle(&self) {
        self.idle().retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < MAX_IDLE);
    }

    /// Sends a request, whose version is set to that of the connection by `prepare`, and waits for
    /// the head of the response. A fresh request uses no connection that was idle.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        versions: Versions,
        is_fresh: bool,
        prepare: impl FnOnce(&mut Request<RequestBody>, bool),
    ) -> Result<(Response<Incoming>, Held), SendError> {
        let sender = match self.sender(versions, is_fresh).await {
            Ok(sender) => sender,
            Err(error) => return Err(SendError { unsent: None, ..error.into() }),
        };
        match sender {
            Sender::Http1(mut sender) => {
                prepare(&mut request, false);
                let response = sender.try_send_request(request).await.map_err(send_error)?;
                self.recycle(sender);
                Ok((response, Held(None)))
            }
            Sender::Http2(mut shared, stream) => {
                prepare(&mut request, true);
                let response = shared.sender.try_send_request(request).await.map_err(send_error)?;
                Ok((response, Held(Some(stream))))
            }
        }
    }

    /// Puts a connection back when its response is complete.
    fn recycle(self: &Arc<Self>, mut sender: http1::SendRequest<RequestBody>) {
        if sender.is_ready() {
            return self.put(sender);
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                pool.put(sender);
            }
        });
    }

    fn put(&self, sender: http1::SendRequest<RequestBody>) {
        self.idle().push(Idle { sender, since: Instant::now() });
        self.returned.notify_one();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Vec<Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the newest of the idle connections: older ones time out.
    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle();
        while let Some(Idle { sender, since }) = idle.pop() {
            if sender.is_ready() && since.elapsed() < MAX_IDLE {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    fn take_stream(&self) -> Option<Sender> {
        let mut all = self.shared();
        all.retain(|shared| !shared.sender.is_closed());
        let free = all
            .iter()
            .find(|shared| shared.streams.load(Ordering::Relaxed) < MAX_STREAMS && shared.sender.is_ready());
        free.map(|shared| Sender::Http2(shared.clone(), Stream::of(&shared.streams)))
    }

    fn take(&self, versions: Versions, is_fresh: bool) -> Option<Sender> {
        let stream = if versions == Versions::Http1 || is_fresh { None } else { self.take_stream() };
        stream.or_else(|| if versions == Versions::Http2 || is_fresh { None } else { self.take_idle() })
    }

    async fn sender(self: &Arc<Self>, versions: Versions, is_fresh: bool) -> Result<Sender, ConnectError> {
        if let Some(sender) = self.take(versions, is_fresh) {
            return Ok(sender);
        }
        let may_share = match versions {
            Versions::Http1 => false,
            Versions::Http2 => true,
            Versions::Any => !self.prefers_http1.load(Ordering::Relaxed),
        };
        let _connecting = if may_share { Some(self.connecting.lock().await) } else { None };
        // Another request may have made a connection meanwhile.
        if may_share && let Some(sender) = self.take(versions, is_fresh) {
            return Ok(sender);
        }
        let waiting = time::timeout(self.connector.timeout(), async {
            loop {
                let returned = self.returned.notified();
                tokio::select! {
                    biased;
                    permit = Arc::clone(&self.permits).acquire_owned() => break Err(permit.ok()),
                    () = returned => {
                        if let Some(sender) = self.take(versions, is_fresh) {
                            break Ok(sender);
                        }
                    }
                }
            }
        });
        let permit = match waiting.await {
            Ok(Ok(sender)) => return Ok(sender),
            Ok(Err(permit)) => permit,
            Err(_) => {
                return Err(ConnectError {
                    failure: Failure::Timeout,
                    cause: "all connections that this process may open are in use".to_owned(),
                });
            }
        };
        self.open(versions, permit).await
    }

    async fn open(
        &self,
        versions: Versions,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Sender, ConnectError> {
        let (connected, is_http2) = self.connector.connect(versions).await?;
        if versions == Versions::Any && !is_http2 {
            self.prefers_http1.store(true, Ordering::Relaxed);
        }
        let opening = async {
            match connected {
                Connected::Plain(stream) => self.handshake(stream, is_http2, permit).await,
                Connected::Tls(stream) => self.handshake(stream, is_http2, permit).await,
            }
        };
        let failed = |failure, cause| ConnectError { failure, cause };
        let opened = time::timeout(self.connector.timeout(), opening).await;
        let opened =
            opened.map_err(|_| failed(Failure::Timeout, "no HTTP/2 within the time limit".to_owned()))?;
        opened.map_err(|error| failed(Failure::Protocol, describe(&error)))
    }

    /// Starts HTTP on a connection, which holds the permit as long as it is open.
    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) -> hyper::Result<Sender> {
        let stream = TokioIo::new(stream);
        if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEAD_BYTES.into())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_INTERVAL);
            let (sender, connection) = builder.handshake(stream).await?;
            tokio::spawn(async move {
                let ended = connection.await;
                drop(permit);
                log_end(ended);
            });
            let shared = Shared { sender, streams: Arc::default() };
            let stream = Stream::of(&shared.streams);
            self.shared().push(shared.clone());
            return Ok(Sender::Http2(shared, stream));
        }
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_BUFFER).max_header_size(MAX_HEAD_BYTES.into());
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            let ended = connection.with_upgrades().await;
            drop(permit);
            log_end(ended);
        });
        Ok(Sender::Http1(sender))
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("connection to the upstream ended: {}", describe(&error));
    }
}

fn send_error(mut error: TrySendError<Request<RequestBody>>) -> SendError {
    let unsent = error.take_message().map(Box::new);
    let error = error.into_error();
    SendError { failure: classify(&error), cause: describe(&error), unsent }
}

fn classify(error: &hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() {
        return Failure::Protocol;
    }
    if error.is_timeout() {
        return Failure::Timeout;
    }
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = next {
        if cause.is::<io::Error>() {
            return Failure::Reset;
        }
        next = cause.source();
    }
    if error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || error.is_body_write_aborted()
    {
        Failure::Reset
    } else {
        Failure::Protocol
    }
}

/// Returns an error with its causes.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

//! The two bodies of a forwarded request, as they pass through.
//!
//! No frame is held back: one is read from its source when the other side can accept it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Version};
use thiserror::Error;
use tokio::time::{self, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::http::body::BODY_TIMEOUT;
use crate::http::proxy::exchange::{End, Exchange};
use crate::http::proxy::failure::Refusal;
use crate::http::proxy::headers;
use crate::metrics::upstream::Failure;
use crate::server::body::{StreamError, discard};

/// How long the body of a request waits for the upstream to ask for it (RFC 9110, section 10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a body ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Cut {
    #[error("the token is no longer accepted")]
    Revoked,
    #[error("a side has sent nothing for too long")]
    Timeout,
    #[error("the response is complete already")]
    Complete,
    #[error("the server is stopping")]
    Stopped,
}

impl Cut {
    fn of(exchange: &Exchange) -> Self {
        match exchange.end() {
            Some(End::Revoked) => Self::Revoked,
            Some(End::UpstreamTimeout | End::ClientTimeout) => Self::Timeout,
            Some(End::Complete) => Self::Complete,
            None => Self::Stopped,
        }
    }
}

/// Waits for the end of an exchange beside a body.
#[derive(Default)]
struct Stop(Option<Pin<Box<WaitForCancellationFutureOwned>>>);

impl Stop {
    /// Returns whether the exchange has ended. Otherwise the task is woken when it does.
    fn poll(&mut self, exchange: &Exchange, cx: &mut Context<'_>) -> bool {
        let waiting = self.0.get_or_insert_with(|| Box::pin(exchange.stop().clone().cancelled_owned()));
        waiting.as_mut().poll(cx).is_ready()
    }
}

/// The body of a request, on its way to the upstream.
pub(super) struct RequestBody {
    /// What was read already, to authorize the request.
    prefix: Option<Bytes>,
    rest: Option<Incoming>,
    /// That of the connection to the client.
    version: Version,
    /// Trailers that were read ahead.
    trailers: Option<HeaderMap>,
    /// `None` for a request of this server.
    exchange: Option<Arc<Exchange>>,
    stop: Stop,
    gate: Option<Gate>,
}

/// Holds a body back until the upstream asks for it.
struct Gate {
    opened: Pin<Box<WaitForCancellationFutureOwned>>,
    timeout: Pin<Box<Sleep>>,
}

impl RequestBody {
    /// Returns a body without content.
    pub(super) const fn empty() -> Self {
        Self::from_parts(None, Version::HTTP_11)
    }

    /// Returns the body of a request of which nothing was read.
    pub(super) const fn new(rest: Incoming, version: Version) -> Self {
        Self::from_parts(Some(rest), version)
    }

    const fn from_parts(rest: Option<Incoming>, version: Version) -> Self {
        Self { prefix: None, rest, version, trailers: None, exchange: None, stop: Stop(None), gate: None }
    }

    /// Reads ahead until `read` returns a value, which gets what was read and whether that is all
    /// of the body. What was read is passed on unchanged. Returns `None` if `read` needs more than
    /// `limit` bytes.
    pub(super) async fn read_ahead<T>(
        &mut self,
        limit: usize,
        mut read: impl FnMut(&[u8], bool) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let mut bytes = Vec::from(self.prefix.take().unwrap_or_default());
        let rest = &mut self.rest;
        let trailers = &mut self.trailers;
        let reading = async {
            loop {
                let complete = rest.as_ref().is_none_or(Body::is_end_stream);
                if bytes.len() > limit {
                    return Ok(None);
                }
                if let Some(value) = read(&bytes, complete) {
                    return Ok(Some(value));
                }
                let frame = match rest {
                    Some(rest) if !complete => rest.frame().await,
                    _ => return Ok(None),
                };
                match frame.transpose().map_err(|_| Refusal::BadBody)?.map(Frame::into_data) {
                    Some(Ok(data)) => bytes.extend_from_slice(&data),
                    Some(Err(other)) => {
                        *trailers = other.into_trailers().ok();
                        *rest = None;
                    }
                    None => *rest = None,
                }
            }
        };
        let value = time::timeout(BODY_TIMEOUT, reading).await;
        self.prefix = Some(Bytes::from(bytes)).filter(|bytes| !bytes.is_empty());
        value.unwrap_or(Err(Refusal::RequestTimeout))
    }

    /// Returns what was read ahead.
    pub(super) fn into_read(mut self) -> Bytes {
        self.prefix.take().unwrap_or_default()
    }

    /// Ends the body with its exchange.
    pub(super) fn attach(&mut self, exchange: Arc<Exchange>) {
        self.exchange = Some(exchange);
    }

    /// Reads nothing before `opened` is cancelled. An upstream that does not know of it gets the
    /// body after a second.
    pub(super) fn hold_until(&mut self, opened: &CancellationToken) {
        self.gate = Some(Gate {
            opened: Box::pin(opened.clone().cancelled_owned()),
            timeout: Box::pin(time::sleep(CONTINUE_TIMEOUT)),
        });
    }

    /// Polls the frames, apart from the end of the exchange.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(gate) = &mut self.gate {
            // A final response instead of the interim one: the upstream does not want the body.
            if self.exchange.as_ref().is_some_and(|exchange| exchange.answered.load(Ordering::Relaxed)) {
                return Poll::Pending;
            }
            if gate.opened.as_mut().poll(cx).is_pending() && gate.timeout.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.gate = None;
        }
        if let Some(prefix) = self.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            discard(self.version, rest);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        let Some(exchange) = this.exchange.clone() else {
            return this.poll_source(cx).map_err(|error| StreamError(error.into()));
        };
        if exchange.end().is_some() {
            return Poll::Ready(Some(Err(StreamError(Cut::of(&exchange).into()))));
        }
        match this.poll_source(cx) {
            Poll::Ready(frame) => {
                exchange.awaits_client.store(false, Ordering::Relaxed);
                exchange.note_progress();
                Poll::Ready(frame.map(|frame| match frame {
                    Ok(frame) => Ok(clean(frame, |trailers| {
                        headers::clean_request_trailers(trailers, !exchange.is_scoped());
                    })),
                    Err(error) => {
                        exchange.client_failed.store(true, Ordering::Relaxed);
                        Err(StreamError(error.into()))
                    }
                }))
            }
            Poll::Pending if this.stop.poll(&exchange, cx) => {
                Poll::Ready(Some(Err(StreamError(Cut::of(&exchange).into()))))
            }
            Poll::Pending => {
                if this.gate.is_none() {
                    exchange.awaits_client.store(true, Ordering::Relaxed);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_none() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.len() as u64);
        // Trailers need a body whose length is not stated, in HTTP/1.
        let none = || if self.trailers.is_some() { SizeHint::new() } else { SizeHint::with_exact(0) };
        let rest = self.rest.as_ref().map_or_else(none, Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(prefix));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(prefix)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// The body of a response, on its way to the client.
pub(super) struct ResponseStream<H> {
    source: Incoming,
    exchange: Arc<Exchange>,
    stop: Stop,
    /// What the connection to the upstream needs until the end.
    _held: H,
}

impl<H> ResponseStream<H> {
    pub(super) fn new(source: Incoming, exchange: Arc<Exchange>, held: H) -> Self {
        Self { source, exchange, stop: Stop::default(), _held: held }
    }
}

impl<H: Unpin> Body for ResponseStream<H> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        let exchange = &this.exchange;
        if exchange.end().is_some() {
            return Poll::Ready(Some(Err(StreamError(Cut::of(exchange).into()))));
        }
        match Pin::new(&mut this.source).poll_frame(cx) {
            Poll::Ready(frame) => {
                exchange.awaits_upstream.store(false, Ordering::Relaxed);
                exchange.note_progress();
                let frame = frame.map(|frame| match frame {
                    Ok(frame) => Ok(clean(frame, |trailers| {
                        headers::clean_response(trailers);
                    })),
                    Err(error) => {
                        exchange.metrics().failed(Failure::Body);
                        Err(StreamError(error.into()))
                    }
                });
                if !matches!(frame, Some(Ok(_))) {
                    exchange.finish(End::Complete);
                }
                Poll::Ready(frame)
            }
            Poll::Pending if this.stop.poll(exchange, cx) => {
                Poll::Ready(Some(Err(StreamError(Cut::of(exchange).into()))))
            }
            Poll::Pending => {
                exchange.awaits_upstream.store(true, Ordering::Relaxed);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.end().is_none() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl<H> Drop for ResponseStream<H> {
    fn drop(&mut self) {
        self.exchange.finish(End::Complete);
    }
}

fn clean(frame: Frame<Bytes>, clean: impl FnOnce(&mut HeaderMap)) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

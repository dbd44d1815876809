//! The body of a response: complete, or a stream that arrives while it is sent.
//!
//! A stream keeps its connection from being evicted until it has ended.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::Version;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time;

use crate::server::connections::InFlightGuard;

/// How much of a body is read that is not needed, and how long.
const DISCARDED_BYTES: usize = 64 << 10;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Drops the body of a request whose response does not need it.
///
/// HTTP/2 resets the stream of a body that is dropped before its end. Some clients, such as curl 7,
/// lose the response then. So a short rest is read beside the response. Over HTTP/1, the connection
/// reads it.
pub(crate) fn discard(version: Version, mut body: Incoming) {
    if version != Version::HTTP_2 || body.is_end_stream() {
        return;
    }
    // There is no runtime while the process ends.
    let Ok(runtime) = Handle::try_current() else { return };
    runtime.spawn(time::timeout(DISCARD_TIMEOUT, async move {
        let mut left = Some(DISCARDED_BYTES);
        while let (Some(bytes), Some(Ok(frame))) = (left, body.frame().await) {
            left = bytes.checked_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    }));
}

/// The body of a response.
#[derive(Default)]
pub(crate) struct ResponseBody {
    content: Content,
    in_flight: Option<InFlightGuard>,
}

/// A body whose length is not known here, and which can fail.
pub(crate) type Stream = Pin<Box<dyn Body<Data = Bytes, Error = StreamError> + Send>>;

/// A stream that ends before its end. The server closes the connection (HTTP/1) or resets the
/// stream (HTTP/2), so that the client does not mistake the part for the whole.
#[derive(Debug)]
pub(crate) struct StreamError(pub(crate) Box<dyn Error + Send + Sync>);

enum Content {
    Full(Full<Bytes>),
    Stream(Stream),
}

impl ResponseBody {
    /// Returns a body that arrives while it is sent.
    pub(crate) fn stream(stream: Stream) -> Self {
        Self { content: Content::Stream(stream), in_flight: None }
    }

    /// Returns no body, and no statement of its length.
    pub(crate) fn unframed() -> Self {
        Self::stream(Box::pin(Full::default().map_err(|infallible| match infallible {})))
    }

    /// Returns whether the body is a stream, which has its framing from its source.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.content, Content::Stream(_))
    }

    /// Keeps the connection in use until the body has ended. A complete body is short.
    pub(super) fn hold(&mut self, in_flight: InFlightGuard) {
        if self.is_stream() && !self.is_end_stream() {
            self.in_flight = Some(in_flight);
        }
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Full(Full::default())
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self { content: Content::Full(bytes.into()), in_flight: None }
    }
}

impl From<String> for ResponseBody {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let polled = match &mut self.content {
            Content::Full(full) => Pin::new(full).poll_frame(cx).map_err(|infallible| match infallible {}),
            Content::Stream(stream) => stream.as_mut().poll_frame(cx),
        };
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.in_flight = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(full) => full.is_end_stream(),
            Content::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(full) => full.size_hint(),
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for StreamError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

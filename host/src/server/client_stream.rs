//! The byte stream of a connection: notes what the client has sent, and comes back to the server
//! when HTTP or TLS is done with it.
//!
//! A socket that is closed while bytes of the client are unread resets the connection, and the
//! reset can overtake the response. So the server first reads on for a while ([`linger`]).

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::ioctl_fionread;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time;

use crate::server::connections::Connection;

/// How many bytes are read and discarded after the last response of a connection.
const LINGER_BYTES: usize = 64 << 20;

/// How long they are read.
const LINGER_TIME: Duration = Duration::from_secs(10);

/// How long the client may pause meanwhile.
const LINGER_PAUSE: Duration = Duration::from_secs(2);

/// How many bytes are read at a time.
const LINGER_BUFFER: usize = 64 << 10;

/// The byte stream of a connection.
pub(super) struct ClientStream<S> {
    /// Present until this is dropped.
    stream: Option<S>,
    connection: Arc<Connection>,
    /// Whether the client has sent a byte.
    has_bytes: bool,
    /// Whether the client has closed its direction, or the connection is broken.
    is_ended: bool,
    returned: ReturnedStream<S>,
}

/// Where a [`ClientStream`] puts the stream when it is dropped, unless the client has ended it.
pub(super) struct ReturnedStream<S>(Arc<Mutex<Option<S>>>);

impl<S> ClientStream<S> {
    pub(super) fn new(stream: S, connection: Arc<Connection>) -> (Self, ReturnedStream<S>) {
        let place = Arc::default();
        let returned = ReturnedStream(Arc::clone(&place));
        let stream = Self {
            stream: Some(stream),
            connection,
            has_bytes: false,
            is_ended: false,
            returned: ReturnedStream(place),
        };
        (stream, returned)
    }
}

impl<S: Unpin> ClientStream<S> {
    fn poll_stream<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.stream
            .as_mut()
            .map_or(Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())), |stream| poll(Pin::new(stream)))
    }
}

impl<S> Drop for ClientStream<S> {
    fn drop(&mut self) {
        if !self.is_ended {
            *self.returned.0.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
        }
    }
}

impl<S> ReturnedStream<S> {
    /// Returns the stream, if it has come back.
    pub(super) fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<S: AsFd> ClientStream<S> {
    /// Returns whether bytes have arrived. The stream itself learns of them a moment later.
    fn has_arrived_bytes(&self) -> bool {
        let arrived = self.stream.as_ref().map(ioctl_fionread);
        // An error shows when the stream is read.
        arrived.is_some_and(|arrived| arrived.is_ok_and(|count| count > 0))
    }
}

impl<S: AsFd + AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.poll_stream(|stream| stream.poll_read(cx, buffer));
        match polled {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                if !self.has_bytes {
                    self.has_bytes = true;
                    self.connection.note_bytes();
                }
            }
            Poll::Ready(_) => self.is_ended = true,
            Poll::Pending if self.has_bytes || self.has_arrived_bytes() => {}
            Poll::Pending => {
                if self.connection.note_silence() {
                    tracing::debug!(peer = %self.connection.peer, "connection closed: it sent nothing");
                    // The end, as if the client had closed it.
                    self.is_ended = true;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_stream(|stream| stream.poll_write(cx, buffer))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(|stream| stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_stream(|stream| stream.poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

/// Closes the direction to the client, and reads until the client closes its own. Reads a bounded
/// number of bytes, for a bounded time. Unless `expects_bytes`, reads on only if bytes are there
/// already.
pub(super) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, expects_bytes: bool) {
    let mut buffer = vec![0; LINGER_BUFFER];
    let mut pause = if expects_bytes { LINGER_PAUSE } else { Duration::ZERO };
    let discard = async {
        let _ = stream.shutdown().await;
        let mut left = LINGER_BYTES;
        while left > 0
            && let Ok(Ok(read @ 1..)) = time::timeout(pause, stream.read(&mut buffer)).await
        {
            left = left.saturating_sub(read);
            pause = LINGER_PAUSE;
        }
    };
    let _ = time::timeout(LINGER_TIME, discard).await;
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net;
    use std::pin::pin;
    use std::task::Waker;

    use tokio::io::duplex;
    use tokio::net::TcpListener;

    use super::*;
    use crate::server::connections::{ConnectionLimits, ConnectionMode, Connections};
    use crate::server::peer::Peer;

    /// Polls a future once.
    fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    const LIMITS: ConnectionLimits = ConnectionLimits {
        max_used: 0,
        max_unused: 1,
        evictable_after: Duration::ZERO,
        idle_timeout: Duration::MAX,
        shutdown_timeout: Duration::ZERO,
        mode: ConnectionMode::SingleRequest,
    };

    #[tokio::test]
    async fn connection_leaves_only_while_nothing_has_arrived() {
        for sends in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let stream = listener.accept().await.unwrap().0;
            let connections = Connections::new(LIMITS);
            let place = connections.admit(Peer::Unix { uid: 0 }).await;
            let (mut stream, _) = ClientStream::new(stream, Arc::clone(&place.connection));
            // The first look of a stream finds nothing, whatever has arrived.
            let mut first = [0];
            assert!(poll_once(stream.read(&mut first)).is_pending());
            if sends {
                client.write_all(b"G").unwrap();
                while !stream.has_arrived_bytes() {
                    std::thread::yield_now();
                }
            }
            let waiting = connections.admit(Peer::Unix { uid: 0 });
            assert!(poll_once(waiting).is_pending(), "there is one place");
            if sends {
                assert!(poll_once(stream.read(&mut first)).is_pending());
            }
            assert_eq!(stream.read(&mut first).await.unwrap(), usize::from(sends));
        }
    }

    #[tokio::test]
    async fn lingering_ends_with_the_client() {
        let (mut client, server) = duplex(1 << 10);
        let lingering = tokio::spawn(linger(server, true));
        client.write_all(&vec![0; 10 << 20]).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        drop(client);
        lingering.await.unwrap();
    }

    #[tokio::test]
    async fn lingering_is_bounded_in_bytes() {
        let (mut client, server) = duplex(1 << 20);
        let lingering = tokio::spawn(linger(server, true));
        let mut sent = 0;
        let chunk = vec![0; 1 << 20];
        while client.write_all(&chunk).await.is_ok() {
            sent += 1 << 20;
        }
        assert!((LINGER_BYTES..=LINGER_BYTES + (2 << 20)).contains(&sent), "{sent}");
        lingering.await.unwrap();
    }

    #[tokio::test]
    async fn silent_client_is_not_waited_for() {
        let (client, server) = duplex(1 << 10);
        // Ends, although the client stays.
        linger(server, false).await;
        drop(client);
    }
}

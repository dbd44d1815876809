//! The open connections of a listener: their limits, their activity, and the eviction of idle ones.
//!
//! An idle connection serves no request. It is closed after a timeout, or earlier for a new
//! connection if the listener is full. A connection with a request in flight is never evicted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::server::peer::Peer;

/// The limits of the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// How many connections may be open at a time. At that number, a new connection evicts the one
    /// that has been idle for the longest time.
    pub(crate) max_connections: usize,
    /// How long a connection must be idle before a new one can evict it. It is long enough to send
    /// a finished response.
    pub(crate) evictable_after: Duration,
    /// How long a connection may be idle: before its first request, including the TLS handshake,
    /// while the head of a request arrives, and between requests.
    pub(crate) idle_timeout: Duration,
    /// How many requests a connection serves.
    pub(crate) mode: ConnectionMode,
}

/// How many requests a connection serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionMode {
    /// Any number of requests. The connection is active while one of them is in flight.
    KeepAlive,
    /// One request. The connection stays idle, and so evictable, until the service calls
    /// [`ConnectionHandle::begin_request`].
    SingleRequest,
}

/// The open connections of a listener.
#[derive(Default)]
pub(super) struct Connections(Vec<Weak<Connection>>);

/// An open connection.
pub(super) struct Connection {
    pub(super) peer: Peer,
    activity: Mutex<Activity>,
    /// Cancelled when the connection is evicted.
    close: CancellationToken,
    /// Cancelled when the response of a [`ConnectionMode::SingleRequest`] is ready to be sent.
    pub(super) response_ready: CancellationToken,
}

/// The requests of a connection that are in flight.
struct Activity {
    requests: usize,
    /// When that number last changed.
    since: Instant,
    /// Whether the connection is evicted, so that it accepts no further request.
    closing: bool,
}

/// The connection of a request, as the service sees it.
#[derive(Clone)]
pub(crate) struct ConnectionHandle(pub(super) Arc<Connection>);

/// A request in flight, which keeps its connection from being evicted. Ends when dropped, so also
/// when the client cancels the request.
pub(crate) struct InFlightGuard(Arc<Connection>);

impl ConnectionHandle {
    /// Returns the client of the connection.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Marks a request as in flight. Returns `None` if the connection is already evicted: its
    /// client would not receive the response.
    pub(crate) fn begin_request(&self) -> Option<InFlightGuard> {
        let mut activity = self.0.activity();
        if activity.closing {
            return None;
        }
        activity.requests += 1;
        activity.since = Instant::now();
        drop(activity);
        Some(InFlightGuard(Arc::clone(&self.0)))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut activity = self.0.activity();
        activity.requests = activity.requests.saturating_sub(1);
        activity.since = Instant::now();
    }
}

impl Connections {
    /// Adds a connection, which is idle.
    pub(super) fn register(&mut self, peer: Peer) -> Arc<Connection> {
        let activity = Activity { requests: 0, since: Instant::now(), closing: false };
        let connection = Arc::new(Connection {
            peer,
            activity: Mutex::new(activity),
            close: CancellationToken::new(),
            response_ready: CancellationToken::new(),
        });
        self.0.retain(|connection| connection.strong_count() > 0);
        self.0.push(Arc::downgrade(&connection));
        connection
    }

    /// Evicts the connection that has been idle for the longest time, if that is at least
    /// `idle_for`.
    pub(super) fn evict_longest_idle(&self, idle_for: Duration) {
        let idle = |connection: Arc<Connection>| {
            let since = connection.activity().idle_since();
            Some((since?, connection))
        };
        let longest_idle =
            self.0.iter().filter_map(Weak::upgrade).filter_map(idle).min_by_key(|(since, _)| *since);
        if let Some((_, connection)) = longest_idle {
            connection.evict_if_idle(idle_for);
        }
    }
}

impl Connection {
    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts the connection if it has been idle for at least `idle_for`, and returns whether it is
    /// evicted. One lock covers both, so no request begins between the check and the eviction.
    fn evict_if_idle(&self, idle_for: Duration) -> bool {
        let mut activity = self.activity();
        activity.closing |= activity.idle_since().is_some_and(|since| since.elapsed() >= idle_for);
        if activity.closing {
            self.close.cancel();
        }
        activity.closing
    }

    /// Waits until the connection is evicted, for a new connection or after `idle_timeout`.
    pub(super) async fn evicted(&self, idle_timeout: Duration) {
        let timed_out = async {
            while !self.evict_if_idle(idle_timeout) {
                let since = self.activity().idle_since();
                time::sleep(since.map_or(idle_timeout, |since| idle_timeout.saturating_sub(since.elapsed())))
                    .await;
            }
        };
        tokio::select! {
            () = self.close.cancelled() => {}
            () = timed_out => {}
        }
    }
}

impl Activity {
    /// Returns since when no request is in flight; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        (self.requests == 0).then_some(self.since)
    }
}

//! The open connections of a listener: which are idle, and which has to go for another one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::server::peer::Peer;

/// How a listener treats its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// The most connections that are open at a time. For another one, the one goes that has been quiet for the longest.
    pub(crate) max_connections: usize,
    /// How long a connection must have been quiet before it can lose its place to another one. An answer that was given
    /// must have long been sent by then.
    pub(crate) evictable_after: Duration,
    /// How long a connection may be quiet at all: before its first request, the handshake of TLS included, while a head
    /// arrives, and between requests.
    pub(crate) idle_timeout: Duration,
    /// What a connection is for.
    pub(crate) mode: ConnectionMode,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionMode {
    /// Any number of requests. It is not quiet while one of them is under way.
    KeepAlive,
    /// One request. It is quiet until the service says otherwise, with [`ConnectionHandle::begin`].
    SingleRequest,
}

/// The open connections of a listener.
#[derive(Default)]
pub(super) struct Connections(Vec<Weak<Connection>>);

/// An open connection.
pub(super) struct Connection {
    pub(super) peer: Peer,
    activity: Mutex<Activity>,
    close: CancellationToken,
    pub(super) response_ready: CancellationToken,
}

/// What a connection is having done for it.
struct Activity {
    requests: usize,
    /// When that number last changed.
    since: Instant,
    /// Whether it is being closed, so that nothing may begin any more.
    closing: bool,
}

/// The connection that a request has come on.
#[derive(Clone)]
pub(crate) struct ConnectionHandle(pub(super) Arc<Connection>);

/// Something that is under way on a connection, which is not closed meanwhile. Ends when it is dropped, as it is also where
/// the client takes its request back.
pub(crate) struct InFlightGuard(Arc<Connection>);

impl ConnectionHandle {
    /// Its other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Says that something is under way from now on. `None` where the connection is being closed: nobody would get to
    /// read the answer.
    pub(crate) fn begin(&self) -> Option<InFlightGuard> {
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

    /// Closes the connection that has been quiet for the longest, if it has been for this long.
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

    /// Closes the connection if it has been quiet for this long, and tells whether it is closed. In one step with the
    /// look at it, so that nothing has begun meanwhile.
    fn evict_if_idle(&self, idle_for: Duration) -> bool {
        let mut activity = self.activity();
        activity.closing |= activity.idle_since().is_some_and(|since| since.elapsed() >= idle_for);
        if activity.closing {
            self.close.cancel();
        }
        activity.closing
    }

    /// Waits until the connection is shown out, for another one or because it has been quiet for longer than `idle_timeout`.
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
    /// Since when nothing is under way; `None` while something is.
    fn idle_since(&self) -> Option<Instant> {
        (self.requests == 0).then_some(self.since)
    }
}

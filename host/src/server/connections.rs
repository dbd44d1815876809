//! The open connections of a listener: their limits, their activity, and the eviction of idle ones.
//!
//! A connection is unused until its first request, and used from then on. Used ones never take all
//! places, and unused ones give way where all are taken: clients that connect and send nothing
//! displace each other, and never a used connection. A used one is idle while it serves no request;
//! it is closed after a timeout, or earlier if the first request of another connection needs its
//! place. A connection with a request in flight is never evicted.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time;

use crate::server::coarse_clock::Instant;
use crate::server::peer::{ClientGroup, Peer};
use crate::server::signals::{Signal, Signals};

/// How long to wait before the next attempt to evict a connection for a waiting one.
const EVICTION_INTERVAL: Duration = Duration::from_millis(20);

/// The longest time that a client has for its first request while others wait: for the first bytes,
/// unless most have sent none, and then for the rest.
const OPENING_GRACE: Duration = Duration::from_millis(250);

/// The shortest and the longest time between two looks for idle connections, as far as a limit of
/// them allows it.
const SWEEP_INTERVALS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The part of the unused places whose silent connections are evicted together.
const EVICTION_BATCHES: usize = 16;

/// The limits of the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// How many used connections may be open at a time. At that number, the first request of
    /// another connection evicts the one that has been idle for the longest time.
    pub(crate) max_used: usize,
    /// How many places there are beside these, which used connections never take. Where all places
    /// are taken, a new connection evicts unused ones.
    pub(crate) max_unused: usize,
    /// How long a used connection must be idle before it can be evicted. It is long enough to send
    /// a finished response.
    pub(crate) evictable_after: Duration,
    /// How long a connection may be idle: before its first request, including the TLS handshake,
    /// while the head of a request arrives, and between requests.
    pub(crate) idle_timeout: Duration,
    /// How long requests in flight may take after the listener stops.
    pub(crate) shutdown_timeout: Duration,
    /// How many requests a connection serves.
    pub(crate) mode: ConnectionMode,
}

/// How many requests a connection serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionMode {
    /// Any number of requests. The connection is active while one of them is in flight.
    KeepAlive,
    /// One request. The connection stays unused, and so evictable, until the service calls
    /// [`ConnectionHandle::begin_request`].
    SingleRequest,
}

/// The open connections of a listener.
pub(super) struct Connections {
    limits: ConnectionLimits,
    open: Mutex<Open>,
    /// Notified when a place is free.
    freed: Notify,
}

#[derive(Default)]
struct Open {
    connections: Vec<Arc<Connection>>,
    used: usize,
    /// Whether the listener stops.
    is_stopping: bool,
}

/// The place of an open connection, which is free again when this is dropped.
pub(super) struct Place {
    pub(super) connection: Arc<Connection>,
    connections: Arc<Connections>,
}

/// An open connection.
pub(super) struct Connection {
    pub(super) peer: Peer,
    group: ClientGroup,
    activity: Mutex<Activity>,
    /// The signals to its task.
    pub(super) signals: Signals,
    /// Whether the newest request has a body, which the client may still be sending.
    has_body: AtomicBool,
    /// What follows the last response, if its protocol is another.
    tunnel: Mutex<Option<Tunnel>>,
    /// When the connection ends after the listener has stopped, once it has learnt of that.
    deadline: OnceLock<time::Instant>,
}

/// What becomes of a connection after HTTP.
pub(crate) type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a connection has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// The server has not read yet. Bytes may have arrived, so the connection is not evictable.
    New,
    /// The server has read, and the client has sent nothing.
    Silent,
    /// As before. The connection ends unless bytes have arrived meanwhile.
    Leaving,
    /// The client has sent bytes, and not yet a request: it does a TLS handshake, or sends a head.
    Opening,
    /// The connection has had a request.
    Used,
}

/// The requests of a connection that are in flight.
struct Activity {
    phase: Phase,
    /// When the first bytes of the client were read; before that, when it connected.
    opened: Instant,
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

    /// Closes the connection, with the requests that are in flight.
    pub(crate) fn close(&self) {
        self.0.signals.raise(Signal::CLOSE);
    }

    /// Sets what is done with the connection after a response of status 101. The connection is not
    /// evicted meanwhile, and a stop of the listener gives it the time of a request.
    pub(crate) fn set_tunnel(&self, tunnel: Tunnel) {
        let guard = self.begin_request();
        *self.0.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(async move {
            tunnel.await;
            drop(guard);
        }));
    }

    /// Takes what is done with the connection after HTTP, if anything is.
    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.0.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Marks a request as in flight. Returns `None` if the connection is already evicted: its
    /// client would not receive the response.
    pub(crate) fn begin_request(&self) -> Option<InFlightGuard> {
        Some(self.begin()?.0)
    }

    /// As [`begin_request`](Self::begin_request). Returns also whether the connection has its place
    /// among the used ones already.
    pub(super) fn begin(&self) -> Option<(InFlightGuard, bool)> {
        let now = Instant::now();
        let mut activity = self.0.activity();
        if activity.closing {
            return None;
        }
        activity.requests += 1;
        activity.since = now;
        let is_used = activity.phase == Phase::Used;
        drop(activity);
        Some((InFlightGuard(Arc::clone(&self.0)), is_used))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut activity = self.0.activity();
        activity.requests = activity.requests.saturating_sub(1);
        activity.since = now;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.connections.retain(|connection| !Arc::ptr_eq(connection, &self.connection));
        if self.connection.activity().phase == Phase::Used {
            open.used = open.used.saturating_sub(1);
        }
        drop(open);
        self.connections.freed.notify_waiters();
    }
}

impl Connections {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default(), freed: Notify::new() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place for a new connection.
    pub(super) async fn admit(self: &Arc<Self>, peer: Peer) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(connection) = self.try_admit(&peer) {
                return Place { connection, connections: Arc::clone(self) };
            }
            let _ = time::timeout(EVICTION_INTERVAL, freed).await;
        }
    }

    fn try_admit(&self, peer: &Peer) -> Option<Arc<Connection>> {
        let mut open = self.open();
        if open.connections.len() >= self.limits.max_used.saturating_add(self.limits.max_unused) {
            open.evict_unused(self.limits);
            return None;
        }
        let connection = Connection::new(peer.clone());
        if open.is_stopping {
            connection.signals.raise(Signal::STOP);
        }
        open.connections.push(Arc::clone(&connection));
        Some(connection)
    }

    /// Waits until a connection that has a request in flight has a place among the used ones.
    pub(super) async fn promote(&self, connection: &Connection) {
        loop {
            let freed = self.freed.notified();
            if self.try_promote(connection) {
                return;
            }
            let _ = time::timeout(EVICTION_INTERVAL, freed).await;
        }
    }

    fn try_promote(&self, connection: &Connection) -> bool {
        let mut open = self.open();
        let mut activity = connection.activity();
        if activity.phase == Phase::Used {
            return true;
        }
        if open.used >= self.limits.max_used {
            drop(activity);
            open.evict_used(self.limits, connection.group);
            return false;
        }
        activity.phase = Phase::Used;
        drop(activity);
        open.used += 1;
        true
    }

    /// Signals all connections that the listener stops.
    pub(super) fn stop(&self) {
        let mut open = self.open();
        open.is_stopping = true;
        for connection in &open.connections {
            connection.signals.raise(Signal::STOP);
        }
    }

    /// Closes each connection that has been idle for the timeout, as long as this is polled.
    pub(super) async fn sweep(&self) {
        let timeout = self.limits.idle_timeout;
        let (shortest, longest) = SWEEP_INTERVALS;
        // A short timeout is kept to an eighth of it.
        let interval = (timeout / 8).clamp(shortest, longest);
        loop {
            let next = self.open().evict_idle(timeout);
            time::sleep(next.max(interval)).await;
        }
    }

    /// Evicts an idle connection, because the process can open no further file.
    pub(super) fn evict_for_file(&self) {
        let open = self.open();
        if !open.evict_unused(self.limits) {
            open.evict_longest_idle(self.limits, |_| true);
        }
    }
}

impl Open {
    /// Evicts all connections that have been idle for so long. Returns after which time the next
    /// one can be. A connection that is opened, or becomes idle, from now on is none before that.
    fn evict_idle(&self, timeout: Duration) -> Duration {
        let now = Instant::now();
        let left = self.connections.iter().filter_map(|connection| {
            let since = connection.activity().idle_since()?;
            let left = timeout.saturating_sub(now.duration_since(since));
            if left.is_zero() {
                connection.evict_if_idle(timeout);
            }
            // An evicted one closes without a further look.
            (!left.is_zero()).then_some(left)
        });
        left.min().unwrap_or(timeout)
    }

    /// Evicts unused connections: a few that have sent nothing, or one that has had its time for
    /// the first request. A client group that holds more than its share loses connections first.
    /// Returns whether one ends.
    ///
    /// Bytes may have arrived that the server has not read: a connection that has sent nothing so
    /// far looks for them, and ends itself if there are none.
    fn evict_unused(&self, limits: ConnectionLimits) -> bool {
        let share = (limits.max_unused / 8).max(1);
        let mut groups = HashMap::<ClientGroup, usize>::new();
        let mut unused = Vec::new();
        let (mut silent, mut leaving) = (0, 0);
        for connection in &self.connections {
            let activity = connection.activity();
            if activity.phase == Phase::Used || activity.closing {
                continue;
            }
            *groups.entry(connection.group).or_default() += 1;
            silent += usize::from(activity.phase == Phase::Silent);
            leaving += usize::from(activity.phase == Phase::Leaving);
            unused.push((activity.phase, activity.first_request_since(), connection));
        }
        // A flood of silent connections is not waited for.
        let is_flood = silent + leaving >= unused.len().div_ceil(2);
        let silent_grace = if is_flood { Duration::ZERO } else { OPENING_GRACE };
        let grace = |phase| match phase {
            Phase::New | Phase::Leaving | Phase::Used => None,
            Phase::Silent => Some(silent_grace.min(limits.evictable_after)),
            Phase::Opening => Some(OPENING_GRACE.min(limits.evictable_after)),
        };
        let mut candidates: Vec<_> = unused
            .into_iter()
            .filter_map(|(phase, since, connection)| Some((phase, since?, connection)))
            .filter(|(phase, since, _)| grace(*phase).is_some_and(|grace| since.elapsed() >= grace))
            .collect();
        let order = |(phase, since, connection): &(Phase, Instant, &Arc<Connection>)| {
            let within_share = groups.get(&connection.group).is_none_or(|size| *size <= share);
            (within_share, *phase, *since)
        };
        candidates.sort_by_key(order);
        // Several at once, because the connections of a flood do not wait for each other.
        let batch = (limits.max_unused / EVICTION_BATCHES).max(1);
        let mut evicted = leaving > 0;
        for (number, (phase, _, connection)) in candidates.into_iter().take(batch).enumerate() {
            if phase == Phase::Silent {
                connection.ask_to_leave();
                evicted = true;
            } else if number == 0 {
                evicted |= connection.evict_if_idle(Duration::ZERO);
            }
        }
        evicted
    }

    /// Evicts an idle used connection for one of `group`. A group that holds most places loses one
    /// of its own.
    fn evict_used(&self, limits: ConnectionLimits, group: ClientGroup) {
        let is_own = |connection: &Connection| connection.group == group;
        let used = self.connections.iter().filter(|other| other.activity().phase == Phase::Used);
        if used.filter(|other| is_own(other)).count() > limits.max_used / 2 {
            self.evict_longest_idle(limits, is_own);
        } else {
            self.evict_longest_idle(limits, |_| true);
        }
    }

    /// Evicts, of these connections, the used one that has been idle for the longest time.
    fn evict_longest_idle(&self, limits: ConnectionLimits, of: impl Fn(&Connection) -> bool) {
        let idle = |connection: &Arc<Connection>| {
            let activity = connection.activity();
            let is_candidate = activity.phase == Phase::Used && !activity.closing;
            activity.idle_since().filter(|_| is_candidate)
        };
        let candidates = self.connections.iter().filter(|connection| of(connection));
        let longest = candidates.filter_map(|connection| Some((idle(connection)?, connection)));
        if let Some((_, connection)) = longest.min_by_key(|(since, _)| *since) {
            connection.evict_if_idle(limits.evictable_after);
        }
    }
}

impl Connection {
    fn new(peer: Peer) -> Arc<Self> {
        let now = Instant::now();
        let activity = Activity { phase: Phase::New, opened: now, requests: 0, since: now, closing: false };
        Arc::new(Self {
            group: peer.group(),
            peer,
            activity: Mutex::new(activity),
            signals: Signals::default(),
            has_body: AtomicBool::new(false),
            tunnel: Mutex::default(),
            deadline: OnceLock::new(),
        })
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the server has read, and that the client had sent nothing. Returns whether the
    /// connection is to end because of that.
    pub(super) fn note_silence(&self) -> bool {
        let mut activity = self.activity();
        activity.phase = activity.phase.max(Phase::Silent);
        activity.phase == Phase::Leaving
    }

    /// Notes that the client has sent bytes, its first ones.
    pub(super) fn note_bytes(&self) {
        let now = Instant::now();
        let mut activity = self.activity();
        if activity.phase < Phase::Opening {
            activity.phase = Phase::Opening;
            activity.opened = now;
        }
    }

    /// Lets the connection end itself if its client has still sent nothing.
    fn ask_to_leave(&self) {
        let mut activity = self.activity();
        if activity.phase == Phase::Silent {
            activity.phase = Phase::Leaving;
            drop(activity);
            self.signals.wake();
        }
    }

    /// Evicts the connection if it has been idle for at least `idle_for`, and returns whether it is
    /// evicted. One lock covers both, so no request begins between the check and the eviction.
    fn evict_if_idle(&self, idle_for: Duration) -> bool {
        let mut activity = self.activity();
        activity.closing |= activity.idle_since().is_some_and(|since| since.elapsed() >= idle_for);
        if activity.closing {
            self.signals.raise(Signal::CLOSE);
        }
        activity.closing
    }

    /// Returns when the connection ends, whose listener has stopped. All its parts share that time.
    pub(super) fn deadline(&self, limits: ConnectionLimits) -> time::Instant {
        *self.deadline.get_or_init(|| {
            let now = time::Instant::now();
            // No process stops for longer than a year.
            now.checked_add(limits.shutdown_timeout).unwrap_or(now + Duration::from_hours(24 * 365))
        })
    }

    /// Notes whether the request that begins has a body.
    pub(super) fn note_body(&self, has_body: bool) {
        self.has_body.store(has_body, Ordering::Relaxed);
    }

    /// Returns whether the newest request has a body.
    pub(super) fn has_body(&self) -> bool {
        self.has_body.load(Ordering::Relaxed)
    }
}

impl Activity {
    /// Returns since when the client has been expected to finish its first request; `None` while
    /// one is in flight.
    fn first_request_since(&self) -> Option<Instant> {
        Some(self.idle_since()?.max(self.opened))
    }

    /// Returns since when no request is in flight; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        (self.requests == 0).then_some(self.since)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;

    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        max_used: 1,
        max_unused: 8,
        evictable_after: Duration::from_millis(250),
        idle_timeout: Duration::from_millis(60),
        shutdown_timeout: Duration::ZERO,
        mode: ConnectionMode::KeepAlive,
    };

    /// Waits until the task of a connection gets a signal.
    async fn signalled(place: &Place, signal: Signal) {
        place.connection.signals.interrupt(signal, pin!(pending::<()>())).await;
    }

    #[tokio::test]
    async fn all_parts_of_a_connection_have_one_deadline() {
        let connections = Connections::new(LIMITS);
        let place = connections.admit(Peer::Unix { uid: 0 }).await;
        let first = place.connection.deadline(LIMITS);
        time::sleep(Duration::from_millis(2)).await;
        assert_eq!(place.connection.deadline(LIMITS), first);
        let endless = ConnectionLimits { shutdown_timeout: Duration::MAX, ..LIMITS };
        let other = connections.admit(Peer::Unix { uid: 0 }).await;
        assert!(other.connection.deadline(endless) > first);
    }

    #[tokio::test]
    async fn idle_connections_are_closed_and_busy_ones_are_not() {
        let connections = Connections::new(LIMITS);
        let began = Instant::now();
        let idle = connections.admit(Peer::Unix { uid: 0 }).await;
        let busy = connections.admit(Peer::Unix { uid: 0 }).await;
        let handle = ConnectionHandle(Arc::clone(&busy.connection));
        let (first, second) = (handle.begin_request().unwrap(), handle.begin_request().unwrap());
        let closing = async {
            signalled(&idle, Signal::CLOSE).await;
            // Both times are of one clock, whose tick is late on a machine that is stopped.
            assert!(began.elapsed() >= LIMITS.idle_timeout);
            assert!(ConnectionHandle(Arc::clone(&idle.connection)).begin_request().is_none());
            drop(first);
            // Opened later, and closed after as long a time.
            let later = connections.admit(Peer::Unix { uid: 0 }).await;
            signalled(&later, Signal::CLOSE).await;
            assert!(!busy.connection.activity().closing, "a request is in flight");
            drop(second);
            signalled(&busy, Signal::CLOSE).await;
        };
        tokio::select! {
            () = closing => {}
            () = connections.sweep() => {}
        }
        assert!(handle.begin_request().is_none());
    }

    /// How many of these connections, whose clients have sent nothing, are to leave for a new one.
    async fn leaving(silent_count: usize, opening: usize) -> usize {
        let limits = ConnectionLimits { max_used: 0, max_unused: silent_count + opening, ..LIMITS };
        let connections = Connections::new(limits);
        let mut places = Vec::new();
        for number in 0..limits.max_unused {
            places.push(connections.admit(Peer::Unix { uid: 0 }).await);
            if number < silent_count {
                assert!(!places[number].connection.note_silence());
            } else {
                places[number].connection.note_bytes();
            }
        }
        assert!(connections.try_admit(&Peer::Unix { uid: 0 }).is_none());
        let silent = || places.iter().take(silent_count).map(|place| &place.connection);
        let leaving = silent().filter(|connection| connection.note_silence()).count();
        // What arrives in time is in time.
        silent().for_each(|connection| connection.note_bytes());
        assert!(!silent().any(|connection| connection.note_silence()));
        leaving
    }

    #[tokio::test]
    async fn silent_connections_leave_at_once_where_they_are_many() {
        assert_eq!(leaving(8, 0).await, 1);
        assert_eq!(leaving(4, 4).await, 1);
        assert_eq!(leaving(32, 0).await, 2);
        loop {
            let began = Instant::now();
            let few = leaving(3, 5).await;
            // Unless the machine is stopped meanwhile.
            if began.elapsed() < OPENING_GRACE {
                assert_eq!(few, 0, "they have as long as the others");
                break;
            }
        }
    }

    #[tokio::test]
    async fn every_connection_learns_of_the_stop() {
        let connections = Connections::new(LIMITS);
        let before = connections.admit(Peer::Unix { uid: 0 }).await;
        connections.stop();
        let after = connections.admit(Peer::Unix { uid: 0 }).await;
        signalled(&before, Signal::STOP).await;
        signalled(&after, Signal::STOP).await;
    }
}

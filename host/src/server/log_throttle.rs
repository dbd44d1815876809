//! Rate-limits log lines that a client can cause.
//!
//! A client without a token can cause lines as fast as it sends requests, and so fill a disk. The
//! first lines of a client in a minute are logged in full, the others at debug level. A line at the
//! end of the minute has their number. The memory of all counts is bounded, and so is the number of
//! lines of all clients.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time;

use crate::server::coarse_clock::Instant;
use crate::server::peer::{ClientGroup, Peer};

/// The period over which lines are counted.
const INTERVAL: Duration = Duration::from_mins(1);

/// How many lines of one client are logged in full in a minute.
const LINES_OF_CLIENT: u64 = 10;

/// How many lines of all clients together are logged in full in a minute.
const LINES_OF_ALL: u64 = 500;

/// How many clients are counted one by one.
const MAX_CLIENTS: usize = 1024;

/// How many clients the lines at the end of a minute name, those with the most omitted lines.
const NAMED_CLIENTS: usize = 10;

/// One kind of warning that no client is the cause of, and when it was last logged.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Returns whether a warning may be logged now, once a minute, and counts it as logged if so.
    pub(crate) fn allow(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

/// One kind of line that clients cause, counted for each client.
#[derive(Debug)]
pub(crate) struct LogLimiter(Arc<Limiter>);

#[derive(Debug)]
struct Limiter {
    /// Names the lines in the report of the omitted ones.
    what: &'static str,
    minute: Mutex<Minute>,
}

/// The lines of a minute.
#[derive(Debug)]
struct Minute {
    began: Instant,
    clients: HashMap<ClientGroup, LineCount>,
    logged: u64,
    /// Lines of clients that are not counted one by one.
    others: u64,
    /// Whether a task waits for the end of this minute, to report it.
    is_awaited: bool,
}

#[derive(Debug, Default)]
struct LineCount {
    logged: u64,
    omitted: u64,
}

/// The omitted lines of a minute.
#[derive(Debug, Default, PartialEq, Eq)]
struct Omitted {
    named: Vec<(ClientGroup, u64)>,
    /// The lines of all other clients.
    others: u64,
}

impl LogLimiter {
    /// Limits the lines that begin with `what`.
    pub(crate) fn new(what: &'static str) -> Self {
        Self(Arc::new(Limiter { what, minute: Mutex::new(Minute::new(Instant::now())) }))
    }

    /// Returns whether a line of this client may be logged in full, and counts it.
    pub(crate) fn allow(&self, peer: &Peer) -> bool {
        let now = Instant::now();
        let mut minute = self.0.minute();
        let ended = minute.end(now);
        let allowed = minute.count(peer.group());
        let remaining = INTERVAL.saturating_sub(now.duration_since(minute.began));
        let must_wait = !allowed && !mem::replace(&mut minute.is_awaited, true);
        drop(minute);
        self.0.report(&ended);
        if must_wait && let Ok(runtime) = Handle::try_current() {
            let limiter = Arc::downgrade(&self.0);
            runtime.spawn(async move {
                time::sleep(remaining).await;
                limiter.upgrade().inspect(|limiter| limiter.report_ended(Instant::now()));
            });
        }
        allowed
    }
}

impl Limiter {
    fn minute(&self) -> MutexGuard<'_, Minute> {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the current minute, if it has ended.
    fn report_ended(&self, now: Instant) {
        let ended = self.minute().end(now);
        self.report(&ended);
    }

    fn report(&self, omitted: &Omitted) {
        let what = self.what;
        for (client, lines) in &omitted.named {
            tracing::warn!(client_ip = %client, "{what}: {lines} more of these within a minute, not logged");
        }
        if omitted.others > 0 {
            tracing::warn!(
                "{what}: {} more of these within a minute from other addresses, not logged",
                omitted.others
            );
        }
    }
}

impl Drop for Limiter {
    /// Reports what a server that stops has not reported yet.
    fn drop(&mut self) {
        let omitted = self.minute().omitted();
        self.report(&omitted);
    }
}

impl Minute {
    fn new(began: Instant) -> Self {
        Self { began, clients: HashMap::new(), logged: 0, others: 0, is_awaited: false }
    }

    /// Begins the next minute if this one has ended, and returns its omitted lines.
    fn end(&mut self, now: Instant) -> Omitted {
        if now.duration_since(self.began) < INTERVAL {
            return Omitted::default();
        }
        mem::replace(self, Self::new(now)).omitted()
    }

    /// Counts a line, and returns whether it may be logged in full.
    fn count(&mut self, client: ClientGroup) -> bool {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            self.others = self.others.saturating_add(1);
            return false;
        }
        let count = self.clients.entry(client).or_default();
        let allowed = count.logged < LINES_OF_CLIENT && self.logged < LINES_OF_ALL;
        if allowed {
            count.logged += 1;
            self.logged += 1;
        } else {
            count.omitted = count.omitted.saturating_add(1);
        }
        allowed
    }

    fn omitted(&self) -> Omitted {
        let clients = self.clients.iter().map(|(client, count)| (*client, count.omitted));
        let mut named: Vec<_> = clients.filter(|(_, omitted)| *omitted > 0).collect();
        named.sort_by_key(|(_, omitted)| Reverse(*omitted));
        let unnamed = named.split_off(named.len().min(NAMED_CLIENTS));
        let others = unnamed.iter().fold(self.others, |sum, (_, omitted)| sum.saturating_add(*omitted));
        Omitted { named, others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> ClientGroup {
        ClientGroup::V4(number.into())
    }

    #[test]
    fn first_ten_lines_of_client_are_logged() {
        let began = Instant::now();
        let mut minute = Minute::new(began);
        for number in 1..=3 {
            let allowed = (0..25).filter(|_| minute.count(client(number))).count();
            assert_eq!(allowed, 10);
        }
        assert_eq!(minute.end(began + INTERVAL / 2), Omitted::default());
        let mut omitted = minute.end(began + INTERVAL);
        omitted.named.sort_by_key(|(client, _)| client.to_string());
        assert_eq!(omitted.named, [(client(1), 15), (client(2), 15), (client(3), 15)]);
        assert!(minute.count(client(1)));
    }

    #[test]
    fn lines_and_memory_of_all_clients_are_bounded() {
        let began = Instant::now();
        let mut minute = Minute::new(began);
        let allowed = (0..100_000).filter(|number| minute.count(client(number % 50_000))).count();
        assert_eq!(u64::try_from(allowed).unwrap(), LINES_OF_ALL);
        assert_eq!(minute.clients.len(), MAX_CLIENTS);
        let Omitted { named, others } = minute.end(began + INTERVAL);
        assert_eq!(named.len(), NAMED_CLIENTS);
        let omitted: u64 = named.iter().map(|(_, omitted)| omitted).sum();
        assert_eq!(omitted + others + LINES_OF_ALL, 100_000);
        assert!(minute.clients.is_empty());
    }
}

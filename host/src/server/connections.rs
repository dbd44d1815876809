//! The open connections of a listener: which are idle, and which has to go for another one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::server::peer::Peer;

/// How a listener treats its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The most connections that are open at a time. For another one, the one goes that has been quiet for the longest.
    pub(crate) places: usize,
    /// How long a connection must have been quiet before it can lose its place to another one. An answer that was given
    /// must have long been sent by then.
    pub(crate) grace: Duration,
    /// How long a connection may be quiet at all: before its first request, the handshake of TLS included, while a head
    /// arrives, and between requests.
    pub(crate) patience: Duration,
    /// What a connection is for.
    pub(crate) mode: Mode,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Any number of requests. It is not quiet while one of them is under way.
    Lasting,
    /// One request. It is quiet until the service says otherwise, with [`Visit::begin`].
    Brief,
}

/// The open connections of a listener.
#[derive(Default)]
pub(super) struct Guests(Vec<Weak<Guest>>);

/// An open connection.
pub(super) struct Guest {
    pub(super) peer: Peer,
    attention: Mutex<Attention>,
    leave: CancellationToken,
    pub(super) answered: CancellationToken,
}

/// What a connection is having done for it.
struct Attention {
    requests: usize,
    /// When that number last changed.
    since: Instant,
    /// Whether it is being closed, so that nothing may begin any more.
    leaving: bool,
}

/// The connection that a request has come on.
#[derive(Clone)]
pub(crate) struct Visit(pub(super) Arc<Guest>);

/// Something that is under way on a connection, which is not closed meanwhile. Ends when it is dropped, as it is also where
/// the client takes its request back.
pub(crate) struct Attended(Arc<Guest>);

impl Visit {
    /// Its other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Says that something is under way from now on. `None` where the connection is being closed: nobody would get to
    /// read the answer.
    pub(crate) fn begin(&self) -> Option<Attended> {
        let mut attention = self.0.attention();
        if attention.leaving {
            return None;
        }
        attention.requests += 1;
        attention.since = Instant::now();
        drop(attention);
        Some(Attended(Arc::clone(&self.0)))
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut attention = self.0.attention();
        attention.requests = attention.requests.saturating_sub(1);
        attention.since = Instant::now();
    }
}

impl Guests {
    pub(super) fn welcome(&mut self, peer: Peer) -> Arc<Guest> {
        let attention = Attention { requests: 0, since: Instant::now(), leaving: false };
        let guest = Arc::new(Guest {
            peer,
            attention: Mutex::new(attention),
            leave: CancellationToken::new(),
            answered: CancellationToken::new(),
        });
        self.0.retain(|guest| guest.strong_count() > 0);
        self.0.push(Arc::downgrade(&guest));
        guest
    }

    /// Closes the connection that has been quiet for the longest, if it has been for this long.
    pub(super) fn show_out_the_quietest(&self, grace: Duration) {
        let quiet = |guest: Arc<Guest>| {
            let since = guest.attention().quiet_since();
            Some((since?, guest))
        };
        let quietest =
            self.0.iter().filter_map(Weak::upgrade).filter_map(quiet).min_by_key(|(since, _)| *since);
        if let Some((_, guest)) = quietest {
            guest.show_out(grace);
        }
    }
}

impl Guest {
    fn attention(&self) -> MutexGuard<'_, Attention> {
        self.attention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection if it has been quiet for this long, and tells whether it is closed. In one step with the
    /// look at it, so that nothing has begun meanwhile.
    fn show_out(&self, quiet_for: Duration) -> bool {
        let mut attention = self.attention();
        attention.leaving |= attention.quiet_since().is_some_and(|since| since.elapsed() >= quiet_for);
        if attention.leaving {
            self.leave.cancel();
        }
        attention.leaving
    }

    /// Waits until the connection is shown out, for another one or because it has been quiet for longer than `patience`.
    pub(super) async fn shown_out(&self, patience: Duration) {
        let overstays = async {
            while !self.show_out(patience) {
                let since = self.attention().quiet_since();
                time::sleep(since.map_or(patience, |since| patience.saturating_sub(since.elapsed()))).await;
            }
        };
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = overstays => {}
        }
    }
}

impl Attention {
    /// Since when nothing is under way; `None` while something is.
    fn quiet_since(&self) -> Option<Instant> {
        (self.requests == 0).then_some(self.since)
    }
}

//! The exchanges that are in flight: a request, its response, and what ends both early.
//!
//! A task looks at all of them every second. It authorizes each again, because a stream can outlive
//! its token. It ends those in which neither side sends anything for too long. It also reaches a
//! stream that its client does not read, and so does not poll.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::authority::Authority;
use crate::http::influxdb3::target::OwnedTarget;
use crate::metrics::upstream::{Failure, UpstreamMetrics};
use crate::secret::Secret;
use crate::server::connections::ConnectionHandle;
use crate::token::TokenKind;

/// How often the exchanges are examined.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a client may take to notice that its stream has ended. After that its connection is
/// closed: it does not read.
const GRACE: Duration = Duration::from_secs(5);

/// Why an exchange ends before both sides are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The response is complete, so the rest of the request is of no use.
    Complete,
    /// The token is no longer accepted for it.
    Revoked,
    /// The upstream sends nothing, or reads nothing.
    UpstreamTimeout,
    /// The client sends nothing, or reads nothing.
    ClientTimeout,
}

/// An authorized request, as it is authorized again.
pub(super) struct Grant {
    pub(super) credential: Secret,
    pub(super) kind: TokenKind,
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) target: OwnedTarget,
}

impl Grant {
    pub(super) fn access(&self) -> Access<'_> {
        Access {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            target: self.target.as_target(),
        }
    }
}

/// A request in flight at the upstream.
pub(super) struct Exchange {
    number: u64,
    all: Arc<Registry>,
    began: Instant,
    /// When a side last sent something, in milliseconds since the begin.
    progress: AtomicU64,
    /// Whether the upstream waits for the client to send more of the request.
    pub(super) awaits_client: AtomicBool,
    /// Whether the client waits for the upstream: for the head, or for more of the response.
    pub(super) awaits_upstream: AtomicBool,
    /// Whether the head of the response has arrived.
    pub(super) answered: AtomicBool,
    /// Whether the body of the request cannot be read to its end.
    pub(super) client_failed: AtomicBool,
    grant: Option<Grant>,
    connection: ConnectionHandle,
    end: OnceLock<(End, Instant)>,
    stop: CancellationToken,
}

impl Exchange {
    /// Notes that a side has sent something.
    pub(super) fn note_progress(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(since, Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.progress.load(Ordering::Relaxed)))
    }

    /// Ends both directions. The first reason counts.
    pub(super) fn finish(&self, end: End) {
        if self.end.set((end, Instant::now())).is_ok() {
            self.stop.cancel();
        }
    }

    /// Returns why the exchange has ended; `None` if it has not.
    pub(super) fn end(&self) -> Option<End> {
        self.end.get().map(|(end, _)| *end)
    }

    /// The token that is cancelled when the exchange ends.
    pub(super) const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.all.metrics
    }

    /// Whether the method may be overridden in headers.
    pub(super) fn is_scoped(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.kind == TokenKind::Scoped)
    }

    /// Examines a running exchange.
    fn examine(&self, authority: &Authority, timeout: Duration) {
        if let Some((end, at)) = self.end.get() {
            // A stream that is not polled does not notice the end.
            if *end != End::Complete && at.elapsed() >= GRACE {
                self.connection.close();
            }
            return;
        }
        if let Some(grant) = &self.grant
            && authority.authorize(grant.credential.expose(), &grant.access()).is_err()
        {
            self.all.metrics.stream_revoked();
            self.finish(End::Revoked);
        } else if self.idle() >= timeout {
            let awaits_upstream = self.awaits_upstream.load(Ordering::Relaxed);
            let awaits_client = self.awaits_client.load(Ordering::Relaxed);
            if awaits_upstream && !awaits_client {
                self.all.metrics.failed(Failure::Timeout);
                self.finish(End::UpstreamTimeout);
            } else {
                self.finish(End::ClientTimeout);
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.all.metrics.set_in_flight(-1);
        self.all.running().remove(&self.number);
    }
}

/// All exchanges in flight.
pub(super) struct Registry {
    running: Mutex<HashMap<u64, Weak<Exchange>>>,
    next: AtomicU64,
    metrics: UpstreamMetrics,
}

impl Registry {
    /// Begins to examine exchanges, as long as the registry is in use. Calls
    /// `also` as often.
    pub(super) fn new(
        authority: Authority,
        metrics: UpstreamMetrics,
        timeout: Duration,
        also: impl Fn() + Send + 'static,
    ) -> Arc<Self> {
        let all = Arc::new(Self { running: Mutex::default(), next: AtomicU64::new(0), metrics });
        let examined = Arc::downgrade(&all);
        tokio::spawn(async move {
            // A short timeout needs a closer look.
            let mut ticks = time::interval(INTERVAL.min(timeout / 4).max(Duration::from_millis(10)));
            ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(all) = examined.upgrade() else { return };
                also();
                let running: Vec<_> = all.running().values().cloned().collect();
                for exchange in running.iter().filter_map(Weak::upgrade) {
                    exchange.examine(&authority, timeout);
                }
            }
        });
        all
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Weak<Exchange>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an exchange. It is examined until its last handle is dropped.
    pub(super) fn begin(
        self: &Arc<Self>,
        grant: Option<Grant>,
        connection: ConnectionHandle,
    ) -> Arc<Exchange> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let exchange = Arc::new(Exchange {
            number,
            all: Arc::clone(self),
            began: Instant::now(),
            progress: AtomicU64::new(0),
            awaits_client: AtomicBool::new(false),
            awaits_upstream: AtomicBool::new(true),
            answered: AtomicBool::new(false),
            client_failed: AtomicBool::new(false),
            grant,
            connection,
            end: OnceLock::new(),
            stop: CancellationToken::new(),
        });
        self.metrics.set_in_flight(1);
        self.running().insert(number, Arc::downgrade(&exchange));
        exchange
    }
}

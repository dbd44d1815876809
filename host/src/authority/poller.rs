//! The thread that polls the store for changes by other processes.

use std::convert::Infallible;
use std::mem::{Discriminant, discriminant};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::authority::boot_clock;
use crate::authority::freshness::{PollSchedule, ProofSource};
use crate::authority::poll_signal::PollSignal;
use crate::authority::snapshot::{PollError, Shared};
use crate::store::StoreError;

/// How long the drop of the last clone of an authority waits for a call of the store that is in
/// progress.
pub const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// The polling thread, which ends when this is dropped.
pub(crate) struct StorePoller {
    thread: ThreadId,
    signal: Arc<PollSignal>,
    /// Disconnected when the thread has dropped its share of the authority.
    ended: Mutex<Receiver<Infallible>>,
}

impl StorePoller {
    pub(crate) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let signal = Arc::clone(&shared.poll_signal);
        let news = Arc::clone(&signal);
        shared.store.listen(Arc::new(move || news.notify_news()));
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("optoken-poll".into()).spawn(move || {
            poll(&shared);
            drop(shared);
            drop::<Sender<_>>(end);
        })?;
        Ok(Self { thread: thread.thread().id(), signal, ended: Mutex::new(ended) })
    }
}

impl Drop for StorePoller {
    fn drop(&mut self) {
        self.signal.stop();
        // The thread cannot wait for itself, where an observer had the last clone.
        if thread::current().id() != self.thread {
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(DROP_TIMEOUT);
        }
    }
}

/// Polls until the authority is dropped.
fn poll(shared: &Shared) {
    let signal = Arc::clone(&shared.poll_signal);
    let mut schedule = PollSchedule::new(shared.poll_interval, boot_clock::now(), random_seed());
    let mut failing: Option<Discriminant<PollError>> = None;
    while let Some(source) = signal.begin_poll(&mut schedule) {
        // A panic of a store or an observer must not end this thread: no token would be accepted
        // from then on. The panic leaves no partial state, since the snapshot is assigned whole.
        let result = catch_unwind(AssertUnwindSafe(|| shared.poll(source)))
            .unwrap_or_else(|_| Err(PollError::Store(StoreError::Unavailable("it panicked".to_owned()))));
        let outcome = match &result {
            Ok(true) => "changed",
            Ok(false) => "unchanged",
            Err(error) => error.outcome(),
        };
        let cause = if source == ProofSource::News { "news" } else { "interval" };
        let _ = catch_unwind(AssertUnwindSafe(|| shared.observer.poll_completed(cause, outcome)));
        // A state that is refused is no better for being read more often.
        schedule.end(!matches!(result, Err(PollError::Store(_))), boot_clock::now());
        signal.end_poll();
        let failure = result.as_ref().err().map(discriminant);
        match &result {
            // Each kind of error is logged once, not at every poll.
            Err(error @ PollError::Unusable(_)) if failure != failing => {
                tracing::error!("{error}; all tokens are refused");
            }
            Err(error) if failure != failing => tracing::error!(
                "{error}; tokens are refused {:?} after the last good read of the store",
                shared.freshness.max_staleness()
            ),
            Ok(_) if failing.is_some() => tracing::info!("the token store answers again"),
            _ => {}
        }
        failing = failure;
    }
}

/// Makes the pauses of this process differ from those of others. Without random numbers, the
/// clock does that well enough.
fn random_seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}

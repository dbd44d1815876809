//! The thread that polls the store for changes by other processes.

use std::convert::Infallible;
use std::mem::{Discriminant, discriminant};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::authority::snapshot::{PollError, Shared};
use crate::store::StoreError;

/// How long the drop of the last clone of an authority waits for a call of the store that is in
/// progress.
pub const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the thread ends its pause.
enum Wake {
    /// The store may have changed.
    News,
    /// The authority is dropped.
    Stop,
}

/// The polling thread, which ends when this is dropped.
pub(crate) struct StorePoller {
    thread: ThreadId,
    wake: Sender<Wake>,
    /// Disconnected when the thread has dropped its share of the authority.
    ended: Mutex<Receiver<Infallible>>,
}

impl StorePoller {
    pub(crate) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        let (end, ended) = channel();
        let news = wake.clone();
        // A thread that has ended needs no news.
        shared.store.listen(Arc::new(move || drop(news.send(Wake::News))));
        let thread = thread::Builder::new().name("optoken-poll".into()).spawn(move || {
            poll(&shared, &woken);
            drop(shared);
            drop::<Sender<_>>(end);
        })?;
        Ok(Self { thread: thread.thread().id(), wake, ended: Mutex::new(ended) })
    }
}

impl Drop for StorePoller {
    fn drop(&mut self) {
        // Fails if the thread has ended already.
        let _ = self.wake.send(Wake::Stop);
        // The thread cannot wait for itself, where an observer had the last clone.
        if thread::current().id() != self.thread {
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(DROP_TIMEOUT);
        }
    }
}

/// Polls until the authority is dropped.
fn poll(shared: &Shared, woken: &Receiver<Wake>) {
    let interval = shared.store.interval();
    let mut failing: Option<Discriminant<PollError>> = None;
    loop {
        // A panic of a store or an observer must not end this thread: no token would be accepted
        // from then on. The panic leaves no partial state, since the snapshot is assigned whole.
        let result = catch_unwind(AssertUnwindSafe(|| shared.poll()))
            .unwrap_or_else(|_| Err(PollError::Store(StoreError::Unavailable("it panicked".to_owned()))));
        let failure = result.as_ref().err().map(discriminant);
        match &result {
            // Each kind of error is logged once, not four times a second.
            Err(error) if failure != failing => tracing::error!(
                "{error}; tokens are refused {:?} after the last good read of the store",
                shared.max_staleness
            ),
            Ok(()) if failing.is_some() => tracing::info!("the token store answers again"),
            _ => {}
        }
        failing = failure;
        // One read serves all news before it.
        let first = woken.recv_timeout(interval);
        for wake in first.into_iter().chain(woken.try_iter()) {
            if matches!(wake, Wake::Stop) {
                return;
            }
        }
    }
}

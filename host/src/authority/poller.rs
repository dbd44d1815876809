//! The thread that polls the store for changes by other processes.

use std::convert::Infallible;
use std::mem::{Discriminant, discriminant};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::authority::snapshot::{PollError, Shared};
use crate::store::StoreError;

/// The interval in which an authority polls its store. After a regenerate, every other process on
/// the same store refuses the old token within this time and the one read that follows.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long the drop of the last clone of an authority waits for a call of the store that is in
/// progress.
pub const DROP_TIMEOUT: Duration = Duration::from_secs(1);

/// The polling thread, which ends when this is dropped.
pub(crate) struct StorePoller {
    thread: ThreadId,
    /// Dropped to end the thread.
    stop: Option<Sender<Infallible>>,
    /// Disconnected when the thread has dropped its share of the authority.
    ended: Mutex<Receiver<Infallible>>,
}

impl StorePoller {
    pub(crate) fn start(shared: Arc<Shared>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("optoken-poll".into()).spawn(move || {
            poll(&shared, &stopped);
            drop(shared);
            drop::<Sender<_>>(end);
        })?;
        Ok(Self { thread: thread.thread().id(), stop: Some(stop), ended: Mutex::new(ended) })
    }
}

impl Drop for StorePoller {
    fn drop(&mut self) {
        self.stop = None;
        // The thread cannot wait for itself, where an observer had the last clone.
        if thread::current().id() != self.thread {
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(DROP_TIMEOUT);
        }
    }
}

/// Polls until the other end of `stopped` is dropped.
fn poll(shared: &Shared, stopped: &Receiver<Infallible>) {
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
        if stopped.recv_timeout(POLL_INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

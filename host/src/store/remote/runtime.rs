//! Calls of asynchronous clients from threads that block, each with a deadline.

use std::future::Future;
use std::io;
use std::mem;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How long a call may take that reads a version, or writes a few bytes.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a call may take that reads or writes a document, of up to 6 MiB.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The store has not answered in time. A write may happen nevertheless, now or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no answer within {}s", .0.as_secs_f32())]
pub(crate) struct TimedOut(pub(crate) Duration);

/// A runtime with one thread, for the client of one store.
///
/// A runtime of its own serves an embedder without one, and lets no task of the embedder delay a
/// read that proves freshness.
#[derive(Debug)]
pub(crate) struct CallRuntime {
    /// Always there until the drop.
    runtime: Option<Runtime>,
}

impl CallRuntime {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("optoken-store")
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs a call and waits for its result. A call that is too slow is cancelled.
    ///
    /// The caller may be a thread of any runtime, as nothing here enters one.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, TimedOut> {
        let (send, receive) = sync_channel(1);
        let task = self.spawn(async move {
            // The caller has gone if the deadline is over.
            let _ = send.send(call.await);
        });
        match receive.recv_timeout(timeout) {
            Ok(result) => Ok(result),
            // Disconnected without a result: the task panicked, and its outcome is as unknown.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                abort(task);
                Err(TimedOut(timeout))
            }
        }
    }

    /// Starts a task that runs until it ends or this is dropped.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
        self.runtime.as_ref().map(|runtime| runtime.spawn(task))
    }
}

impl Drop for CallRuntime {
    fn drop(&mut self) {
        // Waits for nothing, so that a task of another runtime may drop a store.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The task that waits for the news of a store. It ends with the store, as it holds `news`: a
/// scratch store may keep the runtime.
#[derive(Debug, Default)]
pub(crate) struct NewsTask(Mutex<Option<JoinHandle<()>>>);

impl NewsTask {
    /// Starts the task in place of an earlier one.
    pub(crate) fn start(&self, runtime: &CallRuntime, task: impl Future<Output = ()> + Send + 'static) {
        let task = runtime.spawn(task);
        let before = mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), task);
        abort(before);
    }
}

impl Drop for NewsTask {
    fn drop(&mut self) {
        abort(self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn abort(task: Option<JoinHandle<()>>) {
    if let Some(task) = task {
        task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn slow_call_is_cancelled_at_its_deadline() {
        let runtime = CallRuntime::start().unwrap();
        assert_eq!(runtime.call(CALL_TIMEOUT, async { 1 }), Ok(1));
        let done = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&done);
        let timeout = Duration::from_millis(1);
        let slow = async move {
            tokio::time::sleep(Duration::from_mins(1)).await;
            set.store(true, Ordering::Relaxed);
        };
        assert_eq!(runtime.call(timeout, slow), Err(TimedOut(timeout)));
        // The task is gone with what it held.
        while Arc::strong_count(&done) > 1 {
            std::thread::yield_now();
        }
        assert!(!done.load(Ordering::Relaxed));
    }

    #[test]
    fn call_within_another_runtime_works() {
        let other = Builder::new_current_thread().enable_all().build().unwrap();
        other.block_on(async {
            let runtime = CallRuntime::start().unwrap();
            assert_eq!(runtime.call(CALL_TIMEOUT, async { 1 }), Ok(1));
        });
    }
}

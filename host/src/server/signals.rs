//! Signals to the task of a connection.
//!
//! A task looks at them whenever it is polled, so with every request. They are one word, and a
//! waker that is set once: a look costs one load.

use std::future::poll_fn;
use std::ops::BitOr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

/// A signal, or several.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signal(u8);

impl Signal {
    /// The connection is to be closed, with its requests in flight.
    pub(super) const CLOSE: Self = Self(1);
    /// The response of a connection for one request is ready to be sent.
    pub(super) const RESPONSE_READY: Self = Self(2);
    /// The listener stops. Requests in flight have a while.
    pub(super) const STOP: Self = Self(4);
}

impl BitOr for Signal {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The signals of one task. A signal that is raised stays raised.
#[derive(Debug, Default)]
pub(super) struct Signals {
    raised: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Signals {
    /// Raises a signal and wakes the task.
    pub(super) fn raise(&self, signal: Signal) {
        self.raised.fetch_or(signal.0, Ordering::AcqRel);
        self.wake();
    }

    /// Wakes the task, which polls the future that it interrupts.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    fn is_raised(&self, any_of: Signal) -> bool {
        self.raised.load(Ordering::Acquire) & any_of.0 != 0
    }

    /// Runs a future of the task until it ends, or until one of these signals is raised. The future
    /// is polled first, so what it can finish is finished. Returns `None` for a signal.
    pub(super) async fn interrupt<F: Future>(
        &self,
        any_of: Signal,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        let mut known: Option<Waker> = None;
        poll_fn(|cx| {
            if !known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                known = Some(cx.waker().clone());
                // Before everything else: what comes later wakes the task.
                *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            }
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if self.is_raised(any_of) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn future_that_is_ready_comes_before_a_signal() {
        let signals = Signals::default();
        signals.raise(Signal::CLOSE);
        assert_eq!(signals.interrupt(Signal::CLOSE, pin!(ready(7))).await, Some(7));
        assert_eq!(signals.interrupt(Signal::CLOSE, pin!(pending::<()>())).await, None);
    }

    #[tokio::test]
    async fn task_is_woken_by_what_happens_during_its_first_poll() {
        let signals = Signals::default();
        let mut polls = 0;
        let future = poll_fn(|_| {
            polls += 1;
            signals.wake();
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        assert_eq!(signals.interrupt(Signal::CLOSE, pin!(future)).await, Some(()));
    }

    #[tokio::test]
    async fn raised_signal_wakes_a_task_that_waits() {
        let signals = Arc::new(Signals::default());
        let waiting = Arc::clone(&signals);
        let task = tokio::spawn(async move {
            let inner = async {
                waiting.interrupt(Signal::STOP | Signal::RESPONSE_READY, pin!(pending::<()>())).await;
                pending::<()>().await;
            };
            // The inner future ends its own wait, and goes on.
            waiting.interrupt(Signal::CLOSE, pin!(inner)).await
        });
        while signals.waker.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        signals.raise(Signal::STOP);
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        signals.raise(Signal::CLOSE);
        assert_eq!(task.await.unwrap(), None);
    }
}

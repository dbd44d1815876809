//! Wakes the poller, and wakes what waits for its next proof.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::authority::boot_clock;
use crate::authority::freshness::{PollSchedule, ProofSource};

/// Shared by the poller, the news of the store and the commands. News that come together are one.
#[derive(Debug, Default)]
pub(crate) struct PollSignal {
    state: Mutex<State>,
    /// News, or the end of the authority.
    woken: Condvar,
    /// The end of a read.
    polled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_news: bool,
    has_stopped: bool,
}

impl PollSignal {
    /// Wakes the poller: the store may have changed. Waits for nothing.
    pub(crate) fn notify_news(&self) {
        if !std::mem::replace(&mut self.state().has_news, true) {
            self.woken.notify_one();
        }
    }

    /// Ends the poller.
    pub(crate) fn stop(&self) {
        self.state().has_stopped = true;
        self.woken.notify_one();
        self.polled.notify_all();
    }

    /// Waits until the next read is due, and begins it; `None` if the authority has ended.
    pub(crate) fn begin_poll(&self, schedule: &mut PollSchedule) -> Option<ProofSource> {
        let mut state = self.state();
        loop {
            if state.has_stopped {
                return None;
            }
            if std::mem::take(&mut state.has_news) {
                schedule.note_news();
            }
            let now = boot_clock::now();
            let wait = schedule.due().since(now);
            if wait.is_zero() {
                return Some(schedule.begin(now));
            }
            state = self.woken.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Wakes the callers of [`wait_until`](Self::wait_until).
    pub(crate) fn end_poll(&self) {
        let _state = self.state();
        self.polled.notify_all();
    }

    /// Asks for a read, and waits until one has made this true, no longer than `timeout`.
    pub(crate) fn wait_until(&self, timeout: Duration, condition: impl Fn() -> bool) {
        self.notify_news();
        let state = self.state();
        drop(self.polled.wait_timeout_while(state, timeout, |state| !state.has_stopped && !condition()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn news_of_a_storm_are_one() {
        let signal = PollSignal::default();
        let mut schedule = PollSchedule::new(Duration::from_hours(1), boot_clock::now(), 1);
        assert_eq!(signal.begin_poll(&mut schedule), Some(ProofSource::Poll));
        schedule.end(true, boot_clock::now());
        for _ in 0..100_000 {
            signal.notify_news();
        }
        assert_eq!(signal.begin_poll(&mut schedule), Some(ProofSource::News));
        schedule.end(true, boot_clock::now());
        assert!(!signal.state().has_news);
        signal.stop();
        assert_eq!(signal.begin_poll(&mut schedule), None);
    }

    #[test]
    fn waiting_ends_with_the_poll_the_timeout_or_the_authority() {
        let signal = PollSignal::default();
        // Nothing polls.
        signal.wait_until(Duration::from_millis(1), || false);
        assert!(signal.state().has_news, "a read was asked for");
        let proved = AtomicBool::new(false);
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| signal.wait_until(Duration::from_mins(1), || proved.load(Ordering::SeqCst)));
            // A read that proves nothing ends no wait.
            signal.end_poll();
            proved.store(true, Ordering::SeqCst);
            signal.end_poll();
            waiting.join().unwrap();
            let waiting = scope.spawn(|| signal.wait_until(Duration::from_mins(1), || false));
            signal.stop();
            waiting.join().unwrap();
        });
    }
}

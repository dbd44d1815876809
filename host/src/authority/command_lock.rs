//! One command of an authority at a time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A lock that a thread waits for only so long: a store that hangs must not collect all threads.
#[derive(Debug, Default)]
pub(crate) struct CommandLock {
    locked: Mutex<bool>,
    unlocked: Condvar,
}

/// Unlocks on drop.
#[derive(Debug)]
pub(crate) struct CommandGuard<'a>(&'a CommandLock);

impl CommandLock {
    /// Locks it, or returns `None` after `timeout`.
    pub(crate) fn lock(&self, timeout: Duration) -> Option<CommandGuard<'_>> {
        let locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.unlocked.wait_timeout_while(locked, timeout, |locked| *locked);
        let (mut locked, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            return None;
        }
        *locked = true;
        Some(CommandGuard(self))
    }
}

impl Drop for CommandGuard<'_> {
    fn drop(&mut self) {
        *self.0.locked.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.unlocked.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_caller_waits_until_the_first_has_ended() {
        let lock = CommandLock::default();
        let guard = lock.lock(Duration::ZERO).unwrap();
        assert!(lock.lock(Duration::from_millis(1)).is_none());
        drop(guard);
        assert!(lock.lock(Duration::ZERO).is_some());
        std::thread::scope(|scope| {
            let guard = lock.lock(Duration::ZERO).unwrap();
            let waiting = scope.spawn(|| lock.lock(Duration::from_mins(1)).is_some());
            drop(guard);
            assert!(waiting.join().unwrap());
        });
    }
}

//! Rate-limits warnings that any client can cause.
//!
//! The first warning of a kind in a minute is logged as such, later ones at debug level. So a
//! client cannot fill the log, and an operator finds the reason of a rejection without changing the
//! filter.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after a warning the next one of its kind is suppressed.
const INTERVAL: Duration = Duration::from_mins(1);

/// One kind of warning, and when it was last logged.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Returns whether a warning may be logged now, and counts it as logged if so.
    pub(crate) fn allow(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

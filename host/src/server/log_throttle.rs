//! How often the log tells of what anybody who reaches a port can bring about: he must not fill it, and whoever wonders why his
//! client gets no answer must find out without changing the filter.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long after a warning the next one of its kind is no more than a detail.
const INTERVAL: Duration = Duration::from_mins(1);

/// One kind of warning, and when it was last said.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Whether it is time for a warning; then this is it.
    pub(crate) fn allow(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

//! The unit of printed times.

use std::time::Duration;

pub(crate) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

//! A clock that also counts the time in which the machine is suspended.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::authority::freshness::Moment;

/// The suspended time counts, so that a catalog is as old as it is. Other systems than Linux have
/// no such clock, or one under another name.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The time since the start of the machine.
pub(crate) fn now() -> Moment {
    let now = clock_gettime(CLOCK);
    Moment::new(Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    ))
}

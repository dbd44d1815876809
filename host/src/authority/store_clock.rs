//! Notices a clock of the store that is not the clock of this machine.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::store::ClockDifference;

/// The difference of two clocks that is no reason for a log line.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// Whether the clocks differed at the last read.
#[derive(Debug, Default)]
pub(crate) struct StoreClock(AtomicBool);

/// A change that is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockChange {
    /// The clock of the store is ahead by at least so many milliseconds; behind, if negative.
    Differs(i64),
    /// The clocks agree again.
    Agrees,
}

impl StoreClock {
    /// Compares the clocks. Returns a result once for each change.
    pub(crate) fn compare(&self, clock: Option<ClockDifference>) -> Option<ClockChange> {
        // A store that has stated no time since its last answers shows no change.
        let ClockDifference { ahead_ms, precision } = clock?;
        let precision = i64::try_from(precision.as_millis()).unwrap_or(i64::MAX);
        let least = ahead_ms.saturating_abs().saturating_sub(precision);
        let differs = u128::try_from(least).is_ok_and(|least| least > CLOCK_TOLERANCE.as_millis());
        if self.0.swap(differs, Ordering::Relaxed) == differs {
            return None;
        }
        Some(if differs { ClockChange::Differs(least * ahead_ms.signum()) } else { ClockChange::Agrees })
    }
}

impl ClockChange {
    pub(crate) fn log(self) {
        match self {
            Self::Differs(_) => tracing::warn!("{self}"),
            Self::Agrees => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for ClockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Differs(ahead) = *self else {
            return f.write_str("the clocks of this machine and of the token store agree");
        };
        let (direction, effect) = if ahead > 0 { ("behind", "late") } else { ("ahead of", "early") };
        write!(
            f,
            "the clock of this machine is {}s {direction} that of the token store; if it is the wrong one, tokens expire too \
             {effect} here; synchronize both (NTP)",
            ahead.unsigned_abs() / 1000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_beyond_its_precision_is_reported_once() {
        let clock = StoreClock::default();
        let compare = |ahead_ms, precision| {
            clock.compare(Some(ClockDifference { ahead_ms, precision: Duration::from_millis(precision) }))
        };
        assert_eq!(compare(5000, 0), None);
        // A Date header of whole seconds may be wrong by that much.
        assert_eq!(compare(6000, 1000), None);
        assert_eq!(compare(-6001, 1000), Some(ClockChange::Differs(-5001)));
        assert_eq!(compare(-9000, 1000), None, "it was reported");
        assert_eq!(clock.compare(None), None);
        assert_eq!(compare(9000, 1000), None, "and the operator was asked to synchronize both");
        assert_eq!(compare(0, 1000), Some(ClockChange::Agrees));
        assert_eq!(compare(1, 1000), None);
        let differs = compare(3_601_000, 1000).unwrap();
        assert_eq!(differs, ClockChange::Differs(3_600_000));
        assert!(differs.to_string().contains("is 3600s behind that of the token store"), "{differs}");
        // Nothing overflows, and a call of any length proves nothing.
        assert_eq!(compare(i64::MIN, u64::MAX), Some(ClockChange::Agrees));
        assert_eq!(compare(i64::MIN, 0), Some(ClockChange::Differs(-i64::MAX)));
    }
}

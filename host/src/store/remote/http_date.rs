//! The clock of an engine by the `Date` of its responses.

use std::time::{Duration, SystemTime};

use crate::store::ClockDifference;

/// The unit of the dates of HTTP.
const UNIT: Duration = Duration::from_secs(1);

/// Compares the date of a response with the clock of this machine, which shows `received` at the
/// end of a call that took `elapsed`.
pub(crate) fn clock_difference(
    date: &str,
    received: SystemTime,
    elapsed: Duration,
) -> Option<ClockDifference> {
    let half = elapsed / 2;
    let middle = received.checked_sub(half)?;
    // The date was cut to its second, by half a second on average.
    let stated = httpdate::parse_http_date(date).ok()?.checked_add(UNIT / 2)?;
    let ahead_ms = match stated.duration_since(middle) {
        Ok(ahead) => i64::try_from(ahead.as_millis()).ok()?,
        Err(behind) => -i64::try_from(behind.duration().as_millis()).ok()?,
    };
    Some(ClockDifference { ahead_ms, precision: UNIT + half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_compared_with_the_middle_of_the_call() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(100_500);
        let difference = |seconds, elapsed| {
            let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            clock_difference(&date, now, elapsed).unwrap()
        };
        let found = difference(107, Duration::from_secs(2));
        assert_eq!(found, ClockDifference { ahead_ms: 8000, precision: Duration::from_secs(2) });
        assert_eq!(difference(90, Duration::ZERO).ahead_ms, -10_000);
    }
}

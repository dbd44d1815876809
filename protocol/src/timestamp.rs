//! Timestamps, as RFC 3339 writes them (`docs/compatibility.md` 2.3).

use alloc::format;
use alloc::string::String;

/// The last millisecond of the year 9999, which is the last year with four digits.
const LAST: u64 = 253_402_300_799_999;

/// Writes milliseconds since 1970-01-01T00:00:00Z as RFC 3339 in UTC, with three digits of a second
/// unless they are zero. A later time than the year 9999 is written as its last millisecond:
/// clients cannot read five digits of a year.
pub fn rfc3339(milliseconds: u64) -> String {
    let milliseconds = milliseconds.min(LAST);
    let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = if milliseconds == 0 { String::new() } else { format!(".{milliseconds:03}") };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Returns year, month and day of a number of days after 1970-01-01, in the Gregorian calendar.
/// Years count from March, so a leap day is the last day of its year; 400 years are one cycle.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_A_CYCLE: u64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let day = days % DAYS_OF_A_CYCLE;
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Every five months from March on have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (days / DAYS_OF_A_CYCLE * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_written_as_rfc_3339() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (951_868_800_000, "2000-03-01T00:00:00Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_744_984_965_000, "2025-04-18T14:02:45Z"),
            (1_744_984_965_330, "2025-04-18T14:02:45.330Z"),
            (1_744_984_965_331, "2025-04-18T14:02:45.331Z"),
            (1_795_456_443_229, "2026-11-23T17:54:03.229Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (253_402_207_200_000, "9999-12-30T22:00:00Z"),
            (LAST, "9999-12-31T23:59:59.999Z"),
            (LAST + 1, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(at), text);
        }
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let mut last = (1969, 12, 31);
        for days in 0..2_932_897 {
            let (year, month, day) = civil(days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = |month| match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match last {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == length(month) => (year, month + 1, 1),
                (year, month, day) => (year, month, day + 1),
            };
            assert_eq!((year, month, day), expected);
            last = expected;
        }
        assert_eq!(last, (9999, 12, 31));
    }
}

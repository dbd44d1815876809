//! Timestamps, as RFC 3339 writes them (`docs/compatibility.md` 2.3).

use alloc::format;
use alloc::string::String;

use time::{Duration, OffsetDateTime};

/// The last millisecond of the year 9999, which is the last year with four digits.
const LAST: u64 = 253_402_300_799_999;

/// Writes milliseconds since 1970-01-01T00:00:00Z as RFC 3339 in UTC, with three digits of a second
/// unless they are zero. A later time than the year 9999 is written as its last millisecond:
/// clients cannot read five digits of a year.
pub fn rfc3339(milliseconds: u64) -> String {
    let since_epoch = Duration::milliseconds(milliseconds.min(LAST).cast_signed());
    let at = OffsetDateTime::UNIX_EPOCH.saturating_add(since_epoch);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, millisecond) = at.to_hms_milli();
    let fraction = if millisecond == 0 { String::new() } else { format!(".{millisecond:03}") };
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z", u8::from(month))
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
        const DAY: u64 = 86_400_000;
        let mut last = (1969, 12, 31);
        // One cycle of the Gregorian calendar.
        for days in 0..=400 * 366 {
            let (year, month, day) = last;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u32::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            last = match last {
                (year, 12, 31) => (year + 1, 1, 1),
                (year, month, day) if day == length => (year, month + 1, 1),
                (year, month, _) => (year, month, day + 1),
            };
            let (year, month, day) = last;
            assert_eq!(rfc3339(days * DAY), format!("{year:04}-{month:02}-{day:02}T00:00:00Z"));
        }
        assert!(last > (2370, 1, 1), "{last:?}");
    }
}

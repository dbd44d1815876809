//! Points in time as texts of a query, and their comparison.
//!
//! Knows nothing of SQLite.

use std::cmp::Ordering;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use optoken_protocol::timestamp::rfc3339;

use crate::token::Timestamp;

/// Returns a timestamp as Arrow writes it without a time zone.
pub(crate) fn timestamp(at: Timestamp) -> String {
    rfc3339(at).trim_end_matches('Z').to_owned()
}

/// Returns the nanoseconds since 1970-01-01T00:00:00Z of a date, or of a date and a time. A text
/// without an offset is in UTC.
pub(super) fn nanoseconds(text: &str) -> Option<i128> {
    let (local, offset) = split_offset(text.trim())?;
    let complete = match local.len() {
        10 => format!("{local}T00:00:00"),
        16 => format!("{local}:00"),
        _ => local.to_owned(),
    };
    let at = humantime::parse_rfc3339_weak(&complete).ok()?;
    let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(i128::try_from(since_epoch.as_nanos()).ok()? - offset)
}

/// Splits `Z`, `+01:00` or `-01:00` from the end, and returns it in nanoseconds.
fn split_offset(text: &str) -> Option<(&str, i128)> {
    if let Some(local) = text.strip_suffix('Z') {
        return Some((local, 0));
    }
    let Some((local, offset)) = text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)) else {
        return Some((text, 0));
    };
    let sign = match offset.as_bytes().first() {
        // A date has hyphens as well, but no colon behind them.
        Some(b'+') => 1,
        Some(b'-') if offset.contains(':') => -1,
        _ => return Some((text, 0)),
    };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let number = |digits: &str| {
        let digits = Some(digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        digits?.parse::<i128>().ok()
    };
    let minutes = number(hours)? * 60 + number(minutes)?;
    Some((local, sign * minutes * 60_000_000_000))
}

/// Returns the length of an interval such as `1 day`. A month and a year have no length of their
/// own.
pub(super) fn interval(text: &str) -> Option<Duration> {
    let words = text.split(|character: char| !character.is_ascii_alphabetic());
    let calendar = |word: &str| word == "M" || word.starts_with("mo") || word.starts_with('y');
    if words.into_iter().any(calendar) {
        return None;
    }
    humantime::parse_duration(text).ok()
}

/// Compares texts as points in time. Notes the first text that is none, because a collation has no
/// error.
pub(super) fn compare(left: &str, right: &str, malformed: &OnceLock<String>) -> Ordering {
    let read = |text: &str| {
        let at = nanoseconds(text);
        if at.is_none() {
            malformed.get_or_init(|| text.to_owned());
        }
        at
    };
    read(left).cmp(&read(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_points_in_time() {
        let second = 1_000_000_000;
        for (text, expected) in [
            ("2025-01-01", Some(1_735_689_600 * second)),
            ("2025-01-01 00:00", Some(1_735_689_600 * second)),
            ("2025-01-01 00:00:00", Some(1_735_689_600 * second)),
            ("2025-01-01T00:00:00", Some(1_735_689_600 * second)),
            ("2025-01-01T00:00:00Z", Some(1_735_689_600 * second)),
            ("2025-01-01T00:00Z", Some(1_735_689_600 * second)),
            ("2025-01-01T00:00:00.5Z", Some(1_735_689_600 * second + second / 2)),
            ("2025-01-01T00:00:00.331", Some(1_735_689_600 * second + 331_000_000)),
            ("2025-01-01T01:00:00+01:00", Some(1_735_689_600 * second)),
            ("2024-12-31 22:30:00-01:30", Some(1_735_689_600 * second)),
            (" 2025-01-01 ", Some(1_735_689_600 * second)),
            ("1970-01-01", Some(0)),
            ("9999-12-31T23:59:59.999", Some(253_402_300_799_999_000_000)),
            ("", None),
            ("now", None),
            ("2025", None),
            ("2025-13-01", None),
            ("2025-02-30", None),
            ("2025-01-01T25:00:00", None),
            ("2025-01-01T00:00:00+x1:00", None),
            ("1969-12-31", None),
            ("2025-01-0é", None),
            ("éééééééé", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text:?}");
        }
    }

    #[test]
    fn intervals_have_one_length() {
        for (text, seconds) in [
            ("1 day", Some(86_400)),
            ("7 days", Some(604_800)),
            ("2 weeks", Some(1_209_600)),
            ("1 hour 30 minutes", Some(5_400)),
            ("24h", Some(86_400)),
            ("1 month", None),
            ("1M", None),
            ("1 year", None),
            ("1y", None),
            ("", None),
            ("a day", None),
            ("-1 day", None),
        ] {
            assert_eq!(interval(text), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn malformed_text_is_noted() {
        let malformed = OnceLock::new();
        assert_eq!(compare("2025-01-01", "2025-01-01T00:00:00Z", &malformed), Ordering::Equal);
        assert_eq!(compare("2025-01-02", "2025-01-01T23:59:59.999", &malformed), Ordering::Greater);
        assert_eq!(malformed.get(), None);
        compare("2025-01-02", "yesterday", &malformed);
        compare("tomorrow", "2025-01-02", &malformed);
        assert_eq!(malformed.get().map(String::as_str), Some("yesterday"));
    }
}

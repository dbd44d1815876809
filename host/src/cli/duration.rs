//! Durations as people write them on a command line.

use std::time::Duration;

use crate::authority::{MAX_POLL_INTERVAL, MIN_POLL_INTERVAL};

/// The longest overlap that a server grants, in seconds: thirty days.
const MAX_OVERLAP_SECONDS: u64 = 30 * 24 * 3600;

/// Parses an overlap. Rejects what a server would reject, or round.
pub(crate) fn overlap_seconds(text: &str) -> Result<u64, String> {
    let overlap = duration(text)?;
    if overlap.subsec_nanos() == 0 && (1..=MAX_OVERLAP_SECONDS).contains(&overlap.as_secs()) {
        Ok(overlap.as_secs())
    } else {
        Err("an overlap is whole seconds, at least 1s and at most 30d".to_owned())
    }
}

/// Parses the time between two reads of the store.
pub(crate) fn poll_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if (MIN_POLL_INTERVAL..=MAX_POLL_INTERVAL).contains(&interval) {
        Ok(interval)
    } else {
        Err("the store is read at least every hour (1h), and at most every 50ms".to_owned())
    }
}

/// Parses a duration, and rounds it down to seconds.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, String> {
    duration(text).map(|duration| duration.as_secs())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a duration is one like 30min, 12h, 10d, 1y or \"1y 6months\""))
}

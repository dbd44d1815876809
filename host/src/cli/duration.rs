//! Durations as people write them on a command line.

use std::time::Duration;

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

/// Parses a duration, and rounds it down to seconds.
pub(crate) fn whole_seconds(text: &str) -> Result<u64, String> {
    duration(text).map(|duration| duration.as_secs())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a duration is one like 30min, 12h, 10d, 1y or \"1y 6months\""))
}

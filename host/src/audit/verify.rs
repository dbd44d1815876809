//! Verifying an audit log: whether each line is a record, and follows from the one before it.
//!
//! The chain is made without a secret, so it shows only that the log agrees with itself. Who can write the file can make all of it
//! anew, or leave records out at its end. For that, the hash of a record must be known from elsewhere, or records that the
//! server keeps. Reads a log of any length in one pass.

use std::fmt;
use std::io::{self, BufRead, Read as _};
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::audit::{Kept, MAX_LINE_BYTES, Record, hash};

/// What is known of a log from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Whether it must begin with the first record.
    pub(crate) complete: bool,
    /// The hash of one of its records.
    pub(crate) head: Option<String>,
    /// The newest that the server had before the log was read, oldest first.
    pub(crate) kept: Vec<Kept>,
}

/// A log whose chain is intact.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The number of its first record; the records before are not in it.
    pub(crate) first: u64,
    /// The number of its last record.
    pub(crate) last: u64,
    /// The hash of its last record.
    pub(crate) head: String,
}

/// The log is not known to be intact.
#[derive(Debug, Error)]
pub(crate) enum VerifyError {
    /// It cannot be read.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// It is not.
    #[error(transparent)]
    Misfit(#[from] Misfit),
}

/// The first place that does not fit.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{place}: {what}")]
pub(crate) struct Misfit {
    place: Place,
    what: What,
}

/// A line, counted from 1, and the number of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    line: u64,
    sequence: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, record {}", self.line, self.sequence)
    }
}

/// What is wrong there.
#[derive(Debug, PartialEq, Eq, Error)]
enum What {
    #[error("there is no record at all")]
    Empty,
    #[error("altered: the line is no audit record")]
    NoRecord,
    #[error("truncated: the line has no end")]
    Truncated,
    #[error("altered: its hash is not the one that the next record names")]
    Altered,
    #[error("altered: it does not name the hash of the record before it")]
    Unlinked,
    #[error("altered, this record or the next: the next does not name its hash")]
    AlteredOrNext,
    #[error("altered: by its hash it follows record {before}, by its number it does not")]
    Renumbered { before: u64 },
    #[error("missing: {} should stand here", Records(.0))]
    Missing(RangeInclusive<u64>),
    #[error("out of order: record {expected} should stand here, and stands in line {line}")]
    Moved { expected: u64, line: u64 },
    #[error("out of order: it belongs before line 1")]
    TooLate,
    #[error("repeated: a record of this number stands in line {0}")]
    Repeated(u64),
    #[error("truncated behind this record, or this record was altered: none has the expected hash")]
    NoHead,
    #[error("missing: {} should stand before it", Records(.0))]
    Incomplete(RangeInclusive<u64>),
    #[error(
        "not as the server has it: this record or one before it was written anew, or the log is that of another catalog"
    )]
    Differs,
    #[error("truncated behind this record: the server also has {}", Records(.0))]
    Behind(RangeInclusive<u64>),
    #[error("the server has only records before it")]
    Ahead,
}

struct Records<'a>(&'a RangeInclusive<u64>);

impl fmt::Display for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.0.clone().into_inner();
        if first == last { write!(f, "record {first}") } else { write!(f, "records {first} to {last}") }
    }
}

/// Verifies a log from its first line to its last, and that it holds what is known of it.
pub(crate) fn verify(log: impl BufRead, known: &Known) -> Result<Verified, VerifyError> {
    let head = known.head.as_deref();
    let mut lines = Lines { log, number: 0 };
    let mut first = None;
    let mut before: Option<Line> = None;
    let mut found = head.is_none();
    while let Some(line) = lines.next()? {
        let expected = before.as_ref().map_or(1, |before| before.record.sequence + 1);
        let line = line.read(expected)?;
        if let Some(before) = &before {
            let first = first.unwrap_or(expected);
            if let Some(misfit) = lines.compare(first, before, &line, head.filter(|_| !found))? {
                return Err(misfit.into());
            }
        }
        if first.is_none() {
            known.allows_first(&line)?;
            first = Some(line.record.sequence);
        }
        known.compare(&line)?;
        found |= head == Some(&line.hash);
        before = Some(line);
    }
    let at = |place, what| Err(Misfit { place, what }.into());
    match (first, before) {
        (Some(first), Some(last)) if found => {
            known.allows_last(&last)?;
            Ok(Verified { first, last: last.record.sequence, head: last.hash })
        }
        (_, Some(last)) => at(last.place(), What::NoHead),
        (_, None) => at(Place { line: 1, sequence: 1 }, What::Empty),
    }
}

impl Known {
    fn allows_first(&self, first: &Line) -> Result<(), Misfit> {
        let sequence = first.record.sequence;
        let newest = self.kept.last().map(|kept| kept.record.sequence);
        if self.complete && sequence > 1 {
            Err(first.misfit(What::Incomplete(1..=sequence - 1)))
        } else if newest.is_some_and(|newest| newest < sequence) {
            Err(first.misfit(What::Ahead))
        } else {
            Ok(())
        }
    }

    /// Compares a line with the same of the server, if that keeps it.
    fn compare(&self, line: &Line) -> Result<(), Misfit> {
        let at = self.kept.binary_search_by_key(&line.record.sequence, |kept| kept.record.sequence);
        match at.ok().and_then(|at| self.kept.get(at)) {
            Some(kept) if hash(kept.line.as_bytes()) != line.hash => Err(line.misfit(What::Differs)),
            _ => Ok(()),
        }
    }

    fn allows_last(&self, last: &Line) -> Result<(), Misfit> {
        match self.kept.last().map(|kept| kept.record.sequence) {
            Some(newest) if newest > last.record.sequence => {
                Err(last.misfit(What::Behind(last.record.sequence + 1..=newest)))
            }
            _ => Ok(()),
        }
    }
}

/// A line as it was read, with its end if it has one.
struct Raw {
    number: u64,
    text: Vec<u8>,
}

/// A line that is a record.
struct Line {
    number: u64,
    hash: String,
    record: Record,
}

impl Raw {
    fn read(self, expected: u64) -> Result<Line, Misfit> {
        let misfit = |what| Misfit { place: Place { line: self.number, sequence: expected }, what };
        match self.text.split_last() {
            Some((b'\n', text)) => {
                let record = Record::read(text).ok_or_else(|| misfit(What::NoRecord))?;
                Ok(Line { number: self.number, hash: hash(text), record })
            }
            _ if self.text.len() as u64 == MAX_LINE_BYTES => Err(misfit(What::NoRecord)),
            _ => Err(misfit(What::Truncated)),
        }
    }
}

impl Line {
    fn place(&self) -> Place {
        Place { line: self.number, sequence: self.record.sequence }
    }

    fn misfit(&self, what: What) -> Misfit {
        Misfit { place: self.place(), what }
    }
}

/// The lines of a log.
struct Lines<R> {
    log: R,
    /// That of the last line that was read.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<Raw>> {
        let mut text = Vec::new();
        self.log.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
        self.number += 1;
        Ok((!text.is_empty()).then_some(Raw { number: self.number, text }))
    }

    /// What is wrong if `line`, read last, does not follow from the one before it. Lines behind it are looked at to tell
    /// which of the two is at fault. `head` is a hash that some record from `line` on must have.
    fn compare(
        &mut self,
        first: u64,
        before: &Line,
        line: &Line,
        head: Option<&str>,
    ) -> io::Result<Option<Misfit>> {
        let expected = before.record.sequence + 1;
        let found = line.record.sequence;
        let misfit = match (found == expected, line.record.follows(&before.hash)) {
            (true, true) => return Ok(None),
            (false, true) => {
                Misfit { place: line.place(), what: What::Renumbered { before: before.record.sequence } }
            }
            (true, false) => match self.is_whole(line, head)? {
                Some(true) => Misfit { place: before.place(), what: What::Altered },
                Some(false) => Misfit { place: line.place(), what: What::Unlinked },
                None => Misfit { place: before.place(), what: What::AlteredOrNext },
            },
            (false, false) if found > expected => {
                let what = match self.line_of(expected)? {
                    Some(line) => What::Moved { expected, line },
                    None => What::Missing(expected..=found - 1),
                };
                Misfit { place: line.place(), what }
            }
            (false, false) if found < first => Misfit { place: line.place(), what: What::TooLate },
            (false, false) => Misfit { place: line.place(), what: What::Repeated(found - first + 1) },
        };
        Ok(Some(misfit))
    }

    /// Whether a line is as it was written, if that can be told.
    fn is_whole(&mut self, line: &Line, head: Option<&str>) -> io::Result<Option<bool>> {
        Ok(match self.next()? {
            Some(next) => next
                .read(line.record.sequence + 1)
                .ok()
                .filter(|next| next.record.sequence == line.record.sequence + 1)
                .map(|next| next.record.follows(&line.hash)),
            None => head.map(|head| line.hash == head),
        })
    }

    /// The number of the first line, of those that follow, that is the record with this number.
    fn line_of(&mut self, sequence: u64) -> io::Result<Option<u64>> {
        while let Some(line) = self.next()? {
            if line.read(sequence).is_ok_and(|line| line.record.sequence == sequence) {
                return Ok(Some(self.number));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of an intact log, each with its end.
    fn log(records: u64) -> Vec<String> {
        log_at(records, 17000)
    }

    /// The same, at another time.
    fn log_at(records: u64, at: u64) -> Vec<String> {
        let mut previous = "null".to_owned();
        (1..=records)
            .map(|sequence| {
                let line = format!(
                    r#"{{"sequence":{sequence},"at":{at},"action":"delete","actor":{{"token":0}},"subject":{{"id":7,"name":"cé"}},"origin":"x","previous":{previous}}}"#
                );
                previous = format!("\"{}\"", hash(line.as_bytes()));
                line + "\n"
            })
            .collect()
    }

    fn head(hash: &str) -> Known {
        Known { head: Some(hash.to_owned()), ..Known::default() }
    }

    fn place(log: &[u8], known: Option<&str>) -> Option<u64> {
        match verify(log, &known.map(head).unwrap_or_default()) {
            Ok(_) => None,
            Err(VerifyError::Misfit(misfit)) => Some(misfit.place.line),
            Err(VerifyError::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn an_intact_log_is_told_by_its_ends() {
        let lines = log(12);
        let head = hash(lines[11].trim_end().as_bytes());
        for (skipped, first) in [(0, 1), (1, 2), (11, 12)] {
            let told = verify(lines[skipped..].concat().as_bytes(), &self::head(&head)).unwrap();
            assert_eq!(told, Verified { first, last: 12, head: head.clone() });
        }
        // A hash that was noted earlier is still there; one of a record that never was is not.
        let earlier = hash(lines[3].trim_end().as_bytes());
        assert_eq!(place(lines.concat().as_bytes(), Some(&earlier)), None);
        assert_eq!(place(lines.concat().as_bytes(), Some(&hash(b"never"))), Some(12));
        assert_eq!(place(b"", None), Some(1));
    }

    #[test]
    fn every_flipped_bit_is_found_in_its_line() {
        let lines = log(12);
        let (whole, head) = (lines.concat().into_bytes(), hash(lines[11].trim_end().as_bytes()));
        let mut flipped = whole.clone();
        let mut line = 1;
        for at in 0..whole.len() {
            for bit in 0..8 {
                flipped[at] = whole[at] ^ (1 << bit);
                assert_eq!(place(&flipped, Some(&head)), Some(line), "bit {bit} of byte {at}");
                // Without the hash of the last record, an altered one passes, and the one before it cannot be told from it.
                let alone = place(&flipped, None);
                assert!(alone == Some(line) || line >= 12, "bit {bit} of byte {at}: {alone:?}");
            }
            flipped[at] = whole[at];
            line += u64::from(whole[at] == b'\n');
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        type Break = fn(&mut Vec<String>);
        let cases: [(Break, &str); 13] = [
            (|lines| drop(lines.drain(2..4)), "line 3, record 5: missing: records 3 to 4 should stand here"),
            (|lines| drop(lines.remove(2)), "line 3, record 4: missing: record 3 should stand here"),
            (
                |lines| lines.swap(2, 3),
                "line 3, record 4: out of order: record 3 should stand here, and stands in line 4",
            ),
            (|lines| lines.swap(0, 1), "line 2, record 1: out of order: it belongs before line 1"),
            (
                |lines| lines.insert(5, lines[4].clone()),
                "line 6, record 5: repeated: a record of this number stands in line 5",
            ),
            (
                |lines| lines.insert(5, lines[1].clone()),
                "line 6, record 2: repeated: a record of this number stands in line 2",
            ),
            (
                |lines| lines[4] = lines[4].replace("17000", "17001"),
                "line 5, record 5: altered: its hash is not the one that the next record names",
            ),
            (
                |lines| lines[4] = lines[4].replace("\"sequence\":5", "\"sequence\":7"),
                "line 5, record 7: altered: by its hash it follows record 4, by its number it does not",
            ),
            (
                |lines| lines[4] = lines[3][..20].to_owned() + "\n",
                "line 5, record 5: altered: the line is no audit record",
            ),
            (|lines| lines[11].truncate(40), "line 12, record 12: truncated: the line has no end"),
            (
                |lines| lines[10] = lines[10].replace("17000", "17001"),
                "line 11, record 11: altered, this record or the next: the next does not name its hash",
            ),
            (
                |lines| lines[11] = lines[11].replace(":12,", &format!(":{},", u64::MAX)),
                "line 12, record 12: altered: the line is no audit record",
            ),
            (
                |lines| lines[4] = "x".repeat(1 << 20) + "\n",
                "line 5, record 5: altered: the line is no audit record",
            ),
        ];
        for (break_it, said) in cases {
            let mut lines = log(12);
            break_it(&mut lines);
            assert_eq!(verify(lines.concat().as_bytes(), &Known::default()).unwrap_err().to_string(), said);
        }
        let lines = log(5);
        let head = hash(lines[4].trim_end().as_bytes());
        let cut = verify(lines[..4].concat().as_bytes(), &self::head(&head)).unwrap_err().to_string();
        assert_eq!(
            cut,
            "line 4, record 4: truncated behind this record, or this record was altered: none has the expected hash"
        );
    }

    #[test]
    fn a_log_that_was_written_anew_differs_from_what_the_server_has() {
        type Break = fn(&mut Vec<String>);
        let cases: [(Break, Option<&str>); 8] = [
            (|_| {}, None),
            (|lines| lines.push(log(13).remove(12)), None),
            (|lines| drop(lines.drain(..4)), None),
            (|lines| drop(lines.drain(..10)), None),
            (
                |lines| drop(lines.drain(10..)),
                Some(
                    "line 10, record 10: truncated behind this record: the server also has records 11 to 12",
                ),
            ),
            (
                |lines| drop(lines.drain(2..)),
                Some("line 2, record 2: truncated behind this record: the server also has records 3 to 12"),
            ),
            (
                |lines| *lines = log(14).split_off(12),
                Some("line 1, record 13: the server has only records before it"),
            ),
            (
                |lines| *lines = log_at(12, 17001),
                Some(
                    "line 7, record 7: not as the server has it: this record or one before it was written anew, or the log is that of another catalog",
                ),
            ),
        ];
        let kept =
            || Kept::read(log(12)[6..].iter().map(|line| line.trim_end().to_owned()).collect()).unwrap();
        for (break_it, said) in cases {
            let mut lines = log(12);
            break_it(&mut lines);
            let known = Known { kept: kept(), ..Known::default() };
            let verified = verify(lines.concat().as_bytes(), &known).map_err(|misfit| misfit.to_string());
            assert_eq!(verified.err().as_deref(), said);
        }
        let complete = Known { complete: true, ..Known::default() };
        verify(log(3).concat().as_bytes(), &complete).unwrap();
        let begun_later = verify(log(3)[1..].concat().as_bytes(), &complete).unwrap_err().to_string();
        assert_eq!(begun_later, "line 1, record 2: missing: record 1 should stand before it");
    }
}

//! Verifies an audit log: each line is a record, and links to the record before it.
//!
//! The chain uses no secret key, so it detects accidental and partial edits only. An attacker with
//! write access can rebuild all of it, or drop records at its end. Detecting that takes the hash of
//! a record, stored elsewhere, or the records that the server retains. A log of any length is read
//! in one pass. Knows nothing of files or options.

use std::fmt;
use std::io::{self, BufRead, Read as _};
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::audit::{AuditRecord, MAX_LINE_BYTES, RetainedRecord, hash};

/// The requirements of the caller, beside an intact chain.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    /// Whether the log must begin with the first record.
    pub(crate) complete: bool,
    /// The hash of a record that the log must contain.
    pub(crate) head: Option<String>,
    /// The records that the server retained before the log was read, oldest first.
    pub(crate) kept: Vec<RetainedRecord>,
}

/// A log whose chain is intact.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The sequence of its first record; earlier records are not in the log.
    pub(crate) first: u64,
    /// The sequence of its last record.
    pub(crate) last: u64,
    /// The hash of its last record.
    pub(crate) head: String,
}

/// Why a log did not pass verification.
#[derive(Debug, Error)]
pub(crate) enum VerifyError {
    /// The log cannot be read.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// The log is not intact.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// The first violation of the chain.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{position}: {kind}")]
pub(crate) struct Violation {
    position: Position,
    kind: ViolationKind,
}

/// A line, counted from 1, and the sequence of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    line: u64,
    sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, record {}", self.line, self.sequence)
    }
}

/// The kind of a violation.
#[derive(Debug, PartialEq, Eq, Error)]
enum ViolationKind {
    #[error("there is no record")]
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
    #[error("missing: {} should be here", Records(.0))]
    Missing(RangeInclusive<u64>),
    #[error("out of order: record {expected} should be here, and is in line {line}")]
    Moved { expected: u64, line: u64 },
    #[error("out of order: it belongs before line 1")]
    TooLate,
    #[error("repeated: the record of this sequence is in line {0}")]
    Repeated(u64),
    #[error("truncated after this record, or this record was altered: no record has the expected hash")]
    NoHead,
    #[error("missing: {} should precede it", Records(.0))]
    Incomplete(RangeInclusive<u64>),
    #[error(
        "differs from the server: this record or an earlier one was rewritten, or the log belongs to another catalog"
    )]
    Differs,
    #[error("truncated after this record: the server also has {}", Records(.0))]
    Behind(RangeInclusive<u64>),
    #[error("the server has earlier records only")]
    Ahead,
}

struct Records<'a>(&'a RangeInclusive<u64>);

impl fmt::Display for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.0.clone().into_inner();
        if first == last { write!(f, "record {first}") } else { write!(f, "records {first} to {last}") }
    }
}

/// Verifies a log from its first line to its last, and against the expectations.
pub(crate) fn verify(log: impl BufRead, expectations: &Expectations) -> Result<Verified, VerifyError> {
    let head = expectations.head.as_deref();
    let mut lines = Lines { log, number: 0 };
    let mut first = None;
    let mut before: Option<Line> = None;
    let mut found = head.is_none();
    while let Some(line) = lines.next()? {
        let expected = before.as_ref().map_or(1, |before| before.record.sequence + 1);
        let line = line.read(expected)?;
        if let Some(before) = &before {
            let first = first.unwrap_or(expected);
            if let Some(violation) = lines.compare(first, before, &line, head.filter(|_| !found))? {
                return Err(violation.into());
            }
        }
        if first.is_none() {
            expectations.check_first(&line)?;
            first = Some(line.record.sequence);
        }
        expectations.compare(&line)?;
        found |= head == Some(&line.hash);
        before = Some(line);
    }
    let at = |position, kind| Err(Violation { position, kind }.into());
    match (first, before) {
        (Some(first), Some(last)) if found => {
            expectations.check_last(&last)?;
            Ok(Verified { first, last: last.record.sequence, head: last.hash })
        }
        (_, Some(last)) => at(last.position(), ViolationKind::NoHead),
        (_, None) => at(Position { line: 1, sequence: 1 }, ViolationKind::Empty),
    }
}

impl Expectations {
    fn check_first(&self, first: &Line) -> Result<(), Violation> {
        let sequence = first.record.sequence;
        let newest = self.kept.last().map(|kept| kept.record.sequence);
        if self.complete && sequence > 1 {
            Err(first.violation(ViolationKind::Incomplete(1..=sequence - 1)))
        } else if newest.is_some_and(|newest| newest < sequence) {
            Err(first.violation(ViolationKind::Ahead))
        } else {
            Ok(())
        }
    }

    /// Compares a line with the server's record of the same sequence, if it retains one.
    fn compare(&self, line: &Line) -> Result<(), Violation> {
        let at = self.kept.binary_search_by_key(&line.record.sequence, |kept| kept.record.sequence);
        match at.ok().and_then(|at| self.kept.get(at)) {
            Some(kept) if hash(kept.line.as_bytes()) != line.hash => {
                Err(line.violation(ViolationKind::Differs))
            }
            _ => Ok(()),
        }
    }

    fn check_last(&self, last: &Line) -> Result<(), Violation> {
        match self.kept.last().map(|kept| kept.record.sequence) {
            Some(newest) if newest > last.record.sequence => {
                Err(last.violation(ViolationKind::Behind(last.record.sequence + 1..=newest)))
            }
            _ => Ok(()),
        }
    }
}

/// A line as it was read, with its newline if there is one.
struct RawLine {
    number: u64,
    text: Vec<u8>,
}

/// A line that holds a record.
struct Line {
    number: u64,
    hash: String,
    record: AuditRecord,
}

impl RawLine {
    fn read(self, expected: u64) -> Result<Line, Violation> {
        let violation =
            |kind| Violation { position: Position { line: self.number, sequence: expected }, kind };
        match self.text.split_last() {
            Some((b'\n', text)) => {
                let record = AuditRecord::read(text).ok_or_else(|| violation(ViolationKind::NoRecord))?;
                Ok(Line { number: self.number, hash: hash(text), record })
            }
            _ if self.text.len() as u64 == MAX_LINE_BYTES => Err(violation(ViolationKind::NoRecord)),
            _ => Err(violation(ViolationKind::Truncated)),
        }
    }
}

impl Line {
    fn position(&self) -> Position {
        Position { line: self.number, sequence: self.record.sequence }
    }

    fn violation(&self, kind: ViolationKind) -> Violation {
        Violation { position: self.position(), kind }
    }
}

/// The lines of a log.
struct Lines<R> {
    log: R,
    /// The number of the last line that was read.
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<RawLine>> {
        let mut text = Vec::new();
        self.log.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
        self.number += 1;
        Ok((!text.is_empty()).then_some(RawLine { number: self.number, text }))
    }

    /// Returns the violation if `line`, read last, does not link to the line before it. Reads on to
    /// find out which of the two was altered. `head` is a hash that a record from `line` on must
    /// have.
    fn compare(
        &mut self,
        first: u64,
        before: &Line,
        line: &Line,
        head: Option<&str>,
    ) -> io::Result<Option<Violation>> {
        let expected = before.record.sequence + 1;
        let found = line.record.sequence;
        let violation = match (found == expected, line.record.links_to(&before.hash)) {
            (true, true) => return Ok(None),
            (false, true) => Violation {
                position: line.position(),
                kind: ViolationKind::Renumbered { before: before.record.sequence },
            },
            (true, false) => match self.is_intact(line, head)? {
                Some(true) => Violation { position: before.position(), kind: ViolationKind::Altered },
                Some(false) => Violation { position: line.position(), kind: ViolationKind::Unlinked },
                None => Violation { position: before.position(), kind: ViolationKind::AlteredOrNext },
            },
            (false, false) if found > expected => {
                let kind = match self.line_of(expected)? {
                    Some(line) => ViolationKind::Moved { expected, line },
                    None => ViolationKind::Missing(expected..=found - 1),
                };
                Violation { position: line.position(), kind }
            }
            (false, false) if found < first => {
                Violation { position: line.position(), kind: ViolationKind::TooLate }
            }
            (false, false) => {
                Violation { position: line.position(), kind: ViolationKind::Repeated(found - first + 1) }
            }
        };
        Ok(Some(violation))
    }

    /// Whether the next line links to this one; `None` if there is no next record.
    fn is_intact(&mut self, line: &Line, head: Option<&str>) -> io::Result<Option<bool>> {
        Ok(match self.next()? {
            Some(next) => next
                .read(line.record.sequence + 1)
                .ok()
                .filter(|next| next.record.sequence == line.record.sequence + 1)
                .map(|next| next.record.links_to(&line.hash)),
            None => head.map(|head| line.hash == head),
        })
    }

    /// The number of the first following line that holds the record with this sequence.
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

    /// The lines of an intact log, each with its newline.
    fn log(records: u64) -> Vec<String> {
        log_at(records, 17000)
    }

    /// As [`log`], with another time in each record.
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

    fn head(hash: &str) -> Expectations {
        Expectations { head: Some(hash.to_owned()), ..Expectations::default() }
    }

    fn place(log: &[u8], known: Option<&str>) -> Option<u64> {
        match verify(log, &known.map(head).unwrap_or_default()) {
            Ok(_) => None,
            Err(VerifyError::Violation(violation)) => Some(violation.position.line),
            Err(VerifyError::Io(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn intact_log_reports_first_last_and_head() {
        let lines = log(12);
        let head = hash(lines[11].trim_end().as_bytes());
        for (skipped, first) in [(0, 1), (1, 2), (11, 12)] {
            let verified = verify(lines[skipped..].concat().as_bytes(), &self::head(&head)).unwrap();
            assert_eq!(verified, Verified { first, last: 12, head: head.clone() });
        }
        // The hash of an earlier record is found; an unknown hash is not.
        let earlier = hash(lines[3].trim_end().as_bytes());
        assert_eq!(place(lines.concat().as_bytes(), Some(&earlier)), None);
        assert_eq!(place(lines.concat().as_bytes(), Some(&hash(b"never"))), Some(12));
        assert_eq!(place(b"", None), Some(1));
    }

    #[test]
    fn flipped_bit_is_located() {
        let lines = log(12);
        let (whole, head) = (lines.concat().into_bytes(), hash(lines[11].trim_end().as_bytes()));
        let mut flipped = whole.clone();
        let mut line = 1;
        for at in 0..whole.len() {
            for bit in 0..8 {
                flipped[at] = whole[at] ^ (1 << bit);
                assert_eq!(place(&flipped, Some(&head)), Some(line), "bit {bit} of byte {at}");
                // Without the expected head, an altered last record passes; one before it is
                // ambiguous.
                let alone = place(&flipped, None);
                assert!(alone == Some(line) || line >= 12, "bit {bit} of byte {at}: {alone:?}");
            }
            flipped[at] = whole[at];
            line += u64::from(whole[at] == b'\n');
        }
    }

    #[test]
    fn violations_are_described() {
        type Break = fn(&mut Vec<String>);
        let cases: [(Break, &str); 13] = [
            (|lines| drop(lines.drain(2..4)), "line 3, record 5: missing: records 3 to 4 should be here"),
            (|lines| drop(lines.remove(2)), "line 3, record 4: missing: record 3 should be here"),
            (
                |lines| lines.swap(2, 3),
                "line 3, record 4: out of order: record 3 should be here, and is in line 4",
            ),
            (|lines| lines.swap(0, 1), "line 2, record 1: out of order: it belongs before line 1"),
            (
                |lines| lines.insert(5, lines[4].clone()),
                "line 6, record 5: repeated: the record of this sequence is in line 5",
            ),
            (
                |lines| lines.insert(5, lines[1].clone()),
                "line 6, record 2: repeated: the record of this sequence is in line 2",
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
        for (break_it, text) in cases {
            let mut lines = log(12);
            break_it(&mut lines);
            assert_eq!(
                verify(lines.concat().as_bytes(), &Expectations::default()).unwrap_err().to_string(),
                text
            );
        }
        let lines = log(5);
        let head = hash(lines[4].trim_end().as_bytes());
        let cut = verify(lines[..4].concat().as_bytes(), &self::head(&head)).unwrap_err().to_string();
        assert_eq!(
            cut,
            "line 4, record 4: truncated after this record, or this record was altered: no record has the expected hash"
        );
    }

    #[test]
    fn rewritten_log_differs_from_server_records() {
        type Break = fn(&mut Vec<String>);
        let cases: [(Break, Option<&str>); 8] = [
            (|_| {}, None),
            (|lines| lines.push(log(13).remove(12)), None),
            (|lines| drop(lines.drain(..4)), None),
            (|lines| drop(lines.drain(..10)), None),
            (
                |lines| drop(lines.drain(10..)),
                Some("line 10, record 10: truncated after this record: the server also has records 11 to 12"),
            ),
            (
                |lines| drop(lines.drain(2..)),
                Some("line 2, record 2: truncated after this record: the server also has records 3 to 12"),
            ),
            (
                |lines| *lines = log(14).split_off(12),
                Some("line 1, record 13: the server has earlier records only"),
            ),
            (
                |lines| *lines = log_at(12, 17001),
                Some(
                    "line 7, record 7: differs from the server: this record or an earlier one was rewritten, or the log belongs to another catalog",
                ),
            ),
        ];
        let kept = || {
            RetainedRecord::read(log(12)[6..].iter().map(|line| line.trim_end().to_owned()).collect())
                .unwrap()
        };
        for (break_it, text) in cases {
            let mut lines = log(12);
            break_it(&mut lines);
            let known = Expectations { kept: kept(), ..Expectations::default() };
            let verified =
                verify(lines.concat().as_bytes(), &known).map_err(|violation| violation.to_string());
            assert_eq!(verified.err().as_deref(), text);
        }
        let complete = Expectations { complete: true, ..Expectations::default() };
        verify(log(3).concat().as_bytes(), &complete).unwrap();
        let begun_later = verify(log(3)[1..].concat().as_bytes(), &complete).unwrap_err().to_string();
        assert_eq!(begun_later, "line 1, record 2: missing: record 1 should precede it");
    }
}

//! The audit log: a file to which the records of a catalog are appended, each once and in their order.
//!
//! The catalog is ahead of it: a change is durable there before its record is written here. Whatever the file lacks, after
//! a crash or a full disk, is made up for from the newest records, which the catalog keeps.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{MAX_LINE_BYTES, Record, hash};

/// The mode of a new log. Somebody may give one to more readers later.
const FILE_MODE: u32 = 0o600;

/// An audit log that nobody else writes to.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    file: File,
    /// Whether it is a file. The end of a device or a pipe can neither be read, nor cut off, nor synced.
    regular: bool,
    /// The last whole record in it.
    last: Option<Last>,
    torn: Option<Torn>,
}

#[derive(Debug)]
struct Last {
    sequence: u64,
    hash: String,
}

/// What stands behind the last whole line.
#[derive(Debug)]
struct Torn {
    /// Where it begins.
    at: u64,
    /// What is known of it.
    text: Vec<u8>,
}

/// The audit log cannot be used, or not be brought up to date.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditLogError {
    /// It cannot be opened or read.
    #[error("cannot open the audit log {}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// Another process has it.
    #[error("the audit log {} is written by another server; give each server a log of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It ends in something else.
    #[error("{} is not an audit log: its last line is no audit record; choose another file", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// Its last record is not one of this catalog's.
    #[error(
        "the audit log {} is not that of this catalog: its last record, number {sequence}, is another one there, or not yet \
         there; was the store replaced, or the file altered? Check it with influxdb3 audit verify, and move it away or \
         choose another",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The number of its last record.
        sequence: u64,
    },
    /// It ends in a part of a line that is not the beginning of a record that the catalog still keeps.
    #[error(
        "the audit log {} ends in a part of a line that the catalog cannot complete; check it with influxdb3 audit verify, \
         and move it away",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The records of the catalog cannot be had.
    #[error("cannot bring the audit log up to date: {0}")]
    Catalog(String),
    /// They cannot be written. Those that were not are written with the next.
    #[error("cannot append to the audit log {}: {reason}", path.display())]
    Append {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

impl AuditLog {
    /// Opens the log, or makes it with mode 0600, and reads its end.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditLogError> {
        let failed = |reason| AuditLogError::Open { path: path.to_owned(), reason };
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(FILE_MODE).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mut log =
            Self { path: path.to_owned(), file, regular: metadata.is_file(), last: None, torn: None };
        if log.regular {
            log.file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => AuditLogError::InUse { path: path.to_owned() },
                TryLockError::Error(reason) => failed(reason),
            })?;
            // The name of a new file must survive a power cut as well.
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(directory.unwrap_or(Path::new("."))).and_then(|it| it.sync_all()).map_err(failed)?;
            log.read_end()?;
        }
        Ok(log)
    }

    fn read_end(&mut self) -> Result<(), AuditLogError> {
        let not_a_log = || AuditLogError::NotALog { path: self.path.clone() };
        // One whole line, what is torn behind it, and the end of a line before.
        let (begin, end) = tail(&self.file, 2 * MAX_LINE_BYTES + 1)
            .map_err(|reason| AuditLogError::Open { path: self.path.clone(), reason })?;
        let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let (whole, torn) = end.split_at(whole);
        if let Some((_, line)) = whole.split_last() {
            let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let record = Record::read(line).ok_or_else(not_a_log)?;
            self.last = Some(Last { sequence: record.sequence, hash: hash(line) });
        } else if begin > 0 {
            return Err(not_a_log());
        }
        if !torn.is_empty() {
            // After a power cut, a file may have its length and not yet all of its content.
            let text = torn.iter().rposition(|byte| *byte != 0).and_then(|last| torn.get(..=last));
            let at = begin + whole.len() as u64;
            self.torn = Some(Torn { at, text: text.unwrap_or_default().to_vec() });
        }
        Ok(())
    }

    /// Appends those records that are not in the log yet. `kept` are the newest of the catalog, oldest first.
    ///
    /// Returns when they are on disk. After an error the log is as it was, or is made so by the next try.
    pub(crate) fn catch_up(&mut self, kept: &[String]) -> Result<(), AuditLogError> {
        let no_record = || AuditLogError::Catalog("the component gives a record that is none".to_owned());
        let kept = kept.iter().map(|line| Some((Record::read(line.as_bytes())?, line.as_str())));
        let kept = kept.collect::<Option<Vec<_>>>().ok_or_else(no_record)?;
        let (new, missing) = self.new_of(&kept)?;
        if let Some(torn) = &self.torn {
            // Behind a whole line there can only be the next one; the first may be any, by now.
            let next = if self.last.is_some() { new.get(..1).unwrap_or_default() } else { new };
            if !next.iter().any(|(_, line)| line.as_bytes().starts_with(&torn.text)) {
                return Err(AuditLogError::Damaged { path: self.path.clone() });
            }
        }
        let Some((newest, line)) = new.last() else { return Ok(()) };
        let batch: String = new.iter().flat_map(|(_, line)| [line, "\n"]).collect();
        self.append(batch.as_bytes())
            .map_err(|reason| AuditLogError::Append { path: self.path.clone(), reason })?;
        if let Some(missing) = missing {
            tracing::error!(
                "the audit log {} lacks the records {} to {}: there were more changes than the catalog keeps records of; \
                 influxdb3 audit verify names the gap, and does not look behind it",
                self.path.display(),
                missing.start(),
                missing.end()
            );
        }
        self.last = Some(Last { sequence: newest.sequence, hash: hash(line.as_bytes()) });
        Ok(())
    }

    /// Which of the kept records are new, and the numbers of those that are lost between them and the log.
    fn new_of<'a, 'b>(&self, kept: &'a [Kept<'b>]) -> Result<New<'a, 'b>, AuditLogError> {
        let Some(last) = &self.last else { return Ok((kept, None)) };
        let new = kept.iter().position(|(record, _)| record.sequence > last.sequence).unwrap_or(kept.len());
        let (old, new) = kept.split_at_checked(new).unwrap_or((&[], kept));
        let fits = match (old.last(), new.first()) {
            (Some((record, line)), _) => {
                record.sequence == last.sequence && hash(line.as_bytes()) == last.hash
            }
            (None, Some((oldest, _))) if oldest.sequence - 1 > last.sequence => {
                return Ok((new, Some(last.sequence + 1..=oldest.sequence - 1)));
            }
            (None, Some((oldest, _))) => oldest.follows(&last.hash),
            (None, None) => false,
        };
        if fits {
            Ok((new, None))
        } else {
            Err(AuditLogError::Foreign { path: self.path.clone(), sequence: last.sequence })
        }
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        if !self.regular {
            return self.file.write_all(batch);
        }
        if let Some(Torn { at, .. }) = &self.torn {
            self.file.set_len(*at)?;
            self.torn = None;
        }
        let at = self.file.metadata()?.len();
        let written = self.file.write_all(batch).and_then(|()| self.file.sync_data());
        if written.is_err() {
            self.torn = Some(Torn { at, text: Vec::new() });
        }
        written
    }
}

/// A record that the catalog keeps, and its line.
type Kept<'a> = (Record, &'a str);

/// New records, and the numbers of those that are lost before them.
type New<'a, 'b> = (&'a [Kept<'b>], Option<RangeInclusive<u64>>);

/// The last bytes of a file, at most so many, and where they begin.
fn tail(mut file: &File, bytes: u64) -> io::Result<(u64, Vec<u8>)> {
    let begin = file.metadata()?.len().saturating_sub(bytes);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    file.read_to_end(&mut tail)?;
    Ok((begin, tail))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn records(count: u64) -> Vec<String> {
        let mut previous = "null".to_owned();
        (1..=count)
            .map(|sequence| {
                let line = format!(
                    r#"{{"sequence":{sequence},"at":0,"action":"x","actor":"recovery","subject":null,"origin":"","previous":{previous}}}"#
                );
                previous = format!("\"{}\"", hash(line.as_bytes()));
                line
            })
            .collect()
    }

    #[test]
    fn what_a_failed_append_has_left_behind_does_not_stand_before_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let kept = records(3);
        let mut log = AuditLog::open(&path).unwrap();
        log.catch_up(&kept[..1]).unwrap();
        // It can be read only; half of a record gets there all the same.
        let writable = std::mem::replace(&mut log.file, File::open(&path).unwrap());
        assert!(matches!(log.catch_up(&kept[..2]), Err(AuditLogError::Append { .. })));
        (&writable).write_all(&kept[1].as_bytes()[..20]).unwrap();
        log.file = writable;
        log.catch_up(&kept).unwrap();
        log.catch_up(&kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), kept.join("\n") + "\n");
    }
}

//! The audit log: a file to which the records of a catalog are appended, each once and in their order.
//!
//! The catalog is ahead of it: a change is durable there before its record is written here. Whatever the file lacks, after
//! a crash or a full disk, is made up for from the newest records, which the catalog keeps.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::audit::{MAX_LINE_BYTES, Record, hash};

/// The mode of a new log. Somebody may give one to more readers later.
const FILE_MODE: u32 = 0o600;

/// The bits of a mode by which more than some chosen readers get at a log: all may read it, or others write to it.
const TOO_OPEN: u32 = 0o026;

/// An audit log that nobody else writes to.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    file: File,
    /// Whether it is a file. The end of a device can neither be read, nor cut off, nor synced.
    regular: bool,
    /// The last whole record in it, or in the file that was moved away from this path.
    last: Option<Last>,
    torn: Option<Torn>,
}

/// A record that the catalog keeps, and its line.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) record: Record,
    pub(crate) line: String,
}

impl Kept {
    /// All of them, oldest first.
    pub(crate) fn read(lines: Vec<String>) -> Result<Vec<Self>, AuditLogError> {
        let no_record = || AuditLogError::Catalog("the component gives a record that is none".to_owned());
        let kept = |line: String| Some(Self { record: Record::read(line.as_bytes())?, line });
        lines.into_iter().map(kept).collect::<Option<_>>().ok_or_else(no_record)
    }
}

#[derive(Debug, Clone)]
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
    /// It is something else than a file or a character device.
    #[error(
        "the audit log {} is neither a file nor a character device: what nobody reads in time would hold the records up; \
         write to a file, and let whoever reads it follow that",
        path.display()
    )]
    NoFile {
        /// What stands there.
        path: PathBuf,
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
        if !metadata.is_file() && !metadata.file_type().is_char_device() {
            return Err(AuditLogError::NoFile { path: path.to_owned() });
        }
        let mut log =
            Self { path: path.to_owned(), file, regular: metadata.is_file(), last: None, torn: None };
        if log.regular {
            if metadata.mode() & TOO_OPEN != 0 {
                tracing::warn!(
                    "the audit log {} has mode {:04o}: others can read or write it, and who can write it can replace all of \
                     it; chmod 0600 or 0640",
                    path.display(),
                    metadata.mode() & 0o7777
                );
            }
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

    /// Appends those records that are not in the log yet. `kept` are the newest of the catalog, oldest first. Tells how many
    /// records before them are lost.
    ///
    /// Returns when they are on disk. After an error the log is as it was, or is made so by the next try.
    pub(crate) fn catch_up(&mut self, kept: &[Kept]) -> Result<u64, AuditLogError> {
        if self.regular {
            self.follow_path()?;
        }
        let new = self.new_of(kept)?;
        if self.torn.as_ref().is_some_and(|torn| !self.can_complete(&torn.text, new)) {
            return Err(AuditLogError::Damaged { path: self.path.clone() });
        }
        let Some(newest) = new.last() else { return Ok(0) };
        let batch: String = new.iter().flat_map(|kept| [&kept.line, "\n"]).collect();
        self.append(batch.as_bytes())
            .map_err(|reason| AuditLogError::Append { path: self.path.clone(), reason })?;
        let lost = self.tell_gaps(new);
        self.last = Some(Last { sequence: newest.record.sequence, hash: hash(newest.line.as_bytes()) });
        Ok(lost)
    }

    /// Goes on in a new file, if the one that is open is not at its path any more: that is how logs are rotated.
    fn follow_path(&mut self) -> Result<(), AuditLogError> {
        let failed = |reason| AuditLogError::Open { path: self.path.clone(), reason };
        let open = self.file.metadata().map_err(failed)?;
        let same = |there: &Metadata| (there.dev(), there.ino()) == (open.dev(), open.ino());
        match fs::metadata(&self.path) {
            Ok(there) if same(&there) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut log = Self::open(&self.path)?;
        if let Some(Torn { at, .. }) = self.torn {
            self.file.set_len(at).map_err(failed)?;
        }
        // A file that was deleted holds nothing for anybody: the new one then gets all that the catalog still keeps.
        if log.last.is_none() && log.torn.is_none() && open.nlink() > 0 {
            log.last.clone_from(&self.last);
        }
        tracing::info!("the audit log was moved away, and goes on in a new file at {}", self.path.display());
        *self = log;
        Ok(())
    }

    /// Which of the kept records are new.
    fn new_of<'a>(&self, kept: &'a [Kept]) -> Result<&'a [Kept], AuditLogError> {
        let Some(last) = &self.last else { return Ok(kept) };
        let new = kept.iter().position(|kept| kept.record.sequence > last.sequence).unwrap_or(kept.len());
        let (old, new) = kept.split_at_checked(new).unwrap_or((&[], kept));
        let fits = match (old.last(), new.first()) {
            (Some(Kept { record, line }), _) => {
                record.sequence == last.sequence && hash(line.as_bytes()) == last.hash
            }
            // Records are lost in between.
            (None, Some(oldest)) if oldest.record.sequence - 1 > last.sequence => true,
            (None, Some(oldest)) => oldest.record.follows(&last.hash),
            (None, None) => false,
        };
        if fits {
            Ok(new)
        } else {
            Err(AuditLogError::Foreign { path: self.path.clone(), sequence: last.sequence })
        }
    }

    /// Whether what stands behind the last whole line is the beginning of what belongs there, so that cutting it off loses
    /// nothing.
    fn can_complete(&self, torn: &[u8], new: &[Kept]) -> bool {
        let begins = |kept: &Kept| kept.line.as_bytes().starts_with(torn);
        let is_gone = |next: u64| new.first().is_some_and(|oldest| oldest.record.sequence > next);
        match self.last.as_ref().map(|last| last.sequence.saturating_add(1)) {
            // The catalog does not keep it any more: its number is all that it can be known by.
            Some(next) if is_gone(next) => {
                let head = format!("{SEQUENCE}{next},");
                torn.starts_with(head.as_bytes()) || head.as_bytes().starts_with(torn)
            }
            // Behind a whole line there can only be the next one; the first may be any, by now.
            Some(_) => new.first().is_some_and(begins),
            None => new.iter().any(begins) || number_of(torn).is_some_and(is_gone),
        }
    }

    /// Says which records are lost, and how many they are.
    fn tell_gaps(&self, new: &[Kept]) -> u64 {
        let last = self.last.as_ref().map(|last| last.sequence);
        let before = last.or_else(|| Some(new.first()?.record.sequence - 1));
        let sequences = || new.iter().map(|kept| kept.record.sequence);
        let gaps = before.into_iter().chain(sequences()).zip(sequences());
        gaps.fold(0, |lost, (before, next)| {
            let missing = (next - before).saturating_sub(1);
            if missing > 0 {
                tracing::error!(
                    "the audit log {} lacks the records {} to {}: there were more changes than the catalog keeps records of; \
                     influxdb3 audit verify names the gap, and does not look behind it",
                    self.path.display(),
                    before + 1,
                    next - 1
                );
            }
            lost + missing
        })
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

/// How every line begins, up to the number of its record.
const SEQUENCE: &str = "{\"sequence\":";

/// The number in the beginning of a line, if that goes so far.
fn number_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(SEQUENCE.as_bytes())?.split(|byte| *byte == b',').next()?;
    str::from_utf8(digits).ok()?.parse().ok()
}

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

    fn records(count: u64) -> Vec<Kept> {
        let mut previous = "null".to_owned();
        let lines = (1..=count)
            .map(|sequence| {
                let line = format!(
                    r#"{{"sequence":{sequence},"at":0,"action":"x","actor":"recovery","subject":null,"origin":"","previous":{previous}}}"#
                );
                previous = format!("\"{}\"", hash(line.as_bytes()));
                line
            })
            .collect();
        Kept::read(lines).unwrap()
    }

    fn text(kept: &[Kept]) -> String {
        kept.iter().map(|kept| kept.line.clone() + "\n").collect()
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
        (&writable).write_all(&kept[1].line.as_bytes()[..20]).unwrap();
        log.file = writable;
        log.catch_up(&kept).unwrap();
        log.catch_up(&kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept));
    }

    #[test]
    fn a_fragment_is_cut_off_only_where_the_next_record_could_begin_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let kept = records(30);
        for (whole, fragment, newest, lost) in [
            // Of a record that is kept.
            (10, r#"{"sequence":11,"at":0,"#, 5, Some(0)),
            (10, r#"{"sequence":12,"#, 5, None),
            (10, r#"{"sequence":11,"at":1"#, 5, None),
            // Of one that is not any more.
            (10, r#"{"sequence":11,"at":1"#, 20, Some(10)),
            (10, r#"{"sequence":1"#, 20, Some(10)),
            (10, r#"{"se"#, 20, Some(10)),
            (10, "", 20, Some(10)),
            (10, r#"{"sequence":12,"#, 20, None),
            (10, r#"{"sequence":21,"at":0,"#, 20, None),
            (10, "x", 20, None),
            // Of the first that there is.
            (0, r#"{"sequence":1,"at":1"#, 20, Some(0)),
            (0, r#"{"sequence":25,"at":0"#, 20, Some(0)),
            (0, r#"{"sequence":25,"at":1"#, 20, None),
            (0, "x", 20, None),
        ] {
            let begun = text(&kept[..whole]);
            fs::write(&path, begun.clone() + fragment).unwrap();
            let told = AuditLog::open(&path).unwrap().catch_up(&kept[newest..]).ok();
            assert_eq!(told, lost, "{whole} whole, {fragment:?}");
            let content = match lost {
                Some(_) => begun + &text(&kept[newest.max(whole)..]),
                None => begun + fragment,
            };
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "{whole} whole, {fragment:?}");
        }
    }

    #[test]
    fn a_file_that_was_moved_or_deleted_is_followed_by_another_at_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("audit.jsonl"), directory.path().join("audit.jsonl.1"));
        let kept = records(6);
        let mut log = AuditLog::open(&path).unwrap();
        log.catch_up(&kept[..2]).unwrap();
        fs::rename(&path, &moved).unwrap();
        log.catch_up(&kept[..2]).unwrap();
        log.catch_up(&kept[..3]).unwrap();
        // As logrotate does it where it is told to create.
        fs::rename(&path, directory.path().join("audit.jsonl.0")).unwrap();
        File::create(&path).unwrap();
        log.catch_up(&kept[..4]).unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), text(&kept[..2]));
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept[3..4]));
        fs::remove_file(&path).unwrap();
        log.catch_up(&kept[1..5]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept[1..5]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, FILE_MODE);
        // Somebody has put an older one back.
        fs::remove_file(&path).unwrap();
        fs::copy(&moved, &path).unwrap();
        log.catch_up(&kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept));
        // And one of another catalog.
        fs::rename(&path, &moved).unwrap();
        fs::write(&path, text(&kept[..1]).replace("\"at\":0", "\"at\":1")).unwrap();
        assert!(matches!(log.catch_up(&kept), Err(AuditLogError::Foreign { sequence: 1, .. })));
    }
}

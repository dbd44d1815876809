//! The audit log: a file that holds the records of a catalog, each once and in order.
//!
//! A change is durable in the catalog before its record is appended here. After a crash or a full
//! disk, the missing records are appended from the newest records, which the catalog retains.
//! Knows nothing of threads and of the component.

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::audit::{AuditRecord, MAX_LINE_BYTES, hash};
use crate::private_file::{Mode, PRIVATE_MODE, identity, sync_directory_of};
use crate::token::now;

/// An audit log, locked against other writers.
#[derive(Debug)]
pub(crate) struct AuditLog {
    path: PathBuf,
    file: File,
    /// Whether it is a regular file. A device cannot be read back, truncated or synced.
    regular: bool,
    /// The last whole record of the file, or of the file that was moved away from this path.
    last: Option<Head>,
    torn: Option<TornWrite>,
    /// The length that the file has if no other program has changed it.
    end: u64,
    /// Whether the last line has no end, and belongs to another program.
    unfinished: bool,
    /// Whether records were appended, or none was missing, since the log was opened.
    in_use: bool,
}

/// A record that the catalog retains, and its line.
#[derive(Debug)]
pub(crate) struct RetainedRecord {
    pub(crate) record: AuditRecord,
    pub(crate) line: String,
}

impl RetainedRecord {
    /// Parses the lines, oldest first.
    pub(crate) fn read(lines: Vec<String>) -> Result<Vec<Self>, AuditLogError> {
        let no_record =
            || AuditLogError::Catalog("the component returned a line that is not an audit record".to_owned());
        let kept = |line: String| Some(Self { record: AuditRecord::read(line.as_bytes())?, line });
        lines.into_iter().map(kept).collect::<Option<_>>().ok_or_else(no_record)
    }
}

#[derive(Debug, Clone)]
struct Head {
    sequence: u64,
    hash: String,
}

/// The bytes after the last whole line.
#[derive(Debug)]
struct TornWrite {
    /// The offset of the first byte.
    at: u64,
    /// The bytes, without trailing zeros.
    text: Vec<u8>,
}

/// The audit log cannot be used, or cannot be brought up to date.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditLogError {
    /// The file cannot be opened or read.
    #[error("cannot open the audit log {}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: io::Error,
    },
    /// The path is neither a regular file nor a character device.
    #[error(
        "the audit log {} is neither a file nor a character device: a slow reader would block the records; \
         write to a file, and let the reader follow it",
        path.display()
    )]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// Another user could have made the file, or can replace it.
    #[error("cannot use the audit log {}: {reason}", path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The component of the path, its owner and mode, and what to do.
        reason: String,
    },
    /// Another process has locked the file.
    #[error("the audit log {} is written by another server; give each server its own log", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The last line is not a record.
    #[error("{} is not an audit log: its last line is not an audit record; choose another file", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// The last record does not belong to this catalog.
    #[error(
        "the audit log {} does not belong to this catalog: the catalog has another record {sequence}, or none yet; \
         was the store lost or replaced, or the file altered? Check it with `audit verify`. Put the newest store back, or \
         `restore` a backup; move the log away only if the store is meant as it is",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The sequence of its last record.
        sequence: u64,
    },
    /// The file ends in a partial line that is not the beginning of a retained record.
    #[error(
        "the audit log {} ends in a partial line that the catalog cannot complete; check it with `audit verify`, \
         and move it away",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The disk does not answer, so that the file could not be opened again in time.
    #[error("the audit log could not be opened again in time; its disk does not answer")]
    Busy,
    /// The component does not return the records of the catalog.
    #[error("cannot bring the audit log up to date: {0}")]
    Catalog(String),
    /// The records cannot be written. They are written together with the next ones.
    #[error("cannot append to the audit log {}: {reason}", path.display())]
    Append {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: io::Error,
    },
}

impl AuditLog {
    /// Opens the log, creates it with mode 0600 if needed, and reads its end.
    pub(crate) fn open(path: &Path) -> Result<Self, AuditLogError> {
        let failed = |reason| AuditLogError::Open { path: path.to_owned(), reason };
        let is_new = trusted_metadata(path)?.is_none();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(PRIVATE_MODE);
        let file = options.open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() && !metadata.file_type().is_char_device() {
            return Err(AuditLogError::NoFile { path: path.to_owned() });
        }
        // Between the check and the opening, another user could have put a file there.
        if trusted_metadata(path)?.is_some_and(|found| identity(&found) != identity(&metadata)) {
            return Err(failed(io::Error::other("another file has replaced it meanwhile; start again")));
        }
        let mut log = Self {
            path: path.to_owned(),
            file,
            regular: metadata.is_file(),
            last: None,
            torn: None,
            end: 0,
            unfinished: false,
            in_use: false,
        };
        if log.regular {
            if is_new {
                // The umask does not apply.
                log.file.set_permissions(Permissions::from_mode(PRIVATE_MODE)).map_err(failed)?;
            }
            let mode = Mode::of(&log.file.metadata().map_err(failed)?);
            // The operator may let the group read it.
            if mode.is_world_readable() || mode.is_writable_by_others() {
                tracing::warn!(
                    "the audit log {} has mode {mode:04o}: other users can read it, or write and so replace it; \
                     chmod 0600 or 0640",
                    path.display()
                );
            }
            log.file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => AuditLogError::InUse { path: path.to_owned() },
                TryLockError::Error(reason) => failed(reason),
            })?;
            sync_directory_of(path).map_err(failed)?;
            log.read_end()?;
        }
        Ok(log)
    }

    fn read_end(&mut self) -> Result<(), AuditLogError> {
        let not_a_log = || AuditLogError::NotALog { path: self.path.clone() };
        // One whole line, a torn one after it, and the end of the line before.
        let (begin, end) = tail(&self.file, 2 * MAX_LINE_BYTES + 1)
            .map_err(|reason| AuditLogError::Open { path: self.path.clone(), reason })?;
        let whole = end.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let (whole, torn) = end.split_at(whole);
        let length = begin + (whole.len() + torn.len()) as u64;
        if let Some((_, line)) = whole.split_last() {
            let line = line.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
            let record = AuditRecord::read(line).ok_or_else(not_a_log)?;
            self.last = Some(Head { sequence: record.sequence, hash: hash(line) });
        } else if begin > 0 {
            return Err(not_a_log());
        }
        if !torn.is_empty() {
            // After a power cut, a file may have its length but not all of its content.
            let text = torn.iter().rposition(|byte| *byte != 0).and_then(|last| torn.get(..=last));
            let at = begin + whole.len() as u64;
            self.torn = Some(TornWrite { at, text: text.unwrap_or_default().to_vec() });
        }
        self.end = length;
        Ok(())
    }

    /// Appends the records that are not in the log yet. `kept` holds the newest records of the
    /// catalog, oldest first. Returns how many records before them are lost.
    ///
    /// Returns after the records are on disk. After an error the log is unchanged, or the next
    /// attempt truncates it to that state.
    pub(crate) fn append_missing(&mut self, kept: &[RetainedRecord]) -> Result<u64, AuditLogError> {
        if self.regular {
            self.follow_path()?;
            self.notice_change()?;
        }
        let new = self.unrecorded(kept)?;
        if self.torn.as_ref().is_some_and(|torn| !self.is_prefix_of_next(&torn.text, new)) {
            if !self.in_use {
                return Err(AuditLogError::Damaged { path: self.path.clone() });
            }
            // Another program has left it since. It stays as evidence.
            (self.torn, self.unfinished) = (None, true);
        }
        self.in_use = true;
        let Some(newest) = new.last() else { return Ok(0) };
        let batch: String = new.iter().flat_map(|kept| [&kept.line, "\n"]).collect();
        self.append(batch.as_bytes())
            .map_err(|reason| AuditLogError::Append { path: self.path.clone(), reason })?;
        let lost = self.report_gaps(new);
        self.last = Some(Head { sequence: newest.record.sequence, hash: hash(newest.line.as_bytes()) });
        Ok(lost)
    }

    /// Opens the file at the path if it is another than the open one, as the next record would.
    pub(crate) fn reopen(&mut self) -> Result<(), AuditLogError> {
        if self.regular { self.follow_path() } else { Ok(()) }
    }

    /// The sequence of the last whole record.
    pub(crate) fn last_sequence(&self) -> Option<u64> {
        self.last.as_ref().map(|last| last.sequence)
    }

    /// Checks that the records of a catalog continue this log.
    pub(crate) fn check_continued_by(&self, kept: &[RetainedRecord]) -> Result<(), AuditLogError> {
        self.unrecorded(kept).map(drop)
    }

    /// Renames the file, whose records after `sequence` were replaced, and opens a new one.
    pub(crate) fn set_aside(&mut self, sequence: u64) -> Result<(), AuditLogError> {
        if !self.regular {
            return Ok(());
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".replaced-at-{sequence}.{}", now()));
        let failed = |reason| AuditLogError::Open { path: self.path.clone(), reason };
        fs::rename(&self.path, &name).map_err(failed)?;
        tracing::warn!(
            "the audit log {} has records that this state of the catalog does not have; it is {} from now on",
            self.path.display(),
            name.display()
        );
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Opens a new file if the open one is no longer at its path, as after a log rotation.
    fn follow_path(&mut self) -> Result<(), AuditLogError> {
        let failed = |reason| AuditLogError::Open { path: self.path.clone(), reason };
        let open = self.file.metadata().map_err(failed)?;
        match fs::metadata(&self.path) {
            Ok(there) if identity(&there) == identity(&open) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut log = Self::open(&self.path)?;
        if let Some(TornWrite { at, .. }) = self.torn
            && at < open.len()
        {
            self.file.set_len(at).map_err(failed)?;
        }
        // A deleted file cannot be read any more, so the new one gets all retained records.
        if log.last.is_none() && log.torn.is_none() && open.nlink() > 0 {
            log.last.clone_from(&self.last);
        }
        tracing::info!("the audit log was moved away and continues in a new file at {}", self.path.display());
        *self = log;
        Ok(())
    }

    /// Reads the end of the file again if another program has cut the file, or written to it.
    /// Records that were cut off are then appended again, if the catalog retains them.
    fn notice_change(&mut self) -> Result<(), AuditLogError> {
        let failed = |reason| AuditLogError::Open { path: self.path.clone(), reason };
        let length = self.file.metadata().map_err(failed)?.len();
        let is_changed = match &self.torn {
            Some(torn) => length < torn.at,
            None => length != self.end,
        };
        if !is_changed {
            return Ok(());
        }
        let path = self.path.clone();
        tracing::warn!(
            "another program has changed the audit log {} ({} bytes instead of {}); check it with `audit verify`",
            path.display(),
            length,
            self.end
        );
        let last = self.last.take();
        (self.torn, self.unfinished, self.end) = (None, false, length);
        if length == 0 {
            // A copy has the records, as after a log rotation that truncates.
            self.last = last;
            return Ok(());
        }
        match self.read_end() {
            Err(AuditLogError::NotALog { .. }) => {
                let failed = |reason| AuditLogError::Open { path, reason };
                let (_, end) = tail(&self.file, 1).map_err(failed)?;
                (self.last, self.torn, self.unfinished) = (last, None, end != b"\n");
                Ok(())
            }
            read => read,
        }
    }

    /// Returns the records that the log lacks.
    fn unrecorded<'a>(&self, kept: &'a [RetainedRecord]) -> Result<&'a [RetainedRecord], AuditLogError> {
        let Some(last) = &self.last else { return Ok(kept) };
        let new = kept.iter().position(|kept| kept.record.sequence > last.sequence).unwrap_or(kept.len());
        let (old, new) = kept.split_at_checked(new).unwrap_or((&[], kept));
        let fits = match (old.last(), new.first()) {
            (Some(RetainedRecord { record, line }), _) => {
                record.sequence == last.sequence && hash(line.as_bytes()) == last.hash
            }
            // The records in between are lost.
            (None, Some(oldest)) if oldest.record.sequence - 1 > last.sequence => true,
            (None, Some(oldest)) => oldest.record.links_to(&last.hash),
            (None, None) => false,
        };
        if fits {
            Ok(new)
        } else {
            Err(AuditLogError::Foreign { path: self.path.clone(), sequence: last.sequence })
        }
    }

    /// Whether the torn bytes are the beginning of the next record, so that truncating them loses
    /// nothing.
    fn is_prefix_of_next(&self, torn: &[u8], new: &[RetainedRecord]) -> bool {
        let begins = |kept: &RetainedRecord| kept.line.as_bytes().starts_with(torn);
        let is_gone = |next: u64| new.first().is_some_and(|oldest| oldest.record.sequence > next);
        match self.last.as_ref().map(|last| last.sequence.saturating_add(1)) {
            // The catalog no longer retains the next record: only its sequence can be compared.
            Some(next) if is_gone(next) => {
                let head = format!("{SEQUENCE}{next},");
                torn.starts_with(head.as_bytes()) || head.as_bytes().starts_with(torn)
            }
            // After a whole line only the next record fits; an empty log may begin anywhere.
            Some(_) => new.first().is_some_and(begins),
            None => new.iter().any(begins) || number_of(torn).is_some_and(is_gone),
        }
    }

    /// Logs which records are lost, and returns their number.
    fn report_gaps(&self, new: &[RetainedRecord]) -> u64 {
        let last = self.last.as_ref().map(|last| last.sequence);
        let before = last.or_else(|| Some(new.first()?.record.sequence - 1));
        let sequences = || new.iter().map(|kept| kept.record.sequence);
        let gaps = before.into_iter().chain(sequences()).zip(sequences());
        gaps.fold(0, |lost, (before, next)| {
            let missing = (next - before).saturating_sub(1);
            if missing > 0 {
                tracing::error!(
                    "the audit log {} lacks the records {} to {}: there were more changes than the catalog retains; \
                     `audit verify` reports the gap, and does not check beyond it",
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
        if let Some(TornWrite { at, .. }) = &self.torn {
            self.file.set_len(*at)?;
            self.torn = None;
        }
        let at = self.file.metadata()?.len();
        let begun: &[u8] = if self.unfinished { b"\n" } else { b"" };
        let written = self.file.write_all(&[begun, batch].concat()).and_then(|()| self.file.sync_data());
        if written.is_err() {
            self.torn = Some(TornWrite { at, text: Vec::new() });
        } else {
            self.unfinished = false;
            self.end = at + (begun.len() + batch.len()) as u64;
        }
        written
    }
}

/// Walks to the log and checks its owner. Returns nothing if there is no file.
#[cfg(feature = "server")]
fn trusted_metadata(path: &Path) -> Result<Option<Metadata>, AuditLogError> {
    use crate::private_file::ownership::{OwnershipError, trust_owner, trust_path};

    let failed = |error| match error {
        OwnershipError::System { source, .. } => {
            AuditLogError::Open { path: path.to_owned(), reason: source }
        }
        refused => AuditLogError::Untrusted { path: path.to_owned(), reason: refused.to_string() },
    };
    let trusted = trust_path(path).map_err(failed)?;
    if let Some(metadata) = trusted.metadata.as_ref().filter(|metadata| metadata.is_file()) {
        trust_owner(&trusted.path, metadata).map_err(failed)?;
    }
    Ok(trusted.metadata)
}

/// An embedder decides itself which files it trusts.
#[cfg(not(feature = "server"))]
fn trusted_metadata(path: &Path) -> Result<Option<Metadata>, AuditLogError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => {
            metadata.map(Some).map_err(|reason| AuditLogError::Open { path: path.to_owned(), reason })
        }
    }
}

/// The beginning of every line, up to its sequence.
const SEQUENCE: &str = "{\"sequence\":";

/// The sequence at the beginning of a line, if the line is long enough.
fn number_of(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(SEQUENCE.as_bytes())?.split(|byte| *byte == b',').next()?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The last bytes of a file, at most this many, and their offset.
fn tail(mut file: &File, bytes: u64) -> io::Result<(u64, Vec<u8>)> {
    let begin = file.metadata()?.len().saturating_sub(bytes);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    file.read_to_end(&mut tail)?;
    Ok((begin, tail))
}

#[cfg(test)]
mod tests;

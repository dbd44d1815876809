//! Which files the connections have open, and whether the paths still lead to them.
//!
//! SQLite asks no path again once it has opened a file. A server whose database was replaced would
//! go on writing to a file that the next start does not find.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, FileControl, MAIN_DB};
#[cfg(target_os = "linux")]
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
#[cfg(target_os = "linux")]
use rustix::io::Errno;

use super::failure::{Change, Failure, Part};
use crate::private_file::{identity, with_suffix};

/// Device and inode numbers of the files of an open database.
#[derive(Debug)]
pub(super) struct Identity {
    /// As the embedder named it: a symbolic link that leads elsewhere counts as replaced.
    path: PathBuf,
    log_path: PathBuf,
    index_path: PathBuf,
    database: (u64, u64),
    log: (u64, u64),
    index: (u64, u64),
    /// The length of the mapped index. It grows, and shrinks only if another program truncates it.
    index_length: AtomicU64,
    /// The greatest length of the database that was seen, in bytes.
    length: AtomicU64,
}

impl Identity {
    /// Remembers the files that this connection has open. It has read the database.
    pub(super) fn of(path: &Path, connection: &Connection) -> Result<Self, Failure> {
        // SQLite follows a symbolic link, and creates the other files beside its target.
        let opened = connection.path().map_or_else(|| path.to_owned(), PathBuf::from);
        let (log_path, index_path) = (with_suffix(&opened, "-wal"), with_suffix(&opened, "-shm"));
        let look = |path: &Path| look(path).map_err(|error| Failure::of_io(path, &error));
        let (database, log, index) = (look(path)?, look(&log_path)?, look(&index_path)?);
        let found = Self {
            path: path.to_owned(),
            log_path,
            index_path,
            database: database.identity,
            log: log.identity,
            index: index.identity,
            index_length: index.length.into(),
            length: database.length.into(),
        };
        if has_moved(connection) {
            return Err(Failure::Moved(Part::Database, Change::Replaced));
        }
        Ok(found)
    }

    /// Compares what the paths lead to with the open files. Touches no connection.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let length = check(&self.path, self.database, Part::Database)?.length;
        check(&self.log_path, self.log, Part::Log)?;
        // The index is mapped into memory: to touch a part that was cut off would end the process.
        let index = look(&self.index_path).map_err(|_| Failure::Reopening)?;
        if !self.is_whole_index(&index) {
            return Err(Failure::Reopening);
        }
        self.index_length.fetch_max(index.length, Ordering::Relaxed);
        if length < self.length.load(Ordering::Relaxed) {
            return Err(Failure::Moved(Part::Database, Change::Truncated));
        }
        self.length.fetch_max(length, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the path still leads to the open database.
    pub(super) fn is_in_place(&self) -> bool {
        check(&self.path, self.database, Part::Database).is_ok()
    }

    /// The greatest length of the database so far, in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// The length of the write-ahead log, in bytes.
    pub(super) fn log_length(&self) -> u64 {
        look(&self.log_path).map_or(0, |log| log.length)
    }

    /// Whether this is the mapped index, with its whole length.
    fn is_whole_index(&self, found: &Found) -> bool {
        found.identity == self.index && found.length >= self.index_length.load(Ordering::Relaxed)
    }

    /// Device and inode number of the database.
    pub(super) fn database(&self) -> (u64, u64) {
        self.database
    }

    /// Waits until the truncation of the log is on the disk, which SQLite does not. The log is the
    /// one file that SQLite does not lock, so it may be opened a second time.
    pub(super) fn sync_empty_log(&self) -> Result<(), Failure> {
        let io = |error: io::Error| Failure::of_io(&self.log_path, &error);
        let log = File::open(&self.log_path).map_err(io)?;
        let metadata = log.metadata().map_err(io)?;
        if identity(&metadata) != self.log || metadata.len() != 0 {
            return Err(Failure::Busy);
        }
        log.sync_all().map_err(io)
    }

    /// Whether nothing is at the path of the write-ahead log.
    pub(super) fn has_lost_its_log(&self) -> bool {
        matches!(check(&self.log_path, self.log, Part::Log), Err(Failure::Moved(Part::Log, Change::Missing)))
            && look(&self.index_path).is_ok_and(|index| self.is_whole_index(&index))
    }
}

/// Whether SQLite's own comparison finds another file at the path.
pub(super) fn has_moved(connection: &Connection) -> bool {
    let mut moved = 0;
    connection.file_control(Some(MAIN_DB), FileControl::HasMoved(&mut moved)).is_ok() && moved != 0
}

/// What is at a path.
struct Found {
    /// Device and inode number.
    identity: (u64, u64),
    length: u64,
}

fn check(path: &Path, opened: (u64, u64), part: Part) -> Result<Found, Failure> {
    match look(path) {
        Ok(found) if found.identity == opened => Ok(found),
        Ok(_) => Err(Failure::Moved(part, Change::Replaced)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(Failure::Moved(part, Change::Missing))
        }
        Err(error) => Err(Failure::of_io(path, &error)),
    }
}

/// Looks what is at a path, and not at its times. Linux 6.13 and newer give a file new times with
/// the first write after a look at them, and a sync waits for these as well: a third more.
fn look(path: &Path) -> io::Result<Found> {
    #[cfg(target_os = "linux")]
    match statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE | StatxFlags::INO | StatxFlags::SIZE) {
        Ok(found) => {
            let device = makedev(found.stx_dev_major, found.stx_dev_minor);
            return Ok(Found { identity: (device, found.stx_ino), length: found.stx_size });
        }
        // A kernel or a sandbox without this call.
        Err(Errno::NOSYS | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let found = fs::metadata(path)?;
    Ok(Found { identity: identity(&found), length: found.len() })
}

//! Why the database cannot be used, and what to do next. The text of each case is safe to follow.
//!
//! No text advises to move the database of a live system away. A server without its database starts
//! as new, and the first client that asks becomes the operator.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Error as SqliteError, ErrorCode, ffi};
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};
use rustix::io::Errno;
use rustix::process::geteuid;
use thiserror::Error;

use crate::private_file::{directory_of, with_suffix};
use crate::store::StoreError;

/// The layout of the tables (`PRAGMA user_version`). The catalog inside has a format number of its
/// own.
pub(super) const SCHEMA: i32 = 1;

/// The free space below which a write counts as refused by a full disk. SQLite needs 32 KiB for the
/// index of its write-ahead log.
const NEEDED_SPACE: u64 = 64 * 1024;

/// Why a call failed. Nothing was changed, unless the call reports otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The disk, or the quota of the user, is full.
    Full,
    /// The file system or the file is read-only.
    ReadOnly,
    /// The disk or the file system returned an error.
    Io(String),
    /// The content is not what a store writes.
    Damaged(String),
    /// The user of this process lacks the permission; the owner of the file, if known.
    Denied { owner: Option<u32> },
    /// The same for the file beside the database whose name ends so.
    DeniedBeside { suffix: &'static str, owner: Option<u32> },
    /// What has the name of a file beside the database, which ends so, is none.
    NoFileBeside { suffix: &'static str },
    /// The system refuses memory, or a thread.
    Resources(String),
    /// The file was not written by this program.
    Foreign,
    /// The file was written by a newer version of this program.
    Newer(i32),
    /// The file exists and has no catalog.
    NoCatalog,
    /// Another process holds the lock of the database.
    Busy,
    /// The path leads elsewhere, or nowhere.
    Moved(Part, Change),
    /// The index of the write-ahead log changed, and the connections are opened again.
    Reopening,
    /// A commit failed, and the store has not yet made sure that it stays undone.
    Unsettled(Box<Failure>),
    /// Nothing can be created at the path.
    Unusable(String),
    /// An error of SQLite that none of the above describes.
    Other(String),
}

/// A file of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Database,
    Log,
}

/// What happened to a file under a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Missing,
    Replaced,
    Truncated,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full, so nothing was changed: free space on its file system"),
            Self::ReadOnly => f.write_str(
                "the file system or the file is read-only, so nothing was changed: make it writable to change tokens",
            ),
            Self::Io(detail) => write!(
                f,
                "the disk or the file system failed ({detail}): check the disk and the log of the kernel, and keep \
                 the files; the server uses them again when they can be read"
            ),
            Self::Damaged(detail) => write!(
                f,
                "it is damaged: restore a backup, and keep a copy of the damaged files until then ({detail})"
            ),
            Self::Denied { owner } => {
                f.write_str("permission denied: ")?;
                write_denied(f, "the file", *owner)
            }
            Self::DeniedBeside { suffix, owner } => {
                f.write_str("permission denied: ")?;
                write_denied(f, &format!("the file beside it whose name ends in {suffix}"), *owner)
            }
            Self::NoFileBeside { suffix } => write!(
                f,
                "what has its name with {suffix} is not a regular file: the server needs that name, so move it away"
            ),
            Self::Resources(detail) => write!(
                f,
                "the system refuses memory or a thread ({detail}): raise the limits of the process (ulimit -v, ulimit \
                 -u; LimitAS=, MemoryMax= and TasksMax= of systemd) or of the container"
            ),
            Self::Foreign => f.write_str(
                "it was not written by this program, or its beginning is damaged: restore a backup if it was a token \
                 store, otherwise choose another path with --store or --data-dir",
            ),
            Self::Newer(found) => write!(
                f,
                "it has layout {found}, this version knows layout {SCHEMA} only; use the newer version that wrote it"
            ),
            Self::NoCatalog => f.write_str(
                "the file exists and holds no token catalog, so it is an incomplete copy or was emptied: restore a \
                 backup. Do not delete it, as a server without a store accepts the first operator token that is \
                 created; a new store on purpose belongs at another path",
            ),
            Self::Busy => f.write_str("another process holds its lock: try again, or stop that process"),
            Self::Moved(part, change) => {
                f.write_str(match part {
                    Part::Database => "the database file ",
                    Part::Log => "its write-ahead log (-wal) ",
                })?;
                f.write_str(match change {
                    Change::Missing => "is gone or was moved",
                    Change::Replaced => "was replaced by another file",
                    Change::Truncated => "was truncated",
                })?;
                f.write_str(match (part, change) {
                    (Part::Database, Change::Truncated) => {
                        " while the server runs: stop the server and restore a backup"
                    }
                    (Part::Database, _) => {
                        " while the server runs: move the same file back, with the files beside it; where it is \
                         lost, stop the server and restore a backup"
                    }
                    (Part::Log, _) => {
                        " while the server runs: move the same file back; where it is lost, stop the server with \
                         SIGTERM, which writes the newest changes to the database"
                    }
                })
            }
            Self::Reopening => f.write_str(
                "the index of its write-ahead log (-shm) was changed by another program, and the database is opened \
                 again: leave that file alone, and try again",
            ),
            Self::Unsettled(failure) => write!(
                f,
                "a change could not be completed or undone on the disk, and nothing else is done before that: \
                 {failure}"
            ),
            Self::Unusable(detail) => write!(f, "{detail}: name a path where the server can create files"),
            Self::Other(detail) => write!(
                f,
                "SQLite reports: {detail}; keep the files, and stop other programs that use them"
            ),
        }
    }
}

/// Writes what to do about a file that belongs to this user, or about a directory.
fn write_denied(f: &mut fmt::Formatter<'_>, file: &str, owner: Option<u32>) -> fmt::Result {
    match owner {
        Some(owner) if owner == geteuid().as_raw() => {
            write!(
                f,
                "{file} belongs to the user of the server, and its mode closes it; run chmod u+rw on it"
            )
        }
        Some(owner) => write!(
            f,
            "{file} belongs to the user with the id {owner}; run as that user, or give the file to the user of the \
             server"
        ),
        None => f.write_str("give the directory to the user of the server"),
    }
}

impl Failure {
    /// The failure of SQLite at the database of this path.
    pub(super) fn of_sqlite(path: &Path, error: &SqliteError) -> Self {
        let SqliteError::SqliteFailure(code, _) = error else {
            return match error {
                SqliteError::InvalidColumnType(..) | SqliteError::FromSqlConversionFailure(..) => {
                    Self::Damaged(error.to_string())
                }
                _ => Self::Other(error.to_string()),
            };
        };
        match (code.code, code.extended_code) {
            (ErrorCode::DiskFull, _) => Self::Full,
            (ErrorCode::ReadOnly, _) => Self::ReadOnly,
            (ErrorCode::NotADatabase, _) => Self::Foreign,
            (ErrorCode::DatabaseCorrupt, _) | (_, ffi::SQLITE_IOERR_SHORT_READ) => {
                Self::Damaged(error.to_string())
            }
            (
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed,
                _,
            ) => Self::Busy,
            (ErrorCode::OutOfMemory, _) => Self::Resources("SQLite is out of memory".to_owned()),
            (ErrorCode::PermissionDenied, _) => Self::Denied { owner: owner(path) },
            // SQLite reports neither of these causes when it cannot create or extend a file.
            (ErrorCode::CannotOpen | ErrorCode::SystemIoFailure, _) => {
                Self::of_file_system(path).unwrap_or_else(|| Self::Io(operation(code.extended_code)))
            }
            (_, code) => Self::Other(format!("{} (code {code})", ffi::code_to_str(code))),
        }
    }

    /// The failure of a call of the file system.
    pub(super) fn of_io(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::PermissionDenied => Self::Denied { owner: owner(path) },
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::Other => {
                Self::Unusable(error.to_string())
            }
            io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock => Self::Resources(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }

    /// Whether the file exists and this process may write to it. Opens nothing: closing the file
    /// again would release the locks of SQLite in this process.
    pub(super) fn of_access(path: &Path) -> Option<Self> {
        match accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
            Err(Errno::ROFS) => Some(Self::ReadOnly),
            Err(Errno::ACCESS | Errno::PERM) => Some(Self::Denied { owner: owner(path) }),
            _ => None,
        }
    }

    /// Whether this process may use the files that SQLite has beside the database.
    fn of_access_beside(path: &Path) -> Option<Self> {
        ["-wal", "-shm", "-journal"].into_iter().find_map(|suffix| {
            let beside = with_suffix(path, suffix);
            let metadata = fs::symlink_metadata(&beside).ok()?;
            if !metadata.is_file() && !metadata.is_symlink() {
                return Some(Self::NoFileBeside { suffix });
            }
            match Self::of_access(&beside)? {
                Self::Denied { owner } => Some(Self::DeniedBeside { suffix, owner }),
                failure => Some(failure),
            }
        })
    }

    /// What the file system reports about itself.
    fn of_file_system(path: &Path) -> Option<Self> {
        if let Some(failure) = Self::of_access(path).or_else(|| Self::of_access_beside(path)) {
            return Some(failure);
        }
        let directory = directory_of(path);
        let system = statvfs(directory).ok()?;
        if system.f_flag.contains(StatVfsMountFlags::RDONLY) {
            Some(Self::ReadOnly)
        } else if system.f_bavail.saturating_mul(system.f_frsize) < NEEDED_SPACE {
            Some(Self::Full)
        } else if accessat(CWD, directory, Access::WRITE_OK, AtFlags::EACCESS).is_err() {
            Some(Self::Denied { owner: None })
        } else {
            None
        }
    }

    /// Whether the catalog may be readable although SQLite cannot create the files beside it.
    pub(super) fn leaves_it_readable(&self) -> bool {
        matches!(self, Self::Full | Self::ReadOnly)
    }

    /// As an error of a call that read and wrote nothing.
    pub(super) fn unavailable(&self, path: &Path) -> StoreError {
        StoreError::Unavailable(format!("{}: {self}", path.display()))
    }

    /// As an error of a swap that may have happened, or may happen later.
    pub(super) fn unknown_outcome(&self, path: &Path) -> StoreError {
        StoreError::UnknownOutcome(format!("{}: {self}", path.display()))
    }
}

/// What SQLite was doing at this error.
fn operation(extended_code: i32) -> String {
    let operation = match extended_code {
        ffi::SQLITE_IOERR_READ => "a read",
        ffi::SQLITE_IOERR_WRITE => "a write",
        ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => "a sync",
        ffi::SQLITE_IOERR_TRUNCATE => "a truncation",
        ffi::SQLITE_IOERR_FSTAT => "a status query",
        ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP => {
            "the creation of the index of the log"
        }
        ffi::SQLITE_CANTOPEN => "the opening of a file",
        _ => "an operation",
    };
    format!("{operation}, SQLite error code {extended_code}")
}

/// The user id of the owner of a file.
fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.uid())
}

/// The database cannot be used. Nothing was changed in it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database cannot be read, or nothing can be created at its path.
    #[error("cannot open the token store {}: {reason}", path.display())]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// What happened, and what to do next.
        reason: String,
    },
    /// The file is not a SQLite database, or belongs to another program.
    #[error("{} is not a token store: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What to do next.
        reason: String,
    },
    /// The file exists and holds no catalog: it is an incomplete copy, or was emptied.
    #[error("{} is not a complete token store: {reason}", path.display())]
    NoCatalog {
        /// The file.
        path: PathBuf,
        /// What to do next.
        reason: String,
    },
    /// The file was written by a newer version of this program.
    #[error(
        "the token store {} has layout {found}, this version knows layout {SCHEMA} only; use the newer version that \
         wrote it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i32,
    },
}

impl OpenError {
    pub(super) fn new(path: &Path, failure: &Failure) -> Self {
        let (path, reason) = (path.to_owned(), failure.to_string());
        match failure {
            Failure::Foreign => Self::Foreign { path, reason },
            Failure::NoCatalog => Self::NoCatalog { path, reason },
            Failure::Newer(found) => Self::Newer { path, found: *found },
            _ => Self::Unusable { path, reason },
        }
    }
}

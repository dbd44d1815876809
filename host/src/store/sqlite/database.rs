//! An open database: its connections, and what they do.
//!
//! One connection reads, one writes and one makes checkpoints. So a commit that waits for the disk
//! delays no read. A checkpoint delays no commit, but where the log has become long, and for the
//! moment that empties it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use super::failure::{Change, Failure, Part};
use super::files::restrict_mode;
use super::identity::{Identity, has_moved};
use super::layout::{self, Sharing};
use crate::store::{Entry, StoreError, SwapOutcome, Version};

/// An open database with a catalog.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    identity: Identity,
    reader: Mutex<Connection>,
    writer: Mutex<Writer>,
    checkpoints: Mutex<Connection>,
    /// About how many bytes the swaps of this process have added to the log since it was copied.
    log_bytes: AtomicU64,
    /// Why the last commit failed, while it may still take effect after a crash. Calls look here
    /// first, and answer nothing else before the store has settled it.
    unsettled: Mutex<Option<Failure>>,
    is_unsettled: AtomicBool,
}

/// The connection that writes. It exists as a type so that settling needs the same lock as a swap.
#[derive(Debug)]
struct Writer(Connection);

/// The log of a small database is copied before a commit once so much of it is used: after some 15
/// changes of a catalog with its audit records. With its index, it stays below a mebibyte.
const LONGEST_SMALL_LOG: u64 = 512 << 10;

/// The log of a larger database is copied before a commit once it is so many times as long.
const LOG_PER_DATABASE: u64 = 4;

/// The bytes of a page in the log, of a database that this program creates.
const PAGE_BYTES: u64 = 4096 + 24;

/// How many pages a swap changes beside those of the document: the row, and lists of free pages.
const OTHER_PAGES: u64 = 4;

/// Replaces the document. By the id: SQLite then needs no table of its own for what it finds, and
/// no copies of pages in case that the statement fails halfway.
pub(super) const UPDATE: &str =
    "UPDATE catalog SET version = ?2, document = ?3 WHERE id = 1 AND version = ?1";

/// What a checkpoint achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// The database file alone holds the newest document.
    Complete,
    /// A reader or another checkpoint was in the way.
    Incomplete,
}

impl Database {
    /// Opens the database of this path. It must exist and hold a catalog.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if let Some(failure) = Failure::of_access(path) {
            return Err(failure);
        }
        let reader = layout::connect(path, Sharing::Shared)?;
        restrict_mode(path).map_err(|error| Failure::of_io(path, &error))?;
        layout::check_structure(path, &reader)?;
        layout::load(path, &reader)?;
        layout::configure(path, &reader)?;
        // Read again in the mode of the write-ahead log: its files exist from here on.
        layout::version(path, &reader)?;
        let identity = Identity::of(path, &reader)?;
        let connect = || {
            let connection = layout::connect(path, Sharing::Shared)?;
            layout::configure(path, &connection)?;
            if has_moved(&connection) {
                return Err(Failure::Moved(Part::Database, Change::Replaced));
            }
            Ok(connection)
        };
        let (writer, checkpoints) = (connect()?, connect()?);
        identity.check()?;
        // A checkpoint gives way to everything else.
        checkpoints
            .busy_timeout(std::time::Duration::ZERO)
            .map_err(|error| Failure::of_sqlite(path, &error))?;
        let database = Self {
            path: path.to_owned(),
            identity,
            reader: Mutex::new(reader),
            writer: Mutex::new(Writer(writer)),
            checkpoints: Mutex::new(checkpoints),
            log_bytes: AtomicU64::new(0),
            unsettled: Mutex::default(),
            is_unsettled: AtomicBool::new(false),
        };
        // The log of a killed process. A failure changes nothing: the log is read as well.
        let _ = database.empty_log();
        Ok(database)
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Runs a read on the connection of its own, and makes sure that it read the database of the
    /// path.
    fn read<T>(&self, read: impl FnOnce(&Path, &Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        self.settle_without_waiting()?;
        let reader = lock(&self.reader);
        self.identity.check()?;
        let result = read(&self.path, &reader)?;
        self.identity.check()?;
        // A commit may have failed meanwhile; what was read came before it.
        Ok(result)
    }

    pub(super) fn version(&self) -> Result<Version, Failure> {
        self.read(layout::version)
    }

    pub(super) fn load(&self) -> Result<Entry, Failure> {
        self.read(layout::load)
    }

    pub(super) fn swap(&self, expected: &Version, document: &str) -> Result<SwapOutcome, StoreError> {
        let unavailable = |failure| Failure::unavailable(&failure, &self.path);
        let mut writer = lock(&self.writer);
        self.settle(&mut writer).map_err(unavailable)?;
        self.identity.check().map_err(unavailable)?;
        if has_moved(&writer.0) {
            return Err(unavailable(Failure::Moved(Part::Database, Change::Replaced)));
        }
        let version = layout::new_version(document).map_err(unavailable)?;
        let pages = document.len() as u64 / 4096 + 1 + OTHER_PAGES;
        self.bound_log(pages * PAGE_BYTES);
        match writer.update(expected, &version, document) {
            Ok(true) => {
                self.log_bytes.fetch_add(pages * PAGE_BYTES, Ordering::Relaxed);
            }
            Ok(false) => return Ok(SwapOutcome::Stale),
            Err(Uncommitted { error, attempted: false }) => {
                return Err(unavailable(Failure::of_sqlite(&self.path, &error)));
            }
            Err(Uncommitted { error, attempted: true }) => {
                return self.resolve(&mut writer, &error, expected, &version);
            }
        }
        // The change is in the files that are open. Only those at the path are found by the next
        // start, and files that were moved away can come back with it.
        self.identity.check().map_err(|failure| failure.unknown_outcome(&self.path))?;
        Ok(SwapOutcome::Swapped(Version(version)))
    }

    /// Settles a failed commit, and finds out what became of it.
    fn resolve(
        &self,
        writer: &mut Writer,
        error: &rusqlite::Error,
        expected: &Version,
        version: &str,
    ) -> Result<SwapOutcome, StoreError> {
        let failure = Failure::of_sqlite(&self.path, error);
        *lock(&self.unsettled) = Some(failure.clone());
        self.is_unsettled.store(true, Ordering::Release);
        if let Err(failure) = self.settle(writer) {
            return Err(failure.unknown_outcome(&self.path));
        }
        match layout::version(&self.path, &writer.0) {
            Ok(found) if found.as_str() == version => Ok(SwapOutcome::Swapped(found)),
            Ok(found) if found == *expected => Err(failure.unavailable(&self.path)),
            _ => Err(failure.unknown_outcome(&self.path)),
        }
    }

    /// Settles a failed commit, unless the writer is busy: a read must not wait for it.
    fn settle_without_waiting(&self) -> Result<(), Failure> {
        if !self.is_unsettled.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.writer.try_lock() {
            Ok(mut writer) => self.settle(&mut writer),
            Err(TryLockError::Poisoned(writer)) => self.settle(&mut writer.into_inner()),
            Err(TryLockError::WouldBlock) => Err(self.why_unsettled()),
        }
    }

    fn why_unsettled(&self) -> Failure {
        let failure = lock(&self.unsettled).clone().unwrap_or(Failure::Busy);
        Failure::Unsettled(Box::new(failure))
    }

    /// Makes sure that no failed commit has an effect later. SQLite writes a change to the log, and
    /// then syncs it. Where the sync fails, the change stays in the log behind its end, and a
    /// recovery after a crash would find it whole.
    fn settle(&self, writer: &mut Writer) -> Result<(), Failure> {
        if !self.is_unsettled.load(Ordering::Acquire) {
            return Ok(());
        }
        let settled = self.identity.check().and_then(|()| {
            let overwritten =
                writer.overwrite_end_of_log().map_err(|error| Failure::of_sqlite(&self.path, &error));
            // A full disk has no place for the page, and the log can still be emptied.
            overwritten.or_else(|failure| {
                let emptied = truncate_log(&writer.0).map_err(|error| Failure::of_sqlite(&self.path, &error));
                if emptied? { self.identity.sync_empty_log() } else { Err(failure) }
            })
        });
        if let Err(failure) = settled {
            *lock(&self.unsettled) = Some(failure);
            return Err(self.why_unsettled());
        }
        *lock(&self.unsettled) = None;
        self.is_unsettled.store(false, Ordering::Release);
        tracing::warn!(path = %self.path.display(), "a change that failed on the disk is undone for good");
        Ok(())
    }

    /// Copies the log into the database file, as far as no reader is in the way.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, Failure> {
        self.copy_log(&*self.begin_checkpoint()?)
    }

    /// Waits for the connection of checkpoints, unless a failed commit is unsettled or the files
    /// are not those at the path.
    fn begin_checkpoint(&self) -> Result<MutexGuard<'_, Connection>, Failure> {
        if self.is_unsettled.load(Ordering::Acquire) {
            return Err(self.why_unsettled());
        }
        let connection = lock(&self.checkpoints);
        self.identity.check()?;
        Ok(connection)
    }

    /// Copies the log into the database file, as far as no reader is in the way. It keeps its
    /// length: the next commits overwrite it, which costs half the time of growing it.
    fn copy_log(&self, connection: &Connection) -> Result<Checkpoint, Failure> {
        let added = self.log_bytes.load(Ordering::Relaxed);
        // Blocks no writer while it waits for the disk.
        // (blocked, pages of the log, pages of them that are in the database)
        let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        });
        match done.map_err(|error| Failure::of_sqlite(&self.path, &error)) {
            Ok((0, log, copied)) if log == copied => {}
            Ok(_) | Err(Failure::Busy) => return Ok(Checkpoint::Incomplete),
            Err(failure) => return Err(failure),
        }
        self.log_bytes.fetch_sub(added, Ordering::Relaxed);
        Ok(Checkpoint::Complete)
    }

    /// As a checkpoint, and empties the log, so that one that stays behind holds nothing old.
    pub(super) fn empty_log(&self) -> Result<Checkpoint, Failure> {
        self.empty_log_by(&*self.begin_checkpoint()?)
    }

    fn empty_log_by(&self, connection: &Connection) -> Result<Checkpoint, Failure> {
        // What TRUNCATE has left to copy, it copies while no writer can begin.
        if self.copy_log(connection)? == Checkpoint::Incomplete {
            return Ok(Checkpoint::Incomplete);
        }
        // The copy may have waited for the disk.
        self.identity.check()?;
        match truncate_log(connection).map_err(|error| Failure::of_sqlite(&self.path, &error)) {
            Ok(true) => Ok(Checkpoint::Complete),
            // A reader, or the next change.
            Ok(false) | Err(Failure::Busy) => Ok(Checkpoint::Incomplete),
            Err(failure) => Err(failure),
        }
    }

    /// Copies the log into the database file, if it is long or the next change makes it so. The
    /// caller holds the writer. A checkpoint of the thread never reaches the end of the log while
    /// commits follow each other closely, and the log would grow.
    fn bound_log(&self, next: u64) {
        let log = self.identity.log_length();
        let most = LONGEST_SMALL_LOG.max(LOG_PER_DATABASE * self.identity.length());
        // A failure, or a reader in the way, changes nothing: the next commit tries again.
        if log > most + most / 8 {
            // Another process has added to it as well.
            let _ = self.empty_log_by(&lock(&self.checkpoints));
        } else if self.log_bytes() + next > most {
            let _ = self.copy_log(&lock(&self.checkpoints));
        }
    }

    /// About how many bytes the swaps of this process have added to the log since it was copied.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Closes the connections. The last one of all processes makes a checkpoint and removes the
    /// log, by its path: so none does that unless the paths lead to the open files.
    pub(super) fn close(self) {
        let orderly = self.identity.check().is_ok();
        if orderly {
            let _ = self.checkpoint();
        } else if self.identity.is_in_place() && self.identity.has_lost_its_log() {
            // The open log is the only one, and holds changes that were answered.
            let _ = lock(&self.checkpoints).query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
        let into =
            |connection: Mutex<Connection>| connection.into_inner().unwrap_or_else(PoisonError::into_inner);
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner).0;
        // The reader is closed last, as it has no transaction that could be in the way.
        for connection in [writer, into(self.checkpoints), into(self.reader)] {
            if orderly {
                let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
            }
            drop(connection);
        }
    }

    /// Waits until no checkpoint of another thread is in progress.
    #[cfg(test)]
    pub(super) fn without_checkpoints<T>(&self, run: impl FnOnce() -> T) -> T {
        let _checkpoints = lock(&self.checkpoints);
        run()
    }

    /// Waits until no call of another thread uses the writer.
    #[cfg(test)]
    pub(super) fn with_writer<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        run(&lock(&self.writer).0)
    }
}

/// A swap that SQLite did not report as durable.
struct Uncommitted {
    error: rusqlite::Error,
    /// Whether the commit had begun. Before that, nothing was written to the log.
    attempted: bool,
}

impl Writer {
    /// Replaces the document if its version is `expected`. Returns whether it was.
    fn update(&mut self, expected: &Version, version: &str, document: &str) -> Result<bool, Uncommitted> {
        let before = |error| Uncommitted { error, attempted: false };
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).map_err(before)?;
        let updated = transaction
            .prepare_cached(UPDATE)
            .and_then(|mut update| update.execute((expected.as_str(), version, document)))
            .map_err(before)?;
        if updated == 0 {
            return Ok(false);
        }
        // From here on the change may be durable although an error is returned.
        transaction.commit().map_err(|error| Uncommitted { error, attempted: true })?;
        Ok(true)
    }

    /// Writes a page to the place in the log where a failed change stands. The log is checked page
    /// by page from its beginning, so nothing behind this page counts.
    ///
    /// First without a sync: the death of this process then finds the change undone, whether or not
    /// the disk works again. The second transaction is synced, for a power cut.
    fn overwrite_end_of_log(&mut self) -> rusqlite::Result<()> {
        self.0.pragma_update(None, "synchronous", "OFF")?;
        let unsynced = self.rewrite_page();
        self.0.pragma_update(None, "synchronous", "FULL")?;
        unsynced?;
        self.rewrite_page()
    }

    fn rewrite_page(&mut self) -> rusqlite::Result<()> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.pragma_update(None, "user_version", super::failure::SCHEMA)?;
        transaction.commit()
    }
}

/// Copies the log into the database and truncates it. Returns whether nothing was in the way.
fn truncate_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic rolls a transaction back and leaves the connection usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

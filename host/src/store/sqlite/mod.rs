//! `sqlite:PATH`: a store in one file, for any number of processes on one machine.
//!
//! The database has one table with at most one row. The write-ahead log runs with
//! `synchronous=FULL`, so that a committed swap survives a power cut. Versions are random, so that
//! a restored file never repeats one.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior};
use thiserror::Error;

use crate::private_file::{Mode, PRIVATE_MODE, sync_directory_of};
use crate::store::{Entry, Store, StoreError, SwapOutcome, Version};

/// Marks the file as a token store in its header (`PRAGMA application_id`): "optk".
const APPLICATION_ID: i32 = 0x6f70_746b;

/// The layout of the tables (`PRAGMA user_version`). The catalog inside has a format number of its
/// own.
const SCHEMA: i32 = 1;

/// How long a swap waits for the swap of another process, which takes a few milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// How many pages of 4 KiB the write-ahead log may hold before a checkpoint. A change of a catalog
/// of 5,000 tokens takes 250 pages; a checkpoint every few changes would double the disk writes.
const CHECKPOINT_PAGES: i32 = 4000;

/// A document in a SQLite database.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// The database cannot be used. Nothing was changed in it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system returned an error.
    #[error("cannot open the token store {}", path.display())]
    Io {
        /// The database file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// SQLite returned an error.
    #[error("cannot open the token store {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// The error of SQLite.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file is not a SQLite database, or belongs to another program.
    #[error(
        "{} is not a token store: it was not written by this program; move it away, or choose another with --store",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
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

impl SqliteStore {
    /// Opens the database at `path`, and creates it with mode 0600 if it does not exist. The
    /// directory must exist.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        create_private(path).map_err(io)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sqlite = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::Foreign { path: path.to_owned() },
            _ => OpenError::Sqlite { path: path.to_owned(), source: source.into() },
        };
        let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
        // The file may still turn out to be foreign: closing it must not write to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sqlite)?;

        let pragma =
            |connection: &Connection, name| connection.pragma_query_value(None, name, |row| row.get(0));
        let tables: i32 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(sqlite)?;
        let schema: i32 = pragma(&connection, "user_version").map_err(sqlite)?;
        match (pragma(&connection, "application_id").map_err(sqlite)?, schema, tables) {
            (APPLICATION_ID, ..=SCHEMA, _) | (0, 0, 0) => {}
            (APPLICATION_ID, found, _) => return Err(OpenError::Newer { path: path.to_owned(), found }),
            _ => return Err(OpenError::Foreign { path: path.to_owned() }),
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(sqlite)?;
        restrict_mode(path).map_err(io)?;
        switch_to_wal(&connection)
            .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
            .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES))
            // An existing schema is not written again: a server that then fails to start changes
            // nothing.
            .and_then(|()| if schema == SCHEMA { Ok(()) } else { migrate(&mut connection) })
            .map_err(sqlite)?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// Reports that nothing was read or written, and names the file: a process may open several.
    fn unavailable(&self, error: &rusqlite::Error) -> StoreError {
        let code = error.sqlite_error_code();
        let damaged = matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            || matches!(error, rusqlite::Error::InvalidColumnType(..));
        let hint = if damaged { " (it is damaged: restore a backup, or move it away)" } else { "" };
        StoreError::Unavailable(format!("{}: {error}{hint}", self.path.display()))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic rolls the transaction back and leaves the connection usable.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SqliteStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.connection()
            .prepare_cached("SELECT version FROM catalog")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
            .map(|version| version.map(Version))
            .map_err(|error| self.unavailable(&error))
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.connection()
            .prepare_cached("SELECT version, document FROM catalog")
            .and_then(|mut statement| {
                let entry = |row: &rusqlite::Row<'_>| {
                    Ok(Entry { version: Version(row.get(0)?), document: row.get(1)? })
                };
                statement.query_row([], entry).optional()
            })
            .map_err(|error| self.unavailable(&error))
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let mut connection = self.connection();
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| self.unavailable(&error))?;
        let version = match expected {
            Some(expected) => transaction
                .prepare_cached(
                    "UPDATE catalog SET version = lower(hex(randomblob(16))), document = ?2
                     WHERE version = ?1 RETURNING version",
                )
                .and_then(|mut update| {
                    update.query_row((expected.as_str(), document), |row| row.get(0)).optional()
                }),
            None => transaction
                .prepare_cached(
                    "INSERT INTO catalog (id, version, document) VALUES (1, lower(hex(randomblob(16))), ?1)
                     ON CONFLICT DO NOTHING RETURNING version",
                )
                .and_then(|mut insert| insert.query_row([document], |row| row.get(0)).optional()),
        }
        .map_err(|error| self.unavailable(&error))?;
        let Some(version) = version else { return Ok(SwapOutcome::Stale) };
        // From here on the change may be durable although an error is returned.
        transaction
            .commit()
            .map_err(|error| StoreError::UnknownOutcome(format!("{}: {error}", self.path.display())))?;
        Ok(SwapOutcome::Swapped(Version(version)))
    }
}

/// Switches to the write-ahead log. If several processes do so on a new file, SQLite returns
/// "locked" at once to all but one, to avoid a deadlock; so this function waits instead.
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

/// Creates the table if it does not exist. Several processes may do so at the same time.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS catalog (
             id INTEGER PRIMARY KEY CHECK (id = 1),
             version TEXT NOT NULL,
             document TEXT NOT NULL
         ) STRICT",
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

/// Creates the file with mode 0600 if it does not exist, before SQLite creates it by the umask.
fn create_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(path) {
        Ok(file) => {
            file.sync_all()?;
            sync_directory_of(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.is_file() {
                Ok(())
            } else {
                Err(io::Error::other("it is not a regular file"))
            }
        }
        Err(error) => Err(error),
    }
}

/// Sets the mode of an existing file to 0600: other users must not read token hashes. The two files
/// that SQLite creates beside it inherit that mode.
fn restrict_mode(path: &Path) -> io::Result<()> {
    let mode = Mode::of(&fs::metadata(path)?);
    if mode != Mode::PRIVATE {
        tracing::warn!(path = %path.display(), was = format!("{mode:03o}"), "setting the mode of the token store to 600");
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_MODE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn sqlite_store_passes_conformance() {
        let directory = tempfile::tempdir().unwrap();
        conformance::run(&SqliteStore::open(directory.path().join("tokens.db")).unwrap());
    }

    #[test]
    fn document_survives_reopening_and_is_shared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        let one = SqliteStore::open(&path).unwrap();
        let two = SqliteStore::open(&path).unwrap();
        one.swap(None, "kept").unwrap();
        assert_eq!(two.load().unwrap().unwrap().document, "kept");
        assert_eq!(two.swap(None, "overwritten").unwrap(), SwapOutcome::Stale);
        let version = two.version().unwrap();
        drop((one, two));
        let again = SqliteStore::open(&path).unwrap();
        assert_eq!(again.version().unwrap(), version);
        assert_eq!(again.load().unwrap().unwrap().document, "kept");
    }

    #[test]
    fn files_have_mode_0600() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        let store = SqliteStore::open(&path).unwrap();
        store.swap(None, "x").unwrap();
        for name in ["tokens.db", "tokens.db-wal", "tokens.db-shm"] {
            assert_eq!(mode(&directory.path().join(name)), 0o600, "{name}");
        }
        drop(store);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        SqliteStore::open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn synchronous_mode_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("tokens.db")).unwrap();
        let connection = store.connection();
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        let synchronous: i32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2), "2 is FULL");
    }

    #[test]
    fn foreign_file_is_refused_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("notes.txt");
        fs::write(&text, "not a database, but long enough to have a header, if it were one".repeat(20))
            .unwrap();
        let before = fs::read(&text).unwrap();
        assert!(matches!(SqliteStore::open(&text).unwrap_err(), OpenError::Foreign { .. }));
        assert_eq!(fs::read(&text).unwrap(), before);

        let other = directory.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
        let before = fs::read(&other).unwrap();
        assert!(matches!(SqliteStore::open(&other).unwrap_err(), OpenError::Foreign { .. }));
        assert_eq!(fs::read(&other).unwrap(), before);
    }

    #[test]
    fn foreign_write_ahead_log_is_unchanged() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("foreign.db");
        let foreign = Connection::open(&path).unwrap();
        foreign.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
        foreign.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        foreign.execute_batch("CREATE TABLE other (x)").unwrap();
        drop(foreign);
        let files =
            || ["foreign.db", "foreign.db-wal"].map(|name| fs::read(directory.path().join(name)).unwrap());
        let before = files();
        assert!(matches!(SqliteStore::open(&path).unwrap_err(), OpenError::Foreign { .. }));
        assert_eq!(files(), before);
    }

    #[test]
    fn damaged_store_error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("tokens.db")).unwrap();
        let damage = "DROP TABLE catalog; CREATE TABLE catalog (version, document); INSERT INTO catalog VALUES (NULL, 1)";
        store.connection().execute_batch(damage).unwrap();
        let error = store.load().unwrap_err().to_string();
        assert!(error.contains("tokens.db") && error.contains("it is damaged: restore a backup"), "{error}");
    }

    #[test]
    fn newer_schema_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        drop(SqliteStore::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        let error = SqliteStore::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 2, .. }), "{error}");
    }

    #[test]
    fn unwritable_path_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/tokens.db");
        let error = SqliteStore::open(&missing).unwrap_err();
        assert!(error.to_string().contains("missing/tokens.db"), "{error}");
        let error = SqliteStore::open(directory.path()).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "it is not a regular file");
    }
}

//! What a database of this program holds, and how one is opened, checked, made and read.
//!
//! A version is 32 random digits, a hyphen and the SHA-256 of its document. So a version vouches
//! for its document: a copy that mixes pages of two states is damaged, whatever its pages hold. The
//! versions of earlier builds lack the second part.

use std::path::Path;
use std::thread;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, OptionalExtension as _};
use sha2::{Digest as _, Sha256};

use super::failure::{Failure, SCHEMA};
use super::files::{BUSY_PAUSE, BUSY_TIMEOUT, has_content, random_digits};
use crate::store::{Entry, Version};

/// Marks the file as a token store in its header (`PRAGMA application_id`): "optk".
const APPLICATION_ID: i32 = 0x6f70_746b;

/// The most memory of a connection for pages, in KiB; as a negative number, as SQLite requires. A
/// change of the largest catalog fits: SQLite writes pages twice that do not.
const CACHE_KIB: i32 = -(8 << 10);

const CREATE: &str = "CREATE TABLE IF NOT EXISTS catalog (
     id INTEGER PRIMARY KEY CHECK (id = 1),
     version TEXT NOT NULL,
     document TEXT NOT NULL
 ) STRICT";

/// Whether a connection shares the database with other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The index of the write-ahead log is a file beside the database.
    Shared,
    /// The index is in memory, and no other process can use the database.
    Exclusive,
    /// SQLite locks nothing and reads no write-ahead log: the file does not change.
    Immutable,
}

/// A new version for this document.
pub(super) fn new_version(document: &str) -> Result<String, Failure> {
    let random = random_digits().map_err(|error| Failure::Other(error.to_string()))?;
    Ok(format!("{random}-{}", digest(document)))
}

fn digest(document: &str) -> String {
    base16ct::lower::encode_string(&Sha256::digest(document))
}

/// Opens the database of this path, which must be one of this program. Changes nothing in it, and
/// does not close its write-ahead log either: it may turn out to be that of another program.
pub(super) fn connect(path: &Path, sharing: Sharing) -> Result<Connection, Failure> {
    let sqlite = |error: &rusqlite::Error| Failure::of_sqlite(path, error);
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match sharing {
        Sharing::Immutable => Connection::open_with_flags(
            immutable_uri(path),
            flags | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
        ),
        _ => Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE),
    }
    .map_err(|error| sqlite(&error))?;
    let prepare = || {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // A database of an attacker must not run functions of its schema.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        if sharing == Sharing::Exclusive {
            connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        }
        let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let tables: i32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((number("application_id")?, number("user_version")?, tables))
    };
    match prepare().map_err(|error| sqlite(&error))? {
        (APPLICATION_ID | 0, 0, 0) => return Err(Failure::NoCatalog),
        (APPLICATION_ID, ..=SCHEMA, _) => {}
        (APPLICATION_ID, found, _) => return Err(Failure::Newer(found)),
        _ => return Err(Failure::Foreign),
    }
    if sharing == Sharing::Shared && connection.is_readonly(MAIN_DB).map_err(|error| sqlite(&error))? {
        return Err(Failure::ReadOnly);
    }
    Ok(connection)
}

/// The path as a URI by which SQLite opens a file that does not change.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    // A relative path would be read as an authority if it began with two slashes; none does.
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            _ => {
                uri.push('%');
                uri.push_str(&base16ct::lower::encode_string(&[*byte]));
            }
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Prepares a checked connection for changes: they are durable when a transaction ends, and no
/// transaction waits for a checkpoint.
pub(super) fn configure(path: &Path, connection: &Connection) -> Result<(), Failure> {
    switch_to_wal(connection)
        .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", 0))
        .and_then(|()| connection.pragma_update(None, "cache_size", CACHE_KIB))
        .map_err(|error| Failure::of_sqlite(path, &error))
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

/// Checks the structure of the whole file: a copy that was made while the file changed can have
/// pages of two states.
pub(super) fn check_structure(path: &Path, connection: &Connection) -> Result<(), Failure> {
    let report: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| Failure::of_sqlite(path, &error))?;
    if report == "ok" { Ok(()) } else { Err(Failure::Damaged(report)) }
}

/// The newest version.
pub(super) fn version(path: &Path, connection: &Connection) -> Result<Version, Failure> {
    connection
        .prepare_cached("SELECT version FROM catalog")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
        .map_err(|error| Failure::of_sqlite(path, &error))?
        .map(Version)
        .ok_or(Failure::NoCatalog)
}

/// The newest document. A document that its version does not vouch for is damaged.
pub(super) fn load(path: &Path, connection: &Connection) -> Result<Entry, Failure> {
    let entry = connection
        .prepare_cached("SELECT version, document FROM catalog")
        .and_then(|mut statement| {
            let entry =
                |row: &rusqlite::Row<'_>| Ok(Entry { version: Version(row.get(0)?), document: row.get(1)? });
            statement.query_row([], entry).optional()
        })
        .map_err(|error| Failure::of_sqlite(path, &error))?
        .ok_or(Failure::NoCatalog)?;
    match entry.version.as_str().split_once('-') {
        Some((_, of_document)) if of_document.len() == 64 && of_document != digest(&entry.document) => {
            Err(Failure::Damaged("the document is not the one that its version names".to_owned()))
        }
        _ => Ok(entry),
    }
}

/// Makes a complete database of an empty file. When this function returns, all of it is in that one
/// file, and closed.
pub(super) fn fill(path: &Path, entry: &Entry) -> Result<(), Failure> {
    let fill = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        // No other process uses a file of this name, and a half-made one is removed: it needs no
        // journal, and its index no file.
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(CREATE)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
        transaction.execute(
            "INSERT INTO catalog (id, version, document) VALUES (1, ?1, ?2)",
            (entry.version.as_str(), &entry.document),
        )?;
        transaction.commit()?;
        // SQLite ignores a failure of the checkpoint that it makes while it closes.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        connection.close().map_err(|(_, error)| error)
    };
    fill().map_err(|error: rusqlite::Error| Failure::of_sqlite(path, &error))
}

/// Reads a database without the index of its write-ahead log, which SQLite cannot create on a full
/// or read-only disk. Creates no file and changes none where the log is empty.
///
/// A log with content is read with an exclusive lock: other processes wait meanwhile. Without
/// content the file itself is read, and compared with its state before: it must not have changed.
pub(super) fn load_without_index(path: &Path) -> Result<Entry, Failure> {
    if has_content(path, "-journal") {
        return Err(Failure::Damaged("a journal beside it holds a change that was not completed".to_owned()));
    }
    if has_content(path, "-wal") {
        let connection = connect(path, Sharing::Exclusive)?;
        check_structure(path, &connection)?;
        return load(path, &connection);
    }
    let state = || {
        let metadata = std::fs::metadata(path).map_err(|error| Failure::of_io(path, &error))?;
        let modified = metadata.modified().map_err(|error| Failure::of_io(path, &error))?;
        Ok((crate::private_file::identity(&metadata), metadata.len(), modified))
    };
    let before = state()?;
    if before.1 == 0 {
        return Err(Failure::NoCatalog);
    }
    let connection = connect(path, Sharing::Immutable)?;
    check_structure(path, &connection)?;
    let entry = load(path, &connection)?;
    if state()? == before && !has_content(path, "-wal") { Ok(entry) } else { Err(Failure::Busy) }
}

//! Backups: reads one, makes one, and puts a document in the place of a database.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rusqlite::Connection;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::failure::{Failure, OpenError};
use super::files::{COMPANIONS, NewFile};
use super::layout::{self, Sharing};
use crate::private_file::{sync_directory_of, with_suffix};
use crate::store::{Entry, Version, relocation};

/// Copies the newest document of a database into a new one, which is complete or absent. A server
/// may use the source meanwhile. The destination must not exist.
pub(crate) fn backup(source: &Path, destination: &Path) -> Result<Entry, OpenError> {
    let entry = load_shared(source).map_err(|failure| OpenError::new(source, &failure))?;
    if let Some(refusal) = relocation::refusal(&entry.document) {
        return Err(OpenError::new(source, &Failure::Unusable(refusal)));
    }
    write(&entry, destination)
}

/// Writes a document of another store into a new database, as [`backup`] does.
pub(crate) fn export(document: &str, destination: &Path) -> Result<Entry, OpenError> {
    let version = layout::new_version(document).map_err(|failure| OpenError::new(destination, &failure))?;
    write(&Entry { version: Version(version), document: document.to_owned() }, destination)
}

/// Writes an entry into a new database, which is complete or absent.
fn write(entry: &Entry, destination: &Path) -> Result<Entry, OpenError> {
    let failed = |failure: Failure| OpenError::new(destination, &failure);
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            failed(Failure::Unusable("it exists, and is not replaced".to_owned()))
        }
        _ => failed(Failure::of_io(destination, &error)),
    };
    if fs::symlink_metadata(destination).is_ok() {
        return Err(io(io::ErrorKind::AlreadyExists.into()));
    }
    let new = NewFile::create(destination).map_err(io)?;
    layout::fill(new.path(), entry).map_err(failed)?;
    new.link().map_err(io)?;
    let copied = read(destination)?;
    if copied == *entry {
        Ok(copied)
    } else {
        Err(failed(Failure::Damaged("it differs from the store that was copied".to_owned())))
    }
}

/// Reads a backup, however it was made. Changes nothing, and creates no file beside it where its
/// write-ahead log is empty or absent. No process may use the file meanwhile.
pub(crate) fn read(path: &Path) -> Result<Entry, OpenError> {
    layout::load_without_index(path).map_err(|failure| OpenError::new(path, &failure))
}

/// Puts a new database with this document in the place of `path`. Fails while another process uses
/// the database there. This process must have no store open at this path.
///
/// At every moment the path leads to the old database or to the new one, each complete.
pub(crate) fn install(path: &Path, document: &str) -> Result<Version, OpenError> {
    let failed = |failure: Failure| OpenError::new(path, &failure);
    let io = |error: io::Error| failed(Failure::of_io(path, &error));
    let version = Version(layout::new_version(document).map_err(failed)?);
    let new = NewFile::create(path).map_err(io)?;
    let entry = Entry { version: version.clone(), document: document.to_owned() };
    layout::fill(new.path(), &entry).map_err(failed)?;
    let _lock = match fs::metadata(path) {
        Ok(_) => Some(lock_out_others(path).map_err(failed)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(io(error)),
    };
    // SQLite would apply the log of the old database to the new one.
    let mut removed = false;
    for suffix in COMPANIONS {
        match fs::remove_file(with_suffix(path, suffix)) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
    }
    if removed {
        sync_directory_of(path).map_err(io)?;
    }
    new.replace().map_err(io)?;
    Ok(version)
}

/// Checks that no other process uses the database at `path`, if there is one. This process must
/// have no store open there.
pub(crate) fn ensure_unused(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::new(path, &Failure::of_io(path, &error))),
        Ok(_) => lock_out_others(path).map(drop).map_err(|failure| OpenError::new(path, &failure)),
    }
}

/// Reads a database that a server may use.
fn load_shared(path: &Path) -> Result<Entry, Failure> {
    if let Err(error) = fs::metadata(path) {
        return Err(Failure::of_io(path, &error));
    }
    let shared = || {
        let connection = layout::connect(path, Sharing::Shared)?;
        layout::check_structure(path, &connection)?;
        layout::load(path, &connection)
    };
    match shared() {
        Err(why) if why.leaves_it_readable() => layout::load_without_index(path),
        result => result,
    }
}

/// Holds the lock of a database against other processes until it is dropped, which closes the file.
#[expect(dead_code, reason = "the lock ends when the database or the file is closed")]
enum Lock {
    Database(Connection),
    File(File),
}

/// Locks a database that is to be replaced. A healthy one is left complete in its one file, without
/// its log, so that it survives if it is not replaced after all.
fn lock_out_others(path: &Path) -> Result<Lock, Failure> {
    let fold = || {
        let connection = layout::connect(path, Sharing::Exclusive)?;
        let sqlite = |error: rusqlite::Error| Failure::of_sqlite(path, &error);
        // Acquires the exclusive lock also where the journal is no write-ahead log.
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT").map_err(sqlite)?;
        let (blocked, log, copied): (i64, i64, i64) = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .map_err(sqlite)?;
        if blocked != 0 || log != copied { Err(Failure::Busy) } else { Ok(connection) }
    };
    match fold() {
        Ok(connection) => return Ok(Lock::Database(connection)),
        Err(Failure::Busy) => return Err(in_use()),
        Err(_) => {}
    }
    // A damaged or foreign file. The locks of SQLite are locks of parts of it.
    let file =
        File::options().read(true).write(true).open(path).map_err(|error| Failure::of_io(path, &error))?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock::File(file)),
        Err(_) => Err(in_use()),
    }
}

fn in_use() -> Failure {
    Failure::Other("another process uses it: stop the server, and try again".to_owned())
}

//! The files of a database: its companions, a complete new file at a path, and the leftovers of a
//! process that was killed.
//!
//! Knows nothing of what the files hold. Never opens a database: closing it again would release the
//! locks that SQLite holds in this process.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::private_file::{
    Mode, PRIVATE_MODE, directory_of, is_own, sync_directory_of, temporary_prefix, with_suffix,
};

/// How long a call waits for the lock of another process.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts where the system does not wait by itself.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// The last part of the name of a database that is not complete yet.
const SUFFIX: &[u8] = b".new";

/// How many hexadecimal digits the name of such a database has.
const RANDOM_DIGITS: usize = 32;

/// The files that SQLite creates beside a database.
pub(super) const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Returns whether the file beside the database has content.
pub(super) fn has_content(path: &Path, suffix: &str) -> bool {
    fs::metadata(with_suffix(path, suffix)).is_ok_and(|metadata| metadata.len() > 0)
}

/// Random lower-case hexadecimal digits.
pub(super) fn random_digits() -> io::Result<String> {
    let mut bytes = [0; RANDOM_DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(base16ct::lower::encode_string(&bytes))
}

/// Sets the mode of an existing file to 0600: other users must not read token hashes. The two files
/// that SQLite creates beside it inherit that mode.
pub(super) fn restrict_mode(path: &Path) -> io::Result<()> {
    let mode = Mode::of(&fs::metadata(path)?);
    if mode != Mode::PRIVATE {
        tracing::warn!(path = %path.display(), was = format!("{mode:03o}"), "setting the mode of the token store to 600");
        fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE_MODE))?;
    }
    Ok(())
}

/// A new database under a temporary name. No other process creates one in this directory meanwhile.
/// Dropping it removes the temporary files.
pub(super) struct NewFile {
    path: PathBuf,
    target: PathBuf,
    #[expect(dead_code, reason = "the lock ends when the directory is closed")]
    lock: File,
}

impl NewFile {
    /// Creates an empty private file beside `target`. Removes what killed processes left.
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let directory = directory_of(target);
        let name = target.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
        let (lock, exclusive) = lock_directory(directory)?;
        if exclusive {
            remove_leftovers(directory, name);
        }
        let mut temporary = temporary_prefix(name);
        temporary.push(random_digits()?);
        temporary.push(OsStr::from_bytes(SUFFIX));
        let path = directory.join(temporary);
        OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(&path)?;
        Ok(Self { path, target: target.to_owned(), lock })
    }

    /// The temporary name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name, if that is free. It must be complete, and closed by SQLite. It is
    /// on the disk when this function returns.
    pub(super) fn link(self) -> io::Result<()> {
        self.sync()?;
        match fs::hard_link(&self.path, &self.target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // A file system without hard links. The lock of the directory keeps other processes of
            // this program from creating the file between the two calls.
            Err(_) if fs::symlink_metadata(&self.target).is_err() => fs::rename(&self.path, &self.target)?,
            linked => linked?,
        }
        // Only one name may remain: the rest of the file's life has nothing to do with this one.
        let _ = fs::remove_file(&self.path);
        sync_directory_of(&self.target)
    }

    /// Gives the file its name, and replaces what is there. It must be complete, and closed by
    /// SQLite.
    #[cfg(feature = "server")]
    pub(super) fn replace(self) -> io::Result<()> {
        self.sync()?;
        fs::rename(&self.path, &self.target)?;
        sync_directory_of(&self.target)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        for path in COMPANIONS.iter().map(|suffix| with_suffix(&self.path, suffix)).chain([self.path.clone()])
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Locks the directory against other processes of this program that create a file in it. Some file
/// systems have no locks; then `false` is returned.
fn lock_directory(directory: &Path) -> io::Result<(File, bool)> {
    let file = File::open(directory)?;
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok((file, true)),
            Err(TryLockError::Error(_)) => return Ok((file, false)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(BUSY_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process has locked the directory"));
            }
        }
    }
}

/// Removes the incomplete databases that killed processes left for this name. Each of them holds
/// the lock of the directory while it is in use.
fn remove_leftovers(directory: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        let own = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file() && is_own(&metadata));
        if own && is_incomplete(&entry.file_name(), name) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns whether a file of this name is, or belongs to, an incomplete database for `name`.
fn is_incomplete(file: &OsStr, name: &OsStr) -> bool {
    let Some(rest) = file.as_bytes().strip_prefix(temporary_prefix(name).as_bytes()) else { return false };
    let rest = COMPANIONS.iter().find_map(|suffix| rest.strip_suffix(suffix.as_bytes())).unwrap_or(rest);
    rest.strip_suffix(SUFFIX)
        .is_some_and(|random| random.len() == RANDOM_DIGITS && random.iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn new_file_removes_leftovers_of_its_name_only() {
        let directory = tempfile::tempdir().unwrap();
        let random = "0123456789abcdef0123456789abcdef";
        for leftover in ["", "-wal", "-shm", "-journal"] {
            fs::write(directory.path().join(format!(".tokens.db.{random}.new{leftover}")), "half").unwrap();
        }
        let kept = [
            format!(".other.db.{random}.new"),
            format!(".tokens.db.{random}.new.old"),
            ".tokens.db.new".to_owned(),
            "tokens.db-wal".to_owned(),
        ];
        for name in &kept {
            fs::write(directory.path().join(name), "").unwrap();
        }
        drop(NewFile::create(&directory.path().join("tokens.db")).unwrap());
        assert_eq!(names(directory.path()), kept.map(OsString::from));
    }

    #[test]
    fn linked_file_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        let new = NewFile::create(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert_eq!(new.link().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(names(directory.path()), ["tokens.db"]);
    }
}

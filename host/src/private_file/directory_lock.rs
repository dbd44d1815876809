//! One process at a time that replaces files of a directory.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::private_file::atomic::is_temporary;
use crate::private_file::is_own;

/// A lock of a directory. Other processes of this program wait for it.
pub(crate) struct DirectoryLock {
    path: PathBuf,
    #[expect(dead_code, reason = "the lock ends when the file is closed")]
    file: File,
}

impl DirectoryLock {
    /// Locks the directory. Calls `on_wait` before it waits for another process. Some file systems
    /// have no locks: two processes are then not kept apart.
    pub(crate) fn acquire(path: &Path, on_wait: impl FnOnce()) -> io::Result<Self> {
        let file = File::open(path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            on_wait();
            let _ = file.lock();
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Removes the temporary files that a killed process left when it replaced one of these files
    /// of the directory: they may hold a token. Returns the files that cannot be removed.
    pub(crate) fn remove_leftovers(&self, files: &[&Path]) -> io::Result<Vec<(PathBuf, io::Error)>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let is_leftover =
                |file: &&Path| is_temporary(&entry.file_name(), file.file_name().unwrap_or_default());
            let path = entry.path();
            if files.iter().any(is_leftover)
                && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file() && is_own(&metadata))
                && let Err(error) = fs::remove_file(&path)
            {
                kept.push((path, error));
            }
        }
        Ok(kept)
    }
}

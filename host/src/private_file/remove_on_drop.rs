//! Files that exist for as long as a process uses them.

use std::fmt;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::private_file::identity;

/// Removes a file when it is dropped, unless another file has replaced it.
#[derive(Debug)]
pub(crate) struct RemoveOnDrop {
    path: PathBuf,
    mark: Mark,
}

/// How the file is recognised.
enum Mark {
    Content(Zeroizing<Vec<u8>>),
    /// Device and inode number.
    Identity((u64, u64)),
}

impl RemoveOnDrop {
    /// Guards the file at `path` for as long as it has this content, which may be secret.
    pub(crate) fn with_content(path: PathBuf, content: &[u8]) -> Self {
        Self { path, mark: Mark::Content(content.to_vec().into()) }
    }

    /// Guards the file at `path` that has this metadata. The caller keeps the file open, or the
    /// socket bound, so that no other file gets its inode number.
    pub(crate) fn with_identity(path: PathBuf, metadata: &Metadata) -> Self {
        Self { path, mark: Mark::Identity(identity(metadata)) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the file is still at its path.
    pub(crate) fn is_unchanged(&self) -> bool {
        match &self.mark {
            Mark::Content(content) => fs::read(&self.path).is_ok_and(|found| found == **content),
            Mark::Identity(mark) => {
                fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == *mark)
            }
        }
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if self.is_unchanged() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(_) => f.write_str("Content"),
            Self::Identity(mark) => f.debug_tuple("Identity").field(mark).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn file_is_removed_on_drop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "mine").unwrap();
        drop(RemoveOnDrop::with_content(path.clone(), b"mine"));
        assert!(!path.exists());
        let file = File::create_new(&path).unwrap();
        drop(RemoveOnDrop::with_identity(path.clone(), &file.metadata().unwrap()));
        assert!(!path.exists());
    }

    #[test]
    fn file_of_another_process_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "mine").unwrap();
        let guard = RemoveOnDrop::with_content(path.clone(), b"mine");
        fs::write(&path, "another").unwrap();
        drop(guard);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");

        let mine = File::open(&path).unwrap();
        let guard = RemoveOnDrop::with_identity(path.clone(), &mine.metadata().unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
        drop(guard);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    }
}

//! Files that hold secrets: their modes and owners, how they reach the disk, and how they are
//! replaced.
//!
//! Knows nothing of what the files hold, and nothing of the command line: it asks no question and
//! prints nothing.

mod atomic;
#[cfg(feature = "server")]
mod directory_lock;
#[cfg(feature = "server")]
pub(crate) mod owned_path;
#[cfg(any(feature = "remote-store", feature = "server"))]
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "the server uses the rest"))]
pub(crate) mod ownership;
#[cfg(feature = "server")]
mod remove_on_drop;
#[cfg(any(feature = "remote-store", feature = "server"))]
mod walk;

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;

pub(crate) use atomic::replace;
#[cfg(feature = "sqlite")]
pub(crate) use atomic::temporary_prefix;
#[cfg(feature = "server")]
pub(crate) use atomic::{check_replaceable, create_new};
#[cfg(feature = "server")]
pub(crate) use directory_lock::DirectoryLock;
#[cfg(feature = "server")]
pub(crate) use remove_on_drop::RemoveOnDrop;

/// The mode of a file that only its owner may read.
pub(crate) const PRIVATE_MODE: u32 = 0o600;

/// The permission bits of a file or directory. They are formatted as octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode(u32);

impl Mode {
    /// The mode of a file that only its owner may read.
    #[cfg(feature = "sqlite")]
    pub(crate) const PRIVATE: Self = Self(PRIVATE_MODE);

    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self(metadata.mode() & 0o7777)
    }

    /// Returns whether group or others may write. In a directory they may add and remove files.
    pub(crate) fn is_writable_by_others(self) -> bool {
        self.0 & 0o022 != 0
    }

    /// Returns whether every user may read.
    pub(crate) fn is_world_readable(self) -> bool {
        self.0 & 0o004 != 0
    }
}

#[cfg(any(feature = "remote-store", feature = "server"))]
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "the server uses the rest"))]
impl Mode {
    /// Returns whether the owner alone may read, write and execute.
    #[expect(clippy::verbose_bit_mask, reason = "mode bits are read in octal")]
    pub(crate) fn is_private(self) -> bool {
        self.0 & 0o077 == 0
    }

    /// Returns whether every user may write.
    pub(crate) fn is_writable_by_all(self) -> bool {
        self.0 & 0o002 != 0
    }

    /// Returns whether owner and group alone may read, write and execute.
    #[expect(clippy::verbose_bit_mask, reason = "mode bits are read in octal")]
    pub(crate) fn is_closed_to_all(self) -> bool {
        self.0 & 0o007 == 0
    }

    #[cfg(test)]
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Returns whether users may remove only their own files from this directory, as from `/tmp`.
    pub(crate) fn is_sticky(self) -> bool {
        self.0 & 0o1000 != 0
    }
}

impl fmt::Octal for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Octal::fmt(&self.0, f)
    }
}

/// Returns whether the file belongs to the user of this process.
#[cfg(feature = "sqlite")]
pub(crate) fn is_own(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Returns whether the file belongs to the user of this process or to root.
#[cfg(feature = "server")]
pub(crate) fn is_own_or_root(metadata: &Metadata) -> bool {
    metadata.uid() == 0 || is_own(metadata)
}

/// Returns the device and the inode number of a file. The pair identifies the file while it exists.
pub(crate) fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Returns the path of the file beside `path` whose name has this suffix.
#[cfg(feature = "sqlite")]
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the directory of a file. That of a bare name is the working directory.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until the directory of `path` is on the disk: a power cut then neither undoes the creation
/// of the file nor its renaming or removal.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn permission_bits_are_classified() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        for (bits, writable, readable) in [
            (0o600, false, false),
            (0o700, false, false),
            (0o640, false, false),
            (0o604, false, true),
            (0o644, false, true),
            (0o620, true, false),
            (0o602, true, false),
            (0o666, true, true),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            let mode = Mode::of(&fs::metadata(&path).unwrap());
            assert_eq!(
                (mode.is_writable_by_others(), mode.is_world_readable()),
                (writable, readable),
                "{bits:o}"
            );
            assert_eq!(format!("{mode:04o}"), format!("{bits:04o}"));
            #[cfg(feature = "server")]
            assert_eq!((mode.is_private(), mode.is_sticky()), (bits % 0o100 == 0, false), "{bits:o}");
        }
    }

    #[test]
    fn directory_of_a_bare_name_is_the_working_directory() {
        for (path, directory) in [("name", "."), ("./name", "."), ("a/name", "a"), ("/name", "/")] {
            assert_eq!(directory_of(Path::new(path)), Path::new(directory));
        }
    }
}

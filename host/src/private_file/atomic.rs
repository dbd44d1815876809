//! Files that are complete or absent, whatever fails while they are written.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
#[cfg(feature = "server")]
use std::os::unix::ffi::OsStrExt as _;
#[cfg(feature = "server")]
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

use crate::private_file::{PRIVATE_MODE, directory_of, sync_directory_of};

/// The last part of the name of a temporary file.
const SUFFIX: &str = ".tmp";

/// How many random characters the name of a temporary file has.
const RANDOM_CHARS: usize = 16;

/// Makes `path` a file with this content and mode, or leaves what is there. The file is on the disk
/// when this function returns.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
}

/// Checks whether `path` can be replaced by a file with this mode: replaces it by a copy of itself.
/// If nothing is there, checks whether a file can be created.
#[cfg(feature = "server")]
pub(crate) fn check_replaceable(path: &Path, mode: u32) -> io::Result<()> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut temporary = create_temporary(path, PRIVATE_MODE)?;
            temporary.as_file_mut().write_all(b"\n")?;
            temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
            temporary.as_file().sync_all()?;
            temporary.close()
        }
        found => {
            let mut old = found?;
            let metadata = old.metadata()?;
            replace_with(path, metadata.mode() & 0o7777, |new| {
                io::copy(&mut old, new)?;
                new.set_permissions(Permissions::from_mode(mode))?;
                // A user that can read the file now still can if the command fails afterwards.
                let _ = fchown(new, Some(metadata.uid()), Some(metadata.gid()));
                Ok(())
            })
        }
    }
}

/// Creates a file with this content at a path where nothing is. Other users may read it, whatever
/// the umask. A program that waits for the file finds it complete.
#[cfg(feature = "server")]
pub(crate) fn create_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = create_temporary(path, PRIVATE_MODE)?;
    temporary.as_file_mut().write_all(content)?;
    temporary.as_file().set_permissions(Permissions::from_mode(0o644))?;
    temporary.persist_noclobber(path)?;
    Ok(())
}

/// Returns whether a file of this name is a temporary file for one that is called `name`.
#[cfg(feature = "server")]
pub(super) fn is_temporary(file: &OsStr, name: &OsStr) -> bool {
    let random = file.as_bytes().strip_prefix(temporary_prefix(name).as_bytes());
    let random = random.and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()));
    random.is_some_and(|random| random.len() == RANDOM_CHARS && random.iter().all(u8::is_ascii_alphanumeric))
}

fn replace_with(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = create_temporary(path, PRIVATE_MODE)?;
    write(temporary.as_file_mut())?;
    // The umask does not apply.
    temporary.as_file().set_permissions(Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    sync_directory_of(path)
}

/// Creates a file beside `path`, which is removed when it is dropped.
fn create_temporary(path: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    Builder::new()
        .prefix(&temporary_prefix(name))
        .suffix(SUFFIX)
        .rand_bytes(RANDOM_CHARS)
        .make_in(directory_of(path), create)
}

/// Returns how the names of temporary files begin for a file of this name.
pub(crate) fn temporary_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    prefix
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::{fs, mem};

    use super::*;

    fn files(directory: &Path) -> Vec<PathBuf> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn failed_write_keeps_the_old_file_and_leaves_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.json");
        for old in [None, Some("precious")] {
            if let Some(old) = old {
                fs::write(&path, old).unwrap();
            }
            let full = replace_with(&path, 0o600, |file| {
                file.write_all(b"half")?;
                Err(io::ErrorKind::StorageFull.into())
            });
            assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), old);
            assert_eq!(files(directory.path()).len(), usize::from(old.is_some()));
        }
        // A directory cannot be replaced by a file.
        let occupied = directory.path().join("occupied");
        fs::create_dir(&occupied).unwrap();
        replace(&occupied, b"new", 0o600).unwrap_err();
        assert_eq!(files(directory.path()).len(), 2);
    }

    #[test]
    fn interrupted_write_keeps_the_old_file_and_blocks_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.json");
        fs::write(&path, "precious").unwrap();
        // As after a power cut.
        let mut temporary = create_temporary(&path, PRIVATE_MODE).unwrap();
        temporary.write_all(b"half").unwrap();
        mem::forget(temporary);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let left = files(directory.path()).into_iter().find(|file| *file != path).unwrap();
        assert_eq!(mode(&left), 0o600);
        assert!(is_temporary(left.file_name().unwrap(), OsStr::new("token.json")));
        replace(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(mode(&path), 0o644);
    }

    #[test]
    fn replaceability_check_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        check_replaceable(&path, 0o600).unwrap();
        assert!(files(directory.path()).is_empty());
        fs::write(&path, "precious").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        check_replaceable(&path, 0o600).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("precious", 0o640));
        assert_eq!(files(directory.path()), [path]);
    }

    #[test]
    fn new_file_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("address");
        create_new(&path, b"127.0.0.1:8181").unwrap();
        assert_eq!(create_new(&path, b"other").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("127.0.0.1:8181", 0o644));
        assert_eq!(files(directory.path()), [path]);
    }

    #[test]
    fn temporary_files_are_recognised_by_their_names() {
        for (file, temporary) in [
            (".token.0123456789abcdef.tmp", true),
            (".token.0123456789abcdeZ.tmp", true),
            (".token.0123456789abcdef0.tmp", false),
            (".token.0123456789abcde.tmp", false),
            (".token.0123456789abcde-.tmp", false),
            (".token.json.0123456789abcdef.tmp", false),
            (".other.0123456789abcdef.tmp", false),
            ("token.0123456789abcdef.tmp", false),
            (".token.tmp", false),
        ] {
            assert_eq!(is_temporary(OsStr::new(file), OsStr::new("token")), temporary, "{file}");
        }
    }
}

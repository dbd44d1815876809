//! Files that are there whole or not at all, whatever fails while they are written.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::confirm::ask;

/// Asks before a file is lost, unless `yes`. Refuses what is no file, such as a device: it would be lost, too.
pub(super) fn may_replace(path: &Path, yes: bool) -> anyhow::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        bail!("cannot write {}: it is there already and not a regular file", path.display());
    }
    if yes || fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let question =
        format!("{} exists already, and a server may be using it. Enter 'yes' to replace it", path.display());
    if ask(&question)? != "yes" {
        bail!("Cannot replace {} without confirmation (answer 'yes', or use --yes)", path.display());
    }
    Ok(())
}

/// Makes `path` a file with this content and this mode, or leaves what is there. When this answers, the file is on the
/// disk.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn replace_with(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let directory = directory_of(path);
    // A name that nobody can have prepared.
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
    let temporary = directory.join(temporary);

    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let replaced = write(&mut file)
        // Whatever the umask is.
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        // It may hold a token.
        let _ = fs::remove_file(&temporary);
    }
    replaced?;
    File::open(directory)?.sync_all()
}

/// The directory that a file is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::PathBuf;

    use super::*;

    fn files(directory: &Path) -> Vec<PathBuf> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
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
        // Where it cannot be moved to.
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        replace(&taken, b"new", 0o600).unwrap_err();
        assert_eq!(files(directory.path()).len(), 2);
    }

    #[test]
    fn a_write_that_is_cut_off_leaves_the_old_file_and_is_not_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token.json");
        fs::write(&path, "precious").unwrap();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            replace_with(&path, 0o644, |file| {
                file.write_all(b"half").unwrap();
                panic!("as when the machine is switched off")
            })
        }));
        killed.unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let left = files(directory.path()).into_iter().find(|file| *file != path).unwrap();
        assert_eq!(fs::metadata(left).unwrap().permissions().mode() & 0o7777, 0o600);
        replace(&path, b"new", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    }
}

//! Files that are there whole or not at all, whatever fails while they are written.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::cli::prompt::ask;
use crate::cli::{say, warn};

/// How many links are followed, one to the next: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The file that is meant by `given`, which may be a link to it: to replace the link would leave the file as it is. There
/// need not be one. Refuses what is no file, such as a directory or a device, and where this command writes to: they
/// would be replaced, too.
pub(crate) fn destination(given: &Path) -> anyhow::Result<PathBuf> {
    let refused = |why: &str| format!("cannot write {}: {why}", given.display());
    let name = given.as_os_str().as_bytes();
    // To `file_name` the directory `x/` is the file `x`.
    if given.file_name().is_none() || name.ends_with(b"/") || name.ends_with(b"/.") {
        bail!(refused("this is not the name of a file"));
    }
    match fs::metadata(given) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        metadata => {
            let metadata = metadata.with_context(|| format!("cannot write {}", given.display()))?;
            ensure!(metadata.is_file(), refused("it is there already and not a regular file"));
            ensure!(
                !is_open_as(&io::stdout(), &metadata) && !is_open_as(&io::stderr(), &metadata),
                refused("it is where this command writes what it has to say")
            );
        }
    }
    let mut path = given.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                // In a directory like /tmp anybody can have put it there.
                let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
                ensure!(owner == own || owner == 0, refused("it is a link of another user"));
                let next =
                    fs::read_link(&path).with_context(|| format!("cannot write {}", given.display()))?;
                path = path.with_file_name(next);
            }
            _ => return Ok(path),
        }
    }
    bail!(refused("it is a link to a link, and so on"))
}

/// Whether a stream of this process is that file.
fn is_open_as(stream: &impl AsFd, file: &Metadata) -> bool {
    stream
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stream| File::from(stream).metadata())
        .is_ok_and(|stream| (stream.dev(), stream.ino()) == (file.dev(), file.ino()))
}

/// Whether two destinations are one file, which need not be there.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        fs::canonicalize(directory_of(path))
            .ok()
            .map(|directory| directory.join(path.file_name().unwrap_or_default()))
    };
    one == other || place(one).is_some_and(|one| Some(one) == place(other))
}

/// Asks before a file is lost, unless `yes`.
pub(crate) fn may_replace(path: &Path, yes: bool) -> anyhow::Result<()> {
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

/// Nobody else replaces files of a directory while this is held: no other run of this program, that is.
pub(crate) struct Turn(#[expect(dead_code, reason = "the lock ends with it")] File);

impl Turn {
    /// Waits until the directory of that file is free, and takes away what was left in it by a run that was killed while it
    /// replaced one of the files: a token, perhaps.
    pub(crate) fn wait(files: &[&Path]) -> anyhow::Result<Self> {
        let path = files.first().context("no file")?;
        let failed = || format!("cannot write {}", path.display());
        let directory = directory_of(path);
        let lock = File::open(directory).with_context(failed)?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            say(&format!("Waiting for another run to finish in {} …", directory.display()));
            // Some file systems have no locks. There, only two runs at once are at risk.
            let _ = lock.lock();
        }
        for entry in fs::read_dir(directory).with_context(failed)? {
            let left = entry.with_context(failed)?;
            let ours = |path: &&Path| is_temporary(&left.file_name(), path.file_name().unwrap_or_default());
            if files.iter().any(ours)
                && fs::symlink_metadata(left.path()).is_ok_and(|metadata| {
                    metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw()
                })
                && let Err(error) = fs::remove_file(left.path())
            {
                warn(&format!("cannot remove {}, which may hold a token: {error}", left.path().display()));
            }
        }
        Ok(Self(lock))
    }
}

/// Makes `path` a file with this content and this mode, or leaves what is there. When this answers, the file is on the
/// disk.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Finds out whether `path` can be replaced by a file with this mode: replaces it by what it is. Where there is nothing,
/// whether a file can be made there.
pub(crate) fn rehearse(path: &Path, mode: u32) -> anyhow::Result<()> {
    let tried = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => with_temporary(path, |file, temporary| {
            file.write_all(b"\n")?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::remove_file(temporary)
        }),
        found => found.and_then(|mut old| {
            let metadata = old.metadata()?;
            replace_with(path, metadata.mode() & 0o7777, |new| {
                io::copy(&mut old, new)?;
                new.set_permissions(Permissions::from_mode(mode))?;
                // Whoever can read it now still can if nothing comes of this.
                let _ = fchown(new, Some(metadata.uid()), Some(metadata.gid()));
                Ok(())
            })
        }),
    };
    tried.with_context(|| format!("cannot write {}", path.display()))
}

fn replace_with(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    with_temporary(path, |file, temporary| {
        write(file)?;
        // Whatever the umask is.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(temporary, path)
    })?;
    File::open(directory_of(path))?.sync_all()
}

/// Lets something be done with a new file beside `path`, which is gone if that fails.
fn with_temporary(path: &Path, work: impl FnOnce(&mut File, &Path) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let temporary = directory_of(path).join(temporary_name(name)?);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let worked = work(&mut file, &temporary);
    if worked.is_err() {
        // It may hold a token.
        let _ = fs::remove_file(&temporary);
    }
    worked
}

/// The name of a file beside one of this name, which nobody can have prepared.
fn temporary_name(name: &OsStr) -> io::Result<OsString> {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
    Ok(temporary)
}

/// Whether a file is one of those that are made beside one of this name.
fn is_temporary(file: &OsStr, name: &OsStr) -> bool {
    let inner = file.as_bytes().strip_prefix(b".").and_then(|rest| rest.strip_prefix(name.as_bytes()));
    let digits = inner.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".tmp"));
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// The directory that a file is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
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

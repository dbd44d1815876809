//! The files that `--output-file` and `--hash-file` name: which file is meant, and whether it may
//! be replaced.
//!
//! Knows nothing of tokens; `private_file` writes the files.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::cli::prompt::ask;
use crate::cli::stderr::{print_stderr, warn};
use crate::private_file::{self, DirectoryLock, directory_of, identity, is_own_or_root};

/// How many links are followed: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Returns the file that `given` names. Links are followed, so that the file is replaced and not
/// the link to it. The file need not exist. Rejects directories, devices, and the file that stdout
/// or stderr is redirected to.
pub(crate) fn resolve_output_path(given: &Path) -> anyhow::Result<PathBuf> {
    let refused = |why: &str| format!("cannot write {}: {why}", given.display());
    let name = given.as_os_str().as_bytes();
    // `file_name` returns `x` for the directory `x/`.
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
                refused("this command writes its output there")
            );
        }
    }
    let mut path = given.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                // In a directory like /tmp any user can create a link.
                ensure!(is_own_or_root(&metadata), refused("it is a link of another user"));
                let next =
                    fs::read_link(&path).with_context(|| format!("cannot write {}", given.display()))?;
                path = path.with_file_name(next);
            }
            _ => return Ok(path),
        }
    }
    bail!(refused("it is a link to a link, and so on"))
}

/// Returns whether a stream of this process is that file.
fn is_open_as(stream: &impl AsFd, file: &Metadata) -> bool {
    stream
        .as_fd()
        .try_clone_to_owned()
        .and_then(|stream| File::from(stream).metadata())
        .is_ok_and(|stream| identity(&stream) == identity(file))
}

/// Returns whether two resolved paths name one file, which need not exist.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let absolute = |path: &Path| {
        fs::canonicalize(directory_of(path))
            .ok()
            .map(|directory| directory.join(path.file_name().unwrap_or_default()))
    };
    one == other || absolute(one).is_some_and(|one| Some(one) == absolute(other))
}

/// Asks before an existing file is replaced, unless `yes`.
pub(crate) fn confirm_overwrite(path: &Path, yes: bool) -> anyhow::Result<()> {
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

/// Locks the directory of these files against other runs of this program. Removes the temporary
/// files that a killed run left there.
pub(crate) fn lock_directory_of(files: &[&Path]) -> anyhow::Result<DirectoryLock> {
    let path = files.first().context("no file")?;
    let failed = || format!("cannot write {}", path.display());
    let directory = directory_of(path);
    let waiting = || print_stderr(&format!("Waiting for another run to finish in {} …", directory.display()));
    let lock = DirectoryLock::acquire(directory, waiting).with_context(failed)?;
    for (leftover, error) in lock.remove_leftovers(files).with_context(failed)? {
        warn(&format!("cannot remove {}, which may hold a token: {error}", leftover.display()));
    }
    Ok(lock)
}

/// Replaces a file as [`private_file::replace`] does. An error names the file.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    private_file::replace(path, content, mode).with_context(|| format!("cannot write {}", path.display()))
}

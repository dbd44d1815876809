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
    replace_durably(path, content, mode).with_context(|| format!("cannot write {}", path.display()))
}

fn replace_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this is not the name of a file"))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // A name that nobody can have prepared.
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", getrandom::u64().map_err(io::Error::other)?));
    let temporary = directory.join(temporary);

    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = write(&mut file, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It may hold a token.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)?.sync_all()
}

fn write(file: &mut File, content: &[u8], mode: u32) -> io::Result<()> {
    file.write_all(content)?;
    // Whatever the umask is.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

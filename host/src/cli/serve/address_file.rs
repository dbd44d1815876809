//! A file that tells other programs where a listener is, for as long as it is there (COMPAT 5.1).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The file of a listener; removed when dropped.
#[derive(Debug)]
pub(crate) struct ListenerFile {
    path: PathBuf,
    content: String,
}

impl ListenerFile {
    /// Writes `ip:port`, without a newline, to a file that must not exist. Whoever finds it there finds all of it.
    pub(crate) fn create(path: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let failed = || format!("cannot write the address to {}", path.display());
        let content = address.to_string();
        // Under a name that nobody waits for, until it is complete. Unlike renaming, linking replaces nothing.
        let random = getrandom::u64().map_err(io::Error::from).with_context(failed)?;
        let unfinished = path.with_file_name(format!(".{random:016x}.tmp"));
        let linked = File::create_new(&unfinished)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .and_then(|()| fs::hard_link(&unfinished, path));
        let _ = fs::remove_file(&unfinished);
        match linked {
            Ok(()) => Ok(Self { path: path.to_owned(), content }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "{0} exists, so another server may be running there; if none is, remove it: rm {0}",
                path.display()
            ),
            Err(error) => Err(error).with_context(failed),
        }
    }
}

impl Drop for ListenerFile {
    fn drop(&mut self) {
        // Not that of another server, for which somebody has made room meanwhile.
        if fs::read(&self.path).is_ok_and(|content| content == self.content.as_bytes()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

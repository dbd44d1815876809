//! Reads the files of tokens that a server imports: whether another user may have written one, and
//! whether other users can read a secret in it (docs/compatibility.md 5.4).
//!
//! Knows nothing of what the files hold.

use std::fmt::Display;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use zeroize::Zeroizing;

use crate::cli::token_file::read_secret_up_to;
use crate::private_file::ownership::{Readers, readers_of, trust_owner, trust_path};
use crate::private_file::{Mode, identity};

/// Opens a regular file that no other user can have put there. Returns it with what was checked
/// before, for [`check_opened`].
pub(crate) fn open_trusted(path: &Path) -> anyhow::Result<(File, Option<Metadata>)> {
    let trusted = trust_path(path)?;
    // A pipe is not opened: it may have no writer.
    if let Some(metadata) = &trusted.metadata {
        ensure!(metadata.is_file(), "it is not a regular file");
        trust_owner(&trusted.path, metadata)?;
    }
    Ok((File::open(&trusted.path)?, trusted.metadata))
}

/// Checks that the file that was opened is the one that was checked before.
pub(crate) fn check_opened(checked: Option<&Metadata>, opened: &Metadata) -> anyhow::Result<()> {
    ensure!(opened.is_file(), "it is not a regular file");
    let is_same = checked.is_some_and(|checked| identity(checked) == identity(opened));
    ensure!(is_same, "another file has replaced it meanwhile");
    Ok(())
}

/// A file that was read.
pub(crate) struct ConfiguredFile {
    pub(crate) text: Zeroizing<String>,
    path: PathBuf,
    metadata: Metadata,
}

impl ConfiguredFile {
    /// Reads a file of at most `limit` bytes, that no other user can have put there. Errors name it
    /// by `what` it is.
    pub(crate) fn read(path: &Path, what: &str, limit: usize) -> anyhow::Result<Self> {
        let failed = || format!("Failed to read {what}");
        let (file, checked) = open_trusted(path).with_context(failed)?;
        let metadata = file.metadata().with_context(|| format!("Failed to read {what} metadata"))?;
        check_opened(checked.as_ref(), &metadata).with_context(failed)?;
        ensure!(metadata.len() <= limit as u64, "Failed to read {what}: it has more than {limit} bytes");
        let text = read_secret_up_to(&file, limit).with_context(failed)?;
        Ok(Self { text, path: path.to_owned(), metadata })
    }

    /// Checks that no other user can change the file, nor read it if it holds a secret. `what`
    /// begins the error, and `way_out` ends it where the mode cannot be changed.
    pub(crate) fn check_mode(
        &self,
        what: &str,
        secret: &str,
        holds_secret: bool,
        way_out: impl Display,
    ) -> anyhow::Result<()> {
        let mode = Mode::of(&self.metadata);
        let path = self.path.display();
        ensure!(
            !mode.is_writable_by_others(),
            "{what} has insecure permissions: {mode:o}. Others can change it; run: chmod go-w {path}"
        );
        ensure!(
            readers_of(&self.metadata) != Readers::Others || !holds_secret,
            "{what} has insecure permissions: {mode:o}. Others can read {secret}; run: chmod 0600 {path}\n\
             In Kubernetes, set defaultMode: 0440 for the secret, and fsGroup to a group of the server.\n\
             Where its mode cannot be changed, {way_out}"
        );
        Ok(())
    }
}

//! The output file of a rotation, and the file beside it that holds the new token until it is in
//! force.
//!
//! Knows no server.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cli::output_file::{lock_directory_of, replace};
use crate::cli::stderr::warn;
use crate::cli::token_file::{SavedToken, plain, read_secret};
use crate::client::sha512_hex;
use crate::private_file::{DirectoryLock, Mode, PRIVATE_MODE, check_replaceable, is_own, sync_directory_of};
use crate::secret::Secret;

/// The extension of the staged file, after the whole name of the output file.
const STAGED_SUFFIX: &str = ".staged";

/// Large enough for the content of a staged file: a buffer that grows leaves copies of the token in
/// memory.
const CONTENT_CAPACITY: usize = 1024;

/// The file that a rotation brings the new token into. Its directory is locked.
pub(crate) struct OutputFile<'a> {
    pub(crate) path: &'a Path,
    /// The path of the staged file.
    pub(crate) staged: PathBuf,
    _lock: DirectoryLock,
}

/// The content of a staged file. `--token-file` accepts such a file, too.
pub(crate) struct StagedFile {
    pub(crate) token: Secret,
    /// The SHA-512 of the token that this one is to replace.
    pub(crate) replaces: String,
}

/// Returns the path of the staged file beside an output file.
pub(crate) fn staged_path(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().with_context(|| format!("{} is not the name of a file", path.display()))?;
    let mut staged = OsString::from(name);
    staged.push(STAGED_SUFFIX);
    Ok(path.with_file_name(staged))
}

impl<'a> OutputFile<'a> {
    /// Waits until no other run uses the directory of the file.
    pub(crate) fn lock(path: &'a Path) -> anyhow::Result<Self> {
        let staged = staged_path(path)?;
        let lock = lock_directory_of(&[path, &staged])?;
        Ok(Self { path, staged, _lock: lock })
    }

    /// Reads the staged file that an interrupted run left. Rejects a file that another user may
    /// have written: that user would become the operator.
    pub(crate) fn read_staged(&self) -> anyhow::Result<Option<StagedFile>> {
        #[derive(Deserialize)]
        struct StagedJson {
            token: String,
            replaces: String,
        }

        let failed = || format!("cannot read the token from {}", self.staged.display());
        let foreign = |expected: &str| {
            format!(
                "{0} is not the staged file of a rotation, which is {expected}. Check what it is, and remove it: rm {0}",
                self.staged.display()
            )
        };
        let private = "a file of this user that no other user can read";
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits())?;
        // The open file is checked and read, even if another one replaces it meanwhile.
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) if fs::symlink_metadata(&self.staged).is_ok_and(|metadata| !metadata.is_file()) => {
                bail!(foreign(private))
            }
            file => file.with_context(failed)?,
        };
        let metadata = file.metadata().with_context(failed)?;
        let is_private = is_own(&metadata) && Mode::of(&metadata).is_private();
        ensure!(metadata.is_file() && is_private, foreign(private));
        let text = read_secret(&file).with_context(failed)?;
        // The message of serde quotes the file.
        let Ok(StagedJson { token, replaces }) = serde_json::from_str(&text) else {
            bail!(foreign("JSON with a \"token\" and the hash of the token that it \"replaces\""));
        };
        Ok(Some(StagedFile { token: token.into(), replaces }))
    }

    /// Writes the staged file.
    pub(crate) fn write_staged(&self, token: &Secret, replaces: &Secret) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct StagedJson<'a> {
            token: &'a str,
            replaces: &'a str,
        }

        let mut content = Zeroizing::new(Vec::with_capacity(CONTENT_CAPACITY));
        let json = StagedJson { token: token.expose(), replaces: &sha512_hex(replaces) };
        serde_json::to_writer_pretty(&mut *content, &json)?;
        content.push(b'\n');
        replace(&self.staged, &content, PRIVATE_MODE)
    }

    /// Checks whether the output file can be replaced, before any request.
    pub(crate) fn check_writable(&self) -> anyhow::Result<()> {
        check_replaceable(self.path, PRIVATE_MODE)
            .with_context(|| format!("cannot write {}", self.path.display()))
            .context("no request was sent, as the new token could not be saved")
    }

    /// Writes the token to the output file, and reads it back. The staged file stays, so that this
    /// can be repeated.
    pub(crate) fn install(&self, token: &Secret) -> anyhow::Result<()> {
        let content = self.read().map_or_else(|_| plain(token), |saved| saved.with_token(token));
        replace(self.path, content.as_bytes(), PRIVATE_MODE)?;
        ensure!(
            self.holds(token),
            "{} does not hold what was written to it: another program writes to it, too",
            self.path.display()
        );
        Ok(())
    }

    /// Reads the token in the output file.
    pub(crate) fn read(&self) -> anyhow::Result<SavedToken> {
        SavedToken::from_file(&File::open(self.path)?)
    }

    /// Returns whether the output file holds this token.
    pub(crate) fn holds(&self, token: &Secret) -> bool {
        self.read().is_ok_and(|saved| is_same_token(&saved.token, token))
    }

    /// Removes the staged file. If that fails, the next run finds the file and decides again.
    pub(crate) fn remove_staged(&self) {
        let removed = match fs::remove_file(&self.staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            removed => removed.and_then(|()| sync_directory_of(&self.staged)),
        };
        if let Err(error) = removed {
            warn(&format!(
                "cannot remove {0}, which is obsolete and holds a token: {error}; run: rm {0}",
                self.staged.display()
            ));
        }
    }
}

pub(crate) fn is_same_token(one: &Secret, other: &Secret) -> bool {
    one.expose() == other.expose()
}

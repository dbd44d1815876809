//! The file that `--regenerate --output-file` brings a new token into, and the file beside it that
//! holds the token until it is in force. Knows no server.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cli::output_file::{lock_directory_of, replace};
use crate::cli::token_file::{SavedToken, alone, text_of};
use crate::cli::warn;
use crate::client::sha512_hex;
use crate::private_file::{DirectoryLock, Mode, PRIVATE_MODE, check_replaceable, is_own, sync_directory_of};
use crate::secret::Secret;

/// The file that the new token is for, and the one beside it that holds the token in the meantime.
pub(crate) struct Target<'a> {
    pub(crate) path: &'a Path,
    pub(crate) staged: PathBuf,
    _lock: DirectoryLock,
}

/// What `FILE.staged` holds: a token, as `--token-file` takes it, too.
pub(crate) struct Pending {
    pub(crate) token: Secret,
    /// The SHA-512 of the token that it is to replace.
    pub(crate) replaces: String,
}

impl<'a> Target<'a> {
    pub(crate) fn lock(path: &'a Path) -> anyhow::Result<Self> {
        let name =
            path.file_name().with_context(|| format!("{} is not the name of a file", path.display()))?;
        let mut staged = OsString::from(name);
        staged.push(".staged");
        let staged = path.with_file_name(staged);
        let lock = lock_directory_of(&[path, &staged])?;
        Ok(Self { path, staged, _lock: lock })
    }

    /// The token that an interrupted run has left.
    pub(crate) fn pending(&self) -> anyhow::Result<Option<Pending>> {
        #[derive(Deserialize)]
        struct Json {
            token: String,
            replaces: String,
        }

        let failed = || format!("cannot read the token from {}", self.staged.display());
        let unlike = |what: &str| {
            format!(
                "{0} is not what an interrupted rotation leaves: {what}. See what it is, and remove it: rm {0}",
                self.staged.display()
            )
        };
        let others = "that is a file of this user which nobody else can read";
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits())?;
        // What is looked at is what is read, whatever is put in its place meanwhile.
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) if fs::symlink_metadata(&self.staged).is_ok_and(|metadata| !metadata.is_file()) => {
                bail!(unlike(others))
            }
            file => file.with_context(failed)?,
        };
        let metadata = file.metadata().with_context(failed)?;
        // Or whoever put it there would be the operator.
        let ours = is_own(&metadata) && Mode::of(&metadata).is_private();
        ensure!(metadata.is_file() && ours, unlike(others));
        let text = text_of(&file).with_context(failed)?;
        // Without serde's own text, which quotes what it found.
        let Ok(Json { token, replaces }) = serde_json::from_str(&text) else {
            bail!(unlike("that is JSON with a \"token\" and the hash of the one that it \"replaces\""));
        };
        Ok(Some(Pending { token: token.into(), replaces }))
    }

    /// Keeps a token for as long as it is not known to be in force.
    pub(crate) fn save(&self, token: &Secret, replaces: &Secret) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Json<'a> {
            token: &'a str,
            replaces: &'a str,
        }

        // Larger than what is written, so that no copy is left behind by growing.
        let mut lines = Zeroizing::new(Vec::with_capacity(1024));
        let json = Json { token: token.expose(), replaces: &sha512_hex(replaces) };
        serde_json::to_writer_pretty(&mut *lines, &json)?;
        lines.push(b'\n');
        replace(&self.staged, &lines, PRIVATE_MODE)
    }

    /// Finds out whether the token can be brought where it belongs.
    pub(crate) fn rehearse(&self) -> anyhow::Result<()> {
        check_replaceable(self.path, PRIVATE_MODE)
            .with_context(|| format!("cannot write {}", self.path.display()))
            .context("nothing was asked of the server, as the new token could not be saved")
    }

    /// Brings the token where it belongs, and sees that it is there. What waits beside it stays, so that this can be done
    /// again.
    pub(crate) fn install(&self, token: &Secret) -> anyhow::Result<()> {
        let content = self.read().map_or_else(|_| alone(token), |saved| saved.with(token));
        replace(self.path, content.as_bytes(), PRIVATE_MODE)?;
        ensure!(
            self.holds(token),
            "{} does not hold what was written to it: somebody else writes there, too",
            self.path.display()
        );
        Ok(())
    }

    pub(crate) fn read(&self) -> anyhow::Result<SavedToken> {
        SavedToken::of(&File::open(self.path)?)
    }

    pub(crate) fn holds(&self, token: &Secret) -> bool {
        self.read().is_ok_and(|saved| same(&saved.token, token))
    }

    /// Takes away what waits. If that fails, the next run finds it, and knows what to do.
    pub(crate) fn forget(&self) {
        let forgotten = match fs::remove_file(&self.staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            removed => removed.and_then(|()| sync_directory_of(&self.staged)),
        };
        if let Err(error) = forgotten {
            warn(&format!(
                "cannot remove {0}, which is of no use any more and holds a token: {error}; run: rm {0}",
                self.staged.display()
            ));
        }
    }
}

pub(crate) fn same(token: &Secret, other: &Secret) -> bool {
    token.expose() == other.expose()
}

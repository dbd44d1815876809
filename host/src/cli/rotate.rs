//! Replacing the operator token so that nobody is locked out, whatever fails and whenever: stage -> save -> confirm
//! (DESIGN sections 3 and 5).
//!
//! The token is made here and the server is told its hash, so that whatever is sent twice, late or again means the same.
//! It is in a file beside the one it is for, `FILE.staged`, from before the server hears of it until after success was
//! said. Whoever finds that file finishes what was begun.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use reqwest::StatusCode;

use super::offline::OfflineToken;
use super::replace::{directory_of, replace};
use super::saved::{SavedToken, alone};
use super::{say, warn};
use crate::client::{Client, ClientError};
use crate::secret::Secret;

/// How long to wait before a request is sent again that was not answered. A server that is started again is there within
/// the second.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// A replacement of the operator token.
pub(super) struct Rotation<'a> {
    pub(super) client: &'a Client,
    /// The operator token. Without it only a recovery listener does anything.
    pub(super) credential: Option<&'a Secret>,
    /// What a recovery listener may ask for.
    pub(super) code: Option<&'a Secret>,
    /// For how many seconds the replaced token is still accepted.
    pub(super) overlap: u64,
    /// Shows the new token on stdout.
    pub(super) show: &'a dyn Fn(&Secret) -> io::Result<()>,
}

impl Rotation<'_> {
    /// Shows the new token, and then lets it take over: whoever reads it is not locked out, even if this process is
    /// gone before the answer.
    pub(super) fn to_screen(&self) -> anyhow::Result<()> {
        let shown = |token: &Secret| {
            (self.show)(token).context("the token was created, but cannot be written to standard output")
        };
        let Some(credential) = self.credential_for_staging() else {
            return shown(&self.in_one_call(true)?);
        };
        let new = OfflineToken::mint(None, None)?;
        match self.stage(credential, new.sha512()) {
            Ok(()) => {}
            Err(error) if is(&error, &[StatusCode::NOT_FOUND]) => {
                let token = self.in_one_call(is_recovery(&error))?;
                shown(&token)?;
                return if is_recovery(&error) { Ok(()) } else { self.authenticate(&token) };
            }
            Err(error) => return Err(error.into()),
        }
        (self.show)(&new.secret)
            .context("the new token cannot be written to standard output, so the old one stays in force")?;
        self.confirm(&new.secret).map_err(|error| {
            anyhow!(error).context(
                "the token that was shown may not be in force: if the old one is refused from now on, it is; if not, run \
                 the command again",
            )
        })?;
        self.authenticate(&new.secret)?;
        self.say_in_force();
        Ok(())
    }

    /// Brings the new token into a file, or finishes what an interrupted run has begun there.
    pub(super) fn to_file(&self, path: &Path) -> anyhow::Result<()> {
        let target = Target::lock(path)?;
        let Some(pending) = target.pending()? else { return self.begin(&target) };
        say(&format!("An interrupted rotation has left {}; finishing it.", target.staged.display()));
        match self.confirm(&pending) {
            Ok(()) => return self.finish(&target, &pending),
            Err(error) if is(&error, &[StatusCode::NOT_FOUND]) => {
                return self.without_staging(&target, is_recovery(&error));
            }
            // It is not staged, or no longer.
            Err(error) if is(&error, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]) => {}
            Err(error) => return Err(target.unfinished(error)),
        }
        let Some(credential) = self.credential else {
            bail!(
                "the server does not accept the token in {}, so the rotation that it is of cannot be finished without the \
                 operator token: give it with --token-file or INFLUXDB3_AUTH_TOKEN",
                target.staged.display()
            );
        };
        let pending = OfflineToken::of(pending)
            .with_context(|| format!("{} is not of an interrupted rotation", target.staged.display()))?;
        match self.stage(credential, pending.sha512()) {
            Ok(()) => self.take_over(&target, &pending.secret),
            Err(error) if is(&error, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]) => {
                // What the interrupted run has sent may have arrived late, or an answer was lost just now.
                if self.confirm(&pending.secret).is_ok() {
                    return self.finish(&target, &pending.secret);
                }
                if self.is_done(&target, credential) {
                    return Ok(());
                }
                Err(anyhow!(error).context(format!(
                    "neither the token that was given nor the one in {} is accepted",
                    target.staged.display()
                )))
            }
            Err(error) => Err(target.unfinished(error)),
        }
    }

    fn begin(&self, target: &Target<'_>) -> anyhow::Result<()> {
        let Some(credential) = self.credential_for_staging() else {
            return self.without_staging(target, true);
        };
        let new = OfflineToken::mint(None, None)?;
        target.save(&new.secret)?;
        match self.stage(credential, new.sha512()) {
            Ok(()) => self.take_over(target, &new.secret),
            Err(error) if is(&error, &[StatusCode::NOT_FOUND]) => {
                target.forget();
                self.without_staging(target, is_recovery(&error))
            }
            Err(error @ ClientError::Refused { .. }) => {
                // Nobody has asked to confirm it, so it is nobody's only token.
                target.forget();
                if is(&error, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN])
                    && self.is_done(target, credential)
                {
                    return Ok(());
                }
                Err(error.into())
            }
            Err(error) => Err(target.unfinished(error)),
        }
    }

    /// Lets the staged token take over, which is on the disk.
    fn take_over(&self, target: &Target<'_>, token: &Secret) -> anyhow::Result<()> {
        self.confirm(token).map_err(|error| target.unfinished(error))?;
        self.finish(target, token)
    }

    /// The token is the operator's.
    fn finish(&self, target: &Target<'_>, token: &Secret) -> anyhow::Result<()> {
        self.authenticate(token)?;
        target.install(token)?;
        self.say_in_force();
        target.say_saved()?;
        target.forget();
        Ok(())
    }

    /// As every server can do it.
    fn without_staging(&self, target: &Target<'_>, recovery: bool) -> anyhow::Result<()> {
        let token = self.in_one_call(recovery)?;
        if let Err(error) = target.install(&token) {
            // It is shown now or never.
            (self.show)(&token)?;
            return Err(error.context("the token was replaced and shown, but not saved"));
        }
        if !recovery {
            self.authenticate(&token)?;
        }
        target.say_saved()?;
        target.forget();
        Ok(())
    }

    /// What a recovery listener is given has nothing to stage with.
    fn credential_for_staging(&self) -> Option<&Secret> {
        self.credential.filter(|_| self.code.is_none())
    }

    /// Replaces the token in a call whose answer must not be lost. A recovery listener is closed after it, so that it
    /// cannot be asked whether the new token authenticates.
    fn in_one_call(&self, recovery: bool) -> anyhow::Result<Secret> {
        if self.overlap > 0 {
            bail!(
                "this server cannot replace the token and accept the old one a while longer; without --overlap the old one \
                 stops working at once"
            );
        }
        if !recovery {
            warn(
                "the server cannot stage a new token (404), so the old one is replaced in a single call: if its answer is \
                 lost, so is the new token",
            );
        }
        Ok(self.client.regenerate_operator(self.credential, self.code)?)
    }

    /// Whether another run has finished, or this one before it was interrupted: what was given is refused, and what is in
    /// the file is the operator token. Says so.
    fn is_done(&self, target: &Target<'_>, credential: &Secret) -> bool {
        let Ok(saved) = SavedToken::read(target.path) else { return false };
        let done = saved.token.expose() != credential.expose() && self.confirm(&saved.token).is_ok();
        if done {
            say(&format!(
                "The token that was given is no longer accepted; it was replaced by the one in {}, which is in force.",
                target.path.display()
            ));
        }
        done
    }

    fn stage(&self, credential: &Secret, sha512: &str) -> Result<(), ClientError> {
        // A server that was never reached need not be waited for.
        persist(false, || self.client.stage(credential, sha512))
    }

    fn confirm(&self, token: &Secret) -> Result<(), ClientError> {
        persist(true, || self.client.confirm(token, self.overlap))
    }

    fn authenticate(&self, token: &Secret) -> anyhow::Result<()> {
        persist(true, || self.client.authenticate(token))
            .context("the old token was replaced, but the new one does not authenticate")
    }

    fn say_in_force(&self) {
        let old = match self.overlap {
            0 => "the old one is refused from now on".to_owned(),
            seconds => format!(
                "the old one is accepted for another {}",
                humantime::format_duration(Duration::from_secs(seconds))
            ),
        };
        say(&format!("The new token is in force, and {old}."));
    }
}

fn is(error: &ClientError, statuses: &[StatusCode]) -> bool {
    matches!(error, ClientError::Refused { status, .. } if statuses.contains(status))
}

/// Whether it is a recovery listener that does not know a path: it says so in lower case (COMPAT 5.5).
fn is_recovery(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { message, .. } if message == "not found")
}

/// Sends again what means the same when it is sent again, as long as there is no answer to it.
fn persist(unreachable: bool, attempt: impl Fn() -> Result<(), ClientError>) -> Result<(), ClientError> {
    for pause in PAUSES {
        match attempt() {
            Err(ClientError::NoAnswer { .. }) => {}
            Err(ClientError::Unreachable { .. }) if unreachable => {}
            Err(error) if is(&error, &[StatusCode::SERVICE_UNAVAILABLE]) => {}
            outcome => return outcome,
        }
        thread::sleep(pause);
    }
    attempt()
}

/// The file that the new token is for, and the one beside it that holds the token in the meantime.
struct Target<'a> {
    path: &'a Path,
    staged: PathBuf,
    directory: &'a Path,
    /// Until it is closed, no other run is at work on a file in that directory.
    _lock: File,
}

impl<'a> Target<'a> {
    fn lock(path: &'a Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let name = path.file_name().context("this is not the name of a file").with_context(failed)?;
        let mut staged = OsString::from(name);
        staged.push(".staged");
        let directory = directory_of(path);
        let lock = File::open(directory).with_context(failed)?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            say(&format!("Waiting for another run to finish in {} …", directory.display()));
            // Some file systems have no locks. There, only two runs at once are at risk.
            let _ = lock.lock();
        }
        Ok(Self { path, staged: path.with_file_name(staged), directory, _lock: lock })
    }

    /// The token that an interrupted run has left.
    fn pending(&self) -> anyhow::Result<Option<Secret>> {
        let metadata = match fs::symlink_metadata(&self.staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => {
                metadata.with_context(|| format!("cannot read the token from {}", self.staged.display()))?
            }
        };
        // Or whoever put it there would be the operator.
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_file() || !ours || metadata.mode() & 0o077 != 0 {
            bail!(
                "{0} is not what an interrupted rotation leaves: that is a file of this user which nobody else can read. \
                 See what it is, and remove it: rm {0}",
                self.staged.display()
            );
        }
        Ok(Some(SavedToken::read(&self.staged)?.token))
    }

    /// Keeps a token for as long as it is not known to be in force.
    fn save(&self, token: &Secret) -> anyhow::Result<()> {
        replace(&self.staged, alone(token).as_bytes(), 0o600)
    }

    /// Brings the token where it belongs. What waits beside it stays, so that this can be done again.
    fn install(&self, token: &Secret) -> anyhow::Result<()> {
        let content = SavedToken::read(self.path).map_or_else(|_| alone(token), |saved| saved.with(token));
        replace(self.path, content.as_bytes(), 0o600)
    }

    /// Takes away what waits. If that fails, the next run finds a token that is in force, and takes it away.
    fn forget(&self) {
        if fs::remove_file(&self.staged).is_ok() {
            let _ = File::open(self.directory).and_then(|directory| directory.sync_all());
        }
    }

    fn say_saved(&self) -> anyhow::Result<()> {
        use std::io::Write as _;

        writeln!(anstream::stdout(), "Token saved to: {}", self.path.display())
            .context("the token was saved, but that cannot be written to standard output")
    }

    fn unfinished(&self, error: ClientError) -> anyhow::Error {
        anyhow!(error).context(format!(
            "the rotation is not finished, and nobody is locked out: the new token is in {}, and the old one stays in force \
             until it is. Run the same command again",
            self.staged.display()
        ))
    }
}

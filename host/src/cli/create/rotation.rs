//! Replacing the operator token so that nobody is locked out, whatever fails and whenever: stage -> save -> confirm
//! (DESIGN sections 3 and 5).
//!
//! The token is made here and the server is told its hash, so that whatever is sent twice, late or again means the same.
//! It is in a file beside the one it is for, `FILE.staged`, from before the server hears of it until it is in `FILE`, on
//! the disk and read back. That `FILE` can be replaced at all is tried out before anything is asked of the server.
//!
//! # What an interrupted run leaves, and why the next one does the right thing
//!
//! `FILE.staged` holds the new token P and the SHA-512 of the token R that it is to replace. It outlives what it is for:
//! by a kill before it is taken away, or because the operator token was replaced elsewhere meanwhile. Finding it is
//! therefore no reason to believe that P is new, or wanted. With C as the token that was given now:
//!
//! - P is C: all of that rotation was done but for taking the file away. It goes, and a new rotation begins. Before it
//!   goes, `FILE` holds P, so that it is nobody's only copy.
//! - The server confirms P: it was staged, and is in force now, or it was in force already. Either way this is the
//!   rotation that was asked for, and it is finished.
//! - P is refused, and C is R: P is staged again with C. If C is accepted for that, it is the operator token still, and
//!   P never was. So P was never revoked either, and whatever the interrupted run has sent that comes late (stage P with R,
//!   confirm P) asks for what this run asks for, too.
//! - P is refused, and C is the operator token but not R: R is gone for good, as what was replaced does not come back.
//!   Nothing but R could stage P, and whatever else replaced R ended that staging, so no late message can bring P into
//!   force. But P may have been in force, and been revoked since: it goes, and a new rotation begins. C is held against
//!   the operator token's hash for this; a named admin token is accepted, too, and proves nothing about R.
//! - P and C are both refused: one of them may still be what another server accepts, so the file stays.
//!
//! On several servers that share a store, each knows of a change a little later than the one that made it. What one of
//! them refuses is asked for again until it must have heard.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use reqwest::StatusCode;

use crate::cli::create::offline::OfflineToken;
use crate::cli::create::staged_file::{Pending, Target, same};
use crate::cli::{say, warn};
use crate::client::{Client, ClientError, Operator, sha512_hex};
use crate::secret::Secret;

/// How long to wait before a request is sent again that was not answered. A server that is started again is there within
/// the second.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// How long a refusal is not believed: a server may not have heard yet of what another one has done. It hears of it within
/// 250 ms and one read of the store, which has its time on a busy machine.
const STALE: Duration = Duration::from_millis(1200);

/// How often it is asked in that time.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A replacement of the operator token.
pub(crate) struct Rotation<'a> {
    pub(crate) client: &'a Client,
    /// The operator token. Without it only a recovery listener does anything.
    pub(crate) credential: Option<&'a Secret>,
    /// What a recovery listener may ask for.
    pub(crate) code: Option<&'a Secret>,
    /// For how many seconds the replaced token is still accepted.
    pub(crate) overlap: u64,
    pub(crate) screen: &'a dyn Screen,
}

/// What stdout is told, in the format that was asked for.
pub(crate) trait Screen {
    /// Shows a token, and says nothing of what it is.
    fn show(&self, token: &Secret) -> io::Result<()>;

    /// Says that the token that was shown is the operator token.
    fn say_success(&self) -> io::Result<()>;

    /// Says in which file the operator token is.
    fn say_saved(&self, path: &Path) -> io::Result<()>;
}

impl Rotation<'_> {
    /// Shows the new token, and then lets it take over: whoever reads it is not locked out, even if this process is
    /// gone before the answer. Success is said when it has.
    pub(crate) fn to_screen(&self) -> anyhow::Result<()> {
        let Some(credential) = self.credential_for_staging() else {
            return self.to_screen_in_one_call(true);
        };
        let new = OfflineToken::mint(None, None)?;
        match self.stage(credential, new.sha512()) {
            Ok(()) => {}
            Err(error) if is(&error, &[StatusCode::NOT_FOUND]) => {
                return self.to_screen_in_one_call(is_recovery(&error));
            }
            Err(error) => return Err(error.into()),
        }
        say("The new token, which is not in force yet:");
        self.screen
            .show(&new.secret)
            .context("the new token cannot be written to standard output, so the old one stays in force")?;
        self.confirm(&new.secret).map_err(|error| {
            anyhow!(error).context(
                "the token that was shown may not be in force: if the old one is refused from now on, it is; if not, run \
                 the command again",
            )
        })?;
        let operator = self
            .authenticate_operator(&new.secret)
            .context("the token that was shown has replaced the old one, but does not authenticate")?;
        self.say_in_force(&operator);
        self.success_on_screen()
    }

    fn to_screen_in_one_call(&self, recovery: bool) -> anyhow::Result<()> {
        let token = self.in_one_call(recovery)?;
        self.screen.show(&token).context(
            "the old token was replaced, but the new one cannot be written to standard output: use token recovery",
        )?;
        if !recovery {
            self.authenticate(&token)
                .context("the token that was shown has replaced the old one, but does not authenticate")?;
        }
        self.success_on_screen()
    }

    fn success_on_screen(&self) -> anyhow::Result<()> {
        self.screen
            .say_success()
            .context("the token that was shown is in force, but that cannot be written to standard output")
    }

    /// Brings the new token into a file, or finishes what an interrupted run has begun there.
    pub(crate) fn to_file(&self, path: &Path) -> anyhow::Result<()> {
        let target = Target::lock(path)?;
        match target.pending()? {
            None => self.begin(&target),
            Some(pending) if self.credential.is_some_and(|given| same(given, &pending.token)) => {
                self.tidy(&target, &pending.token)?;
                self.begin(&target)
            }
            Some(pending) => self.resume(&target, pending),
        }
    }

    /// Takes away what waits and is what was given.
    fn tidy(&self, target: &Target<'_>, token: &Secret) -> anyhow::Result<()> {
        if !target.holds(token) {
            target.rehearse()?;
            // Before what is in the file is replaced, which may be the operator token.
            let accepted = match self.confirm(token) {
                Err(error) if is(&error, &[StatusCode::NOT_FOUND]) => self.authenticate(token),
                answer => answer,
            };
            accepted.with_context(|| {
                format!("the token that was given is the one in {}", target.staged.display())
            })?;
            target.install(token).map_err(|error| in_force(target, error))?;
        }
        say(&format!(
            "The rotation to the token that was given is finished; removing {}, which it has left, and beginning a new one.",
            target.staged.display()
        ));
        target.forget();
        Ok(())
    }

    /// Finishes what an interrupted run has begun, if that is what is to be done.
    fn resume(&self, target: &Target<'_>, pending: Pending) -> anyhow::Result<()> {
        say(&format!("An interrupted rotation has left {}; finishing it.", target.staged.display()));
        target.rehearse()?;
        match self.confirm(&pending.token) {
            Ok(()) => return self.finish(target, &pending.token),
            Err(error) if is(&error, &[StatusCode::NOT_FOUND]) => {
                return self.without_staging(target, is_recovery(&error));
            }
            // It is not staged, or no longer.
            Err(error) if is(&error, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]) => {}
            Err(error) => return Err(unfinished(target, error)),
        }
        let Some(credential) = self.credential else {
            bail!(
                "the server does not accept the token in {}, so the rotation that it is of cannot be finished without the \
                 operator token: give it with --token-file or INFLUXDB3_AUTH_TOKEN",
                target.staged.display()
            );
        };
        if sha512_hex(credential) == pending.replaces {
            return self.stage_again(target, credential, pending.token);
        }
        let neither = || {
            format!(
                "neither the token that was given nor the one in {} is the operator token",
                target.staged.display()
            )
        };
        match persist(true, || self.client.operator(credential)) {
            Ok(operator) if operator.is(credential) => {
                say(&format!(
                    "The operator token was replaced elsewhere meanwhile, so the token in {} is of no use: removing it, and \
                     beginning a new rotation.",
                    target.staged.display()
                ));
                target.forget();
                self.begin(target)
            }
            _ if self.is_done(target, credential)? => Ok(()),
            Ok(_) => Err(anyhow!(neither())),
            Err(error) if is(&error, &[StatusCode::UNAUTHORIZED]) => Err(anyhow!(error).context(neither())),
            Err(error) => Err(unfinished(target, error)),
        }
    }

    fn stage_again(&self, target: &Target<'_>, credential: &Secret, token: Secret) -> anyhow::Result<()> {
        let pending = OfflineToken::of(token)
            .with_context(|| format!("{} is not of an interrupted rotation", target.staged.display()))?;
        match self.stage(credential, pending.sha512()) {
            Ok(()) => self.take_over(target, &pending.secret),
            Err(error) if is(&error, &[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]) => {
                // What the interrupted run has sent may have arrived late, or an answer was lost just now.
                if self.confirm(&pending.secret).is_ok() {
                    return self.finish(target, &pending.secret);
                }
                if self.is_done(target, credential)? {
                    return Ok(());
                }
                Err(anyhow!(error).context(format!(
                    "neither the token that was given nor the one in {} is accepted",
                    target.staged.display()
                )))
            }
            Err(error) => Err(unfinished(target, error)),
        }
    }

    fn begin(&self, target: &Target<'_>) -> anyhow::Result<()> {
        let Some(credential) = self.credential_for_staging() else {
            return self.without_staging(target, true);
        };
        let new = OfflineToken::mint(None, None)?;
        target.save(&new.secret, credential)?;
        // While that one is there, as it will be.
        if let Err(error) = target.rehearse() {
            target.forget();
            return Err(error);
        }
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
                    && self.is_done(target, credential)?
                {
                    return Ok(());
                }
                Err(error.into())
            }
            Err(error) => Err(unfinished(target, error)),
        }
    }

    /// Lets the staged token take over, which is on the disk.
    fn take_over(&self, target: &Target<'_>, token: &Secret) -> anyhow::Result<()> {
        self.confirm(token).map_err(|error| unfinished(target, error))?;
        self.finish(target, token)
    }

    /// The token is the operator's.
    fn finish(&self, target: &Target<'_>, token: &Secret) -> anyhow::Result<()> {
        let operator = self.authenticate_operator(token).map_err(|error| in_force(target, error.into()))?;
        target.install(token).map_err(|error| in_force(target, error))?;
        target.forget();
        self.say_in_force(&operator);
        self.say_saved(target)
    }

    /// As every server can do it.
    fn without_staging(&self, target: &Target<'_>, recovery: bool) -> anyhow::Result<()> {
        target.rehearse()?;
        let token = self.in_one_call(recovery)?;
        if let Err(error) = target.install(&token) {
            // It is shown now or never.
            self.screen.show(&token).with_context(|| {
                format!(
                    "the old token was replaced, and the new one can neither be saved ({error:#}) nor shown: use token \
                     recovery"
                )
            })?;
            return Err(
                error.context("the old token was replaced by the one that is shown, which is not saved")
            );
        }
        target.forget();
        if !recovery {
            self.authenticate(&token).with_context(|| {
                format!(
                    "the old token was replaced by the one in {}, but that does not authenticate",
                    target.path.display()
                )
            })?;
        }
        self.say_saved(target)
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
    fn is_done(&self, target: &Target<'_>, credential: &Secret) -> anyhow::Result<bool> {
        let Ok(saved) = target.read() else { return Ok(false) };
        let done = !same(&saved.token, credential) && self.confirm(&saved.token).is_ok();
        if done {
            say(&format!(
                "The token that was given is no longer accepted; it was replaced by the one in {}, which is in force.",
                target.path.display()
            ));
            self.say_saved(target)?;
        }
        Ok(done)
    }

    fn stage(&self, credential: &Secret, sha512: &str) -> Result<(), ClientError> {
        // A server that was never reached need not be waited for.
        persist(false, || self.client.stage(credential, sha512))
    }

    fn confirm(&self, token: &Secret) -> Result<(), ClientError> {
        persist(true, || self.client.confirm(token, self.overlap))
    }

    fn authenticate(&self, token: &Secret) -> Result<(), ClientError> {
        persist(true, || self.client.authenticate(token))
    }

    fn authenticate_operator(&self, token: &Secret) -> Result<Operator, ClientError> {
        persist(true, || self.client.authenticate_operator(token))
    }

    /// Says what has become of the old token, which the server knows better: the confirmation may have been that of an
    /// earlier run with other options.
    fn say_in_force(&self, operator: &Operator) {
        if let Some(overlap) = &operator.overlap {
            return say(&format!(
                "The new token is in force, and the old one is accepted until {}.",
                overlap.ends_at()
            ));
        }
        say("The new token is in force, and the old one is refused from now on.");
        if self.overlap > 0 {
            warn(
                "--overlap has no effect: an earlier run has replaced the old token without it, or its time is over",
            );
        }
    }

    fn say_saved(&self, target: &Target<'_>) -> anyhow::Result<()> {
        self.screen.say_saved(target.path).with_context(|| {
            format!(
                "the operator token is in {}, but that cannot be written to standard output",
                target.path.display()
            )
        })
    }
}

fn is(error: &ClientError, statuses: &[StatusCode]) -> bool {
    matches!(error, ClientError::Refused { status, .. } if statuses.contains(status))
}

/// Whether it is a recovery listener that does not know a path: it says so in lower case (COMPAT 5.5).
fn is_recovery(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { message, .. } if message == "not found")
}

/// Sends again what means the same when it is sent again: as long as there is no answer to it, and for a while if the
/// token is refused, which may be news to that server.
fn persist<T>(unreachable: bool, attempt: impl Fn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let mut pauses = PAUSES.into_iter();
    let mut refused = None;
    loop {
        let error = match attempt() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let pause = match &error {
            ClientError::NoAnswer { .. } => pauses.next(),
            ClientError::Unreachable { .. } if unreachable => pauses.next(),
            error if is(error, &[StatusCode::SERVICE_UNAVAILABLE]) => pauses.next(),
            error if is(error, &[StatusCode::UNAUTHORIZED]) => {
                let since = refused.get_or_insert_with(Instant::now);
                (since.elapsed() < STALE).then_some(ASK_AGAIN)
            }
            _ => None,
        };
        let Some(pause) = pause else { return Err(error) };
        thread::sleep(pause);
    }
}

fn unfinished(target: &Target<'_>, error: ClientError) -> anyhow::Error {
    anyhow!(error).context(format!(
        "the rotation is not finished, and nobody is locked out: the new token is in {}, and the old one stays in force \
         until the new one is. Run the same command again",
        target.staged.display()
    ))
}

/// What has gone wrong when the new token had taken over already.
fn in_force(target: &Target<'_>, error: anyhow::Error) -> anyhow::Error {
    error.context(format!(
        "the new token is in force, and the old one is not, or only until its overlap ends; the new one is in {}, and \
         not in {} yet. Run the same command again when what stands in the way is gone",
        target.staged.display(),
        target.path.display()
    ))
}

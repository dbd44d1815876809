//! Replaces the operator token without a moment at which no token works: stage, save, confirm
//! (docs/design.md 3.4 and 5.6).
//!
//! The client generates the token and sends its hash, so every request can be repeated, be late or
//! arrive twice. The token is in a file beside the output file, `FILE.staged`, before the server
//! gets the hash, and stays there until it is in `FILE`, on the disk and read back. Whether `FILE`
//! can be replaced is checked before any request.
//!
//! # What an interrupted run leaves, and why the next run is right
//!
//! `FILE.staged` holds the new token P, and the SHA-512 of the token R that P is to replace. The
//! file can outlive its rotation: the run was killed before it removed the file, or the operator
//! token was replaced elsewhere meanwhile. So the file proves neither that P is new nor that P is
//! wanted. With C as the token that the user gives now:
//!
//! - P is C: that rotation is complete, except that the file remains. The file is removed and a new
//!   rotation begins. `FILE` holds P before that, so the file is never the only copy.
//! - The server confirms P: P was staged and is in force now, or was in force already. In both
//!   cases it is the requested rotation, which is finished.
//! - P is refused, and C is R: P is staged again with C. If the server accepts C for that, C is
//!   still the operator token, and P never was. So P was never revoked either. A late request of
//!   the interrupted run (stage P with R, confirm P) asks for the same as this run.
//! - P is refused, and C is the operator token but not R: R is gone, because a replaced token never
//!   returns. Only R could stage P, and the replacement of R ended that staging. So no late request
//!   can bring P into force. P may have been in force and revoked since, so the file is removed and
//!   a new rotation begins. C must match the hash of the operator token: the server accepts a named
//!   admin token, too, which proves nothing about R.
//! - P and C are both refused: another server may still accept one of them, so the file stays.
//!
//! Servers that share a store learn of a change a little later than the server that made it. A
//! refused request is therefore repeated until every server must know of the change.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use optoken_protocol::problem::ErrorStatus;

use crate::cli::create::offline::OfflineToken;
use crate::cli::create::staged_file::{OutputFile, StagedFile, is_same_token};
use crate::cli::stderr::{print_stderr, warn};
use crate::client::{Absent, Client, ClientError, OperatorStatus, sha512_hex};
use crate::secret::Secret;
use crate::token::OPERATOR;

/// The pauses before a request without a response is repeated. A server restarts within a second.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// The pauses before a refused request is repeated: the server may not know of a change yet. Behind
/// a load balancer, the next node learns of the change within an interval, of one second by
/// default, and one read of the store. They are few: each refusal has a line in the log, and may
/// count against the client.
const PROPAGATION_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// The statuses by which a server refuses a token.
const REFUSED: [ErrorStatus; 2] = [ErrorStatus::Unauthorized, ErrorStatus::Forbidden];

/// A replacement of the operator token.
pub(crate) struct Rotation<'a> {
    pub(crate) client: &'a Client,
    /// The operator token. Only a recovery listener replaces it without.
    pub(crate) credential: Option<&'a Secret>,
    /// The code that a recovery listener may require.
    pub(crate) recovery_code: Option<&'a Secret>,
    /// How many seconds the replaced token is still accepted.
    pub(crate) overlap: u64,
    pub(crate) output: &'a dyn Output,
}

/// Why the token is replaced in a single call, and not in the steps that can be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SingleCall {
    /// A recovery listener has no other, and closes afterwards.
    Recovery,
    /// The server is InfluxDB 3, or an older one.
    WithoutStaging,
}

impl SingleCall {
    /// Returns the way that is left after a request of a step failed so, if there is one. A server
    /// without an operator token has nothing to replace, and to any other server nothing is sent.
    fn instead_of(error: &ClientError) -> Option<Self> {
        match error.absent()? {
            Absent::Path => Some(Self::WithoutStaging),
            Absent::RecoveryPath => Some(Self::Recovery),
            Absent::Operator | Absent::Token | Absent::Unknown => None,
        }
    }
}

/// What is printed to stdout, in the format that the user chose.
pub(crate) trait Output {
    /// Prints a token, and nothing about its state.
    fn print_token(&self, token: &Secret) -> io::Result<()>;

    /// Reports that the printed token is the operator token.
    fn print_success(&self) -> io::Result<()>;

    /// Reports which file holds the operator token.
    fn print_saved(&self, path: &Path) -> io::Result<()>;
}

impl Rotation<'_> {
    /// Prints the new token, and then confirms it: if this process ends before the response, the
    /// user has the token. Reports success after the confirmation.
    pub(crate) fn rotate_to_stdout(&self) -> anyhow::Result<()> {
        let Some(credential) = self.credential_for_staging() else {
            return self.regenerate_to_stdout(SingleCall::Recovery);
        };
        let new = OfflineToken::generate(None, None)?;
        match self.stage(credential, new.sha512()) {
            Ok(()) => {}
            Err(error) => match SingleCall::instead_of(&error) {
                Some(call) => return self.regenerate_to_stdout(call),
                None => return Err(error.into()),
            },
        }
        print_stderr("The new token, which is not in force yet:");
        self.output
            .print_token(&new.secret)
            .context("the new token cannot be written to standard output, so the old one stays in force")?;
        self.confirm(&new.secret).map_err(|error| {
            anyhow!(error).context(
                "the printed token may not be in force: if the server now refuses the old one, it is; if not, run the \
                 command again",
            )
        })?;
        let operator = self
            .authenticate_operator(&new.secret)
            .context("the printed token has replaced the old one, but does not authenticate")?;
        self.report_in_force(&operator);
        self.report_success()
    }

    fn regenerate_to_stdout(&self, call: SingleCall) -> anyhow::Result<()> {
        let token = self.regenerate(call)?;
        self.output.print_token(&token).context(
            "the old token was replaced, but the new one cannot be written to standard output: use token recovery",
        )?;
        if call != SingleCall::Recovery {
            self.authenticate(&token)
                .context("the printed token has replaced the old one, but does not authenticate")?;
        }
        self.report_success()
    }

    fn report_success(&self) -> anyhow::Result<()> {
        self.output
            .print_success()
            .context("the printed token is in force, but that cannot be written to standard output")
    }

    /// Brings a new token into a file, or finishes the rotation that an interrupted run began
    /// there.
    pub(crate) fn rotate_to_file(&self, path: &Path) -> anyhow::Result<()> {
        let file = OutputFile::lock(path)?;
        match file.read_staged()? {
            None => self.begin(&file),
            Some(staged) if self.credential.is_some_and(|given| is_same_token(given, &staged.token)) => {
                self.finish_completed(&file, &staged.token)?;
                self.begin(&file)
            }
            Some(staged) => self.resume(&file, staged),
        }
    }

    /// Removes the staged file of a completed rotation, whose token is the one that the user gave.
    fn finish_completed(&self, file: &OutputFile<'_>, token: &Secret) -> anyhow::Result<()> {
        if !file.holds(token) {
            file.check_writable()?;
            // The file may hold the operator token, so it is replaced only after the server accepts
            // this one.
            let accepted = match self.confirm(token) {
                Err(error) if error.absent() == Some(Absent::Path) => self.authenticate(token),
                result => result,
            };
            accepted.with_context(|| format!("the given token is the one in {}", file.staged.display()))?;
            file.install(token).map_err(|error| in_force(file, error))?;
        }
        print_stderr(&format!(
            "The rotation to the given token is finished; removing {}, which it left, and beginning a new one.",
            file.staged.display()
        ));
        file.remove_staged();
        Ok(())
    }

    /// Finishes the rotation of an interrupted run, unless it is obsolete.
    fn resume(&self, file: &OutputFile<'_>, staged: StagedFile) -> anyhow::Result<()> {
        print_stderr(&format!("An interrupted rotation has left {}; finishing it.", file.staged.display()));
        file.check_writable()?;
        match self.confirm(&staged.token) {
            Ok(()) => return self.finish(file, &staged.token),
            // The token is not staged, or no longer.
            Err(error) if error.has_status(&REFUSED) => {}
            Err(error) => match SingleCall::instead_of(&error) {
                Some(call) => return self.regenerate_to_file(file, call),
                None => return Err(unfinished(file, error)),
            },
        }
        let Some(credential) = self.credential else {
            bail!(
                "the server does not accept the token in {}, so its rotation cannot be finished without the operator \
                 token: give it with --token-file or INFLUXDB3_AUTH_TOKEN",
                file.staged.display()
            );
        };
        if sha512_hex(credential) == staged.replaces {
            return self.stage_again(file, credential, staged.token);
        }
        let neither = || {
            format!("neither the given token nor the one in {} is the operator token", file.staged.display())
        };
        match retry(true, || self.client.operator_status(credential)) {
            Ok(operator) if operator.is_about(credential) => {
                print_stderr(&format!(
                    "The operator token was replaced elsewhere meanwhile, so the token in {} is obsolete: removing it, \
                     and beginning a new rotation.",
                    file.staged.display()
                ));
                file.remove_staged();
                self.begin(file)
            }
            _ if self.report_if_done(file, credential)? => Ok(()),
            Ok(_) => Err(anyhow!(neither())),
            Err(error) if error.has_status(&[ErrorStatus::Unauthorized]) => {
                Err(anyhow!(error).context(neither()))
            }
            Err(error) => Err(unfinished(file, error)),
        }
    }

    fn stage_again(&self, file: &OutputFile<'_>, credential: &Secret, token: Secret) -> anyhow::Result<()> {
        let staged = OfflineToken::from_secret(token, OPERATOR, None).with_context(|| {
            format!("the token in {} is not that of an interrupted rotation", file.staged.display())
        })?;
        match self.stage(credential, staged.sha512()) {
            Ok(()) => self.take_over(file, &staged.secret),
            Err(error) if error.has_status(&REFUSED) => {
                // A request of the interrupted run arrived late, or the response to one of this run
                // was lost.
                if self.confirm(&staged.secret).is_ok() {
                    return self.finish(file, &staged.secret);
                }
                if self.report_if_done(file, credential)? {
                    return Ok(());
                }
                Err(anyhow!(error).context(format!(
                    "neither the given token nor the one in {} is accepted",
                    file.staged.display()
                )))
            }
            Err(error) => Err(unfinished(file, error)),
        }
    }

    fn begin(&self, file: &OutputFile<'_>) -> anyhow::Result<()> {
        let Some(credential) = self.credential_for_staging() else {
            return self.regenerate_to_file(file, SingleCall::Recovery);
        };
        let new = OfflineToken::generate(None, None)?;
        file.write_staged(&new.secret, credential)?;
        // The staged file takes space on the disk, as it will during the installation.
        if let Err(error) = file.check_writable() {
            file.remove_staged();
            return Err(error);
        }
        match self.stage(credential, new.sha512()) {
            Ok(()) => self.take_over(file, &new.secret),
            Err(error @ ClientError::Refused { .. }) => {
                // No request has confirmed the token, so it is not the only one that works.
                file.remove_staged();
                if let Some(call) = SingleCall::instead_of(&error) {
                    return self.regenerate_to_file(file, call);
                }
                if error.has_status(&REFUSED) && self.report_if_done(file, credential)? {
                    return Ok(());
                }
                Err(error.into())
            }
            Err(error) => Err(unfinished(file, error)),
        }
    }

    /// Confirms the staged token, which is on the disk.
    fn take_over(&self, file: &OutputFile<'_>, token: &Secret) -> anyhow::Result<()> {
        self.confirm(token).map_err(|error| unfinished(file, error))?;
        self.finish(file, token)
    }

    /// Installs the token, which is the operator token now.
    fn finish(&self, file: &OutputFile<'_>, token: &Secret) -> anyhow::Result<()> {
        let operator = self.authenticate_operator(token).map_err(|error| in_force(file, error.into()))?;
        file.install(token).map_err(|error| in_force(file, error))?;
        file.remove_staged();
        self.report_in_force(&operator);
        self.report_saved(file)
    }

    /// Replaces the token in a single call, as every server can, and saves the new one.
    fn regenerate_to_file(&self, file: &OutputFile<'_>, call: SingleCall) -> anyhow::Result<()> {
        file.check_writable()?;
        let token = self.regenerate(call)?;
        if let Err(error) = file.install(&token) {
            // The process holds the only copy of the token.
            self.output.print_token(&token).with_context(|| {
                format!(
                    "the old token was replaced, and the new one can neither be saved ({error:#}) nor printed: use token \
                     recovery"
                )
            })?;
            return Err(error.context("the old token was replaced by the printed one, which is not saved"));
        }
        file.remove_staged();
        if call != SingleCall::Recovery {
            self.authenticate(&token).with_context(|| {
                format!(
                    "the old token was replaced by the one in {}, but that does not authenticate",
                    file.path.display()
                )
            })?;
        }
        self.report_saved(file)
    }

    /// Returns the credential that can stage a token. A recovery listener, which gets a code,
    /// cannot stage.
    fn credential_for_staging(&self) -> Option<&Secret> {
        self.credential.filter(|_| self.recovery_code.is_none())
    }

    /// Replaces the token in a single call, whose response must not be lost. A recovery listener
    /// closes afterwards, so that it cannot authenticate the new token.
    fn regenerate(&self, call: SingleCall) -> anyhow::Result<Secret> {
        match call {
            SingleCall::Recovery if self.overlap > 0 => bail!(
                "token recovery ends the old token at once, and so does a request without the operator token: leave out \
                 --overlap, or give the operator token"
            ),
            SingleCall::WithoutStaging if self.overlap > 0 => bail!(
                "this server cannot replace the token and accept the old one a while longer; without --overlap the old one \
                 stops working at once"
            ),
            SingleCall::Recovery => {}
            SingleCall::WithoutStaging => warn(
                "the server cannot stage a new token (404), so the old one is replaced in a single call: if the response is \
                 lost, so is the new token",
            ),
        }
        Ok(self.client.regenerate_operator(self.credential, self.recovery_code)?)
    }

    /// Returns whether another run, or this one before it was interrupted, has completed the
    /// rotation: the server refuses the given token, and the file holds the operator token. Reports
    /// that.
    fn report_if_done(&self, file: &OutputFile<'_>, credential: &Secret) -> anyhow::Result<bool> {
        let Ok(saved) = file.read() else { return Ok(false) };
        let done = !is_same_token(&saved.token, credential) && self.confirm(&saved.token).is_ok();
        if done {
            print_stderr(&format!(
                "The given token is no longer accepted; it was replaced by the one in {}, which is in force.",
                file.path.display()
            ));
            self.report_saved(file)?;
        }
        Ok(done)
    }

    fn stage(&self, credential: &Secret, sha512: &str) -> Result<(), ClientError> {
        // Nothing has begun, so an unreachable server is an error at once.
        retry(false, || self.client.stage(credential, sha512))
    }

    fn confirm(&self, token: &Secret) -> Result<(), ClientError> {
        retry(true, || self.client.confirm(token, self.overlap))
    }

    fn authenticate(&self, token: &Secret) -> Result<(), ClientError> {
        retry(true, || self.client.authenticate(token))
    }

    fn authenticate_operator(&self, token: &Secret) -> Result<OperatorStatus, ClientError> {
        retry(true, || self.client.authenticate_operator(token))
    }

    /// Reports whether the old token is still accepted, as the server has it: an earlier run with
    /// other options may have confirmed the new one.
    fn report_in_force(&self, operator: &OperatorStatus) {
        if let Some(overlap) = &operator.overlap {
            return print_stderr(&format!(
                "The new token is in force, and the old one is accepted until {}.",
                overlap.expires_at()
            ));
        }
        print_stderr("The new token is in force, and the old one is refused from now on.");
        if self.overlap > 0 {
            warn(
                "--overlap has no effect: an earlier run replaced the old token without it, or it has ended",
            );
        }
    }

    fn report_saved(&self, file: &OutputFile<'_>) -> anyhow::Result<()> {
        self.output.print_saved(file.path).with_context(|| {
            format!(
                "the operator token is in {}, but that cannot be written to standard output",
                file.path.display()
            )
        })
    }
}

/// Repeats a request whose repetition has the same result: while there is no response, and, if the
/// token is refused, until the server must know of a change elsewhere.
fn retry<T>(if_unreachable: bool, attempt: impl Fn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let mut pauses = PAUSES.into_iter();
    let mut propagation_pauses = PROPAGATION_PAUSES.into_iter();
    loop {
        let error = match attempt() {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        let pause = match &error {
            ClientError::NoAnswer { .. } => pauses.next(),
            ClientError::Unreachable { .. } if if_unreachable => pauses.next(),
            error if error.is_temporary() => pauses.next(),
            error if error.is_unknown_token() => propagation_pauses.next(),
            _ => None,
        };
        let Some(pause) = pause else { return Err(error) };
        thread::sleep(pause);
    }
}

fn unfinished(file: &OutputFile<'_>, error: ClientError) -> anyhow::Error {
    anyhow!(error).context(format!(
        "the rotation is not finished, and no access is lost: the new token is in {}, and the old one stays in force \
         until the new one is. Run the same command again",
        file.staged.display()
    ))
}

/// The context of an error after the new token took over.
fn in_force(file: &OutputFile<'_>, error: anyhow::Error) -> anyhow::Error {
    error.context(format!(
        "the new token is in force, and the old one is not, or only until its overlap ends; the new one is in {}, and \
         not in {} yet. Remove the cause, and run the same command again",
        file.staged.display(),
        file.path.display()
    ))
}

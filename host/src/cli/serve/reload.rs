//! Reads files again while the server runs: at SIGHUP all of them, after a change the certificate
//! and the files of tokens.
//!
//! A file that cannot be used changes nothing: what is in use goes on, one line of the log names
//! the file and the reason, and the next comparison tries it again. Everything here can block, so
//! it runs on threads for that.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::certificate::{CertificateFacts, Validity, seconds_now, time_as_text};
use crate::cli::serve::file_watch::{self, FileWatch};
use crate::cli::serve::service_manager;
use crate::metrics::{Metrics, ReloadedFile};
use crate::server::tls::ServerTls;

/// The longest time before its end that a certificate is reported.
const EXPIRES_SOON: u64 = 14 * 24 * 60 * 60;

/// How often the log repeats that a certificate expires.
const EXPIRY_LOG_INTERVAL: Duration = Duration::from_hours(24);

/// The files that a running server reads again.
pub(crate) struct Reloader {
    pub(crate) certificate: Option<CertificateReloader>,
    /// The files of tokens that have an effect.
    pub(crate) tokens: Vec<Box<dyn ReloadTokens>>,
    pub(crate) has_audit_log: bool,
    pub(crate) authority: Authority,
    pub(crate) metrics: Arc<Metrics>,
}

/// The certificate of all listeners, with its key.
pub(crate) struct CertificateReloader {
    tls: ServerTls,
    watch: FileWatch,
    /// The address of the main listener.
    address: SocketAddr,
    metrics: Arc<Metrics>,
    /// Why the files cannot be used, as the log has it.
    failure: Option<String>,
    /// The last line about the expiry.
    reported: Option<(Expiry, Instant)>,
}

/// How near the end of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expiry {
    NotYetValid,
    Far,
    Soon,
    Expired,
}

impl Expiry {
    /// A client of ACME renews in the last third of the lifetime. So in the last sixth, it has
    /// failed for some time.
    fn of(certificate: &CertificateFacts, now: u64) -> Self {
        let lifetime = certificate.not_after.saturating_sub(certificate.not_before);
        match certificate.validity_at(now) {
            Validity::NotYet => Self::NotYetValid,
            Validity::Expired => Self::Expired,
            Validity::Now if certificate.not_after - now <= EXPIRES_SOON.min(lifetime / 6) => Self::Soon,
            Validity::Now => Self::Far,
        }
    }
}

impl Reloader {
    /// Reloads at each SIGHUP and after each change of the certificate, until `stop` is cancelled.
    pub(crate) async fn run(self, hangup: Option<Signal>, stop: CancellationToken) {
        if let Err(error) = self.run_until(hangup, stop).await {
            tracing::error!("files are no longer read again: {error}; restart the server");
        }
    }

    async fn run_until(
        mut self,
        mut hangup: Option<Signal>,
        stop: CancellationToken,
    ) -> Result<(), JoinError> {
        let mut pause = file_watch::SETTLING_INTERVAL;
        loop {
            let is_signalled = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = received(&mut hangup) => true,
                () = time::sleep(pause) => false,
            };
            if is_signalled {
                service_manager::reloading();
                let failed;
                (self, failed) = spawn_blocking(move || {
                    let failed = self.reload();
                    (self, failed)
                })
                .await?;
                if !stop.is_cancelled() {
                    service_manager::reloaded(&match failed {
                        0 => "all files were read again".to_owned(),
                        _ => format!("files that cannot be used: {failed}, see the log"),
                    });
                }
            } else {
                (self, pause) = spawn_blocking(move || {
                    let pause = self.compare();
                    (self, pause)
                })
                .await?;
            }
        }
    }

    /// Reads all files again. Returns how many cannot be used.
    fn reload(&mut self) -> usize {
        tracing::info!("SIGHUP: reading files again");
        let mut failed = 0;
        if let Some(certificate) = &mut self.certificate {
            failed += usize::from(!certificate.reload(true));
            certificate.report_expiry();
        }
        if self.has_audit_log {
            let reopened = self.authority.reopen_audit_log();
            self.metrics.reloaded(ReloadedFile::AuditLog, reopened.is_ok());
            if let Err(error) = reopened {
                failed += 1;
                tracing::error!("{error}; the next record tries it again");
            }
        }
        for tokens in &mut self.tokens {
            failed += usize::from(!tokens.reload(true));
        }
        failed
    }

    /// Compares the watched files. Returns when to do so again.
    fn compare(&mut self) -> Duration {
        let certificate = self.certificate.as_mut().map(CertificateReloader::compare);
        let tokens = self.tokens.iter_mut().map(|tokens| tokens.compare());
        certificate.into_iter().chain(tokens).min().unwrap_or(file_watch::INTERVAL)
    }
}

impl CertificateReloader {
    /// Logs what clients at `address` will refuse.
    pub(crate) fn new(tls: ServerTls, address: SocketAddr, metrics: Arc<Metrics>) -> Self {
        let watch = FileWatch::new(tls.files());
        let mut certificate = Self { tls, watch, address, metrics, failure: None, reported: None };
        certificate.report_new();
        certificate.report_expiry();
        certificate
    }

    /// Reports the certificate in use, which is another than before.
    fn report_new(&mut self) {
        let presented = self.tls.presented();
        self.metrics.set_certificate_expiry(presented.facts.not_after);
        presented.warn_of_unusable(self.address, self.tls.certificate_file());
        self.reported = None;
    }

    fn compare(&mut self) -> Duration {
        let observed = self.watch.observe();
        // A file that was refused may be accepted after a change of something else: the other file
        // of the pair, the mode of a directory, the clock.
        if observed.needs_reading(self.failure.is_some()) {
            self.reload(false);
        }
        self.report_expiry();
        observed.pause()
    }

    /// Reads certificate and key again. Returns whether they can be used.
    fn reload(&mut self, at_signal: bool) -> bool {
        let tls = self.tls.clone();
        let file = tls.certificate_file().display();
        match tls.reload() {
            Ok(is_new) => {
                if is_new {
                    tracing::info!(
                        "new connections get the new certificate of {file}, which is valid until {}",
                        time_as_text(tls.presented().facts.not_after)
                    );
                    self.report_new();
                } else if at_signal || self.failure.is_some() {
                    tracing::info!("the certificate of {file} is the one in use");
                }
                if is_new || at_signal {
                    self.metrics.reloaded(ReloadedFile::Certificate, true);
                }
                self.failure = None;
                true
            }
            Err(error) => {
                let failure = format!("{:#}", anyhow::Error::from(error));
                self.metrics.reloaded(ReloadedFile::Certificate, false);
                if at_signal || self.failure.as_ref() != Some(&failure) {
                    tracing::error!("{failure}; the previous certificate stays in use");
                }
                self.failure = Some(failure);
                false
            }
        }
    }

    /// Logs that the certificate has expired or is about to, once a day.
    fn report_expiry(&mut self) {
        let facts = &self.tls.presented().facts;
        let expiry = Expiry::of(facts, seconds_now());
        let is_reported =
            self.reported.is_some_and(|(last, at)| last == expiry && at.elapsed() < EXPIRY_LOG_INTERVAL);
        if is_reported {
            return;
        }
        self.reported = Some((expiry, Instant::now()));
        let file = self.tls.certificate_file().display();
        let (from, until) = (time_as_text(facts.not_before), time_as_text(facts.not_after));
        match expiry {
            Expiry::Far => {}
            Expiry::NotYetValid => tracing::warn!(
                "the TLS certificate {file} is not valid before {from}, so that clients refuse it; is the clock right?"
            ),
            Expiry::Soon => tracing::warn!(
                "the TLS certificate {file} expires at {until}; renew it, and the server serves the new one without a restart"
            ),
            Expiry::Expired => tracing::warn!(
                "the TLS certificate {file} has expired at {until}, so that clients refuse it; renew it, and the server serves \
                 the new one without a restart"
            ),
        }
    }
}

/// What reading a file of tokens again has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// The file has the tokens that it had.
    Same,
    /// The file has others, or was read because of a signal. The log states what became of them.
    Read,
    /// The operator token was replaced by that of the file.
    Replaced,
}

/// A file of tokens: of those that are imported, or of the one that the upstream gets.
pub(crate) trait TokenFile: Send + 'static {
    /// The file in the metrics.
    const FILE: ReloadedFile;

    /// What holds after an error, for the log.
    const KEPT: &'static str = "the tokens stay as they are";

    /// Returns its path.
    fn path(&self) -> &Path;

    /// Reads the file again, and imports new tokens into the authority. After an error that names
    /// the file, the tokens are as they were. Without a signal, a file that has the same tokens is
    /// left alone.
    fn reload(&mut self, authority: &Authority, at_signal: bool) -> anyhow::Result<Reloaded>;
}

/// Reads a file of tokens again.
pub(crate) trait ReloadTokens: Send {
    /// Reads the file if it has changed. Returns when to compare it again.
    fn compare(&mut self) -> Duration;

    /// Reads the file again. Returns whether it can be used.
    fn reload(&mut self, at_signal: bool) -> bool;
}

/// A file of tokens, and the authority that may import them.
pub(crate) struct TokenReloader<F> {
    file: F,
    watch: FileWatch,
    authority: Authority,
    metrics: Arc<Metrics>,
    /// Why the file cannot be used, as the log has it.
    failure: Option<String>,
}

impl<F: TokenFile> TokenReloader<F> {
    pub(crate) fn new(file: F, authority: Authority, metrics: Arc<Metrics>) -> Self {
        let watch = FileWatch::new([file.path().to_owned()]);
        Self { file, watch, authority, metrics, failure: None }
    }
}

impl<F: TokenFile> ReloadTokens for TokenReloader<F> {
    fn compare(&mut self) -> Duration {
        let observed = self.watch.observe();
        // The store, or the mode of a directory, may be what has failed.
        if observed.needs_reading(self.failure.is_some()) {
            self.reload(false);
        }
        observed.pause()
    }

    fn reload(&mut self, at_signal: bool) -> bool {
        match self.file.reload(&self.authority, at_signal) {
            Ok(reloaded) => {
                self.failure = None;
                if reloaded == Reloaded::Replaced {
                    self.metrics.operator_replaced_by_file();
                }
                if at_signal || reloaded != Reloaded::Same {
                    self.metrics.reloaded(F::FILE, true);
                }
                true
            }
            Err(error) => {
                let failure = format!("{error:#}");
                // A file that stays as it is fails every ten seconds.
                if at_signal || self.failure.as_ref() != Some(&failure) {
                    self.metrics.reloaded(F::FILE, false);
                    tracing::error!("{failure}; {}", F::KEPT);
                }
                self.failure = Some(failure);
                false
            }
        }
    }
}

/// Waits for the signal. Without one, never returns.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_near_in_the_last_sixth_of_short_lifetimes() {
        const DAY: u64 = 24 * 60 * 60;
        let certificate = |days| CertificateFacts {
            names: Vec::new(),
            not_before: DAY,
            not_after: DAY + days * DAY,
            is_authority: false,
            is_for_servers: true,
            is_self_issued: false,
        };
        for (days, before_end, expected) in [
            (3650, 15 * DAY, Expiry::Far),
            (3650, 14 * DAY, Expiry::Soon),
            (90, 15 * DAY, Expiry::Far),
            (90, 13 * DAY, Expiry::Soon),
            (6, 2 * DAY, Expiry::Far),
            (6, DAY, Expiry::Soon),
            (1, 5 * DAY / 24, Expiry::Far),
            (1, 4 * DAY / 24, Expiry::Soon),
            (1, 0, Expiry::Soon),
        ] {
            let facts = certificate(days);
            assert_eq!(Expiry::of(&facts, facts.not_after - before_end), expected, "{days} {before_end}");
        }
        let facts = certificate(90);
        assert_eq!(Expiry::of(&facts, facts.not_after + 1), Expiry::Expired);
        assert_eq!(Expiry::of(&facts, facts.not_before - 1), Expiry::NotYetValid);
    }
}

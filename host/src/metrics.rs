//! The Prometheus metrics of a server: of its authority and its listeners.
//!
//! Names and units follow the conventions of Prometheus: base units, and `_total` for counters. No
//! label holds text of a client, so the number of series is bounded and no token becomes a label.

pub(crate) mod responses;
pub(crate) mod upstream;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::access::AuthorizeError;
use crate::authority::Authority;
use crate::metrics::responses::ResponseCounters;
use crate::metrics::upstream::UpstreamMetrics;
use crate::observer::Observer;
use crate::store::{ClockDifference, StoreError};
use crate::token::{AuthenticateError, CommandError, OPERATOR, Principal, TokenInfo, now};

/// The buckets for the duration of a store operation, in seconds: from a read in memory to a busy
/// database.
const STORE_BUCKETS: [f64; 12] = [1e-5, 1e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 1.0, 5.0];

/// The refusals of requests that may be guesses, which are at zero from the start. Alerts are about
/// these.
const REFUSALS_OF_GUESSES: [(&str, &str); 5] = [
    ("authentication", "malformed"),
    ("authentication", "missing"),
    ("authentication", "unknown"),
    ("command", "unknown"),
    ("recovery", "wrong_code"),
];

/// The metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    accepted: IntCounter,
    authentications: IntCounterVec,
    /// Requests that permissions were checked for.
    authorizations: IntCounterVec,
    refusals: IntCounterVec,
    commands: IntCounterVec,
    rotations: IntCounterVec,
    store: HistogramVec,
    polls: IntCounterVec,
    traps: IntCounter,
    audit_append_failures: IntCounter,
    audit_records_lost: IntCounter,
    requests: IntCounterVec,
    recovery_open: IntGauge,
    reloads: IntCounterVec,
    /// Without a value, and so without a line, until there is a certificate.
    certificate_expiry: IntGaugeVec,
    tokens: IntGauge,
    next_expiry: Gauge,
    operator_age: Gauge,
    staleness: Gauge,
    refused: IntGauge,
    sequence: IntGauge,
    clock_behind: Gauge,
    store_clock_ahead: Gauge,
    upstream: UpstreamMetrics,
}

/// A file that a running server reads again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReloadedFile {
    /// The certificate and its key.
    Certificate,
    /// `--admin-token-file`.
    TokenFile,
    /// `--permission-tokens-file`.
    PermissionTokensFile,
    /// `--audit-log`, which is opened again.
    AuditLog,
    /// `--upstream-token-file`.
    UpstreamToken,
}

impl ReloadedFile {
    const ALL: [Self; 5] =
        [Self::Certificate, Self::TokenFile, Self::PermissionTokensFile, Self::AuditLog, Self::UpstreamToken];

    fn label(self) -> &'static str {
        match self {
            Self::Certificate => "tls_certificate",
            Self::TokenFile => "admin_token_file",
            Self::PermissionTokensFile => "permission_tokens_file",
            Self::AuditLog => "audit_log",
            Self::UpstreamToken => "upstream_token_file",
        }
    }
}

/// The metrics cannot be registered, because two have one name.
pub(crate) type MetricsError = prometheus::Error;

/// The values that are sampled when the metrics are read.
#[derive(Debug, Clone, Copy)]
struct Gauges {
    /// The number of tokens, including expired ones.
    tokens: usize,
    /// The earliest expiry of the tokens that have not expired, since the epoch.
    next_expiry: Option<Duration>,
    /// The age of the secret of the operator token; `None` if there is none.
    operator_age: Option<Duration>,
    /// The time since the last response of the store.
    staleness: Duration,
    refused: bool,
    sequence: u64,
    clock_behind: Duration,
    /// The clock of the store beside that of this machine, if it states one.
    store_clock: Option<ClockDifference>,
}

impl Metrics {
    /// Registers all metrics, with counters at zero.
    pub(crate) fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help)?);
        let float_gauge = |name: &str, help: &str| register(&registry, Gauge::new(name, help)?);
        let authentications =
            counters("optoken_authentications_total", "Presented credentials, by outcome.", &["outcome"])?;
        for outcome in ["unknown", "expired", "unavailable", "missing", "malformed"] {
            authentications.with_label_values(&[outcome]);
        }
        let refusals = counters(
            "optoken_refusals_total",
            "Refused requests, by what was refused and the reason. The log names the clients.",
            &["kind", "reason"],
        )?;
        for (kind, reason) in REFUSALS_OF_GUESSES {
            refusals.with_label_values(&[kind, reason]);
        }
        let rotations =
            counters("optoken_rotations_total", "Replacements of the operator token, by cause.", &["by"])?;
        for by in ["regenerate", "confirm", "recovery", "file"] {
            rotations.with_label_values(&[by]);
        }
        let store = HistogramOpts::new(
            "optoken_store_operation_duration_seconds",
            "Duration of operations of the token store.",
        );
        let store = store.buckets(STORE_BUCKETS.to_vec());
        Ok(Self {
            accepted: authentications.with_label_values(&["accepted"]),
            authentications,
            authorizations: register_authorizations(&registry)?,
            refusals,
            commands: counters(
                "optoken_commands_total",
                "Commands that change tokens, by outcome.",
                &["command", "outcome"],
            )?,
            rotations,
            store: register(&registry, HistogramVec::new(store, &["operation", "outcome"])?)?,
            polls: register_polls(&registry)?,
            traps: counter("optoken_sandbox_traps_total", "Calls that ended in a trap of the component.")?,
            audit_append_failures: counter(
                "optoken_audit_append_failures_total",
                "Attempts to append to the audit log that failed or timed out.",
            )?,
            audit_records_lost: counter(
                "optoken_audit_records_lost_total",
                "Audit records that the audit log will never have.",
            )?,
            requests: counters(
                "optoken_http_requests_total",
                "HTTP responses. Unknown paths are \"other\".",
                &["listener", "path", "status"],
            )?,
            recovery_open: gauge(
                "optoken_recovery_listener_open",
                "Whether the recovery listener is open (1) or not (0).",
            )?,
            reloads: register_reloads(&registry)?,
            certificate_expiry: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "optoken_tls_certificate_expiry_timestamp_seconds",
                        "When the certificate in use expires, in seconds since 1970. Absent without TLS.",
                    ),
                    &[],
                )?,
            )?,
            tokens: gauge("optoken_tokens", "Tokens in the catalog, including expired ones.")?,
            next_expiry: float_gauge(
                "optoken_next_token_expiry_timestamp_seconds",
                "When the next of the accepted tokens expires; NaN if none of them does.",
            )?,
            operator_age: float_gauge(
                "optoken_operator_token_age_seconds",
                "Age of the secret of the operator token; NaN if there is none.",
            )?,
            staleness: float_gauge(
                "optoken_store_staleness_seconds",
                "Time since the last response of the token store. Tokens are rejected beyond --max-staleness.",
            )?,
            refused: gauge(
                "optoken_catalog_refused",
                "Whether the token store holds a state that does not continue the current one (1) or not (0).",
            )?,
            sequence: gauge("optoken_catalog_sequence", "Sequence number of the newest audit record.")?,
            clock_behind: float_gauge(
                "optoken_clock_behind_seconds",
                "How far the clock is behind the newest audit record. Deadlines wait until it has caught up.",
            )?,
            store_clock_ahead: register_store_clock(&registry)?,
            upstream: UpstreamMetrics::new(&registry)?,
            registry,
        })
    }

    /// Adds the build info, which is always 1.
    pub(crate) fn set_build_info(&self, version: &str, node_id: &str) -> Result<(), MetricsError> {
        let build = Opts::new("optoken_build_info", "The version of the server and its --node-id.")
            .const_label("version", version)
            .const_label("node_id", node_id);
        register(&self.registry, IntGauge::with_opts(build)?)?.set(1);
        Ok(())
    }

    /// Returns all metrics in the Prometheus text format 0.0.4.
    pub(crate) fn text(&self, authority: &Authority) -> Result<String, CommandError> {
        let tokens = authority.list_tokens()?;
        let time = Duration::from_millis(now());
        let operator = tokens.iter().find(|token| token.name == OPERATOR);
        let age = |token: &TokenInfo| {
            time.saturating_sub(Duration::from_millis(token.updated_at.unwrap_or(token.created_at)))
        };
        let expiries = tokens.iter().filter_map(|token| token.expiry).map(Duration::from_millis);
        let gauges = Gauges {
            tokens: tokens.len(),
            next_expiry: expiries.filter(|expiry| *expiry > time).min(),
            operator_age: operator.map(age),
            staleness: authority.staleness(),
            refused: authority.catalog_refusal().is_some(),
            sequence: authority.catalog_state()?.map_or(0, |state| state.audit_sequence),
            clock_behind: authority.clock_behind(),
            store_clock: authority.store_clock(),
        };
        self.to_text(gauges).map_err(|error| CommandError::Internal(error.to_string()))
    }

    fn to_text(&self, gauges: Gauges) -> Result<String, MetricsError> {
        self.tokens.set(i64::try_from(gauges.tokens).unwrap_or(i64::MAX));
        self.next_expiry.set(gauges.next_expiry.map_or(f64::NAN, |expiry| expiry.as_secs_f64()));
        self.operator_age.set(gauges.operator_age.map_or(f64::NAN, |age| age.as_secs_f64()));
        self.staleness.set(gauges.staleness.as_secs_f64());
        self.refused.set(gauges.refused.into());
        self.sequence.set(i64::try_from(gauges.sequence).unwrap_or(i64::MAX));
        self.clock_behind.set(gauges.clock_behind.as_secs_f64());
        let ahead = gauges.store_clock.map(|clock| Duration::from_millis(clock.ahead_ms.unsigned_abs()));
        let sign = if gauges.store_clock.is_some_and(|clock| clock.ahead_ms < 0) { -1.0 } else { 1.0 };
        self.store_clock_ahead.set(ahead.map_or(f64::NAN, |ahead| sign * ahead.as_secs_f64()));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Counts a request without a credential.
    pub(crate) fn credential_missing(&self) {
        self.authentications.with_label_values(&["missing"]).inc();
    }

    /// Counts a request with a malformed credential.
    pub(crate) fn credential_malformed(&self) {
        self.authentications.with_label_values(&["malformed"]).inc();
    }

    /// Counts a refused request.
    pub(crate) fn request_refused(&self, kind: &'static str, reason: &'static str) {
        self.refusals.with_label_values(&[kind, reason]).inc();
    }

    /// Counts a response.
    pub(crate) fn http_response(&self, listener: &'static str, path: &'static str, status: u16) {
        self.requests.with_label_values(&[listener, path, &status.to_string()]).inc();
    }

    /// Returns the counters of the responses of a path.
    pub(crate) fn responses(&self, listener: &'static str, path: &'static str) -> ResponseCounters {
        ResponseCounters::new(&self.requests, listener, path)
    }

    /// Returns the metrics of the upstream.
    pub(crate) fn upstream(&self) -> &UpstreamMetrics {
        &self.upstream
    }

    /// Sets whether the recovery listener is open.
    pub(crate) fn set_recovery_open(&self, open: bool) {
        self.recovery_open.set(open.into());
    }
}

impl Metrics {
    /// Counts a replacement of the operator token by that of its file.
    pub(crate) fn operator_replaced_by_file(&self) {
        self.rotations.with_label_values(&["file"]).inc();
    }

    /// Counts an attempt to read a file again.
    pub(crate) fn reloaded(&self, file: ReloadedFile, succeeded: bool) {
        let outcome = if succeeded { "done" } else { "failed" };
        self.reloads.with_label_values(&[file.label(), outcome]).inc();
    }

    /// Sets when the certificate in use expires, in seconds since 1970.
    pub(crate) fn set_certificate_expiry(&self, seconds: u64) {
        let none: &[&str] = &[];
        self.certificate_expiry.with_label_values(none).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}

impl Observer for Metrics {
    fn authenticated(&self, answer: &Result<Principal, AuthenticateError>) {
        let outcome = match answer {
            // The hot path. The others look up their counter.
            Ok(_) => return self.accepted.inc(),
            Err(error) => authentication_outcome(error),
        };
        self.authentications.with_label_values(&[outcome]).inc();
    }

    fn authorized(&self, answer: &Result<Principal, AuthorizeError>) {
        let outcome = match answer {
            Ok(_) => "accepted",
            Err(AuthorizeError::Forbidden) => "missing_permission",
            Err(AuthorizeError::Authentication(error)) => authentication_outcome(error),
        };
        self.authorizations.with_label_values(&[outcome]).inc();
    }

    fn command_completed(&self, command: &'static str, outcome: Result<(), &CommandError>) {
        let label = match outcome {
            Ok(()) => "done",
            Err(CommandError::Unavailable(_)) => "unavailable",
            Err(CommandError::UnknownOutcome(_)) => "unknown_outcome",
            Err(CommandError::Internal(_)) => "failed",
            Err(_) => "denied",
        };
        self.commands.with_label_values(&[command, label]).inc();
        if outcome.is_ok() {
            match command {
                "regenerate" | "confirm" => self.rotations.with_label_values(&[command]).inc(),
                "recover" => self.rotations.with_label_values(&["recovery"]).inc(),
                _ => {}
            }
        }
    }

    fn store_operation_completed(
        &self,
        operation: &'static str,
        took: Duration,
        outcome: Result<(), &StoreError>,
    ) {
        let outcome = match outcome {
            Ok(()) => "answered",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::UnknownOutcome(_)) => "unknown_outcome",
        };
        self.store.with_label_values(&[operation, outcome]).observe(took.as_secs_f64());
    }

    fn poll_completed(&self, cause: &'static str, outcome: &'static str) {
        self.polls.with_label_values(&[cause, outcome]).inc();
    }

    fn trapped(&self) {
        self.traps.inc();
    }

    fn audit_append_failed(&self) {
        self.audit_append_failures.inc();
    }

    fn audit_records_lost(&self, count: u64) {
        self.audit_records_lost.inc_by(count);
    }
}

const fn authentication_outcome(error: &AuthenticateError) -> &'static str {
    match error {
        AuthenticateError::Unknown => "unknown",
        AuthenticateError::Expired(_) => "expired",
        AuthenticateError::Unavailable(_) => "unavailable",
    }
}

/// Registers the counters of requests that permissions are checked for.
fn register_authorizations(registry: &Registry) -> Result<IntCounterVec, MetricsError> {
    let authorizations = Opts::new(
        "optoken_authorizations_total",
        "Requests that were checked against the permissions of a token, by outcome.",
    );
    let authorizations = register(registry, IntCounterVec::new(authorizations, &["outcome"])?)?;
    for outcome in ["accepted", "missing_permission", "unknown", "expired", "unavailable"] {
        authorizations.with_label_values(&[outcome]);
    }
    Ok(authorizations)
}

/// Registers the difference of the clocks.
fn register_store_clock(registry: &Registry) -> Result<Gauge, MetricsError> {
    let ahead = Gauge::new(
        "optoken_store_clock_ahead_seconds",
        "How far the clock of the token store is ahead of this machine; NaN if the store states no time.",
    )?;
    register(registry, ahead)
}

/// Registers the counters of the reads that look for changes by other processes.
fn register_polls(registry: &Registry) -> Result<IntCounterVec, MetricsError> {
    let polls = Opts::new(
        "optoken_polls_total",
        "Reads of the token store that look for changes by other servers, by cause and outcome.",
    );
    let polls = register(registry, IntCounterVec::new(polls, &["cause", "outcome"])?)?;
    for cause in ["interval", "news"] {
        for outcome in ["unchanged", "changed", "unavailable", "refused", "failed"] {
            polls.with_label_values(&[cause, outcome]);
        }
    }
    Ok(polls)
}

/// Registers the counters of files that are read again.
fn register_reloads(registry: &Registry) -> Result<IntCounterVec, MetricsError> {
    let reloads = Opts::new(
        "optoken_reloads_total",
        "Attempts to read a file again, at SIGHUP or after a change of the file, by outcome.",
    );
    let reloads = register(registry, IntCounterVec::new(reloads, &["file", "outcome"])?)?;
    for file in ReloadedFile::ALL {
        for outcome in ["done", "failed"] {
            reloads.with_label_values(&[file.label(), outcome]);
        }
    }
    Ok(reloads)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, MetricsError> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenKind;

    #[test]
    fn metrics_are_rendered() {
        let metrics = Metrics::new().unwrap();
        metrics.authenticated(&Ok(Principal { id: 0, kind: TokenKind::Operator }));
        metrics.authenticated(&Err(AuthenticateError::Expired(0)));
        metrics.credential_malformed();
        metrics.command_completed("recover", Ok(()));
        metrics.command_completed("regenerate", Err(&CommandError::Forbidden));
        metrics.http_response("main", "/health", 200);
        metrics.request_refused("recovery", "wrong_code");
        metrics.set_recovery_open(true);
        metrics.reloaded(ReloadedFile::Certificate, false);
        metrics.set_build_info("1.2.3", "one").unwrap();
        metrics.store_operation_completed("load", Duration::from_millis(2), Ok(()));
        metrics.poll_completed("news", "changed");
        let gauges = Gauges {
            tokens: 3,
            next_expiry: Some(Duration::from_millis(1_900_000_000_500)),
            operator_age: Some(Duration::from_millis(1500)),
            staleness: Duration::ZERO,
            refused: false,
            sequence: 5,
            clock_behind: Duration::ZERO,
            store_clock: Some(ClockDifference { ahead_ms: -1500, precision: Duration::ZERO }),
        };
        let text = metrics.to_text(gauges).unwrap();
        for line in [
            r#"optoken_authentications_total{outcome="accepted"} 1"#,
            r#"optoken_authentications_total{outcome="expired"} 1"#,
            r#"optoken_authentications_total{outcome="malformed"} 1"#,
            r#"optoken_authentications_total{outcome="missing"} 0"#,
            r#"optoken_build_info{node_id="one",version="1.2.3"} 1"#,
            r#"optoken_commands_total{command="recover",outcome="done"} 1"#,
            r#"optoken_commands_total{command="regenerate",outcome="denied"} 1"#,
            r#"optoken_http_requests_total{listener="main",path="/health",status="200"} 1"#,
            "optoken_next_token_expiry_timestamp_seconds 1900000000.5",
            "optoken_operator_token_age_seconds 1.5",
            "optoken_recovery_listener_open 1",
            r#"optoken_polls_total{cause="interval",outcome="unavailable"} 0"#,
            r#"optoken_polls_total{cause="news",outcome="changed"} 1"#,
            "optoken_store_clock_ahead_seconds -1.5",
            r#"optoken_refusals_total{kind="authentication",reason="unknown"} 0"#,
            r#"optoken_refusals_total{kind="recovery",reason="wrong_code"} 1"#,
            r#"optoken_reloads_total{file="admin_token_file",outcome="done"} 0"#,
            r#"optoken_reloads_total{file="tls_certificate",outcome="failed"} 1"#,
            r#"optoken_rotations_total{by="recovery"} 1"#,
            r#"optoken_rotations_total{by="regenerate"} 0"#,
            "optoken_sandbox_traps_total 0",
            r#"optoken_store_operation_duration_seconds_bucket{operation="load",outcome="answered",le="0.001"} 0"#,
            r#"optoken_store_operation_duration_seconds_bucket{operation="load",outcome="answered",le="0.0025"} 1"#,
            "optoken_tokens 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("certificate_expiry"), "{text}");
        metrics.set_certificate_expiry(1_800_000_000);
        let text = metrics.to_text(gauges).unwrap();
        assert!(text.contains("\noptoken_tls_certificate_expiry_timestamp_seconds 1800000000\n"), "{text}");
        let none = Gauges { next_expiry: None, operator_age: None, store_clock: None, ..gauges };
        let text = metrics.to_text(none).unwrap();
        for series in [
            "optoken_next_token_expiry_timestamp_seconds",
            "optoken_operator_token_age_seconds",
            "optoken_store_clock_ahead_seconds",
        ] {
            assert!(text.contains(&format!("{series} NaN\n")), "{text}");
        }
    }
}

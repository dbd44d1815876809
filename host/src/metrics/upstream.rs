//! The metrics of requests that are passed on to an upstream.

use prometheus::core::Collector;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why a request failed at the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no connection: the name is unknown, or the connection refused.
    Connect,
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls,
    /// The upstream did not answer in time, or paused for too long.
    Timeout,
    /// The upstream sent something that is no HTTP, or too much of it.
    Protocol,
    /// The connection broke before the head of the response.
    Reset,
    /// The connection broke in the body of the response.
    Body,
}

impl Failure {
    const ALL: [Self; 6] = [Self::Connect, Self::Tls, Self::Timeout, Self::Protocol, Self::Reset, Self::Body];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Reset => "reset",
            Self::Body => "body",
        }
    }
}

/// The metrics of an upstream. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamMetrics {
    requests: IntCounterVec,
    failures: IntCounterVec,
    in_flight: IntGauge,
    revoked: IntCounter,
}

impl UpstreamMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Result<Self, Error> {
        let counters = |name: &str, help: &str, label| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
        };
        Ok(Self {
            requests: counters(
                "optoken_upstream_requests_total",
                "Requests that were passed on, by the class of the status; \"none\" without a response.",
                "code",
            )?,
            failures: counters(
                "optoken_upstream_failures_total",
                "Requests that failed at the upstream, by cause.",
                "reason",
            )?,
            in_flight: register(
                registry,
                IntGauge::new(
                    "optoken_upstream_in_flight",
                    "Requests, streams and upgraded connections at the upstream.",
                )?,
            )?,
            revoked: register(
                registry,
                IntCounter::new(
                    "optoken_upstream_revoked_streams_total",
                    "Requests, streams and upgraded connections that ended with their token.",
                )?,
            )?,
        })
    }

    /// Shows all series, at zero: this server has an upstream.
    pub(crate) fn show(&self) {
        for code in ["2xx", "3xx", "4xx", "5xx", "none"] {
            self.requests.with_label_values(&[code]);
        }
        for failure in Failure::ALL {
            self.failures.with_label_values(&[failure.label()]);
        }
    }

    /// Counts a request by the status of its response.
    pub(crate) fn answered(&self, status: Option<u16>) {
        let code = match status {
            None => "none",
            Some(..200) => "1xx",
            Some(200..300) => "2xx",
            Some(300..400) => "3xx",
            Some(400..500) => "4xx",
            Some(_) => "5xx",
        };
        self.requests.with_label_values(&[code]).inc();
    }

    /// Counts a request that failed.
    pub(crate) fn failed(&self, failure: Failure) {
        self.failures.with_label_values(&[failure.label()]).inc();
    }

    /// Counts a request that begins (1) or ends (-1).
    pub(crate) fn set_in_flight(&self, change: i64) {
        self.in_flight.add(change);
    }

    /// Counts a stream that ended with its token.
    pub(crate) fn stream_revoked(&self) {
        self.revoked.inc();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

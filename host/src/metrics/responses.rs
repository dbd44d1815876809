//! The counters of the responses of one path, looked up once each.

use std::sync::OnceLock;

use prometheus::{IntCounter, IntCounterVec};

/// The statuses whose counters are kept. Others are rare, or those of an upstream.
const KEPT: [u16; 13] = [200, 401, 403, 400, 404, 201, 204, 409, 503, 413, 405, 415, 500];

/// The counters of the responses of one path of one listener.
#[derive(Debug)]
pub(crate) struct ResponseCounters {
    requests: IntCounterVec,
    listener: &'static str,
    path: &'static str,
    /// Those of [`KEPT`]. A counter appears in the text with its first response.
    kept: [OnceLock<IntCounter>; KEPT.len()],
}

impl ResponseCounters {
    pub(super) fn new(requests: &IntCounterVec, listener: &'static str, path: &'static str) -> Self {
        Self { requests: requests.clone(), listener, path, kept: Default::default() }
    }

    /// Counts a response of this status.
    pub(crate) fn count(&self, status: u16) {
        let kept = KEPT.iter().zip(&self.kept).find(|(known, _)| **known == status);
        match kept {
            Some((_, counter)) => counter.get_or_init(|| self.look_up(status)).inc(),
            None => self.look_up(status).inc(),
        }
    }

    fn look_up(&self, status: u16) -> IntCounter {
        self.requests.with_label_values(&[self.listener, self.path, &status.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use prometheus::core::Collector as _;

    use super::*;

    #[test]
    fn every_status_has_one_counter() {
        let labels = ["listener", "path", "status"];
        let requests = IntCounterVec::new(Opts::new("requests", "help"), &labels).unwrap();
        let (health, ping) = (
            ResponseCounters::new(&requests, "main", "/health"),
            ResponseCounters::new(&requests, "main", "/ping"),
        );
        assert_eq!(requests.collect()[0].get_metric().len(), 0);
        for status in KEPT.into_iter().chain([100, 302, 599]) {
            health.count(status);
            health.count(status);
            let counted = |path: &str| requests.with_label_values(&["main", path, &status.to_string()]).get();
            assert_eq!((counted("/health"), counted("/ping")), (2, 0), "{status}");
        }
        ping.count(200);
        assert_eq!(requests.with_label_values(&["main", "/ping", "200"]).get(), 1);
    }
}

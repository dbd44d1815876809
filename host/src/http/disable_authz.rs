//! `--disable-authz`: resources that need no token (docs/compatibility.md 5.3).
//!
//! No path about tokens is among them.

use std::str::FromStr;

/// How many items a list may have: the number of resources.
const MAX_ITEMS: usize = 6;

/// The paths that need no token. By default there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DisabledAuthz(Vec<&'static str>);

impl DisabledAuthz {
    /// Returns whether a request for this path needs no token. Compares byte for byte.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.0.contains(&path)
    }

    /// Returns all paths, for the log.
    pub(crate) fn paths(&self) -> &[&'static str] {
        &self.0
    }
}

impl FromStr for DisabledAuthz {
    type Err = &'static str;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let items: Vec<_> = list.split(',').map(str::trim).collect();
        // Counted before any item is parsed, like InfluxDB 3 Core.
        if items.len() > MAX_ITEMS {
            return Err("--disable-authz cannot take more than 6 items");
        }
        let mut paths = Vec::new();
        for item in items {
            paths.extend_from_slice(resource_paths(item).ok_or(
                "invalid value passed in for --disable-authz, allowed values are health, ping, metrics, ready, pprof, \
                 and node_stop",
            )?);
        }
        Ok(Self(paths))
    }
}

fn resource_paths(resource: &str) -> Option<&'static [&'static str]> {
    Some(match resource {
        "health" => &["/health", "/api/v1/health", "/api/v3/optoken/health"],
        "ping" => &["/ping"],
        "metrics" => &["/metrics", "/api/v3/optoken/metrics"],
        "ready" => &["/ready", "/api/v3/optoken/ready"],
        "pprof" => &["/debug/pprof/heap"],
        "node_stop" => &["/api/v3/enterprise/configure/node/stop"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVALID: &str = "invalid value passed in for --disable-authz, allowed values are health, ping, metrics, ready, pprof, and node_stop";
    const TOO_MANY: &str = "--disable-authz cannot take more than 6 items";

    #[test]
    fn resources_map_to_paths() {
        for (list, paths) in [
            ("health", &["/health", "/api/v1/health", "/api/v3/optoken/health"][..]),
            (" ping ,\tmetrics", &["/ping", "/metrics", "/api/v3/optoken/metrics"]),
            ("ping,ping", &["/ping", "/ping"]),
            (
                "health,ping,metrics,ready,pprof,node_stop",
                &[
                    "/health",
                    "/api/v1/health",
                    "/api/v3/optoken/health",
                    "/ping",
                    "/metrics",
                    "/api/v3/optoken/metrics",
                    "/ready",
                    "/api/v3/optoken/ready",
                    "/debug/pprof/heap",
                    "/api/v3/enterprise/configure/node/stop",
                ],
            ),
        ] {
            assert_eq!(list.parse::<DisabledAuthz>().unwrap().paths(), paths, "{list:?}");
        }
    }

    #[test]
    fn unknown_resources_are_rejected() {
        for (list, error) in [
            ("", INVALID),
            ("health,", INVALID),
            ("Health", INVALID),
            ("/health", INVALID),
            ("health ping", INVALID),
            ("token", INVALID),
            ("ping,ping,ping,ping,ping,ping,ping", TOO_MANY),
            // Counted before any item is parsed.
            (",,,,,,", TOO_MANY),
        ] {
            assert_eq!(list.parse::<DisabledAuthz>(), Err(error), "{list:?}");
        }
    }

    #[test]
    fn only_exact_paths_are_covered() {
        let health: DisabledAuthz = "health".parse().unwrap();
        for path in ["/health", "/api/v1/health"] {
            assert!(health.covers(path), "{path}");
            assert!(!DisabledAuthz::default().covers(path), "{path}");
        }
        for path in
            ["", "/", "/health/", "/healthy", "//health", "/Health", "/ping", "/api/v3/configure/token"]
        {
            assert!(!health.covers(path), "{path}");
        }
    }
}

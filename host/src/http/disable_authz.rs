//! `--disable-authz`: resources that the main listener shows to everybody (COMPAT 5.3).
//!
//! The paths of tokens are none of them, and cannot be named.

use std::str::FromStr;

/// The most items that a list may have; as many as there are resources.
const MAX_ITEMS: usize = 6;

/// The paths that need no token. Empty unless asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DisabledAuthz(Vec<&'static str>);

impl DisabledAuthz {
    /// Whether a request for this path, as it stands in the request, needs no token.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.0.contains(&path)
    }

    /// All of them, for the log.
    pub(crate) fn paths(&self) -> &[&'static str] {
        &self.0
    }
}

impl FromStr for DisabledAuthz {
    type Err = &'static str;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let items: Vec<_> = list.split(',').map(str::trim).collect();
        // Before any of them is looked at.
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
        "health" => &["/health", "/api/v1/health"],
        "ping" => &["/ping"],
        "metrics" => &["/metrics"],
        "ready" => &["/ready"],
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
    fn a_list_names_paths() {
        for (list, paths) in [
            ("health", &["/health", "/api/v1/health"][..]),
            (" ping ,\tmetrics", &["/ping", "/metrics"]),
            ("ping,ping", &["/ping", "/ping"]),
            (
                "health,ping,metrics,ready,pprof,node_stop",
                &[
                    "/health",
                    "/api/v1/health",
                    "/ping",
                    "/metrics",
                    "/ready",
                    "/debug/pprof/heap",
                    "/api/v3/enterprise/configure/node/stop",
                ],
            ),
        ] {
            assert_eq!(list.parse::<DisabledAuthz>().unwrap().paths(), paths, "{list:?}");
        }
    }

    #[test]
    fn a_list_that_names_anything_else_is_refused() {
        for (list, error) in [
            ("", INVALID),
            ("health,", INVALID),
            ("Health", INVALID),
            ("/health", INVALID),
            ("health ping", INVALID),
            ("token", INVALID),
            ("ping,ping,ping,ping,ping,ping,ping", TOO_MANY),
            // Counted before it is read.
            (",,,,,,", TOO_MANY),
        ] {
            assert_eq!(list.parse::<DisabledAuthz>(), Err(error), "{list:?}");
        }
    }

    #[test]
    fn only_the_paths_themselves_are_covered() {
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

//! Which requests to the main listener need a token, and which problems authentication can cause.

use hyper::Method;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::Options;

/// Returns whether a request is accepted with any credential or none.
pub(crate) fn is_open(options: &Options, method: &Method, path: &str) -> bool {
    // For every method (docs/compatibility.md 2.9) except the one that shows the token
    // (docs/design.md 5.1).
    (path == paths::OPERATOR && method != Method::GET)
        || options.disabled_authz.covers(path)
        // The header may then be meant for the service behind the proxy.
        || options.without_auth && paths::is_verify(path)
}

/// Returns whether a request presents a staged token, which only its endpoint accepts.
pub(crate) fn is_confirmation(method: &Method, path: &str) -> bool {
    method == Method::POST && path == paths::CONFIRM
}

/// Returns whether a path is disabled, because the server runs without authentication
/// (docs/compatibility.md 2.10).
pub(crate) fn is_disabled(options: &Options, path: &str) -> bool {
    options.without_auth && (path.starts_with(paths::TOKENS) || path == paths::SCOPED)
}

/// What a token with permissions may do at a path of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScopedAccess {
    /// Every accepted token may do it.
    Allowed,
    /// A proxy asks about another request, which the permissions must cover.
    Question,
    /// A permission `system` of this name covers it.
    System(&'static str),
    /// Only a token with all permissions may do it.
    Forbidden,
}

/// Returns what a token with permissions may do. It may read about itself; the permissions decide
/// on health, ping and metrics.
pub(crate) fn scoped_access(path: &str) -> ScopedAccess {
    match path {
        paths::SELF => ScopedAccess::Allowed,
        paths::PING => ScopedAccess::System("ping"),
        paths::METRICS => ScopedAccess::System("metrics"),
        path if paths::HEALTH.contains(&path) => ScopedAccess::System("health"),
        path if paths::is_verify(path) => ScopedAccess::Question,
        _ => ScopedAccess::Forbidden,
    }
}

/// Returns whether a request needs an accepted token.
pub(crate) fn requires_token(options: &Options, method: &Method, path: &str) -> bool {
    !options.without_auth && !is_open(options, method, path)
}

/// Returns every problem that a request can have before it reaches its endpoint.
pub(crate) fn auth_problems(options: &Options, method: &Method, path: &str) -> Vec<Problem> {
    let problems = if is_disabled(options, path) {
        vec![Problem::AuthDisabled]
    } else if is_open(options, method, path) {
        vec![]
    } else if is_confirmation(method, path) {
        vec![Problem::MalformedCredential, Problem::MissingCredential]
    } else if options.without_auth {
        vec![Problem::MalformedCredential]
    } else {
        let mut problems = vec![
            Problem::MalformedCredential,
            Problem::MissingCredential,
            Problem::InvalidToken,
            Problem::Unavailable,
        ];
        if scoped_access(path) != ScopedAccess::Allowed {
            problems.push(Problem::MissingPermission);
        }
        problems
    };
    if paths::is_verify(path) {
        problems.into_iter().map(Problem::for_forward_auth).collect()
    } else {
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_with_permissions_read_about_themselves_alone() {
        let system = ScopedAccess::System;
        for (path, access) in [
            ("/api/v3/configure/token/self", ScopedAccess::Allowed),
            ("/health", system("health")),
            ("/api/v1/health", system("health")),
            ("/ping", system("ping")),
            ("/metrics", system("metrics")),
            ("/api/v3/configure/token", ScopedAccess::Forbidden),
            ("/api/v3/configure/token/self/", ScopedAccess::Forbidden),
            ("/api/v3/configure/token/./self", ScopedAccess::Forbidden),
            ("/api/v3/configure/token/admin", ScopedAccess::Forbidden),
            ("/api/v3/enterprise/configure/token", ScopedAccess::Forbidden),
            ("/api/v3/optoken/status", ScopedAccess::Forbidden),
            ("/api/v3/query_sql", ScopedAccess::Forbidden),
            ("/api/v3/verify", ScopedAccess::Question),
            ("/api/v3/verify/api/v3/configure/token/self", ScopedAccess::Question),
            ("/api/v3/verifying", ScopedAccess::Forbidden),
            ("/api/v3/openapi.json", ScopedAccess::Forbidden),
            ("/HEALTH", ScopedAccess::Forbidden),
            ("", ScopedAccess::Forbidden),
        ] {
            assert_eq!(scoped_access(path), access, "{path}");
        }
    }
}

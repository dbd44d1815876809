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
    options.without_auth && path.starts_with(paths::TOKENS)
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
        vec![
            Problem::MalformedCredential,
            Problem::MissingCredential,
            Problem::InvalidToken,
            Problem::Unavailable,
        ]
    };
    if paths::is_verify(path) {
        problems.into_iter().map(Problem::for_forward_auth).collect()
    } else {
        problems
    }
}

//! Which requests to the main listener need a token.

use hyper::Method;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::Options;

/// Whether a path is open to everybody, whatever they present.
pub(crate) fn is_open(options: &Options, method: &Method, path: &str) -> bool {
    // For every method (COMPAT 2.9) but the one that tells something (DESIGN section 5).
    (path == paths::OPERATOR && method != Method::GET)
        || options.disabled_authz.covers(path)
        // The header is then none of ours: it may be meant for what is behind the proxy.
        || options.without_auth && path == paths::VERIFY
}

/// Whether a request presents a token that is accepted nowhere else, and which its endpoint judges.
pub(crate) fn is_confirmation(method: &Method, path: &str) -> bool {
    method == Method::POST && path == paths::CONFIRM
}

/// Whether there is nothing to do about tokens at a path, as none is asked for (COMPAT 2.10).
pub(crate) fn is_disabled(options: &Options, path: &str) -> bool {
    options.without_auth && path.starts_with(paths::TOKENS)
}

/// Whether a path is only for who has a token.
pub(crate) fn requires_token(options: &Options, method: &Method, path: &str) -> bool {
    !options.without_auth && !is_open(options, method, path)
}

/// All that can be said against a request for this path before its endpoint gets to see it.
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
    if path == paths::VERIFY {
        problems.into_iter().map(Problem::for_forward_auth).collect()
    } else {
        problems
    }
}

//! What a token with permissions may do at the paths of this server (docs/compatibility.md 2.11).
//!
//! The one place that checks it: no handler knows permissions.

use std::fmt::Display;

use hyper::Method;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact_rest;

use crate::access::{Access, AuthorizeError, Target};
use crate::http::access::{ScopedAccess, scoped_access};
use crate::http::api::state::AppState;
use crate::http::refusal::{Client, Reason, Refused, RequestText, path_for_log};
use crate::server::message::Request;
use crate::server::peer::Peer;
use crate::token::{Principal, TokenKind};

/// Rejects a request that the permissions of its token do not cover. A token with all permissions
/// may do everything. `method` is that of the endpoint.
pub(crate) fn check(
    state: &AppState,
    peer: &Peer,
    credential: &str,
    principal: Principal,
    method: &Method,
    request: &Request,
) -> Result<(), Problem> {
    if principal.kind != TokenKind::Scoped {
        return Ok(());
    }
    let path = request.uri().path();
    let target = match scoped_access(path) {
        ScopedAccess::Allowed => return Ok(()),
        ScopedAccess::Question => return check_question(state, peer, credential, principal, request),
        ScopedAccess::System(name) => Target::System(name),
        ScopedAccess::Forbidden => Target::Administration,
    };
    let access = Access {
        method: method.as_str(),
        // No permission on this server depends on it.
        host: "",
        path,
        query: request.uri().query(),
        target,
    };
    let allowed = state.authority.authorize(credential, &access);
    allowed.map(drop).map_err(|error| {
        let client = Client::new(peer.clone(), request.headers());
        state.refusals.authorization(&client, principal, &error, path_for_log(request.uri()));
        error.into()
    })
}

/// Rejects a question of a proxy about a request that the permissions do not cover, or that the
/// proxy does not state with certainty.
fn check_question(
    state: &AppState,
    peer: &Peer,
    credential: &str,
    principal: Principal,
    question: &Request,
) -> Result<(), Problem> {
    let client = || Client::new(peer.clone(), question.headers());
    let refuse = |cause: &dyn Display, path: &str| {
        let cause = format!("token {} has no permission for it: {cause}", principal.id);
        // The client chooses host and database.
        let reason = Reason { label: "missing_permission", cause: &redact_rest(&cause) };
        state.refusals.report(Refused::Authorization, &client(), &reason, RequestText::Path(path));
        Problem::MissingPermission
    };
    let guarded = state.options.verify_request.read(question);
    let guarded = guarded.map_err(|unknown| refuse(&unknown, paths::VERIFY))?;
    match state.authority.authorize(credential, &guarded.access()) {
        Ok(_) => Ok(()),
        Err(AuthorizeError::Forbidden) => Err(refuse(&guarded, guarded.path())),
        // The token was accepted a moment ago.
        Err(error) => {
            state.refusals.authorization(&client(), principal, &error, paths::VERIFY);
            Err(error.into())
        }
    }
}

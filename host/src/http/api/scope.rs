//! What a token with permissions may do at the paths of this server (docs/compatibility.md 2.10).
//!
//! The one place that checks it: no handler knows permissions.

use optoken_protocol::problem::Problem;

use crate::access::{Access, Target};
use crate::http::access::{ScopedAccess, scoped_access};
use crate::http::api::state::AppState;
use crate::http::refusal::{Client, path_for_log};
use crate::secret::Secret;
use crate::server::serve::Request;
use crate::token::{Principal, TokenKind};

/// Rejects a request that the permissions of its token do not cover. A token with all permissions
/// may do everything.
pub(crate) fn check(
    state: &AppState,
    client: &Client,
    credential: &Secret,
    principal: Principal,
    request: &Request,
) -> Result<(), Problem> {
    if principal.kind != TokenKind::Scoped {
        return Ok(());
    }
    let path = request.uri().path();
    let target = match scoped_access(path) {
        ScopedAccess::Allowed => return Ok(()),
        ScopedAccess::System(name) => Target::System(name),
        ScopedAccess::Forbidden => Target::Administration,
    };
    let access = Access {
        method: request.method().as_str(),
        // No permission on this server depends on it.
        host: "",
        path,
        query: request.uri().query(),
        target,
    };
    let allowed = state.authority.authorize(credential.expose(), &access);
    allowed.map(drop).map_err(|error| {
        state.refusals.authorization(client, principal, &error, path_for_log(request.uri()));
        error.into()
    })
}

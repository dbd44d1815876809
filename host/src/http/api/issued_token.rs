//! The answer that shows a new token: the one JSON object of COMPAT 2.3.

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::api::endpoint::{Described, Success};
use crate::http::problem::Problem;
use crate::http::{JSON, response};
use crate::server::serve::Response;
use crate::token::{IssuedToken, TokenInfo, rfc3339};

/// Field by field, in the order that clients have always got them.
#[derive(Serialize, ToSchema)]
#[schema(as = IssuedToken)]
struct Body<'a> {
    /// Counted from 0, never used twice.
    id: u64,
    /// `_admin` is the operator token's.
    name: &'a str,
    /// The token itself, which is shown this once.
    #[schema(pattern = "^apiv3_[A-Za-z0-9_-]{85}[AQgw]$")]
    token: &'a str,
    /// The SHA-512 of the whole token.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    hash: &'a str,
    #[schema(format = DateTime)]
    created_at: String,
    /// The first moment at which it is refused; null for never.
    #[schema(required, format = DateTime)]
    expiry: Option<String>,
}

/// Shows a new token.
pub(crate) fn answer(issued: &IssuedToken) -> Result<Response, Problem> {
    let TokenInfo { id, name, sha512, created_at, expiry, .. } = &issued.info;
    response::secret(&Body {
        id: *id,
        name,
        token: issued.secret.expose(),
        hash: sha512,
        created_at: rfc3339(*created_at),
        expiry: expiry.map(rfc3339),
    })
}

/// A new token, as [`answer`] shows it.
pub(crate) fn success() -> Success {
    Success {
        status: StatusCode::CREATED,
        headers: vec!["cache-control"],
        content: vec![(JSON, Described::by::<Body>())],
    }
}

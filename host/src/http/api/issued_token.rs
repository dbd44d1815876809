//! The answer that shows a new token: the one JSON object of COMPAT 2.3.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::JSON;
use crate::token::{IssuedToken, TokenInfo, rfc3339};

/// Field by field, in the order that clients have always got them.
#[derive(Serialize, ToSchema)]
#[schema(as = IssuedToken)]
pub(crate) struct Body<'a> {
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

impl IntoResponse for IssuedToken {
    fn into_response(self) -> Response {
        let TokenInfo { id, name, sha512, created_at, expiry, .. } = &self.info;
        let body = Body {
            id: *id,
            name,
            token: self.secret.expose(),
            hash: sha512,
            created_at: rfc3339(*created_at),
            expiry: expiry.map(rfc3339),
        };
        match serde_json::to_vec(&body) {
            Ok(json) => {
                (StatusCode::CREATED, [(CONTENT_TYPE, JSON), (CACHE_CONTROL, "no-store")], Bytes::from(json))
                    .into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

//! The answer that shows a new token: the one JSON object of COMPAT 2.3.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::token::rfc3339;
use crate::token::{IssuedToken, TokenInfo};

/// Field by field, in the order that clients have always got them.
#[derive(Serialize)]
struct Body<'a> {
    id: u64,
    name: &'a str,
    token: &'a str,
    hash: &'a str,
    created_at: String,
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
            Ok(json) => (
                StatusCode::CREATED,
                [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")],
                Bytes::from(json),
            )
                .into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

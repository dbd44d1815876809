//! The answer that shows a new token: the one JSON object of COMPAT 2.3.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_core::authority::Issued;
use optoken_wasi::rfc3339;
use serde::Serialize;

/// Field by field, in the order that clients have always got them.
#[derive(Serialize)]
struct Body<'a> {
    id: u64,
    name: &'a str,
    token: &'a str,
    hash: String,
    created_at: String,
    expiry: Option<String>,
}

/// As JSON.
pub(crate) fn body(Issued { token, secret }: &Issued) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Body {
        id: token.id,
        name: &token.name,
        token: secret.expose(),
        hash: token.hash.to_string(),
        created_at: rfc3339(token.created_at),
        expiry: token.expiry.map(rfc3339),
    })
}

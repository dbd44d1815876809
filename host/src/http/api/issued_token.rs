//! The answer that shows a new token: the one JSON object of COMPAT 2.3.

use hyper::StatusCode;
use optoken_protocol::issued_token;
use optoken_protocol::media_type::JSON;
use utoipa::ToSchema;

use crate::http::api::endpoint::{BodySchema, SuccessResponse};
use crate::http::response;
use crate::server::serve::Response;
use crate::token::{IssuedToken, TokenInfo};

/// The schema of the object.
#[derive(ToSchema)]
#[schema(as = IssuedToken)]
#[expect(dead_code, reason = "the schema is made from the types of the fields")]
struct IssuedTokenSchema {
    /// Counted from 0, never used twice.
    id: u64,
    /// `_admin` is the operator token's.
    name: String,
    /// The token itself, which is shown this once.
    #[schema(pattern = "^apiv3_[A-Za-z0-9_-]{85}[AQgw]$")]
    token: String,
    /// The SHA-512 of the whole token.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    hash: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// The first moment at which it is refused; null for never.
    #[schema(required, format = DateTime)]
    expiry: Option<String>,
}

/// Shows a new token.
pub(crate) fn created_response(issued: &IssuedToken) -> Response {
    let TokenInfo { id, name, sha512, created_at, expiry, .. } = &issued.info;
    let token = issued_token::IssuedToken {
        id: *id,
        name,
        token: issued.secret.expose(),
        hash: sha512,
        created_at: *created_at,
        expiry: *expiry,
    };
    response::secret(token.to_json())
}

/// A new token, as [`created_response`] shows it.
pub(crate) fn success_response() -> SuccessResponse {
    SuccessResponse {
        status: StatusCode::CREATED,
        headers: vec!["cache-control"],
        content: vec![(JSON, BodySchema::by::<IssuedTokenSchema>())],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use utoipa::PartialSchema as _;

    use super::*;

    #[test]
    fn schema_names_the_fields_of_the_object() {
        let token = issued_token::IssuedToken {
            id: 0,
            name: "_admin",
            token: "apiv3_x",
            hash: "0f",
            created_at: 0,
            expiry: None,
        };
        let object: Value = serde_json::from_slice(&token.to_json()).unwrap();
        let schema = serde_json::to_value(IssuedTokenSchema::schema()).unwrap();
        let fields: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let described: Vec<_> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, fields);
        assert_eq!(schema["required"], Value::from(fields));
    }
}

//! The response that shows a new token (docs/compatibility.md 2.3).

use hyper::StatusCode;
use optoken_protocol::issued_token;
use optoken_protocol::media_type::JSON;
use utoipa::ToSchema;

use crate::http::api::endpoint::{BodySchema, SuccessResponse};
use crate::http::response;
use crate::server::message::Response;
use crate::token::{IssuedToken, TokenInfo};

/// A new token. This response alone shows its secret.
#[derive(ToSchema)]
#[schema(as = IssuedToken)]
#[expect(dead_code, reason = "the schema is derived from the types of the fields")]
struct IssuedTokenSchema {
    /// The id of the token, counted from 0 and never reused.
    id: u64,
    /// The name of the token; `_admin` for the operator token.
    name: String,
    /// The secret text of the token, shown this once.
    #[schema(pattern = "^apiv3_[A-Za-z0-9_-]{85}[AQgw]$")]
    token: String,
    /// The SHA-512 of the text, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    hash: String,
    /// When the token was created.
    #[schema(format = DateTime)]
    created_at: String,
    /// When the token expires; null for never.
    #[schema(required, format = DateTime)]
    expiry: Option<String>,
}

/// Returns the response that shows a new token.
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

/// Describes [`created_response`].
pub(crate) fn success_response() -> SuccessResponse {
    SuccessResponse {
        status: StatusCode::CREATED,
        headers: vec!["cache-control"],
        content: vec![(JSON, BodySchema::of::<IssuedTokenSchema>())],
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

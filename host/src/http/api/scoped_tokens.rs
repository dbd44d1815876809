//! Tokens with permissions: create one by the request of InfluxDB 3 Enterprise, and show the
//! presented token (docs/compatibility.md 2.11).
//!
//! A permission is put together here, and parsed by the component alone.

use std::fmt;
use std::marker::PhantomData;

use hyper::Method;
use optoken_protocol::fields::KnownFields;
use optoken_protocol::media_type::JSON;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use utoipa::ToSchema;

use crate::authority::Authority;
use crate::http::api::endpoint::{
    ApiRequest, BodySchema, Endpoint, Handler, create_problems, json_body_problems, ok_response,
    read_problems,
};
use crate::http::api::issued_token;
use crate::http::api::tokens::ListedToken;
use crate::http::{Options, body, problem, response};
use crate::server::message::Response;

/// The type of permissions whose names are patterns: a comma and a colon can stand in one.
const HTTP: &str = "http";

/// A new token with permissions.
#[derive(Deserialize, ToSchema)]
struct CreateTokenWithPermissionsRequest {
    /// The unique name of the token, of at most 128 bytes and case-sensitive. It has no invisible
    /// characters, no space at its beginning or end, and does not resemble `_admin`.
    #[schema(min_length = 1, max_length = 128)]
    token_name: String,
    /// What the token may do. Each pattern of the type `http` counts as a permission.
    #[schema(value_type = Vec<RequestedPermission>, min_items = 1, max_items = 32)]
    permissions: Vec<Object<RequestedPermission>>,
    /// How many seconds from now the token is accepted; without a limit if absent or null.
    #[schema(format = "uint64")]
    expiry_secs: Option<u64>,
}

/// The fields of [`CreateTokenWithPermissionsRequest`].
const FIELDS: KnownFields =
    KnownFields { names: &["token_name", "permissions", "expiry_secs"], duration: Some("expiry_secs") };

/// A permission of a new token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RequestedPermission)]
struct RequestedPermission {
    /// `db` for databases, `system` for health, metrics and ping, `http` for paths of any service.
    resource_type: String,
    /// Names, or `*` for all; patterns `[HOST]/PATH` of the type `http`. `resource_names` is
    /// another name of this field.
    #[serde(alias = "resource_names")]
    #[schema(min_items = 1)]
    resource_identifier: Vec<String>,
    /// `read`, `write`, `create`, or methods of the type `http`; `*` for all.
    #[schema(min_items = 1)]
    actions: Vec<String>,
}

/// A value that is an object in JSON. Serde reads an array as an object, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Only(PhantomData))
    }
}

impl RequestedPermission {
    /// Returns the permission as texts: one, or one for each pattern.
    fn texts(&self) -> Result<Vec<String>, String> {
        let Self { resource_type, resource_identifier, actions } = self;
        let is_http = resource_type == HTTP;
        // A mark of the text in a part would make other parts of it.
        let marked = |field, part: &str, marks: &[char]| {
            if part.contains(marks) {
                Err(format!("{field} holds names of one word each, and no colon or comma"))
            } else {
                Ok(())
            }
        };
        marked("resource_type", resource_type, &[':', ','])?;
        actions.iter().try_for_each(|action| marked("actions", action, &[':', ',']))?;
        if resource_identifier.is_empty() {
            return Err("resource_identifier is empty".to_owned());
        }
        let actions = actions.join(",");
        if is_http {
            let text = |pattern| format!("{resource_type}:{pattern}:{actions}");
            return Ok(resource_identifier.iter().map(text).collect());
        }
        resource_identifier.iter().try_for_each(|name| marked("resource_identifier", name, &[':', ',']))?;
        Ok(vec![format!("{resource_type}:{}:{actions}", resource_identifier.join(","))])
    }
}

/// Returns the texts of all permissions of a request.
fn texts(permissions: &[Object<RequestedPermission>]) -> Result<Vec<String>, Problem> {
    let mut texts = Vec::new();
    for (position, Object(permission)) in permissions.iter().enumerate() {
        texts.extend(
            permission
                .texts()
                .map_err(|why| Problem::InvalidArgument(format!("permission {}: {why}", position + 1)))?,
        );
    }
    Ok(texts)
}

async fn create(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    FIELDS.check_query(request.uri().query())?;
    body::require_json(request.headers())?;
    let CreateTokenWithPermissionsRequest { token_name, permissions, expiry_secs } =
        body::json(request, state.options.max_request_size, Some(FIELDS)).await?;
    let permissions = texts(&permissions)?;
    let create = move |authority: &Authority| {
        authority.create_named(&credential, &token_name, Some(&permissions), expiry_secs, &origin)
    };
    let issued = state.command(create).await.map_err(problem::of_named)?;
    Ok(issued_token::created_response(&issued))
}

fn show_presented(request: &ApiRequest) -> Result<Response, Problem> {
    let credential = request.credential.as_ref().ok_or(Problem::MissingCredential)?;
    let token = request.state.authority.describe(credential.expose())?;
    response::json(&ListedToken::from(token))
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints(options: &Options) -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Some(Method::POST),
            path: paths::SCOPED,
            handler: Handler::Later(|request| Box::pin(create(request))),
            name: "createTokenWithPermissions",
            summary: "Create a token with permissions, as InfluxDB 3 Enterprise does",
            parameters: vec![],
            body: Some(BodySchema::of::<CreateTokenWithPermissionsRequest>()),
            success: issued_token::success_response(),
            problems: [
                json_body_problems(options),
                vec![Problem::Unavailable, Problem::UnknownOutcomeOfNamed, Problem::Internal],
                create_problems(),
                vec![
                    Problem::Conflict("…".to_owned()),
                    Problem::UnsupportedMediaType,
                    Problem::InvalidArgument("…".to_owned()),
                ],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::GET),
            path: paths::SELF,
            handler: Handler::Later(|request| Box::pin(async move { show_presented(&request) })),
            name: "showPresentedToken",
            summary: "Show the presented token, whatever its permissions",
            parameters: vec![],
            body: None,
            success: ok_response(vec![(JSON, BodySchema::of::<ListedToken>())]),
            problems: read_problems(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(permissions: &str) -> Result<Vec<String>, String> {
        let parsed: Vec<Object<RequestedPermission>> =
            serde_json::from_str(permissions).map_err(|error| error.to_string())?;
        texts(&parsed).map_err(|problem| problem.text().into_owned())
    }

    #[test]
    fn permissions_become_the_texts_of_the_command_line() {
        for (json, expected) in [
            (
                r#"[{"resource_type":"db","resource_identifier":["a","b"],"actions":["read","write"]}]"#,
                &["db:a,b:read,write"][..],
            ),
            // The field as the command of InfluxDB sends it.
            (r#"[{"resource_type":"db","resource_names":["*"],"actions":["read"]}]"#, &["db:*:read"]),
            (
                r#"[{"resource_type":"http","resource_identifier":["/a,b:c","x/*"],"actions":["GET","write"]},
                    {"resource_type":"system","resource_identifier":["ping"],"actions":["read"]}]"#,
                &["http:/a,b:c:GET,write", "http:x/*:GET,write", "system:ping:read"],
            ),
            (r#"[{"resource_type":"*","resource_identifier":["*"],"actions":["*"]}]"#, &["*:*:*"]),
            (r#"[{"resource_type":"db","resource_identifier":["a"],"actions":[]}]"#, &["db:a:"]),
            ("[]", &[]),
        ] {
            assert_eq!(
                parse(json).as_deref(),
                Ok(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{json}"
            );
        }
    }

    #[test]
    fn parts_that_would_make_other_parts_are_rejected() {
        let good = r#"{"resource_type":"db","resource_identifier":["a"],"actions":["read"]}"#;
        for (bad, message) in [
            (
                r#"{"resource_type":"http:/x","resource_identifier":["/y"],"actions":["GET"]}"#,
                "permission 2: resource_type",
            ),
            (
                r#"{"resource_type":"http","resource_identifier":["/a"],"actions":["x:GET"]}"#,
                "permission 2: actions",
            ),
            (
                r#"{"resource_type":"db","resource_identifier":["a"],"actions":["read,write"]}"#,
                "permission 2: actions",
            ),
            (
                r#"{"resource_type":"db","resource_identifier":["a,b"],"actions":["read"]}"#,
                "permission 2: resource_identifier",
            ),
            (
                r#"{"resource_type":"http","resource_identifier":[],"actions":["GET"]}"#,
                "permission 2: resource_identifier is empty",
            ),
            (
                r#"{"resource_type":"db","resource_identifier":["a"],"actions":["read"],"except":["a"]}"#,
                "unknown field `except`",
            ),
            (
                r#"{"resource_type":"db","resource_identifier":["a"],"resource_names":["b"],"actions":["read"]}"#,
                "duplicate field",
            ),
            (r#"["db",["a"],["read"]]"#, "invalid type: sequence, expected an object"),
            (r#"{"resource_type":"db","actions":["read"]}"#, "missing field `resource_identifier`"),
        ] {
            let error = parse(&format!("[{good},{bad}]")).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }
}

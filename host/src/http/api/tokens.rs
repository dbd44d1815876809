//! Tokens: create the operator token, create named admin tokens, delete named tokens, list all
//! (docs/compatibility.md 2.3, 2.5, 2.6).

use hyper::{Method, StatusCode};
use optoken_protocol::fields::KnownFields;
use optoken_protocol::media_type::JSON;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::timestamp::rfc3339;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Required;

use crate::authority::Authority;
use crate::http::api::endpoint::{
    ApiRequest, BodySchema, Endpoint, Handler, command_problems, create_problems, ignored_body_problems,
    json_body_problems, ok_response, parameter, read_problems, retryable_command_problems, text_schema,
};
use crate::http::api::issued_token;
use crate::http::api::system_tokens::{ALL_PERMISSIONS, short_hash};
use crate::http::refusal::Refused;
use crate::http::request_origin::Rejection;
use crate::http::{Options, body, problem, response};
use crate::server::message::Response;
use crate::token::{OPERATOR, TokenInfo};

/// A new named admin token.
#[derive(Deserialize, ToSchema)]
struct CreateNamedAdminTokenRequest {
    /// The unique name of the token, of at most 128 bytes and case-sensitive. It has no invisible
    /// characters, no space at its beginning or end, and does not resemble `_admin` without being
    /// equal.
    #[schema(min_length = 1, max_length = 128)]
    token_name: String,
    /// How many seconds from now the token is accepted; without a limit if absent or null.
    #[schema(format = "uint64")]
    expiry_secs: Option<u64>,
}

/// The fields of [`CreateNamedAdminTokenRequest`].
const NAMED_FIELDS: KnownFields =
    KnownFields { names: &["token_name", "expiry_secs"], duration: Some("expiry_secs") };

/// The fields of a request that creates the operator token.
const NO_FIELDS: KnownFields = KnownFields { names: &[], duration: None };

/// The query string of a deletion.
#[derive(Deserialize)]
struct DeleteRequest {
    token_name: String,
}

/// All tokens, including expired ones, in the order of their creation.
#[derive(Serialize, ToSchema)]
struct TokenList {
    tokens: Vec<ListedToken>,
}

/// A token, without its secret.
#[derive(Serialize, ToSchema)]
pub(crate) struct ListedToken {
    /// The id of the token, counted from 0 and never reused.
    id: u64,
    /// The name of the token; `_admin` for the operator token.
    name: String,
    /// The first nine hexadecimal digits of the SHA-512 of the token.
    #[schema(pattern = "^[0-9a-f]{9}$")]
    hash: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// When the token was last regenerated.
    #[schema(required, format = DateTime)]
    updated_at: Option<String>,
    /// The id of the token that regenerated it.
    #[schema(required)]
    updated_by: Option<u64>,
    /// When the token expires; null for never.
    #[schema(required, format = DateTime)]
    expiry: Option<String>,
    /// The permissions of the token, each as `TYPE:NAMES:ACTIONS`; `*:*:*` for all.
    permissions: Vec<String>,
    /// What the token is for, in the words of its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

impl From<TokenInfo> for ListedToken {
    fn from(token: TokenInfo) -> Self {
        Self {
            id: token.id,
            hash: short_hash(&token.sha512),
            name: token.name,
            created_at: rfc3339(token.created_at),
            updated_at: token.updated_at.map(rfc3339),
            updated_by: token.updated_by,
            expiry: token.expiry.map(rfc3339),
            permissions: token.permissions.unwrap_or_else(|| vec![ALL_PERMISSIONS.to_owned()]),
            description: token.description,
        }
    }
}

async fn create_operator(request: ApiRequest) -> Result<Response, Problem> {
    let origin = request.origin();
    let ApiRequest { state, request, .. } = request;
    // Before the body of a request that is not allowed is read.
    if let Err(rejection) = state.options.bootstrap.check(&request, &state.client().peer) {
        // A form of request that some clients use for every server, like in InfluxDB 3 Core.
        let is_harmless = rejection == Rejection::AbsoluteForm && state.read(Authority::status)?.is_some();
        rejection.report(Refused::Bootstrap, &request, state.client(), &state.refusals);
        return Err(if is_harmless { Problem::AlreadyExists(OPERATOR.to_owned()) } else { rejection.into() });
    }
    NO_FIELDS.check_query(request.uri().query())?;
    // Any local client can send this request. A body that arrives slowly would keep its place while
    // the request cannot succeed.
    if state.read(Authority::status)?.is_none() {
        body::ignore(request.into_body(), NO_FIELDS).await?;
    }
    let created = state.command(move |authority| authority.create_operator(&origin));
    let issued = created.await.map_err(problem::of_first)?;
    Ok(issued_token::created_response(&issued))
}

async fn create_named(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    NAMED_FIELDS.check_query(request.uri().query())?;
    body::require_json(request.headers())?;
    let CreateNamedAdminTokenRequest { token_name, expiry_secs } =
        body::json(request, state.options.max_request_size, Some(NAMED_FIELDS)).await?;
    let create = move |authority: &Authority| {
        authority.create_named(&credential, &token_name, None, expiry_secs, &origin)
    };
    let issued = state.command(create).await.map_err(problem::of_named)?;
    Ok(issued_token::created_response(&issued))
}

async fn delete(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    let query = request.uri().query().unwrap_or_default();
    let DeleteRequest { token_name } =
        serde_urlencoded::from_str(query).map_err(|error| problem::invalid_query(&error))?;
    body::discard(request.into_body()).await?;
    let deleted = state.command(move |authority| authority.delete(&credential, &token_name, &origin));
    deleted.await.map_err(problem::repeatable)?;
    Ok(response::empty(StatusCode::OK))
}

fn list(request: &ApiRequest) -> Result<Response, Problem> {
    let tokens = request.state.read(Authority::list_tokens)?.into_iter().map(Into::into).collect();
    response::json(&TokenList { tokens })
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints(options: &Options) -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Some(Method::POST),
            path: paths::OPERATOR,
            handler: Handler::Later(|request| Box::pin(create_operator(request))),
            name: "createOperatorToken",
            summary: "Create the operator token, once; needs no token, and ignores any body that asks for no limit",
            parameters: vec![],
            body: None,
            success: issued_token::success_response(),
            problems: [
                bootstrap_problems(options),
                ignored_body_problems(),
                command_problems().into_iter().map(problem::of_first).collect(),
                create_problems(),
                vec![Problem::InvalidArgument("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: paths::NAMED_ADMIN,
            handler: Handler::Later(|request| Box::pin(create_named(request))),
            name: "createNamedAdminToken",
            summary: "Create a named admin token",
            parameters: vec![],
            body: Some(BodySchema::of::<CreateNamedAdminTokenRequest>()),
            success: issued_token::success_response(),
            problems: [
                json_body_problems(options),
                vec![Problem::Unavailable, Problem::UnknownOutcomeOfNamed, Problem::Internal],
                create_problems(),
                vec![Problem::UnsupportedMediaType, Problem::InvalidArgument("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::GET),
            path: paths::TOKENS,
            handler: Handler::Later(|request| Box::pin(async move { list(&request) })),
            name: "listTokens",
            summary: "List all tokens, without their secrets",
            parameters: vec![],
            body: None,
            success: ok_response(vec![(JSON, BodySchema::of::<TokenList>())]),
            problems: read_problems(),
        },
        Endpoint {
            method: Some(Method::DELETE),
            path: paths::TOKENS,
            handler: Handler::Later(|request| Box::pin(delete(request))),
            name: "deleteToken",
            summary: "Delete a named token; ignores any body",
            parameters: vec![parameter(
                "token_name",
                "The name of the token.",
                Required::True,
                text_schema(),
            )],
            body: None,
            success: ok_response(vec![]),
            problems: [
                ignored_body_problems(),
                retryable_command_problems(),
                vec![
                    Problem::InvalidQuery("…".to_owned()),
                    Problem::OperatorProtected,
                    Problem::TokenNotFound("…".to_owned()),
                ],
            ]
            .concat(),
        },
    ]
}

/// Rejections of a request that creates the operator token.
fn bootstrap_problems(options: &Options) -> Vec<Problem> {
    options.bootstrap.rejections().iter().copied().map(Problem::from).collect()
}

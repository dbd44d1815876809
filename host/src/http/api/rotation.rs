//! Rotation of the operator token: regenerate, stage, confirm, cancel, end the overlap, and its
//! status (docs/design.md 3.4, 5.1).
//!
//! A lost response loses nothing: a client can repeat stage and confirm.

use hyper::{Method, StatusCode};
use optoken_protocol::fields::KnownFields;
use optoken_protocol::media_type::JSON;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::timestamp::rfc3339;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::{Object, Required, Type};
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::http::api::endpoint::{
    ApiRequest, BodySchema, Endpoint, Handler, SuccessResponse, command_problems, ignored_body_problems,
    json_body_problems, ok_response, parameter, read_problems, retryable_command_problems,
};
use crate::http::api::issued_token;
use crate::http::api::system_tokens::short_hash;
use crate::http::api::tokens::ListedToken;
use crate::http::{Options, body, problem, response};
use crate::secret::Secret;
use crate::server::message::Response;
use crate::token::{CommandError, ExpiringSecret, Rotation, StagedSecret, Timestamp};

/// Options of a replacement of the operator token.
#[derive(Default, Deserialize, ToSchema)]
struct RegenerateRequest {
    /// How many seconds the previous token stays accepted; 0 if absent or null, at most 2592000.
    overlap_secs: Option<u64>,
}

/// Options of a confirmation. Unknown fields are rejected: a misspelt `overlap_secs` would
/// otherwise revoke the old token immediately.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConfirmRequest {
    /// How many seconds the previous token stays accepted; 0 if absent or null, at most 2592000.
    overlap_secs: Option<u64>,
}

/// Options of a staged token. Unknown fields are rejected.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StageRequest {
    /// The SHA-512 of a token that the client has generated, as 128 lower-case hexadecimal digits.
    /// If absent or null, the server generates a token.
    token_sha512: Option<String>,
    /// How many seconds the token can be confirmed; 3600 if absent or null, at most 604800.
    ttl_secs: Option<u64>,
}

/// Options of the end of an overlap. Unknown ones are rejected: a misspelt `delete_tokens` would
/// otherwise keep the tokens of an attacker.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndOverlapRequest {
    #[serde(default)]
    delete_tokens: bool,
}

/// The tokens that were created with the previous token since its replacement, or with such a
/// token. They stay accepted when the overlap ends.
#[derive(Serialize, ToSchema)]
struct OverlapTokens {
    tokens: Vec<ListedToken>,
}

/// The fields of [`RegenerateRequest`] and [`ConfirmRequest`].
const REPLACEMENT_FIELDS: KnownFields = KnownFields { names: &["overlap_secs"], duration: None };

/// The fields of [`StageRequest`].
const STAGE_FIELDS: KnownFields =
    KnownFields { names: &["token_sha512", "ttl_secs"], duration: Some("ttl_secs") };

/// An upper bound of the bytes in the JSON of a staged token.
const MAX_STAGED_BYTES: usize = 512;

/// A token that is staged to replace the operator token.
#[derive(Serialize, ToSchema)]
struct StagedToken<'a> {
    /// The secret text of the token, shown this once; null if the client has generated it.
    #[schema(required, pattern = "^apiv3_[A-Za-z0-9_-]{85}[AQgw]$")]
    token: Option<&'a str>,
    /// The SHA-512 of the text, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    hash: String,
    /// When it can no longer be confirmed.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// The operator token and its rotation.
#[derive(Serialize, ToSchema)]
struct OperatorStatus {
    #[serde(flatten)]
    token: ListedToken,
    /// When this server last accepted it; null if it has not since its start.
    #[schema(required, format = DateTime)]
    last_used_at: Option<String>,
    /// When this server was started. It does not know of earlier uses, or of uses on other servers.
    #[schema(format = DateTime)]
    uses_known_since: String,
    /// The staged token, if there is one.
    #[schema(required)]
    staged: Option<StagedStatus>,
    /// The previous token, while it is still accepted.
    #[schema(required)]
    overlap: Option<OverlapStatus>,
}

/// A token that is staged to replace the operator token.
#[derive(Serialize, ToSchema)]
struct StagedStatus {
    /// The first nine hexadecimal digits of its SHA-512.
    hash: String,
    /// When it can no longer be confirmed.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// The previous token, while it is still accepted.
#[derive(Serialize, ToSchema)]
struct OverlapStatus {
    /// The first nine hexadecimal digits of its SHA-512.
    hash: String,
    /// When it is no longer accepted.
    #[schema(format = DateTime)]
    ends_at: String,
    /// When this server last accepted it; null if it has not since its start.
    #[schema(required, format = DateTime)]
    last_used_at: Option<String>,
}

async fn regenerate(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    // A body that is not announced as JSON is ignored, like in InfluxDB 3 Core
    // (docs/compatibility.md 2.4).
    REPLACEMENT_FIELDS.check_query(request.uri().query())?;
    let RegenerateRequest { overlap_secs } = if body::require_json(request.headers()).is_ok() {
        body::optional_json(request, state.options.max_request_size, Some(REPLACEMENT_FIELDS)).await?
    } else {
        body::ignore(request.into_body(), REPLACEMENT_FIELDS).await?;
        RegenerateRequest::default()
    };
    let overlap = overlap_secs.unwrap_or(0);
    let issued = state.command(move |authority| authority.regenerate(&credential, overlap, &origin));
    Ok(issued_token::created_response(&issued.await?))
}

async fn stage(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    STAGE_FIELDS.check_query(request.uri().query())?;
    let StageRequest { token_sha512, ttl_secs } =
        body::optional_json(request, state.options.max_request_size, Some(STAGE_FIELDS)).await?;
    let staged = state
        .command(move |authority| authority.stage(&credential, token_sha512.as_deref(), ttl_secs, &origin));
    let StagedSecret { secret, sha512, expires_at } = staged.await.map_err(problem::repeatable)?;
    let token = StagedToken {
        token: secret.as_ref().map(Secret::expose),
        hash: sha512,
        expires_at: rfc3339(expires_at),
    };
    // A buffer that grows would leave a copy of the secret behind.
    let mut json = Zeroizing::new(Vec::with_capacity(MAX_STAGED_BYTES));
    serde_json::to_writer(&mut *json, &token).map_err(|_| Problem::Internal)?;
    Ok(response::secret(json))
}

/// Makes the staged token the operator token. Its credential is not checked earlier, because only
/// this endpoint accepts a staged token.
async fn confirm(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    // A command costs more than a check in memory, so a request that cannot succeed is rejected
    // first.
    let staged =
        state.read(Authority::status)?.is_some_and(|status| matches!(status.rotation, Rotation::Staged(_)));
    if !staged {
        state.authenticate(&credential, paths::CONFIRM)?;
    }
    REPLACEMENT_FIELDS.check_query(request.uri().query())?;
    let ConfirmRequest { overlap_secs } =
        body::optional_json(request, state.options.max_request_size, Some(REPLACEMENT_FIELDS)).await?;
    let overlap = overlap_secs.unwrap_or(0);
    let confirmed = state.command(move |authority| authority.confirm(&credential, overlap, &origin));
    let token = confirmed.await.map_err(problem::repeatable)?;
    response::json(&ListedToken::from(token))
}

async fn cancel(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    body::discard(request.into_body()).await?;
    let cancelled = state.command(move |authority| authority.cancel(&credential, &origin));
    cancelled.await.map_err(problem::repeatable)?;
    Ok(response::empty(StatusCode::OK))
}

async fn end_overlap(request: ApiRequest) -> Result<Response, Problem> {
    let (state, credential, origin, request) = request.into_parts()?;
    let query = request.uri().query().unwrap_or_default();
    let EndOverlapRequest { delete_tokens } =
        serde_urlencoded::from_str(query).map_err(|error| problem::invalid_query(&error))?;
    body::discard(request.into_body()).await?;
    let ended = state.command(move |authority| {
        let tokens = authority.end_overlap(&credential, &origin)?;
        if delete_tokens {
            for token in &tokens {
                match authority.delete(&credential, &token.name, &origin) {
                    // Another client has deleted it meanwhile.
                    Ok(_) | Err(CommandError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    });
    ended.await.map_err(problem::repeatable)?;
    Ok(response::empty(StatusCode::OK))
}

fn overlap(request: &ApiRequest) -> Result<Response, Problem> {
    let tokens = request.state.read(Authority::made_with_previous_secret)?;
    response::json(&OverlapTokens { tokens: tokens.into_iter().map(Into::into).collect() })
}

fn status(request: &ApiRequest) -> Result<Response, Problem> {
    let authority = &request.state.authority;
    let status = request.state.read(Authority::status)?.ok_or(Problem::NoOperator)?;
    let used = authority.operator_last_used();
    let moment = |at: Option<Timestamp>| at.map(rfc3339);
    let (staged, overlap) = match status.rotation {
        Rotation::Idle => (None, None),
        Rotation::Staged(ExpiringSecret { sha512, expires_at }) => {
            (Some(StagedStatus { hash: short_hash(&sha512), expires_at: rfc3339(expires_at) }), None)
        }
        Rotation::Overlapping(ExpiringSecret { sha512, expires_at }) => {
            let (hash, ends_at) = (short_hash(&sha512), rfc3339(expires_at));
            (None, Some(OverlapStatus { hash, ends_at, last_used_at: moment(used.previous) }))
        }
    };
    response::json(&OperatorStatus {
        token: status.info.into(),
        last_used_at: moment(used.current),
        uses_known_since: rfc3339(used.since),
        staged,
        overlap,
    })
}

/// Returns the endpoints of this file.
#[expect(clippy::too_many_lines, reason = "one table of all endpoints")]
pub(crate) fn endpoints(options: &Options) -> Vec<Endpoint> {
    let operator = || vec![Problem::InsufficientScope, Problem::NoOperator];
    vec![
        Endpoint {
            method: Some(Method::GET),
            path: paths::OPERATOR,
            handler: Handler::Later(|request| Box::pin(async move { status(&request) })),
            name: "getOperatorToken",
            summary: "Show the operator token and the status of its rotation, without secrets",
            parameters: vec![],
            body: None,
            success: ok_response(vec![(JSON, BodySchema::of::<OperatorStatus>())]),
            problems: [read_problems(), vec![Problem::NoOperator]].concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: paths::REGENERATE,
            handler: Handler::Later(|request| Box::pin(regenerate(request))),
            name: "regenerateOperatorToken",
            summary: "Replace the operator token, which the request must present; ignores a body that is not JSON",
            parameters: vec![],
            body: Some(BodySchema::of::<RegenerateRequest>().optional()),
            success: issued_token::success_response(),
            problems: [
                ignored_body_problems(),
                json_body_problems(options),
                command_problems(),
                vec![
                    Problem::InsufficientScope,
                    Problem::NoOperator,
                    Problem::InvalidArgument("…".to_owned()),
                ],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: paths::STAGE,
            handler: Handler::Later(|request| Box::pin(stage(request))),
            name: "stageOperatorToken",
            summary: "Stage a token to replace the operator token, which the request must present and which stays valid",
            parameters: vec![],
            body: Some(BodySchema::of::<StageRequest>().optional()),
            success: SuccessResponse {
                status: StatusCode::CREATED,
                headers: vec!["cache-control"],
                content: vec![(JSON, BodySchema::of::<StagedToken>())],
            },
            problems: [
                json_body_problems(options),
                retryable_command_problems(),
                operator(),
                vec![
                    Problem::UnsupportedMediaType,
                    Problem::InvalidArgument("…".to_owned()),
                    Problem::Conflict("…".to_owned()),
                ],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: paths::CONFIRM,
            handler: Handler::Later(|request| Box::pin(confirm(request))),
            name: "confirmOperatorToken",
            summary: "Make the staged token, which the request must present, the operator token; repeating it changes nothing",
            parameters: vec![],
            body: Some(BodySchema::of::<ConfirmRequest>().optional()),
            success: ok_response(vec![(JSON, BodySchema::of::<ListedToken>())]),
            problems: [
                json_body_problems(options),
                retryable_command_problems(),
                operator(),
                vec![Problem::UnsupportedMediaType, Problem::InvalidArgument("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::DELETE),
            path: paths::STAGE,
            handler: Handler::Later(|request| Box::pin(cancel(request))),
            name: "cancelOperatorToken",
            summary: "Cancel the staged token, if there is one; ignores any body",
            parameters: vec![],
            body: None,
            success: ok_response(vec![]),
            problems: [ignored_body_problems(), retryable_command_problems(), operator()].concat(),
        },
        Endpoint {
            method: Some(Method::GET),
            path: paths::OVERLAP,
            handler: Handler::Later(|request| Box::pin(async move { overlap(&request) })),
            name: "listOverlapTokens",
            summary: "List the tokens that were created with the previous token since its replacement, or with such a token; \
                      they stay accepted when the overlap ends",
            parameters: vec![],
            body: None,
            success: ok_response(vec![(JSON, BodySchema::of::<OverlapTokens>())]),
            problems: read_problems(),
        },
        Endpoint {
            method: Some(Method::DELETE),
            path: paths::OVERLAP,
            handler: Handler::Later(|request| Box::pin(end_overlap(request))),
            name: "endOverlap",
            summary: "Revoke the previous token, if it is still accepted; ignores any body",
            parameters: vec![parameter(
                "delete_tokens",
                "Whether to delete the tokens that were created with the previous token since its replacement.",
                Required::False,
                Object::with_type(Type::Boolean).into(),
            )],
            body: None,
            success: ok_response(vec![]),
            problems: [
                ignored_body_problems(),
                retryable_command_problems(),
                operator(),
                vec![Problem::InvalidQuery("…".to_owned())],
            ]
            .concat(),
        },
    ]
}

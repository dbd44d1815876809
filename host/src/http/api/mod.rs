//! All that the main listener serves: one table, from which requests are routed and the OpenAPI document is made, so
//! that neither can say what the other does not.
//!
//! What is judged before the path, the same for all, is not here: see `main_listener`.

mod audit;
pub(crate) mod issued_token;
pub(crate) mod openapi;
mod rotation;
mod service;
mod sql;
mod system_tokens;
mod tokens;
mod verify;

use std::pin::Pin;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use utoipa::ToSchema;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, RefOr, Required, Schema, Type};

use crate::http::api::rotation::{ConfirmRequest, RegenerateRequest, StageRequest};
use crate::http::api::service::{BUILD_HEADER, Identity, REQUEST_ID_HEADERS, VERSION_HEADER};
use crate::http::api::sql::QueryRequest;
use crate::http::api::system_tokens::{Format, Row};
use crate::http::api::tokens::{CreateNamedAdminTokenRequest, ListedToken, TokenList};
use crate::http::api::verify::{TOKEN_ID_HEADER, TOKEN_NAME_HEADER};
use crate::http::body::MAX_IGNORED_BYTES;
use crate::http::main_listener::Served;
use crate::http::problem::Problem;
use crate::http::{
    AUDIT_PATH, CONFIRM_PATH, CREATE_PATH, JSON, JSONL, NAMED_PATH, OPENAPI_PATH, OVERLAP_PATH, Options,
    REGENERATE_PATH, SQL_PATH, STAGE_PATH, TEXT, TOKENS_PATH, VERIFY_PATH, response,
};
use crate::server::peer::Peer;
use crate::server::serve::{Request, Response};
use crate::token::Principal;

/// Version 0.0.4 of the text format of Prometheus.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A request that has got as far as its endpoint.
pub(crate) struct Call {
    pub(crate) served: Arc<Served>,
    /// What was presented; absent where none is needed.
    pub(crate) credential: Option<crate::secret::Secret>,
    /// Where it came from.
    pub(crate) peer: Peer,
    /// Whose it is; absent where nobody has looked.
    pub(crate) principal: Option<Principal>,
    pub(crate) request: Request,
}

impl Call {
    /// Where it came from, for the audit record of a command.
    pub(crate) fn origin(&self) -> String {
        format!("http {}", self.peer)
    }
}

/// Carries out a call.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// A method on a path: who answers, what it takes, and everything that it can answer.
pub(crate) struct Endpoint {
    /// Absent if it does not matter. OPTIONS is none of the endpoints' affairs.
    pub(crate) method: Option<Method>,
    /// As it stands in the request, byte for byte.
    pub(crate) path: &'static str,
    pub(crate) handler: Handler,
    /// Its name in the document: what a generated client calls it. Without its method, where that does not matter.
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) parameters: Vec<Parameter>,
    /// A body of JSON, if it takes one.
    pub(crate) body: Option<Described>,
    pub(crate) success: Success,
    /// What the handler can answer instead. With placeholders where the text depends on the request.
    pub(crate) problems: Vec<Problem>,
}

/// The methods that are told of where all will do, in the order of OpenAPI.
const TELLABLE_METHODS: [Method; 6] =
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD, Method::PATCH];

impl Endpoint {
    pub(crate) fn answers(&self, method: &Method, path: &str) -> bool {
        self.path == path && self.method.as_ref().is_none_or(|its| its == method)
    }

    /// The methods that it can be told to have, each with the name of what it does.
    pub(crate) fn operations(&self) -> Vec<(Method, String)> {
        match &self.method {
            Some(method) => vec![(method.clone(), self.name.to_owned())],
            None => TELLABLE_METHODS
                .map(|method| {
                    let name = format!("{}{}", method.as_str().to_ascii_lowercase(), self.name);
                    (method, name)
                })
                .into(),
        }
    }
}

/// The answer to a request that was carried out.
pub(crate) struct Success {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<&'static str>,
    /// The content types that its body can have; none if it has no body.
    pub(crate) content: Vec<(&'static str, Described)>,
}

/// What a body looks like.
pub(crate) struct Described {
    pub(crate) schema: RefOr<Schema>,
    /// The schemas by name that it refers to.
    pub(crate) components: Vec<(String, RefOr<Schema>)>,
    /// Whether a request must have it.
    pub(crate) required: bool,
}

impl Described {
    fn by<T: ToSchema>() -> Self {
        let mut components = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut components);
        Self { schema: utoipa::openapi::Ref::from_schema_name(T::name()).into(), components, required: true }
    }

    fn text() -> Self {
        Self { schema: Object::with_type(Type::String).into(), components: Vec::new(), required: true }
    }

    /// Any JSON object.
    fn object() -> Self {
        Self { schema: Object::with_type(Type::Object).into(), components: Vec::new(), required: true }
    }

    /// Of a body that may be left out.
    fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    fn array(self) -> Self {
        Self { schema: utoipa::openapi::schema::Array::new(self.schema).into(), ..self }
    }
}

/// The whole table.
pub(crate) fn table(options: &Options) -> Vec<Endpoint> {
    let mut table = token_endpoints(options);
    table.extend(rotation_endpoints(options));
    table.push(audit_endpoint());
    table.extend(query_endpoints(options));
    table.extend(service_endpoints());
    table
}

fn token_endpoints(options: &Options) -> Vec<Endpoint> {
    let issued = || Success {
        status: StatusCode::CREATED,
        headers: vec!["cache-control"],
        content: vec![(JSON, Described::by::<issued_token::Body>())],
    };
    vec![
        Endpoint {
            method: Some(Method::GET),
            path: CREATE_PATH,
            handler: |call| Box::pin(async move { rotation::status(&call) }),
            name: "getOperatorToken",
            summary: "Tell how the operator token and its rotation stand, without any secret",
            parameters: vec![],
            body: None,
            success: ok(vec![(JSON, Described::by::<rotation::OperatorStatus>())]),
            problems: [unreadable_catalog(), vec![Problem::NoOperator]].concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: CREATE_PATH,
            handler: |call| Box::pin(tokens::create_operator(call)),
            name: "createOperatorToken",
            summary: "Create the operator token, once; needs no token, and ignores any body",
            parameters: vec![],
            body: None,
            success: issued(),
            problems: [unwelcome(options), ignored_body(), changes(), no_more()].concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: REGENERATE_PATH,
            handler: |call| Box::pin(rotation::regenerate(call)),
            name: "regenerateOperatorToken",
            summary: "Replace the operator token, which must be the one that is presented; ignores a body that is not JSON",
            parameters: vec![],
            body: Some(Described::by::<RegenerateRequest>().optional()),
            success: issued(),
            problems: [
                ignored_body(),
                json_body(options),
                changes(),
                vec![Problem::Forbidden, Problem::NoOperator, Problem::Invalid("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: NAMED_PATH,
            handler: |call| Box::pin(tokens::create_named(call)),
            name: "createNamedAdminToken",
            summary: "Create a named admin token",
            parameters: vec![],
            body: Some(Described::by::<CreateNamedAdminTokenRequest>()),
            success: issued(),
            problems: [
                json_body(options),
                changes(),
                no_more(),
                vec![Problem::NotJson, Problem::Invalid("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::GET),
            path: TOKENS_PATH,
            handler: |call| Box::pin(async move { tokens::list(&call) }),
            name: "listTokens",
            summary: "List all tokens, without their secrets",
            parameters: vec![],
            body: None,
            success: ok(vec![(JSON, Described::by::<TokenList>())]),
            problems: unreadable_catalog(),
        },
        Endpoint {
            method: Some(Method::DELETE),
            path: TOKENS_PATH,
            handler: |call| Box::pin(tokens::delete(call)),
            name: "deleteToken",
            summary: "Delete a named admin token; ignores any body",
            parameters: vec![parameter(
                "token_name",
                "The name of the token.",
                Required::True,
                text_schema(),
            )],
            body: None,
            success: ok(vec![]),
            problems: [
                ignored_body(),
                changes(),
                vec![
                    Problem::BadQuery("…".to_owned()),
                    Problem::OperatorProtected,
                    Problem::NoSuchToken("…".to_owned()),
                ],
            ]
            .concat(),
        },
    ]
}

fn audit_endpoint() -> Endpoint {
    Endpoint {
        method: Some(Method::GET),
        path: AUDIT_PATH,
        handler: |call| Box::pin(async move { audit::newest(&call) }),
        name: "listAuditRecords",
        summary: "Show the newest records of the changes to the tokens, at most 64 and the oldest first, a line of JSON each, \
                  which names the hash of the line before it",
        parameters: vec![],
        body: None,
        success: ok(vec![(JSONL, Described::text())]),
        problems: unreadable_catalog(),
    }
}

fn rotation_endpoints(options: &Options) -> Vec<Endpoint> {
    let operator = || vec![Problem::Forbidden, Problem::NoOperator];
    vec![
        Endpoint {
            method: Some(Method::POST),
            path: STAGE_PATH,
            handler: |call| Box::pin(rotation::stage(call)),
            name: "stageOperatorToken",
            summary: "Let a token wait to replace the operator token, which is the one that is presented and stays in force",
            parameters: vec![],
            body: Some(Described::by::<StageRequest>().optional()),
            success: Success {
                status: StatusCode::CREATED,
                headers: vec!["cache-control"],
                content: vec![(JSON, Described::by::<rotation::StagedToken>())],
            },
            problems: [
                json_body(options),
                steps(),
                operator(),
                vec![Problem::NotJson, Problem::Invalid("…".to_owned()), Problem::Conflict("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: CONFIRM_PATH,
            handler: |call| Box::pin(rotation::confirm(call)),
            name: "confirmOperatorToken",
            summary: "Let the staged token, which is the one that is presented, replace the operator token; repeating it \
                      changes nothing",
            parameters: vec![],
            body: Some(Described::by::<ConfirmRequest>().optional()),
            success: ok(vec![(JSON, Described::by::<ListedToken>())]),
            problems: [
                json_body(options),
                steps(),
                operator(),
                vec![Problem::NotJson, Problem::Invalid("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::DELETE),
            path: STAGE_PATH,
            handler: |call| Box::pin(rotation::cancel(call)),
            name: "cancelOperatorToken",
            summary: "Give the staged token up, if there is one; ignores any body",
            parameters: vec![],
            body: None,
            success: ok(vec![]),
            problems: [ignored_body(), steps(), operator()].concat(),
        },
        Endpoint {
            method: Some(Method::DELETE),
            path: OVERLAP_PATH,
            handler: |call| Box::pin(rotation::end_overlap(call)),
            name: "endOverlap",
            summary: "Stop accepting the token that was replaced, if it still is; ignores any body",
            parameters: vec![],
            body: None,
            success: ok(vec![]),
            problems: [ignored_body(), steps(), operator()].concat(),
        },
    ]
}

fn query_endpoints(options: &Options) -> Vec<Endpoint> {
    let rows = || {
        let described = |format| match format {
            Format::Json => Described::by::<Row>().array(),
            Format::Jsonl | Format::Csv | Format::Pretty => Described::text(),
        };
        ok(Format::ALL.into_iter().map(|format| (format.content_type(), described(format))).collect())
    };
    vec![
        Endpoint {
            method: Some(Method::GET),
            path: SQL_PATH,
            handler: |call| Box::pin(sql::query_sql(call)),
            name: "getQuerySql",
            summary: "List all tokens by the one SQL query that there is",
            parameters: vec![
                parameter("db", "The database.", Required::True, sql::database_schema()),
                parameter("q", "The query.", Required::True, sql::sql_schema()),
                parameter(
                    "format",
                    "The format of the answer. If absent, what the Accept header names if that is one of the types below, \
                     else json.",
                    Required::False,
                    sql::format_schema(),
                ),
            ],
            body: None,
            success: rows(),
            problems: [
                unreadable_catalog(),
                vec![Problem::BadQuery("…".to_owned()), Problem::Invalid("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: SQL_PATH,
            handler: |call| Box::pin(sql::query_sql(call)),
            name: "postQuerySql",
            summary: "List all tokens by the one SQL query that there is",
            parameters: vec![],
            body: Some(Described::by::<QueryRequest>()),
            success: rows(),
            problems: [json_body(options), unreadable_catalog(), vec![Problem::Invalid("…".to_owned())]]
                .concat(),
        },
    ]
}

fn service_endpoints() -> Vec<Endpoint> {
    let health = |path, name| Endpoint {
        method: Some(Method::GET),
        path,
        handler: |_| Box::pin(async { Ok(response::text("OK")) }),
        name,
        summary: "Tell whether the server answers",
        parameters: vec![],
        body: None,
        success: ok(vec![(TEXT, Described::text())]),
        problems: vec![],
    };
    let ping = |method, name| Endpoint {
        method: Some(method),
        path: "/ping",
        handler: |_| Box::pin(async { service::ping() }),
        name,
        summary: "Tell who answers, and in which version",
        parameters: vec![],
        body: None,
        success: Success {
            status: StatusCode::OK,
            headers: [VERSION_HEADER, BUILD_HEADER].into_iter().chain(REQUEST_ID_HEADERS).collect(),
            content: vec![(JSON, Described::by::<Identity>())],
        },
        problems: vec![],
    };
    let openapi = Endpoint {
        method: Some(Method::GET),
        path: OPENAPI_PATH,
        handler: |call| Box::pin(async move { openapi(&call) }),
        name: "getOpenapi",
        summary: "Describe this server in OpenAPI 3.1",
        parameters: vec![],
        body: None,
        success: ok(vec![(JSON, Described::object())]),
        problems: vec![],
    };
    let verify = Endpoint {
        method: None,
        path: VERIFY_PATH,
        handler: |call| Box::pin(async move { verify::verify(&call) }),
        name: "Verify",
        summary: "Tell a proxy whether a request with this Authorization header may pass, and whose it is; with any method, and \
                  with any body, which is not read",
        parameters: vec![],
        body: None,
        success: Success {
            status: StatusCode::OK,
            headers: vec!["cache-control", TOKEN_ID_HEADER, TOKEN_NAME_HEADER],
            content: vec![],
        },
        problems: vec![],
    };
    vec![
        verify,
        health("/health", "getHealth"),
        health("/api/v1/health", "getHealthV1"),
        ping(Method::GET, "getPing"),
        ping(Method::POST, "postPing"),
        Endpoint {
            method: Some(Method::GET),
            path: "/metrics",
            handler: |call| Box::pin(async move { metrics(&call) }),
            name: "getMetrics",
            summary: "Tell what was counted and timed, in the Prometheus text format",
            parameters: vec![],
            body: None,
            success: ok(vec![(PROMETHEUS, Described::text())]),
            problems: unreadable_catalog(),
        },
        openapi,
    ]
}

fn metrics(call: &Call) -> Result<Response, Problem> {
    Ok(response::content(PROMETHEUS, call.served.metrics.text(&call.served.authority)?))
}

fn openapi(call: &Call) -> Result<Response, Problem> {
    let document = call.served.document.clone().ok_or(Problem::Internal)?;
    Ok(response::content(JSON, document))
}

fn ok(content: Vec<(&'static str, Described)>) -> Success {
    Success { status: StatusCode::OK, headers: vec![], content }
}

fn parameter(name: &str, description: &str, required: Required, schema: Schema) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(description))
        .required(required)
        .schema(Some(schema))
        .build()
}

fn text_schema() -> Schema {
    Object::with_type(Type::String).into()
}

/// Who may not create the operator token.
fn unwelcome(options: &Options) -> Vec<Problem> {
    options.bootstrap.refusals().iter().copied().map(Problem::Unwelcome).collect()
}

/// Why there can be no other token.
fn no_more() -> Vec<Problem> {
    // As many as the built-in component holds.
    vec![Problem::NameTaken("…".to_owned()), Problem::Full(10_000)]
}

/// What can be wrong with a body that means nothing.
fn ignored_body() -> Vec<Problem> {
    vec![Problem::BodyTooLarge(MAX_IGNORED_BYTES), Problem::BodyUnreadable, Problem::BodyTooSlow]
}

/// What can be wrong with a body of JSON.
fn json_body(options: &Options) -> Vec<Problem> {
    vec![
        Problem::UnknownEncoding("…".to_owned()),
        Problem::BodyTooLarge(options.max_request_size),
        Problem::BodyUnreadable,
        Problem::BodyTooSlow,
        Problem::BadGzip("…".to_owned()),
        Problem::BadJson("…".to_owned()),
    ]
}

/// What can become of a change, whatever it is.
fn changes() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::UnknownOutcome, Problem::Internal]
}

/// What can become of a step of a rotation.
fn steps() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::UnknownButRepeatable, Problem::Internal]
}

fn unreadable_catalog() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::Internal]
}

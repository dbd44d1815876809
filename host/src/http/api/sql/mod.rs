//! `/api/v3/query_sql`: SQL on the table of tokens (docs/compatibility.md 2.7).
//!
//! Clients of InfluxDB 3 list tokens by it. `sql_statement.rs` accepts one SELECT on this table,
//! and `engine.rs` runs it in SQLite. Every other query is rejected with the reason.

mod engine;
mod format;
pub(crate) mod instant;
mod parquet;
mod pattern;
pub(crate) mod table;

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCEPT, HeaderValue};
use hyper::{HeaderMap, Method, Uri};
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::{redact, redact_rest};
use optoken_protocol::system_tokens::{DATABASE, QUERY};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use tokio::sync::Semaphore;
use tokio::{task, time};
use utoipa::ToSchema;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{Object, ObjectBuilder, Required, Schema, Type};

use self::format::Format;
use crate::authority::Authority;
use crate::http::api::endpoint::{
    ApiRequest, BodySchema, Endpoint, Handler, json_body_problems, ok_response, parameter, read_problems,
    text_schema,
};
use crate::http::api::state::RequestState;
use crate::http::api::system_tokens;
use crate::http::sql_statement::Statement;
use crate::http::{Options, body, problem, response};
use crate::server::message::Response;

/// The queries that run at a time, each on a thread of its own.
const MAX_CONCURRENT_QUERIES: usize = 2;

/// How long a query waits for those before it.
const MAX_WAIT: Duration = Duration::from_secs(10);

static PERMITS: Semaphore = Semaphore::const_new(MAX_CONCURRENT_QUERIES);

/// A query in a body.
#[derive(Deserialize, ToSchema)]
struct QueryRequest {
    #[serde(rename = "db")]
    #[schema(schema_with = database_schema)]
    database: String,
    #[serde(rename = "q")]
    #[schema(schema_with = sql_schema)]
    sql: String,
    /// The format of the response. If absent, the `Accept` header selects one of its media types,
    /// else json.
    #[schema(schema_with = format_or_null_schema)]
    format: Option<String>,
    /// The values of the parameters that the query names: `$name` is the value of `name`.
    #[schema(schema_with = params_schema)]
    params: Option<Map<String, Json>>,
}

/// A query in a query string.
#[derive(Deserialize)]
struct QueryParameters {
    #[serde(rename = "db")]
    database: String,
    #[serde(rename = "q")]
    sql: String,
    format: Option<String>,
    /// An object of JSON.
    params: Option<String>,
}

fn database_schema() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some([DATABASE])).into()
}

fn sql_schema() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("One SELECT on system.tokens, of at most 16 KiB."))
        .examples([QUERY, "SELECT name, expiry FROM system.tokens WHERE expiry < now() + interval '7 days'"])
        .into()
}

/// The schema of a file (OpenAPI 3.1: bytes have no type).
fn binary_schema() -> BodySchema {
    BodySchema {
        schema: Object::builder().schema_type(SchemaType::AnyValue).into(),
        components: Vec::new(),
        required: true,
    }
}

fn params_schema() -> Schema {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Object, Type::Null])).into()
}

fn format_schema() -> Schema {
    let names = Format::ALL.map(Format::name);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

/// The schema of the format in a body, where null counts as absent.
fn format_or_null_schema() -> Schema {
    let names = Format::ALL.map(|format| Json::from(format.name()));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some(names.into_iter().chain([Json::Null])))
        .into()
}

async fn query_sql(request: ApiRequest) -> Result<Response, Problem> {
    let ApiRequest { state, request, .. } = request;
    let accepted = accepted_format(request.headers());
    let query = if request.method() == Method::GET {
        from_query_string(request.uri())?
    } else {
        // With any content type, like InfluxDB 3 Core.
        body::json(request, state.options.max_request_size, None).await?
    };
    run(&state, query, accepted).await
}

/// Answers a request whose body was read already, such as one to the upstream.
pub(crate) async fn answer(
    state: &RequestState,
    request: &hyper::Request<Bytes>,
) -> Result<Response, Problem> {
    let query = if request.method() == Method::GET {
        from_query_string(request.uri())?
    } else {
        body::parse(request.body(), None)?
    };
    run(state, query, accepted_format(request.headers())).await
}

async fn run(state: &RequestState, query: QueryRequest, accepted: &str) -> Result<Response, Problem> {
    let QueryRequest { database, sql, format, params } = query;
    let format = format.as_deref().unwrap_or(accepted);
    let format = Format::from_name(format).ok_or_else(|| {
        let supported = Format::ALL.map(Format::name).join(", ");
        Problem::InvalidArgument(format!(
            "unsupported format {:?}, supported are: {supported}",
            redact_rest(format)
        ))
    })?;
    if database != DATABASE {
        return Err(Problem::DatabaseNotFound(database));
    }
    let statement = Statement::parse(&sql)?;
    let permit = time::timeout(MAX_WAIT, PERMITS.acquire()).await;
    let Ok(Ok(permit)) = permit else { return Err(Problem::Unavailable) };
    let tokens = state.read(Authority::list_tokens)?;
    // Without authentication, any client can send this query, so it shows no hashes.
    let hashes = !state.options.without_auth;
    let query = move || {
        // A client that disconnects does not end its query.
        let _permit = permit;
        let tokens = system_tokens::table(tokens, hashes);
        let result = engine::run(&tokens, &statement, &params.unwrap_or_default())?;
        format::render(&result, format)
    };
    let rendered = task::spawn_blocking(query).await.map_err(|_| Problem::Internal)?;
    Ok(response::content(format.content_type(), rendered?))
}

fn from_query_string(uri: &Uri) -> Result<QueryRequest, Problem> {
    let query = uri.query();
    let query =
        query.ok_or_else(|| Problem::InvalidArgument("missing query parameters 'db' and 'q'".to_owned()))?;
    let QueryParameters { database, sql, format, params } =
        serde_urlencoded::from_str(query).map_err(|error| problem::invalid_query(&error))?;
    let params = params.filter(|params| !params.is_empty()).map(|params| serde_json::from_str(&params));
    let params = params.transpose().map_err(|error| {
        Problem::InvalidArgument(format!("params is not a JSON object: {}", redact(&error.to_string())))
    })?;
    Ok(QueryRequest { database, sql, format, params: params.flatten() })
}

/// Returns the format that `Accept` selects. A list of types, as browsers send it, selects the
/// default.
fn accepted_format(headers: &HeaderMap) -> &'static str {
    match headers.get(ACCEPT).map(HeaderValue::as_bytes) {
        Some(b"text/csv") => "csv",
        Some(b"text/plain") => "pretty",
        Some(b"application/jsonl") => "jsonl",
        Some(b"application/vnd.apache.parquet") => "parquet",
        _ => "json",
    }
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints(options: &Options) -> Vec<Endpoint> {
    let rows = || {
        let described = |format| match format {
            Format::Json => BodySchema::object().array(),
            Format::Jsonl | Format::Csv | Format::Pretty => BodySchema::text(),
            Format::Parquet => binary_schema(),
        };
        ok_response(
            Format::ALL.into_iter().map(|format| (format.content_type(), described(format))).collect(),
        )
    };
    vec![
        Endpoint {
            method: Some(Method::GET),
            path: paths::QUERY_SQL,
            handler: Handler::Later(|request| Box::pin(query_sql(request))),
            name: "getQuerySql",
            summary: "List tokens by SQL",
            parameters: vec![
                parameter("db", "The database.", Required::True, database_schema()),
                parameter("q", "The query.", Required::True, sql_schema()),
                parameter(
                    "format",
                    "The format of the response. If absent, the Accept header selects one of the types below, else json.",
                    Required::False,
                    format_schema(),
                ),
                parameter(
                    "params",
                    "The values of the parameters that the query names, as an object of JSON.",
                    Required::False,
                    text_schema(),
                ),
            ],
            body: None,
            success: rows(),
            problems: [
                read_problems(),
                vec![
                    Problem::InvalidQuery("…".to_owned()),
                    Problem::InvalidArgument("…".to_owned()),
                    Problem::DatabaseNotFound("…".to_owned()),
                ],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: paths::QUERY_SQL,
            handler: Handler::Later(|request| Box::pin(query_sql(request))),
            name: "postQuerySql",
            summary: "List tokens by SQL",
            parameters: vec![],
            body: Some(BodySchema::of::<QueryRequest>()),
            success: rows(),
            problems: [
                json_body_problems(options),
                read_problems(),
                vec![Problem::InvalidArgument("…".to_owned()), Problem::DatabaseNotFound("…".to_owned())],
            ]
            .concat(),
        },
    ]
}

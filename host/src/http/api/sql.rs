//! `/api/v3/query_sql`: the SQL query that lists tokens (docs/compatibility.md 2.7).
//!
//! Clients of InfluxDB 3 list tokens by it. There is no SQL engine: every other query is rejected,
//! and the text of the error has the supported one.

use hyper::header::{ACCEPT, HeaderValue};
use hyper::{HeaderMap, Method};
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact;
use optoken_protocol::system_tokens::{DATABASE, QUERY};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ObjectBuilder, Required, Schema, Type};

use crate::authority::Authority;
use crate::http::api::endpoint::{
    ApiRequest, BodySchema, Endpoint, json_body_problems, ok_response, parameter, read_problems,
};
use crate::http::api::system_tokens::{self, Format, Row};
use crate::http::{Options, body, problem, response};
use crate::server::serve::{Request, Response};

/// A query, in the query string or in a body.
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
}

fn database_schema() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some([DATABASE])).into()
}

/// The schema of a query that [`is_supported_query`] accepts.
fn sql_schema() -> Schema {
    let (space, some_space) = ("[ \\t\\n\\f\\r]*", "[ \\t\\n\\f\\r]+");
    let word = |word: &str| {
        word.chars().fold(String::new(), |pattern, letter| {
            pattern + &format!("[{}{letter}]", letter.to_ascii_uppercase())
        })
    };
    let [select, from, system, tokens] = ["select", "from", "system", "tokens"].map(word);
    let pattern = format!(
        r"^{space}{select}{space}\*{space}{from}{some_space}{system}{space}\.{space}{tokens}{space}(;{space})?$"
    );
    ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).examples([QUERY]).into()
}

fn format_schema() -> Schema {
    let names = Format::ALL.map(Format::name);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).into()
}

/// The schema of the format in a body, where null counts as absent.
fn format_or_null_schema() -> Schema {
    let names = Format::ALL.map(|format| Value::from(format.name()));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some(names.into_iter().chain([Value::Null])))
        .into()
}

async fn query_sql(request: ApiRequest) -> Result<Response, Problem> {
    let ApiRequest { state, request, .. } = request;
    let accepted = accepted_format(request.headers());
    let QueryRequest { database, sql, format } = if request.method() == Method::GET {
        from_query_string(&request)?
    } else {
        // With any content type, like InfluxDB 3 Core.
        body::json(request, state.options.max_request_size, None).await?
    };
    let format = format.as_deref().unwrap_or(accepted);
    let format = Format::from_name(format).ok_or_else(|| {
        let supported = Format::ALL.map(Format::name).join(", ");
        Problem::InvalidArgument(format!(
            "unsupported format {:?}, supported are: {supported}",
            redact(format)
        ))
    })?;
    if database != DATABASE {
        return Err(Problem::InvalidArgument(format!(
            "unknown database {:?}, the only one here is {DATABASE}",
            redact(&database)
        )));
    }
    if !is_supported_query(&sql) {
        return Err(Problem::InvalidArgument(format!("unsupported query, the only one here is: {QUERY}")));
    }
    // Without authentication, any client can send this query, so it shows no hashes.
    let hashes = !state.options.without_auth;
    let rows = system_tokens::render(state.read(Authority::list_tokens)?, hashes, format)
        .map_err(|_| Problem::Internal)?;
    Ok(response::content(format.content_type(), rows))
}

fn from_query_string(request: &Request) -> Result<QueryRequest, Problem> {
    let query = request.uri().query();
    let query =
        query.ok_or_else(|| Problem::InvalidArgument("missing query parameters 'db' and 'q'".to_owned()))?;
    serde_urlencoded::from_str(query).map_err(|error| problem::invalid_query(&error))
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

/// Returns whether this is [`QUERY`], in any case and with any white space that SQL allows.
fn is_supported_query(sql: &str) -> bool {
    let mut sql = sql.to_ascii_lowercase();
    for symbol in ["*", ".", ";"] {
        sql = sql.replace(symbol, &format!(" {symbol} "));
    }
    let words: Vec<_> = sql.split_ascii_whitespace().collect();
    matches!(
        words.as_slice(),
        ["select", "*", "from", "system", ".", "tokens"]
            | ["select", "*", "from", "system", ".", "tokens", ";"]
    )
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints(options: &Options) -> Vec<Endpoint> {
    let rows = || {
        let described = |format| match format {
            Format::Json => BodySchema::of::<Row>().array(),
            Format::Jsonl | Format::Csv | Format::Pretty => BodySchema::text(),
        };
        ok_response(
            Format::ALL.into_iter().map(|format| (format.content_type(), described(format))).collect(),
        )
    };
    vec![
        Endpoint {
            method: Some(Method::GET),
            path: paths::QUERY_SQL,
            handler: |request| Box::pin(query_sql(request)),
            name: "getQuerySql",
            summary: "List all tokens by the one supported SQL query",
            parameters: vec![
                parameter("db", "The database.", Required::True, database_schema()),
                parameter("q", "The query.", Required::True, sql_schema()),
                parameter(
                    "format",
                    "The format of the response. If absent, the Accept header selects one of the types below, else json.",
                    Required::False,
                    format_schema(),
                ),
            ],
            body: None,
            success: rows(),
            problems: [
                read_problems(),
                vec![Problem::InvalidQuery("…".to_owned()), Problem::InvalidArgument("…".to_owned())],
            ]
            .concat(),
        },
        Endpoint {
            method: Some(Method::POST),
            path: paths::QUERY_SQL,
            handler: |request| Box::pin(query_sql(request)),
            name: "postQuerySql",
            summary: "List all tokens by the one supported SQL query",
            parameters: vec![],
            body: Some(BodySchema::of::<QueryRequest>()),
            success: rows(),
            problems: [
                json_body_problems(options),
                read_problems(),
                vec![Problem::InvalidArgument("…".to_owned())],
            ]
            .concat(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_query_is_recognised_in_every_form() {
        for sql in [
            "select * from system.tokens",
            "SELECT * FROM system.tokens",
            "Select * From System.Tokens;",
            "select*from system.tokens",
            " \n\tselect  *\r\nfrom\tsystem . tokens ; \n",
        ] {
            assert!(is_supported_query(sql), "{sql:?}");
        }
        for sql in [
            "",
            ";",
            "select 1",
            "select * from tokens",
            "select *fromsystem.tokens",
            "select * fromsystem.tokens",
            "sel ect * from system.tokens",
            "select * from system.tokens;;",
            "select * from system.tokens limit 1",
            "select * from system.tokens; drop table x",
            "select * from system.token",
            "select ** from system.tokens",
            "select name from system.tokens",
            "select * from system.tokens --",
        ] {
            assert!(!is_supported_query(sql), "{sql:?}");
        }
    }
}

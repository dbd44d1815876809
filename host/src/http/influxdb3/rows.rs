//! The rows of the API of InfluxDB 3 Core: method, path, and where the database stands.

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method};

use super::flight::{self, FlightRow};
use super::query_string::Parameters;
use super::target::{OwnedTarget, Refusal, ServiceKind, database};
use super::{influxql, json_body};
use crate::access::DatabaseAction;

/// The most bytes of a body that are read for the database.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How paths begin that are administration.
const ADMINISTRATION: [&str; 4] = ["/api/v3/configure/", "/api/v3/engine/", "/api/v3/plugin", "/debug/pprof"];

/// The service of Arrow Flight, before the name of a method.
const FLIGHT: &str = "/arrow.flight.protocol.FlightService/";

/// The target of a request, or where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Classified {
    /// URI and headers name the target.
    Known(OwnedTarget),
    /// The body names it.
    Body(BodyRow),
}

/// A row whose database stands in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BodyRow {
    /// A JSON object.
    Json(JsonRow),
    /// A form, or a query in `InfluxQL` alone.
    Form(FormRow),
    /// A stream of gRPC, whose first message is a ticket.
    Flight(FlightRow),
}

/// The result of reading a part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// More of the body is needed.
    NeedsMore,
    /// The target of the request.
    Target(OwnedTarget),
}

/// A row with a JSON object as its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonRow {
    /// A query in SQL.
    QuerySql,
    /// A query in `InfluxQL`, which may name the database itself.
    QueryInfluxQl,
    /// The creation of a database.
    CreateDatabase,
}

/// A query of the API of InfluxDB 1, sent by POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormRow {
    /// The parameters of the URI.
    parameters: Parameters,
    /// Whether the body has more parameters. Otherwise it is a query.
    is_form: bool,
}

/// The row of a request, by method and path alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    WriteV1,
    WriteV2,
    WriteLineProtocol,
    GetQueryV1,
    PostQueryV1,
    GetQuerySql,
    GetQueryInfluxQl,
    Json(JsonRow),
    FlightTicket,
    FlightHeader,
    System(&'static str),
    Administration,
}

/// Returns the target of a request, or how its body names the target.
///
/// `path` is in normal form.
pub(crate) fn classify(
    kind: ServiceKind,
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Classified {
    let row = Row::of(method, path);
    let classified = match (kind, row) {
        (ServiceKind::Http, _) => Ok(Classified::Known(OwnedTarget::Http)),
        (ServiceKind::InfluxDb3, Some(row)) => row.classify(query, headers),
        (ServiceKind::InfluxDb3, None) => Err("no permission covers this path"),
        (ServiceKind::Unspecified, row) => match row.or_else(|| Row::of(method, path.strip_suffix('/')?)) {
            None | Some(Row::System(_)) => Ok(Classified::Known(OwnedTarget::Http)),
            Some(row) if path.ends_with('/') || !row.is_of_uri() => {
                Err("the database of this request stands in no URI")
            }
            Some(row) => row.classify(query, headers),
        },
    };
    classified.unwrap_or_else(|refusal| Classified::Known(OwnedTarget::Administration(refusal)))
}

impl Row {
    fn of(method: &Method, path: &str) -> Option<Self> {
        let (is_get, is_post) = (method == Method::GET, method == Method::POST);
        Some(match path {
            "/write" if is_post => Self::WriteV1,
            "/api/v2/write" if is_post => Self::WriteV2,
            "/api/v3/write_lp" if is_post => Self::WriteLineProtocol,
            "/query" if is_get => Self::GetQueryV1,
            "/query" if is_post => Self::PostQueryV1,
            "/api/v3/query_sql" if is_get => Self::GetQuerySql,
            "/api/v3/query_sql" if is_post => Self::Json(JsonRow::QuerySql),
            "/api/v3/query_influxql" if is_get => Self::GetQueryInfluxQl,
            "/api/v3/query_influxql" if is_post => Self::Json(JsonRow::QueryInfluxQl),
            "/api/v3/configure/database" if is_post => Self::Json(JsonRow::CreateDatabase),
            "/health" | "/api/v1/health" if is_get => Self::System("health"),
            "/ping" if is_get || is_post => Self::System("ping"),
            "/metrics" if is_get => Self::System("metrics"),
            // Another method of these paths is of the same service.
            "/write"
            | "/api/v2/write"
            | "/api/v3/write_lp"
            | "/query"
            | "/api/v3/query_sql"
            | "/api/v3/query_influxql" => Self::Administration,
            _ => match path.strip_prefix(FLIGHT) {
                Some("DoGet") if is_post => Self::FlightTicket,
                Some("GetFlightInfo" | "GetSchema" | "DoAction" | "Handshake") if is_post => {
                    Self::FlightHeader
                }
                Some(_) => Self::Administration,
                None if ADMINISTRATION.iter().any(|prefix| path.starts_with(prefix)) => Self::Administration,
                None => return None,
            },
        })
    }

    /// Returns whether the URI alone names the database.
    fn is_of_uri(self) -> bool {
        matches!(
            self,
            Self::WriteV1
                | Self::WriteV2
                | Self::WriteLineProtocol
                | Self::GetQueryV1
                | Self::GetQuerySql
                | Self::GetQueryInfluxQl
        )
    }

    fn classify(self, query: Option<&str>, headers: &HeaderMap) -> Result<Classified, Refusal> {
        let parameters = || Parameters::parse(query.unwrap_or_default());
        let target = match self {
            Self::WriteV1 => write_v1(&parameters()?)?,
            Self::WriteV2 => named(parameters()?.get("bucket"), DatabaseAction::Write)?,
            Self::WriteLineProtocol => named(parameters()?.get("db"), DatabaseAction::Write)?,
            Self::GetQuerySql => named(parameters()?.get("db"), DatabaseAction::Read)?,
            Self::GetQueryV1 | Self::GetQueryInfluxQl => query_influxql(&parameters()?)?,
            Self::PostQueryV1 => return FormRow::of(parameters()?, headers).map(Classified::form),
            Self::Json(row) => {
                refuse_encoded(headers)?;
                return Ok(Classified::Body(BodyRow::Json(row)));
            }
            Self::FlightTicket => {
                require_grpc(headers)?;
                return FlightRow::of(headers).map(|row| Classified::Body(BodyRow::Flight(row)));
            }
            Self::FlightHeader => {
                require_grpc(headers)?;
                flight::of_header(headers)?
            }
            Self::System(name) => OwnedTarget::System(name),
            Self::Administration => return Err("no permission covers this request"),
        };
        Ok(Classified::Known(target))
    }
}

impl Classified {
    fn form(row: FormRow) -> Self {
        Self::Body(BodyRow::Form(row))
    }
}

impl BodyRow {
    /// Returns the most bytes of the body that [`Self::read`] needs.
    pub(crate) fn limit(&self) -> usize {
        match self {
            Self::Json(_) | Self::Form(_) | Self::Flight(_) => MAX_BODY_BYTES,
        }
    }

    /// Reads the beginning of a body, or all of it if it is `complete`.
    pub(crate) fn read(&self, body: &[u8], complete: bool) -> ReadOutcome {
        let read = match self {
            Self::Flight(row) => row.read(body, self.limit()),
            _ if body.len() > self.limit() => Err("the body is too large"),
            _ if !complete => Ok(None),
            Self::Json(row) => row.read(body).map(Some),
            Self::Form(row) => row.read(body).map(Some),
        };
        match read {
            Ok(Some(target)) => ReadOutcome::Target(target),
            Ok(None) if !complete => ReadOutcome::NeedsMore,
            Ok(None) => ReadOutcome::Target(OwnedTarget::Administration("the body ends too early")),
            Err(refusal) => ReadOutcome::Target(OwnedTarget::Administration(refusal)),
        }
    }
}

impl JsonRow {
    fn read(self, body: &[u8]) -> Result<OwnedTarget, Refusal> {
        const NAMES: [&[&str]; 2] = [&["db"], &["q"]];
        let [db, q] = json_body::members(body, &NAMES)?;
        match self {
            Self::QuerySql => named(db.as_deref(), DatabaseAction::Read),
            Self::CreateDatabase => named(db.as_deref(), DatabaseAction::Create),
            Self::QueryInfluxQl => {
                let q = q.ok_or("the request has no query")?;
                database(&influxql::database(&q, db.as_deref())?, DatabaseAction::Read)
            }
        }
    }
}

impl FormRow {
    fn of(parameters: Parameters, headers: &HeaderMap) -> Result<Self, Refusal> {
        refuse_encoded(headers)?;
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (first, None) = (types.next(), types.next()) else { return Err("the body has two types") };
        let Some(first) = first else { return Ok(Self { parameters, is_form: false }) };
        let essence = first.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Ok(Self { parameters, is_form: true })
        } else if essence.eq_ignore_ascii_case("application/vnd.influxql") {
            Ok(Self { parameters, is_form: false })
        } else {
            Err("the body is of another type")
        }
    }

    fn read(&self, body: &[u8]) -> Result<OwnedTarget, Refusal> {
        let body = str::from_utf8(body).map_err(|_| "the body is no UTF-8")?;
        let parameters = self.parameters.clone();
        match (self.is_form, parameters.get("q")) {
            (true, _) => query_influxql(&parameters.merge(Parameters::parse(body)?)?),
            (false, Some(_)) if body.is_empty() => query_influxql(&parameters),
            (false, Some(_)) => Err("URI and body have a query each"),
            (false, None) => query_in(body, &parameters),
        }
    }
}

/// Returns the target of an action on the database that a parameter names.
fn named(name: Option<&str>, action: DatabaseAction) -> Result<OwnedTarget, Refusal> {
    database(name.ok_or("the request names no database")?, action)
}

/// Returns the target of a write of the API of InfluxDB 1: Core appends the retention policy.
fn write_v1(parameters: &Parameters) -> Result<OwnedTarget, Refusal> {
    let db = parameters.get("db").ok_or("the request names no database")?;
    match parameters.get("rp") {
        None | Some("" | influxql::DEFAULT_POLICY) => database(db, DatabaseAction::Write),
        // Core writes it in lower case.
        Some(policy) if policy.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Err("the retention policy has an upper-case letter")
        }
        Some(policy) => database(&format!("{db}/{policy}"), DatabaseAction::Write),
    }
}

/// Returns the target of a query in `InfluxQL` with its parameters.
fn query_influxql(parameters: &Parameters) -> Result<OwnedTarget, Refusal> {
    query_in(parameters.get("q").ok_or("the request has no query")?, parameters)
}

fn query_in(query: &str, parameters: &Parameters) -> Result<OwnedTarget, Refusal> {
    // Core ignores any other policy for names without a database.
    if !matches!(parameters.get("rp"), None | Some("" | influxql::DEFAULT_POLICY)) {
        return Err("the query has a retention policy");
    }
    database(&influxql::database(query, parameters.get("db"))?, DatabaseAction::Read)
}

/// Refuses a body that Core decodes first.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(CONTENT_ENCODING) { Err("the body is encoded") } else { Ok(()) }
}

/// Refuses a request that Core does not hand to Flight.
fn require_grpc(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next().map(HeaderValue::as_bytes), types.next()) {
        (Some(b"application/grpc" | b"application/grpc+proto"), None) => Ok(()),
        _ => Err("this is no request of gRPC"),
    }
}

#[cfg(test)]
mod tests;

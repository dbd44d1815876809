//! The database of a request of Arrow Flight, in a ticket or a header.
//!
//! Core reads a ticket as a message `Any` with a `ReadInfo`, then as a `ReadInfo`, then as JSON. It
//! uses the first that succeeds, and the database in it: no header names that of a ticket. So a
//! ticket is JSON only if no decoder can read it as a message.
//!
//! The methods of Flight SQL name the database in a header. Clients send one beside a ticket, too.

use hyper::HeaderMap;

use super::protobuf::{Value, fields, may_be_message};
use super::target::{OwnedTarget, Refusal, database};
use super::{influxql, json_body};
use crate::access::DatabaseAction;

/// The headers that name the database of Flight SQL. Core uses the first that is there.
const HEADERS: [&str; 4] = ["database", "bucket", "bucket-name", "iox-namespace-name"];

/// The type of a ticket that `GetFlightInfo` has made.
const READ_INFO: &[u8] = b"type.googleapis.com/influxdata.iox.querier.v1.ReadInfo";

/// The bytes before a message of gRPC: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// A request `DoGet`, whose first message is a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlightRow {
    /// The database that the headers name.
    header: Option<String>,
}

impl FlightRow {
    /// Reads the headers of a request.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        Ok(Self { header: named_by_header(headers)? })
    }

    /// Reads the first message of a body. Returns nothing if more of it is needed.
    pub(super) fn read(&self, body: &[u8], limit: usize) -> Result<Option<OwnedTarget>, Refusal> {
        let Some((prefix, behind)) = body.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err("the first message is compressed");
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > limit.saturating_sub(PREFIX_BYTES) {
            return Err("the first message is too large");
        }
        let Some(message) = behind.get(..length) else { return Ok(None) };
        let name = ticket(message)?;
        if self.header.as_ref().is_some_and(|header| *header != name) {
            return Err("ticket and header name two databases");
        }
        database(&name, DatabaseAction::Read).map(Some)
    }
}

/// Returns the target of a request of Flight SQL.
pub(super) fn of_header(headers: &HeaderMap) -> Result<OwnedTarget, Refusal> {
    match named_by_header(headers)? {
        Some(name) => database(&name, DatabaseAction::Read),
        None => Err("no header names a database"),
    }
}

/// Returns the database that the headers name. All of them name the same one.
fn named_by_header(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut named: Option<&str> = None;
    for value in HEADERS.iter().flat_map(|name| headers.get_all(*name)) {
        let value = value.to_str().map_err(|_| "a header with the database has other characters")?;
        if named.is_some_and(|named| named != value) {
            return Err("the headers name two databases");
        }
        named = Some(value);
    }
    Ok(named.map(str::to_owned))
}

/// Returns the database of `Ticket { bytes ticket = 1 }`.
fn ticket(message: &[u8]) -> Result<String, Refusal> {
    let Some([(1, Value::Bytes(ticket))]) =
        fields(message).as_deref().map(<[_; 1]>::try_from).and_then(Result::ok)
    else {
        return Err("the first message is no ticket");
    };
    if may_be_message(ticket) { of_read_info(any(ticket)?) } else { of_json(ticket) }
}

/// Returns the value of `Any { string type_url = 1; bytes value = 2 }`.
fn any(message: &[u8]) -> Result<&[u8], Refusal> {
    match fields(message).as_deref() {
        Some([(1, Value::Bytes(READ_INFO)), (2, Value::Bytes(value))]) => Ok(value),
        _ => Err("the ticket is of no known type"),
    }
}

/// Returns the database of a message `ReadInfo`.
fn of_read_info(message: &[u8]) -> Result<String, Refusal> {
    const UNCERTAIN: Refusal = "the ticket has an uncertain field";
    let (mut database, mut query, mut query_type, mut command, mut is_debug) = (None, None, None, None, None);
    for (number, value) in fields(message).ok_or(UNCERTAIN)? {
        let is_first = match (number, value) {
            (1, Value::Bytes(text)) => database.replace(text).is_none(),
            (2, Value::Bytes(text)) => query.replace(text).is_none(),
            (3, Value::Varint(number)) => query_type.replace(number).is_none(),
            (4, Value::Bytes(bytes)) => command.replace(bytes).is_none(),
            (5, Value::Varint(number)) => is_debug.replace(number).is_none(),
            // Parameters are values.
            (6, Value::Bytes(_)) => true,
            _ => false,
        };
        if !is_first {
            return Err(UNCERTAIN);
        }
    }
    let text = |bytes| str::from_utf8(bytes).map_err(|_| UNCERTAIN);
    let database = text(database.ok_or("the ticket names no database")?)?;
    match query_type {
        // SQL of an unnamed type, SQL, Flight SQL.
        None | Some(0 | 1 | 3) => Ok(database.to_owned()),
        Some(2) => influxql::database(text(query.unwrap_or_default())?, Some(database)),
        Some(_) => Err(UNCERTAIN),
    }
}

fn of_json(ticket: &[u8]) -> Result<String, Refusal> {
    const NAMES: [&[&str]; 3] =
        [&["database", "namespace_name", "bucket", "bucket-name"], &["sql_query"], &["query_type"]];
    let [database, query, query_type] = json_body::members(ticket, &NAMES)?;
    let database = database.ok_or("the ticket names no database")?;
    match query_type.as_deref() {
        None | Some("sql") => Ok(database),
        Some("influxql") => influxql::database(&query.unwrap_or_default(), Some(&database)),
        Some(_) => Err("the ticket has an unknown type of query"),
    }
}

#[cfg(test)]
mod tests;

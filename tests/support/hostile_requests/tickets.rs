//! Calls of Arrow Flight that name another database than they seem to.

use super::Message::{Raw, Ticket};
use super::{Message, TicketRow};

const fn call(
    name: &'static str,
    method: &'static str,
    fields: &'static [(&'static str, &'static str)],
    message: Message,
    arrives: bool,
) -> TicketRow {
    TicketRow { name, permissions: "db:a:read", method, fields, message, arrives }
}

const fn ticket(name: &'static str, ticket: &'static [u8], arrives: bool) -> TicketRow {
    call(name, "DoGet", &[], Ticket(ticket), arrives)
}

const A: Message = Ticket(br#"{"database":"a","sql_query":"select 1","query_type":"sql"}"#);
const B: Message = Ticket(br#"{"database":"b","sql_query":"select 1","query_type":"sql"}"#);

pub(crate) const TICKETS: &[TicketRow] = &[
    call("database", "DoGet", &[], A, true),
    call("other database", "DoGet", &[], B, false),
    ticket("no database", br#"{"sql_query":"select 1","query_type":"sql"}"#, false),
    ticket("alias", br#"{"bucket-name":"a","sql_query":"select 1"}"#, true),
    ticket("alias of another database", br#"{"bucket":"b","sql_query":"select 1"}"#, false),
    ticket("two aliases", br#"{"database":"a","namespace_name":"b","sql_query":"select 1"}"#, false),
    ticket("two databases", br#"{"database":"a","database":"b","sql_query":"select 1"}"#, false),
    ticket(
        "two databases, the covered one last",
        br#"{"database":"b","database":"a","sql_query":"select 1"}"#,
        false,
    ),
    ticket("escaped key", br#"{"database":"a","databas\u0065":"b","sql_query":"select 1"}"#, false),
    ticket("escaped database", br#"{"database":"\u0062","sql_query":"select 1"}"#, false),
    ticket("key in upper case", br#"{"Database":"a","sql_query":"select 1"}"#, false),
    ticket("null", br#"{"database":null,"sql_query":"select 1"}"#, false),
    ticket("two objects", br#"{"database":"a"}{"database":"b"}"#, false),
    ticket(
        "internal database",
        br#"{"database":"_internal","sql_query":"select * from system.tokens"}"#,
        false,
    ),
    ticket("InfluxQL", br#"{"database":"a","sql_query":"select * from m","query_type":"influxql"}"#, true),
    ticket(
        "InfluxQL on another database",
        br#"{"database":"a","sql_query":"select * from b..m","query_type":"influxql"}"#,
        false,
    ),
    ticket(
        "InfluxQL drops",
        br#"{"database":"a","sql_query":"drop database a","query_type":"influxql"}"#,
        false,
    ),
    ticket(
        "unknown type of query",
        br#"{"database":"a","sql_query":"select * from b..m","query_type":"x"}"#,
        false,
    ),
    ticket("no ticket", b"", false),
    ticket("no JSON", b"database=a", false),
    ticket("not UTF-8", b"{\"database\":\"a\",\"x\":\"\xff\"}", false),
    ticket("protobuf", b"\x0a\x01b\x12\x08select 1", false),
    ticket("protobuf of the covered database", b"\x0a\x01a\x12\x08select 1\x0a\x01b", false),
    call(
        "ticket twice",
        "DoGet",
        &[],
        Raw(b"\x00\x00\x00\x00\x26\x0a\x11{\"database\": \"a\"}\x0a\x11{\"database\": \"b\"}"),
        false,
    ),
    call(
        "second field",
        "DoGet",
        &[],
        Raw(b"\x00\x00\x00\x00\x16\x0a\x11{\"database\": \"a\"}\x12\x01b"),
        false,
    ),
    call(
        "compressed message",
        "DoGet",
        &[("grpc-encoding", "gzip")],
        Raw(b"\x01\x00\x00\x00\x13\x0a\x11{\"database\": \"a\"}"),
        false,
    ),
    call(
        "length that is too large",
        "DoGet",
        &[],
        Raw(b"\x00\x00\x00\x00\xff\x0a\x11{\"database\": \"a\"}"),
        false,
    ),
    call(
        "length that is too small",
        "DoGet",
        &[],
        Raw(b"\x00\x00\x00\x00\x05\x0a\x11{\"database\": \"a\"}"),
        false,
    ),
    call(
        "length of many bytes",
        "DoGet",
        &[],
        Raw(b"\x00\xff\xff\xff\xff\x0a\x11{\"database\": \"a\"}"),
        false,
    ),
    call("end within the prefix", "DoGet", &[], Raw(b"\x00\x00\x00"), false),
    call("no message", "DoGet", &[], Raw(b""), false),
    // Headers beside a ticket.
    call("header and ticket", "DoGet", &[("database", "a")], A, true),
    call("header of another database", "DoGet", &[("database", "b")], A, false),
    call("ticket of another database", "DoGet", &[("database", "a")], B, false),
    call("bucket of another database", "DoGet", &[("bucket", "b")], A, false),
    // Flight SQL.
    call("info", "GetFlightInfo", &[("database", "a")], A, true),
    call("info of another database", "GetFlightInfo", &[("database", "b")], A, false),
    call("info without header", "GetFlightInfo", &[], A, false),
    call("info with two headers", "GetFlightInfo", &[("database", "a"), ("database", "b")], A, false),
    call("info with two names", "GetFlightInfo", &[("database", "a"), ("bucket", "b")], A, false),
    call("info with an old name", "GetFlightInfo", &[("iox-namespace-name", "b")], A, false),
    call("info with a list", "GetFlightInfo", &[("database", "a,b")], A, false),
    call("info with an underscore", "GetFlightInfo", &[("iox_namespace_name", "a")], A, false),
    call("action", "DoAction", &[("database", "b")], A, false),
    // Methods, paths and types.
    call("put", "DoPut", &[("database", "a")], A, false),
    call("exchange", "DoExchange", &[("database", "a")], A, false),
    call("list of flights", "ListFlights", &[("database", "a")], A, false),
    call("list of actions", "ListActions", &[("database", "a")], A, false),
    call("method in lower case", "doget", &[], A, false),
    call("doubled slash", "/arrow.flight.protocol.FlightService//DoGet", &[], B, false),
    call("encoded letter", "/%61rrow.flight.protocol.FlightService/DoGet", &[], B, false),
    call("other service", "/influxdata.platform.storage.Storage/ReadFilter", &[("database", "a")], A, false),
    call(
        "reflection",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        &[("database", "a")],
        A,
        false,
    ),
    call("type of another protocol", "DoGet", &[("content-type", "application/grpc-web")], A, false),
    call("type JSON", "DoGet", &[("content-type", "application/json")], A, false),
    call(
        "two types",
        "DoGet",
        &[("content-type", "application/grpc"), ("content-type", "text/plain")],
        A,
        false,
    ),
];

use super::ServiceKind::{Http, InfluxDb3, Unspecified};
use super::*;

/// The result of a classification, in a short form.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Is {
    Http,
    Read(&'static str),
    Write(&'static str),
    Create(&'static str),
    System(&'static str),
    Admin,
}

fn fits(target: &OwnedTarget, expected: &Is) -> bool {
    let (name, action) = match expected {
        Is::Http => return *target == OwnedTarget::Http,
        Is::System(name) => return *target == OwnedTarget::System(name),
        Is::Admin => return matches!(target, OwnedTarget::Administration(_)),
        Is::Read(name) => (name, DatabaseAction::Read),
        Is::Write(name) => (name, DatabaseAction::Write),
        Is::Create(name) => (name, DatabaseAction::Create),
    };
    *target == OwnedTarget::Database { name: (*name).to_owned(), action }
}

/// A request: method, path with query string, headers, body.
type Request<'a> = (&'a str, &'a str, &'a [(&'static str, &'a str)], &'a [u8]);

/// Classifies a request, and reads its body where that is needed.
fn target(kind: ServiceKind, (method, uri, list, body): Request<'_>) -> OwnedTarget {
    let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, value.parse().unwrap());
    }
    match classify(kind, &method.parse().unwrap(), path, query, &headers) {
        Classified::Known(target) => target,
        Classified::Body(row) => match row.read(body, true) {
            ReadOutcome::Target(target) => target,
            ReadOutcome::NeedsMore => panic!("the body is complete"),
        },
    }
}

fn assert_target(kind: ServiceKind, request: Request<'_>, expected: &Is) {
    let found = target(kind, request);
    assert!(fits(&found, expected), "{request:?} as {kind:?} is {found:?}, not {expected:?}");
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";
const TICKET: &[u8] = b"\0\0\0\0\x12\x0a\x10{\"database\":\"a\"}";

/// Requests with their target for InfluxDB 3, and for a service that is not known.
const ROWS: &[(Request<'_>, Is, Is)] = &[
    (("POST", "/write?db=a", &[], b"m v=1"), Is::Write("a"), Is::Write("a")),
    (("POST", "/write?db=a&rp=&precision=s", &[], b""), Is::Write("a"), Is::Write("a")),
    (("POST", "/write?db=a&rp=autogen", &[], b""), Is::Write("a"), Is::Write("a")),
    (("POST", "/write?rp=weekly&db=a", &[], b""), Is::Write("a/weekly"), Is::Write("a/weekly")),
    (("POST", "/write?db=a", &[("content-encoding", "gzip")], b"\x1f"), Is::Write("a"), Is::Write("a")),
    (("POST", "/api/v2/write?org=o&bucket=a&precision=ns", &[], b""), Is::Write("a"), Is::Write("a")),
    (("POST", "/api/v2/write?bucket=a%2Fr", &[], b""), Is::Write("a/r"), Is::Write("a/r")),
    (("POST", "/api/v2/write?bucket=a/r", &[], b""), Is::Write("a/r"), Is::Write("a/r")),
    (("POST", "/api/v3/write_lp?db=a&precision=auto&no_sync=true", &[], b""), Is::Write("a"), Is::Write("a")),
    (("GET", "/query?db=a&q=select+*+from+m", &[], b""), Is::Read("a"), Is::Read("a")),
    (("GET", "/query?db=a&q=show%20measurements&epoch=ms", &[], b""), Is::Read("a"), Is::Read("a")),
    (("GET", "/query?q=select+*+from+a..m", &[], b""), Is::Read("a"), Is::Read("a")),
    (("POST", "/query?db=a&q=select+*+from+m", &[], b""), Is::Read("a"), Is::Admin),
    (("POST", "/query", &[FORM], b"db=a&q=select+*+from+m"), Is::Read("a"), Is::Admin),
    (("POST", "/query?db=a", &[FORM], b"q=select+*+from+m&epoch=ms"), Is::Read("a"), Is::Admin),
    (("POST", "/query?db=a", &[], b"select * from m"), Is::Read("a"), Is::Admin),
    (("GET", "/query?db=a&q=select+*+into+x+from+m", &[], b""), Is::Admin, Is::Admin),
    (("GET", "/query?db=a&q=drop+measurement+m", &[], b""), Is::Admin, Is::Admin),
    (("POST", "/query", &[FORM], b"db=a&q=create+database+x"), Is::Admin, Is::Admin),
    (
        ("POST", "/api/v3/query_sql", &[], br#"{"db":"a","q":"select * from m","params":null}"#),
        Is::Read("a"),
        Is::Admin,
    ),
    (
        ("POST", "/api/v3/query_influxql", &[], br#"{"db":"a","q":"select * from m"}"#),
        Is::Read("a"),
        Is::Admin,
    ),
    (("POST", "/api/v3/query_influxql", &[], br#"{"q":"select * from a..m"}"#), Is::Read("a"), Is::Admin),
    (("GET", "/api/v3/query_sql?db=a&q=select+1&format=json", &[], b""), Is::Read("a"), Is::Read("a")),
    (("GET", "/api/v3/query_influxql?db=a&q=select+*+from+m", &[], b""), Is::Read("a"), Is::Read("a")),
    (
        ("POST", "/api/v3/configure/database", &[], br#"{"db":"a","retention_period":null}"#),
        Is::Create("a"),
        Is::Admin,
    ),
    (("GET", "/api/v3/configure/database?format=json", &[], b""), Is::Admin, Is::Admin),
    (("DELETE", "/api/v3/configure/database?db=a", &[], b""), Is::Admin, Is::Admin),
    (("PUT", "/api/v3/configure/database", &[], br#"{"db":"a"}"#), Is::Admin, Is::Admin),
    (("POST", "/api/v3/configure/table", &[], br#"{"db":"a"}"#), Is::Admin, Is::Admin),
    (("POST", "/api/v3/configure/database/retention_period?db=a", &[], b""), Is::Admin, Is::Admin),
    (("GET", "/api/v3/configure/token", &[], b""), Is::Admin, Is::Admin),
    (("POST", "/api/v3/engine/x", &[], b""), Is::Admin, Is::Admin),
    (("PUT", "/api/v3/plugins/files", &[], b""), Is::Admin, Is::Admin),
    (("POST", "/api/v3/plugin_test/wal", &[], b""), Is::Admin, Is::Admin),
    (("GET", "/debug/pprof/heap", &[], b""), Is::Admin, Is::Admin),
    (("POST", DO_GET, &[GRPC], TICKET), Is::Read("a"), Is::Admin),
    (("POST", DO_GET, &[("content-type", "application/grpc+proto")], TICKET), Is::Read("a"), Is::Admin),
    (
        ("POST", "/arrow.flight.protocol.FlightService/GetFlightInfo", &[GRPC, ("database", "a")], b""),
        Is::Read("a"),
        Is::Admin,
    ),
    (
        ("POST", "/arrow.flight.protocol.FlightService/DoAction", &[GRPC, ("bucket-name", "a")], b""),
        Is::Read("a"),
        Is::Admin,
    ),
    (
        ("POST", "/arrow.flight.protocol.FlightService/Handshake", &[GRPC, ("iox-namespace-name", "a")], b""),
        Is::Read("a"),
        Is::Admin,
    ),
    (("POST", "/arrow.flight.protocol.FlightService/Handshake", &[GRPC], b""), Is::Admin, Is::Admin),
    (
        ("POST", "/arrow.flight.protocol.FlightService/DoPut", &[GRPC, ("database", "a")], b""),
        Is::Admin,
        Is::Admin,
    ),
    (
        ("POST", "/arrow.flight.protocol.FlightService/DoExchange", &[GRPC, ("database", "a")], b""),
        Is::Admin,
        Is::Admin,
    ),
    (
        ("POST", "/arrow.flight.protocol.FlightService/ListFlights", &[GRPC, ("database", "a")], b""),
        Is::Admin,
        Is::Admin,
    ),
    (("GET", "/health", &[], b""), Is::System("health"), Is::Http),
    (("GET", "/api/v1/health", &[], b""), Is::System("health"), Is::Http),
    (("GET", "/ping", &[], b""), Is::System("ping"), Is::Http),
    (("POST", "/ping", &[], b""), Is::System("ping"), Is::Http),
    (("GET", "/metrics", &[], b""), Is::System("metrics"), Is::Http),
    (("GET", "/", &[], b""), Is::Admin, Is::Http),
    (("GET", "/grafana/api/dashboards", &[], b""), Is::Admin, Is::Http),
    (("POST", "/api/v3/unknown?db=a", &[], b""), Is::Admin, Is::Http),
];

#[test]
fn each_row_of_the_api_has_its_target() {
    for (request, influxdb3, unspecified) in ROWS {
        assert_target(InfluxDb3, *request, influxdb3);
        assert_target(Unspecified, *request, unspecified);
        assert_target(Http, *request, &Is::Http);
    }
}

#[test]
fn other_methods_and_paths_are_administration() {
    for path in [
        "/write?db=a",
        "/api/v2/write?bucket=a",
        "/api/v3/write_lp?db=a",
        "/query?db=a&q=select+*+from+m",
        "/api/v3/query_sql?db=a&q=select+1",
        "/api/v3/query_influxql?db=a&q=select+*+from+m",
        "/api/v3/configure/database?db=a",
        DO_GET,
    ] {
        for method in
            ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "Post", "QUERY", "PROPFIND"]
        {
            assert_target(InfluxDb3, (method, path, &[GRPC], TICKET), &Is::Admin);
            assert_target(Unspecified, (method, path, &[GRPC], TICKET), &Is::Admin);
        }
    }
    for (method, path) in [
        ("GET", "/write?db=a"),
        ("GET", "/api/v2/write?bucket=a"),
        ("GET", "/api/v3/write_lp?db=a"),
        ("GET", DO_GET),
    ] {
        assert_target(InfluxDb3, (method, path, &[GRPC], TICKET), &Is::Admin);
        assert_target(Unspecified, (method, path, &[GRPC], TICKET), &Is::Admin);
    }
    for method in ["HEAD", "OPTIONS", "PUT"] {
        for path in ["/health", "/ping", "/metrics", "/other"] {
            assert_target(InfluxDb3, (method, path, &[], b""), &Is::Admin);
            assert_target(Unspecified, (method, path, &[], b""), &Is::Http);
        }
    }
    // These are no paths of Core, and a proxy may remove the slash.
    for path in
        ["/write/?db=a", "/query/?db=a&q=select+*+from+m", "/api/v3/query_sql/?db=a", "/api/v3/write_lp/"]
    {
        for method in ["GET", "POST"] {
            assert_target(InfluxDb3, (method, path, &[], b""), &Is::Admin);
            assert_target(Unspecified, (method, path, &[], b""), &Is::Admin);
        }
    }
    for path in ["/Write?db=a", "/x/write?db=a", "/writes?db=a", "/arrow.flight.protocol.flightservice/DoGet"]
    {
        assert_target(InfluxDb3, ("POST", path, &[GRPC], TICKET), &Is::Admin);
        assert_target(Unspecified, ("POST", path, &[GRPC], TICKET), &Is::Http);
    }
}

/// Query strings in which no database is certain.
const HOSTILE_QUERIES: &[&str] = &[
    "",
    "db=",
    "db",
    "DB=a",
    "database=a",
    "bucket=a",
    "db=a&db=b",
    "db=a&db=a",
    "db=a&d%62=b",
    "db=%61&db=b",
    "db=a%",
    "db=a%2",
    "db=a%zz",
    "db=%FF",
    "db=_internal",
    "db=*",
    "db=a*",
    "db=a,b",
    "db=a+b",
    "db=a%20",
    "db=+a",
    "db=a%00",
    "db=a%0a",
    "db=a;db=b",
    "db=a%26db=b",
    "db=a%252Fb",
    "db=../b",
    "db=a/../b",
    "db=a//b",
    "db=a/",
    "db=/a",
    "db=a/b/c",
    "db=a/autogen",
    "db=a/AutoGen",
    "db=a/default",
    "db=%C3%A9",
    "db=a&precision=%",
    "db=\"a\"",
    "db='a'",
    "db[]=a",
    "db[0]=a",
    "db.x=a",
    " db=a",
    "%00db=a",
    "db%20=a",
    "?db=a",
];

#[test]
fn hostile_query_strings_are_administration() {
    for query in HOSTILE_QUERIES {
        for (method, path) in [("POST", "/write"), ("POST", "/api/v3/write_lp"), ("GET", "/api/v3/query_sql")]
        {
            let uri = format!("{path}?{query}");
            assert_target(InfluxDb3, (method, &uri, &[], b""), &Is::Admin);
            assert_target(Unspecified, (method, &uri, &[], b""), &Is::Admin);
        }
        for (method, path) in [("GET", "/query"), ("GET", "/api/v3/query_influxql"), ("POST", "/query")] {
            let uri = format!("{path}?q=select+*+from+m&{query}");
            assert_target(InfluxDb3, (method, &uri, &[], b""), &Is::Admin);
        }
        let bucket = query
            .replace("bucket", "x")
            .replace("db", "bucket")
            .replace("d%62", "bucke%74")
            .replace("DB", "BUCKET");
        assert_target(InfluxDb3, ("POST", &format!("/api/v2/write?{bucket}"), &[], b""), &Is::Admin);
    }
    for uri in [
        "/write?db=a&rp=Weekly",
        "/write?db=a&rp=AUTOGEN",
        "/write?db=a&rp=default",
        "/write?db=a&rp=''",
        "/write?db=a&rp=r&rp=s",
        "/write?db=a&rp=autogen&rp=s",
        "/write?db=a/b&rp=r",
        "/write?db=a&rp=r/s",
        "/write?db=a&rp=%2e%2e",
        "/write?db=a&rp=r%20",
        "/write?db=&rp=r",
        "/write?rp=r",
        "/api/v2/write?db=a",
        "/api/v2/write?bucket=a&bucket=b",
    ] {
        assert_target(InfluxDb3, ("POST", uri, &[], b""), &Is::Admin);
    }
    for uri in [
        "/query?db=a",
        "/query?db=a&q=",
        "/query?db=a&q=select+*+from+m&q=x",
        "/query?db=a&q=select+*+from+b..m",
        "/query?db=b&q=select+*+from+a..m",
        "/query?db=a&rp=r&q=select+*+from+m",
        "/query?db=a&rp=default&q=select+*+from+m",
        "/query?q=select+*+from+m",
        "/query?q=show+databases",
        "/query?db=a&q=show+databases",
        "/query?db=&q=select+*+from+a..m",
        "/query?db=a&q=select+*+from+m%3Bshow+databases",
        "/query?db=a&q=select+*+from+m;show+databases",
        "/query?db=a&q=select+*+from+m%00",
        "/query?db=_internal&q=select+*+from+m",
        "/query?q=select+*+from+_internal..m",
    ] {
        assert_target(InfluxDb3, ("GET", uri, &[], b""), &Is::Admin);
        assert_target(Unspecified, ("GET", uri, &[], b""), &Is::Admin);
    }
}

#[test]
fn hostile_bodies_are_administration() {
    let sql = "/api/v3/query_sql";
    let influxql = "/api/v3/query_influxql";
    let create = "/api/v3/configure/database";
    let gzip = ("content-encoding", "gzip");
    let identity = ("content-encoding", "identity");
    let multipart = ("content-type", "multipart/form-data; boundary=x");
    let rows: &[Request<'_>] = &[
        ("POST", sql, &[], b""),
        ("POST", sql, &[], b"{}"),
        ("POST", sql, &[], br#"{"q":"select 1"}"#),
        ("POST", "/api/v3/query_sql?db=a", &[], br#"{"q":"select 1"}"#),
        ("POST", sql, &[FORM], b"db=a&q=select+1"),
        ("POST", sql, &[], br#"{"db":"a","db":"b"}"#),
        ("POST", sql, &[], br#"{"db":"a","q":"x","q":"y"}"#),
        ("POST", sql, &[], br#"{"db":"a"}{"db":"b"}"#),
        ("POST", sql, &[], br#"["a","select 1"]"#),
        ("POST", sql, &[], br#"{"db":"_internal","q":"select * from system.tokens"}"#),
        ("POST", sql, &[], br#"{"db":"a b"}"#),
        ("POST", sql, &[], br#"{"db":null}"#),
        ("POST", sql, &[], br#"{"db":["a"]}"#),
        ("POST", sql, &[gzip], br#"{"db":"a","q":"select 1"}"#),
        ("POST", sql, &[identity], br#"{"db":"a","q":"select 1"}"#),
        ("POST", sql, &[], b"\xff\xfe{\0}\0"),
        ("POST", create, &[], br#"{"database":"a"}"#),
        ("POST", create, &[], br#"{"db":"a","db":"a"}"#),
        ("POST", create, &[], br#"{"db":"a/autogen"}"#),
        ("POST", create, &[], b""),
        ("POST", influxql, &[], br#"{"db":"a"}"#),
        ("POST", influxql, &[], br#"{"db":"a","q":""}"#),
        ("POST", influxql, &[], br#"{"db":"a","q":"show databases"}"#),
        ("POST", influxql, &[], br#"{"db":"a","q":"select * from b..m"}"#),
        ("POST", influxql, &[], br#"{"db":"a","q":"select * from \u0062..m"}"#),
        ("POST", influxql, &[], br#"{"q":"select * from m"}"#),
        ("POST", influxql, &[], br#"{"q":"show retention policies"}"#),
        ("POST", influxql, &[], br#"{"db":null,"q":"select * from a..m"}"#),
        ("POST", "/query?db=a", &[FORM], b""),
        ("POST", "/query?db=a", &[FORM], b"db=b&q=select+*+from+m"),
        ("POST", "/query?db=a", &[FORM], b"db=a&q=select+*+from+m"),
        ("POST", "/query?db=a&q=select+*+from+m", &[FORM], b"q=select+*+from+b..m"),
        ("POST", "/query?db=a", &[FORM], b"q=select+*+from+b..m"),
        ("POST", "/query?db=a", &[FORM], b"q=select+*+from+m&rp=r"),
        ("POST", "/query?db=a", &[FORM], b"q=select+*+from+m&q=x"),
        ("POST", "/query?db=a", &[FORM], b"q=%"),
        ("POST", "/query?db=a", &[FORM], b"q=\xff"),
        ("POST", "/query?db=a", &[FORM, gzip], b"q=select+*+from+m"),
        ("POST", "/query?db=a", &[FORM, multipart], b"q=select+*+from+m"),
        ("POST", "/query?db=a", &[multipart], b"--x"),
        ("POST", "/query?db=a", &[("content-type", "application/json")], br#"{"q":"select * from m"}"#),
        ("POST", "/query?db=a", &[("content-type", "text/plain")], b"select * from m"),
        ("POST", "/query?db=a", &[("content-type", "")], b"select * from m"),
        ("POST", "/query?db=a", &[], b"select * from b..m"),
        ("POST", "/query?db=a", &[], b"db=b&q=select+*+from+m"),
        ("POST", "/query?db=a", &[], b"select * from m; show databases"),
        ("POST", "/query?db=a&q=select+*+from+m", &[], b"select * from m"),
        ("POST", "/query?db=a&q=", &[], b"select * from b..m"),
        ("POST", "/query?db=a", &[], b"\xff"),
        ("POST", DO_GET, &[], TICKET),
        ("POST", DO_GET, &[("content-type", "application/json")], TICKET),
        ("POST", DO_GET, &[("content-type", "application/grpc-web")], TICKET),
        ("POST", DO_GET, &[GRPC, GRPC], TICKET),
        ("POST", DO_GET, &[GRPC, ("database", "b")], TICKET),
        ("POST", DO_GET, &[GRPC], b""),
        ("POST", DO_GET, &[GRPC], b"\0\0\0"),
        ("POST", DO_GET, &[GRPC], b"\x01\0\0\0\x12\x0a\x10{\"database\":\"a\"}"),
        ("POST", DO_GET, &[GRPC], b"\0\0\0\0\x13\x0a\x10{\"database\":\"a\"}"),
        ("POST", DO_GET, &[GRPC], b"\0\x7f\xff\xff\xff"),
        ("POST", DO_GET, &[GRPC, ("database", "a")], b"\0\0\0\0\x03\x0a\x01x"),
    ];
    for row in rows {
        assert_target(InfluxDb3, *row, &Is::Admin);
        assert_target(Unspecified, *row, &Is::Admin);
    }
}

#[test]
fn body_is_read_within_its_limit() {
    let json = BodyRow::Json(JsonRow::QuerySql);
    assert_eq!(json.read(br#"{"db":"a"}"#, false), ReadOutcome::NeedsMore);
    let ReadOutcome::Target(found) = json.read(br#"{"db":"a"}"#, true) else {
        panic!("the body is complete")
    };
    assert!(fits(&found, &Is::Read("a")));
    let mut long = br#"{"db":"a"}"#.to_vec();
    long.resize(json.limit(), b' ');
    assert_eq!(json.read(&long, false), ReadOutcome::NeedsMore);
    assert!(matches!(json.read(&long, true), ReadOutcome::Target(found) if fits(&found, &Is::Read("a"))));
    long.push(b' ');
    for complete in [false, true] {
        assert!(matches!(json.read(&long, complete), ReadOutcome::Target(found) if fits(&found, &Is::Admin)));
    }
    let flight = BodyRow::Flight(FlightRow::of(&HeaderMap::new()).unwrap());
    assert_eq!(flight.read(&TICKET[..10], false), ReadOutcome::NeedsMore);
    assert!(matches!(flight.read(TICKET, false), ReadOutcome::Target(found) if fits(&found, &Is::Read("a"))));
    assert!(
        matches!(flight.read(&TICKET[..10], true), ReadOutcome::Target(found) if fits(&found, &Is::Admin))
    );
}

#[test]
fn target_is_that_of_the_authority() {
    use crate::access::Target;
    let database = OwnedTarget::Database { name: "a".to_owned(), action: DatabaseAction::Create };
    for (owned, target) in [
        (&OwnedTarget::Http, Target::Http),
        (&database, Target::Database { name: "a", action: DatabaseAction::Create }),
        (&OwnedTarget::System("ping"), Target::System("ping")),
        (&OwnedTarget::Administration("a reason"), Target::Administration),
    ] {
        assert_eq!(owned.as_target(), target);
    }
}

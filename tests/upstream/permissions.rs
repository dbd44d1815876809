//! Tokens with permissions in front of a service: what reaches it, and what is refused.

use hyper::body::{Bytes, Frame};
use serde_json::json;

use super::Setup;
use super::client::{Client, Http, body, no_body};
use crate::support::create_scoped;

/// The answers of `Setup::status` to a request.
const PASSED: u16 = 200;
const REFUSED: u16 = 403;

impl Setup {
    fn scoped(&self, permissions: &[&str]) -> String {
        let name = permissions.join(" ").replace('*', "all");
        create_scoped(self.server.address, &self.token, &name, permissions)
    }
}

/// Sends a request with this token and body. Returns its status, and what the service reports.
fn send(
    client: &mut Client,
    token: &str,
    (method, target): (&str, &str),
    headers: &[(&str, &str)],
    content: &[u8],
) -> (u16, Option<super::client::Report>, hyper::HeaderMap) {
    let bearer = format!("Bearer {token}");
    let headers = [&[("authorization", &*bearer)], headers].concat();
    let response = if content.is_empty() {
        client.send(method, target, &headers, no_body())
    } else {
        let (sender, chunks) = body();
        let sent = client.start(method, target, &headers, chunks);
        // In two parts, so that reading ahead has to go on.
        let (first, second) = content.split_at(content.len() / 2);
        let parts = [Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)];
        client.spawn(async move {
            for part in parts {
                let _ = sender.send(Frame::data(part)).await;
            }
        });
        client.run(sent).unwrap()
    };
    let (status, head) = (response.status().as_u16(), response.headers().clone());
    let is_grpc = head.contains_key("grpc-status");
    let reports = status == PASSED && !is_grpc && target != "/ping";
    let report = reports.then(|| client.report(response));
    (status, report, head)
}

#[test]
fn each_row_needs_its_permission() {
    let setup = Setup::start(&["--upstream-kind", "influxdb3"]);
    let tokens = [
        setup.scoped(&["db:a:read"]),
        setup.scoped(&["db:a:write"]),
        setup.scoped(&["db:b:read,write,create"]),
        setup.scoped(&["db:*:create"]),
        setup.scoped(&["http:/*:*", "system:*:read"]),
    ];
    let sql = json!({ "db": "a", "q": "select * from m", "format": "pretty" }).to_string();
    let influxql = json!({ "db": "a", "q": "SELECT * FROM m" }).to_string();
    let other = json!({ "db": "a", "q": "SELECT * FROM b..m" }).to_string();
    let create = json!({ "db": "c", "retention_period": null }).to_string();
    let json = [("content-type", "application/json")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let line: &[u8] = b"m x=1";
    // Which of the five tokens may do it.
    for (request, headers, content, allowed) in [
        (("POST", "/write?db=a&precision=ns"), &[][..], line, [false, true, false, false, false]),
        (("POST", "/api/v2/write?org=&bucket=a"), &[], line, [false, true, false, false, false]),
        (("POST", "/api/v3/write_lp?db=a"), &[], line, [false, true, false, false, false]),
        (("POST", "/api/v3/write_lp?db=b"), &[], line, [false, false, true, false, false]),
        (("POST", "/api/v3/write_lp?db=a&db=b"), &[], line, [false; 5]),
        (("POST", "/api/v3/write_lp"), &[], line, [false; 5]),
        (("GET", "/query?db=a&q=SELECT+*+FROM+m"), &[], b"", [true, false, false, false, false]),
        (("GET", "/query?db=a&q=DROP+DATABASE+a"), &[], b"", [false; 5]),
        (("POST", "/query"), &form, b"db=a&q=SHOW+MEASUREMENTS", [true, false, false, false, false]),
        (("GET", "/api/v3/query_sql?db=a&q=select+1"), &[], b"", [true, false, false, false, false]),
        (("POST", "/api/v3/query_sql"), &json, sql.as_bytes(), [true, false, false, false, false]),
        (("POST", "/api/v3/query_sql"), &json, b"{\"db\":\"a\",\"db\":\"b\",\"q\":\"\"}", [false; 5]),
        (("POST", "/api/v3/query_influxql"), &json, influxql.as_bytes(), [true, false, false, false, false]),
        (("POST", "/api/v3/query_influxql"), &json, other.as_bytes(), [false; 5]),
        (
            ("POST", "/api/v3/configure/database"),
            &json,
            create.as_bytes(),
            [false, false, false, true, false],
        ),
        (("GET", "/api/v3/configure/database?format=json"), &[], b"", [false; 5]),
        (("POST", "/api/v3/configure/table"), &json, b"{\"db\":\"b\"}", [false; 5]),
        (("GET", "/debug/pprof/profile"), &[], b"", [false; 5]),
        (("GET", "/anything"), &[], b"", [false; 5]),
        (("GET", "/ping"), &[], b"", [false, false, false, false, true]),
        (("GET", "/health"), &[], b"", [false, false, false, false, true]),
        (("GET", "/metrics"), &[], b"", [false, false, false, false, true]),
        // What the service could read in another way.
        (("POST", "/api//v3/./write_lp?db=a"), &[], line, [false, true, false, false, false]),
        (("POST", "/api/v3/write%5Flp?db=%61"), &[], line, [false, true, false, false, false]),
        (("POST", "/api/v3%2Fwrite_lp?db=a"), &[], line, [false; 5]),
        (("POST", "/api/v3/write_lp;x?db=a"), &[], line, [false; 5]),
        (("POST", "/api/v3/query_sql"), &[("content-encoding", "gzip")], sql.as_bytes(), [false; 5]),
    ] {
        let (_, target) = request;
        for http in [Http::One, Http::Two] {
            for (token, allowed) in tokens.iter().zip(allowed) {
                // A refusal before the end of a body closes a connection of HTTP/1.
                let mut client = setup.client(http);
                let (status, report, head) = send(&mut client, token, request, headers, content);
                assert_eq!(status, if allowed { PASSED } else { REFUSED }, "{http:?} {request:?} {token}");
                if let Some(report) = report {
                    assert!(allowed);
                    assert_eq!(report.text("body").as_bytes(), content, "{target}");
                    assert_eq!(report.header("x-auth-token-name").len(), 1, "{target}");
                    assert_eq!(report.header("authorization"), Vec::<&str>::new(), "{target}");
                } else if !allowed {
                    let challenge = head["www-authenticate"].to_str().unwrap();
                    assert!(challenge.contains("insufficient_scope"), "{challenge}");
                }
            }
            // A token with all permissions may do all of it.
            let mut client = setup.client(http);
            let (status, report, _) = send(&mut client, &setup.token, request, headers, content);
            assert_eq!(status, PASSED, "{target}");
            assert!(report.is_none_or(|report| report.text("body").as_bytes() == content), "{target}");
        }
    }
    let refused = "optoken_refusals_total{kind=\"authorization\",reason=\"missing_permission\"}";
    assert!(setup.metric(refused) > 100);
}

/// A message of gRPC with a ticket of JSON.
fn ticket(json: &str) -> Vec<u8> {
    let length = u8::try_from(json.len()).unwrap();
    assert!(length < 128, "one byte of length");
    [&[0, 0, 0, 0, length + 2, 0x0a, length][..], json.as_bytes()].concat()
}

#[test]
fn tickets_of_flight_name_the_database() {
    const DO_GET: (&str, &str) = ("POST", "/arrow.flight.protocol.FlightService/DoGet");
    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    let setup = Setup::start(&["--upstream-kind", "influxdb3"]);
    let reader = setup.scoped(&["db:a:read"]);
    let mut client = setup.client(Http::Two);
    let of = |database: &str| format!(r#"{{"database":"{database}","sql_query":"s","query_type":"sql"}}"#);
    for (headers, content, allowed) in [
        (&[GRPC][..], ticket(&of("a")), true),
        (&[GRPC, ("database", "a")], ticket(&of("a")), true),
        (&[GRPC], ticket(&of("b")), false),
        (&[GRPC, ("database", "a")], ticket(&of("b")), false),
        (&[GRPC, ("database", "b")], ticket(&of("a")), false),
        (&[GRPC], ticket(r#"{"database":"a","bucket":"b","sql_query":"s"}"#), false),
        (&[GRPC], ticket("not JSON"), false),
        (&[GRPC], b"\0\0\0\0".to_vec(), false),
    ] {
        let (status, report, head) = send(&mut client, &reader, DO_GET, headers, &content);
        assert_eq!(status, 200);
        if allowed {
            assert_eq!(report.unwrap().0["body"].as_str().unwrap().as_bytes(), content);
        } else {
            assert_eq!(head["grpc-status"], "7", "{content:?}");
            assert_eq!(head["content-type"], "application/grpc");
        }
    }
    let (_, _, head) = send(&mut client, "apiv3_unknown", DO_GET, &[GRPC], &ticket(&of("a")));
    assert_eq!(head["grpc-status"], "16");
    assert_eq!(setup.service.hits(DO_GET.1), 2);
}

#[test]
fn table_of_tokens_is_read_here() {
    let setup = Setup::start(&["--upstream-kind", "influxdb3"]);
    let reader = setup.scoped(&["db:*:read"]);
    let query = |sql: &str| json!({ "db": "_internal", "q": sql, "format": "json" }).to_string();
    let alone = query("SELECT name FROM system.tokens ORDER BY token_id");
    let mixed = query("SELECT * FROM system.tokens, system.queries");
    let other = query("SELECT * FROM system.queries");
    let bearer = setup.bearer();
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    let mut client = setup.client(Http::One);
    let mut ask = |content: &str, headers: &[(&str, &str)]| {
        let (sender, chunks) = body();
        let sent = client.start("POST", "/api/v3/query_sql", headers, chunks);
        let frame = Frame::data(Bytes::copy_from_slice(content.as_bytes()));
        client.run(sender.send(frame)).unwrap();
        drop(sender);
        let response = client.run(sent).unwrap();
        (response.status().as_u16(), client.text(response))
    };
    let (status, text) = ask(&alone, &headers);
    assert_eq!((status, text.contains(r#""name":"_admin""#)), (200, true), "{text}");
    let (status, text) = ask(&mixed, &headers);
    assert_eq!((status, text.contains("system.tokens")), (400, true), "{text}");
    assert_eq!(setup.service.hits("/api/v3/query_sql"), 0);
    let (status, text) = ask(&other, &headers);
    assert_eq!((status, text.contains("system.queries")), (200, true), "{text}");
    assert_eq!(setup.service.hits("/api/v3/query_sql"), 1);
    let bearer = format!("Bearer {reader}");
    let headers = [("authorization", &*bearer), ("content-type", "application/json")];
    for content in [&alone, &mixed, &other] {
        assert_eq!(ask(content, &headers).0, REFUSED);
    }
    assert_eq!(setup.service.hits("/api/v3/query_sql"), 1);
}

#[test]
fn permissions_for_paths_hold_for_any_other_service() {
    let setup = Setup::start(&["--upstream-kind", "http"]);
    let reader = setup.scoped(&["http:/a/*:read", "http:service.example/b:POST"]);
    for http in [Http::One, Http::Two] {
        let mut client = setup.client(http);
        for (request, status) in [
            (("GET", "/a/x"), PASSED),
            (("HEAD", "/a/x"), PASSED),
            (("GET", "/a/"), PASSED),
            (("GET", "/a"), REFUSED),
            (("POST", "/a/x"), REFUSED),
            (("get", "/a/x"), REFUSED),
            (("POST", "/b"), PASSED),
            (("PUT", "/b"), REFUSED),
            (("GET", "/a/../b"), REFUSED),
            (("GET", "/b/../a/x"), PASSED),
            (("GET", "/a/%2e%2e/b"), REFUSED),
            (("GET", "/a/..%2fb"), REFUSED),
            (("GET", "/a/%252e%252e/b"), REFUSED),
            (("GET", "//a/x"), PASSED),
            (("POST", "/a/../api/v3/write_lp?db=a"), REFUSED),
        ] {
            let bearer = format!("Bearer {reader}");
            let response = client.send(request.0, request.1, &[("authorization", &bearer)], no_body());
            assert_eq!(response.status().as_u16(), status, "{http:?} {request:?}");
            client.text(response);
        }
        // The header is not passed on, so the service sees the method that was authorized.
        let overriding = [("x-http-method-override", "DELETE"), ("x_http_method", "DELETE")];
        let (_, report, _) = send(&mut client, &reader, ("GET", "/a/x"), &overriding, b"");
        let report = report.unwrap();
        assert_eq!(report.header("x-http-method-override"), Vec::<&str>::new());
        assert_eq!(report.header("x_http_method"), Vec::<&str>::new());
    }
}

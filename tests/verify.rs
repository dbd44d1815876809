//! The forward-auth endpoint for proxies: `/api/v3/verify`.

use base64ct::{Base64, Encoding as _};

use crate::support::{
    CONFIRM, Connection, Request, Response, Server, TestEnv, VERIFY, create_named, create_scoped,
    delete_named, eventually, get, request,
};

const BARE: &str = r#"Bearer realm="influxdb3""#;
const INVALID_TOKEN: &str = r#"Bearer realm="influxdb3", error="invalid_token""#;
const BASIC: &str = r#"Basic realm="influxdb3""#;
const INSUFFICIENT_SCOPE: &str = r#"Bearer realm="influxdb3", error="insufficient_scope""#;
const INVALID_REQUEST: &str = r#"Bearer realm="influxdb3", error="invalid_request""#;

/// Status, and the headers with id, name, challenge and retry. Asserts that the response has no
/// body and is not cached.
#[track_caller]
fn status_and_headers(response: &Response) -> (u16, [Option<&str>; 4]) {
    assert_eq!(response.header("content-length"), Some("0"), "{response:?}");
    assert_eq!(response.header("cache-control"), Some("no-store"), "{response:?}");
    assert_eq!(response.header("content-type"), None, "{response:?}");
    let names = ["x-auth-token-id", "x-auth-token-name", "www-authenticate", "retry-after"];
    (response.status, names.map(|name| response.header(name)))
}

#[test]
fn valid_token_is_named_others_get_challenge() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let named = create_named(&operator, "Grüße, 50%").send(server.address).token();
    let accepted = |id, name| (200, [Some(id), Some(name), None, None]);
    let rejected = |challenge| (401, [None, None, Some(challenge), None]);
    let verify = || get(VERIFY);
    for (case, request, expected) in [
        ("the operator", verify().bearer(&operator), accepted("0", "_admin")),
        ("a named admin", verify().bearer(&named), accepted("1", "Gr%C3%BC%C3%9Fe%2C%2050%25")),
        (
            "another scheme",
            verify().authorization(&format!("Token {named}")),
            accepted("1", "Gr%C3%BC%C3%9Fe%2C%2050%25"),
        ),
        ("forged names", verify().bearer(&operator).header("X-Auth-Token-Id", "7"), accepted("0", "_admin")),
        ("no token", verify(), rejected(BARE)),
        ("an unknown token", verify().bearer("apiv3_unknown"), rejected(INVALID_TOKEN)),
        ("nonsense", verify().authorization("nonsense"), rejected(INVALID_REQUEST)),
        ("not ASCII", verify().authorization("Bearer ü"), rejected(INVALID_REQUEST)),
        ("the header of a proxy", verify().header("X-Forwarded-Authorization", &operator), rejected(BARE)),
        ("a token in the query string", get(&format!("{VERIFY}?p={operator}")), rejected(BARE)),
        (
            "a query string beside the header",
            get(&format!("{VERIFY}?p=x")).bearer(&operator),
            accepted("0", "_admin"),
        ),
    ] {
        assert_eq!(status_and_headers(&request.send(server.address)), expected, "{case}");
    }
    // The server compares paths byte for byte.
    for path in ["/api/v3/verifying", "/api/v3//verify", "/api/v3/Verify", "/api/v3/verify%2Fx"] {
        get(path).bearer(&operator).send(server.address).assert_is(404, "Not found");
    }
    // No client of InfluxDB asks here, so the case of the scheme does not matter (RFC 9110, 11.1).
    for scheme in ["bearer", "BEARER", "token", "bAsIc"] {
        let credential = match scheme {
            "bAsIc" => Base64::encode_string(format!("u:{operator}").as_bytes()),
            _ => operator.clone(),
        };
        let request = verify().authorization(&format!("{scheme} {credential}"));
        assert_eq!(status_and_headers(&request.send(server.address)), accepted("0", "_admin"), "{scheme}");
        let elsewhere = get("/health").authorization(&format!("{scheme} {credential}"));
        assert_eq!(elsewhere.send(server.address).status, 400, "{scheme}");
    }
    let delete = delete_named(&operator, "Gr%C3%BC%C3%9Fe,%2050%25");
    assert_eq!(delete.send(server.address).status, 200);
    assert_eq!(status_and_headers(&verify().bearer(&named).send(server.address)), rejected(INVALID_TOKEN));
    // A token that is newer than the cached names.
    let next = create_named(&operator, "next").send(server.address).token();
    assert_eq!(status_and_headers(&verify().bearer(&next).send(server.address)), accepted("2", "next"));
}

#[test]
fn every_method_is_answered_without_reading_body() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "X"] {
        // A body that never comes.
        for announced in
            [None, Some(("Content-Length", "1000000000")), Some(("Transfer-Encoding", "chunked"))]
        {
            let with = |request: Request| match announced {
                Some((name, value)) => request.header(name, value).header("Expect", "100-continue"),
                None => request,
            };
            let response = with(request(method, VERIFY).bearer(&token)).send(server.address);
            assert_eq!(status_and_headers(&response).0, 200, "{method} {announced:?}");
            let response = with(request(method, VERIFY)).send(server.address);
            assert_eq!(
                status_and_headers(&response),
                (401, [None, None, Some(BARE), None]),
                "{method} {announced:?}"
            );
        }
    }
    // The server keeps a connection without an unread body.
    let mut connection = Connection::open(server.address).unwrap();
    for _ in 0..2 {
        connection.write(&get(VERIFY).bearer(&token).to_bytes());
        assert_eq!(status_and_headers(&connection.read().unwrap()).0, 200);
    }
    // OPTIONS requires a token too: a proxy may use the method of its client.
    for (request, status) in
        [(request("OPTIONS", VERIFY), 401), (request("OPTIONS", VERIFY).bearer(&token), 200)]
    {
        assert_eq!(status_and_headers(&request.send(server.address)).0, status);
    }
}

/// Istio, Envoy Gateway and others append the path of their client.
#[test]
fn paths_below_verify_answer_as_verify() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    for path in [
        "/api/v3/verify/",
        "/api/v3/verify/orders/7",
        "/api/v3/verify/orders?p=x",
        "/api/v3/verify//",
        "/api/v3/verify/../configure/token/admin",
        "/api/v3/verify/api/v3/configure/token/admin",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "X"] {
            let accepted = request(method, path).bearer(&token).send(server.address);
            let expected = (200, [Some("0"), Some("_admin"), None, None]);
            assert_eq!(status_and_headers(&accepted), expected, "{method} {path}");
            let refused = request(method, path).header("Content-Length", "1000").send(server.address);
            assert_eq!(
                status_and_headers(&refused),
                (401, [None, None, Some(BARE), None]),
                "{method} {path}"
            );
        }
    }
    let metrics = get("/metrics").bearer(&token).send(server.address).body;
    let series = r#"optoken_http_requests_total{listener="main",path="/api/v3/verify",status="200"} 36"#;
    assert!(metrics.lines().any(|line| line == series), "{metrics}");
    drop(server);
    let open = env.serve(&["--store", "memory:", "--without-auth"]);
    let response = get("/api/v3/verify/x").authorization("nonsense").send(open.address);
    assert_eq!(status_and_headers(&response), (200, [None; 4]));
}

#[test]
fn basic_is_offered_to_programs_and_to_no_browser() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let challenges = |request: Request| {
        let response = request.send(server.address);
        assert_eq!(response.status, 401, "{response:?}");
        let headers = response.headers.into_iter().filter(|(name, _)| name == "www-authenticate");
        headers.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let wget = |path: &str| get(path).header("User-Agent", "Wget/1.21.3");
    for path in ["/health", "/nowhere", VERIFY, "/api/v3/verify/below"] {
        assert_eq!(challenges(wget(path)), [BARE, BASIC], "{path}");
        assert_eq!(challenges(wget(path).bearer("apiv3_unknown")), [INVALID_TOKEN, BASIC], "{path}");
        for request in [
            get(path),
            get(path).header("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
            wget(path).header("Origin", "http://localhost"),
            wget(path).header("Sec-Fetch-Site", "none"),
            wget(path).header("Sec-Fetch-Mode", "navigate"),
            wget(path).header("Upgrade-Insecure-Requests", "1"),
        ] {
            assert_eq!(challenges(request.clone()), [BARE], "{request:?}");
        }
    }
    // A command that rejects its credential.
    let confirm = request("POST", CONFIRM).header("User-Agent", "Wget/1.21.3").bearer("apiv3_unknown");
    assert_eq!(challenges(confirm), [INVALID_TOKEN, BASIC]);
    // Other errors have no second challenge.
    let malformed = wget("/health").authorization("nonsense").send(server.address);
    assert_eq!(malformed.headers.iter().filter(|(name, _)| name == "www-authenticate").count(), 1);
    assert_eq!(wget("/health").bearer(&token).send(server.address).header("www-authenticate"), None);
}

#[test]
fn unavailable_store_is_503() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-staleness", "1"]);
    let token = server.create();
    let verify = || get(VERIFY).bearer(&token).send(server.address);
    assert_eq!(status_and_headers(&verify()).0, 200);
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("tokens cannot be checked", || verify().status == 503);
    assert_eq!(status_and_headers(&verify()), (503, [None, None, None, Some("1")]));
}

#[test]
fn disabled_auth_accepts_without_identity() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:", "--without-auth"]);
    for request in [get(VERIFY), get(VERIFY).bearer("apiv3_unknown"), get(VERIFY).authorization("nonsense")] {
        assert_eq!(status_and_headers(&request.send(server.address)), (200, [None; 4]));
    }
}

#[test]
fn openapi_document_has_all_verify_responses() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let document = get("/api/v3/openapi.json").bearer(&token).send(server.address).json();
    let operations = document["paths"][VERIFY].as_object().unwrap();
    assert_eq!(operations.keys().collect::<Vec<_>>(), ["get", "put", "post", "delete", "head", "patch"]);
    for (method, operation) in operations {
        let responses = operation["responses"].as_object().unwrap();
        assert_eq!(responses.keys().collect::<Vec<_>>(), ["200", "401", "403", "503"], "{method}");
        for (status, response) in responses {
            assert!(response["content"].is_null(), "{method} {status}: {response}");
        }
        for name in ["x-auth-token-id", "x-auth-token-name", "cache-control"] {
            assert!(responses["200"]["headers"][name].is_object(), "{method}: {name}");
        }
        for status in ["401", "403"] {
            assert!(responses[status]["headers"]["www-authenticate"].is_object(), "{method}: {status}");
        }
        assert!(responses["503"]["headers"]["retry-after"].is_object(), "{method}");
    }
}

/// The answer to a token whose permissions do not cover a request.
const FORBIDDEN: (u16, [Option<&str>; 4]) = (403, [None, None, Some(INSUFFICIENT_SCOPE), None]);

/// The values of `--verify-request` that name a source.
const SOURCES: [&str; 3] = ["forwarded", "original", "path"];

/// The question about a request, as a proxy states it that this source fits.
fn question(source: &str, method: &str, host: &str, uri: &str) -> Request {
    let prefix = match source {
        "forwarded" => "X-Forwarded",
        "original" => "X-Original",
        _ => return request(method, &format!("{VERIFY}{uri}")).with_host(host),
    };
    [("Method", method), ("Host", host), ("Uri", uri)]
        .iter()
        .fold(get(VERIFY), |question, (part, value)| question.header(&format!("{prefix}-{part}"), value))
}

/// The permissions of the tokens of these tests.
const PERMISSIONS: [&[&str]; 4] =
    [&["http:/a/*:read"], &["http:db.example/x:write"], &["db:a:read"], &["db:a:write"]];

fn scoped_tokens(server: &Server, operator: &str) -> [String; 4] {
    let mut number = 0;
    PERMISSIONS.map(|permissions| {
        number += 1;
        create_scoped(server.address, operator, &format!("scoped {number}"), permissions)
    })
}

#[test]
fn permissions_decide_by_the_stated_request() {
    let none = [false; 4];
    let [read_a, write_x, db_read, db_write] =
        [0, 1, 2, 3].map(|position| std::array::from_fn(|index| index == position));
    for source in SOURCES {
        let env = TestEnv::new();
        let server = env.serve(&["--verify-request", source]);
        let operator = server.create();
        let tokens = scoped_tokens(&server, &operator);
        for (method, host, uri, allowed) in [
            ("GET", "any.example", "/a/b", read_a),
            ("HEAD", "any.example:8080", "/a/", read_a),
            ("OPTIONS", "[::1]", "/a/b?c=/../d", read_a),
            ("POST", "any.example", "/a/b", none),
            ("DELETE", "any.example", "/a/b", none),
            ("PROPFIND", "any.example", "/a/b", none),
            ("get", "any.example", "/a/b", none),
            ("GET", "any.example", "/a", none),
            ("GET", "any.example", "/ab", none),
            ("GET", "any.example", "/A/b", none),
            ("GET", "any.example", "/", none),
            ("POST", "db.example", "/x", write_x),
            ("PURGE", "DB.Example:443", "/x?y", write_x),
            ("post", "db.example", "/x", none),
            ("GET", "db.example", "/x", none),
            ("POST", "db.example", "/x/", none),
            ("POST", "db.example", "/x/y", none),
            ("POST", "other.example", "/x", none),
            ("POST", "db.example.evil", "/x", none),
            ("POST", "db.example.", "/x", none),
            ("GET", "h", "/api/v3/query_sql?db=a&q=select", db_read),
            ("GET", "h", "/query?db=a&q=select+*+from+m", db_read),
            ("GET", "h", "/query?db=a&q=drop+database+a", none),
            ("GET", "h", "/api/v3/query_sql?db=b&q=select", none),
            ("GET", "h", "/api/v3/query_sql?db=a&db=b", none),
            ("GET", "h", "/api/v3/query_sql?q=select", none),
            ("POST", "h", "/api/v3/query_sql?db=a", none),
            ("POST", "h", "/api/v3/write_lp?db=a", db_write),
            ("POST", "h", "/api/v2/write?org=o&bucket=a", db_write),
            ("POST", "h", "/write?db=a", db_write),
            ("POST", "h", "/write?db=a&rp=r", none),
            ("POST", "h", "/api/v3/write_lp?db=b", none),
            ("POST", "h", "/api/v3/configure/database?db=a", none),
            ("POST", "h", "/arrow.flight.protocol.FlightService/DoGet", none),
            ("GET", "h", "/health", none),
            // Uncertain, or not in normal form.
            ("GET", "h", "/a//b", none),
            ("GET", "h", "/a/./b", none),
            ("GET", "h", "/a/b/../c", none),
            ("GET", "h", "/a/../b", none),
            ("GET", "h", "/b/../a/c", none),
            ("GET", "h", "/a/%2e%2e/b", none),
            ("GET", "h", "/%61/b", none),
            ("GET", "h", "/a/b%2Fc", none),
            ("GET", "h", "/a/b%5cc", none),
            ("GET", "h", "/a/b%25c", none),
            ("GET", "h", "/a/b;c", none),
            ("GET", "h", "/a/b%00", none),
            ("GET", "h", "/a/%c3%A9", read_a),
            ("GET", "a..b", "/a/b", none),
        ] {
            for (token, allowed) in tokens.iter().zip(allowed) {
                let answer = question(source, method, host, uri).bearer(token).send(server.address);
                let case = format!("{source}: {method} {host} {uri}: {answer:?}");
                if allowed {
                    assert_eq!(status_and_headers(&answer).0, 200, "{case}");
                    assert!(answer.header("x-auth-token-id").is_some(), "{case}");
                } else {
                    assert_eq!(status_and_headers(&answer), FORBIDDEN, "{case}");
                }
            }
            let answer = question(source, method, host, uri).bearer(&operator).send(server.address);
            let expected = (200, [Some("0"), Some("_admin"), None, None]);
            assert_eq!(status_and_headers(&answer), expected, "{source}: {method} {host} {uri}");
        }
        // A wrong token stays a wrong token.
        let wrong = question(source, "GET", "h", "/a/b").bearer("apiv3_unknown").send(server.address);
        assert_eq!(status_and_headers(&wrong), (401, [None, None, Some(INVALID_TOKEN), None]));
        // No body is read, and no token in the query string of a guarded request counts.
        let [token, ..] = &tokens;
        let announced = question(source, "GET", "h", "/a/b").header("Content-Length", "1000000000");
        assert_eq!(announced.bearer(token).send(server.address).status, 200, "{source}");
        let query = question(source, "GET", "h", &format!("/query?p={operator}&db=b&q=select+*+from+m"));
        assert_eq!(status_and_headers(&query.clone().send(server.address)).0, 401, "{source}");
        assert_eq!(status_and_headers(&query.bearer(token).send(server.address)), FORBIDDEN, "{source}");
        server.allow_redaction();
    }
}

#[test]
fn request_that_no_source_states_is_403() {
    for source in ["none", "forwarded", "original", "path"] {
        let env = TestEnv::new();
        let server = env.serve(&["--verify-request", source]);
        let operator = server.create();
        let token = create_scoped(server.address, &operator, "scoped", &["http:/*:read,write"]);
        for other in SOURCES {
            let full = question(other, "GET", "h", "/a");
            let answer = full.clone().bearer(&token).send(server.address);
            let expected = if source == other { 200 } else { 403 };
            assert_eq!(status_and_headers(&answer).0, expected, "{source} {other}");
            // Twice, and in the spelling of some services.
            let prefix = if other == "forwarded" { "X-Forwarded" } else { "X-Original" };
            for header in ["Method", "Host", "Uri"].map(|part| format!("{prefix}-{part}")) {
                let value = if header.ends_with("Uri") { "/a" } else { "GET" };
                let twice = full.clone().header(&header, value).bearer(&token).send(server.address);
                let expected = if source == other && source != "path" { 403 } else { expected };
                assert_eq!(status_and_headers(&twice).0, expected, "{source} {other} {header}");
                let spelled = full.clone().header(&header.replace('-', "_"), "x").bearer(&token);
                let expected = if source == other { 200 } else { 403 };
                assert_eq!(
                    status_and_headers(&spelled.send(server.address)).0,
                    expected,
                    "{source} {header}"
                );
            }
        }
        for question in [
            get(VERIFY),
            get(&format!("{VERIFY}?/a")),
            get(VERIFY).header("X-Forwarded-Uri", "/a"),
            get(VERIFY).header("X-Original-Uri", "/a").header("X-Original-Method", "GET"),
            get(VERIFY).header("X-Original-URL", "http://h/a").header("X-Original-Method", "GET"),
            get(VERIFY).header("X-Forwarded-Uri", "/a").header("X-Forwarded-Method", ""),
        ] {
            let answer = question.clone().bearer(&token).send(server.address);
            assert_eq!(status_and_headers(&answer), FORBIDDEN, "{source}: {question:?}");
            let answer = question.clone().bearer(&operator).send(server.address);
            let expected = (200, [Some("0"), Some("_admin"), None, None]);
            assert_eq!(status_and_headers(&answer), expected, "{source}: {question:?}");
            let answer = question.send(server.address);
            assert_eq!(status_and_headers(&answer), (401, [None, None, Some(BARE), None]), "{source}");
        }
    }
}

#[test]
fn missing_permission_is_logged_and_counted() {
    let env = TestEnv::new();
    let server = env.serve(&["--verify-request", "original"]);
    let operator = server.create();
    let token = create_scoped(server.address, &operator, "scoped", &["db:a:read"]);
    let ask = |uri: &str| question("original", "GET", "h", uri).bearer(&token).send(server.address).status;
    assert_eq!(ask("/b?secret=c"), 403);
    server.wait_for_log(
        "request not permitted: token 1 has no permission for it: GET of h client_ip=\"127.0.0.1\" \
         reason=\"missing_permission\" path=\"/b\"",
    );
    assert_eq!(ask("/b/../c"), 403);
    server.wait_for_log(
        "token 1 has no permission for it: the stated path is not certain, or not in normal form \
         client_ip=\"127.0.0.1\" reason=\"missing_permission\" path=\"/api/v3/verify\"",
    );
    assert_eq!(ask("/api/v3/query_sql?db=b"), 403);
    server.wait_for_log("token 1 has no permission for it: Read of the database \"b\" client_ip");
    assert_eq!(ask("/api/v3/query_sql?db=a"), 200);
    let text = get("/metrics").bearer(&operator).send(server.address).body;
    let refused = text.lines().find_map(|line| {
        line.strip_prefix(r#"optoken_refusals_total{kind="authorization",reason="missing_permission"} "#)
    });
    assert_eq!(refused, Some("3"), "{text}");
    for line in [
        r#"optoken_authorizations_total{outcome="accepted"} 1"#,
        r#"optoken_authorizations_total{outcome="missing_permission"} 2"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(!server.log().contains("secret=c"), "{}", server.log());
}

#[test]
fn source_of_the_request_is_an_option_and_a_variable() {
    let env = TestEnv::new();
    for source in ["", "Forwarded", "x-forwarded", "forwarded,original"] {
        let output = env.serve_with(&[&format!("--verify-request={source}")]).run();
        output.assert_failed(2, &["--verify-request <SOURCE>"]);
    }
    let server = env.serve_with(&[]).env("INFLUXDB3_VERIFY_REQUEST", "path").start();
    let operator = server.create();
    let token = create_scoped(server.address, &operator, "scoped", &["http:/a:GET"]);
    assert_eq!(get("/api/v3/verify/a").bearer(&token).send(server.address).status, 200);
    // The method is that of the question.
    assert_eq!(request("HEAD", "/api/v3/verify/a").bearer(&token).send(server.address).status, 403);
}

#[test]
fn unavailable_store_is_503_for_permissions() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-staleness", "1", "--verify-request", "path"]);
    let operator = server.create();
    let token = create_scoped(server.address, &operator, "scoped", &["http:/a:GET"]);
    let ask = |path: &str| get(path).bearer(&token).send(server.address);
    assert_eq!(ask("/api/v3/verify/a").status, 200);
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("tokens cannot be checked", || ask("/api/v3/verify/a").status == 503);
    for path in ["/api/v3/verify/a", "/api/v3/verify/b", VERIFY] {
        assert_eq!(status_and_headers(&ask(path)), (503, [None, None, None, Some("1")]), "{path}");
    }
}

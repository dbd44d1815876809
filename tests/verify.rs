//! The forward-auth endpoint for proxies: `/api/v3/verify`.

use base64ct::{Base64, Encoding as _};

use crate::support::{
    CONFIRM, Connection, Request, Response, TestEnv, VERIFY, create_named, delete_named, eventually, get,
    request,
};

const BARE: &str = r#"Bearer realm="influxdb3""#;
const INVALID_TOKEN: &str = r#"Bearer realm="influxdb3", error="invalid_token""#;
const BASIC: &str = r#"Basic realm="influxdb3""#;
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
        assert!(responses["401"]["headers"]["www-authenticate"].is_object(), "{method}");
        assert!(responses["403"]["headers"]["www-authenticate"].is_object(), "{method}");
        assert!(responses["503"]["headers"]["retry-after"].is_object(), "{method}");
    }
}

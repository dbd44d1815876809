//! The forward-auth endpoint for proxies: `/api/v3/verify`.

use crate::support::{
    Connection, Request, Response, TestEnv, VERIFY, create_named, delete_named, eventually, get, request,
};

const BARE: &str = r#"Bearer realm="influxdb3""#;
const INVALID_TOKEN: &str = r#"Bearer realm="influxdb3", error="invalid_token""#;
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
    for path in ["/api/v3/verify/", "/api/v3//verify", "/api/v3/Verify"] {
        get(path).bearer(&operator).send(server.address).assert_is(404, "Not found");
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
        assert_eq!(responses.keys().collect::<Vec<_>>(), ["200", "401", "503"], "{method}");
        for (status, response) in responses {
            assert!(response["content"].is_null(), "{method} {status}: {response}");
        }
        for name in ["x-auth-token-id", "x-auth-token-name", "cache-control"] {
            assert!(responses["200"]["headers"][name].is_object(), "{method}: {name}");
        }
        assert!(responses["401"]["headers"]["www-authenticate"].is_object(), "{method}");
        assert!(responses["503"]["headers"]["retry-after"].is_object(), "{method}");
    }
}

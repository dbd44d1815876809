//! What a proxy is told about a request: `/api/v3/verify`.

use serde_json::json;

use crate::support::{
    Connection, NAMED_ADMIN, Request, Response, Server, TOKENS, TestEnv, VERIFY, eventually, get, post,
    request,
};

const BARE: &str = r#"Bearer realm="influxdb3""#;
const INVALID_TOKEN: &str = r#"Bearer realm="influxdb3", error="invalid_token""#;
const INVALID_REQUEST: &str = r#"Bearer realm="influxdb3", error="invalid_request""#;

/// What there is to tell: the id and the name of the token, the challenge, and when to try again. Whatever it is, it comes
/// without a body and is not to be kept.
#[track_caller]
fn told(answer: &Response) -> (u16, [Option<&str>; 4]) {
    assert_eq!(answer.header("content-length"), Some("0"), "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    assert_eq!(answer.header("content-type"), None, "{answer:?}");
    let told = ["x-auth-token-id", "x-auth-token-name", "www-authenticate", "retry-after"];
    (answer.status, told.map(|name| answer.header(name)))
}

fn create_named(server: &Server, operator: &str, name: &str) -> String {
    let body = json!({ "token_name": name }).to_string();
    let create = post(NAMED_ADMIN).bearer(operator).header("Content-Type", "application/json");
    create.body(body.as_bytes()).send(server.address).token()
}

#[test]
fn a_good_token_is_named_and_any_other_gets_a_challenge() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let named = create_named(&server, &operator, "Grüße, 50%");
    let accepted = |id, name| (200, [Some(id), Some(name), None, None]);
    let refused = |challenge| (401, [None, None, Some(challenge), None]);
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
        ("no token", verify(), refused(BARE)),
        ("an unknown token", verify().bearer("apiv3_unknown"), refused(INVALID_TOKEN)),
        ("nonsense", verify().authorization("nonsense"), refused(INVALID_REQUEST)),
        ("not ASCII", verify().authorization("Bearer ü"), refused(INVALID_REQUEST)),
        ("the header of a proxy", verify().header("X-Forwarded-Authorization", &operator), refused(BARE)),
        ("a token in the query string", get(&format!("{VERIFY}?p={operator}")), refused(BARE)),
        (
            "a query string beside the header",
            get(&format!("{VERIFY}?p=x")).bearer(&operator),
            accepted("0", "_admin"),
        ),
    ] {
        assert_eq!(told(&request.send(server.address)), expected, "{case}");
    }
    // Compared byte for byte, as every path.
    for path in ["/api/v3/verify/", "/api/v3//verify", "/api/v3/Verify"] {
        get(path).bearer(&operator).send(server.address).assert_is(404, "Not found");
    }
    let delete =
        request("DELETE", &format!("{TOKENS}?token_name=Gr%C3%BC%C3%9Fe,%2050%25")).bearer(&operator);
    assert_eq!(delete.send(server.address).status, 200);
    assert_eq!(told(&verify().bearer(&named).send(server.address)), refused(INVALID_TOKEN));
    // A token that was made since names were last asked for.
    let next = create_named(&server, &operator, "next");
    assert_eq!(told(&verify().bearer(&next).send(server.address)), accepted("2", "next"));
}

#[test]
fn every_method_is_answered_and_no_body_is_waited_for() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "X"] {
        // Announced, and never sent.
        for announced in
            [None, Some(("Content-Length", "1000000000")), Some(("Transfer-Encoding", "chunked"))]
        {
            let with = |request: Request| match announced {
                Some((name, value)) => request.header(name, value).header("Expect", "100-continue"),
                None => request,
            };
            let answer = with(request(method, VERIFY).bearer(&token)).send(server.address);
            assert_eq!(told(&answer).0, 200, "{method} {announced:?}");
            let answer = with(request(method, VERIFY)).send(server.address);
            assert_eq!(told(&answer), (401, [None, None, Some(BARE), None]), "{method} {announced:?}");
        }
    }
    // A connection on which nothing is left unread is kept.
    let mut connection = Connection::open(server.address).unwrap();
    for _ in 0..2 {
        connection.write(&get(VERIFY).bearer(&token).to_bytes());
        assert_eq!(told(&connection.read().unwrap()).0, 200);
    }
    // Nor is OPTIONS a way through: a proxy may ask with the method of its client.
    for (request, status) in
        [(request("OPTIONS", VERIFY), 401), (request("OPTIONS", VERIFY).bearer(&token), 200)]
    {
        assert_eq!(told(&request.send(server.address)).0, status);
    }
}

#[test]
fn tokens_that_cannot_be_checked_do_not_pass() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-staleness", "1"]);
    let token = server.create();
    let verify = || get(VERIFY).bearer(&token).send(server.address);
    assert_eq!(told(&verify()).0, 200);
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("tokens cannot be checked", || verify().status == 503);
    assert_eq!(told(&verify()), (503, [None, None, None, Some("1")]));
}

#[test]
fn without_authentication_everything_passes_and_nobody_is_named() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:", "--without-auth"]);
    for request in [get(VERIFY), get(VERIFY).bearer("apiv3_unknown"), get(VERIFY).authorization("nonsense")] {
        assert_eq!(told(&request.send(server.address)), (200, [None; 4]));
    }
}

#[test]
fn the_openapi_document_tells_the_three_answers() {
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

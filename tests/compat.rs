//! The tables of docs/compatibility.md 2 and 3 against a server: a row here for a row there, with
//! its number in the first column.
//!
//! A body is compared byte for byte, with any text in the place of each `…`. A comment marks each
//! row that differs from InfluxDB on purpose (docs/design.md 6). Each response must match the
//! OpenAPI document of the same server.

#![allow(clippy::too_many_lines, reason = "tables are long")]

use std::io::Write as _;

use base64ct::{Base64, Encoding as _};
use flate2::Compression;
use flate2::write::GzEncoder;
use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::SqliteStore;

use crate::delivery;
use crate::http2;
use crate::openapi::{Document, OPENAPI};
use crate::support::{
    CREATE, Connection, NAMED_ADMIN as NAMED, NOT_AUTHENTICATED, RECOVERY, REGENERATE, Request, Response,
    Server, TOKENS, TestEnv, eventually, get, post, request, sha512_hex,
};

const SQL: &str = "/api/v3/query_sql";

const MALFORMED: &str = r#"{"error": "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> <token>', supported auth-schemes are Bearer, Token and Basic"}"#;
const NOT_FOUND: &str = "Not found";
const OPERATOR_TAKEN: &str = "token name already exists, _admin";

/// Body of a response with a new token (docs/compatibility.md 2.3).
const ISSUED: &str = r#"{"id":…,"name":"…","token":"apiv3_…","hash":"…","created_at":"…Z","expiry":…}"#;

/// Section of docs/compatibility.md, situation, request, status, and body.
type Row<'a> = (&'a str, &'a str, Request, u16, &'a str);

/// A server, its OpenAPI document, and its cluster id.
struct CheckedServer {
    server: Server,
    document: Document,
    cluster: String,
    /// Whether the rows are also sent in other ways (see [`delivery`]).
    repeats: bool,
}

impl CheckedServer {
    fn new(server: Server, token: &str) -> Self {
        let document = Document::of(&server, token);
        let cluster =
            get(OPENAPI).bearer(token).send(server.address).header("cluster-uuid").unwrap().to_owned();
        assert_eq!(cluster.len(), 36, "not a UUID: {cluster}");
        Self { server, document, cluster, repeats: true }
    }

    /// Sends each row once, so that the limit of the log omits none.
    fn without_repetition(self) -> Self {
        Self { repeats: false, ..self }
    }

    #[track_caller]
    fn send(&self, request: &Request) -> Response {
        let response = request.send(self.server.address);
        self.document.check(request, &response);
        assert_eq!(response.header("cluster-uuid"), Some(self.cluster.as_str()), "{response:?}");
        response
    }

    /// Sends the requests of the rows, and asserts the responses.
    #[track_caller]
    fn assert_rows<'a>(&self, rows: impl IntoIterator<Item = Row<'a>>) {
        for (section, situation, request, status, body) in rows {
            let response = self.send(&request);
            let matches = response.status == status && is_like(&response.body, body);
            assert!(matches, "{section}, {situation}: expected {status} {body:?}, got {response:?}");
            if self.repeats {
                delivery::assert_irrelevant(self.server.address, &request, status);
            }
        }
    }

    /// Creates a named token.
    #[track_caller]
    fn create_named(&self, credential: &str, name: &str) -> String {
        self.send(&named_request(&format!(r#"{{"token_name":{name:?}}}"#)).bearer(credential)).token()
    }
}

/// Returns whether a text matches a pattern, in which `…` stands for any text.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('…') else { return text == pattern };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<_> = rest.split('…').collect();
    let last = parts.pop().unwrap();
    for part in parts {
        let Some((_, rest)) = text.split_once(part) else { return false };
        text = rest;
    }
    text.ends_with(last)
}

/// A request for a named token, with this JSON body.
fn named_request(body: &str) -> Request {
    post(NAMED).header("Content-Type", "application/json").body(body.as_bytes())
}

fn delete(query: &str) -> Request {
    request("DELETE", &format!("{TOKENS}{query}"))
}

fn basic(pair: &[u8]) -> String {
    format!("Basic {}", Base64::encode_string(pair))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// docs/compatibility.md 2.8
#[test]
fn errors_match_table() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-http-request-size", "1000"]);
    let old = server.create();
    let token = server.regenerate(&old);
    let server = CheckedServer::new(server, &token);
    let ci = server.create_named(&token, "ci");
    let expired = named_request(r#"{"token_name":"expired","expiry_secs":0}"#).bearer(&token);
    let expired = server.send(&expired).token();
    let deleted = server.create_named(&token, "deleted");
    server.assert_rows([("2.6", "delete", delete("?token_name=deleted").bearer(&token), 200, "")]);

    let json = |request: Request| request.bearer(&token).header("Content-Type", "application/json");
    server.assert_rows([
        ("2.8", "no credential", get("/health"), 401, NOT_AUTHENTICATED),
        ("2.8", "unknown token", get("/health").bearer("apiv3_unknown"), 401, NOT_AUTHENTICATED),
        ("2.8", "replaced token", get("/health").bearer(&old), 401, NOT_AUTHENTICATED),
        ("2.8", "deleted token", get("/health").bearer(&deleted), 401, NOT_AUTHENTICATED),
        ("2.8", "expired token", get("/health").bearer(&expired), 401, NOT_AUTHENTICATED),
        ("2.8", "empty p on /query", get("/query?p=").bearer(&token), 401, NOT_AUTHENTICATED),
        ("2.8", "empty p on /write", post("/write?p=").bearer(&token), 401, NOT_AUTHENTICATED),
        ("2.8", "malformed", get("/health").authorization(&format!("Bearer  {token}")), 400, MALFORMED),
        // Differs: InfluxDB returns 500 with "to str error", which is not a fault of the server.
        ("2.8", "not ASCII", get("/health").authorization(&format!("Bearer {token}é")), 400, MALFORMED),
        ("2.8", "operator exists already", post(CREATE), 409, OPERATOR_TAKEN),
        (
            "2.8",
            "named token exists",
            named_request(r#"{"token_name":"ci"}"#).bearer(&token),
            409,
            "token name already exists, ci",
        ),
        // Differs: InfluxDB accepts any admin token.
        (
            "2.4",
            "regenerate, presenting another token",
            post(REGENERATE).bearer(&ci),
            403,
            r#"{"error": "only the operator token may regenerate the operator token"}"#,
        ),
        (
            "2.8",
            "delete operator",
            delete("?token_name=_admin").bearer(&token),
            405,
            "cannot delete operator token",
        ),
        (
            "2.8",
            "delete unknown",
            delete("?token_name=unknown").bearer(&token),
            404,
            "the requested resource was not found: unknown",
        ),
        ("2.8", "unknown path", get("/nowhere").bearer(&token), 404, NOT_FOUND),
        ("2.8", "wrong method", get(NAMED).bearer(&token), 404, NOT_FOUND),
        ("2.8", "unknown path, unauthenticated", get("/nowhere"), 401, NOT_AUTHENTICATED),
        (
            "2.8",
            "body too large",
            json(post(NAMED)).body(&[b' '; 1001]),
            413,
            "max request size (1000 bytes) exceeded",
        ),
        (
            "2.8",
            "wrong content type",
            post(NAMED).bearer(&token).header("Content-Type", "text/plain").body(b"{}"),
            415,
            "unacceptable content-type, expected: application/json",
        ),
        (
            "2.8",
            "bad JSON",
            named_request("{}").bearer(&token),
            400,
            "serde json error: missing field `token_name` at line 1 column 2",
        ),
    ]);
}

/// docs/compatibility.md 2.5, 2.6, 2.8
#[test]
fn missing_operator_is_404() {
    let env = TestEnv::new();
    let preset =
        "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g";
    // Imported before the server starts, so there is no operator token.
    std::fs::DirBuilder::new().create(env.data_dir()).unwrap();
    let authority = Authority::builder(SqliteStore::open(env.store()).unwrap()).build().unwrap();
    authority.import_token("preset", &Secret::from(preset.to_owned()), None, "test").unwrap();
    drop(authority);
    let server = CheckedServer::new(env.serve(&RECOVERY), preset);
    let recovery = server.server.recovery();
    server.assert_rows([
        // Differs: InfluxDB returns 500.
        (
            "2.8",
            "regenerate, none exists",
            post(REGENERATE).bearer(preset),
            404,
            "missing admin token, cannot update",
        ),
        (
            "2.6",
            "delete operator",
            delete("?token_name=_admin").bearer(preset),
            405,
            "cannot delete operator token",
        ),
    ]);
    // Differs: InfluxDB returns 500, which is not a fault of the server.
    let response = post(REGENERATE).send(recovery);
    response.assert_is(404, "missing admin token, cannot update");
    assert_eq!(response.header("cluster-uuid"), None);

    let created = server.send(&named_request(r#"{"token_name":"_admin","expiry_secs":60}"#).bearer(preset));
    let operator = created.token();
    assert_eq!(created.json()["name"], "_admin");
    assert!(created.json()["expiry"].is_string());
    server.assert_rows([
        ("2.5", "the operator exists now", post(CREATE), 409, OPERATOR_TAKEN),
        ("2.4", "and can replace itself", post(REGENERATE).bearer(&operator), 201, ISSUED),
    ]);
}

/// docs/compatibility.md 2.8
#[test]
fn store_failure_is_503() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    // A lock of another program prevents every change.
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let unavailable = "tokens are not available at the moment, nothing was changed, try again";
    // Differs: another text, without debug output, and a status that lets clients retry.
    server.assert_rows([("2.8", "object store failure", post(REGENERATE).bearer(&token), 503, unavailable)]);
    let response = server.send(&named_request(r#"{"token_name":"ci"}"#).bearer(&token));
    response.assert_is(503, unavailable);
    assert_eq!(response.header("retry-after"), Some("1"));
    store.execute_batch("ROLLBACK").unwrap();
    server.assert_rows([("2.4", "regenerate", post(REGENERATE).bearer(&token), 201, ISSUED)]);
}

/// docs/compatibility.md 2.2
#[test]
fn evaluation_order_matches_table() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-http-request-size", "1000"]);
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    let large = vec![b' '; 1001];
    let typed = |content_type: &str| post(NAMED).bearer(&token).header("Content-Type", content_type);
    let encoded = |encoding: &str| typed("application/json").header("Content-Encoding", encoding);
    let limit = "max request size (1000 bytes) exceeded";
    let not_json = "unacceptable content-type, expected: application/json";
    server.assert_rows([
        ("2.2", "OPTIONS comes first", request("OPTIONS", NAMED).authorization("Nonsense"), 204, ""),
        ("2.2", "OPTIONS on any path", request("OPTIONS", "/nowhere"), 204, ""),
        ("2.2", "OPTIONS on the server", request("OPTIONS", "*"), 204, ""),
        // Differs: the server checks the credential before the body.
        ("2.2", "credential before body", post(NAMED).body(b"{"), 401, NOT_AUTHENTICATED),
        (
            "2.2",
            "credential before the size of the body",
            post(NAMED).header("Content-Length", "1000000000000"),
            401,
            NOT_AUTHENTICATED,
        ),
        ("2.2", "credential before path", get("/nowhere").authorization("Nonsense"), 400, MALFORMED),
        ("2.2", "path before body", post("/nowhere").bearer(&token).body(&large), 404, NOT_FOUND),
        (
            "2.2",
            "no credential is read here",
            request("PUT", CREATE).authorization("Nonsense"),
            404,
            NOT_FOUND,
        ),
        // An addition: the status of the operator token (docs/design.md 5).
        ("2.2", "but with this method", get(CREATE).authorization("Nonsense"), 400, MALFORMED),
        ("2.2", "nor here, with another method", request("DELETE", CREATE), 404, NOT_FOUND),
        ("2.2", "but here", get(&format!("{CREATE}/")), 401, NOT_AUTHENTICATED),
        (
            "2.2",
            "content type before encoding",
            typed("text/plain").header("Content-Encoding", "br").body(&large),
            415,
            not_json,
        ),
        ("2.2", "encoding before size", encoded("br").body(&large), 400, "unacceptable content-encoding: br"),
        ("2.2", "size before gzip", encoded("gzip").body(&large), 413, limit),
        ("2.2", "size before gzip, in chunks", encoded("gzip").chunked(&large, 100), 413, limit),
        ("2.2", "announced size", encoded("gzip").header("Content-Length", "1000000000000"), 413, limit),
        ("2.2", "decompressed size before JSON", encoded("gzip").body(&gzip(&large)), 413, limit),
        ("2.2", "gzip before JSON", encoded("gzip").body(b"{"), 400, "error decoding gzip stream: …"),
        (
            "2.2",
            "JSON in the end",
            encoded("gzip").body(&gzip(b"{")),
            400,
            "serde json error: EOF while parsing an object at line 1 column 1",
        ),
    ]);
    for (path, allow) in [
        (CREATE, Some("GET, HEAD, POST, OPTIONS")),
        (TOKENS, Some("GET, HEAD, DELETE, OPTIONS")),
        ("/ping", Some("GET, HEAD, POST, OPTIONS")),
        ("/nowhere", None),
    ] {
        let response = server.send(&request("OPTIONS", path));
        let headers: Vec<_> =
            response.headers.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "date").collect();
        let expected = if allow.is_some() { &["allow", "cluster-uuid"][..] } else { &["cluster-uuid"] };
        assert_eq!((headers.as_slice(), response.header("allow")), (expected, allow), "{path}");
    }
}

/// docs/compatibility.md 2.1
#[test]
fn paths_are_compared_byte_for_byte() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    let before = env.stored_catalog();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/health/"),
        ("GET", "/Health"),
        ("GET", "//health"),
        ("GET", "/%68ealth"),
        ("GET", "/health;x"),
        ("GET", "/./health"),
        ("HEAD", "/nowhere"),
        ("HEAD", REGENERATE),
        ("HEAD", NAMED),
        ("POST", "/health"),
        ("PUT", "/ping"),
        ("GET", "/ready"),
        ("GET", REGENERATE),
        ("PUT", REGENERATE),
        ("post", REGENERATE),
        ("POST", "/api/v3/configure/token/admin/%72egenerate"),
        ("POST", "/api/v3/configure/token/admin/regenerate/"),
        ("POST", "/api/v3/configure/token/named_admin/"),
        ("POST", "/api/v3/configure/token/Named_admin"),
        ("POST", TOKENS),
        ("PATCH", TOKENS),
        ("GET", "/api/v3/configure/token/"),
        ("GET", "/api/v3/configure/token/ci"),
        ("DELETE", "/api/v3/configure/token/ci"),
        ("PUT", SQL),
        ("POST", OPENAPI),
        ("GET", "/query"),
        ("POST", "/write"),
    ] {
        // A response to HEAD has no body.
        if method == "HEAD" {
            let mut connection = Connection::open(server.server.address).unwrap();
            connection.write(&request(method, path).bearer(&token).to_bytes());
            assert_eq!(connection.read_bytes(12), b"HTTP/1.1 404", "{path}");
            continue;
        }
        let request = request(method, path);
        let situation = format!("{method} {path}");
        server.assert_rows([
            ("2.1", &*situation, request.clone(), 401, NOT_AUTHENTICATED),
            ("2.1", &*situation, request.bearer(&token), 404, NOT_FOUND),
        ]);
    }
    assert_eq!(env.stored_catalog(), before);
    // The comparison excludes the query.
    server.assert_rows([
        ("2.1", "query string", get("/health?x=y").bearer(&token), 200, "OK"),
        ("2.1", "empty query string", get("/health?").bearer(&token), 200, "OK"),
    ]);
}

/// docs/compatibility.md 2.3, 2.4
#[test]
fn create_and_regenerate() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let created =
        post(CREATE).header("Content-Type", "text/plain").body(b"{\"name\":\"x\"}").send(server.address);
    let token = created.token();
    let server = CheckedServer::new(server, &token);
    // The document is known only now.
    server.document.check(&post(CREATE), &created);
    let created_at = created.json()["created_at"].as_str().unwrap().to_owned();
    let is_operator = |response: &Response| {
        let (token, hash) = (response.token(), sha512_hex(&response.token()));
        // Differs: InfluxDB sends "json".
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(
            response.body,
            format!(
                r#"{{"id":0,"name":"_admin","token":"{token}","hash":"{hash}","created_at":"{created_at}","expiry":null}}"#
            )
        );
        token
    };
    is_operator(&created);
    server.assert_rows([("2.3", "again", post(CREATE), 409, OPERATOR_TAKEN)]);
    let absolute = post(&format!("http://localhost{CREATE}"));
    absolute.send(server.server.address).assert_is(409, OPERATOR_TAKEN);
    let ignored = post(&format!("{REGENERATE}?x=y")).header("Content-Type", "text/plain").body(b"{");
    let regenerated = is_operator(&server.send(&ignored.bearer(&token)));
    server.assert_rows([
        ("2.4", "with the old token", post(REGENERATE).bearer(&token), 401, NOT_AUTHENTICATED),
        ("2.4", "without a token", post(REGENERATE), 401, NOT_AUTHENTICATED),
        ("2.4", "with the new one", post(REGENERATE).bearer(&regenerated), 201, ISSUED),
    ]);
}

/// docs/compatibility.md 2.5
#[test]
fn named_tokens() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    let good = |name: &str| format!(r#"{{"token_name":"{name}"}}"#);
    let not_json = "unacceptable content-type, expected: application/json";

    // Each row creates a token with its own name.
    let typed = |number: usize, content_type: &str| {
        post(NAMED).header("Content-Type", content_type).body(good(&format!("typed {number}")).as_bytes())
    };
    let content_types = [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("APPLICATION/JSON", 201),
        ("application/vnd.x+json", 201),
        ("text/json", 415),
        ("text/plain", 415),
        ("application/jsonl", 415),
        ("application/x-www-form-urlencoded", 415),
        ("nonsense", 415),
        ("", 415),
    ];
    for (number, (content_type, status)) in content_types.into_iter().enumerate() {
        let body = if status == 201 { ISSUED } else { not_json };
        server.assert_rows([("2.5", content_type, typed(number, content_type).bearer(&token), status, body)]);
    }

    let with_body = |body: &str| named_request(body).bearer(&token);
    let encoded = |encoding: &str, body: &[u8]| {
        let request = post(NAMED).bearer(&token).header("Content-Type", "application/json");
        request.header("Content-Encoding", encoding).body(body)
    };
    server.assert_rows([
        ("2.5", "no content type", post(NAMED).bearer(&token).body(good("x").as_bytes()), 415, not_json),
        ("2.5", "identity", encoded("identity", good("identity").as_bytes()), 201, ISSUED),
        ("2.5", "gzip", encoded("gzip", &gzip(good("gzip").as_bytes())), 201, ISSUED),
        ("2.5", "br", encoded("br", b""), 400, "unacceptable content-encoding: br"),
        ("2.5", "several", encoded("gzip, gzip", b""), 400, "unacceptable content-encoding: gzip, gzip"),
        ("2.5", "GZIP", encoded("GZIP", b""), 400, "unacceptable content-encoding: GZIP"),
        ("2.5", "no gzip", encoded("gzip", b"{}"), 400, "error decoding gzip stream: …"),
        (
            "2.5",
            "half of a gzip",
            encoded("gzip", &gzip(good("half").as_bytes())[..20]),
            400,
            "error decoding gzip stream: …",
        ),
        (
            "2.5",
            "gzip of several members",
            encoded("gzip", &[gzip(br#"{"token_name":"#), gzip(br#""members"}"#), gzip(b"")].concat()),
            201,
            ISSUED,
        ),
        (
            "2.5",
            "bytes behind the gzip",
            encoded("gzip", &[gzip(good("behind").as_bytes()), b"{}".to_vec()].concat()),
            400,
            "error decoding gzip stream: …",
        ),
        (
            "2.5",
            "half of the second member",
            encoded("gzip", &[gzip(good("second").as_bytes()), gzip(b" ")[..12].to_vec()].concat()),
            400,
            "error decoding gzip stream: …",
        ),
        (
            "2.5",
            "chunks",
            post(NAMED)
                .bearer(&token)
                .header("Content-Type", "application/json")
                .chunked(good("chunks").as_bytes(), 3),
            201,
            ISSUED,
        ),
        ("2.5", "unknown fields", with_body(r#"{"a":{},"token_name":"unknown fields","b":[]}"#), 201, ISSUED),
        (
            "2.5",
            "null",
            with_body(r#"{"token_name":"null","expiry_secs":null}"#),
            201,
            r#"{…"name":"null",…,"expiry":null}"#,
        ),
        (
            "2.5",
            "an hour",
            with_body(r#"{"token_name":"an hour","expiry_secs":3600}"#),
            201,
            r#"{…"name":"an hour",…,"expiry":"…Z"}"#,
        ),
        ("2.5", "0 seconds", with_body(r#"{"token_name":"0","expiry_secs":0}"#), 201, r#"{…"expiry":"…Z"}"#),
        // In InfluxDB 3.10 it never expires, in later versions at the last time that clients can
        // parse.
        (
            "2.5",
            "longest",
            with_body(r#"{"token_name":"long","expiry_secs":18446744073709551615}"#),
            201,
            r#"{…"expiry":"9999-12-30T22:00:00Z"}"#,
        ),
        (
            "2.5",
            "longer",
            with_body(r#"{"token_name":"longer","expiry_secs":18446744073709551616}"#),
            400,
            "serde json error: invalid type: floating point …, expected u64 at line 1 column 57",
        ),
        (
            "2.5",
            "negative",
            with_body(r#"{"token_name":"x","expiry_secs":-1}"#),
            400,
            "serde json error: invalid value: integer `-1`, expected u64 at line 1 column 34",
        ),
        (
            "2.5",
            "float",
            with_body(r#"{"token_name":"x","expiry_secs":1.5}"#),
            400,
            "serde json error: invalid type: floating point `1.5`, expected u64 at line 1 column 35",
        ),
        (
            "2.5",
            "text",
            with_body(r#"{"token_name":"x","expiry_secs":"1"}"#),
            400,
            "serde json error: invalid type: string \"1\", expected u64 at line 1 column 35",
        ),
        (
            "2.5",
            "a number for a name",
            with_body(r#"{"token_name":1}"#),
            400,
            "serde json error: invalid type: integer `1`, expected a string at line 1 column 15",
        ),
        (
            "2.5",
            "a misplaced token is not echoed",
            with_body(r#"{"token_name":"x","expiry_secs":"apiv3_secret"}"#),
            400,
            "serde json error: invalid type: string \"[token]\", expected u64 at line 1 column 46",
        ),
        (
            "2.5",
            "twice",
            with_body(r#"{"token_name":"x","token_name":"y"}"#),
            400,
            "serde json error: duplicate field `token_name` at line 1 column 30",
        ),
        // Differs: InfluxDB names a type of its program.
        (
            "2.5",
            "no object",
            with_body("[]"),
            400,
            "serde json error: expected an object with the fields token_name, expiry_secs",
        ),
        (
            "2.5",
            "an array for an object",
            with_body(r#"["array",60]"#),
            400,
            "serde json error: expected an object with the fields token_name, expiry_secs",
        ),
        (
            "2.5",
            "empty body",
            with_body(""),
            400,
            "serde json error: EOF while parsing a value at line 1 column 0",
        ),
        (
            "2.5",
            "more than one",
            with_body(r#"{"token_name":"x"}{}"#),
            400,
            "serde json error: trailing characters at line 1 column 19",
        ),
        (
            "2.5",
            "no UTF-8",
            post(NAMED).bearer(&token).header("Content-Type", "application/json").body(b"\"\xff\""),
            400,
            "serde json error: …",
        ),
        ("2.5", "taken", with_body(&good("null")), 409, "token name already exists, null"),
        ("2.5", "taken by an expired one", with_body(&good("0")), 409, "token name already exists, 0"),
        ("2.5", "other letters", with_body(&good("Null")), 201, ISSUED),
        ("2.5", "the operator", with_body(&good("_admin")), 409, OPERATOR_TAKEN),
        // Differs: InfluxDB accepts any name. No client depends on that (docs/compatibility.md 13).
        ("2.5", "empty name", with_body(&good("")), 400, "a token name must not be empty"),
        (
            "2.5",
            "long name",
            with_body(&good(&"x".repeat(129))),
            400,
            "a token name must not be longer than 128 bytes",
        ),
        (
            "2.5",
            "a name like the operator's",
            with_body(&good("_Admin")),
            400,
            "a token name must not look like _admin, the name of the operator token",
        ),
    ]);
    // Any accepted token can create named tokens.
    let ci = server.create_named(&token, "ci");
    let by_ci = server.create_named(&ci, "by ci");
    assert!(server.server.accepts(&by_ci));
}

/// docs/compatibility.md 2.6
#[test]
fn deletion() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let server = CheckedServer::new(server, &token).without_repetition();
    let ids: Vec<_> = ["a b", "Zürich", "a+b&c", "self", "ci"]
        .into_iter()
        .map(|name| server.create_named(&token, name))
        .collect();
    let by = |query: &str| delete(query).bearer(&token);
    server.assert_rows([
        ("2.6", "+ is a space", by("?token_name=a+b"), 200, ""),
        ("2.6", "percent", by("?token_name=Z%C3%BCrich"), 200, ""),
        ("2.6", "percent, all of it", by("?x=y&token%5Fname=a%2Bb%26c&z"), 200, ""),
        ("2.6", "a token deletes itself", delete("?token_name=self").bearer(&ids[3]), 200, ""),
        ("2.6", "and is deleted", delete("?token_name=self").bearer(&ids[3]), 401, NOT_AUTHENTICATED),
        ("2.6", "again", by("?token_name=self"), 404, "the requested resource was not found: self"),
        ("2.6", "in the body", by("").body(b"token_name=ci"), 400, "serde error: missing field `token_name`"),
        ("2.6", "no query string", by(""), 400, "serde error: missing field `token_name`"),
        ("2.6", "another parameter", by("?name=ci"), 400, "serde error: missing field `token_name`"),
        ("2.6", "other letters", by("?Token_name=ci"), 400, "serde error: missing field `token_name`"),
        (
            "2.6",
            "twice",
            by("?token_name=ci&token_name=ci"),
            400,
            "serde error: duplicate field `token_name`",
        ),
        ("2.6", "empty", by("?token_name="), 404, "the requested resource was not found: "),
        ("2.6", "other letters", by("?token_name=CI"), 404, "the requested resource was not found: CI"),
        (
            "2.6",
            "not quite the operator",
            by("?token_name=_Admin"),
            404,
            "the requested resource was not found: _Admin",
        ),
        ("2.6", "the operator", by("?token_name=_admin"), 405, "cannot delete operator token"),
        (
            "2.6",
            "the operator, in other bytes",
            by("?token_name=%5Fadmin"),
            405,
            "cannot delete operator token",
        ),
        ("2.6", "no credential", delete("?token_name=ci"), 401, NOT_AUTHENTICATED),
        // Differs: small limits. The server ignores this body.
        (
            "2.6",
            "large body",
            by("?token_name=ci").body(&vec![0; 65537]),
            413,
            "max request size (65536 bytes) exceeded",
        ),
        ("2.6", "any body", by("?token_name=ci").body(&vec![0; 65536]), 200, ""),
    ]);
    let refused = server.send(&by("?token_name=_admin"));
    // RFC 9110 requires it.
    assert_eq!(refused.header("allow"), Some("GET, HEAD, OPTIONS"));
    // A name can be used again, an id cannot (docs/compatibility.md 6.2).
    let again = server.send(&named_request(r#"{"token_name":"ci"}"#).bearer(&token));
    assert_eq!(again.json()["id"], 6);
    for (name, token) in ids.iter().enumerate() {
        assert!(!server.server.accepts(token), "{name}");
    }
    // A token in the place of a name is neither in the response nor in the log.
    let mistaken = by(&format!("?token_name={token}"));
    let redacted = "the requested resource was not found: [token]";
    server.server.allow_redaction();
    server.assert_rows([("2.6", "a token for a name", mistaken, 404, redacted)]);
    server.server.wait_for_log("there is no token named \"[token]");
}

/// docs/compatibility.md 2.7
#[test]
fn listing() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let operator = server.regenerate(&first);
    let server = CheckedServer::new(server, &operator);
    let strange = server.send(&named_request(r#"{"token_name":"a, \"b\" – Zürich"}"#).bearer(&operator));
    let expired =
        server.send(&named_request(r#"{"token_name":"expired","expiry_secs":0}"#).bearer(&operator));
    let deleted = server.create_named(&operator, "deleted");
    server.assert_rows([("2.6", "delete", delete("?token_name=deleted").bearer(&deleted), 200, "")]);
    let late = server.create_named(&strange.token(), "late");

    let listed = server.send(&get(TOKENS).bearer(&operator));
    let tokens = listed.json()["tokens"].as_array().unwrap().clone();
    let time = |id: usize, which: &str| tokens[id][which].as_str().unwrap().to_owned();
    let hash = |token: &str| sha512_hex(token)[..9].to_owned();
    let (h0, h1, h2, h4) = (hash(&operator), hash(&strange.token()), hash(&expired.token()), hash(&late));
    let (c0, c1, c2, c4) =
        (time(0, "created_at"), time(1, "created_at"), time(2, "created_at"), time(3, "created_at"));
    let (u0, x2) = (time(0, "updated_at"), time(2, "expiry"));
    // The times equal those in the responses to their creation.
    assert_eq!(
        (&strange.json()["created_at"], &expired.json()["expiry"]),
        (&c1.as_str().into(), &x2.as_str().into())
    );
    assert_eq!(
        listed.body,
        format!(
            concat!(
                r#"{{"tokens":[{{"id":0,"name":"_admin","hash":"{h0}","created_at":"{c0}","updated_at":"{u0}","updated_by":0,"expiry":null,"permissions":["*:*:*"]}},"#,
                r#"{{"id":1,"name":"a, \"b\" – Zürich","hash":"{h1}","created_at":"{c1}","updated_at":null,"updated_by":null,"expiry":null,"permissions":["*:*:*"]}},"#,
                r#"{{"id":2,"name":"expired","hash":"{h2}","created_at":"{c2}","updated_at":null,"updated_by":null,"expiry":"{x2}","permissions":["*:*:*"]}},"#,
                r#"{{"id":4,"name":"late","hash":"{h4}","created_at":"{c4}","updated_at":null,"updated_by":null,"expiry":null,"permissions":["*:*:*"]}}]}}"#,
            ),
            h0 = h0,
            h1 = h1,
            h2 = h2,
            h4 = h4,
            c0 = c0,
            c1 = c1,
            c2 = c2,
            c4 = c4,
            u0 = u0,
            x2 = x2,
        )
    );

    // The table has times without a zone.
    let [c0, c1, c2, c4, u0, x2] =
        [c0, c1, c2, c4, u0, x2].map(|time| time.strip_suffix('Z').unwrap().to_owned());
    let objects = [
        format!(
            r#"{{"token_id":0,"name":"_admin","hash":"{h0}","created_at":"{c0}","updated_at":"{u0}","updated_by_token_id":0,"permissions":"*:*:*"}}"#
        ),
        format!(
            r#"{{"token_id":1,"name":"a, \"b\" – Zürich","hash":"{h1}","created_at":"{c1}","permissions":"*:*:*"}}"#
        ),
        format!(
            r#"{{"token_id":2,"name":"expired","hash":"{h2}","created_at":"{c2}","expiry":"{x2}","permissions":"*:*:*"}}"#
        ),
        format!(r#"{{"token_id":4,"name":"late","hash":"{h4}","created_at":"{c4}","permissions":"*:*:*"}}"#),
    ];
    let json = format!("[{}]", objects.join(","));
    let jsonl = objects.map(|object| object + "\n").concat();
    let csv = format!(
        "\
token_id,name,hash,created_at,description,created_by_token_id,updated_at,updated_by_token_id,expiry,permissions
0,_admin,{h0},{c0},,,{u0},0,,*:*:*
1,\"a, \"\"b\"\" – Zürich\",{h1},{c1},,,,,,*:*:*
2,expired,{h2},{c2},,,,,{x2},*:*:*
4,late,{h4},{c4},,,,,,*:*:*
"
    );
    // Column widths depend on the times. The unit test of the table covers them.
    let pretty = format!(
        "\
+----------+-----------------+-----------+…+…+-------------+
| token_id | name            | hash      | created_at…| description | created_by_token_id | updated_at…| updated_by_token_id | expiry…| permissions |
+----------+-----------------+-----------+…+…+-------------+
| 0        | _admin          | {h0} | {c0} …|             |                     | {u0} …| 0                   | …| *:*:*       |
| 1        | a, \"b\" – Zürich | {h1} | {c1} …|             |                     | …|                     | …| *:*:*       |
| 2        | expired         | {h2} | {c2} …|             |                     | …|                     | {x2} …| *:*:*       |
| 4        | late            | {h4} | {c4} …|             |                     | …|                     | …| *:*:*       |
+----------+-----------------+-----------+…+…+-------------+"
    );
    let in_query = |rest: &str| {
        get(&format!("{SQL}?db=_internal&q=select%20*%20from%20system.tokens{rest}")).bearer(&operator)
    };
    let in_body = |rest: &str| {
        let body = format!(r#"{{"db":"_internal","q":"select * from system.tokens"{rest}}}"#);
        post(SQL).bearer(&operator).header("Content-Type", "application/json").body(body.as_bytes())
    };
    let formats = [
        ("json", &json, "application/json"),
        ("jsonl", &jsonl, "application/jsonl"),
        ("json_lines", &jsonl, "application/jsonl"),
        ("csv", &csv, "text/csv"),
        ("pretty", &pretty, "text/plain; charset=utf-8"),
    ];
    for (format, expected, content_type) in formats {
        let requests = [in_query(&format!("&format={format}")), in_body(&format!(r#","format":"{format}""#))];
        for request in requests {
            // The parameter overrides the Accept header.
            let request = request.header("Accept", "text/csv");
            server.assert_rows([("2.7", format, request.clone(), 200, expected.as_str())]);
            assert_eq!(server.send(&request).header("content-type"), Some(content_type));
        }
    }
    for (accept, expected) in [
        ("*/*", &json),
        ("application/json", &json),
        ("text/html, */*;q=0.8", &json),
        ("application/jsonl", &jsonl),
        ("text/csv", &csv),
        ("text/plain", &pretty),
    ] {
        for request in [in_query(""), in_body(""), in_body(r#","format":null,"params":{}"#)] {
            server.assert_rows([("2.7", accept, request.header("Accept", accept), 200, expected.as_str())]);
        }
    }

    let query = |query: &str| get(&format!("{SQL}{query}")).bearer(&operator);
    let body = |body: &str| post(SQL).bearer(&operator).body(body.as_bytes());
    let missing = "missing query parameters 'db' and 'q'";
    let query_error = |reason: &str| {
        let supported = "supported is SELECT … FROM system.tokens, with WHERE, GROUP BY, ORDER BY and LIMIT";
        format!("query error: {reason}; {supported}")
    };
    let (no_table, other_table) =
        (query_error("the query reads no table"), query_error("this table is not there"));
    server.assert_rows([
        ("2.7", "any letters", query("?db=_internal&q=SELECT+*+FROM+System.Tokens;"), 200, &*json),
        ("2.7", "any white space", query("?db=_internal&q=%0Aselect*from%09system+.+tokens+;+"), 200, &*json),
        (
            "2.7",
            "without a content type",
            body(r#"{"db":"_internal","q":"select * from system.tokens"}"#),
            200,
            &*json,
        ),
        ("2.7", "parquet", in_query("&format=parquet"), 200, "PAR1…PAR1"),
        ("2.7", "parquet", in_query("").header("Accept", "application/vnd.apache.parquet"), 200, "PAR1…PAR1"),
        (
            "2.7",
            "other format",
            in_body(r#","format":"yaml""#),
            400,
            "unsupported format \"yaml\", supported are: json, jsonl, csv, pretty, parquet",
        ),
        (
            "2.7",
            "other database",
            query("?db=metrics&q=select+*+from+system.tokens"),
            404,
            r#"{"error": "query error: database not found: metrics"}"#,
        ),
        ("2.7", "other query", query("?db=_internal&q=select+1"), 400, no_table.as_str()),
        (
            "2.7",
            "other table",
            body(r#"{"db":"_internal","q":"select * from system.queries"}"#),
            400,
            other_table.as_str(),
        ),
        ("2.7", "no query string", query(""), 400, missing),
        ("2.7", "no query", query("?db=_internal"), 400, "serde error: missing field `q`"),
        (
            "2.7",
            "no database",
            query("?q=select+*+from+system.tokens"),
            400,
            "serde error: missing field `db`",
        ),
        ("2.7", "no JSON", body("db=_internal"), 400, "serde json error: expected value at line 1 column 1"),
        ("2.7", "no fields", body("{}"), 400, "serde json error: missing field `db` at line 1 column 2"),
        ("2.7", "no credential", get(SQL), 401, NOT_AUTHENTICATED),
        ("2.7", "no credential", get(TOKENS), 401, NOT_AUTHENTICATED),
        ("2.7", "any token", get(TOKENS).bearer(&late), 200, &*listed.body),
    ]);
}

/// RFC 9110, section 9.3.2. Differs: InfluxDB returns 404.
#[test]
fn head_is_get_without_body() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let query = format!("{SQL}?db=_internal&q=select%20*%20from%20system.tokens");
    for (path, status) in [
        ("/health", 200),
        ("/api/v1/health", 200),
        ("/ping", 200),
        ("/metrics", 200),
        (OPENAPI, 200),
        (CREATE, 200),
        (TOKENS, 200),
        ("/api/v3/configure/token/audit", 200),
        ("/api/v3/configure/token/admin/regenerate/overlap", 200),
        ("/api/v3/optoken/status", 200),
        (&*query, 200),
        (SQL, 400),
        ("/nowhere", 404),
        (NAMED, 404),
    ] {
        for (request, expected) in
            [(request("HEAD", path).bearer(&token), status), (request("HEAD", path), 401)]
        {
            let got = Request::send(&get(path).bearer(&token), server.address);
            let mut connection = Connection::open(server.address).unwrap();
            // A body would be read as the head of the second response.
            connection.write(&[request.to_bytes(), get("/health").bearer(&token).to_bytes()].concat());
            let head = connection.read_head().unwrap();
            assert_eq!((head.status, head.body.as_str()), (expected, ""), "{path}: {head:?}");
            connection.read().unwrap().assert_is(200, "OK");
            if expected == 401 {
                continue;
            }
            let names = |response: &Response| {
                let mut names: Vec<_> = response.headers.iter().map(|(name, _)| name.clone()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&head), names(&got), "{path}");
            assert_eq!(head.header("content-type"), got.header("content-type"), "{path}");
            // The time since the start and counters change the length of these.
            if !matches!(path, "/metrics" | "/api/v3/optoken/status") && path != CREATE {
                assert_eq!(head.header("content-length"), got.header("content-length"), "{path}");
            }
        }
    }
    // Over HTTP/2, too.
    let mut connection = Connection::open(server.address).unwrap();
    let bearer = format!("Bearer {token}");
    let head = http2::request("HEAD", "/health", &[("authorization", &bearer)], true);
    connection.write(&[http2::opening(), head].concat());
    while http2::read_frame(&mut connection).0 != http2::HEADERS {}
    let second = http2::request_on(3, "localhost", "GET", "/health", &[("authorization", &bearer)], true);
    connection.write(&second);
    let mut kinds = Vec::new();
    while kinds.last() != Some(&http2::HEADERS) {
        kinds.push(http2::read_frame(&mut connection).0);
    }
    assert!(!kinds.contains(&http2::DATA), "{kinds:?}");
    // Open paths are open for it.
    let open = env.serve(&["--store", "memory:", "--disable-authz", "health"]);
    let mut connection = Connection::open(open.address).unwrap();
    connection.write(&request("HEAD", "/health").to_bytes());
    assert_eq!(connection.read_head().unwrap().status, 200);
}

/// docs/compatibility.md 2.9, 5.3
#[test]
fn health_and_ping() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    let identity = format!(
        r#"{{"product_name":"optoken","version":"3.10.1","revision":"{}","process_id":"…"}}"#,
        env!("CARGO_PKG_VERSION")
    );
    for (method, path, body) in [
        ("GET", "/health", "OK"),
        ("GET", "/api/v1/health", "OK"),
        ("GET", "/ping", &*identity),
        ("POST", "/ping", &*identity),
    ] {
        server.assert_rows([
            ("2.9", path, request(method, path), 401, NOT_AUTHENTICATED),
            ("2.9", path, request(method, path).bearer(&token), 200, body),
        ]);
    }
    let responses = [get("/ping"), post("/ping")].map(|ping| server.send(&ping.bearer(&token)));
    for response in &responses {
        assert_eq!(response.header("x-influxdb-version"), Some("3.10.1"));
        assert_eq!(response.header("x-influxdb-build"), Some("Core"));
        let id = response.header("request-id").unwrap();
        // A UUID of version 4.
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert_eq!(response.header("x-request-id"), Some(id));
    }
    assert_ne!(responses[0].header("request-id"), responses[1].header("request-id"));
    assert_eq!(responses[0].body, responses[1].body);

    let open = env.serve(&["--store", "memory:", "--disable-authz", "health,ping"]);
    let token = open.create();
    let open = CheckedServer::new(open, &token);
    open.assert_rows([
        ("5.3", "health", get("/health"), 200, "OK"),
        ("5.3", "health", get("/api/v1/health?x"), 200, "OK"),
        ("5.3", "ping", post("/ping"), 200, &*identity),
        ("5.3", "the header is not read", get("/health").authorization("Nonsense"), 200, "OK"),
        ("5.3", "the token is not checked", get("/health").bearer("apiv3_unknown"), 200, "OK"),
        ("5.3", "wrong method", post("/health"), 404, NOT_FOUND),
        ("5.3", "exactly these paths", get("/health/"), 401, NOT_AUTHENTICATED),
        ("5.3", "and no other", get(TOKENS), 401, NOT_AUTHENTICATED),
        ("2.9", "not routed in Core", get("/ready").bearer(&token), 404, NOT_FOUND),
    ]);
}

/// docs/compatibility.md 2.10
#[test]
fn disabled_auth() {
    let env = TestEnv::new();
    let token = env.serve(&[]).create();
    let disabled = "endpoint disabled, started without auth";
    let server = CheckedServer::new(env.serve(&["--without-auth"]), "anything");
    server.assert_rows([
        ("2.10", "no token", get("/health"), 200, "OK"),
        ("2.10", "any token", get("/health").bearer("any"), 200, "OK"),
        ("2.10", "a good one", get("/health").bearer(&token), 200, "OK"),
        ("2.10", "malformed", get("/health").authorization("bearer x"), 400, MALFORMED),
        ("2.10", "unknown path", get("/nowhere"), 404, NOT_FOUND),
        ("2.10", "OPTIONS", request("OPTIONS", REGENERATE), 204, ""),
        ("2.10", "create", post(CREATE), 405, disabled),
        ("2.10", "regenerate", post(REGENERATE).bearer(&token), 405, disabled),
        ("2.10", "named", named_request(r#"{"token_name":"x"}"#).bearer(&token), 405, disabled),
        ("2.10", "delete", delete("?token_name=x").bearer(&token), 405, disabled),
        ("2.10", "list", get(TOKENS), 405, disabled),
        ("2.10", "any method", request("PATCH", REGENERATE), 405, disabled),
        ("2.10", "any path with this prefix", get("/api/v3/configure/tokens/x"), 405, disabled),
        ("2.10", "before the header is read", post(CREATE).authorization("Nonsense"), 405, disabled),
        (
            "2.10",
            "the column hash is absent",
            get(&format!("{SQL}?db=_internal&q=select+*+from+system.tokens")),
            200,
            r#"[{"token_id":0,"name":"_admin","created_at":"…","permissions":"*:*:*"}]"#,
        ),
        (
            "2.10",
            "in every format",
            get(&format!("{SQL}?db=_internal&q=select+*+from+system.tokens&format=csv")),
            200,
            "token_id,name,created_at,description,created_by_token_id,updated_at,updated_by_token_id,expiry,permissions\n0,_admin,…,,,,,,*:*:*\n",
        ),
        ("3.3", "p is a token like any", get("/query?p=x").authorization("Nonsense"), 404, NOT_FOUND),
    ]);
    assert_eq!(server.send(&post(CREATE)).header("allow"), Some("OPTIONS"));
    assert_eq!(server.send(&request("OPTIONS", REGENERATE)).header("allow"), Some("OPTIONS"));

    // Recovery is not disabled.
    let server = env.serve(&[&["--without-auth"], &RECOVERY[..]].concat());
    post(REGENERATE).send(server.recovery()).token();
}

/// docs/compatibility.md 3.1, 3.2
#[test]
fn credential_grammar() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    let pair = |user: &str| basic(format!("{user}:{token}").as_bytes());
    // One of these has base64 with padding, for any length of the token.
    let padded = ["", "u", "uu"].into_iter().map(pair).find(|value| value.ends_with('=')).unwrap();
    for (section, situation, value, status) in [
        ("3.1", "Bearer", format!("Bearer {token}"), 200),
        ("3.1", "Token", format!("Token {token}"), 200),
        ("3.1", "Basic", pair("user"), 200),
        ("3.2", "Basic without a user", pair(""), 200),
        ("3.2", "Basic with another user", pair("another user"), 200),
        ("3.2", "Basic with the token as the user", basic(format!("{token}:").as_bytes()), 401),
        ("3.2", "one character less", format!("Bearer {}", &token[..91]), 401),
        ("3.2", "one character more", format!("Bearer {token}x"), 401),
        ("3.2", "other letters", format!("Bearer {}", token.to_lowercase()), 401),
        ("3.2", "the hash", format!("Bearer {}", sha512_hex(&token)), 401),
        ("3.2", "empty", String::new(), 400),
        ("3.2", "scheme alone", "Bearer".to_owned(), 400),
        ("3.2", "token alone", token.clone(), 400),
        ("3.2", "two spaces", format!("Bearer  {token}"), 400),
        ("3.2", "three parts", format!("Bearer {token} x"), 400),
        ("3.2", "a tab", format!("Bearer\t{token}"), 400),
        ("3.2", "lower case", format!("bearer {token}"), 400),
        ("3.2", "upper case", format!("BEARER {token}"), 400),
        ("3.2", "token in lower case", format!("token {token}"), 400),
        ("3.2", "basic in lower case", pair("u").to_lowercase(), 400),
        ("3.2", "another scheme", format!("Digest {token}"), 400),
        // Differs: InfluxDB returns 500.
        ("3.2", "not ASCII", format!("Bearer {token}é"), 400),
        ("3.2", "Basic, not encoded", format!("Basic u:{token}"), 400),
        ("3.2", "Basic without padding", padded.trim_end_matches('=').to_owned(), 400),
        ("3.2", "Basic in the alphabet for URLs", "Basic Onv_-_8=".to_owned(), 400),
        ("3.2", "Basic, not UTF-8", basic(b"u:\xff"), 400),
        ("3.2", "Basic without a colon", basic(token.as_bytes()), 400),
        ("3.2", "Basic with two colons", basic(format!("a:b:{token}").as_bytes()), 400),
    ] {
        for (path, ok) in [("/health", "OK"), ("/ping", "…")] {
            let body = match status {
                200 => ok,
                401 => NOT_AUTHENTICATED,
                _ => MALFORMED,
            };
            server.assert_rows([(section, situation, get(path).authorization(&value), status, body)]);
        }
    }
    let wrong = "apiv3_wrong";
    server.assert_rows([
        (
            "3.2",
            "only Authorization counts",
            get("/health").header("auth", &format!("Bearer {token}")),
            401,
            NOT_AUTHENTICATED,
        ),
        ("3.2", "the first counts", get("/health").bearer(&token).bearer(wrong), 200, "OK"),
        ("3.2", "and no other", get("/health").bearer(wrong).bearer(&token), 401, NOT_AUTHENTICATED),
    ]);
}

/// docs/compatibility.md 3.3
#[test]
fn query_parameter_p() {
    let env = TestEnv::new();
    let server = env.serve_with(&["--store", "memory:"]).env("INFLUXDB3_LOG_FILTER", "trace").start();
    let token = server.create();
    let server = CheckedServer::new(server, &token);
    let wrong = "apiv3_wrong";
    let with = |path: &str, query: &str| get(&format!("{path}?{}", query.replace("TOKEN", &token)));
    for path in ["/query", "/write"] {
        server.assert_rows([
            // With a valid token, the path is not found.
            ("3.3", "p", with(path, "p=TOKEN"), 404, NOT_FOUND),
            ("3.3", "u is ignored", with(path, "u=me&db=x&p=TOKEN"), 404, NOT_FOUND),
            ("3.3", "p wins over a wrong header", with(path, "p=TOKEN").bearer(wrong), 404, NOT_FOUND),
            (
                "3.3",
                "the header is not read",
                with(path, "p=TOKEN").authorization("Nonsense"),
                404,
                NOT_FOUND,
            ),
            (
                "3.3",
                "p wins over a good header",
                with(path, "p=apiv3_wrong").bearer(&token),
                401,
                NOT_AUTHENTICATED,
            ),
            ("3.3", "empty p", with(path, "p=").bearer(&token), 401, NOT_AUTHENTICATED),
            ("3.3", "p twice, good header", with(path, "p=x&p=x").bearer(&token), 404, NOT_FOUND),
            ("3.3", "p twice, no header", with(path, "p=TOKEN&p=TOKEN"), 401, NOT_AUTHENTICATED),
            ("3.3", "no p", with(path, "u=x").bearer(&token), 404, NOT_FOUND),
            ("3.3", "no q", with(path, "q=TOKEN&token=TOKEN"), 401, NOT_AUTHENTICATED),
            (
                "3.3",
                "not in a form",
                post(path).body(format!("p={token}").as_bytes()),
                401,
                NOT_AUTHENTICATED,
            ),
        ]);
    }
    for path in ["/health", "/ping", "/query/", "/Query", SQL, TOKENS] {
        server.assert_rows([("3.3", path, with(path, "p=TOKEN"), 401, NOT_AUTHENTICATED)]);
    }
    // HTTP/2 does not log the parameter.
    let mut connection = Connection::open(server.server.address).unwrap();
    let frames =
        [http2::opening(), http2::request("GET", &format!("/query?p={}", &token[..90]), &[], true)].concat();
    connection.write(&frames);
    while http2::read_frame(&mut connection).0 != http2::HEADERS {}
    // The log reader may lag behind the response.
    eventually("the log has the request", || {
        let log = server.server.log();
        log.contains("TRACE") || log.contains("DEBUG")
    });
    let log = server.server.log();
    assert!(!log.contains(&token[6..30]), "the token is in the log: {log}");
}

/// docs/compatibility.md 3.5
#[test]
fn authentication_failure_is_logged_once() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    server.allow_redaction();
    let server = CheckedServer::new(server, &token);
    let expired = server.send(&named_request(r#"{"token_name":"x","expiry_secs":0}"#).bearer(&token)).token();
    let long = format!("/{}", "a".repeat(300));
    for (request, path, reason) in [
        (get("/none"), "/none", "there is none".to_owned()),
        (get("/unknown?x=y").bearer("apiv3_unknown"), "/unknown", "the token is not known".to_owned()),
        (get("/expired").bearer(&expired), "/expired", "the token expired at".to_owned()),
        (
            get("/malformed").authorization("Nonsense"),
            "/malformed",
            "Authorization header was malformed".to_owned(),
        ),
        (get("/query?p=apiv3_in_query"), "/query", "the token is not known".to_owned()),
        (get("/apiv3_token/x"), "/[token]", "there is none".to_owned()),
        (get("/x/apiv3%5Ftoken/%61piv3%255Ftoken"), "/x/[token]", "there is none".to_owned()),
        (get(&long), &long[..256], "there is none".to_owned()),
    ] {
        let before = server.server.log().len();
        assert!(matches!(server.send(&request).status, 400 | 401));
        let field = format!("path=\"{path}\"");
        server.server.wait_for_log(&field);
        // One line: any other would be in the log before the next response.
        server.send(&get("/health").bearer(&token));
        let logged = server.server.log()[before..].to_owned();
        let lines: Vec<_> = logged.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(lines.len(), 1, "{logged}");
        assert!(
            lines[0].contains(" WARN ") && lines[0].contains(&format!("cannot authenticate token: {reason}")),
            "{logged}"
        );
    }
}

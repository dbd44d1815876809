use std::cell::RefCell;

use optoken_core::ports::StoreError;
use optoken_core::testing::MemoryPorts;
use optoken_protocol::paths::{OPERATOR, REGENERATE, VERIFY};

use super::*;
use crate::request::MAX_BODY_BYTES;

#[derive(Default)]
struct FakeRequest {
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    log: RefCell<String>,
}

impl Request for FakeRequest {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn header(&self, name: &str) -> Option<Vec<u8>> {
        let header = self.headers.iter().find(|(key, _)| *key == name);
        header.map(|(_, value)| value.clone().into_bytes())
    }

    fn headers(&self) -> Vec<(String, Vec<u8>)> {
        self.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into_bytes())).collect()
    }

    fn body(&mut self) -> Result<Vec<u8>, Problem> {
        if self.body.len() > MAX_BODY_BYTES {
            Err(Problem::BodyTooLarge(MAX_BODY_BYTES))
        } else {
            Ok(self.body.clone())
        }
    }

    fn log(&self, message: &str) {
        self.log.borrow_mut().push_str(message);
    }
}

/// A request with a token, if that is not empty.
fn request(method: &'static str, path: &'static str, token: &str) -> FakeRequest {
    let headers = if token.is_empty() { vec![] } else { vec![("authorization", format!("Bearer {token}"))] };
    FakeRequest { method, path, headers, ..FakeRequest::default() }
}

fn send(ports: &mut MemoryPorts, mut request: FakeRequest) -> Response {
    let options = Options { bootstrap: true, open_health: false };
    respond(&mut request, ports, options)
}

fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

fn empty() -> MemoryPorts {
    MemoryPorts { now: 1_795_456_443_229, ..MemoryPorts::default() }
}

/// Ports with an operator token, and that token.
fn bootstrapped() -> (MemoryPorts, String) {
    let mut ports = empty();
    let response = send(&mut ports, request("POST", OPERATOR, ""));
    assert_eq!(response.status, 201, "{}", text(&response));
    let token = token_of(&response);
    (ports, token)
}

fn token_of(response: &Response) -> String {
    text(response).split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[test]
fn operator_token_is_created_once() {
    let mut ports = empty();
    let created = send(&mut ports, request("POST", OPERATOR, ""));
    assert_eq!(created.status, 201);
    assert_eq!(header(&created, "content-type"), "application/json");
    assert_eq!(header(&created, "cache-control"), "no-store");
    assert!(text(&created).starts_with(r#"{"id":0,"name":"_admin","token":"apiv3_"#));
    assert!(text(&created).ends_with(r#","created_at":"2026-11-23T17:54:03.229Z","expiry":null}"#));
    let again = send(&mut ports, request("POST", OPERATOR, ""));
    assert_eq!((again.status, text(&again)), (409, "token name already exists, _admin"));
}

#[test]
fn bootstrap_requires_the_option_and_no_browser() {
    let mut ports = empty();
    let rejected = respond(&mut request("POST", OPERATOR, ""), &mut ports, Options::default());
    assert_eq!(rejected.status, 403);
    assert!(text(&rejected).contains("optoken-cli create"));
    assert!(text(&rejected).contains("set OPTOKEN_BOOTSTRAP=any in the environment of this server"));
    for (name, value, status) in [
        ("origin", "http://localhost", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-mode", "cors", 403),
        ("sec-fetch-site", "none", 201),
    ] {
        let headers = vec![(name, value.to_owned())];
        let request = FakeRequest { headers, ..request("POST", OPERATOR, "") };
        assert_eq!(send(&mut ports, request).status, status, "{name}: {value}");
    }
}

#[test]
fn connection_headers_are_left_to_the_runtime() {
    let rejected = respond(&mut request("POST", OPERATOR, ""), &mut empty(), Options::default());
    assert_eq!(header(&rejected, "connection"), "");
    assert_eq!(header(&rejected, "content-type"), "text/plain; charset=utf-8");
}

#[test]
fn environment_values_are_exact() {
    let options = |name: &str, value: &str| Options::from_environment(&[(name.into(), value.into())]);
    assert_eq!(options("OPTOKEN_BOOTSTRAP", "any"), Options { bootstrap: true, open_health: false });
    assert_eq!(options("OPTOKEN_DISABLE_AUTHZ", "health"), Options { bootstrap: false, open_health: true });
    for value in ["", "Any", "1", "loopback", "any "] {
        assert_eq!(options("OPTOKEN_BOOTSTRAP", value), Options::default(), "{value:?}");
    }
}

#[test]
fn regenerate_revokes_the_presented_token() {
    let (mut ports, old) = bootstrapped();
    let response = send(&mut ports, request("POST", REGENERATE, &old));
    assert_eq!(response.status, 201);
    let new = token_of(&response);
    assert_eq!(send(&mut ports, request("GET", VERIFY, &old)).status, 401);
    assert_eq!(send(&mut ports, request("GET", VERIFY, &new)).status, 200);
    let again = send(&mut ports, request("POST", REGENERATE, &old));
    assert_eq!((again.status, text(&again)), (401, r#"{"error": "the request was not authenticated"}"#));
    assert_eq!(header(&again, "www-authenticate"), r#"Bearer realm="influxdb3", error="invalid_token""#);
}

#[test]
fn regenerate_reads_an_overlap_from_json_only() {
    let request_with = |token: &str, content_type: &str, body: &str| {
        let mut request = request("POST", REGENERATE, token);
        request.headers.push(("content-type", content_type.to_owned()));
        request.body = body.into();
        request
    };
    let (mut ports, first) = bootstrapped();
    for (content_type, body, status, beginning) in [
        (
            "application/json",
            "{\"overlap_secs\":\"apiv3_secret\"}",
            400,
            "serde json error: invalid type: string \"[token]\"",
        ),
        ("application/json", "{", 400, "serde json error: EOF while parsing"),
        ("application/json", "{\"overlap_secs\":2592001}", 400, "at most 2592000 seconds are possible"),
    ] {
        let response = send(&mut ports, request_with(&first, content_type, body));
        assert_eq!(response.status, status);
        assert!(text(&response).starts_with(beginning), "{}", text(&response));
    }
    let mut gzip = request_with(&first, "application/json", "zip");
    gzip.headers.push(("content-encoding", "gzip".into()));
    let response = send(&mut ports, gzip);
    assert_eq!((response.status, text(&response)), (400, "unacceptable content-encoding: gzip"));
    let large =
        FakeRequest { body: vec![b' '; MAX_BODY_BYTES + 1], ..request_with(&first, "text/plain", "") };
    let response = send(&mut ports, large);
    assert_eq!((response.status, text(&response)), (413, "max request size (65536 bytes) exceeded"));
    assert_eq!(send(&mut ports, request("GET", VERIFY, &first)).status, 200, "nothing has changed");

    let overlapping = send(&mut ports, request_with(&first, "application/json", "{\"overlap_secs\":60}"));
    let second = token_of(&overlapping);
    assert_eq!(send(&mut ports, request("GET", VERIFY, &first)).status, 200);
    for (content_type, body) in [("text/plain", "{"), ("application/json", "")] {
        let (mut ports, token) = bootstrapped();
        assert_eq!(send(&mut ports, request_with(&token, content_type, body)).status, 201);
    }
    let replaced = send(&mut ports, request("POST", REGENERATE, &first));
    assert_eq!(replaced.status, 403);
    assert_eq!(text(&replaced), r#"{"error": "only the operator token may regenerate the operator token"}"#);
    assert_eq!(send(&mut ports, request("POST", REGENERATE, &second)).status, 201);
}

#[test]
fn forward_auth_has_status_and_headers_alone() {
    let (mut ports, token) = bootstrapped();
    for method in ["GET", "POST", "OPTIONS", "HEAD", "PATCH", "QUERY"] {
        let response = send(&mut ports, request(method, VERIFY, &token));
        assert_eq!((response.status, text(&response)), (200, ""), "{method}");
        assert_eq!(header(&response, "x-auth-token-id"), "0");
        assert_eq!(header(&response, "x-auth-token-name"), "_admin");
        assert_eq!(header(&response, "cache-control"), "no-store");
    }
    for path in ["/api/v3/verify/", "/api/v3/verify/orders/7"] {
        for method in ["GET", "OPTIONS", "POST"] {
            assert_eq!(send(&mut ports, request(method, path, &token)).status, 200, "{method} {path}");
            let refused = send(&mut ports, request(method, path, ""));
            assert_eq!((refused.status, text(&refused)), (401, ""), "{method} {path}");
        }
    }
    for scheme in ["bearer", "TOKEN"] {
        let headers = vec![("authorization", format!("{scheme} {token}"))];
        let any_case = FakeRequest { headers: headers.clone(), ..request("GET", VERIFY, "") };
        assert_eq!(send(&mut ports, any_case).status, 200, "{scheme}");
        let exact = FakeRequest { headers, ..request("GET", "/health", "") };
        assert_eq!(send(&mut ports, exact).status, 400, "{scheme}");
    }
    let headers = vec![("authorization", "Digest x".to_owned())];
    let malformed = FakeRequest { headers, ..request("GET", VERIFY, "") };
    for (request, error) in [
        (request("GET", VERIFY, ""), ""),
        (request("GET", VERIFY, "apiv3_other"), r#", error="invalid_token""#),
        (malformed, r#", error="invalid_request""#),
    ] {
        let response = send(&mut ports, request);
        assert_eq!((response.status, text(&response)), (401, ""));
        assert_eq!(header(&response, "www-authenticate"), format!(r#"Bearer realm="influxdb3"{error}"#));
    }
    ports.store_error = Some(StoreError::Unavailable("no disk".into()));
    let response = send(&mut ports, request("GET", VERIFY, &token));
    assert_eq!((response.status, text(&response)), (503, ""));
    assert_eq!(header(&response, "retry-after"), "1");
}

#[test]
fn store_errors_are_logged_and_not_sent() {
    let (mut ports, token) = bootstrapped();
    ports.store_error = Some(StoreError::Unavailable("no disk".into()));
    let mut regenerate = request("POST", REGENERATE, &token);
    let rejected = respond(&mut regenerate, &mut ports, Options::default());
    assert_eq!(rejected.status, 503);
    assert_eq!(text(&rejected), "tokens are not available at the moment, nothing was changed, try again");
    assert!(regenerate.log.borrow().contains("no disk"));
    ports.store_error = None;
    ports.stored.as_mut().unwrap().document = "damaged".into();
    assert_eq!(send(&mut ports, request("POST", OPERATOR, "")).status, 500);
}

#[test]
fn other_paths_are_404() {
    let (mut ports, token) = bootstrapped();
    for (method, path, token, status) in [
        ("GET", "/health", token.as_str(), 200),
        ("GET", "/api/v1/health", &token, 200),
        ("GET", "/health", "", 401),
        ("HEAD", "/health", &token, 200),
        ("HEAD", "/health", "", 401),
        ("HEAD", "/", &token, 404),
        ("HEAD", OPERATOR, "", 401),
        ("HEAD", REGENERATE, &token, 404),
        ("GET", "/api/v3/verifying", &token, 404),
        ("POST", "/health", &token, 404),
        ("GET", "/", &token, 404),
        ("GET", "/", "", 401),
        ("GET", OPERATOR, "", 401),
        ("GET", OPERATOR, &token, 404),
        ("PUT", OPERATOR, "", 404),
        ("POST", "/api/v3/configure/token/admin/", &token, 404),
        ("GET", REGENERATE, &token, 404),
        ("OPTIONS", REGENERATE, "", 204),
        ("OPTIONS", "/", "", 204),
    ] {
        assert_eq!(send(&mut ports, request(method, path, token)).status, status, "{method} {path}");
    }
    let options = send(&mut ports, request("OPTIONS", REGENERATE, ""));
    assert_eq!(header(&options, "allow"), "POST, OPTIONS");
    let options = send(&mut ports, request("OPTIONS", "/health", ""));
    assert_eq!(header(&options, "allow"), "GET, HEAD, OPTIONS");
    let open = Options { bootstrap: false, open_health: true };
    let healthy = respond(&mut request("GET", "/health", ""), &mut ports, open);
    assert_eq!((healthy.status, text(&healthy)), (200, "OK"));
}

/// Ports with an operator token and a token with these permissions, and that token.
fn scoped(permission: &str) -> (MemoryPorts, String) {
    let (mut ports, operator) = bootstrapped();
    let caller = Caller { credential: &operator, origin: "" };
    let issued = Authority::new(&mut ports).create_named(caller, "ci", Some(&[permission.into()]), Some(60));
    (ports, issued.unwrap().secret.expose().to_owned())
}

#[test]
fn scoped_token_is_refused_before_the_body_is_read() {
    let (mut ports, token) = scoped("http:/*:*");
    let refusal = r#"{"error": "the token lacks the permission for this"}"#;
    let challenge = r#"Bearer realm="influxdb3", error="insufficient_scope""#;
    for (method, path, body) in [
        ("GET", VERIFY, ""),
        ("OPTIONS", "/api/v3/verify/orders/7", ""),
        ("POST", REGENERATE, refusal),
        ("GET", REGENERATE, refusal),
        ("GET", OPERATOR, refusal),
        ("GET", "/", refusal),
        ("HEAD", "/orders/7", refusal),
        ("GET", "/health", refusal),
        ("POST", "/api/v1/health", refusal),
    ] {
        // A body that is read is a 413.
        let request = FakeRequest { body: vec![b' '; MAX_BODY_BYTES + 1], ..request(method, path, &token) };
        let response = send(&mut ports, request);
        assert_eq!((response.status, text(&response)), (403, body), "{method} {path}");
        assert_eq!(header(&response, "www-authenticate"), challenge, "{method} {path}");
        assert_eq!(header(&response, "x-auth-token-id"), "", "{method} {path}");
    }
}

#[test]
fn scoped_token_needs_its_permission_at_health() {
    for (permission, status) in [
        ("system:health:read", 200),
        ("system:*:read", 200),
        ("system:metrics,ping:read", 403),
        ("db:*:*", 403),
        ("http:/health:*", 403),
    ] {
        let (mut ports, token) = scoped(permission);
        for path in paths::HEALTH {
            for method in ["GET", "HEAD"] {
                let response = send(&mut ports, request(method, path, &token));
                assert_eq!(response.status, status, "{permission} {method} {path}");
            }
        }
        assert_eq!(send(&mut ports, request("GET", VERIFY, &token)).status, 403, "{permission}");
        ports.now += 60_000;
        for path in ["/health", "/", VERIFY] {
            assert_eq!(send(&mut ports, request("GET", path, &token)).status, 401, "{permission} {path}");
        }
        ports.store_error = Some(StoreError::Unavailable("no disk".into()));
        let mut health = request("GET", "/health", &token);
        assert_eq!(respond(&mut health, &mut ports, Options::default()).status, 503);
        assert!(health.log.borrow().contains("no disk"));
    }
}

#[test]
fn accepted_sequence_is_a_number() {
    let accepted = |value: &str| accepted_sequence(&[("OPTOKEN_ACCEPT_CATALOG_AT".into(), value.into())]);
    assert_eq!(accepted_sequence(&[]), Ok(None));
    assert_eq!(accepted("7"), Ok(Some(7)));
    for value in ["", "-1", "seven", "7 "] {
        assert!(accepted(value).unwrap_err().contains("OPTOKEN_ACCEPT_CATALOG_AT"), "{value:?}");
    }
}

#[test]
fn body_without_content_is_no_body() {
    let (mut ports, mut token) = bootstrapped();
    for body in ["", " ", "\r\n\t ", "null", " null\n"] {
        for content_type in ["application/json", "text/plain"] {
            let mut request = request("POST", REGENERATE, &token);
            request.headers.push(("content-type", content_type.into()));
            let response = send(&mut ports, FakeRequest { body: body.into(), ..request });
            assert_eq!(response.status, 201, "{body:?} {content_type}: {}", text(&response));
            token = token_of(&response);
        }
    }
}

#[test]
fn field_about_a_limit_is_rejected() {
    for (path, body, status) in [
        (REGENERATE, r#"{"overlap_secs":1,"note":"x","then":{"expires":1}}"#, 201),
        (REGENERATE, r#"{"expires_at":null}"#, 201),
        (REGENERATE, r#"["ttl"]"#, 201),
        (REGENERATE, r#"{"expiry_secs":60}"#, 400),
        (REGENERATE, r#"{"Expires-At":"2030-01-01"}"#, 400),
        (REGENERATE, r#"{"t t l":60}"#, 400),
        (REGENERATE, r#"{"lifeTime":60}"#, 400),
        (REGENERATE, r#"{"valid_until":60}"#, 400),
        (REGENERATE, r#"{"permissions":[]}"#, 400),
        (OPERATOR, r#"{"expiry_secs":60}"#, 400),
        (OPERATOR, r#"{"note":60}"#, 201),
    ] {
        for content_type in ["application/json", "text/plain"] {
            let (mut ports, token) = if path == OPERATOR { (empty(), String::new()) } else { bootstrapped() };
            let mut request = request("POST", path, &token);
            request.headers.push(("content-type", content_type.into()));
            // An array is no body of this endpoint.
            let is_array = body.starts_with('[') && content_type.ends_with("json");
            let response = send(&mut ports, FakeRequest { body: body.into(), ..request });
            let status = if is_array { 400 } else { status };
            assert_eq!(response.status, status, "{path} {body} {content_type}: {}", text(&response));
            if response.status == 400 && !is_array {
                assert!(text(&response).contains("unknown field"), "{}", text(&response));
            }
        }
    }
}

#[test]
fn fields_are_checked_like_those_of_the_server() {
    for (path, query, body, problem) in [
        (REGENERATE, Some("pretty=true"), "{}", None),
        (REGENERATE, Some("overlap_secs=60"), "{}", None),
        (
            REGENERATE,
            Some("a&e%78pires=60"),
            "{}",
            Some("unknown field \"expires\"; this request sets no expiry"),
        ),
        (OPERATOR, Some("ttl=60"), "", Some("unknown field \"ttl\"; this request sets no expiry")),
        (OPERATOR, Some("token=apiv3_x"), "", None),
        (REGENERATE, None, r#"{"note":1,"note":2}"#, Some("the field \"note\" stands twice")),
        (OPERATOR, None, r#"{"note":1,"note":2}"#, Some("the field \"note\" stands twice")),
        (REGENERATE, None, "[]", Some("serde json error: expected an object with the fields overlap_secs")),
        (REGENERATE, None, "[60]", Some("serde json error: expected an object with the fields overlap_secs")),
        (REGENERATE, None, "\"apiv3_x\"", Some("serde json error: expected an object with")),
        (REGENERATE, None, "[", Some("serde json error: expected an object with")),
        (REGENERATE, None, "{", Some("serde json error: EOF while parsing")),
    ] {
        let (mut ports, token) = if path == OPERATOR { (empty(), String::new()) } else { bootstrapped() };
        let mut request = request("POST", path, &token);
        request.headers.push(("content-type", "application/json".into()));
        let response = send(&mut ports, FakeRequest { query, body: body.into(), ..request });
        let status = if problem.is_some() { 400 } else { 201 };
        assert_eq!(response.status, status, "{path} {query:?} {body}: {}", text(&response));
        let beginning = problem.unwrap_or_default();
        assert!(text(&response).starts_with(beginning), "{}", text(&response));
    }
}

#[test]
fn basic_is_offered_to_programs_and_to_no_browser() {
    let mut ports = empty();
    let bearer = r#"Bearer realm="influxdb3""#;
    for (headers, offered) in [
        (vec![("user-agent", "Wget/1.21.3")], true),
        (vec![], false),
        (vec![("user-agent", "Mozilla/5.0")], false),
        (vec![("user-agent", "Wget/1.21.3"), ("origin", "http://localhost")], false),
        (vec![("user-agent", "Wget/1.21.3"), ("sec-fetch-site", "none")], false),
    ] {
        for path in ["/health", VERIFY, "/api/v3/verify/below"] {
            let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            let response = send(&mut ports, FakeRequest { headers, ..request("GET", path, "") });
            assert_eq!(response.status, 401);
            let challenges = response.headers.iter().filter(|(name, _)| *name == "www-authenticate");
            let challenges: Vec<_> = challenges.map(|(_, value)| value.as_ref()).collect();
            let expected = if offered { vec![bearer, r#"Basic realm="influxdb3""#] } else { vec![bearer] };
            assert_eq!(challenges, expected, "{path}");
        }
    }
}

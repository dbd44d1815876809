//! `serve --upstream` between hostile clients and a service that reports what it received.
//!
//! The service receives only what the permissions of the token cover, in bytes that every server
//! reads alike, and with the identity that the server states. A second implementation of the
//! permissions refuses each request that it can read in any way that they do not cover.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::hostile_requests::{HTTP, HTTP1, HTTP2, Http2Row, INFLUXDB3, Message, Row, TICKETS};
use crate::http2;
use crate::recorder::{Received, Recorder};
use crate::support::{
    self, CaseName, Connection, NAMED_ADMIN, Response, Server, TIMEOUT, TestEnv, get, post, remember_tokens,
};

/// The token of the service itself.
pub(crate) const UPSTREAM_TOKEN: &str =
    "apiv3_dXBzdHJlYW0tdG9rZW4tb2YtdGhlLXRlc3RzLXVwc3RyZWFtLXRva2VuLW9mLXRoZS10ZXN0cy0wMTIzNDU2Nzg5MAA";

/// A request that ends a connection. Its target reaches a service with few permissions.
const LAST: &str = "/last";

/// What the server speaks to the service.
const HTTP_VERSIONS: [&str; 2] = ["1.1", "2"];

/// A token of a client.
#[derive(Clone)]
pub(crate) struct ScopedToken {
    pub(crate) token: String,
    pub(crate) id: String,
    pub(crate) name: String,
}

impl ScopedToken {
    /// The token that a response has.
    pub(crate) fn of(response: &Response, name: &str) -> Self {
        Self { token: response.token(), id: response.json()["id"].to_string(), name: name.to_owned() }
    }
}

/// Creates a token with permissions, which have spaces between them.
pub(crate) fn create_scoped(server: &Server, operator: &str, name: &str, permissions: &str) -> ScopedToken {
    let permissions: Vec<_> = permissions.split(' ').collect();
    let token = support::create_scoped(server.address, operator, name, &permissions);
    let own = get("/api/v3/configure/token/self").bearer(&token).send(server.address).json();
    ScopedToken { token, id: own["id"].to_string(), name: name.to_owned() }
}

/// Writes the token of the service to a file.
pub(crate) fn upstream_token_file(env: &TestEnv) -> String {
    remember_tokens(UPSTREAM_TOKEN);
    let file = env.file("upstream-token", format!("{UPSTREAM_TOKEN}\n").as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.to_str().unwrap().to_owned()
}

/// A server in front of a service.
struct Setup {
    recorder: Recorder,
    server: Server,
    operator: String,
    /// Tokens by their permissions.
    tokens: RefCell<BTreeMap<String, ScopedToken>>,
    is_influxdb3: bool,
    /// What is wrong, in all rows of a table.
    faults: RefCell<Vec<String>>,
    _env: TestEnv,
}

impl Setup {
    fn new(kind: &str, http_version: &str) -> Self {
        let env = TestEnv::new();
        let recorder = Recorder::start();
        let (url, file) = (recorder.url(), upstream_token_file(&env));
        let mut options = vec!["--store", "memory:", "--upstream", &url, "--upstream-token-file", &file];
        options.extend(["--upstream-kind", kind, "--upstream-http-version", http_version]);
        let server = env.serve(&options);
        let operator = server.create();
        let is_influxdb3 = kind == "influxdb3";
        let (tokens, faults) = Default::default();
        Self { recorder, server, operator, tokens, is_influxdb3, faults, _env: env }
    }

    /// Returns the token with these permissions.
    fn token(&self, permissions: &str) -> ScopedToken {
        let mut tokens = self.tokens.borrow_mut();
        let name = format!("token {}", tokens.len());
        let create = || create_scoped(&self.server, &self.operator, &name, permissions);
        tokens.entry(permissions.to_owned()).or_insert_with(create).clone()
    }

    /// Sends the bytes of HTTP/1.1. Returns what the service received until the connection ended.
    fn send(&self, bytes: &[u8], token: &str) -> Vec<Received> {
        let last = format!(
            "GET {LAST} HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        read_to_end(self.server.address, &[&replace_token(bytes, token), last.as_bytes()].concat());
        let mut received = self.recorder.drain();
        received.retain(|request| request.target != LAST);
        received
    }

    /// Sends a request of HTTP/2, and returns what the service received.
    fn send_http2(&self, frames: &[Vec<u8>]) -> Vec<Received> {
        let mut stream = open(self.server.address);
        // The server may have closed it already.
        drop(stream.write_all(&[http2::opening(), frames.concat()].concat()));
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        http2::read_to_end(&mut stream);
        self.recorder.drain()
    }

    /// Notes what is wrong with what the service received, if these requests were expected.
    fn check(
        &self,
        name: &str,
        (token, permissions): (&ScopedToken, &str),
        received: &[Received],
        expected: &[&str],
    ) {
        let mut faults = self.faults.borrow_mut();
        let mut note = |fault: String| faults.push(format!("{name}: {fault}: {received:?}"));
        for request in received {
            for doubt in &request.doubts {
                note(format!("other servers may read another request: {doubt}"));
            }
            if let Err(reason) = covers(self.is_influxdb3, permissions, request) {
                note(format!("more than {permissions}: {reason}"));
            }
            identity_faults(token, request).into_iter().for_each(&mut note);
        }
        let complete = received.iter().filter(|request| request.is_complete);
        let lines: Vec<_> = complete.map(Received::line).collect();
        if lines != expected {
            note(format!("expected {expected:?}, not {lines:?}"));
        }
    }

    /// Notes a body that is not the one of the client.
    fn check_bodies(&self, name: &str, received: &[Received], body: &[u8]) {
        for request in received.iter().filter(|request| request.is_complete && request.body != body) {
            self.faults.borrow_mut().push(format!("{name}: another body: {request:?}"));
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let faults = self.faults.take();
        assert!(faults.is_empty() || thread::panicking(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends bytes, and reads until the server closes the connection.
fn read_to_end(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = open(address);
    let mut read = Vec::new();
    // The server may have closed it already.
    drop(stream.write_all(bytes));
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    if stream.read_to_end(&mut read).is_err() {
        // It waits for more of a body.
        drop(stream.shutdown(Shutdown::Write));
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        drop(stream.read_to_end(&mut read));
    }
    read
}

/// Puts the token in its place.
fn replace_token(bytes: &[u8], token: &str) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(5).position(|window| window == b"TOKEN") {
        replaced.extend([&rest[..at], token.as_bytes()].concat());
        rest = &rest[at + 5..];
    }
    [&replaced, rest].concat()
}

fn to_bytes(row: &Row) -> Vec<u8> {
    let mut head = row.line.to_owned();
    head += if row.line.contains(" HTTP/") { "\r\n" } else { " HTTP/1.1\r\n" };
    let has = |name: &str| row.headers.lines().any(|line| line.starts_with(name));
    if !has("Host:") {
        head += "Host: service.example\r\n";
    }
    if !row.headers.contains("TOKEN") {
        head += "Authorization: Bearer TOKEN\r\n";
    }
    if !has("Transfer-Encoding:") && !has("Content-Length:") && !row.body.is_empty() {
        head.extend(["Content-Length: ", &row.body.len().to_string(), "\r\n"]);
    }
    format!("{head}{}\r\n{}", row.headers, row.body).into_bytes()
}

/// Sends the rows of a table. Returns how many there are.
fn send_rows(setup: &Setup, rows: &[Row]) -> usize {
    for row in rows {
        let _case = CaseName(row.name);
        let token = setup.token(row.permissions);
        let received = setup.send(&to_bytes(row), &token.token);
        setup.check(row.name, (&token, row.permissions), &received, row.arrives.as_slice());
        if !row.headers.contains("Transfer-Encoding") {
            setup.check_bodies(row.name, &received, row.body.as_bytes());
        }
    }
    rows.len()
}

/// Paths, hosts, methods and headers, with a token for a part of a service.
pub(crate) fn http_permissions_hold_for_hostile_requests() {
    for http_version in HTTP_VERSIONS {
        let setup = Setup::new("http", http_version);
        assert!(send_rows(&setup, HTTP) >= 120);
        setup.server.allow_redaction();
    }
}

/// A token with all permissions. What has no certain reading is passed on as it is.
pub(crate) fn admins_pass_what_permissions_cannot_name() {
    let setup = Setup::new("http", "1.1");
    let named = post(NAMED_ADMIN).bearer(&setup.operator).json(&json!({"token_name": "admin"}));
    let admin = ScopedToken::of(&named.send(setup.server.address), "admin");
    for (sent, arrives) in [
        ("GET /group%2Fproject/%2e%2e", "GET /group%2Fproject/%2e%2e"),
        ("GET /a/..%5cb", "GET /a/..%5cb"),
        ("GET /a;x=1/b", "GET /a;x=1/b"),
        ("GET /a/%25", "GET /a/%25"),
        ("GET /a//../b", "GET /a//../b"),
        ("GET /a/../b/%63", "GET /b/c"),
        ("PURGE /a", "PURGE /a"),
        // No path of the server itself.
        ("GET /api/v3/configure%2ftoken", "GET /api/v3/configure%2ftoken"),
        ("DELETE /api/v3/x;/../configure/token", "DELETE /api/v3/x;/../configure/token"),
    ] {
        let bytes =
            format!("{sent} HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\n\r\n");
        let received = setup.send(bytes.as_bytes(), &admin.token);
        let lines: Vec<_> = received.iter().map(Received::line).collect();
        assert_eq!(lines, [arrives], "{sent}");
        assert_eq!(identity_faults(&admin, &received[0]), [""; 0], "{sent}");
    }
    setup.server.allow_redaction();
}

/// Requests to `InfluxDB` 3 Core, with a token for one database.
pub(crate) fn database_permissions_hold_for_hostile_requests() {
    let setup = Setup::new("influxdb3", "auto");
    assert!(send_rows(&setup, INFLUXDB3) >= 100);
    // More than the server reads.
    let token = setup.token("db:a:read");
    let long = format!("{{\"db\":\"a\",\"q\":\"{}\"}}", "x".repeat(1 << 20));
    let head = format!(
        "POST /api/v3/query_sql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nContent-Length: {}\r\n\r\n",
        long.len()
    );
    let received = setup.send(format!("{head}{long}").as_bytes(), &token.token);
    setup.check("long body", (&token, "db:a:read"), &received, &[]);
    setup.server.allow_redaction();
}

/// Calls of Arrow Flight, with a token for one database.
pub(crate) fn ticket_permissions_hold_for_hostile_calls() {
    let setup = Setup::new("influxdb3", "auto");
    for row in TICKETS {
        let _case = CaseName(row.name);
        let token = setup.token(row.permissions);
        let path = match row.method {
            path if path.starts_with('/') => path.to_owned(),
            method => format!("/arrow.flight.protocol.FlightService/{method}"),
        };
        let authorization = format!("Bearer {}", token.token);
        let mut fields = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path.as_str()),
            (":authority", "service.example"),
            ("te", "trailers"),
            ("authorization", authorization.as_str()),
        ];
        if !row.fields.iter().any(|(name, _)| *name == "content-type") {
            fields.push(("content-type", "application/grpc"));
        }
        fields.extend(row.fields);
        let body = match row.message {
            Message::Raw(bytes) => bytes.to_vec(),
            Message::Ticket(ticket) => {
                let length = u8::try_from(ticket.len()).unwrap();
                assert!(length < 0x80);
                [&[0, 0, 0, 0, length + 2, 0x0a, length], ticket].concat()
            }
        };
        let received = setup.send_http2(&[http2::fields(&fields, false), http2::data(&body, true)]);
        let expected: Vec<_> = row.arrives.then(|| format!("POST {path}")).into_iter().collect();
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        setup.check(row.name, (&token, row.permissions), &received, &expected);
        setup.check_bodies(row.name, &received, &body);
    }
}

/// Bytes of HTTP/1.1 that a lenient server reads as two requests.
pub(crate) fn one_ambiguous_http1_request_is_no_second() {
    for http_version in HTTP_VERSIONS {
        let setup = Setup::new("http", http_version);
        for row in HTTP1 {
            let _case = CaseName(row.name);
            let token = setup.token(row.permissions);
            let received = setup.send(row.bytes, &token.token);
            setup.check(row.name, (&token, row.permissions), &received, row.arrives);
        }
    }
}

/// Frames of HTTP/2 that would be two requests in HTTP/1.1.
pub(crate) fn one_ambiguous_http2_request_is_no_second() {
    for http_version in HTTP_VERSIONS {
        let setup = Setup::new("http", http_version);
        for row in HTTP2 {
            let _case = CaseName(row.name);
            let token = setup.token(row.permissions);
            let received = setup.send_http2(&http2_frames(row, &token.token));
            setup.check(row.name, (&token, row.permissions), &received, row.arrives.as_slice());
        }
    }
}

/// Some clients lose a response whose stream is reset before their body has its end.
pub(crate) fn refusal_over_http2_resets_no_short_body() {
    let setup = Setup::new("http", "1.1");
    let scoped = format!("Bearer {}", setup.token("http:/a/*:read").token);
    for (path, authorization) in [
        ("/a/x", "Bearer apiv3_wrong"),
        ("/a/x", scoped.as_str()),
        ("/api/v3/configure/token/named_admin", "Bearer apiv3_wrong"),
        ("/api/v3/configure/token/named_admin", scoped.as_str()),
    ] {
        let _case = CaseName(path);
        let head = [("authorization", authorization), ("content-length", "2")];
        let mut connection = Connection::open(setup.server.address).unwrap();
        connection.write(&http2::opening());
        connection.write(&http2::request("POST", path, &head, false));
        http2::read_data(&mut connection);
        assert!(!http2::kinds_until_ping(&mut connection).contains(&http2::RST_STREAM));
        connection.write(&http2::data(b"{}", true));
        assert!(!http2::kinds_until_ping(&mut connection).contains(&http2::RST_STREAM));
    }
    assert!(setup.recorder.drain().is_empty());
}

fn http2_frames(row: &Http2Row, token: &str) -> Vec<Vec<u8>> {
    let authorization = format!("Bearer {token}");
    let mut fields = row.fields.to_vec();
    fields.push(("authorization", &authorization));
    let (has_data, has_trailers) = (row.data.is_some(), !row.trailers.is_empty());
    let mut frames = vec![http2::fields(&fields, !has_data && !has_trailers)];
    frames.extend(row.data.map(|data| http2::data(data, !has_trailers)));
    if has_trailers {
        frames.push(http2::fields(row.trailers, true));
    }
    frames
}

/// Returns what is wrong with the identity in a request, or what of the client is left in it.
fn identity_faults(token: &ScopedToken, request: &Received) -> Vec<String> {
    let upstream = format!("Bearer {UPSTREAM_TOKEN}");
    let host = request.values("host").first().copied().unwrap_or_default().to_ascii_lowercase();
    let mut faults = Vec::new();
    for (name, expected) in [
        ("host", &[host.trim_end_matches('.')][..]),
        ("authorization", &[&upstream]),
        ("proxy-authorization", &[]),
        ("x-auth-token-id", &[&token.id]),
        ("x-auth-token-name", &[&token.name.replace(' ', "%20")]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-host", &[&host]),
        ("x-forwarded-proto", &["http"]),
        ("x-real-ip", &["127.0.0.1"]),
        ("forwarded", &[]),
        ("x-original-url", &[]),
        ("x-original-uri", &[]),
        ("x-rewrite-url", &[]),
        ("x-http-method", &[]),
        ("x-http-method-override", &[]),
        ("x-method-override", &[]),
    ] {
        let values = request.values(name);
        if values != expected {
            faults.push(format!("{name} is {values:?}, not {expected:?}"));
        }
    }
    for (name, value) in &request.headers {
        let alike = name.replace('_', "-");
        let is_known = ["x-auth-token-id", "x-auth-token-name"].contains(&alike.as_str());
        if alike != *name && RESERVED.contains(&alike.as_str())
            || !is_known && alike.starts_with("x-auth-token")
        {
            faults.push(format!("the header {name}"));
        }
        if value.contains(&token.token) {
            faults.push(format!("the token of the client in {name}"));
        }
    }
    if request.target.contains(&token.token) {
        faults.push("the token of the client in the target".to_owned());
    }
    faults
}

/// Headers that services may read with underscores, too.
const RESERVED: [&str; 5] =
    ["authorization", "x-auth-token-id", "x-auth-token-name", "x-forwarded-for", "x-real-ip"];

/// Returns why the permissions do not cover a request, read in any way.
fn covers(is_influxdb3: bool, permissions: &str, request: &Received) -> Result<(), String> {
    let path = request.target.split(['?', '#']).next().unwrap();
    if !is_influxdb3 {
        let host = request.values("host")[0].split(':').next().unwrap().to_owned();
        let uncovered = readings(path).into_iter().find(|path| {
            !permissions.split(' ').any(|permission| covers_path(permission, &request.method, &host, path))
        });
        return uncovered.map_or(Ok(()), |path| Err(format!("{} {path}", request.method)));
    }
    let action = match (request.method.as_str(), path) {
        ("POST", "/write" | "/api/v2/write" | "/api/v3/write_lp") => "write",
        ("POST", "/api/v3/configure/database") => "create",
        ("GET" | "POST", "/query" | "/api/v3/query_sql" | "/api/v3/query_influxql") => "read",
        ("POST", path) if path.starts_with("/arrow.flight.protocol.FlightService/") => "read",
        ("GET", "/health" | "/ping" | "/metrics") => {
            let permission = format!("system:{}:read", &path[1..]);
            return if permissions.split(' ').any(|given| given == permission) {
                Ok(())
            } else {
                Err(permission)
            };
        }
        other => return Err(format!("no permission is for {other:?}")),
    };
    let names = named_databases(request);
    if names.is_empty() {
        return Err("no database".to_owned());
    }
    let covers = |name: &String| {
        permissions.split(' ').any(|permission| {
            let [kind, names, actions] = permission.split(':').collect::<Vec<_>>()[..] else { return false };
            kind == "db"
                && actions.split(',').any(|given| given == action)
                && names.split(',').any(|given| given == name || given == "*" && !name.starts_with('_'))
        })
    };
    names.iter().find(|name| !covers(name)).map_or(Ok(()), |name| Err(format!("{action} {name}")))
}

fn covers_path(permission: &str, method: &str, host: &str, path: &str) -> bool {
    let Some((pattern, actions)) = permission.strip_prefix("http:").and_then(|rest| rest.rsplit_once(':'))
    else {
        return false;
    };
    let (of_host, of_path) = pattern.split_at(pattern.find('/').unwrap());
    let reads = matches!(method, "GET" | "HEAD" | "OPTIONS");
    (of_host.is_empty() || of_host == host)
        && actions.split(',').any(|action| match action {
            "read" => reads,
            "write" => !reads,
            named => named == method,
        })
        && match of_path.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == of_path,
        }
}

/// Returns all paths that servers could read in a path.
fn readings(path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([path.to_owned()]);
    loop {
        let more: Vec<_> = found
            .iter()
            .flat_map(|path| {
                let without_parameters = path.split('/').map(|part| part.split(';').next().unwrap());
                [
                    decode(path),
                    path.replace('\\', "/"),
                    without_parameters.collect::<Vec<_>>().join("/"),
                    path.split(['\0', '?', '#']).next().unwrap().to_owned(),
                    without_dots(path, false),
                    without_dots(path, true),
                ]
            })
            .collect();
        let before = found.len();
        found.extend(more);
        if found.len() == before {
            return found;
        }
    }
}

/// Removes dot segments, and empty ones if they do not count.
fn without_dots(path: &str, drops_empty: bool) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            "" if drops_empty => {}
            segment => segments.push(segment),
        }
    }
    let is_folder = [".", "..", ""].contains(&path.rsplit('/').next().unwrap());
    let end = if is_folder && segments.last().is_some_and(|last| !last.is_empty()) { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// Decodes percent-encoding, and leaves what is invalid.
fn decode(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let encoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *byte == b'%');
        rest = if encoded.is_some() { &behind[2..] } else { behind };
        decoded.push(encoded.unwrap_or(*byte));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Returns every database that a server could find in a request.
fn named_databases(request: &Received) -> Vec<String> {
    const NAMES: [&str; 7] =
        ["db", "database", "bucket", "bucket-name", "namespace_name", "iox-namespace-name", "rp"];
    let is_name = |name: &str| NAMES.contains(&name.to_ascii_lowercase().as_str());
    let mut found = Vec::new();
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    for pair in [query, &body].iter().flat_map(|text| text.split(['&', ';', '?'])) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if is_name(&decode(name)) && !(name == "rp" && value == "autogen") {
            found.push(decode(&value.replace('+', " ")));
        }
    }
    for (name, value) in &request.headers {
        if is_name(name) {
            found.push(value.clone());
        }
    }
    // Members of JSON, wherever they stand, even after an escape.
    let mut json = body.clone();
    for byte in 0x20..0x7f {
        json = json.replace(&format!("\\u{byte:04x}"), &char::from(byte).to_string());
    }
    let strings: Vec<_> = json.split('"').collect();
    for part in strings.windows(4) {
        if is_name(part[0]) && part[1].trim() == ":" {
            found.push(part[2].to_owned());
        }
    }
    // A query in `InfluxQL` may name databases, and change them.
    let texts = [decode(&query.replace('+', " ")), json].map(|text| text.to_ascii_lowercase());
    if request.target.contains("influxql")
        || request.target.starts_with("/query")
        || texts[1].contains("influxql")
    {
        for sign in ["..", ".\\\"", "\\\".", " on ", "drop ", "into ", "delete ", "; ", "databases"] {
            if texts.iter().any(|text| text.contains(sign)) {
                found.push(format!("a query with {sign:?}"));
            }
        }
    }
    found
}

/// The second implementation finds what it must find.
pub(crate) fn second_matcher_refuses_what_it_must() {
    let received = |line: &str, body: &str| {
        let (method, target) = line.split_once(' ').unwrap();
        Received {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("host".to_owned(), "service.example".to_owned())],
            body: body.as_bytes().to_vec(),
            is_complete: true,
            doubts: Vec::new(),
        }
    };
    for (permissions, line, expected) in [
        ("http:/a/*:read", "GET /a/x", true),
        ("http:/a/*:read", "GET /a/x?/../b", true),
        ("http:/a/*:read", "GET /a/%252e%252e/b", false),
        ("http:/a/*:read", "GET /a/..%5cb", false),
        ("http:/a/*:read", "GET /a/..;x/b", false),
        ("http:/a/*:read", "GET /a//../b", false),
        ("http:/a/*:read", "GET /a/x%00/../../b", false),
        ("http:/a/*:read", "POST /a/x", false),
        ("http:/a/*:write", "POST /a/x", true),
        ("http:/a/*:GET", "HEAD /a/x", false),
        ("http:/a:GET", "GET /a/", false),
        ("http:service.example/*:read", "GET /", true),
        ("http:other.example/*:read", "GET /", false),
    ] {
        assert_eq!(covers(false, permissions, &received(line, "")).is_ok(), expected, "{permissions} {line}");
    }
    for (permissions, line, body, expected) in [
        ("db:a:read", "GET /api/v3/query_sql?db=a", "", true),
        ("db:a,b:read", "GET /api/v3/query_sql?db=b", "", true),
        ("db:*:read", "GET /api/v3/query_sql?db=_internal", "", false),
        ("db:a:read", "GET /api/v3/query_sql?db=a;db=b", "", false),
        ("db:a:read", "GET /api/v3/query_sql?db=a&D%62=b", "", false),
        ("db:a:read", "GET /api/v3/query_sql", "", false),
        ("db:a:read", "POST /api/v3/query_sql", r#"{"db":"a","x":{"d\u0062" : "b"}}"#, false),
        ("db:a:read", "POST /api/v3/query_influxql", r#"{"db":"a","q":"select * from b..m"}"#, false),
        ("db:a:write", "GET /api/v3/query_sql?db=a", "", false),
        ("db:a:write", "POST /write?db=a&rp=b", "", false),
        ("db:a:create", "POST /api/v3/configure/database", r#"{"db":"a"}"#, true),
        ("db:a:create", "DELETE /api/v3/configure/database", r#"{"db":"a"}"#, false),
        ("http:/*:read", "GET /api/v3/query_sql?db=a", "", false),
    ] {
        let found = covers(true, permissions, &received(line, body));
        assert_eq!(found.is_ok(), expected, "{permissions} {line} {body}: {found:?}");
    }
}

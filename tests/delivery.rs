//! A request has one answer, however its bytes arrive: in one piece or in many, as the first of a
//! connection or as a later one, and with its body or before it.
//!
//! A server answers most requests at once, and others later. What arrives when decides which parts
//! of it do so. The rows of `compat` pass through here, too.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::hostile_requests::HTTP1;
use crate::http2;
use crate::support::{
    CONFIRM, CREATE, CaseName, Connection, NAMED_ADMIN, REGENERATE, Request, Server, TIMEOUT, TOKENS,
    TestEnv, VERIFY, create_named, create_scoped, eventually, get, request,
};

/// How the bytes of a request arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// In one piece, on a new connection.
    First,
    /// In one piece, on a connection that has had a request.
    Next,
    /// In one piece with the request before it.
    Pipelined,
    /// Byte by byte, on a new connection.
    FirstInBytes,
    /// Byte by byte, on a connection that has had a request.
    NextInBytes,
    /// The body after the head.
    LateBody,
}

const DELIVERIES: [Delivery; 6] = [
    Delivery::First,
    Delivery::Next,
    Delivery::Pipelined,
    Delivery::FirstInBytes,
    Delivery::NextInBytes,
    Delivery::LateBody,
];

/// A request that needs no token and is not logged.
const BEFORE: &[u8] = b"OPTIONS /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Bytes that are sent one by one. The rest of a longer request follows in one piece.
const SINGLE_BYTES: usize = 600;

/// Headers whose values differ between two responses.
const VARYING: [&str; 3] = ["date: ", "request-id: ", "x-request-id: "];

/// What stands before the time of the last use of the operator token.
const LAST_USE: &str = "\"last_used_at\":\"";

/// The end of the head of a request.
fn head_length(bytes: &[u8]) -> usize {
    bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Reads the first response: head, and body if it is none to HEAD. Returns what came if the server
/// closes the connection before.
fn read_response(stream: &mut TcpStream, is_head: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    let length = loop {
        if bytes.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8(bytes.clone()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            break length.map_or(0, |length| length.parse().unwrap());
        }
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the server does not respond"),
            // A client that is slower than the response may also see a reset.
            _ => return bytes,
        }
    };
    if !is_head {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        bytes.extend_from_slice(&body);
    }
    bytes
}

/// Sends a request in this way, and returns the response without what varies.
fn answer(to: SocketAddr, request: &[u8], delivery: Delivery) -> String {
    let mut stream = connect(to);
    let is_head = request.starts_with(b"HEAD ");
    let has_earlier = !matches!(delivery, Delivery::First | Delivery::FirstInBytes);
    if delivery == Delivery::Pipelined {
        stream.write_all(&[BEFORE, request].concat()).unwrap();
    } else if has_earlier {
        stream.write_all(BEFORE).unwrap();
    }
    if has_earlier {
        assert!(read_response(&mut stream, false).starts_with(b"HTTP/1.1 204 "));
    }
    // The server may respond, and close, before it has read everything.
    let _ = match delivery {
        Delivery::Pipelined => Ok(()),
        Delivery::First | Delivery::Next => stream.write_all(request),
        Delivery::FirstInBytes | Delivery::NextInBytes => {
            let (single, rest) = request.split_at(request.len().min(SINGLE_BYTES));
            single.chunks(1).chain([rest]).try_for_each(|part| stream.write_all(part))
        }
        Delivery::LateBody => {
            let (head, body) = request.split_at(head_length(request));
            stream.write_all(head).and_then(|()| {
                // Meanwhile the server reads the head.
                let mut other = connect(to);
                other.write_all(BEFORE).unwrap();
                read_response(&mut other, false);
                stream.write_all(body)
            })
        }
    };
    let response = read_response(&mut stream, is_head);
    let response = String::from_utf8_lossy(&response).into_owned();
    let _ = stream.shutdown(Shutdown::Both);
    let varying = |line: &str| VARYING.into_iter().find(|name| line.starts_with(name));
    let response: String =
        response.split_inclusive("\r\n").map(|line| varying(line).unwrap_or(line)).collect();
    // Each check of the operator token moves its last use.
    match response.split_once(LAST_USE) {
        Some((before, rest)) => format!("{before}{LAST_USE}{}", rest.split_once('"').unwrap().1),
        None => response,
    }
}

/// Asserts that a request has the same response, byte for byte, in whichever way it arrives.
#[track_caller]
fn assert_one_answer(to: SocketAddr, request: &[u8]) -> String {
    let [first, others @ ..] = DELIVERIES;
    let expected = answer(to, request, first);
    for delivery in others {
        let found = answer(to, request, delivery);
        assert_eq!(found, expected, "{delivery:?}: {}", String::from_utf8_lossy(request));
    }
    expected
}

/// Asserts that for a request that had a response of this status, unless it changes something or
/// its response has a time.
#[track_caller]
pub(crate) fn assert_irrelevant(to: SocketAddr, request: &Request, status: u16) {
    let (method, path) = request.target();
    let reads = matches!(method, "GET" | "HEAD" | "OPTIONS");
    let has_time = matches!(path, "/metrics" | "/api/v3/optoken/metrics" | "/api/v3/optoken/status");
    if (reads && !has_time && status < 500) || (400..500).contains(&status) {
        assert_one_answer(to, &request.to(to).to_bytes());
    }
}

/// Tokens of each kind.
struct Tokens {
    operator: String,
    named: String,
    expired: String,
    deleted: String,
    scoped: String,
}

impl Tokens {
    fn create(server: &Server) -> Self {
        let operator = server.create();
        let named = create_named(&operator, "Grüße, 50%").send(server.address).token();
        let expired = request("POST", NAMED_ADMIN).bearer(&operator);
        let expired = expired.json(&serde_json::json!({"token_name": "expired", "expiry_secs": 0}));
        let expired = expired.send(server.address).token();
        let deleted = create_named(&operator, "deleted").send(server.address).token();
        let deletion = request("DELETE", &format!("{TOKENS}?token_name=deleted")).bearer(&operator);
        assert_eq!(deletion.send(server.address).status, 200);
        let scoped = create_scoped(server.address, &operator, "scoped", &["system:health:read"]);
        Self { operator, named, expired, deleted, scoped }
    }

    /// Values of the `Authorization` header.
    fn credentials(&self) -> Vec<Option<String>> {
        let Self { operator, named, expired, deleted, scoped } = self;
        let bearers = [operator, named, expired, deleted, scoped].map(|token| format!("Bearer {token}"));
        let others = [format!("Token {named}"), format!("bearer {named}"), "Bearer x".into(), "x".into()];
        bearers.into_iter().chain(others).map(Some).chain([None]).collect()
    }
}

const PATHS: [&str; 11] = [
    VERIFY,
    "/api/v3/verify/orders?p=x",
    "/api/v3/verifying",
    "/health",
    "/ping",
    TOKENS,
    CREATE,
    CONFIRM,
    "/query?p=x",
    "/nowhere",
    "*",
];

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "TRACE", "CONNECT", "X"];

#[test]
fn response_depends_on_no_delivery() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let tokens = Tokens::create(&server);
    for path in PATHS {
        for method in METHODS {
            if path == "*" && method != "OPTIONS" {
                continue;
            }
            for credential in tokens.credentials() {
                let bare = request(method, path).header("User-Agent", "test");
                let request = credential.iter().fold(bare, |request, value| request.authorization(value));
                let _case = CaseName(format!("{method} {path} {credential:?}"));
                let bytes = request.to_bytes();
                let answer = assert_one_answer(server.address, &bytes);
                assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            }
        }
    }
}

#[test]
fn response_depends_on_no_body() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:", "--max-http-request-size", "200"]);
    let tokens = Tokens::create(&server);
    let credentials = [Some(&tokens.operator), Some(&tokens.scoped), Some(&tokens.deleted), None];
    for (method, path) in [
        ("GET", VERIFY),
        ("POST", VERIFY),
        ("HEAD", VERIFY),
        ("GET", "/health"),
        ("HEAD", "/health"),
        ("OPTIONS", "/health"),
        ("POST", "/nowhere"),
        ("POST", NAMED_ADMIN),
        ("POST", CREATE),
    ] {
        for credential in credentials {
            let bare = || request(method, path).header("Content-Type", "application/json");
            let with = || credential.iter().fold(bare(), |request, token| request.bearer(token));
            for request in [
                with().body(b"{"),
                with().body(b""),
                with().body(&[b' '; 300]),
                with().chunked(b"{", 1),
                with().chunked(&[b' '; 300], 100),
                with().header("Expect", "100-continue").body(b"{"),
                with().header("Connection", "close").body(b"{"),
            ] {
                let is_interim = path == NAMED_ADMIN && format!("{request:?}").contains("Expect");
                if is_interim && credential == Some(&tokens.operator) {
                    // The server asks for the body only if it is not there already.
                    continue;
                }
                let _case = CaseName(format!("{request:?}"));
                assert_one_answer(server.address, &request.to_bytes());
            }
        }
    }
}

#[test]
fn malformed_requests_have_one_answer() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    server.allow_redaction();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("TOKEN", &token);
    for row in HTTP1 {
        let _case = CaseName(row.name);
        // At paths that exist, too: the framing is that of the row.
        for path in ["/a/x", "/health", VERIFY] {
            let bytes = text(row.bytes).replacen("/a/x", path, 1);
            assert_one_answer(server.address, bytes.as_bytes());
        }
    }
    for head in [
        "GET /health HTTP/1.1\r\n",
        "GET http://localhost/health HTTP/1.1\r\n",
        "GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        "GET /health HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n",
        "GET /health HTTP/1.0\r\n",
        "GET /health HTTP/1.1\r\nHost: local host\r\n",
        "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n",
        "GET /api/v3/verify HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer TOKEN\r\nAuthorization: x\r\n",
        "GET /api/v3/verify HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    ] {
        let _case = CaseName(head);
        assert_one_answer(server.address, text(format!("{head}\r\n").as_bytes()).as_bytes());
    }
}

#[test]
fn response_depends_on_no_delivery_without_auth() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:", "--without-auth"]);
    for path in PATHS {
        for method in METHODS {
            if path == "*" && method != "OPTIONS" {
                continue;
            }
            for credential in [None, Some("Bearer x"), Some("x")] {
                let bare = request(method, path);
                let request = credential.iter().fold(bare, |request, value| request.authorization(value));
                assert_one_answer(server.address, &request.to_bytes());
            }
        }
    }
}

/// The frames of the response to the first stream, up to its end.
fn read_frames(connection: &mut Connection) -> Vec<(u8, u8, Vec<u8>)> {
    const END_STREAM: u8 = 1;
    let mut frames = Vec::new();
    loop {
        let head = connection.read_bytes(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let payload = connection.read_bytes(length as usize);
        let (kind, flags, stream) = (head[3], head[4], &head[5..]);
        if stream == [0, 0, 0, 1] {
            frames.push((kind, flags, payload));
            if kind == http2::RST_STREAM || flags & END_STREAM != 0 {
                return frames;
            }
        }
    }
}

#[test]
fn response_over_http2_depends_on_no_delivery() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let tokens = Tokens::create(&server);
    let send = |parts: &[Vec<u8>]| {
        let mut connection = Connection::open(server.address).unwrap();
        for part in parts {
            connection.write(part);
        }
        read_frames(&mut connection)
    };
    for path in [VERIFY, "/api/v3/verify/x", "/health", TOKENS, REGENERATE, "/nowhere"] {
        for method in ["GET", "HEAD", "OPTIONS", "POST"] {
            for credential in tokens.credentials() {
                // It changes something.
                if (method, path) == ("POST", REGENERATE) && credential.as_ref().is_some_and(|c| c.len() > 50)
                {
                    continue;
                }
                let headers: Vec<_> = credential.iter().map(|value| ("authorization", &**value)).collect();
                for body in [None, Some(&b"{}"[..])] {
                    let _case = CaseName(format!("{method} {path} {credential:?} {body:?}"));
                    let opening = http2::opening();
                    let head = http2::request(method, path, &headers, body.is_none());
                    let body = body.map(http2::body).unwrap_or_default();
                    let whole = [&*opening, &*head, &*body].concat();
                    let bytes: Vec<_> = whole.iter().map(|byte| vec![*byte]).collect();
                    // The date is a part of the head, and compressed.
                    eventually("one answer within a second", || {
                        let expected = send(std::slice::from_ref(&whole));
                        send(&bytes) == expected
                            && send(&[opening.clone(), head.clone(), body.clone()]) == expected
                    });
                }
            }
        }
    }
    // Behind another request on the connection: the same status and fields, at the same places of
    // the table.
    let bearer = format!("Bearer {}", tokens.named);
    let verify =
        |stream| http2::request_on(stream, "localhost", "GET", VERIFY, &[("authorization", &bearer)], true);
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(&[http2::opening(), verify(1), verify(3), verify(5)].concat());
    let mut heads = 0;
    while heads < 3 {
        let (kind, payload) = http2::read_frame(&mut connection);
        if kind == http2::HEADERS {
            assert_eq!(payload[0], http2::STATUS_200, "{payload:?}");
            heads += 1;
        }
    }
    assert_eq!(get("/health").bearer(&tokens.named).send(server.address).status, 200);
}

//! The edges of HTTP on both listeners: hosts, lengths of bodies, responses to requests that are
//! still arriving, silent connections, and lines of the log that clients without a token cause.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::http2;
use crate::support::{
    CONFIRM, CREATE, CaseName, Connection, NAMED_ADMIN, RECOVERY, REGENERATE, Request, STAGE, Server,
    TIMEOUT, TestEnv, VERIFY, eventually, get, post, remember_tokens,
};

/// Sends bytes and reads up to the end of the connection.
fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    String::from_utf8(received).unwrap()
}

#[test]
fn requests_without_valid_host_are_rejected() {
    let env = TestEnv::new();
    let server = env.serve_with(&RECOVERY).args(&["--disable-authz", "health"]).start();
    server.create();
    let no_host = "the request has no Host header";
    let two = "the request names its host more than once";
    let malformed = "the Host header is malformed";
    for to in [server.address, server.recovery()] {
        for (head, text) in [
            ("GET /health HTTP/1.1\r\n", no_host),
            ("GET http://localhost/health HTTP/1.1\r\n", no_host),
            ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", two),
            ("GET /health HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n", two),
            ("GET /health HTTP/1.1\r\nHost: local host\r\n", malformed),
            ("GET /health HTTP/1.1\r\nHost: a@localhost\r\n", malformed),
            ("OPTIONS * HTTP/1.1\r\n", no_host),
        ] {
            // A second request on the connection has no response.
            let second = "\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let response = exchange(to, format!("{head}{second}").as_bytes());
            assert!(
                response.starts_with("HTTP/1.1 400 ") || response.starts_with("HTTP/1.0 400 "),
                "{response}"
            );
            assert!(response.ends_with(&format!("\r\n\r\n{text}")), "{head}: {response}");
            assert!(response.contains("connection: close\r\n"), "{head}: {response}");
        }
    }
    server.wait_for_log(&format!("malformed request: {two}"));
    // Health checks of old proxies.
    for head in [
        "GET /health HTTP/1.0\r\n",
        "GET /health HTTP/1.0\r\nHost: localhost\r\n",
        "GET /health HTTP/1.1\r\nHost:\r\n",
    ] {
        let response = exchange(server.address, format!("{head}Connection: close\r\n\r\n").as_bytes());
        assert!(response.contains(" 200 OK\r\n") && response.ends_with("\r\n\r\nOK"), "{head}: {response}");
    }
}

#[test]
fn http2_host_agrees_with_authority() {
    let env = TestEnv::new();
    let server = env.serve(&["--disable-authz", "health"]);
    for (headers, body) in [
        (&[][..], "OK"),
        (&[("host", "localhost")], "OK"),
        (&[("host", "evil.example")], "the request names its host more than once, with different names"),
        (&[("host", "localhost"), ("host", "localhost")], "the request names its host more than once"),
    ] {
        let mut connection = Connection::open(server.address).unwrap();
        connection.write(&http2::opening());
        connection.write(&http2::request_to("localhost", "GET", "/health", headers, true));
        assert_eq!(http2::read_data(&mut connection), body, "{headers:?}");
    }
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(&http2::opening());
    connection.write(&http2::request_without_authority("GET", "/health"));
    assert_eq!(http2::read_data(&mut connection), "the request has no Host header");
}

#[test]
fn length_beside_chunks_is_ignored_and_closes() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut token = server.create();
    for lengths in
        ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
    {
        // Read by its length, the body would end within the hidden request.
        let hidden = format!("GET {VERIFY} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = format!(
            "POST {REGENERATE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{lengths}\r\n\r\n"
        );
        let mut connection = Connection::open(server.address).unwrap();
        connection.write(format!("{head}0\r\n\r\n{hidden}").as_bytes());
        let response = connection.read().unwrap();
        assert_eq!(response.header("connection"), Some("close"), "{lengths}");
        token = response.token();
        assert!(connection.read().is_err(), "{lengths}");
    }
    assert!(server.accepts(&token));
}

#[test]
fn response_reaches_client_that_still_sends() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let main = server.address;
    let head = |to: SocketAddr, request: &str, more: &str| {
        format!("POST {request} HTTP/1.1\r\nHost: localhost:{}\r\n{more}\r\n", to.port()).into_bytes()
    };
    let length = 10 << 20;
    let announced = format!("Content-Length: {length}\r\n");
    let body = vec![b'x'; length];
    let chunk = [format!("{length:x}\r\n").as_bytes(), &body].concat();
    let chunked = "Transfer-Encoding: chunked\r\n";
    let malformed = format!("Content-Length: x\r\n{announced}");
    for (to, head, body, status) in [
        (main, head(main, CREATE, &announced), &body, 413),
        (main, head(main, CREATE, chunked), &chunk, 413),
        (main, head(main, REGENERATE, &announced), &body, 401),
        (main, head(main, VERIFY, &announced), &body, 401),
        (main, head(main, "/nowhere", chunked), &chunk, 401),
        (main, head(main, CREATE, &format!("{announced}Host: localhost\r\n")), &body, 400),
        (main, head(main, CREATE, &malformed), &body, 400),
        (main, head(main, CREATE, &format!("X: {}\r\n", "x".repeat(20_000))), &body, 431),
        (server.recovery(), head(server.recovery(), REGENERATE, &announced), &body, 413),
        (server.recovery(), head(server.recovery(), REGENERATE, chunked), &chunk, 403),
        (server.recovery(), head(server.recovery(), "/", &announced), &body, 404),
    ] {
        // The client reads after it has sent everything.
        let response = exchange(to, &[&head[..], body].concat());
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {response}");
    }
    server.create();
}

/// Raises the limit of open files of this process, for tests with many connections.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn silent_connections_do_not_delay_others() {
    raise_file_limit();
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let token = server.create();
    let ask = || {
        let mut connection = Connection::open(server.address).unwrap();
        connection.write(&get("/health").bearer(&token).to_bytes());
        assert_eq!(connection.read().unwrap().status, 200);
        connection
    };
    // These wait for their next request, as those of a proxy.
    let mut used: Vec<_> = (0..20).map(|_| ask()).collect();
    let silent: Vec<_> = (0..3000).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let asking: Vec<_> = thread::scope(|scope| {
        // Silent clients that come back are in front of each ask.
        let asks: Vec<_> = (0..30)
            .map(|_| {
                let returned: Vec<_> =
                    (0..100).map(|_| TcpStream::connect(server.address).unwrap()).collect();
                let asking = scope.spawn(ask);
                (asking, returned)
            })
            .collect();
        asks.into_iter().map(|(asking, returned)| (asking.join().unwrap(), returned)).collect()
    });
    assert_eq!(asking.len(), 30);
    // No used connection was evicted.
    for connection in &mut used {
        connection.write(&get("/health").bearer(&token).to_bytes());
        assert_eq!(connection.read().unwrap().status, 200);
    }
    drop((silent, asking));
}

#[test]
fn silent_connections_do_not_delay_recovery() {
    raise_file_limit();
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let _silent: Vec<_> = (0..1500).map(|_| TcpStream::connect(server.recovery()).unwrap()).collect();
    let new = post(REGENERATE).send(server.recovery()).token();
    assert!(server.accepts(&new) && !server.accepts(&old));
}

#[test]
fn connections_that_open_together_wait_for_their_clients() {
    raise_file_limit();
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    // More than the places that used connections leave.
    let mut pool: Vec<_> = (0..900).map(|_| Connection::open(server.address).unwrap()).collect();
    thread::sleep(Duration::from_millis(500));
    for connection in &mut pool {
        connection.write(&get("/health").bearer(&token).to_bytes());
    }
    for (number, connection) in pool.iter_mut().enumerate() {
        assert_eq!(connection.read().map(|response| response.status).ok(), Some(200), "{number}");
    }
}

#[test]
fn burst_of_connections_gets_all_responses() {
    raise_file_limit();
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let open = |to, request: &Request| {
        let mut connection = Connection::open(to).unwrap();
        connection.write(&request.to(to).to_bytes());
        connection
    };
    // All have arrived before the server sees the first one.
    server.signal(Signal::STOP);
    let health = get("/health").bearer(&old);
    let burst: Vec<_> = (0..100).map(|_| open(server.address, &health)).collect();
    let mut of_recovery: Vec<_> = (0..100).map(|_| open(server.recovery(), &get("/"))).collect();
    let mut regenerate = open(server.recovery(), &post(REGENERATE));
    server.signal(Signal::CONT);
    for (number, mut connection) in burst.into_iter().enumerate() {
        assert_eq!(connection.read().map(|response| response.status).ok(), Some(200), "{number}");
    }
    for (number, connection) in of_recovery.iter_mut().enumerate() {
        assert_eq!(connection.read().map(|response| response.status).ok(), Some(404), "{number}");
    }
    let new = regenerate.read().unwrap().token();
    assert!(server.accepts(&new) && !server.accepts(&old));
}

fn count(server: &Server, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(" WARN ") && line.contains(text)).count()
}

#[test]
fn lines_of_unauthenticated_clients_are_limited() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    server.create();
    let requests = 40;
    let mut connection = Connection::open(server.address).unwrap();
    for _ in 0..requests {
        let forwarded = get("/health").bearer("unknown").header("X-Forwarded-For", "203.0.113.7, 10.0.0.1");
        connection.write(&forwarded.to_bytes());
        assert_eq!(connection.read().unwrap().status, 401);
        connection.write(&post(CREATE).to_bytes());
        assert_eq!(connection.read().unwrap().status, 409);
        post(CREATE)
            .header("Origin", "null")
            .send(server.address)
            .assert_is(403, "web pages may not ask for this: there is an Origin or Sec-Fetch header");
        exchange(server.address, b"GET / HTTP/1.1\r\n\r\n");
        post(REGENERATE).header("Origin", "null").send(server.recovery());
        exchange(server.recovery(), b"GET / HTTP/1.1\r\n\r\n");
    }
    server.signal(Signal::TERM);
    server.wait_for_log("stopped");
    for (lines, logged) in [
        ("cannot authenticate token: the token is not known", 10),
        (r#"client_ip="127.0.0.1" forwarded_for="203.0.113.7""#, 10),
        ("cannot carry out a token command: there is a token", 10),
        ("creation of the operator token refused: web pages", 10),
        ("malformed request: the request has no Host header", 20),
        ("token recovery refused: web pages", 10),
    ] {
        assert_eq!(count(&server, lines), logged, "{lines}: {}", server.log());
    }
    eventually("the number of omitted lines", || {
        count(&server, ": 30 more of these within a minute, not logged") == 6
    });
}

#[test]
fn unusual_methods_and_paths_reach_no_endpoint() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let before = env.stored_catalog();
    for (head, status) in [
        ("TRACE /health HTTP/1.1", 404),
        ("CONNECT localhost:80 HTTP/1.1", 404),
        ("POST /api/v3/configure/token/admin%2Fregenerate HTTP/1.1", 404),
        ("POST /api/v3/configure/token/%61dmin/regenerate HTTP/1.1", 404),
        ("POST /api/v3/configure/token/admin/regenerate/ HTTP/1.1", 404),
        ("POST /api/v3/configure/token/admin//regenerate HTTP/1.1", 404),
        ("POST /api/v3/configure/token/./admin/regenerate HTTP/1.1", 404),
        ("post /api/v3/configure/token/admin/regenerate HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 204),
    ] {
        let mut connection = Connection::open(server.address).unwrap();
        let rest = format!("Host: localhost\r\nAuthorization: Bearer {token}\r\nX-Echo: echo\r\n\r\n");
        connection.write(format!("{head}\r\n{rest}").as_bytes());
        let response = connection.read().unwrap();
        assert_eq!(response.status, status, "{head}: {response:?}");
        assert!(!response.body.contains("echo"), "{head}: {response:?}");
    }
    assert_eq!(env.stored_catalog(), before);
}

#[test]
fn body_is_not_awaited_where_creation_is_impossible() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    server.create();
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(&post(CREATE).header("Content-Length", "1").to_bytes());
    connection.read().unwrap().assert_is(409, "token name already exists, _admin");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Requests with bodies that mean nothing.
fn blank_bodies(path: &str, token: &str) -> Vec<Request> {
    let plain = || post(path).bearer(token);
    let json = || plain().header("Content-Type", "application/json");
    vec![
        plain(),
        json(),
        json().body(b""),
        json().body(b"null"),
        json().body(b" null\n"),
        json().body(b" \r\n\t"),
        json().chunked(b"", 1),
        json().chunked(b" ", 1),
        json().header("Content-Encoding", "gzip").body(b""),
        json().header("Content-Encoding", "gzip").body(&gzip(b"")),
        json().header("Content-Encoding", "gzip").chunked(&gzip(b" null "), 7),
        plain().chunked(b"", 1),
        plain().body(b" "),
    ]
}

#[test]
fn blank_body_is_no_body() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let mut token = server.create();
    for case in 0..blank_bodies(STAGE, &token).len() {
        let _case = CaseName(format!("{:?}", blank_bodies(STAGE, "TOKEN")[case]));
        let send = |path: &str, token: &str| blank_bodies(path, token)[case].send(server.address);
        let staged = send(STAGE, &token).token();
        assert_eq!(send(CONFIRM, &staged).status, 200);
        token = send(REGENERATE, &staged).token();
    }
    // An empty DATA frame ends the request.
    for content_type in [None, Some(("content-type", "application/json"))] {
        for path in [STAGE, CONFIRM, REGENERATE] {
            let mut connection = Connection::open(server.address).unwrap();
            connection.write(&http2::opening());
            let bearer = format!("Bearer {token}");
            let headers: Vec<_> =
                [("authorization", bearer.as_str())].into_iter().chain(content_type).collect();
            connection.write(&http2::request("POST", path, &headers, false));
            connection.write(&http2::body(b""));
            let response = http2::read_data(&mut connection);
            remember_tokens(&response);
            let response: Value = serde_json::from_str(&response).unwrap();
            match path {
                CONFIRM => assert_eq!(response["name"], "_admin", "{content_type:?}"),
                _ => response["token"].as_str().unwrap().clone_into(&mut token),
            }
        }
    }
    // A body with content needs its type.
    for request in [post(STAGE).bearer(&token).body(b"{}"), post(STAGE).bearer(&token).chunked(b"null", 1)] {
        assert_eq!(request.send(server.address).status, 415);
    }
}

#[test]
fn fields_about_limits_are_400() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let empty = env.stored_catalog();
    let rejected = |request: Request, text: &str| {
        let response = request.send(server.address);
        assert_eq!(response.status, 400, "{request:?}: {response:?}");
        assert!(response.body.contains(text), "{response:?}");
    };
    let no_expiry = "this request sets no expiry";
    rejected(post(CREATE).json(&json!({"expiry_secs": 60})), no_expiry);
    rejected(post(CREATE).body(br#"{"expires": 60}"#), no_expiry);
    rejected(post(&format!("{CREATE}?ttl=60")), no_expiry);
    assert_eq!(env.stored_catalog(), empty);
    let token = post(CREATE).json(&json!({"name": "mine", "expiry_secs": null})).send(server.address).token();
    let before = env.stored_catalog();
    for (path, body, text) in [
        (NAMED_ADMIN, json!({"token_name": "a", "expires_in": 60}), "use the field expiry_secs, in seconds"),
        (
            NAMED_ADMIN,
            json!({"token_name": "a", "permissions": ["read"]}),
            "makes a token with all permissions",
        ),
        (REGENERATE, json!({"expiry_secs": 60}), no_expiry),
        (STAGE, json!({"ttl": 60}), "`ttl_secs`"),
        (CONFIRM, json!({"overlap": 60}), "`overlap_secs`"),
    ] {
        rejected(post(path).bearer(&token).json(&body), text);
    }
    for (path, text) in [
        (NAMED_ADMIN, "use the field expiry_secs of the JSON body"),
        (STAGE, "use the field ttl_secs of the JSON body"),
        (REGENERATE, no_expiry),
        (CONFIRM, no_expiry),
    ] {
        rejected(
            post(&format!("{path}?expiry_secs=60")).bearer(&token).json(&json!({"token_name": "a"})),
            text,
        );
    }
    let twice = post(NAMED_ADMIN).bearer(&token).header("Content-Type", "application/json");
    rejected(twice.body(br#"{"token_name":"a","note":1,"note":2}"#), "the field \"note\" stands twice");
    assert_eq!(env.stored_catalog(), before);
    // Any other unknown field is ignored.
    let other = json!({"token_name": "a", "description": "b", "x": {"expires": 1}});
    post(NAMED_ADMIN).bearer(&token).json(&other).send(server.address).token();
}

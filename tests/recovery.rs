//! Token recovery: a second listener that regenerates the operator token once, without a credential
//! (docs/compatibility.md 5.5, docs/design.md 5).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http2;
use crate::support::{
    CREATE, CaseName, Connection, NOT_AUTHENTICATED, RECOVERY, REGENERATE, TIMEOUT, TestEnv, assert_closed,
    assert_too_late, eventually, get, post, recover_at, request, send_concurrently, serve_socket, sha512_hex,
};

#[test]
fn recovery_is_off_by_default() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    post(REGENERATE).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    assert!(server.accepts(&token));
    assert!(!server.log().contains("recovery"), "{}", server.log());
}

#[test]
fn recovery_options_without_recovery_warn() {
    let env = TestEnv::new();
    let server = env
        .serve_with(&["--admin-token-recovery-insecure-allow-remote"])
        .env("INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE", "true")
        .start();
    for option in ["insecure-allow-remote", "code"] {
        server.wait_for_log(&format!("--admin-token-recovery-{option} has no effect without"));
    }
    assert!(!env.data_dir().join("recovery-code").exists());
}

#[test]
fn recovery_regenerates_without_credential_and_closes() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let recovery = server.recovery();
    let old = server.create();

    // Connections that are already open: after a request, without one, and in the middle of one.
    let mut used = Connection::open(recovery).unwrap();
    used.write(&get("/").to(recovery).to_bytes());
    assert_eq!(used.read().unwrap().status, 404);
    let unused = Connection::open(recovery).unwrap();
    let mut begun = Connection::open(recovery).unwrap();
    begun.write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: ").as_bytes());

    let output = env.create_token(recovery, &["--regenerate"]).input("yes\n").run();
    let new = output.token();
    assert!(!server.accepts(&old));
    assert!(server.accepts(&new));
    let after = env.stored_catalog();

    assert_closed(recovery);
    // A request that began earlier may still get a response, but no token.
    begun.write(format!("{recovery}\r\n\r\n").as_bytes());
    assert_too_late(begun.read());
    // The server closes connections without a request in flight.
    for mut connection in [used, unused] {
        assert!(connection.read().is_err());
    }
    env.create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &["Create command failed: cannot reach", "Connection refused", "optoken serve"]);
    server.wait_for_log("token recovery is closed");

    // The main listener still requires a token.
    assert_eq!(env.stored_catalog(), after);
    post(REGENERATE).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    let newer = server.regenerate(&new);
    assert!(server.accepts(&newer));
    server.stop();
}

#[test]
fn recovery_response_equals_main_listener_response() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let created = post(CREATE).send(server.address);
    // The server ignores query, credential and body.
    let recovered =
        post(&format!("{REGENERATE}?x=y")).authorization("Nonsense").body(b"{").send(server.recovery());
    let (old, new) = (created.token(), recovered.token());
    assert_eq!(
        recovered.body,
        created.body.replace(&old, &new).replace(&sha512_hex(&old), &sha512_hex(&new))
    );
    assert_eq!(recovered.header("content-type"), Some("application/json"));
    assert_eq!(recovered.header("cache-control"), Some("no-store"));
    assert_closed(server.recovery());
}

#[test]
fn recovery_serves_one_path_and_failures_keep_it() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let recovery = server.recovery();
    let token = server.create();
    let before = env.stored_catalog();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/health"),
        ("POST", CREATE),
        ("GET", REGENERATE),
        ("PUT", REGENERATE),
        ("OPTIONS", REGENERATE),
        ("POST", "/api/v3/configure/token/admin/regenerate/"),
        ("POST", "/api/v3/configure/token/named_admin"),
    ] {
        for request in [request(method, path), request(method, path).bearer(&token)] {
            request.send(recovery).assert_is(404, "not found");
        }
    }
    // With a length, so the server does not read the body; and without, as HTTP/2 allows.
    let too_large = "max request size (1024 bytes) exceeded";
    post(REGENERATE).header("Content-Length", "1025").send(recovery).assert_is(413, too_large);
    let without_length = |length| {
        let head = http2::request_to(&recovery.to_string(), "POST", REGENERATE, &[], false);
        let mut connection = Connection::open(recovery).unwrap();
        connection.write(&[http2::opening(), head, http2::body(&vec![b'x'; length])].concat());
        http2::read_data(&mut connection)
    };
    assert_eq!(without_length(1025), too_large);
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));

    assert!(without_length(1024).contains("apiv3_"));
    assert_closed(recovery);
}

#[test]
fn recovery_without_operator_stays_open() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let recovery = server.recovery();
    let empty = env.stored_catalog();
    for _ in 0..3 {
        post(REGENERATE).send(recovery).assert_is(404, "missing admin token, cannot update");
    }
    env.create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &["missing admin token, cannot update", "optoken create token --admin"]);
    assert_eq!(env.stored_catalog(), empty);

    let old = server.create();
    let new = post(REGENERATE).send(recovery).token();
    assert!(!server.accepts(&old));
    assert!(server.accepts(&new));
    assert_closed(recovery);
}

#[test]
fn one_of_concurrent_recoveries_succeeds() {
    // Repeated, as a second success would need the right moment.
    for _ in 0..5 {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        server.create();
        // More than the listener allows: the rest waits, and finds recovery closed.
        let tries = vec![(server.recovery(), post(REGENERATE)); 24];
        let (succeeded, failed): (Vec<_>, Vec<_>) = send_concurrently(tries)
            .into_iter()
            .partition(|response| response.as_ref().is_ok_and(|response| response.status == 201));
        assert_eq!(succeeded.len(), 1, "{succeeded:?}");
        failed.into_iter().for_each(assert_too_late);
        assert!(server.accepts(&succeeded[0].as_ref().unwrap().token()));
        assert_closed(server.recovery());
    }
}

#[test]
fn disconnect_before_response_consumes_recovery() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let before = env.stored_catalog();
    let mut connection = Connection::open(server.recovery()).unwrap();
    connection.write(&post(REGENERATE).to(server.recovery()).to_bytes());
    // A client that leaves before the server has read its request consumes nothing.
    eventually("the token is replaced", || env.stored_catalog() != before);
    drop(connection);
    assert_closed(server.recovery());
    assert!(!server.accepts(&old));
}

#[test]
fn idle_connections_do_not_block_recovery() {
    let opened = |to, bytes: &[u8]| {
        let mut connection = Connection::open(to).unwrap();
        connection.write(bytes);
        connection
    };
    let cancelled = |to| {
        let request = http2::request_to(&SocketAddr::to_string(&to), "POST", REGENERATE, &[], false);
        let mut connection = opened(to, &[http2::opening(), request].concat());
        http2::synchronize(&mut connection);
        connection.write(&http2::cancel());
        http2::synchronize(&mut connection);
        connection
    };
    let cases: [(&str, &dyn Fn(SocketAddr) -> Connection); 5] = [
        ("silent", &|to| opened(to, b"")),
        ("undecided between HTTP/1 and HTTP/2", &|to| opened(to, b"P")),
        ("in the middle of a head", &|to| opened(to, b"POST / HTTP/1.1\r\nHost")),
        ("HTTP/2 without a request", &|to| opened(to, &http2::opening())),
        ("HTTP/2 with a cancelled request", &cancelled),
    ];
    for (case, open) in cases {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        let old = server.create();
        // As many as the listener allows.
        let waiting: Vec<_> = (0..8).map(|_| open(server.recovery())).collect();
        let _case = CaseName(case);
        let new = post(REGENERATE).send(server.recovery()).token();
        assert!(!server.accepts(&old), "{case}");
        assert!(server.accepts(&new), "{case}");
        drop(waiting);
    }
}

/// Limit for a response without delay on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// First bytes of a client for the server at this address.
type InitialBytes<'a> = &'a dyn Fn(SocketAddr) -> Vec<u8>;

/// Clients that reconnect as soon as the server closes their connection, until dropped.
struct ConnectionFlood {
    stopped: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl ConnectionFlood {
    /// Starts `count` clients. Each sends `first`, and `more` after each `pause`.
    fn start(to: SocketAddr, count: usize, first: &[u8], more: &[u8], pause: Duration) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let client = || {
            let (stopped, first, more) = (Arc::clone(&stopped), first.to_owned(), more.to_owned());
            thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(to) else { continue };
                    stream.set_read_timeout(Some(pause)).unwrap();
                    let _ = stream.write_all(&first);
                    let mut response = [0; 1 << 10];
                    while !stopped.load(Ordering::Relaxed) {
                        match stream.read(&mut response) {
                            Ok(1..) => {}
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                let _ = stream.write_all(&more);
                            }
                            _ => break,
                        }
                    }
                }
            })
        };
        let clients = (0..count).map(|_| client()).collect();
        Self { stopped, clients }
    }
}

impl Drop for ConnectionFlood {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

#[test]
fn connection_flood_does_not_block_recovery() {
    let pause = Duration::from_millis(300);
    let heads = |name: &str, to: SocketAddr| {
        let name = format!("{name}:{}", to.port());
        let unfinished: Vec<_> = (0..200)
            .flat_map(|stream| http2::request_on(2 * stream + 1, &name, "POST", REGENERATE, &[], false))
            .collect();
        [http2::opening(), unfinished].concat()
    };
    let health = |to| get("/").to(to).to_bytes();
    let begin = |to| post(REGENERATE).header("Content-Length", "1").to(to).to_bytes();
    let cases: [(&str, usize, InitialBytes, &[u8]); 4] = [
        ("other requests, repeated", 8, &health, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("a body that never comes", 24, &begin, b""),
        ("many bodies that never come on each connection", 24, &|to| heads("localhost", to), b""),
        ("many rejections on each connection", 24, &|to| heads("evil.example", to), b""),
    ];
    for (case, count, first, more) in cases {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        let old = server.create();
        let recovery = server.recovery();
        let flood = ConnectionFlood::start(recovery, count, &first(recovery), more, pause);
        // Until all clients are connected.
        thread::sleep(Duration::from_secs(1));
        let sent = Instant::now();
        let _case = CaseName(case);
        let new = post(REGENERATE).send(recovery).token();
        assert!(sent.elapsed() < SOON, "{case}: {:?}", sent.elapsed());
        drop(flood);
        assert!(server.accepts(&new) && !server.accepts(&old), "{case}");
    }
}

#[test]
fn recovery_allows_eight_connections_and_evicts_idle_ones() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let mut connections: Vec<_> = (0..9).map(|_| Connection::open(server.recovery()).unwrap()).collect();
    let opened = Instant::now();
    let last = connections.pop().unwrap();
    // The ninth evicts the first. The others end at their timeout.
    let mut ended = connections.iter_mut().map(|connection| {
        assert!(connection.read().is_err());
        opened.elapsed()
    });
    let (early, late) = (Duration::from_secs(4), Duration::from_secs(10));
    assert!(ended.next().unwrap() < early);
    for ended in ended {
        assert!(early < ended && ended < late, "{ended:?}");
    }
    drop(last);
    // The server closes a connection after one request of any kind.
    for request in [get("/"), post(REGENERATE), post(REGENERATE).header("Origin", "null")] {
        let mut connection = Connection::open(server.recovery()).unwrap();
        connection.write(&request.to(server.recovery()).to_bytes());
        let response = connection.read().unwrap();
        assert_eq!(response.header("connection"), Some("close"), "{response:?}");
        assert!(connection.read().is_err());
    }
}

#[test]
fn disconnect_while_queued_does_not_consume_recovery() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let token = server.create();
    let before = env.stored_catalog();
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let request = post(REGENERATE).to(server.recovery()).to_bytes();
    let mut first = Connection::open(server.recovery()).unwrap();
    first.write(&request);
    thread::sleep(Duration::from_secs(1));
    let mut second = Connection::open(server.recovery()).unwrap();
    second.write(&request);
    thread::sleep(Duration::from_secs(1));
    drop(second);
    // The store is locked, so the first has failed, and the next would follow.
    assert_eq!(first.read().unwrap().status, 503);
    store.execute_batch("ROLLBACK").unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
    post(REGENERATE).send(server.recovery()).token();
}

#[test]
fn recovery_reopens_after_restart() {
    let env = TestEnv::new();
    let mut tokens = Vec::new();
    for round in 0..2 {
        let server = env.serve(&RECOVERY);
        if round == 0 {
            tokens.push(server.create());
        }
        tokens.push(post(REGENERATE).send(server.recovery()).token());
        assert_closed(server.recovery());
        let (newest, older) = tokens.split_last().unwrap();
        assert!(server.accepts(newest));
        assert!(older.iter().all(|old| !server.accepts(old)));
        server.kill();
    }
}

#[test]
fn recovery_refuses_non_loopback_bind() {
    let env = TestEnv::new();
    let output = env.serve_with(&["--admin-token-recovery-http-bind", "0.0.0.0:0"]).run();
    output.assert_failed(
        1,
        &["Serve command failed: --admin-token-recovery-http-bind: ", "0.0.0.0:0 is not a loopback address"],
    );
    assert!(!output.stderr.contains("listening"), "{}", output.stderr);
}

#[test]
fn recovery_allows_remote_clients_with_option() {
    let env = TestEnv::new();
    let server = env.serve(&[
        "--admin-token-recovery-http-bind",
        "0.0.0.0:0",
        "--admin-token-recovery-insecure-allow-remote",
    ]);
    server.create();
    server.wait_for_log("can get the operator token");
    let recovery = SocketAddr::from(([127, 0, 0, 1], server.recovery().port()));
    // The address that the client connected to is a valid host. 0.0.0.0 is not.
    let mut connection = Connection::open(recovery).unwrap();
    connection
        .write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: 0.0.0.0:{}\r\n\r\n", recovery.port()).as_bytes());
    assert_eq!(connection.read().unwrap().status, 403);
    env.create_token(recovery, &["--regenerate", "--yes"]).run().token();
    assert_closed(recovery);
}

#[test]
fn recovery_closes_after_timeout() {
    let env = TestEnv::new();
    let server = env
        .serve_with(&RECOVERY)
        .env("INFLUXDB3_ADMIN_TOKEN_RECOVERY_TIMEOUT", "3s")
        .arg("--admin-token-recovery-socket")
        .arg(env.home().join("socket"))
        .start();
    let recovery = server.recovery();
    let token = server.create();
    let before = env.stored_catalog();
    // A request that begins in time, and ends too late.
    let mut begun = Connection::open(recovery).unwrap();
    let request = post(REGENERATE).header("Content-Length", "1").to(recovery).to_bytes();
    begun.write(&request);
    server.wait_for_log("token recovery was not used within 3s");
    assert_closed(recovery);
    begun.write(b"x");
    assert_too_late(begun.read());
    server.wait_for_log("token recovery is closed");
    assert!(!env.home().join("socket").exists());
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
    server.stop();

    for (timeout, message) in
        [("0s", "token recovery would close at once"), ("soon", "a duration is one like")]
    {
        let output = env.serve_with(&["--admin-token-recovery-timeout", timeout]).run();
        output.assert_failed(2, &[message]);
    }
}

#[test]
fn recovery_requires_code_with_option() {
    let env = TestEnv::new();
    let file = env.data_dir().join("recovery-code");
    let server = env.serve(&[RECOVERY[0], RECOVERY[1], "--admin-token-recovery-code"]);
    let recovery = server.recovery();
    let old = server.create();
    let before = env.stored_catalog();
    let written = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let code = written.trim_end();
    assert_eq!(code.split('-').count(), 8, "{code}");
    // Stderr is not a terminal.
    assert!(!server.log().contains(code));

    let code_required = "token recovery asks for the code that the server has written down";
    let without = post(REGENERATE).send(recovery);
    assert!(without.status == 403 && without.body.starts_with(code_required), "{without:?}");
    env.create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &[code_required, "--recovery-code"]);
    for (headers, left) in [(vec!["wrong"], 4), (vec![""], 3), (vec![code, code], 2)] {
        let request =
            headers.iter().fold(post(REGENERATE), |post, code| post.header("X-Recovery-Code", code));
        request.send(recovery).assert_is(
            403,
            &format!(
                "this is not the recovery code; wrong codes left before this listener is closed: {left}"
            ),
        );
    }
    assert_eq!(env.stored_catalog(), before);

    let visible = "other users of this machine can see a recovery code that is an argument";
    let output = env.create_token(recovery, &["--regenerate", "--yes", "--recovery-code", "wrong"]).run();
    output.assert_failed(1, &[visible, "this is not the recovery code"]);
    server.wait_for_log("--recovery-code -\n");

    let output = env
        .create_token(recovery, &["--regenerate", "--recovery-code", "-"])
        // As an operator types it from a screen.
        .input(&format!("yes\n{}\n", code.replace('-', "").to_lowercase()))
        .run();
    assert!(!output.stderr.contains(visible), "{output:?}");
    assert!(server.accepts(&output.token()));
    assert!(!server.accepts(&old));
    assert_closed(recovery);
    eventually("the file is removed", || !file.exists());
}

#[test]
fn five_wrong_codes_close_recovery() {
    let env = TestEnv::new();
    let server = env.serve(&[RECOVERY[0], RECOVERY[1], "--admin-token-recovery-code"]);
    let recovery = server.recovery();
    let token = server.create();
    let before = env.stored_catalog();
    let file = env.data_dir().join("recovery-code");
    let code = fs::read_to_string(&file).unwrap();
    let wrong = post(REGENERATE).header("X-Recovery-Code", "00-00-00-00-00-00-00-00");
    let right = post(REGENERATE).header("X-Recovery-Code", code.trim_end());
    // A connection that is open before, and sends its request after.
    let mut begun = Connection::open(recovery).unwrap();
    let mut bytes = right.header("Content-Length", "1").to(recovery).to_bytes();
    bytes.push(b'x');
    let (last, rest) = bytes.split_last().unwrap();
    begun.write(rest);
    for _ in 0..4 {
        assert_eq!(wrong.send(recovery).status, 403);
    }
    wrong
        .send(recovery)
        .assert_is(403, "this is not the recovery code; this listener of token recovery is closed now");
    begun.write(&[*last]);
    assert_too_late(begun.read());
    assert_closed(recovery);
    eventually("the file is removed", || !file.exists());
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
}

#[test]
fn wrong_codes_close_one_listener() {
    for wrong_at_address in [true, false] {
        let env = TestEnv::new();
        let path = env.home().join("socket");
        let args = [RECOVERY[0], RECOVERY[1], "--admin-token-recovery-code"];
        let server = serve_socket(&env, &path, &args).start();
        let recovery = server.recovery();
        let old = server.create();
        let file = env.data_dir().join("recovery-code");
        let code = fs::read_to_string(&file).unwrap();
        let wrong = "00-00-00-00-00-00-00-00";
        let recover = |at_address: bool, code: &str| {
            let cli = if at_address {
                env.create_token(recovery, &["--regenerate", "--yes"])
            } else {
                recover_at(&env, &path)
            };
            cli.env("INFLUXDB3_RECOVERY_CODE", code.trim_end()).run()
        };
        for left in (0..5).rev() {
            let text = if left == 0 { "is closed now".to_owned() } else { format!("is closed: {left}") };
            recover(wrong_at_address, wrong).assert_failed(1, &["this is not the recovery code", &text]);
        }
        server.wait_for_log("closing this listener of token recovery");
        if wrong_at_address {
            assert_closed(recovery);
        } else {
            eventually("the socket is removed", || !path.exists());
        }
        // The other listener has attempts of its own, and serves the first success.
        recover(!wrong_at_address, wrong).assert_failed(1, &["is closed: 4"]);
        let new = recover(!wrong_at_address, &code).token();
        assert!(server.accepts(&new) && !server.accepts(&old));
        server.wait_for_log("token recovery is closed");
        assert_closed(recovery);
        assert!(!path.exists() && !file.exists());
    }
}

#[test]
fn recovery_code_file_option_is_honoured() {
    let env = TestEnv::new();
    let serve = |file: &Path| {
        let mut args = vec!["--store", "memory:", "--admin-token-recovery-code"];
        args.extend_from_slice(&RECOVERY);
        env.serve_with(&args).arg("--admin-token-recovery-code-file").arg(file)
    };
    env.serve_with(&["--store", "memory:", "--admin-token-recovery-code", RECOVERY[0], RECOVERY[1]])
        .run()
        .assert_failed(1, &["no data directory", "--admin-token-recovery-code-file"]);
    serve(env.home()).run().assert_failed(1, &["not a regular file"]);

    // A server replaces the file that a killed server has left.
    let file = env.file("code", b"old\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let server = serve(&file).start();
    server.create();
    let code = fs::read_to_string(&file).unwrap();
    assert_ne!(code, "old\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    // It does not remove the file of another server.
    fs::write(&file, "another\n").unwrap();
    let output = env
        .create_token(server.recovery(), &["--regenerate", "--yes"])
        .env("INFLUXDB3_RECOVERY_CODE", code.trim_end())
        .run();
    assert!(server.accepts(&output.token()));
    server.wait_for_log("token recovery is closed");
    assert_eq!(fs::read_to_string(&file).unwrap(), "another\n");
}

#[test]
fn recovery_socket_recovers_once() {
    for with_address in [false, true] {
        let env = TestEnv::new();
        let path = env.home().join("socket");
        let server = serve_socket(&env, &path, if with_address { &RECOVERY } else { &[] }).start();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let old = server.create();
        let before = env.stored_catalog();
        let send = |request: &str| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut response = String::new();
            // The server may close the connection without reading all.
            let _ = stream.read_to_string(&mut response);
            response
        };
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: localhost", "404"),
            ("POST PATH HTTP/1.1\r\nHost: evil.example", "403"),
            ("POST PATH HTTP/1.1\r\nHost: localhost\r\nOrigin: null", "403"),
            ("POST PATH HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site", "403"),
            ("POST http://localhostPATH HTTP/1.1\r\nHost: localhost", "403"),
            ("POST PATH HTTP/1.1", "400"),
            ("POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1025", "413"),
        ] {
            let response =
                send(&format!("{}\r\nConnection: close\r\n\r\n", head.replace("PATH", REGENERATE)));
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {response}");
        }
        assert_eq!(env.stored_catalog(), before);

        let new = recover_at(&env, &path).run().token();
        assert!(!server.accepts(&old));
        assert!(server.accepts(&new));
        server.wait_for_log("token recovery is closed");
        assert!(!path.exists());
        if with_address {
            assert_closed(server.recovery());
        }
        recover_at(&env, &path).run().assert_failed(
            1,
            &["Create command failed: cannot reach unix:", "--admin-token-recovery-socket"],
        );
    }
}

#[test]
fn stale_socket_is_replaced_live_one_is_not() {
    let env = TestEnv::new();
    let path = env.home().join("socket");
    let assert_second_fails = |message: &str| {
        serve_socket(&TestEnv::new(), &path, &[])
            .run()
            .assert_failed(1, &["--admin-token-recovery-socket", message]);
    };
    let server = serve_socket(&env, &path, &[]).start();
    assert_second_fails("another server answers at");
    server.kill();
    assert!(path.exists());
    let server = serve_socket(&env, &path, &[]).start();
    server.create();
    recover_at(&env, &path).run().token();
    server.stop();

    env.file("socket", b"precious");
    assert_second_fails("exists and is no socket");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(env.home().join("elsewhere"), &path).unwrap();
    assert_second_fails("exists and is no socket");
    assert!(!env.home().join("elsewhere").exists());
    fs::remove_file(&path).unwrap();

    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_second_fails("others can write to");
    // As in /tmp.
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o1777)).unwrap();
    serve_socket(&env, &path, &[]).start().stop();
    assert!(!path.exists());
}

#[test]
fn bootstrap_option_restricts_creation() {
    let off = TestEnv::new();
    let server = off.serve(&["--admin-token-bootstrap", "off"]);
    let before = off.stored_catalog();
    off.create_token(server.address, &[])
        .run()
        .assert_failed(1, &["[403 Forbidden]", "--admin-token-bootstrap off", "--admin-token-file"]);
    assert_eq!(off.stored_catalog(), before);

    let any = TestEnv::new();
    let server = any.serve_with(&[]).env("INFLUXDB3_ADMIN_TOKEN_BOOTSTRAP", "any").start();
    server.wait_for_log("the first client that reaches this server can create it");
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(format!("POST {CREATE} HTTP/1.1\r\nHost: db.example\r\nVia: 1.1 x\r\n\r\n").as_bytes());
    connection.read().unwrap().token();
    post(CREATE).send(server.address).assert_is(409, "token name already exists, _admin");

    off.serve_with(&["--admin-token-bootstrap", "all"]).run().assert_failed(2, &["loopback, any or off"]);
}

//! Token recovery: a second listener that gives the operator token away once (COMPAT 5.5, DESIGN section 5).

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http2;
use crate::support::{
    CREATE, Cli, Connection, NOT_AUTHENTICATED, RECOVERY, REGENERATE, Response, TIMEOUT, TestEnv, eventually,
    get, post, request, send_concurrently,
};

const CLOSED: &str = "token recovery is closed: it regenerates the operator token once, and only for a while; the next \
                      start of the server can open it again";

/// Waits until nobody listens there any more.
pub(crate) fn assert_closes(address: SocketAddr) {
    eventually("the recovery listener closes", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
}

/// The door has been opened before: this is told, or the connection is closed without a word.
#[track_caller]
pub(crate) fn assert_too_late(answer: io::Result<Response>) {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match answer {
        Ok(answer) => {
            answer.assert_is(410, CLOSED);
        }
        Err(error) => {
            assert!(matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof), "{error}");
        }
    }
}

#[test]
fn there_is_no_recovery_unless_it_is_asked_for() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    post(REGENERATE).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    assert!(server.accepts(&token));
    assert!(!server.log().contains("recovery"), "{}", server.log());
}

#[test]
fn what_is_said_about_a_door_that_is_not_opened_is_warned_about() {
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
fn the_flag_without_a_value_means_port_8182() {
    // The main listener takes the port, so that it is not opened for recovery while other tests or people use it.
    let env = TestEnv::new();
    let output = env
        .influxdb3([
            "serve",
            "--store",
            "memory:",
            "--http-bind",
            "127.0.0.1:8182",
            "--admin-token-recovery-http-bind",
        ])
        .run();
    // Where something runs there already, that is all there is to see.
    if !output.stderr.contains("failed: --http-bind: cannot listen on 127.0.0.1:8182") {
        output.assert_failed(
            1,
            &["--admin-token-recovery-http-bind: cannot listen on 127.0.0.1:8182", "choose another port"],
        );
    }
}

#[test]
fn it_regenerates_without_a_credential_and_closes_for_good() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let recovery = server.recovery();
    let old = server.create();

    // Connections that are open already: one that was used, one that was not, one in the middle of a request.
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

    assert_closes(recovery);
    // What has begun before may still be answered, but not with a token.
    begun.write(format!("{recovery}\r\n\r\n").as_bytes());
    assert_too_late(begun.read());
    // On the others nothing is under way, so they are closed without being asked for anything.
    for mut connection in [used, unused] {
        assert!(connection.read().is_err());
    }
    env.create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &["Create command failed: cannot reach", "Connection refused", "influxdb3 serve"]);
    server.wait_for_log("token recovery is closed");

    // The main listener goes on, and is as closed as ever to who has no token.
    assert_eq!(env.stored_catalog(), after);
    post(REGENERATE).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    let newer = server.regenerate(&new);
    assert!(server.accepts(&newer));
    server.stop();
}

#[test]
fn its_answer_is_that_of_the_main_listener() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let created = post(CREATE).send(server.address);
    // Nothing that comes with the request means anything.
    let recovered =
        post(&format!("{REGENERATE}?x=y")).authorization("Nonsense").body(b"{").send(server.recovery());
    let (old, new) = (created.token(), recovered.token());
    let hash = |token: &str| crate::support::sha512_hex(token);
    assert_eq!(recovered.body, created.body.replace(&old, &new).replace(&hash(&old), &hash(&new)));
    assert_eq!(recovered.header("content-type"), Some("application/json"));
    assert_eq!(recovered.header("cache-control"), Some("no-store"));
    assert_closes(server.recovery());
}

#[test]
fn nothing_else_is_found_there_and_nothing_else_spends_it() {
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
    // Announced, and not read; or not announced, as HTTP/2 can.
    let too_large = "max request size (1024 bytes) exceeded";
    post(REGENERATE).header("Content-Length", "1025").send(recovery).assert_is(413, too_large);
    let unannounced = |length| {
        let head = http2::request_to(&recovery.to_string(), "POST", REGENERATE, &[], false);
        let mut connection = Connection::open(recovery).unwrap();
        connection.write(&[http2::opening(), head, http2::body(&vec![b'x'; length])].concat());
        http2::read_data(&mut connection)
    };
    assert_eq!(unannounced(1025), too_large);
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));

    assert!(unannounced(1024).contains("apiv3_"));
    assert_closes(recovery);
}

#[test]
fn without_an_operator_there_is_nothing_to_recover_and_the_door_stays_open() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let recovery = server.recovery();
    let empty = env.stored_catalog();
    for _ in 0..3 {
        post(REGENERATE).send(recovery).assert_is(404, "missing admin token, cannot update");
    }
    env.create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &["missing admin token, cannot update", "influxdb3 create token --admin"]);
    assert_eq!(env.stored_catalog(), empty);

    let old = server.create();
    let new = post(REGENERATE).send(recovery).token();
    assert!(!server.accepts(&old));
    assert!(server.accepts(&new));
    assert_closes(recovery);
}

#[test]
fn of_many_who_try_at_once_one_gets_through() {
    // Several times, because a second winner would need the right moment.
    for _ in 0..5 {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        server.create();
        // More than it has room for: the rest waits in line, and finds the door closed.
        let tries = vec![(server.recovery(), post(REGENERATE)); 24];
        let (won, lost): (Vec<_>, Vec<_>) = send_concurrently(tries)
            .into_iter()
            .partition(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 201));
        assert_eq!(won.len(), 1, "{won:?}");
        lost.into_iter().for_each(assert_too_late);
        assert!(server.accepts(&won[0].as_ref().unwrap().token()));
        assert_closes(server.recovery());
    }
}

#[test]
fn who_goes_away_without_the_answer_has_spent_it_all_the_same() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let before = env.stored_catalog();
    let mut connection = Connection::open(server.recovery()).unwrap();
    connection.write(&post(REGENERATE).to(server.recovery()).to_bytes());
    // Not earlier: who is gone before the door has opened has not been there.
    eventually("the token is replaced", || env.stored_catalog() != before);
    drop(connection);
    assert_closes(server.recovery());
    assert!(!server.accepts(&old));
}

#[test]
fn connections_that_ask_for_nothing_do_not_keep_others_out() {
    let opened = |to, bytes: &[u8]| {
        let mut connection = Connection::open(to).unwrap();
        connection.write(bytes);
        connection
    };
    let taken_back = |to| {
        let request = http2::request_to(&SocketAddr::to_string(&to), "POST", REGENERATE, &[], false);
        let mut connection = opened(to, &[http2::opening(), request].concat());
        http2::synchronize(&mut connection);
        connection.write(&http2::cancel());
        http2::synchronize(&mut connection);
        connection
    };
    let ways: [(&str, &dyn Fn(SocketAddr) -> Connection); 5] = [
        ("silent", &|to| opened(to, b"")),
        ("undecided between HTTP/1 and HTTP/2", &|to| opened(to, b"P")),
        ("in the middle of a head", &|to| opened(to, b"POST / HTTP/1.1\r\nHost")),
        ("HTTP/2 without a request", &|to| opened(to, &http2::opening())),
        ("HTTP/2 with a request that was taken back", &taken_back),
    ];
    for (case, open) in ways {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        let old = server.create();
        // As many as it has room for.
        let waiting: Vec<_> = (0..8).map(|_| open(server.recovery())).collect();
        // Shown only where the test fails.
        println!("{case}");
        let new = post(REGENERATE).send(server.recovery()).token();
        assert!(!server.accepts(&old), "{case}");
        assert!(server.accepts(&new), "{case}");
        drop(waiting);
    }
}

/// What clients call soon, though a machine that runs tests is busy.
const SOON: Duration = Duration::from_secs(10);

/// What a client says first, to the server there.
type InitialBytes<'a> = &'a dyn Fn(SocketAddr) -> Vec<u8>;

/// Clients that come again and again, each as soon as it has been sent away, until they are dropped.
struct ConnectionFlood {
    gone: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl ConnectionFlood {
    /// So many of them, which say something first, and something more ever so often.
    fn come(to: SocketAddr, count: usize, first: &[u8], more: &[u8], pause: Duration) -> Self {
        let gone = Arc::new(AtomicBool::new(false));
        let client = || {
            let (gone, first, more) = (Arc::clone(&gone), first.to_owned(), more.to_owned());
            thread::spawn(move || {
                while !gone.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(to) else { continue };
                    stream.set_read_timeout(Some(pause)).unwrap();
                    let _ = stream.write_all(&first);
                    let mut answer = [0; 1 << 10];
                    while !gone.load(Ordering::Relaxed) {
                        match stream.read(&mut answer) {
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
        Self { gone, clients }
    }
}

impl Drop for ConnectionFlood {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

#[test]
fn a_crowd_at_the_door_does_not_keep_the_owner_out() {
    let pause = Duration::from_millis(300);
    let heads = |name: &str, to: SocketAddr| {
        let name = format!("{name}:{}", to.port());
        let unfinished: Vec<_> = (0..200)
            .flat_map(|stream| http2::request_on(2 * stream + 1, &name, "POST", REGENERATE, &[], false))
            .collect();
        [http2::opening(), unfinished].concat()
    };
    let ask = |to| get("/").to(to).to_bytes();
    let begin = |to| post(REGENERATE).header("Content-Length", "1").to(to).to_bytes();
    let ways: [(&str, usize, InitialBytes, &[u8]); 4] = [
        ("asks for something else, again and again", 8, &ask, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("keeps a body back", 24, &begin, b""),
        ("keeps many bodies back on each connection", 24, &|to| heads("localhost", to), b""),
        ("is turned away many times on each connection", 24, &|to| heads("evil.example", to), b""),
    ];
    for (case, count, first, more) in ways {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        let old = server.create();
        let recovery = server.recovery();
        let flood = ConnectionFlood::come(recovery, count, &first(recovery), more, pause);
        // Until all of them are there.
        thread::sleep(Duration::from_secs(1));
        let asked = Instant::now();
        // Shown only where the test fails.
        println!("{case}");
        let new = post(REGENERATE).send(recovery).token();
        assert!(asked.elapsed() < SOON, "{case}: {:?}", asked.elapsed());
        drop(flood);
        assert!(server.accepts(&new) && !server.accepts(&old), "{case}");
    }
}

#[test]
fn there_are_eight_places_and_nobody_keeps_one() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let mut connections: Vec<_> = (0..9).map(|_| Connection::open(server.recovery()).unwrap()).collect();
    let opened = Instant::now();
    let last = connections.pop().unwrap();
    // The first has gone for the ninth, the others when their time was over.
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
    // One request a connection, whatever it is.
    for request in [get("/"), post(REGENERATE), post(REGENERATE).header("Origin", "null")] {
        let mut connection = Connection::open(server.recovery()).unwrap();
        connection.write(&request.to(server.recovery()).to_bytes());
        let answer = connection.read().unwrap();
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert!(connection.read().is_err());
    }
}

#[test]
fn a_try_that_was_given_up_while_it_waited_for_its_turn_spends_nothing() {
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
    // The store is not to be had, so the first has failed, and it is the turn of the next.
    assert_eq!(first.read().unwrap().status, 503);
    store.execute_batch("ROLLBACK").unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
    post(REGENERATE).send(server.recovery()).token();
}

#[test]
fn it_opens_again_with_the_next_start() {
    let env = TestEnv::new();
    let mut tokens = Vec::new();
    for round in 0..2 {
        let server = env.serve(&RECOVERY);
        if round == 0 {
            tokens.push(server.create());
        }
        tokens.push(post(REGENERATE).send(server.recovery()).token());
        assert_closes(server.recovery());
        let (newest, older) = tokens.split_last().unwrap();
        assert!(server.accepts(newest));
        assert!(older.iter().all(|old| !server.accepts(old)));
        server.kill();
    }
}

#[test]
fn it_is_for_this_machine_only() {
    let env = TestEnv::new();
    let output = env.serve_with(&["--admin-token-recovery-http-bind", "0.0.0.0:0"]).run();
    output.assert_failed(
        1,
        &["Serve command failed: --admin-token-recovery-http-bind: ", "0.0.0.0:0 is not a loopback address"],
    );
    assert!(!output.stderr.contains("listening"), "{}", output.stderr);
}

#[test]
fn another_machine_can_be_let_in_on_purpose() {
    let env = TestEnv::new();
    let server = env.serve(&[
        "--admin-token-recovery-http-bind",
        "0.0.0.0:0",
        "--admin-token-recovery-insecure-allow-remote",
    ]);
    server.create();
    server.wait_for_log("can get the operator token");
    let recovery = SocketAddr::from(([127, 0, 0, 1], server.recovery().port()));
    // The address that was asked is one of its own; that it listens on all is no name.
    let mut connection = Connection::open(recovery).unwrap();
    connection
        .write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: 0.0.0.0:{}\r\n\r\n", recovery.port()).as_bytes());
    assert_eq!(connection.read().unwrap().status, 403);
    env.create_token(recovery, &["--regenerate", "--yes"]).run().token();
    assert_closes(recovery);
}

#[test]
fn it_closes_when_its_time_is_over() {
    let env = TestEnv::new();
    let server = env
        .serve_with(&RECOVERY)
        .env("INFLUXDB3_ADMIN_TOKEN_RECOVERY_TIMEOUT", "3s")
        .arg("--admin-token-recovery-socket")
        .arg(env.home().join("door"))
        .start();
    let recovery = server.recovery();
    let token = server.create();
    let before = env.stored_catalog();
    // Begun in time, and finished too late.
    let mut begun = Connection::open(recovery).unwrap();
    let request = post(REGENERATE).header("Content-Length", "1").to(recovery).to_bytes();
    begun.write(&request);
    server.wait_for_log("token recovery was not used within 3s");
    assert_closes(recovery);
    begun.write(b"x");
    assert_too_late(begun.read());
    server.wait_for_log("token recovery is closed");
    assert!(!env.home().join("door").exists());
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
    server.stop();

    for (timeout, said) in [("0s", "token recovery would close at once"), ("soon", "a duration is one like")]
    {
        let output = env.serve_with(&["--admin-token-recovery-timeout", timeout]).run();
        output.assert_failed(2, &[said]);
    }
}

#[test]
fn a_code_can_be_asked_for() {
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
    // Its stderr is no terminal.
    assert!(!server.log().contains(code));

    let asks = "token recovery asks for the code that the server has written down";
    let without = post(REGENERATE).send(recovery);
    assert!(without.status == 403 && without.body.starts_with(asks), "{without:?}");
    env.create_token(recovery, &["--regenerate", "--yes"]).run().assert_failed(1, &[asks, "--recovery-code"]);
    for (headers, left) in [(vec!["wrong"], 4), (vec![""], 3), (vec![code, code], 2)] {
        let request =
            headers.iter().fold(post(REGENERATE), |post, code| post.header("X-Recovery-Code", code));
        request.send(recovery).assert_is(
            403,
            &format!(
                "this is not the recovery code; wrong codes left before token recovery is closed: {left}"
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
        // As somebody types it who has read it off a screen.
        .input(&format!("yes\n{}\n", code.replace('-', "").to_lowercase()))
        .run();
    assert!(!output.stderr.contains(visible), "{output:?}");
    assert!(server.accepts(&output.token()));
    assert!(!server.accepts(&old));
    assert_closes(recovery);
    eventually("the file is removed", || !file.exists());
}

#[test]
fn five_wrong_codes_shut_the_door() {
    let env = TestEnv::new();
    let server = env.serve(&[RECOVERY[0], RECOVERY[1], "--admin-token-recovery-code"]);
    let recovery = server.recovery();
    let token = server.create();
    let before = env.stored_catalog();
    let file = env.data_dir().join("recovery-code");
    let code = fs::read_to_string(&file).unwrap();
    let wrong = post(REGENERATE).header("X-Recovery-Code", "00-00-00-00-00-00-00-00");
    let right = post(REGENERATE).header("X-Recovery-Code", code.trim_end());
    // A connection that is open before, and used after.
    let mut begun = Connection::open(recovery).unwrap();
    let mut bytes = right.header("Content-Length", "1").to(recovery).to_bytes();
    bytes.push(b'x');
    let (last, rest) = bytes.split_last().unwrap();
    begun.write(rest);
    for _ in 0..4 {
        assert_eq!(wrong.send(recovery).status, 403);
    }
    wrong.send(recovery).assert_is(403, "this is not the recovery code; token recovery is closed now");
    begun.write(&[*last]);
    assert_too_late(begun.read());
    assert_closes(recovery);
    eventually("the file is removed", || !file.exists());
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
}

#[test]
fn the_code_goes_where_it_is_told_to() {
    let env = TestEnv::new();
    let told = |file: &Path| {
        let mut args = vec!["--store", "memory:", "--admin-token-recovery-code"];
        args.extend_from_slice(&RECOVERY);
        env.serve_with(&args).arg("--admin-token-recovery-code-file").arg(file)
    };
    env.serve_with(&["--store", "memory:", "--admin-token-recovery-code", RECOVERY[0], RECOVERY[1]])
        .run()
        .assert_failed(1, &["no data directory", "--admin-token-recovery-code-file"]);
    told(env.home()).run().assert_failed(1, &["not a regular file"]);

    // What a server has left that was killed is in nobody's way.
    let file = env.file("code", b"old\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let server = told(&file).start();
    server.create();
    let code = fs::read_to_string(&file).unwrap();
    assert_ne!(code, "old\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    // That of another server is left alone.
    fs::write(&file, "another\n").unwrap();
    let output = env
        .create_token(server.recovery(), &["--regenerate", "--yes"])
        .env("INFLUXDB3_RECOVERY_CODE", code.trim_end())
        .run();
    assert!(server.accepts(&output.token()));
    server.wait_for_log("token recovery is closed");
    assert_eq!(fs::read_to_string(&file).unwrap(), "another\n");
}

/// A process that does not outlive the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_terminal_is_shown_the_code() {
    let env = TestEnv::new();
    // A terminal of its own for the server, whose output goes to a file.
    let shown = env.home().join("shown");
    let serve = format!(
        "exec {} serve --store memory: --http-bind 127.0.0.1:0 --admin-token-recovery-code \
         --admin-token-recovery-code-file {} {} {}",
        env!("CARGO_BIN_EXE_influxdb3"),
        env.home().join("code").display(),
        RECOVERY[0],
        RECOVERY[1],
    );
    let _script = Ended(
        Command::new("script")
            .args(["--quiet", "--flush", "--command", &serve])
            .arg(&shown)
            .env("HOME", env.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("script, of util-linux, gives a program a terminal"),
    );
    let mut text = String::new();
    eventually("it shows the code", || {
        text = fs::read_to_string(&shown).unwrap_or_default();
        text.contains("Recovery code: ") && text.ends_with('\n')
    });
    let code = fs::read_to_string(env.home().join("code")).unwrap();
    assert!(text.contains(&format!("Recovery code: {}\r\n", code.trim_end())), "{text}");
}

/// A server with a recovery socket at this path.
fn serve_socket(env: &TestEnv, path: &Path, args: &[&str]) -> Cli {
    env.serve_with(args).arg("--admin-token-recovery-socket").arg(path)
}

/// `influxdb3 create token --admin --regenerate` at a socket.
fn recover_at(env: &TestEnv, path: &Path) -> Cli {
    let host = format!("unix:{}", path.display());
    env.influxdb3(["create", "token", "--admin", "--regenerate", "--yes", "--host", &host])
}

#[test]
fn a_socket_recovers_for_its_user_once() {
    for with_address in [false, true] {
        let env = TestEnv::new();
        let path = env.home().join("door");
        let server = serve_socket(&env, &path, if with_address { &RECOVERY } else { &[] }).start();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let old = server.create();
        let before = env.stored_catalog();
        let ask = |request: &str| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            // It may end without having read all.
            let _ = stream.read_to_string(&mut answer);
            answer
        };
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: localhost", "404"),
            ("POST PATH HTTP/1.1\r\nHost: evil.example", "403"),
            ("POST PATH HTTP/1.1\r\nHost: localhost\r\nOrigin: null", "403"),
            ("POST PATH HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site", "403"),
            ("POST http://localhostPATH HTTP/1.1\r\nHost: localhost", "403"),
            ("POST PATH HTTP/1.1", "403"),
            ("POST PATH HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1025", "413"),
        ] {
            let answer = ask(&format!("{}\r\nConnection: close\r\n\r\n", head.replace("PATH", REGENERATE)));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        }
        assert_eq!(env.stored_catalog(), before);

        let new = recover_at(&env, &path).run().token();
        assert!(!server.accepts(&old));
        assert!(server.accepts(&new));
        server.wait_for_log("token recovery is closed");
        assert!(!path.exists());
        if with_address {
            assert_closes(server.recovery());
        }
        recover_at(&env, &path).run().assert_failed(
            1,
            &["Create command failed: cannot reach unix:", "--admin-token-recovery-socket"],
        );
    }
}

#[test]
fn a_socket_takes_the_place_of_a_dead_one_only() {
    let env = TestEnv::new();
    let path = env.home().join("door");
    let second = |said: &str| {
        serve_socket(&TestEnv::new(), &path, &[])
            .run()
            .assert_failed(1, &["--admin-token-recovery-socket", said]);
    };
    let server = serve_socket(&env, &path, &[]).start();
    second("another server answers at");
    server.kill();
    assert!(path.exists());
    let server = serve_socket(&env, &path, &[]).start();
    server.create();
    recover_at(&env, &path).run().token();
    server.stop();

    env.file("door", b"precious");
    second("exists and is no socket");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(env.home().join("elsewhere"), &path).unwrap();
    second("exists and is no socket");
    assert!(!env.home().join("elsewhere").exists());
    fs::remove_file(&path).unwrap();

    // Only root can give anything away.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(env.home(), Some(65534), None).unwrap();
        second("belongs to another user (uid 65534), which can replace the socket");
        std::os::unix::fs::chown(env.home(), Some(0), None).unwrap();
    } else {
        println!("skipped: only root can give a directory away");
    }
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o777)).unwrap();
    second("others can write to");
    // As in /tmp.
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o1777)).unwrap();
    serve_socket(&env, &path, &[]).start().stop();
    assert!(!path.exists());
}

#[test]
fn the_kernel_tells_the_socket_of_another_user() {
    // Only root can be somebody else; what is decided is tested beside the code as well.
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    let env = TestEnv::new();
    let path = env.home().join("door");
    let server = serve_socket(&env, &path, &[]).start();
    server.create();
    let before = env.stored_catalog();
    let as_nobody = || {
        let program = format!(
            "my $s = IO::Socket::UNIX->new(Peer => '{}') or do {{ print qq(cannot connect: $!); exit }}; \
             print $s qq(POST {REGENERATE} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n); print <$s>;",
            path.display()
        );
        let mut perl = Command::new("/usr/bin/perl");
        let output =
            perl.args(["-MIO::Socket::UNIX", "-e", &program]).uid(65534).gid(65534).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // He can come near.
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(as_nobody(), "cannot connect: Permission denied");
    // Somebody has opened what was closed.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let answer = as_nobody();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.ends_with("the socket is for root and for the user of the server"), "{answer}");
    assert_eq!(env.stored_catalog(), before);
    recover_at(&env, &path).run().token();
}

#[test]
fn who_may_create_the_operator_token_can_be_told() {
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

/// An address of this machine that is not loopback, if it has one. Nothing is sent to find out.
fn address_on_a_network() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn from_elsewhere_the_operator_token_is_not_created() {
    let Some(ip) = address_on_a_network() else {
        // What is decided is tested beside the code as well.
        return;
    };
    // Nobody asks from a loopback address there.
    let there = TestEnv::new();
    let address = SocketAddr::new(ip, 0).to_string();
    let there = there.influxdb3(["serve", "--store", "memory:", "--http-bind", &address]).start();
    there.wait_for_log("none can be created, as no client has a loopback address");
    drop(there);
    let env = TestEnv::new();
    let server = env.influxdb3(["serve", "--http-bind", "0.0.0.0:0"]).arg("--data-dir").arg(env.data_dir());
    let server = server.start();
    let before = env.stored_catalog();
    let elsewhere = SocketAddr::new(ip, server.address.port());
    env.create_token(elsewhere, &[])
        .run()
        .assert_failed(1, &["on the machine of the server only", "--admin-token-bootstrap any"]);
    assert_eq!(env.stored_catalog(), before);
    let here = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let token = env.create_token(here, &[]).run().token();
    // Everything else is as open to others as before.
    assert_eq!(get("/health").bearer(&token).send(elsewhere).status, 200);
    post(CREATE).send(elsewhere).assert_is(
        403,
        "the operator token can be created on the machine of the server only: \
        run there influxdb3 create token --admin, or start the server with --admin-token-bootstrap any",
    );
}

//! Token recovery: a second listener that gives the operator token away once (COMPAT 5.5, DESIGN section 5).

use std::io;
use std::net::{SocketAddr, TcpStream};

use crate::http2;
use crate::support::{
    CREATE, Connection, Machine, NOT_AUTHENTICATED, RECOVERY, REGENERATE, Response, at_once, eventually, get,
    post, request,
};

const CLOSED: &str = "token recovery is closed: it regenerates the operator token once, and only for a while; the next \
                      start of the server can open it again";

/// Waits until nobody listens there any more.
fn assert_closes(address: SocketAddr) {
    eventually("the recovery listener closes", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
}

/// The door has been opened before: this is told, or the connection is closed without a word.
#[track_caller]
fn assert_too_late(answer: io::Result<Response>) {
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
    let machine = Machine::new();
    let server = machine.serve(&[]);
    let token = server.create();
    post(REGENERATE).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    assert!(server.accepts(&token));
    assert!(!server.log().contains("recovery"), "{}", server.log());
}

#[test]
fn the_flag_without_a_value_means_port_8182() {
    // The main listener takes the port, so that it is not opened for recovery while other tests or people use it.
    let machine = Machine::new();
    let ran = machine
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
    if !ran.stderr.contains("failed: --http-bind: cannot listen on 127.0.0.1:8182") {
        ran.assert_failed(
            1,
            &["--admin-token-recovery-http-bind: cannot listen on 127.0.0.1:8182", "choose another port"],
        );
    }
}

#[test]
fn it_regenerates_without_a_credential_and_closes_for_good() {
    let machine = Machine::new();
    let server = machine.serve(&RECOVERY);
    let recovery = server.recovery();
    let old = server.create();

    // Connections that are open already: one that was used, one that was not, one in the middle of a request.
    let mut used = Connection::open(recovery).unwrap();
    used.write(&get("/").to(recovery).to_bytes());
    assert_eq!(used.read().unwrap().status, 404);
    let unused = Connection::open(recovery).unwrap();
    let mut begun = Connection::open(recovery).unwrap();
    begun.write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: ").as_bytes());

    let ran = machine.create_token(recovery, &["--regenerate"]).input("yes\n").run();
    let new = ran.token();
    assert!(!server.accepts(&old));
    assert!(server.accepts(&new));
    let after = machine.stored();

    assert_closes(recovery);
    // What has begun before may still be answered, but not with a token.
    begun.write(format!("{recovery}\r\n\r\n").as_bytes());
    assert_too_late(begun.read());
    // On the others nothing is under way, so they are closed without being asked for anything.
    for mut connection in [used, unused] {
        assert!(connection.read().is_err());
    }
    machine
        .create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &["Create command failed: cannot reach", "Connection refused", "influxdb3 serve"]);
    server.wait_for_log("token recovery is closed");

    // The main listener goes on, and is as closed as ever to who has no token.
    assert_eq!(machine.stored(), after);
    post(REGENERATE).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    let newer = server.regenerate(&new);
    assert!(server.accepts(&newer));
    server.stop();
}

#[test]
fn its_answer_is_that_of_the_main_listener() {
    let machine = Machine::new();
    let server = machine.serve(&RECOVERY);
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
    let machine = Machine::new();
    let server = machine.serve(&RECOVERY);
    let recovery = server.recovery();
    let token = server.create();
    let before = machine.stored();
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
    let announced = post(REGENERATE).header("Content-Length", "1025").send(recovery);
    announced.assert_is(413, "max request size (1024 bytes) exceeded");
    assert_eq!(machine.stored(), before);
    assert!(server.accepts(&token));

    post(REGENERATE).send(recovery).token();
    assert_closes(recovery);
}

#[test]
fn without_an_operator_there_is_nothing_to_recover_and_the_door_stays_open() {
    let machine = Machine::new();
    let server = machine.serve(&RECOVERY);
    let recovery = server.recovery();
    let empty = machine.stored();
    for _ in 0..3 {
        post(REGENERATE).send(recovery).assert_is(404, "missing admin token, cannot update");
    }
    machine
        .create_token(recovery, &["--regenerate", "--yes"])
        .run()
        .assert_failed(1, &["missing admin token, cannot update", "influxdb3 create token --admin"]);
    assert_eq!(machine.stored(), empty);

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
        let machine = Machine::new();
        let server = machine.serve(&RECOVERY);
        server.create();
        // More than it has room for: the rest waits in line, and finds the door closed.
        let tries = vec![(server.recovery(), post(REGENERATE)); 24];
        let (won, lost): (Vec<_>, Vec<_>) = at_once(tries)
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
    let machine = Machine::new();
    let server = machine.serve(&RECOVERY);
    let old = server.create();
    let before = machine.stored();
    let mut connection = Connection::open(server.recovery()).unwrap();
    connection.write(&post(REGENERATE).to(server.recovery()).to_bytes());
    // Not earlier: who is gone before the door has opened has not been there.
    eventually("the token is replaced", || machine.stored() != before);
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
        let machine = Machine::new();
        let server = machine.serve(&RECOVERY);
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

#[test]
fn it_opens_again_with_the_next_start() {
    let machine = Machine::new();
    let mut tokens = Vec::new();
    for round in 0..2 {
        let server = machine.serve(&RECOVERY);
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
    let machine = Machine::new();
    let ran = machine.serve_with(&["--admin-token-recovery-http-bind", "0.0.0.0:0"]).run();
    ran.assert_failed(
        1,
        &["Serve command failed: --admin-token-recovery-http-bind: ", "0.0.0.0:0 is not a loopback address"],
    );
    assert!(!ran.stderr.contains("listening"), "{}", ran.stderr);
}

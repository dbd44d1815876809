//! What is left of a token in the memory of a server, and who could read it there.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use memchr::memmem;
use rustix::process::{Pid, geteuid};

use crate::http2;
use crate::support::{
    CONFIRM, Connection, NAMED_ADMIN, RECOVERY, REGENERATE, STAGE, Server, TestEnv, VERIFY, apply_log_filter,
    eventually, get, post, request,
};

/// Nobody's user and group id on Debian and most others.
const NOBODY: u32 = 65534;

/// The server holds none of these tokens any more, in any memory that can be written to.
#[track_caller]
pub(crate) fn assert_forgotten(server: &Server, tokens: &[&str]) {
    if !geteuid().is_root() {
        println!("skipped: only root can look for tokens in the memory of a server");
        return;
    }
    for (number, token) in tokens.iter().enumerate() {
        // What comes behind the prefix, which the program itself holds. A connection ends a moment after its answer.
        let random = &token["apiv3_".len()..];
        eventually(&format!("token {number} of {} is forgotten", tokens.len()), || {
            let places = places(server.pid(), random);
            println!("token {number}: {places:?}");
            places.is_empty()
        });
    }
}

/// Every place in the memory of a process that can be written to and holds this text.
fn places(process: Pid, text: &str) -> Vec<String> {
    let process = format!("/proc/{}", process.as_raw_nonzero());
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    let mut memory = File::open(format!("{process}/mem")).unwrap();
    let mut places = Vec::new();
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        memory.seek(SeekFrom::Start(from)).unwrap();
        let mut content = vec![0; usize::try_from(to - from).unwrap()];
        // A mapping may have gone since.
        if memory.read_exact(&mut content).is_ok() {
            places.extend(memmem::find_iter(&content, text).map(|at| format!("{map} + {at:#x}")));
        }
    }
    places
}

#[test]
fn no_token_stays_in_the_memory_of_a_server() {
    let env = TestEnv::new();
    let server = env.serve(&[&RECOVERY, &["--log-filter", "trace"][..]].concat());
    let created = server.create();
    // While a request is under way its token is there, or this would look in the wrong place.
    let mut open = Connection::open(server.address).unwrap();
    open.write(
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {created}").as_bytes(),
    );
    if geteuid().is_root() {
        let random = &created["apiv3_".len()..];
        eventually("the open request is found", || !places(server.pid(), random).is_empty());
    }
    drop(open);

    // The log is as verbose as it is told to be, libraries included, or that no token is in it would say little. Of those, the
    // one for HTTP/2 says what it does.
    let mut connection = Connection::open(server.address).unwrap();
    let bearer = format!("Bearer {created}");
    let asked = http2::request("GET", "/health", &[("authorization", &bearer)], true);
    connection.write(&[http2::opening(), asked].concat());
    while http2::read_frame(&mut connection).0 != http2::HEADERS {}
    drop(connection);
    for line in [" TRACE ", " DEBUG ", "received frame=Headers"] {
        server.wait_for_log(line);
    }

    let regenerated = server.regenerate(&created);
    let staged = post(STAGE).bearer(&regenerated).send(server.address).token();
    assert_eq!(post(CONFIRM).bearer(&staged).send(server.address).status, 200);
    let recovered = post(REGENERATE).send(server.recovery()).token();
    let body = br#"{"token_name":"ci"}"#;
    let named = post(NAMED_ADMIN).header("Content-Type", "application/json").bearer(&recovered).body(body);
    let named = named.send(server.address).token();
    for (asked, status) in [
        (get(VERIFY).bearer(&named), 200),
        (get(&format!("/query?p={named}")), 404),
        (get("/health").authorization(&format!("Nonsense {named}")), 400),
        (post(NAMED_ADMIN).bearer(&named).body(named.as_bytes()), 415),
        (request("DELETE", "/api/v3/configure/token?token_name=ci").bearer(&named), 200),
        (get("/health").bearer(&recovered), 200),
    ] {
        assert_eq!(asked.send(server.address).status, status, "{asked:?}");
    }
    assert_forgotten(&server, &[&created, &regenerated, &staged, &recovered, &named]);
}

#[test]
fn a_crash_leaves_no_copy_of_the_memory_behind() {
    if !geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    // As somebody else, because what is root's looks the same either way.
    let env = TestEnv::new();
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = env.home().join("influxdb3");
    fs::copy(env!("CARGO_BIN_EXE_influxdb3"), &program).unwrap();
    let mut server = Command::new("/bin/sh");
    server
        .args(["-c", r#"ulimit -c unlimited; exec "$0" "$@""#])
        .arg(program)
        .args(["serve", "--store", "memory:", "--http-bind", "127.0.0.1:0"])
        .env_clear()
        .current_dir("/")
        .stderr(Stdio::null())
        .uid(NOBODY)
        .gid(NOBODY);
    apply_log_filter(&mut server);
    let server = Ended(server.spawn().unwrap());
    let process = format!("/proc/{}", server.0.id());
    let limit = || {
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        limit.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // That of a process that is not dumpable belongs to root.
    eventually("nobody can read its memory", || {
        limit() == ["0", "0"] && fs::metadata(format!("{process}/mem")).unwrap().uid() == 0
    });
}

/// A process that ends when the test does, however that ends.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

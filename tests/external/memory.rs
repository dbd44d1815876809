//! Tokens in the memory of a server, and which processes can read it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use memchr::memmem;
use rustix::process::Pid;

use crate::http2;
use crate::support::{
    CONFIRM, ChildGuard, Connection, NAMED_ADMIN, PROGRAM, RECOVERY, REGENERATE, STAGE, Server, TIMEOUT,
    TestEnv, UNPRIVILEGED, VERIFY, apply_log_filter, create_named, delete_named, eventually, get,
    holds_within, post,
};

/// No writable memory of the server holds one of these tokens.
#[track_caller]
pub(crate) fn assert_forgotten(server: &Server, tokens: &[&str]) {
    for (number, token) in tokens.iter().enumerate() {
        // The program itself holds the prefix. A connection ends a moment after its response.
        let random = &token["apiv3_".len()..];
        let mut places = Vec::new();
        let forgotten = holds_within(TIMEOUT, || {
            places = find_in_memory(server.pid(), random);
            places.is_empty()
        });
        assert!(forgotten, "token {number} of {} is still in memory: {places:?}", tokens.len());
    }
}

/// Returns each place in the writable memory of a process that holds this text.
fn find_in_memory(process: Pid, text: &str) -> Vec<String> {
    let process = format!("/proc/{}", process.as_raw_nonzero());
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    let mut memory = File::open(format!("{process}/mem")).unwrap();
    let mut places = Vec::new();
    for map in maps.lines().filter(|map| map.contains(" rw")) {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| u64::from_str_radix(address, 16).unwrap());
        memory.seek(SeekFrom::Start(from)).unwrap();
        let mut content = vec![0; usize::try_from(to - from).unwrap()];
        // The server may have removed the mapping since.
        if memory.read_exact(&mut content).is_ok() {
            places.extend(memmem::find_iter(&content, text).map(|at| format!("{map} + {at:#x}")));
        }
    }
    places
}

pub(crate) fn server_memory_has_no_token_after_use() {
    let env = TestEnv::new();
    let server = env.serve(&[&RECOVERY, &["--log-filter", "trace"][..]].concat());
    let created = server.create();
    // The search finds the token of a request that is in flight, so it reads the right memory.
    let mut open = Connection::open(server.address).unwrap();
    open.write(
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {created}").as_bytes(),
    );
    let random = &created["apiv3_".len()..];
    eventually("the token of the open request is found", || !find_in_memory(server.pid(), random).is_empty());
    drop(open);

    // The filter applies to libraries too: the one for HTTP/2 logs its frames. Otherwise the
    // absence of tokens in the log would show little.
    let mut connection = Connection::open(server.address).unwrap();
    let bearer = format!("Bearer {created}");
    let health = http2::request("GET", "/health", &[("authorization", &bearer)], true);
    connection.write(&[http2::opening(), health].concat());
    while http2::read_frame(&mut connection).0 != http2::HEADERS {}
    drop(connection);
    for line in [" TRACE ", " DEBUG ", "received frame=Headers"] {
        server.wait_for_log(line);
    }

    let regenerated = server.regenerate(&created);
    let staged = post(STAGE).bearer(&regenerated).send(server.address).token();
    assert_eq!(post(CONFIRM).bearer(&staged).send(server.address).status, 200);
    let recovered = post(REGENERATE).send(server.recovery()).token();
    let named = create_named(&recovered, "ci").send(server.address).token();
    for (request, status) in [
        (get(VERIFY).bearer(&named), 200),
        (get(&format!("/query?p={named}")), 404),
        (get("/health").authorization(&format!("Nonsense {named}")), 400),
        (post(NAMED_ADMIN).bearer(&named).body(named.as_bytes()), 415),
        (delete_named(&named, "ci"), 200),
        (get("/health").bearer(&recovered), 200),
    ] {
        assert_eq!(request.send(server.address).status, status, "{request:?}");
    }
    assert_forgotten(&server, &[&created, &regenerated, &staged, &recovered, &named]);
}

pub(crate) fn server_process_is_not_dumpable() {
    // Runs the server without privileges, as files of a process of root look the same either way.
    let env = TestEnv::new();
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = env.home().join("optoken");
    fs::copy(PROGRAM, &program).unwrap();
    let mut server = Command::new("/bin/sh");
    server
        .args(["-c", r#"ulimit -c unlimited; exec "$0" "$@""#])
        .arg(program)
        .args(["serve", "--store", "memory:", "--http-bind", "127.0.0.1:0"])
        .env_clear()
        .current_dir("/")
        .stderr(Stdio::null())
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED);
    apply_log_filter(&mut server);
    let server = ChildGuard(server.spawn().unwrap());
    let process = format!("/proc/{}", server.0.id());
    let limit = || {
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        limit.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // The files of a process that is not dumpable belong to root.
    eventually("no other process can read its memory", || {
        limit() == ["0", "0"] && fs::metadata(format!("{process}/mem")).unwrap().uid() == 0
    });
}

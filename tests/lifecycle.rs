//! Restarts, servers on the same store, signals, and the files of a server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{
    CREATE, Connection, RECOVERY, REGENERATE, Server, TestEnv, eventually, get, post, within,
};

/// Limit for another server on the same store to reject an old token: `store::POLL_INTERVAL`,
/// with a margin for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn regenerated_token_survives_kill() {
    let env = TestEnv::new();
    let mut tokens: Vec<String> = Vec::new();
    for round in 0..4 {
        let server = env.serve(&[]);
        let new = match tokens.last() {
            None => server.create(),
            Some(old) => server.regenerate(old),
        };
        tokens.push(new);
        // Right after the response.
        server.kill();
        let server = env.serve(&[]);
        let (newest, older) = tokens.split_last().unwrap();
        assert!(server.accepts(newest), "round {round}");
        assert!(older.iter().all(|old| !server.accepts(old)), "round {round}");
        post(CREATE).send(server.address).assert_is(409, "token name already exists, _admin");
    }
}

#[test]
fn second_server_follows_within_bound() {
    let env = TestEnv::new();
    let (one, two) = (env.serve(&[]), env.serve(&[]));
    let mut token = one.create();
    within(BOUND, "the other server accepts the first token", || two.accepts(&token));
    for (here, there) in [(&one, &two), (&two, &one)] {
        let new = here.regenerate(&token);
        assert!(!here.accepts(&token));
        within(BOUND, "the other server refuses the old token", || !there.accepts(&token));
        // In one step: a server that rejects the old token accepts the new one.
        assert!(there.accepts(&new));
        token = new;
    }
}

#[test]
fn servers_start_concurrently_in_new_directory() {
    let env = TestEnv::new();
    let servers: Vec<Server> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..6).map(|_| scope.spawn(|| env.serve(&[]))).collect();
        starting.into_iter().map(|server| server.join().unwrap()).collect()
    });
    let token = servers[0].create();
    for server in &servers {
        within(BOUND, "all servers accept the token", || server.accepts(&token));
    }
}

#[test]
fn files_are_private() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    server.create();
    assert_eq!(mode(&env.data_dir()), 0o700);
    let files: Vec<_> = fs::read_dir(env.data_dir()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.contains(&env.store()), "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn disk_has_no_secret() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let first = server.create();
    let second = server.regenerate(&first);
    let third = post(REGENERATE).send(server.recovery()).token();
    server.kill();
    for file in fs::read_dir(env.data_dir()).unwrap() {
        let content = fs::read(file.unwrap().path()).unwrap();
        for token in [&first, &second, &third] {
            // The random part, without the common prefix.
            let secret = token.strip_prefix("apiv3_").unwrap().as_bytes();
            assert!(!content.windows(secret.len()).any(|window| window == secret));
        }
    }
}

#[test]
fn signals_shut_down_gracefully() {
    let env = TestEnv::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = env.serve(&RECOVERY);
        // Idle connections do not delay the shutdown.
        let mut idle = Connection::open(server.address).unwrap();
        idle.write(&get("/").to_bytes());
        idle.read().unwrap();
        let silent = [server.address, server.recovery()].map(|address| Connection::open(address).unwrap());
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
        server.wait_for_log("stopped");
        drop(silent);
    }
}

/// Sends a create request without its body of two bytes, which the server waits for.
fn begin_create(server: &Server) -> Connection {
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(&post(CREATE).header("Content-Length", "2").header("Expect", "100-continue").to_bytes());
    assert_eq!(connection.read().unwrap().status, 100);
    connection
}

#[test]
fn shutdown_finishes_requests_in_flight() {
    let env = TestEnv::new();
    let mut server = env.serve(&[]);
    let mut connection = begin_create(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("SIGTERM: stopping");
    connection.write(b"{}");
    let token = connection.read().unwrap().token();
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    assert!(env.serve(&[]).accepts(&token));
}

#[test]
fn shutdown_timeout_cuts_off_requests_in_flight() {
    let (env, other) = (TestEnv::new(), TestEnv::new());
    let mut patient = env.serve(&["--shutdown-timeout", "1h"]);
    let mut hasty = other.serve_with(&[]).env("INFLUXDB3_SHUTDOWN_TIMEOUT", "0s").start();
    let (mut finished, mut cut_off) = (begin_create(&patient), begin_create(&hasty));
    // The patient one first: with the same timeout it would end first.
    patient.signal(Signal::TERM);
    patient.wait_for_log("SIGTERM: stopping");
    hasty.signal(Signal::TERM);
    assert_eq!(hasty.exit_code(), Some(0), "{}", hasty.log());
    assert!(cut_off.read().is_err());
    finished.write(b"{}");
    finished.read().unwrap().token();
    assert_eq!(patient.exit_code(), Some(0), "{}", patient.log());
}

#[test]
fn second_signal_exits_at_once() {
    let env = TestEnv::new();
    let mut server = env.serve(&[]);
    let connection = begin_create(&server);
    server.signal(Signal::TERM);
    server.wait_for_log("SIGTERM: stopping");
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(143), "{}", server.log());
    drop(connection);
}

#[test]
fn memory_store_is_not_persistent() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    server.wait_for_log("memory only");
    let old = server.create();
    server.stop();
    let server = env.serve(&["--store", "memory:"]);
    assert!(!server.accepts(&old));
    let token = server.create();
    assert!(server.accepts(&token));
    assert!(!env.data_dir().exists());
}

#[test]
fn default_data_directory_is_used() {
    for (home, variable) in [(".local/share/optoken", None), ("elsewhere/optoken", Some("elsewhere"))] {
        let env = TestEnv::new();
        let start = || {
            let cli = env.cli(["serve", "--http-bind", "127.0.0.1:0"]);
            match variable {
                Some(variable) => cli.env("XDG_DATA_HOME", env.home().join(variable)),
                None => cli,
            }
            .start()
        };
        let server = start();
        let store = env.home().join(home).join("tokens.db");
        // The log has the location of the data, and the next command.
        server.wait_for_log(&format!("sqlite:{}", store.display()));
        server.wait_for_log(&format!("optoken create token --admin --host http://{}", server.address));
        let token = server.create();
        server.stop();
        assert_eq!(mode(&store), 0o600);
        assert_eq!(mode(store.parent().unwrap()), 0o700);
        assert!(start().accepts(&token));
    }
}

#[test]
fn variables_equal_options() {
    let env = TestEnv::new();
    let start = |args: &[&str]| {
        env.cli(["serve"])
            .args(args)
            .env("INFLUXDB3_HTTP_BIND_ADDR", "127.0.0.1:0")
            .env("INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND_ADDR", "127.0.0.1:0")
            .env("INFLUXDB3_DATA_DIR", env.data_dir())
            .start()
    };
    let server = start(&[]);
    server.create();
    let token = post(REGENERATE).send(server.recovery()).token();
    server.stop();
    assert!(env.serve(&[]).accepts(&token));

    // A flag overrides a variable.
    let other = env.home().join("other.db");
    let server = start(&["--store", &format!("sqlite:{}", other.display())]);
    assert!(!server.accepts(&token));
    assert_eq!(mode(&other), 0o600);
}

#[test]
fn silent_store_denies_until_it_answers() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-staleness", "1", "--disable-authz", "ready"]);
    let token = server.create();
    let store = rusqlite::Connection::open(env.store()).unwrap();
    let status = || get("/health").bearer(&token).send(server.address).status;
    let ready = || get("/api/v3/optoken/ready").send(server.address).status;
    assert_eq!(ready(), 200);

    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("tokens are refused", || status() == 503);
    assert_eq!(ready(), 503);
    let response = post(REGENERATE).bearer(&token).send(server.address);
    response.assert_is(503, "tokens are not available at the moment, nothing was changed, try again");
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("www-authenticate"), None);
    server.wait_for_log("the token store does not answer");

    store.execute_batch("ALTER TABLE away RENAME TO catalog").unwrap();
    eventually("tokens are accepted", || status() == 200);
    assert_eq!(ready(), 200);
    server.wait_for_log("the token store answers again");
    assert!(server.accepts(&server.regenerate(&token)));
}

#[test]
fn closed_stderr_does_not_stop_server() {
    let env = TestEnv::new();
    // As with `optoken serve 2>&1 | head`, after the exit of `head`.
    let server = env.serve_with(&RECOVERY).start_and_close_stderr_after(Some("token recovery is open"));
    let recovery = server.recovery();
    let old = server.create();
    let new = post(REGENERATE).send(recovery).token();
    for _ in 0..3 {
        // The server logs a rejection.
        assert!(!server.accepts(&old));
    }
    assert!(server.accepts(&new));
    server.stop();
}

//! `serve`: options, listener files, the log, the service manager, sockets, and resource limits
//! (docs/compatibility.md 5.1 to 5.3).

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

use crate::http2;
use crate::support::{
    CREATE, Connection, RECOVERY, REGENERATE, TIMEOUT, TestEnv, assert_closed, eventually, get, holds_token,
    post,
};

/// Limit for a response without delay on a busy machine.
const SOON: Duration = Duration::from_secs(15);

const LISTENER_FILE: &str = "--tcp-listener-file-path";
const RECOVERY_FILE: &str = "--admin-token-recovery-tcp-listener-file-path";

#[test]
fn token_in_output_is_detected_in_any_form() {
    let env = TestEnv::new();
    let token = env.serve(&["--store", "memory:"]).create();
    let random = token.strip_prefix("apiv3_").unwrap();
    let bytes = Base64UrlUnpadded::decode_vec(random).unwrap();
    let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    for text in [
        format!("ERROR {token}"),
        format!(r#"{{"x":"{random}"}}"#),
        "after apiv3_a".to_owned(),
        format!("result={number}"),
        format!("result={bytes:?}"),
        format!("result={bytes:02x?}"),
    ] {
        assert!(holds_token(&text), "{text}");
    }
    for text in [&random[1..], "it starts with 'apiv3_'"] {
        assert!(!holds_token(text), "{text}");
    }
}

#[test]
fn invalid_options_exit_with_code_2() {
    let env = TestEnv::new();
    let versions = "Valid minimum version strings are tls-1.2 and tls-1.3";
    let authz = "invalid value passed in for --disable-authz, allowed values are health, ping, metrics, ready, pprof, and node_stop";
    let size = "a size is a number of bytes from 1 to 67108864, or such as 64KiB or 10MB";
    let id = "a node id is 1 to 64 visible ASCII characters";
    let long = format!("--node-id={}", "x".repeat(65));
    for (args, message) in [
        (&["--tls-minimum-version", "tls-1.1"][..], versions),
        (&["--tls-minimum-version", "1.3"], versions),
        (&["--tls-minimum-version", "TLS-1.3"], versions),
        (&["--disable-authz", "health,token"], authz),
        (&["--disable-authz", "a,a,a,a,a,a,a"], "--disable-authz cannot take more than 6 items"),
        (&["--object-store", "nonsense"], "it is file or memory here; use --store for any other store"),
        (&["--object-store", "s3"], "to keep them there, use --store s3://BUCKET/PREFIX in its place"),
        (&["--object-store", "google"], "use --store gs://BUCKET/PREFIX"),
        (&["--object-store", "azure"], "use --store az://CONTAINER/PREFIX"),
        (&["--object-store", "memory", "--store", "memory:"], "cannot be used with"),
        (&["--max-http-request-size", "0"], size),
        (&["--max-http-request-size", "0.5B"], size),
        (&["--max-http-request-size", "much"], size),
        (&["--max-http-request-size=-1"], size),
        (&["--max-http-request-size", "99999999999999999999"], size),
        (&["--node-id", ""], "--node-id <ID>"),
        (&["--node-id", "a b"], id),
        (&["--node-id", "knöt"], id),
        (&[&long], id),
        (&["--log-format", "yaml"], "invalid value 'yaml' for '--log-format <FORMAT>'"),
        (&["--without-auth=maybe"], "invalid value 'maybe' for '--without-auth"),
        (&["--without-auth", "true"], "unexpected argument 'true'"),
    ] {
        env.serve_with(args).run().assert_failed(2, &[message]);
    }
    for (variable, value, code) in [
        ("INFLUXDB3_WITHOUT_AUTH", "maybe", 2),
        ("INFLUXDB3_START_WITHOUT_AUTH", "maybe", 2),
        ("INFLUXDB3_TLS_MINIMUM_VERSION", "tls-1.1", 2),
        ("INFLUXDB3_OBJECT_STORE", "s3", 2),
        ("INFLUXDB3_DISABLE_AUTHZ", "nonsense", 2),
        ("INFLUXDB3_MAX_HTTP_REQUEST_SIZE", "0", 2),
        ("INFLUXDB3_NODE_IDENTIFIER_PREFIX", "a b", 2),
        ("INFLUXDB3_LOG_FORMAT", "yaml", 2),
    ] {
        let output = env.serve_with(&[]).env(variable, value).run();
        output.assert_failed(code, &[]);
        assert_ne!(output.stderr, "");
    }
    assert!(!env.data_dir().exists());
}

#[test]
fn valid_options_and_variables_are_applied() {
    let env = TestEnv::new();
    let without_auth = "WARN server started without auth (`--without-auth` switch), all token creation and regeneration of \
                        admin token endpoints are disabled\n";
    let open = r#"INFO setting up server with authz disabled for paths paths_without_authz=["/health", "/api/v1/health", "/api/v3/optoken/health", "/ping"]"#;
    let memory = "token store: memory only";
    let longest = "x".repeat(64);
    let id = |id: &str| format!("node_id=\"{id}\"\n");
    for (args, variables, present, absent) in [
        ("", &[][..], "listening on", "node_id"),
        ("", &[], "sqlite:", without_auth),
        ("", &[], "sqlite:", "authz disabled"),
        ("--without-auth", &[], without_auth, "authz disabled"),
        ("", &[("INFLUXDB3_WITHOUT_AUTH", "true")], without_auth, memory),
        ("", &[("INFLUXDB3_START_WITHOUT_AUTH", "true")], without_auth, memory),
        ("", &[("INFLUXDB3_START_WITHOUT_AUTH", "false")], "listening", without_auth),
        // A flag overrides a variable, and a new variable overrides an old one.
        ("--without-auth=false", &[("INFLUXDB3_WITHOUT_AUTH", "true")], "listening", without_auth),
        (
            "",
            &[("INFLUXDB3_WITHOUT_AUTH", "false"), ("INFLUXDB3_START_WITHOUT_AUTH", "true")],
            "listening",
            without_auth,
        ),
        ("--disable-authz health,ping", &[], open, without_auth),
        ("", &[("INFLUXDB3_DISABLE_AUTHZ", " health , ping ")], open, without_auth),
        ("--node-id node-1", &[], &id("node-1"), memory),
        ("", &[("INFLUXDB3_NODE_IDENTIFIER_PREFIX", &*longest)], &id(&longest), memory),
        ("--object-store file", &[], "data/tokens.db", memory),
        ("--object-store memory", &[], memory, "sqlite:"),
        ("", &[("INFLUXDB3_OBJECT_STORE", "memory")], memory, "sqlite:"),
        ("--max-http-request-size 1", &[], "listening", memory),
        ("--max-http-request-size 67108864", &[], "listening", memory),
        ("--max-http-request-size 64KiB", &[], "listening", memory),
        ("", &[("INFLUXDB3_MAX_HTTP_REQUEST_SIZE", "10MB")], "listening", memory),
        ("--log-format text", &[], "INFO listening", memory),
        ("--log-format full", &[], "INFO listening", memory),
    ] {
        let mut cli = env.serve_with(&args.split_whitespace().collect::<Vec<_>>());
        for (variable, value) in variables {
            cli = cli.env(variable, value);
        }
        let server = cli.start();
        server.wait_for_log("no operator token yet");
        let log = server.log();
        assert!(log.contains(present), "{args} {variables:?}: {present:?} is not in {log}");
        assert!(!log.contains(absent), "{args} {variables:?}: {absent:?} is in {log}");
    }
}

#[test]
fn help_lists_every_option_and_variable() {
    let help = TestEnv::new().cli(["serve", "--help"]).without_env("INFLUXDB3_LOG_FILTER").run();
    assert_eq!(help.code, Some(0));
    for (option, variable) in [
        ("--http-bind <ADDR>", "INFLUXDB3_HTTP_BIND_ADDR"),
        ("--tcp-listener-file-path <FILE>", "INFLUXDB3_TCP_LISTENER_FILE_PATH"),
        ("--max-http-request-size <BYTES>", "INFLUXDB3_MAX_HTTP_REQUEST_SIZE"),
        ("--tls-cert <FILE>", "INFLUXDB3_TLS_CERT"),
        ("--tls-key <FILE>", "INFLUXDB3_TLS_KEY"),
        ("--tls-minimum-version <VERSION>", "INFLUXDB3_TLS_MINIMUM_VERSION"),
        ("--admin-token-recovery-http-bind [<ADDR>]", "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND_ADDR"),
        (
            "--admin-token-recovery-tcp-listener-file-path <FILE>",
            "INFLUXDB3_ADMIN_TOKEN_RECOVERY_TCP_LISTENER_FILE_PATH",
        ),
        ("--admin-token-recovery-socket <PATH>", "INFLUXDB3_ADMIN_TOKEN_RECOVERY_SOCKET"),
        ("--admin-token-recovery-code", "INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE"),
        ("--admin-token-recovery-code-file <FILE>", "INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE_FILE"),
        ("--admin-token-recovery-timeout <DURATION>", "INFLUXDB3_ADMIN_TOKEN_RECOVERY_TIMEOUT"),
        ("--admin-token-bootstrap <CLIENTS>", "INFLUXDB3_ADMIN_TOKEN_BOOTSTRAP"),
        ("--without-auth[=<true|false>]", "INFLUXDB3_WITHOUT_AUTH"),
        ("--disable-authz <LIST>", "INFLUXDB3_DISABLE_AUTHZ"),
        ("--data-dir <DIR>", "INFLUXDB3_DATA_DIR"),
        ("--object-store <KIND>", "INFLUXDB3_OBJECT_STORE"),
        ("--max-staleness <SECONDS>", "INFLUXDB3_TOKEN_MAX_STALENESS"),
        ("--poll-interval <DURATION>", "INFLUXDB3_TOKEN_POLL_INTERVAL"),
        ("--node-id <ID>", "INFLUXDB3_NODE_ID"),
        ("--node-id-from-env <VARIABLE>", "INFLUXDB3_NODE_ID_FROM_ENV"),
        ("--shutdown-timeout <DURATION>", "INFLUXDB3_SHUTDOWN_TIMEOUT"),
        ("--component <FILE>", "INFLUXDB3_TOKEN_COMPONENT"),
        ("--log-filter <FILTER>", "INFLUXDB3_LOG_FILTER"),
        ("--log-format <FORMAT>", "INFLUXDB3_LOG_FORMAT"),
        ("--log-destination <STREAM>", "INFLUXDB3_LOG_DESTINATION"),
    ] {
        let (_, rest) = help.stdout.split_once(&format!("{option}\n")).unwrap_or_else(|| panic!("{option}"));
        let (_, named) = rest.split_once("[env: ").unwrap();
        assert!(named.starts_with(&format!("{variable}=]")), "{option}: {named}");
    }
}

#[test]
fn password_of_a_store_is_never_shown() {
    let env = TestEnv::new();
    let url = "postgres://user:hidden-password@127.0.0.1:1/db?nonsense=hidden-password";
    let commands = [
        &["serve", "--help"][..],
        &["store", "check", "--help"],
        &["backup", "--help"],
        &["restore", "--help"],
    ];
    for args in commands {
        let help = env.cli(args).env("INFLUXDB3_TOKEN_STORE", url).run();
        assert_eq!(help.code, Some(0));
        assert!(help.stdout.contains("[env: INFLUXDB3_TOKEN_STORE]"), "{}", help.stdout);
        assert!(!help.stdout.contains("hidden"), "{}", help.stdout);
    }
    let malformed = url.replace("postgres", "postgers");
    for url in [url, &malformed] {
        for (args, variable) in [
            (vec!["serve", "--http-bind", "127.0.0.1:0", "--store", url], None),
            (vec!["serve", "--http-bind", "127.0.0.1:0"], Some(url)),
            (vec!["store", "check", url], None),
            (vec!["store", "check"], Some(url)),
        ] {
            let mut cli = env.cli(&args).env("INFLUXDB3_LOG_FILTER", "trace");
            if let Some(url) = variable {
                cli = cli.env("INFLUXDB3_TOKEN_STORE", url);
            }
            let output = cli.run();
            assert_eq!(output.code, Some(2), "{args:?}: {}", output.stderr);
            assert!(!output.stderr.contains("hidden") && output.stdout.is_empty(), "{args:?}: {output:?}");
            let warned = output.stderr.contains("can see a password that is in an argument");
            assert_eq!(
                warned,
                variable.is_none() && url.starts_with("postgres:"),
                "{args:?}: {}",
                output.stderr
            );
        }
    }
}

#[test]
fn listener_file_exists_while_listener_is_open() {
    let env = TestEnv::new();
    let (main, recovery) = (env.home().join("main"), env.home().join("recovery"));
    let arguments = [LISTENER_FILE, main.to_str().unwrap(), RECOVERY_FILE, recovery.to_str().unwrap()];
    let server = env.serve(&[&RECOVERY[..], &arguments].concat());
    server.recovery();
    assert_eq!(fs::read_to_string(&main).unwrap(), server.address.to_string());
    assert_eq!(fs::read_to_string(&recovery).unwrap(), server.recovery().to_string());
    let mut files: Vec<_> = fs::read_dir(env.home()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["data", "main", "recovery"]);

    server.create();
    post(REGENERATE).send(server.recovery()).token();
    eventually("the file of the recovery listener is removed", || !recovery.exists());
    assert!(main.exists());
    server.stop();
    assert!(!main.exists());

    // Without recovery the server writes no file for it.
    let server = env.serve(&arguments);
    assert!(main.exists() && !recovery.exists());
    // A killed server does not remove its file.
    server.kill();
    env.serve_with(&arguments).run().assert_failed(1, &[&format!("remove it: rm {}", main.display())]);
}

#[test]
fn listener_file_variables_are_honoured() {
    let env = TestEnv::new();
    let file = |name: &str| env.home().join(name);
    for (variable, args) in [
        ("INFLUXDB3_TCP_LISTENER_FILE_PATH", &[][..]),
        ("INFLUXDB3_TCP_LISTINER_FILE_PATH", &[]),
        ("INFLUXDB3_ADMIN_TOKEN_RECOVERY_TCP_LISTENER_FILE_PATH", &RECOVERY),
    ] {
        let server = env.serve_with(args).env(variable, file(variable)).start();
        let address = if args.is_empty() { server.address } else { server.recovery() };
        assert_eq!(fs::read_to_string(file(variable)).unwrap(), address.to_string(), "{variable}");
    }
    let server = env
        .serve_with(&[])
        .env("INFLUXDB3_TCP_LISTENER_FILE_PATH", file("newer"))
        .env("INFLUXDB3_TCP_LISTINER_FILE_PATH", file("older"))
        .start();
    assert!(file("newer").exists() && !file("older").exists());
    drop(server);
}

#[test]
fn existing_listener_file_is_not_replaced() {
    let env = TestEnv::new();
    let precious = env.file("precious", b"precious");
    let dangling = env.home().join("dangling");
    std::os::unix::fs::symlink(env.home().join("nowhere"), &dangling).unwrap();
    let nowhere = env.home().join("nowhere/file");
    for (path, message) in [
        (&precious, "exists, so another server may be running there; if none is, remove it: rm "),
        (&dangling, "exists, so another server may be running there; if none is, remove it: rm "),
        (&nowhere, "No such file or directory"),
    ] {
        for option in [LISTENER_FILE, RECOVERY_FILE] {
            let other = env.home().join("other");
            let cli = env.serve_with(&RECOVERY).arg(option).arg(path);
            // The file of the main listener is written before the one for recovery fails.
            let output = if option == RECOVERY_FILE { cli.arg(LISTENER_FILE).arg(&other) } else { cli }.run();
            let named = format!("Serve command failed: {option}: ");
            output.assert_failed(1, &[&named, &path.display().to_string(), message]);
            assert!(!output.stderr.contains("listening"), "{output:?}");
            assert!(!other.exists());
        }
    }
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert!(!env.home().join("nowhere").exists());
}

#[test]
fn listener_file_of_other_server_is_not_removed() {
    let env = TestEnv::new();
    let path = env.home().join("listener");
    let server = env.serve(&[LISTENER_FILE, path.to_str().unwrap()]);
    // An operator starts the next server while this one still stops.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "127.0.0.1:1").unwrap();
    server.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1:1");
}

#[test]
fn listener_file_is_written_atomically() {
    let env = TestEnv::new();
    let path = env.home().join("listener");
    let ended = AtomicBool::new(false);
    let read = |path: &Path| fs::read_to_string(path).ok();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                seen.extend(read(&path));
                seen.dedup();
            }
            seen
        });
        let mut written = Vec::new();
        for _ in 0..5 {
            let server = env.serve(&["--object-store", "memory", LISTENER_FILE, path.to_str().unwrap()]);
            written.push(server.address.to_string());
            server.stop();
        }
        ended.store(true, Ordering::Relaxed);
        for seen in reader.join().unwrap() {
            assert!(written.contains(&seen), "{seen:?}");
        }
    });
}

#[test]
fn json_log_lines_are_objects_without_secrets() {
    let env = TestEnv::new();
    for filter in ["info", "trace"] {
        let store = format!("sqlite:{}", env.home().join(filter).display());
        let args = ["--log-format", "json", "--log-filter", filter, "--store", &store, "--node-id", "node-1"];
        let mut server = env.serve(&[&RECOVERY[..], &args].concat());
        let recovery = server.recovery();
        if filter == "trace" {
            server.allow_redaction();
        }

        let first = server.create();
        let second = server.regenerate(&first);
        assert!(!server.accepts(&first));
        for malformed in [format!("Bearer  {second}"), format!("bearer {second}"), second.clone()] {
            assert_eq!(get("/health").authorization(&malformed).send(server.address).status, 400);
        }
        get(&format!("/query?p={second}")).send(server.address);
        get(&format!("/{second}")).bearer(&second).send(server.address).assert_is(404, "Not found");
        let mut connection = Connection::open(server.address).unwrap();
        let bearer = format!("Bearer {second}");
        let head = http2::request("GET", "/health", &[("authorization", &bearer)], true);
        connection.write(&[http2::opening(), head].concat());
        while http2::read_frame(&mut connection).0 != http2::HEADERS {}
        // A malformed path, which the HTTP library logs.
        let mut connection = Connection::open(server.address).unwrap();
        let head = http2::request("GET", &format!("/query?p={second} "), &[], true);
        connection.write(&[http2::opening(), head].concat());
        http2::synchronize(&mut connection);
        let third = post(REGENERATE).header("X-Token", &second).send(recovery).token();
        assert_closed(recovery);
        assert!(server.accepts(&third));
        server.signal(Signal::TERM);
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
        server.wait_for_log("stopped");

        let log = server.log();
        for line in log.lines() {
            let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            for key in ["timestamp", "level"] {
                assert!(object[key].is_string(), "{key}: {line}");
            }
        }
        for token in [&first, &second, &third] {
            // The random part, without the common prefix.
            assert!(!log.contains(&token["apiv3_".len()..]), "{log}");
        }
        let started = log.lines().find(|line| line.contains("listening on")).unwrap();
        let started: Value = serde_json::from_str(started).unwrap();
        assert_eq!(started["level"], "INFO");
        assert_eq!(started["message"], format!("listening on http://{}", server.address));
        assert_eq!(started["node_id"], "node-1");
        assert_eq!(log.contains("malformed path"), filter == "trace", "{log}");
    }
    let server = env.serve_with(&[]).env("LOG_FORMAT", "json").start();
    assert!(server.log().starts_with('{'), "{}", server.log());
}

#[test]
fn token_in_option_is_redacted_in_log() {
    let env = TestEnv::new();
    for format in ["text", "json"] {
        let store = format!("sqlite:{}", env.home().join("apiv3_misplaced").display());
        let args = ["--log-format", format, "--store", &store, "--node-id", "apiv3_misplaced"];
        let server = env.serve(&args);
        server.allow_redaction();
        assert_eq!(server.log().matches("[token]").count(), 2, "{}", server.log());
        assert!(!server.log().contains("misplaced"), "{}", server.log());
    }
}

#[test]
fn service_manager_is_notified_of_start_and_stop() {
    let env = TestEnv::new();
    for args in [&[][..], &RECOVERY] {
        let path = env.home().join(format!("notify-{}", args.len()));
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(TIMEOUT)).unwrap();
        let notification = || {
            let mut message = [0; 100];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        let mut server = env.serve_with(args).env("NOTIFY_SOCKET", &path).start();
        assert_eq!(notification(), "READY=1\n");
        server.signal(Signal::TERM);
        assert_eq!(notification(), "STOPPING=1\n");
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    }
    // A missing service manager is a warning.
    let server = env.serve_with(&[]).env("NOTIFY_SOCKET", env.home().join("missing")).start();
    server.wait_for_log("WARN cannot notify the service manager (NOTIFY_SOCKET): No such file or directory");
    server.create();
}

#[test]
fn signs_of_life_are_sent_in_time() {
    let env = TestEnv::new();
    let path = env.home().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let notification = || {
        let mut message = [0; 100];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let start = |pid: Option<&str>| {
        let server = env.serve_with(&[]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
        match pid {
            Some(pid) => server.env("WATCHDOG_PID", pid),
            None => server,
        }
        .start()
    };
    let server = start(None);
    assert_eq!(notification(), "READY=1\n");
    for _ in 0..5 {
        assert_eq!(notification(), "WATCHDOG=1\n");
    }
    // The store is no reason to restart.
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    server.wait_for_log("the token store does not answer");
    for _ in 0..5 {
        assert_eq!(notification(), "WATCHDOG=1\n");
    }
    store.execute_batch("ALTER TABLE away RENAME TO catalog").unwrap();
    server.kill();
    // They are expected from another process.
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 100]).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    let server = start(Some("1"));
    assert_eq!(notification(), "READY=1\n");
    let token = server.create();
    for _ in 0..50 {
        assert!(server.accepts(&token));
    }
    server.stop();
    assert_eq!(notification(), "STOPPING=1\n");
}

#[test]
fn failed_start_sends_no_notification() {
    let env = TestEnv::new();
    let path = env.home().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let output =
        env.serve_with(&["--admin-token-recovery-http-bind", "0.0.0.0:0"]).env("NOTIFY_SOCKET", &path).run();
    output.assert_failed(1, &["is not a loopback address"]);
    assert!(manager.recv(&mut [0; 100]).is_err());
}

/// Two listening sockets, and a duplicate of each.
fn bind_sockets() -> ([TcpListener; 2], [OwnedFd; 2]) {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let passed = sockets.each_ref().map(|socket| socket.try_clone().unwrap().into());
    (sockets, passed)
}

#[test]
fn passed_sockets_are_used_in_order() {
    let env = TestEnv::new();
    let ([main, recovery], passed) = bind_sockets();
    // A client that connects before the server starts.
    let mut early = Connection::open(main.local_addr().unwrap()).unwrap();
    early.write(&post(CREATE).to_bytes());
    let server = env.serve_with(&RECOVERY).pass(2, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    assert_eq!(server.recovery(), recovery.local_addr().unwrap());
    let old = early.read().unwrap().token();
    let new = post(REGENERATE).send(server.recovery()).token();
    assert!(!server.accepts(&old));
    assert!(server.accepts(&new));
    server.stop();

    // The service manager passes the same sockets to the next start.
    let passed = [main.try_clone().unwrap().into(), recovery.try_clone().unwrap().into()];
    let server = env.serve_with(&RECOVERY).pass(2, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    assert!(server.accepts(&new));
}

#[test]
fn passed_recovery_socket_is_used_only_with_recovery() {
    let env = TestEnv::new();
    let ([main, second], passed) = bind_sockets();
    let server = env.serve_with(&[]).pass(2, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    server.wait_for_log("2 sockets were passed, and 1 of them used: the others are not served");
    assert!(!server.log().contains("recovery is open"), "{}", server.log());
    // A connection to the unused socket stays in its queue.
    let waiting = Connection::open(second.local_addr().unwrap()).unwrap();
    server.create();
    server.stop();
    second.set_nonblocking(true).unwrap();
    assert!(second.accept().is_ok());
    drop(waiting);

    // A single socket is the main listener. Recovery listens on its own option.
    let ([main, _], passed) = bind_sockets();
    let server = env.serve_with(&RECOVERY).pass(1, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    assert_ne!(server.recovery(), server.address);
    post(REGENERATE).send(server.recovery()).token();
    assert!(!server.log().contains("sockets were passed"), "{}", server.log());
}

#[test]
fn unusable_passed_socket_is_refused() {
    let env = TestEnv::new();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let anywhere = || TcpListener::bind("0.0.0.0:0").unwrap().into();
    let datagrams = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let local = listener();
    let connection = || TcpStream::connect(local.local_addr().unwrap()).unwrap().into();
    for (first, second, message) in [
        (datagrams(), listener().into(), "socket 1 of LISTEN_FDS: fd 3 is not a valid tcp socket"),
        (
            connection(),
            listener().into(),
            "socket 1 of LISTEN_FDS: the socket that was passed is a connection",
        ),
        (listener().into(), datagrams(), "socket 2 of LISTEN_FDS: fd 4 is not a valid tcp socket"),
        (listener().into(), anywhere(), "0.0.0.0:"),
        (listener().into(), anywhere(), "is not a loopback address"),
    ] {
        let output = env.serve_with(&RECOVERY).pass(2, [first, second]).run();
        output.assert_failed(1, &["Serve command failed: ", message]);
    }
}

#[test]
fn idle_connections_are_evicted_and_time_out() {
    let env = TestEnv::new();
    let server = env.serve_with(&RECOVERY).after("ulimit -n 64").start();
    server.wait_for_log("no more than 16 connections at a time");
    let old = server.create();
    let recovery = server.recovery();
    // More connections than file descriptors. The log reports no failure.
    let mut idle: Vec<_> = (0..70).map(|_| Connection::open(server.address).unwrap()).collect();
    let sent = Instant::now();
    assert!(server.accepts(&old));
    let new = post(REGENERATE).send(recovery).token();
    assert!(server.accepts(&new));
    assert!(sent.elapsed() < SOON, "{:?}", sent.elapsed());
    assert!(!server.log().contains("cannot accept"), "{}", server.log());
    // The remaining connections time out, without a new client.
    for connection in idle.iter_mut().rev() {
        assert!(connection.read().is_err());
    }
}

#[test]
fn fd_exhaustion_evicts_idle_connections() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let _idle: Vec<_> = (0..40).map(|_| Connection::open(server.address).unwrap()).collect();
    assert!(server.accepts(&token));
    // Fewer than the server has open.
    let limit = Rlimit { current: Some(40), maximum: Some(40) };
    prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap();
    let sent = Instant::now();
    for _ in 0..3 {
        assert!(server.accepts(&token));
    }
    assert!(sent.elapsed() < SOON, "{:?}", sent.elapsed());
    // The server retries many times a second, and logs it once.
    let warning =
        |line: &&str| line.contains(" WARN ") && line.contains("cannot accept a connection: Too many open");
    assert_eq!(server.log().lines().filter(warning).count(), 1);
}

#[test]
fn low_fd_limit_prevents_start() {
    let env = TestEnv::new();
    for limit in 8..=16 {
        let output = env.serve_with(&[]).after(&format!("ulimit -n {limit}")).run();
        let named = format!("Serve command failed: this process may open {limit} files only");
        output.assert_failed(1, &[&named, "ulimit -n", "LimitNOFILE="]);
        assert!(!output.stderr.contains("panicked"), "{output:?}");
    }
    assert!(!env.data_dir().exists());
    let server = env.serve_with(&[]).after("ulimit -n 32").start();
    let token = server.create();
    assert!(server.accepts(&server.regenerate(&token)));
}

#[test]
fn low_limit_of_address_space_is_named() {
    let env = TestEnv::new();
    // In KiB. Each start ends, because the address is none.
    for limit in [80_000, 100_000, 140_000, 200_000, 300_000, 500_000, 700_000, 4_000_000] {
        let unusable = ["serve", "--http-bind", "nonsense"];
        let output = env.cli(unusable).after(&format!("ulimit -v {limit}")).run();
        output.assert_failed(1, &["Serve command failed: "]);
        let named = output.stderr.contains("ulimit -v");
        let started = output.stderr.contains("--http-bind: ");
        assert!(named != started, "{limit}: {output:?}");
        assert!(!output.stderr.contains("not a WebAssembly component"), "{limit}: {output:?}");
        assert!(started || limit < 4_000_000, "{output:?}");
        // Libraries end the process where an allocation fails, so far too little is refused first.
        let refused = output.stderr.contains("MiB of address space only, and a server needs 256 MiB");
        assert_eq!(refused, limit < 262_144, "{limit}: {output:?}");
    }
}

#[test]
fn soft_fd_limit_is_raised_to_hard_limit() {
    let env = TestEnv::new();
    let server = env.serve_with(&["--store", "memory:"]).after("ulimit -Sn 100").start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard, ..] = files.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{files}") };
    assert_eq!(soft, hard);
    assert_ne!(soft, "100");
}

#[test]
fn nohup_ignores_sighup() {
    let env = TestEnv::new();
    // The disposition that nohup sets.
    let server = env.serve_with(&[]).after("trap '' HUP").start();
    server.signal(Signal::HUP);
    let token = server.create();
    assert!(server.accepts(&token));
    assert!(!server.log().contains("SIGHUP"), "{}", server.log());
    server.stop();
}

//! `influxdb3 serve` and what is around it: options, listener files, the log, the service manager (COMPAT 5.1 to 5.3).

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
use crate::recovery::assert_closes;
use crate::support::{
    CREATE, Connection, RECOVERY, REGENERATE, TIMEOUT, TestEnv, eventually, get, holds_token, post,
};

/// What clients call soon, though a machine that runs tests is busy.
const SOON: Duration = Duration::from_secs(15);

const LISTENER_FILE: &str = "--tcp-listener-file-path";
const RECOVERY_FILE: &str = "--admin-token-recovery-tcp-listener-file-path";

#[test]
fn a_token_in_any_output_would_be_noticed() {
    let env = TestEnv::new();
    let token = env.serve(&["--store", "memory:"]).create();
    let random = token.strip_prefix("apiv3_").unwrap();
    let bytes = Base64UrlUnpadded::decode_vec(random).unwrap();
    let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    for text in [
        format!("ERROR {token}"),
        format!(r#"{{"x":"{random}"}}"#),
        "behind apiv3_a".to_owned(),
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
fn options_that_make_no_sense_are_answered_with_exit_code_2() {
    let env = TestEnv::new();
    let versions = "Valid minimum version strings are tls-1.2 and tls-1.3";
    let authz = "invalid value passed in for --disable-authz, allowed values are health, ping, metrics, ready, pprof, and node_stop";
    let size = "a size is a number of bytes from 1 to 67108864, or such as 64KiB or 10MB";
    let id = "a node id is 1 to 64 visible ASCII characters";
    let long = format!("--node-id={}", "x".repeat(65));
    for (args, said) in [
        (&["--tls-minimum-version", "tls-1.1"][..], versions),
        (&["--tls-minimum-version", "1.3"], versions),
        (&["--tls-minimum-version", "TLS-1.3"], versions),
        (&["--disable-authz", "health,token"], authz),
        (&["--disable-authz", "a,a,a,a,a,a,a"], "--disable-authz cannot take more than 6 items"),
        (&["--object-store", "s3"], "it is file or memory here; use --store for any other store"),
        (&["--object-store", "memory", "--store", "memory:"], "cannot be used with"),
        (&["--max-http-request-size", "0"], size),
        (&["--max-http-request-size", "67108865"], size),
        (&["--max-http-request-size", "65MiB"], size),
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
        env.serve_with(args).run().assert_failed(2, &[said]);
    }
    for (variable, value, code) in [
        ("INFLUXDB3_WITHOUT_AUTH", "yes", 2),
        ("INFLUXDB3_START_WITHOUT_AUTH", "yes", 1),
        ("INFLUXDB3_START_WITHOUT_AUTH", "", 1),
        ("INFLUXDB3_TLS_MINIMUM_VERSION", "tls-1.1", 2),
        ("INFLUXDB3_OBJECT_STORE", "s3", 2),
        ("INFLUXDB3_DISABLE_AUTHZ", "nonsense", 2),
        ("INFLUXDB3_MAX_HTTP_REQUEST_SIZE", "0", 2),
        ("INFLUXDB3_NODE_IDENTIFIER_PREFIX", "a b", 2),
        ("LOG_FORMAT", "yaml", 2),
    ] {
        let output = env.serve_with(&[]).env(variable, value).run();
        output.assert_failed(code, &[]);
        assert_ne!(output.stderr, "");
    }
    assert!(!env.data_dir().exists());
}

#[test]
fn options_and_variables_that_make_sense_are_taken() {
    let env = TestEnv::new();
    let without_auth = "WARN server started without auth (`--without-auth` switch), all token creation and regeneration of \
                        admin token endpoints are disabled\n";
    let open = r#"INFO setting up server with authz disabled for paths paths_without_authz=["/health", "/api/v1/health", "/ping"]"#;
    let memory = "token store: memory only";
    let longest = "x".repeat(64);
    let id = |id: &str| format!("node_id=\"{id}\"\n");
    for (args, variables, said, unsaid) in [
        ("", &[][..], "listening on", "node_id"),
        ("", &[], "sqlite:", without_auth),
        ("", &[], "sqlite:", "authz disabled"),
        ("--without-auth", &[], without_auth, "authz disabled"),
        ("", &[("INFLUXDB3_WITHOUT_AUTH", "true")], without_auth, memory),
        ("", &[("INFLUXDB3_START_WITHOUT_AUTH", "true")], without_auth, memory),
        ("", &[("INFLUXDB3_START_WITHOUT_AUTH", "false")], "listening", without_auth),
        // What is nearer to the user, and newer, counts.
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
        assert!(log.contains(said), "{args} {variables:?}: {said:?} is not in {log}");
        assert!(!log.contains(unsaid), "{args} {variables:?}: {unsaid:?} is in {log}");
    }
}

#[test]
fn the_help_tells_of_every_option_and_its_variable() {
    let help = TestEnv::new().influxdb3(["serve", "--help"]).without_env("LOG_FILTER").run();
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
        ("--admin-token-bootstrap <WHO>", "INFLUXDB3_ADMIN_TOKEN_BOOTSTRAP"),
        ("--without-auth[=<true|false>]", "INFLUXDB3_WITHOUT_AUTH"),
        ("--disable-authz <LIST>", "INFLUXDB3_DISABLE_AUTHZ"),
        ("--data-dir <DIR>", "INFLUXDB3_DATA_DIR"),
        ("--store <URL>", "INFLUXDB3_TOKEN_STORE"),
        ("--object-store <KIND>", "INFLUXDB3_OBJECT_STORE"),
        ("--max-staleness <SECONDS>", "INFLUXDB3_TOKEN_MAX_STALENESS"),
        ("--node-id <ID>", "INFLUXDB3_NODE_IDENTIFIER_PREFIX"),
        ("--component <FILE>", "INFLUXDB3_TOKEN_COMPONENT"),
        ("--log-filter <FILTER>", "LOG_FILTER"),
        ("--log-format <FORMAT>", "LOG_FORMAT"),
    ] {
        let (_, behind) =
            help.stdout.split_once(&format!("{option}\n")).unwrap_or_else(|| panic!("{option}"));
        let (_, variable_behind) = behind.split_once("[env: ").unwrap();
        assert!(variable_behind.starts_with(&format!("{variable}=]")), "{option}: {variable_behind}");
    }
}

#[test]
fn a_file_tells_where_each_listener_is_for_as_long_as_it_is_there() {
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

    // Without recovery there is nothing to write.
    let server = env.serve(&arguments);
    assert!(main.exists() && !recovery.exists());
    // Who ends like this removes nothing.
    server.kill();
    env.serve_with(&arguments).run().assert_failed(1, &[&format!("remove it: rm {}", main.display())]);
}

#[test]
fn variables_say_where_the_listener_files_are() {
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
fn a_listener_file_that_exists_is_left_alone() {
    let env = TestEnv::new();
    let precious = env.file("precious", b"precious");
    let dangling = env.home().join("dangling");
    std::os::unix::fs::symlink(env.home().join("nowhere"), &dangling).unwrap();
    let nowhere = env.home().join("nowhere/file");
    for (path, said) in [
        (&precious, "exists, so another server may be running there; if none is, remove it: rm "),
        (&dangling, "exists, so another server may be running there; if none is, remove it: rm "),
        (&nowhere, "No such file or directory"),
    ] {
        for option in [LISTENER_FILE, RECOVERY_FILE] {
            let other = env.home().join("other");
            let cli = env.serve_with(&RECOVERY).arg(option).arg(path);
            // Written first where the one for recovery fails.
            let output = if option == RECOVERY_FILE { cli.arg(LISTENER_FILE).arg(&other) } else { cli }.run();
            let named = format!("Serve command failed: {option}: ");
            output.assert_failed(1, &[&named, &path.display().to_string(), said]);
            assert!(!output.stderr.contains("listening"), "{output:?}");
            assert!(!other.exists());
        }
    }
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    assert!(!env.home().join("nowhere").exists());
}

#[test]
fn the_listener_file_of_another_server_is_not_removed() {
    let env = TestEnv::new();
    let path = env.home().join("listener");
    let server = env.serve(&[LISTENER_FILE, path.to_str().unwrap()]);
    // As when somebody makes room for the next server while this one still stops.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "127.0.0.1:1").unwrap();
    server.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1:1");
}

#[test]
fn a_listener_file_is_never_seen_half() {
    let env = TestEnv::new();
    let path = env.home().join("listener");
    let ended = AtomicBool::new(false);
    let look = |path: &Path| fs::read_to_string(path).ok();
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                seen.extend(look(&path));
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
        for seen in looking.join().unwrap() {
            assert!(written.contains(&seen), "{seen:?}");
        }
    });
}

#[test]
fn every_line_of_a_json_log_is_an_object_and_none_holds_a_secret() {
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
        // A path that is none. The HTTP library quotes it.
        let mut connection = Connection::open(server.address).unwrap();
        let head = http2::request("GET", &format!("/query?p={second} "), &[], true);
        connection.write(&[http2::opening(), head].concat());
        http2::synchronize(&mut connection);
        let third = post(REGENERATE).header("X-Token", &second).send(recovery).token();
        assert_closes(recovery);
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
            // Not even without the prefix that they share.
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
fn a_token_in_an_option_is_not_logged() {
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
fn the_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    let env = TestEnv::new();
    for args in [&[][..], &RECOVERY] {
        let path = env.home().join(format!("notify-{}", args.len()));
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(TIMEOUT)).unwrap();
        let told = || {
            let mut message = [0; 100];
            let length = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        let mut server = env.serve_with(args).env("NOTIFY_SOCKET", &path).start();
        assert_eq!(told(), "READY=1\n");
        server.signal(Signal::TERM);
        assert_eq!(told(), "STOPPING=1\n");
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    }
    // Nobody is there: that is no reason to stop.
    let server = env.serve_with(&[]).env("NOTIFY_SOCKET", env.home().join("nobody")).start();
    server.wait_for_log("WARN cannot tell the service manager (NOTIFY_SOCKET): No such file or directory");
    server.create();
}

#[test]
fn a_server_that_cannot_start_is_not_called_ready() {
    let env = TestEnv::new();
    let path = env.home().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let output =
        env.serve_with(&["--admin-token-recovery-http-bind", "0.0.0.0:0"]).env("NOTIFY_SOCKET", &path).run();
    output.assert_failed(1, &["is not a loopback address"]);
    assert!(manager.recv(&mut [0; 100]).is_err());
}

/// Two sockets that are bound and listened on, and one more of each.
fn bound() -> ([TcpListener; 2], [OwnedFd; 2]) {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let passed = sockets.each_ref().map(|socket| socket.try_clone().unwrap().into());
    (sockets, passed)
}

#[test]
fn sockets_that_are_passed_are_taken_over_in_order() {
    let env = TestEnv::new();
    let ([main, recovery], passed) = bound();
    // This one waits since before the server has started.
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

    // The service manager still has them, for the next start.
    let passed = [main.try_clone().unwrap().into(), recovery.try_clone().unwrap().into()];
    let server = env.serve_with(&RECOVERY).pass(2, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    assert!(server.accepts(&new));
}

#[test]
fn a_socket_for_recovery_is_used_only_where_recovery_is_asked_for() {
    let env = TestEnv::new();
    let ([main, second], passed) = bound();
    let server = env.serve_with(&[]).pass(2, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    server.wait_for_log("2 sockets were passed, and 1 of them used: nobody answers on the others");
    assert!(!server.log().contains("recovery is open"), "{}", server.log());
    // Not even where somebody connects to it.
    let waiting = Connection::open(second.local_addr().unwrap()).unwrap();
    server.create();
    server.stop();
    second.set_nonblocking(true).unwrap();
    assert!(second.accept().is_ok());
    drop(waiting);

    // One socket is the main listener; recovery listens where it is told to.
    let ([main, _], passed) = bound();
    let server = env.serve_with(&RECOVERY).pass(1, passed).start();
    assert_eq!(server.address, main.local_addr().unwrap());
    assert_ne!(server.recovery(), server.address);
    post(REGENERATE).send(server.recovery()).token();
    assert!(!server.log().contains("sockets were passed"), "{}", server.log());
}

#[test]
fn a_socket_that_cannot_be_taken_over_is_refused() {
    let env = TestEnv::new();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let anywhere = || TcpListener::bind("0.0.0.0:0").unwrap().into();
    let datagrams = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let local = listener();
    let connection = || TcpStream::connect(local.local_addr().unwrap()).unwrap().into();
    for (first, second, said) in [
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
        output.assert_failed(1, &["Serve command failed: ", said]);
    }
}

#[test]
fn silent_connections_neither_keep_others_out_nor_stay() {
    let env = TestEnv::new();
    let server = env.serve_with(&RECOVERY).after("ulimit -n 64").start();
    server.wait_for_log("no more than 16 connections at a time");
    let old = server.create();
    let recovery = server.recovery();
    // More than it may have files open, of which the log has nothing to tell.
    let mut silent: Vec<_> = (0..70).map(|_| Connection::open(server.address).unwrap()).collect();
    let asked = Instant::now();
    assert!(server.accepts(&old));
    let new = post(REGENERATE).send(recovery).token();
    assert!(server.accepts(&new));
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert!(!server.log().contains("cannot accept"), "{}", server.log());
    // Those who have a place lose it, too, and nobody has to come for that.
    for connection in silent.iter_mut().rev() {
        assert!(connection.read().is_err());
    }
}

#[test]
fn a_server_that_may_open_no_more_files_shows_out_who_is_silent() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let _silent: Vec<_> = (0..40).map(|_| Connection::open(server.address).unwrap()).collect();
    assert!(server.accepts(&token));
    // Fewer than are open.
    let limit = Rlimit { current: Some(40), maximum: Some(40) };
    prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap();
    let asked = Instant::now();
    for _ in 0..3 {
        assert!(server.accepts(&token));
    }
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    // Tried many times a second, and told once.
    let told =
        |line: &&str| line.contains(" WARN ") && line.contains("cannot accept a connection: Too many open");
    assert_eq!(server.log().lines().filter(told).count(), 1);
}

#[test]
fn a_server_may_have_as_many_files_open_as_the_system_allows() {
    let env = TestEnv::new();
    let server = env.serve_with(&["--store", "memory:"]).after("ulimit -Sn 100").start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard, ..] = files.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{files}") };
    assert_eq!(soft, hard);
    assert_ne!(soft, "100");
}

#[test]
fn every_signal_that_ends_a_process_lets_it_clean_up_first() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let env = TestEnv::new();
        let door = env.home().join("door");
        let server = env.serve_with(&["--admin-token-recovery-code"]);
        let server = server.arg("--admin-token-recovery-socket").arg(&door);
        // Whoever runs the tests may do so under nohup.
        let mut server = server.wrapped_in("env", &["--default-signal=HUP"]).start();
        server.wait_for_log("token recovery is open");
        let code = env.data_dir().join("recovery-code");
        assert!(door.exists() && code.exists());
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0), "{signal:?}: {}", server.log());
        server.wait_for_log(": stopping after the requests in flight");
        assert!(!door.exists() && !code.exists(), "{signal:?}");
    }
}

#[test]
fn a_terminal_that_is_closed_does_not_end_what_is_to_outlive_it() {
    let env = TestEnv::new();
    // As nohup does it.
    let server = env.serve_with(&[]).after("trap '' HUP").start();
    server.signal(Signal::HUP);
    let token = server.create();
    assert!(server.accepts(&token));
    server.stop();
}

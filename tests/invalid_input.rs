//! Invalid input has a clear error and changes nothing.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use crate::support::{
    CREATE, Connection, RECOVERY, REGENERATE, Request, TIMEOUT, TestEnv, eventually, get, post,
};

const NEWER: &str = r#"{"format":4}"#;

const UNKNOWN: &str = "apiv3_unknown";

fn database(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn unusable_data_directory_is_named() {
    let env = TestEnv::new();
    let file = env.file("file", b"precious");
    let open = env.home().join("open");
    fs::create_dir(&open).unwrap();
    for (directory, mode, message) in [
        (file.clone(), 0o600, ""),
        (file.join("below"), 0o600, ""),
        // Root cannot create a directory there either.
        (PathBuf::from("/proc/optoken"), 0o600, ""),
        (open.clone(), 0o777, "others can write to it (mode 777); run: chmod go-w "),
        (open.clone(), 0o720, "others can write to it (mode 720); run: chmod go-w "),
        (open.clone(), 0o1777, "others can write to it (mode 1777); run: chmod go-w "),
    ] {
        if directory == open {
            fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        }
        let output = env.cli(["serve", "--http-bind", "127.0.0.1:0", "--data-dir"]).arg(&directory).run();
        let named =
            format!("Serve command failed: cannot use the data directory {}: {message}", directory.display());
        output.assert_failed(1, &[&named]);
    }
    assert_eq!(fs::read(file).unwrap(), b"precious");
    assert_eq!(fs::read_dir(open).unwrap().count(), 0);

    let homeless = env.cli(["serve", "--http-bind", "127.0.0.1:0"]).without_env("HOME").run();
    homeless.assert_failed(1, &["--data-dir", "INFLUXDB3_DATA_DIR"]);
}

#[test]
fn foreign_file_as_store_is_not_changed() {
    let env = TestEnv::new();
    let foreign = env.home().join("foreign.db");
    database(
        &foreign,
        "CREATE TABLE catalog (id INTEGER, version TEXT, document TEXT); INSERT INTO catalog VALUES (1, 'v', 'd')",
    );
    let layout = env.home().join("layout.db");
    env.serve(&["--store", &format!("sqlite:{}", layout.display())]).stop();
    database(&layout, "PRAGMA user_version = 2");
    let directory = env.home().join("directory.db");
    fs::create_dir(&directory).unwrap();
    for (path, message) in [
        (env.file("text.db", b"This is a letter, longer than the hundred bytes that the header of a SQLite database takes, and it is precious."), "is not a token store"),
        (env.file("short.db", b"short"), "is not a token store"),
        (foreign, "is not a token store"),
        (layout, "has layout 2, this version knows layout 1 only; use the newer version"),
        (directory, "it is not a regular file"),
        (env.home().join("nowhere/tokens.db"), "No such file or directory"),
        (PathBuf::from("/dev/null"), "it is not a regular file"),
    ] {
        let before = fs::read(&path).ok();
        let store = format!("sqlite:{}", path.display());
        let output = env.serve_with(&["--store", &store]).run();
        output.assert_failed(1, &["Serve command failed: ", &path.display().to_string(), message]);
        assert!(fs::read(&path).ok() == before, "{} was written", path.display());
    }
    // At the default path in the data directory.
    fs::create_dir(env.data_dir()).unwrap();
    fs::write(env.store(), "precious").unwrap();
    env.serve_with(&[]).run().assert_failed(1, &[&env.store().display().to_string(), "is not a token store"]);
    assert_eq!(fs::read(env.store()).unwrap(), b"precious");
}

#[test]
fn empty_foreign_database_is_not_changed() {
    let env = TestEnv::new();
    let path = env.home().join("empty.db");
    // The database of a GeoPackage, with an application id and no tables yet.
    database(&path, "PRAGMA application_id = 0x47504B47; PRAGMA user_version = 10300");
    let before = fs::read(&path).unwrap();
    let output = env.serve_with(&["--store", &format!("sqlite:{}", path.display())]).run();
    output.assert_failed(1, &[&path.display().to_string(), "is not a token store"]);
    assert!(fs::read(&path).unwrap() == before, "the file was written");
}

#[test]
fn unreadable_catalog_prevents_start() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    server.create();
    server.stop();
    let (_, good) = env.stored_catalog().unwrap();
    // The version of an earlier build, which does not vouch for its document.
    let version = "0123456789abcdef0123456789abcdef".to_owned();
    for (document, message) in [
        (
            NEWER.to_owned(),
            "the catalog has format 4, this version reads formats 1 to 3; a newer version may have written it",
        ),
        (String::new(), "the catalog is damaged"),
        ("{}".to_owned(), "the catalog is damaged"),
        (good[..good.len() / 2].to_owned(), "the catalog is damaged"),
        (good.replace(r#""next_id":1"#, r#""next_id":0"#), "the catalog is damaged"),
    ] {
        let store = rusqlite::Connection::open(env.store()).unwrap();
        store.execute("UPDATE catalog SET version = ?1, document = ?2", [&version, &document]).unwrap();
        drop(store);
        let before = fs::read(env.store()).unwrap();
        env.serve_with(&[]).run().assert_failed(1, &["Serve command failed: ", message]);
        assert_eq!(env.stored_catalog(), Some((version.clone(), document)));
        assert!(fs::read(env.store()).unwrap() == before, "the file was written");
    }
}

#[test]
fn newer_catalog_denies_and_is_not_rewritten() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let token = server.create();
    // Another server on this store has been upgraded.
    let newer = ("of the newer version".to_owned(), NEWER.to_owned());
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute("UPDATE catalog SET version = ?1, document = ?2", [&newer.0, &newer.1]).unwrap();
    eventually("tokens are no longer checked", || {
        get("/health").bearer(&token).send(server.address).status == 503
    });
    for (request, to) in [
        (post(CREATE), server.address),
        (post(REGENERATE).bearer(&token), server.address),
        (post(REGENERATE), server.recovery()),
    ] {
        let response = request.send(to);
        assert!(matches!(response.status, 500 | 503), "{response:?}");
        assert!(response.body.contains("nothing was changed"), "{response:?}");
    }
    assert_eq!(env.stored_catalog(), Some(newer));
    server.wait_for_log("newer version");
}

#[test]
fn incompatible_component_prevents_start() {
    let env = TestEnv::new();
    let contract = [
        "optoken:authority/tokens@0.2.0",
        "optoken:authority/catalog-store@0.2.0",
        "wasi:random/random@0.2.",
    ];
    let worlds =
        ["the component does not fit", "This host runs a world with", "The component has a world with"];
    for (file, message) in [
        (env.file("letter.wasm", b"not wasm"), &["this is not a WebAssembly component"][..]),
        (env.file("empty.wasm", b""), &["this is not a WebAssembly component"]),
        (env.file("module.wasm", b"\0asm\x01\0\0\0"), &["this is not a WebAssembly component"]),
        (env.file("component.wasm", b"\0asm\x0d\0\x01\0"), &[&worlds[..], &contract].concat()),
        (env.home().join("missing.wasm"), &["No such file or directory"]),
    ] {
        let output = env.serve_with(&["--store", "memory:", "--component"]).arg(&file).run();
        output.assert_failed(1, &["Serve command failed: ", &file.display().to_string()]);
        output.assert_failed(1, message);
    }
    let fitting = concat!(env!("CARGO_MANIFEST_DIR"), "/../component/prebuilt/optoken.wasm");
    env.serve(&["--store", "memory:", "--component", fitting]).create();
}

#[test]
fn unusable_address_is_named() {
    let env = TestEnv::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, message) in [
        (taken.as_str(), "another server is running there, or choose another port"),
        ("nonsense", "an address is HOST:PORT, such as 127.0.0.1:8181"),
        ("127.0.0.1", "an address is HOST:PORT, such as 127.0.0.1:8181"),
        ("127.0.0.1:99999", "an address is HOST:PORT, such as 127.0.0.1:8181"),
        ("", "an address is HOST:PORT, such as 127.0.0.1:8181"),
        // TEST-NET-1 (RFC 5737), which no machine has.
        ("192.0.2.1:0", ""),
    ] {
        for option in ["--http-bind", "--admin-token-recovery-http-bind"] {
            let mut cli = env.cli(["serve", "--store", "memory:"]).args(&[option, address]);
            if option != "--http-bind" {
                cli = cli.args(&["--http-bind", "127.0.0.1:0"]);
            }
            let named = format!("Serve command failed: {option}: cannot listen on {address}");
            cli.run().assert_failed(1, &[&named, message]);
        }
    }
}

#[test]
fn invalid_command_line_exits_with_code_2() {
    let env = TestEnv::new();
    for (args, message) in [
        ("", "Usage: optoken <COMMAND>"),
        ("create", "Usage: optoken create <COMMAND>"),
        ("nonsense", "unrecognized subcommand 'nonsense'"),
        ("create token", "error: Missing required subcommand. Use: optoken create token --admin [OPTIONS]"),
        ("create token --nonsense", "error: unexpected argument '--nonsense' found"),
        ("create token --name x", "or: optoken create token --permission TYPE:NAMES:ACTIONS --name NAME"),
        (
            "create token --permission db:a:read",
            "error: --permission needs the name of the token: add --name NAME",
        ),
        ("create token --admin --nonsense", "error: unexpected argument '--nonsense' found"),
        ("create token --admin --format yaml", "invalid value 'yaml' for '--format <FORMAT>'"),
        ("create token --admin --token", "a value is required for '--token <TOKEN>'"),
        ("serve --nonsense", "error: unexpected argument '--nonsense' found"),
        ("serve nonsense", "error: unexpected argument 'nonsense' found"),
        (
            "serve --store nonsense",
            "for '--store <URL>': a store is sqlite:PATH, memory:, s3://BUCKET/PREFIX, ",
        ),
        ("serve --store sqlite:", "a store is sqlite:PATH, memory:, s3://BUCKET/PREFIX, "),
        ("serve --store memory:x", "a store is sqlite:PATH, memory:, s3://BUCKET/PREFIX, "),
        ("store check https://host/x", "for '<URL>': a store is sqlite:PATH, "),
        ("serve --max-staleness 0", "invalid value '0' for '--max-staleness <SECONDS>'"),
        ("serve --poll-interval 49ms", "at least every hour (1h), and at most every 50ms"),
        ("serve --poll-interval 3601s", "at least every hour (1h), and at most every 50ms"),
        ("serve --poll-interval 1", "a duration is one like"),
    ] {
        env.cli(args.split_whitespace()).run().assert_failed(2, &[message]);
    }
    env.serve_with(&["--log-filter", "===", "--store", "memory:"])
        .run()
        .assert_failed(1, &["--log-filter", "==="]);
}

#[test]
fn misplaced_token_is_not_echoed() {
    // The fixture asserts that stderr has no token. A misplaced token could also reach a log.
    let env = TestEnv::new();
    let token =
        "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g";
    for args in [
        format!("create token {token}"),
        format!("create token --admin --regenerate {token} {token}"),
        format!("create token --admin --format {token}"),
        format!("create token --admin --host {token}"),
        format!("create token --admin --regenerate --yes --host http://operator:{token}@127.0.0.1:1"),
        format!("create token --admin --name ci --expiry {token}"),
        format!("create token --admin --regenerate --name {token}"),
        format!("create {token}"),
        format!("delete token {token}"),
        format!("delete token --token-name {token}"),
        format!("show tokens {token}"),
        format!("show tokens --format {token}"),
        format!("serve {token}"),
        format!("serve --store {token}"),
    ] {
        let output = env.cli(args.split_whitespace()).run();
        assert!(matches!(output.code, Some(1 | 2)), "{output:?}");
        assert_ne!(output.stderr, "");
    }
    // Help shows values of the environment, except this one.
    let help = env.cli(["create", "token", "--admin", "--help"]).env("INFLUXDB3_AUTH_TOKEN", token).run();
    assert_eq!(help.code, Some(0));
    assert!(!help.stdout.contains(token));
}

/// A server that reads a head, sends these bytes, and closes the connection. `ECHO` stands for the
/// head.
fn foreign_server(response: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
            let response = String::from_utf8_lossy(&response).replace("ECHO", &head.join(" "));
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    address
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

#[test]
fn non_token_server_is_reported() {
    let env = TestEnv::new();
    // No server listens on that port.
    let unused = SocketAddr::from(([127, 0, 0, 1], 1));
    for (address, message) in [
        (unused, &["cannot reach", "Connection refused", "optoken serve"][..]),
        (
            foreign_server(http("404 Not Found", "<html>nothing here</html>")),
            &["404 Not Found", "nothing here", "the address of a token server?"],
        ),
        (
            foreign_server(http("307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/", "")),
            &["307 Temporary Redirect", "follows no redirect", "leads to http://127.0.0.1:1/"],
        ),
        (foreign_server(b"SSH-2.0-OpenSSH_10.0\r\n".to_vec()), &["did not answer"]),
        (foreign_server(Vec::new()), &["did not answer", "the old token is still in force"]),
    ] {
        let output = env.create_token(address, &["--regenerate", "--yes", "--token", UNKNOWN]).run();
        output.assert_failed(1, &["Create command failed: "]);
        output.assert_failed(1, message);
    }
    for (host, message) in [
        ("nonsense", "http://127.0.0.1:8181"),
        ("localhost:8181", "http://127.0.0.1:8181"),
        ("ftp://localhost", "http://127.0.0.1:8181"),
        ("http://", "http://127.0.0.1:8181"),
        ("", "http://127.0.0.1:8181"),
    ] {
        let output = env.cli(["create", "token", "--admin", "--host", host]).run();
        output.assert_failed(2, &[host, message]);
    }
    let output = env.cli(["create", "token", "--admin", "--host", "http://me:password@127.0.0.1:1"]).run();
    output.assert_failed(2, &["--host: the URL of a server has no user name or password"]);
    assert!(!output.stderr.contains("password@"), "{output:?}");
    let bad_token = env.create_token(unused, &["--regenerate", "--yes", "--token", "two\nlines"]).run();
    bad_token.assert_failed(1, &["was it copied whole?"]);
}

#[test]
fn server_text_cannot_inject_terminal_escapes() {
    let env = TestEnv::new();
    let address = foreign_server(http("500 Internal Server Error", "\u{1b}[2Jcleared\u{7}"));
    let output = env.create_token(address, &[]).run();
    output.assert_failed(1, &["server responded with error [500 Internal Server Error]: [2Jcleared"]);
    assert!(!output.stderr.contains(['\u{1b}', '\u{7}']), "{output:?}");
}

#[test]
fn response_without_token_is_rejected() {
    let env = TestEnv::new();
    for (status, body) in [
        ("201 Created", "<html>"),
        ("201 Created", r#"{"token":1}"#),
        ("201 Created", r#"{"token":""}"#),
        ("201 Created", r#"{"token":"x"}"#),
        ("201 Created", r#"{"token":"apiv3_\u001b[2J"}"#),
        ("200 OK", "hello"),
        ("200 OK", r#"{"token":"apiv3_x"}"#),
    ] {
        let output = env.create_token(foreign_server(http(status, body)), &[]).run();
        output.assert_failed(1, &["Create command failed: ", "answers, but not as a token server"]);
    }
}

#[test]
fn token_echoed_by_server_is_redacted() {
    let env = TestEnv::new();
    // Some servers echo an unknown request.
    for body in ["ECHO", r#"{"error":"ECHO"}"#] {
        let address = foreign_server(http("500 Internal Server Error", body));
        let output = env.create_token(address, &["--regenerate", "--yes", "--token", UNKNOWN]).run();
        output.assert_failed(1, &["Create command failed: ", "500 Internal Server Error"]);
    }
}

#[test]
fn unwritable_stdout_is_an_error() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = env.create_token(server.address, &[]).stdout(full).run();
    output.assert_failed(1, &["the token was created, but cannot be written to standard output"]);
}

#[test]
fn large_body_is_413_and_changes_nothing() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let empty = env.stored_catalog();
    let limit = 64 << 10;
    let with_bodies = |request: &dyn Fn() -> Request, size: usize| {
        let body = vec![b' '; size];
        [request().body(&body), request().chunked(&body, 1000), request().chunked(&body, size)]
    };
    for request in with_bodies(&|| post(CREATE), limit + 1) {
        let response = request.send(server.address);
        response.assert_is(413, "max request size (65536 bytes) exceeded");
        assert_eq!(response.header("connection"), Some("close"));
    }
    // The server rejects the length and does not read the body.
    let large = post(CREATE).header("Content-Length", "1000000000000");
    large.send(server.address).assert_is(413, "max request size (65536 bytes) exceeded");
    assert_eq!(env.stored_catalog(), empty);

    let mut token = server.create();
    let before = env.stored_catalog();
    for request in with_bodies(&|| post(REGENERATE).bearer(&token), limit + 1) {
        request.send(server.address).assert_is(413, "max request size (65536 bytes) exceeded");
    }
    // An unauthenticated client learns nothing of limits.
    let unauthenticated = post(REGENERATE).bearer(UNKNOWN).header("Content-Length", "1000000000000");
    assert_eq!(unauthenticated.send(server.address).status, 401);
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
    for number in 0..3 {
        let request =
            with_bodies(&|| post(REGENERATE).bearer(&token), limit).into_iter().nth(number).unwrap();
        token = request.send(server.address).token();
    }
}

#[test]
fn malformed_request_is_rejected_without_waiting() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let token = server.create();
    let before = env.stored_catalog();
    let long = "x".repeat(64 << 10);
    let many = "X-Many: y\r\n".repeat(200);
    let head = format!("POST {REGENERATE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n");
    for (case, bytes, status) in [
        ("garbage", "\0\u{1}\u{2}garbage\r\n\r\n".to_owned(), 400),
        ("TLS", "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0\r\n\r\n".to_owned(), 400),
        ("no version", format!("POST {REGENERATE}\r\n\r\n"), 400),
        ("unknown version", format!("POST {REGENERATE} HTTP/9.9\r\n\r\n"), 400),
        ("header without colon", format!("{head}nonsense\r\n\r\n"), 400),
        ("header with a space in its name", format!("{head}Content Length: 0\r\n\r\n"), 400),
        ("two lengths", format!("{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), 400),
        ("negative length", format!("{head}Content-Length: -1\r\n\r\n"), 400),
        ("unreadable chunk", format!("{head}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400),
        ("unknown encoding", format!("{head}Transfer-Encoding: gzip\r\n\r\n"), 400),
        ("long header", format!("{head}X-Long: {long}\r\n\r\n"), 431),
        ("long token", format!("GET /health HTTP/1.1\r\nAuthorization: Bearer {long}\r\n\r\n"), 431),
        ("many headers", format!("{head}{many}\r\n"), 431),
        ("long path", format!("GET /{long} HTTP/1.1\r\n\r\n"), 414),
    ] {
        for to in [server.address, server.recovery()] {
            let mut connection = Connection::open(to).unwrap();
            let bytes = bytes.replace("Host: localhost", &format!("Host: localhost:{}", to.port()));
            connection.write(bytes.as_bytes());
            // The recovery listener rejects chunks before it reads them.
            let status = if case == "unreadable chunk" && to == server.recovery() { 403 } else { status };
            // The server may also close the connection without a response.
            if let Ok(response) = connection.read() {
                assert!(
                    response.status == status || status == 414 && response.status == 431,
                    "{case}: {response:?}"
                );
            }
        }
        assert_eq!(env.stored_catalog(), before, "{case}");
    }
    assert!(server.accepts(&token));
}

#[test]
fn truncated_body_changes_nothing() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let token = server.create();
    let before = env.stored_catalog();
    for to in [server.address, server.recovery()] {
        let mut connection = Connection::open(to).unwrap();
        connection.write(&post(REGENERATE).bearer(&token).header("Content-Length", "2").to(to).to_bytes());
        connection.write(b"{");
        connection.finish_writing();
        if let Ok(response) = connection.read() {
            response.assert_is(400, "Failed to read request body");
        }
    }
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
}

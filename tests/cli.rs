//! The command line: named tokens, tokens made offline, deletion, the list, `.env`, TLS, questions
//! and messages (docs/compatibility.md 4).

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::support::{Cli, NOT_AUTHENTICATED, TIMEOUT, TestEnv, assert_token_form, get, sha512_hex};

/// Body of a response with a new token.
const ISSUED: &str = r#"{"id":1,"name":"x","token":"apiv3_made-up","hash":"","created_at":"2026-01-01T00:00:00Z","expiry":null}"#;

const TOKEN: &str = "apiv3_presented";

/// A whole response.
fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn created() -> String {
    http("201 Created", ISSUED)
}

/// Responds to one request, and returns it.
struct FakeServer {
    address: SocketAddr,
    listener: TcpListener,
}

/// First line, fields in lower case, and body of a request.
#[derive(Debug)]
struct ReceivedRequest {
    line: String,
    fields: Vec<String>,
    body: String,
}

impl FakeServer {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn respond(self, response: String) -> thread::JoinHandle<ReceivedRequest> {
        thread::spawn(move || serve(accept(&self.listener), &response))
    }

    /// Returns whether no client has connected.
    fn has_no_client(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        self.listener.accept().is_err()
    }
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// Reads a request, and responds to it.
fn serve(stream: impl Read + Write, response: &str) -> ReceivedRequest {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let (line, fields) = head.split_first().unwrap();
    let fields: Vec<_> = fields.iter().map(|field| field.to_lowercase()).collect();
    let length = fields.iter().find_map(|field| field.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    stream.get_mut().write_all(response.as_bytes()).unwrap();
    stream.get_mut().flush().unwrap();
    ReceivedRequest { line: line.clone(), fields, body: String::from_utf8(body).unwrap() }
}

fn admin(env: &TestEnv, args: &[&str]) -> Cli {
    env.cli(["create", "token", "--admin"]).args(args)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn files(directory: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

fn pipe(env: &TestEnv) -> PathBuf {
    let path = env.home().join("pipe");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    path
}

#[test]
fn create_options_send_documented_request() {
    let named = "POST /api/v3/configure/token/named_admin HTTP/1.1";
    let operator = "POST /api/v3/configure/token/admin HTTP/1.1";
    let ignored = "warning: the operator token never expires, so --expiry is ignored; it applies to a token with a --name\n";
    let unused =
        "warning: --output-file applies to --offline and --regenerate only; the token is not written to it\n";
    for (args, line, body, message) in [
        ("", operator, "", ""),
        ("--expiry 10d", operator, "", ignored),
        ("--output-file unused", operator, "", unused),
        ("--name ci", named, r#"{"token_name":"ci","expiry_secs":null}"#, ""),
        ("--name ci --expiry 10d", named, r#"{"token_name":"ci","expiry_secs":864000}"#, ""),
        ("--name ci --expiry 1y", named, r#"{"token_name":"ci","expiry_secs":31557600}"#, ""),
        ("--name ci --expiry 1999ms", named, r#"{"token_name":"ci","expiry_secs":1}"#, ""),
        ("--name ci --expiry 999ms", named, r#"{"token_name":"ci","expiry_secs":0}"#, ""),
        ("--name ci --output-file unused", named, r#"{"token_name":"ci","expiry_secs":null}"#, unused),
        (r#"--name é"\"#, named, r#"{"token_name":"é\"\\","expiry_secs":null}"#, ""),
    ] {
        let env = TestEnv::new();
        let server = FakeServer::new();
        let args: Vec<_> = args.split_whitespace().collect();
        let cli = admin(&env, &args).args(&["-H", &server.url()]).env("INFLUXDB3_AUTH_TOKEN", TOKEN);
        let server = server.respond(created());
        let output = cli.run();
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), message), "{args:?}");
        assert!(output.stdout.contains("Token: apiv3_made-up\n"), "{args:?}");
        let received = server.join().unwrap();
        assert_eq!((received.line.as_str(), received.body.as_str()), (line, body), "{args:?}");
        // Creating the operator token needs no credential, so the client sends none.
        let authorization = format!("authorization: bearer {TOKEN}");
        assert_eq!(received.fields.contains(&authorization), line != operator, "{received:?}");
        let json = received.fields.contains(&"content-type: application/json".to_owned());
        assert_eq!(json, line == named, "{received:?}");
        assert!(files(env.home()).is_empty(), "{args:?}");
    }
}

#[test]
fn contradictory_options_send_no_request() {
    let env = TestEnv::new();
    let server = FakeServer::new();
    let expiries = "a duration is one like 30min, 12h, 10d, 1y";
    for (args, message) in [
        (
            "--name ci --regenerate",
            "error: --regenerate cannot be used with --name, --regenerate only applies for operator token\n",
        ),
        (
            "--name ci --regenerate --offline --output-file file",
            "error: --regenerate cannot be used with --name, --regenerate only applies for operator token\n",
        ),
        (
            "--regenerate --yes --offline --output-file file",
            "--regenerate cannot be used with --offline: no server is asked, so no token of it would be replaced",
        ),
        ("--offline", "--output-file <FILE>"),
        ("--offline --hash-file file", "--output-file <FILE>"),
        ("--hash-file file", "--offline"),
        ("--output-file file --hash-file file", "--offline"),
        ("--overlap 1h", "--regenerate"),
        ("--regenerate --overlap ten", expiries),
        ("--regenerate --overlap 0s", "an overlap is whole seconds, at least 1s and at most 30d"),
        ("--regenerate --overlap 999ms", "an overlap is whole seconds"),
        ("--regenerate --overlap 1500ms", "an overlap is whole seconds"),
        ("--regenerate --overlap 2592001s", "at most 30d"),
        ("--regenerate --overlap 1month", "at most 30d"),
        ("--offline --output-file file --hash-file file", "--output-file and --hash-file are one file"),
        ("--name ci --expiry ten", expiries),
        ("--name ci --expiry 10", expiries),
        ("--name ci --expiry 18446744073709551616s", expiries),
        ("--name ci --expiry 600000000000y", expiries),
        ("--name ci --expiry=-1d", expiries),
        ("--name ci --expiry=", expiries),
        ("--name", "a value is required for '--name <NAME>'"),
    ] {
        let args: Vec<_> = args.split_whitespace().collect();
        let output = admin(&env, &args).args(&["--host", &server.url()]).run();
        output.assert_failed(2, &[message, "--help"]);
    }
    for args in ["delete token", "delete token --yes", "delete tokens", "show", "show token"] {
        let output = env.cli(args.split_whitespace()).env("INFLUXDB3_HOST_URL", server.url()).run();
        output.assert_failed(2, &["Usage: optoken"]);
    }
    assert!(server.has_no_client());
    assert!(files(env.home()).is_empty());
}

#[test]
fn named_token_is_created_listed_and_deleted() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let host = format!("http://{}", server.address);
    let run = |args: &[&str]| {
        let cli = env.cli(args).env("INFLUXDB3_HOST_URL", &host);
        cli.env("INFLUXDB3_AUTH_TOKEN", &operator).run()
    };
    let created = run(&["create", "token", "--admin", "--name", "ci runner"]);
    let token = created.token();
    // The same format as for the operator token.
    assert_eq!(
        created.stdout,
        format!(
            "\nNew token created successfully!\n\nToken: {token}\nHTTP Requests Header: Authorization: Bearer {token}\n\n\
             IMPORTANT: Store this token securely, as it will not be shown again.\n\n"
        )
    );
    assert_eq!(created.stderr, "");
    assert!(server.accepts(&token));
    let json = run(&["create", "token", "--admin", "--name", "other", "--expiry", "1d", "--format", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_token_form(json["token"].as_str().unwrap());

    run(&["create", "token", "--admin", "--name", "other"]).assert_failed(
        1,
        &[
            "Create command failed: server responded with error [409 Conflict]: token name already exists, other (code: 409)\n",
            "Choose another name",
            "optoken delete token --token-name NAME\n",
        ],
    );
    run(&["create", "token", "--admin", "--name", "_admin"]).assert_failed(
        1,
        &["[409 Conflict]: token name already exists, _admin (code: 409)\n", "--regenerate"],
    );
    run(&["create", "token", "--admin", "--name", "_Admin"]).assert_failed(
        1,
        &["server responded with error [400 Bad Request]: a token name must not look like"],
    );
    run(&["create", "token", "--admin", "--name", "third", "--token", ""]).assert_failed(
        1,
        &["[401 Unauthorized]", "Give an admin token with --token-file, --token or INFLUXDB3_AUTH_TOKEN"],
    );

    let list = run(&["show", "tokens", "--format", "json"]);
    assert_eq!(list.stderr, "");
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let rows: Vec<_> = list.as_array().unwrap().iter().map(|row| (&row["name"], &row["hash"])).collect();
    assert_eq!(
        rows[..2],
        [
            (&json!("_admin"), &json!(sha512_hex(&operator)[..9])),
            (&json!("ci runner"), &json!(sha512_hex(&token)[..9])),
        ]
    );
    let columns = [
        "token_id",
        "name",
        "hash",
        "created_at",
        "description",
        "created_by_token_id",
        "updated_at",
        "updated_by_token_id",
        "expiry",
        "permissions",
    ];
    for (args, header) in [
        (&["show", "tokens"][..], format!("| {} |", columns.join(" | "))),
        (&["show", "tokens", "--format", "pretty"], format!("| {} |", columns.join(" | "))),
        (&["show", "tokens", "--format", "csv"], columns.join(",")),
        (&["show", "tokens", "--format", "jsonl"], r#"{"token_id":0,"#.to_owned()),
    ] {
        let output = run(args);
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{args:?}");
        // Without the padding of wide columns.
        let spaces = output.stdout.split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        assert!(spaces.contains(&header), "{}", output.stdout);
        assert!(output.stdout.ends_with('\n') && !output.stdout.ends_with("\n\n"), "{:?}", output.stdout);
        assert!(!output.stdout.contains("apiv3_"), "{}", output.stdout);
    }

    let deleted = run(&["delete", "token", "--token-name", "ci runner", "--yes"]);
    assert_eq!(
        (deleted.code, deleted.stdout.as_str(), deleted.stderr.as_str()),
        (Some(0), "Token \"ci runner\" deleted successfully\n", "")
    );
    get("/health").bearer(&token).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    run(&["delete", "token", "--token-name", "ci runner", "-y"]).assert_failed(
        1,
        &[
            "Delete command failed: server responded with error [404 Not Found]: the requested resource was not found: ci runner\n",
            "optoken show tokens\n",
        ],
    );
    for command in [&["delete", "token", "--token-name", "other", "--yes"][..], &["show", "tokens"]] {
        let output = run(&[command, &["--token", "apiv3_wrong"]].concat());
        output.assert_failed(1, &["[401 Unauthorized]", "This is not a token of this server, or no longer."]);
    }
}

#[test]
fn deletion_requires_yes_or_y() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let operator = server.create();
    let host = format!("http://{}", server.address);
    let run = |args: &[&str], input: &str| {
        let cli = env.cli(args).input(input).args(&["--host", &host]);
        cli.env("INFLUXDB3_AUTH_TOKEN", &operator).run()
    };
    let question = "Are you sure you want to delete \"ci\"? Enter 'yes' or 'y' to confirm\n";
    for (response, confirms) in [
        ("", false),
        ("\n", false),
        ("no\n", false),
        ("ye\n", false),
        ("yes please\n", false),
        ("no\nyes\n", false),
        ("y\n", true),
        ("Y\n", true),
        ("yes", true),
        (" YeS \r\n", true),
    ] {
        let token = run(&["create", "token", "--admin", "--name", "ci"], "").token();
        let output = run(&["delete", "token", "--token-name", "ci"], response);
        assert!(output.stderr.starts_with(question), "{response:?}: {}", output.stderr);
        if confirms {
            assert_eq!((output.code, output.stderr.as_str()), (Some(0), question), "{response:?}");
        } else {
            output.assert_failed(1, &["Delete command failed: Cannot proceed without confirmation\n"]);
            assert!(server.accepts(&token), "{response:?}");
            assert_eq!(run(&["delete", "token", "--token-name", "ci", "--yes"], "").code, Some(0));
        }
        assert!(!server.accepts(&token), "{response:?}");
    }
}

#[test]
fn operator_token_deletion_is_refused_without_request() {
    let env = TestEnv::new();
    let server = FakeServer::new();
    for yes in [&[][..], &["--yes"]] {
        let output =
            env.cli(["delete", "token", "--token-name", "_admin", "--host", &server.url()]).args(yes).run();
        output.assert_failed(1, &[]);
        assert_eq!(
            output.stderr,
            "Delete command failed: The operator token \"_admin\" is required and cannot be deleted. To regenerate an \
             operator token, use: optoken create token --admin --regenerate --token [TOKEN]\n"
        );
    }
    assert!(server.has_no_client());
}

#[test]
fn deletion_encodes_name_in_query() {
    let env = TestEnv::new();
    for (name, query) in [
        ("ci", "ci"),
        ("two words", "two+words"),
        ("a+b&token_name=c", "a%2Bb%26token_name%3Dc"),
        ("é/%", "%C3%A9%2F%25"),
        ("", ""),
    ] {
        let server = FakeServer::new();
        let host = server.url();
        let server = server.respond(http("200 OK", ""));
        let output = env
            .cli(["delete", "token", "--yes", "--token", TOKEN, "--host", &host, "--token-name", name])
            .run();
        assert_eq!(output.stdout, format!("Token \"{name}\" deleted successfully\n"), "{output:?}");
        let received = server.join().unwrap();
        assert_eq!(received.line, format!("DELETE /api/v3/configure/token?token_name={query} HTTP/1.1"));
        assert!(received.fields.contains(&format!("authorization: bearer {TOKEN}")), "{received:?}");
        assert_eq!(received.body, "");
    }
    // The question redacts a token in the place of the name. The fixture also checks every stderr.
    let output = env.cli(["delete", "token", "--token-name", TOKEN]).run();
    output.assert_failed(1, &["delete \"[token]\"?"]);
}

#[test]
fn show_tokens_sends_documented_query() {
    let env = TestEnv::new();
    for (args, format) in [
        (&[][..], "pretty"),
        (&["--format", "pretty"], "pretty"),
        (&["--format", "json"], "json"),
        (&["--format", "jsonl"], "jsonl"),
        (&["--format", "csv"], "csv"),
    ] {
        // The client adds a missing newline, and removes control characters.
        for (response, shown) in [
            ("a\nb", "a\nb\n"),
            ("a\nb\n", "a\nb\n"),
            ("a\n\n", "a\n\n"),
            ("", "\n"),
            ("é\u{1b}[2J\u{7}\r\u{9b}x\0\n", "é[2Jx\n"),
        ] {
            let server = FakeServer::new();
            let cli = env.cli(["show", "tokens", "--host", &server.url()]);
            let cli = cli.env("INFLUXDB3_AUTH_TOKEN", TOKEN);
            let server = server.respond(http("200 OK", response));
            let output = cli.args(args).run();
            assert_eq!(
                (output.code, output.stdout.as_str(), output.stderr.as_str()),
                (Some(0), shown, ""),
                "{response:?}"
            );
            let received = server.join().unwrap();
            assert_eq!(received.line, "POST /api/v3/query_sql HTTP/1.1");
            assert!(received.fields.contains(&"content-type: application/json".to_owned()), "{received:?}");
            assert!(received.fields.contains(&format!("authorization: bearer {TOKEN}")), "{received:?}");
            assert_eq!(
                received.body,
                format!(r#"{{"db":"_internal","q":"select * from system.tokens","format":"{format}"}}"#)
            );
        }
    }
    let server = FakeServer::new();
    let output = env.cli(["show", "tokens", "--format", "parquet", "--host", &server.url()]).run();
    output.assert_failed(1, &["Show command failed: parquet is binary and cannot be printed", "json"]);
    assert!(server.has_no_client());
}

#[test]
fn unexpected_response_is_an_error() {
    let env = TestEnv::new();
    for (command, response, message) in [
        ("delete token --token-name x --yes", http("200 OK", "<html>"), "answers, but not as a token server"),
        ("delete token --token-name x --yes", http("204 No Content", ""), "instead of 200 OK"),
        ("show tokens", http("201 Created", "x"), "instead of 200 OK"),
        ("create token --admin --name x", http("200 OK", ISSUED), "instead of 201 Created"),
        ("create token --admin --name x", http("201 Created", "{}"), "answers, but not as a token server"),
        ("show tokens", http("404 Not Found", "nothing here"), "the address of a token server?"),
        (
            "create token --admin --name x",
            http("405 Method Not Allowed", "endpoint disabled, started without auth"),
            "start it without --without-auth",
        ),
        (
            "show tokens",
            http("400 Bad Request", r#"{"error": "Authorization header was malformed, the request"}"#),
            "Was the token copied whole?",
        ),
        ("delete token --token-name x --yes", String::new(), "The token may have been deleted."),
        ("create token --admin", String::new(), "The token may have been created"),
        ("create token --admin --name x", String::new(), "optoken delete token --token-name NAME"),
        ("create token --admin --regenerate --yes", String::new(), "The token may have been replaced."),
        ("show tokens", String::new(), "did not answer"),
        // The alert of a server that expects TLS.
        ("show tokens", "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{16}".to_owned(), "its URL begins with https://"),
    ] {
        let server = FakeServer::new();
        let cli = env.cli(command.split_whitespace()).args(&["--host", &server.url()]);
        let server = server.respond(response.clone());
        cli.run().assert_failed(1, &["command failed: ", message]);
        server.join().unwrap();
    }
    let server = FakeServer::new();
    let cli = env.cli(["show", "tokens", "--host", &server.url()]);
    let binary = thread::spawn(move || {
        let mut stream = accept(&server.listener);
        serve(&stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
        stream.write_all(b"PAR\xff").unwrap();
    });
    cli.run().assert_failed(1, &["the list is not text"]);
    binary.join().unwrap();
}

#[test]
fn offline_token_file_has_documented_format() {
    let env = TestEnv::new();
    let now = || u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    let ignored = "warning: the operator token never expires, so --expiry is ignored; it applies to a token with a --name\n";
    let year_9999 = 253_370_764_800_000;
    for (args, name, lifetime, message) in [
        (&[][..], "_admin", None, ""),
        (&["--expiry", "1d"], "_admin", None, ignored),
        (&["--name", "ci"], "ci", None, ""),
        (&["--name", "é\"\\"], "é\"\\", None, ""),
        (&["--name", "_admin", "--expiry", "1d"], "_admin", Some(86_400), ""),
        (&["--name", "ci", "--expiry", "1d 1ms"], "ci", Some(86_400), ""),
        (&["--name", "ci", "--expiry", "1ms"], "ci", Some(0), ""),
        (&["--name", "ci", "--expiry", "500000000000y"], "ci", Some(u64::MAX), ""),
    ] {
        for format in ["text", "json"] {
            let before = now();
            let output = admin(&env, args)
                .args(&["--offline", "--output-file", "token.json", "--hash-file", "hash.json", "--yes"])
                // An unreachable server, as the command sends no request.
                .args(&["--host", "http://127.0.0.1:1", "--format", format])
                .run();
            let after = now();
            let saved = "Token saved to: token.json\nHash saved to: hash.json\n";
            let file = fs::read_to_string(env.home().join("token.json")).unwrap();
            let content: Value = serde_json::from_str(&file).unwrap();
            let token = content["token"].as_str().unwrap();
            assert_token_form(token);
            assert_eq!(output.code, Some(0), "{output:?}");
            if format == "json" {
                let shown: Value = serde_json::from_str(&output.stdout).unwrap();
                assert_eq!(shown["token"], token);
                assert_eq!(output.stderr, format!("{message}{saved}"));
            } else {
                assert_eq!(output.stderr, message);
                let header = format!("HTTP Requests Header: Authorization: Bearer {token}\n");
                let block =
                    format!("\nNew token created successfully!\n\nToken: {token}\n{header}\nIMPORTANT: ");
                assert!(output.stdout.starts_with(&format!("{saved}{block}")), "{}", output.stdout);
            }

            let expiry = content.get("expiry_millis").map(|expiry| expiry.as_u64().unwrap());
            match lifetime {
                None => assert_eq!(expiry, None),
                Some(u64::MAX) => assert!(expiry.unwrap() >= year_9999, "{expiry:?}"),
                Some(seconds) => {
                    let created = expiry.unwrap() - seconds * 1000;
                    assert!((before..=after).contains(&created), "{before} {created} {after}");
                }
            }
            let line = expiry.map(|expiry| format!(",\n  \"expiry_millis\": {expiry}")).unwrap_or_default();
            let name = json!(name);
            assert_eq!(file, format!("{{\n  \"token\": \"{token}\",\n  \"name\": {name}{line}\n}}\n"));
            let hash = sha512_hex(token);
            assert_eq!(
                fs::read_to_string(env.home().join("hash.json")).unwrap(),
                format!("{{\n  \"token_sha512\": \"{hash}\",\n  \"name\": {name}{line}\n}}\n")
            );
            assert_eq!(mode(&env.home().join("token.json")), 0o600);
            assert_eq!(mode(&env.home().join("hash.json")), 0o644);
            assert_eq!(files(env.home()), ["hash.json", "token.json"].map(str::to_owned).into());
        }
    }
    for name in ["", " x", "x\n", "\u{202e}x", "_Admin", &"x".repeat(129)] {
        let output = admin(&env, &["--offline", "--output-file", "refused", "--name", name]).run();
        output.assert_failed(1, &["Create command failed: a token name must not "]);
        assert!(!env.home().join("refused").exists());
    }
}

#[test]
fn token_file_is_replaced_only_after_confirmation() {
    let env = TestEnv::new();
    let (token, hash) = (env.file("token.json", b"precious"), env.file("hash.json", b"precious"));
    let question = |file: &str| {
        format!("{file} exists already, and a server may be using it. Enter 'yes' to replace it\n")
    };
    for (response, args) in [
        ("", &[][..]),
        ("y\n", &[]),
        ("no\nyes\n", &[]),
        ("yes\n", &["--hash-file", "hash.json"]),
        ("yes\nno\n", &["--hash-file", "hash.json"]),
    ] {
        let output =
            admin(&env, &["--offline", "--output-file", "token.json"]).args(args).input(response).run();
        output
            .assert_failed(1, &[&question("token.json"), "Create command failed: Cannot replace ", "--yes"]);
        assert!(
            fs::read(&token).unwrap() == b"precious" && fs::read(&hash).unwrap() == b"precious",
            "{response:?}"
        );
    }
    let output = admin(&env, &["--offline", "--output-file", "token.json"]).input("yes\n").run();
    assert_eq!(output.stderr, question("token.json"));
    let first = fs::read_to_string(&token).unwrap();
    assert!(first.contains(&output.token()));
    fs::set_permissions(&token, fs::Permissions::from_mode(0o666)).unwrap();
    let output = admin(&env, &["--offline", "--output-file", "token.json", "-y"]).run();
    assert_eq!(output.stderr, "");
    assert!(fs::read_to_string(&token).unwrap().contains(&output.token()));
    assert_eq!(mode(&token), 0o600);

    // The command replaces the target of a link, not the link.
    let link = env.home().join("link.json");
    symlink("hash.json", &link).unwrap();
    admin(&env, &["--offline", "--output-file", "link.json"])
        .run()
        .assert_failed(1, &[&question("hash.json")]);
    let made = admin(&env, &["--offline", "--output-file", "link.json", "--yes"]).run().token();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(&hash).unwrap().contains(&made));
    admin(&env, &["--offline", "--yes", "--output-file", "hash.json", "--hash-file", "link.json"])
        .run()
        .assert_failed(2, &["are one file"]);
}

#[test]
fn unwritable_output_file_changes_nothing() {
    let env = TestEnv::new();
    let directory = env.home().join("directory");
    fs::create_dir(&directory).unwrap();
    // Stands for a device, which a test must not replace.
    let pipe = pipe(&env);
    env.file("hash.json", b"precious");
    for (file, message) in [
        ("directory", "it is there already and not a regular file"),
        ("pipe", "it is there already and not a regular file"),
        ("hash.json/", "this is not the name of a file"),
        ("directory/.", "this is not the name of a file"),
        ("/dev/null", "it is there already and not a regular file"),
        ("nowhere/token.json", "No such file or directory"),
        ("hash.json/token.json", "Not a directory"),
        // Root cannot create a file there either.
        ("/proc/token.json", ""),
        ("", ""),
        ("..", ""),
    ] {
        let output = admin(&env, &["--offline", "--yes", &format!("--output-file={file}")]).run();
        assert!(matches!(output.code, Some(1 | 2)), "{output:?}");
        assert!(
            output.stdout.is_empty() && output.stderr.contains(file) && output.stderr.contains(message),
            "{output:?}"
        );
    }
    assert_eq!(fs::read(env.home().join("hash.json")).unwrap(), b"precious");
    assert_eq!(files(env.home()), ["directory", "hash.json", "pipe"].map(str::to_owned).into());
    assert!(files(&directory).is_empty());
    assert!(fs::metadata(pipe).unwrap().file_type().is_fifo());

    // The token file is written first, so the error names it.
    admin(&env, &["--offline", "--output-file", "token.json", "--hash-file", "nowhere/hash.json"])
        .run()
        .assert_failed(1, &["Token saved to: token.json, but not its hash: cannot write nowhere/hash.json"]);
}

#[test]
fn dotenv_file_extends_environment() {
    let env = TestEnv::new();
    let below = env.home().join("one/two");
    fs::create_dir_all(&below).unwrap();
    let url = |token: &str, server: &FakeServer| {
        format!(
            "\u{feff}# comment\n\nexport INFLUXDB3_AUTH_TOKEN='{token}'\nINFLUXDB3_HOST_URL={}\n",
            server.url()
        )
    };
    // File, token of the environment, token of the command line, and the token that is sent.
    for (file, environment, typed, sent) in [
        ("one/two/.env", None, None, Some("apiv3_file")),
        ("one/.env", None, None, Some("apiv3_file")),
        (".env", None, None, Some("apiv3_file")),
        (".env", Some("apiv3_environment"), None, Some("apiv3_environment")),
        (".env", Some("apiv3_environment"), Some("apiv3_typed"), Some("apiv3_typed")),
        (".env", None, Some("apiv3_typed"), Some("apiv3_typed")),
        (".env", Some(""), None, None),
    ] {
        let server = FakeServer::new();
        let path = env.file(file, url("apiv3_file", &server).as_bytes());
        let mut cli = env.cli(["show", "tokens"]).current_dir(&below);
        if let Some(token) = environment {
            cli = cli.env("INFLUXDB3_AUTH_TOKEN", token);
        }
        if let Some(token) = typed {
            cli = cli.args(&["--token", token]);
        }
        // A token from elsewhere goes to the server of the file only if the user names it, too.
        if sent.is_some_and(|sent| sent != "apiv3_file") {
            cli = cli.args(&["--host", &server.url()]);
        }
        let server = server.respond(http("200 OK", "[]"));
        let output = cli.run();
        assert_eq!(
            (output.code, output.stderr.contains("an argument")),
            (Some(0), typed.is_some()),
            "{file}"
        );
        let used = format!("note: using the variables of {}\n", path.display());
        assert!(output.stderr.contains(&used), "{output:?}");
        let fields = server.join().unwrap().fields;
        let authorization = fields.iter().find_map(|field| field.strip_prefix("authorization: bearer "));
        assert_eq!(authorization, sent, "{file}");
        fs::remove_file(path).unwrap();
    }
    // Only the nearest file is read.
    let (near, far) = (FakeServer::new(), FakeServer::new());
    env.file(".env", url("apiv3_far", &far).as_bytes());
    env.file("one/.env", format!("INFLUXDB3_HOST_URL={}", near.url()).as_bytes());
    // A directory is not a .env file.
    fs::create_dir(below.join(".env")).unwrap();
    let near = near.respond(http("200 OK", "[]"));
    assert_eq!(env.cli(["show", "tokens"]).current_dir(&below).run().code, Some(0));
    assert!(!near.join().unwrap().fields.iter().any(|field| field.starts_with("authorization")));
}

#[test]
fn invalid_dotenv_aborts_without_echo() {
    let env = TestEnv::new();
    let path = env.home().join(".env");
    for content in [
        &b"INFLUXDB3_AUTH_TOKEN secret"[..],
        b"INFLUXDB3_AUTH_TOKEN='secret",
        b"INFLUXDB3_AUTH_TOKEN=apiv3_secret word\n",
        b"GOOD=1\nexport INFLUXDB3_AUTH_TOKEN=\"secret\n",
        b"INFLUXDB3_AUTH_TOKEN=secret\0word\n",
        b"INFLUXDB3_AUTH_TOKEN=secret\xff\n",
    ] {
        fs::write(&path, content).unwrap();
        for args in
            ["show tokens", "create token --admin", "serve", "delete token --token-name x -y", "nonsense"]
        {
            let output = env.cli(args.split_whitespace()).run();
            output.assert_failed(1, &[&format!("FATAL Error loading config from: {}", path.display())]);
            assert!(output.stderr.ends_with("\nAborting\n"), "{output:?}");
            assert!(!output.stderr.contains("secret"), "{output:?}");
        }
        for args in ["--help", "--version", "help", "show tokens --help", "create token --admin -h"] {
            let output = env.cli(args.split_whitespace()).run();
            assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{args}");
            assert!(output.stdout.contains("optoken"), "{args}");
        }
    }
    fs::remove_file(&path).unwrap();
    symlink(&path, &path).unwrap();
    let output = env.cli(["show", "tokens"]).run();
    output.assert_failed(1, &["FATAL Error loading config from: ", "symbolic links", "\nAborting\n"]);
}

#[test]
fn help_has_examples_and_no_secret() {
    let env = TestEnv::new();
    for (args, message) in [
        ("--help", "optoken show tokens"),
        ("help", "optoken show tokens"),
        ("--help-all", "optoken show tokens"),
        ("create token --help", "optoken create token --admin"),
        ("create token --admin --help", "optoken serve --admin-token-file admin-token.json"),
        ("create token --admin --help-all", "optoken serve --admin-token-file admin-token.json"),
        ("create token --admin -h", "optoken create token --admin --name ci --expiry 90d"),
        ("delete token --help", "optoken delete token --token-name ci --yes"),
        ("show tokens --help", "optoken show tokens --format json"),
        ("hash token --help", "optoken hash token --token-file operator-token --output-file hash.json"),
        ("help show tokens", "optoken show tokens --format json"),
        ("audit show --help", "optoken audit show --format json"),
        ("audit verify --help", "optoken audit verify audit.jsonl --expect-head"),
        ("serve --help", "optoken create token --admin --regenerate"),
    ] {
        let cli = env.cli(args.split_whitespace()).env("INFLUXDB3_AUTH_TOKEN", TOKEN);
        let output = cli.run();
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{args}");
        assert!(
            output.stdout.contains("Examples:\n") && output.stdout.contains(message),
            "{args}: {}",
            output.stdout
        );
        assert!(!output.stdout.contains(TOKEN), "{args}");
    }
}

#[test]
fn token_over_plain_http_warns() {
    let env = TestEnv::new();
    let warning = "warning: the token crosses the network in the clear";
    for (args, token, warns) in [
        // The response has a token.
        ("create token --admin", None, true),
        ("create token --admin --regenerate --yes", None, true),
        ("create token --admin --name x", Some(TOKEN), true),
        ("show tokens", Some(TOKEN), true),
        ("show tokens", None, false),
        ("delete token --token-name x --yes", Some(TOKEN), true),
        ("delete token --token-name x --yes", None, false),
    ] {
        // A host name that does not exist, behind a proxy that responds for it.
        for (host, far) in [("http://token-server.invalid", true), ("", false)] {
            let server = FakeServer::new();
            let host = if far { host.to_owned() } else { server.url() };
            let mut cli = env.cli(args.split_whitespace()).args(&["--host", &host]);
            cli = cli.env("INFLUXDB3_PROXY", server.url());
            if let Some(token) = token {
                cli = cli.env("INFLUXDB3_AUTH_TOKEN", token);
            }
            let response = if args.starts_with("create") {
                created()
            } else {
                http("200 OK", if args.starts_with("show") { "[]" } else { "" })
            };
            let server = server.respond(response);
            let output = cli.run();
            assert_eq!(output.code, Some(0), "{output:?}");
            assert_eq!(output.stderr.contains(warning), far && warns, "{output:?}");
            let to_proxy = server.join().unwrap().line.contains("token-server.invalid");
            assert_eq!(to_proxy, far, "{args}");
        }
    }
}

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server with a certificate for `name`.
    fn server(&self, name: &str, versions: &[&'static rustls::SupportedProtocolVersion]) -> FakeTlsServer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        FakeTlsServer { server: FakeServer::new(), config: Arc::new(config) }
    }
}

struct FakeTlsServer {
    server: FakeServer,
    config: Arc<ServerConfig>,
}

impl FakeTlsServer {
    fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    /// Responds to one request, if the client sends one.
    fn respond(self, response: String) -> thread::JoinHandle<Option<ReceivedRequest>> {
        thread::spawn(move || {
            let mut stream = accept(&self.server.listener);
            let mut connection = ServerConnection::new(self.config).unwrap();
            while connection.is_handshaking() {
                if connection.complete_io(&mut stream).is_err() {
                    return None;
                }
            }
            // The client may close the connection after it has checked the certificate.
            if connection.wants_read() && stream.peek(&mut [0]).ok()? == 0 {
                return None;
            }
            let mut stream = StreamOwned::new(connection, stream);
            if stream.fill_buf().is_err() {
                return None;
            }
            let received = serve(&mut stream, &response);
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            Some(received)
        })
    }
}

const TLS_1_3: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[test]
fn tls_ca_option_trusts_certificate() {
    let env = TestEnv::new();
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    env.file("ca.pem", trusted.0.pem().as_bytes());
    env.file("ca.der", trusted.0.der());
    env.file("several", format!("Several:\n{}\nand\n{}", other.0.pem(), trusted.0.pem()).as_bytes());
    env.file("other.pem", other.0.pem().as_bytes());
    for (args, environment, system) in [
        (&["--tls-ca", "ca.pem"][..], None, None),
        (&["--tls-ca", "ca.der"], None, None),
        (&["--tls-ca", "several"], None, None),
        (&[], Some("ca.pem"), None),
        (&["--tls-ca", "ca.der"], Some("nowhere"), None),
        // The option and the certificates of the system.
        (&[], None, Some("ca.pem")),
        (&["--tls-ca", "other.pem"], None, Some("ca.pem")),
        (&["--tls-ca", "ca.pem"], None, Some("other.pem")),
        (&["--tls-ca", "ca.pem"], None, Some("nowhere")),
    ] {
        let server = trusted.server("127.0.0.1", TLS_1_3);
        let mut cli = admin(&env, &["--name", "ci", "--host", &server.url()])
            .env("INFLUXDB3_AUTH_TOKEN", TOKEN)
            .args(args);
        cli = cli.env("SSL_CERT_FILE", system.unwrap_or("nowhere"));
        if let Some(path) = environment {
            cli = cli.env("INFLUXDB3_TLS_CA", path);
        }
        let server = server.respond(created());
        let output = cli.run();
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{args:?} {system:?}");
        let received = server.join().unwrap().unwrap();
        assert_eq!(received.line, "POST /api/v3/configure/token/named_admin HTTP/1.1");
        assert!(received.fields.contains(&format!("authorization: bearer {TOKEN}")), "{received:?}");
    }
}

#[test]
fn untrusted_server_receives_no_request() {
    let env = TestEnv::new();
    let (trusted, other) = (Authority::new("trusted"), Authority::new("other"));
    env.file("ca.pem", trusted.0.pem().as_bytes());
    env.file("other.pem", other.0.pem().as_bytes());
    let untrusted = ["is not trusted: invalid peer certificate", "--tls-ca FILE", "INFLUXDB3_TLS_CA"];
    for (name, args, message) in [
        ("127.0.0.1", &[][..], &untrusted[..]),
        ("127.0.0.1", &["--tls-ca", "other.pem"], &untrusted),
        (
            "example.com",
            &["--tls-ca", "ca.pem"],
            &["is not trusted: ", "not valid for name", "Give --host the name"],
        ),
    ] {
        let server = trusted.server(name, TLS_1_3);
        let cli = env.cli(["show", "tokens", "--token", TOKEN, "--host", &server.url()]);
        let server = server.respond(http("200 OK", "[]"));
        let output = cli.env("SSL_CERT_FILE", "nowhere").args(args).run();
        output.assert_failed(1, &["Show command failed: the server at https://127.0.0.1:"]);
        output.assert_failed(1, message);
        assert!(server.join().unwrap().is_none(), "{name} {args:?}");
    }
    // The option disables the check, with a warning each time.
    for environment in [None, Some("true")] {
        for _ in 0..2 {
            let server = other.server("example.com", TLS_1_3);
            let mut cli = env.cli(["show", "tokens", "--host", &server.url()]);
            cli = cli.env("INFLUXDB3_AUTH_TOKEN", TOKEN);
            cli = match environment {
                None => cli.args(&["--tls-no-verify"]),
                Some(value) => cli.env("INFLUXDB3_TLS_NO_VERIFY", value),
            };
            let server = server.respond(http("200 OK", "[]"));
            let output = cli.run();
            assert_eq!((output.code, output.stdout.as_str()), (Some(0), "[]\n"), "{output:?}");
            assert!(
                output.stderr.starts_with("warning: --tls-no-verify: the server is not verified"),
                "{output:?}"
            );
            assert!(server.join().unwrap().is_some());
        }
    }
}

#[test]
fn protocol_mismatch_differs_from_untrusted_certificate() {
    let env = TestEnv::new();
    let trusted = Authority::new("trusted");
    env.file("ca.pem", trusted.0.pem().as_bytes());
    let show =
        |host: &str| env.cli(["show", "tokens", "--tls-ca", "ca.pem", "--token", TOKEN, "--host", host]);
    // The client requires TLS 1.3 (docs/compatibility.md 4).
    let server = trusted.server("127.0.0.1", &[&rustls::version::TLS12]);
    let cli = show(&server.url());
    let server = server.respond(http("200 OK", "[]"));
    cli.run().assert_failed(1, &["cannot reach https://127.0.0.1:", "Does the server allow TLS 1.3?"]);
    assert!(server.join().unwrap().is_none());

    // A client of TLS at an HTTP server, and at one that closes the connection.
    let server = env.serve(&["--store", "memory:"]);
    let hint = "If the server speaks plain HTTP, its URL begins with http://.";
    show(&format!("https://{}", server.address)).run().assert_failed(1, &["cannot reach https://", hint]);
    let silent = FakeServer::new();
    let cli = show(&format!("https://{}", silent.address));
    let silent = thread::spawn(move || drop(accept(&silent.listener)));
    cli.run().assert_failed(1, &["cannot reach https://", hint]);
    silent.join().unwrap();
    // No server.
    show("https://127.0.0.1:1")
        .run()
        .assert_failed(1, &["Connection refused", "Is the server running there?"]);

    // A client of HTTP at a TLS server.
    let server = trusted.server("127.0.0.1", TLS_1_3);
    let cli = show(&server.url().replace("https", "http"));
    let server = server.respond(http("200 OK", "[]"));
    cli.run().assert_failed(1, &["did not answer", "its URL begins with https://"]);
    assert!(server.join().unwrap().is_none());
}

#[test]
fn unusable_certificate_files_are_named() {
    let env = TestEnv::new();
    let trusted = Authority::new("trusted");
    env.file("pem.der", trusted.0.pem().as_bytes());
    env.file("der.pem", trusted.0.der());
    env.file("empty", b"");
    env.file("key.pem", KeyPair::generate().unwrap().serialize_pem().as_bytes());
    env.file("garbage.pem", b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n");
    env.file("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (file, message) in [
        ("nowhere", "cannot read nowhere: No such file or directory"),
        (".", "cannot read .: Is a directory"),
        ("pem.der", "pem.der holds no certificate that can be used ("),
        ("der.pem", "der.pem holds no certificate"),
        ("empty", "empty holds no certificate; a file named .der is DER, any other is PEM"),
        ("key.pem", "key.pem holds no certificate; a file named .der is DER, any other is PEM"),
        ("garbage.pem", "garbage.pem holds no certificate that can be used ("),
        ("broken.pem", "broken.pem holds no certificate that can be used ("),
    ] {
        // Also for an HTTP server, which needs no certificate.
        for host in ["https://127.0.0.1:1", "http://127.0.0.1:1"] {
            let output = env.cli(["show", "tokens", "--host", host, "--tls-ca", file]).run();
            output.assert_failed(1, &["Show command failed: --tls-ca: ", message]);
        }
    }
}

#[test]
fn system_certificates_are_read_for_tls_only() {
    let env = TestEnv::new();
    // A reader of the pipe blocks.
    let pipe = pipe(&env);
    let server = FakeServer::new();
    let cli = env.cli(["show", "tokens", "--host", &server.url()]).env("SSL_CERT_FILE", &pipe);
    let server = server.respond(http("200 OK", "[]"));
    assert_eq!(cli.run().code, Some(0));
    server.join().unwrap();
}

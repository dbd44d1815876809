//! Tokens with permissions: how they are made and shown, what they may do at this server, and the
//! file of `--permission-tokens-file`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::openapi::Document;
use crate::support::{
    CONFIRM, CommandOutput, NOT_AUTHENTICATED, Response, Server, TOKENS, TestEnv, VERIFY, create_scoped,
    delete_named, eventually, get, post, remember_secret, request, sha512_hex, within,
};

const SCOPED: &str = "/api/v3/enterprise/configure/token";

const SELF: &str = "/api/v3/configure/token/self";

const MISSING_PERMISSION: &str = r#"{"error": "the token lacks the permission for this"}"#;

/// Tokens of 16 random bytes (docs/compatibility.md 1.6).
const FIRST: &str = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";
const SECOND: &str = "apiv3_Zt9LwS4hXc6EoYdG1qNbVg";
const THIRD: &str = "apiv3_pR5jUa7KmF2sHiTe8xDyCw";

fn permission(kind: &str, names: &[&str], actions: &[&str]) -> Value {
    json!({ "resource_type": kind, "resource_identifier": names, "actions": actions })
}

fn create(server: &Server, admin: &str, name: &str, permissions: &[Value]) -> Response {
    let body = json!({ "token_name": name, "permissions": permissions });
    post(SCOPED).bearer(admin).json(&body).send(server.address)
}

/// The record of the presented token.
fn record(server: &Server, token: &str) -> Value {
    let response = get(SELF).bearer(token).send(server.address);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

fn status(server: &Server, path: &str, token: &str) -> u16 {
    get(path).bearer(token).send(server.address).status
}

#[test]
fn token_is_created_by_the_request_of_enterprise() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let document = Document::of(&server, &operator);
    // As the documentation has it, and as the command of InfluxDB sends it.
    for (name, names) in [("documented", "resource_identifier"), ("sent", "resource_names")] {
        let body = json!({
            "type": "resource",
            "token_name": name,
            "permissions": [
                { "resource_type": "db", names: ["a", "b"], "actions": ["write", "read"] },
                { "resource_type": "http", names: ["/x/*", "h.example/y"], "actions": ["GET"] },
            ],
            "expiry_secs": 300_000,
        });
        let sent = post(SCOPED).bearer(&operator).json(&body);
        let response = sent.send(server.address);
        document.check(&sent, &response);
        assert_eq!(response.status, 201, "{response:?}");
        let (token, created) = (response.token(), response.json());
        assert_eq!(created["name"], name);
        assert_eq!(created["hash"], sha512_hex(&token));
        assert!(created["expiry"].is_string());
        let shown = get(SELF).bearer(&token);
        let response = shown.send(server.address);
        document.check(&shown, &response);
        let record = response.json();
        assert_eq!(
            record["permissions"],
            json!(["db:a,b:read,write", "http:/x/*:GET", "http:h.example/y:GET"])
        );
        assert_eq!((&record["name"], &record["hash"]), (&json!(name), &json!(sha512_hex(&token)[..9])));
    }
    create(&server, &operator, "sent", &[permission("db", &["a"], &["read"])])
        .assert_is(409, "token name already exists, sent");
    // All permissions are those of an admin.
    let admin = create(&server, &operator, "all", &[permission("*", &["*"], &["*"])]).token();
    assert_eq!(status(&server, TOKENS, &admin), 200);
    assert_eq!(record(&server, &admin)["permissions"], json!(["*:*:*"]));
    assert_eq!(record(&server, &operator)["name"], "_admin");

    get(SELF).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    post(SCOPED).json(&json!({})).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    let open = env.serve(&["--store", "memory:", "--without-auth"]);
    for response in [get(SELF).send(open.address), post(SCOPED).send(open.address)] {
        response.assert_is(405, "endpoint disabled, started without auth");
    }
}

#[test]
fn wrong_request_names_its_part() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let before = env.stored_catalog();
    let read_a = || permission("db", &["a"], &["read"]);
    let named = |permissions: Value| json!({ "token_name": "x", "permissions": permissions });
    let many = |count| json!(vec![read_a(); count]);
    for (body, message) in [
        (named(json!([])), "a token must have 1 to 32 permissions"),
        (named(many(33)), "a token must have 1 to 32 permissions"),
        (named(json!([permission("db", &["x".repeat(2100).as_str()], &["read"])])), "2048 bytes"),
        (named(json!([read_a(), permission("table", &["a"], &["read"])])), "permission 2: TYPE must be"),
        (named(json!([permission("db", &["a b"], &["read"])])), "permission 1: NAMES of db are"),
        (named(json!([permission("db", &["a"], &["delete"])])), "permission 1: ACTIONS of db are"),
        (named(json!([permission("db", &["a"], &[])])), "permission 1: ACTIONS of db are"),
        (named(json!([permission("db", &[], &["read"])])), "permission 1: resource_identifier is empty"),
        (named(json!([permission("system", &["disk"], &["read"])])), "permission 1: NAMES of system"),
        (named(json!([permission("http", &["/a/../b"], &["GET"])])), "permission 1: the pattern of http"),
        (named(json!([permission("http", &["/a"], &["TRACE"])])), "permission 1: ACTIONS of http are"),
        (named(json!([permission("db:a", &["b"], &["read"])])), "permission 1: resource_type holds"),
        (named(json!([read_a(), permission("*", &["*"], &["*"])])), "permission 2: *:*:* must be"),
        (named(json!(["db:a:read"])), "expected an object"),
        (json!({ "token_name": "x" }), "missing field `permissions`"),
        (json!({ "permissions": [read_a()] }), "missing field `token_name`"),
        (json!({ "token_name": "_admin", "permissions": [read_a()] }), ""),
        (json!({ "token_name": "x", "permissions": [read_a()], "ttl": 5 }), "use the field expiry_secs"),
        (json!({ "token_name": "x", "permission": [read_a()] }), "permissions"),
    ] {
        let response = post(SCOPED).bearer(&operator).json(&body).send(server.address);
        assert!(matches!(response.status, 400 | 409), "{body}: {response:?}");
        assert!(response.body.contains(message), "{body}: {response:?}");
    }
    let unannounced = post(SCOPED).bearer(&operator).body(b"{}").send(server.address);
    assert_eq!(unannounced.status, 415, "{unannounced:?}");
    assert_eq!(env.stored_catalog(), before);
}

#[test]
fn token_with_permissions_does_nothing_but_read_about_itself() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let all_types = [
        permission("db", &["*"], &["*"]),
        permission("http", &["/*"], &["*"]),
        permission("system", &["health"], &["read"]),
    ];
    let token = create(&server, &operator, "scoped", &all_types).token();
    let document = Document::of(&server, &operator);
    let before = env.stored_catalog();
    for (method, path) in document.methods_and_paths() {
        let allowed = matches!(path.as_str(), SELF | "/health" | "/api/v1/health");
        // Creates the operator token, and needs none.
        if (method.as_str(), path.as_str()) == ("POST", "/api/v3/configure/token/admin") {
            continue;
        }
        let sent = request(&method, &path).bearer(&token);
        let response = sent.send(server.address);
        document.check(&sent, &response);
        let expected = if allowed { 200 } else { 403 };
        assert_eq!(response.status, expected, "{method} {path}: {response:?}");
        if expected == 403 {
            assert_eq!(
                response.header("www-authenticate"),
                Some(r#"Bearer realm="influxdb3", error="insufficient_scope""#)
            );
            let body = match path.as_str() {
                path if path.starts_with(VERIFY) || method == "HEAD" => "",
                // Its credential is a staged secret, and the command refuses every other.
                CONFIRM => r#"{"error": "only the operator token may regenerate the operator token"}"#,
                _ => MISSING_PERMISSION,
            };
            assert_eq!(response.body, body, "{method} {path}");
        }
    }
    for path in ["/nowhere", "/api/v3/configure/token/self/", "/api/v3/configure/token/%73elf", "//health"] {
        assert_eq!(status(&server, path, &token), 403, "{path}");
    }
    assert_eq!(env.stored_catalog(), before);
    server.wait_for_log("request not permitted: token 1 has no permission for it");
    server.wait_for_log(r#"reason="missing_permission""#);
    let metrics = get("/metrics").bearer(&operator).send(server.address).body;
    assert!(metrics.contains(r#"optoken_refusals_total{kind="authorization",reason="missing_permission"}"#));
    assert!(metrics.contains(r#"optoken_authorizations_total{outcome="accepted"} "#), "{metrics}");
    assert!(!metrics.contains(r#"optoken_authorizations_total{outcome="missing_permission"} 0"#));

    for (name, paths) in [("ping", ["/ping"]), ("metrics", ["/metrics"])] {
        let token = create(&server, &operator, name, &[permission("system", &[name], &["read"])]).token();
        for path in ["/ping", "/metrics", "/health"] {
            assert_eq!(status(&server, path, &token), if paths.contains(&path) { 200 } else { 403 });
        }
        delete_named(&operator, name).send(server.address).assert_is(200, "");
        assert_eq!(status(&server, SELF, &token), 401);
    }
    // What needs no token needs no permission.
    let open = env.serve(&["--disable-authz", "ping"]);
    assert_eq!(status(&open, "/ping", &token), 200);
}

#[test]
fn command_creates_and_lists_tokens_with_permissions() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let host = format!("http://{}", server.address);
    let run = |args: &[&str], token: &str| {
        env.cli(args).env("INFLUXDB3_AUTH_TOKEN", token).env("INFLUXDB3_HOST_URL", &host).run()
    };
    let created = run(
        &[
            "create",
            "token",
            "--name",
            "app, \"1\"",
            "--permission",
            "db:sensors,metrics:read,write",
            "--permission",
            "http:h.example/a,b:*:read",
            "--expiry",
            "1d",
        ],
        &operator,
    );
    let token = created.token();
    assert!(created.stdout.contains("New token created successfully!"), "{created:?}");
    let stored = json!(["db:sensors,metrics:read,write", "http:h.example/a,b:*:read"]);
    let own = record(&server, &token);
    assert_eq!(own["permissions"], stored);
    assert!(own["expiry"].is_string());

    let list = run(&["show", "tokens", "--format", "json"], &operator);
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    assert_eq!(list[0]["permissions"], "*:*:*");
    // One text of JSON, like in InfluxDB 3 Enterprise.
    let shown: Value = serde_json::from_str(list[1]["permissions"].as_str().unwrap()).unwrap();
    assert_eq!(shown, stored);
    for format in ["pretty", "csv", "jsonl"] {
        let list = run(&["show", "tokens", "--format", format], &operator);
        assert!(list.stdout.contains("db:sensors,metrics:read,write"), "{list:?}");
    }
    for (condition, names) in [
        ("permissions = '*:*:*'", json!([{ "name": "_admin" }])),
        ("permissions LIKE '%db:sensors%'", json!([{ "name": "app, \"1\"" }])),
        ("permissions NOT LIKE '%*:*:*%'", json!([{ "name": "app, \"1\"" }])),
    ] {
        let query = json!({
            "db": "_internal", "format": "json",
            "q": format!("SELECT name FROM system.tokens WHERE {condition}"),
        });
        let rows = post("/api/v3/query_sql").bearer(&operator).json(&query).send(server.address);
        assert_eq!(rows.json(), names, "{condition}");
    }
    let tokens = get(TOKENS).bearer(&operator).send(server.address).json();
    assert_eq!(tokens["tokens"][1]["permissions"], stored);

    // The refusals of the server and of the command.
    for (args, code, messages) in [
        (
            &["--permission", "db:a:rread", "--name", "x"][..],
            1,
            &["[400 Bad Request]: permission 1: ACTIONS of db"][..],
        ),
        (&["--permission", "db:a", "--name", "x"], 2, &["a permission is TYPE:NAMES:ACTIONS, such as"]),
        (&["--permission", "db:a:read"], 2, &["add --name NAME", "Usage: "]),
        (&["--name", "x"], 2, &["--permission TYPE:NAMES:ACTIONS --name NAME"]),
        (
            &["--permission", "db:a:read", "--name", "x", "--regenerate"],
            2,
            &["unexpected argument '--regenerate'"],
        ),
        (&["--permission", "db:a:read", "--name", "x", "--admin"], 2, &["'--admin'", "--permission"]),
        (&["--admin", "--permission", "db:a:read"], 2, &["unexpected argument '--permission'"]),
        (&["--permission", "db:a:read", "--name", "x", "--offline"], 2, &["--output-file <FILE>"]),
        (&["--permission", "db:a:read", "--name", "x", "--output-file", "f"], 2, &["--offline"]),
    ] {
        run(&[&["create", "token"], args].concat(), &operator).assert_failed(code, messages);
    }
    for args in [
        &["create", "token", "--name", "y", "--permission", "db:a:read"][..],
        &["create", "token", "--admin", "--name", "y"],
        &["show", "tokens"],
        &["delete", "token", "--token-name", "app", "--yes"],
    ] {
        let messages =
            ["[403 Forbidden]: the token lacks the permission for this", "Give an admin token with"];
        run(args, &token).assert_failed(1, &messages);
    }
    run(&["delete", "token", "--token-name", "app, \"1\"", "--yes"], &operator);
    assert_eq!(status(&server, SELF, &token), 401);
}

#[test]
fn audit_log_has_the_permissions() {
    let env = TestEnv::new();
    let log = env.home().join("audit.jsonl");
    let server = env.serve_with(&[]).env("INFLUXDB3_AUDIT_LOG", &log).start();
    let operator = server.create();
    let host = format!("http://{}", server.address);
    let run = |args: &[&str]| {
        env.cli(args).env("INFLUXDB3_AUTH_TOKEN", &operator).env("INFLUXDB3_HOST_URL", &host).run()
    };
    let permissions = [
        permission("db", &["sensors", "metrics"], &["read", "write"]),
        permission("http", &["h.example/a,b:*"], &["read"]),
    ];
    create(&server, &operator, "app, \"1\"", &permissions).token();
    // Lines of the greatest length.
    let name = "n".repeat(55);
    let longest = vec![permission("db", &[&name], &["read"]); 32];
    create(&server, &operator, &"é".repeat(64), &longest).token();
    let verified = env.cli(["audit", "verify"]).arg(&log).args(&["--complete"]).run();
    assert_eq!(verified.code, Some(0), "{verified:?}");
    let with_server = run(&["audit", "verify", log.to_str().unwrap(), "--with-server"]);
    assert_eq!(with_server.code, Some(0), "{with_server:?}");
    let shown = run(&["audit", "show"]).stdout;
    let line =
        r#"on token 1 "app, \"1\"" with db:sensors,metrics:read,write http:h.example/a,b:*:read  from "#;
    assert!(shown.contains(line), "{shown}");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains(r#""permissions":["db:sensors,metrics:read,write","http:h.example/a,b:*:read"]"#));
    assert!(text.lines().any(|line| line.len() > 2300));
    server.stop();
    // The end of the log is read again.
    let server = env.serve_with(&[]).env("INFLUXDB3_AUDIT_LOG", &log).start();
    assert!(server.accepts(&operator));
}

#[test]
fn server_without_permissions_is_named() {
    // InfluxDB 3 Core.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("http://{}", listener.local_addr().unwrap());
    let core = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.ends_with(b"}") {
            let count = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot found").unwrap();
        String::from_utf8(request).unwrap()
    });
    let env = TestEnv::new();
    let args = ["create", "token", "--permission", "db:*:read", "--name", "x", "--host", &host];
    env.cli(args).env("INFLUXDB3_AUTH_TOKEN", FIRST).run().assert_failed(
        1,
        &[
            "[404 Not Found]: Not found (code: 404)",
            "makes no tokens with permissions: it is InfluxDB 3 Core, or",
        ],
    );
    let request = core.join().unwrap();
    assert!(request.starts_with("POST /api/v3/enterprise/configure/token HTTP/1.1\r\n"), "{request}");
    let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(
        body,
        json!({
            "token_name": "x",
            "permissions": [{ "resource_type": "db", "resource_names": ["*"], "actions": ["read"] }],
            "expiry_secs": null,
        })
    );
}

/// Adds a token to the file.
fn add_offline(env: &TestEnv, file: &Path, args: &[&str]) -> CommandOutput {
    let offline = ["create", "token", "--offline", "--output-file", file.to_str().unwrap()];
    env.cli(offline).args(args).run()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Two servers on one store that an older version has written.
#[test]
fn older_catalog_is_migrated_under_two_servers() {
    for format in [1, 2] {
        let env = TestEnv::new();
        let server = env.serve(&[]);
        let token = server.create();
        server.stop();
        let (_, document) = env.stored_catalog().unwrap();
        let older = document.replacen(r#"{"format":3}"#, &format!(r#"{{"format":{format}}}"#), 1);
        assert_ne!(older, document);
        let store = rusqlite::Connection::open(env.store()).unwrap();
        // The version of an earlier build, which does not vouch for its document.
        let version = "0123456789abcdef0123456789abcdef";
        store.execute("UPDATE catalog SET version = ?1, document = ?2", [version, &older]).unwrap();
        drop(store);

        let (first, second) = (env.serve(&[]), env.serve(&[]));
        for server in [&first, &second] {
            assert!(server.accepts(&token));
        }
        assert_eq!(env.stored_catalog().unwrap().1, older, "reading migrates nothing");
        let scoped = create_scoped(second.address, &token, "reader", &["db:a:read", "system:ping:read"]);
        let (_, migrated) = env.stored_catalog().unwrap();
        assert!(migrated.starts_with("{\"format\":3}\n"), "{migrated}");
        assert!(migrated.contains(r#""permissions":["db:a:read","system:ping:read"]"#), "{migrated}");
        // The other server reads the format of the change.
        for server in [&first, &second] {
            eventually("both servers know the token", || {
                get("/ping").bearer(&scoped).send(server.address).status == 200
            });
            assert_eq!(get("/health").bearer(&scoped).send(server.address).status, 403);
            assert!(server.accepts(&token));
        }
    }
}

#[test]
fn offline_tokens_are_added_to_their_file() {
    let env = TestEnv::new();
    let file = env.home().join("tokens.json");
    let first = add_offline(&env, &file, &["--name", "first", "--permission", "db:a,b:*"]);
    assert!(first.stdout.starts_with(&format!("Token saved to: {}\n", file.display())), "{first:?}");
    let first = first.token();
    let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let entry = json!({ "token": first, "name": "first", "permissions": ["db:a,b:read,write,create"] });
    assert_eq!((written, mode(&file)), (json!({ "tokens": [entry] }), 0o600));

    // Content of others stays as it is, in its order.
    let others = json!({
        "$comment": "kept",
        "tokens": [
            { "name": "other", "x": { "y": [1.5, null] }, "token_sha512": sha512_hex(SECOND), "permissions": ["system:*:read"],
              "description": "of the monitoring" },
            { "permissions": ["db:a:read"], "token": first, "name": "first" },
        ],
        "create_databases": ["a"],
    });
    fs::write(&file, format!("\u{feff}{others}")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let args = [
        "--permission",
        "http:/x/*:GET",
        "--permission",
        "system:ping:read",
        "--name",
        "second",
        "--expiry",
        "1h",
        "--create-databases",
        "a,c",
        "--format",
        "json",
    ];
    let second = add_offline(&env, &file, &args);
    assert_eq!(second.code, Some(0), "{second:?}");
    let second: Value = serde_json::from_str(&second.stdout).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    let expiry = written["tokens"][2]["expiry_millis"].as_u64().unwrap();
    let entry = json!({
        "token": second["token"], "name": "second", "expiry_millis": expiry,
        "permissions": ["http:/x/*:GET", "system:ping:read"],
    });
    let mut expected = others;
    expected["tokens"].as_array_mut().unwrap().push(entry);
    expected["create_databases"] = json!(["a", "c"]);
    assert_eq!((written, mode(&file)), (expected, 0o600));
    assert!(text.find("$comment").unwrap() < text.find("token_sha512").unwrap());

    // What cannot be added changes nothing.
    for (args, message) in [
        (&["--name", "first", "--permission", "db:a:read"][..], "has a token named \"first\" already"),
        (
            &["--name", "third", "--permission", "db:a:read", "--permission", "db:..:read"],
            "permission 2: NAMES of db",
        ),
        (&["--name", "_admin", "--permission", "db:a:read"], "_admin"),
        (&["--name", "", "--permission", "db:a:read"], "a token name must not be empty"),
    ] {
        add_offline(&env, &file, args).assert_failed(1, &[message]);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    for (content, message) in [
        ("[]", "no file for --permission-tokens-file"),
        ("{\"token\": \"apiv3_secret\", \"name\": \"x\"}", "no file for --permission-tokens-file"),
        ("", "it is not JSON"),
    ] {
        let other = env.file("other.json", content.as_bytes());
        let output = add_offline(&env, &other, &["--name", "x", "--permission", "db:a:read"]);
        output.assert_failed(1, &[&format!("cannot add a token to {}", other.display()), message]);
        assert!(!output.stderr.contains("apiv3_"), "{output:?}");
        assert_eq!(fs::read_to_string(&other).unwrap(), content);
    }

    let server = env.serve(&["--permission-tokens-file", file.to_str().unwrap()]);
    assert_eq!(record(&server, &first)["permissions"], json!(["db:a:read"]));
    assert_eq!(record(&server, SECOND)["description"], "of the monitoring");
    let second = second["token"].as_str().unwrap();
    assert_eq!(record(&server, second)["permissions"], json!(["http:/x/*:GET", "system:ping:read"]));
    server.wait_for_log("\"create_databases\" of ");
}

/// A file for `--permission-tokens-file`.
struct TokensFile(PathBuf);

impl TokensFile {
    fn new(env: &TestEnv, tokens: &Value) -> Self {
        remember_secret(FIRST);
        let file = Self(env.file("permission-tokens.json", b""));
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o600)).unwrap();
        file.write(tokens);
        file
    }

    fn write(&self, tokens: &Value) {
        fs::write(&self.0, json!({ "tokens": tokens }).to_string()).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

fn entry(token: &str, name: &str, permissions: &[&str]) -> Value {
    json!({ "token": token, "name": name, "permissions": permissions })
}

fn hash_entry(token: &str, name: &str, permissions: &[&str]) -> Value {
    json!({ "token_sha512": sha512_hex(token), "name": name, "permissions": permissions })
}

#[test]
fn tokens_of_a_file_are_imported_at_start_and_reload() {
    let env = TestEnv::new();
    let mut described = entry(FIRST, "reader", &["db:a:*"]);
    described["description"] = json!("reads Grüße");
    described["expiry_millis"] = json!(4_102_444_800_000_u64);
    let file = TokensFile::new(&env, &json!([described, hash_entry(SECOND, "monitor", &["system:*:read"])]));
    let server = env.serve(&["--permission-tokens-file", file.path()]);
    let operator = server.create();
    server.wait_for_log("Token 'reader' initialized from file");
    server.wait_for_log("tokens: 2, new: 2");
    let reader = record(&server, FIRST);
    assert_eq!(reader["permissions"], json!(["db:a:read,write,create"]));
    assert_eq!(reader["description"], "reads Grüße");
    assert_eq!(reader["expiry"], "2100-01-01T00:00:00Z");
    assert_eq!(status(&server, "/health", SECOND), 200);
    assert_eq!(status(&server, "/health", FIRST), 403);
    let query =
        json!({ "db": "_internal", "q": "SELECT description FROM system.tokens WHERE name = 'reader'" });
    let row = post("/api/v3/query_sql").bearer(&operator).json(&query).send(server.address);
    assert_eq!(row.json(), json!([{ "description": "reads Grüße" }]));

    // A bad entry: nothing of the file is imported, and the log names the entry.
    file.write(&json!([entry(THIRD, "new", &["db:b:read"]), entry(SECOND, "bad", &["db:a:rread"])]));
    server.signal(Signal::HUP);
    server.wait_for_log("its secret is that of the token \"monitor\"");
    file.write(&json!([
        entry(THIRD, "new", &["db:b:read"]),
        hash_entry("apiv3_another", "bad", &["db:a:read", "db:a:rread"]),
    ]));
    server.signal(Signal::HUP);
    server.wait_for_log("token 2 (\"bad\"): permission 2: ACTIONS of db are");
    assert_eq!(status(&server, SELF, THIRD), 401);
    let metrics = get("/metrics").bearer(&operator).send(server.address).body;
    assert!(metrics.contains(r#"optoken_reloads_total{file="permission_tokens_file",outcome="failed"} 2"#));

    // A new token is imported. Of those that exist, none is changed, and none goes.
    let before = server.log().len();
    file.write(&json!([entry(THIRD, "new", &["db:b:read"]), entry(FIRST, "reader", &["db:*:read"])]));
    server.signal(Signal::HUP);
    server.wait_for_log("Token 'new' initialized from file");
    server.wait_for_log("Token 'reader' keeps the permissions that it has, and not those of ");
    server.wait_for_log("delete token --token-name NAME) and put a new secret into the file");
    eventually("the file is read", || server.log()[before..].contains("tokens: 2, new: 1"));
    assert_eq!(record(&server, FIRST)["permissions"], json!(["db:a:read,write,create"]));
    assert_eq!(record(&server, THIRD)["permissions"], json!(["db:b:read"]));
    assert_eq!(status(&server, SELF, SECOND), 200);
    // The way out that the warning names.
    delete_named(&operator, "reader").send(server.address).assert_is(200, "");
    file.write(&json!([entry(FIRST, "reader", &["db:*:read"])]));
    server.signal(Signal::HUP);
    server.wait_for_log("Token 'reader' was accepted before and then revoked");
    assert_eq!(status(&server, SELF, FIRST), 401);
    let fourth = "apiv3_wJ8cVb2NqLrYx6TzKf0SgQ";
    file.write(&json!([entry(fourth, "reader", &["db:*:read"]), entry(SECOND, "new", &["db:b:read"])]));
    server.signal(Signal::HUP);
    server.wait_for_log("its secret is that of the token \"monitor\"");
    file.write(&json!([entry(fourth, "reader", &["db:*:read"]), entry(FIRST, "new", &["db:b:read"])]));
    server.signal(Signal::HUP);
    server.wait_for_log("Token 'new' already exists with another secret");
    assert_eq!(record(&server, fourth)["permissions"], json!(["db:*:read"]));
    assert_eq!(status(&server, SELF, THIRD), 200);
    server.stop();

    // The same file again changes nothing.
    file.write(&json!([entry(fourth, "reader", &["db:*:read"]), entry(THIRD, "new", &["db:b:*"])]));
    let stored = env.stored_catalog();
    let server = env.serve(&["--permission-tokens-file", file.path()]);
    server.wait_for_log("Token 'new' keeps the permissions that it has");
    server.wait_for_log("tokens: 2, new: 0");
    assert!(!server.log().contains("Token 'reader'"), "{}", server.log());
    assert_eq!(env.stored_catalog(), stored);
}

#[test]
fn changed_file_of_tokens_is_noticed_without_a_signal() {
    let env = TestEnv::new();
    let file = TokensFile::new(&env, &json!([]));
    let server = env.serve(&["--permission-tokens-file", file.path()]);
    file.write(&json!([entry(FIRST, "reader", &["db:a:read"])]));
    // The file is compared every ten seconds.
    within(Duration::from_secs(90), "the new token is accepted", || status(&server, SELF, FIRST) == 200);
}

#[test]
fn unusable_file_of_tokens_prevents_start() {
    let env = TestEnv::new();
    let good = entry(FIRST, "a", &["db:a:read"]);
    let with = |name: &str, value: Value| {
        let mut entry = entry(SECOND, "b", &["db:a:read"]);
        entry[name] = value;
        json!([good, entry])
    };
    for (tokens, message) in [
        (with("permissions", json!([])), "token 2 (\"b\"): a token must have 1 to 32 permissions"),
        (
            with("permissions", json!(["db:a"])),
            "token 2 (\"b\"): permission 1: it must be TYPE:NAMES:ACTIONS",
        ),
        (
            with("permissions", json!("db:a:read")),
            "Failed to parse permission tokens file as JSON: \"tokens\" is a list",
        ),
        (
            with("permissions", json!(null)),
            "Failed to parse permission tokens file as JSON: \"tokens\" is a list",
        ),
        (with("token", json!("apiv3_weak")), "token 2 (\"b\"): the token is too weak"),
        (with("token", json!(FIRST)), "it has the name or the secret of token 1"),
        (with("name", json!("a")), "it has the name or the secret of token 1"),
        (with("name", json!("_admin")), "belongs into --admin-token-file"),
        (with("name", json!("")), "token 2 (\"\"): a token name must not be empty"),
        (with("description", json!("x".repeat(257))), "token 2 (\"b\"): a description must be visible text"),
        (with("token_sha512", json!(sha512_hex(THIRD))), "it has both \"token\" and \"token_sha512\""),
        (with("token", json!(null)), "it has neither \"token\" nor \"token_sha512\""),
        (with("expiry_millis", json!("soon")), "Failed to parse permission tokens file as JSON"),
    ] {
        let file = TokensFile::new(&env, &tokens);
        let output = env.serve_with(&["--permission-tokens-file", file.path()]).run();
        output.assert_failed(1, &["Serve command failed: Token error: cannot use ", message]);
        assert!(
            env.stored_catalog().is_none_or(|(_, document)| !document.contains("\"name\":\"a\"")),
            "{tokens}"
        );
    }
    let file = TokensFile::new(&env, &json!([good]));
    for (mode, message) in [
        (
            0o644,
            "Permission tokens file has insecure permissions: 644. Others can read the tokens; run: chmod 0600 ",
        ),
        (0o602, "Others can change it; run: chmod go-w "),
    ] {
        fs::set_permissions(&file.0, fs::Permissions::from_mode(mode)).unwrap();
        let output = env.serve_with(&["--permission-tokens-file", file.path()]).run();
        output.assert_failed(1, &["Serve command failed: Token error: ", message]);
    }
    // Hashes are not secret.
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o644)).unwrap();
    file.write(&json!([hash_entry(FIRST, "a", &["db:a:read"])]));
    let server = env.serve_with(&[]).env("INFLUXDB3_PERMISSION_TOKENS_FILE", file.path()).start();
    assert_eq!(status(&server, SELF, FIRST), 200);
    server.stop();
    let missing = env.home().join("missing.json");
    let output = env.serve_with(&["--permission-tokens-file"]).arg(&missing).run();
    output.assert_failed(1, &["Failed to read permission tokens file: No such file or directory"]);
    // Without authentication there are no tokens.
    env.serve(&["--without-auth", "--permission-tokens-file", "missing.json"]);
}

#[test]
fn description_of_the_admin_token_file_is_kept() {
    for (description, kept) in [("of the cluster", true), ("", false), ("two\nlines", false)] {
        let env = TestEnv::new();
        let content = json!({ "token": FIRST, "name": "ci", "description": description });
        let file = env.file("token.json", content.to_string().as_bytes());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let server = env.serve(&["--admin-token-file", file.to_str().unwrap()]);
        let record = record(&server, FIRST);
        assert_eq!(record.get("description"), kept.then_some(&json!(description)), "{record}");
        let is_warned = server.log().contains("the description of the admin token file is not kept");
        assert_eq!(is_warned, description.contains('\n'));
    }
}

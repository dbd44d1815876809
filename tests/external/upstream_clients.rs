//! Clients of InfluxDB 3 through `serve --upstream` to a stand-in for Core, which has a real server
//! of Flight and records what arrives (tests/clients/python/core.py).
//!
//! What arrives is what the token of the client permits, with the token of the service in the place
//! of that one. Telegraf is in no registry, so its requests are sent as its source builds them.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::influxdb_clients::{VERSION, client, run, url};
use crate::needs::{self, CURL};
use crate::support::{
    CaseName, ChildGuard, NAMED_ADMIN, Request, Server, TOKENS, TestEnv, get, post, request,
};
use crate::upstream_proxies::{ScopedToken, UPSTREAM_TOKEN, create_scoped, upstream_token_file};

/// The line that this test writes.
const LINE: &str = "m,host=test value=1 1700000000000000000";

/// A running stand-in for Core.
struct Core {
    address: SocketAddr,
    record: PathBuf,
    seen: Cell<usize>,
    _child: ChildGuard,
}

impl Core {
    fn start(env: &TestEnv) -> Self {
        let record = env.file("record", b"");
        let mut command = client("python/run");
        command.arg("core").arg(&record).env("INFLUX_TOKEN", UPSTREAM_TOKEN);
        // It ends with its input.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()));
        Self { address, record, seen: Cell::new(0), _child: ChildGuard(child) }
    }

    /// Returns what arrived since the last call, without the questions of the server itself.
    fn drain(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.record).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let new = records[self.seen.replace(records.len())..].to_vec();
        let is_of_server = |record: &Value| {
            record["target"] == "/ping" && header_values(record, "x-auth-token-id").is_empty()
        };
        new.into_iter().filter(|record| !is_of_server(record)).collect()
    }
}

fn header_values(record: &Value, name: &str) -> Vec<String> {
    let headers = record["headers"].as_array().unwrap();
    let named = headers.iter().filter(|pair| pair[0] == name);
    named.map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

/// A token of a client, and what it permits.
struct Caller {
    token: ScopedToken,
    /// Its permissions, or `None` if it is an admin.
    permissions: Option<&'static str>,
}

impl Caller {
    /// Returns whether it may do this to a database.
    fn may(&self, action: &str, database: &str) -> bool {
        let Some(permissions) = self.permissions else { return true };
        let Some(("db", rest)) = permissions.split_once(':') else { return false };
        let (names, actions) = rest.split_once(':').unwrap();
        (names == "*" || names == database) && actions.split(',').any(|given| given == action)
    }
}

/// A server in front of the stand-in, and tokens.
struct Setup {
    server: Server,
    core: Core,
    callers: Vec<Caller>,
    operator: String,
    env: TestEnv,
}

impl Setup {
    /// The server finds by itself what is behind it.
    fn new() -> Self {
        let env = TestEnv::new();
        let core = Core::start(&env);
        let (upstream, file) = (format!("http://{}", core.address), upstream_token_file(&env));
        let upstream = ["--upstream", upstream.as_str(), "--upstream-token-file", &file];
        let server = env.serve(&[&["--store", "memory:"][..], &upstream].concat());
        let operator = server.create();
        let mut callers = Vec::new();
        for (name, permissions) in [
            ("reader", "db:a:read"),
            ("writer", "db:a:write"),
            ("creator", "db:a:create"),
            ("both", "db:*:read,write"),
            ("paths", "http:/*:read,write"),
        ] {
            let token = create_scoped(&server, &operator, name, permissions);
            callers.push(Caller { token, permissions: Some(permissions) });
        }
        let admin = post(NAMED_ADMIN).bearer(&operator).json(&json!({"token_name": "admin"}));
        let admin = ScopedToken::of(&admin.send(server.address), "admin");
        callers.push(Caller { token: admin, permissions: None });
        // Both databases are there.
        for database in ["a", "b"] {
            let written = post(&format!("/api/v3/write_lp?db={database}")).bearer(&operator);
            assert_eq!(written.body(LINE.as_bytes()).send(server.address).status, 204);
        }
        core.drain();
        Self { server, core, callers, operator, env }
    }

    /// Asserts that these requests arrived, with the identity of a token.
    #[track_caller]
    fn assert_arrived(&self, token: &ScopedToken, expected: &[String]) {
        let records = self.core.drain();
        let upstream = [format!("Bearer {UPSTREAM_TOKEN}")];
        for record in records.iter().filter(|record| record["headers"].is_array()) {
            assert_eq!(header_values(record, "authorization"), upstream, "{record}");
            assert_eq!(header_values(record, "x-auth-token-id"), [token.id.as_str()], "{record}");
            assert_eq!(header_values(record, "x-auth-token-name"), [token.name.as_str()], "{record}");
            assert!(!record.to_string().contains(&token.token), "the token of the client: {record}");
        }
        let lines: Vec<_> = records
            .iter()
            .map(|record| {
                let field = |name: &str| record[name].as_str().unwrap_or_default();
                // Of messages of Flight SQL, their type.
                let body =
                    field("body").rsplit_once(".protocol.sql.").map_or(field("body"), |(_, message)| {
                        message.split(|next: char| !next.is_ascii_alphabetic()).next().unwrap()
                    });
                format!("{} {}{body}", field("method"), field("target"))
            })
            .collect();
        assert_eq!(lines, expected, "{records:?}");
    }
}

/// What the driver of Flight SQL asks for. Its first question has no answer here.
const FLIGHT_SQL: [&str; 8] = [
    "GET_FLIGHT_INFO ",
    "descriptor CommandGetSqlInfo",
    "GET_FLIGHT_INFO ",
    "descriptor CommandStatementQuery",
    "DO_GET ",
    "ticket CommandStatementQuery",
    "DO_ACTION ",
    "action CloseSession ",
];

/// Runs a client of a library for each token and both databases.
fn run_client(script: &str, write_target: impl Fn(&str) -> String, has_flight_sql: bool, denied: &str) {
    let setup = Setup::new();
    let host = script.split('/').next().unwrap();
    for caller in &setup.callers {
        for database in ["a", "b"] {
            let _case = CaseName(format!("{:?} {database}", caller.permissions));
            let found = run(script, &["upstream", &url(&setup.server), database], &caller.token.token);
            let line = format!("m,host={host} value=1 1700000000000000000");
            let (reads, writes) = (caller.may("read", database), caller.may("write", database));
            let mut expected = Vec::new();
            if caller.permissions.is_none() {
                assert_eq!(found["version"], json!({"result": VERSION}));
                expected.push("GET /ping".to_owned());
            } else {
                assert!(found["version"]["error"].is_string(), "{found}");
            }
            if writes {
                assert!(found["write"]["error"].is_null(), "{found}");
                expected.push(format!("POST {}{line}", write_target(database)));
            } else {
                let refusal = found["write"].to_string();
                assert!(refusal.contains("403"), "{found}");
            }
            for language in ["sql", "influxql", "flightSql"] {
                if language == "flightSql" && !has_flight_sql {
                    continue;
                }
                if !reads {
                    let refusal = found[language].to_string();
                    assert!(found[language]["error"].is_string() && refusal.contains(denied), "{found}");
                    continue;
                }
                let row = &found[language]["result"][0];
                assert_eq!(row["database"], database, "{found}");
                assert!(row["lines"].as_u64().unwrap() >= 1, "{found}");
                if language == "flightSql" {
                    expected.extend(FLIGHT_SQL.map(str::to_owned));
                } else {
                    expected.push("DO_GET ".to_owned());
                    expected.push(format!("ticket {}", ticket(host, database, language)));
                }
            }
            setup.assert_arrived(&caller.token, &expected);
        }
    }
}

/// The ticket that a library sends.
fn ticket(host: &str, database: &str, language: &str) -> String {
    let query = "select * from m";
    match host {
        "python" => {
            format!(r#"{{"database": "{database}", "sql_query": "{query}", "query_type": "{language}"}}"#)
        }
        _ => format!(
            r#"{{"database":"{database}","sql_query":"{query}","query_type":"{language}","params":{{}}}}"#
        ),
    }
}

/// `influxdb3-python` of `PyPI`, and the driver of Flight SQL of Apache Arrow.
pub(crate) fn python_client_does_what_its_token_permits() {
    let write = |database: &str| format!("/api/v2/write?org=default&bucket={database}&precision=ns");
    run_client("python/run", write, true, "lacks the permission");
}

/// `@influxdata/influxdb3-client` of npm.
pub(crate) fn javascript_client_does_what_its_token_permits() {
    let write = |database: &str| format!("/api/v2/write?bucket={database}&precision=ns");
    run_client("node/run", write, false, "PERMISSION_DENIED");
}

/// A row of the API of Core: what it does, and a request for the database `DB`.
#[derive(Clone, Copy)]
struct Row {
    action: &'static str,
    method: &'static str,
    target: &'static str,
    content_type: Option<&'static str>,
    body: &'static str,
    status: u16,
}

const fn row(action: &'static str, method: &'static str, target: &'static str, status: u16) -> Row {
    Row { action, method, target, content_type: None, body: "", status }
}

const fn with_body(row: Row, content_type: Option<&'static str>, body: &'static str) -> Row {
    Row { content_type, body, ..row }
}

const JSON: Option<&str> = Some("application/json");
const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

/// The rows of HTTP, as the clients send them. `admin` is for no permission.
const ROWS: &[Row] = &[
    with_body(row("write", "POST", "/write?db=DB&precision=ns", 204), None, LINE),
    with_body(row("write", "POST", "/write?db=DB&rp=autogen&precision=ns", 204), None, LINE),
    with_body(row("write", "POST", "/api/v2/write?org=x&bucket=DB&precision=ns", 204), None, LINE),
    with_body(
        row("write", "POST", "/api/v3/write_lp?db=DB&precision=auto&accept_partial=true&no_sync=false", 204),
        Some("text/plain; charset=utf-8"),
        LINE,
    ),
    row("read", "GET", "/query?db=DB&epoch=ms&q=SELECT+*+FROM+m", 200),
    row("read", "GET", "/query?db=DB&q=SHOW+MEASUREMENTS", 200),
    with_body(row("read", "POST", "/query?db=DB&epoch=ms", 200), FORM, "q=SHOW+MEASUREMENTS"),
    with_body(row("read", "POST", "/query", 200), FORM, "db=DB&q=SELECT+*+FROM+%22m%22"),
    row("admin", "GET", "/query?db=DB&q=DROP+MEASUREMENT+m", 200),
    with_body(row("admin", "POST", "/query", 200), FORM, "db=DB&q=SELECT+*+INTO+n+FROM+m"),
    row("admin", "GET", "/query?db=DB&q=SHOW+DATABASES", 200),
    with_body(
        row("read", "POST", "/api/v3/query_sql", 200),
        JSON,
        r#"{"db":"DB","q":"select * from m","format":"pretty","params":null}"#,
    ),
    with_body(
        row("read", "POST", "/api/v3/query_influxql", 200),
        JSON,
        r#"{"db":"DB","q":"select * from m","format":"json","params":{}}"#,
    ),
    row("read", "GET", "/api/v3/query_sql?db=DB&q=select+1&format=csv", 200),
    row("read", "GET", "/api/v3/query_influxql?db=DB&q=select+v+from+m&format=json", 200),
    with_body(
        row("create", "POST", "/api/v3/configure/database", 200),
        JSON,
        r#"{"db":"DB","retention_period":null}"#,
    ),
    row("admin", "GET", "/api/v3/configure/database?format=json&show_deleted=false", 200),
    with_body(row("admin", "POST", "/api/v3/configure/table", 404), JSON, r#"{"db":"DB","table":"t"}"#),
    row("admin", "DELETE", "/api/v3/configure/table?db=DB&table=t", 404),
    row("admin", "GET", "/api/v3/engine/DB", 404),
    row("admin", "POST", "/api/v3/plugins/files", 404),
    row("admin", "GET", "/debug/pprof/profile", 404),
    row("admin", "GET", "/anything/else?db=DB", 404),
    row("admin", "GET", "/metrics", 200),
    row("admin", "GET", "/health", 200),
    row("admin", "GET", "/ping", 200),
];

/// All rows, each with all tokens and two databases.
pub(crate) fn each_row_of_core_needs_its_permission() {
    let setup = Setup::new();
    for row in ROWS {
        for database in ["a", "b"] {
            let fill = |text: &str| text.replace("DB", database);
            let (target, body) = (fill(row.target), fill(row.body));
            let mut plain = request(row.method, &target);
            if let Some(content_type) = row.content_type {
                plain = plain.header("Content-Type", content_type);
            }
            if !body.is_empty() {
                plain = plain.body(body.as_bytes());
            }
            assert_eq!(plain.send(setup.server.address).status, 401, "{target}");
            let wrong = plain.clone().bearer("apiv3_wrong").send(setup.server.address);
            assert_eq!(wrong.status, 401, "{target}");
            for caller in &setup.callers {
                let _case = CaseName(format!("{} {target} {body} {:?}", row.method, caller.permissions));
                // Each scheme that a client sends.
                for scheme in ["Bearer", "Token"] {
                    let request = plain.clone().authorization(&format!("{scheme} {}", caller.token.token));
                    let may = caller.may(row.action, database);
                    let response = request.send(setup.server.address);
                    assert_eq!(response.status, if may { row.status } else { 403 }, "{response:?}");
                    if !may {
                        let challenge = response.header("www-authenticate").unwrap_or_default();
                        assert!(challenge.contains("insufficient_scope"), "{response:?}");
                    }
                    let expected = format!("{} {target}{body}", row.method);
                    setup.assert_arrived(
                        &caller.token,
                        if may { std::slice::from_ref(&expected) } else { &[] },
                    );
                }
            }
        }
    }
}

/// A token for a database reads about itself, and nothing else of the API of tokens.
fn assert_no_tokens(setup: &Setup, caller: &Caller) {
    let database = json!({"db": "_internal", "q": "select * from system.tokens", "format": "json"});
    let named = json!({"token_name": "x"});
    let permissions = json!([{"resource_type": "db", "resource_identifier": ["a"], "actions": ["read"]}]);
    let scoped = json!({"token_name": "x", "permissions": permissions});
    for refused in [
        get(TOKENS),
        get("/api/v3/configure/token/admin"),
        post(NAMED_ADMIN).json(&named),
        post("/api/v3/enterprise/configure/token").json(&scoped),
        post("/api/v3/configure/token/admin/regenerate"),
        request("DELETE", &format!("{TOKENS}?token_name=admin")),
        post("/api/v3/query_sql").json(&database),
    ] {
        let response = refused.clone().bearer(&caller.token.token).send(setup.server.address);
        assert_eq!(response.status, 403, "{:?}: {response:?}", refused.target());
    }
    let own = get("/api/v3/configure/token/self").bearer(&caller.token.token).send(setup.server.address);
    assert_eq!(own.status, 200, "{own:?}");
    setup.assert_arrived(&caller.token, &[]);
}

/// The official CLI: its requests for databases, and the commands for tokens.
pub(crate) fn cli_does_what_it_does_at_core() {
    let setup = Setup::new();
    let admin = setup.callers.iter().find(|caller| caller.permissions.is_none()).unwrap();
    let (address, host) = (setup.server.address, url(&setup.server));
    let token = &admin.token.token;
    // create database, write, query, show databases, delete database
    let create = post("/api/v3/configure/database").json(&json!({"db": "c", "retention_period": null}));
    let write = post("/api/v3/write_lp?db=c&precision=auto&accept_partial=false&no_sync=false");
    let sql = json!({"db": "c", "q": "select * from m", "format": "pretty", "params": null});
    let query = post("/api/v3/query_sql").json(&sql);
    let show = get("/api/v3/configure/database?format=json&show_deleted=false");
    let delete = request("DELETE", "/api/v3/configure/database?db=c");
    let send = |request: Request| {
        let response = request.bearer(token).send(address);
        assert!(response.status < 300, "{response:?}");
        response.body
    };
    send(create);
    send(write.body(LINE.as_bytes()));
    assert!(send(query).contains("| lines | 1 |"));
    assert!(send(show).contains(r#"{"iox::database": "c"}"#));
    send(delete);
    let expected = [
        r#"POST /api/v3/configure/database{"db":"c","retention_period":null}"#.to_owned(),
        format!("POST /api/v3/write_lp?db=c&precision=auto&accept_partial=false&no_sync=false{LINE}"),
        format!("POST /api/v3/query_sql{sql}"),
        "GET /api/v3/configure/database?format=json&show_deleted=false".to_owned(),
        "DELETE /api/v3/configure/database?db=c".to_owned(),
    ];
    setup.assert_arrived(&admin.token, &expected);
    // create token, show tokens, delete token: answered here
    let cli = |args: &[&str]| setup.env.cli(args).args(&["--host", &host, "--token", &setup.operator]).run();
    let created = cli(&["create", "token", "--permission", "db:a:read", "--name", "made"]).token();
    let shown = cli(&["show", "tokens", "--format", "csv"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("made") && shown.stdout.contains("db:a:read"), "{shown:?}");
    let read = json!({"db": "a", "q": "select * from m", "format": "json"});
    let read = post("/api/v3/query_sql").bearer(&created).json(&read);
    assert_eq!(read.send(address).status, 200);
    setup.core.drain();
    // It cannot.
    let refused = setup.env.cli(["show", "tokens"]).args(&["--host", &host, "--token", &created]).run();
    refused.assert_failed(1, &["lacks the permission"]);
    let refused = ["create", "token", "--admin", "--name", "x", "--host", &host, "--token", &created];
    setup.env.cli(refused).run().assert_failed(1, &["lacks the permission"]);
    for caller in setup.callers.iter().filter(|caller| caller.permissions.is_some()) {
        assert_no_tokens(&setup, caller);
    }
    let deleted = setup.env.cli(["delete", "token", "--token-name", "made", "--host", &host, "--token"]);
    assert_eq!(deleted.arg(&setup.operator).input("yes\n").run().code, Some(0));
    assert_eq!(read.send(address).status, 401);
    setup.assert_arrived(&admin.token, &[]);
}

/// curl, as the documentation of `InfluxDB` has it, with both versions of HTTP.
pub(crate) fn curl_does_what_its_token_permits() {
    let setup = Setup::new();
    let host = url(&setup.server);
    let curl = |caller: &Caller, args: &[&str]| {
        let mut command = needs::command(CURL);
        command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]);
        command.args(["--header", &format!("Authorization: Bearer {}", caller.token.token)]).args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().rsplit('\n').next().unwrap().to_owned()
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for caller in &setup.callers {
            for database in ["a", "b"] {
                let _case = CaseName(format!("{version} {:?} {database}", caller.permissions));
                let write = format!("/api/v3/write_lp?db={database}&precision=ns");
                let status = curl(caller, &[version, &format!("{host}{write}"), "--data-raw", LINE]);
                assert_eq!(status == "204", caller.may("write", database), "{status}");
                let query = format!("/api/v3/query_sql?db={database}&q=select+1");
                let status = curl(caller, &[version, &format!("{host}{query}")]);
                assert_eq!(status == "200", caller.may("read", database), "{status}");
                let mut expected = Vec::new();
                expected.extend(caller.may("write", database).then(|| format!("POST {write}{LINE}")));
                expected.extend(caller.may("read", database).then(|| format!("GET {query}")));
                setup.assert_arrived(&caller.token, &expected);
            }
        }
    }
}

/// The writes of Telegraf with both of its plugins.
pub(crate) fn telegraf_writes_with_a_token_that_writes() {
    let setup = Setup::new();
    for caller in &setup.callers {
        for database in ["a", "b"] {
            let _case = CaseName(format!("{:?} {database}", caller.permissions));
            // plugins/outputs/influxdb_v2/http.go, and plugins/outputs/influxdb_v3/client.go
            for (scheme, target) in [
                ("Token", format!("/api/v2/write?bucket={database}&org=")),
                ("Bearer", format!("/api/v3/write_lp?db={database}&no_sync=false")),
            ] {
                let write = post(&target).header("User-Agent", "Telegraf/1.38.0 Go/1.25");
                let write = write.authorization(&format!("{scheme} {}", caller.token.token));
                let write = write.header("Content-Type", "text/plain; charset=utf-8");
                // It has no length, as the plugin compresses while it sends.
                let response = write.chunked(LINE.as_bytes(), 7).send(setup.server.address);
                let may = caller.may("write", database);
                assert_eq!(response.status, if may { 204 } else { 403 }, "{response:?}");
                let expected = may.then(|| format!("POST {target}{LINE}"));
                setup.assert_arrived(&caller.token, expected.as_slice());
            }
        }
    }
}

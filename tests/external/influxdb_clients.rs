//! Clients of InfluxDB 3 against this server, where they touch tokens, ping and health.
//!
//! The libraries and the MCP server come unchanged from their registries (tests/clients). Telegraf
//! and Grafana are in none of them, so their requests are sent as their sources build them.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::needs::{self, PROMETHEUS};
use crate::support::{
    ChildGuard, NOT_AUTHENTICATED, Request, Response, Server, TestEnv, create_named, delete_named,
    eventually, get, post, remember_tokens, request,
};

/// The version of InfluxDB 3 Core that the server claims to be.
pub(crate) const VERSION: &str = "3.10.1";

/// Returns the command of a script of tests/clients, which has installed what it needs.
pub(crate) fn client(script: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients").join(script);
    needs::prepare_once(Command::new(&script).arg("install"));
    Command::new(script)
}

/// Runs a script of tests/clients with a token. Returns what it prints.
pub(crate) fn run(script: &str, args: &[&str], token: &str) -> Value {
    let mut command = client(script);
    command.args(args).env("INFLUX_TOKEN", token).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let printed = String::from_utf8(output.stdout).unwrap();
    remember_tokens(&printed);
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

pub(crate) fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// Creates a token that expires in an hour.
fn create_expiring(server: &Server, credential: &str, name: &str) -> String {
    let body = json!({"token_name": name, "expiry_secs": 3600});
    let request = post("/api/v3/configure/token/named_admin").bearer(credential).json(&body);
    request.send(server.address).token()
}

/// `@influxdata/influxdb3-client` of npm.
pub(crate) fn javascript_client_reads_version_and_errors() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let found = run("node/run", &["client", &url(&server)], &server.create());
    for scheme in ["bearer", "token", "default"] {
        assert_eq!(found[scheme], json!({"result": VERSION}), "{scheme}");
    }
    let refused = json!({"error": "the request was not authenticated", "status": 401});
    assert_eq!(found["wrong"], refused);
    // The library asks by gRPC, which is not here. It reports that, and does not wait.
    assert_eq!(found["query"]["status"], "UNIMPLEMENTED");
    assert_eq!(found["wrongQuery"]["status"], "UNAUTHENTICATED");
}

/// `influxdb3-python` of `PyPI`, and `PyArrow`, which reads the format parquet.
pub(crate) fn python_client_reads_version_errors_and_parquet() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let operator = server.create();
    create_expiring(&server, &operator, "Zürich, \"b\"");
    assert_eq!(create_named(&operator, "ci").send(server.address).status, 201);
    // A run of so many values has a length of two bytes.
    for number in 0..150 {
        assert_eq!(create_named(&operator, &format!("t{number}")).send(server.address).status, 201);
    }
    let found = run("python/run", &["client", &url(&server)], &operator);
    for scheme in ["bearer", "scheme"] {
        assert_eq!(found[scheme], json!({"result": VERSION}), "{scheme}");
    }
    let refused = found["wrong"]["text"].as_str().unwrap();
    assert!(refused.contains("the request was not authenticated"), "{refused}");
    assert!(found["query"]["error"].is_string() && found["wrongQuery"]["error"].is_string(), "{found}");

    let tokens = &found["tokens"];
    let types = json!({
        "token_id": "uint64",
        "name": "string",
        "hash": "string",
        "created_at": "timestamp[ms]",
        "description": "string",
        "created_by_token_id": "uint64",
        "updated_at": "timestamp[ms]",
        "updated_by_token_id": "uint64",
        "expiry": "timestamp[ms]",
        "permissions": "string",
    });
    assert_eq!(tokens["types"], types);
    let listed = post("/api/v3/query_sql").bearer(&operator);
    let listed = listed.json(&json!({"db": "_internal", "q": "select * from system.tokens"}));
    let listed = listed.send(server.address).json();
    let lengths = [&tokens["rows"], &listed].map(|rows| rows.as_array().unwrap().len());
    assert_eq!(lengths, [153, 153]);
    for (row, expected) in tokens["rows"].as_array().unwrap().iter().zip(listed.as_array().unwrap()) {
        for (column, value) in row.as_object().unwrap() {
            let expected = &expected[column];
            // Python writes microseconds.
            let text = |value: &Value| value.as_str().map(|text| text.trim_end_matches('0').to_owned());
            if column == "created_at" || column == "expiry" {
                assert_eq!(text(value), text(expected), "{column}");
            } else {
                assert_eq!(value, expected, "{column}");
            }
        }
    }
    let shapes = json!({
        "types": {"n": "int64", "a": "double", "name": "string", "e": "string"},
        "rows": [{"n": 3, "a": 1.0, "name": "ci", "e": null}],
    });
    assert_eq!(found["shapes"], shapes);
    let many = found["many"]["rows"].as_array().unwrap();
    let names: Vec<_> =
        many.iter().map(|row| (row["name"].as_str().unwrap(), row["expiry"].is_null())).collect();
    assert_eq!(names, [("ci", true), ("Zürich, \"b\"", false)]);
    let types = json!({"name": "string", "expiry": "timestamp[ms]"});
    assert_eq!(found["none"], json!({"types": types, "rows": []}));
}

/// `@influxdata/influxdb3-mcp-server` of npm.
pub(crate) fn mcp_server_manages_tokens() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let operator = server.create();
    create_expiring(&server, &operator, "ci");
    let found = run("node/run", &["mcp", &url(&server)], &operator);
    let text = |call: &str, failed: bool| {
        assert_eq!(found[call]["failed"], failed, "{call}: {}", found[call]["text"]);
        found[call]["text"].as_str().unwrap().to_owned()
    };
    let health = text("health", false);
    for part in ["HEALTHY", r#""status": "pass""#, r#""ok": true"#, VERSION, r#""build": "Core""#] {
        assert!(health.contains(part), "{part}: {health}");
    }
    let names = |call: &str| -> Vec<String> {
        let listed = text(call, false);
        let rows: Value = serde_json::from_str(listed.split_once('\n').unwrap().1).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(text("created", false).contains("Token ID: 2\nToken: apiv3_"));
    assert!(text("taken", true).ends_with("token name already exists, from the model (Status: 409)"));
    assert_eq!(names("listed"), ["_admin", "ci", "from the model"]);
    assert_eq!(names("filtered"), ["from the model"]);
    assert_eq!(names("unknown"), [""; 0]);
    assert_eq!(names("resource"), [""; 0]);
    assert_eq!(text("deleted", false), "Token 'from the model' deleted successfully.");
    assert!(text("missing", true).ends_with("was not found: from the model (Status: 404)"));
    assert!(text("operator", true).ends_with("cannot delete operator token (Status: 405)"));
    let regenerated = text("regenerated", false);
    let new = regenerated.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap();
    assert!(server.accepts(new) && !server.accepts(&operator));
    // Its own token is the old one.
    text("afterwards", true);
}

/// Prometheus with the configuration of docs/operations.md, at a high pace.
pub(crate) fn prometheus_scrapes_with_token_of_file() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let operator = server.create();
    let named = create_expiring(&server, &operator, "prometheus");
    // With the line feed that an editor leaves.
    let file = env.file("optoken-token", format!("{named}\n").as_bytes());
    let configuration = format!(
        "global: {{scrape_interval: 200ms}}\nscrape_configs:\n  - job_name: optoken\n    authorization: \
         {{credentials_file: {}}}\n    static_configs: [{{targets: ['{}']}}]\n",
        file.display(),
        server.address
    );
    let configuration = env.file("prometheus.yml", configuration.as_bytes());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut prometheus = needs::command(PROMETHEUS);
    prometheus.arg(format!("--config.file={}", configuration.display()));
    prometheus.arg(format!("--storage.tsdb.path={}", env.home().join("prometheus").display()));
    prometheus.arg(format!("--web.listen-address={address}"));
    let _prometheus = ChildGuard(
        prometheus.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
    );
    let has = |series: &str, value: &str| {
        eventually(&format!("Prometheus has {series} {value}"), || {
            // Its own client comes with it.
            let query = ["query", "instant", &format!("http://{address}"), series];
            let found = Command::new("promtool").args(query).output().unwrap();
            String::from_utf8(found.stdout).unwrap().contains(&format!(" => {value} @"))
        });
    };
    has("up{job=\"optoken\"}", "1");
    has("optoken_tokens", "2");
    assert_eq!(delete_named(&operator, "prometheus").send(server.address).status, 200);
    has("up{job=\"optoken\"}", "0");
    server.wait_for_log("cannot authenticate token: the token is not known");
}

/// Sends a request with no token, with a wrong one and with the right one. Returns the last
/// response.
#[track_caller]
fn with_tokens(
    server: &Server,
    token: &str,
    build: impl Fn(Request, &str) -> Request,
    plain: Request,
) -> Response {
    plain.send(server.address).assert_is(401, NOT_AUTHENTICATED);
    build(plain.clone(), "apiv3_wrong").send(server.address).assert_is(401, NOT_AUTHENTICATED);
    build(plain, token).send(server.address)
}

fn token_scheme(request: Request, token: &str) -> Request {
    request.authorization(&format!("Token {token}"))
}

fn bearer_scheme(request: Request, token: &str) -> Request {
    request.bearer(token)
}

/// The user name that a configuration asks for, and the token as the password.
fn basic_scheme(request: Request, token: &str) -> Request {
    use base64ct::{Base64, Encoding as _};
    request.authorization(&format!("Basic {}", Base64::encode_string(format!("user:{token}").as_bytes())))
}

/// The requests of Telegraf. A write has no path here: the plugin logs that, and drops the metrics.
pub(crate) fn requests_of_telegraf_are_authenticated() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let line = b"cpu,host=a usage=1 1700000000000000000";
    let write = |path: &str| {
        let request = post(path).header("User-Agent", "Telegraf/1.38.0 Go/1.25");
        request.header("Content-Type", "text/plain; charset=utf-8").body(line)
    };
    // plugins/outputs/influxdb_v2/http.go, writeBatch
    let v2 = write("/api/v2/write?bucket=telegraf&org=");
    with_tokens(&server, &token, token_scheme, v2).assert_is(404, "Not found");
    // plugins/outputs/influxdb_v3/client.go, writeBatch
    let v3 = write("/api/v3/write_lp?db=telegraf&no_sync=false");
    with_tokens(&server, &token, bearer_scheme, v3).assert_is(404, "Not found");
    // plugins/inputs/influxdb/influxdb.go, gatherURL
    let variables = get("/debug/vars").header("User-Agent", "Telegraf/1.38.0");
    with_tokens(&server, &token, basic_scheme, variables).assert_is(404, "Not found");
    // plugins/inputs/prometheus/prometheus.go, gatherURL, with bearer_token, or user and password
    let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                  text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    for scheme in [bearer_scheme, basic_scheme] {
        let metrics = get("/metrics").header("Accept", accept).header("Connection", "close");
        let response = with_tokens(&server, &token, scheme, metrics);
        assert_eq!(response.status, 200);
        let content_type = response.header("content-type").unwrap();
        assert!(
            content_type.starts_with("text/plain") && content_type.contains("version=0.0.4"),
            "{content_type}"
        );
        assert!(response.body.contains("\n# TYPE "), "{response:?}");
    }
}

/// The requests by which Grafana checks its data source for InfluxDB. Each asks for data, so a
/// valid token gets 404. The check of its SQL dialect is a gRPC call, as those of the libraries.
pub(crate) fn health_checks_of_grafana_are_authenticated() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    // pkg/tsdb/influxdb/influxql/influxql.go, createRequest
    let influxql = "/query?db=_internal&epoch=ms&q=SHOW+measurements";
    for scheme in [token_scheme, basic_scheme] {
        let check = get(influxql).header("User-Agent", "Grafana/12.0.0");
        with_tokens(&server, &token, scheme, check).assert_is(404, "Not found");
        let check = post("/query?db=_internal&epoch=ms").header("User-Agent", "Grafana/12.0.0");
        let check =
            check.header("Content-Type", "application/x-www-form-urlencoded").body(b"q=SHOW+measurements");
        with_tokens(&server, &token, scheme, check).assert_is(404, "Not found");
    }
    // pkg/tsdb/influxdb/flux/flux.go, runnerFromDataSource: the client library of InfluxDB 2
    let flux = post("/api/v2/query?org=main").header("Content-Type", "application/json");
    let flux = flux.header("Accept-Encoding", "gzip").body(br#"{"query":"buckets()","type":"flux"}"#);
    with_tokens(&server, &token, token_scheme, flux).assert_is(404, "Not found");
    let health = get("/health").header("User-Agent", "influxdb-client-go/2.14.0");
    with_tokens(&server, &token, token_scheme, health).assert_is(200, "OK");
    assert_eq!(
        request("GET", "/ping").bearer(&token).send(server.address).header("x-influxdb-version"),
        Some(VERSION)
    );
}

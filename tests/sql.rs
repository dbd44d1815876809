//! Queries on `system.tokens` (docs/compatibility.md 2.7), as the documentation of InfluxDB 3 and
//! its clients send them.

use std::fs;
use std::iter;
use std::path::Path;

use optoken::store::{SqliteStore, Store as _};
use serde_json::{Value, json};

use crate::openapi::Document;
use crate::support::{
    Request, Server, TestEnv, create_named, eventually, get, post, send_concurrently, sha512_hex,
};

const SQL: &str = "/api/v3/query_sql";

/// What follows the reason of a refused query.
const SUPPORTED: &str =
    "; supported is SELECT … FROM system.tokens, with WHERE, GROUP BY, ORDER BY and LIMIT";

/// A query in a body.
fn in_body(token: &str, sql: &str, format: &str, params: &Value) -> Request {
    post(SQL).bearer(token).json(&json!({"db": "_internal", "q": sql, "format": format, "params": params}))
}

/// A query in a query string.
fn in_query(token: &str, sql: &str, format: &str, params: &Value) -> Request {
    let params = params.to_string();
    let fields = [("db", "_internal"), ("q", sql), ("format", format), ("params", &params)];
    let encoded: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
    get(&format!("{SQL}?{}", encoded.join("&"))).bearer(token)
}

fn percent_encoded(text: &str) -> String {
    text.bytes().flat_map(|byte| ["%".to_owned(), format!("{byte:02X}")]).collect()
}

/// Sends a query in a body and in a query string. Both have this status and body.
#[track_caller]
fn assert_result(server: &Server, token: &str, query: (&str, &str), status: u16, body: &str) {
    let document = Document::of(server, token);
    for request in [in_body, in_query].map(|request| request(token, query.0, query.1, &json!({}))) {
        let response = request.send(server.address);
        document.check(&request, &response);
        assert_eq!((response.status, response.body.as_str()), (status, body), "{query:?}");
    }
}

/// The queries of the page "List admin tokens" of the documentation, and those of the official MCP
/// server.
#[test]
fn documented_queries_list_tokens() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let operator = server.create();
    for name in ["ci", "Grafana X", "xray"] {
        assert_eq!(create_named(&operator, name).send(server.address).status, 201);
    }
    let all =
        in_body(&operator, "select * from system.tokens", "json", &json!({})).send(server.address).json();
    let created: Vec<_> =
        all.as_array().unwrap().iter().map(|row| row["created_at"].as_str().unwrap()).collect();
    let all_json = all.to_string();
    let named = "name,permissions\n_admin,*:*:*\nci,*:*:*\nGrafana X,*:*:*\nxray,*:*:*\n";
    let since = format!(
        r#"[{{"name":"_admin","created_at":"{}"}},{{"name":"ci","created_at":"{}"}},{{"name":"Grafana X","created_at":"{}"}},{{"name":"xray","created_at":"{}"}}]"#,
        created[0], created[1], created[2], created[3]
    );
    let sorted = |indexes: &[usize]| {
        Value::from(indexes.iter().map(|index| all[*index].clone()).collect::<Vec<_>>()).to_string()
    };
    for (query, expected) in [
        (("SELECT * FROM system.tokens WHERE permissions = '*:*:*'", "json"), all_json.as_str()),
        (("SELECT name, permissions FROM system.tokens WHERE permissions = '*:*:*'", "csv"), named),
        (
            ("SELECT name, permissions FROM system.tokens WHERE created_at > '2025-01-01 00:00:00'", "csv"),
            named,
        ),
        (
            (
                "SELECT name, created_at FROM system.tokens WHERE permissions = '*:*:*' AND created_at > '2025-01-01 \
                 00:00:00'",
                "json",
            ),
            since.as_str(),
        ),
        (
            ("SELECT * FROM system.tokens WHERE permissions LIKE '%*:*:*%' ORDER BY token_id ASC", "json"),
            all_json.as_str(),
        ),
        (
            (
                "SELECT * FROM system.tokens WHERE permissions LIKE '%*:*:*%' AND name LIKE '%X%' ORDER BY name DESC",
                "json",
            ),
            &sorted(&[2]),
        ),
        (
            ("SELECT * FROM system.tokens WHERE permissions LIKE '%*:*:*%' ORDER BY name ASC", "json"),
            &sorted(&[2, 0, 1, 3]),
        ),
        (
            (
                "SELECT * FROM system.tokens WHERE permissions LIKE '%*:*:*%' ORDER BY created_at DESC LIMIT 1",
                "json",
            ),
            &sorted(&[3]),
        ),
        (
            ("SELECT count(*) FROM system.tokens WHERE created_at > now() - interval '1 day'", "jsonl"),
            "{\"count(*)\":4}\n",
        ),
        (("SELECT name FROM system.tokens WHERE expiry < now()", "json"), "[]"),
        (
            ("SELECT name FROM system.tokens ORDER BY expiry, token_id LIMIT 2", "pretty"),
            "+--------+\n| name   |\n+--------+\n| _admin |\n| ci     |\n+--------+",
        ),
    ] {
        assert_result(&server, &operator, query, 200, expected);
    }
    let sql = "SELECT name FROM system.tokens WHERE name = $name OR token_id = $id";
    for request in [in_body, in_query] {
        let response =
            request(&operator, sql, "jsonl", &json!({"name": "x' OR 1=1 --", "id": 1})).send(server.address);
        response.assert_is(200, "{\"name\":\"ci\"}\n");
    }
}

#[test]
fn other_queries_are_refused_with_the_reason() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let operator = server.create();
    server.allow_redaction();
    for (sql, reason) in [
        ("SHOW TABLES".to_owned(), "this is no SELECT"),
        ("select * from information_schema.tables".to_owned(), "this table is not there"),
        (
            "select * from system.tokens, system.tokens".to_owned(),
            "only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table",
        ),
        ("select secret from system.tokens".to_owned(), "no such column: secret"),
        (
            format!("select {operator} from system.tokens"),
            "the query holds a token, which is in no column: ask for its name",
        ),
        (
            format!("select name from system.tokens where name = '{operator}'"),
            "the query holds a token, which is in no column: ask for its name",
        ),
        ("select name from system.tokens where name = $x".to_owned(), "params has no value for $x"),
    ] {
        let expected = format!("query error: {reason}{SUPPORTED}");
        assert_result(&server, &operator, (&sql, "json"), 400, &expected);
    }
    let late = in_body(
        &operator,
        "select name from system.tokens where created_at > $at",
        "json",
        &json!({"at": operator}),
    );
    let reason = "\"[token]\" is compared with a time and is none: write '2025-01-01T00:00:00Z'";
    late.send(server.address).assert_is(400, &format!("query error: {reason}{SUPPORTED}"));
    let bodies = [
        (json!({"params": [1]}), "serde json error: invalid type: sequence, expected a map"),
        (json!({"params": "x"}), "serde json error: invalid type: string \"x\", expected a map"),
    ];
    for (mut body, reason) in bodies {
        body["db"] = "_internal".into();
        body["q"] = "select name from system.tokens".into();
        let response = post(SQL).bearer(&operator).json(&body).send(server.address);
        assert!(response.status == 400 && response.body.starts_with(reason), "{response:?}");
    }
    let malformed = get(&format!("{SQL}?db=_internal&q=select+name+from+system.tokens&params=%7B"));
    let response = malformed.bearer(&operator).send(server.address);
    assert!(
        response.status == 400 && response.body.starts_with("params is not a JSON object: "),
        "{response:?}"
    );
    for name in ["metrics", "_INTERNAL", ""] {
        let body = json!({"db": name, "q": "SHOW TABLES"});
        let response = post(SQL).bearer(&operator).json(&body).send(server.address);
        assert_eq!(response.status, 404);
        assert_eq!(response.json(), json!({"error": format!("query error: database not found: {name}")}));
    }
}

/// Writes a catalog with as many tokens as there can be. Returns the text of one.
fn write_full_catalog(store: &Path) -> String {
    let token = |id: usize, name: &str| {
        let hash = sha512_hex(&format!("apiv3_secret_of_{id}"));
        format!(r#"{{"id":{id},"name":"{name}","hash":"{hash}","created_at":1700000000000}}"#)
    };
    let named = (1..10_000).map(|id| token(id, &format!("{id:05} {}", "x".repeat(120))));
    let tokens: Vec<String> = iter::once(token(0, "_admin")).chain(named).collect();
    let header = r#"{"next_id":10000,"tokens":10000}"#;
    fs::create_dir(store.parent().unwrap()).unwrap();
    let written = SqliteStore::open(store).unwrap();
    written.swap(None, &format!("{{\"format\":1}}\n{header}\n{}\n", tokens.join("\n"))).unwrap();
    "apiv3_secret_of_9999".to_owned()
}

/// The largest memory that a process has had, in MiB.
fn peak_memory(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Queries for much time or memory on a full catalog, as many at once as the server runs. A query
/// that only needs time may end on a fast machine.
#[test]
fn adversarial_queries_end_in_bounded_memory() {
    const REFUSED: &[u16] = &[400];
    const LISTED: &[u16] = &[200];
    const EITHER: &[u16] = &[200, 400];
    let env = TestEnv::new();
    let token = write_full_catalog(&env.store());
    let server = env.serve(&[]);
    let columns = |count: usize| (0..count).map(|n| format!("name c{n}")).collect::<Vec<_>>().join(",");
    let wide = format!("concat({}, '{}')", ["name"; 8].join(","), "y".repeat(2_900));
    let sums = (0..40)
        .map(|n| format!("{n} + {}", vec!["length(name)"; 20].join("+")))
        .collect::<Vec<_>>()
        .join(",");
    let queries = [
        ("select count(*) from system.tokens a, system.tokens b, system.tokens c".to_owned(), "json", REFUSED),
        (format!("select name from system.tokens where {}", vec!["name like '%y%'"; 2_000].join(" or ")), "json", REFUSED),
        (format!("select name from system.tokens where {}", vec!["name like '%y%'"; 150].join(" or ")), "json", EITHER),
        (format!("select name from system.tokens where name like '{}'", "%x".repeat(490)), "json", EITHER),
        (format!("select name from system.tokens order by {sums}"), "json", REFUSED),
        (format!("select {} from system.tokens", columns(60)), "pretty", REFUSED),
        (format!("select {wide} as x from system.tokens"), "json", REFUSED),
        (format!("select name from system.tokens order by {wide}"), "csv", LISTED),
        (format!("select case token_id when 0 then {wide} end as x, case token_id when 1 then {wide} end as y from system.tokens"), "pretty", REFUSED),
        (format!("select case token_id when 0 then '{}' end as x, name from system.tokens", "\n".repeat(4_000)), "pretty", LISTED),
        ("select replace(replace(name, 'x', 'xxxxxxxxxxxxxxxx'), 'x', 'xxxxxxxxxxxxxxxx') as x from system.tokens".to_owned(), "json", REFUSED),
        ("select zeroblob(2000000000) as x from system.tokens".to_owned(), "json", REFUSED),
        ("select * from system.tokens".to_owned(), "pretty", LISTED),
        ("select * from system.tokens".to_owned(), "parquet", LISTED),
    ];
    in_body(&token, "select * from system.tokens", "pretty", &json!({})).send(server.address);
    let before = peak_memory(&server);
    for pair in queries.chunks(2) {
        let requests = pair.iter().map(|(sql, format, _)| in_body(&token, sql, format, &json!({})));
        let responses = send_concurrently(requests.map(|request| (server.address, request)).collect());
        for ((sql, format, statuses), response) in pair.iter().zip(responses) {
            let response = response.unwrap();
            let body: String = response.body.chars().take(300).collect();
            assert!(statuses.contains(&response.status), "{sql:.100} {format}: {} {body}", response.status);
        }
    }
    let grown = peak_memory(&server) - before;
    assert!(grown < 400, "{grown} MiB");
    // The catalog has the same tokens afterwards.
    eventually("the server lists its tokens", || {
        in_body(&token, "select count(*) as n from system.tokens", "jsonl", &json!({}))
            .send(server.address)
            .body
            == "{\"n\":10000}\n"
    });
}

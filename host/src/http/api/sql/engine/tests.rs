use serde_json::json;

use super::*;

const CREATED: &str = "2025-04-18T14:02:45.331";

/// A table of the operator token, a token that expires, and an expired one.
fn tokens() -> Table {
    let columns = [
        ("token_id", ColumnKind::UInt64),
        ("name", ColumnKind::Utf8),
        ("hash", ColumnKind::Utf8),
        ("created_at", ColumnKind::Timestamp),
        ("expiry", ColumnKind::Timestamp),
        ("permissions", ColumnKind::Utf8),
    ];
    let row = |id, name: &str, created: &str, expiry: Option<&str>| {
        let text = |text: &str| Value::Text(text.to_owned());
        let expiry = expiry.map_or(Value::Null, text);
        vec![Value::Integer(id), text(name), text("012345678"), text(created), expiry, text("*:*:*")]
    };
    Table {
        columns: columns.map(|(name, kind)| Column::new(name, kind)).into(),
        rows: vec![
            row(0, "_admin", CREATED, None),
            row(1, "CI Zürich", "2024-12-31T23:59:59", Some("9999-12-31T23:59:59.999")),
            row(2, "old%", "2025-01-01T00:00:00", Some("2025-01-02T00:00:00")),
        ],
    }
}

/// As many tokens as a catalog holds.
fn many() -> Table {
    let tokens = tokens();
    let row = |id| {
        let mut row = tokens.rows[0].clone();
        (row[0], row[1]) = (Value::Integer(id), Value::Text(format!("token {id} {}", "x".repeat(100))));
        row
    };
    Table { rows: (0..10_000).map(row).collect(), ..tokens }
}

fn query_with(table: &Table, sql: &str, parameters: &Json) -> Result<Table, QueryError> {
    run(table, &Statement::parse(sql)?, parameters.as_object().unwrap())
}

fn query(sql: &str) -> Result<Table, QueryError> {
    query_with(&tokens(), sql, &json!({}))
}

/// Returns the cells of a result, joined.
fn cells(table: &Table) -> Vec<String> {
    table.rows.iter().map(|row| row.iter().map(Value::cell).collect::<Vec<_>>().join("|")).collect()
}

#[test]
fn whole_table_is_returned_as_it_is() {
    assert_eq!(query("select * from system.tokens"), Ok(tokens()));
    let none = Table { rows: vec![], ..tokens() };
    assert_eq!(query_with(&none, "select * from system.tokens", &json!({})), Ok(none));
}

#[test]
fn conditions_select_rows() {
    for (condition, ids) in [
        ("permissions = '*:*:*'", &[0, 1, 2][..]),
        ("permissions <> '*:*:*'", &[]),
        ("permissions LIKE '%*:*:*%' AND name LIKE '%C%'", &[1]),
        ("name LIKE '%ci%'", &[]),
        ("name ILIKE '%ZÜR%'", &[1]),
        ("name NOT LIKE '\\_%'", &[1, 2]),
        ("name NOT ILIKE 'ci%'", &[0, 2]),
        ("name LIKE '%\\%'", &[2]),
        ("name LIKE '%\\%' ESCAPE '\\'", &[2]),
        ("lower(name) = 'ci zürich'", &[1]),
        ("name IN ('_admin', 'old%')", &[0, 2]),
        ("name > 'a' OR token_id = 0", &[0, 2]),
        ("NOT (token_id >= 1)", &[0]),
        ("token_id BETWEEN 1 AND 2", &[1, 2]),
        ("token_id = '1'", &[1]),
        ("expiry IS NULL", &[0]),
        ("expiry IS NOT NULL", &[1, 2]),
        ("expiry IS DISTINCT FROM NULL", &[1, 2]),
        ("created_at > '2025-01-01 00:00:00'", &[0]),
        ("created_at >= '2025-01-01'", &[0, 2]),
        ("created_at = '2025-01-01T00:00:00Z'", &[2]),
        ("created_at = '2025-01-01T01:00:00+01:00'", &[2]),
        ("created_at < '2025-01-01T00:00:00.000Z'", &[1]),
        ("'2025-01-01' < created_at", &[0]),
        ("created_at IN ('2025-01-01', '2025-04-18 14:02:45.331')", &[0, 2]),
        ("created_at BETWEEN '2025-01-01' AND '2025-01-02'", &[2]),
        ("expiry < now()", &[2]),
        ("expiry > now() + interval '7 days'", &[1]),
        ("expiry < NOW() - INTERVAL '1 day 2 hours'", &[2]),
    ] {
        for sql in [
            "SELECT token_id FROM system.tokens WHERE",
            "select t.token_id from \"system\".tokens as t where",
        ] {
            let found = query(&format!("{sql} {condition}")).map(|found| cells(&found));
            let expected: Vec<_> = ids.iter().map(u8::to_string).collect();
            assert_eq!(found, Ok(expected), "{condition}");
        }
    }
}

#[test]
fn clauses_shape_the_result() {
    for (sql, expected) in [
        ("select token_id from system.tokens order by name", &["1", "0", "2"][..]),
        // A null is the greatest value.
        ("select token_id from system.tokens order by expiry", &["2", "1", "0"]),
        ("select token_id from system.tokens order by expiry desc, name", &["0", "1", "2"]),
        ("select token_id from system.tokens order by expiry nulls first", &["0", "2", "1"]),
        ("select token_id from system.tokens order by created_at", &["1", "2", "0"]),
        ("select token_id from system.tokens order by token_id desc limit 1 offset 1", &["1"]),
        ("select count(*) from system.tokens", &["3"]),
        ("select count(*) as n, count(expiry) as e from system.tokens where token_id > 0", &["2|2"]),
        (
            "select permissions, count(*) from system.tokens group by permissions having count(*) > 2",
            &["*:*:*|3"],
        ),
        ("select distinct permissions from system.tokens", &["*:*:*"]),
        ("select max(created_at) as m from system.tokens", &[CREATED]),
        ("select avg(token_id) as a from system.tokens", &["1.0"]),
        ("select name || '-' || token_id as x from system.tokens limit 1", &["_admin-0"]),
        (
            "select case when token_id = 0 then 'operator' else upper(name) end as x from system.tokens limit 2",
            &["operator", "CI ZÜRICH"],
        ),
        ("select system.tokens.name from system.tokens where tokens.token_id = 0", &["_admin"]),
        ("select coalesce(expiry, 'never') as e from system.tokens where token_id = 0", &["never"]),
    ] {
        assert_eq!(
            query(sql).map(|found| cells(&found)).as_deref(),
            Ok(&*expected.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>()),
            "{sql}"
        );
    }
}

#[test]
fn columns_have_names_and_types() {
    use ColumnKind::{Float64, Int64, Timestamp, UInt64, Utf8};
    for (sql, expected) in [
        ("SELECT Token_ID, NAME FROM system.tokens", &[("token_id", UInt64), ("name", Utf8)][..]),
        (
            "select created_at as Since, t.expiry from system.tokens t",
            &[("since", Timestamp), ("expiry", Timestamp)],
        ),
        ("select name as \"Name\" from system.tokens limit 0", &[("Name", Utf8)]),
        ("select COUNT(*) from system.tokens", &[("count(*)", Int64)]),
        (
            "select token_id + 1 as next, token_id * 1.5 as x from system.tokens",
            &[("next", Int64), ("x", Float64)],
        ),
        ("select case token_id when 0 then 1 when 1 then 1.5 end as x from system.tokens", &[("x", Float64)]),
        ("select case token_id when 0 then 1 else 'a' end as x from system.tokens", &[("x", Utf8)]),
        ("select null as x from system.tokens", &[("x", Utf8)]),
    ] {
        let columns: Vec<_> = expected.iter().map(|(name, kind)| Column::new(name, *kind)).collect();
        assert_eq!(query(sql).map(|found| found.columns), Ok(columns), "{sql}");
    }
    let mixed =
        query("select case token_id when 0 then 1 when 1 then 1.5 end as x from system.tokens").unwrap();
    assert_eq!(mixed.rows, [[Value::Real(1.0)], [Value::Real(1.5)], [Value::Null]]);
}

#[test]
fn parameters_are_values() {
    let sql = "select name from system.tokens where name = $name or token_id = $Id or expiry = $1";
    for (parameters, expected) in [
        (json!({"name": "_admin", "Id": 1, "1": null, "unused": []}), Ok(vec!["_admin", "CI Zürich"])),
        (json!({"name": "' or 1=1 --", "Id": true, "1": "2025-01-02"}), Ok(vec!["CI Zürich", "old%"])),
        (json!({"name": 1.5, "Id": 0, "1": null}), Ok(vec!["_admin"])),
        (json!({"name": "x", "id": 1, "1": null}), Err("params has no value for $Id")),
        (json!({"name": [], "Id": 1, "1": null}), Err("the value of $name is neither a text nor a number")),
    ] {
        let found = query_with(&tokens(), sql, &parameters);
        let found = found.map(|found| cells(&found)).map_err(|error| error.to_string());
        let expected =
            expected.map(|rows| rows.into_iter().map(str::to_owned).collect()).map_err(str::to_owned);
        assert_eq!(found, expected, "{parameters}");
    }
}

#[test]
fn errors_name_the_reason() {
    for (sql, reason) in [
        ("select nam from system.tokens", "no such column: nam"),
        (
            "select name from system.tokens where name = \"_admin\"",
            "no such column: \"_admin\" - should this be a string literal in single-quotes?",
        ),
        ("select name from system.tokens where", "incomplete input"),
        ("select name from system.tokens order", "incomplete input"),
        ("select name name name from system.tokens", "near \"name\": syntax error"),
        ("select rowid from system.tokens", "access to system.tokens.ROWID is prohibited"),
        ("select _rowid_ from system.tokens", "access to system.tokens.ROWID is prohibited"),
        ("select name, name from system.tokens", "two columns are named \"name\": name one with AS"),
        (
            "select name from system.tokens where created_at > 'yesterday'",
            "\"yesterday\" is compared with a time and is none: write '2025-01-01T00:00:00Z'",
        ),
        (
            "select name from system.tokens where created_at > 5",
            "\"5\" is compared with a time and is none: write '2025-01-01T00:00:00Z'",
        ),
        (
            "select name from system.tokens where created_at > now() - interval '1 month'",
            "\"1 month\" is no interval: write '1 day', with weeks, days, hours or shorter units",
        ),
        (
            "select name from system.tokens where name like 'a' escape 'b'",
            "LIKE knows no ESCAPE but the backslash",
        ),
        (
            "select name from system.tokens where name -> '$'",
            "not authorized to use function: ->; known functions: abs, avg, coalesce, concat, count, length, lower, ltrim, max, min, now, nullif, replace, rtrim, substr, sum, trim, upper",
        ),
    ] {
        assert_eq!(query(sql).unwrap_err().to_string(), reason, "{sql}");
    }
}

/// Functions of SQLite that read or write files, allocate, or depend on the build.
#[test]
fn other_functions_are_refused() {
    for call in [
        "load_extension('x')",
        "readfile('/etc/passwd')",
        "fts3_tokenizer('simple')",
        "zeroblob(1000000000)",
        "randomblob(1000000000)",
        "printf('%1000000000d', 1)",
        "format('%.*c', 1000000000, 'x')",
        "hex(name)",
        "quote(name)",
        "char(1)",
        "instr(name, 'x')",
        "group_concat(name)",
        "string_agg(name, ',')",
        "json_group_array(name)",
        "json_each(name)",
        "random()",
        "sqlite_version()",
        "sqlite_compileoption_get(1)",
        "last_insert_rowid()",
        "changes()",
        "datetime('now')",
        "julianday('now')",
        "likelihood(name, 0.5)",
        "iif(1, 2, 3)",
        "current_timestamp",
    ] {
        let refused = query(&format!("select {call} as x from system.tokens")).unwrap_err().to_string();
        let known = ["not authorized to use function", "no such function"];
        assert!(known.iter().any(|reason| refused.starts_with(reason)), "{call}: {refused}");
    }
}

/// Queries that would need much time or memory.
#[test]
fn adversarial_queries_end() {
    let many = many();
    let nested =
        |name: &str, count: usize| format!("{}name{}", format!("{name}(").repeat(count), ")".repeat(count));
    let bomb = (0..12).fold("name".to_owned(), |text, _| format!("replace({text}, 'x', 'xxxxxxxx')"));
    let sum = |count| vec!["length(name)"; count].join("+");
    for (sql, reason) in [
        ("select count(*) from system.tokens a, system.tokens b, system.tokens c".to_owned(), "only WHERE"),
        ("select count(*) from system.tokens natural join system.tokens".to_owned(), "only WHERE"),
        (
            "with recursive a(n) as (select 1 union select n+1 from a) select count(*) from system.tokens"
                .to_owned(),
            "this is no SELECT",
        ),
        (
            format!("select name from system.tokens where name like '{}'", "%_".repeat(2_000)),
            "a pattern has more than",
        ),
        (
            format!("select name from system.tokens where name like '{}'", "%x".repeat(3_000)),
            "string or blob too big",
        ),
        (format!("select '{}' as x from system.tokens", "x".repeat(5_000)), "string or blob too big"),
        (format!("select {bomb} as x from system.tokens"), "string or blob too big"),
        (format!("select name from system.tokens order by {bomb}"), "string or blob too big"),
        (
            format!("select name from system.tokens where {}", vec!["token_id=1"; 1_100].join(" or ")),
            "Expression tree is too large",
        ),
        (
            format!("select name from system.tokens where {}", vec!["token_id=1"; 5_000].join(" or ")),
            "the query has",
        ),
        (format!("select {} as x from system.tokens", nested("lower", 1_000)), "Recursion limit"),
        (format!("select {} as x from system.tokens", nested("", 7_000)), "Recursion limit"),
        (
            format!(
                "select {} from system.tokens",
                (0..1_000).map(|n| format!("name c{n}")).collect::<Vec<_>>().join(",")
            ),
            "too many columns in result set",
        ),
        (
            format!(
                "select {} from system.tokens",
                (0..60).map(|n| format!("name c{n}")).collect::<Vec<_>>().join(",")
            ),
            "the result is too large",
        ),
        (
            format!(
                "select concat(name, name, name, name, name, name) || '{}' as x from system.tokens",
                "x".repeat(3_000)
            ),
            "the result is too large",
        ),
        (
            format!("select count(*) as \"{}\", name from system.tokens group by name", "x".repeat(4_000)),
            "the result is too large",
        ),
        (
            format!("select coalesce({}) as x from system.tokens", vec!["name"; 200].join(",")),
            "too many arguments on function coalesce",
        ),
        (format!("select name from system.tokens where name in ({})", vec!["$a"; 120].join(",")), ""),
        (
            format!(
                "select name from system.tokens where token_id in ({})",
                (0..200).map(|n| format!("$p{n}")).collect::<Vec<_>>().join(",")
            ),
            "too many SQL variables",
        ),
        (
            format!(
                "select {} as x from system.tokens order by {}",
                sum(190),
                (0..40).map(|n| format!("{n} + {}", sum(20))).collect::<Vec<_>>().join(",")
            ),
            "the query has too many steps",
        ),
    ] {
        let parameters = json!({"a": "x"});
        let found = query_with(&many, &sql, &parameters);
        match found {
            Ok(found) => assert!(
                reason.is_empty() && found.rows.len() <= 10_000,
                "{sql:.80}: {} rows",
                found.rows.len()
            ),
            Err(error) => {
                assert!(!reason.is_empty() && error.to_string().starts_with(reason), "{sql:.80}: {error}");
            }
        }
    }
}

#[test]
fn every_token_can_be_listed_and_sorted() {
    let many = many();
    for sql in [
        "select * from system.tokens",
        "select * from system.tokens where name like '%x%' order by name desc, expiry",
    ] {
        assert_eq!(query_with(&many, sql, &json!({})).map(|found| found.rows.len()), Ok(10_000), "{sql}");
    }
}

#[test]
fn steps_and_time_are_limited() {
    let statement = Statement::parse("select * from system.tokens order by name").unwrap();
    let tokens = many();
    for (steps, time) in [(1_000, MAX_TIME), (MAX_STEPS, Duration::ZERO)] {
        let ended = run_within(&tokens, &statement, &Map::new(), steps, time);
        assert_eq!(ended.unwrap_err().to_string(), "the query has too many steps: simplify it");
    }
}

/// The authorizer alone, without the checks of the text.
#[test]
fn connection_reads_nothing_but_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("other.db");
    let malformed = Arc::default();
    let mut connection = open(&tokens(), &malformed).unwrap();
    confine(&mut connection, &tokens(), MAX_STEPS, MAX_TIME).unwrap();
    let attach = format!("ATTACH '{}' AS other", file.display());
    for sql in [
        attach.as_str(),
        "ATTACH ':memory:' AS other",
        "DETACH system",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM system.sqlite_master",
        "SELECT count(*) FROM system.sqlite_master",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM json_each('[1]')",
        "SELECT * FROM dbstat",
        "PRAGMA database_list",
        "PRAGMA writable_schema = 1",
        "PRAGMA temp_store_directory = '/tmp'",
        "PRAGMA hard_heap_limit = 1",
        "INSERT INTO system.tokens (name) VALUES ('x')",
        "UPDATE system.tokens SET name = 'x'",
        "DELETE FROM system.tokens",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "CREATE TEMP VIEW x AS SELECT 1",
        "CREATE VIRTUAL TABLE x USING fts5(y)",
        "DROP TABLE system.tokens",
        "ALTER TABLE system.tokens RENAME TO x",
        "VACUUM INTO 'x.db'",
        "ANALYZE",
        "BEGIN",
        "SAVEPOINT x",
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a) SELECT * FROM a",
    ] {
        let refused =
            connection.prepare(sql).and_then(|mut prepared| prepared.raw_query().next().map(|_| ()));
        assert!(refused.is_err(), "{sql}");
    }
    assert!(!file.exists());
    let names: u32 =
        connection.query_row("SELECT count(*) FROM system.tokens", [], |row| row.get(0)).unwrap();
    assert_eq!(names, 3);
}

/// Words and signs of queries, in any order. Each query has a reason, or at most as many rows as
/// there are tokens.
#[test]
fn random_queries_end() {
    // Two spaces separate them.
    const PARTS: &str = "select  from  system  .  tokens  where  group by  order by  limit  offset  having  \
        distinct  all  as  and  or  not  is  null  in  like  ilike  escape  between  case  when  \
        then  else  end  exists  asc  desc  nulls  first  last  union  join  with  values  over  \
        filter  interval  now()  count(*)  min  max  sum  replace  concat  coalesce  name  \
        token_id  created_at  expiry  rowid  sqlite_master  *  (  )  ,  =  <  >  ||  +  -  %  \
        'x'  '2025-01-01'  '1 day'  \"name\"  1  1.5  $p  /**/  ;";
    let all: Vec<_> = PARTS.split("  ").collect();
    let tokens = tokens();
    let parameters = json!({"p": "2025-01-01"});
    let mut random = fastrand::Rng::with_seed(14);
    let mut results = 0;
    for _ in 0..20_000 {
        let mut parts = |at_most| {
            let count = random.usize(1..=at_most);
            (0..count).map(|_| all[random.usize(..all.len())]).collect::<Vec<_>>().join(" ")
        };
        let sql = match parts(2) {
            begin if begin.contains("select") => parts(12),
            _ => format!("select {} from system.tokens {}", parts(3), ["", &parts(4)][results % 2]),
        };
        match query_with(&tokens, &sql, &parameters) {
            Ok(found) => {
                assert!(found.rows.len() <= tokens.rows.len() && !found.columns.is_empty(), "{sql}");
                assert!(found.rows.iter().all(|row| row.len() == found.columns.len()), "{sql}");
                results += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty(), "{sql}"),
        }
    }
    assert!(results > 200, "{results} of the queries have a result");
}

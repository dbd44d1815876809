//! `migrate`: all tokens go to another store, and no server is left behind unnoticed.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{CREATE, CommandOutput, Server, TestEnv, eventually, get, post};

fn url_of(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

fn migrate(env: &TestEnv, from: &str, to: &str, args: &[&str]) -> CommandOutput {
    env.cli(["migrate", "--from", from, "--to", to]).args(args).run()
}

fn is_refusing(server: &Server, token: &str) -> bool {
    get("/health").bearer(token).send(server.address).status == 503
}

/// A server with an operator token, the store that it uses, and an empty place beside it.
fn started() -> (TestEnv, Server, String, PathBuf) {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let to = env.home().join("elsewhere.db");
    (env, server, token, to)
}

#[test]
fn running_server_is_left_behind_and_refuses() {
    let (env, server, token, to) = started();
    let (from, to) = (url_of(&env.store()), url_of(&to));
    let before = env.stored_catalog().unwrap().1;
    let output = migrate(&env, &from, &to, &["--yes", "--json"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let moved: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&moved["from"], &moved["to"]), (&Value::from(&*from), &Value::from(&*to)));
    assert_eq!((&moved["sequence"], &moved["tokens"]), (&Value::from(2), &Value::from(1)));
    for text in ["Start every server with the target", "tokens.db-high-water to", "holds a note"] {
        assert!(output.stderr.contains(text), "{text}: {}", output.stderr);
    }

    eventually("all tokens are refused", || is_refusing(&server, &token));
    server.wait_for_log(&format!("its tokens were moved to {to}; start this server with that store"));
    assert_eq!(post(CREATE).send(server.address).status, 503, "the bootstrap stays closed");
    drop(server);
    env.serve_with(&[])
        .run()
        .assert_failed(1, &["cannot use the token store", &format!("were moved to {to}")]);

    let server = env.serve(&["--store", &to]);
    assert!(server.accepts(&token));
    let store = rusqlite::Connection::open(to.strip_prefix("sqlite:").unwrap()).unwrap();
    let document: String = store.query_row("SELECT document FROM catalog", [], |row| row.get(0)).unwrap();
    assert_eq!(document, before);

    // Once more changes nothing.
    let again = migrate(&env, &from, &to, &[]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("nothing is left to do") && again.stdout.starts_with("Moved catalog"));
}

#[test]
fn tokens_come_back_with_their_high_water_mark() {
    let (env, server, old, to) = started();
    let token = server.regenerate(&old);
    drop(server);
    let (from, to) = (url_of(&env.store()), url_of(&to));
    assert_eq!(migrate(&env, &from, &to, &["-y"]).code, Some(0));
    let server = env.serve(&["--store", &to]);
    assert!(server.accepts(&token));
    let newest = server.regenerate(&token);
    drop(server);
    assert_eq!(migrate(&env, &to, &from, &["-y"]).code, Some(0));
    // The mark beside the store is older than what came back.
    let server = env.serve(&[]);
    assert!(server.accepts(&newest) && !server.accepts(&token) && !server.accepts(&old));
    drop(server);
    env.serve_with(&["--store", &to]).run().assert_failed(1, &[&format!("were moved to {from}")]);
}

#[test]
fn target_that_is_not_empty_is_refused() {
    let (env, server, token, to) = started();
    let other = TestEnv::new();
    drop(other.serve(&[]));
    let (from, full) = (url_of(&env.store()), url_of(&other.store()));
    let before = (env.stored_catalog(), other.stored_catalog());
    migrate(&env, &from, &full, &["--yes"])
        .assert_failed(1, &["holds a catalog already", "name an empty place"]);
    migrate(&env, &from, &from, &["--yes"]).assert_failed(1, &["the same store"]);
    migrate(&env, &from, "memory:", &["--yes"])
        .assert_failed(1, &["cannot use the target", "ends with its server"]);
    migrate(&env, "memory:", &from, &["--yes"])
        .assert_failed(1, &["cannot use the source", "ends with its server"]);
    let missing = url_of(&env.home().join("missing.db"));
    migrate(&env, &missing, &url_of(&to), &["--yes"]).assert_failed(1, &["there is no token store at"]);
    migrate(&env, &from, &url_of(&to), &[])
        .assert_failed(1, &["without confirmation", "nothing was changed"]);
    env.cli(["migrate", "--from", &from]).run().assert_failed(2, &["--to <URL>"]);
    assert_eq!((env.stored_catalog(), other.stored_catalog()), before);
    assert!(!to.exists() && server.accepts(&token));
}

#[test]
fn moved_store_is_neither_backed_up_nor_restored_by_mistake() {
    let (env, server, token, to) = started();
    let backup = env.home().join("backup.db");
    let run = |command: &str, args: &[&str]| {
        env.cli([command, "--data-dir"]).arg(env.data_dir()).args(args).arg(&backup).run()
    };
    assert_eq!(run("backup", &[]).code, Some(0));
    drop(server);
    let (from, to) = (url_of(&env.store()), url_of(&to));
    assert_eq!(migrate(&env, &from, &to, &["--yes"]).code, Some(0));
    let left = env.stored_catalog();
    run("restore", &["--yes"]).assert_failed(1, &["its tokens were moved to", "--accept-catalog-at 2"]);
    assert_eq!(env.stored_catalog(), left);
    fs::remove_file(&backup).unwrap();
    run("backup", &[]).assert_failed(1, &["its tokens were moved to"]);
    assert!(!backup.exists());
    // The store that has the tokens can be lost.
    let copy = env.cli(["backup", "--store", &to]).arg(&backup).run();
    assert_eq!(copy.code, Some(0), "{}", copy.stderr);
    fs::remove_file(to.strip_prefix("sqlite:").unwrap()).unwrap();
    let restored = run("restore", &["--yes", "--accept-catalog-at", "2"]);
    assert_eq!(restored.code, Some(0), "{}", restored.stderr);
    let server = env.serve(&[]);
    assert!(server.accepts(&restored.token()) && !server.accepts(&token));
}

#[test]
fn interrupted_move_is_named_and_finished() {
    let (env, server, token, path) = started();
    drop(server);
    let (from, to) = (url_of(&env.store()), url_of(&path));
    assert_eq!(migrate(&env, &from, &to, &["--yes"]).code, Some(0));
    // As a run leaves it that is killed before its last step.
    let store = rusqlite::Connection::open(&path).unwrap();
    let arriving = format!("optoken-arriving 1\n{{\"from\":\"{from}\"}}\n");
    store.execute("UPDATE catalog SET version = 'x', document = ?1 || document", [&arriving]).unwrap();
    drop(store);
    let start = env.serve_with(&["--store", &to]).run();
    start.assert_failed(1, &[&format!("have not arrived from {from}"), "run the same `migrate` again"]);
    let third = url_of(&env.home().join("third.db"));
    migrate(&env, &to, &third, &["--yes"]).assert_failed(1, &["is not finished; finish it first"]);
    let again = migrate(&env, &from, &to, &["--yes"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(
        again.stderr.contains("An interrupted run has left the source; finishing it."),
        "{}",
        again.stderr
    );
    assert!(env.serve(&["--store", &to]).accepts(&token));
}

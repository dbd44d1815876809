//! `backup` and `restore`: no backup brings an old operator token back, and none opens the
//! bootstrap.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;
use serde_json::{Value, json};

use crate::support::{CREATE, CommandOutput, Server, TestEnv, create_named, eventually, get, post};

/// Runs `backup` or `restore` on the store of the environment.
fn run(env: &TestEnv, command: &str, file: &Path, args: &[&str]) -> CommandOutput {
    env.cli([command]).arg("--data-dir").arg(env.data_dir()).args(args).arg(file).run()
}

fn assert_done(output: &CommandOutput) {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

/// A way to back up a running server.
type Way = fn(&TestEnv, &Path);

/// Waits until the one file holds the newest change, which is so once the log is empty.
fn copy_one_file(env: &TestEnv, to: &Path) {
    eventually("the log is empty", || {
        fs::metadata(env.data_dir().join("tokens.db-wal")).is_ok_and(|wal| wal.len() == 0)
    });
    fs::copy(env.store(), to).unwrap();
}

fn copy_by_sqlite(env: &TestEnv, to: &Path) {
    let from = Connection::open(env.store()).unwrap();
    let mut to = Connection::open(to).unwrap();
    Backup::new(&from, &mut to).unwrap().run_to_completion(100, Duration::ZERO, None).unwrap();
}

/// As a snapshot of the volume has it.
fn copy_all_files(env: &TestEnv, to: &Path) {
    for suffix in ["-wal", "-shm", ""] {
        let mut from = env.store().into_os_string();
        from.push(suffix);
        let mut to = to.to_owned().into_os_string();
        to.push(suffix);
        fs::copy(from, to).unwrap();
    }
}

fn copy_by_command(env: &TestEnv, to: &Path) {
    let output = run(env, "backup", to, &[]);
    assert_done(&output);
    assert!(output.stdout.contains("with 2 tokens"), "{}", output.stdout);
}

const WAYS: [(&str, Way); 4] = [
    ("cp", copy_one_file),
    ("SQLite's own", copy_by_sqlite),
    ("volume snapshot", copy_all_files),
    ("backup", copy_by_command),
];

fn named(server: &Server, operator: &str, name: &str) -> String {
    create_named(operator, name).send(server.address).token()
}

#[test]
fn every_way_to_back_up_restores_without_an_old_operator_token() {
    for (way, copy) in WAYS {
        let env = TestEnv::new();
        let server = env.serve(&[]);
        let leaked = server.create();
        let kept = named(&server, &leaked, "kept");
        let backup = env.home().join("backup.db");
        copy(&env, &backup);
        let current = server.regenerate(&leaked);
        let lost = named(&server, &current, "lost");

        let busy = run(&env, "restore", &backup, &["--yes", "--accept-catalog-at", "3"]);
        busy.assert_failed(1, &["another process uses it"]);
        assert!(server.accepts(&current) && !server.accepts(&leaked), "{way}");
        drop(server);

        // Older than what was seen.
        let old = run(&env, "restore", &backup, &["--yes"]);
        old.assert_failed(1, &["sequence 3", "nothing was changed", "--accept-catalog-at 3"]);
        let token_file = env.home().join("token");
        let args = ["--yes", "--accept-catalog-at", "3", "--output-file", token_file.to_str().unwrap()];
        let output = run(&env, "restore", &backup, &args);
        assert_done(&output);
        for line in ["_admin: will be replaced", "kept: will be accepted", "lost: is not in the backup"] {
            assert!(output.stderr.contains(line), "{way}: {}", output.stderr);
        }
        let restored = fs::read_to_string(&token_file).unwrap();
        let restored = restored.trim();

        let server = env.serve(&[]);
        for (token, accepted) in
            [(&*leaked, false), (&*current, false), (&*lost, false), (&*kept, true), (restored, true)]
        {
            assert_eq!(server.accepts(token), accepted, "{way}");
        }
        assert_eq!(post(CREATE).send(server.address).status, 409, "{way}: the bootstrap is closed");
        let records = get("/api/v3/configure/token/audit").bearer(restored).send(server.address).body;
        assert!(records.contains("\"action\":\"restore\""), "{way}: {records}");
        drop(server);

        // The acceptance is spent.
        let again = run(&env, "restore", &backup, &["--yes", "--accept-catalog-at", "3"]);
        again.assert_failed(1, &["was used before", "nothing was changed"]);
    }
}

#[test]
fn backup_never_overwrites_and_leaves_nothing_after_a_failure() {
    let env = TestEnv::new();
    let backup = env.home().join("backup.db");
    run(&env, "backup", &backup, &[]).assert_failed(1, &["there is no token store at"]);
    drop(env.serve(&[]));
    assert_done(&run(&env, "backup", &backup, &[]));
    let before = fs::read(&backup).unwrap();
    run(&env, "backup", &backup, &[]).assert_failed(1, &["it exists, and is not replaced"]);
    assert_eq!(fs::read(&backup).unwrap(), before);
    let missing: PathBuf = env.home().join("missing/backup.db");
    run(&env, "backup", &missing, &[]).assert_failed(1, &["missing/backup.db"]);
    let memory = env.cli(["backup", "--store", "memory:"]).arg(&missing).run();
    memory.assert_failed(1, &["a store in memory has no file"]);
}

/// A stopped server with a backup of its newest state, and its operator token.
fn backed_up() -> (TestEnv, String, PathBuf) {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    let backup = env.home().join("backup.db");
    assert_done(&run(&env, "backup", &backup, &[]));
    drop(server);
    (env, operator, backup)
}

#[test]
fn newest_backup_restores_onto_an_empty_machine() {
    let (env, operator, backup) = backed_up();
    fs::remove_dir_all(env.data_dir()).unwrap();
    let output = run(&env, "restore", &backup, &["--yes"]);
    assert_done(&output);
    let restored = output.token();
    let server = env.serve(&[]);
    assert!(server.accepts(&restored) && !server.accepts(&operator));
}

#[test]
fn unconfirmed_or_damaged_restore_changes_nothing() {
    let (env, operator, backup) = backed_up();
    let command = env.cli(["restore"]).arg("--data-dir").arg(env.data_dir()).arg(&backup);
    command.input("no\n").run().assert_failed(1, &["nothing was changed"]);
    let damaged = env.file("damaged.db", &fs::read(&backup).unwrap()[..5000]);
    run(&env, "restore", &damaged, &["--yes"]).assert_failed(1, &["nothing was changed"]);
    let foreign = env.file("foreign.db", b"no database");
    run(&env, "restore", &foreign, &["--yes"]).assert_failed(1, &["nothing was changed"]);
    assert!(env.serve(&[]).accepts(&operator));
}

#[test]
fn restore_without_answer_changes_nothing() {
    let (env, operator, backup) = backed_up();
    let saved = env.file("saved", b"precious");
    // Without a terminal there is no answer.
    for (args, message) in [
        (&[][..], "Cannot restore without confirmation (answer 'yes', or use --yes); nothing was changed"),
        (&["--output-file", "new"], "Cannot restore without confirmation"),
        (&["--output-file", "saved"], "saved exists already"),
    ] {
        run(&env, "restore", &backup, args).assert_failed(1, &[message, "use --yes"]);
    }
    assert_eq!(fs::read(&saved).unwrap(), b"precious");
    assert!(!env.home().join("new").exists() && !env.home().join("saved.staged").exists());
    assert!(env.serve(&[]).accepts(&operator));
    assert_done(&run(&env, "restore", &backup, &["-y", "--output-file", "saved"]));
    let restored = fs::read_to_string(&saved).unwrap();
    assert!(env.serve(&[]).accepts(restored.trim()));
}

#[test]
fn restore_prints_one_json_object() {
    let (env, operator, backup) = backed_up();
    let object = |output: &CommandOutput| -> Value {
        assert_done(output);
        assert_eq!(output.stdout.lines().count(), 1, "{}", output.stdout);
        serde_json::from_str(&output.stdout).unwrap()
    };
    let printed = object(&run(&env, "restore", &backup, &["--yes", "--json"]));
    let keys: Vec<_> = printed.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["store", "catalog_id", "sequence", "token"]);
    assert_eq!(printed["store"], env.store().to_str().unwrap());
    assert_eq!(printed["sequence"], 3);
    let server = env.serve(&[]);
    assert!(server.accepts(printed["token"].as_str().unwrap()) && !server.accepts(&operator));
    drop(server);

    let args = ["--yes", "--json", "--accept-catalog-at", "2", "--output-file", "saved"];
    let saved = object(&run(&env, "restore", &backup, &args));
    assert_eq!((&saved["saved_to"], &saved["catalog_id"]), (&json!("saved"), &printed["catalog_id"]));
    assert!(saved.get("token").is_none());
    let token = fs::read_to_string(env.home().join("saved")).unwrap();
    assert!(env.serve(&[]).accepts(token.trim()));
}

#[test]
fn help_of_backup_and_restore_is_about_files() {
    let env = TestEnv::new();
    for command in ["backup", "restore"] {
        for help in ["-h", "--help"] {
            let text = env.cli([command, help]).run().stdout;
            assert!(!text.contains("memory") && text.contains("--store <URL>"), "{text}");
        }
        // The variables of a server lead to its store, which may be none.
        let file = env.home().join("backup.db");
        let output = env.cli([command]).arg(&file).env("INFLUXDB3_OBJECT_STORE", "memory").run();
        output.assert_failed(1, &["a store in memory has no file"]);
    }
    let text = env.cli(["restore", "--help"]).run().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Restore a backup that is older than the server has seen, at this sequence",
        "Where no terminal is, add --yes",
        "--yes also replaces an existing --output-file",
        "After an interruption the store is the old one or the restored one.",
        "Print one JSON object instead of text",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("0 accepts an empty store") && !text.contains("this option does not"), "{text}");
}

#[test]
fn audit_log_of_the_replaced_history_is_set_aside() {
    let env = TestEnv::new();
    let log = env.home().join("audit.jsonl");
    let logged = ["--audit-log", log.to_str().unwrap()];
    let server = env.serve(&logged);
    let first = server.create();
    let backup = env.home().join("backup.db");
    assert_done(&run(&env, "backup", &backup, &[]));
    server.regenerate(&first);
    drop(server);
    let output = run(&env, "restore", &backup, &["--yes", "--accept-catalog-at", "2"]);
    assert_done(&output);
    let server = env.serve(&logged);
    server.wait_for_log("has records that this state of the catalog does not have");
    assert!(server.accepts(&output.token()));
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("\"action\":\"restore\""), "{text}");
}

#[test]
fn restored_database_is_refused_at_the_start_and_while_the_server_runs() {
    let env = TestEnv::new();
    let server = env.serve(&["--max-staleness", "1"]);
    let leaked = server.create();
    let backup = env.home().join("backup.db");
    copy_by_sqlite(&env, &backup);
    let current = server.regenerate(&leaked);

    // As an operator restores under a running server.
    let mut to = Connection::open(env.store()).unwrap();
    let from = Connection::open(&backup).unwrap();
    Backup::new(&from, &mut to).unwrap().run_to_completion(100, Duration::ZERO, None).unwrap();
    drop(to);
    server.wait_for_log("older state");
    eventually("all tokens are refused", || {
        get("/health").bearer(&current).send(server.address).status == 503
    });
    assert_eq!(get("/health").bearer(&leaked).send(server.address).status, 503);
    drop(server);
    let start = env.serve_with(&[]).run();
    start.assert_failed(1, &["older state, sequence 2", "--accept-catalog-at 2"]);
}

//! The audit log: a record for every change, through restarts, crashes and a full disk; and the
//! commands that show and verify it.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512_256};

use crate::support::{
    CONFIRM, CREATE, Cli, CommandOutput, Connection, NOT_AUTHENTICATED, OVERLAP, RECOVERY, REGENERATE, STAGE,
    Server, TIMEOUT, TestEnv, create_named, delete_named, eventually, get, post, request, sha512_hex,
};

const AUDIT: &str = "/api/v3/configure/token/audit";

/// Number of records that the catalog retains.
const RETAINED_RECORDS: usize = 64;

impl TestEnv {
    fn log(&self) -> PathBuf {
        self.home().join("audit.jsonl")
    }

    fn audited(&self, args: &[&str]) -> Cli {
        self.serve_with(args).env("INFLUXDB3_AUDIT_LOG", self.log())
    }

    fn verify(&self, args: &[&str]) -> CommandOutput {
        self.cli(["audit", "verify"]).arg(self.log()).args(args).run()
    }
}

fn hash(line: &str) -> String {
    Sha512_256::digest(line).iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}

/// Reads the lines of a log, and asserts that they are a chain from the first record on.
#[track_caller]
fn chain(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut previous = Value::Null;
    for (line, sequence) in lines.iter().zip(1..) {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&record["sequence"], &record["previous"]), (&json!(sequence), &previous), "{line}");
        previous = json!(hash(line));
    }
    lines
}

/// Records that the catalog retains.
fn retained(server: &Server, token: &str) -> Vec<String> {
    let response = get(AUDIT).bearer(token).send(server.address);
    assert_eq!(
        (response.status, response.header("content-type")),
        (200, Some("application/jsonl")),
        "{response:?}"
    );
    response.body.lines().map(str::to_owned).collect()
}

/// Writes a log of twelve records, and stops the server. Returns its lines and the token.
fn write_log(env: &TestEnv) -> (Vec<String>, String) {
    let server = env.audited(&[]).start();
    let token = server.create();
    for number in 0..5 {
        create_named(&token, &format!("ci {number}")).send(server.address).token();
        assert_eq!(delete_named(&token, &format!("ci%20{number}")).send(server.address).status, 200);
    }
    server.stop();
    let lines = chain(&env.log());
    assert_eq!(lines.len(), 12);
    (lines, token)
}

#[test]
fn every_change_has_one_record_rejections_none() {
    let env = TestEnv::new();
    let preset = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";
    let file = env.file("token.json", json!({ "name": "ci", "token": preset }).to_string().as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let server = env.audited(&["--admin-token-file", file.to_str().unwrap()]).args(&RECOVERY).start();
    let mut seen = 0;
    let mut expect = |expected: &[(&str, Value, Value)]| {
        let lines = chain(&env.log());
        let new: Vec<_> = lines[seen..]
            .iter()
            .map(|line| {
                let mut record: Value = serde_json::from_str(line).unwrap();
                assert!(
                    record["at"].as_u64() > Some(1_700_000_000_000) && record["origin"].is_string(),
                    "{line}"
                );
                (record["action"].take(), record["actor"].take(), record["subject"].take())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(action, actor, subject)| (json!(action), actor.clone(), subject.clone()))
            .collect();
        assert_eq!(new, expected);
        seen = lines.len();
    };
    let (admin, ci) = (json!({ "id": 1, "name": "_admin" }), json!({ "id": 0, "name": "ci" }));
    expect(&[("initialize", json!("provision"), Value::Null), ("preset", json!("provision"), ci.clone())]);
    let by = |id: u64| json!({ "token": id });
    let mut secrets = vec![preset.to_owned(), server.create()];
    expect(&[("create_operator", json!("bootstrap"), admin.clone())]);
    secrets.push(server.regenerate(&secrets[1]));
    let token = secrets[2].clone();
    expect(&[("regenerate", by(1), admin.clone())]);
    secrets.push(create_named(preset, "by ci").send(server.address).token());
    expect(&[("create_named", by(0), json!({ "id": 2, "name": "by ci" }))]);
    secrets.push(post(STAGE).bearer(&token).send(server.address).token());
    expect(&[("stage", by(1), admin.clone())]);
    assert_eq!(request("DELETE", STAGE).bearer(&token).send(server.address).status, 200);
    expect(&[("cancel", by(1), admin.clone())]);
    let staged = post(STAGE).bearer(&token).send(server.address).token();
    let confirm = post(CONFIRM).bearer(&staged).json(&json!({ "overlap_secs": 3600 }));
    assert_eq!(confirm.send(server.address).status, 200);
    expect(&[("stage", by(1), admin.clone()), ("confirm", by(1), admin.clone())]);
    assert_eq!(request("DELETE", OVERLAP).bearer(&staged).send(server.address).status, 200);
    expect(&[("end_overlap", by(1), admin.clone())]);
    assert_eq!(delete_named(&staged, "ci").send(server.address).status, 200);
    expect(&[("delete", by(1), ci)]);

    for (request, status) in [
        (post(CREATE), 409),
        (post(REGENERATE).bearer(&token), 401),
        (post(REGENERATE).bearer(&secrets[3]), 403),
        (create_named(&staged, "by ci"), 409),
        (create_named(&staged, ""), 400),
        (delete_named(&staged, "ci"), 404),
        (delete_named(&staged, "_admin"), 405),
        (request("DELETE", STAGE).bearer(&token), 401),
        // These succeed and change nothing.
        (post(CONFIRM).bearer(&staged), 200),
        (request("DELETE", STAGE).bearer(&staged), 200),
        (request("DELETE", OVERLAP).bearer(&staged), 200),
    ] {
        assert_eq!(request.send(server.address).status, status, "{request:?}");
    }
    expect(&[]);
    secrets.push(post(REGENERATE).send(server.recovery()).token());
    expect(&[("recover", json!("recovery"), admin)]);

    let log = fs::read_to_string(env.log()).unwrap();
    for secret in secrets.iter().chain([&staged]) {
        assert!(!log.contains(secret) && !log.contains(&sha512_hex(secret)[..9]), "a secret in {log}");
    }
    assert_eq!(fs::metadata(env.log()).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn restart_and_second_server_continue_the_chain() {
    let env = TestEnv::new();
    let (before, token) = write_log(&env);
    let server = env.audited(&[]).start();
    assert_eq!(chain(&env.log()), before);
    let other_log = env.home().join("other.jsonl");
    let other = env.serve(&["--audit-log", other_log.to_str().unwrap()]);
    assert_eq!(chain(&other_log), before);
    create_named(&token, "x").send(server.address).token();
    create_named(&token, "y").send(other.address).token();
    eventually("both logs have all records", || {
        let (one, two) = (fs::read_to_string(env.log()).unwrap(), fs::read_to_string(&other_log).unwrap());
        one == two && one.lines().count() == 14
    });
    assert_eq!(retained(&server, &token), chain(&env.log()));
}

#[test]
fn missing_records_are_appended_after_crash() {
    let env = TestEnv::new();
    let (lines, _) = write_log(&env);
    let whole = lines.join("\n") + "\n";
    let last = whole.len() - lines[11].len() - 1;
    for (left, zeros) in [
        // Killed between the change and its record, or while writing it; or the log was moved.
        (last, 0),
        (last + 1, 0),
        (whole.len() - 40, 0),
        (whole.len() - 1, 0),
        (last - lines[10].len() / 2, 0),
        (0, 0),
        (17, 0),
        // After a power cut.
        (last, 300),
        (last + 30, 4000),
    ] {
        fs::write(env.log(), [&whole.as_bytes()[..left], &vec![0; zeros]].concat()).unwrap();
        env.audited(&[]).start().stop();
        assert_eq!(fs::read_to_string(env.log()).unwrap(), whole, "{left} bytes and {zeros} zeros were left");
    }
}

#[test]
fn killed_server_loses_no_record() {
    let env = TestEnv::new();
    let mut server = env.audited(&[]).start();
    let token = server.create();
    for round in 0..12 {
        let (address, credential) = (server.address, token.clone());
        let (changed, first_change) = mpsc::channel();
        let client = thread::spawn(move || {
            for number in 0.. {
                let request = create_named(&credential, &format!("{round}-{number}"));
                let Ok(mut connection) = Connection::open(address) else { break };
                connection.write(&request.to_bytes());
                if connection.read().is_err() {
                    break;
                }
                let _ = changed.send(());
            }
        });
        first_change.recv_timeout(TIMEOUT).unwrap();
        thread::sleep(Duration::from_millis(7 * round));
        server.kill();
        client.join().unwrap();
        server = env.audited(&[]).start();
        let (lines, retained) = (chain(&env.log()), retained(&server, &token));
        assert!(lines.len() > 2, "no change was made");
        assert_eq!(lines[lines.len() - retained.len()..], retained);
    }
}

#[test]
fn log_of_another_catalog_is_refused() {
    let env = TestEnv::new();
    let (lines, _) = write_log(&env);
    let whole = lines.join("\n") + "\n";
    let foreign = TestEnv::new();
    write_log(&foreign);
    let longer = format!("{whole}{}\n", lines[11].replace("\"sequence\":12", "\"sequence\":13"));
    for (content, message) in [
        (
            fs::read_to_string(foreign.log()).unwrap(),
            "does not belong to this catalog: the catalog has another record 12, ",
        ),
        (
            whole.replace("\"sequence\":12,\"at\":1", "\"sequence\":12,\"at\":2"),
            "the catalog has another record 12, or none yet",
        ),
        (longer, "the catalog has another record 13, or none yet"),
        (format!("{whole}{{\"sequence\":13,\"at"), "ends in a partial line that the catalog cannot complete"),
        (whole[..whole.len() - 40].to_owned() + "x", "ends in a partial line"),
        ("{\"name\":\"ci\"}\n".to_owned(), "is not an audit log: its last line is not an audit record"),
        ("x".repeat(100_000), "is not an audit log"),
    ] {
        fs::write(env.log(), &content).unwrap();
        let (stored_catalog, log) = (env.stored_catalog(), env.log());
        let named = log.to_str().unwrap();
        env.audited(&[]).run().assert_failed(1, &["Serve command failed: cannot start: ", named, message]);
        assert_eq!(
            (fs::read_to_string(log).unwrap(), env.stored_catalog()),
            (content, stored_catalog),
            "{message}"
        );
    }
    fs::remove_file(env.log()).unwrap();
    mknodat(CWD, env.log(), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    env.audited(&[]).run().assert_failed(1, &["is neither a file nor a character device"]);
    fs::remove_file(env.log()).unwrap();
    let _socket = UnixListener::bind(env.log()).unwrap();
    env.audited(&[]).run().assert_failed(1, &["cannot open the audit log "]);
    let nowhere = env.serve_with(&["--audit-log", "no/such/directory"]).run();
    nowhere.assert_failed(1, &["cannot open the audit log no/such/directory: No such file"]);
}

#[test]
fn log_with_open_mode_warns() {
    let env = TestEnv::new();
    env.audited(&[]).start().stop();
    for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o620, true), (0o602, true)] {
        fs::set_permissions(env.log(), fs::Permissions::from_mode(mode)).unwrap();
        let server = env.audited(&[]).start();
        let warns = server
            .log()
            .contains(&format!("WARN the audit log {} has mode 0{mode:o}: ", env.log().display()));
        assert_eq!(warns, open, "{mode:o}: {}", server.log());
    }
}

#[test]
fn second_server_on_one_log_fails() {
    let env = TestEnv::new();
    let server = env.audited(&[]).start();
    let message = "is written by another server; give each server its own log";
    env.audited(&[]).run().assert_failed(1, &[message]);
    server.kill();
    env.audited(&[]).start().stop();
}

#[test]
fn records_beyond_retention_are_reported_missing() {
    let env = TestEnv::new();
    let (_, token) = write_log(&env);
    let server = env.serve(&[]);
    for number in 0..RETAINED_RECORDS {
        create_named(&token, &format!("unseen {number}")).send(server.address).token();
    }
    server.stop();
    // The catalog retains the record after the last one in the log; then no longer.
    let log = fs::read(env.log()).unwrap();
    env.audited(&[]).start().stop();
    assert_eq!(chain(&env.log()).len(), 12 + RETAINED_RECORDS);
    fs::write(env.log(), log).unwrap();
    let server = env.serve(&[]);
    for number in 0..2 {
        create_named(&token, &format!("one more {number}")).send(server.address).token();
    }
    assert_eq!(retained(&server, &token).len(), RETAINED_RECORDS);
    server.stop();
    // A torn last record is lost as well.
    let whole = fs::read(env.log()).unwrap();
    fs::write(env.log(), &whole[..whole.len() - 30]).unwrap();
    let server = env.audited(&[]).start();
    server.wait_for_log("lacks the records 12 to 14: ");
    assert_eq!(fs::read_to_string(env.log()).unwrap().lines().count(), 11 + RETAINED_RECORDS);
    server.stop();
    fs::write(env.log(), whole).unwrap();
    let server = env.audited(&[]).start();
    server.wait_for_log("lacks the records 13 to 14: there were more changes than the catalog retains");
    assert_eq!(server.metric(&token, "optoken_audit_records_lost_total"), 2);
    create_named(&token, "seen").send(server.address).token();
    server.stop();
    env.verify(&[]).assert_failed(1, &["line 13, record 15: missing: records 13 to 14 should be here"]);
    assert_eq!(fs::read_to_string(env.log()).unwrap().lines().count(), 12 + RETAINED_RECORDS + 1);
}

#[test]
fn records_lost_between_polls_are_counted() {
    let env = TestEnv::new();
    let (_, token) = write_log(&env);
    let server = env.audited(&[]).start();
    let other_log = env.home().join("other.jsonl");
    let other = env.serve(&["--audit-log", other_log.to_str().unwrap()]);
    // Stops the polls of the store.
    server.signal(Signal::STOP);
    for number in 0..RETAINED_RECORDS + 3 {
        create_named(&token, &number.to_string()).send(other.address).token();
    }
    server.signal(Signal::CONT);
    server.wait_for_log("lacks the records 13 to 15: ");
    // The metric follows the log line.
    eventually("the lost records are counted", || {
        server.metric(&token, "optoken_audit_records_lost_total") == 3
    });
    assert_eq!(other.metric(&token, "optoken_audit_records_lost_total"), 0);
    assert_eq!(chain(&other_log).len(), 12 + RETAINED_RECORDS + 3);
}

#[test]
fn rotated_or_deleted_log_continues_in_new_file() {
    let env = TestEnv::new();
    let server = env.audited(&[]).start();
    let token = server.create();
    let change = |numbers: Range<usize>| {
        for number in numbers {
            create_named(&token, &number.to_string()).send(server.address).token();
        }
    };
    change(0..10);
    let moved = env.home().join("audit.jsonl.1");
    fs::rename(env.log(), &moved).unwrap();
    // More than the catalog retains.
    change(10..90);
    let [before, after] = [&moved, &env.log()].map(|log| fs::read_to_string(log).unwrap());
    assert_eq!((before.lines().count(), after.lines().count()), (12, 80));
    assert_eq!(fs::metadata(env.log()).unwrap().permissions().mode() & 0o7777, 0o600);
    fs::write(&moved, before + &after).unwrap();
    chain(&moved);
    let output = env.verify(&[]);
    assert_eq!(
        (output.code, output.stderr.starts_with("note: the log begins at record 13;")),
        (Some(0), true)
    );
    // After a deletion, the new file has the retained records.
    fs::remove_file(env.log()).unwrap();
    change(90..91);
    let lines = fs::read_to_string(env.log()).unwrap();
    assert_eq!(lines.lines().map(str::to_owned).collect::<Vec<_>>(), retained(&server, &token));
    let renames = server.log().matches("the audit log was moved away and continues in a new file").count();
    assert_eq!((renames, server.metric(&token, "optoken_audit_records_lost_total")), (2, 0));
    server.stop();
    env.audited(&[]).start().stop();
    assert_eq!(fs::read_to_string(env.log()).unwrap(), lines);
}

#[test]
fn audit_append_failure_does_not_block_change() {
    let env = TestEnv::new();
    let server = env.serve(&["--audit-log", "/dev/full"]);
    server.wait_for_log("ERROR cannot append to the audit log /dev/full: No space left on device");
    let token = server.create();
    let token = server.regenerate(&token);
    assert!(server.accepts(&token));
    thread::sleep(Duration::from_millis(600));
    assert_eq!(server.log().matches("cannot append").count(), 1, "{}", server.log());
    server.stop();
    let server = env.audited(&[]).start();
    assert!(server.accepts(&token));
    assert_eq!(chain(&env.log()).len(), 3);
}

#[test]
fn full_disk_loses_no_record() {
    let env = TestEnv::new();
    let log = env.log();
    // Ignoring SIGXFSZ makes a file that is too large an error, as a full disk is.
    let cli = env.audited(&["--store", "memory:"]).after("trap '' XFSZ");
    let server = cli.start();
    let address = server.address;
    let token = post(CREATE).send(address).token();
    let whole = fs::read_to_string(&log).unwrap();
    let limit = |bytes| {
        prlimit(Some(server.pid()), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    };
    limit(Some(whole.len() as u64 + 100));
    for number in 0..3 {
        create_named(&token, &format!("ci {number}")).send(address).token();
    }
    let metrics = get("/metrics").bearer(&token).send(address).body;
    let failures = metrics.lines().find_map(|line| line.strip_prefix("optoken_audit_append_failures_total "));
    assert!(failures.unwrap().parse::<u32>().unwrap() > 0, "{metrics}");
    let full = fs::read_to_string(&log).unwrap();
    assert!(full.starts_with(&whole) && full.lines().count() <= 3, "{full}");
    limit(None);
    eventually("the log has all records", || fs::read_to_string(&log).unwrap().lines().count() == 5);
    // This record follows the ones that the retry has written and logged.
    create_named(&token, "after").send(address).token();
    let lines = chain(&log);
    assert_eq!((lines.len(), lines[..2].join("\n") + "\n"), (6, whole));
    server.wait_for_log("the audit log is up to date again");
    let text = server.log();
    assert_eq!(text.matches("cannot append to the audit log").count(), 1, "{text}");
    assert_eq!(text.matches("the audit log is up to date again").count(), 1, "{text}");
}

#[test]
fn verify_reports_first_violation() {
    let env = TestEnv::new();
    let (lines, _) = write_log(&env);
    let (count, head) = (lines.len(), hash(lines.last().unwrap()));
    let intact = env.verify(&[]);
    let message = format!("12 records, chain intact, last sequence 12, head {head}\n");
    assert_eq!((intact.code, intact.stdout, intact.stderr), (Some(0), message.clone(), String::new()));
    let check = |lines: &[String], line: usize, message: &str| {
        fs::write(env.log(), lines.concat()).unwrap();
        let place = format!("{}: line {line}, record ", env.log().display());
        env.verify(&["--expect-head", &head]).assert_failed(1, &[&place, message]);
    };
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    for at in 0..count {
        let changed = |change: &dyn Fn(&mut Vec<String>)| {
            let mut lines = lines.clone();
            change(&mut lines);
            lines
        };
        // A byte of each kind: syntax, names, numbers, texts, hash, line end.
        let line = &lines[at];
        for field in [
            "{\"",
            "sequence",
            "\":",
            "at\":1",
            "action",
            "_",
            "actor",
            "subject",
            "origin",
            "127",
            "start",
            "previous\":\"",
            "\"}\n",
            "\n",
        ] {
            let Some(byte) = line.find(field) else { continue };
            let byte = byte + field.len() - 1;
            let flipped = changed(&|lines| {
                let mut bytes = lines[at].clone().into_bytes();
                bytes[byte] ^= 1;
                lines[at] = String::from_utf8(bytes).unwrap();
            });
            check(&flipped, at + 1, if at + 1 == count { "" } else { "altered" });
        }
        let truncated = if at + 1 == count { "truncated" } else { "" };
        for cut in [1, line.len() / 2, line.len() - 1] {
            check(
                &changed(&|lines| {
                    lines.truncate(at + 1);
                    lines[at].truncate(cut);
                }),
                at + 1,
                "truncated",
            );
        }
        check(&changed(&|lines| lines.insert(at, lines[at].clone())), at + 2, "repeated");
        if at + 1 < count {
            check(&lines[..=at], at + 1, "truncated after this record");
            let line = if at == 0 { 2 } else { at + 1 };
            check(&changed(&|lines| lines.swap(at, at + 1)), line, "out of order");
        }
        match at {
            // A log may begin at any record.
            0 => {
                fs::write(env.log(), lines[1..].concat()).unwrap();
                let output = env.verify(&[]);
                assert_eq!(
                    (output.code, output.stdout),
                    (Some(0), message.replace("12 records", "11 records"))
                );
                assert!(output.stderr.starts_with("note: the log begins at record 2;"), "{}", output.stderr);
            }
            _ if at + 1 == count => check(&lines[..at], at, truncated),
            _ => check(&changed(&|lines| drop(lines.remove(at))), at + 1, "missing: record "),
        }
    }
    env.file("audit.jsonl", b"");
    env.verify(&[]).assert_failed(1, &["line 1, record 1: there is no record\n"]);
    env.verify(&["--expect-head", "F9"]).assert_failed(2, &["64 lower-case hexadecimal digits"]);
    fs::remove_file(env.log()).unwrap();
    env.verify(&[]).assert_failed(1, &["Audit command failed: cannot open ", "No such file"]);
}

#[test]
fn rewritten_log_is_detected_only_with_server() {
    let env = TestEnv::new();
    let (lines, token) = write_log(&env);
    let server = env.audited(&[]).start();
    let host = format!("http://{}", server.address);
    let verify = |args: &[&str]| {
        let verify = env.cli(["audit", "verify", "--host", &host]).arg(env.log()).args(args);
        verify.env("INFLUXDB3_AUTH_TOKEN", &token).run()
    };
    let compared = verify(&["--with-server", "--complete"]);
    let message = format!("12 records, chain intact, last sequence 12, head {}", hash(&lines[11]));
    assert_eq!((compared.code, compared.stdout), (Some(0), format!("{message}, as the server has it\n")));
    // An attacker with write access removes a record, and rebuilds the chain.
    let mut previous = Value::Null;
    let mut rewritten = String::new();
    for (line, sequence) in lines.iter().enumerate().filter(|(at, _)| *at != 4).map(|(_, line)| line).zip(1..)
    {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record["sequence"] = json!(sequence);
        record["previous"] = previous;
        let line = record.to_string();
        previous = json!(hash(&line));
        rewritten += &(line + "\n");
    }
    fs::write(env.log(), &rewritten).unwrap();
    assert_eq!(verify(&["--complete"]).code, Some(0));
    verify(&["--with-server"]).assert_failed(1, &["line 5, record 5: differs from the server: "]);
    // Or removes the last records, or the first.
    fs::write(env.log(), lines[..9].join("\n") + "\n").unwrap();
    assert_eq!(verify(&["--complete"]).code, Some(0));
    verify(&["--with-server"]).assert_failed(
        1,
        &["line 9, record 9: truncated after this record: the server also has records 10 to 12"],
    );
    fs::write(env.log(), lines[2..].join("\n") + "\n").unwrap();
    assert_eq!(verify(&["--with-server"]).code, Some(0));
    verify(&["--complete"])
        .assert_failed(1, &["line 1, record 3: missing: records 1 to 2 should precede it"]);
    server.stop();
    verify(&["--with-server"]).assert_failed(1, &["Audit command failed: ", &host]);
}

#[test]
fn show_prints_records_of_server_or_file() {
    let env = TestEnv::new();
    let server = env.audited(&[]).start();
    get(AUDIT).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    let token = server.create();
    create_named(&token, "a \"name\"").send(server.address).token();
    let host = format!("http://{}", server.address);
    let show = |args: &[&str]| env.cli(["audit", "show"]).args(args).env("INFLUXDB3_AUTH_TOKEN", &token);
    let from_server = show(&["--host", &host]).run();
    let log = env.log();
    let from_file = show(&[log.to_str().unwrap()]).run();
    assert_eq!(
        (from_server.code, from_server.stdout.as_str()),
        (Some(0), from_file.stdout.as_str()),
        "{from_server:?}"
    );
    let shown: Vec<&str> = from_server.stdout.lines().collect();
    assert_eq!(shown.len(), 3);
    for (line, parts) in shown.iter().zip([
        ["1  20", "Z  initialize  by provision  on the catalog  from \"start\""],
        ["2  20", "Z  create_operator  by bootstrap  on token 0 \"_admin\"  from \"http 127.0.0.1:"],
        ["3  20", r#"Z  create_named  by token 0  on token 1 "a \"name\""  from "http 127.0.0.1:"#],
    ]) {
        assert!(line.starts_with(parts[0]) && line.contains(parts[1]), "{line}");
    }
    for args in [
        &["--format", "json", "--host", &host],
        &["--format", "json", log.to_str().unwrap(), "--tls-no-verify"],
    ] {
        assert_eq!(show(args).run().stdout, fs::read_to_string(&log).unwrap());
    }
    show(&["--host", &host, "--token", "apiv3_no"]).run().assert_failed(1, &["[401 Unauthorized]"]);
    OpenOptions::new().append(true).open(&log).unwrap().write_all(b"{}\n").unwrap();
    let damaged = show(&[log.to_str().unwrap()]).run();
    assert_eq!((damaged.code, damaged.stdout), (Some(1), from_server.stdout.clone()));
    assert!(damaged.stderr.contains("line 4 is no audit record"), "{}", damaged.stderr);
}

#[test]
fn control_characters_are_escaped() {
    let env = TestEnv::new();
    let line = "{\"sequence\":1,\"at\":0,\"action\":\"\\u001b[2J\",\"actor\":\"recovery\",\"subject\":{\"id\":1,\"name\":\"\u{9b}2J\u{202e}\"},\"origin\":\"\u{7f}\\n\",\"previous\":null}\n";
    let file = env.file("log", line.as_bytes());
    for (format, message) in [
        (
            "text",
            "1  1970-01-01T00:00:00Z  \\u{1b}[2J  by recovery  on token 1 \"\\u{9b}2J\\u{202e}\"  from \"\\u{7f}\\n\"\n",
        ),
        (
            "json",
            &line.replace('\u{9b}', "\\u009b").replace('\u{7f}', "\\u007f").replace('\u{202e}', "\\u202e"),
        ),
    ] {
        let output = env.cli(["audit", "show", "--format", format]).arg(&file).run();
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), message), "{format}");
    }
}

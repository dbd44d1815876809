//! A server whose clock is set forward and back, by libfaketime.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::support::{Cli, NAMED_ADMIN, REGENERATE, TestEnv, create_named, get, post};

/// The library of the program `faketime`, which starts a server that the test could not signal.
fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut libraries = directories.map(|directory| directory.join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.exists()).unwrap()
}

/// The server with its time of day moved by this offset.
fn serve_at(env: &TestEnv, offset: &str) -> Cli {
    let server = env.serve_with(&[]).env("LD_PRELOAD", library());
    // The clock that measures durations stays as it is.
    server.env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

pub(crate) fn clock_set_back_revives_nothing() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let replaced = server.create();
    let short = json!({ "token_name": "for an hour", "expiry_secs": 3600 });
    let short = post(NAMED_ADMIN).bearer(&replaced).json(&short).send(server.address).token();
    let overlap = json!({ "overlap_secs": 3600 });
    let current = post(REGENERATE).bearer(&replaced).json(&overlap).send(server.address).token();
    assert!([&replaced, &short, &current].iter().all(|token| server.accepts(token)));
    server.stop();

    let server = serve_at(&env, "+2h").start();
    assert!(!server.accepts(&replaced) && !server.accepts(&short) && server.accepts(&current));
    create_named(&current, "later").send(server.address).token();
    server.stop();

    let server = serve_at(&env, "-400d").start();
    assert!(!server.accepts(&replaced) && !server.accepts(&short) && server.accepts(&current));
    server.wait_for_log("behind the newest audit record");
    let metrics = get("/metrics").bearer(&current).send(server.address).body;
    let behind = metrics.lines().find_map(|line| line.strip_prefix("optoken_clock_behind_seconds "));
    assert!(behind.unwrap().parse::<f64>().unwrap() > 400.0 * 86400.0, "{behind:?}");
    // A token that is created now expires by the time of that record.
    let next = json!({ "token_name": "next", "expiry_secs": 3600 });
    let next = post(NAMED_ADMIN).bearer(&current).json(&next).send(server.address).token();
    assert!(server.accepts(&next));
    server.stop();
}

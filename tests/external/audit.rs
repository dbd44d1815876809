//! The audit log on a terminal that stops reading.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::needs::{self, SCRIPT};
use crate::support::{ChildGuard, TestEnv, create_named, eventually};

pub(crate) fn hung_audit_log_does_not_block_commands() {
    let env = TestEnv::new();
    // A stopped terminal reads nothing.
    let terminal = needs::command(SCRIPT)
        .args(["-qfc", "tty >terminal; exec sleep 1000", "/dev/null"])
        .env("SHELL", "/bin/sh")
        .current_dir(env.home())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let terminal = ChildGuard(terminal);
    let name = || fs::read_to_string(env.home().join("terminal")).unwrap_or_default();
    eventually("the terminal has a name", || name().ends_with('\n'));
    kill_process(Pid::from_child(&terminal.0), Signal::STOP).unwrap();
    let mut server = env.serve(&["--store", "memory:", "--max-staleness", "2", "--audit-log", name().trim()]);
    let token = server.create();
    let started = Instant::now();
    for number in 0..200 {
        create_named(&token, &number.to_string()).send(server.address).token();
        assert!(server.accepts(&token));
    }
    server.wait_for_log("ERROR the audit log has not accepted a record for 1s; changes are still made");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // Longer than the limit for the staleness of the store.
    thread::sleep(Duration::from_secs(3));
    assert!(server.accepts(&token));
    assert!(server.metric(&token, "optoken_audit_append_failures_total") > 0);
    kill_process(Pid::from_child(&terminal.0), Signal::CONT).unwrap();
    server.wait_for_log("the audit log is up to date again");
    assert_eq!(server.metric(&token, "optoken_audit_records_lost_total"), 0);
    // A log that hangs does not block the shutdown.
    kill_process(Pid::from_child(&terminal.0), Signal::STOP).unwrap();
    for number in 200..400 {
        create_named(&token, &number.to_string()).send(server.address).token();
    }
    let started = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

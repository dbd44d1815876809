//! Signals whose default disposition the test has to restore, limits of another user, and unit
//! files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use rustix::process::Signal;

use crate::needs::{self, ENV, SETPRIV, SYSTEMD_ANALYZE, path};
use crate::support::{PROGRAM, TIMEOUT, TestEnv, create_named};

/// A user that runs no other process. The limit counts all of them, and root has none.
const LIMITED: u32 = 64399;

pub(crate) fn few_threads_prevent_start_with_advice() {
    for limit in 1..=8 {
        let env = TestEnv::new();
        chown(env.home(), Some(LIMITED), None).unwrap();
        let (user, limit) = (format!("--reuid={LIMITED}"), format!("--nproc={limit}"));
        let server = env.serve_with(&[]);
        let limited =
            server.wrapped_in(&path(SETPRIV), &[user.as_str(), "--clear-groups", "prlimit", limit.as_str()]);
        let output = limited.run();
        output.assert_failed(
            1,
            &["Serve command failed: a server needs ", " threads", "ulimit -u", "TasksMax="],
        );
        assert!(!output.stderr.contains("panicked"), "{output:?}");
        assert!(!env.data_dir().exists());
    }
    // With few more than it needs, a server runs commands.
    let processors = std::thread::available_parallelism().unwrap().get();
    let env = TestEnv::new();
    chown(env.home(), Some(LIMITED), None).unwrap();
    let (user, limit) = (format!("--reuid={LIMITED}"), format!("--nproc={}", 2 * processors + 10));
    let server = env.serve_with(&[]);
    let limited =
        server.wrapped_in(&path(SETPRIV), &[user.as_str(), "--clear-groups", "prlimit", limit.as_str()]);
    let server = limited.start();
    let token = server.create();
    let token = server.regenerate(&token);
    assert!(server.accepts(&token));
}

pub(crate) fn signals_remove_files_before_exit() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let env = TestEnv::new();
        let socket = env.home().join("socket");
        let server = env.serve_with(&["--admin-token-recovery-code"]);
        let server = server.arg("--admin-token-recovery-socket").arg(&socket);
        // A shell ignores SIGINT and SIGQUIT in a process that it starts in the background.
        let mut server = server.wrapped_in(&path(ENV), &["--default-signal=INT,QUIT"]).start();
        server.wait_for_log("token recovery is open");
        let code = env.data_dir().join("recovery-code");
        assert!(socket.exists() && code.exists());
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0), "{signal:?}: {}", server.log());
        server.wait_for_log(": stopping after the requests in flight");
        assert!(!socket.exists() && !code.exists(), "{signal:?}");
    }
}

pub(crate) fn sighup_reads_files_again_and_reports_it() {
    let env = TestEnv::new();
    let write_token = |name: &str, token: &str| {
        let path = env.file("token.json", format!(r#"{{"name":"{name}","token":"{token}"}}"#).as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (log, moved) = (env.home().join("audit.jsonl"), env.home().join("audit.jsonl.1"));
    let token_file = write_token("one", "apiv3_kM2vQ8xTz0yB3nWfR7uJpA");
    let manager = UnixDatagram::bind(env.home().join("notify")).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let notification = || {
        let mut message = [0; 200];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let server = env.serve_with(&["--admin-token-file"]).arg(&token_file).arg("--audit-log").arg(&log);
    let server = server.env("NOTIFY_SOCKET", env.home().join("notify"));
    let mut server = server.wrapped_in(&path(ENV), &["--default-signal=HUP"]).start();
    assert_eq!(notification(), "READY=1\n");
    let operator = server.create();
    let monotonic = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1000
    };
    let reload = || {
        let before = monotonic();
        server.signal(Signal::HUP);
        let message = notification();
        let time =
            message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{message}"));
        assert!((before..=monotonic()).contains(&time.trim_end().parse().unwrap()), "{message}");
        notification()
    };

    // The new log is there before its first record, and the new token is imported.
    fs::rename(&log, &moved).unwrap();
    write_token("two", "apiv3_zT0yB3nWfR7uJpAkM2vQ8x");
    assert_eq!(reload(), "READY=1\nSTATUS=all files were read again\n");
    server.wait_for_log("Admin token 'two' initialized from file");
    assert!(log.exists());
    assert!(server.accepts("apiv3_kM2vQ8xTz0yB3nWfR7uJpA") && server.accepts("apiv3_zT0yB3nWfR7uJpAkM2vQ8x"));
    create_named(&operator, "three").send(server.address).token();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(read(&log).contains(r#""name":"three""#) && !read(&moved).contains("three"), "{}", read(&log));

    // Neither a broken file nor a log that cannot be opened ends the server.
    fs::write(&token_file, "{").unwrap();
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    assert_eq!(reload(), "READY=1\nSTATUS=files that cannot be used: 2, see the log\n");
    server.wait_for_log("the tokens stay as they are");
    server.wait_for_log("the next record tries it again");
    let text = server.log();
    let line = |part: &str| text.lines().find(|line| line.contains(part) && line.contains("ERROR")).unwrap();
    assert!(line(&token_file.display().to_string()).contains("it is not JSON"), "{text}");
    line(&log.display().to_string());
    fs::remove_dir(&log).unwrap();
    assert_eq!(reload(), "READY=1\nSTATUS=files that cannot be used: 1, see the log\n");
    assert!(log.exists());
    for (file, outcome, count) in [
        ("admin_token_file", "done", 1),
        ("admin_token_file", "failed", 2),
        ("audit_log", "done", 2),
        ("audit_log", "failed", 1),
    ] {
        let name = format!("optoken_reloads_total{{file=\"{file}\",outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&operator, &name), count, "{name}");
    }
    server.signal(Signal::TERM);
    assert_eq!(notification(), "STOPPING=1\n");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
}

pub(crate) fn unit_files_are_valid() {
    let env = TestEnv::new();
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
    let service = fs::read_to_string(dist.join("optoken.service")).unwrap();
    // systemd-analyze looks for the program.
    env.file("optoken.service", service.replace("/usr/local/bin/optoken", PROGRAM).as_bytes());
    fs::copy(dist.join("optoken.socket"), env.home().join("optoken.socket")).unwrap();
    let verify = || {
        let output = needs::command(SYSTEMD_ANALYZE)
            .args(["verify", "./optoken.service", "./optoken.socket"])
            .current_dir(env.home())
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(verify(), (true, String::new()));
    // It sees a misspelt option.
    env.file("optoken.service", service.replace("WatchdogSec=", "WatchdogSeconds=").as_bytes());
    assert!(verify().1.contains("WatchdogSeconds"), "{verify:?}", verify = verify());
}

//! Signals whose default disposition the test has to restore, and limits of another user.

use std::os::unix::fs::chown;

use rustix::process::Signal;

use crate::needs::{ENV, SETPRIV, path};
use crate::support::TestEnv;

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

//! Signals whose default disposition the test has to restore.

use rustix::process::Signal;

use crate::needs::{ENV, path};
use crate::support::TestEnv;

pub(crate) fn signals_remove_files_before_exit() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let env = TestEnv::new();
        let socket = env.home().join("socket");
        let server = env.serve_with(&["--admin-token-recovery-code"]);
        let server = server.arg("--admin-token-recovery-socket").arg(&socket);
        // The tests may run under nohup, which ignores the signal in all their processes.
        let mut server = server.wrapped_in(&path(ENV), &["--default-signal=HUP"]).start();
        server.wait_for_log("token recovery is open");
        let code = env.data_dir().join("recovery-code");
        assert!(socket.exists() && code.exists());
        server.signal(signal);
        assert_eq!(server.exit_code(), Some(0), "{signal:?}: {}", server.log());
        server.wait_for_log(": stopping after the requests in flight");
        assert!(!socket.exists() && !code.exists(), "{signal:?}");
    }
}

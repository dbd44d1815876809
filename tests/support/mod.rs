//! Fixtures of the tests: an isolated environment for the program, a running server, and HTTP/1.1
//! down to the bytes.
//!
//! They hold every test to these rules:
//!
//! - No process writes a token to stderr, and no server writes one to stdout.
//! - No error response holds a token, and no response has a CORS header.
//! - No log holds a redacted token: redaction would hide that a component logs tokens. A test that
//!   sends a token to a wrong place allows it with [`Server::allow_redaction`].
//!
//! Tokens that a test creates are also found in other forms: decimal, hexadecimal and base64.
//!
//! `OPTOKEN_TEST_LOG=trace` sets the log level of every server whose test sets none.

mod certificate;
mod cli;
pub(crate) mod history;
mod http;
mod recovery;
mod scoped;
mod secrets;
mod server;

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use self::certificate::TestCertificate;
pub(crate) use self::cli::{Cli, CommandOutput, apply_log_filter, read_all};
pub(crate) use self::http::{
    CONFIRM, CREATE, Connection, NAMED_ADMIN, NOT_AUTHENTICATED, OVERLAP, REGENERATE, Request, Response,
    STAGE, TOKENS, VERIFY, create_named, delete_named, get, post, request, send_concurrently,
};
pub(crate) use self::recovery::{assert_closed, assert_too_late, recover_at, serve_socket};
pub(crate) use self::scoped::create_scoped;
pub(crate) use self::secrets::{
    assert_token_form, holds_token, remember_secret, remember_tokens, sha512_hex,
};
pub(crate) use self::server::{RECOVERY, Server};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_optoken");

/// User and group id without privileges, on Debian and most other systems.
pub(crate) const UNPRIVILEGED: u32 = 65534;

/// Limit for operations that take milliseconds on an idle machine. Longer than a server waits for
/// a client.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(45);

/// Interval between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(TIMEOUT, what, condition);
}

/// Waits until `condition` holds, at most for `limit`.
#[track_caller]
pub(crate) fn within(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "not within {limit:?}: {what}");
}

/// Returns whether `condition` holds before `limit` has passed.
pub(crate) fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
    true
}

/// Names a case of a table on stderr if the test panics while it is alive.
pub(crate) struct CaseName<T: AsRef<str>>(pub(crate) T);

impl<T: AsRef<str>> Drop for CaseName<T> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("in the case: {}", self.0.as_ref());
        }
    }
}

/// A process that is killed when dropped.
pub(crate) struct ChildGuard(pub(crate) Child);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An isolated environment: an empty home directory, and only the variables that a test sets.
pub(crate) struct TestEnv {
    home: TempDir,
    program: PathBuf,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), program: PathBuf::from(PROGRAM) }
    }

    /// An environment that runs the program under another name.
    pub(crate) fn named(name: &str) -> Self {
        let mut env = Self::new();
        env.program = env.home().join("bin").join(name);
        fs::create_dir(env.home().join("bin")).unwrap();
        symlink(PROGRAM, &env.program).unwrap();
        env
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The data directory of [`serve`](Self::serve).
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home().join("data")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data_dir().join("tokens.db")
    }

    /// Version and document of the stored catalog. Equal before and after a command that changed
    /// nothing.
    pub(crate) fn stored_catalog(&self) -> Option<(String, String)> {
        let store = rusqlite::Connection::open(self.store()).unwrap();
        store.busy_timeout(TIMEOUT).unwrap();
        let mut query = store.prepare("SELECT version, document FROM catalog").unwrap();
        let mut rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.next().transpose().unwrap()
    }

    /// Writes a file in the home directory.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The program with these arguments.
    pub(crate) fn cli<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Cli {
        let mut command = Command::new(&self.program);
        command.env_clear().env("HOME", self.home()).current_dir(self.home()).args(args);
        apply_log_filter(&mut command);
        Cli { command, input: Vec::new(), stdout: Stdio::piped(), listen_fds: None }
    }

    /// `serve` with the data directory, on a port that the system picks; not started yet.
    pub(crate) fn serve_with(&self, args: &[&str]) -> Cli {
        let cli = self.cli(["serve", "--http-bind", "127.0.0.1:0"]);
        cli.arg("--data-dir").arg(self.data_dir()).args(args)
    }

    /// A running server.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args).start()
    }

    /// `create token --admin` against the server at `address`.
    pub(crate) fn create_token(&self, address: SocketAddr, args: &[&str]) -> Cli {
        let host = format!("http://{address}");
        self.cli(["create", "token", "--admin", "--host", host.as_str()]).args(args)
    }
}

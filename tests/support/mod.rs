//! What the tests stand on: a machine to run `influxdb3` on, a server that tells where it listens, and HTTP/1.1 down to
//! the bytes.
//!
//! Checked here for every test alike: no process ever writes a token to stderr, no server writes one to stdout, no answer that
//! says no holds one, and no answer has a CORS header. Every token that is made in a test is known here, so it is found in
//! other forms, too. Nor does the log of a server have a place where a token was taken out, which would hide that
//! somebody logs tokens, unless a test says that it has put one where it does not belong.
//!
//! With `OPTOKEN_TEST_LOG=trace` in the environment every server logs at that level, unless a test says otherwise.

mod cli;
mod http;
mod secrets;
mod server;

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use self::cli::{Cli, CommandOutput, apply_log_filter, read_all};
pub(crate) use self::http::{
    CONFIRM, CREATE, Connection, NAMED_ADMIN, NOT_AUTHENTICATED, OVERLAP, REGENERATE, Request, Response,
    STAGE, TOKENS, VERIFY, get, post, request, send_concurrently,
};
pub(crate) use self::secrets::{assert_token_form, holds_token, remember_tokens, sha512_hex};
pub(crate) use self::server::{RECOVERY, Server};

/// How long anything may take that should take milliseconds: machines that run tests are busy. Longer than a server
/// waits for a client.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(45);

/// How often a condition is looked at that nobody announces.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(TIMEOUT, what, condition);
}

/// Waits until `condition` holds, but not longer than `limit`.
pub(crate) fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// A machine without past: an empty home directory, and no environment but what a test adds.
pub(crate) struct TestEnv {
    home: TempDir,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where [`serve`](Self::serve) keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home().join("data")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data_dir().join("tokens.db")
    }

    /// The version and the document of the stored catalog: what must not differ where nothing was changed.
    pub(crate) fn stored_catalog(&self) -> Option<(String, String)> {
        let store = rusqlite::Connection::open(self.store()).unwrap();
        store.busy_timeout(TIMEOUT).unwrap();
        let mut query = store.prepare("SELECT version, document FROM catalog").unwrap();
        let mut rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.next().transpose().unwrap()
    }

    /// A file with this content in the home directory.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `influxdb3` with these arguments.
    pub(crate) fn influxdb3<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Cli {
        let mut command = Command::new(env!("CARGO_BIN_EXE_influxdb3"));
        command.env_clear().env("HOME", self.home()).current_dir(self.home()).args(args);
        apply_log_filter(&mut command);
        Cli { command, input: Vec::new(), stdout: Stdio::piped(), listen_fds: None }
    }

    /// `influxdb3 serve` in the data directory, on a port that the system picks; not started yet.
    pub(crate) fn serve_with(&self, args: &[&str]) -> Cli {
        let cli = self.influxdb3(["serve", "--http-bind", "127.0.0.1:0"]);
        cli.arg("--data-dir").arg(self.data_dir()).args(args)
    }

    /// A running server.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args).start()
    }

    /// `influxdb3 create token --admin` against the server at `address`.
    pub(crate) fn create_token(&self, address: SocketAddr, args: &[&str]) -> Cli {
        let host = format!("http://{address}");
        self.influxdb3(["create", "token", "--admin", "--host", host.as_str()]).args(args)
    }
}

//! A running server, and its log.

use std::cell::Cell;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};

use super::TIMEOUT;
use super::cli::{Cli, read_all, wait};
use super::http::{CREATE, REGENERATE, get, post};
use super::secrets::{REDACTED, holds_token};

/// Options that open a recovery listener on a port that the system picks.
pub(crate) const RECOVERY: [&str; 2] = ["--admin-token-recovery-http-bind", "127.0.0.1:0"];

impl Cli {
    /// Starts it as a server.
    pub(crate) fn start(self) -> Server {
        self.start_and_close_stderr_after(None)
    }

    /// Starts it as a server. Closes its stderr after the line that contains `last`.
    pub(crate) fn start_and_close_stderr_after(mut self, last: Option<&'static str>) -> Server {
        let mut child = self.spawn(Stdio::null(), Stdio::piped());
        let log = Log::read(child.stderr.take().unwrap(), last);
        let stdout = child.stdout.take().map(read_all);
        let (address, redaction_allowed) = (SocketAddr::from(([0; 4], 0)), Cell::new(false));
        let mut server = Server { child, log, stdout, redaction_allowed, address };
        server.address = server.log.address("listening on ");
        server
    }
}

/// A running server. Dropping it kills it, and panics if its output holds a token.
pub(crate) struct Server {
    child: Child,
    log: Log,
    stdout: Option<JoinHandle<String>>,
    redaction_allowed: Cell<bool>,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Address of the recovery listener.
    pub(crate) fn recovery(&self) -> SocketAddr {
        self.log.address("token recovery is open on ")
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// Allows redacted tokens in the log: the test sends a token to a place that is logged.
    pub(crate) fn allow_redaction(&self) {
        self.redaction_allowed.set(true);
    }

    /// Creates the operator token.
    pub(crate) fn create(&self) -> String {
        post(CREATE).send(self.address).token()
    }

    /// Replaces the operator token.
    pub(crate) fn regenerate(&self, token: &str) -> String {
        post(REGENERATE).bearer(token).send(self.address).token()
    }

    /// Returns whether the server accepts this token.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        let response = get("/health").bearer(token).send(self.address);
        match response.status {
            200 => true,
            401 => false,
            _ => panic!("{response:?}"),
        }
    }

    /// Value of a metric without labels.
    #[track_caller]
    pub(crate) fn metric(&self, token: &str, name: &str) -> u64 {
        let text = get("/metrics").bearer(token).send(self.address).body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, and returns the exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = wait(&mut self.child);
        status.unwrap_or_else(|| panic!("the server does not exit: {}", self.log())).code()
    }

    /// Stops it with SIGTERM, and waits for its end.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.exit_code(), Some(0), "{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            self.log.wait_for_end();
            let log = self.log();
            assert!(!holds_token(&log), "a token in the log: {log}");
            assert!(
                self.redaction_allowed.get() || !log.contains(REDACTED),
                "a redacted token in the log: {log}"
            );
            let stdout = self.stdout.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
            assert!(!holds_token(&stdout), "a token on stdout: {stdout}");
        }
    }
}

/// Stderr of a server, collected while it runs.
struct Log {
    shared: Arc<(Mutex<LogText>, Condvar)>,
}

#[derive(Default)]
struct LogText {
    text: String,
    ended: bool,
}

impl Log {
    /// Reads until the end, or until a line that contains `last`.
    fn read(stderr: ChildStderr, last: Option<&'static str>) -> Self {
        let shared = Arc::<(Mutex<LogText>, Condvar)>::default();
        let log = Self { shared: Arc::clone(&shared) };
        thread::spawn(move || {
            let (written, changed) = &*shared;
            let mut stderr = Some(BufReader::new(stderr));
            while let Some(reader) = &mut stderr {
                let mut line = String::new();
                let read = reader.read_line(&mut line).unwrap();
                if read == 0 || last.is_some_and(|last| line.contains(last)) {
                    // Closed before a test can see that line.
                    stderr = None;
                }
                let mut written = written.lock().unwrap();
                written.text += &line;
                written.ended = stderr.is_none();
                changed.notify_all();
            }
        });
        log
    }

    fn text(&self) -> String {
        self.shared.0.lock().unwrap().text.clone()
    }

    fn wait_for(&self, text: &str) -> String {
        let written = self.wait_until(|written| written.ended || written.text.contains(text));
        assert!(written.contains(text), "{text:?} is not in the log: {written}");
        written
    }

    fn wait_for_end(&self) {
        self.wait_until(|written| written.ended);
    }

    fn wait_until(&self, condition: impl Fn(&LogText) -> bool) -> String {
        let (written, changed) = &*self.shared;
        let (written, waited) = changed
            .wait_timeout_while(written.lock().unwrap(), TIMEOUT, |written| !condition(written))
            .unwrap();
        assert!(!waited.timed_out(), "timed out; the log: {}", written.text);
        written.text.clone()
    }

    /// Address in the URL that follows `text`, in a log of either format.
    fn address(&self, text: &str) -> SocketAddr {
        let written = self.wait_for(text);
        let (_, rest) = written.split_once(text).unwrap();
        let url = rest.split(['"', ' ', '\n']).next().unwrap();
        let (_, address) = url.split_once("://").unwrap();
        address.trim_end_matches(':').parse().unwrap()
    }
}

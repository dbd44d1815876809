//! A command line, and its output.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::secrets::{assert_token_form, holds_token, remember_tokens};
use super::{POLL_INTERVAL, TIMEOUT};

/// Sets the log level from `OPTOKEN_TEST_LOG`.
pub(crate) fn apply_log_filter(command: &mut Command) {
    if let Some(level) = env::var_os("OPTOKEN_TEST_LOG") {
        command.env("INFLUXDB3_LOG_FILTER", level);
    }
}

/// A command that is not started yet.
pub(crate) struct Cli {
    pub(super) command: Command,
    pub(super) input: Vec<u8>,
    pub(super) stdout: Stdio,
    pub(super) listen_fds: Option<[OwnedFd; 2]>,
}

impl Cli {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it in this directory instead of the home directory.
    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the content of stdin, which is empty by default.
    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = text.as_bytes().to_vec();
        self
    }

    /// Redirects stdout to a file instead of [`CommandOutput`].
    pub(crate) fn stdout(mut self, to: File) -> Self {
        self.stdout = to.into();
        self
    }

    /// Runs it under another program, which gets the command line after these arguments.
    pub(crate) fn wrapped_in(mut self, program: &str, args: &[&str]) -> Self {
        let mut outer = Command::new(program);
        outer.args(args).arg(self.command.get_program()).args(self.command.get_args());
        outer.env_clear().envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // The outer program may start others.
        outer.env("PATH", env::var_os("PATH").unwrap_or_default());
        outer.current_dir(self.command.get_current_dir().unwrap());
        self.command = outer;
        self
    }

    /// Passes the first `count` of these sockets, as systemd does (`LISTEN_FDS`).
    pub(crate) fn pass(mut self, count: usize, sockets: [OwnedFd; 2]) -> Self {
        // LISTEN_PID must be the id of the server, and `exec` keeps the id of the shell.
        self = self.in_shell(r#"export LISTEN_PID=$$; exec "$0" "$@" 3<&0 4<&1 </dev/null >/dev/null"#);
        self.command.env("LISTEN_FDS", count.to_string());
        self.listen_fds = Some(sockets);
        self
    }

    /// Runs a shell command first, in the same process.
    pub(crate) fn after(self, command: &str) -> Self {
        self.in_shell(&format!(r#"{command} && exec "$0" "$@""#))
    }

    /// Runs it in a shell script, which has the command line in `"$0" "$@"`.
    pub(crate) fn in_shell(self, script: &str) -> Self {
        self.wrapped_in("/bin/sh", &["-c", script])
    }

    pub(super) fn spawn(&mut self, stdin: Stdio, stdout: Stdio) -> Child {
        match self.listen_fds.take() {
            Some([first, second]) => self.command.stdin(first).stdout(second),
            None => self.command.stdin(stdin).stdout(stdout),
        };
        self.command.stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs it to its end. Panics if stderr holds a token.
    pub(crate) fn run(mut self) -> CommandOutput {
        let stdout = std::mem::replace(&mut self.stdout, Stdio::null());
        let mut child = self.spawn(Stdio::piped(), stdout);
        if let Some(mut stdin) = child.stdin.take() {
            // The process may exit without reading it.
            let _ = stdin.write_all(&self.input);
        }
        let stdout = child.stdout.take().map(read_all);
        let stderr = read_all(child.stderr.take().unwrap());
        let status = wait(&mut child);
        let output = CommandOutput {
            command: format!("{:?}", self.command),
            code: status.and_then(|status| status.code()),
            stdout: stdout.map(|reader| reader.join().unwrap()).unwrap_or_default(),
            stderr: stderr.join().unwrap(),
        };
        assert!(status.is_some(), "the process does not exit: {output:?}");
        remember_tokens(&output.stdout);
        assert!(!holds_token(&output.stderr), "a token on stderr: {output:?}");
        output
    }

    /// Starts it without waiting for its end.
    pub(crate) fn spawn_client(mut self) -> Child {
        self.spawn(Stdio::null(), Stdio::piped())
    }
}

pub(crate) fn read_all(mut from: impl io::Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}

/// Waits until a process exits. Kills it after [`TIMEOUT`], and returns `None`.
pub(super) fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(POLL_INTERVAL);
    }
    child.kill().unwrap();
    None
}

/// Exit code and output of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    #[expect(dead_code, reason = "shown by Debug")]
    command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    /// Returns the token of the text format, parsed as the tests of InfluxDB's client do
    /// (docs/compatibility.md 4.1).
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let token = self.stdout.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap();
        assert_token_form(token);
        token.to_owned()
    }

    /// Asserts the exit code, each of these texts on stderr, and an empty stdout.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, messages: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for text in messages {
            assert!(self.stderr.contains(text), "{text:?} is not in {}", self.stderr);
        }
        // An error whose text includes its source is printed twice by a printer of sources.
        let parts: Vec<_> = self.stderr.lines().flat_map(|line| line.split(": ")).collect();
        assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "repeated: {}", self.stderr);
    }
}

//! A command line, and what it has done.

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

/// Lets a server log at the level that `OPTOKEN_TEST_LOG` says.
pub(crate) fn apply_log_filter(command: &mut Command) {
    if let Some(level) = env::var_os("OPTOKEN_TEST_LOG") {
        command.env("LOG_FILTER", level);
    }
}

/// A command line.
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

    /// Lets it run in this directory instead of the home directory.
    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// What is typed into it. Without this, its stdin is at its end.
    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = text.as_bytes().to_vec();
        self
    }

    /// Lets its stdout go there instead of into [`CommandOutput`].
    pub(crate) fn stdout(mut self, to: File) -> Self {
        self.stdout = to.into();
        self
    }

    /// Lets another program run it, which takes its command line behind these arguments.
    pub(crate) fn wrapped_in(mut self, program: &str, args: &[&str]) -> Self {
        let mut outer = Command::new(program);
        outer.args(args).arg(self.command.get_program()).args(self.command.get_args());
        outer.env_clear().envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // Where it is found itself.
        outer.env("PATH", env::var_os("PATH").unwrap_or_default());
        outer.current_dir(self.command.get_current_dir().unwrap());
        self.command = outer;
        self
    }

    /// Passes it the first `count` of these sockets, as systemd does that has bound them for it.
    pub(crate) fn pass(mut self, count: usize, sockets: [OwnedFd; 2]) -> Self {
        // A shell, because only what `exec` starts has the process id that LISTEN_PID must name.
        self = self.in_shell(r#"export LISTEN_PID=$$; exec "$0" "$@" 3<&0 4<&1 </dev/null >/dev/null"#);
        self.command.env("LISTEN_FDS", count.to_string());
        self.listen_fds = Some(sockets);
        self
    }

    /// Lets a shell do this first, in the same process.
    pub(crate) fn after(self, command: &str) -> Self {
        self.in_shell(&format!(r#"{command} && exec "$0" "$@""#))
    }

    /// Lets a shell run it with this script, which finds it in `"$0" "$@"`.
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

    /// Runs it to its end. Whatever it has to say on stderr, a token is not in it.
    pub(crate) fn run(mut self) -> CommandOutput {
        let stdout = std::mem::replace(&mut self.stdout, Stdio::null());
        let mut child = self.spawn(Stdio::piped(), stdout);
        if let Some(mut stdin) = child.stdin.take() {
            // It need not want to read it.
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
        assert!(status.is_some(), "it does not end: {output:?}");
        remember_tokens(&output.stdout);
        assert!(!holds_token(&output.stderr), "a token on stderr: {output:?}");
        output
    }

    /// Starts it and does not wait for its end.
    #[allow(dead_code, reason = "for tests/fault_injection.rs")]
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

/// Waits for a process that should end by itself; ends it and gives `None` if it does not.
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

/// What a command line has done.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    /// For the message of a test that fails.
    #[expect(dead_code, reason = "shown by Debug")]
    command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl CommandOutput {
    /// The token in the text form, found as the official client's own tests find it (COMPAT 4.1).
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let token = self.stdout.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap();
        assert_token_form(token);
        token.to_owned()
    }

    /// It failed, this way, saying all this, each thing once, and writing nothing to stdout.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for text in said {
            assert!(self.stderr.contains(text), "{text:?} is not in {}", self.stderr);
        }
        // As when an error repeats its source and is shown with its sources.
        let parts: Vec<_> = self.stderr.lines().flat_map(|line| line.split(": ")).collect();
        assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "said twice: {}", self.stderr);
    }
}

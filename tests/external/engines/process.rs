//! Processes of engines, with their ports and directories.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::ENVIRONMENT;
use crate::needs::{self, DEATH_SIGNAL};
use crate::support::within;

/// How long an engine may need to start: seconds on an idle machine.
const START_LIMIT: Duration = Duration::from_mins(3);

/// Runs this program again with the variables that the clients of the engines read, unless it has
/// them. A process of several threads cannot change its own.
pub(crate) fn with_environment() {
    let is_set = |(name, value): &(&str, &str)| env::var_os(name) == Some(OsString::from(value));
    if !ENVIRONMENT.iter().all(is_set) {
        let error =
            Command::new(env::current_exe().unwrap()).args(env::args_os().skip(1)).envs(ENVIRONMENT).exec();
        panic!("cannot run again: {error}");
    }
}

/// A port that the system has reserved. It refuses connections until an engine listens on it, which
/// must bind with `SO_REUSEADDR`.
pub(crate) struct Port(TcpSocket);

impl Port {
    pub(crate) fn any() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn number(&self) -> u16 {
        self.address().port()
    }
}

/// The directory of all engines, removed by [`end`].
static ROOT: Mutex<Option<TempDir>> = Mutex::new(None);

/// All processes, for [`end`].
static STARTED: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

/// A thread that lives as long as this process. The kernel kills an engine when the thread ends
/// that started it.
static STARTER: LazyLock<Sender<(Command, Sender<std::io::Result<Child>>)>> = LazyLock::new(|| {
    let (send, receive) = channel::<(Command, Sender<_>)>();
    thread::spawn(move || {
        for (mut command, result) in receive {
            // The receiver waits.
            let _ = result.send(command.spawn());
        }
    });
    send
});

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of one engine, removed when dropped.
pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        let mut root = lock(&ROOT);
        let root = root.get_or_insert_with(|| tempfile::tempdir().unwrap());
        Self(tempfile::tempdir_in(root.path()).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file in it.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// A process of an engine. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Arc<Mutex<Child>>,
    log: PathBuf,
}

impl Process {
    /// Starts a process, whose output goes to the file `NAME.log` of a directory. The kernel kills
    /// it with this process.
    pub(crate) fn start(name: &'static str, directory: &Path, command: &Command) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let mut wrapped = needs::command(DEATH_SIGNAL);
        wrapped.arg("--pdeathsig=KILL").arg("--").arg(command.get_program()).args(command.get_args());
        wrapped.current_dir(directory);
        isolate(&mut wrapped, command, directory);
        wrapped.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let (send, receive) = channel();
        STARTER.send((wrapped, send)).unwrap();
        let child = receive.recv().unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
        let child = Arc::new(Mutex::new(child));
        lock(&STARTED).push(Arc::downgrade(&child));
        Self { name, child, log }
    }

    /// Stops it without its knowledge, until [`thaw`](Self::thaw).
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits for its end.
    pub(crate) fn kill(&self) {
        kill(&mut lock(&self.child));
    }

    fn signal(&self, signal: Signal) {
        let child = lock(&self.child);
        kill_process(Pid::from_child(&child), signal).unwrap();
    }

    /// Panics with its output if it has ended.
    #[track_caller]
    pub(crate) fn assert_running(&self) {
        if let Some(status) = lock(&self.child).try_wait().unwrap() {
            let output = fs::read_to_string(&self.log).unwrap_or_default();
            panic!("{} has ended: {status}\n{output}", self.name);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Gives a command the variables of another one, and no others but `PATH` and `HOME`.
fn isolate(command: &mut Command, of: &Command, home: &Path) {
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).env("HOME", home);
    command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
}

/// Runs a command to its end in a directory, and returns its output. Panics if it fails.
#[track_caller]
pub(crate) fn run(directory: &Path, command: &mut Command) -> String {
    let mut isolated = Command::new(command.get_program());
    isolated.args(command.get_args()).current_dir(directory).stdin(Stdio::null());
    isolate(&mut isolated, command, directory);
    let output = isolated.output().unwrap_or_else(|error| panic!("{isolated:?}: {error}"));
    assert!(output.status.success(), "{isolated:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until an engine is ready. Panics if one of its processes ends.
#[track_caller]
pub(crate) fn until_ready(what: &str, processes: &[&Process], mut ready: impl FnMut() -> bool) {
    within(START_LIMIT, what, || {
        for process in processes {
            process.assert_running();
        }
        ready()
    });
}

/// Ends all engines and removes their files. The shared ones are never dropped.
pub(crate) fn end() {
    for child in lock(&STARTED).drain(..).filter_map(|child| child.upgrade()) {
        kill(&mut lock(&child));
    }
    drop(lock(&ROOT).take());
}

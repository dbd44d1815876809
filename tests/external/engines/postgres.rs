//! Servers of PostgreSQL on loopback, with data of their own, which end with this process.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use optoken::store::PostgresStore;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::needs::{self, POSTGRES, SETPRIV};
use crate::support::{UNPRIVILEGED, holds_within};

/// How long a server may need to start on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Starts the program of its arguments, prints its process, and ends it as soon as standard input
/// ends: also where this process is killed, and where nothing drops a static.
const KEEPER: &str = r#"trap : INT TERM HUP
log=$1; shift
"$@" </dev/null >>"$log" 2>&1 &
echo $!
read -r end
kill -QUIT $!
wait"#;

/// Removes the directory of its argument as soon as standard input ends.
const CLEANER: &str = r#"trap : INT TERM HUP
read -r end
for second in 1 2 3 4 5 6 7 8; do
  rm -rf "$1" && exit
  sleep 1
done 2>/dev/null"#;

/// The password of the user `secretive`.
pub(crate) const PASSWORD: &str = "pässwörd of the test";

/// A running server. Dropping it ends it.
pub(crate) struct Server {
    pub(crate) port: u16,
    options: Vec<String>,
    process: Option<Kept>,
    directory: Directory,
}

/// A program that this process keeps alive.
struct Kept {
    shell: Child,
    /// Its end ends the program.
    end: Option<ChildStdin>,
    pid: Pid,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end = None;
        let _ = self.shell.wait();
    }
}

/// The directory of a server, which outlives its processes.
struct Directory {
    path: PathBuf,
    /// Its end removes the directory.
    _end: ChildStdin,
}

impl Directory {
    /// In the system's directory, because the name of a socket is short.
    fn new() -> Self {
        let path = tempfile::Builder::new().prefix("optoken-pg-").tempdir().unwrap().keep();
        give(&path);
        let mut cleaner = Command::new("/bin/sh");
        cleaner.arg("-c").arg(CLEANER).arg("cleaner").arg(&path);
        let cleaner = cleaner.stdin(Stdio::piped()).spawn().unwrap().stdin.take().unwrap();
        Self { path, _end: cleaner }
    }
}

/// Makes a file or directory one of the server's user.
fn give(path: &Path) {
    if geteuid().is_root() {
        chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    }
}

/// A program of PostgreSQL, which refuses to run as root.
fn program(name: &str) -> Command {
    // A link may lead to one program only.
    let server = fs::canonicalize(needs::path(POSTGRES)).unwrap();
    let program = server.with_file_name(name);
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = needs::command(SETPRIV);
    let (uid, gid) = (format!("--reuid={UNPRIVILEGED}"), format!("--regid={UNPRIVILEGED}"));
    command.args([&uid, &gid, "--clear-groups", "--"]).arg(program);
    command
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Server {
    /// The server that tests share, each with a database of its own. None stops it, or changes its
    /// settings.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts a server with these options, and waits until it answers. The user `postgres` needs no
    /// password.
    pub(crate) fn start(options: &[&str]) -> Self {
        let directory = Directory::new();
        let data = directory.path.join("data");
        let mut initdb = program("initdb");
        initdb.arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres", "-E", "UTF8"]);
        succeeds(initdb.args(["--no-locale", "--no-sync"]));
        let mut server = Self::new(directory, options);
        server.run();
        server
    }

    fn new(directory: Directory, options: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { port, options, process: None, directory }
    }

    /// Starts a standby of this server, which has this name.
    pub(crate) fn start_standby(&self, name: &str) -> Self {
        let directory = Directory::new();
        let mut copy = program("pg_basebackup");
        copy.arg("-D").arg(directory.path.join("data")).args(["--checkpoint=fast", "--no-sync", "-R"]);
        let source = format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port);
        succeeds(copy.args(["-d", &source]));
        let mut standby = Self::new(directory, &[]);
        standby.run();
        standby
    }

    /// Starts the process, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let path = &self.directory.path;
        let log = path.join("log");
        let mut server = program("postgres");
        server.arg("-D").arg(path.join("data")).arg("-k").arg(path).args(["-p", &self.port.to_string()]);
        server.args(["-c", "listen_addresses=127.0.0.1"]);
        server.args(self.options.iter().flat_map(|option| ["-c", option]));
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(KEEPER).arg("keeper").arg(&log);
        shell.arg(server.get_program()).args(server.get_args());
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        self.process = Some(Kept { end: shell.stdin.take(), shell, pid });
        let mut answer = None;
        let ready = || answer.insert(self.psql("postgres", "SELECT 1")).status.success();
        let started = holds_within(START_LIMIT, ready);
        assert!(started, "{answer:?} {}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Ends the process, without its last steps.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Stops all processes without their knowledge, until [`thaw`](Self::thaw).
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().unwrap().pid;
        // First the one that starts others.
        kill_process(pid, signal).unwrap();
        let raw = pid.as_raw_nonzero();
        for child in fs::read_to_string(format!("/proc/{raw}/task/{raw}/children")).unwrap().split(' ') {
            if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
                // It may have ended.
                let _ = kill_process(child, signal);
            }
        }
    }

    /// The directory of its socket.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Writes a file that the server reads.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.directory.path.join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        give(&path);
        path
    }

    /// Puts lines in front of `pg_hba.conf`.
    pub(crate) fn authenticate(&self, lines: &str) {
        let path = self.directory.path.join("data/pg_hba.conf");
        let rest = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{lines}\n{rest}")).unwrap();
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Changes a setting of the server, and waits until it holds.
    pub(crate) fn set(&self, setting: &str, value: &str) {
        self.sql("postgres", &format!("ALTER SYSTEM SET {setting} = '{value}'"));
        self.sql("postgres", "SELECT pg_reload_conf()");
        let holds = || self.sql("postgres", &format!("SHOW {setting}")) == value;
        assert!(holds_within(START_LIMIT, holds), "{setting} is not {value}");
    }

    /// Creates a database that no other test uses.
    pub(crate) fn database(&self) -> String {
        static USED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", USED.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.url_of("postgres", database)
    }

    pub(crate) fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn open(&self, database: &str) -> PostgresStore {
        PostgresStore::open(&self.url(database)).unwrap()
    }

    /// Runs a statement, which must succeed, and returns its rows.
    #[track_caller]
    pub(crate) fn sql(&self, database: &str, statement: &str) -> String {
        let output = self.psql(database, statement);
        assert!(output.status.success(), "{statement}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn psql(&self, database: &str, statement: &str) -> Output {
        let mut psql = self.psql_command(database);
        psql.args(["-c", statement]).stdin(Stdio::null()).output().unwrap()
    }

    fn psql_command(&self, database: &str) -> Command {
        let mut psql = program("psql");
        psql.args(["-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        psql.args(["-p", &self.port.to_string(), "-d", database]);
        psql
    }

    /// Begins a transaction with a statement, and keeps it open until the result is dropped.
    pub(crate) fn hold(&self, database: &str, statement: &str) -> Held {
        let mut psql = self.psql_command(database);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "BEGIN;\n{statement};\n\\echo held").unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim_end() != "held" {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "{statement} failed");
        }
        Held { child, _input: input }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.thaw();
        }
        self.stop();
    }
}

/// An open transaction of another client.
pub(crate) struct Held {
    child: Child,
    _input: ChildStdin,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

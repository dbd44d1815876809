//! Clusters of etcd on loopback, with data of their own, which end with this process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use optoken::store::EtcdStore;
use rustix::process::{Pid, Signal, kill_process};

use crate::needs::{self, ETCD, ETCDCTL};
use crate::support::{TestCertificate, holds_within};

/// How long a cluster may need to start on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Starts the program of its arguments, prints its process, and kills it as soon as standard input
/// ends: also where this process is killed, and where nothing drops a static.
const KEEPER: &str = r#"log=$1; shift
"$@" </dev/null >>"$log" 2>&1 &
echo $!
read -r end
kill -KILL $!
wait"#;

/// Removes the directory of its argument as soon as standard input ends.
const CLEANER: &str = r#"read -r end
for second in 1 2 3 4 5; do
  rm -rf "$1" && exit
  sleep 1
done"#;

/// The account of root in a cluster with authentication.
pub(crate) const ROOT: &str = "root:of the test";

/// A program that this process keeps alive.
struct Kept {
    shell: Child,
    /// Its end ends the program.
    end: Option<ChildStdin>,
    pid: Pid,
}

impl Kept {
    fn start(log: &Path, program: &Command) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(KEEPER).arg("keeper").arg(log);
        shell.arg(program.get_program()).args(program.get_args());
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        Self { end: shell.stdin.take(), shell, pid }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end = None;
        let _ = self.shell.wait();
    }
}

/// The directory of a cluster, which outlives all of its members.
struct Directory {
    path: PathBuf,
    /// Its end removes the directory.
    _end: ChildStdin,
}

impl Directory {
    fn new() -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = tempfile::Builder::new().prefix("etcd-").tempdir_in(parent).unwrap().keep();
        let mut cleaner = Command::new("/bin/sh");
        cleaner.arg("-c").arg(CLEANER).arg("cleaner").arg(&path);
        let cleaner = cleaner.stdin(Stdio::piped()).spawn().unwrap().stdin.take().unwrap();
        Self { path, _end: cleaner }
    }
}

/// How a cluster differs from one with three members, plain text and no accounts.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Setup {
    /// One member instead of three.
    pub(crate) is_single: bool,
    /// TLS, and a client certificate of the same authority.
    pub(crate) tls: bool,
    /// Further options of the program.
    pub(crate) options: &'static [&'static str],
}

impl Setup {
    pub(crate) const SINGLE: Self = Self { is_single: true, tls: false, options: &[] };
}

/// A cluster of one or three members.
pub(crate) struct Cluster {
    // Members end before their directory.
    members: Vec<Member>,
    pub(crate) certificate: Option<TestCertificate>,
    directory: Directory,
}

struct Member {
    command: Command,
    log: PathBuf,
    client_port: u16,
    process: Option<Kept>,
}

impl Cluster {
    /// The cluster of three that tests share, each below a prefix of its own. None stops a member.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Setup::default()))
    }

    /// Starts a cluster, and waits until it answers.
    pub(crate) fn start(setup: Setup) -> Self {
        Self::start_in(Directory::new(), setup, |_, _| {})
    }

    /// Starts a cluster from the snapshot in a file.
    pub(crate) fn restore(snapshot: &Path) -> Self {
        Self::start_in(Directory::new(), Setup::SINGLE, |data, peer| {
            let mut restore = needs::command(ETCDCTL);
            restore.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
            restore.arg("--data-dir").arg(data).args(["--name", "m0"]);
            restore.args(["--initial-cluster", &format!("m0={peer}")]);
            restore.args(["--initial-advertise-peer-urls", peer]);
            succeeds(&mut restore);
        })
    }

    fn start_in(directory: Directory, setup: Setup, prepare: impl Fn(&Path, &str)) -> Self {
        let count = if setup.is_single { 1 } else { 3 };
        let certificate = setup.tls.then(TestCertificate::new);
        // All are bound at once, so that the system gives each a port of its own.
        let sockets: Vec<_> = (0..2 * count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        drop(sockets);
        let scheme = if setup.tls { "https" } else { "http" };
        let peers: Vec<_> =
            (0..count).map(|number| format!("http://127.0.0.1:{}", ports[count + number])).collect();
        let initial: Vec<_> =
            peers.iter().enumerate().map(|(number, peer)| format!("m{number}={peer}")).collect();
        let initial = initial.join(",");
        let members = (0..count).map(|number| {
            let client = format!("{scheme}://127.0.0.1:{}", ports[number]);
            let data = directory.path.join(format!("m{number}"));
            prepare(&data, &peers[number]);
            let mut command = needs::command(ETCD);
            command.args(["--name", &format!("m{number}"), "--data-dir"]).arg(data);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peers[number]]);
            command.args(["--initial-advertise-peer-urls", &peers[number], "--initial-cluster", &initial]);
            // The cluster is shared by busy tests on a busy machine.
            command.args(["--heartbeat-interval", "100", "--election-timeout", "1000"]);
            if let Some(TestCertificate { authority, certificate, key, .. }) = &certificate {
                command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
                command.arg("--trusted-ca-file").arg(authority).arg("--client-cert-auth");
            }
            command.args(setup.options);
            let log = directory.path.join(format!("m{number}.log"));
            Member { command, log, client_port: ports[number], process: None }
        });
        let mut cluster = Self { members: members.collect(), certificate, directory };
        for number in 0..count {
            cluster.spawn(number);
        }
        cluster.wait_until_ready(&(0..count).collect::<Vec<_>>());
        cluster
    }

    fn spawn(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.process = Some(Kept::start(&member.log, &member.command));
    }

    /// Waits until these members answer, with a leader.
    fn wait_until_ready(&mut self, numbers: &[usize]) {
        for &number in numbers {
            let ready = holds_within(START_LIMIT, || {
                if self.members[number].could_not_bind() {
                    self.spawn(number);
                }
                let health = self.etcdctl_at(&[number], &["endpoint", "health", "--command-timeout=2s"]);
                health.is_ok() || health.is_err_and(|text| text.contains("user name is empty"))
            });
            let log = &self.members[number].log;
            assert!(ready, "etcd does not start: {}", fs::read_to_string(log).unwrap_or_default());
        }
    }

    /// Returns the URL of a store with all members, the first one first.
    pub(crate) fn url(&self, prefix: &str) -> String {
        self.url_from(0, "", prefix)
    }

    /// Returns the URL of a store with all members, one of them first, and `user@` before them.
    pub(crate) fn url_from(&self, first: usize, user: &str, prefix: &str) -> String {
        let count = self.members.len();
        let hosts: Vec<_> = (0..count)
            .map(|step| format!("127.0.0.1:{}", self.members[(first + step) % count].client_port))
            .collect();
        let hosts = hosts.join(",");
        match &self.certificate {
            None => format!("etcd://{user}{hosts}/{prefix}"),
            Some(TestCertificate { authority, certificate, key, .. }) => format!(
                "etcds://{user}{hosts}/{prefix}?ca={}&cert={}&key={}",
                authority.display(),
                certificate.display(),
                key.display()
            ),
        }
    }

    pub(crate) fn store(&self, prefix: &str) -> EtcdStore {
        EtcdStore::open(&self.url(prefix)).unwrap()
    }

    /// Returns the port of the clients of a member.
    pub(crate) fn port(&self, number: usize) -> u16 {
        self.members[number].client_port
    }

    /// Returns the ports of the clients of all members.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.members.iter().map(|member| member.client_port)
    }

    /// Kills a member.
    pub(crate) fn kill(&mut self, number: usize) {
        self.members[number].process = None;
    }

    /// Starts a killed member, and waits until it answers.
    pub(crate) fn restart(&mut self, number: usize) {
        self.spawn(number);
        self.wait_until_ready(&[number]);
    }

    /// Stops a member in the middle of what it does. Its connections stay open.
    pub(crate) fn freeze(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    /// Lets a frozen member go on.
    pub(crate) fn thaw(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    fn signal(&self, number: usize, signal: Signal) {
        kill_process(self.members[number].process.as_ref().unwrap().pid, signal).unwrap();
    }

    /// Returns the newest revision.
    pub(crate) fn revision(&self) -> String {
        let status = self.etcdctl(&["endpoint", "status", "--write-out=fields"]);
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        revision.unwrap_or_else(|| panic!("{status}")).to_owned()
    }

    /// Returns what a member alone knows about a key.
    pub(crate) fn serializable_read(&self, number: usize, key: &str) -> String {
        let read = ["get", "--consistency=s", "--print-value-only", key];
        self.etcdctl_at(&[number], &read).unwrap().trim().to_owned()
    }

    /// Runs etcdctl against all members, and returns its output.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> String {
        self.etcdctl_at(&(0..self.members.len()).collect::<Vec<_>>(), args).unwrap()
    }

    /// Runs etcdctl against some members.
    fn etcdctl_at(&self, numbers: &[usize], args: &[&str]) -> Result<String, String> {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let endpoints: Vec<_> = numbers
            .iter()
            .map(|number| format!("{scheme}://127.0.0.1:{}", self.members[*number].client_port))
            .collect();
        let mut command = needs::command(ETCDCTL);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
        if let Some(TestCertificate { authority, certificate, key, .. }) = &self.certificate {
            command.arg("--cacert").arg(authority).arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        run(command.args(args))
    }

    /// Returns the keys that begin with a text.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let keys = self.etcdctl(&["get", "--prefix", "--keys-only", prefix]);
        keys.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Saves a snapshot of the first member to a file.
    pub(crate) fn snapshot(&self) -> PathBuf {
        let file = self.directory.path.join("snapshot");
        self.etcdctl_at(&[0], &["snapshot", "save", file.to_str().unwrap()]).unwrap();
        file
    }

    /// Creates root and a user with one role, and requires accounts from now on.
    pub(crate) fn require_accounts(&self, user: &str, prefix: &str) {
        self.etcdctl(&["user", "add", ROOT]);
        self.etcdctl(&["user", "grant-role", "root", "root"]);
        self.etcdctl(&["role", "add", "store"]);
        self.etcdctl(&["role", "grant-permission", "store", "--prefix=true", "readwrite", prefix]);
        self.etcdctl(&["user", "add", user]);
        self.etcdctl(&["user", "grant-role", user.split_once(':').unwrap().0, "store"]);
        self.etcdctl(&["auth", "enable"]);
    }
}

impl Member {
    /// Returns whether another program has the port. The message is gone after this.
    fn could_not_bind(&self) -> bool {
        // The log may not be there yet.
        let in_use = fs::read_to_string(&self.log).is_ok_and(|log| log.contains("address already in use"));
        if in_use {
            fs::write(&self.log, "").unwrap();
        }
        in_use
    }
}

/// Returns a prefix that no other test uses.
pub(crate) fn prefix() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test/{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn run(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    if status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&stderr)) }
}

fn succeeds(command: &mut Command) {
    run(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
}

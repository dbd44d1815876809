//! The environment of the command line where a test needs another user.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::needs::{self, PERL};
use crate::support::{ChildGuard, Cli, PROGRAM, TestEnv, UNPRIVILEGED, eventually, recover_at};

const TOKEN: &str = "apiv3_presented";

/// Forbids this process to execute memory that was written (`PR_SET_MDWE`), as systemd does for
/// `MemoryDenyWriteExecute=`. perl has the system call by number only.
pub(crate) const FORBID_WRITTEN_CODE: &str = if cfg!(target_arch = "aarch64") {
    "exit 1 if syscall(167, 65, 1, 0, 0, 0) != 0; exec @ARGV if @ARGV"
} else {
    "exit 1 if syscall(157, 65, 1, 0, 0, 0) != 0; exec @ARGV if @ARGV"
};

/// The program as another user runs it. The directories of the build may be closed to that user.
fn as_other_user(env: &TestEnv) -> Command {
    let program = env.home().join("optoken");
    if !program.exists() {
        fs::copy(PROGRAM, &program).unwrap();
    }
    let mut command = Command::new(program);
    command.uid(UNPRIVILEGED).gid(UNPRIVILEGED).env_clear().env("HOME", env.home());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A server of another user, with a recovery socket at this path.
fn serve_as_other_user(env: &TestEnv, path: &Path) -> ChildGuard {
    let mut command = as_other_user(env);
    command.args(["serve", "--store", "memory:", "--http-bind", "127.0.0.1:0"]);
    command.arg("--admin-token-recovery-socket").arg(path).current_dir("/");
    let server = ChildGuard(command.spawn().unwrap());
    eventually("the other user listens", || UnixStream::connect(path).is_ok());
    server
}

pub(crate) fn socket_of_other_user_receives_nothing() {
    let env = TestEnv::new();
    set_mode(env.home(), 0o755);
    let directory = env.home().join("shared");
    fs::create_dir(&directory).unwrap();
    // As /tmp is: any user can make a socket there.
    set_mode(&directory, 0o1777);
    let path = directory.join("socket");
    let attempt = || {
        recover_at(&env, &path)
            .args(&["--recovery-code", "-", "--output-file", "saved"])
            .env("INFLUXDB3_AUTH_TOKEN", TOKEN)
            .input("secret-code")
            .run()
    };
    let _server = serve_as_other_user(&env, &path);
    let reason = format!("belongs to another user (uid {UNPRIVILEGED})");
    attempt().assert_failed(1, &["nothing was sent to unix:", &reason]);
    // The owner of the file is right, and the kernel reports the process.
    chown(&path, Some(0), Some(0)).unwrap();
    let reason = format!("a process of another user (uid {UNPRIVILEGED}) listens there");
    attempt().assert_failed(1, &["nothing was sent to unix:", &reason]);
    assert!(!env.home().join("saved").exists());
}

pub(crate) fn root_recovers_server_of_other_user() {
    // Only root can have made this directory, which it gave to the user of the server.
    let directory = tempfile::tempdir_in("/run").unwrap();
    chown(directory.path(), Some(UNPRIVILEGED), None).unwrap();
    let env = TestEnv::new();
    set_mode(env.home(), 0o755);
    let path = directory.path().join("socket");
    let _server = serve_as_other_user(&env, &path);
    // There is no operator token yet.
    recover_at(&env, &path).run().assert_failed(1, &["server responded with error [404 Not Found]"]);
    set_mode(directory.path(), 0o777);
    recover_at(&env, &path).run().assert_failed(1, &["nothing was sent to unix:"]);
}

pub(crate) fn dotenv_of_other_user_is_ignored() {
    let env = TestEnv::new();
    let shared = env.home().join("shared");
    let below = shared.join("one/two");
    fs::create_dir_all(&below).unwrap();
    set_mode(&shared, 0o1777);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = shared.join(".env");
    fs::write(&path, format!("INFLUXDB3_HOST_URL=http://{}\n", listener.local_addr().unwrap())).unwrap();
    chown(&path, Some(UNPRIVILEGED), None).unwrap();
    let show = || env.cli(["show", "tokens", "--token", TOKEN]).current_dir(&below);
    let reason =
        format!("warning: ignoring {0}: {0} belongs to another user (uid {UNPRIVILEGED})", path.display());
    // No server listens there.
    show().args(&["--host", "http://127.0.0.1:1"]).run().assert_failed(1, &[&reason, "127.0.0.1:1"]);
    show().run().assert_failed(1, &[&reason]);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a client has connected");
    // An own file below a directory of another user is out of reach for the search.
    fs::write(&path, "INFLUXDB3_HOST_URL=nonsense\n").unwrap();
    chown(&path, Some(0), None).unwrap();
    show().run().assert_failed(1, &["names the server nonsense"]);
    chown(shared.join("one"), Some(UNPRIVILEGED), None).unwrap();
    let output = show().args(&["--host", "http://127.0.0.1:1"]).run();
    assert!(!output.stderr.contains(".env"), "{output:?}");
}

pub(crate) fn unsearchable_directory_has_no_dotenv() {
    let env = TestEnv::new();
    set_mode(env.home(), 0o755);
    let closed = env.home().join("closed");
    fs::create_dir_all(closed.join("below")).unwrap();
    set_mode(&closed.join("below"), 0o700);
    set_mode(&closed, 0o700);
    // perl enters the directory as root, and the program runs there as the other user.
    let enter = format!(
        "chdir shift; $( = $) = '{UNPRIVILEGED} {UNPRIVILEGED}'; $< = $> = {UNPRIVILEGED}; exec @ARGV"
    );
    let program = as_other_user(&env).get_program().to_owned();
    for directory in [&closed, &closed.join("below")] {
        let mut perl = needs::command(PERL);
        perl.args(["-e", &enter]).arg(directory).arg(&program);
        perl.args(["show", "tokens", "--host", "http://127.0.0.1:1"]).env("HOME", env.home());
        let output = String::from_utf8(perl.output().unwrap().stderr).unwrap();
        assert!(output.contains("cannot reach http://127.0.0.1:1/"), "{output}");
    }
}

pub(crate) fn system_without_written_code_is_named() {
    let env = TestEnv::new();
    let forbidden = |cli: Cli| cli.wrapped_in("perl", &["-e", FORBID_WRITTEN_CODE]).run();
    for output in [
        forbidden(env.serve_with(&[])),
        forbidden(env.cli(["create", "token", "--admin", "--offline", "--output-file", "saved"])),
    ] {
        output.assert_failed(1, &["cannot be compiled here", "MemoryDenyWriteExecute=", "execmem"]);
        assert!(!output.stderr.contains("not a WebAssembly component"), "{output:?}");
    }
    assert!(!env.home().join("saved").exists());
}

//! A rotation into a file whose system calls fail, or that is killed after any of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::thread;

use crate::fault_proxy::FaultProxy;
use crate::needs::{STRACE, path};
use crate::rotation_run::{RotationRun, assert_rotated, read_token, rotation, write_private};
use crate::support::{Cli, CommandOutput, RECOVERY, Server, TestEnv, UNPRIVILEGED};

/// System calls by which a run changes files or exchanges messages.
const CALLS: &str = "openat,write,fchmod,fsync,renameat,unlink,sendto,recvfrom";

/// Kills the command after each of its system calls in turn, from the first on its files, and runs
/// it again. Returns the number of kills.
fn kill_at_every_call(in_place: bool, json: bool, overlap: bool) -> usize {
    let proxy = FaultProxy::new(TestEnv::new());
    let mut token = proxy.with_server(Server::create);
    let log = proxy.env().home().join("calls");
    let strace = |rotation: &RotationRun, what: &[&str]| {
        let args = [&["-qq", "-o", log.to_str().unwrap()], what].concat();
        proxy.run(rotation.command().wrapped_in(&path(STRACE), &args), None)
    };
    let rotation = RotationRun::new(&proxy, &token, in_place, json, overlap);
    let undisturbed = strace(&rotation, &["-e", &format!("trace={CALLS}")]);
    assert_eq!(undisturbed.code, Some(0), "{}", undisturbed.stderr);
    token = rotation.assert_finished();
    let calls = fs::read_to_string(&log).unwrap();
    let calls: Vec<_> = calls.lines().map(|line| (line.split('(').next().unwrap(), line)).collect();
    // Earlier calls load libraries and compile the component.
    let first = calls.iter().position(|(_, line)| line.contains(".token.")).unwrap();
    let mut kills = 0;
    for (number, (call, line)) in calls.iter().enumerate().skip(first) {
        // strace counts the calls of each name.
        let when = calls[..=number].iter().filter(|(name, _)| name == call).count();
        let rotation = RotationRun::new(&proxy, &token, in_place, json, overlap);
        let killed = strace(&rotation, &["-e", &format!("inject={call}:signal=SIGKILL:when={when}")]);
        rotation.assert_not_locked_out();
        if killed.code.is_none() {
            kills += 1;
            rotation.run(None);
            rotation.assert_not_locked_out();
        } else {
            // This run has not made the call.
            assert_eq!(killed.code, Some(0), "{line}: {}", killed.stderr);
        }
        token = rotation.assert_finished();
    }
    kills
}

pub(crate) fn rotation_killed_after_any_system_call_completes() {
    let kinds = [(true, false, false), (true, true, false), (false, false, false), (true, false, true)];
    let kills: Vec<_> = thread::scope(|scope| {
        let runs = kinds.map(|(in_place, json, overlap)| {
            scope.spawn(move || kill_at_every_call(in_place, json, overlap))
        });
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    println!("kills after system calls: {kills:?}");
    assert!(kills.iter().all(|kills| *kills > 20), "{kills:?}");
}

/// Runs a command with one failing system call.
fn run_with_fault(cli: Cli, fault: &str) -> CommandOutput {
    let inject = format!("inject={fault}");
    cli.wrapped_in(&path(STRACE), &["-qq", "-o", "/dev/null", "-e", &inject]).run()
}

pub(crate) fn failed_file_operation_keeps_a_valid_token() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut old = server.create();
    let (file, staged) = (env.home().join("token"), env.home().join("token.staged"));
    write_private(&file, &old);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = env.stored_catalog();
    let run = |old: &str, fault: &str| run_with_fault(rotation(&env, &server, old, "token"), fault);
    // The command detects an obstacle before its first request.
    for fault in ["renameat:error=EBUSY:when=2", "renameat:error=EBUSY:when=1", "fsync:error=ENOSPC:when=1"] {
        run(&old, fault).assert_failed(1, &["cannot write token"]);
        assert_eq!(
            (read_token(&file).as_ref(), env.stored_catalog()),
            (Some(&old), before.clone()),
            "{fault}"
        );
        assert!(!staged.exists(), "{fault}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640, "{fault}");
    }
    // A later failure leaves the token in the staged file, and the error names it.
    let messages = ["the new token is in force, and the old one is not", "the new one is in token.staged"];
    let output = run(&old, "renameat:error=EBUSY:when=3");
    output.assert_failed(1, &messages);
    assert!(!server.accepts(&old) && server.accepts(&read_token(&staged).unwrap()));
    let output = rotation(&env, &server, &old, "token").run();
    old = assert_rotated(&env, &server, &output, "token", &[&old]);

    // A permanent obstacle, such as a bind mount, starts and finishes nothing.
    run(&old, "renameat:error=EBUSY:when=2+").assert_failed(1, &["no request was sent"]);
    assert!(server.accepts(&old));

    // A staged file that stays is a warning, and the next run replaces it.
    let output = run(&old, "unlink:error=EACCES:when=1");
    assert!(output.stderr.contains("warning: cannot remove token.staged"), "{output:?}");
    let new = read_token(&file).unwrap();
    assert_eq!((output.code, read_token(&staged).as_ref()), (Some(0), Some(&new)));
    let output = rotation(&env, &server, &new, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&old, &new]);
}

pub(crate) fn unwritable_output_file_does_not_consume_recovery() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let recover =
        || env.create_token(server.recovery(), &["--regenerate", "--yes", "--output-file", "token"]);
    run_with_fault(recover(), "fsync:error=ENOSPC:when=1").assert_failed(1, &["no request was sent"]);
    write_private(&env.home().join("token"), "apiv3_lost");
    run_with_fault(recover(), "renameat:error=EBUSY:when=1").assert_failed(1, &["no request was sent"]);
    assert!(server.accepts(&old));
    let output = recover().run();
    assert_rotated(&env, &server, &output, "token", &[&old]);
}

pub(crate) fn output_link_of_other_user_is_refused() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let old = server.create();
    write_private(&env.home().join("real"), &old);
    let link = env.home().join("link");
    symlink("real", &link).unwrap();
    // In a directory that all users can write to, another user may have created the link.
    lchown(&link, Some(UNPRIVILEGED), None).unwrap();
    rotation(&env, &server, &old, "link").run().assert_failed(1, &["it is a link of another user"]);
    assert!(server.accepts(&old));
}

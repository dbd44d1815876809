//! What a client is advised to do after a change whose outcome is unknown: the disk fails for good
//! in the middle of it.

use std::fs;
use std::process::Stdio;

use crate::needs::{self, STRACE};
use crate::support::{
    CREATE, ChildGuard, RECOVERY, REGENERATE, Server, TestEnv, create_named, eventually, post,
};

/// Fails every sync of a server until it is dropped.
fn fail_syncs(server: &Server) -> ChildGuard {
    let pid = server.pid().as_raw_nonzero().to_string();
    let mut strace = needs::command(STRACE);
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
    strace.args(["-e", "inject=fsync,fdatasync:error=EIO", "-p", &pid]);
    let child = ChildGuard(strace.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    eventually("every thread is traced", || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    });
    child
}

pub(crate) fn unknown_outcome_has_advice_for_its_command() {
    let first = "if there is an operator token now, its secret is lost: use token recovery";
    let named = "if the list has a token of this name, its secret is lost: delete it and do it again";
    let used =
        "if the token that was used is refused from now on, the change was made and its new token is lost";
    let repeat = "which may have been made; nothing is lost, do it again";
    for (command, advice) in
        [("create", first), ("named", named), ("regenerate", used), ("recover", repeat), ("stage", repeat)]
    {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        let recovery = server.recovery();
        let operator = if command == "create" { String::new() } else { server.create() };
        let _failing = fail_syncs(&server);
        let response = match command {
            "create" => post(CREATE).send(server.address),
            "named" => create_named(&operator, "ci").send(server.address),
            "regenerate" => post(REGENERATE).bearer(&operator).send(server.address),
            "recover" => post(REGENERATE).send(recovery),
            _ => post(&format!("{REGENERATE}/stage")).bearer(&operator).send(server.address),
        };
        assert_eq!(response.status, 503, "{command}: {response:?}");
        assert!(
            response.body.starts_with("the token store failed in the middle of the change"),
            "{response:?}"
        );
        assert!(response.body.contains(advice), "{command}: {response:?}");
        assert_eq!(
            response.body.contains("recovery"),
            matches!(command, "create" | "regenerate"),
            "{response:?}"
        );
    }
}

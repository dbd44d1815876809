//! Token recovery and bootstrap where a test needs another user, a terminal, a network, or the
//! default port.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use crate::needs::{self, PERL, SCRIPT};
use crate::support::{
    CREATE, ChildGuard, PROGRAM, RECOVERY, REGENERATE, TestEnv, UNPRIVILEGED, eventually, get, post,
    recover_at, serve_socket,
};

pub(crate) fn recovery_flag_without_value_means_port_8182() {
    // The main listener takes the port, so the server does not open recovery on it.
    let env = TestEnv::new();
    let output = env
        .cli([
            "serve",
            "--store",
            "memory:",
            "--http-bind",
            "127.0.0.1:8182",
            "--admin-token-recovery-http-bind",
        ])
        .run();
    output.assert_failed(
        1,
        &["--admin-token-recovery-http-bind: cannot listen on 127.0.0.1:8182", "choose another port"],
    );
}

pub(crate) fn recovery_code_is_printed_on_terminal() {
    let env = TestEnv::new();
    // Gives the server a terminal, whose output goes to a file. The end of the terminal alone does
    // not end the server: SIGHUP reloads.
    let transcript = env.home().join("transcript");
    let serve = format!(
        "exec setpriv --pdeathsig KILL {PROGRAM} serve --store memory: --http-bind 127.0.0.1:0 \
         --admin-token-recovery-code --admin-token-recovery-code-file {} {} {}",
        env.home().join("code").display(),
        RECOVERY[0],
        RECOVERY[1],
    );
    let _script = ChildGuard(
        needs::command(SCRIPT)
            .args(["--quiet", "--flush", "--command", &serve])
            .arg(&transcript)
            .env("HOME", env.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut text = String::new();
    eventually("the terminal shows the code", || {
        text = fs::read_to_string(&transcript).unwrap_or_default();
        text.contains("Recovery code: ") && text.ends_with('\n')
    });
    let code = fs::read_to_string(env.home().join("code")).unwrap();
    assert!(text.contains(&format!("Recovery code: {}\r\n", code.trim_end())), "{text}");
}

pub(crate) fn recovery_socket_in_directory_of_other_user_is_refused() {
    let env = TestEnv::new();
    let path = env.home().join("socket");
    chown(env.home(), Some(UNPRIVILEGED), None).unwrap();
    serve_socket(&TestEnv::new(), &path, &[]).run().assert_failed(
        1,
        &[
            "--admin-token-recovery-socket",
            &format!("belongs to another user (uid {UNPRIVILEGED}), which can replace the socket"),
        ],
    );
    chown(env.home(), Some(0), None).unwrap();
    serve_socket(&TestEnv::new(), &path, &[]).start().stop();
}

pub(crate) fn recovery_socket_rejects_other_uid() {
    let env = TestEnv::new();
    let path = env.home().join("socket");
    let server = serve_socket(&env, &path, &[]).start();
    server.create();
    let before = env.stored_catalog();
    let recover_unprivileged = || {
        let program = format!(
            "my $s = IO::Socket::UNIX->new(Peer => '{}') or do {{ print qq(cannot connect: $!); exit }}; \
             print $s qq(POST {REGENERATE} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n); print <$s>;",
            path.display()
        );
        let mut perl = needs::command(PERL);
        perl.args(["-MIO::Socket::UNIX", "-e", &program]).uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        String::from_utf8(perl.output().unwrap().stdout).unwrap()
    };
    // The other user can enter the directory, and the mode of the socket denies the connection.
    fs::set_permissions(env.home(), fs::Permissions::from_mode(0o711)).unwrap();
    assert_eq!(recover_unprivileged(), "cannot connect: Permission denied");
    // With an open mode the server rejects the uid that the kernel reports.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let response = recover_unprivileged();
    assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
    assert!(response.ends_with("the socket is for root and for the user of the server"), "{response}");
    assert_eq!(env.stored_catalog(), before);
    recover_at(&env, &path).run().token();
}

pub(crate) fn bootstrap_from_remote_address_is_forbidden() {
    let ip = needs::network_address().unwrap();
    // A listener that no loopback address reaches can never create the token.
    let unreachable = TestEnv::new();
    let address = SocketAddr::new(ip, 0).to_string();
    let server = unreachable.cli(["serve", "--store", "memory:", "--http-bind", &address]).start();
    server.wait_for_log("none can be created, as no client has a loopback address");
    drop(server);
    let env = TestEnv::new();
    let server = env.cli(["serve", "--http-bind", "0.0.0.0:0"]).arg("--data-dir").arg(env.data_dir());
    let server = server.start();
    let before = env.stored_catalog();
    let remote = SocketAddr::new(ip, server.address.port());
    env.create_token(remote, &[])
        .run()
        .assert_failed(1, &["on the machine of the server only", "--admin-token-bootstrap any"]);
    assert_eq!(env.stored_catalog(), before);
    let local = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let token = env.create_token(local, &[]).run().token();
    // Other endpoints accept remote clients.
    assert_eq!(get("/health").bearer(&token).send(remote).status, 200);
    post(CREATE).send(remote).assert_is(
        403,
        "the operator token can be created on the machine of the server only: \
        run there optoken create token --admin, or start the server with --admin-token-bootstrap any",
    );
}

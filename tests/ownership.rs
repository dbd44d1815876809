//! Files that other users can read, write or replace, and files that another program changes.
//! tests/external/ownership.rs has the cases that need other users.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::support::{TestEnv, create_named};

const TOKEN: &str = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn store_is_held_to_the_rules_of_the_data_directory() {
    let env = TestEnv::new();
    let directory = env.home().join("a directory");
    fs::create_dir(&directory).unwrap();
    let store = format!("sqlite:{}/tokens.db", directory.display());
    for bits in [0o777, 0o770, 0o1777] {
        set_mode(&directory, bits);
        let output = env.cli(["serve", "--http-bind", "127.0.0.1:0", "--store", &store]).run();
        let advice =
            format!("others can write to it (mode {bits:o}); run: chmod go-w '{}'", directory.display());
        output.assert_failed(1, &["cannot use the directory of the token store ", &advice]);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
    // A link to a file beside which other users can put the log of the database.
    symlink(directory.join("real.db"), env.home().join("tokens.db")).unwrap();
    let linked = format!("sqlite:{}/tokens.db", env.home().display());
    let output = env.cli(["serve", "--http-bind", "127.0.0.1:0", "--store", &linked]).run();
    output.assert_failed(1, &["others can write to ", "run: chmod go-w '"]);
    set_mode(&directory, 0o700);
    env.cli(["serve", "--http-bind", "127.0.0.1:0", "--store", &store]).start().stop();
}

#[test]
fn every_file_below_an_open_parent_is_refused() {
    let env = TestEnv::new();
    let parent = env.home().join("parent");
    let inner = parent.join("inner");
    fs::create_dir_all(&inner).unwrap();
    let file = inner.join("file");
    fs::write(&file, json!({ "token": TOKEN, "name": "_admin" }).to_string()).unwrap();
    set_mode(&file, 0o600);
    let path = |name: &str| inner.join(name).to_str().unwrap().to_owned();
    let (file, new) = (path("file"), path("new"));
    let store = format!("sqlite:{new}");
    let cases: [&[&str]; 10] = [
        &["--data-dir", &new],
        &["--store", &store],
        &["--admin-token-file", &file],
        &["--audit-log", &new],
        &["--component", &file],
        &["--tls-cert", &file, "--tls-key", &file],
        &["--tcp-listener-file-path", &new],
        &["--admin-token-recovery-socket", &new],
        &[
            "--admin-token-recovery-http-bind",
            "127.0.0.1:0",
            "--admin-token-recovery-tcp-listener-file-path",
            &new,
        ],
        &[
            "--admin-token-recovery-http-bind",
            "127.0.0.1:0",
            "--admin-token-recovery-code",
            "--admin-token-recovery-code-file",
            &new,
        ],
    ];
    for bits in [0o777, 0o775] {
        set_mode(&parent, bits);
        for args in cases {
            let output = env.cli(["serve", "--http-bind", "127.0.0.1:0"]).args(args).run();
            assert_eq!(output.code, Some(1), "{args:?}: {output:?}");
            let component = format!("others can write to {} (uid ", parent.display());
            let advice = format!(
                "mode 0{bits:o}), and replace what is there; choose another path, or run: chmod go-w "
            );
            for text in [&component, &advice] {
                assert!(output.stderr.contains(text.as_str()), "{args:?}: {}", output.stderr);
            }
            assert_eq!(fs::read_dir(&inner).unwrap().count(), 1, "{args:?}");
        }
        let output = env.cli(["show", "tokens", "--token-file", &file]).run();
        output.assert_failed(1, &["others can write to "]);
    }
    // Users can replace only their own files in a sticky directory.
    set_mode(&parent, 0o1777);
    let server = env.serve(&["--admin-token-file", &file, "--audit-log", &new]);
    assert!(server.accepts(TOKEN));
}

#[test]
fn new_files_have_their_modes_whatever_the_umask() {
    for umask in ["umask 000", "umask 777"] {
        let env = TestEnv::new();
        let path = |name: &str| env.home().join(name).to_str().unwrap().to_owned();
        let (audit, address, recovery, socket) =
            (path("audit"), path("address"), path("recovery"), path("socket"));
        let args = [
            ["--audit-log", &audit],
            ["--tcp-listener-file-path", &address],
            ["--admin-token-recovery-tcp-listener-file-path", &recovery],
            ["--admin-token-recovery-socket", &socket],
            ["--admin-token-recovery-http-bind", "127.0.0.1:0"],
        ];
        let server =
            env.serve_with(&args.concat()).args(&["--admin-token-recovery-code"]).after(umask).start();
        server.create();
        for (name, expected) in [
            (audit.as_str(), 0o600),
            (&address, 0o644),
            (&recovery, 0o644),
            (&socket, 0o600),
            (&path("socket.lock"), 0o600),
            (&path("data"), 0o700),
            (&path("data/tokens.db"), 0o600),
            (&path("data/tokens.db-wal"), 0o600),
            (&path("data/recovery-code"), 0o600),
        ] {
            assert_eq!(mode(Path::new(name)), expected, "{umask}: {name}");
        }
    }
}

#[test]
fn endless_secret_is_refused_in_time() {
    let env = TestEnv::new();
    let pipe = env.home().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let pipe = pipe.to_str().unwrap();
    for path in [pipe, "/dev/zero"] {
        let output = env.serve_with(&["--admin-token-file", path]).run();
        output.assert_failed(1, &["Failed to read admin token file: it is not a regular file"]);
    }
    let output = env.cli(["show", "tokens", "--timeout", "1s", "--token-file", pipe]).run();
    output.assert_failed(1, &["did not arrive within 1s"]);
    env.cli(["show", "tokens", "--token-file", "/dev/zero"])
        .run()
        .assert_failed(1, &["the token in /dev/zero is longer than 64 KiB"]);
    let output = env.serve_with(&["--tls-cert", "/dev/zero", "--tls-key", "/dev/zero"]).run();
    output.assert_failed(1, &["the TLS certificate /dev/zero is not a PEM file"]);
}

#[test]
fn audit_log_that_is_cut_while_written_stays_whole() {
    let env = TestEnv::new();
    let log = env.home().join("audit.jsonl");
    let args = ["--audit-log", log.to_str().unwrap()];
    let mut server = env.serve(&args);
    let token = server.create();
    for round in 0..4 {
        create_named(&token, &format!("a{round}")).send(server.address).token();
        let before = fs::read_to_string(&log).unwrap();
        // Within the last record, within an earlier one, everything.
        let left = [before.len() - 30, before.len() / 2, 0, 10][round];
        fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(left as u64).unwrap();
        create_named(&token, &format!("b{round}")).send(server.address).token();
        let after = fs::read_to_string(&log).unwrap();
        let whole = left == 0 || after.contains(&before);
        assert!(whole && after.lines().all(|line| line.ends_with('}')), "{round}: {after}");
        server.wait_for_log("another program has changed the audit log");
        server.stop();
        server = env.serve(&args);
        let output = env.cli(["audit", "verify"]).arg(&log).run();
        assert_eq!(output.code, Some(0), "{round}: {output:?}");
    }
}

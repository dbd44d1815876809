//! A new token in the file of `--admin-token-file` replaces the operator token of a running server.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Server, TestEnv, get, sha512_hex, within};

/// Tokens of 16 random bytes, as in the documentation (docs/compatibility.md 1.6).
const FIRST: &str = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";
const SECOND: &str = "apiv3_Zt9LwS4hXc6EoYdG1qNbVg";
const THIRD: &str = "apiv3_pR5jUa7KmF2sHiTe8xDyCw";

fn operator(token: &str) -> Value {
    json!({ "token": token, "name": "_admin" })
}

fn operator_hash(token: &str) -> Value {
    json!({ "token_sha512": sha512_hex(token), "name": "_admin" })
}

/// A server with this token file.
struct Preconfigured {
    server: Server,
    file: PathBuf,
    _env: TestEnv,
}

impl Preconfigured {
    fn start(content: &Value, args: &[&str]) -> Self {
        let env = TestEnv::new();
        let file = env.file("token.json", content.to_string().as_bytes());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let server = env.serve_with(&["--admin-token-file"]).arg(&file).args(args).start();
        Self { server, file, _env: env }
    }

    fn write(&self, content: &Value) {
        fs::write(&self.file, content.to_string()).unwrap();
    }

    /// Changes the file, and has the server read it.
    fn reload(&self, content: &Value) {
        self.write(content);
        self.server.signal(Signal::HUP);
    }

    /// Which of the three tokens are accepted.
    fn accepted(&self) -> [bool; 3] {
        [FIRST, SECOND, THIRD].map(|token| self.server.accepts(token))
    }

    fn wait_until_accepted(&self, token: &str) {
        // The file is compared every ten seconds.
        within(Duration::from_secs(90), "the new token is accepted", || self.server.accepts(token));
    }
}

#[test]
fn new_token_in_file_replaces_operator_token_at_signal() {
    let preconfigured = Preconfigured::start(&operator(FIRST), &[]);
    assert_eq!(preconfigured.accepted(), [true, false, false]);
    preconfigured.reload(&operator(SECOND));
    preconfigured.server.wait_for_log("the operator token was replaced by that of ");
    preconfigured.server.wait_for_log("the old one is refused");
    assert_eq!(preconfigured.accepted(), [false, true, false]);
    // By its hash, which is not secret.
    preconfigured.reload(&operator_hash(THIRD));
    preconfigured.wait_until_accepted(THIRD);
    assert_eq!(preconfigured.accepted(), [false, false, true]);

    let audit = get("/api/v3/configure/token/audit").bearer(THIRD).send(preconfigured.server.address);
    assert_eq!(audit.body.matches(r#""action":"replace","actor":"provision""#).count(), 2, "{audit:?}");
    assert!(
        audit.body.contains(&format!(r#""origin":"file {}""#, preconfigured.file.display())),
        "{audit:?}"
    );
    let rotations = r#"optoken_rotations_total{by="file"}"#;
    assert_eq!(preconfigured.server.metric(THIRD, rotations), 2);
}

#[test]
fn changed_file_is_noticed_without_a_signal() {
    let preconfigured = Preconfigured::start(&operator(FIRST), &[]);
    preconfigured.write(&operator(SECOND));
    preconfigured.wait_until_accepted(SECOND);
    assert_eq!(preconfigured.accepted(), [false, true, false]);
}

/// The kubelet mounts a secret as links to a directory, and replaces one of them.
#[test]
fn replaced_secret_of_kubernetes_is_noticed() {
    let env = TestEnv::new();
    let volume = env.home().join("volume");
    let data = |name: &str, token: &str| {
        let directory = volume.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("token.json"), operator_hash(token).to_string()).unwrap();
    };
    data("..2026_01", FIRST);
    symlink("..2026_01", volume.join("..data")).unwrap();
    symlink("..data/token.json", volume.join("token.json")).unwrap();
    let server = env.serve_with(&["--admin-token-file"]).arg(volume.join("token.json")).start();
    assert!(server.accepts(FIRST));
    data("..2026_02", SECOND);
    symlink("..2026_02", volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    fs::remove_dir_all(volume.join("..2026_01")).unwrap();
    within(Duration::from_secs(90), "the new token is accepted", || server.accepts(SECOND));
    assert!(!server.accepts(FIRST));
}

#[test]
fn earlier_token_is_accepted_during_overlap() {
    let preconfigured = Preconfigured::start(&operator(FIRST), &["--admin-token-file-overlap", "1h"]);
    preconfigured.reload(&operator(SECOND));
    preconfigured.server.wait_for_log("the old one is accepted for 1h more (--admin-token-file-overlap)");
    assert_eq!(preconfigured.accepted(), [true, true, false]);
    // One former token is accepted at a time.
    preconfigured.reload(&operator(THIRD));
    preconfigured.wait_until_accepted(THIRD);
    assert_eq!(preconfigured.accepted(), [false, true, true]);
}

#[test]
fn file_that_is_rolled_back_is_refused() {
    let preconfigured = Preconfigured::start(&operator(FIRST), &["--admin-token-file-overlap", "1h"]);
    preconfigured.reload(&operator(SECOND));
    preconfigured.wait_until_accepted(SECOND);
    preconfigured.reload(&operator(FIRST));
    preconfigured.server.wait_for_log("its token was the operator token before, and is revoked");
    // Still in its overlap, and not the operator.
    assert_eq!(preconfigured.accepted(), [true, true, false]);
    // A new token goes on from there.
    preconfigured.reload(&operator(THIRD));
    preconfigured.wait_until_accepted(THIRD);
    assert_eq!(preconfigured.accepted(), [false, true, true]);
}

#[test]
fn token_of_a_command_stays() {
    let preconfigured = Preconfigured::start(&operator(FIRST), &[]);
    let by_command = preconfigured.server.regenerate(FIRST);
    preconfigured.reload(&operator(SECOND));
    preconfigured.server.wait_for_log("WARN Admin token '_admin' already exists with another secret");
    assert!(preconfigured.server.accepts(&by_command));
    assert_eq!(preconfigured.accepted(), [false; 3]);
    // From the moment on at which the file has the current token, it is in charge again.
    preconfigured.reload(&operator(&by_command));
    preconfigured.server.wait_for_log("Admin token '_admin' already exists, skipping initialization");
    preconfigured.reload(&operator(THIRD));
    preconfigured.wait_until_accepted(THIRD);
    assert!(!preconfigured.server.accepts(&by_command));
}

#[test]
fn file_that_differs_at_the_start_replaces_nothing() {
    let env = TestEnv::new();
    let file = env.file("token.json", operator_hash(FIRST).to_string().as_bytes());
    env.serve_with(&["--admin-token-file"]).arg(&file).start().stop();
    write(&file, &operator_hash(SECOND));
    let server = env.serve_with(&["--admin-token-file"]).arg(&file).start();
    server.wait_for_log("WARN Admin token '_admin' already exists with another secret");
    write(&file, &operator_hash(THIRD));
    server.signal(Signal::HUP);
    within(Duration::from_secs(90), "the file is read again", || {
        server.log().matches("already exists with another secret").count() == 2
    });
    assert_eq!([FIRST, SECOND, THIRD].map(|token| server.accepts(token)), [true, false, false]);
}

#[test]
fn unusable_file_changes_nothing() {
    let preconfigured = Preconfigured::start(&operator(FIRST), &[]);
    for (content, message) in [
        (json!("apiv3_"), "Failed to parse admin token file as JSON"),
        (operator("apiv3_password-password-password"), "the token is too weak"),
        (json!({ "token_sha512": "f9d9", "name": "_admin" }), "128 lower-case hexadecimal digits"),
    ] {
        preconfigured.reload(&content);
        preconfigured.server.wait_for_log(message);
        preconfigured.server.wait_for_log(&format!("cannot use {}", preconfigured.file.display()));
        assert_eq!(preconfigured.accepted(), [true, false, false]);
    }
    preconfigured.reload(&operator(SECOND));
    preconfigured.wait_until_accepted(SECOND);
}

fn write(file: &Path, content: &Value) {
    fs::write(file, content.to_string()).unwrap();
}

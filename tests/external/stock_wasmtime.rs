//! The components of a directory in unmodified wasmtime: a catalog never goes back.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::conformance;
use crate::support;

/// Directories of a node: its catalog, and its high-water mark.
struct Node {
    wasmtime: PathBuf,
    data: TempDir,
    state: TempDir,
    /// Whether the runtime opens a directory for the mark alone.
    separate: bool,
}

impl Node {
    fn new(separate: bool) -> Self {
        let (data, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Self { wasmtime: conformance::wasmtime(), data, state, separate }
    }

    fn wasmtime(&self, arguments: &[&str], component: &str) -> Command {
        let mut command = Command::new(&self.wasmtime);
        command.args(arguments).arg("--dir").arg(format!("{}::/data", self.data.path().display()));
        if self.separate {
            command.arg("--dir").arg(format!("{}::/state", self.state.path().display()));
        }
        let prebuilt = Path::new(env!("CARGO_MANIFEST_DIR")).join("../component/prebuilt");
        command.arg(prebuilt.join(component));
        command
    }

    /// Runs a command line of `optoken-cli`, with this token on standard input.
    fn cli(&self, line: &str, token: &str) -> Output {
        let mut command = self.wasmtime(&["run"], "optoken-cli.wasm");
        command.args(line.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads no token closes its standard input.
        let _ = child.stdin.take().unwrap().write_all(token.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Returns the `ok` of a command.
    #[track_caller]
    fn ok(&self, line: &str, token: &str) -> Value {
        let output = self.cli(&format!("--json {line}"), token);
        assert!(output.status.success(), "{line}: {output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        result["ok"].clone()
    }

    /// Returns the secret that a command creates.
    #[track_caller]
    fn secret(&self, line: &str, token: &str) -> String {
        self.ok(line, token)["secret"].as_str().unwrap().to_owned()
    }

    /// Asserts that a command is refused with these texts, in words for people.
    #[track_caller]
    fn assert_refused(&self, line: &str, token: &str, texts: &[&str]) {
        let output = self.cli(line, token);
        assert!(!output.status.success(), "{line}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        for text in texts {
            assert!(stderr.contains(text), "{line}: no {text:?} in {stderr}");
        }
        assert_eq!(output.stdout, b"", "{line}");
    }

    fn catalog(&self) -> PathBuf {
        self.data.path().join("catalog")
    }

    fn mark(&self) -> PathBuf {
        if self.separate { self.state.path() } else { self.data.path() }.join("high-water")
    }

    fn back_up(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.catalog(), copy.path());
        copy
    }

    fn restore(&self, copy: &TempDir) {
        let _ = fs::remove_dir_all(self.catalog());
        fs::create_dir(self.catalog()).unwrap();
        copy_files(copy.path(), &self.catalog());
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

pub(crate) fn restored_catalog_is_refused_and_accepted_once() {
    for separate in [false, true] {
        let node = Node::new(separate);
        let leaked = node.secret("create", "");
        let copy = node.back_up();
        let current = node.secret("regenerate", &leaked);
        assert!(node.mark().exists());
        node.restore(&copy);
        let found =
            ["found change 1 of a catalog", "expected change 2 of a catalog", "--accept-catalog-at 1"];
        for (line, token) in [
            ("authenticate", leaked.as_str()),
            ("regenerate", &leaked),
            ("recover", ""),
            ("create", ""),
            ("check", ""),
        ] {
            node.assert_refused(line, token, &found);
        }

        // The old operator token does not come back with the catalog.
        let restored = node.secret("--accept-catalog-at 1 recover --reason restore", "");
        assert_eq!(node.ok("--accept-catalog-at 1 authenticate", &restored)["kind"], "operator");
        assert!(!node.cli("authenticate", &leaked).status.success());
        assert!(!node.cli("authenticate", &current).status.success());
        assert!(node.ok("audit", "").to_string().contains(r#"\"action\":\"restore\""#));

        node.restore(&copy);
        for line in ["check", "--accept-catalog-at 1 check", "--accept-catalog-at 1 recover"] {
            node.assert_refused(line, "", &["counts once", "high-water"]);
        }
    }
}

pub(crate) fn missing_catalog_is_refused() {
    for separate in [false, true] {
        let node = Node::new(separate);
        let token = node.secret("create", "");
        fs::remove_dir_all(node.catalog()).unwrap();
        node.assert_refused("create", "", &["found no catalog", "--accept-catalog-at 0"]);
        node.assert_refused("authenticate", &token, &["found no catalog"]);
        assert!(!node.catalog().exists());
        fs::create_dir(node.catalog()).unwrap();
        node.assert_refused("create", "", &["holds no version of the catalog"]);
        fs::remove_dir(node.catalog()).unwrap();
        node.secret("--accept-catalog-at 0 create", "");
        fs::remove_dir_all(node.catalog()).unwrap();
        node.assert_refused("--accept-catalog-at 0 create", "", &["counts once"]);
    }
}

/// `wasmtime serve`, which ends with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(node: &Node, environment: &[&str]) -> Self {
        let mut arguments = vec!["serve", "-Scli", "--addr", "127.0.0.1:0"];
        arguments.extend(environment.iter().flat_map(|variable| ["--env", variable]));
        let mut command = node.wasmtime(&arguments, "optoken-http.wasm");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| {
            let (_, url) = line.split_once("Serving HTTP on http://")?;
            url.trim_end_matches('/').parse().ok()
        });
        let address = address.expect("wasmtime prints no address");
        // A full pipe would block the server.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// Returns the status of a request with this token.
    fn status(&self, method: &str, path: &str, token: &str) -> u16 {
        support::request(method, path).to(self.address).bearer(token).send(self.address).status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn restored_catalog_is_refused_over_http() {
    const ADMIN: &str = "/api/v3/configure/token/admin";
    const REGENERATE: &str = "/api/v3/configure/token/admin/regenerate";
    let node = Node::new(true);
    let leaked = node.secret("create", "");
    let copy = node.back_up();
    let current = node.secret("regenerate", &leaked);
    let server = Server::start(&node, &["OPTOKEN_BOOTSTRAP=any"]);
    assert_eq!(server.status("GET", "/api/v3/verify", &current), 200);
    node.restore(&copy);
    assert_eq!(server.status("GET", "/api/v3/verify", &leaked), 503);
    assert_eq!(server.status("POST", REGENERATE, &leaked), 503);
    fs::remove_dir_all(node.catalog()).unwrap();
    assert_eq!(server.status("POST", ADMIN, ""), 503);
    assert!(!node.catalog().exists());
    drop(server);

    node.restore(&copy);
    let accepting = ["OPTOKEN_ACCEPT_CATALOG_AT=1"];
    let server = Server::start(&node, &accepting);
    assert_eq!(server.status("GET", "/api/v3/verify", &leaked), 200);
    assert_eq!(server.status("POST", REGENERATE, &leaked), 201);
    assert_eq!(server.status("GET", "/api/v3/verify", &leaked), 401);
    node.restore(&copy);
    assert_eq!(server.status("GET", "/api/v3/verify", &leaked), 503);
    drop(server);
    assert_eq!(Server::start(&node, &accepting).status("GET", "/api/v3/verify", &leaked), 503);
    let invalid = Server::start(&node, &["OPTOKEN_ACCEPT_CATALOG_AT=newest"]);
    assert_eq!(invalid.status("GET", "/api/v3/verify", &leaked), 503);
}

/// A mount is a property of the kernel that only root may change.
pub(crate) fn read_only_mount_is_reported() {
    let node = Node::new(false);
    let token = node.secret("create", "");
    let path = node.data.path();
    let mount = |arguments: &[&str]| {
        assert!(Command::new("mount").args(arguments).arg(path).status().unwrap().success());
    };
    mount(&["--bind", path.to_str().unwrap()]);
    mount(&["-o", "remount,ro,bind"]);
    let change = node.cli("regenerate", &token);
    let check = node.cli("authenticate", &token);
    assert!(Command::new("umount").arg(path).status().unwrap().success());
    let stderr = String::from_utf8_lossy(&change.stderr);
    assert!(!change.status.success() && stderr.contains("mounted read-only"), "{stderr}");
    assert!(stderr.contains("Nothing was changed."), "{stderr}");
    assert!(check.status.success(), "{check:?}");
}

//! The prebuilt components are built from the sources of this checkout, and `component/build`
//! rejects others.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::needs::{self, BASH};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn prebuilt_components_match_sources() {
    // Compares hashes, which needs no compiler for wasm. CI also builds the components again.
    let script = root().join("component/build");
    let check = needs::command(BASH).arg(script).arg("--check").output().unwrap();
    let stderr = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "the component is out of date:\n{stderr}");
}

/// A copy of the checkout, and of the components as the pinned compiler builds them.
struct Checkout {
    directory: TempDir,
}

impl Checkout {
    fn new() -> Self {
        let checkout = Self { directory: tempfile::tempdir().unwrap() };
        for entry in fs::read_dir(root()).unwrap() {
            let entry = entry.unwrap();
            if ![".git", "target"].map(Into::into).contains(&entry.file_name()) {
                copy(&entry.path(), &checkout.directory.path().join(entry.file_name()));
            }
        }
        copy(&checkout.file("component/prebuilt"), &checkout.file("built"));
        fs::copy(checkout.file("component/toolchain.toml"), checkout.file("built/toolchain.toml")).unwrap();
        checkout
    }

    fn file(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Replaces a text that occurs once.
    fn replace(&self, path: &str, from: &str, to: &str) {
        let file = self.file(path);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{path}: {from}");
        fs::write(file, text.replace(from, to)).unwrap();
    }

    /// Flips a bit in the middle of a component. Returns the hashes before and after.
    fn flip(&self, path: &str) -> [String; 2] {
        let mut bytes = fs::read(self.file(path)).unwrap();
        let before = hex_digest(&bytes);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(self.file(path), &bytes).unwrap();
        [before, hex_digest(&bytes)]
    }

    /// Replaces the program that plays the conformance cases. It notes its argument, and fails for
    /// the directory of this name.
    fn stub_player(&self, fails_for: &str) {
        let player = self.file("tests/conformance/play");
        let script = format!(
            "#!/bin/sh\nbasename \"$1\" >>'{}'\n[ \"$(basename \"$1\")\" != '{fails_for}' ]\n",
            self.file("played").display()
        );
        fs::write(&player, script).unwrap();
    }

    /// Runs `component/build --verify`. Returns its exit status and its output.
    fn verify(&self, ci: bool, args: &[&str]) -> (i32, String) {
        let mut command = needs::command(BASH);
        command.arg(self.file("component/build")).arg("--verify").args(args);
        command.env("CARGO_TARGET_DIR", self.file("target"));
        self.finish(command, ci)
    }

    fn finish(&self, mut command: Command, ci: bool) -> (i32, String) {
        command.env_remove("CI").current_dir(self.directory.path());
        if ci {
            command.env("CI", "true");
        }
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

const BUILT: [&str; 2] = ["--built", "built"];
const MANIFEST: &str = "component/prebuilt/manifest.toml";

/// A change of a checkout.
type Change = fn(&Checkout);

pub(crate) fn changed_components_fail_verification() {
    let (status, output) = Checkout::new().verify(true, &BUILT);
    assert!(status == 0 && output.contains("verified: of these sources"), "{status}: {output}");

    let changes: [(Change, &str); 5] = [
        // Without the pin, the manifest would choose the compiler that verifies it.
        (
            |checkout| checkout.replace(MANIFEST, "\nrustc = \"rustc 1.", "\nrustc = \"rustc 9."),
            "names another toolchain",
        ),
        (|checkout| checkout.replace(MANIFEST, "\ncommit = \"", "\ncommit = \"0"), "names another toolchain"),
        (
            |checkout| {
                let [before, after] = checkout.flip("component/prebuilt/optoken.wasm");
                checkout.replace(MANIFEST, &before, &after);
            },
            "makes other bytes",
        ),
        (
            |checkout| {
                checkout.flip("component/prebuilt/optoken-http.wasm");
            },
            "optoken-http.wasm is not the one that",
        ),
        (
            |checkout| fs::write(checkout.file("wit/more.wit"), "").unwrap(),
            "the sources of the components are not",
        ),
    ];
    for (change, reason) in changes {
        let checkout = Checkout::new();
        checkout.stub_player("");
        change(&checkout);
        for ci in [true, false] {
            let (status, output) = checkout.verify(ci, &BUILT);
            assert!(status == 1 && output.contains(reason), "{reason}: {status}: {output}");
        }
        assert!(!checkout.file("played").exists(), "{reason}");
    }
}

pub(crate) fn other_compiler_compares_behaviour() {
    for (fails_for, status, played) in
        [("", 0, "prebuilt\nbuilt\n"), ("prebuilt", 1, "prebuilt\n"), ("built", 1, "prebuilt\nbuilt\n")]
    {
        let checkout = Checkout::new();
        checkout.stub_player(fails_for);
        checkout.replace("built/toolchain.toml", "\nrustc = \"rustc 1.", "\nrustc = \"rustc 9.");
        let hashes = checkout.flip("built/optoken.wasm");
        let (exit, output) = checkout.verify(true, &BUILT);
        assert_eq!(exit, status, "{output}");
        assert_eq!(fs::read_to_string(checkout.file("played")).unwrap(), played, "{output}");
        for hash in hashes {
            assert!(output.contains(&hash), "{output}");
        }
        assert!(output.contains("here    rustc 9."), "{output}");
        assert_eq!(output.contains("component/build --pin"), status == 0, "{output}");
        assert!(!output.contains("verified"), "{output}");
    }
}

pub(crate) fn verification_without_compiler_fails() {
    let checkout = Checkout::new();
    // A toolchain without the target, and no compiler of Debian.
    let script = fs::read_to_string(checkout.file("component/build")).unwrap();
    fs::write(checkout.file("component/build"), script.replace("/usr/bin/rustc", "/nonexistent/rustc"))
        .unwrap();
    fs::create_dir(checkout.file("bin")).unwrap();
    for program in ["rustc", "cargo"] {
        let file = checkout.file("bin").join(program);
        fs::write(&file, "#!/bin/sh\necho /nonexistent\n").unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:/usr/bin:/bin", checkout.file("bin").display());
    for (ci, args, status) in [
        (true, &[][..], 1),
        (true, &["--allow-missing"], 1),
        (false, &[], 3),
        (false, &["--allow-missing"], 0),
    ] {
        let mut command = needs::command(BASH);
        command.arg(checkout.file("component/build")).arg("--verify").args(args).env("PATH", &path);
        let (exit, output) = checkout.finish(command, ci);
        assert_eq!(exit, status, "{ci} {args:?}: {output}");
        assert!(output.contains("NOT VERIFIED"), "{output}");
    }
}

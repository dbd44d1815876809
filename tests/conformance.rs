//! The conformance suite, played in every host: `tests/conformance/README.md` says what a case and a runner are.
//!
//! Hosts that are fetched from package registries play only when they are asked to: `tests/embed/run` does that.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "conformance/judge.rs"]
mod judge;
#[path = "conformance/native.rs"]
mod native;
#[path = "embed/rust/src/cases.rs"]
mod rust;

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use self::judge::{Case, Played, cases_dir};

#[test]
fn the_native_core_conforms() {
    if env::var_os("BLESS").is_some() {
        judge::bless(native::play);
    }
    judge::judge("the native core", |cases| cases.iter().map(native::play).collect());
}

#[test]
fn the_component_conforms_in_our_sandbox() {
    judge::judge("the component in Rust", |_| {
        let host = rust::Host::new().unwrap();
        let directories = rust::directories(&cases_dir()).unwrap();
        let lines = directories.iter().map(|case| host.play(case).unwrap());
        lines.map(|line| serde_json::from_value(line).unwrap()).collect()
    });
}

#[test]
#[ignore = "fetches jco from npm; run by tests/embed/run"]
fn the_component_conforms_in_node() {
    judge::judge("the component in Node", |cases| embedded("node", cases));
}

#[test]
#[ignore = "fetches wasmtime from PyPI; run by tests/embed/run"]
fn the_component_conforms_in_python() {
    judge::judge("the component in Python", |cases| embedded("python", cases));
}

#[test]
#[ignore = "fetches wasmtime from PyPI; run by tests/embed/run"]
fn the_same_core_conforms_under_stock_wasmtime() {
    judge::judge("optoken-cli under stock wasmtime", |cases| embedded("stock", cases));
}

/// Lets a host play all cases, with its script in `tests/embed`.
fn embedded(host: &str, cases: &[Case]) -> Vec<Played> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/embed").join(host).join("run");
    let played = Command::new(script)
        .arg("cases")
        .arg(cases_dir())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{host}: {error}"));
    let lines = String::from_utf8(played.stdout).unwrap();
    assert!(
        played.status.success(),
        "{host} gave up after {} of {} cases",
        lines.lines().count(),
        cases.len()
    );
    let played = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    played.collect()
}

//! The conformance suite, played in every host: `tests/conformance/README.md` says what a case and a runner are.
//!
//! Hosts that are fetched from package registries play only when they are asked to: `tests/embed/run` does that.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "conformance/authority.rs"]
mod authority;
#[path = "embed/rust/src/faults.rs"]
mod faults;
#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/native.rs"]
mod native;
#[path = "embed/rust/src/cases.rs"]
mod rust;

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use self::harness::{Case, CaseResult, Host, HostCapabilities, Run, Times};

#[test]
fn the_native_core_conforms() {
    if env::var_os("BLESS").is_some() {
        harness::bless(native::play);
    }
    let host = Host {
        name: "the native core",
        capabilities: HostCapabilities::Everything,
        runs_component: false,
        normalize: Value::clone,
    };
    harness::judge(&host, |run| each(run, native::play));
}

#[test]
fn the_component_conforms_in_our_sandbox() {
    let host = Host {
        name: "our Authority",
        capabilities: HostCapabilities::StoreForCommands,
        runs_component: true,
        normalize: authority::normalize,
    };
    let runner = authority::Runner::new();
    harness::judge(&host, |run| each(run, |case| runner.play(case)));
}

#[test]
fn the_component_conforms_in_an_engine_of_ones_own() {
    let host = Host {
        name: "an engine of one's own",
        capabilities: HostCapabilities::Everything,
        runs_component: true,
        normalize: Value::clone,
    };
    let runner = rust::Host::new().unwrap();
    harness::judge(&host, |run| {
        each(run, |case| serde_json::from_value(runner.play(&case.directory).unwrap()).unwrap())
    });
}

#[test]
#[ignore = "fetches jco from npm; run by tests/embed/run"]
fn the_component_conforms_in_node() {
    let host = Host {
        name: "Node",
        capabilities: HostCapabilities::Everything,
        runs_component: true,
        normalize: Value::clone,
    };
    harness::judge(&host, |run| embedded("node", run));
}

#[test]
#[ignore = "fetches wasmtime from PyPI; run by tests/embed/run"]
fn the_component_conforms_in_python() {
    let host = Host {
        name: "Python",
        capabilities: HostCapabilities::Everything,
        runs_component: true,
        normalize: Value::clone,
    };
    harness::judge(&host, |run| embedded("python", run));
}

#[test]
#[ignore = "fetches wasmtime from PyPI; run by tests/embed/run"]
fn the_same_core_conforms_under_stock_wasmtime() {
    let host = Host {
        name: "optoken-cli under stock wasmtime",
        capabilities: HostCapabilities::Nothing,
        runs_component: false,
        normalize: Value::clone,
    };
    harness::judge(&host, |run| embedded("wasmtime", run));
}

#[test]
fn what_the_contract_does_not_have_is_not_played() {
    for call in IMPOSSIBLE {
        let below = impossible(call);
        let case = Case::read(below.path().join("impossible"));
        let runner = authority::Runner::new();
        assert!(catch_unwind(|| native::play(&case)).is_err(), "native: {call}");
        assert!(catch_unwind(AssertUnwindSafe(|| runner.play(&case))).is_err(), "Authority: {call}");
        assert!(rust::Host::new().unwrap().play(&case.directory).is_err(), "an engine of one's own: {call}");
    }
}

#[test]
#[ignore = "fetches from npm and PyPI; run by tests/embed/run"]
fn what_the_contract_does_not_have_is_not_played_elsewhere() {
    for (call, host) in
        IMPOSSIBLE.iter().flat_map(|call| ["node", "python", "wasmtime"].map(|host| (call, host)))
    {
        let result = Command::new(script(host)).arg("cases").arg(impossible(call).path()).output().unwrap();
        assert!(!result.status.success(), "{host}: {call}");
    }
}

#[test]
fn embedding_guide_has_the_number_of_cases_and_calls() {
    let guide = include_str!("../docs/embedding.md").split_whitespace().collect::<Vec<_>>();
    let documented = guide.windows(5).find_map(|words| match words {
        [cases, "cases", "with", calls, last] if last.starts_with("calls") => {
            Some((cases.parse().ok()?, calls.parse().ok()?))
        }
        _ => None,
    });
    let cases = harness::read_cases();
    assert_eq!(documented, Some((cases.len(), harness::count_calls(&cases))));
}

/// An argument too many, one too few, and a function that there is not.
const IMPOSSIBLE: [&str; 3] = [
    r#"{ "call": "tokens.create-operator", "args": ["conformance", "conformance"] }"#,
    r#"{ "call": "tokens.create-operator", "args": [] }"#,
    r#"{ "call": "tokens.create", "args": ["conformance"] }"#,
];

/// A directory of the one case `impossible`.
fn impossible(call: &str) -> TempDir {
    let below = tempfile::tempdir().unwrap();
    fs::create_dir(below.path().join("impossible")).unwrap();
    fs::write(below.path().join("impossible/calls.json"), format!("[{call}]")).unwrap();
    below
}

/// The script in `tests/embed` that lets a host play.
fn script(host: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/embed").join(host).join("run")
}

/// Lets a host in this process play one case after the other.
fn each(run: &Run, play: impl Fn(&Case) -> CaseResult) -> Vec<(CaseResult, Times)> {
    let timed = |case| {
        let from = SystemTime::now();
        (play(case), Times::since(from))
    };
    run.cases.iter().map(timed).collect()
}

/// Lets a host play cases with its script in `tests/embed`.
fn embedded(host: &str, run: &Run) -> Vec<(CaseResult, Times)> {
    // What has to be fetched and compiled first takes no part in any case.
    let none = tempfile::tempdir().unwrap();
    let prepared = Command::new(script(host)).arg("cases").arg(none.path()).status();
    assert!(
        prepared.unwrap_or_else(|error| panic!("{host}: {error}")).success(),
        "{host} cannot be made ready"
    );

    let began = SystemTime::now();
    let mut playing = Command::new(script(host))
        .arg("cases")
        .arg(&run.directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{host}: {error}"));
    let lines = BufReader::new(playing.stdout.take().unwrap()).lines().map(Result::unwrap);
    let result: Vec<_> = lines
        .map(|line| {
            let result: CaseResult =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let started = result.started.map(|at| SystemTime::UNIX_EPOCH + Duration::from_millis(at));
            let times = Times::since(started.map_or(began, |started| started.max(began)));
            (result, times)
        })
        .collect();
    let status = playing.wait().unwrap();
    assert!(status.success(), "{host} gave up after {} of {} cases", result.len(), run.cases.len());
    result
}

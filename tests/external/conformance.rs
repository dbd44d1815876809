//! The conformance cases in the hosts of tests/embed, each through its `run` script.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{self, CaseResult, Host, HostCapabilities, INVALID_CALLS, Run, Times, invalid_case};
use crate::needs::{self, Need};

/// The component in Node.
pub(crate) const NODE: Host = Host {
    name: "node",
    capabilities: HostCapabilities::Everything,
    runs_component: true,
    normalize: Value::clone,
};

/// The component in Python.
pub(crate) const PYTHON: Host = Host {
    name: "python",
    capabilities: HostCapabilities::Everything,
    runs_component: true,
    normalize: Value::clone,
};

/// `optoken-cli` in unmodified wasmtime.
pub(crate) const WASMTIME: Host = Host {
    name: "wasmtime",
    capabilities: HostCapabilities::Nothing,
    runs_component: false,
    normalize: Value::clone,
};

/// What the script of a host needs.
pub(crate) fn need(host: &Host) -> Need {
    if host.name == "node" { needs::NODE } else { needs::PYTHON }
}

pub(crate) fn host_conforms(host: &Host) {
    harness::assert_conforms(host, |run| play(host.name, run));
}

pub(crate) fn host_rejects_invalid_calls(host: &Host) {
    prepare(host.name);
    for call in INVALID_CALLS {
        let output =
            Command::new(script(host.name)).arg("cases").arg(invalid_case(call).path()).output().unwrap();
        assert!(!output.status.success(), "{call}");
    }
}

fn script(host: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/embed").join(host).join("run")
}

/// Lets a script fetch and compile what its host needs, which takes no part in the time of a case.
fn prepare(host: &'static str) {
    let none = tempfile::tempdir().unwrap();
    needs::prepare_once(Command::new(script(host)).arg("cases").arg(none.path()));
}

/// Returns the program of unmodified wasmtime, which is fetched first.
pub(crate) fn wasmtime() -> PathBuf {
    prepare(WASMTIME.name);
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let versions = fs::read_dir(target.join("embed-wasmtime/lib")).unwrap();
    let programs = versions
        .map(|entry| entry.unwrap().path().join("site-packages/wasmtime_cli/wasmtime"))
        .find(|program| program.exists());
    programs.expect("the package has no program")
}

/// Lets a host play cases with its script.
fn play(host: &'static str, run: &Run) -> Vec<(CaseResult, Times)> {
    prepare(host);
    let started = SystemTime::now();
    let mut runner = Command::new(script(host))
        .arg("cases")
        .arg(&run.directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{host}: {error}"));
    let lines = BufReader::new(runner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let results: Vec<_> = lines
        .map(|line| {
            let result: CaseResult =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let case_started = result.started.map(|at| SystemTime::UNIX_EPOCH + Duration::from_millis(at));
            let times = Times::since(case_started.map_or(started, |at| at.max(started)));
            (result, times)
        })
        .collect();
    let status = runner.wait().unwrap();
    assert!(status.success(), "{host} fails after {} of {} cases", results.len(), run.cases.len());
    results
}

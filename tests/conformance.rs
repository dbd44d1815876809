//! The conformance suite in the hosts of this process. tests/conformance/README.md defines cases
//! and runners.
//!
//! tests/external plays the same cases in Node, Python and unmodified wasmtime.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "conformance/authority.rs"]
mod authority;
#[path = "embed/rust/src/faults.rs"]
mod faults;
#[allow(dead_code, reason = "each test crate uses a part")]
#[path = "conformance/harness.rs"]
mod harness;
#[path = "conformance/native.rs"]
mod native;
#[path = "embed/rust/src/cases.rs"]
mod rust;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use serde_json::Value;

use self::harness::{Case, CaseResult, Host, HostCapabilities, INVALID_CALLS, Run, Times, invalid_case};

#[test]
fn native_core_conforms() {
    if env::var_os("BLESS").is_some() {
        harness::bless(native::play);
    }
    let host = Host {
        name: "native core",
        capabilities: HostCapabilities::Everything,
        runs_component: false,
        normalize: Value::clone,
    };
    harness::assert_conforms(&host, |run| play_each(run, native::play));
}

#[test]
fn component_in_authority_conforms() {
    let host = Host {
        name: "Authority",
        capabilities: HostCapabilities::StoreForCommands,
        runs_component: true,
        normalize: authority::normalize,
    };
    let runner = authority::Runner::new();
    harness::assert_conforms(&host, |run| play_each(run, |case| runner.play(case)));
}

#[test]
fn component_in_foreign_engine_conforms() {
    let host = Host {
        name: "foreign engine",
        capabilities: HostCapabilities::Everything,
        runs_component: true,
        normalize: Value::clone,
    };
    let runner = rust::Host::new(&harness::component()).unwrap();
    harness::assert_conforms(&host, |run| {
        play_each(run, |case| serde_json::from_value(runner.play(&case.directory).unwrap()).unwrap())
    });
}

#[test]
fn invalid_calls_are_rejected() {
    for call in INVALID_CALLS {
        let below = invalid_case(call);
        let case = Case::read(below.path().join("invalid"));
        let runner = authority::Runner::new();
        assert!(catch_unwind(|| native::play(&case)).is_err(), "native core: {call}");
        assert!(catch_unwind(AssertUnwindSafe(|| runner.play(&case))).is_err(), "Authority: {call}");
        assert!(
            rust::Host::new(&harness::component()).unwrap().play(&case.directory).is_err(),
            "foreign engine: {call}"
        );
    }
}

#[test]
fn embedding_guide_has_number_of_cases_and_calls() {
    let guide = include_str!("../docs/embedding.md").split_whitespace().collect::<Vec<_>>();
    let numbers = guide.windows(5).find_map(|words| match words {
        [cases, "cases", "with", calls, last] if last.starts_with("calls") => {
            Some((cases.parse().ok()?, calls.parse().ok()?))
        }
        _ => None,
    });
    let cases = harness::read_cases();
    assert_eq!(numbers, Some((cases.len(), harness::count_calls(&cases))));
}

/// Lets a host in this process play one case after the other.
fn play_each(run: &Run, play: impl Fn(&Case) -> CaseResult) -> Vec<(CaseResult, Times)> {
    let timed = |case| {
        let from = SystemTime::now();
        (play(case), Times::since(from))
    };
    run.cases.iter().map(timed).collect()
}

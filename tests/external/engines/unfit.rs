//! Engines that must be refused, and a client that must not be used.

use std::process::Command;

use optoken::store::{ObjectStore, Store as _, SwapOutcome};

use super::http_fault::{HttpFault, HttpPlan, HttpProxy};
use super::object_endpoint::{Conditions, Endpoint};
use super::{Directory, ENVIRONMENT, Port, Process, fresh_name, moto, s3, until_ready};
use crate::needs::{self, S3RVER};
use crate::support::TestEnv;

/// The only key that s3rver knows, and its secret.
const S3RVER_KEY: &str = "S3RVER";

/// It ignores conditions.
pub(crate) fn s3rver_is_refused_by_name() {
    let directory = Directory::new();
    let port = Port::any();
    let mut command = Command::new(needs::path(S3RVER));
    command.arg("--directory").arg(directory.path()).args(["--address", "127.0.0.1"]);
    command.args(["--port", &port.number().to_string(), "--configure-bucket", "optoken"]);
    let process = Process::start("s3rver", directory.path(), &command);
    let is_open = || std::net::TcpStream::connect(port.address()).is_ok();
    until_ready("s3rver listens", &[&process], is_open);
    let url = s3::url(&fresh_name(), &[port.address()]);
    assert_refused(&url, S3RVER_KEY, "first write", "a second first write was accepted");
}

/// One by one, it does all right. Its races have several winners.
pub(crate) fn endpoint_that_checks_and_then_writes_is_refused_by_name() {
    let endpoint = Endpoint::start(Conditions::CheckedThenWritten);
    let url = s3::url(&fresh_name(), &[endpoint.address]);
    assert_refused(&url, "any", "race", "writers that expected the same state won at once");
}

/// Asserts that no command uses this store, and that each names it with what it did.
fn assert_refused(url: &str, key: &str, check: &str, found: &str) {
    let env = TestEnv::new();
    let with_key =
        |cli: crate::support::Cli| cli.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", key);
    let table = with_key(env.cli(["store", "check", url])).run();
    assert_eq!(table.code, Some(1), "{} {}", table.stdout, table.stderr);
    let row = table.stdout.lines().find(|line| line.starts_with(&format!("| {check} "))).unwrap();
    // The text of the last column may go on in further lines.
    let text: Vec<_> = table.stdout.lines().flat_map(|line| line.split('|')).map(str::trim).collect();
    let text = text.join(" ");
    let words: Vec<_> = found.split(' ').collect();
    assert!(words.iter().all(|word| text.contains(word)), "{row}\n{}", table.stdout);
    let started = with_key(env.serve_with(&["--store", url])).run();
    started.assert_failed(1, &[found, "s3://optoken"]);
}

/// The client of `object_store` repeats a write by default. Its own success then looks like a lost
/// race: the caller of `commit` would start over, and never learn of its token.
pub(crate) fn default_retries_are_caught_by_the_faults() {
    let name = fresh_name();
    let engine = moto::KIND.shared().addresses()[0];
    let proxy = HttpProxy::start(engine);
    let variables = || ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let url = s3::url(&name, &[proxy.address]);
    let own = ObjectStore::open_with(&url, variables()).unwrap();
    let repeating = ObjectStore::open_with_default_retries(&url, variables()).unwrap();
    let direct = ObjectStore::open_with(&s3::url(&name, &[engine]), variables()).unwrap();
    assert!(matches!(direct.swap(None, "first").unwrap(), SwapOutcome::Swapped(_)));
    for fault in [HttpFault::CarryOutAnd(500), HttpFault::CarryOutAnd(503), HttpFault::CarryOutAndClose] {
        for (store, is_repeating) in [(&own, false), (&repeating, true)] {
            // Each knows the form of tags, so that the fault meets the write.
            let version = store.version().unwrap();
            let SwapOutcome::Swapped(version) = store.swap(version.as_ref(), "before").unwrap() else {
                panic!("stale without another swap");
            };
            proxy.plan(HttpPlan { fault, after: 0, stays: false });
            let outcome = store.swap(Some(&version), "own").unwrap();
            assert!(proxy.recover() > 0);
            assert_eq!(direct.load().unwrap().unwrap().document, "own");
            let is_stale = outcome == SwapOutcome::Stale;
            assert_eq!(is_stale, is_repeating, "{fault:?}: {outcome:?}");
        }
    }
}

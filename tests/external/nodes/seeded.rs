//! A fault of a real client library, which the check of histories finds.

use std::sync::Arc;

use optoken::store::{ObjectStore, Store};

use crate::engines::http_fault::{HttpFault, HttpPlan, HttpProxy};
use crate::engines::{ENVIRONMENT, fresh_name, moto};
use crate::support::history::recorder::Recorder;
use crate::support::history::workload::{Until, swap_documents};

/// The check that finds a fault in documents of a bucket, while a proxy carries writes out and
/// answers 503.
fn check(open: impl Fn(&str) -> Arc<dyn Store>) -> Option<&'static str> {
    let moto = moto::KIND.shared();
    let proxy = HttpProxy::start(moto.addresses()[0]);
    let recorder = Recorder::new();
    let store = recorder.store(open(&moto.url(&fresh_name(), &[proxy.address])));
    // Among the requests that pass is the write that finds out the form of tags.
    proxy.plan(HttpPlan { fault: HttpFault::LoseSuccess(503), after: 100, stays: true });
    swap_documents(&[store], Until::Done(20), 5, &|_| ());
    assert!(proxy.recover() > 200, "few requests met the fault");
    recorder.check_calls().err().map(|violation| violation.check())
}

pub(crate) fn default_retries_of_writes_are_a_denied_write() {
    let variables = || ENVIRONMENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let repeats = |url: &str| -> Arc<dyn Store> {
        Arc::new(ObjectStore::open_with_default_retries(url, variables()).unwrap())
    };
    let once = |url: &str| -> Arc<dyn Store> { Arc::new(ObjectStore::open_with(url, variables()).unwrap()) };
    assert_eq!(check(once), None);
    assert_eq!(check(repeats), Some("denied write"));
}

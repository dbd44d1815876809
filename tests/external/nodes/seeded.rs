//! A fault of a real client library, which the check of histories finds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use optoken::store::{ObjectStore, Store};

use crate::engines::http_fault::{HttpFault, HttpPlan, HttpProxy};
use crate::engines::{ENVIRONMENT, fresh_name, moto};
use crate::support::history::recorder::Recorder;
use crate::support::history::workload::{Until, swap_documents};

/// The check that finds a fault in documents of a bucket, while a proxy carries requests out and
/// answers 503.
fn check(open: impl Fn(&str) -> Arc<dyn Store>) -> Option<&'static str> {
    let moto = moto::KIND.shared();
    let proxy = HttpProxy::start(moto.addresses()[0]);
    let recorder = Recorder::new();
    let store = recorder.store(open(&moto.url(&fresh_name(), &[proxy.address])));
    let lose_answers = |ended: &AtomicBool| {
        while !ended.load(Ordering::Relaxed) {
            proxy.plan(HttpPlan { fault: HttpFault::CarryOutAnd(503), after: 2, stays: false });
            thread::sleep(Duration::from_millis(100));
        }
        proxy.recover();
    };
    swap_documents(&[store], Until::Done(20), 5, &lose_answers);
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

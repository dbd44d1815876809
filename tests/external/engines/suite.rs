//! The tests that every engine passes, beside those of the port (host/src/store/conformance.rs).

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use optoken::store::conformance::{self, RaceSize};
use optoken::store::remote::probe::{Extent, probe};
use optoken::store::remote::{RemoteStore, Usable};
use optoken::store::{Entry, Store, StoreError, SwapOutcome, Version};

use super::fault::{ByteProxy, End, Loss, Way};
use super::http_fault::{HttpFault, HttpPlan, HttpProxy};
use super::{Kind, Port, fresh_name, open};
use crate::support::{CaseName, TIMEOUT, eventually};

type Outcome = Result<SwapOutcome, StoreError>;

pub(crate) fn store_keeps_the_contract(kind: &'static Kind) {
    let store = kind.store(&fresh_name());
    conformance::run_with(&*store, RaceSize { racers: kind.racers, rounds: 1 });
}

pub(crate) fn races_of_three_nodes_have_one_winner(kind: &'static Kind) {
    let name = fresh_name();
    let nodes = [kind.store(&name), kind.store(&name), kind.store(&name)];
    let nodes = nodes.each_ref().map(|node| &**node);
    let size = RaceSize { racers: kind.racers, ..RaceSize::default() };
    let races = conformance::races_have_one_winner(&nodes, size);
    assert_eq!(races.unavailable, 0, "{races:?}");
    eprintln!("{}: {races:?}", kind.name);
}

pub(crate) fn nodes_agree_at_once(kind: &'static Kind) {
    let name = fresh_name();
    let [one, two] = [kind.store(&name), kind.store(&name)];
    conformance::instances_agree(&*one, &*two);
    // It promises a refusal elsewhere within two intervals.
    assert!(one.interval() <= Duration::from_secs(1), "{:?}", one.interval());
    if let Some(clock) = two.clock() {
        // Both are clocks of this machine.
        let limit = clock.precision + Duration::from_secs(1);
        assert!(u128::from(clock.ahead_ms.unsigned_abs()) <= limit.as_millis(), "{clock:?}");
    }
}

pub(crate) fn two_stores_share_no_document(kind: &'static Kind) {
    let [one, two] = [fresh_name(), fresh_name()].map(|name| kind.store(&name));
    swapped(&*one, None, "one");
    assert_eq!(two.load().unwrap(), None);
    let version = swapped(&*two, None, "two");
    assert_eq!(one.load().unwrap().unwrap().document, "one");
    // Also where the same text has the same hash.
    assert_eq!(one.swap(Some(&version), "x").unwrap(), SwapOutcome::Stale);
}

pub(crate) fn probe_finds_it_usable_and_leaves_nothing(kind: &'static Kind) {
    let store = kind.store(&fresh_name());
    let document = "the catalog";
    let version = swapped(&*store, None, document);
    // An engine on a busy machine may miss a deadline, which is no finding.
    let report = (0..5).find_map(|_| probe(&*store, Extent::Full).ok()).unwrap();
    for finding in report.rows {
        assert_ne!(finding.usable, Usable::No, "{finding:?}");
    }
    let [one, two] = [store.scratch().unwrap(), store.scratch().unwrap()];
    swapped(&*one, None, "one");
    assert_eq!(two.version().unwrap(), None);
    for scratch in [one, two] {
        scratch.remove().unwrap();
        assert_eq!(scratch.load().unwrap(), None);
    }
    let document = document.to_owned();
    assert_eq!(store.load().unwrap(), Some(Entry { version, document }));
}

pub(crate) fn unreachable_engine_is_unavailable(kind: &'static Kind) {
    // Nothing listens there.
    let port = Port::any();
    let store = kind.store_at(&fresh_name(), &[port.address()]);
    let version = Version::from("0123456789abcdef0123456789abcdef".to_owned());
    for error in [
        store.version().map(drop).unwrap_err(),
        store.load().map(drop).unwrap_err(),
        store.swap(None, "x").map(drop).unwrap_err(),
        store.swap(Some(&version), "x").map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&port.number().to_string()), "it names no address: {text}");
        assert_holds_no_secret(kind, &text);
    }
    assert_holds_no_secret(kind, store.address());
}

pub(crate) fn slow_engine_serves(kind: &'static Kind) {
    let name = fresh_name();
    let proxy = ByteProxy::start(kind.shared().addresses()[0]);
    let store = kind.store_at(&name, &[proxy.address]);
    proxy.delay(Duration::from_millis(50));
    let version = swapped(&*store, None, "slow");
    assert_eq!(store.version().unwrap(), Some(version.clone()));
    let document = "x".repeat(300_000);
    let version = swapped(&*store, Some(&version), &document);
    assert_eq!(store.load().unwrap(), Some(Entry { version, document }));
}

/// Every piece in turn is lost on its way to the engine, or back.
pub(crate) fn lost_message_leaves_a_known_or_unknown_outcome(kind: &'static Kind) {
    let faults = [Way::Request, Way::Answer].map(|way| Fault::Bytes(way, End::Close));
    assert_writes_are_in_doubt(&every_place(kind, &faults));
}

/// From every piece on, nothing arrives any more.
pub(crate) fn silence_leaves_a_known_or_unknown_outcome(kind: &'static Kind) {
    let faults = [Way::Request, Way::Answer].map(|way| Fault::Bytes(way, End::Silence));
    assert_writes_are_in_doubt(&every_place(kind, &faults));
}

/// Every request in turn is answered by another one than the engine.
pub(crate) fn false_answer_leaves_a_known_or_unknown_outcome(kind: &'static Kind) {
    let faults = [
        HttpFault::CarryOutAnd(429),
        HttpFault::CarryOutAnd(500),
        HttpFault::CarryOutAnd(503),
        HttpFault::CarryOutAndClose,
        HttpFault::CarryOutAndHang,
        HttpFault::Answer(429),
        HttpFault::Answer(500),
        HttpFault::Answer(503),
        HttpFault::Repeat,
    ];
    assert_writes_are_in_doubt(&every_place(kind, &faults.map(Fault::Http)));
}

/// Every request in turn arrives after another swap.
pub(crate) fn late_write_changes_nothing(kind: &'static Kind) {
    for first in [true, false] {
        let mut in_doubt = 0;
        for after in 0.. {
            let _case = CaseName(format!("first write: {first}, after {after} requests"));
            let (direct, through, proxy) = kind.with_http_proxy();
            let before = (!first).then(|| swapped(&*direct, None, "before"));
            proxy.plan(HttpPlan { fault: HttpFault::Late, after, stays: true });
            let outcome = through.swap(before.as_ref(), "late");
            if proxy.recover() <= after {
                break;
            }
            // Elsewhere the late request is a read.
            in_doubt += usize::from(matches!(outcome, Err(StoreError::UnknownOutcome(_))));
            let version = direct.version().unwrap();
            assert!(version == before || outcome.is_ok(), "{outcome:?}");
            let version = swapped(&*direct, version.as_ref(), "newer");
            assert!(proxy.release() > 0);
            let document = "newer".to_owned();
            assert_eq!(direct.load().unwrap(), Some(Entry { version, document }));
        }
        assert!(in_doubt > 0, "no write was late");
    }
}

/// The write waits in the engine, which carries it out afterwards.
pub(crate) fn frozen_engine_leaves_a_known_or_unknown_outcome(kind: &'static Kind) {
    let engine = (kind.start)();
    let url = engine.url(&fresh_name(), &engine.addresses());
    let [direct, store] = [open(&url), open(&url)];
    let before = swapped(&*direct, None, "before");
    assert_eq!(store.version().unwrap().as_ref(), Some(&before));
    engine.freeze();
    let started = Instant::now();
    let outcome = store.swap(Some(&before), "swapped");
    assert!(outcome.is_err(), "{outcome:?}");
    assert!(matches!(store.version(), Err(StoreError::Unavailable(_))));
    assert!(matches!(store.load(), Err(StoreError::Unavailable(_))));
    assert!(started.elapsed() < TIMEOUT, "the deadlines are not kept: {:?}", started.elapsed());
    engine.thaw();
    eventually("the store works again", || direct.version().is_ok());
    let before = Entry { version: before, document: "before".to_owned() };
    assert_outcome_is_true(&*direct, Some(&before), &outcome);
}

/// Also after the connection that carries them was lost.
pub(crate) fn news_arrive_again_after_a_loss(kind: &'static Kind) {
    let name = fresh_name();
    let writer = kind.store(&name);
    let proxy = ByteProxy::start(kind.shared().addresses()[0]);
    let listener = kind.store_at(&name, &[proxy.address]);
    conformance::news_arrive(&*writer, &*kind.store(&name));

    let (send, news) = channel();
    listener.listen(Arc::new(move || {
        // The test may be over.
        let _ = send.send(());
    }));
    news_of_a_swap(&*writer, &news);
    for _ in 0..3 {
        while news.try_recv().is_ok() {}
        proxy.close_all();
        // Something may have been missed meanwhile.
        news.recv_timeout(TIMEOUT).expect("no news of the new connection");
        news_of_a_swap(&*writer, &news);
    }
}

/// Waits until a swap is in the news.
fn news_of_a_swap(writer: &dyn RemoteStore, news: &Receiver<()>) {
    eventually("a swap is in the news", || {
        while news.try_recv().is_ok() {}
        swapped(writer, writer.version().unwrap().as_ref(), "news");
        news.recv_timeout(Duration::from_secs(1)).is_ok()
    });
}

/// A fault of the machines between a store and its engine.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Bytes(Way, End),
    Http(HttpFault),
}

enum Proxy {
    Bytes(ByteProxy),
    Http(HttpProxy),
}

/// A swap with a fault at one place.
#[derive(Debug, Clone, Copy)]
struct Case {
    kind: &'static Kind,
    fault: Fault,
    /// The swap is the first of its store.
    first: bool,
    /// The number of pieces or requests before the fault.
    after: usize,
    /// The fault lasts until the swap returns.
    stays: bool,
}

/// What a case has shown.
struct Seen {
    outcome: Outcome,
    /// The number of pieces or requests that passed, with the lost one.
    passed: usize,
    /// The document was stored, and the outcome reported as unknown.
    in_doubt: bool,
}

/// Places beyond those of the first run.
const SPARE_PLACES: usize = 2;

/// The cases that run at the same time: most wait for a deadline.
const WORKERS: usize = 24;

/// Runs the cases of these faults at every place that a swap reaches, and returns what they showed.
fn every_place(kind: &'static Kind, faults: &[Fault]) -> Vec<(Case, Seen)> {
    let mut cases = Vec::new();
    for &fault in faults {
        for first in [true, false] {
            let case = Case { kind, fault, first, after: usize::MAX, stays: false };
            for after in 0..case.run().passed + SPARE_PLACES {
                cases.extend([false, true].map(|stays| Case { after, stays, ..case }));
            }
        }
    }
    let (cases, seen) = (Mutex::new(cases), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(case) = next(&cases) {
                    let result = case.run();
                    seen.lock().unwrap().push((case, result));
                }
            });
        }
    });
    seen.into_inner().unwrap()
}

/// Removes a case. The lock is open afterwards.
fn next(cases: &Mutex<Vec<Case>>) -> Option<Case> {
    cases.lock().unwrap().pop()
}

/// The faults are no faults if no swap was carried out without its answer.
fn assert_writes_are_in_doubt(seen: &[(Case, Seen)]) {
    let line = |(case, seen): &(Case, Seen)| format!("{case:?}: {:?}", seen.outcome);
    let outcomes = || seen.iter().map(line).collect::<Vec<_>>().join("\n");
    assert!(seen.iter().any(|(_, seen)| seen.in_doubt), "no unknown outcome:\n{}", outcomes());
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Kind {
    /// A store of its own, the same one through a proxy, and this proxy.
    fn with_http_proxy(&self) -> (Arc<dyn RemoteStore>, Arc<dyn RemoteStore>, HttpProxy) {
        let name = fresh_name();
        let proxy = HttpProxy::start(self.shared().addresses()[0]);
        (self.store(&name), self.store_at(&name, &[proxy.address]), proxy)
    }
}

impl Case {
    fn run(self) -> Seen {
        let Self { kind, fault, first, after, stays } = self;
        let _case = CaseName(format!("{self:?}"));
        let name = fresh_name();
        let engine = kind.shared().addresses()[0];
        let (proxy, address) = match fault {
            Fault::Bytes(..) => {
                let proxy = ByteProxy::start(engine);
                let address = proxy.address;
                (Proxy::Bytes(proxy), address)
            }
            Fault::Http(_) => {
                let proxy = HttpProxy::start(engine);
                let address = proxy.address;
                (Proxy::Http(proxy), address)
            }
        };
        let (direct, through) = (kind.store(&name), kind.store_at(&name, &[address]));
        let before = (!first).then(|| {
            let version = swapped(&*direct, None, "before");
            // An open connection, unlike that of a first write.
            assert_eq!(through.version().unwrap().as_ref(), Some(&version));
            Entry { version, document: "before".to_owned() }
        });
        match (&proxy, fault) {
            (Proxy::Bytes(proxy), Fault::Bytes(way, end)) => proxy.lose(Loss { way, end, after, stays }),
            (Proxy::Http(proxy), Fault::Http(fault)) => proxy.plan(HttpPlan { fault, after, stays }),
            _ => unreachable!("each fault has its proxy"),
        }
        let started = Instant::now();
        let outcome = through.swap(before.as_ref().map(|entry| &entry.version), "swapped");
        assert!(started.elapsed() < TIMEOUT, "the deadline is not kept: {:?}", started.elapsed());
        let passed = match &proxy {
            Proxy::Bytes(proxy) => proxy.recover(),
            Proxy::Http(proxy) => proxy.recover(),
        };
        if let Err(error) = &outcome {
            assert_holds_no_secret(kind, &error.to_string());
        }
        let is_written = assert_outcome_is_true(&*direct, before.as_ref(), &outcome);
        // It comes back by itself.
        eventually("the store works again", || {
            through.version().is_ok_and(|version| version == direct.version().unwrap())
        });
        eventually("a swap through it", || {
            through.swap(direct.version().unwrap().as_ref(), "works again").is_ok()
        });
        let in_doubt = is_written && matches!(outcome, Err(StoreError::UnknownOutcome(_)));
        Seen { outcome, passed, in_doubt }
    }
}

/// Asserts that the store has what the outcome of the only swap means, now and later. Returns
/// whether the document was stored.
fn assert_outcome_is_true(direct: &dyn RemoteStore, before: Option<&Entry>, outcome: &Outcome) -> bool {
    let after = direct.load().unwrap();
    let is_unchanged = after.as_ref() == before;
    let is_written = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.document == "swapped");
    assert!(is_unchanged || is_written(after.as_ref()), "neither the one nor the other: {after:?}");
    match outcome {
        Ok(SwapOutcome::Swapped(version)) => {
            assert!(is_written(after.as_ref()), "it was not stored: {outcome:?}");
            assert_eq!(after.as_ref().map(|entry| &entry.version), Some(version));
        }
        // No other swap was made.
        Ok(SwapOutcome::Stale) => panic!("stale, without another swap; stored: {}", !is_unchanged),
        Err(StoreError::Unavailable(why)) => assert!(is_unchanged, "it was stored after all: {why}"),
        Err(StoreError::UnknownOutcome(_)) => {}
    }
    let mut found = after;
    let mut is_late = false;
    eventually("another swap", || {
        let version = found.as_ref().map(|entry| &entry.version);
        if let Ok(SwapOutcome::Swapped(_)) = direct.swap(version, "later") {
            return true;
        }
        // The engine may be busy with what it lost.
        let now = direct.load().unwrap();
        if now.as_ref().is_some_and(|entry| entry.document == "later") {
            return true;
        }
        if now != found {
            let is_unknown = matches!(outcome, Err(StoreError::UnknownOutcome(_)));
            assert!(
                is_unknown && is_unchanged && !is_late && is_written(now.as_ref()),
                "{outcome:?}, then {now:?}"
            );
            (found, is_late) = (now, true);
        }
        false
    });
    // No write is left that could come later: each one expects a version that is gone.
    assert_eq!(direct.load().unwrap().unwrap().document, "later");
    is_late || !is_unchanged
}

#[track_caller]
pub(crate) fn swapped<S: Store + ?Sized>(store: &S, expected: Option<&Version>, document: &str) -> Version {
    match store.swap(expected, document).unwrap() {
        SwapOutcome::Swapped(version) => version,
        SwapOutcome::Stale => panic!("stale"),
    }
}

fn assert_holds_no_secret(kind: &Kind, text: &str) {
    for secret in kind.secrets {
        assert!(!text.contains(secret), "a secret: {text}");
    }
}

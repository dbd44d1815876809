//! What proves that a snapshot is the newest: stores that hang, answer late, panic, or report news
//! that are none, and the bound that holds nevertheless (docs/design.md 4.2).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use optoken::authority::{Authority, BuildError, Builder, MIN_MAX_STALENESS, ProofSource};
use optoken::observer::Observer;
use optoken::secret::Secret;
use optoken::store::{Entry, MemoryStore, News, Store, StoreError, SwapOutcome, Version};
use optoken::token::{AuthenticateError, CommandError};

use crate::simulation::{Defect, Engine, NodeFaults, Scenario};
use crate::support::{TestEnv, eventually};

/// What a call of a store does beside its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It waits before its work, until the fault is another one.
    Hangs,
    /// It works at once, and returns when the fault is another one.
    AnswersLate,
    /// It takes this many milliseconds after its work.
    Takes(u64),
    Panics,
    Fails,
    /// It works, and returns an unknown outcome after this many milliseconds.
    LosesAnswer(u64),
    /// It returns the newest version of which it has had news.
    ProvesByNews,
}

/// A store of several nodes whose calls can have faults.
#[derive(Clone, Default)]
struct FaultyStore {
    inner: Arc<MemoryStore>,
    faults: Arc<(Mutex<Faults>, Condvar)>,
    /// The loads and swaps of commands, in order.
    calls: Arc<Mutex<Vec<&'static str>>>,
    versions: Arc<AtomicU64>,
    news: Arc<Mutex<Option<News>>>,
    /// The newest version that news have named.
    named: Arc<Mutex<Option<Version>>>,
}

#[derive(Default)]
struct Faults {
    version: Fault,
    load: Fault,
    swap: Fault,
}

impl FaultyStore {
    /// Another node of the same store, without faults.
    fn elsewhere(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), ..Self::default() }
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.0.lock().unwrap());
        self.faults.1.notify_all();
    }

    fn report_news(&self) {
        *self.named.lock().unwrap() = self.inner.version().unwrap();
        let news = self.news.lock().unwrap().clone();
        news.unwrap()();
    }

    fn note(&self, call: &'static str) {
        if thread::current().name() != Some("optoken-poll") {
            self.calls.lock().unwrap().push(call);
        }
    }

    fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn call<T>(
        &self,
        fault: impl Fn(&Faults) -> Fault,
        call: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let wait = |during| {
            let faults = self.faults.0.lock().unwrap();
            drop(self.faults.1.wait_while(faults, |faults| fault(faults) == during).unwrap());
        };
        let now = fault(&self.faults.0.lock().unwrap());
        match now {
            Fault::Hangs => wait(Fault::Hangs),
            Fault::Panics => panic!("the store panics"),
            Fault::Fails => return Err(StoreError::Unavailable("cut off".to_owned())),
            _ => {}
        }
        let result = call();
        match now {
            Fault::AnswersLate => wait(Fault::AnswersLate),
            Fault::Takes(millis) => thread::sleep(Duration::from_millis(millis)),
            Fault::LosesAnswer(millis) => {
                thread::sleep(Duration::from_millis(millis));
                return Err(StoreError::UnknownOutcome("the answer was lost".to_owned()));
            }
            _ => {}
        }
        result
    }
}

impl Store for FaultyStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.versions.fetch_add(1, Ordering::SeqCst);
        self.call(
            |faults| faults.version,
            || match self.faults.0.lock().unwrap().version {
                Fault::ProvesByNews => Ok(self.named.lock().unwrap().clone()),
                _ => self.inner.version(),
            },
        )
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.note("load");
        self.call(|faults| faults.load, || self.inner.load())
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.note("swap");
        self.call(|faults| faults.swap, || self.inner.swap(expected, document))
    }

    fn listen(&self, news: News) {
        *self.news.lock().unwrap() = Some(news);
    }
}

fn builder(store: &FaultyStore) -> Builder<'static> {
    Authority::builder(store.clone())
}

fn accepts(authority: &Authority, token: &Secret) -> bool {
    authority.authenticate(token.expose()).is_ok()
}

fn is_unavailable(authority: &Authority, token: &Secret) -> bool {
    matches!(authority.authenticate(token.expose()), Err(AuthenticateError::Unavailable(_)))
}

#[test]
fn hanging_poll_holds_no_command() {
    let store = FaultyStore::default();
    let staleness = 4 * MIN_MAX_STALENESS;
    let authority = builder(&store).max_staleness(staleness).build().unwrap();
    let token = authority.create_operator("test").unwrap().secret;
    store.set(|faults| faults.version = Fault::Hangs);
    eventually("no read proves the snapshot", || is_unavailable(&authority, &token));
    assert!(authority.staleness() > staleness);
    // A command needs no proof, and its own calls are one.
    let next = authority.regenerate(&token, 0, "test").unwrap().secret;
    assert!(accepts(&authority, &next));
    assert_eq!(authority.proof_source(), ProofSource::Command);
    store.set(|faults| faults.version = Fault::None);
    eventually("the poller goes on", || authority.proof_source() == ProofSource::Poll);
    assert!(accepts(&authority, &next));
}

#[test]
fn hanging_command_stops_no_poll() {
    let store = FaultyStore::default();
    let authority = builder(&store).build().unwrap();
    let elsewhere = builder(&store.elsewhere()).build().unwrap();
    let token = authority.create_operator("test").unwrap().secret;
    eventually("the other node has read it", || accepts(&elsewhere, &token));
    store.take_calls();
    store.set(|faults| faults.swap = Fault::Hangs);
    thread::scope(|scope| {
        let hanging = scope.spawn(|| authority.regenerate(&token, 0, "test"));
        eventually("the swap hangs", || store.calls.lock().unwrap().last() == Some(&"swap"));
        let next = elsewhere.regenerate(&token, 0, "elsewhere").unwrap().secret;
        eventually("the change arrives", || accepts(&authority, &next) && !accepts(&authority, &token));
        store.set(|faults| faults.swap = Fault::None);
        // The swap is late, and so it is stale.
        assert_eq!(hanging.join().unwrap().unwrap_err(), CommandError::Unauthenticated);
        assert!(accepts(&authority, &next));
    });
}

#[test]
fn slow_command_begins_no_further_call() {
    let store = FaultyStore::default();
    let authority = builder(&store).max_staleness(MIN_MAX_STALENESS).build().unwrap();
    let token = authority.create_operator("test").unwrap().secret;
    let more_than_half = u64::try_from(MIN_MAX_STALENESS.as_millis() / 2 + 1).unwrap();

    store.take_calls();
    store.set(|faults| faults.load = Fault::Takes(more_than_half));
    let error = authority.regenerate(&token, 0, "test").unwrap_err();
    assert!(matches!(&error, CommandError::Unavailable(why) if why.contains("too slow")), "{error:?}");
    assert_eq!(store.take_calls(), ["load"]);
    store.set(|faults| faults.load = Fault::None);
    eventually("nothing was changed", || accepts(&authority, &token));

    // The change is in the store, and the command cannot look for it any more.
    store.set(|faults| faults.swap = Fault::LosesAnswer(more_than_half));
    let error = authority.regenerate(&token, 0, "test").unwrap_err();
    assert!(matches!(error, CommandError::UnknownOutcome(_)), "{error:?}");
    assert_eq!(store.take_calls(), ["load", "swap"]);
    eventually("the poller finds it", || {
        authority.authenticate(token.expose()) == Err(AuthenticateError::Unknown)
    });
    store.set(|faults| faults.swap = Fault::None);
    authority.recover("test").unwrap();
}

#[test]
fn late_answer_proves_no_more_than_its_beginning() {
    let store = FaultyStore::default();
    let authority = builder(&store).max_staleness(MIN_MAX_STALENESS).build().unwrap();
    let elsewhere = builder(&store.elsewhere()).build().unwrap();
    let revoked = authority.create_operator("test").unwrap().secret;
    eventually("the other node has read it", || accepts(&elsewhere, &revoked));
    let before = store.versions.load(Ordering::SeqCst);
    store.set(|faults| faults.version = Fault::AnswersLate);
    // This read finds the state before the change.
    eventually("a read has begun", || store.versions.load(Ordering::SeqCst) > before);
    let next = elsewhere.regenerate(&revoked, 0, "elsewhere").unwrap().secret;
    let acknowledged = Instant::now();
    eventually("that read began too long ago", || acknowledged.elapsed() > MIN_MAX_STALENESS);
    assert!(is_unavailable(&authority, &revoked));
    store.set(|faults| faults.version = Fault::None);
    let until = Instant::now() + Duration::from_mins(1);
    while !accepts(&authority, &next) {
        assert!(!accepts(&authority, &revoked), "an old answer has proved the old snapshot");
        assert!(Instant::now() < until, "the change arrives");
    }
}

/// Counts polls by cause and outcome.
#[derive(Default)]
struct Polls(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Polls {
    fn get(&self, cause: &'static str, outcome: &'static str) -> u64 {
        self.0.lock().unwrap().get(&(cause, outcome)).copied().unwrap_or(0)
    }
}

impl Observer for Polls {
    fn poll_completed(&self, cause: &'static str, outcome: &'static str) {
        *self.0.lock().unwrap().entry((cause, outcome)).or_default() += 1;
    }
}

/// An authority that polls so rarely that only news count.
fn rarely_polling(store: &FaultyStore, polls: &Arc<Polls>) -> Authority {
    let hour = Duration::from_hours(1);
    let observer: Arc<Polls> = Arc::clone(polls);
    builder(store).poll_interval(hour).max_staleness(4 * hour).observer(observer).build().unwrap()
}

#[test]
fn news_are_read_at_once_and_a_storm_is_few_reads() {
    let (store, polls) = (FaultyStore::default(), Arc::<Polls>::default());
    let authority = rarely_polling(&store, &polls);
    let elsewhere = builder(&store.elsewhere()).build().unwrap();
    eventually("the first poll is over", || polls.get("interval", "unchanged") == 1);
    let token = elsewhere.create_operator("elsewhere").unwrap().secret;
    assert!(!accepts(&authority, &token), "no read is due");
    store.report_news();
    eventually("the news are read", || accepts(&authority, &token));
    assert_eq!(authority.proof_source(), ProofSource::News);
    assert_eq!(polls.get("news", "changed"), 1);

    // News that are none cost reads, and no more than one in 50 ms.
    let (before, started) = (store.versions.load(Ordering::SeqCst), Instant::now());
    for _ in 0..20_000 {
        store.report_news();
    }
    eventually("they are read", || polls.get("news", "unchanged") > 0);
    let (reads, took) = (store.versions.load(Ordering::SeqCst) - before, started.elapsed());
    assert!(u128::from(reads) <= took.as_millis() / 50 + 2, "{reads} reads in {took:?}");
    assert!(accepts(&authority, &token));
}

#[test]
fn news_before_their_change_is_visible_are_served_by_the_next_read() {
    let store = FaultyStore::default();
    let authority = builder(&store).build().unwrap();
    let elsewhere = builder(&store.elsewhere()).build().unwrap();
    let before = store.versions.load(Ordering::SeqCst);
    store.report_news();
    eventually("the news are read too early", || store.versions.load(Ordering::SeqCst) > before);
    let token = elsewhere.create_operator("elsewhere").unwrap().secret;
    eventually("the next poll finds it", || accepts(&authority, &token));
}

#[test]
fn failing_or_panicking_store_is_read_again_and_soon() {
    for fault in [Fault::Fails, Fault::Panics] {
        let (store, polls) = (FaultyStore::default(), Arc::<Polls>::default());
        let authority = rarely_polling(&store, &polls);
        let token = authority.create_operator("test").unwrap().secret;
        eventually("the first poll is over", || polls.get("interval", "unchanged") == 1);
        store.set(|faults| faults.version = fault);
        store.report_news();
        // An hour is the interval: only the early retry can fail again.
        eventually("it is read again", || polls.get("interval", "unavailable") > 1);
        store.set(|faults| faults.version = Fault::None);
        eventually("it is read well", || polls.get("interval", "unchanged") == 2);
        assert!(accepts(&authority, &token));
        // A command of a store that panics is the problem of its caller.
        store.set(|faults| faults.swap = Fault::Panics);
        let command = || authority.regenerate(&token, 0, "test").map(drop);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(command)).is_err());
        store.set(|faults| faults.swap = Fault::None);
        authority.regenerate(&token, 0, "test").unwrap();
    }
}

/// Cuts a node off from reads, revokes a token elsewhere, and returns the acceptances on the node
/// that began later than the bound after the acknowledgement.
fn acceptances_beyond_bound(fault: Fault) -> usize {
    let store = FaultyStore::default();
    let authority = builder(&store).max_staleness(MIN_MAX_STALENESS).build().unwrap();
    let elsewhere = builder(&store.elsewhere()).build().unwrap();
    let token = authority.create_operator("test").unwrap().secret;
    eventually("the other node has read it", || accepts(&elsewhere, &token));
    store.report_news();
    store.set(|faults| (faults.version, faults.load) = (fault, Fault::Fails));
    elsewhere.regenerate(&token, 0, "elsewhere").unwrap();
    let acknowledged = Instant::now();
    let mut beyond = 0;
    while acknowledged.elapsed() < 3 * MIN_MAX_STALENESS {
        let began = Instant::now();
        if accepts(&authority, &token) && began.duration_since(acknowledged) > MIN_MAX_STALENESS {
            beyond += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
    beyond
}

#[test]
fn no_acceptance_is_beyond_the_bound() {
    for fault in [Fault::Fails, Fault::Hangs, Fault::AnswersLate, Fault::Panics] {
        assert_eq!(acceptances_beyond_bound(fault), 0, "{fault:?}");
    }
    // A poll that proves by what a watch has named last: the check finds it.
    assert!(acceptances_beyond_bound(Fault::ProvesByNews) > 0);
}

#[test]
fn staleness_must_have_room_for_two_reads() {
    let build = |staleness, interval| {
        let builder = builder(&FaultyStore::default());
        let builder = builder.max_staleness(Duration::from_millis(staleness));
        builder.poll_interval(Duration::from_millis(interval)).build()
    };
    let error = build(1000, 501).unwrap_err();
    assert!(matches!(error, BuildError::TooRarePolls { .. }), "{error}");
    for text in ["--max-staleness to at least 1.002s", "--poll-interval to at most 500ms"] {
        assert!(error.to_string().contains(text), "{error}");
    }
    assert_eq!(build(1000, 500).unwrap().poll_interval(), Duration::from_millis(500));
    // No loop without a pause, whatever an embedder sets.
    assert_eq!(build(1000, 0).unwrap().poll_interval(), Duration::from_millis(50));

    let env = TestEnv::new();
    let arguments = |interval| ["--store", "memory:", "--max-staleness", "1", "--poll-interval", interval];
    let refused = env.serve_with(&arguments("600ms")).run();
    refused.assert_failed(1, &["--max-staleness to at least 1.2s", "--poll-interval to at most 500ms"]);
    let server = env.serve(&arguments("300ms"));
    server.wait_for_log("a lost read can refuse all tokens; set --max-staleness to at least 1.2s");
    let server = env.serve(&arguments("250ms"));
    assert!(!server.log().contains("a lost read"), "{}", server.log());
}

/// Some nodes for some minutes, on a store with news or without.
fn simulated(has_news: bool, defect: Option<Defect>, seed: u64) -> Scenario {
    let faults = NodeFaults {
        lost_news: 0.05,
        cuts: (Duration::from_secs(20), Duration::from_secs(20)),
        stops: (Duration::from_secs(40), Duration::from_secs(20)),
    };
    Scenario {
        engine: Engine {
            name: "slow",
            read: [1_000, 20_000, 2_500_000],
            news: has_news.then_some([100, 5_000, 100_000]),
            capacity: 200,
        },
        nodes: 50,
        interval: Duration::from_secs(1),
        max_staleness: Duration::from_secs(5),
        revocations: 60,
        every: Duration::from_secs(3),
        faults: Some(faults),
        defect,
        seed,
    }
}

#[test]
fn no_simulated_acceptance_is_beyond_the_bound() {
    for has_news in [false, true] {
        for seed in 0..4 {
            let report = simulated(has_news, None, seed).run();
            assert_eq!(report.refused_everywhere.len(), 60);
            assert_eq!(report.beyond_bound, 0, "seed {seed}");
            assert_eq!(report, simulated(has_news, None, seed).run(), "a seed repeats a run");
            // The faults are felt, or the bound would hold without the rule.
            let latest = report.refused.iter().max().unwrap();
            assert!(*latest > Duration::from_secs(4) && report.unavailable > 0.01, "{latest:?}");
        }
    }
    assert_ne!(simulated(true, None, 1).run(), simulated(true, None, 2).run());
}

#[test]
fn simulated_defects_break_the_bound() {
    for defect in [Defect::WatchProves, Defect::EndProves, Defect::ComparedBefore] {
        assert!(simulated(true, Some(defect), 1).run().beyond_bound > 0, "{defect:?}");
    }
}

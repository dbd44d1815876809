//! A catalog never goes back: what an authority does when its store holds an older state, another
//! history, another catalog or none, while it runs and after a restart. And what a slow store
//! delays.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use optoken::authority::{Authority, BuildError, Builder, CatalogRefusal, MIN_MAX_STALENESS};
use optoken::secret::Secret;
use optoken::store::{Entry, MemoryStore, Store, StoreError, SwapOutcome, Version};
use optoken::token::{AuthenticateError, CommandError};

/// A store whose document the test replaces, and whose calls it can hold.
#[derive(Clone, Default)]
struct TestStore {
    entry: Arc<Mutex<Option<Entry>>>,
    swaps: Arc<Mutex<u64>>,
    swap_gate: Gate,
    read_gate: Gate,
}

/// Holds the threads that pass it while it is closed.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn set_closed(&self, closed: bool) {
        *self.0.0.lock().unwrap() = closed;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |closed| *closed).unwrap());
    }
}

impl TestStore {
    fn get(&self) -> Option<Entry> {
        self.entry.lock().unwrap().clone()
    }

    /// Replaces the document from outside, under a version of its own, as a restored backup has.
    fn put(&self, entry: Option<Entry>) {
        let version = format!("outside {}", self.next());
        *self.entry.lock().unwrap() =
            entry.map(|entry| Entry { version: Version::from(version), document: entry.document });
    }

    fn next(&self) -> u64 {
        let mut swaps = self.swaps.lock().unwrap();
        *swaps += 1;
        *swaps
    }
}

impl Store for TestStore {
    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.read_gate.pass();
        Ok(self.get())
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.swap_gate.pass();
        let mut entry = self.entry.lock().unwrap();
        if entry.as_ref().map(|entry| &entry.version) != expected {
            return Ok(SwapOutcome::Stale);
        }
        let version = Version::from(self.next().to_string());
        *entry = Some(Entry { version: version.clone(), document: document.to_owned() });
        Ok(SwapOutcome::Swapped(version))
    }
}

fn builder(store: &TestStore) -> Builder<'static> {
    Authority::builder(store.clone()).max_staleness(MIN_MAX_STALENESS)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_unavailable(authority: &Authority, token: &Secret) -> bool {
    matches!(authority.authenticate(token.expose()), Err(AuthenticateError::Unavailable(_)))
}

fn is_unknown(authority: &Authority, token: &Secret) -> bool {
    authority.authenticate(token.expose()) == Err(AuthenticateError::Unknown)
}

/// A document of another catalog.
fn other_catalog() -> Entry {
    let store = MemoryStore::default();
    let store: Arc<dyn Store> = Arc::new(store);
    Authority::builder_shared(Arc::clone(&store)).build().unwrap().create_operator("other").unwrap();
    store.load().unwrap().unwrap()
}

#[test]
fn running_authority_refuses_what_does_not_continue_its_catalog() {
    let store = TestStore::default();
    let authority = builder(&store).build().unwrap();
    let leaked = authority.create_operator("test").unwrap().secret;
    let backup = store.get();
    let current = authority.regenerate(&leaked, 0, "test").unwrap().secret;

    // A history that another server made from the backup, with the same number of records.
    let fork = TestStore::default();
    fork.put(backup.clone());
    let forked = Authority::builder(fork.clone()).build().unwrap();
    forked.recover("fork").unwrap();

    let newest = store.get();
    for (reason, state, sequence) in [
        ("older", backup, 2),
        ("diverged", fork.get(), 3),
        ("other_catalog", Some(other_catalog()), 2),
        ("missing", None, 0),
    ] {
        store.put(state);
        // The first command notices it by itself.
        let error = authority.regenerate(&current, 0, "test").unwrap_err();
        assert!(
            matches!(&error, CommandError::Unavailable(why) if why.contains("the token store holds")),
            "{error}"
        );
        assert!(!is_unknown(&authority, &current), "{reason}");
        assert!(authority.authenticate(leaked.expose()).is_err(), "{reason}");
        wait_until("the poller notices it", || authority.catalog_refusal().is_some());
        let refusal = authority.catalog_refusal().unwrap();
        assert_eq!((refusal.reason(), refusal.found_sequence()), (reason, sequence));
        assert_eq!(refusal.expected().sequence, 3);
        wait_until("all tokens are refused", || is_unavailable(&authority, &current));
        assert!(is_unavailable(&authority, &leaked), "{reason}");

        store.put(newest.clone());
        wait_until("the newest state is accepted", || authority.authenticate(current.expose()).is_ok());
        assert_eq!(authority.catalog_refusal(), None);
        assert!(is_unknown(&authority, &leaked));
    }
    // News that continue the catalog are accepted, also many at once.
    let elsewhere = Authority::builder(store.clone()).build().unwrap();
    let mut secret = current;
    for _ in 0..70 {
        secret = elsewhere.regenerate(&secret, 0, "elsewhere").unwrap().secret;
    }
    wait_until("the news arrive", || authority.authenticate(secret.expose()).is_ok());
}

/// An authority with a high-water mark in this directory.
fn marked(store: &TestStore, directory: &Path) -> Builder<'static> {
    builder(store).high_water_mark(directory.join("mark"))
}

#[track_caller]
fn refusal(builder: Builder<'_>) -> (CatalogRefusal, bool, String) {
    let error = builder.build().unwrap_err();
    let text = error.to_string();
    match error {
        BuildError::Refused { refusal, accepted_at } => (refusal, accepted_at.is_some(), text),
        error => panic!("{error}"),
    }
}

#[test]
fn restarted_authority_compares_its_high_water_mark() {
    let directory = tempfile::tempdir().unwrap();
    let store = TestStore::default();
    let authority = marked(&store, directory.path()).build().unwrap();
    let leaked = authority.create_operator("test").unwrap().secret;
    let backup = store.get();
    let current = authority.regenerate(&leaked, 0, "test").unwrap().secret;
    drop(authority);
    let newest = store.get();

    for (reason, state) in
        [("older", backup.clone()), ("other_catalog", Some(other_catalog())), ("missing", None)]
    {
        store.put(state.clone());
        let (refusal, accepted, text) = refusal(marked(&store, directory.path()));
        assert_eq!((refusal.reason(), accepted), (reason, false));
        assert!(text.contains("--accept-catalog-at"), "{text}");
        // Another sequence is not accepted, and nothing was written.
        let other = marked(&store, directory.path()).accept_catalog_at(7);
        assert!(matches!(other.build(), Err(BuildError::Refused { .. })), "{reason}");
        assert_eq!(store.get().map(|entry| entry.document), state.map(|entry| entry.document));
    }
    store.put(newest);
    // The option stays in a unit file: it has no effect.
    let authority = marked(&store, directory.path()).accept_catalog_at(2).build().unwrap();
    assert!(authority.authenticate(current.expose()).is_ok());
    drop(authority);

    store.put(backup.clone());
    let authority = marked(&store, directory.path()).accept_catalog_at(2).build().unwrap();
    assert!(authority.authenticate(leaked.expose()).is_ok(), "it was accepted as it is");
    let next = authority.regenerate(&leaked, 0, "test").unwrap().secret;
    drop(authority);
    let authority = marked(&store, directory.path()).accept_catalog_at(2).build().unwrap();
    assert!(authority.authenticate(next.expose()).is_ok());
    drop(authority);
    store.put(backup);
    let (refusal, accepted, text) = refusal(marked(&store, directory.path()).accept_catalog_at(2));
    assert_eq!((refusal.reason(), accepted), ("older", true));
    assert!(text.contains("was used before"), "{text}");
}

#[test]
fn change_by_another_process_reaches_the_high_water_mark() {
    let directory = tempfile::tempdir().unwrap();
    let store = TestStore::default();
    let authority = marked(&store, directory.path()).build().unwrap();
    let elsewhere = Authority::builder(store.clone()).build().unwrap();
    elsewhere.create_operator("elsewhere").unwrap();
    wait_until("the mark is written", || {
        authority.high_water_mark().unwrap().1.is_some_and(|position| position.sequence == 2)
    });
    let text = fs::read_to_string(directory.path().join("mark")).unwrap();
    assert!(text.contains("\"sequence\": 2"), "{text}");
}

#[test]
fn audit_log_is_a_witness_too() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.jsonl");
    let store = TestStore::default();
    let logged = || marked(&store, directory.path()).audit_log(&log);
    let authority = logged().build().unwrap();
    let first = authority.create_operator("test").unwrap().secret;
    let backup = store.get();
    authority.regenerate(&first, 0, "test").unwrap();
    drop(authority);
    fs::remove_file(directory.path().join("mark")).unwrap();

    for state in [backup.clone(), None] {
        store.put(state.clone());
        let error = logged().build().unwrap_err();
        assert!(matches!(error, BuildError::AuditLog(_)), "{error}");
        assert_eq!(store.get().map(|entry| entry.document), state.map(|entry| entry.document));
    }
    store.put(backup);
    let authority = logged().accept_catalog_at(2).build().unwrap();
    authority.regenerate(&first, 0, "test").unwrap();
    drop(authority);
    let names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("audit.jsonl.replaced-at-2."))
        .collect();
    let [replaced] = &names[..] else { panic!("{names:?}") };
    assert_eq!(fs::read_to_string(directory.path().join(replaced)).unwrap().lines().count(), 3);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 3);
}

#[test]
fn slow_change_delays_neither_tokens_nor_news() {
    let store = TestStore::default();
    let authority = builder(&store).build().unwrap();
    let token = authority.create_operator("test").unwrap().secret;
    store.swap_gate.set_closed(true);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let change = scope.spawn(|| {
            let issued = authority.regenerate(&token, 0, "test").unwrap();
            done.store(true, Ordering::SeqCst);
            issued.secret
        });
        // Longer than the store may be silent: reads still prove that the snapshot is the newest.
        let until = Instant::now() + 4 * MIN_MAX_STALENESS;
        while Instant::now() < until {
            assert!(authority.authenticate(token.expose()).is_ok());
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!done.load(Ordering::SeqCst));
        store.swap_gate.set_closed(false);
        let next = change.join().unwrap();
        assert!(is_unknown(&authority, &token) && authority.authenticate(next.expose()).is_ok());
    });
}

#[test]
fn silent_store_refuses_all_tokens() {
    let store = TestStore::default();
    let authority = builder(&store).build().unwrap();
    let token = authority.create_operator("test").unwrap().secret;
    store.read_gate.set_closed(true);
    wait_until("tokens are refused", || is_unavailable(&authority, &token));
    store.read_gate.set_closed(false);
    wait_until("tokens are accepted again", || authority.authenticate(token.expose()).is_ok());
}

#[test]
fn read_that_was_overtaken_is_no_older_state() {
    let store = TestStore::default();
    let authority = builder(&store).build().unwrap();
    let mut token = authority.create_operator("test").unwrap().secret;
    // Polls and commands of two authorities race; none of them may count as a store that went back.
    let elsewhere = Authority::builder(store.clone()).build().unwrap();
    for turn in 0..200 {
        let by = if turn % 2 == 0 { &authority } else { &elsewhere };
        token = by.regenerate(&token, 0, "test").unwrap().secret;
        assert_eq!(authority.catalog_refusal(), None);
        assert_eq!(elsewhere.catalog_refusal(), None);
    }
}

#[test]
fn broken_chain_prevents_the_start() {
    let store = MemoryStore::default();
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/cases/audit-chain-broken");
    let document = fs::read_to_string(case.join("before.jsonl")).unwrap();
    store.swap(None, &document).unwrap();
    let error = Authority::builder(store).build().err().unwrap();
    assert_eq!(
        error.to_string(),
        "cannot use the token store: nothing was changed: the catalog is damaged: the audit chain is broken at record 3"
    );
}

//! The conformance tests of the port, run once for each adapter. With the feature `test-suite`,
//! embedders run them against their own store.
//!
//! ```
//! # use optoken::store::MemoryStore as YourStore;
//! // In a test of your own.
//! optoken::store::conformance::run(&YourStore::default());
//! ```
//!
//! A store that several processes share has more tests, which need several instances of it:
//!
//! ```no_run
//! # use optoken::store::Store;
//! use optoken::store::conformance::{self, RaceSize};
//!
//! # fn test(nodes: [Box<dyn Store>; 3]) {
//! let nodes = nodes.each_ref().map(|node| &**node);
//! conformance::races_have_one_winner(&nodes, RaceSize::default());
//! conformance::instances_agree(nodes[0], nodes[1]);
//! // Only where the store has news.
//! conformance::news_arrive(nodes[0], nodes[1]);
//! # }
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::store::{Entry, Newest, Store, StoreError, SwapOutcome, Version};

/// The size of the largest document that every store must keep, in bytes.
const LARGEST: usize = 6 << 20;

/// How long [`news_arrive`] waits for each call of `news`.
const NEWS_LIMIT: Duration = Duration::from_secs(30);

/// How many swaps race, and how often.
#[derive(Debug, Clone, Copy)]
pub struct RaceSize {
    /// The number of swaps that race for one version.
    pub racers: usize,
    /// The number of races, each for the version that the race before it has left.
    pub rounds: usize,
}

impl Default for RaceSize {
    fn default() -> Self {
        Self { racers: 24, rounds: 20 }
    }
}

/// How the swaps of all races ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Races {
    /// Swaps that were answered as stored.
    pub swapped: usize,
    /// Swaps that were answered as stale.
    pub stale: usize,
    /// Swaps that failed, and may have been stored.
    pub unknown: usize,
    /// Swaps that failed, and were not stored.
    pub unavailable: usize,
}

/// Runs all tests for one instance, against a store that was never written to. Durability across a
/// power cut and a restart must be tested where the store lives.
///
/// # Panics
///
/// If the store violates the contract; the message names the violation.
pub fn run<S: Store + ?Sized>(store: &S) {
    run_with(store, RaceSize::default());
}

/// As [`run`], to this size.
///
/// # Panics
///
/// If the store violates the contract; the message names the violation.
pub fn run_with<S: Store + ?Sized>(store: &S, size: RaceSize) {
    empty_store_has_no_document(store);
    one_first_document_wins(store, size);
    let first = store.load().unwrap().unwrap().version;
    known_version_is_found(store, &first);
    swap_requires_the_current_version(store, &first);
    documents_are_unchanged(store);
    races_have_one_winner(&[store], size);
}

fn known_version_is_found<S: Store + ?Sized>(store: &S, newest: &Version) {
    assert_eq!(store.load_unless(newest).unwrap(), Newest::Known);
    let other = Version::from("another state".to_owned());
    assert_eq!(store.load_unless(&other).unwrap(), Newest::Other(store.load().unwrap()));
}

/// Races swaps through all of these instances of one store, which may be empty. In each round
/// exactly one racer wins, its document is stored, and every instance finds it.
///
/// # Panics
///
/// If the store violates the contract; the message names the violation.
pub fn races_have_one_winner<S: Store + ?Sized>(instances: &[&S], size: RaceSize) -> Races {
    let mut all = Races::default();
    for round in 0..size.rounds {
        race(instances, size.racers, round, &mut all);
    }
    all
}

/// What one instance has stored, another one of the same store finds at once.
///
/// # Panics
///
/// If the store violates the contract; the message names the violation.
pub fn instances_agree<S: Store + ?Sized>(writer: &S, reader: &S) {
    for round in 0..10 {
        let document = format!("agreed {round}");
        let version = swapped(writer, reader.version().unwrap().as_ref(), &document);
        assert_eq!(reader.version().unwrap().as_ref(), Some(&version), "an instance has an old version");
        let entry = reader.load().unwrap().unwrap();
        assert_eq!(entry, Entry { version, document }, "an instance has an old document");
    }
}

/// What one instance has stored makes another one of the same store call its news. A store that
/// has no news does not pass.
///
/// # Panics
///
/// If the store violates the contract; the message names the violation.
pub fn news_arrive<S: Store + ?Sized>(writer: &S, listener: &S) {
    let (send, receive) = channel();
    listener.listen(Arc::new(move || {
        // The test may be over.
        let _ = send.send(());
    }));
    for round in 0..5 {
        // Listening begins in the background, so the first swaps may precede it.
        let mut waited = Duration::ZERO;
        loop {
            while receive.try_recv().is_ok() {}
            swapped(writer, writer.version().unwrap().as_ref(), &format!("news {round}"));
            let patience = Duration::from_secs(1);
            if receive.recv_timeout(patience).is_ok() {
                break;
            }
            waited += patience;
            assert!(waited < NEWS_LIMIT, "no news of a swap within {NEWS_LIMIT:?}");
        }
    }
}

fn swapped<S: Store + ?Sized>(store: &S, expected: Option<&Version>, document: &str) -> Version {
    match store.swap(expected, document).unwrap() {
        SwapOutcome::Swapped(version) => version,
        SwapOutcome::Stale => panic!("stale"),
    }
}

fn empty_store_has_no_document<S: Store + ?Sized>(store: &S) {
    assert_eq!(store.load().unwrap(), None);
    assert_eq!(store.version().unwrap(), None);
    let unknown = Version::from("1".to_owned());
    assert_eq!(store.swap(Some(&unknown), "x").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap(), None);
}

fn one_first_document_wins<S: Store + ?Sized>(store: &S, size: RaceSize) {
    race(&[store], size.racers, 0, &mut Races::default());
    let first = store.load().unwrap().unwrap();
    assert_eq!(store.swap(None, "second").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap().unwrap(), first);
}

fn swap_requires_the_current_version<S: Store + ?Sized>(store: &S, first: &Version) {
    assert_eq!(store.version().unwrap().as_ref(), Some(first));
    let second = swapped(store, Some(first), "second");
    assert_ne!(*first, second);
    // A repeated swap is stale, and so is the same text with an older version.
    assert_eq!(store.swap(Some(first), "second").unwrap(), SwapOutcome::Stale);
    // The same text gets a new version.
    let third = swapped(store, Some(&second), "second");
    assert_eq!(HashSet::from([first.as_str(), second.as_str(), third.as_str()]).len(), 3);
    assert_eq!(store.load().unwrap().unwrap().version, third);
    // A version of another store names nothing here.
    for unknown in ["", "1", "\"x\"", "0123456789abcdef0123456789abcdef"] {
        let unknown = Version::from(unknown.to_owned());
        assert_eq!(store.swap(Some(&unknown), "x").unwrap(), SwapOutcome::Stale);
    }
    assert_eq!(store.version().unwrap(), Some(third));
}

fn documents_are_unchanged<S: Store + ?Sized>(store: &S) {
    let short = ["", "\n", "\"quoted\" \\ and\nbroken\r\n", "\u{1F511} ключ \u{0}", "optoken 1 x y\n"];
    // Around 1 MiB, where a store may begin to store a document in parts.
    let long = [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20, LARGEST].map(|length| {
        // Two bytes a character: a part of the text may end within one.
        format!("{}{}", "x".repeat(length % 2), "ü".repeat(length / 2))
    });
    for document in short.into_iter().chain(long.iter().map(String::as_str)).chain(["short"]) {
        let version = swapped(store, store.version().unwrap().as_ref(), document);
        let entry = store.load().unwrap().unwrap();
        let length = document.len();
        assert!(entry.document == document, "a document of {length} bytes was changed");
        assert_eq!(entry.version, version, "a document of {length} bytes");
        assert_eq!(store.version().unwrap(), Some(version), "a document of {length} bytes");
    }
}

/// Races swaps that all expect the current version, which may be none.
///
/// The outcome of a racer may be unknown, as the port allows. Then the store shows the winner.
fn race<S: Store + ?Sized>(instances: &[&S], racers: usize, round: usize, all: &mut Races) {
    let version = instances.first().unwrap().version().unwrap();
    let outcomes: Vec<(String, Result<SwapOutcome, StoreError>)> = thread::scope(|scope| {
        let racers: Vec<_> = instances
            .iter()
            .cycle()
            .take(racers)
            .enumerate()
            .map(|(racer, store)| {
                let (version, document) = (&version, format!("round {round}, racer {racer}"));
                scope.spawn(move || {
                    let outcome = store.swap(version.as_ref(), &document);
                    (document, outcome)
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    let mut possible = Vec::new();
    let mut winners = Vec::new();
    for (document, outcome) in outcomes {
        match outcome {
            Ok(SwapOutcome::Swapped(version)) => winners.push(Entry { version, document }),
            Ok(SwapOutcome::Stale) => all.stale += 1,
            Err(StoreError::UnknownOutcome(_)) => possible.push(document),
            Err(StoreError::Unavailable(_)) => all.unavailable += 1,
        }
    }
    all.swapped += winners.len();
    all.unknown += possible.len();
    let stored = instances.first().unwrap().load().unwrap();
    assert!(winners.len() <= 1, "round {round}: {} racers won: {winners:?}", winners.len());
    match (winners.pop(), &stored) {
        (Some(winner), stored) => {
            assert_eq!(stored.as_ref(), Some(&winner), "round {round}: the store has not the winner's");
        }
        (None, Some(stored)) if possible.contains(&stored.document) => {}
        (None, stored) => panic!("round {round}: no racer won; the store has {stored:?}"),
    }
    let version = stored.map(|entry| entry.version);
    for instance in instances {
        assert_eq!(instance.version().unwrap(), version, "round {round}: an instance has an old version");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Barrier, Mutex};

    use super::*;
    use crate::store::{MemoryStore, News};

    /// A promise that a store breaks.
    #[derive(Clone, Copy)]
    enum Broken {
        Nothing,
        /// Every racer of a race wins.
        Condition,
        /// The same text has the same version again.
        UniqueVersions,
        /// Its reads are one state behind.
        FreshReads,
        /// A document ends at 4 MiB.
        LargeDocuments,
        /// A stored document is reported as not written.
        Outcome,
    }

    struct Store {
        broken: Broken,
        inner: MemoryStore,
        before: Mutex<Option<Entry>>,
        swaps: Barrier,
        news: Mutex<Vec<News>>,
    }

    const SIZE: RaceSize = RaceSize { racers: 4, rounds: 2 };

    impl Store {
        fn new(broken: Broken) -> Self {
            let swaps = Barrier::new(SIZE.racers);
            Self {
                broken,
                inner: MemoryStore::default(),
                before: Mutex::default(),
                swaps,
                news: Mutex::default(),
            }
        }
    }

    impl super::Store for Store {
        fn load(&self) -> Result<Option<Entry>, StoreError> {
            if matches!(self.broken, Broken::FreshReads) {
                return Ok(self.before.lock().unwrap().clone());
            }
            let entry = self.inner.load()?;
            Ok(entry.map(|entry| {
                let mut document = entry.document;
                if matches!(self.broken, Broken::LargeDocuments) {
                    document.truncate(4 << 20);
                }
                let repeats = matches!(self.broken, Broken::UniqueVersions);
                let version = if repeats { Version::from(document.clone()) } else { entry.version };
                Entry { version, document }
            }))
        }

        fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
            let before = self.inner.load()?;
            if matches!(self.broken, Broken::UniqueVersions) {
                if self.version()?.as_ref() != expected {
                    return Ok(SwapOutcome::Stale);
                }
                self.inner.swap(before.map(|entry| entry.version).as_ref(), document)?;
                return Ok(SwapOutcome::Swapped(Version::from(document.to_owned())));
            }
            if matches!(self.broken, Broken::Condition) && document.starts_with("round") {
                let condition = before.as_ref().map(|entry| &entry.version) == expected;
                self.swaps.wait();
                if !condition {
                    return Ok(SwapOutcome::Stale);
                }
                loop {
                    let now = self.inner.version()?;
                    let outcome = self.inner.swap(now.as_ref(), document)?;
                    if let SwapOutcome::Swapped(_) = outcome {
                        return Ok(outcome);
                    }
                }
            }
            let outcome = self.inner.swap(expected, document)?;
            if let SwapOutcome::Swapped(_) = outcome {
                *self.before.lock().unwrap() = before;
                self.news.lock().unwrap().iter().for_each(|news| news());
                if matches!(self.broken, Broken::Outcome) {
                    return Err(StoreError::Unavailable("nothing was written".to_owned()));
                }
            }
            Ok(outcome)
        }

        fn listen(&self, news: News) {
            self.news.lock().unwrap().push(news);
        }
    }

    fn passes(test: impl FnOnce(&Store), broken: Broken) -> bool {
        catch_unwind(AssertUnwindSafe(|| test(&Store::new(broken)))).is_ok()
    }

    #[test]
    fn broken_stores_fail() {
        let run = |store: &Store| run_with(store, SIZE);
        let races = |store: &Store| {
            races_have_one_winner(&[store, store], SIZE);
        };
        assert!(passes(run, Broken::Nothing));
        assert!(passes(races, Broken::Nothing));
        assert!(passes(|store| instances_agree(store, store), Broken::Nothing));
        assert!(passes(|store| news_arrive(store, store), Broken::Nothing));
        assert!(!passes(run, Broken::UniqueVersions));
        assert!(!passes(run, Broken::FreshReads));
        assert!(!passes(run, Broken::LargeDocuments));
        assert!(!passes(races, Broken::Condition));
        assert!(!passes(races, Broken::Outcome));
        assert!(!passes(|store| instances_agree(store, store), Broken::FreshReads));
    }
}

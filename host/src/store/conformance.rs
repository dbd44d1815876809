//! The conformance tests of the port, run once for each adapter. With the feature `test-suite`,
//! embedders run them against their own store.
//!
//! ```
//! # use optoken::store::MemoryStore as YourStore;
//! // In a test of your own.
//! optoken::store::conformance::run(&YourStore::default());
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::thread;

use crate::store::{Store, SwapOutcome, Version};

/// Runs all tests against a store that was never written to. Durability across a power cut and a
/// restart must be tested where the store lives.
///
/// # Panics
///
/// If the store violates the contract; the message names the violation.
pub fn run(store: &impl Store) {
    empty_store_has_no_document(store);
    let first = one_first_document_wins(store);
    swap_requires_the_current_version(store, &first);
    documents_are_unchanged(store);
    one_racing_swap_wins(store);
}

fn swapped(store: &impl Store, expected: Option<&Version>, document: &str) -> Version {
    match store.swap(expected, document).unwrap() {
        SwapOutcome::Swapped(version) => version,
        SwapOutcome::Stale => panic!("stale"),
    }
}

fn empty_store_has_no_document(store: &impl Store) {
    assert_eq!(store.load().unwrap(), None);
    assert_eq!(store.version().unwrap(), None);
    let unknown = Version::from("1".to_owned());
    assert_eq!(store.swap(Some(&unknown), "x").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap(), None);
}

fn one_first_document_wins(store: &impl Store) -> Version {
    one_racing_swap_wins(store);
    let first = store.load().unwrap().unwrap();
    assert_eq!(store.swap(None, "second").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap().unwrap(), first);
    first.version
}

fn swap_requires_the_current_version(store: &impl Store, first: &Version) {
    assert_eq!(store.version().unwrap().as_ref(), Some(first));
    let second = swapped(store, Some(first), "second");
    assert_ne!(*first, second);
    // A repeated swap is stale, and so is the same text with an older version.
    assert_eq!(store.swap(Some(first), "second").unwrap(), SwapOutcome::Stale);
    // The same text gets a new version.
    let third = swapped(store, Some(&second), "second");
    assert_eq!(HashSet::from([first.as_str(), second.as_str(), third.as_str()]).len(), 3);
    assert_eq!(store.load().unwrap().unwrap().version, third);
}

fn documents_are_unchanged(store: &impl Store) {
    for document in ["", "\"quoted\" \\ and\nbroken\r\n", "\u{1F511} ключ \u{0}", &"x".repeat(2 << 20)] {
        let version = swapped(store, store.version().unwrap().as_ref(), document);
        let entry = store.load().unwrap().unwrap();
        assert!(entry.document == document && entry.version == version);
    }
}

/// Races swaps that all expect the current version, which may be none.
fn one_racing_swap_wins(store: &impl Store) {
    let version = store.version().unwrap();
    let winners: Vec<String> = thread::scope(|scope| {
        let racers: Vec<_> = (0..16)
            .map(|n| {
                let (version, document) = (version.clone(), format!("racer {n}"));
                scope.spawn(move || match store.swap(version.as_ref(), &document).unwrap() {
                    SwapOutcome::Swapped(_) => Some(document),
                    SwapOutcome::Stale => None,
                })
            })
            .collect();
        racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(winners, [store.load().unwrap().unwrap().document]);
}

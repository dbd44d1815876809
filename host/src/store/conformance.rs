//! What every store must do, once for all adapters; with the feature `test-suite`, for those of others, too.
//!
//! ```
//! # use optoken::store::MemoryStore as YourStore;
//! // In a test of yours.
//! optoken::store::suite::run(&YourStore::default());
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::thread;

use crate::store::{Store, SwapOutcome, Version};

/// Plays the whole suite against a store that has never been written to. That what was stored survives a power cut and a
/// restart has to be tested where the store is.
///
/// # Panics
///
/// With what the store did wrong.
pub fn run(store: &impl Store) {
    an_empty_store_has_nothing(store);
    let first = of_many_first_documents_exactly_one_is_stored(store);
    a_document_is_replaced_only_by_who_has_read_it(store, &first);
    documents_come_back_byte_for_byte(store);
    exactly_one_wins(store);
}

fn swapped(store: &impl Store, expected: Option<&Version>, document: &str) -> Version {
    match store.swap(expected, document).unwrap() {
        SwapOutcome::Swapped(version) => version,
        SwapOutcome::Stale => panic!("stale"),
    }
}

fn an_empty_store_has_nothing(store: &impl Store) {
    assert_eq!(store.load().unwrap(), None);
    assert_eq!(store.version().unwrap(), None);
    let unheard_of = Version::from("1".to_owned());
    assert_eq!(store.swap(Some(&unheard_of), "x").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap(), None);
}

fn of_many_first_documents_exactly_one_is_stored(store: &impl Store) -> Version {
    exactly_one_wins(store);
    let first = store.load().unwrap().unwrap();
    assert_eq!(store.swap(None, "second").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap().unwrap(), first);
    first.version
}

fn a_document_is_replaced_only_by_who_has_read_it(store: &impl Store, first: &Version) {
    assert_eq!(store.version().unwrap().as_ref(), Some(first));
    let second = swapped(store, Some(first), "second");
    assert_ne!(*first, second);
    // Repeating a swap that has succeeded is stale, and so is the same text from an older version.
    assert_eq!(store.swap(Some(first), "second").unwrap(), SwapOutcome::Stale);
    // The same text again is another state.
    let third = swapped(store, Some(&second), "second");
    assert_eq!(HashSet::from([first.as_str(), second.as_str(), third.as_str()]).len(), 3);
    assert_eq!(store.load().unwrap().unwrap().version, third);
}

fn documents_come_back_byte_for_byte(store: &impl Store) {
    for document in ["", "\"quoted\" \\ and\nbroken\r\n", "\u{1F511} ключ \u{0}", &"x".repeat(2 << 20)] {
        let version = swapped(store, store.version().unwrap().as_ref(), document);
        let entry = store.load().unwrap().unwrap();
        assert!(entry.document == document && entry.version == version);
    }
}

/// Of many swaps that expect what is there now, be it nothing.
fn exactly_one_wins(store: &impl Store) {
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

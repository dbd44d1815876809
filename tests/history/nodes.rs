//! Histories of nodes on one store: right ones under faults, and broken ones, each of which a check
//! finds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use optoken::authority::MIN_MAX_STALENESS;
use optoken::store::{MemoryStore, SqliteStore, Store};

use crate::support::eventually;
use crate::support::history::bound;
use crate::support::history::faults::{Broken, BrokenStore, Fault, FaultyStore, Switch};
use crate::support::history::recorder::Recorder;
use crate::support::history::workload::{Nodes, Until, swap_documents};

/// The nodes of a test.
const NODES: usize = 3;

/// Beyond this time after a revocation no node accepts the token.
const BOUND: Duration = MIN_MAX_STALENESS;

/// Gives each node another fault, again and again.
fn disturb(switches: &[Switch], seed: u64, ended: &AtomicBool) {
    let mut random = Rng::with_seed(seed);
    while !ended.load(Ordering::Relaxed) {
        for switch in switches {
            // Half of the time there is none.
            switch.set(if random.bool() { Fault::None } else { *random.choice(&Fault::ALL).unwrap() });
        }
        thread::sleep(Duration::from_millis(random.u64(20..900)));
    }
    for switch in switches {
        switch.heal();
    }
}

fn switches() -> Vec<Switch> {
    (0..NODES).map(|_| Switch::new()).collect()
}

/// A database, and a connection of its own for each node, which has the fault of its switch.
fn stores(directory: &Path, switches: &[Switch]) -> impl Iterator<Item = Arc<dyn Store>> {
    let path = directory.join("tokens.db");
    switches.iter().map(move |switch| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(Arc::new(SqliteStore::open(&path).unwrap()), switch.clone()))
    })
}

#[test]
fn documents_under_faults_have_one_history() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, switches) = (Recorder::new(), switches());
    let stores: Vec<_> = stores(directory.path(), &switches).map(|store| recorder.store(store)).collect();
    swap_documents(&stores, Until::Done(40), 1, &|ended| disturb(&switches, 1, ended));
    let states = recorder.check_calls().unwrap_or_else(|violation| panic!("{violation}"));
    println!("{} calls, {} states", recorder.len(), states.len());
    assert!(states.len() > 50, "{}", states.len());
}

#[test]
fn nodes_under_faults_are_one_authority() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, switches) = (Recorder::new(), switches());
    let stores = stores(directory.path(), &switches).map(|store| recorder.store(store));
    let nodes = Nodes::build(&recorder, stores, BOUND);
    nodes.use_tokens(Until::Done(120), 1, &|ended| disturb(&switches, 1, ended));
    eventually("the nodes agree again", || nodes.agree());
    let states = recorder.check_calls().unwrap_or_else(|violation| panic!("{violation}"));
    let latest = bound::check(&recorder.events(), BOUND).unwrap_or_else(|violation| panic!("{violation}"));
    println!(
        "{} calls and answers, {} states, latest acceptance {latest:?} after the revocation; {}",
        recorder.len(),
        states.len(),
        nodes.text()
    );
    assert!(states.len() > 50, "{}", states.len());
}

/// The check that finds a broken promise in documents that clients swap under this fault.
fn check_of_documents(broken: Option<Broken>, fault: Fault) -> Option<&'static str> {
    let (recorder, switch) = (Recorder::new(), Switch::new());
    let store = FaultyStore::new(Arc::new(MemoryStore::default()), switch.clone());
    let store: Arc<dyn Store> = match broken {
        None => Arc::new(store),
        Some(broken) => Arc::new(BrokenStore::new(Arc::new(store), broken)),
    };
    switch.set(fault);
    swap_documents(&[recorder.store(store)], Until::Done(40), 2, &|_| ());
    recorder.check_calls().err().map(|violation| violation.check())
}

#[test]
fn swap_without_condition_is_a_lost_update() {
    assert_eq!(check_of_documents(None, Fault::None), None);
    assert_eq!(check_of_documents(Some(Broken::Unconditional), Fault::None), Some("lost update"));
}

#[test]
fn repeated_swap_is_a_denied_write() {
    assert_eq!(check_of_documents(None, Fault::AnswerLost), None);
    assert_eq!(check_of_documents(Some(Broken::RepeatsSwaps), Fault::AnswerLost), Some("denied write"));
}

/// The checks that find this fault while a node is cut off and a token is revoked elsewhere: that
/// of the answers, and that of the calls.
fn checks_of_cut_off_node(broken: Option<Broken>) -> (Option<&'static str>, Option<&'static str>) {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, switches) = (Recorder::new(), switches());
    let stores = stores(directory.path(), &switches).map(|store| {
        recorder.store(match broken {
            None => store,
            Some(broken) => Arc::new(BrokenStore::new(store, broken)),
        })
    });
    let nodes = Nodes::build(&recorder, stores, BOUND);
    let mut random = Rng::with_seed(3);
    nodes.create(0, "ci");
    eventually("all nodes know the token", || nodes.agree());
    switches[1].set(Fault::Cut);
    nodes.delete(&mut random, 0);
    let revoked = Instant::now();
    while revoked.elapsed() < BOUND * 3 {
        nodes.authenticate(&mut random, 1);
        thread::sleep(Duration::from_millis(5));
    }
    let answers = bound::check(&recorder.events(), BOUND).err();
    let calls = recorder.check_calls().err();
    (answers.map(|violation| violation.check()), calls.map(|violation| violation.check()))
}

#[test]
fn proof_by_news_is_accepted_beyond_the_bound() {
    assert_eq!(checks_of_cut_off_node(None), (None, None));
    assert_eq!(
        checks_of_cut_off_node(Some(Broken::ProvesByNews)),
        (Some("accepted beyond the bound"), Some("stale read"))
    );
}

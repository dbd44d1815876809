//! Histories of the store itself: 24 clients swap documents, and use tokens through the authorities
//! of three nodes in this process. All calls of the store are recorded and checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::super::link::Link;
use super::super::{BOUND, Engine, NODES, Traffic};
use super::OPERATIONS;
use super::disturbance::{At, Fault, disturb};
use crate::support::eventually;
use crate::support::history::bound;
use crate::support::history::recorder::{RecordedStore, Recorder};
use crate::support::history::workload::{Nodes, SetOnDrop, Until, swap_documents};

pub(crate) fn store_of_nodes_under_faults_has_one_history(engine: &'static Engine) {
    let store = (engine.start)();
    let links: Vec<Vec<Link>> =
        (0..NODES).map(|_| store.addresses().into_iter().map(Link::start).collect()).collect();
    // A store for each node, with connections of its own.
    let open = |name: &str, recorder: &Arc<Recorder>| -> Vec<RecordedStore> {
        let open = |links: &Vec<Link>| {
            let addresses: Vec<_> = links.iter().map(|link| link.address).collect();
            recorder.store(store.open(name, &addresses))
        };
        links.iter().map(open).collect()
    };
    let apply = |fault: Fault, at: &At| match fault {
        Fault::Network(traffic) => {
            let traffic = if at.begins { traffic } else { Traffic::Passes };
            links[at.node].iter().for_each(|link| link.set(traffic));
        }
        fault => fault.apply_to_engine(engine, &*store, at),
    };
    let faults = Fault::of(engine);
    let (documents, tokens) = (Recorder::new(), Recorder::new());
    let enough = || documents.len().min(tokens.len()) >= OPERATIONS / 2;
    let nodes = Nodes::build(&tokens, open("tokens", &tokens), BOUND);
    let document_stores = open("documents", &documents);
    let calm = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let until_calm = |_: &AtomicBool| {
                while !calm.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(50));
                }
            };
            swap_documents(&document_stores, Until::Disturbed, 1, &until_calm);
        });
        let _calm = SetOnDrop(&calm);
        nodes.use_tokens(Until::Disturbed, 2, &|_| {
            disturb(&faults, 2, apply, enough);
        });
    });
    eventually("the nodes agree again", || nodes.agree());

    let states = documents.check_calls().unwrap_or_else(|violation| panic!("{violation}"));
    println!("{}: {} calls of 24 clients, {} states", engine.name, documents.len(), states.len());
    let states = tokens.check_calls().unwrap_or_else(|violation| panic!("{violation}"));
    let latest = bound::check(&tokens.events(), BOUND).unwrap_or_else(|violation| panic!("{violation}"));
    println!(
        "{}: {} calls and answers of 24 clients, {} states, latest acceptance {latest:?} after the revocation, of \
         {BOUND:?}; {}",
        engine.name,
        tokens.len(),
        states.len(),
        nodes.text()
    );
}

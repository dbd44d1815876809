//! 64 clients race for the operator token across three nodes, round after round.

use std::env;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Engine, NODES, Node};
use crate::support::{Connection, NOT_AUTHENTICATED, REGENERATE, Response, eventually, get, post};

/// The clients of a round.
const CLIENTS: usize = 64;

/// The rounds, unless the environment sets others.
const ROUNDS: usize = 20;

/// One of this many rounds is followed by a change without a race.
const ALONE: usize = 4;

/// Sets the number of rounds.
const ROUNDS_VARIABLE: &str = "OPTOKEN_TEST_ROUNDS";

/// Returns the number of rounds.
fn rounds() -> usize {
    env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

/// A response, its node, and when it was read.
struct Answer {
    node: usize,
    response: Response,
    at: Instant,
}

/// Replaces this token with the requests of all clients at the same moment, to the nodes in turn.
/// Returns the answer of the one that succeeds.
fn race(nodes: &[Node], token: &str) -> Answer {
    let ready = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let node = client % nodes.len();
            let mut connection = Connection::open(nodes[node].address()).unwrap();
            let bytes = post(REGENERATE).bearer(token).to_bytes();
            let ready = Arc::clone(&ready);
            thread::spawn(move || {
                let (last, first) = bytes.split_last().unwrap();
                connection.write(first);
                ready.wait();
                connection.write(&[*last]);
                let response = connection.read().unwrap();
                Answer { node, response, at: Instant::now() }
            })
        })
        .collect();
    let answers = clients.into_iter().map(|client| client.join().unwrap());
    let (mut won, lost): (Vec<_>, Vec<_>) = answers.partition(|answer| answer.response.status == 201);
    assert_eq!(won.len(), 1, "of {CLIENTS} succeeded; the others: {}", statuses(&lost));
    for answer in &lost {
        answer.response.assert_is(401, NOT_AUTHENTICATED);
    }
    won.remove(0)
}

/// Asks a node about a token until the node refuses it. Returns the time of the first refusal.
fn watch(address: SocketAddr, token: &str) -> JoinHandle<Instant> {
    let request = get("/health").bearer(token).to_bytes();
    thread::spawn(move || {
        let mut connection = Connection::open(address).unwrap();
        loop {
            connection.write(&request);
            match connection.read().unwrap() {
                Response { status: 200, .. } => thread::sleep(Duration::from_millis(1)),
                Response { status: 401, .. } => return Instant::now(),
                other => panic!("{other:?}"),
            }
        }
    })
}

/// The times from a 201 to the first refusal of the replaced token on each other node.
#[derive(Default)]
struct Refusals(Vec<Duration>);

impl Refusals {
    /// Lets `replace` replace the operator token. All nodes then agree on the new one. Returns it.
    fn after(&mut self, nodes: &[Node], token: &str, replace: impl FnOnce() -> Answer) -> String {
        eventually("all nodes know the token", || nodes.iter().all(|node| node.server.accepts(token)));
        let sequence = nodes[0].sequence(token);
        let watchers: Vec<_> = nodes.iter().map(|node| watch(node.address(), token)).collect();
        let won = replace();
        let new = won.response.token();
        // At once on the node that responded, within the bound on the others.
        let node = &nodes[won.node].server;
        assert!(!node.accepts(token) && node.accepts(&new));
        for (node, watcher) in watchers.into_iter().enumerate() {
            let refused = watcher.join().unwrap();
            if node != won.node {
                self.0.push(refused.saturating_duration_since(won.at));
            }
        }
        // From then on no node goes back.
        for node in nodes {
            assert!(!node.server.accepts(token) && node.server.accepts(&new));
            assert_eq!(node.sequence(&new), sequence + 1);
            assert_eq!(node.status(&new)["catalog"], nodes[0].status(&new)["catalog"]);
        }
        new
    }

    /// Percentiles of the times.
    fn text(mut self) -> String {
        self.0.sort_unstable();
        let at = |percent: usize| self.0[(self.0.len() - 1) * percent / 100];
        format!("p50 {:?}, p99 {:?}, max {:?}, of {}", at(50), at(99), at(100), self.0.len())
    }
}

pub(crate) fn one_of_concurrent_regenerates_on_three_nodes_succeeds(engine: &'static Engine) {
    let store = (engine.share)();
    let nodes: Vec<_> = (0..NODES).map(|_| Node::start(&*store, &[], false)).collect();
    let mut token = nodes[0].server.create();
    let (mut raced, mut alone) = (Refusals::default(), Refusals::default());
    let started = Instant::now();
    for round in 0..rounds() {
        token = raced.after(&nodes, &token, || race(&nodes, &token));
        if !round.is_multiple_of(ALONE) {
            continue;
        }
        // The losers of a race read the store. After a single request the other nodes have to hear
        // of the change.
        token = alone.after(&nodes, &token, || {
            let node = round / ALONE % NODES;
            let response = post(REGENERATE).bearer(&token).send(nodes[node].address());
            Answer { node, response, at: Instant::now() }
        });
    }
    println!(
        "{}: {} rounds of {CLIENTS} clients on {NODES} nodes in {:?}",
        engine.name,
        rounds(),
        started.elapsed()
    );
    println!("{}: from the 201 to the refusal on another node, in a race: {}", engine.name, raced.text());
    println!("{}: from the 201 to the refusal on another node, alone: {}", engine.name, alone.text());
    for node in &nodes {
        let records = node.verified_audit_log(&token);
        assert_eq!(records.last().unwrap()["sequence"].as_u64(), Some(node.sequence(&token)));
    }
}

fn statuses(answers: &[Answer]) -> String {
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.response.status).collect();
    statuses.sort_unstable();
    format!("{statuses:?}")
}

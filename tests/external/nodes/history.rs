//! A long history of commands and authentications on three nodes, while engine, network, nodes and
//! clocks fail. The audit log has the order of all changes, so the check of chains holds it against
//! what each client was answered.

mod commands;
mod disturbance;
mod stores;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::Value;

use self::commands::{Command, check};
use self::disturbance::{At, Fault, disturb};
pub(crate) use self::stores::store_of_nodes_under_faults_has_one_history;
use super::{BOUND, Engine, Node, Traffic};
use crate::support::history::bound::{self, EventKind, Node as NodeNumber};
use crate::support::history::chain::Outcome;
use crate::support::history::recorder::Recorder;
use crate::support::history::workload::SetOnDrop;
use crate::support::history::{Moment, NEVER};
use crate::support::{
    CONFIRM, Connection, Request, Response, STAGE, create_named, delete_named, get, holds_within, post,
};

const CLIENTS: usize = 24;

/// The operations of all clients.
const OPERATIONS: usize = 5_000;

/// The longest pause of a client between two operations, in milliseconds.
const PAUSE: u64 = 50;

/// How many tokens the clients choose from.
const KNOWN_TOKENS: usize = 24;

/// The address of the first request; each later one has the next.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);

/// What all clients know.
struct Clients {
    nodes: Vec<SocketAddr>,
    recorder: Arc<Recorder>,
    operator: RwLock<String>,
    /// The newest tokens with their names, revoked ones among them.
    tokens: Mutex<Vec<(String, String)>>,
    commands: Mutex<Vec<Command>>,
    requests: AtomicU32,
    /// Sequence numbers of the status of nodes.
    sequences: Mutex<Vec<commands::Seen>>,
    ended: AtomicBool,
}

/// The answer to a request, with the address that it came from.
struct Answer {
    begin: Moment,
    end: Moment,
    from: Ipv4Addr,
    /// None without a response.
    response: Option<Response>,
}

impl Answer {
    fn status(&self) -> Option<u16> {
        self.response.as_ref().map(|response| response.status)
    }

    /// What the answer states of a change.
    fn outcome(&self) -> Outcome {
        match &self.response {
            Some(Response { status: 200..=299, .. }) => Outcome::Won,
            Some(Response { status: 503, body, .. }) if body.contains("failed in the middle") => {
                Outcome::Unknown
            }
            Some(_) => Outcome::Failed,
            None => Outcome::Unknown,
        }
    }
}

impl Clients {
    /// Sends a request from an address of its own, which no other request has.
    fn send(&self, node: usize, request: &Request) -> Answer {
        let address = self.nodes[node];
        let from =
            Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + self.requests.fetch_add(1, Ordering::Relaxed));
        let begin = self.recorder.now();
        let mut connection = Connection::open_from(from, address).unwrap();
        connection.write(&request.to(address).to_bytes());
        let response = connection.read().ok();
        Answer { begin, end: self.recorder.now(), from, response }
    }

    fn record(&self, token: &str, node: usize, kind: EventKind, begin: Moment, end: Moment) {
        self.recorder.event(token, NodeNumber::try_from(node).unwrap(), kind, begin, end);
    }

    fn operator(&self) -> String {
        self.operator.read().unwrap().clone()
    }

    fn command(&self, action: &'static str, subject: &str, answers: &[Answer]) {
        let (first, last) = (&answers[0], &answers[answers.len() - 1]);
        self.commands.lock().unwrap().push(Command {
            begin: first.begin,
            end: last.end,
            action,
            subject: subject.to_owned(),
            addresses: answers.iter().map(|answer| answer.from).collect(),
            outcome: last.outcome(),
        });
    }

    fn remember(&self, name: &str, token: &str) {
        let mut tokens = self.tokens.lock().unwrap();
        tokens.push((name.to_owned(), token.to_owned()));
        if tokens.len() > KNOWN_TOKENS {
            tokens.remove(0);
        }
    }

    fn create(&self, node: usize, name: &str) {
        let answer = self.send(node, &create_named(&self.operator(), name));
        if answer.outcome() == Outcome::Won {
            let token = answer.response.as_ref().unwrap().token();
            self.record(&token, node, EventKind::Issue, answer.begin, answer.end);
            self.remember(name, &token);
        }
        self.command("create_named", name, &[answer]);
    }

    fn delete(&self, random: &mut Rng, node: usize) {
        let Some((name, token)) = random.choice(&*self.tokens.lock().unwrap()).cloned() else { return };
        let answer = self.send(node, &delete_named(&self.operator(), &name));
        match (answer.outcome(), answer.status()) {
            // 404: made before.
            (Outcome::Won, _) | (_, Some(404)) => {
                self.record(&token, node, EventKind::Revocation, answer.begin, answer.end);
            }
            (Outcome::Unknown, _) => self.record(&token, node, EventKind::Revocation, answer.begin, NEVER),
            _ => {}
        }
        self.command("delete", &name, &[answer]);
    }

    /// Stages a token and confirms it, again and again until both are acknowledged.
    fn replace_operator(&self, random: &mut Rng) {
        let old = self.operator();
        let mut node = || random.usize(0..self.nodes.len());
        let staged = loop {
            let answer = self.send(node(), &post(STAGE).bearer(&old));
            let token = answer.response.as_ref().filter(|response| response.status == 201);
            let token = token.map(|response| response.json()["token"].as_str().unwrap().to_owned());
            self.command("stage", "_admin", &[answer]);
            match token {
                Some(token) => break token,
                None if self.ended.load(Ordering::Relaxed) => return,
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut answers = Vec::new();
        let at = loop {
            let node = node();
            answers.push(self.send(node, &post(CONFIRM).bearer(&staged)));
            // 401: the node does not know the token yet.
            if answers[answers.len() - 1].outcome() == Outcome::Won {
                break node;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let (begin, end) = (answers[0].begin, answers[answers.len() - 1].end);
        self.record(&old, at, EventKind::Revocation, begin, end);
        self.record(&staged, at, EventKind::Issue, begin, end);
        self.command("confirm", "_admin", &answers);
        *self.operator.write().unwrap() = staged;
        self.tokens.lock().unwrap().push(("former operator".to_owned(), old));
    }

    fn authenticate(&self, random: &mut Rng, node: usize) {
        let known = random.choice(&*self.tokens.lock().unwrap()).cloned();
        let token = known.map_or_else(|| self.operator(), |(_, token)| token);
        let answer = self.send(node, &get("/health").bearer(&token));
        let kind = match answer.status() {
            Some(200) => EventKind::Accepted,
            Some(401) => EventKind::Refused,
            Some(503) => return,
            other => panic!("{other:?}"),
        };
        self.record(&token, node, kind, answer.begin, answer.end);
    }

    fn see_status(&self, node: usize) {
        let request = get("/api/v3/optoken/status").bearer(&self.operator());
        let Answer { begin, end, response, .. } = self.send(node, &request);
        if let Some(response) = response.filter(|response| response.status == 200) {
            let sequence = response.json()["catalog"]["sequence"].as_u64().unwrap();
            self.sequences.lock().unwrap().push(commands::Seen { begin, end, sequence });
        }
    }

    /// The number of operations that have ended.
    fn operations(&self) -> usize {
        self.recorder.len() + self.commands.lock().unwrap().len() + self.sequences.lock().unwrap().len()
    }

    /// One client, until the faults have ended.
    fn run(&self, number: usize) {
        let mut random = Rng::with_seed(number as u64);
        let mut thing = 0;
        while !self.ended.load(Ordering::Relaxed) {
            thing += 1;
            let node = random.usize(0..self.nodes.len());
            match random.u32(0..100) {
                0..=5 => self.create(node, &format!("client-{number}-{thing}")),
                6..=10 => self.delete(&mut random, node),
                11..=30 if number == 0 => self.replace_operator(&mut random),
                11..=15 => self.see_status(node),
                _ => self.authenticate(&mut random, node),
            }
            // Leaves time to the nodes, on a machine of few processors.
            thread::sleep(Duration::from_millis(random.u64(0..PAUSE)));
        }
    }
}

pub(crate) fn nodes_under_faults_have_one_history(engine: &'static Engine) {
    let store = (engine.start)();
    let nodes = Node::start_all(&*store, true);
    let operator = nodes[0].server.create();
    let clients = Clients {
        nodes: nodes.iter().map(Node::address).collect(),
        recorder: Recorder::new(),
        operator: RwLock::new(operator.clone()),
        tokens: Mutex::default(),
        commands: Mutex::default(),
        requests: AtomicU32::new(0),
        sequences: Mutex::default(),
        ended: AtomicBool::new(false),
    };
    clients.record(&operator, 0, EventKind::Issue, 0, clients.recorder.now());
    let mut faults = Fault::of(engine);
    faults.extend([Fault::StoppedNode, Fault::StoppedNode, Fault::Clock]);
    // A database on one machine has few faults, and so a short history.
    let least = if engine.is_remote { OPERATIONS } else { OPERATIONS / 5 };
    let faults = thread::scope(|scope| {
        let clients = &clients;
        let threads: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || clients.run(number))).collect();
        let apply = |fault: Fault, at: &At| {
            let node = &nodes[at.node];
            match fault {
                Fault::Network(traffic) => node.set(if at.begins { traffic } else { Traffic::Passes }),
                Fault::StoppedNode => {
                    node.server.signal(if at.begins { Signal::STOP } else { Signal::CONT });
                }
                // It stays until the next jump.
                Fault::Clock if at.begins => {
                    let seconds = i64::try_from(at.number % 14_400).unwrap() - 7_200;
                    node.clock.as_ref().unwrap().jump(seconds);
                }
                fault => fault.apply_to_engine(engine, &*store, at),
            }
        };
        let ended = SetOnDrop(&clients.ended);
        let faults = disturb(&faults, 16, apply, || clients.operations() >= least);
        drop(ended);
        for thread in threads {
            thread.join().unwrap();
        }
        faults
    });
    // They come back by themselves, and agree.
    let operator = clients.operator();
    assert!(holds_within(Duration::from_secs(15), || {
        nodes.iter().all(|node| node.answer(&operator) == 200)
            && nodes
                .iter()
                .all(|node| node.status(&operator)["catalog"] == nodes[0].status(&operator)["catalog"])
    }));
    let operations = clients.operations();
    let Clients { recorder, commands, sequences, .. } = clients;
    let (commands, sequences) = (commands.into_inner().unwrap(), sequences.into_inner().unwrap());
    let logs: Vec<Vec<Value>> = nodes.iter().map(|node| node.verified_audit_log(&operator)).collect();
    let records =
        check(&commands, &sequences, BOUND, &logs).unwrap_or_else(|violation| panic!("{violation}"));
    let latest = bound::check(&recorder.events(), BOUND).unwrap_or_else(|violation| panic!("{violation}"));
    let count = |outcome| commands.iter().filter(|command| command.outcome == outcome).count();
    println!(
        "{}: {operations} operations of {CLIENTS} clients, {records} changes; commands: {} acknowledged, {} refused, {} \
         unknown; {faults} faults; latest acceptance {latest:?} after the revocation, of {BOUND:?}",
        engine.name,
        count(Outcome::Won),
        count(Outcome::Failed),
        count(Outcome::Unknown),
    );
}

//! Clients that use one store in many threads, while it is disturbed: directly, and through the
//! authorities of several nodes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use fastrand::Rng;
use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::Store;
use optoken::token::{AuthenticateError, CommandError};

use super::bound::{EventKind, Node};
use super::recorder::Recorder;
use super::{Moment, NEVER};
use crate::support::eventually;

/// The origin of the changes.
const ORIGIN: &str = "history";

/// The clients of a history.
pub(crate) const CLIENTS: usize = 24;

/// How much each client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// This many things.
    Done(usize),
    /// As much as it can until the disturbance ends.
    Disturbed,
}

/// Sets a flag when it is dropped, also by a panic, so that no other thread waits without end.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts what a client does.
struct Things<'a> {
    done: usize,
    until: Until,
    calm: &'a AtomicBool,
}

impl Iterator for Things<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.done += 1;
        if self.until == Until::Disturbed {
            // Leaves time to the others, on a machine of few processors.
            pause(&mut Rng::new());
        }
        let goes_on = match self.until {
            Until::Done(things) => self.done <= things,
            Until::Disturbed => !self.calm.load(Ordering::Relaxed),
        };
        goes_on.then_some(self.done)
    }
}

/// Runs `client` in as many threads as there are clients, and `disturb` beside them until they have
/// ended.
fn run(until: Until, client: &(dyn Fn(usize, Things<'_>) + Sync), disturb: &(dyn Fn(&AtomicBool) + Sync)) {
    let (ended, calm) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let things = Things { done: 0, until, calm: &calm };
                scope.spawn(move || client(number, things))
            })
            .collect();
        scope.spawn(|| {
            let _calm = SetOnDrop(&calm);
            disturb(&ended);
        });
        let results: Vec<_> = clients.into_iter().map(ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "a client panicked");
    });
}

/// Lets clients read and swap documents, each by one of these stores. Every client does this many
/// things.
pub(crate) fn swap_documents(
    stores: &[impl Store],
    until: Until,
    seed: u64,
    disturb: &(dyn Fn(&AtomicBool) + Sync),
) {
    let client = |number: usize, things: Things<'_>| {
        let mut random = Rng::with_seed(seed + number as u64);
        let store = &stores[number % stores.len()];
        let mut expected = None;
        // No document is written twice.
        let document = |thing: usize| format!("{number} {thing} {seed}");
        for thing in things {
            match random.u32(0..10) {
                0 => drop(store.version()),
                // Expects an old version.
                1 => drop(store.swap(expected.as_ref(), &document(thing))),
                read => match store.load() {
                    Ok(entry) => {
                        expected = entry.map(|entry| entry.version);
                        if read < 8 {
                            drop(store.swap(expected.as_ref(), &document(thing)));
                        }
                    }
                    Err(_) => pause(&mut random),
                },
            }
        }
    };
    run(until, &client, disturb);
    // Shows what the last swap has written.
    eventually("the store answers again", || stores[0].load().is_ok());
}

fn pause(random: &mut Rng) {
    thread::sleep(Duration::from_millis(random.u64(0..40)));
}

/// The authorities of several nodes, and what their clients know.
pub(crate) struct Nodes {
    recorder: Arc<Recorder>,
    authorities: Vec<Authority>,
    operator: RwLock<Secret>,
    /// The newest tokens, revoked ones among them.
    tokens: Mutex<Vec<(String, Secret)>>,
    /// The number of answers that deny because the state is not known.
    unavailable: AtomicUsize,
    unknown: AtomicUsize,
}

/// How many tokens the clients choose from.
const KNOWN_TOKENS: usize = 24;

impl Nodes {
    /// Builds a node on each of these stores, which record their calls.
    pub(crate) fn build(
        recorder: &Arc<Recorder>,
        stores: impl IntoIterator<Item = impl Store>,
        max_staleness: Duration,
    ) -> Self {
        let build = |store| Authority::builder(store).max_staleness(max_staleness).build().unwrap();
        let authorities: Vec<_> = stores.into_iter().map(build).collect();
        let begin = recorder.now();
        let operator = authorities[0].create_operator(ORIGIN).unwrap().secret;
        recorder.event(operator.expose(), 0, EventKind::Issue, begin, recorder.now());
        Self {
            recorder: Arc::clone(recorder),
            authorities,
            operator: RwLock::new(operator),
            tokens: Mutex::default(),
            unavailable: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
        }
    }

    /// Lets clients create, delete and use tokens on all nodes; the first client also replaces the
    /// operator token.
    pub(crate) fn use_tokens(&self, until: Until, seed: u64, disturb: &(dyn Fn(&AtomicBool) + Sync)) {
        let client = |number: usize, things: Things<'_>| {
            let mut random = Rng::with_seed(seed + number as u64);
            for thing in things {
                let node = random.usize(0..self.authorities.len());
                match random.u32(0..100) {
                    0..=7 => self.create(node, &format!("{seed}-{number}-{thing}")),
                    8..=13 => self.delete(&mut random, node),
                    14..=20 if number == 0 => self.replace_operator(&mut random, node),
                    _ => {
                        self.authenticate(&mut random, node);
                    }
                }
            }
        };
        run(until, &client, disturb);
    }

    fn record(&self, token: &Secret, node: usize, kind: EventKind, begin: Moment, end: Moment) {
        self.recorder.event(token.expose(), Node::try_from(node).unwrap(), kind, begin, end);
    }

    fn operator(&self) -> Secret {
        self.operator.read().unwrap().clone()
    }

    /// Creates a named token by this node.
    pub(crate) fn create(&self, node: usize, name: &str) {
        let begin = self.recorder.now();
        match self.authorities[node].create_named(&self.operator(), name, None, None, ORIGIN) {
            Ok(issued) => {
                self.record(&issued.secret, node, EventKind::Issue, begin, self.recorder.now());
                let mut tokens = self.tokens.lock().unwrap();
                tokens.push((name.to_owned(), issued.secret));
                if tokens.len() > KNOWN_TOKENS {
                    tokens.remove(0);
                }
            }
            Err(error) => self.count(&error),
        }
    }

    /// Deletes one of the tokens by this node.
    pub(crate) fn delete(&self, random: &mut Rng, node: usize) {
        let Some((name, secret)) = random.choice(&*self.tokens.lock().unwrap()).cloned() else { return };
        let begin = self.recorder.now();
        let end = match self.authorities[node].delete(&self.operator(), &name, ORIGIN) {
            // Another client has deleted it before.
            Ok(_) | Err(CommandError::NotFound(_)) => self.recorder.now(),
            Err(error @ CommandError::UnknownOutcome(_)) => {
                self.count(&error);
                NEVER
            }
            Err(error) => return self.count(&error),
        };
        self.record(&secret, node, EventKind::Revocation, begin, end);
    }

    fn replace_operator(&self, random: &mut Rng, node: usize) {
        let old = self.operator();
        let begin = self.recorder.now();
        let mut replaced = self.authorities[node].regenerate(&old, 0, ORIGIN);
        let mut at = node;
        if matches!(replaced, Err(CommandError::UnknownOutcome(_))) {
            self.record(&old, node, EventKind::Revocation, begin, NEVER);
            // The operator token is lost, perhaps.
            while replaced.is_err() {
                at = random.usize(0..self.authorities.len());
                replaced = self.authorities[at].recover(ORIGIN);
            }
        }
        match replaced {
            Ok(issued) => {
                let end = self.recorder.now();
                self.record(&old, at, EventKind::Revocation, begin, end);
                self.record(&issued.secret, at, EventKind::Issue, begin, end);
                let mut tokens = self.tokens.lock().unwrap();
                // The clients go on to present the old one. Deleting it fails.
                tokens.push((optoken::token::OPERATOR.to_owned(), old));
                *self.operator.write().unwrap() = issued.secret;
            }
            Err(error) => self.count(&error),
        }
    }

    /// Presents one of the tokens to this node. Returns whether it is accepted; `None` if the node
    /// does not know.
    pub(crate) fn authenticate(&self, random: &mut Rng, node: usize) -> Option<bool> {
        let known = random.choice(&*self.tokens.lock().unwrap()).cloned();
        let token = known.map_or_else(|| self.operator(), |(_, secret)| secret);
        self.ask(node, &token)
    }

    /// Returns whether the node accepts a token; `None` if it does not know.
    fn ask(&self, node: usize, token: &Secret) -> Option<bool> {
        let begin = self.recorder.now();
        let kind = match self.authorities[node].authenticate(token.expose()) {
            Ok(_) => EventKind::Accepted,
            Err(AuthenticateError::Unavailable(_)) => {
                self.unavailable.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Err(_) => EventKind::Refused,
        };
        self.record(token, node, kind, begin, self.recorder.now());
        Some(kind == EventKind::Accepted)
    }

    fn count(&self, error: &CommandError) {
        match error {
            CommandError::UnknownOutcome(_) => self.unknown.fetch_add(1, Ordering::Relaxed),
            _ => self.unavailable.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Returns whether all nodes are at the same sequence, and accept the operator token.
    pub(crate) fn agree(&self) -> bool {
        let operator = self.operator();
        let state = |authority: &Authority| authority.catalog_state().ok().flatten();
        let first = state(&self.authorities[0]);
        self.authorities.iter().all(|authority| state(authority) == first)
            && (0..self.authorities.len()).all(|node| self.ask(node, &operator) == Some(true))
    }

    /// What happened, in one line.
    pub(crate) fn text(&self) -> String {
        let sequence = self.authorities[0].catalog_state().unwrap().unwrap().audit_sequence;
        format!(
            "{sequence} changes, {} answers of unknown outcome, {} denied for want of an answer or by a command",
            self.unknown.load(Ordering::Relaxed),
            self.unavailable.load(Ordering::Relaxed)
        )
    }
}

//! Records what clients do to a store, with the begin and the end of each call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use optoken::store::{ClockDifference, Entry, News, Store, StoreError, SwapOutcome, Version};
use sha2::{Digest as _, Sha512_256};

use super::Moment;
use super::bound::{Event, EventKind, Node, Token};
use super::chain::{self, INITIAL, Kind, Operation, Outcome, State, Violation};

/// The digest of a document, which stands for it.
type Digest = [u8; 32];

fn digest(document: &str) -> Digest {
    Sha512_256::digest(document).into()
}

/// A call of a store that was answered, or that may have written.
#[derive(Debug, Clone)]
struct Call {
    begin: Moment,
    end: Moment,
    kind: CallKind,
}

#[derive(Debug, Clone)]
enum CallKind {
    Version(Option<Version>),
    Load(Option<(Version, Digest)>),
    /// The new version is that of a swap that won.
    Swap {
        expected: Option<Version>,
        document: Digest,
        outcome: Outcome,
        new: Option<Version>,
    },
}

/// All calls and events of one test, by one clock.
pub(crate) struct Recorder {
    started: Instant,
    calls: Mutex<Vec<Call>>,
    events: Mutex<Vec<Event>>,
    tokens: Mutex<HashMap<String, Token>>,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            calls: Mutex::default(),
            events: Mutex::default(),
            tokens: Mutex::default(),
        })
    }

    pub(crate) fn now(&self) -> Moment {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap()
    }

    /// The same store, which records its calls here.
    pub(crate) fn store(self: &Arc<Self>, store: Arc<dyn Store>) -> RecordedStore {
        RecordedStore { store, recorder: Arc::clone(self) }
    }

    /// Records what a client learned of a token.
    pub(crate) fn event(&self, token: &str, node: Node, kind: EventKind, begin: Moment, end: Moment) {
        let mut tokens = self.tokens.lock().unwrap();
        let next = Token::try_from(tokens.len()).unwrap();
        let token = *tokens.entry(token.to_owned()).or_insert(next);
        drop(tokens);
        self.events.lock().unwrap().push(Event { token, node, begin, end, kind });
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The number of calls and events.
    pub(crate) fn len(&self) -> usize {
        self.calls.lock().unwrap().len() + self.events.lock().unwrap().len()
    }

    fn call(&self, begin: Moment, kind: CallKind) {
        let end = self.now();
        self.calls.lock().unwrap().push(Call { begin, end, kind });
    }

    /// Checks the calls. The store was empty before the first.
    pub(crate) fn check_calls(&self) -> Result<Vec<State>, Violation> {
        chain::check(&operations(&self.calls.lock().unwrap())?)
    }
}

/// A state for each version, and for each swap that wrote nothing that was found.
#[derive(Default)]
struct States {
    by_version: HashMap<String, State>,
    last: State,
}

impl States {
    fn unseen(&mut self) -> State {
        self.last += 1;
        self.last
    }

    fn of(&mut self, version: Option<&Version>) -> State {
        let Some(version) = version else { return INITIAL };
        if let Some(state) = self.by_version.get(version.as_str()) {
            return *state;
        }
        let state = self.unseen();
        self.by_version.insert(version.as_str().to_owned(), state);
        state
    }
}

/// The calls as operations. The version of a swap without an answer is that under which its
/// document was found.
fn operations(calls: &[Call]) -> Result<Vec<Operation>, Violation> {
    let mut states = States::default();
    // The documents of the versions whose writer is known, with the number of the call.
    let mut documents: HashMap<State, (Digest, usize)> = HashMap::new();
    for (number, call) in calls.iter().enumerate() {
        if let CallKind::Swap { new: Some(new), document, .. } = &call.kind {
            let state = states.of(Some(new));
            if let Some((_, first)) = documents.insert(state, (*document, number)) {
                return Err(Violation::SharedVersion { first, second: number });
            }
        }
    }
    // The swaps that may have written without an answer, unknown ones first, then by their begin.
    let mut silent: HashMap<Digest, Vec<usize>> = HashMap::new();
    for (number, call) in calls.iter().enumerate() {
        if let CallKind::Swap { new: None, document, .. } = &call.kind {
            silent.entry(*document).or_default().push(number);
        }
    }
    for swaps in silent.values_mut() {
        let unknown =
            |number: usize| matches!(calls[number].kind, CallKind::Swap { outcome: Outcome::Unknown, .. });
        swaps.sort_by_key(|number| (unknown(*number), std::cmp::Reverse(calls[*number].begin)));
    }
    let mut written: HashMap<usize, State> = HashMap::new();
    for (number, call) in calls.iter().enumerate() {
        let CallKind::Load(Some((version, document))) = &call.kind else { continue };
        let state = states.of(Some(version));
        match documents.get(&state) {
            Some((known, _)) if known == document => {}
            Some((_, first)) => return Err(Violation::SharedVersion { first: *first, second: number }),
            None => {
                if let Some(swap) = silent.get_mut(document).and_then(Vec::pop) {
                    written.insert(swap, state);
                }
                documents.insert(state, (*document, number));
            }
        }
    }
    let mut operation = |(number, call): (usize, &Call)| {
        let kind = match &call.kind {
            CallKind::Version(version) => Kind::Read(states.of(version.as_ref())),
            CallKind::Load(entry) => Kind::Read(states.of(entry.as_ref().map(|(version, _)| version))),
            CallKind::Swap { expected, outcome, new, .. } => {
                let expected = states.of(expected.as_ref());
                let new = match (new, written.get(&number)) {
                    (Some(new), _) => states.of(Some(new)),
                    (None, Some(state)) => *state,
                    (None, None) => states.unseen(),
                };
                Kind::Swap { expected, new, outcome: *outcome }
            }
        };
        Operation { begin: call.begin, end: call.end, kind }
    };
    Ok(calls.iter().enumerate().map(&mut operation).collect())
}

/// A store whose calls are recorded.
#[derive(Clone)]
pub(crate) struct RecordedStore {
    store: Arc<dyn Store>,
    recorder: Arc<Recorder>,
}

impl Store for RecordedStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        let begin = self.recorder.now();
        let version = self.store.version()?;
        self.recorder.call(begin, CallKind::Version(version.clone()));
        Ok(version)
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        let begin = self.recorder.now();
        let entry = self.store.load()?;
        let found = entry.as_ref().map(|entry| (entry.version.clone(), digest(&entry.document)));
        self.recorder.call(begin, CallKind::Load(found));
        Ok(entry)
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let begin = self.recorder.now();
        let swapped = self.store.swap(expected, document);
        let (outcome, new) = match &swapped {
            Ok(SwapOutcome::Swapped(new)) => (Outcome::Won, Some(new.clone())),
            Ok(SwapOutcome::Stale) => (Outcome::Refused, None),
            Err(StoreError::Unavailable(_)) => (Outcome::Failed, None),
            Err(StoreError::UnknownOutcome(_)) => (Outcome::Unknown, None),
        };
        let (expected, document) = (expected.cloned(), digest(document));
        self.recorder.call(begin, CallKind::Swap { expected, document, outcome, new });
        swapped
    }

    fn interval(&self) -> Duration {
        self.store.interval()
    }

    fn listen(&self, news: News) {
        self.store.listen(news);
    }

    fn clock(&self) -> Option<ClockDifference> {
        self.store.clock()
    }
}

//! Stores that fail as networks and engines do, and stores that break a promise of the port.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;
use optoken::store::{Entry, News, Store, StoreError, SwapOutcome, Version};

/// What happens to the calls of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// No call arrives, and no answer.
    Cut,
    /// A swap is carried out, and every second answer is lost.
    AnswerLost,
    /// A swap is carried out after the client has given up.
    Late,
    /// Every call has a pause before and after it.
    Slow,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] = [Self::None, Self::Cut, Self::AnswerLost, Self::Late, Self::Slow];
}

/// The longest pause of a slow store, and of a lost call.
const PAUSE: u64 = 60;

/// Sets the fault of a [`FaultyStore`] while that is in use.
#[derive(Clone)]
pub(crate) struct Switch(Arc<State>);

struct State {
    fault: Mutex<Fault>,
    /// Swaps that are carried out later.
    late: Mutex<Vec<JoinHandle<()>>>,
}

impl Switch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State { fault: Mutex::new(Fault::None), late: Mutex::default() }))
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = fault;
    }

    /// Ends the fault. No swap is late from then on.
    pub(crate) fn heal(&self) {
        self.set(Fault::None);
        for late in self.0.late.lock().unwrap().drain(..) {
            late.join().unwrap();
        }
    }

    fn get(&self) -> Fault {
        *self.0.fault.lock().unwrap()
    }
}

fn pause() {
    thread::sleep(Duration::from_millis(Rng::new().u64(0..PAUSE)));
}

/// A store behind a network with faults.
pub(crate) struct FaultyStore {
    store: Arc<dyn Store>,
    switch: Switch,
}

impl FaultyStore {
    pub(crate) fn new(store: Arc<dyn Store>, switch: Switch) -> Self {
        Self { store, switch }
    }

    fn read<T>(&self, call: impl FnOnce(&dyn Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.switch.get() {
            Fault::Cut => {
                pause();
                Err(StoreError::Unavailable("the network is cut".to_owned()))
            }
            Fault::Slow => {
                pause();
                let result = call(&*self.store);
                pause();
                result
            }
            _ => call(&*self.store),
        }
    }
}

impl Store for FaultyStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.read(Store::version)
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.read(Store::load)
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let lost = || Err(StoreError::UnknownOutcome("the answer is lost".to_owned()));
        match self.switch.get() {
            Fault::Cut => {
                pause();
                lost()
            }
            Fault::AnswerLost => {
                let swapped = self.store.swap(expected, document);
                if Rng::new().bool() { lost() } else { swapped }
            }
            Fault::Late => {
                let (store, expected, document) =
                    (Arc::clone(&self.store), expected.cloned(), document.to_owned());
                let late = thread::spawn(move || {
                    pause();
                    let _ = store.swap(expected.as_ref(), &document);
                });
                self.switch.0.late.lock().unwrap().push(late);
                lost()
            }
            Fault::None | Fault::Slow => self.read(|store| store.swap(expected, document)),
        }
    }

    fn interval(&self) -> Duration {
        self.store.interval()
    }

    fn listen(&self, news: News) {
        self.store.listen(news);
    }
}

/// A promise of the port that a [`BrokenStore`] breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A swap has no condition: it replaces whatever there is.
    Unconditional,
    /// The version is that of the newest news, which needs no answer of the store.
    ProvesByNews,
    /// A swap is repeated when its answer is lost, and the second one is stale.
    RepeatsSwaps,
}

/// A store that breaks a promise of the port.
pub(crate) struct BrokenStore {
    store: Arc<dyn Store>,
    broken: Broken,
    /// The version of the newest news.
    news: Mutex<Option<Version>>,
}

impl BrokenStore {
    pub(crate) fn new(store: Arc<dyn Store>, broken: Broken) -> Self {
        Self { store, broken, news: Mutex::default() }
    }

    fn hear(&self, version: Option<&Version>) {
        *self.news.lock().unwrap() = version.cloned();
    }
}

impl Store for BrokenStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        match (self.broken, self.store.version()) {
            (Broken::ProvesByNews, Err(_)) => Ok(self.news.lock().unwrap().clone()),
            (_, version) => {
                let version = version?;
                self.hear(version.as_ref());
                Ok(version)
            }
        }
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        let entry = self.store.load()?;
        self.hear(entry.as_ref().map(|entry| &entry.version));
        Ok(entry)
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        match self.broken {
            Broken::Unconditional => loop {
                let found = self.store.version()?;
                let swapped = self.store.swap(found.as_ref(), document)?;
                if swapped != SwapOutcome::Stale {
                    return Ok(swapped);
                }
            },
            Broken::RepeatsSwaps => match self.store.swap(expected, document) {
                Err(StoreError::UnknownOutcome(_)) => self.store.swap(expected, document),
                swapped => swapped,
            },
            Broken::ProvesByNews => self.store.swap(expected, document),
        }
    }

    fn interval(&self) -> Duration {
        self.store.interval()
    }

    fn listen(&self, news: News) {
        self.store.listen(news);
    }
}

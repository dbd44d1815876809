//! The probe: finds by trial whether an engine keeps the promises of the port.
//!
//! Writers that follow each other find least. Engines that check a condition and write afterwards
//! keep it until two writers meet, so the probe also lets writers race.

use std::sync::Barrier;
use std::thread;

use crate::store::remote::{Finding, Nonce, RemoteStore, ScratchStore, Usable};
use crate::store::{Entry, Store, StoreError, SwapOutcome, Version};

/// The writers of a race.
const RACERS: usize = 8;

/// The races for the successor of a document.
const ROUNDS: usize = 3;

/// How often a race is repeated in which all writers failed without an answer.
const ATTEMPTS: usize = 3;

/// The bytes of the largest document (docs/design.md 3.1).
const LARGEST: usize = 6 << 20;

/// How much the probe tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// What a starting server needs: some 50 small requests.
    Start,
    /// Also a document of the largest size.
    Full,
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Each check, in order. The last one is the first that failed, if one did.
    pub rows: Vec<Finding>,
}

impl Report {
    /// The finding because of which the store cannot be used.
    pub fn refusal(&self) -> Option<&Finding> {
        self.rows.iter().find(|row| row.usable == Usable::No)
    }
}

/// Inspects an engine, and tries it on documents of its own. It touches no other document.
///
/// The trials end at the first broken promise. An error means that the engine has not answered, or
/// has refused a trial: then nothing is known.
pub fn probe(store: &dyn RemoteStore, extent: Extent) -> Result<Report, StoreError> {
    let mut rows = store.inspect()?;
    if rows.iter().all(|row| row.usable != Usable::No) {
        rows.extend(probe_scratch(|| store.scratch(), extent)?.rows);
    }
    Ok(Report { rows })
}

/// Tries an engine on documents that `scratch` makes places for.
pub fn probe_scratch(
    scratch: impl Fn() -> Result<Box<dyn ScratchStore>, StoreError>,
    extent: Extent,
) -> Result<Report, StoreError> {
    let mut trial = Trial { rows: Vec::new(), nonce: Nonce::random()?.to_string() };
    let mut broken = trial.on(&*scratch()?, |trial, store| trial.one_by_one(store, extent))?;
    if broken.is_none() {
        broken = trial.on(&*scratch()?, Trial::first_race)?;
    }
    trial.rows.extend(broken);
    Ok(Report { rows: trial.rows })
}

/// The end of a step: a broken promise, or a failure of the engine, ends the trial.
type Step<T> = Result<T, Stop>;

enum Stop {
    Broken(Finding),
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

struct Trial {
    rows: Vec<Finding>,
    /// Makes the documents of this trial differ from those of all others.
    nonce: String,
}

impl Trial {
    /// Runs steps on a store and removes it. Returns the promise that was broken.
    fn on(
        &mut self,
        store: &dyn ScratchStore,
        steps: impl FnOnce(&mut Self, &dyn Store) -> Step<()>,
    ) -> Result<Option<Finding>, StoreError> {
        let result = steps(self, store);
        let removed = store.remove();
        match (result, removed) {
            (Ok(()), Ok(())) => Ok(None),
            (Ok(()), Err(error)) => {
                let found = format!("the document of a trial could not be removed: {error}");
                self.rows.push(finding("clean up", &found, Usable::WithLimit));
                Ok(None)
            }
            (Err(Stop::Broken(finding)), _) => Ok(Some(finding)),
            (Err(Stop::Failed(error)), _) => Err(error),
        }
    }

    fn passed(&mut self, check: &str, found: &str) {
        self.rows.push(finding(check, found, Usable::Yes));
    }

    /// Text with what engines tend to change.
    fn document(&self, name: &str) -> String {
        format!("{} {name} \"\\ \u{1F511} ключ \u{0}\r\n", self.nonce)
    }

    /// One writer.
    fn one_by_one(&mut self, store: &dyn Store, extent: Extent) -> Step<()> {
        const FIRST: &str = "first write";
        const SWAP: &str = "swap";
        const STALE: &str = "stale swap";
        if store.version()?.is_some() {
            return Err(broken("new place", "it held a document before anything was written"));
        }
        let document = self.document("first");
        let Some(first) = swapped(store, None, &document)? else {
            return Err(broken(FIRST, "it was refused, although nothing was there"));
        };
        holds(store, FIRST, &first, &document)?;
        let second = swapped(store, None, &self.document("second first"))?;
        refused(store, FIRST, "a second first write was accepted", second.as_ref(), (&first, &document))?;
        self.passed(FIRST, "the first was accepted, the second refused");

        let document = self.document("swap");
        let Some(next) = swapped(store, Some(&first), &document)? else {
            return Err(broken(SWAP, "it was refused, although it expected the state that was there"));
        };
        if next == first {
            return Err(broken(SWAP, "two documents got the same version"));
        }
        holds(store, SWAP, &next, &document)?;
        self.passed(SWAP, "it was accepted, and its bytes were read back");

        let late = swapped(store, Some(&first), &self.document("stale"))?;
        refused(
            store,
            STALE,
            "a swap was accepted that expected an older state",
            late.as_ref(),
            (&next, &document),
        )?;
        let unknown = Version::from(self.nonce.clone());
        let late = swapped(store, Some(&unknown), &self.document("unknown"))?;
        let what = "a swap was accepted that expected a state which never was";
        refused(store, STALE, what, late.as_ref(), (&next, &document))?;
        self.passed(STALE, "it was refused, and changed nothing");

        let Some(again) = swapped(store, Some(&next), &document)? else {
            return Err(broken("same text twice", "the second swap was refused"));
        };
        if again == next || again == first {
            return Err(broken("same text twice", "both states got the same version"));
        }
        holds(store, "same text twice", &again, &document)?;
        self.passed("same text twice", "the versions differ");

        let mut newest = again;
        if extent == Extent::Full {
            let large = self.document(&"x".repeat(LARGEST - 1024));
            let Some(version) = swapped(store, Some(&newest), &large)? else {
                return Err(broken("6 MiB", "the swap was refused"));
            };
            holds(store, "6 MiB", &version, &large)?;
            self.passed("6 MiB", "a document of that size was read back");
            newest = version;
        }
        for round in 0..ROUNDS {
            newest = self.race(store, "race", Some(&newest), &format!("round {round}"))?;
        }
        self.passed("race", &format!("{ROUNDS} races of {RACERS} writers had one winner each"));
        Ok(())
    }

    /// Writers that race for an empty place.
    fn first_race(&mut self, store: &dyn Store) -> Step<()> {
        self.race(store, "first race", None, "first race")?;
        self.passed("first race", &format!("{RACERS} writers raced for an empty place, and one won"));
        Ok(())
    }

    /// Lets writers race that all expect this state. Returns the state after it.
    fn race(&self, store: &dyn Store, check: &str, expected: Option<&Version>, round: &str) -> Step<Version> {
        // Documents whose writers do not know whether they have won.
        let mut unknown: Vec<String> = Vec::new();
        let mut failure = None;
        for attempt in 0..ATTEMPTS {
            let mut winners = Vec::new();
            for (document, result) in self.racers(store, expected, &format!("{round}, attempt {attempt}")) {
                match result {
                    Ok(SwapOutcome::Swapped(version)) => winners.push(Entry { version, document }),
                    Ok(SwapOutcome::Stale) => {}
                    Err(error) => {
                        if matches!(error, StoreError::UnknownOutcome(_)) {
                            unknown.push(document);
                        }
                        failure = Some(error);
                    }
                }
            }
            let stored = store.load()?;
            let is_unchanged = stored.as_ref().map(|entry| &entry.version) == expected;
            match (&winners[..], stored) {
                // No writer had an answer: once more.
                ([], _) if is_unchanged && failure.is_some() => {}
                ([], _) if is_unchanged => {
                    let what = "all writers were refused, although they expected the state that was there";
                    return Err(broken(check, what));
                }
                // The answer to the winner was lost.
                ([], Some(stored)) if unknown.contains(&stored.document) => return Ok(stored.version),
                ([winner], Some(stored)) if *winner == stored => return Ok(stored.version),
                ([_], _) => {
                    return Err(broken(check, "one writer won, and what is stored is not what it wrote"));
                }
                ([], _) => return Err(broken(check, "no writer won, and what is stored is of none of them")),
                (winners, _) => {
                    let won = winners.len();
                    let what = format!("{won} of {RACERS} writers that expected the same state won at once");
                    return Err(broken(check, &what));
                }
            }
        }
        let silent = || StoreError::Unavailable("no writer of a race had an answer".to_owned());
        Err(Stop::Failed(failure.unwrap_or_else(silent)))
    }

    /// Starts the writers of a race at the same moment. Returns what each wrote, and its result.
    fn racers(
        &self,
        store: &dyn Store,
        expected: Option<&Version>,
        round: &str,
    ) -> Vec<(String, Result<SwapOutcome, StoreError>)> {
        let barrier = &Barrier::new(RACERS);
        thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let document = self.document(&format!("{round}, writer {racer}"));
                    scope.spawn(move || {
                        barrier.wait();
                        let result = store.swap(expected, &document);
                        (document, result)
                    })
                })
                .collect();
            let panicked = || {
                let error = StoreError::UnknownOutcome("the store panicked".to_owned());
                (String::new(), Err(error))
            };
            racers.into_iter().map(|racer| racer.join().unwrap_or_else(|_| panicked())).collect()
        })
    }
}

/// Swaps; `None` if it is stale.
fn swapped(store: &dyn Store, expected: Option<&Version>, document: &str) -> Step<Option<Version>> {
    match store.swap(expected, document)? {
        SwapOutcome::Swapped(version) => Ok(Some(version)),
        SwapOutcome::Stale => Ok(None),
    }
}

/// Checks that a store holds this document in this version.
fn holds(store: &dyn Store, check: &str, version: &Version, document: &str) -> Step<()> {
    let stored = store.load()?;
    let found = store.version()?;
    let what = match &stored {
        None => "nothing was there afterwards",
        Some(stored) if stored.document != document => "other bytes were read back than were written",
        Some(stored) if stored.version != *version => {
            "another version was read back than the write had returned"
        }
        Some(_) if found.as_ref() != Some(version) => {
            "the version by itself differs from that of the document"
        }
        Some(_) => return Ok(()),
    };
    Err(broken(check, what))
}

/// Checks that a swap was refused and has changed nothing.
fn refused(
    store: &dyn Store,
    check: &str,
    accepted: &str,
    swapped: Option<&Version>,
    (version, document): (&Version, &str),
) -> Step<()> {
    if swapped.is_some() {
        return Err(broken(check, accepted));
    }
    match holds(store, check, version, document) {
        Err(Stop::Broken(_)) => Err(broken(check, "a write that was refused has changed the document")),
        result => result,
    }
}

fn finding(check: &str, found: &str, usable: Usable) -> Finding {
    Finding { check: check.to_owned(), found: found.to_owned(), usable }
}

fn broken(check: &str, what: &str) -> Stop {
    Stop::Broken(finding(check, what, Usable::No))
}

#[cfg(test)]
mod tests;

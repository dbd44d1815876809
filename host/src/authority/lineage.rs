//! The states of a catalog that may follow each other.
//!
//! A catalog never goes back: neither to an older state, nor to one that does not continue the
//! published one, nor to another catalog. The audit chain inside the catalog decides, so that no
//! store has to be believed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::audit::{self, RetainedRecord};
use crate::authority::boot_clock;
use crate::authority::freshness::Moment;
use crate::sandbox::linker::Snapshot;
use crate::sandbox::{ReadInstance, Sandbox, Trap};
use crate::store::{Entry, Newest, Store, StoreError, SwapOutcome, Version, relocation};
use crate::token::{CommandError, Timestamp};

/// The end of the audit chain of a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogPosition {
    /// The identifier of the catalog.
    pub catalog_id: String,
    /// The sequence number of the newest audit record.
    pub sequence: u64,
    /// SHA-512/256 of that record, as 64 lower-case hexadecimal digits.
    pub head: String,
}

impl fmt::Display for CatalogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "catalog {} at sequence {}", self.catalog_id, self.sequence)
    }
}

/// Why a state of the store is not accepted in place of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CatalogRefusal {
    /// The store holds no catalog.
    Missing {
        /// The earlier state.
        expected: CatalogPosition,
    },
    /// The store holds a catalog with another identifier, or with none.
    OtherCatalog {
        /// The earlier state.
        expected: CatalogPosition,
        /// The identifier in the store.
        found: Option<String>,
        /// The sequence number in the store.
        sequence: u64,
    },
    /// The store holds an older state of the catalog.
    Older {
        /// The earlier state.
        expected: CatalogPosition,
        /// The sequence number in the store.
        found: u64,
    },
    /// The store holds a state with another record where the earlier one ends.
    Diverged {
        /// The earlier state.
        expected: CatalogPosition,
        /// The sequence number in the store.
        found: u64,
    },
}

impl CatalogRefusal {
    /// One word for metrics and for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::OtherCatalog { .. } => "other_catalog",
            Self::Older { .. } => "older",
            Self::Diverged { .. } => "diverged",
        }
    }

    /// The state that the store must hold, or a later one.
    pub const fn expected(&self) -> &CatalogPosition {
        let (Self::Missing { expected }
        | Self::OtherCatalog { expected, .. }
        | Self::Older { expected, .. }
        | Self::Diverged { expected, .. }) = self;
        expected
    }

    /// The sequence number in the store; 0 if it holds no catalog.
    pub const fn found_sequence(&self) -> u64 {
        match self {
            Self::Missing { .. } => 0,
            Self::OtherCatalog { sequence, .. } => *sequence,
            Self::Older { found, .. } | Self::Diverged { found, .. } => *found,
        }
    }
}

impl fmt::Display for CatalogRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = self.expected();
        match self {
            Self::Missing { .. } => write!(f, "the token store holds no catalog, but it held {expected}"),
            Self::OtherCatalog { found: Some(found), .. } => {
                write!(f, "the token store holds catalog {found}, but it held {expected}")
            }
            Self::OtherCatalog { found: None, .. } => {
                write!(f, "the token store holds a catalog without identifier, but it held {expected}")
            }
            Self::Older { found, .. } => {
                write!(f, "the token store holds an older state, sequence {found}, but it held {expected}")
            }
            Self::Diverged { found, .. } => write!(
                f,
                "the token store holds another history, at sequence {found}, that does not continue {expected}"
            ),
        }
    }
}

impl std::error::Error for CatalogRefusal {}

/// A state of the store that was examined.
#[derive(Debug)]
pub(crate) struct Examined {
    /// The end of its chain; `None` if the store is empty or the catalog has no record.
    pub(crate) position: Option<CatalogPosition>,
    /// The identifier, also of a catalog without record.
    catalog_id: Option<String>,
    /// Whether the store holds no document.
    is_empty: bool,
    /// The sequence number of the newest record; 0 if there is none.
    sequence: u64,
    /// The time of the newest record.
    pub(crate) newest_at: Option<Timestamp>,
    /// The retained records that were asked for, oldest first.
    pub(crate) records: Vec<RetainedRecord>,
}

impl Examined {
    /// An empty store.
    pub(crate) const fn empty() -> Self {
        Self {
            position: None,
            catalog_id: None,
            is_empty: true,
            sequence: 0,
            newest_at: None,
            records: Vec::new(),
        }
    }

    /// Examines what the store holds, in an instance of its own. That reads the document, and so
    /// verifies the whole audit chain.
    pub(crate) fn of_entry(
        sandbox: &Sandbox,
        entry: Option<&Entry>,
    ) -> Result<Result<Self, CommandError>, Trap> {
        match entry {
            None => Ok(Ok(Self::empty())),
            Some(entry) => {
                let snapshot = Arc::new(Snapshot::Stored(entry.clone()));
                Self::of_instance(Some(entry), &mut sandbox.open_examiner(snapshot)?, None)
            }
        }
    }

    /// Examines this state, which an instance has, with the records after this sequence number. A
    /// store that the tokens have left, or have not arrived in, is unavailable.
    pub(crate) fn of_instance(
        entry: Option<&Entry>,
        reader: &mut ReadInstance,
        after: Option<u64>,
    ) -> Result<Result<Self, CommandError>, Trap> {
        match entry.and_then(|entry| relocation::refusal(&entry.document)) {
            Some(refusal) => Ok(Err(CommandError::Unavailable(refusal))),
            None => Self::read(reader, after),
        }
    }

    /// Reads the end of the chain of the snapshot that an instance has: the records after this
    /// sequence number, or all that are retained.
    pub(crate) fn read(
        reader: &mut ReadInstance,
        after: Option<u64>,
    ) -> Result<Result<Self, CommandError>, Trap> {
        let state = match reader.state()? {
            Ok(state) => state,
            Err(error) => return Ok(Err(error)),
        };
        let lines = match reader.audit(after)? {
            Ok(records) => records.lines,
            Err(error) => return Ok(Err(error)),
        };
        let records = match RetainedRecord::read(lines) {
            Ok(records) => records,
            Err(error) => return Ok(Err(CommandError::Internal(error.to_string()))),
        };
        let is_empty = state.is_none();
        let sequence = state.as_ref().map_or(0, |state| state.audit_sequence);
        let (catalog_id, end) = match state {
            Some(state) => (state.catalog_id, state.audit_head.map(|head| (state.audit_sequence, head))),
            None => (None, None),
        };
        let position = catalog_id.clone().zip(end).map(|(catalog_id, (sequence, head))| CatalogPosition {
            catalog_id,
            sequence,
            head,
        });
        let newest_at = records.last().map(|newest| newest.record.at);
        Ok(Ok(Self { position, catalog_id, is_empty, sequence, newest_at, records }))
    }

    /// The sequence number of the newest record; 0 if there is none.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether this state is `earlier` or continues it. The records must begin with that of the end
    /// of `earlier`, or before it.
    pub(crate) fn check_continues(&self, earlier: &CatalogPosition) -> Result<(), CatalogRefusal> {
        let expected = || earlier.clone();
        if self.is_empty {
            return Err(CatalogRefusal::Missing { expected: expected() });
        }
        if self.catalog_id.as_ref() != Some(&earlier.catalog_id) {
            return Err(CatalogRefusal::OtherCatalog {
                expected: expected(),
                found: self.catalog_id.clone(),
                sequence: self.sequence(),
            });
        }
        let found = self.sequence();
        if found < earlier.sequence {
            return Err(CatalogRefusal::Older { expected: expected(), found });
        }
        // The record itself, or the one after it, which has its hash. If the catalog retains
        // neither, so many changes were made that nothing can be compared.
        let continues = self.records.iter().find_map(|RetainedRecord { record, line }| {
            if record.sequence == earlier.sequence {
                Some(audit::hash(line.as_bytes()) == earlier.head)
            } else if record.sequence.checked_sub(1) == Some(earlier.sequence) {
                Some(record.links_to(&earlier.head))
            } else {
                None
            }
        });
        match continues {
            Some(false) => Err(CatalogRefusal::Diverged { expected: expected(), found }),
            Some(true) | None => Ok(()),
        }
    }
}

/// The state that every later one must continue.
#[derive(Debug)]
pub(crate) struct Lineage {
    state: Mutex<LineageState>,
}

#[derive(Debug)]
struct LineageState {
    position: Option<CatalogPosition>,
    /// The document that was found in that state, so that it need not be examined again.
    version: Option<Version>,
    /// When the position was set. A read that began before may return an older state.
    set_at: Moment,
    /// When the store held a state last that cannot be used, if no usable one followed. A read that
    /// began before is older.
    unusable: Option<(Moment, String)>,
}

impl Lineage {
    /// Begins at this state, in which this document was found; `None` accepts any.
    pub(crate) fn new(position: Option<CatalogPosition>, version: Option<Version>) -> Self {
        let state = LineageState { position, version, set_at: boot_clock::now(), unusable: None };
        Self { state: Mutex::new(state) }
    }

    /// Sets the state that every later one must continue.
    pub(crate) fn advance(&self, position: Option<CatalogPosition>, version: Option<Version>) {
        let mut state = self.lock();
        state.position = position;
        state.version = version;
        state.set_at = boot_clock::now();
        state.unusable = None;
    }

    /// The sequence number after which the records show whether a state may follow; `None` for all.
    pub(crate) fn compared_after(&self) -> Option<u64> {
        self.lock().position.as_ref().map(|position| position.sequence.saturating_sub(1))
    }

    /// Notes that the store holds a state that cannot be used, and why. What replaces it must be
    /// read later.
    pub(crate) fn note_unusable(&self, why: &str) {
        self.lock().unusable = Some((boot_clock::now(), why.to_owned()));
    }

    /// Why the newest state of the store cannot be used; `None` if it can.
    pub(crate) fn unusable(&self) -> Option<String> {
        self.lock().unusable.as_ref().map(|(_, why)| why.clone())
    }

    /// Whether this is the very document that was accepted last.
    pub(crate) fn is_current(&self, version: Option<&Version>) -> bool {
        let state = self.lock();
        version.is_some() && state.version.as_ref() == version
    }

    /// Checks a state that was read by a read that began at `read_at`.
    pub(crate) fn check(&self, examined: &Examined, read_at: Moment) -> Result<(), LineageError> {
        let state = self.lock();
        if state.unusable.as_ref().is_some_and(|(at, _)| read_at <= *at) {
            return Err(LineageError::Overtaken);
        }
        let Some(position) = &state.position else { return Ok(()) };
        examined.check_continues(position).map_err(|refusal| {
            if read_at < state.set_at { LineageError::Overtaken } else { LineageError::Refused(refusal) }
        })
    }

    /// Whether a newer state was published since `read_at`.
    pub(crate) fn is_overtaken(&self, read_at: Moment) -> bool {
        read_at < self.lock().set_at
    }

    fn lock(&self) -> MutexGuard<'_, LineageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a state that was read is not the newest one.
#[derive(Debug)]
pub(crate) enum LineageError {
    /// A newer state was published while this one was read: the read is repeated.
    Overtaken,
    /// The store went back.
    Refused(CatalogRefusal),
}

/// A store for the instance of one command. Its documents continue the published state. Once its
/// calls have used their time together, no other call begins.
pub(crate) struct CheckedStore {
    store: Arc<dyn Store>,
    sandbox: Arc<Sandbox>,
    lineage: Arc<Lineage>,
    /// A snapshot that was published.
    published: Arc<Snapshot>,
    time_limit: Duration,
    calls: Mutex<Calls>,
}

/// The calls of one command.
#[derive(Debug, Default)]
struct Calls {
    /// The time that they have taken.
    took: Duration,
    /// The newest state that a call has found or made, and when that call began.
    newest: Option<(Option<Version>, Moment)>,
}

impl CheckedStore {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        sandbox: Arc<Sandbox>,
        lineage: Arc<Lineage>,
        published: Arc<Snapshot>,
        time_limit: Duration,
    ) -> Self {
        Self { store, sandbox, lineage, published, time_limit, calls: Mutex::default() }
    }

    /// Loads the newest document. Where it is the published one, that is at hand.
    fn load_newest(&self) -> Result<(Option<Entry>, Moment), StoreError> {
        let version = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.version.clone());
        let Some(published) = self.published.entry() else {
            return self.call(Store::load, |entry| Some(version(entry)));
        };
        let load = |store: &dyn Store| {
            Ok(match store.load_unless(&published.version)? {
                Newest::Known => Some(published.clone()),
                Newest::Other(entry) => entry,
            })
        };
        self.call(load, |entry| Some(version(entry)))
    }

    /// When the call began that has found or made the state with this version; `None` if it is not
    /// the newest state of the command.
    pub(crate) fn read_at(&self, version: Option<&Version>) -> Option<Moment> {
        let calls = self.calls();
        calls.newest.as_ref().filter(|(newest, _)| newest.as_ref() == version).map(|(_, read_at)| *read_at)
    }

    /// Makes a call, if there is time for one. `state` returns the version of the state that a
    /// result shows.
    fn call<T>(
        &self,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
        state: impl FnOnce(&T) -> Option<Option<Version>>,
    ) -> Result<(T, Moment), StoreError> {
        if self.calls().took > self.time_limit {
            let limit = self.time_limit;
            return Err(StoreError::Unavailable(format!(
                "the token store is too slow: its calls for this change have taken more than {limit:?}"
            )));
        }
        let began = boot_clock::now();
        let result = call(&*self.store);
        let mut calls = self.calls();
        calls.took = calls.took.saturating_add(boot_clock::now().since(began));
        let result = result?;
        if let Some(version) = state(&result) {
            calls.newest = Some((version, began));
        }
        Ok((result, began))
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for CheckedStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.call(Store::version, |_| None).map(|(version, _)| version)
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        loop {
            let (entry, read_at) = self.load_newest()?;
            if self.lineage.is_current(entry.as_ref().map(|entry| &entry.version)) {
                return Ok(entry);
            }
            return match Examined::of_entry(&self.sandbox, entry.as_ref()) {
                Ok(Ok(examined)) => match self.lineage.check(&examined, read_at) {
                    Ok(()) => Ok(entry),
                    Err(LineageError::Overtaken) => continue,
                    Err(LineageError::Refused(refusal)) => Err(StoreError::Unavailable(refusal.to_string())),
                },
                Ok(Err(CommandError::Unavailable(why))) => Err(StoreError::Unavailable(why)),
                // The command instance gets the same error for the same document.
                Ok(Err(_)) => Ok(entry),
                Err(trap) => Err(StoreError::Unavailable(trap.to_string())),
            };
        }
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let made = |outcome: &SwapOutcome| match outcome {
            SwapOutcome::Swapped(version) => Some(Some(version.clone())),
            SwapOutcome::Stale => None,
        };
        self.call(|store| store.swap(expected, document), made).map(|(outcome, _)| outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn state_before_an_unusable_one_is_overtaken() {
        let (lineage, examined) = (Lineage::new(None, None), Examined::empty());
        let before = boot_clock::now();
        lineage.note_unusable("damaged");
        assert_eq!(lineage.unusable().as_deref(), Some("damaged"));
        assert!(matches!(lineage.check(&examined, before), Err(LineageError::Overtaken)));
        assert!(lineage.check(&examined, boot_clock::now().after(Duration::from_millis(1))).is_ok());
        lineage.advance(None, None);
        assert_eq!(lineage.unusable(), None);
        assert!(lineage.check(&examined, before).is_ok());
    }
}

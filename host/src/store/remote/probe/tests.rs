//! The probe against engines that keep their promises, and against engines that do not.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;

/// What an engine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    IgnoresEveryCondition,
    IgnoresThatSomethingIsThere,
    IgnoresTheVersion,
    ChecksAndThenWrites,
    ChecksAndThenWritesFirst,
    AnswersStaleAndWrites,
    ChangesBytes,
    VersionIsAHash,
    VersionLags,
    RefusesEverySwap,
    /// The losers of a race get an error of the server, as with Ceph.
    LosersAreUnknown,
    /// The winner gets such an error.
    WinnerIsUnknown,
    CannotRemove,
    SettingIsWrong,
    IsSilent,
}

#[derive(Default)]
struct Stored {
    swaps: u64,
    entry: Option<Entry>,
}

struct Engine {
    fault: Fault,
    scratches: Arc<AtomicUsize>,
    stored: Mutex<Stored>,
    writing: AtomicUsize,
    /// Held by a swap that is atomic.
    swapping: Mutex<()>,
}

impl Engine {
    fn new(fault: Fault) -> Self {
        Self::with(fault, Arc::default())
    }

    fn with(fault: Fault, scratches: Arc<AtomicUsize>) -> Self {
        Self {
            fault,
            scratches,
            stored: Mutex::default(),
            writing: AtomicUsize::new(0),
            swapping: Mutex::default(),
        }
    }

    fn accepts(&self, found: Option<&Version>, expected: Option<&Version>) -> bool {
        match (self.fault, expected) {
            (Fault::IgnoresEveryCondition, _) | (Fault::IgnoresThatSomethingIsThere, None) => true,
            (Fault::IgnoresTheVersion, Some(_)) => found.is_some(),
            (Fault::RefusesEverySwap, Some(_)) => false,
            _ => found == expected,
        }
    }

    fn write(&self, document: &str) -> Version {
        let mut stored = self.stored.lock().unwrap();
        stored.swaps += 1;
        let mut hasher = DefaultHasher::new();
        document.hash(&mut hasher);
        let version = match self.fault {
            Fault::VersionIsAHash => hasher.finish(),
            _ => stored.swaps,
        };
        let version = Version::from(version.to_string());
        let document = match self.fault {
            Fault::ChangesBytes => document.replace('\u{0}', ""),
            _ => document.to_owned(),
        };
        stored.entry = Some(Entry { version: version.clone(), document });
        version
    }
}

impl Store for Engine {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        let stored = self.stored.lock().unwrap();
        let version = stored.entry.as_ref().map(|entry| entry.version.clone());
        let lags = self.fault == Fault::VersionLags && stored.swaps > 1;
        Ok(if lags { Some(Version::from("1".to_owned())) } else { version })
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        Ok(self.stored.lock().unwrap().entry.clone())
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        if self.fault == Fault::IsSilent {
            return Err(StoreError::Unavailable("no answer".to_owned()));
        }
        let races = match self.fault {
            Fault::ChecksAndThenWrites => expected.is_some(),
            Fault::ChecksAndThenWritesFirst => expected.is_none(),
            _ => false,
        };
        if races {
            if !self.accepts(self.version()?.as_ref(), expected) {
                return Ok(SwapOutcome::Stale);
            }
            // Waits for a second writer, if one comes.
            self.writing.fetch_add(1, Ordering::SeqCst);
            let until = Instant::now() + Duration::from_millis(200);
            while self.writing.load(Ordering::SeqCst) < 2 && Instant::now() < until {
                thread::yield_now();
            }
            let version = self.write(document);
            self.writing.fetch_sub(1, Ordering::SeqCst);
            return Ok(SwapOutcome::Swapped(version));
        }
        let _one = self.swapping.lock().unwrap();
        let found = self.stored.lock().unwrap().entry.as_ref().map(|entry| entry.version.clone());
        let is_race = document.contains("writer");
        let unknown = || Err(StoreError::UnknownOutcome("500".to_owned()));
        if !self.accepts(found.as_ref(), expected) {
            if self.fault == Fault::AnswersStaleAndWrites {
                self.write(document);
            }
            return if self.fault == Fault::LosersAreUnknown && is_race {
                unknown()
            } else {
                Ok(SwapOutcome::Stale)
            };
        }
        let version = self.write(document);
        if self.fault == Fault::WinnerIsUnknown && is_race {
            unknown()
        } else {
            Ok(SwapOutcome::Swapped(version))
        }
    }
}

impl RemoteStore for Engine {
    fn address(&self) -> &'static str {
        "test://engine"
    }

    fn inspect(&self) -> Result<Vec<Finding>, StoreError> {
        let usable = if self.fault == Fault::SettingIsWrong { Usable::No } else { Usable::Yes };
        Ok(vec![finding("fsync", "it is what it is", usable)])
    }

    fn scratch(&self) -> Result<Box<dyn ScratchStore>, StoreError> {
        self.scratches.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Self::with(self.fault, Arc::clone(&self.scratches))))
    }
}

impl ScratchStore for Engine {
    fn remove(&self) -> Result<(), StoreError> {
        self.scratches.fetch_sub(1, Ordering::SeqCst);
        match self.fault {
            Fault::CannotRemove => Err(StoreError::Unavailable("403".to_owned())),
            _ => Ok(()),
        }
    }
}

/// Probes an engine with this fault. Returns its findings, as `check: found`.
fn found(fault: Fault) -> Result<Report, StoreError> {
    let engine = Engine::new(fault);
    let report = probe(&engine, Extent::Full);
    assert_eq!(engine.scratches.load(Ordering::SeqCst), 0, "{fault:?} leaves a trial");
    assert_eq!(engine.load().unwrap(), None, "{fault:?}: the document itself was touched");
    report
}

#[test]
fn engine_that_keeps_its_promises_passes() {
    for fault in [Fault::None, Fault::LosersAreUnknown, Fault::WinnerIsUnknown] {
        let report = found(fault).unwrap();
        assert_eq!(report.refusal(), None, "{fault:?}");
        let checks: Vec<_> = report.rows.iter().map(|row| &*row.check).collect();
        assert_eq!(
            checks,
            ["fsync", "first write", "swap", "stale swap", "same text twice", "6 MiB", "race", "first race"]
        );
    }
    let report = probe(&Engine::new(Fault::None), Extent::Start).unwrap();
    assert!(report.rows.iter().all(|row| row.check != "6 MiB"));
}

#[test]
fn engine_that_breaks_a_promise_is_named_with_it() {
    for (fault, check, what) in [
        (Fault::IgnoresEveryCondition, "first write", "a second first write was accepted"),
        (Fault::IgnoresThatSomethingIsThere, "first write", "a second first write was accepted"),
        (Fault::IgnoresTheVersion, "stale swap", "that expected an older state"),
        (Fault::ChecksAndThenWrites, "race", "of 8 writers that expected the same state won at once"),
        (
            Fault::ChecksAndThenWritesFirst,
            "first race",
            "of 8 writers that expected the same state won at once",
        ),
        (Fault::AnswersStaleAndWrites, "first write", "a write that was refused has changed the document"),
        (Fault::ChangesBytes, "first write", "other bytes were read back"),
        (Fault::VersionIsAHash, "same text twice", "both states got the same version"),
        (Fault::VersionLags, "swap", "the version by itself differs"),
        (Fault::RefusesEverySwap, "swap", "it was refused, although it expected the state"),
        (Fault::SettingIsWrong, "fsync", "it is what it is"),
    ] {
        let report = found(fault).unwrap();
        let refusal = report.refusal().unwrap_or_else(|| panic!("{fault:?}: {report:?}"));
        assert_eq!(refusal.check, check, "{fault:?}");
        assert!(refusal.found.contains(what), "{fault:?}: {}", refusal.found);
        // The trials end there.
        assert_eq!(report.rows.last(), Some(refusal));
    }
}

#[test]
fn trial_that_stays_is_a_limit() {
    let report = probe(&Engine::new(Fault::CannotRemove), Extent::Start).unwrap();
    assert_eq!(report.refusal(), None);
    let limits: Vec<_> = report.rows.iter().filter(|row| row.usable == Usable::WithLimit).collect();
    assert_eq!(limits.len(), 2);
    assert!(limits.iter().all(|row| row.found.contains("could not be removed: 403")));
}

#[test]
fn silent_engine_is_an_error() {
    assert_eq!(found(Fault::IsSilent), Err(StoreError::Unavailable("no answer".to_owned())));
}

//! The high-water mark: a small file beside the store, or elsewhere, with the newest state of the
//! catalog that this node has seen.
//!
//! A thread writes it within a second of a change, so that no command waits for it. A catalog ahead
//! of its mark is normal; one behind it is refused at the start.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::authority::lineage::CatalogPosition;
use crate::private_file::{PRIVATE_MODE, replace};
use crate::token::{Timestamp, now};

/// The format of the file.
const FORMAT: u32 = 1;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The most accepted sequences that the file retains; the oldest go first.
const MAX_ACCEPTED: usize = 1000;

/// The shortest time between two writes.
const WRITE_INTERVAL: Duration = Duration::from_millis(250);

/// Pause before the next attempt after a failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a drop waits for the last write.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The high-water mark cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HighWaterError {
    /// The file cannot be read.
    #[error("cannot read the high-water mark {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: io::Error,
    },
    /// The file is not a high-water mark.
    #[error(
        "{} is not a high-water mark of this version: it is damaged, or a newer version wrote it; to accept the catalog as it \
         is now, name its sequence with --accept-catalog-at",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write the high-water mark {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        reason: io::Error,
    },
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    catalog_id: String,
    sequence: u64,
    head: String,
    /// The states that an operator has accepted although the mark was ahead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    accepted: Vec<Accepted>,
}

/// The use of `--accept-catalog-at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// The sequence that was accepted; 0 for an empty store.
    sequence: u64,
    /// The sequence of the mark before; `None` if it was damaged.
    instead_of: Option<u64>,
    at: Timestamp,
}

/// The high-water mark of a node, and the thread that writes it. Drop writes what is pending.
#[derive(Debug)]
pub(crate) struct HighWaterMark {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The uses of `--accept-catalog-at` that the file holds.
    accepted: Vec<Accepted>,
    /// The newest state; `None` before the first.
    newest: Option<CatalogPosition>,
    /// The state that the file holds.
    written: Option<CatalogPosition>,
    /// Whether the last write failed.
    failing: bool,
    phase: Phase,
}

/// The life cycle of the thread.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Ended,
}

impl HighWaterMark {
    /// Reads the file and starts the thread. Without a file there is no earlier state. A damaged
    /// file is an error, unless `replace_damaged`.
    pub(crate) fn open(path: &Path, replace_damaged: bool) -> Result<Self, HighWaterError> {
        let content = match read(path) {
            Err(HighWaterError::Damaged { .. }) if replace_damaged => None,
            content => content?,
        };
        let (written, accepted) = match content {
            Some(Content { catalog_id, sequence, head, accepted, .. }) => {
                (Some(CatalogPosition { catalog_id, sequence, head }), accepted)
            }
            None => (None, Vec::new()),
        };
        let state = State { accepted, newest: written.clone(), written, failing: false, phase: Phase::Open };
        let shared =
            Arc::new(Shared { path: path.to_owned(), state: Mutex::new(state), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name("optoken-mark".into())
            .spawn(move || writer.run())
            .map_err(|reason| HighWaterError::Write { path: path.to_owned(), reason })?;
        Ok(Self { shared })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The state that the file held, or the newest one since.
    pub(crate) fn newest(&self) -> Option<CatalogPosition> {
        self.shared.lock().newest.clone()
    }

    /// The state that the file holds.
    pub(crate) fn written(&self) -> Option<CatalogPosition> {
        self.shared.lock().written.clone()
    }

    /// Submits a newer state. The thread writes it.
    pub(crate) fn advance(&self, position: &CatalogPosition) {
        let mut state = self.shared.lock();
        if state.newest.as_ref() != Some(position) {
            state.newest = Some(position.clone());
            self.shared.changed.notify_all();
        }
    }

    /// When an operator has accepted this sequence before, if ever.
    pub(crate) fn accepted_at(&self, sequence: u64) -> Option<Timestamp> {
        let state = self.shared.lock();
        state.accepted.iter().find(|accepted| accepted.sequence == sequence).map(|accepted| accepted.at)
    }

    /// Returns the sequence that an operator has accepted in place of states with records up to
    /// `last`, if any: a log that ends there is that of the history that was replaced.
    pub(crate) fn replaced_history(&self, last: u64) -> Option<u64> {
        let state = self.shared.lock();
        let replaced = |accepted: &&Accepted| {
            accepted.sequence < last && accepted.instead_of.is_none_or(|instead_of| last <= instead_of)
        };
        state.accepted.iter().rev().find(replaced).map(|accepted| accepted.sequence)
    }

    /// Replaces the mark by an older state, and notes that an operator has accepted its sequence
    /// instead of states up to `replaced`. Returns when the file is on the disk. `None` is an empty
    /// store; its mark is written with the first state after it.
    pub(crate) fn accept(
        &self,
        sequence: u64,
        position: Option<&CatalogPosition>,
        replaced: u64,
    ) -> Result<(), HighWaterError> {
        let mut state = self.shared.lock();
        let instead_of = state.newest.as_ref().map(|newest| newest.sequence.max(replaced));
        let mut accepted = state.accepted.clone();
        accepted.push(Accepted { sequence, instead_of, at: now() });
        let surplus = accepted.len().saturating_sub(MAX_ACCEPTED);
        accepted.drain(..surplus);
        let noted = position.cloned().or_else(|| state.newest.clone());
        if let Some(noted) = &noted {
            write(&self.shared.path, noted, &accepted, Overwrite::Any)?;
        }
        state.accepted = accepted;
        state.newest = position.cloned();
        state.written = noted;
        Ok(())
    }
}

impl Drop for HighWaterMark {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.phase = Phase::Closing;
        self.shared.changed.notify_all();
        // A disk that hangs must not keep the process from ending.
        drop(
            self.shared
                .changed
                .wait_timeout_while(state, FLUSH_TIMEOUT, |state| state.phase != Phase::Ended)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.lock();
        loop {
            let closing = state.phase == Phase::Closing;
            if state.newest.is_some() && state.newest != state.written {
                state = self.write_newest(state);
            }
            if closing {
                state.phase = Phase::Ended;
                self.changed.notify_all();
                return;
            }
            let pause = if state.failing { RETRY_INTERVAL } else { WRITE_INTERVAL };
            // Several changes in a row are one write.
            state = self.wait_for(state, pause, |state| state.phase == Phase::Open);
            state = self.wait_while(state, |state| {
                state.phase == Phase::Open && (state.newest.is_none() || state.newest == state.written)
            });
        }
    }

    fn write_newest<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (newest, accepted) = (state.newest.clone(), state.accepted.clone());
        // A command that submits a newer state must not wait for the disk.
        drop(state);
        let result =
            newest.as_ref().map_or(Ok(()), |newest| write(&self.path, newest, &accepted, Overwrite::Earlier));
        let mut state = self.lock();
        match &result {
            Ok(()) => {
                if state.failing {
                    tracing::info!("the high-water mark {} is written again", self.path.display());
                }
                state.written = newest;
            }
            // Logged once, not at every attempt.
            Err(error) if !state.failing => tracing::error!("{error}; changes are still made"),
            Err(_) => {}
        }
        state.failing = result.is_err();
        state
    }

    /// Waits for so long at most, while the condition holds.
    fn wait_for<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        at_most: Duration,
        condition: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout_while(state, at_most, |state| condition(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits while the condition holds.
    fn wait_while<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        condition: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_while(state, |state| condition(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which mark a write may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overwrite {
    Any,
    /// An earlier one of this catalog. Another process on the same store may have written a newer
    /// one.
    Earlier,
}

fn write(
    path: &Path,
    position: &CatalogPosition,
    accepted: &[Accepted],
    overwrite: Overwrite,
) -> Result<(), HighWaterError> {
    let failed = |reason| HighWaterError::Write { path: path.to_owned(), reason };
    let mut accepted = accepted.to_vec();
    if overwrite == Overwrite::Earlier
        && let Ok(Some(found)) = read(path)
    {
        if found.catalog_id == position.catalog_id && found.sequence > position.sequence {
            return Ok(());
        }
        if found.accepted.len() > accepted.len() {
            accepted = found.accepted;
        }
    }
    let CatalogPosition { catalog_id, sequence, head } = position.clone();
    let content = Content { format: FORMAT, catalog_id, sequence, head, accepted };
    let mut text = serde_json::to_vec_pretty(&content).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    replace(path, &text, PRIVATE_MODE).map_err(failed)
}

/// Reads the file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Content>, HighWaterError> {
    let failed = |reason| HighWaterError::Read { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    let damaged = || HighWaterError::Damaged { path: path.to_owned() };
    let content: Content = serde_json::from_slice(&text).map_err(|_| damaged())?;
    if content.format == FORMAT { Ok(Some(content)) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn at(sequence: u64) -> CatalogPosition {
        CatalogPosition { catalog_id: "one".into(), sequence, head: format!("head {sequence}") }
    }

    fn open(path: &Path) -> HighWaterMark {
        HighWaterMark::open(path, false).unwrap()
    }

    #[test]
    fn mark_is_written_and_survives_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let mark = open(&path);
        assert_eq!(mark.newest(), None);
        mark.advance(&at(1));
        mark.advance(&at(2));
        // An orderly stop writes what is pending.
        drop(mark);
        assert_eq!(open(&path).newest(), Some(at(2)));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let mark = open(&path);
        mark.advance(&at(3));
        while mark.written() != Some(at(3)) {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(open(&path).newest(), Some(at(3)));
    }

    #[test]
    fn newer_mark_of_another_process_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let (one, two) = (open(&path), open(&path));
        two.advance(&at(9));
        drop(two);
        one.advance(&at(5));
        drop(one);
        assert_eq!(open(&path).newest(), Some(at(9)));
    }

    #[test]
    fn accepted_sequence_is_noted_and_lowers_the_mark() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        let mark = open(&path);
        mark.advance(&at(9));
        drop(mark);
        let mark = open(&path);
        assert_eq!(mark.accepted_at(5), None);
        mark.accept(5, Some(&at(5)), 0).unwrap();
        mark.advance(&at(6));
        drop(mark);
        let mark = open(&path);
        assert_eq!(mark.newest(), Some(at(6)));
        assert!(mark.accepted_at(5).is_some() && mark.accepted_at(6).is_none());
        // An empty store.
        mark.accept(0, None, 0).unwrap();
        drop(mark);
        assert!(open(&path).accepted_at(0).is_some());
    }

    #[test]
    fn damaged_mark_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        for text in ["", "{}", "[]", r#"{"format":2,"catalog_id":"one","sequence":1,"head":""}"#] {
            fs::write(&path, text).unwrap();
            let error = HighWaterMark::open(&path, false).unwrap_err();
            assert!(matches!(error, HighWaterError::Damaged { .. }), "{text}: {error}");
            assert_eq!(HighWaterMark::open(&path, true).unwrap().newest(), None);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(HighWaterMark::open(&path, true).unwrap_err(), HighWaterError::Read { .. }));
    }

    #[test]
    fn failed_write_is_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/mark");
        let mark = open(&path);
        mark.advance(&at(1));
        while !mark.shared.lock().failing {
            thread::sleep(Duration::from_millis(5));
        }
        fs::create_dir(path.parent().unwrap()).unwrap();
        while mark.written() != Some(at(1)) {
            thread::sleep(Duration::from_millis(5));
        }
        drop(mark);
        assert_eq!(open(&path).newest(), Some(at(1)));
    }
}

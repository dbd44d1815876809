//! The high-water mark: the newest state of the catalog that this node has seen. A store behind it
//! never goes back. Knows no WASI.
//!
//! A backup that is put back would accept tokens that were revoked since. An empty directory in the
//! place of the catalog would let a client create the operator token. So each load compares the
//! catalog with the mark, by its identifier, its audit sequence and the hash of a record, and fails
//! unless the catalog continues the marked state. The mark is one file:
//!
//! ```text
//! optoken high-water 1
//! catalog 5f0c7a52-93d1-4d0e-8a6b-2f4f1c9e7b30
//! sequence 9
//! head 3a51…
//! accepted 4
//! ```
//!
//! The mark is written after a change is durable, and when a load finds a newer catalog. No command
//! depends on it: a catalog ahead of its mark is normal. Of concurrent writers of the mark the last
//! one wins, which may leave the mark a few changes behind.
//!
//! An operator accepts an older catalog by its sequence number, once: each `accepted` line is an
//! acceptance that was spent. It is on disk before the catalog counts as accepted.
//!
//! One disk cannot notice that both the catalog and the mark were put back. So the mark belongs in
//! a directory that no backup of the catalog contains.

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_core::audit::RecordHash;
use optoken_core::authority::Succession;
use optoken_core::catalog::read_identity;
use optoken_core::ports::{CatalogStore, Entry, StoreError, SwapOutcome};

use crate::file_store::{Directory, Failure, reason};

/// The file of the mark.
const MARK: &str = "high-water";

/// The first line of the file, with the number of its format.
const FIRST_LINE: &str = "optoken high-water 1";

/// The longest mark that is read, in bytes: room for some thousand acceptances.
const MAX_MARK_BYTES: u64 = 64 << 10;

/// A state of the catalog, and the acceptances that were spent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    catalog_id: Option<String>,
    /// The sequence number of the newest audit record; 0 for a store without a catalog.
    sequence: u64,
    /// The hash of that record.
    head: Option<String>,
    /// The sequence numbers that an operator has accepted.
    accepted: Vec<u64>,
}

/// The sequence number of an older catalog that an operator accepts, and how to name it.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance {
    /// The accepted sequence number, if the operator gives one; 0 for a store without a catalog.
    pub sequence: Option<u64>,
    /// The option that gives it, up to the number.
    pub option: &'static str,
}

/// A store that never goes back behind its mark.
#[derive(Debug)]
pub struct HighWaterStore<S, D, R> {
    store: S,
    directory: D,
    random: R,
    acceptance: Acceptance,
    /// Receives a mark that could not be written, and whether a change caused it.
    warn: fn(&str, bool),
}

impl<S: CatalogStore, D: Directory, R: FnMut() -> u64> HighWaterStore<S, D, R> {
    /// Returns a store with its mark in this directory. `random` makes the names of temporary files
    /// unique.
    pub const fn new(
        store: S,
        directory: D,
        random: R,
        acceptance: Acceptance,
        warn: fn(&str, bool),
    ) -> Self {
        Self { store, directory, random, acceptance, warn }
    }

    /// Compares a loaded document with the mark, and moves the mark.
    fn check(&mut self, mark: Option<Mark>, document: Option<&str>) -> Result<(), StoreError> {
        let found = match document.map(read_identity) {
            None => Mark::default(),
            Some(Ok((catalog_id, audit))) => {
                let Some(mark) = &mark else {
                    let found = Mark::of(catalog_id, audit.sequence(), audit.head());
                    self.advance(found, false);
                    return Ok(());
                };
                // A catalog gets its identifier by a change, which the records prove.
                let marked_id = mark.catalog_id.as_deref().or(catalog_id.as_deref());
                let earlier = (marked_id, mark.sequence, mark.head.as_deref());
                let succession = Succession::of(catalog_id.as_deref(), &audit, earlier);
                let is_named = mark.catalog_id.is_some();
                let found = Mark::of(catalog_id, audit.sequence(), audit.head());
                match succession {
                    Succession::Same if found.catalog_id == mark.catalog_id => return Ok(()),
                    Succession::Same | Succession::Newer => {
                        self.advance(found, false);
                        return Ok(());
                    }
                    Succession::NewerUnproven if is_named => {
                        self.advance(found, false);
                        return Ok(());
                    }
                    _ => found,
                }
            }
            // The core reports the damage, and accepts no token.
            Some(Err(_)) => return Ok(()),
        };
        match mark {
            Some(mark) if mark.sequence > 0 || found.sequence > 0 => self.accept(&mark, found),
            _ => Ok(()),
        }
    }

    /// Spends the acceptance of a catalog that does not continue the marked state, or refuses that
    /// catalog.
    fn accept(&mut self, mark: &Mark, found: Mark) -> Result<(), StoreError> {
        let sequence = found.sequence;
        let refused = |advice: String| StoreError::Unavailable(self.refusal(mark, &found, &advice));
        let (path, option) = (self.directory.path(), self.acceptance.option);
        if mark.accepted.contains(&sequence) {
            return Err(refused(format!(
                "it was accepted once by {option}{sequence}, which counts once; to accept it again, delete {path}/{MARK}"
            )));
        }
        if self.acceptance.sequence != Some(sequence) {
            return Err(refused(format!(
                "or, if its state is meant, accept it once by {option}{sequence}, and then replace the operator token"
            )));
        }
        let mut accepted = mark.accepted.clone();
        accepted.push(sequence);
        let mark = Mark { accepted, ..found };
        // A power cut must not give the acceptance back.
        self.write(&mark).and_then(|()| self.directory.sync()).map_err(|failure| {
            StoreError::Unavailable(format!(
                "cannot note in {}/{MARK} that change {sequence} is accepted, so it is not: {}",
                self.directory.path(),
                reason(failure)
            ))
        })
    }

    /// Describes a catalog that does not continue the marked state.
    fn refusal(&self, mark: &Mark, found: &Mark, advice: &str) -> String {
        format!(
            "the catalog went back: found {found}, expected {mark} or a later change, as {}/{MARK} has it; in an older state, \
             revoked tokens are accepted; put the newest copy back; {advice}",
            self.directory.path(),
            found = found.describe(),
            mark = mark.describe(),
        )
    }

    /// Writes a newer mark. A failure is a warning: the catalog may be ahead of its mark.
    fn advance(&mut self, newer: Mark, changed: bool) {
        let written = match self.read() {
            // Another process has seen more.
            Ok(Some(mark)) if mark.catalog_id == newer.catalog_id && mark.sequence > newer.sequence => return,
            Ok(mark) => {
                let accepted = mark.map(|mark| mark.accepted).unwrap_or_default();
                self.write(&Mark { accepted, ..newer }).map_err(reason)
            }
            Err(StoreError::Unavailable(reason) | StoreError::UnknownOutcome(reason)) => Err(reason),
        };
        if let Err(reason) = written {
            let path = self.directory.path();
            (self.warn)(
                &format!(
                    "cannot write {path}/{MARK}: {reason}; an older catalog that is put back from now on is not noticed"
                ),
                changed,
            );
        }
    }

    /// Reads the mark; `None` if there was never one.
    fn read(&self) -> Result<Option<Mark>, StoreError> {
        let failed = |reason: String| {
            StoreError::Unavailable(format!(
                "cannot read {}/{MARK}, which shows whether the catalog is the newest: {reason}",
                self.directory.path()
            ))
        };
        let content = match self.directory.read(MARK, MAX_MARK_BYTES) {
            Ok(content) => content,
            Err(Failure::Missing) => return Ok(None),
            Err(failure) => return Err(failed(reason(failure))),
        };
        let mark = core::str::from_utf8(&content).ok().and_then(Mark::parse);
        mark.map(Some).ok_or_else(|| {
            failed("it is damaged; if the catalog is certainly the newest, delete this file".into())
        })
    }

    /// Replaces the file of the mark.
    fn write(&mut self, mark: &Mark) -> Result<(), Failure> {
        let temporary = format!("{MARK}.{:016x}.tmp", (self.random)());
        let written = self
            .directory
            .create(&temporary, mark.to_text().as_bytes())
            .and_then(|()| self.directory.rename(&temporary, MARK));
        match written {
            Ok(()) => {
                self.remove_temporary_files();
                Ok(())
            }
            // Another process has written a mark since, and removed this file.
            Err(Failure::Missing) if self.directory.exists(MARK) == Ok(true) => Ok(()),
            Err(failure) => {
                let _ = self.directory.remove(&temporary);
                Err(failure)
            }
        }
    }

    /// Removes the files of killed writers.
    fn remove_temporary_files(&self) {
        for name in self.directory.list().unwrap_or_default() {
            let random =
                name.strip_prefix(MARK).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".tmp"));
            if random.is_some_and(crate::file_store::is_random) {
                let _ = self.directory.remove(&name);
            }
        }
    }
}

impl<S: CatalogStore, D: Directory, R: FnMut() -> u64> CatalogStore for HighWaterStore<S, D, R> {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        // Before the catalog: a later mark could be one that this catalog does not have yet.
        let mark = self.read()?;
        let entry = self.store.load()?;
        self.check(mark, entry.as_ref().map(|entry| entry.document.as_str()))?;
        Ok(entry)
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        let outcome = self.store.swap(expected, document)?;
        if let (SwapOutcome::Swapped(_), Ok((id, audit))) = (&outcome, read_identity(document)) {
            self.advance(Mark::of(id, audit.sequence(), audit.head()), true);
        }
        Ok(outcome)
    }
}

impl Mark {
    fn of(catalog_id: Option<String>, sequence: u64, head: Option<&RecordHash>) -> Self {
        Self { catalog_id, sequence, head: head.map(|head| head.as_str().to_owned()), accepted: Vec::new() }
    }

    fn describe(&self) -> String {
        match &self.catalog_id {
            _ if self.sequence == 0 => "no catalog".into(),
            Some(id) => format!("change {} of catalog {id}", self.sequence),
            None => format!("change {} of a catalog without an id", self.sequence),
        }
    }

    fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        let mut push = |key: &str, value: &str| {
            for part in [key, " ", value, "\n"] {
                text.push_str(part);
            }
        };
        if let Some(id) = &self.catalog_id {
            push("catalog", id);
        }
        push("sequence", &self.sequence.to_string());
        if let Some(head) = &self.head {
            push("head", head);
        }
        for sequence in &self.accepted {
            push("accepted", &sequence.to_string());
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut mark = Self::default();
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            match key {
                "catalog" => mark.catalog_id = Some(value.into()),
                "sequence" => mark.sequence = value.parse().ok()?,
                "head" => mark.head = Some(value.into()),
                "accepted" => mark.accepted.push(value.parse().ok()?),
                _ => return None,
            }
        }
        // A file that was cut off would compare less than it should.
        (mark.to_text() == text && (mark.sequence == 0) == mark.head.is_none()).then_some(mark)
    }
}

#[cfg(test)]
mod tests;

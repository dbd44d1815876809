//! The steps of a move from one store to another. At most one of the two holds a catalog at any
//! moment, and a run that was interrupted at any step is continued by the next one.
//!
//! 1. The target gets a copy with the address of the source, which no server uses.
//! 2. The copy is read back and compared.
//! 3. In the very state that was copied, the source is replaced by a note that names the target.
//! 4. The copy in the target is replaced by the catalog itself, which is read back as well.

use anyhow::{Context as _, bail, ensure};

use crate::store::relocation::{self, Relocation};
use crate::store::{Entry, Store, StoreError, SwapOutcome, Version};
use crate::token::Timestamp;

/// How often the steps begin again because a server has changed the source.
const ATTEMPTS: usize = 32;

/// A store, and the address that notes name it by.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) address: &'a str,
    pub(crate) store: &'a dyn Store,
}

/// What a run finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// This catalog is in the source. The target is free in this version.
    Catalog { entry: Entry, target: Option<Version> },
    /// An earlier run has left the source, and not reached the end. The target holds this copy.
    Unfinished { target: Version, document: String },
    /// An earlier run has moved the catalog with this identifier, and the target holds this one.
    Finished { document: String, catalog_id: String },
}

impl Found {
    /// The catalog.
    pub(crate) fn document(&self) -> &str {
        match self {
            Self::Catalog { entry, .. } => &entry.document,
            Self::Unfinished { document, .. } | Self::Finished { document, .. } => document,
        }
    }
}

/// How a write ended.
enum Written {
    /// Stored, under this version.
    Yes(Version),
    /// Another write was first, or the outcome is unknown: the steps begin again.
    Again,
}

/// Reads both stores. Rejects all that cannot be moved, with what to do.
pub(crate) fn examine(from: Side<'_>, to: Side<'_>) -> anyhow::Result<Found> {
    ensure!(from.address != to.address, "source and target are the same store, {}", from.address);
    // In this order: if the target is still in this version when it is written, then no other run
    // has written a newer copy before the source was read.
    let target = load(to)?;
    let source = load(from)?.with_context(|| format!("there is no token store at {}", from.address))?;
    let target_version = target.as_ref().map(|entry| entry.version.clone());
    let relocated = target.as_ref().and_then(|entry| Relocation::read(&entry.document));
    match Relocation::read(&source.document) {
        None => {}
        Some(Relocation::Moved { to: other, catalog_id, .. }) if other == to.address => {
            // Another run may have moved them after the target was read.
            return left(from, to, load(to)?, catalog_id);
        }
        Some(Relocation::Moved { to: other, .. }) => bail!(
            "the tokens of {} were moved to {other} before; move them from there, with --from",
            from.address
        ),
        Some(Relocation::Arriving { from: other, .. }) => bail!(
            "the move from {other} to {} is not finished; finish it first: run `migrate` with these two",
            from.address
        ),
        Some(relocation @ Relocation::Unreadable) => bail!("cannot move {}: {relocation}", from.address),
    }
    match (&target, relocated) {
        // A store that the tokens have left can get them back.
        (None, _) | (Some(_), Some(Relocation::Moved { .. })) => {}
        (Some(_), Some(Relocation::Arriving { from: other, .. })) => ensure!(
            other == from.address,
            "the move from {other} to {} is not finished, and may have its only copy there; finish it first: run `migrate` \
             with these two",
            to.address
        ),
        (Some(_), Some(relocation @ Relocation::Unreadable)) => {
            bail!("cannot move to {}: {relocation}", to.address)
        }
        (Some(_), None) => bail!(
            "{} holds a catalog already, which is not replaced; name an empty place, such as another prefix, table or file",
            to.address
        ),
    }
    Ok(Found::Catalog { entry: source, target: target_version })
}

/// The note in the source names the target.
fn left(from: Side<'_>, to: Side<'_>, target: Option<Entry>, catalog_id: String) -> anyhow::Result<Found> {
    let left = || format!("the tokens of {} were moved to {}", from.address, to.address);
    let Some(Entry { version, document }) = target else {
        bail!("{}, which holds nothing; put a backup there with `restore`", left());
    };
    match Relocation::read(&document) {
        None => Ok(Found::Finished { document, catalog_id }),
        Some(Relocation::Arriving { from: other, document }) if other == from.address => {
            Ok(Found::Unfinished { target: version, document: document.to_owned() })
        }
        Some(Relocation::Moved { to: other, .. }) => {
            bail!("{}, and from there to {other}: start the servers with that store", left())
        }
        Some(relocation) => bail!("{}, which cannot be used: {relocation}", left()),
    }
}

/// Moves the tokens of the catalog with this identifier. Returns the catalog that was moved.
pub(crate) fn relocate(
    from: Side<'_>,
    to: Side<'_>,
    catalog_id: &str,
    at: Timestamp,
) -> anyhow::Result<String> {
    for _ in 0..ATTEMPTS {
        let (target, document) = match examine(from, to)? {
            Found::Finished { document, .. } => return Ok(document),
            Found::Unfinished { target, document } => (target, document),
            Found::Catalog { entry, target } => {
                let Some(target) = copy(from, to, target.as_ref(), &entry.document)? else { continue };
                let note = relocation::moved(to.address, catalog_id, at)?;
                match write(from, Some(&entry.version), &note)? {
                    Written::Yes(_) => (target, entry.document),
                    Written::Again => continue,
                }
            }
        };
        if let Written::Yes(version) = write(to, Some(&target), &document)? {
            check(to, &version, &document)?;
            return Ok(document);
        }
    }
    bail!("{} or {} was changed all the time; run the same command again", from.address, to.address)
}

/// Writes a copy that no server uses, and reads it back. Returns its version; `None` if it was
/// replaced meanwhile.
fn copy(
    from: Side<'_>,
    to: Side<'_>,
    target: Option<&Version>,
    document: &str,
) -> anyhow::Result<Option<Version>> {
    let copy = relocation::arriving(from.address, document)?;
    let Written::Yes(version) = write(to, target, &copy)? else { return Ok(None) };
    match check(to, &version, &copy) {
        Ok(true) => Ok(Some(version)),
        Ok(false) => Ok(None),
        Err(error) => Err(error.context(format!("{} is unchanged", from.address))),
    }
}

/// Reads a document back. Returns whether it is there unchanged; `false` if another process has
/// replaced it since.
fn check(side: Side<'_>, version: &Version, document: &str) -> anyhow::Result<bool> {
    match load(side)? {
        Some(entry) if entry.version == *version => {
            ensure!(
                entry.document == document,
                "{} holds other bytes than were written to it; try it with `store check`",
                side.address
            );
            Ok(true)
        }
        Some(_) => Ok(false),
        None => bail!("{} holds nothing after it was written to; try it with `store check`", side.address),
    }
}

fn write(side: Side<'_>, expected: Option<&Version>, document: &str) -> anyhow::Result<Written> {
    match side.store.swap(expected, document) {
        Ok(SwapOutcome::Swapped(version)) => Ok(Written::Yes(version)),
        // A store may find its own write of a repeated request. The next turn sees what is there.
        Ok(SwapOutcome::Stale) => Ok(Written::Again),
        Err(StoreError::UnknownOutcome(_)) => Ok(match load(side)? {
            Some(entry) if entry.document == document => Written::Yes(entry.version),
            _ => Written::Again,
        }),
        Err(StoreError::Unavailable(error)) => {
            bail!("cannot write to {}: {error}; run the same command again, which continues", side.address)
        }
    }
}

fn load(side: Side<'_>) -> anyhow::Result<Option<Entry>> {
    let failed = || format!("cannot read {}; run the same command again, which continues", side.address);
    side.store.load().with_context(failed)
}

#[cfg(test)]
mod tests;

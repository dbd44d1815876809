//! A compare-and-swap of one document, made from the operations of a plain file system. Knows no
//! WASI, and nothing of the document.
//!
//! WASI has no locks. It has hard links: a link to an existing name fails, for any number of
//! concurrent writers. So every version of the document is a file, and a link publishes it:
//!
//! ```text
//! DATA/catalog/7.jsonl                        version 7, which is the document; never written again
//! DATA/catalog/8.52a3b1c94d0e6f78.tmp         a candidate for version 8, or version 8 before its sync
//! DATA/catalog.52a3b1c94d0e6f78.new/          a candidate for the very first version
//! ```
//!
//! **A swap** from version N has these steps, in this order:
//!
//! 1. It writes and syncs a temporary file under a random name, which contains the target N+1.
//! 2. It checks that N+1 does not exist, and then that N exists.
//! 3. It links the temporary file to N+1, and syncs the directory.
//! 4. It cleans up: first every temporary file with the target N+1 or less, then every version
//!    below N+1, lowest first.
//!
//! **A load** has these steps, in this order:
//!
//! 1. It lists the directory until the highest version H of a listing is one that it knew before
//!    that listing began.
//! 2. It checks that H+1 does not exist, and reads H.
//! 3. If that listing has a temporary file with the target H, it syncs the directory (and, if H is
//!    1, its parent) and removes that file.
//! 4. It returns H.
//!
//! Removed names are the danger: a slow writer could find the name N+1 free again. And a listing
//! during writes may miss versions that appeared and disappeared meanwhile. The orders above
//! exclude both:
//!
//! - *If N+1 did not exist and then N existed, N was the newest version at the first check.*
//!   Otherwise N+1 would have been published and removed before that check, and N before N+1,
//!   because versions are removed lowest first. So a load returns the newest version, even if its
//!   listing missed some.
//! - *A link to N+1 succeeds at most once.* Suppose that N+1 was published and removed before a
//!   second link to it. The second writer made its checks after it had created its temporary file,
//!   and at its first check N was the newest version. So the process that removed N+1 published N+2
//!   or higher after that check, listed the directory after that, and removed the temporary file,
//!   which existed all the time, before N+1. A missing file cannot be linked.
//!
//! So a successful link is the swap. The next swap removes the files of a killed writer.
//!
//! **The very first version** has no predecessor to check. It is created in a directory of its own,
//! which is renamed to `catalog`. The rename fails if a `catalog` with entries exists, and after
//! the first version it always has entries. So a missing `catalog` means that there was never one.
//! This takes the same calls as every later version: a file system that cannot link or sync fails
//! before it holds a catalog.
//!
//! **A reported version survives a power cut**: a version for which a swap answered `swapped`, and
//! a version that a load returned, whichever process published it, and even if that process was
//! killed between its link and its sync. The temporary file marks a version that may be unsynced:
//!
//! - *It exists before the version does, and until the version is synced.* It is the source of the
//!   link. A temporary file with the target H is removed by two kinds of process only. The first
//!   has not published by it and knows that: a swap that answers `stale`, or that did not link. The
//!   second has synced since H existed: the swap itself, a later swap, a load. A swap that cannot
//!   determine whether it published, or could not sync, leaves the file. For the very first version
//!   it is in the renamed directory, and is removed after the sync of the parent.
//! - *A load whose listing has no temporary file returns a synced version.* A listing may miss
//!   entries that appear during it, so a listing that was the first to show H is repeated. The
//!   marker of H existed before the repeated listing began; if the listing misses it, it was
//!   removed before the listing ended, so after a sync. A temporary file of the same target from a
//!   swap that lost costs a needless sync.
//! - *Versions above 1 are in a directory whose name is synced in its parent*, because the writer
//!   of version 2 had loaded version 1.
//!
//! An early removal of a temporary file never harms its swap: the swap cannot link a missing file,
//! and answers `stale`. A process that can read and cannot sync cannot know whether a version is
//! synced, so its load fails. A process that can sync and cannot remove syncs at every load, until
//! the next swap cleans up.
//!
//! The store requires a local file system that keeps the order of changes to one directory, as
//! journaled ones do. A network file system is unsuitable if its clients cache names.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_core::ports::{CatalogStore, Entry, StoreError, SwapOutcome};

/// The longest document that a load reads, in bytes: about twice the longest that the core writes,
/// which has 10,000 tokens with the longest names. It keeps a file that is no catalog from filling
/// the memory.
pub const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// The most attempts of a load to find the newest version. Every failed attempt after the first
/// means that another version was published meanwhile, which takes its writer several syncs and the
/// load none.
pub const MAX_LOAD_ATTEMPTS: u32 = 100;

/// The directory of the versions.
const CATALOG: &str = "catalog";

/// A file system operation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The name does not exist.
    Missing,
    /// The name exists.
    Exists,
    /// The operation had no effect; the text has the reason.
    Refused(String),
    /// The operation may have had its effect; the text has the reason.
    Unknown(String),
}

/// A directory. Names are those of its entries.
pub trait Directory: Sized {
    /// Its path, for messages.
    fn path(&self) -> &str;

    /// Returns the names of its entries: at least those that exist from before the call until after
    /// it.
    fn list(&self) -> Result<Vec<String>, Failure>;

    /// Returns whether the name exists. No link is followed.
    fn exists(&self, name: &str) -> Result<bool, Failure>;

    /// Reads a file of at most `limit` bytes.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Failure>;

    /// Creates a file, which must not exist, and syncs its content.
    fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure>;

    /// Adds a hard link to a file. The new name must not exist.
    fn link(&self, name: &str, new_name: &str) -> Result<(), Failure>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), Failure>;

    /// Waits until all changes of its names survive a power cut.
    fn sync(&self) -> Result<(), Failure>;

    /// Creates a directory in it, which must not exist.
    fn create_directory(&self, name: &str) -> Result<(), Failure>;

    /// Opens a directory in it.
    fn directory(&self, name: &str) -> Result<Self, Failure>;

    /// Renames an entry. A file replaces a file; a directory replaces an empty directory alone.
    fn rename(&self, name: &str, new_name: &str) -> Result<(), Failure>;

    /// Removes an empty directory in it.
    fn remove_directory(&self, name: &str) -> Result<(), Failure>;
}

/// The store in a directory.
#[derive(Debug)]
pub struct FileStore<D, R> {
    root: D,
    random: R,
}

impl<D: Directory, R: FnMut() -> u64> FileStore<D, R> {
    /// Returns a store in this directory. `random` makes the names of temporary files unique.
    pub const fn new(root: D, random: R) -> Self {
        Self { root, random }
    }

    /// Opens the directory of the versions; `None` if there was never one.
    fn catalog(&self) -> Result<Option<D>, StoreError> {
        match self.root.directory(CATALOG) {
            Ok(directory) => Ok(Some(directory)),
            Err(Failure::Missing) => Ok(None),
            Err(failure) => Err(unavailable("open", self.root.path(), CATALOG, failure)),
        }
    }

    fn unique_name(&mut self, before: &str, after: &str) -> String {
        format!("{before}.{:016x}.{after}", (self.random)())
    }

    /// Publishes the version after this one.
    fn publish_next(&mut self, version: u64, document: &str) -> Result<SwapOutcome, StoreError> {
        let Some(catalog) = self.catalog()? else {
            return Ok(SwapOutcome::Stale);
        };
        let Some(next) = version.checked_add(1) else {
            return Ok(SwapOutcome::Stale);
        };
        let temporary = self.unique_name(&next.to_string(), "tmp");
        let published = publish(&catalog, version, next, &temporary, document);
        match published {
            Ok(true) => {
                clean_up(&catalog, next);
                self.remove_stale_initial_directories();
            }
            // The file marks a version that may be unsynced.
            Err(StoreError::UnknownOutcome(_)) => {}
            // Another writer may have removed it.
            Ok(false) | Err(StoreError::Unavailable(_)) => {
                let _ = catalog.remove(&temporary);
            }
        }
        Ok(if published? { SwapOutcome::Swapped(next.to_string()) } else { SwapOutcome::Stale })
    }

    /// Publishes the very first version.
    fn publish_first(&mut self, document: &str) -> Result<SwapOutcome, StoreError> {
        let name = self.unique_name(CATALOG, "new");
        let temporary = self.unique_name("1", "tmp");
        let renamed = self.prepare(&name, &temporary, document).and_then(|()| {
            match self.root.rename(&name, CATALOG) {
                // The rename may still be carried out, so the directory keeps its content.
                Err(Failure::Unknown(reason)) => Ok(Err(reason)),
                renamed => renamed.map(Ok).map_err(|failure| ("rename", failure)),
            }
        });
        match renamed {
            Ok(Ok(())) => {
                sync(&self.root)?;
                // It marked a directory whose name was not synced.
                if let Ok(catalog) = self.root.directory(CATALOG) {
                    let _ = catalog.remove(&temporary);
                }
                self.remove_stale_initial_directories();
                Ok(SwapOutcome::Swapped(1.to_string()))
            }
            Ok(Err(reason)) => Err(StoreError::UnknownOutcome(format!(
                "cannot determine whether {}/{CATALOG} was made: {reason}",
                self.root.path()
            ))),
            Err((operation, failure)) => {
                discard(&self.root, &name);
                // A faster writer cleans up, which can make any step fail.
                if self.root.exists(CATALOG) == Ok(true) {
                    return Ok(SwapOutcome::Stale);
                }
                Err(unavailable(operation, self.root.path(), &name, failure))
            }
        }
    }

    /// Creates a directory that contains the very first version.
    fn prepare(&self, name: &str, temporary: &str, document: &str) -> Result<(), (&'static str, Failure)> {
        self.root.create_directory(name).map_err(|failure| ("make", failure))?;
        let directory = self.root.directory(name).map_err(|failure| ("open", failure))?;
        directory.create(temporary, document.as_bytes()).map_err(|failure| ("write into", failure))?;
        directory.link(temporary, &file(1)).map_err(|failure| ("make a hard link in", failure))?;
        directory.sync().map_err(|failure| ("sync", failure))
    }

    /// Syncs a version that its writer may have left unsynced, and removes its markers.
    fn sync_unsynced(&self, catalog: &D, version: u64, markers: &[&String]) -> Result<(), StoreError> {
        let sync = |directory: &D| {
            directory.sync().map_err(|failure| {
                StoreError::Unavailable(format!(
                    "cannot sync {}, so a power cut could undo version {version}, which its writer has not synced: {}",
                    directory.path(),
                    reason(failure)
                ))
            })
        };
        sync(catalog)?;
        if version == 1 {
            sync(&self.root)?;
        }
        for marker in markers {
            let _ = catalog.remove(marker);
        }
        Ok(())
    }

    /// Removes the directories of writers of a first version that lost or were killed. There is a
    /// catalog, so none of them can succeed any more.
    fn remove_stale_initial_directories(&self) {
        for name in self.root.list().unwrap_or_default() {
            let middle = name.strip_prefix(CATALOG).and_then(|rest| rest.strip_suffix(".new"));
            if middle.and_then(|middle| middle.strip_prefix('.')).is_some_and(is_random) {
                discard(&self.root, &name);
            }
        }
    }
}

impl<D: Directory, R: FnMut() -> u64> CatalogStore for FileStore<D, R> {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        let Some(catalog) = self.catalog()? else {
            return Ok(None);
        };
        let mut found = false;
        // A version that existed before the listing began, and so did its marker.
        let mut known = 0;
        for _ in 0..MAX_LOAD_ATTEMPTS {
            let names = catalog.list().map_err(|failure| unavailable("list", catalog.path(), "", failure))?;
            let Some(version) = names.iter().filter_map(|name| version_of(name)).max() else {
                continue;
            };
            found = true;
            if version > known {
                known = version;
                continue;
            }
            let name = file(version);
            let failed = |failure| unavailable("read", catalog.path(), &name, failure);
            let Some(next) = version.checked_add(1) else {
                return Err(failed(Failure::Refused(
                    "there can be no version after this one, so this store has not written it; remove it"
                        .into(),
                )));
            };
            if catalog.exists(&file(next)).map_err(failed)? {
                known = next;
                continue;
            }
            let content = match catalog.read(&name, MAX_DOCUMENT_BYTES) {
                Ok(content) => content,
                Err(Failure::Missing) => continue,
                Err(failure) => return Err(failed(failure)),
            };
            let document = String::from_utf8(content)
                .map_err(|_| failed(Failure::Refused("it is damaged: it is not UTF-8".into())))?;
            let markers: Vec<_> = names.iter().filter(|name| target_of(name) == Some(version)).collect();
            if !markers.is_empty() {
                self.sync_unsynced(&catalog, version, &markers)?;
            }
            return Ok(Some(Entry { version: version.to_string(), document }));
        }
        Err(StoreError::Unavailable(if found {
            format!("{} changes faster than it can be read; try again", catalog.path())
        } else {
            format!(
                "{} holds no version of the catalog; put its newest NUMBER.jsonl back from a backup",
                catalog.path()
            )
        }))
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        match expected {
            None => self.publish_first(document),
            Some(version) => match version.parse() {
                Ok(version) => self.publish_next(version, document),
                // This store has no such version, so it is not the newest.
                Err(_) => Ok(SwapOutcome::Stale),
            },
        }
    }
}

/// Returns whether this call published the version. The header of this file gives the reasons for
/// the order.
fn publish(
    catalog: &impl Directory,
    version: u64,
    next: u64,
    temporary: &str,
    document: &str,
) -> Result<bool, StoreError> {
    let failed = |operation, name: &str| {
        let path = catalog.path().to_string();
        let name = name.to_string();
        move |failure| unavailable(operation, &path, &name, failure)
    };
    let (this_file, next_file) = (file(version), file(next));
    catalog.create(temporary, document.as_bytes()).map_err(failed("write", temporary))?;
    if catalog.exists(&next_file).map_err(failed("look for", &next_file))?
        || !catalog.exists(&this_file).map_err(failed("look for", &this_file))?
    {
        return Ok(false);
    }
    match catalog.link(temporary, &next_file) {
        Ok(()) => {}
        // Another writer published first. If the temporary file is missing, that writer has cleaned
        // up as well.
        Err(Failure::Exists | Failure::Missing) => return Ok(false),
        Err(Failure::Unknown(reason)) => {
            return Err(StoreError::UnknownOutcome(format!(
                "cannot determine whether {}/{next_file} was published: {reason}",
                catalog.path()
            )));
        }
        Err(Failure::Refused(reason)) => {
            return Err(StoreError::Unavailable(format!(
                "cannot publish {}/{next_file} by a hard link: {reason}; the directory must be on a file system that \
                 has them, and be writable",
                catalog.path()
            )));
        }
    }
    sync(catalog)?;
    Ok(true)
}

/// Removes the files that the newest, synced version supersedes. After a failure the next swap
/// removes the rest.
fn clean_up(catalog: &impl Directory, newest: u64) {
    let Ok(names) = catalog.list() else {
        return;
    };
    let remove = |name: &str| matches!(catalog.remove(name), Ok(()) | Err(Failure::Missing));
    // Temporary files first: a writer could link a remaining one to the name of a removed version.
    let temporaries = names.iter().filter(|name| target_of(name).is_some_and(|target| target <= newest));
    if temporaries.filter(|name| !remove(name)).count() > 0 {
        return;
    }
    let mut versions: Vec<_> =
        names.iter().filter_map(|name| version_of(name)).filter(|version| *version < newest).collect();
    // Lowest first: a load could otherwise return a lower version as the newest.
    versions.sort_unstable();
    let _ = versions.into_iter().all(|version| remove(&file(version)));
}

/// Removes a directory and the files in it, as far as possible.
fn discard(root: &impl Directory, name: &str) {
    if let Ok(directory) = root.directory(name) {
        for file in directory.list().unwrap_or_default() {
            let _ = directory.remove(&file);
        }
        let _ = root.remove_directory(name);
    }
}

/// Returns the name of a version's file.
fn file(version: u64) -> String {
    format!("{version}.jsonl")
}

/// Returns the version whose file has this name.
fn version_of(name: &str) -> Option<u64> {
    let version = name.strip_suffix(".jsonl")?.parse().ok().filter(|version| *version > 0)?;
    // A version has exactly one name.
    (file(version) == name).then_some(version)
}

/// Returns the target of the temporary file with this name.
fn target_of(name: &str) -> Option<u64> {
    let (target, random) = name.strip_suffix(".tmp")?.split_once('.')?;
    if is_random(random) { target.parse().ok() } else { None }
}

/// Returns whether [`FileStore::unique_name`] makes such a name. Files of other programs are not
/// removed.
pub(crate) fn is_random(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(crate) fn reason(failure: Failure) -> String {
    match failure {
        Failure::Missing => "it is not there".into(),
        Failure::Exists => "it is there already".into(),
        Failure::Refused(reason) | Failure::Unknown(reason) => reason,
    }
}

fn unavailable(operation: &str, path: &str, name: &str, failure: Failure) -> StoreError {
    let separator = if name.is_empty() { "" } else { "/" };
    StoreError::Unavailable(format!("cannot {operation} {path}{separator}{name}: {}", reason(failure)))
}

/// Syncs a directory after a change. If that fails, a power cut can undo the change.
fn sync(directory: &impl Directory) -> Result<(), StoreError> {
    directory.sync().map_err(|failure| {
        StoreError::UnknownOutcome(format!(
            "cannot sync {}, so a power cut could undo the change: {}",
            directory.path(),
            reason(failure)
        ))
    })
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
pub(crate) mod tests;

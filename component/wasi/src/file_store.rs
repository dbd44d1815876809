//! A compare-and-swap of one document, made of what every file system has. Knows no WASI, and nothing of what is stored.
//!
//! There are no locks in WASI. What there is: a hard link to a name that exists already fails, whoever tries it how often at
//! once. So every version of the document is a file of its own, and publishing one is a link:
//!
//! ```text
//! DATA/catalog/7.jsonl                        version 7, which is the document; never written again
//! DATA/catalog/8.52a3b1c94d0e6f78.tmp         what somebody wants to make version 8, or has made it and not synced yet
//! DATA/catalog.52a3b1c94d0e6f78.new/          what somebody wants to make the very first version
//! ```
//!
//! **A swap** from version N writes a temporary file under a random name that tells its target N+1, syncs it, looks that
//! N+1 is not there and then that N is, links the temporary file to N+1, and syncs the directory. Then it cleans up: first
//! all temporary files whose target is N+1 or less, then all versions below N+1, lowest first.
//!
//! **A load** lists the directory until the highest version H in it is one that it knew of before it began to list, looks
//! that H+1 is not there, and reads H. If a temporary file whose target is H was listed, it syncs the directory (and where
//! H is 1, the one above it) and removes that file. Then it tells of H.
//!
//! That names are removed is the danger: a slow writer could find the name N+1 free again, and a listing that others
//! write to meanwhile may miss versions that came and went. Both are kept away by the orders above:
//!
//! - *N+1 was not there and then N was: then N was the newest version at the first look.* Else N+1 would have been published
//!   and removed before that look, and versions are removed lowest first, so N before it. This makes a load tell the
//!   newest version, whatever the listing has missed.
//! - *A link to N+1 succeeds once at most.* Say that N+1 was published and removed before a second link to it. The writer
//!   of that looked after it had made its temporary file, and by the above N was the newest then. So whoever removed N+1
//!   had published N+2 or more after that, listed the directory after that, and has removed the temporary file, which was there
//!   all the time, before N+1. What is not there cannot be linked.
//!
//! So a link that succeeds is the swap, and what a killed writer has left over is removed by the next swap.
//!
//! **The very first version** has no predecessor to look for. It is made in a directory of its own that is renamed to
//! `catalog`, which fails where there is such a directory with anything in it; and there is always something in it from
//! then on. So no `catalog` means: there has never been one. It also takes the same calls as every later version, so a file
//! system that cannot link or sync is found out before there is a catalog on it.
//!
//! **What anybody was told survives a power cut**: a version that a swap has answered `swapped` to, and a version that a load
//! has told of, whoever published it and whatever became of that process between its link and its sync. The temporary file
//! is the marker of a version that may not be synced:
//!
//! - *It is there before the version is, and until the version is synced.* It was linked from; and a temporary file whose
//!   target is H is removed only by who has not published by it and knows that (a swap that answers `stale`, or that it did
//!   not link), or who has synced since H was there: the swap itself, a later swap, a load. Where a swap cannot tell
//!   whether it has published, or could not sync, it leaves the file. In the very first version it lies in the directory
//!   that is renamed, and is removed after the directory above was synced.
//! - *A load that has listed none tells of what is synced.* A listing may miss what came during it, so it is asked again
//!   if it was what told of H. Then the marker of H was there before it began, and who is missing in it was removed before
//!   it ended, so after a sync. Other temporary files of that target, of swaps that lost, cost a sync too many.
//! - *Versions above 1 lie in a directory that is synced in the one above it*, because who published version 2 had loaded
//!   version 1.
//!
//! Removing a temporary file early can never harm the swap that made it: it cannot link what is not there, and is stale.
//! Who can read and cannot sync cannot know, so a load fails; who can sync and cannot remove syncs at every load, until the
//! next swap cleans up.
//!
//! Asked for is a local file system that keeps the order of changes to one directory, as journaled ones do. A network file
//! system is not enough where its clients cache names.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_core::ports::{CatalogStore, Entry, StoreError, SwapOutcome};

/// The longest document that is read, in bytes: about twice the longest that the core writes, which is 10,000 tokens with
/// the longest names there can be. It keeps a file that is no catalog from filling the memory.
pub const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// How often a load looks for the newest version before it gives up. Each look that fails, but for the first, means that
/// another version was published meanwhile, which takes that one some syncs and this one none.
pub const MAX_LOOKS: u32 = 100;

/// The directory of the versions.
const CATALOG: &str = "catalog";

/// What a call to the file system came to, other than what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There is nothing of that name.
    Missing,
    /// There is something of that name.
    Exists,
    /// It was not done; the text says why.
    Refused(String),
    /// Nobody knows whether it was done; the text says why.
    Unknown(String),
}

/// A directory. Names are those of what lies in it.
pub trait Directory: Sized {
    /// How to name it to a person.
    fn path(&self) -> &str;

    /// Names of what lies in it. What is there from before the call until after it is among them.
    fn list(&self) -> Result<Vec<String>, Failure>;

    /// Whether there is something of that name. No link is followed.
    fn exists(&self, name: &str) -> Result<bool, Failure>;

    /// Reads a file of at most `limit` bytes.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Failure>;

    /// Makes a file that was not there, and syncs its content.
    fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure>;

    /// Gives a file another name, which must be free.
    fn link(&self, name: &str, new_name: &str) -> Result<(), Failure>;

    /// Removes a file.
    fn remove(&self, name: &str) -> Result<(), Failure>;

    /// Waits until what has become of its names survives a power cut.
    fn sync(&self) -> Result<(), Failure>;

    /// Makes a directory in it that was not there.
    fn create_directory(&self, name: &str) -> Result<(), Failure>;

    /// Opens a directory in it.
    fn directory(&self, name: &str) -> Result<Self, Failure>;

    /// Renames a directory in it. The new name must be free, or that of an empty directory.
    fn rename_directory(&self, name: &str, new_name: &str) -> Result<(), Failure>;

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
    /// A store in this directory, with random numbers for names that nobody else thinks of.
    pub const fn new(root: D, random: R) -> Self {
        Self { root, random }
    }

    /// The directory of the versions, unless there has never been one.
    fn catalog(&self) -> Result<Option<D>, StoreError> {
        match self.root.directory(CATALOG) {
            Ok(directory) => Ok(Some(directory)),
            Err(Failure::Missing) => Ok(None),
            Err(failure) => Err(unavailable("open", self.root.path(), CATALOG, failure)),
        }
    }

    /// A name that nobody else has.
    fn unique(&mut self, before: &str, after: &str) -> String {
        format!("{before}.{:016x}.{after}", (self.random)())
    }

    /// Publishes the version after this one.
    fn succeed(&mut self, version: u64, document: &str) -> Result<SwapOutcome, StoreError> {
        let Some(catalog) = self.catalog()? else {
            return Ok(SwapOutcome::Stale);
        };
        let Some(next) = version.checked_add(1) else {
            return Ok(SwapOutcome::Stale);
        };
        let temporary = self.unique(&next.to_string(), "tmp");
        let published = publish(&catalog, version, next, &temporary, document);
        match published {
            Ok(true) => {
                clean(&catalog, next);
                self.clean_up_beginnings();
            }
            // It marks what may be a version that is not synced.
            Err(StoreError::UnknownOutcome(_)) => {}
            // Somebody else may have removed it.
            Ok(false) | Err(StoreError::Unavailable(_)) => {
                let _ = catalog.remove(&temporary);
            }
        }
        Ok(if published? { SwapOutcome::Swapped(next.to_string()) } else { SwapOutcome::Stale })
    }

    /// Publishes the very first version.
    fn begin(&mut self, document: &str) -> Result<SwapOutcome, StoreError> {
        let name = self.unique(CATALOG, "new");
        let temporary = self.unique("1", "tmp");
        let made = self.prepare(&name, &temporary, document).and_then(|()| {
            match self.root.rename_directory(&name, CATALOG) {
                // It may be carried out yet, so nothing is taken out of it.
                Err(Failure::Unknown(why)) => Ok(Err(why)),
                renamed => renamed.map(Ok).map_err(|failure| ("rename", failure)),
            }
        });
        match made {
            Ok(Ok(())) => {
                sync(&self.root)?;
                // It has marked that the name was not synced.
                if let Ok(catalog) = self.root.directory(CATALOG) {
                    let _ = catalog.remove(&temporary);
                }
                self.clean_up_beginnings();
                Ok(SwapOutcome::Swapped(1.to_string()))
            }
            Ok(Err(why)) => Err(StoreError::UnknownOutcome(format!(
                "cannot tell whether {}/{CATALOG} was made: {why}",
                self.root.path()
            ))),
            Err((what, failure)) => {
                discard(&self.root, &name);
                // Whoever was faster has cleaned up, too, so any step can have failed for that.
                if self.root.exists(CATALOG) == Ok(true) {
                    return Ok(SwapOutcome::Stale);
                }
                Err(unavailable(what, self.root.path(), &name, failure))
            }
        }
    }

    /// Makes a directory with the very first version in it.
    fn prepare(&self, name: &str, temporary: &str, document: &str) -> Result<(), (&'static str, Failure)> {
        self.root.create_directory(name).map_err(|failure| ("make", failure))?;
        let directory = self.root.directory(name).map_err(|failure| ("open", failure))?;
        directory.create(temporary, document.as_bytes()).map_err(|failure| ("write into", failure))?;
        directory.link(temporary, &file(1)).map_err(|failure| ("make a hard link in", failure))?;
        directory.sync().map_err(|failure| ("sync", failure))
    }

    /// Makes a version that somebody has published survive a power cut, and takes the marks away that say it may not.
    fn settle(&self, catalog: &D, version: u64, markers: &[&String]) -> Result<(), StoreError> {
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

    /// Removes what writers of a first version have left that came too late or were killed: there is a catalog, so none of
    /// them can succeed any more.
    fn clean_up_beginnings(&self) {
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
        // A version that was there before the listing began, so that its marker was, too.
        let mut known = 0;
        for _ in 0..MAX_LOOKS {
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
                    "there can be no version after this one, so none of ours is called that; remove it"
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
                self.settle(&catalog, version, &markers)?;
            }
            return Ok(Some(Entry { version: version.to_string(), document }));
        }
        Err(StoreError::Unavailable(if found {
            format!("{} changes faster than it can be read; try again", catalog.path())
        } else {
            format!(
                "{} holds no version of the catalog; put its newest NUMBER.jsonl back from a backup, or remove the directory \
                 to begin without any token",
                catalog.path()
            )
        }))
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        match expected {
            None => self.begin(document),
            Some(version) => match version.parse() {
                Ok(version) => self.succeed(version, document),
                // None of ours, so not the newest.
                Err(_) => Ok(SwapOutcome::Stale),
            },
        }
    }
}

/// Whether this was the one to publish the version. The order is what the text above is about.
fn publish(
    catalog: &impl Directory,
    version: u64,
    next: u64,
    temporary: &str,
    document: &str,
) -> Result<bool, StoreError> {
    let failed = |what, name: &str| {
        let path = catalog.path().to_string();
        let name = name.to_string();
        move |failure| unavailable(what, &path, &name, failure)
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
        // Somebody was faster, or somebody was so much faster that the temporary file is gone.
        Err(Failure::Exists | Failure::Missing) => return Ok(false),
        Err(Failure::Unknown(why)) => {
            return Err(StoreError::UnknownOutcome(format!(
                "cannot tell whether {}/{next_file} was published: {why}",
                catalog.path()
            )));
        }
        Err(Failure::Refused(why)) => {
            return Err(StoreError::Unavailable(format!(
                "cannot publish {}/{next_file} by a hard link: {why}; the directory must be on a file system that \
                 has them, and be writable",
                catalog.path()
            )));
        }
    }
    sync(catalog)?;
    Ok(true)
}

/// Removes what the newest version has made useless, which is synced. If anything goes wrong, the next swap does it.
fn clean(catalog: &impl Directory, newest: u64) {
    let Ok(names) = catalog.list() else {
        return;
    };
    let gone = |name: &str| matches!(catalog.remove(name), Ok(()) | Err(Failure::Missing));
    // First all of these, or a version that is removed could come back.
    let temporaries = names.iter().filter(|name| target_of(name).is_some_and(|target| target <= newest));
    if temporaries.filter(|name| !gone(name)).count() > 0 {
        return;
    }
    let mut versions: Vec<_> =
        names.iter().filter_map(|name| version_of(name)).filter(|version| *version < newest).collect();
    // None before all that are lower, or a load could take one of those for the newest.
    versions.sort_unstable();
    let _ = versions.into_iter().all(|version| gone(&file(version)));
}

/// Removes a directory with the files in it, as far as that is possible.
fn discard(root: &impl Directory, name: &str) {
    if let Ok(directory) = root.directory(name) {
        for file in directory.list().unwrap_or_default() {
            let _ = directory.remove(&file);
        }
        let _ = root.remove_directory(name);
    }
}

/// The name of a version's file.
fn file(version: u64) -> String {
    format!("{version}.jsonl")
}

/// The version of which this is the file's name.
fn version_of(name: &str) -> Option<u64> {
    let version = name.strip_suffix(".jsonl")?.parse().ok().filter(|version| *version > 0)?;
    // Written in one way only.
    (file(version) == name).then_some(version)
}

/// The version that the temporary file of this name is to become.
fn target_of(name: &str) -> Option<u64> {
    let (target, random) = name.strip_suffix(".tmp")?.split_once('.')?;
    if is_random(random) { target.parse().ok() } else { None }
}

/// Whether this is from [`FileStore::unique`], so that nothing is removed that somebody else has put there.
fn is_random(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn reason(failure: Failure) -> String {
    match failure {
        Failure::Missing => "it is not there".into(),
        Failure::Exists => "it is there already".into(),
        Failure::Refused(why) | Failure::Unknown(why) => why,
    }
}

fn unavailable(what: &str, path: &str, name: &str, failure: Failure) -> StoreError {
    let between = if name.is_empty() { "" } else { "/" };
    StoreError::Unavailable(format!("cannot {what} {path}{between}{name}: {}", reason(failure)))
}

/// Syncs what was changed. Where that fails, it may be undone.
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
mod tests;

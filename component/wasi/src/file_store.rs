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
mod tests {
    use std::cell::RefCell;
    use std::fs::{self, File, OpenOptions};
    use std::io::{ErrorKind, Write as _};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::{Path, PathBuf};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use tempfile::TempDir;

    use super::*;

    /// A directory of the machine that runs the tests: the real thing, by another way.
    #[derive(Clone, Debug)]
    struct Real(PathBuf);

    impl Real {
        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    fn done<T>(result: std::io::Result<T>) -> Result<T, Failure> {
        result.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::Missing,
            ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => Failure::Exists,
            _ => Failure::Refused(error.to_string()),
        })
    }

    impl Directory for Real {
        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }

        fn list(&self) -> Result<Vec<String>, Failure> {
            let names = done(fs::read_dir(&self.0))?;
            Ok(names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        }

        fn exists(&self, name: &str) -> Result<bool, Failure> {
            done(self.at(name).try_exists())
        }

        fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Failure> {
            let content = done(fs::read(self.at(name)))?;
            if content.len() as u64 > limit { Err(Failure::Refused("long".into())) } else { Ok(content) }
        }

        fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.at(name));
            done(done(file)?.write_all(content))
        }

        fn link(&self, name: &str, new_name: &str) -> Result<(), Failure> {
            done(fs::hard_link(self.at(name), self.at(new_name)))
        }

        fn remove(&self, name: &str) -> Result<(), Failure> {
            done(fs::remove_file(self.at(name)))
        }

        fn sync(&self) -> Result<(), Failure> {
            done(File::open(&self.0).map(drop))
        }

        fn create_directory(&self, name: &str) -> Result<(), Failure> {
            done(fs::create_dir(self.at(name)))
        }

        fn directory(&self, name: &str) -> Result<Self, Failure> {
            if done(fs::symlink_metadata(self.at(name)))?.is_dir() {
                Ok(Self(self.at(name)))
            } else {
                Err(Failure::Refused("not a directory".into()))
            }
        }

        fn rename_directory(&self, name: &str, new_name: &str) -> Result<(), Failure> {
            done(fs::rename(self.at(name), self.at(new_name)))
        }

        fn remove_directory(&self, name: &str) -> Result<(), Failure> {
            done(fs::remove_dir(self.at(name)))
        }
    }

    /// Where a writer is held up, while others go on.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        List,
        Create,
        Look,
        Link,
        Rename,
        Sync,
    }

    /// What happens before a step, after so many others of its kind.
    struct Meanwhile<'a> {
        step: Step,
        after: u32,
        happen: Box<dyn FnOnce() -> Result<(), Failure> + 'a>,
    }

    /// A [`Real`] one that lets something happen, once.
    struct HeldUp<'a> {
        real: Real,
        meanwhile: Rc<RefCell<Option<Meanwhile<'a>>>>,
    }

    impl HeldUp<'_> {
        fn before(&self, step: Step) -> Result<(), Failure> {
            let happens = self.meanwhile.borrow_mut().take_if(|meanwhile| {
                let due = meanwhile.step == step && meanwhile.after == 0;
                meanwhile.after -= u32::from(meanwhile.step == step && !due);
                due
            });
            happens.map_or(Ok(()), |meanwhile| (meanwhile.happen)())
        }
    }

    /// A store, and what is to happen to it.
    type Held<'a> = (FileStore<HeldUp<'a>, fn() -> u64>, Rc<RefCell<Option<Meanwhile<'a>>>>);

    fn held_up<'a>(path: &Path) -> Held<'a> {
        let meanwhile = Rc::default();
        let directory = HeldUp { real: Real(path.into()), meanwhile: Rc::clone(&meanwhile) };
        (FileStore::new(directory, random), meanwhile)
    }

    impl Directory for HeldUp<'_> {
        fn path(&self) -> &str {
            self.real.path()
        }

        fn list(&self) -> Result<Vec<String>, Failure> {
            let before = self.real.list()?;
            self.before(Step::List)?;
            // Of what comes during it, a listing may show what it likes: here versions, not what they were linked from.
            let mut names = self.real.list()?;
            names.retain(|name| before.contains(name) || !name.contains(".tmp"));
            Ok(names)
        }

        fn exists(&self, name: &str) -> Result<bool, Failure> {
            self.before(Step::Look)?;
            self.real.exists(name)
        }

        fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Failure> {
            self.real.read(name, limit)
        }

        fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
            self.before(Step::Create)?;
            self.real.create(name, content)
        }

        fn link(&self, name: &str, new_name: &str) -> Result<(), Failure> {
            self.before(Step::Link)?;
            self.real.link(name, new_name)
        }

        fn remove(&self, name: &str) -> Result<(), Failure> {
            self.real.remove(name)
        }

        fn sync(&self) -> Result<(), Failure> {
            self.before(Step::Sync)?;
            self.real.sync()
        }

        fn create_directory(&self, name: &str) -> Result<(), Failure> {
            self.real.create_directory(name)
        }

        fn directory(&self, name: &str) -> Result<Self, Failure> {
            Ok(Self { real: self.real.directory(name)?, meanwhile: Rc::clone(&self.meanwhile) })
        }

        fn rename_directory(&self, name: &str, new_name: &str) -> Result<(), Failure> {
            self.before(Step::Rename)?;
            self.real.rename_directory(name, new_name)
        }

        fn remove_directory(&self, name: &str) -> Result<(), Failure> {
            self.real.remove_directory(name)
        }
    }

    fn random() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed)
    }

    fn store(directory: &Path) -> FileStore<Real, fn() -> u64> {
        FileStore::new(Real(directory.into()), random)
    }

    fn entry(version: &str, document: &str) -> Entry {
        Entry { version: version.into(), document: document.into() }
    }

    fn swapped(version: &str) -> SwapOutcome {
        SwapOutcome::Swapped(version.into())
    }

    /// Publishes versions up to this one.
    fn filled(newest: u64) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        advance(directory.path(), newest);
        directory
    }

    /// Publishes so many versions more.
    fn advance(directory: &Path, versions: u64) {
        let mut store = store(directory);
        for _ in 0..versions {
            let version = store.load().unwrap().map(|entry| entry.version);
            assert!(matches!(store.swap(version.as_deref(), "others"), Ok(SwapOutcome::Swapped(_))));
        }
    }

    fn files(directory: &Path) -> Vec<String> {
        let mut names = Real(directory.join(CATALOG)).list().unwrap();
        names.sort();
        names
    }

    #[test]
    fn a_document_is_replaced_by_who_has_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = store(directory.path());
        assert_eq!(store.load(), Ok(None));
        assert_eq!(store.swap(Some("1"), "none"), Ok(SwapOutcome::Stale));
        assert_eq!(store.swap(None, "first\n"), Ok(swapped("1")));
        assert_eq!(store.load(), Ok(Some(entry("1", "first\n"))));
        assert_eq!(store.swap(None, "again"), Ok(SwapOutcome::Stale));
        assert_eq!(store.swap(Some("1"), "second"), Ok(swapped("2")));
        assert_eq!(store.swap(Some("1"), "again"), Ok(SwapOutcome::Stale));
        for version in ["0", "3", "", "x", "18446744073709551615", "18446744073709551616"] {
            assert_eq!(store.swap(Some(version), "none"), Ok(SwapOutcome::Stale), "{version}");
        }
        assert_eq!(store.load(), Ok(Some(entry("2", "second"))));
        assert_eq!(files(directory.path()), ["2.jsonl"]);
        assert_eq!(Real(directory.path().into()).list().unwrap(), ["catalog"]);
    }

    #[test]
    fn of_many_writers_nobody_overwrites_another() {
        const WRITERS: u64 = 8;
        const EACH: u64 = 60;
        let directory = tempfile::tempdir().unwrap();
        // A second reader goes on reading, and must never see an older version than before.
        let writing = AtomicU64::new(WRITERS);
        thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    let mut store = store(directory.path());
                    let mut published = 0;
                    while published < EACH {
                        let read = store.load().unwrap();
                        let count = read.as_ref().map_or(0, |entry| entry.document.parse::<u64>().unwrap());
                        let version = read.map(|entry| entry.version);
                        match store.swap(version.as_deref(), &(count + 1).to_string()).unwrap() {
                            SwapOutcome::Swapped(version) => {
                                assert_eq!(version, (count + 1).to_string());
                                published += 1;
                            }
                            SwapOutcome::Stale => {}
                        }
                    }
                    writing.fetch_sub(1, Ordering::Relaxed);
                });
            }
            scope.spawn(|| {
                let mut store = store(directory.path());
                let mut last = 0;
                while writing.load(Ordering::Relaxed) > 0 {
                    let read = store.load().unwrap();
                    let count = read.map_or(0, |entry| entry.document.parse().unwrap());
                    assert!(count >= last, "{count} after {last}");
                    last = count;
                }
            });
        });
        let total = (WRITERS * EACH).to_string();
        assert_eq!(store(directory.path()).load(), Ok(Some(entry(&total, &total))));
        assert_eq!(files(directory.path()), [format!("{total}.jsonl")]);
        assert_eq!(Real(directory.path().into()).list().unwrap(), ["catalog"]);
    }

    #[test]
    fn a_writer_that_was_held_up_finds_no_name_free_that_others_have_used() {
        let first = [(Step::Create, 0), (Step::Link, 0), (Step::Sync, 0), (Step::Rename, 0)];
        let later = [(Step::Create, 0), (Step::Look, 0), (Step::Look, 1), (Step::Link, 0)];
        for (newest, steps) in [(0, first), (1, later), (5, later)] {
            for ((step, after), others) in steps.into_iter().flat_map(|step| [1, 2, 3, 7].map(|n| (step, n)))
            {
                let directory = filled(newest);
                let path = directory.path();
                let (mut late, meanwhile) = held_up(path);
                let version = late.load().unwrap().map(|entry| entry.version);
                let happen = Box::new(|| {
                    advance(path, others);
                    Ok(())
                });
                meanwhile.replace(Some(Meanwhile { step, after, happen }));
                let outcome = late.swap(version.as_deref(), "late");
                let case = format!("{newest}, {others} more before {step:?} {after}");
                assert!(meanwhile.borrow().is_none(), "{case}: nothing happened");
                assert_eq!(outcome, Ok(SwapOutcome::Stale), "{case}");
                let now = (newest + others).to_string();
                assert_eq!(store(path).load(), Ok(Some(entry(&now, "others"))), "{case}");
                assert_eq!(files(path), [format!("{now}.jsonl")], "{case}");
                assert_eq!(Real(path.into()).list().unwrap(), ["catalog"], "{case}");
            }
        }
    }

    #[test]
    fn what_was_the_newest_when_it_was_listed_is_looked_at_again() {
        let directory = filled(3);
        let path = directory.path();
        let (mut late, meanwhile) = held_up(path);
        let happen = Box::new(|| {
            advance(path, 2);
            Ok(())
        });
        meanwhile.replace(Some(Meanwhile { step: Step::Look, after: 0, happen }));
        assert_eq!(late.load(), Ok(Some(entry("5", "others"))));
        assert!(meanwhile.borrow().is_none());
    }

    #[test]
    fn a_version_that_was_not_removed_yet_is_not_taken_for_the_newest() {
        let directory = filled(3);
        let path = directory.path();
        let (mut late, meanwhile) = held_up(path);
        // The listing has not shown 4, and 3 is still there.
        let happen = Box::new(|| {
            fs::write(path.join("catalog/4.jsonl"), "newer").unwrap();
            Ok(())
        });
        meanwhile.replace(Some(Meanwhile { step: Step::Look, after: 0, happen }));
        assert_eq!(late.load(), Ok(Some(entry("4", "newer"))));
    }

    #[test]
    fn a_version_that_came_during_the_listing_may_have_a_marker_that_was_not_listed() {
        let directory = filled(1);
        let catalog = directory.path().join(CATALOG);
        let (mut reader, meanwhile) = held_up(directory.path());
        let happen = Box::new(|| {
            fs::write(catalog.join("2.0123456789abcdef.tmp"), "unsynced").unwrap();
            fs::hard_link(catalog.join("2.0123456789abcdef.tmp"), catalog.join("2.jsonl")).unwrap();
            Ok(())
        });
        meanwhile.replace(Some(Meanwhile { step: Step::List, after: 0, happen }));
        assert_eq!(reader.load(), Ok(Some(entry("2", "unsynced"))));
        assert_eq!(files(directory.path()), ["1.jsonl", "2.jsonl"], "it was synced, so nothing marks it");
    }

    #[test]
    fn what_killed_writers_left_is_removed_by_the_next_swap_and_nothing_else() {
        let directory = filled(2);
        let catalog = directory.path().join(CATALOG);
        for name in ["3.0123456789abcdef.tmp", "1.fedcba9876543210.tmp", "1.jsonl"] {
            fs::write(catalog.join(name), "left").unwrap();
        }
        let kept = ["4.0123456789abcdef.tmp", "README", "03.jsonl", "2.jsonl.bak", "2.x.tmp"];
        for name in kept {
            fs::write(catalog.join(name), "kept").unwrap();
        }
        fs::create_dir(directory.path().join("catalog.0123456789abcdef.new")).unwrap();
        fs::write(directory.path().join("catalog.0123456789abcdef.new/1.jsonl"), "left").unwrap();
        fs::create_dir(directory.path().join("catalog.old.new")).unwrap();

        advance(directory.path(), 1);
        let mut expected: Vec<_> = kept.into_iter().chain(["3.jsonl"]).map(String::from).collect();
        expected.sort();
        assert_eq!(files(directory.path()), expected);
        let mut names = Real(directory.path().into()).list().unwrap();
        names.sort();
        assert_eq!(names, ["catalog", "catalog.old.new"]);
    }

    #[test]
    fn what_cannot_be_removed_keeps_what_comes_after_it() {
        for (first, later) in [
            // A version with one below it could be taken for the newest once those between are gone.
            ("1.jsonl", vec!["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl"]),
            // This could become a version again.
            ("2.0123456789abcdef.tmp", vec!["2.0123456789abcdef.tmp", "2.jsonl", "3.jsonl", "4.jsonl"]),
        ] {
            let directory = filled(3);
            let catalog = directory.path().join(CATALOG);
            fs::create_dir(catalog.join(first)).unwrap();
            fs::write(catalog.join("2.jsonl"), "left").unwrap();
            advance(directory.path(), 1);
            assert_eq!(files(directory.path()), later);
            fs::remove_dir(catalog.join(first)).unwrap();
            advance(directory.path(), 1);
            assert_eq!(files(directory.path()), ["5.jsonl"]);
        }
    }

    #[test]
    fn what_cannot_be_is_said_and_changes_nothing() {
        let said = |outcome: Result<Option<Entry>, StoreError>, text: &str| {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        let directory = filled(1);
        let path = directory.path();
        let only = path.join(CATALOG).join("1.jsonl");
        fs::write(&only, b"\xff").unwrap();
        said(store(path).load(), "catalog/1.jsonl: it is damaged: it is not UTF-8");
        fs::remove_file(&only).unwrap();
        said(store(path).load(), "catalog holds no version of the catalog; put its newest");
        assert!(!path.join("catalog/1.jsonl").exists());

        let directory = filled(1);
        let last = directory.path().join(CATALOG).join("18446744073709551615.jsonl");
        fs::write(&last, "others").unwrap();
        let text = "18446744073709551615.jsonl: there can be no version after this one, so none of ours is called that; remove it";
        said(store(directory.path()).load(), text);
        assert_eq!(store(directory.path()).swap(Some("18446744073709551615"), "new"), Ok(SwapOutcome::Stale));
        assert_eq!(fs::read(&last).unwrap(), b"others");

        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(CATALOG), "a file").unwrap();
        said(store(directory.path()).load(), "catalog: not a directory");
        assert_eq!(store(directory.path()).swap(None, "new"), Ok(SwapOutcome::Stale));
        assert_eq!(fs::read(directory.path().join(CATALOG)).unwrap(), b"a file");
    }

    fn fails(step: Step, after: u32, failure: Failure) -> Meanwhile<'static> {
        Meanwhile { step, after, happen: Box::new(|| Err(failure)) }
    }

    #[test]
    fn a_failure_says_whether_anything_was_written() {
        let (refused, unknown) = (|| Failure::Refused("no".into()), || Failure::Unknown("io".into()));
        for (newest, step, after, failure, certain) in [
            (1, Step::Create, 0, refused(), true),
            (1, Step::Create, 0, unknown(), true),
            (1, Step::Look, 0, unknown(), true),
            (1, Step::Look, 1, refused(), true),
            (1, Step::Link, 0, refused(), true),
            (1, Step::Link, 0, unknown(), false),
            (1, Step::Sync, 0, refused(), false),
            (0, Step::Create, 0, refused(), true),
            (0, Step::Link, 0, unknown(), true),
            (0, Step::Sync, 0, refused(), true),
            (0, Step::Rename, 0, refused(), true),
            (0, Step::Rename, 0, unknown(), false),
            (0, Step::Sync, 1, refused(), false),
        ] {
            let case = format!("{newest} {step:?} {after} {failure:?}");
            let directory = filled(newest);
            let (mut store, meanwhile) = held_up(directory.path());
            meanwhile.replace(Some(fails(step, after, failure)));
            let expected = if newest == 0 { None } else { Some(newest.to_string()) };
            let outcome = store.swap(expected.as_deref(), "new");
            assert!(meanwhile.borrow().is_none(), "{case}: nothing failed");
            let read = store.load().unwrap().map(|entry| entry.document);
            let before = (newest > 0).then(|| "others".to_owned());
            match outcome {
                Err(StoreError::Unavailable(_)) => assert!(certain && read == before, "{case}"),
                Err(StoreError::UnknownOutcome(_)) => assert!(!certain, "{case}"),
                Ok(outcome) => panic!("{case}: {outcome:?}"),
            }
            if newest > 0 {
                // What is in doubt keeps its marker; that it cannot be a version any more shows the next swap.
                let marked = files(directory.path()).iter().any(|name| name.contains(".tmp"));
                assert!(!marked || step == Step::Link && !certain, "{case}");
                advance(directory.path(), 1);
                assert_eq!(files(directory.path()).len(), 1, "{case}");
            }
        }
    }

    #[test]
    fn what_may_not_last_is_not_read_before_it_does() {
        let directory = filled(1);
        let (mut store, meanwhile) = held_up(directory.path());
        let sync = || fails(Step::Sync, 0, Failure::Refused("no".into()));
        meanwhile.replace(Some(sync()));
        assert!(matches!(store.swap(Some("1"), "new"), Err(StoreError::UnknownOutcome(_))));
        meanwhile.replace(Some(sync()));
        assert!(store.load().unwrap_err().to_string().contains("a power cut could undo version 2"));
        // Nor by anybody else, who can sync it as well.
        let (mut other, meanwhile) = held_up(directory.path());
        meanwhile.replace(Some(sync()));
        assert!(matches!(other.load(), Err(StoreError::Unavailable(_))));
        assert_eq!(other.load(), Ok(Some(entry("2", "new"))));
        assert_eq!(files(directory.path()), ["1.jsonl", "2.jsonl"]);
        meanwhile.replace(Some(sync()));
        assert_eq!(store.load(), Ok(Some(entry("2", "new"))));
        assert!(meanwhile.borrow().is_some(), "it was synced already");
    }

    #[test]
    fn a_version_is_not_published_again_while_the_one_after_it_goes() {
        let directory = filled(1);
        let catalog = directory.path().join(CATALOG);
        let (mut late, meanwhile) = held_up(directory.path());
        assert_eq!(late.load(), Ok(Some(entry("1", "others"))));
        for name in ["2.jsonl", "3.jsonl"] {
            fs::write(catalog.join(name), "others").unwrap();
        }
        // Who has published 3 had listed the temporary files before this one's was there.
        let happen = Box::new(|| {
            fs::remove_file(catalog.join("1.jsonl")).unwrap();
            fs::remove_file(catalog.join("2.jsonl")).unwrap();
            Ok(())
        });
        meanwhile.replace(Some(Meanwhile { step: Step::Look, after: 1, happen }));
        assert_eq!(late.swap(Some("1"), "late"), Ok(SwapOutcome::Stale));
    }
}

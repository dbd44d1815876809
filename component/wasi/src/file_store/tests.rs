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

/// A directory of the system that runs the tests, over std.
#[derive(Clone, Debug)]
pub(crate) struct RealDirectory(pub(crate) PathBuf);

impl RealDirectory {
    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn converted<T>(result: std::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::Missing,
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => Failure::Exists,
        _ => Failure::Refused(error.to_string()),
    })
}

impl Directory for RealDirectory {
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        let names = converted(fs::read_dir(&self.0))?;
        Ok(names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    fn exists(&self, name: &str) -> Result<bool, Failure> {
        converted(self.at(name).try_exists())
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let content = converted(fs::read(self.at(name)))?;
        if content.len() as u64 > limit { Err(Failure::Refused("long".into())) } else { Ok(content) }
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.at(name));
        converted(converted(file)?.write_all(content))
    }

    fn link(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        converted(fs::hard_link(self.at(name), self.at(new_name)))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        converted(fs::remove_file(self.at(name)))
    }

    fn sync(&self) -> Result<(), Failure> {
        converted(File::open(&self.0).map(drop))
    }

    fn create_directory(&self, name: &str) -> Result<(), Failure> {
        converted(fs::create_dir(self.at(name)))
    }

    fn directory(&self, name: &str) -> Result<Self, Failure> {
        if converted(fs::symlink_metadata(self.at(name)))?.is_dir() {
            Ok(Self(self.at(name)))
        } else {
            Err(Failure::Refused("not a directory".into()))
        }
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        converted(fs::rename(self.at(name), self.at(new_name)))
    }

    fn remove_directory(&self, name: &str) -> Result<(), Failure> {
        converted(fs::remove_dir(self.at(name)))
    }
}

/// An operation before which a process pauses, while others go on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    List,
    Create,
    Exists,
    Link,
    Rename,
    Sync,
}

/// An event before a step, after this many others of its kind.
struct Interleaving<'a> {
    step: Step,
    after: u32,
    event: Box<dyn FnOnce() -> Result<(), Failure> + 'a>,
}

/// A [`RealDirectory`] with one interleaving.
struct PausingDirectory<'a> {
    real: RealDirectory,
    interleaving: Rc<RefCell<Option<Interleaving<'a>>>>,
}

impl PausingDirectory<'_> {
    fn before(&self, step: Step) -> Result<(), Failure> {
        let due = self.interleaving.borrow_mut().take_if(|interleaving| {
            let due = interleaving.step == step && interleaving.after == 0;
            interleaving.after -= u32::from(interleaving.step == step && !due);
            due
        });
        due.map_or(Ok(()), |interleaving| (interleaving.event)())
    }
}

/// A store, and its interleaving.
type PausingStore<'a> = (FileStore<PausingDirectory<'a>, fn() -> u64>, Rc<RefCell<Option<Interleaving<'a>>>>);

fn pausing<'a>(path: &Path) -> PausingStore<'a> {
    let interleaving = Rc::default();
    let directory =
        PausingDirectory { real: RealDirectory(path.into()), interleaving: Rc::clone(&interleaving) };
    (FileStore::new(directory, random), interleaving)
}

impl Directory for PausingDirectory<'_> {
    fn path(&self) -> &str {
        self.real.path()
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        let before = self.real.list()?;
        self.before(Step::List)?;
        // A listing may miss any entry that appears during it. This one misses temporary files.
        let mut names = self.real.list()?;
        names.retain(|name| before.contains(name) || !name.contains(".tmp"));
        Ok(names)
    }

    fn exists(&self, name: &str) -> Result<bool, Failure> {
        self.before(Step::Exists)?;
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
        Ok(Self { real: self.real.directory(name)?, interleaving: Rc::clone(&self.interleaving) })
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        self.before(Step::Rename)?;
        self.real.rename(name, new_name)
    }

    fn remove_directory(&self, name: &str) -> Result<(), Failure> {
        self.real.remove_directory(name)
    }
}

fn random() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

fn store(directory: &Path) -> FileStore<RealDirectory, fn() -> u64> {
    FileStore::new(RealDirectory(directory.into()), random)
}

fn entry(version: &str, document: &str) -> Entry {
    Entry { version: version.into(), document: document.into() }
}

fn swapped(version: &str) -> SwapOutcome {
    SwapOutcome::Swapped(version.into())
}

/// A directory with versions up to this one.
fn filled(newest: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    advance(directory.path(), newest);
    directory
}

/// Publishes this many more versions.
fn advance(directory: &Path, versions: u64) {
    let mut store = store(directory);
    for _ in 0..versions {
        let version = store.load().unwrap().map(|entry| entry.version);
        assert!(matches!(store.swap(version.as_deref(), "others"), Ok(SwapOutcome::Swapped(_))));
    }
}

fn files(directory: &Path) -> Vec<String> {
    let mut names = RealDirectory(directory.join(CATALOG)).list().unwrap();
    names.sort();
    names
}

#[test]
fn swap_requires_the_loaded_version() {
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
    assert_eq!(RealDirectory(directory.path().into()).list().unwrap(), ["catalog"]);
}

#[test]
fn concurrent_writers_lose_no_update() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 60;
    let directory = tempfile::tempdir().unwrap();
    // A reader must never load an older version than before.
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
    assert_eq!(RealDirectory(directory.path().into()).list().unwrap(), ["catalog"]);
}

#[test]
fn delayed_writer_cannot_reuse_version() {
    let first = [(Step::Create, 0), (Step::Link, 0), (Step::Sync, 0), (Step::Rename, 0)];
    let later = [(Step::Create, 0), (Step::Exists, 0), (Step::Exists, 1), (Step::Link, 0)];
    for (newest, steps) in [(0, first), (1, later), (5, later)] {
        for ((step, after), others) in steps.into_iter().flat_map(|step| [1, 2, 3, 7].map(|n| (step, n))) {
            let directory = filled(newest);
            let path = directory.path();
            let (mut late, interleaving) = pausing(path);
            let version = late.load().unwrap().map(|entry| entry.version);
            let event = Box::new(|| {
                advance(path, others);
                Ok(())
            });
            interleaving.replace(Some(Interleaving { step, after, event }));
            let outcome = late.swap(version.as_deref(), "late");
            let case = format!("{newest}, {others} more before {step:?} {after}");
            assert!(interleaving.borrow().is_none(), "{case}: there was no event");
            assert_eq!(outcome, Ok(SwapOutcome::Stale), "{case}");
            let now = (newest + others).to_string();
            assert_eq!(store(path).load(), Ok(Some(entry(&now, "others"))), "{case}");
            assert_eq!(files(path), [format!("{now}.jsonl")], "{case}");
            assert_eq!(RealDirectory(path.into()).list().unwrap(), ["catalog"], "{case}");
        }
    }
}

#[test]
fn load_retries_after_an_outdated_listing() {
    let directory = filled(3);
    let path = directory.path();
    let (mut late, interleaving) = pausing(path);
    let event = Box::new(|| {
        advance(path, 2);
        Ok(())
    });
    interleaving.replace(Some(Interleaving { step: Step::Exists, after: 0, event }));
    assert_eq!(late.load(), Ok(Some(entry("5", "others"))));
    assert!(interleaving.borrow().is_none());
}

#[test]
fn load_finds_a_newer_version_that_is_unlisted() {
    let directory = filled(3);
    let path = directory.path();
    let (mut late, interleaving) = pausing(path);
    // The listing has missed 4, and 3 still exists.
    let event = Box::new(|| {
        fs::write(path.join("catalog/4.jsonl"), "newer").unwrap();
        Ok(())
    });
    interleaving.replace(Some(Interleaving { step: Step::Exists, after: 0, event }));
    assert_eq!(late.load(), Ok(Some(entry("4", "newer"))));
}

#[test]
fn load_relists_a_version_published_during_listing() {
    let directory = filled(1);
    let catalog = directory.path().join(CATALOG);
    let (mut reader, interleaving) = pausing(directory.path());
    let event = Box::new(|| {
        fs::write(catalog.join("2.0123456789abcdef.tmp"), "unsynced").unwrap();
        fs::hard_link(catalog.join("2.0123456789abcdef.tmp"), catalog.join("2.jsonl")).unwrap();
        Ok(())
    });
    interleaving.replace(Some(Interleaving { step: Step::List, after: 0, event }));
    assert_eq!(reader.load(), Ok(Some(entry("2", "unsynced"))));
    assert_eq!(files(directory.path()), ["1.jsonl", "2.jsonl"], "it is synced, so it has no marker");
}

#[test]
fn swap_removes_leftovers_and_nothing_else() {
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
    let mut names = RealDirectory(directory.path().into()).list().unwrap();
    names.sort();
    assert_eq!(names, ["catalog", "catalog.old.new"]);
}

#[test]
fn failed_removal_keeps_later_files() {
    for (first, later) in [
        // A load could return this version as the newest, once those above it are removed.
        ("1.jsonl", vec!["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl"]),
        // A writer could link this file to a removed version again.
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
fn damaged_catalog_is_reported_and_unchanged() {
    let assert_error = |outcome: Result<Option<Entry>, StoreError>, text: &str| {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let directory = filled(1);
    let path = directory.path();
    let only = path.join(CATALOG).join("1.jsonl");
    fs::write(&only, b"\xff").unwrap();
    assert_error(store(path).load(), "catalog/1.jsonl: it is damaged: it is not UTF-8");
    fs::remove_file(&only).unwrap();
    assert_error(store(path).load(), "catalog holds no version of the catalog; put its newest");
    assert!(!path.join("catalog/1.jsonl").exists());

    let directory = filled(1);
    let last = directory.path().join(CATALOG).join("18446744073709551615.jsonl");
    fs::write(&last, "others").unwrap();
    let text = "18446744073709551615.jsonl: there can be no version after this one, so this store has not written it; remove it";
    assert_error(store(directory.path()).load(), text);
    assert_eq!(store(directory.path()).swap(Some("18446744073709551615"), "new"), Ok(SwapOutcome::Stale));
    assert_eq!(fs::read(&last).unwrap(), b"others");

    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(CATALOG), "a file").unwrap();
    assert_error(store(directory.path()).load(), "catalog: not a directory");
    assert_eq!(store(directory.path()).swap(None, "new"), Ok(SwapOutcome::Stale));
    assert_eq!(fs::read(directory.path().join(CATALOG)).unwrap(), b"a file");
}

fn fails(step: Step, after: u32, failure: Failure) -> Interleaving<'static> {
    Interleaving { step, after, event: Box::new(|| Err(failure)) }
}

#[test]
fn failure_states_whether_anything_was_written() {
    let (refused, unknown) = (|| Failure::Refused("no".into()), || Failure::Unknown("io".into()));
    for (newest, step, after, failure, certain) in [
        (1, Step::Create, 0, refused(), true),
        (1, Step::Create, 0, unknown(), true),
        (1, Step::Exists, 0, unknown(), true),
        (1, Step::Exists, 1, refused(), true),
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
        let (mut store, interleaving) = pausing(directory.path());
        interleaving.replace(Some(fails(step, after, failure)));
        let expected = if newest == 0 { None } else { Some(newest.to_string()) };
        let outcome = store.swap(expected.as_deref(), "new");
        assert!(interleaving.borrow().is_none(), "{case}: no operation failed");
        let read = store.load().unwrap().map(|entry| entry.document);
        let before = (newest > 0).then(|| "others".to_owned());
        match outcome {
            Err(StoreError::Unavailable(_)) => assert!(certain && read == before, "{case}"),
            Err(StoreError::UnknownOutcome(_)) => assert!(!certain, "{case}"),
            Ok(outcome) => panic!("{case}: {outcome:?}"),
        }
        if newest > 0 {
            // A version in doubt keeps its marker. The next swap shows that it cannot be published
            // any more.
            let marked = files(directory.path()).iter().any(|name| name.contains(".tmp"));
            assert!(!marked || step == Step::Link && !certain, "{case}");
            advance(directory.path(), 1);
            assert_eq!(files(directory.path()).len(), 1, "{case}");
        }
    }
}

#[test]
fn load_syncs_unsynced_version() {
    let directory = filled(1);
    let (mut store, interleaving) = pausing(directory.path());
    let sync = || fails(Step::Sync, 0, Failure::Refused("no".into()));
    interleaving.replace(Some(sync()));
    assert!(matches!(store.swap(Some("1"), "new"), Err(StoreError::UnknownOutcome(_))));
    interleaving.replace(Some(sync()));
    assert!(store.load().unwrap_err().to_string().contains("a power cut could undo version 2"));
    // Another process does not return it either, and can sync it.
    let (mut other, interleaving) = pausing(directory.path());
    interleaving.replace(Some(sync()));
    assert!(matches!(other.load(), Err(StoreError::Unavailable(_))));
    assert_eq!(other.load(), Ok(Some(entry("2", "new"))));
    assert_eq!(files(directory.path()), ["1.jsonl", "2.jsonl"]);
    interleaving.replace(Some(sync()));
    assert_eq!(store.load(), Ok(Some(entry("2", "new"))));
    assert!(interleaving.borrow().is_some(), "it is synced already");
}

#[test]
fn version_is_not_republished_during_cleanup() {
    let directory = filled(1);
    let catalog = directory.path().join(CATALOG);
    let (mut late, interleaving) = pausing(directory.path());
    assert_eq!(late.load(), Ok(Some(entry("1", "others"))));
    for name in ["2.jsonl", "3.jsonl"] {
        fs::write(catalog.join(name), "others").unwrap();
    }
    // The writer of 3 had listed the temporary files before this one existed.
    let event = Box::new(|| {
        fs::remove_file(catalog.join("1.jsonl")).unwrap();
        fs::remove_file(catalog.join("2.jsonl")).unwrap();
        Ok(())
    });
    interleaving.replace(Some(Interleaving { step: Step::Exists, after: 1, event }));
    assert_eq!(late.swap(Some("1"), "late"), Ok(SwapOutcome::Stale));
}

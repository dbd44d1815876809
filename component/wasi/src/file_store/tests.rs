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
        for ((step, after), others) in steps.into_iter().flat_map(|step| [1, 2, 3, 7].map(|n| (step, n))) {
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

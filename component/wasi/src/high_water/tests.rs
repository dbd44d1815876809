use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::path::{Path, PathBuf};

use optoken_core::authority::{Authority, Caller};
use optoken_core::commit::CommandError;
use optoken_core::ports::{Clock, Entropy, EntropyError, Timestamp};
use tempfile::TempDir;

use super::*;
use crate::file_store::FileStore;
use crate::file_store::tests::RealDirectory;

thread_local! {
    static WARNINGS: RefCell<Vec<(String, bool)>> = const { RefCell::new(Vec::new()) };
}

/// A random number of the standard library, which seeds its hash maps by it.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

type RealStore = FileStore<RealDirectory, fn() -> u64>;

struct Ports(HighWaterStore<RealStore, RealDirectory, fn() -> u64>);

impl Entropy for Ports {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        bytes.fill_with(|| random().to_le_bytes()[0]);
        Ok(())
    }
}

impl Clock for Ports {
    fn now(&mut self) -> Timestamp {
        1_800_000_000_000
    }
}

impl CatalogStore for Ports {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        self.0.load()
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.0.swap(expected, document)
    }
}

/// A node: a directory with the catalog, and one with the mark.
struct Node {
    data: TempDir,
    state: TempDir,
    acceptance: Option<u64>,
}

impl Node {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap(), acceptance: None }
    }

    /// A process.
    fn open(&self) -> Authority<Ports> {
        let acceptance = Acceptance { sequence: self.acceptance, option: "--accept-catalog-at " };
        let random: fn() -> u64 = random;
        let store = FileStore::new(RealDirectory(self.data.path().into()), random);
        let warn = |warning: &str, changed| {
            WARNINGS.with_borrow_mut(|warnings| warnings.push((warning.into(), changed)));
        };
        let state = RealDirectory(self.state.path().into());
        Authority::new(Ports(HighWaterStore::new(store, state, random, acceptance, warn)))
    }

    fn catalog(&self) -> PathBuf {
        self.data.path().join("catalog")
    }

    fn mark(&self) -> String {
        fs::read_to_string(self.state.path().join(MARK)).unwrap()
    }

    fn sequence(&self) -> Result<u64, CommandError> {
        Ok(self.open().state()?.map_or(0, |state| state.audit_sequence))
    }

    /// Copies the catalog elsewhere.
    fn back_up(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.catalog(), copy.path());
        copy
    }

    fn restore(&self, copy: &TempDir) {
        let _ = fs::remove_dir_all(self.catalog());
        fs::create_dir(self.catalog()).unwrap();
        copy_files(copy.path(), &self.catalog());
    }

    /// Asserts that every command is refused, and returns the reason.
    #[track_caller]
    fn assert_refused(&self) -> String {
        let before = self.mark();
        let CommandError::Unavailable(why) = self.open().load().unwrap_err() else {
            panic!("not unavailable")
        };
        let caller = Caller { credential: "apiv3_x", origin: "test" };
        for result in [
            self.open().create_operator("test").map(drop),
            self.open().recover("test", false).map(drop),
            self.open().initialize("test").map(drop),
            self.open().regenerate(caller, None).map(drop),
        ] {
            assert!(matches!(result, Err(CommandError::Unavailable(_))), "{result:?}");
        }
        assert!(self.open().authenticate("apiv3_x").unwrap_err().to_string().contains(&why));
        assert_eq!(self.mark(), before);
        why
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A node with an operator token after three changes, a copy of its catalog, and a change since.
fn rotated() -> (Node, TempDir) {
    let node = Node::new();
    node.open().initialize("test").unwrap();
    node.open().create_operator("test").unwrap();
    node.open().recover("test", false).unwrap();
    let copy = node.back_up();
    node.open().recover("test", false).unwrap();
    (node, copy)
}

#[test]
fn mark_follows_every_change_and_every_news() {
    let node = Node::new();
    assert_eq!(node.sequence(), Ok(0));
    assert!(!node.state.path().join(MARK).exists(), "a mark of nothing");
    let id = node.open().initialize("test").unwrap();
    let mark = node.mark();
    assert!(mark.starts_with(&format!("optoken high-water 1\ncatalog {id}\nsequence 1\nhead ")), "{mark}");
    node.open().create_operator("test").unwrap();
    assert!(node.mark().contains("\nsequence 2\n"));

    // The catalog is ahead of its mark, as after a crash, and a node that only reads sees news.
    fs::write(node.state.path().join(MARK), &mark).unwrap();
    assert_eq!(node.sequence(), Ok(2));
    assert!(node.mark().contains("\nsequence 2\n"));

    // A directory of an older version has no mark. It gets one.
    fs::remove_file(node.state.path().join(MARK)).unwrap();
    assert_eq!(node.sequence(), Ok(2));
    assert!(node.mark().contains("\nsequence 2\n"));
    let files = fs::read_dir(node.state.path()).unwrap().count();
    assert_eq!(files, 1, "temporary files");
}

#[test]
fn older_catalog_is_refused_and_accepted_once() {
    let (mut node, copy) = rotated();
    let newest = node.back_up();
    node.restore(&copy);
    let why = node.assert_refused();
    assert!(
        why.contains("found change 3 of catalog") && why.contains("expected change 4 of catalog"),
        "{why}"
    );
    assert!(why.contains("put the newest copy back") && why.contains("--accept-catalog-at 3"), "{why}");

    // Another number accepts nothing, and the newest copy needs none.
    node.acceptance = Some(4);
    node.assert_refused();
    node.restore(&newest);
    assert_eq!(node.sequence(), Ok(4));
    assert!(!node.mark().contains("accepted"), "{}", node.mark());

    node.restore(&copy);
    node.acceptance = Some(3);
    node.open().recover("test", true).unwrap();
    assert!(node.mark().ends_with("\naccepted 3\n") && node.mark().contains("\nsequence 4\n"));
    // The option may stay.
    node.open().recover("test", false).unwrap();
    assert_eq!(node.sequence(), Ok(5));
    assert!(node.mark().ends_with("\naccepted 3\n"));

    node.restore(&copy);
    let why = node.assert_refused();
    assert!(why.contains("accepted once by --accept-catalog-at 3") && why.contains("delete"), "{why}");
    // As is the one from which the accepted one has diverged.
    node.restore(&newest);
    node.assert_refused();
}

#[test]
fn missing_catalog_is_refused_and_accepted_once() {
    let (mut node, copy) = rotated();
    fs::remove_dir_all(node.catalog()).unwrap();
    let why = node.assert_refused();
    assert!(why.contains("found no catalog") && why.contains("--accept-catalog-at 0"), "{why}");
    assert!(!node.catalog().exists(), "a catalog was created");
    fs::create_dir(node.catalog()).unwrap();
    node.assert_refused();
    fs::remove_dir(node.catalog()).unwrap();

    node.acceptance = Some(0);
    node.open().create_operator("test").unwrap();
    assert!(node.mark().contains("sequence 1\n") && node.mark().ends_with("accepted 0\n"));
    node.restore(&copy);
    node.assert_refused();
    fs::remove_dir_all(node.catalog()).unwrap();
    node.assert_refused();
}

#[test]
fn foreign_or_diverged_catalog_is_refused() {
    let (node, copy) = rotated();
    let other = rotated().0;
    other.open().recover("test", false).unwrap();
    node.restore(&other.back_up());
    assert!(node.assert_refused().contains("found change 5 of catalog"));

    // The same catalog with another history since the copy, and longer.
    let fork = Node::new();
    fork.restore(&copy);
    for _ in 0..3 {
        fork.open().recover("fork", false).unwrap();
    }
    node.restore(&fork.back_up());
    assert!(node.assert_refused().contains("found change 6 of catalog"));
}

#[test]
fn catalog_far_ahead_is_accepted_by_its_id() {
    let (node, _) = rotated();
    let (mark, other) = (node.mark(), Node::new());
    other.restore(&node.back_up());
    for _ in 0..70 {
        other.open().recover("test", false).unwrap();
    }
    node.restore(&other.back_up());
    assert_eq!(node.sequence(), Ok(74));
    assert_ne!(node.mark(), mark);
}

#[test]
fn catalog_that_gets_its_id_continues() {
    let node = Node::new();
    node.open().create_operator("test").unwrap();
    let mark = node.mark();
    node.open().initialize("test").unwrap();
    fs::write(node.state.path().join(MARK), mark).unwrap();
    assert_eq!(node.sequence(), Ok(2));
    assert!(node.mark().contains("\ncatalog "));
}

#[test]
fn damaged_mark_is_refused() {
    let (node, _) = rotated();
    let good = node.mark();
    let head = good.lines().nth(3).unwrap();
    for damaged in [
        String::new(),
        good[..good.len() - 1].to_owned(),
        good.replace(&format!("{head}\n"), ""),
        good.replace("sequence 4", "sequence 04"),
        good.replace("high-water 1", "high-water 2"),
        format!("{good}accepted x\n"),
        format!("{good}note\n"),
        good.replace("sequence 4\n", ""),
    ] {
        fs::write(node.state.path().join(MARK), &damaged).unwrap();
        let why = node.assert_refused();
        assert!(why.contains("it is damaged") && why.contains("delete this file"), "{why}");
    }
}

#[test]
fn mark_that_cannot_be_written_is_a_warning_but_spends_nothing() {
    let (mut node, copy) = rotated();
    // A directory that is not there has no mark, and none can be written.
    let state = tempfile::tempdir().unwrap();
    let missing = state.path().join("missing");
    let kept = std::mem::replace(&mut node.state, state);
    let authority = |node: &Node, sequence| {
        let random: fn() -> u64 = random;
        let acceptance = Acceptance { sequence, option: "--accept-catalog-at " };
        let warn = |warning: &str, changed| {
            WARNINGS.with_borrow_mut(|warnings| warnings.push((warning.into(), changed)));
        };
        let store = FileStore::new(RealDirectory(node.data.path().into()), random);
        HighWaterStore::new(store, RealDirectory(missing.clone()), random, acceptance, warn)
    };
    assert!(authority(&node, None).load().unwrap().is_some());
    let warnings = WARNINGS.take();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].0.contains("an older catalog that is put back from now on is not noticed"));
    assert!(!warnings[0].1);
    let mut changing = Authority::new(Ports(authority(&node, None)));
    changing.recover("test", false).unwrap();
    assert!(WARNINGS.take().iter().any(|(_, changed)| *changed));

    // The acceptance is on disk before it counts.
    node.state = kept;
    node.restore(&copy);
    node.acceptance = Some(3);
    let marked = Mark::parse(&node.mark()).unwrap();
    let mut unwritable = authority(&node, Some(3));
    let entry = unwritable.store.load().unwrap().unwrap();
    let refused = unwritable.check(Some(marked), Some(&entry.document)).unwrap_err();
    assert!(refused.to_string().contains("cannot note"), "{refused}");
}

#[test]
fn temporary_files_of_killed_writers_are_removed() {
    let (node, _) = rotated();
    for name in ["high-water.0123456789abcdef.tmp", "high-water.note.tmp"] {
        fs::write(node.state.path().join(name), "").unwrap();
    }
    node.open().recover("test", false).unwrap();
    let mut names: Vec<_> = fs::read_dir(node.state.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [MARK, "high-water.note.tmp"]);
}

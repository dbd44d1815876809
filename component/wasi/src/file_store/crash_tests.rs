//! Crash consistency: every version that a process reported survives a power cut.
//!
//! The store runs over a disk in memory. Any process can be killed at any step, and a power cut
//! loses every change that was not synced. A second test fixes the order of the operations.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::iter;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// The target of a name: a file with this content, which is synced, or the directory with this
/// number.
#[derive(Clone)]
enum Node {
    File(Vec<u8>),
    Directory(usize),
}

type Names = BTreeMap<String, Node>;

/// All directories; the first is the root of the store. Each has its states since its last sync,
/// the current one last.
#[derive(Clone)]
struct Disk(Vec<Vec<Names>>);

impl Disk {
    fn names(&self, directory: usize) -> &Names {
        self.0[directory].last().unwrap()
    }

    /// Returns every disk that a power cut can leave: of each directory any state since its sync.
    fn cut(&self) -> Vec<Self> {
        self.0.iter().fold(vec![Self(vec![])], |cuts, states| {
            let with = |cut: &Self, names: &Names| Self([&cut.0[..], &[vec![names.clone()]]].concat());
            cuts.iter().flat_map(|cut| states.iter().map(move |names| with(cut, names))).collect()
        })
    }
}

/// A fault of a process at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The process is killed: this step and all later ones have no effect.
    Killed,
    /// The step has no effect, and its result is lost.
    Lost,
    /// The step has its effect, and its result is lost.
    ResultLost,
}

/// The steps of a process, and the fault at one of them.
struct Steps {
    taken: RefCell<Vec<String>>,
    fault: Option<(usize, Fault)>,
    reached: Cell<bool>,
}

/// A directory of the disk, opened by one process.
struct Handle {
    disk: Rc<RefCell<Disk>>,
    directory: usize,
    path: String,
    steps: Rc<Steps>,
}

impl Handle {
    fn step<T>(
        &self,
        operation: &str,
        names: &[&str],
        act: impl FnOnce(&mut Disk) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let names: Vec<_> = iter::once(&*self.path).chain(names.iter().copied()).map(plain).collect();
        let number = self.steps.taken.borrow().len();
        self.steps.taken.borrow_mut().push(format!("{operation} {}", names.join(" ")));
        let unknown = || Err(Failure::Unknown("lost".into()));
        match self.steps.fault {
            Some((step, Fault::Killed)) if step <= number => {
                self.steps.reached.set(true);
                Err(Failure::Refused("killed".into()))
            }
            Some((step, fault)) if step == number => {
                self.steps.reached.set(true);
                if fault == Fault::ResultLost {
                    let _ = act(&mut self.disk.borrow_mut());
                }
                unknown()
            }
            _ => act(&mut self.disk.borrow_mut()),
        }
    }

    /// A step that changes the names in the directory, or fails and changes nothing.
    fn change(
        &self,
        operation: &str,
        names: &[&str],
        act: impl FnOnce(&mut Names) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.step(operation, names, |disk| {
            let mut changed = disk.names(self.directory).clone();
            act(&mut changed)?;
            disk.0[self.directory].push(changed);
            Ok(())
        })
    }
}

fn add(names: &mut Names, name: &str, node: Node) -> Result<(), Failure> {
    if names.contains_key(name) {
        return Err(Failure::Exists);
    }
    names.insert(name.into(), node);
    Ok(())
}

/// Replaces the random part of a name.
fn plain(name: &str) -> String {
    name.split('.').map(|part| if is_random(part) { "x" } else { part }).collect::<Vec<_>>().join(".")
}

impl Directory for Handle {
    fn path(&self) -> &str {
        &self.path
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        self.step("list", &[], |disk| Ok(disk.names(self.directory).keys().cloned().collect()))
    }

    fn exists(&self, name: &str) -> Result<bool, Failure> {
        self.step("look for", &[name], |disk| Ok(disk.names(self.directory).contains_key(name)))
    }

    fn read(&self, name: &str, _: u64) -> Result<Vec<u8>, Failure> {
        self.step("read", &[name], |disk| match disk.names(self.directory).get(name) {
            Some(Node::File(content)) => Ok(content.clone()),
            Some(Node::Directory(_)) => Err(Failure::Refused("a directory".into())),
            None => Err(Failure::Missing),
        })
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        self.change("create", &[name], |names| add(names, name, Node::File(content.into())))
    }

    fn link(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        self.change("link", &[name, new_name], |names| {
            let file = names.get(name).cloned().ok_or(Failure::Missing)?;
            add(names, new_name, file)
        })
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        self.change("remove", &[name], |names| names.remove(name).map(drop).ok_or(Failure::Missing))
    }

    fn sync(&self) -> Result<(), Failure> {
        self.step("sync", &[], |disk| {
            let states = &mut disk.0[self.directory];
            states.drain(..states.len() - 1);
            Ok(())
        })
    }

    fn create_directory(&self, name: &str) -> Result<(), Failure> {
        self.step("make", &[name], |disk| {
            let mut names = disk.names(self.directory).clone();
            add(&mut names, name, Node::Directory(disk.0.len()))?;
            disk.0[self.directory].push(names);
            disk.0.push(vec![Names::new()]);
            Ok(())
        })
    }

    fn directory(&self, name: &str) -> Result<Self, Failure> {
        // Not a step: it changes nothing, and its order does not matter.
        let directory = match self.disk.borrow().names(self.directory).get(name) {
            Some(Node::Directory(directory)) => *directory,
            Some(Node::File(_)) => return Err(Failure::Refused("not a directory".into())),
            None => return Err(Failure::Missing),
        };
        let (disk, steps) = (Rc::clone(&self.disk), Rc::clone(&self.steps));
        Ok(Self { disk, directory, path: name.into(), steps })
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        // Here never onto a directory: none becomes empty.
        self.change("rename", &[name, new_name], |names| {
            let directory = names.get(name).cloned().ok_or(Failure::Missing)?;
            add(names, new_name, directory)?;
            names.remove(name);
            Ok(())
        })
    }

    fn remove_directory(&self, name: &str) -> Result<(), Failure> {
        self.change("remove", &[name], |names| names.remove(name).map(drop).ok_or(Failure::Missing))
    }
}

fn random() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// A process: its store, its disk and its steps.
struct Process {
    store: FileStore<Handle, fn() -> u64>,
    disk: Rc<RefCell<Disk>>,
    steps: Rc<Steps>,
}

impl Process {
    /// Returns a process on a copy of this disk.
    fn on(disk: &Disk, fault: Option<(usize, Fault)>) -> Self {
        let disk = Rc::new(RefCell::new(disk.clone()));
        let steps = Rc::new(Steps { taken: RefCell::default(), fault, reached: Cell::new(false) });
        let root =
            Handle { disk: Rc::clone(&disk), directory: 0, path: ".".into(), steps: Rc::clone(&steps) };
        Self { store: FileStore::new(root, random), disk, steps }
    }

    /// Returns the loaded version, or 0 for none. The text of every document is its version.
    fn load(&mut self) -> Result<u64, StoreError> {
        let read = self.store.load()?;
        Ok(read.map_or(0, |entry| {
            assert_eq!(entry.document, entry.version);
            entry.version.parse().unwrap()
        }))
    }

    fn swap(&mut self, version: u64) -> Result<SwapOutcome, StoreError> {
        let expected = (version > 0).then(|| version.to_string());
        self.store.swap(expected.as_deref(), &(version + 1).to_string())
    }

    fn disk(&self) -> Disk {
        self.disk.borrow().clone()
    }

    fn taken(&self) -> Vec<String> {
        self.steps.taken.take()
    }
}

/// A disk with this many versions, published by processes without a fault.
fn filled(newest: u64) -> Disk {
    (0..newest).fold(Disk(vec![vec![Names::new()]]), |disk, version| {
        let mut process = Process::on(&disk, None);
        assert_eq!(process.load(), Ok(version));
        assert_eq!(process.swap(version), Ok(SwapOutcome::Swapped((version + 1).to_string())));
        process.disk()
    })
}

/// Asserts that every power cut leaves this version or a later one.
fn assert_lasts(disk: &Disk, version: u64, case: &str) {
    for cut in disk.cut() {
        let found = Process::on(&cut, None).load().unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(found >= version, "{case}: {version} was reported, {found} is left");
    }
}

/// Runs with each fault at each step, until a run ends before its step.
fn with_each_fault(mut run: impl FnMut((usize, Fault)) -> bool) {
    for fault in [Fault::Killed, Fault::Lost, Fault::ResultLost] {
        assert!((0..50).any(|step| !run((step, fault))), "the steps do not end");
    }
}

#[test]
fn reported_version_survives_kill_and_power_cut() {
    for newest in [0, 1, 2] {
        let before = filled(newest);
        with_each_fault(|fault| {
            let mut writer = Process::on(&before, Some(fault));
            let outcome = writer.swap(newest);
            let published = writer.disk();
            let case = format!("{newest}, {fault:?}: {outcome:?}");
            match outcome {
                Ok(SwapOutcome::Swapped(_)) => assert_lasts(&published, newest + 1, &case),
                Ok(SwapOutcome::Stale) => panic!("{case}"),
                Err(StoreError::Unavailable(_)) if fault.1 != Fault::Killed => {
                    assert_eq!(Process::on(&published, None).load(), Ok(newest), "{case}");
                }
                Err(_) => assert_lasts(&published, newest, &case),
            }
            with_each_fault(|fault| {
                let mut reader = Process::on(&published, Some(fault));
                let loaded = reader.load();
                let case = format!("{case}, then {fault:?}: {loaded:?}");
                let read = reader.disk();
                assert_lasts(&read, loaded.unwrap_or(newest), &case);

                let mut next = Process::on(&read, None);
                let loaded = next.load().unwrap();
                assert_lasts(&next.disk(), loaded, &case);
                assert_eq!(next.swap(loaded), Ok(SwapOutcome::Swapped((loaded + 1).to_string())), "{case}");
                assert_lasts(&next.disk(), loaded + 1, &case);
                assert_eq!(next.store.catalog().unwrap().unwrap().list().unwrap().len(), 1, "{case}");
                reader.steps.reached.get()
            });
            writer.steps.reached.get()
        });
    }
}

#[test]
fn operation_order_is_fixed() {
    let mut process = Process::on(&filled(0), None);
    process.swap(0).unwrap();
    let first = [
        "make . catalog.x.new",
        "create catalog.x.new 1.x.tmp",
        "link catalog.x.new 1.x.tmp 1.jsonl",
        "sync catalog.x.new",
        "rename . catalog.x.new catalog",
        "sync .",
        "remove catalog 1.x.tmp",
        "list .",
    ];
    assert_eq!(process.taken(), first);

    let read = ["list catalog", "list catalog", "look for catalog 2.jsonl", "read catalog 1.jsonl"];
    process.load().unwrap();
    assert_eq!(process.taken(), read);

    process.swap(1).unwrap();
    let later = [
        "create catalog 2.x.tmp",
        "look for catalog 2.jsonl",
        "look for catalog 1.jsonl",
        "link catalog 2.x.tmp 2.jsonl",
        "sync catalog",
        "list catalog",
        "remove catalog 2.x.tmp",
        "remove catalog 1.jsonl",
        "list .",
    ];
    assert_eq!(process.taken(), later);

    // The writer was killed before its last sync.
    for (newest, step, settled) in [
        (0, 5, &["sync catalog", "sync .", "remove catalog 1.x.tmp"][..]),
        (1, 4, &["sync catalog", "remove catalog 2.x.tmp"]),
    ] {
        let mut writer = Process::on(&filled(newest), Some((step, Fault::Killed)));
        writer.swap(newest).unwrap_err();
        let mut reader = Process::on(&writer.disk(), None);
        assert_eq!(reader.load(), Ok(newest + 1));
        let taken = reader.taken();
        assert_eq!(taken[4..], *settled, "{taken:?}");
        assert_eq!(reader.load(), Ok(newest + 1));
        assert_eq!(reader.taken().len(), read.len());
    }
}

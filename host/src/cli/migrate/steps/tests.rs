//! A move that is interrupted at every step, and stores that fail at every step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::*;
use crate::store::MemoryStore;

const ID: &str = "identifier";
const FROM: &str = "test://from";
const TO: &str = "test://to";
const CATALOG: &str = "{\"format\":3}\n";

/// What happens at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The process dies before the call.
    DiesBefore,
    /// The process dies after the call.
    DiesAfter,
    /// The call does nothing, and its error is certain.
    Unavailable,
    /// The call is carried out, and its answer is lost.
    AnswerLost,
    /// The call is not carried out, and nothing is known of it.
    NotDone,
}

/// Two stores, and the call at which a fault happens.
struct World {
    from: MemoryStore,
    to: MemoryStore,
    calls: AtomicUsize,
    fault: Option<(usize, Fault)>,
    /// A server changes the source before this call.
    change_before: Option<usize>,
}

impl World {
    fn new(fault: Option<(usize, Fault)>) -> Arc<Self> {
        let from = MemoryStore::default();
        from.swap(None, CATALOG).unwrap();
        let (to, calls) = (MemoryStore::default(), AtomicUsize::new(0));
        Arc::new(Self { from, to, calls, fault, change_before: None })
    }

    fn store(&self, address: &str) -> &MemoryStore {
        if address == FROM { &self.from } else { &self.to }
    }

    fn document(&self, address: &str) -> Option<String> {
        self.store(address).load().unwrap().map(|entry| entry.document)
    }

    /// The stores that a server can use. The target first: once it holds the catalog, the source
    /// holds none.
    fn live(&self) -> Vec<&'static str> {
        let is_live = |address: &&str| {
            self.document(address).is_some_and(|document| Relocation::read(&document).is_none())
        };
        [TO, FROM].into_iter().filter(is_live).collect()
    }

    /// Whether a copy of the catalog is in one of the stores.
    fn has_copy(&self) -> bool {
        [FROM, TO].iter().any(|address| self.document(address).is_some_and(|text| text.ends_with(CATALOG)))
    }

    fn run(self: &Arc<Self>, broken: bool) -> anyhow::Result<String> {
        let store = |address| Faulty { world: Arc::clone(self), address, broken };
        let (from, to) = (store(FROM), store(TO));
        relocate(Side { address: FROM, store: &from }, Side { address: TO, store: &to }, ID, 1)
    }

    #[track_caller]
    fn assert_moved(&self, case: &str) {
        assert_eq!(self.document(TO).as_deref(), Some(CATALOG), "{case}");
        let left = self.document(FROM).unwrap();
        let moved = Relocation::Moved { to: TO.to_owned(), catalog_id: ID.to_owned(), at: 1 };
        assert_eq!(Relocation::read(&left), Some(moved), "{case}");
    }
}

/// One of the stores of a run that meets the fault.
struct Faulty {
    world: Arc<World>,
    address: &'static str,
    broken: bool,
}

impl Faulty {
    fn call<T>(&self, call: impl FnOnce(&MemoryStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let world = &*self.world;
        let store = world.store(self.address);
        let number = world.calls.fetch_add(1, Ordering::SeqCst);
        if world.change_before == Some(number) {
            let entry = world.from.load().unwrap().unwrap();
            assert_eq!(entry.document, CATALOG, "a server changes catalogs alone");
            world.from.swap(Some(&entry.version), CATALOG).unwrap();
        }
        let error = |kind: fn(String) -> StoreError| Err(kind("a fault".to_owned()));
        let result = match world.fault {
            Some((at, fault)) if self.broken && number >= at => match fault {
                Fault::DiesAfter if number == at => {
                    let _ = call(store);
                    error(StoreError::Unavailable)
                }
                // A process that is dead makes no call.
                Fault::DiesBefore | Fault::DiesAfter => error(StoreError::Unavailable),
                _ if number > at => call(store),
                Fault::Unavailable => error(StoreError::Unavailable),
                Fault::AnswerLost => {
                    let _ = call(store);
                    error(StoreError::UnknownOutcome)
                }
                Fault::NotDone => error(StoreError::UnknownOutcome),
            },
            _ => call(store),
        };
        assert!(world.live().len() <= 1, "both stores are live after call {number}");
        assert!(world.has_copy(), "no catalog is left after call {number}");
        result
    }
}

impl Store for Faulty {
    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.call(Store::load)
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.call(|store| store.swap(expected, document))
    }
}

#[test]
fn move_that_fails_at_any_step_is_finished_by_the_next() {
    let calls = {
        let world = World::new(None);
        assert_eq!(world.run(false).unwrap(), CATALOG);
        world.assert_moved("without a fault");
        world.calls.load(Ordering::SeqCst)
    };
    assert!(calls >= 7, "{calls} calls");
    for fault in [Fault::DiesBefore, Fault::DiesAfter, Fault::Unavailable, Fault::AnswerLost, Fault::NotDone]
    {
        let mut errors = 0;
        for at in 0..calls {
            let case = format!("{fault:?} at call {at}");
            let world = World::new(Some((at, fault)));
            match world.run(true) {
                Ok(_) => world.assert_moved(&case),
                Err(error) => {
                    errors += 1;
                    assert!(format!("{error:#}").contains("run the same command again"), "{case}: {error:#}");
                }
            }
            assert_eq!(world.run(false).unwrap(), CATALOG, "{case}");
            world.assert_moved(&case);
            // Once more changes nothing.
            let newest = world.to.load().unwrap();
            assert_eq!(world.run(false).unwrap(), CATALOG, "{case}");
            assert_eq!(world.to.load().unwrap(), newest, "{case}");
        }
        assert!(errors > 0, "{fault:?} was never met");
    }
}

#[test]
fn change_of_a_server_meanwhile_is_copied_again() {
    // The last of these calls replaces the source.
    for call in 0..5 {
        let mut world = World::new(None);
        Arc::get_mut(&mut world).unwrap().change_before = Some(call);
        assert_eq!(world.run(false).unwrap(), CATALOG, "before call {call}");
        world.assert_moved(&format!("changed before call {call}"));
        // The catalog, the change, and the note.
        assert_eq!(world.from.load().unwrap().unwrap().version.as_str(), "3");
    }
}

/// The target of a run. Another run moves the catalog as soon as the target has been read.
struct OvertakenAfterLoad(Arc<World>, AtomicBool);

impl Store for OvertakenAfterLoad {
    fn load(&self) -> Result<Option<Entry>, StoreError> {
        let found = self.0.to.load();
        if !self.1.swap(true, Ordering::SeqCst) {
            self.0.run(false).unwrap();
        }
        found
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.0.to.swap(expected, document)
    }
}

#[test]
fn move_that_overtakes_another_is_found() {
    let world = World::new(None);
    let to = OvertakenAfterLoad(Arc::clone(&world), AtomicBool::new(false));
    let (from, to) = (Side { address: FROM, store: &world.from }, Side { address: TO, store: &to });
    assert_eq!(relocate(from, to, ID, 1).unwrap(), CATALOG);
    world.assert_moved("overtaken");
}

#[test]
fn racing_moves_end_in_one_catalog() {
    for _ in 0..50 {
        let world = World::new(None);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| world.run(false).unwrap());
            }
        });
        world.assert_moved("three at once");
    }
}

#[test]
fn unusable_states_are_refused_unchanged() {
    let moved = |to| relocation::moved(to, ID, 1).unwrap();
    let arriving = |from| relocation::arriving(from, CATALOG).unwrap();
    let catalog = CATALOG.to_owned();
    for (source, target, error) in [
        (None, None, "there is no token store at test://from"),
        (Some(catalog.clone()), Some(catalog.clone()), "test://to holds a catalog already"),
        (Some(catalog.clone()), Some(String::new()), "test://to holds a catalog already"),
        (
            Some(catalog.clone()),
            Some(arriving("test://other")),
            "the move from test://other to test://to is not finished",
        ),
        (Some(catalog), Some("optoken-moved 9\n".to_owned()), "cannot move to test://to"),
        (Some(moved("test://other")), None, "were moved to test://other before; move them from there"),
        (Some(arriving("test://other")), None, "the move from test://other to test://from is not finished"),
        (Some("optoken-arriving 9\n".to_owned()), None, "cannot move test://from"),
        (Some(moved(TO)), None, "which holds nothing; put a backup there with `restore`"),
        (Some(moved(TO)), Some(moved("test://other")), "and from there to test://other"),
        (Some(moved(TO)), Some(arriving("test://other")), "which cannot be used"),
    ] {
        let (from, to) = (MemoryStore::default(), MemoryStore::default());
        for (store, document) in [(&from, &source), (&to, &target)] {
            if let Some(document) = document {
                store.swap(None, document).unwrap();
            }
        }
        let (from_side, to_side) = (Side { address: FROM, store: &from }, Side { address: TO, store: &to });
        let text = format!("{:#}", relocate(from_side, to_side, ID, 1).unwrap_err());
        assert!(text.contains(error), "{error}: {text}");
        let documents = [&from, &to].map(|store| store.load().unwrap().map(|entry| entry.document));
        assert_eq!(documents, [source, target], "{error}");
    }
    let world = World::new(None);
    let same = Side { address: FROM, store: &world.from };
    assert!(relocate(same, same, ID, 1).unwrap_err().to_string().contains("are the same store"));
}

#[test]
fn tokens_can_come_back() {
    let world = World::new(None);
    world.run(false).unwrap();
    let (from, to) = (Side { address: FROM, store: &world.from }, Side { address: TO, store: &world.to });
    assert_eq!(relocate(to, from, ID, 2).unwrap(), CATALOG);
    assert_eq!(world.live(), [FROM]);
    assert!(relocate(to, from, ID, 3).is_ok(), "it is finished");
    assert!(world.run(false).is_ok(), "and once more");
    world.assert_moved("there again");
}

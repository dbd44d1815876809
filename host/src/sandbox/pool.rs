//! A compiled component with its read instances.
//!
//! Numbers of snapshots come from the [`Authority`](crate::authority::Authority), which keeps the
//! sandbox to itself.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use wasmtime::component::Component;

use crate::command::Command;
use crate::sandbox::bindings;
use crate::sandbox::built_in::{BUILT_IN_COMPONENT, built_in_component};
use crate::sandbox::contract_check;
use crate::sandbox::engine::{State, engine, link};
use crate::sandbox::epoch::start_ticker;
use crate::sandbox::error::{SandboxError, Trap};
use crate::sandbox::instances::{CommandInstance, Executed, ReadInstance};
use crate::sandbox::linker::{Snapshot, StoreEffects};
use crate::sandbox::snapshot::VersionedSnapshot;
use crate::store::Store;

/// The room of the instance pool beside the read instances: for command instances, and for read
/// instances that are being replaced.
const SPARE_INSTANCES: u32 = 16;

/// A compiled component with its resources, for one catalog. Compiling takes a hundred
/// milliseconds, and loading the machine code of the built-in component less than one.
pub(crate) struct Sandbox {
    pre: bindings::AuthorityPre<State>,
    /// The read instances: one for each processor and at least two, so that calls that run at once
    /// do not wait for each other.
    readers: Box<[Mutex<Option<ReadInstance>>]>,
}

impl Sandbox {
    /// Compiles a component and checks that it fits this host. Loads the built-in one, where the
    /// program has its machine code.
    pub(crate) fn new(component: &[u8]) -> Result<Self, SandboxError> {
        // A command takes one of them away, and requests must not wait until another has read the
        // catalog.
        let readers = thread::available_parallelism().map_or(1, usize::from).max(2);
        let engine = engine(u32::try_from(readers).unwrap_or(u32::MAX).saturating_add(SPARE_INSTANCES))?;
        let component = if component == BUILT_IN_COMPONENT {
            built_in_component(&engine).map_err(SandboxError::of_compilation)?
        } else {
            let component = Component::new(&engine, component).map_err(SandboxError::of_compilation)?;
            contract_check::check(&engine, &component)?;
            component
        };
        let pre = link(&engine, &component)?;
        let readers = (0..readers).map(|_| Mutex::new(None)).collect();
        start_ticker(&engine).map_err(|error| SandboxError::Engine(error.into()))?;
        Ok(Self { pre, readers })
    }

    /// Calls a read instance of the snapshot with number `at_least` or of a newer one. `current`
    /// returns the newest snapshot, where no instance has it yet.
    ///
    /// Never waits for the store. Where all read instances are busy, it waits for one of them.
    pub(crate) fn read<T>(
        &self,
        at_least: u64,
        current: impl FnOnce() -> VersionedSnapshot,
        call: impl FnOnce(&mut ReadInstance) -> Result<T, Trap>,
    ) -> Result<T, Trap> {
        let mut slot = self.lock_slot(at_least)?;
        if slot.as_ref().is_none_or(|reader| reader.number < at_least) {
            // Dropped first: the pool has one place for each read instance and a few to spare.
            *slot = None;
            *slot = Some(ReadInstance::open(&self.pre, current())?);
        }
        let reader = slot.as_mut().ok_or_else(no_reader)?;
        let result = call(reader);
        if result.is_err() {
            // An instance that trapped must not be called again.
            *slot = None;
        }
        result
    }

    /// Makes a read instance of this snapshot, which need not be the current one.
    pub(crate) fn open_reader(&self, snapshot: VersionedSnapshot) -> Result<ReadInstance, Trap> {
        ReadInstance::open(&self.pre, snapshot)
    }

    /// Makes a read instance of this state, which nothing else uses.
    pub(crate) fn open_examiner(&self, snapshot: Arc<Snapshot>) -> Result<ReadInstance, Trap> {
        self.open_reader(VersionedSnapshot { number: 0, snapshot, confirmed: Arc::default() })
    }

    /// Adds an instance of the current snapshot to the read instances, in place of none or of one
    /// of an earlier snapshot, if such a place is free.
    pub(crate) fn install(&self, reader: ReadInstance) {
        for slot in &self.readers {
            if let Ok(mut slot) = slot.try_lock()
                && slot.as_ref().is_none_or(|other| other.number < reader.number)
            {
                *slot = Some(reader);
                return;
            }
        }
    }

    /// Executes a command: in a read instance of this snapshot if one is free, else in a new
    /// instance.
    pub(crate) fn execute(
        &self,
        number: u64,
        store: Arc<dyn Store>,
        command: &Command<'_>,
        origin: &str,
    ) -> Executed {
        let instance = match self.take_reader(number) {
            Some(reader) => Ok(reader.into_command(store)),
            None => self.command_instance(store),
        };
        match instance {
            Ok(instance) => instance.execute(command, origin),
            Err(trap) => Executed { result: Err(trap), effects: StoreEffects::default(), instance: None },
        }
    }

    /// Removes a free read instance of this snapshot from its slot. The slots of a busy machine are
    /// filled from the first on, so the last one is missed least.
    fn take_reader(&self, number: u64) -> Option<ReadInstance> {
        self.readers.iter().rev().find_map(|slot| {
            let mut slot = slot.try_lock().ok()?;
            slot.take_if(|reader| reader.number == number)
        })
    }

    /// Makes an instance for one command.
    pub(crate) fn command_instance(&self, store: Arc<dyn Store>) -> Result<CommandInstance, Trap> {
        CommandInstance::open(&self.pre, store).map_err(Trap)
    }

    /// Locks a free read instance, best of the snapshot with number `at_least` or of a newer one;
    /// or waits for the first.
    fn lock_slot(&self, at_least: u64) -> Result<MutexGuard<'_, Option<ReadInstance>>, Trap> {
        let mut free = None;
        for slot in &self.readers {
            let slot = match slot.try_lock() {
                Ok(slot) => slot,
                Err(TryLockError::Poisoned(poisoned)) => {
                    slot.clear_poison();
                    reset_poisoned(poisoned)
                }
                Err(TryLockError::WouldBlock) => continue,
            };
            if slot.as_ref().is_some_and(|reader| reader.number >= at_least) {
                return Ok(slot);
            }
            free.get_or_insert(slot);
        }
        match (free, self.readers.first()) {
            (Some(slot), _) => Ok(slot),
            (None, Some(first)) => Ok(first.lock().unwrap_or_else(reset_poisoned)),
            (None, None) => Err(no_reader()),
        }
    }
}

fn no_reader() -> Trap {
    Trap(wasmtime::Error::msg("there is no reader"))
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("readers", &self.readers.len()).finish_non_exhaustive()
    }
}

/// The slot of a read instance whose call panicked: that instance must not be called again.
fn reset_poisoned(
    poisoned: PoisonError<MutexGuard<'_, Option<ReadInstance>>>,
) -> MutexGuard<'_, Option<ReadInstance>> {
    let mut slot = poisoned.into_inner();
    *slot = None;
    slot
}

#[cfg(test)]
mod tests {
    use crate::command::Outcome;
    use crate::sandbox::limits::MAX_COMMANDS;
    use crate::secret::Secret;
    use crate::store::{Entry, MemoryStore, StoreError, SwapOutcome, Version};

    use super::*;

    const ORIGIN: &str = "test";

    /// A store whose documents cannot be read, under their versions.
    struct Unreadable(Arc<MemoryStore>);

    impl Store for Unreadable {
        fn load(&self) -> Result<Option<Entry>, StoreError> {
            let entry = self.0.load()?;
            Ok(entry.map(|entry| Entry { document: "damaged".to_owned(), ..entry }))
        }

        fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
            self.0.swap(expected, document)
        }
    }

    struct Fixture {
        sandbox: Sandbox,
        store: Arc<MemoryStore>,
    }

    impl Fixture {
        fn new() -> Self {
            let sandbox = Sandbox::new(BUILT_IN_COMPONENT).unwrap();
            let fixture = Self { sandbox, store: Arc::default() };
            assert!(fixture.execute(0, &Command::CreateOperator).result.unwrap().is_ok());
            fixture
        }

        fn execute(&self, number: u64, command: &Command<'_>) -> Executed {
            self.sandbox.execute(number, Arc::<MemoryStore>::clone(&self.store), command, ORIGIN)
        }

        fn execute_unread(&self, number: u64, command: &Command<'_>) -> Executed {
            self.sandbox.execute(number, Arc::new(Unreadable(Arc::clone(&self.store))), command, ORIGIN)
        }

        /// The state of the store, as the snapshot with this number.
        fn snapshot(&self, number: u64) -> VersionedSnapshot {
            let snapshot = Arc::new(self.store.load().unwrap().into());
            VersionedSnapshot { number, snapshot, confirmed: Arc::default() }
        }
    }

    #[test]
    fn instance_of_a_command_reads_its_own_state_alone() {
        let fixture = Fixture::new();
        let Executed { result, instance, .. } = fixture.execute(0, &Command::Recover);
        let Ok(Ok(Outcome::Issued(issued))) = result else { panic!("nothing was issued") };
        let mut reader = instance.unwrap().into_reader(fixture.snapshot(1)).unwrap().unwrap();
        assert!(reader.authenticate(issued.secret.expose()).unwrap().is_ok());

        let executed = fixture.execute(0, &Command::Recover);
        let empty = VersionedSnapshot { snapshot: Arc::default(), ..fixture.snapshot(1) };
        assert!(executed.instance.unwrap().into_reader(empty).unwrap().is_none());
        let executed = fixture.execute(0, &Command::Recover);
        fixture.execute(0, &Command::Recover);
        assert!(executed.instance.unwrap().into_reader(fixture.snapshot(1)).unwrap().is_none());
    }

    #[test]
    fn failed_command_leaves_no_instance() {
        let fixture = Fixture::new();
        let credential = Secret::from("apiv3_unknown".to_owned());
        let executed = fixture.execute(0, &Command::Delete { credential: &credential, name: "ci" });
        assert!(executed.result.unwrap().is_err() && executed.instance.is_none());
        // A document that cannot be read.
        let executed = fixture.execute_unread(0, &Command::Recover);
        assert!(executed.result.unwrap().is_err() && executed.instance.is_none());
    }

    #[test]
    fn read_instance_commands_without_reading_again_until_its_last() {
        let fixture = Fixture::new();
        let mut number = 1;
        fixture.sandbox.install(fixture.sandbox.open_reader(fixture.snapshot(number)).unwrap());
        // It has loaded nothing, and reads the document of the store.
        let executed = fixture.execute_unread(number, &Command::Recover);
        assert!(executed.result.unwrap().is_err());
        let mut reader = fixture.sandbox.open_reader(fixture.snapshot(number)).unwrap();
        assert!(reader.state().unwrap().is_ok());
        fixture.sandbox.install(reader);
        for _ in 1..MAX_COMMANDS {
            let Executed { result, effects, instance } = fixture.execute_unread(number, &Command::Recover);
            assert!(result.unwrap().is_ok() && effects.wrote);
            number += 1;
            let reader = instance.unwrap().into_reader(fixture.snapshot(number)).unwrap();
            fixture.sandbox.install(reader.unwrap());
        }
        // What the last one has written is read by a new instance, which executes the next one.
        let Executed { result, instance, .. } = fixture.execute_unread(number, &Command::Recover);
        assert!(result.unwrap().is_ok() && instance.is_none());
        assert!(fixture.execute_unread(number, &Command::Recover).result.unwrap().is_err());
        assert!(fixture.execute(number, &Command::Recover).result.unwrap().is_ok());
        // An instance of another snapshot stays where it is.
        assert!(fixture.sandbox.take_reader(number - 1).is_none());
    }
}

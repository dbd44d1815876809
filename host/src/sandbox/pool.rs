//! A compiled component with its read instances.
//!
//! Numbers of snapshots come from the [`Authority`](crate::authority::Authority), which keeps the
//! sandbox to itself.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use wasmtime::component::Component;

use crate::command::{Command, Outcome};
use crate::sandbox::bindings;
use crate::sandbox::built_in::{BUILT_IN_COMPONENT, built_in_component};
use crate::sandbox::contract_check;
use crate::sandbox::engine::{State, engine, link};
use crate::sandbox::epoch::start_ticker;
use crate::sandbox::error::{SandboxError, Trap};
use crate::sandbox::instances::{CallResult, CommandInstance, ReadInstance};
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
    /// The read instances: one for each processor, so that as many calls as can run at once do not
    /// wait for each other.
    readers: Box<[Mutex<Option<ReadInstance>>]>,
}

impl Sandbox {
    /// Compiles a component and checks that it fits this host. Loads the built-in one, where the
    /// program has its machine code.
    pub(crate) fn new(component: &[u8]) -> Result<Self, SandboxError> {
        let readers = thread::available_parallelism().map_or(1, usize::from);
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
        let mut slot = self.lock_slot()?;
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

    /// Adds an instance of the current snapshot to the read instances, if one of them is free.
    pub(crate) fn install(&self, reader: ReadInstance) {
        for slot in &self.readers {
            if let Ok(mut slot) = slot.try_lock() {
                *slot = Some(reader);
                return;
            }
        }
    }

    /// Executes a command in an instance of its own.
    pub(crate) fn execute(
        &self,
        store: Arc<dyn Store>,
        command: &Command<'_>,
        origin: &str,
    ) -> (CallResult<Outcome>, StoreEffects) {
        match self.command_instance(store) {
            Ok(instance) => instance.execute(command, origin),
            Err(trap) => (Err(trap), StoreEffects::default()),
        }
    }

    /// Makes an instance for one command.
    pub(crate) fn command_instance(&self, store: Arc<dyn Store>) -> Result<CommandInstance, Trap> {
        CommandInstance::open(&self.pre, store).map_err(Trap)
    }

    /// Locks a free read instance, or waits for the first.
    fn lock_slot(&self) -> Result<MutexGuard<'_, Option<ReadInstance>>, Trap> {
        let free = self.readers.iter().find_map(|slot| match slot.try_lock() {
            Ok(slot) => Some(slot),
            Err(TryLockError::Poisoned(poisoned)) => {
                slot.clear_poison();
                Some(reset_poisoned(poisoned))
            }
            Err(TryLockError::WouldBlock) => None,
        });
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

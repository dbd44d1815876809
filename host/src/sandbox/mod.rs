//! Runs the component under wasmtime: engine, linker, limits and instances.
//!
//! The only module that knows wasmtime. A [`Sandbox`] has two doors. A *reader* instance may only load, and loads one
//! immutable [`Snapshot`]; readers are kept and reused until their snapshot is replaced. A *writer* instance has the
//! real store, is made for one command and goes with its memory. An instance that traps or exceeds a limit is dropped
//! and the next call gets a new one: the component keeps nothing between calls that the store does not have.
//!
//! A host with an engine of its own takes [`linker`] and [`bindings`] instead, and [`wasmtime`] from here, so that the
//! versions fit.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreLimits, UpdateDeadline,
};

use crate::store::{self, Store};
use crate::token::{
    AuthenticateError, CommandError, IssuedToken, OperatorStatus, Preset, Principal, StagedSecret, Timestamp,
    TokenInfo,
};

use self::bindings::exports::optoken::authority::types;
use self::linker::CatalogStoreCtx;

mod contract_check;
mod convert;
pub mod linker;

pub use wasmtime;

/// What wasmtime makes of the contract: the world as [`Authority`](bindings::Authority), its types, and the trait that the
/// host has to implement, which [`linker`] does.
///
/// Calls into the component are synchronous; what that excludes stands at [`linker`]. The types of
/// [`token`](crate::token) can be made from those here with `From`.
#[allow(missing_docs, missing_debug_implementations, clippy::all, clippy::pedantic)]
pub mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "authority",
        imports: { default: trappable },
    });
}

/// The contract that this host speaks. A component of another patch release of it is taken as well, if it asks for
/// nothing that is not in here and has all that is.
pub const CONTRACT: &str = "optoken:authority@0.1.0";

/// The component that is built in.
pub const BUILT_IN_COMPONENT: &[u8] = include_bytes!("../../../component/prebuilt/optoken.wasm");

/// The most memory an instance may have, in bytes. A command holds the catalog as text and as records, before and after
/// the change: some 2 KiB for a token, so this is room for ten thousand of them.
pub const MAX_MEMORY: usize = 32 << 20;

/// The most an instance may hand to the host in one call, in bytes: a catalog document and little else.
pub const MAX_HOSTCALL_DATA: usize = 16 << 20;

/// How often an instance may call its store for one command: waiting for that costs no processor time, so the budget of a
/// command does not end a loop of such calls. The component judges a command at most 32 times, each time on a catalog that
/// it has loaded and then tries to swap.
pub const MAX_STORE_CALLS: u32 = 64;

/// The most random bytes an instance may ask for at once. A token takes 64.
pub const MAX_RANDOM_BYTES: u64 = 4096;

/// How many core instances, memories and tables one instance may consist of. The built-in component is one
/// module with the two shims that `wasm-component-ld` puts around it; another build may have a few more.
pub const MAX_CORE_INSTANCES: u32 = 8;
/// See [`MAX_CORE_INSTANCES`].
pub const MAX_MEMORIES: u32 = 2;
/// See [`MAX_CORE_INSTANCES`].
pub const MAX_TABLES: u32 = 8;
/// The most elements a table may have. The built-in component has about a hundred functions in its table.
pub const MAX_TABLE_ELEMENTS: usize = 4096;

/// The processor time that one authentication may take. It takes about a microsecond, and longer only where it first
/// reads the catalog.
pub const AUTHENTICATE_BUDGET: Duration = Duration::from_millis(250);

/// The processor time that one command may take. It takes less than a millisecond while the catalog is small, and as
/// often as it loses a race. Waiting for the store does not count; that [`MAX_STORE_CALLS`] bounds.
pub const COMMAND_BUDGET: Duration = Duration::from_secs(2);

/// How often a running instance is looked at. A budget is overdrawn by one tick at most.
const TICK: Duration = Duration::from_millis(10);

/// How many instances the pool has room for beside the readers: writers, and readers that are being replaced.
const SPARE_INSTANCES: u32 = 16;

/// Checks that a component fits this host, for hosts that compile it for an engine of their own; [`Sandbox::new`] does it for
/// its own. The error is [`SandboxError::World`], which names both contracts and the first item that differs.
///
/// The first call in a process compiles the built-in component beside it, which says what fits.
pub fn check(engine: &Engine, component: &Component) -> Result<(), SandboxError> {
    contract_check::check(engine, component)
}

/// A compiled component with everything it needs to run, for one catalog: the piece between
/// [`Authority`](crate::authority::Authority), which numbers the snapshots of its catalog and keeps the sandbox to itself, and
/// [`linker`]. For hosts that publish snapshots and order commands in their own way.
///
/// Cheap to share, not to make: compiling takes tens of milliseconds.
pub struct Sandbox {
    pre: bindings::AuthorityPre<State>,
    readers: Readers,
}

/// The component cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine or the configuration does not let wasmtime run.
    #[error("cannot set up the sandbox: {0:#}")]
    Engine(wasmtime::Error),
    /// The bytes are not a component, or one that this wasmtime cannot compile.
    #[error("this is not a WebAssembly component: {0:#}")]
    NotAComponent(wasmtime::Error),
    /// A component of another contract, or of none.
    #[error(
        "the component does not fit: this host speaks {CONTRACT}, the component was built for {contract}.\n\
         The first difference: {difference}.\n{wanted}\n{found}"
    )]
    World {
        /// The contract that it was built for, as [`CONTRACT`] names it.
        contract: String,
        /// The first item that is not as it should be: which one, what was expected there, and what was found.
        difference: String,
        /// The interfaces that this host imports and exports.
        wanted: String,
        /// Those of the component.
        found: String,
    },
}

/// A call into the sandbox ended without an answer of the component.
#[derive(Debug, Error)]
#[error("the sandboxed component failed: {0:#}")]
pub struct Trap(wasmtime::Error);

/// One state of the catalog, as readers see it. `None` where nothing was ever stored.
pub type Snapshot = Option<store::Entry>;

/// A snapshot and its number: a later one has a higher number.
#[derive(Debug, Clone)]
pub struct Numbered {
    /// Counts the snapshots of one authority.
    pub number: u64,
    /// What readers see.
    pub snapshot: Arc<Snapshot>,
}

impl Sandbox {
    /// Compiles a component and checks that it fits this host.
    pub fn new(component: &[u8]) -> Result<Self, SandboxError> {
        let readers = thread::available_parallelism().map_or(1, usize::from);
        let engine = engine(u32::try_from(readers).unwrap_or(u32::MAX).saturating_add(SPARE_INSTANCES))?;
        let is_built_in = component == BUILT_IN_COMPONENT;
        let component = Component::new(&engine, component).map_err(SandboxError::NotAComponent)?;
        if !is_built_in {
            contract_check::check(&engine, &component)?;
        }
        let pre = link(&engine, &component)?;
        let readers = Readers { slots: (0..readers).map(|_| Mutex::new(None)).collect() };
        start_ticker(&engine).map_err(|error| SandboxError::Engine(error.into()))?;
        Ok(Self { pre, readers })
    }

    /// Asks a reader whose token this is, as of the snapshot with number `at_least` or a later one; `newest` gives
    /// the newest there is, where no reader has it yet. Takes about a microsecond and never waits for the store; where all
    /// readers are busy, it waits for one of them.
    pub fn authenticate(
        &self,
        at_least: u64,
        newest: impl FnOnce() -> Numbered,
        credential: &str,
    ) -> Result<Result<Principal, AuthenticateError>, Trap> {
        self.readers.with(&self.pre, at_least, newest, |reader| reader.authenticate(credential)).map_err(Trap)
    }

    /// Asks a reader for all tokens, as of the snapshot with number `at_least` or a later one.
    pub fn list(&self, at_least: u64, newest: impl FnOnce() -> Numbered) -> Answer<Vec<TokenInfo>> {
        self.readers.with(&self.pre, at_least, newest, Reader::list).map_err(Trap)
    }

    /// Asks a reader for the newest audit records, each as its line, as of the snapshot with number `at_least` or a later
    /// one.
    pub fn audit(&self, at_least: u64, newest: impl FnOnce() -> Numbered) -> Answer<Vec<String>> {
        self.readers.with(&self.pre, at_least, newest, Reader::audit).map_err(Trap)
    }

    /// Asks a reader for the operator token and what is under way with it, as of the snapshot with number `at_least` or a
    /// later one.
    pub fn status(&self, at_least: u64, newest: impl FnOnce() -> Numbered) -> Answer<Option<OperatorStatus>> {
        self.readers.with(&self.pre, at_least, newest, Reader::status).map_err(Trap)
    }

    /// Opens a writer on `store`.
    pub fn writer(&self, store: Arc<dyn Store>) -> Result<Writer, Trap> {
        Writer::open(&self.pre, store).map_err(Trap)
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("readers", &self.readers.slots.len()).finish_non_exhaustive()
    }
}

/// An instance for one command; for more, where nobody minds that the secrets of one stay in its memory for the next.
pub struct Writer {
    store: wasmtime::Store<State>,
    instance: bindings::Authority,
}

impl Writer {
    fn open(pre: &bindings::AuthorityPre<State>, store: Arc<dyn Store>) -> wasmtime::Result<Self> {
        let (store, instance) = instantiate(pre, CatalogStoreCtx::of_store(store), COMMAND_BUDGET)?;
        Ok(Self { store, instance })
    }

    /// `tokens.create-operator`.
    pub fn create_operator(&mut self, origin: &str) -> Answer<IssuedToken> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_create_operator(store, origin)
        })
    }

    /// `tokens.create-named`.
    pub fn create_named(
        &mut self,
        credential: &str,
        name: &str,
        lifetime: Option<u64>,
        origin: &str,
    ) -> Answer<IssuedToken> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_create_named(store, credential, name, lifetime, origin)
        })
    }

    /// `tokens.regenerate`.
    pub fn regenerate(&mut self, credential: &str, overlap: u64, origin: &str) -> Answer<IssuedToken> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_regenerate(store, credential, overlap, origin)
        })
    }

    /// `tokens.stage`.
    pub fn stage(
        &mut self,
        credential: &str,
        sha512: Option<&str>,
        ttl: Option<u64>,
        origin: &str,
    ) -> Answer<StagedSecret> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_stage(store, credential, sha512, ttl, origin)
        })
    }

    /// `tokens.confirm`.
    pub fn confirm(&mut self, credential: &str, overlap: u64, origin: &str) -> Answer<TokenInfo> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_confirm(store, credential, overlap, origin)
        })
    }

    /// `tokens.cancel`.
    pub fn cancel(&mut self, credential: &str, origin: &str) -> Answer<()> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_cancel(store, credential, origin)
        })
    }

    /// `tokens.end-overlap`.
    pub fn end_overlap(&mut self, credential: &str, origin: &str) -> Answer<()> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_end_overlap(store, credential, origin)
        })
    }

    /// `tokens.delete`.
    pub fn delete(&mut self, credential: &str, name: &str, origin: &str) -> Answer<TokenInfo> {
        self.command(|instance, store| {
            instance.optoken_authority_tokens().call_delete(store, credential, name, origin)
        })
    }

    /// `recovery.regenerate`.
    pub fn recover(&mut self, origin: &str) -> Answer<IssuedToken> {
        self.command(|instance, store| instance.optoken_authority_recovery().call_regenerate(store, origin))
    }

    /// `provision.initialize`.
    pub fn initialize(&mut self, origin: &str) -> Answer<String> {
        self.command(|instance, store| instance.optoken_authority_provision().call_initialize(store, origin))
    }

    /// `provision.preset-token`.
    pub fn preset_token(
        &mut self,
        name: &str,
        token: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Answer<Preset> {
        self.command(|instance, store| {
            instance.optoken_authority_provision().call_preset_token(store, name, token, expiry, origin)
        })
    }

    /// `provision.preset-hash`.
    pub fn preset_hash(
        &mut self,
        name: &str,
        sha512: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Answer<Preset> {
        self.command(|instance, store| {
            instance.optoken_authority_provision().call_preset_hash(store, name, sha512, expiry, origin)
        })
    }

    /// Drops the instance and tells what its command has seen and done.
    pub fn finish(self) -> Seen {
        self.store.into_data().catalog.into_seen()
    }

    /// Calls the instance, whose limits for a command begin anew.
    fn command<T, U: From<T>>(
        &mut self,
        call: impl FnOnce(
            &bindings::Authority,
            &mut wasmtime::Store<State>,
        ) -> wasmtime::Result<Result<T, types::CommandError>>,
    ) -> Answer<U> {
        start_budget(&mut self.store);
        self.store.data_mut().catalog.begin_command();
        Ok(call(&self.instance, &mut self.store).map_err(Trap)?.map(U::from).map_err(CommandError::from))
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// The component's answer to a command, in the host's words; a trap where it gave none.
pub type Answer<T> = Result<Result<T, CommandError>, Trap>;

/// What a command has seen of the store.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Seen {
    /// The newest state that it has read or written, if it got that far.
    pub snapshot: Option<Snapshot>,
    /// Whether it has changed the store, or may have.
    pub wrote: bool,
}

/// The readers: one for every processor, so that as many calls as can run at once do not wait for each other.
struct Readers {
    slots: Box<[Mutex<Option<Reader>>]>,
}

impl Readers {
    fn with<R>(
        &self,
        pre: &bindings::AuthorityPre<State>,
        at_least: u64,
        newest: impl FnOnce() -> Numbered,
        call: impl FnOnce(&mut Reader) -> wasmtime::Result<R>,
    ) -> wasmtime::Result<R> {
        let free = self.slots.iter().find_map(|slot| match slot.try_lock() {
            Ok(slot) => Some(slot),
            Err(TryLockError::Poisoned(poisoned)) => {
                slot.clear_poison();
                Some(abandoned(poisoned))
            }
            Err(TryLockError::WouldBlock) => None,
        });
        let mut slot = match (free, self.slots.first()) {
            (Some(slot), _) => slot,
            (None, Some(first)) => first.lock().unwrap_or_else(abandoned),
            (None, None) => wasmtime::bail!("there is no reader"),
        };
        if slot.as_ref().is_none_or(|reader| reader.number < at_least) {
            // First out, then in: the pool has one place for each reader and a few to spare.
            *slot = None;
            *slot = Some(Reader::open(pre, newest())?);
        }
        let Some(reader) = slot.as_mut() else { wasmtime::bail!("there is no reader") };
        let answer = call(reader);
        if answer.is_err() {
            // An instance that trapped must not be entered again.
            *slot = None;
        }
        answer
    }
}

/// The place of a reader whose call never came back: that instance must not be entered again.
fn abandoned(poisoned: PoisonError<MutexGuard<'_, Option<Reader>>>) -> MutexGuard<'_, Option<Reader>> {
    let mut slot = poisoned.into_inner();
    *slot = None;
    slot
}

/// An instance that checks tokens against one snapshot.
struct Reader {
    /// That of the snapshot.
    number: u64,
    store: wasmtime::Store<State>,
    instance: bindings::Authority,
}

impl Reader {
    fn open(
        pre: &bindings::AuthorityPre<State>,
        Numbered { number, snapshot }: Numbered,
    ) -> wasmtime::Result<Self> {
        let (store, instance) =
            instantiate(pre, CatalogStoreCtx::of_snapshot(snapshot), AUTHENTICATE_BUDGET)?;
        Ok(Self { number, store, instance })
    }

    fn list(&mut self) -> wasmtime::Result<Result<Vec<TokenInfo>, CommandError>> {
        start_budget(&mut self.store);
        let tokens = self.instance.optoken_authority_tokens().call_list(&mut self.store)?;
        Ok(tokens.map(|tokens| tokens.into_iter().map(Into::into).collect()).map_err(CommandError::from))
    }

    fn audit(&mut self) -> wasmtime::Result<Result<Vec<String>, CommandError>> {
        start_budget(&mut self.store);
        let records = self.instance.optoken_authority_tokens().call_audit(&mut self.store)?;
        Ok(records.map_err(CommandError::from))
    }

    fn status(&mut self) -> wasmtime::Result<Result<Option<OperatorStatus>, CommandError>> {
        start_budget(&mut self.store);
        let status = self.instance.optoken_authority_tokens().call_status(&mut self.store)?;
        Ok(status.map(|status| status.map(Into::into)).map_err(CommandError::from))
    }

    fn authenticate(&mut self, credential: &str) -> wasmtime::Result<Result<Principal, AuthenticateError>> {
        start_budget(&mut self.store);
        let authenticator = self.instance.optoken_authority_authenticator();
        let answer = authenticator.call_authenticate(&mut self.store, credential)?;
        Ok(answer.map(Principal::from).map_err(AuthenticateError::from))
    }
}

/// What an instance has on the host's side.
struct State {
    catalog: CatalogStoreCtx,
    limits: StoreLimits,
    /// The processor time of the thread when a tick first found the current call running.
    since: Option<Duration>,
}

/// An engine with room for `instances` at a time.
///
/// The pool makes starting an instance cheap and bounds all memory in advance. It reserves much address space, which
/// some machines do not grant (`ulimit -v`); those get instances one by one, with the limits of the store alone.
fn engine(instances: u32) -> Result<Engine, SandboxError> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(instances.saturating_mul(MAX_MEMORIES))
        .total_tables(instances.saturating_mul(MAX_TABLES))
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE_ELEMENTS);
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Every call is synchronous, and cheaper without what other calls would need.
        .concurrency_support(false)
        .epoch_interruption(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).or_else(|error| {
        tracing::warn!("no instance pool on this machine, continuing without: {error:#}");
        config
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            // Not the 4 GiB of address space for each memory that save a comparison, on a machine that is short of it.
            .memory_reservation(MAX_MEMORY as u64);
        Engine::new(&config).map_err(SandboxError::Engine)
    })
}

/// Advances the engine's epoch every [`TICK`] until the engine is gone.
fn start_ticker(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("optoken-epoch".into()).spawn(tick).map(drop)
}

fn link(engine: &Engine, component: &Component) -> Result<bindings::AuthorityPre<State>, SandboxError> {
    let mut linker = Linker::<State>::new(engine);
    linker::add_to_linker(&mut linker, |state| &mut state.catalog)
        .and_then(|()| linker::add_wasi_to_linker(&mut linker))
        .map_err(SandboxError::Engine)?;
    linker
        .instantiate_pre(component)
        .and_then(bindings::AuthorityPre::new)
        // What is not as it should be was found before; whatever wasmtime finds beyond that is said in its words.
        .map_err(|error| contract_check::misfit(engine, component, format!("{error:#}")))
}

fn instantiate(
    pre: &bindings::AuthorityPre<State>,
    catalog: CatalogStoreCtx,
    budget: Duration,
) -> wasmtime::Result<(wasmtime::Store<State>, bindings::Authority)> {
    let state = State { catalog, limits: linker::store_limits(), since: None };
    let mut store = wasmtime::Store::new(pre.engine(), state);
    store.limiter(|state| &mut state.limits);
    store.set_hostcall_fuel(MAX_HOSTCALL_DATA);
    // Processor time, not time on the clock: a busy machine or a slow store must not look like a loop. Asking for it
    // is a system call, so a call that ends before its first tick, as they all should, never does.
    store.epoch_deadline_callback(move |mut store| {
        let now: Duration = clock_gettime(ClockId::ThreadCPUTime).try_into()?;
        let since = *store.data_mut().since.get_or_insert(now);
        wasmtime::ensure!(
            now.saturating_sub(since) <= budget,
            "it used more than {budget:?} of processor time"
        );
        Ok(UpdateDeadline::Continue(1))
    });
    start_budget(&mut store);
    let instance = pre.instantiate(&mut store)?;
    Ok((store, instance))
}

/// A new call begins: its processor time counts from the next tick on.
fn start_budget(store: &mut wasmtime::Store<State>) {
    store.data_mut().since = None;
    store.set_epoch_deadline(1);
}

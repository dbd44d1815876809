//! Runs the component under wasmtime: engine, linkers, limits and instances.
//!
//! The only file that knows wasmtime. A [`Sandbox`] has two doors. A *reader* instance may only load, and loads one
//! immutable [`Snapshot`]; readers are kept and reused until their snapshot is replaced. A *writer* instance has the
//! real store, is made for one command and goes with its memory. An instance that traps or exceeds a limit is dropped
//! and the next call gets a new one: the component keeps nothing between calls that the store does not have.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, HasSelf, Linker, Lower};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreContextMut, StoreLimits,
    StoreLimitsBuilder, UpdateDeadline,
};

use crate::secret::Secret;
use crate::store::{self, Store, StoreError};
use crate::token::{
    AuthenticateError, CommandError, IssuedToken, OperatorStatus, Preset, Principal, Rotation, StagedSecret,
    Timestamp, TokenInfo,
};

use self::bindings::exports::optoken::authority::{authenticator, provision, tokens, types};
use self::bindings::optoken::authority::catalog_store;

#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "authority",
        imports: { default: trappable },
    });
}

/// The component that is built in.
pub const BUILT_IN_COMPONENT: &[u8] = include_bytes!("../../component/prebuilt/optoken.wasm");

/// The most memory an instance may have, in bytes. A command holds the catalog as text and as records, before and after
/// the change: some 2 KiB for a token, so this is room for ten thousand of them.
pub const MAX_MEMORY: usize = 32 << 20;

/// The most an instance may hand to the host in one call, in bytes: a catalog document and little else.
pub const MAX_HOSTCALL_DATA: usize = 16 << 20;

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
/// often as it loses a race. Waiting for the store does not count.
pub const COMMAND_BUDGET: Duration = Duration::from_secs(2);

/// How often a running instance is looked at. A budget is overdrawn by one tick at most.
const TICK: Duration = Duration::from_millis(10);

/// How many instances the pool has room for beside the readers: writers, and readers that are being replaced.
const SPARE_INSTANCES: u32 = 16;

/// The interfaces of the contract, as a component names them.
const STORE_INTERFACE: &str = "optoken:authority/catalog-store@0.1.0";
const EXPORTED_INTERFACES: [&str; 5] = [
    "optoken:authority/types@0.1.0",
    "optoken:authority/authenticator@0.1.0",
    "optoken:authority/tokens@0.1.0",
    "optoken:authority/recovery@0.1.0",
    "optoken:authority/provision@0.1.0",
];
/// WASI's patch releases are compatible, so any of them will do.
const WASI_INTERFACES: [&str; 2] = ["wasi:clocks/wall-clock@0.2.", "wasi:random/random@0.2."];

/// A compiled component with everything it needs to run. Cheap to share, not to make: compiling takes tens of
/// milliseconds.
pub struct Sandbox {
    engine: Engine,
    readers: Readers,
    writers: bindings::AuthorityPre<State<Writing>>,
}

/// The component cannot be used.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The machine or the configuration does not let wasmtime run.
    #[error("cannot set up the sandbox: {0:#}")]
    Engine(wasmtime::Error),
    /// The bytes are not a component, or one that this wasmtime cannot compile.
    #[error("this is not a WebAssembly component: {0:#}")]
    NotAComponent(wasmtime::Error),
    /// A component of another world.
    #[error("the component does not fit.\n{wanted}\n{found}{detail}")]
    World {
        /// What this host runs.
        wanted: String,
        /// What it was given.
        found: String,
        /// The first thing that differs, where the interfaces agree by name.
        detail: String,
    },
}

/// A call into the sandbox ended without an answer of the component.
#[derive(Debug, Error)]
#[error("the sandboxed component failed: {0:#}")]
pub struct Trap(wasmtime::Error);

/// One state of the catalog, as readers see it. `None` where nothing was ever stored.
pub type Snapshot = Option<store::Entry>;

/// A snapshot and its number: a later one has a higher number.
#[derive(Clone)]
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
        let component = Component::new(&engine, component).map_err(SandboxError::NotAComponent)?;
        check_world(&engine, &component)?;
        let slots = (0..readers).map(|_| Mutex::new(None)).collect();
        let readers = Readers { pre: link::<Reading>(&engine, &component)?, slots };
        let writers = link::<Writing>(&engine, &component)?;
        start_ticker(&engine).map_err(|error| SandboxError::Engine(error.into()))?;
        Ok(Self { engine, readers, writers })
    }

    /// Asks a reader whose token this is, as of the snapshot with number `at_least` or a later one; `newest` gives
    /// the newest there is, where no reader has it yet. Takes about a microsecond and never waits for the store.
    pub fn authenticate(
        &self,
        at_least: u64,
        newest: impl FnOnce() -> Numbered,
        credential: &str,
    ) -> Result<Result<Principal, AuthenticateError>, Trap> {
        self.readers
            .with(&self.engine, at_least, newest, |reader| reader.authenticate(credential))
            .map_err(Trap)
    }

    /// Asks a reader for all tokens, as of the snapshot with number `at_least` or a later one.
    pub fn list(&self, at_least: u64, newest: impl FnOnce() -> Numbered) -> Answer<Vec<TokenInfo>> {
        self.readers.with(&self.engine, at_least, newest, Reader::list).map_err(Trap)
    }

    /// Asks a reader for the newest audit records, each as its line, as of the snapshot with number `at_least` or a later
    /// one.
    pub fn audit(&self, at_least: u64, newest: impl FnOnce() -> Numbered) -> Answer<Vec<String>> {
        self.readers.with(&self.engine, at_least, newest, Reader::audit).map_err(Trap)
    }

    /// Asks a reader for the operator token and what is under way with it, as of the snapshot with number `at_least` or a
    /// later one.
    pub fn status(&self, at_least: u64, newest: impl FnOnce() -> Numbered) -> Answer<Option<OperatorStatus>> {
        self.readers.with(&self.engine, at_least, newest, Reader::status).map_err(Trap)
    }

    /// Opens a writer on `store`.
    pub fn writer(&self, store: Arc<dyn Store>) -> Result<Writer, Trap> {
        let state = State::new(Writing { store, seen: Seen::default() });
        Writer::open(&self.engine, &self.writers, state).map_err(Trap)
    }
}

/// An instance for one command.
pub struct Writer {
    store: wasmtime::Store<State<Writing>>,
    instance: bindings::Authority,
}

impl Writer {
    fn open(
        engine: &Engine,
        pre: &bindings::AuthorityPre<State<Writing>>,
        state: State<Writing>,
    ) -> wasmtime::Result<Self> {
        let (store, instance) = instantiate(engine, pre, state, COMMAND_BUDGET)?;
        Ok(Self { store, instance })
    }

    /// `tokens.create-operator`.
    pub fn create_operator(&mut self, origin: &str) -> Answer<IssuedToken> {
        answer(self.instance.optoken_authority_tokens().call_create_operator(&mut self.store, origin))
    }

    /// `tokens.create-named`.
    pub fn create_named(
        &mut self,
        credential: &str,
        name: &str,
        lifetime: Option<u64>,
        origin: &str,
    ) -> Answer<IssuedToken> {
        let tokens = self.instance.optoken_authority_tokens();
        answer(tokens.call_create_named(&mut self.store, credential, name, lifetime, origin))
    }

    /// `tokens.regenerate`.
    pub fn regenerate(&mut self, credential: &str, overlap: u64, origin: &str) -> Answer<IssuedToken> {
        let tokens = self.instance.optoken_authority_tokens();
        answer(tokens.call_regenerate(&mut self.store, credential, overlap, origin))
    }

    /// `tokens.stage`.
    pub fn stage(
        &mut self,
        credential: &str,
        sha512: Option<&str>,
        ttl: Option<u64>,
        origin: &str,
    ) -> Answer<StagedSecret> {
        let tokens = self.instance.optoken_authority_tokens();
        answer(tokens.call_stage(&mut self.store, credential, sha512, ttl, origin))
    }

    /// `tokens.confirm`.
    pub fn confirm(&mut self, credential: &str, overlap: u64, origin: &str) -> Answer<TokenInfo> {
        let tokens = self.instance.optoken_authority_tokens();
        answer(tokens.call_confirm(&mut self.store, credential, overlap, origin))
    }

    /// `tokens.cancel`.
    pub fn cancel(&mut self, credential: &str, origin: &str) -> Answer<()> {
        answer(self.instance.optoken_authority_tokens().call_cancel(&mut self.store, credential, origin))
    }

    /// `tokens.end-overlap`.
    pub fn end_overlap(&mut self, credential: &str, origin: &str) -> Answer<()> {
        answer(self.instance.optoken_authority_tokens().call_end_overlap(&mut self.store, credential, origin))
    }

    /// `tokens.delete`.
    pub fn delete(&mut self, credential: &str, name: &str, origin: &str) -> Answer<TokenInfo> {
        let tokens = self.instance.optoken_authority_tokens();
        answer(tokens.call_delete(&mut self.store, credential, name, origin))
    }

    /// `recovery.regenerate`.
    pub fn recover(&mut self, origin: &str) -> Answer<IssuedToken> {
        answer(self.instance.optoken_authority_recovery().call_regenerate(&mut self.store, origin))
    }

    /// `provision.initialize`.
    pub fn initialize(&mut self, origin: &str) -> Answer<String> {
        answer(self.instance.optoken_authority_provision().call_initialize(&mut self.store, origin))
    }

    /// `provision.preset-token`.
    pub fn preset_token(
        &mut self,
        name: &str,
        token: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Answer<Preset> {
        let provision = self.instance.optoken_authority_provision();
        answer(provision.call_preset_token(&mut self.store, name, token, expiry, origin))
    }

    /// `provision.preset-hash`.
    pub fn preset_hash(
        &mut self,
        name: &str,
        sha512: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Answer<Preset> {
        let provision = self.instance.optoken_authority_provision();
        answer(provision.call_preset_hash(&mut self.store, name, sha512, expiry, origin))
    }

    /// Drops the instance and tells what its command has seen and done.
    pub fn finish(self) -> Seen {
        self.store.into_data().catalog.seen
    }
}

/// The component's answer to a command, in the host's words; a trap where it gave none.
pub type Answer<T> = Result<Result<T, CommandError>, Trap>;

fn answer<T, U: From<T>>(answer: wasmtime::Result<Result<T, types::CommandError>>) -> Answer<U> {
    Ok(answer.map_err(Trap)?.map(U::from).map_err(CommandError::from))
}

/// What a command has seen of the store.
#[derive(Debug, Default)]
pub struct Seen {
    /// The newest state that it has read or written, if it got that far.
    pub snapshot: Option<Snapshot>,
    /// Whether it has changed the store, or may have.
    pub wrote: bool,
}

/// The readers: one for every processor, so that as many calls as can run at once do not wait for each other.
struct Readers {
    pre: bindings::AuthorityPre<State<Reading>>,
    slots: Box<[Mutex<Option<Reader>>]>,
}

impl Readers {
    fn with<R>(
        &self,
        engine: &Engine,
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
            *slot = Some(Reader::open(engine, &self.pre, newest())?);
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
    store: wasmtime::Store<State<Reading>>,
    instance: bindings::Authority,
}

impl Reader {
    fn open(
        engine: &Engine,
        pre: &bindings::AuthorityPre<State<Reading>>,
        Numbered { number, snapshot }: Numbered,
    ) -> wasmtime::Result<Self> {
        let state = State::new(Reading { snapshot });
        let (store, instance) = instantiate(engine, pre, state, AUTHENTICATE_BUDGET)?;
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

/// What an instance has on the host's side. `C` is what it may do with the catalog.
struct State<C> {
    catalog: C,
    limits: StoreLimits,
    /// The processor time of the thread when a tick first found the current call running.
    since: Option<Duration>,
}

impl<C> State<C> {
    fn new(catalog: C) -> Self {
        let limits = StoreLimitsBuilder::new()
            .memory_size(MAX_MEMORY)
            .memories(MAX_MEMORIES as usize)
            .instances(MAX_CORE_INSTANCES as usize)
            .tables(MAX_TABLES as usize)
            .table_elements(MAX_TABLE_ELEMENTS)
            .build();
        Self { catalog, limits, since: None }
    }
}

/// A catalog that can only be read, and stays as it is.
struct Reading {
    snapshot: Arc<Snapshot>,
}

impl catalog_store::Host for State<Reading> {
    fn load(&mut self) -> wasmtime::Result<Result<Option<catalog_store::Entry>, catalog_store::StoreError>> {
        Ok(Ok(self.catalog.snapshot.as_ref().clone().map(Into::into)))
    }

    fn swap(
        &mut self,
        _: Option<String>,
        _: String,
    ) -> wasmtime::Result<Result<catalog_store::SwapOutcome, catalog_store::StoreError>> {
        // `authenticator` promises not to; a component that does it all the same has lost its way.
        wasmtime::bail!("a reader tried to write")
    }
}

/// The catalog itself.
struct Writing {
    store: Arc<dyn Store>,
    seen: Seen,
}

impl catalog_store::Host for State<Writing> {
    fn load(&mut self) -> wasmtime::Result<Result<Option<catalog_store::Entry>, catalog_store::StoreError>> {
        Ok(match self.catalog.store.load() {
            Ok(entry) => {
                self.catalog.seen.snapshot = Some(entry.clone());
                Ok(entry.map(Into::into))
            }
            Err(error) => Err(error.into()),
        })
    }

    fn swap(
        &mut self,
        expected: Option<String>,
        document: String,
    ) -> wasmtime::Result<Result<catalog_store::SwapOutcome, catalog_store::StoreError>> {
        let expected = expected.map(store::Version::from);
        Ok(match self.catalog.store.swap(expected.as_ref(), &document) {
            Ok(store::SwapOutcome::Swapped(version)) => {
                let name = version.as_str().to_owned();
                let entry = store::Entry { version, document };
                self.catalog.seen = Seen { snapshot: Some(Some(entry)), wrote: true };
                Ok(catalog_store::SwapOutcome::Swapped(name))
            }
            Ok(store::SwapOutcome::Stale) => Ok(catalog_store::SwapOutcome::Stale),
            Err(error) => {
                self.catalog.seen.wrote |= matches!(error, StoreError::UnknownOutcome(_));
                Err(error.into())
            }
        })
    }
}

/// Links the two interfaces of WASI, in any version 0.2.x. Not from `wasmtime-wasi`, which writes the random numbers that it
/// gives into the log of whoever logs at `trace`: they become tokens.
fn link_wasi<T: 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut random = linker.instance("wasi:random/random@0.2.0")?;
    random.func_wrap("get-random-bytes", |_: StoreContextMut<'_, T>, (len,)| Ok((random_bytes(len)?,)))?;
    random.func_wrap("get-random-u64", |_: StoreContextMut<'_, T>, ()| Ok((getrandom::u64()?,)))?;
    let mut clock = linker.instance("wasi:clocks/wall-clock@0.2.0")?;
    clock.func_wrap("now", |_: StoreContextMut<'_, T>, ()| Ok((now()?,)))?;
    clock.func_wrap("resolution", |_: StoreContextMut<'_, T>, ()| {
        Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },))
    })
}

/// `wasi:clocks/wall-clock.datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

fn random_bytes(len: u64) -> wasmtime::Result<Vec<u8>> {
    wasmtime::ensure!(
        len <= MAX_RANDOM_BYTES,
        "{len} random bytes were asked for, at most {MAX_RANDOM_BYTES} are given"
    );
    // Straight from the operating system, as COMPAT 1.1 has it: these bytes become tokens.
    let mut bytes = vec![0; usize::try_from(len)?];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn now() -> wasmtime::Result<Datetime> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
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
        Engine::new(config.allocation_strategy(InstanceAllocationStrategy::OnDemand))
            .map_err(SandboxError::Engine)
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

fn link<C>(engine: &Engine, component: &Component) -> Result<bindings::AuthorityPre<State<C>>, SandboxError>
where
    C: 'static,
    State<C>: catalog_store::Host,
{
    let mut linker = Linker::<State<C>>::new(engine);
    catalog_store::add_to_linker::<_, HasSelf<State<C>>>(&mut linker, |state| state)
        .and_then(|()| link_wasi(&mut linker))
        .map_err(SandboxError::Engine)?;
    linker
        .instantiate_pre(component)
        .and_then(bindings::AuthorityPre::new)
        .map_err(|error| world_error(engine, component, format!("\nThe first difference: {error:#}")))
}

fn instantiate<C: 'static>(
    engine: &Engine,
    pre: &bindings::AuthorityPre<State<C>>,
    state: State<C>,
    budget: Duration,
) -> wasmtime::Result<(wasmtime::Store<State<C>>, bindings::Authority)> {
    let mut store = wasmtime::Store::new(engine, state);
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
fn start_budget<C>(store: &mut wasmtime::Store<State<C>>) {
    store.data_mut().since = None;
    store.set_epoch_deadline(1);
}

/// Compares a component's imports and exports with the contract, by name. Whether the functions inside them agree is
/// found out in linking.
fn check_world(engine: &Engine, component: &Component) -> Result<(), SandboxError> {
    let component_type = component.component_type();
    let known =
        |name: &str| name == STORE_INTERFACE || WASI_INTERFACES.iter().any(|wasi| name.starts_with(wasi));
    let imports_fit = component_type.imports(engine).all(|(name, _)| known(name));
    let exports_fit = EXPORTED_INTERFACES
        .iter()
        .all(|wanted| component_type.exports(engine).any(|(name, _)| name == *wanted));
    if imports_fit && exports_fit { Ok(()) } else { Err(world_error(engine, component, String::new())) }
}

fn world_error(engine: &Engine, component: &Component, detail: String) -> SandboxError {
    let component_type = component.component_type();
    let interface = |(name, item): (&str, _)| match item {
        ComponentItem::ComponentInstance(_) => name.to_owned(),
        _ => format!("{name} (not an interface)"),
    };
    let wasi = WASI_INTERFACES.map(|name| format!("{name}x"));
    let imports = wasi.iter().map(String::as_str).chain([STORE_INTERFACE]).map(str::to_owned);
    SandboxError::World {
        wanted: describe("This host runs", imports, EXPORTED_INTERFACES.map(str::to_owned)),
        found: describe(
            "The component has",
            component_type.imports(engine).map(|(name, item)| interface((name, item.ty))),
            component_type.exports(engine).map(|(name, item)| interface((name, item.ty))),
        ),
        detail,
    }
}

fn describe(
    whose: &str,
    imports: impl IntoIterator<Item = String>,
    exports: impl IntoIterator<Item = String>,
) -> String {
    let mut text = format!("{whose} a world with");
    for (verb, names) in
        [("imports", imports.into_iter().collect::<Vec<_>>()), ("exports", exports.into_iter().collect())]
    {
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let _ = write!(text, "\n  {verb}: {names}");
    }
    text
}

impl From<authenticator::Principal> for Principal {
    fn from(principal: authenticator::Principal) -> Self {
        use authenticator::TokenKind;
        Self {
            id: principal.id,
            operator: principal.kind != TokenKind::NamedAdmin,
            replaced: principal.kind == TokenKind::ReplacedOperator,
        }
    }
}

impl From<authenticator::AuthenticationError> for AuthenticateError {
    fn from(error: authenticator::AuthenticationError) -> Self {
        use authenticator::AuthenticationError as Theirs;
        match error {
            Theirs::UnknownToken => Self::Unknown,
            Theirs::Expired(at) => Self::Expired(at),
            Theirs::Unavailable => Self::Unavailable("the catalog cannot be read".to_owned()),
        }
    }
}

impl From<types::TokenInfo> for TokenInfo {
    fn from(info: types::TokenInfo) -> Self {
        let types::TokenInfo { id, name, sha512, created_at, updated_at, updated_by, expiry } = info;
        Self { id, name, sha512, created_at, updated_at, updated_by, expiry }
    }
}

impl From<types::IssuedToken> for IssuedToken {
    fn from(issued: types::IssuedToken) -> Self {
        Self { info: issued.info.into(), secret: issued.secret.into() }
    }
}

impl From<tokens::StagedSecret> for StagedSecret {
    fn from(staged: tokens::StagedSecret) -> Self {
        let tokens::StagedSecret { secret, sha512, expires_at } = staged;
        Self { secret: secret.map(Secret::from), sha512, expires_at }
    }
}

impl From<tokens::OperatorStatus> for OperatorStatus {
    fn from(status: tokens::OperatorStatus) -> Self {
        let rotation = match status.rotation {
            tokens::Rotation::Settled => Rotation::Settled,
            tokens::Rotation::Staged(until) => Rotation::Staged(until),
            tokens::Rotation::Overlapping(until) => Rotation::Overlapping(until),
        };
        Self { info: status.info.into(), rotation }
    }
}

impl From<provision::PresetOutcome> for Preset {
    fn from(outcome: provision::PresetOutcome) -> Self {
        match outcome {
            provision::PresetOutcome::Created(info) => Self::Created(info.into()),
            provision::PresetOutcome::Unchanged(info) => Self::Unchanged(info.into()),
            provision::PresetOutcome::Different(info) => Self::Different(info.into()),
        }
    }
}

impl From<types::CommandError> for CommandError {
    fn from(error: types::CommandError) -> Self {
        use types::CommandError as Theirs;
        match error {
            Theirs::Unauthenticated => Self::Unauthenticated,
            Theirs::Expired(at) => Self::Expired(at),
            Theirs::Forbidden => Self::Forbidden,
            Theirs::NotFound(name) => Self::NotFound(name),
            Theirs::AlreadyExists(name) => Self::AlreadyExists(name),
            Theirs::OperatorProtected => Self::OperatorProtected,
            Theirs::Full(limit) => Self::Full(limit),
            Theirs::Conflict(why) => Self::Conflict(why),
            Theirs::InvalidArgument(why) => Self::InvalidArgument(why),
            Theirs::Contended => {
                Self::Unavailable("too many others are changing the catalog at this moment".to_owned())
            }
            Theirs::Unavailable(why) => Self::Unavailable(why),
            Theirs::UnknownOutcome(why) => Self::UnknownOutcome(why),
            Theirs::UnreadableCatalog(why) | Theirs::NoEntropy(why) | Theirs::Other(why) => {
                Self::Internal(why)
            }
        }
    }
}

impl From<store::Entry> for catalog_store::Entry {
    fn from(entry: store::Entry) -> Self {
        Self { version: entry.version.as_str().to_owned(), document: entry.document }
    }
}

impl From<StoreError> for catalog_store::StoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            StoreError::UnknownOutcome(why) => Self::UnknownOutcome(why),
        }
    }
}

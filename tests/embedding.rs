//! The crate as a library, without the server: custom stores, observers, async commands, and the
//! parts for a host with its own engine. Also runs with `--no-default-features --features async`.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use optoken::async_authority::{AsyncAuthority, MAX_CONCURRENT_COMMANDS};
use optoken::authority::{self, Authority, BuildError};
use optoken::observer::Observer;
use optoken::sandbox::bindings::exports::optoken::authority::types::Caller;
use optoken::sandbox::bindings::{Authority as Instance, AuthorityPre};
use optoken::sandbox::linker::{CatalogStoreCtx, add_to_linker, add_wasi_to_linker, store_limits};
use optoken::sandbox::wasmtime::component::{Component, Linker};
use optoken::sandbox::wasmtime::{self, Engine, StoreLimits};
use optoken::sandbox::{self, BUILT_IN_COMPONENT};
#[cfg(feature = "async-store")]
use optoken::sandbox::{async_linker, bindings_async};
use optoken::secret::Secret;
use optoken::store::{self, Entry, MemoryStore, Store, StoreError, SwapOutcome, Version};
use optoken::token::{
    AuthenticateError, CommandError, ConfiguredToken, ImportOutcome, IssuedToken, Principal, TokenKind,
};

/// A store of an embedder. A gate can pause its next swap.
#[derive(Clone, Default)]
struct GatedStore {
    document: Arc<Mutex<Option<Entry>>>,
    /// The swap waits for it at its start and before its end.
    gate: Arc<Mutex<Option<Arc<Barrier>>>>,
}

impl Store for GatedStore {
    fn load(&self) -> Result<Option<Entry>, StoreError> {
        Ok(self.document.lock().unwrap().clone())
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.wait();
            gate.wait();
        }
        let mut current = self.document.lock().unwrap();
        if current.as_ref().map(|entry| &entry.version) != expected {
            return Ok(SwapOutcome::Stale);
        }
        let next = expected.map_or(0, |version| version.as_str().parse::<u64>().unwrap() + 1);
        let version = Version::from(next.to_string());
        *current = Some(Entry { version: version.clone(), document: document.to_owned() });
        Ok(SwapOutcome::Swapped(version))
    }
}

fn in_tokio<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn custom_store_keeps_tokens() {
    let store = GatedStore::default();
    let authority = Authority::builder(store.clone()).build().unwrap();
    let issued = authority.create_operator("test").unwrap();
    drop(authority);
    let again = Authority::builder(store).build().unwrap();
    assert_eq!(again.authenticate(issued.secret.expose()).unwrap().kind, TokenKind::Operator);
}

/// A store whose `version` panics a number of times.
#[derive(Clone, Default)]
struct PanickingStore {
    inner: Arc<MemoryStore>,
    panics: Arc<AtomicU64>,
}

impl Store for PanickingStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        let left = self.panics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(left.is_err(), "a store that panics on purpose");
        self.inner.version()
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.inner.load()
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.inner.swap(expected, document)
    }
}

/// Waits until a condition holds.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn poller_retries_after_store_panic() {
    let store = PanickingStore::default();
    let authority = Authority::builder(store.clone()).build().unwrap();
    let other = Authority::builder(store.clone()).build().unwrap();
    store.panics.store(3, Ordering::Relaxed);
    wait_until("the store was not called", || store.panics.load(Ordering::Relaxed) == 0);
    let issued = other.create_operator("test").unwrap();
    wait_until("the poller has stopped", || authority.authenticate(issued.secret.expose()).is_ok());
}

/// An observer that panics once, on an operation of the store.
#[derive(Default)]
struct PanickingObserver(AtomicBool);

impl Observer for PanickingObserver {
    fn store_operation_completed(&self, operation: &'static str, _: Duration, _: Result<(), &StoreError>) {
        let panics = operation == "version" && !self.0.swap(true, Ordering::Relaxed);
        assert!(!panics, "an observer that panics on purpose");
    }
}

#[test]
fn poller_survives_observer_panic() {
    let store = Arc::new(MemoryStore::default());
    let observer = Arc::new(PanickingObserver::default());
    let authority = Authority::builder_shared(store.clone()).observer(observer.clone()).build().unwrap();
    wait_until("the observer was not called", || observer.0.load(Ordering::Relaxed));
    let other = Authority::builder_shared(store).build().unwrap();
    let issued = other.create_operator("test").unwrap();
    wait_until("the poller has stopped", || authority.authenticate(issued.secret.expose()).is_ok());
}

#[test]
fn drop_releases_audit_log_and_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::default());
    for round in 0..12 {
        let builder = Authority::builder_shared(store.clone());
        let authority = builder.audit_log(directory.path().join("audit.jsonl")).build();
        let authority = authority.unwrap_or_else(|error| panic!("round {round}: {error}"));
        drop(authority.clone());
        drop(authority);
        assert_eq!(Arc::strong_count(&store), 1, "round {round}");
    }
}

/// A store that hangs until released.
#[derive(Default)]
struct HangingStore {
    inner: MemoryStore,
    hangs: Mutex<bool>,
    called: AtomicBool,
    released: Condvar,
}

impl Store for HangingStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        let hangs = self.hangs.lock().unwrap();
        self.called.store(*hangs, Ordering::Relaxed);
        drop(self.released.wait_while(hangs, |hangs| *hangs).unwrap());
        self.inner.version()
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.inner.load()
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.inner.swap(expected, document)
    }
}

#[test]
fn panic_in_async_build_is_an_error() {
    struct Broken;
    impl Store for Broken {
        fn load(&self) -> Result<Option<Entry>, StoreError> {
            panic!("a store that panics on purpose")
        }
        fn swap(&self, _: Option<&Version>, _: &str) -> Result<SwapOutcome, StoreError> {
            panic!("a store that panics on purpose")
        }
    }
    let error = in_tokio(Authority::builder(Broken).build_async()).err().unwrap();
    assert!(matches!(error, BuildError::Panicked), "{error}");
}

#[test]
fn drop_does_not_wait_for_hanging_store() {
    let store = Arc::new(HangingStore::default());
    let authority = Authority::builder_shared(store.clone()).build().unwrap();
    *store.hangs.lock().unwrap() = true;
    wait_until("the store was not called", || store.called.load(Ordering::Relaxed));
    drop(authority);
    assert!(*store.hangs.lock().unwrap());
    *store.hangs.lock().unwrap() = false;
    store.released.notify_all();
    wait_until("the store is still held", || Arc::strong_count(&store) == 1);
}

#[test]
fn every_command_can_be_awaited() {
    in_tokio(async {
        let authority: AsyncAuthority =
            Authority::builder(MemoryStore::default()).build_async().await.unwrap();
        assert!(authority.read(Authority::status).await.unwrap().is_none());
        let first = authority.run(|authority| authority.create_operator("test")).await.unwrap().secret;
        let presented = first.clone();
        let operator = authority.run(move |authority| authority.regenerate(&presented, 60, "test")).await;
        let presented = operator.unwrap().secret;
        let staged = authority.run(move |authority| {
            authority.end_overlap(&presented, "test")?;
            let staged = authority.stage(&presented, None, None, "test")?.secret.unwrap();
            authority.cancel(&presented, "test")?;
            assert_eq!(authority.confirm(&staged, 0, "test"), Err(CommandError::Unauthenticated));
            authority.stage(&presented, None, Some(60), "test")
        });
        let operator = staged.await.unwrap().secret.unwrap();
        let presented = operator.clone();
        let confirmed = authority.run(move |authority| authority.confirm(&presented, 0, "test")).await;
        assert_eq!(confirmed.unwrap().name, "_admin");
        let presented = operator.clone();
        let named =
            authority.run(move |authority| authority.create_named(&presented, "ci", None, Some(60), "test"));
        let imported =
            Secret::from(named.await.unwrap().secret.expose().replace("apiv3_", "apiv3_Elsewhere"));
        let token = imported.clone();
        let import =
            authority.run(move |authority| authority.import_token("elsewhere", &token, None, "test"));
        assert!(matches!(import.await.unwrap(), ImportOutcome::Created(_)));
        let hash = "0".repeat(128);
        let import = authority
            .run(move |authority| authority.import_hash(&ConfiguredToken::admin("hash", &hash), "test"));
        assert!(matches!(import.await.unwrap(), ImportOutcome::Created(_)));
        let presented = operator.clone();
        let deleted = authority.run(move |authority| authority.delete(&presented, "hash", "test")).await;
        assert_eq!(deleted.unwrap().name, "hash");
        let listed = authority.read(Authority::list_tokens).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|token| token.name).collect();
        assert_eq!(listed, ["_admin", "ci", "elsewhere"]);
        let recovered = authority.run(|authority| authority.recover("test")).await.unwrap();
        assert!(!authority.read(|authority| authority.audit(None)).await.unwrap().lines.is_empty());
        let accepted = |secret: &Secret| authority.authority().authenticate(secret.expose()).is_ok();
        assert!(accepted(&recovered.secret) && accepted(&imported));
        assert!(!accepted(&operator) && !accepted(&first));
    });
}

#[test]
fn dropped_future_does_not_cancel_running_command() {
    in_tokio(async {
        let store = GatedStore::default();
        let authority = Authority::builder(store.clone()).build_async().await.unwrap();
        let gate = Arc::new(Barrier::new(2));
        *store.gate.lock().unwrap() = Some(Arc::clone(&gate));
        {
            let mut begun = pin!(authority.run(|authority| authority.create_operator("dropped")));
            assert!(begun.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            gate.wait();
        }
        gate.wait();
        // This command waits for the one whose future was dropped.
        let second = authority.run(|authority| authority.create_operator("second")).await.unwrap_err();
        assert_eq!(second, CommandError::AlreadyExists("_admin".into()));
        let audit = authority.read(|authority| authority.audit(None)).await.unwrap();
        assert!(audit.lines.last().unwrap().contains("dropped"));
    });
}

#[test]
fn dropped_future_cancels_queued_command() {
    in_tokio(async {
        let store = GatedStore::default();
        let authority = Authority::builder(store.clone()).build_async().await.unwrap();
        let operator = authority.run(|authority| authority.create_operator("test")).await.unwrap().secret;
        let gate = Arc::new(Barrier::new(2));
        *store.gate.lock().unwrap() = Some(Arc::clone(&gate));
        let names: Vec<_> = (0..=MAX_CONCURRENT_COMMANDS).map(|number| format!("number {number}")).collect();
        let create = |name: String| {
            let operator = operator.clone();
            authority.run(move |authority| authority.create_named(&operator, &name, None, None, "test"))
        };
        let mut commands: Vec<_> = names.iter().map(|name| Box::pin(create(name.clone()))).collect();
        for command in &mut commands {
            assert!(command.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop(commands);
        gate.wait();
        gate.wait();
        // After all commands that have started.
        create("last".to_owned()).await.unwrap();
        let count = || authority.authority().list_tokens().unwrap().len();
        // The operator token, the commands with a permit, and the last one.
        while count() < MAX_CONCURRENT_COMMANDS + 2 {
            tokio::task::yield_now().await;
        }
        let listed = authority.read(Authority::list_tokens).await.unwrap();
        let names_after: Vec<_> = listed.into_iter().map(|token| token.name).collect();
        assert!(!names_after.contains(&names[MAX_CONCURRENT_COMMANDS]), "{names_after:?}");
    });
}

#[test]
fn reads_do_not_wait_for_commands() {
    in_tokio(async {
        let store = GatedStore::default();
        let authority = Authority::builder(store.clone()).build_async().await.unwrap();
        let operator = authority.run(|authority| authority.create_operator("test")).await.unwrap().secret;
        let gate = Arc::new(Barrier::new(2));
        *store.gate.lock().unwrap() = Some(Arc::clone(&gate));
        // Another handle of the same authority shares its permits.
        let other = authority.authority().clone().into_async();
        let begin = |name: usize| {
            let (authority, operator) = (other.clone(), operator.clone());
            let name = format!("number {name}");
            Box::pin(async move {
                authority
                    .run(move |authority| authority.create_named(&operator, &name, None, None, "test"))
                    .await
            })
        };
        let mut commands: Vec<_> = (0..MAX_CONCURRENT_COMMANDS).map(begin).collect();
        let poll = |command: &mut _| Future::poll(Pin::new(command), &mut Context::from_waker(Waker::noop()));
        assert!(commands.iter_mut().all(|command| poll(command).is_pending()));
        gate.wait();
        assert_eq!(authority.read(Authority::list_tokens).await.unwrap().len(), 1);
        assert!(authority.read(Authority::status).await.unwrap().is_some());
        assert!(!authority.read(|authority| authority.audit(None)).await.unwrap().lines.is_empty());
        let mut one_more = Box::pin(
            authority.run(move |authority| authority.create_named(&operator, "one more", None, None, "test")),
        );
        assert!(one_more.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(one_more);
        gate.wait();
        for command in commands {
            command.await.unwrap();
        }
        drop((authority, other));
        // A running command would still hold the store.
        wait_until("the store is released", || Arc::strong_count(&store.document) == 1);
        let document = store.document.lock().unwrap().take().unwrap().document;
        assert!(
            document.contains("number 0") && !document.contains("one more"),
            "more than the limit ran concurrently"
        );
    });
}

/// A store with an async client, which must not block in a task.
struct AsyncClientStore {
    inner: MemoryStore,
    runtime: tokio::runtime::Handle,
}

impl Store for AsyncClientStore {
    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.runtime.block_on(async {
            tokio::task::yield_now().await;
            self.inner.load()
        })
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.runtime.block_on(async {
            tokio::task::yield_now().await;
            self.inner.swap(expected, document)
        })
    }
}

#[test]
fn store_may_block_on_async_client() {
    in_tokio(async {
        let store =
            AsyncClientStore { inner: MemoryStore::default(), runtime: tokio::runtime::Handle::current() };
        let authority = Authority::builder(store).build_async().await.unwrap();
        let operator = authority.run(|authority| authority.create_operator("test")).await.unwrap().secret;
        assert!(authority.authority().authenticate(operator.expose()).is_ok());
        authority.read(Authority::list_tokens).await.unwrap();
        authority.run(|authority| authority.recover("test")).await.unwrap();
        assert!(authority.authority().authenticate(operator.expose()).is_err());
    });
}

#[test]
fn documented_limits_match_constants() {
    let pages = [include_str!("../host/src/lib.rs"), include_str!("../docs/embedding.md")];
    let seconds = |limit: Duration| format!("{} s |", limit.as_secs());
    let milliseconds = |limit: Duration| format!("{} ms ", limit.as_millis());
    for (name, value) in [
        ("AUTHENTICATE_BUDGET", milliseconds(sandbox::AUTHENTICATE_BUDGET)),
        ("COMMAND_BUDGET", seconds(sandbox::COMMAND_BUDGET)),
        ("MAX_STORE_CALLS", format!("{} |", sandbox::MAX_STORE_CALLS)),
        ("MAX_MEMORY", format!("{} MiB |", sandbox::MAX_MEMORY >> 20)),
        ("MAX_HOSTCALL_DATA", format!("{} MiB |", sandbox::MAX_HOSTCALL_DATA >> 20)),
        ("MAX_RANDOM_BYTES", format!("{} |", sandbox::MAX_RANDOM_BYTES)),
        (
            "MAX_TABLE_ELEMENTS",
            format!(
                "{}, {}, {}, {} |",
                sandbox::MAX_CORE_INSTANCES,
                sandbox::MAX_MEMORIES,
                sandbox::MAX_TABLES,
                sandbox::MAX_TABLE_ELEMENTS
            ),
        ),
        ("POLL_INTERVAL", milliseconds(store::POLL_INTERVAL)),
        ("DEFAULT_MAX_STALENESS", seconds(authority::DEFAULT_MAX_STALENESS)),
        ("async_authority::MAX_CONCURRENT_COMMANDS", format!("{MAX_CONCURRENT_COMMANDS} |")),
    ] {
        for page in pages {
            let documented = page
                .lines()
                .any(|line| line.contains(&format!("| {value}")) && line.contains(&format!("{name}`")));
            assert!(documented, "{name} is {value}");
        }
    }
}

#[test]
fn debug_output_is_bounded_and_has_no_secret() {
    let builder = Authority::builder(MemoryStore::default()).max_staleness(Duration::ZERO);
    let shown = format!("{builder:?}");
    assert!(shown.contains("max_staleness: 500ms"), "{shown}");
    assert_eq!(authority::MIN_MAX_STALENESS, 2 * store::POLL_INTERVAL);
    let authority = in_tokio(builder.build_async()).unwrap();
    let issued = authority.authority().create_operator("test").unwrap();
    let shown = format!("{authority:?} {issued:?}");
    assert!(shown.contains(authority.authority().catalog_id()), "{shown}");
    assert!(!shown.contains(issued.secret.expose()), "{shown}");
}

#[test]
fn async_build_accepts_borrowed_component() {
    let bytes = BUILT_IN_COMPONENT.to_vec();
    let building = Authority::builder(MemoryStore::default()).component(&bytes).build_async();
    assert!(in_tokio(building).is_ok());
}

/// Counts events.
#[derive(Default)]
struct CountingObserver {
    accepted: AtomicU64,
    rejected: AtomicU64,
    commands: Mutex<Vec<(&'static str, bool)>>,
    swaps: AtomicU64,
}

impl Observer for CountingObserver {
    fn authenticated(&self, response: &Result<Principal, AuthenticateError>) {
        let count = if response.is_ok() { &self.accepted } else { &self.rejected };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn command_completed(&self, command: &'static str, outcome: Result<(), &CommandError>) {
        self.commands.lock().unwrap().push((command, outcome.is_ok()));
    }

    fn store_operation_completed(
        &self,
        operation: &'static str,
        _: Duration,
        outcome: Result<(), &StoreError>,
    ) {
        if operation == "swap" && outcome.is_ok() {
            self.swaps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn observer_receives_all_events() {
    let counts = Arc::new(CountingObserver::default());
    let authority = Authority::builder(MemoryStore::default()).observer(counts.clone()).build().unwrap();
    let issued = authority.create_operator("test").unwrap();
    authority.create_operator("test").unwrap_err();
    authority.authenticate(issued.secret.expose()).unwrap();
    authority.authenticate("x").unwrap_err();
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    assert_eq!((of(&counts.accepted), of(&counts.rejected)), (1, 1));
    assert_eq!(*counts.commands.lock().unwrap(), [("create_operator", true), ("create_operator", false)]);
    // The id of the catalog, and the token.
    assert_eq!(of(&counts.swaps), 2);
}

/// State of an instance in a host with its own engine.
struct HostState {
    catalog: CatalogStoreCtx,
    limits: StoreLimits,
}

fn foreign_host() -> AuthorityPre<HostState> {
    let engine = Engine::default();
    let component = Component::new(&engine, BUILT_IN_COMPONENT).unwrap();
    let mut linker = Linker::<HostState>::new(&engine);
    add_to_linker(&mut linker, |state| &mut state.catalog).unwrap();
    add_wasi_to_linker(&mut linker).unwrap();
    AuthorityPre::new(linker.instantiate_pre(&component).unwrap()).unwrap()
}

#[test]
fn store_calls_are_limited_per_command() {
    let host = foreign_host();
    let (mut store, writer) = open(&host, CatalogStoreCtx::from_store(Arc::new(MemoryStore::default())));
    let tokens = writer.optoken_authority_tokens();
    let issued = tokens.call_create_operator(&mut store, "test").unwrap().unwrap();
    let caller = Caller { credential: &issued.secret, origin: "test" };
    // Each command loads once.
    for _ in 0..2 {
        store.data_mut().catalog.begin_command();
        for _ in 0..sandbox::MAX_STORE_CALLS {
            tokens.call_cancel(&mut store, caller.clone()).unwrap().unwrap();
        }
    }
    let trap = tokens.call_cancel(&mut store, caller.clone()).unwrap_err();
    assert!(format!("{trap:#}").contains("it called the store more than 64 times"), "{trap:#}");
}

fn open(host: &AuthorityPre<HostState>, catalog: CatalogStoreCtx) -> (wasmtime::Store<HostState>, Instance) {
    let mut store = wasmtime::Store::new(host.engine(), HostState { catalog, limits: store_limits() });
    store.limiter(|state| &mut state.limits);
    let instance = host.instantiate(&mut store).unwrap();
    (store, instance)
}

#[test]
fn foreign_engine_reads_snapshots_and_writes_store() {
    let host = foreign_host();
    let (mut store, writer) = open(&host, CatalogStoreCtx::from_store(Arc::new(GatedStore::default())));
    let issued = writer.optoken_authority_tokens().call_create_operator(&mut store, "test").unwrap();
    let issued = IssuedToken::from(issued.unwrap());
    let effects = store.into_data().catalog.into_effects();
    assert!(effects.wrote);

    let snapshot = Arc::new(effects.snapshot.unwrap());
    let (mut store, reader) = open(&host, CatalogStoreCtx::from_snapshot(snapshot));
    let authenticator = reader.optoken_authority_authenticator();
    let principal = authenticator.call_authenticate(&mut store, issued.secret.expose()).unwrap().unwrap();
    assert_eq!(Principal::from(principal).kind, TokenKind::Operator);
    let rejected = authenticator.call_authenticate(&mut store, "x").unwrap().unwrap_err();
    assert_eq!(AuthenticateError::from(rejected), AuthenticateError::Unknown);
    let caller = Caller { credential: issued.secret.expose(), origin: "test" };
    let trap = reader.optoken_authority_tokens().call_regenerate(&mut store, caller, None);
    assert!(format!("{:#}", trap.unwrap_err()).contains("a reader tried to write"));
    assert!(!store.data().catalog.effects().wrote);
}

#[test]
fn linking_twice_is_an_error() {
    let mut linker = Linker::<HostState>::new(&Engine::default());
    add_to_linker(&mut linker, |state| &mut state.catalog).unwrap();
    add_wasi_to_linker(&mut linker).unwrap();
    assert!(add_to_linker(&mut linker, |state| &mut state.catalog).is_err());
    assert!(add_wasi_to_linker(&mut linker).is_err());
}

/// Adds another implementation of the randomness, which returns zeros.
fn add_other_random(linker: &mut Linker<HostState>, version: &str) -> wasmtime::Result<()> {
    let mut random = linker.instance(&format!("wasi:random/random@{version}"))?;
    random.func_wrap("get-random-bytes", |_: wasmtime::StoreContextMut<'_, HostState>, (len,): (u64,)| {
        Ok((vec![0_u8; usize::try_from(len)?],))
    })
}

#[test]
fn linking_wasi_twice_is_an_error() {
    for version in ["0.2.0", "0.2.9", "0.2.12", "0.2.63"] {
        let mut linker = Linker::<HostState>::new(&Engine::default());
        add_other_random(&mut linker, version).unwrap();
        assert!(add_wasi_to_linker(&mut linker).is_err(), "{version}, before");
        let mut linker = Linker::<HostState>::new(&Engine::default());
        add_wasi_to_linker(&mut linker).unwrap();
        assert!(add_other_random(&mut linker, version).is_err(), "{version}, after");
    }
    // The linker does not know this version. The component gets the random numbers of this crate.
    let engine = Engine::default();
    let mut linker = Linker::<HostState>::new(&engine);
    add_other_random(&mut linker, "0.2.999").unwrap();
    add_to_linker(&mut linker, |state| &mut state.catalog).unwrap();
    add_wasi_to_linker(&mut linker).unwrap();
    let component = Component::new(&engine, BUILT_IN_COMPONENT).unwrap();
    let host = AuthorityPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
    let (mut store, writer) = open(&host, CatalogStoreCtx::from_store(Arc::new(MemoryStore::default())));
    let issued = writer.optoken_authority_tokens().call_create_operator(&mut store, "test").unwrap().unwrap();
    assert!(!issued.secret.contains("AAAAAAAA"), "the other implementation made the secret");
}

#[test]
fn check_reports_mismatch_to_foreign_engine() {
    let engine = Engine::default();
    let built_in = Component::new(&engine, BUILT_IN_COMPONENT).unwrap();
    sandbox::check(&engine, &built_in).unwrap();
    let empty = Component::new(&engine, b"\0asm\x0d\0\x01\0").unwrap();
    let error = sandbox::check(&engine, &empty).unwrap_err().to_string();
    let both =
        "this host speaks optoken:authority@0.2.0, the component was built for no optoken:authority at all";
    assert!(error.contains(both), "{error}");
}

/// An asynchronous store that suspends each call once, and can lose the outcome of every swap.
#[cfg(feature = "async-store")]
struct SuspendingStore {
    store: MemoryStore,
    suspended: AtomicU64,
    loses_outcomes: bool,
}

#[cfg(feature = "async-store")]
impl SuspendingStore {
    async fn suspend(&self) {
        self.suspended.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

#[cfg(feature = "async-store")]
impl async_linker::AsyncStore for SuspendingStore {
    fn load(&self) -> async_linker::StoreFuture<'_, Option<Entry>> {
        Box::pin(async {
            self.suspend().await;
            self.store.load()
        })
    }

    fn swap<'a>(
        &'a self,
        expected: Option<&'a Version>,
        document: &'a str,
    ) -> async_linker::StoreFuture<'a, SwapOutcome> {
        Box::pin(async move {
            self.suspend().await;
            let outcome = self.store.swap(expected, document)?;
            if self.loses_outcomes { Err(StoreError::UnknownOutcome("lost".into())) } else { Ok(outcome) }
        })
    }
}

#[cfg(feature = "async-store")]
fn async_host() -> bindings_async::AuthorityPre<async_linker::AsyncCatalogStoreCtx> {
    let engine = Engine::default();
    let component = Component::new(&engine, BUILT_IN_COMPONENT).unwrap();
    let mut linker = Linker::new(&engine);
    async_linker::add_to_linker_async(&mut linker, |context| context).unwrap();
    add_wasi_to_linker(&mut linker).unwrap();
    assert!(async_linker::add_to_linker_async(&mut linker, |context| context).is_err());
    bindings_async::AuthorityPre::new(linker.instantiate_pre(&component).unwrap()).unwrap()
}

#[cfg(feature = "async-store")]
#[test]
fn async_store_suspends_instance_and_reports_effects() {
    let host = async_host();
    for (loses_outcomes, calls) in [(false, 2), (true, 3)] {
        let catalog =
            Arc::new(SuspendingStore { store: MemoryStore::default(), suspended: 0.into(), loses_outcomes });
        let context = async_linker::AsyncCatalogStoreCtx::from_store(catalog.clone());
        let mut store = wasmtime::Store::new(host.engine(), context);
        let secret = in_tokio(async {
            let instance = host.instantiate_async(&mut store).await.unwrap();
            let tokens = instance.optoken_authority_tokens();
            // After a lost outcome, the component finds its change in the store.
            let issued = tokens.call_create_operator(&mut store, "test").await.unwrap().unwrap();
            assert_eq!(catalog.suspended.load(Ordering::Relaxed), calls);
            let authenticator = instance.optoken_authority_authenticator();
            authenticator.call_authenticate(&mut store, &issued.secret).await.unwrap().unwrap();
            issued.secret
        });
        let effects = store.into_data().into_effects();
        assert!(effects.wrote);
        let entry = catalog.store.load().unwrap().unwrap();
        assert_eq!(effects.snapshot.unwrap().entry(), Some(&entry));
        assert!(!entry.document.contains(&secret));
    }
}

#[cfg(feature = "async-store")]
#[test]
fn async_store_call_limit_traps() {
    let host = async_host();
    let catalog =
        SuspendingStore { store: MemoryStore::default(), suspended: 0.into(), loses_outcomes: false };
    let context = async_linker::AsyncCatalogStoreCtx::from_store(Arc::new(catalog));
    let mut store = wasmtime::Store::new(host.engine(), context);
    in_tokio(async {
        let instance = host.instantiate_async(&mut store).await.unwrap();
        let tokens = instance.optoken_authority_tokens();
        for _ in 0..sandbox::MAX_STORE_CALLS / 2 {
            store.data_mut().begin_command();
            drop(tokens.call_create_operator(&mut store, "test").await.unwrap());
        }
        // Each loads the catalog and rejects the command.
        store.data_mut().begin_command();
        for _ in 0..sandbox::MAX_STORE_CALLS {
            tokens.call_create_operator(&mut store, "test").await.unwrap().unwrap_err();
        }
        let trap = tokens.call_create_operator(&mut store, "test").await.unwrap_err();
        assert!(format!("{trap:#}").contains("it called the store more than 64 times"), "{trap:#}");
    });
}

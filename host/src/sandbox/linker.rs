//! The imports of the contract, for a host that has an engine and a linker of its own.
//!
//! [`add_to_linker`] adds the catalog store. [`add_wasi_to_linker`] adds the two WASI interfaces,
//! for hosts that do not use `wasmtime-wasi`. [`store_limits`] bounds the memory of an instance.
//! [`Authority`](crate::authority::Authority) uses the same functions.
//!
//! A host that uses these instead of [`Authority`](crate::authority::Authority) has further duties:
//!
//! - It bounds the time of a call.
//! - It drops an instance that has trapped.
//! - It drops every instance that only reads when the catalog has changed, here or in another
//!   process.
//! - It refuses all tokens when its store has not answered for too long.
//!
//! All functions here are synchronous. A wasmtime store that must be entered asynchronously refuses
//! them. That is a store whose linker has a function added with an `…_async` method, such as those
//! of `wasmtime_wasi::p2::add_to_linker_async`, or one that yields at an epoch or out of fuel. A
//! host with such stores gives this component a linker and stores of its own. It calls the
//! component on a thread that may block, as `AsyncAuthority` does.
//!
//! ```
//! use std::sync::Arc;
//!
//! use optoken::sandbox::bindings::AuthorityPre;
//! use optoken::sandbox::linker::{CatalogStoreCtx, add_to_linker, add_wasi_to_linker, store_limits};
//! use optoken::sandbox::wasmtime::component::{Component, Linker};
//! use optoken::sandbox::wasmtime::{Engine, Result, Store, StoreLimits};
//! use optoken::sandbox::{BUILT_IN_COMPONENT, MAX_HOSTCALL_DATA, check};
//! use optoken::store::MemoryStore;
//! use optoken::token::{IssuedToken, Principal, TokenKind};
//!
//! /// The state of this host for an instance.
//! struct Tenant {
//!     name: &'static str,
//!     catalog: CatalogStoreCtx,
//!     limits: StoreLimits,
//! }
//!
//! fn main() -> Result<()> {
//!     // Once: compiling takes a hundred milliseconds.
//!     let engine = Engine::default();
//!     let component = Component::new(&engine, BUILT_IN_COMPONENT)?;
//!     // Reports both versions and the first difference of a component that does not fit.
//!     check(&engine, &component)?;
//!     let mut linker = Linker::<Tenant>::new(&engine);
//!     add_to_linker(&mut linker, |tenant| &mut tenant.catalog)?;
//!     // Not where `wasmtime_wasi::p2::add_to_linker_sync` is called as well.
//!     add_wasi_to_linker(&mut linker)?;
//!     let authority = AuthorityPre::new(linker.instantiate_pre(&component)?)?;
//!
//!     // One instance for each command, and one for each state of the catalog.
//!     let tenant = Tenant {
//!         name: "blue",
//!         catalog: CatalogStoreCtx::from_store(Arc::new(MemoryStore::default())),
//!         limits: store_limits(),
//!     };
//!     let mut store = Store::new(&engine, tenant);
//!     store.limiter(|tenant| &mut tenant.limits);
//!     store.set_hostcall_fuel(MAX_HOSTCALL_DATA);
//!     let instance = authority.instantiate(&mut store)?;
//!
//!     let tokens = instance.optoken_authority_tokens();
//!     let issued = tokens.call_create_operator(&mut store, "example")?.expect("there was none");
//!     let issued = IssuedToken::from(issued);
//!
//!     let authenticator = instance.optoken_authority_authenticator();
//!     let principal = authenticator.call_authenticate(&mut store, issued.secret.expose())?;
//!     assert_eq!(Principal::from(principal.expect("it is accepted")).kind, TokenKind::Operator);
//!     assert!(authenticator.call_authenticate(&mut store, "something else")?.is_err());
//!
//!     let Tenant { name, catalog, .. } = store.into_data();
//!     assert!(name == "blue" && catalog.effects().wrote);
//!     Ok(())
//! }
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use wasmtime::component::{ComponentType, HasSelf, Linker, Lower};
use wasmtime::{Result, StoreContextMut, StoreLimits, StoreLimitsBuilder};

use crate::sandbox::bindings::optoken::authority::catalog_store;
use crate::sandbox::limits::{
    MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_MEMORY, MAX_RANDOM_BYTES, MAX_STORE_CALLS, MAX_TABLE_ELEMENTS,
    MAX_TABLES,
};
use crate::store::{self, Store, StoreError};

/// One state of the catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Snapshot {
    /// The store holds no document.
    #[default]
    Empty,
    /// The store holds this document.
    Stored(store::Entry),
}

impl Snapshot {
    /// The version of the document, if there is one.
    pub fn version(&self) -> Option<&store::Version> {
        self.entry().map(|entry| &entry.version)
    }

    /// The document with its version, if there is one.
    pub fn entry(&self) -> Option<&store::Entry> {
        match self {
            Self::Empty => None,
            Self::Stored(entry) => Some(entry),
        }
    }
}

impl From<Option<store::Entry>> for Snapshot {
    fn from(entry: Option<store::Entry>) -> Self {
        entry.map_or(Self::Empty, Self::Stored)
    }
}

/// What an instance has read from the store and written to it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct StoreEffects {
    /// The newest state that the instance has read or written; `None` if it did neither.
    pub snapshot: Option<Snapshot>,
    /// Whether the instance has changed the store, or may have.
    pub wrote: bool,
}

/// The catalog of one instance.
///
/// An instance that calls its store more than [`MAX_STORE_CALLS`] times for one command traps.
pub struct CatalogStoreCtx {
    source: CatalogSource,
    effects: StoreEffects,
    /// The store calls of the current command.
    calls: u32,
}

impl fmt::Debug for CatalogStoreCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effects, calls, .. } = self;
        f.debug_struct("CatalogStoreCtx")
            .field("effects", effects)
            .field("calls", calls)
            .finish_non_exhaustive()
    }
}

enum CatalogSource {
    Snapshot(Arc<Snapshot>),
    Store(Arc<dyn Store>),
}

impl CatalogStoreCtx {
    /// An immutable catalog, for an instance that checks tokens without waiting for a store. An
    /// instance that writes to it traps.
    pub fn from_snapshot(snapshot: Arc<Snapshot>) -> Self {
        Self::new(CatalogSource::Snapshot(snapshot))
    }

    /// The catalog in a store, for an instance that executes commands. Calls into the instance
    /// block for as long as the store does.
    pub fn from_store(store: Arc<dyn Store>) -> Self {
        Self::new(CatalogSource::Store(store))
    }

    fn new(source: CatalogSource) -> Self {
        Self { source, effects: StoreEffects::default(), calls: 0 }
    }

    /// Starts another command on the same instance: its store calls count from zero. A host that
    /// makes an instance for each command does not need it.
    pub fn begin_command(&mut self) {
        self.calls = 0;
    }

    /// Has this immutable catalog from now on. Returns the effects until now.
    pub(crate) fn begin_reading(&mut self, snapshot: Arc<Snapshot>) -> StoreEffects {
        std::mem::replace(self, Self::from_snapshot(snapshot)).effects
    }

    /// Has the catalog in this store from now on.
    pub(crate) fn begin_commanding(&mut self, store: Arc<dyn Store>) {
        *self = Self::from_store(store);
    }

    /// The effects of the instance on the store.
    pub fn effects(&self) -> &StoreEffects {
        &self.effects
    }

    /// The effects of an instance that was dropped.
    pub fn into_effects(self) -> StoreEffects {
        self.effects
    }
}

/// Adds `optoken:authority/catalog-store` to a linker; `get` returns its context from the data of a
/// wasmtime store.
///
/// Fails if the linker has that interface.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut CatalogStoreCtx,
) -> Result<()> {
    catalog_store::add_to_linker::<T, HasSelf<CatalogStoreCtx>>(linker, get)
}

/// Adds `wasi:random/random` and `wasi:clocks/wall-clock` to a linker, the only WASI interfaces
/// that the component imports, in every version 0.2.x.
///
/// Random bytes come from the operating system, at most [`MAX_RANDOM_BYTES`] in one call.
/// `wasmtime-wasi` uses the operating system as well, but logs every random number at level
/// `trace`, and these numbers become tokens. A host that uses it keeps that level off. wasmtime
/// frees the data of a call without wiping it; a program that requires wiping has a global
/// allocator that wipes, as the server has.
///
/// Fails if the linker has one of these interfaces in any version 0.2.x, and prevents that one is
/// added later. Of two implementations, the versions would decide which one makes the tokens. After
/// an error the linker has some of the functions and is unusable.
pub fn add_wasi_to_linker<T: 'static>(linker: &mut Linker<T>) -> Result<()> {
    // A linker resolves the exact version that a component imports, otherwise the highest. So this
    // occupies each version that another implementation may have.
    for patch in 0..WASI_PATCH_RELEASES {
        let mut random = linker.instance(&format!("wasi:random/random@0.2.{patch}"))?;
        random
            .func_wrap("get-random-bytes", |_: StoreContextMut<'_, T>, (len,)| Ok((random_bytes(len)?,)))?;
        random.func_wrap("get-random-u64", |_: StoreContextMut<'_, T>, ()| Ok((getrandom::u64()?,)))?;
        let mut clock = linker.instance(&format!("wasi:clocks/wall-clock@0.2.{patch}"))?;
        clock.func_wrap("now", |_: StoreContextMut<'_, T>, ()| Ok((now()?,)))?;
        clock.func_wrap("resolution", |_: StoreContextMut<'_, T>, ()| {
            Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },))
        })?;
    }
    Ok(())
}

/// More than exist: the newest patch release of WASI 0.2 is the twelfth, and work continues in 0.3.
const WASI_PATCH_RELEASES: u64 = 64;

/// The limits of one instance: [`MAX_MEMORY`], [`MAX_MEMORIES`], [`MAX_CORE_INSTANCES`],
/// [`MAX_TABLES`] and [`MAX_TABLE_ELEMENTS`]; for [`wasmtime::Store::limiter`].
pub fn store_limits() -> StoreLimits {
    StoreLimitsBuilder::new()
        .memory_size(MAX_MEMORY)
        .memories(MAX_MEMORIES as usize)
        .instances(MAX_CORE_INSTANCES as usize)
        .tables(MAX_TABLES as usize)
        .table_elements(MAX_TABLE_ELEMENTS)
        .build()
}

impl catalog_store::Host for CatalogStoreCtx {
    fn load(&mut self) -> Result<Result<Option<catalog_store::Entry>, catalog_store::StoreError>> {
        let store = match &self.source {
            CatalogSource::Snapshot(snapshot) => return Ok(Ok(snapshot.entry().cloned().map(Into::into))),
            CatalogSource::Store(store) => store,
        };
        count_store_call(&mut self.calls)?;
        Ok(match store.load() {
            Ok(entry) => {
                self.effects.snapshot = Some(entry.clone().into());
                Ok(entry.map(Into::into))
            }
            Err(error) => Err(error.into()),
        })
    }

    fn swap(
        &mut self,
        expected: Option<String>,
        document: String,
    ) -> Result<Result<catalog_store::SwapOutcome, catalog_store::StoreError>> {
        let CatalogSource::Store(store) = &self.source else {
            // The contract forbids it for the functions that read.
            wasmtime::bail!("a reader tried to write")
        };
        count_store_call(&mut self.calls)?;
        let expected = expected.map(store::Version::from);
        Ok(match store.swap(expected.as_ref(), &document) {
            Ok(store::SwapOutcome::Swapped(version)) => {
                let name = version.as_str().to_owned();
                let entry = store::Entry { version, document };
                self.effects = StoreEffects { snapshot: Some(Snapshot::Stored(entry)), wrote: true };
                Ok(catalog_store::SwapOutcome::Swapped(name))
            }
            Ok(store::SwapOutcome::Stale) => Ok(catalog_store::SwapOutcome::Stale),
            Err(error) => {
                self.effects.wrote |= matches!(error, StoreError::UnknownOutcome(_));
                Err(error.into())
            }
        })
    }
}

pub(crate) fn count_store_call(calls: &mut u32) -> Result<()> {
    *calls = calls.saturating_add(1);
    wasmtime::ensure!(
        *calls <= MAX_STORE_CALLS,
        "it called the store more than {MAX_STORE_CALLS} times for one command"
    );
    Ok(())
}

/// `wasi:clocks/wall-clock.datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

fn random_bytes(len: u64) -> Result<Vec<u8>> {
    wasmtime::ensure!(
        len <= MAX_RANDOM_BYTES,
        "{len} random bytes were asked for, at most {MAX_RANDOM_BYTES} are given"
    );
    // From the operating system: these bytes become tokens (docs/compatibility.md 1.1).
    let mut bytes = vec![0; usize::try_from(len)?];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Exact, although a coarse clock answers in a third of the time: that is up to 10 milliseconds
/// late. A token would be accepted after its expiry, and be created before its request. The
/// component reads the clock for tokens with a deadline, and for commands.
fn now() -> Result<Datetime> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
}

//! What the contract's component needs from its host, as pieces for a host that has an engine and a linker of its own.
//!
//! [`add_to_linker`] gives it the catalog, [`add_wasi_to_linker`] the two interfaces of WASI, for hosts that do not have
//! them from `wasmtime-wasi` already, and [`store_limits`] bounds its memory. [`Sandbox`](super::Sandbox) is made of
//! the same pieces.
//!
//! A host that takes these instead of [`Authority`](crate::authority::Authority) does itself what that does beside: it
//! bounds the time of a call, drops an instance that has trapped, drops every instance that only reads as soon as the
//! catalog has changed, here or in another process, and refuses all tokens when its store has been silent for too long.
//!
//! All of this is synchronous. A store of wasmtime's that must be entered asynchronously refuses these calls: one whose
//! linker has any function added with an `…_async` method, such as all of `wasmtime_wasi::p2::add_to_linker_async`, or that
//! yields at an epoch or when it is out of fuel. A host that has such stores gives this component an engine's linker and
//! stores of their own, and calls it on a thread that may block, as `AsyncAuthority` does.
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
//! use optoken::token::{IssuedToken, Principal};
//!
//! /// What this host keeps for an instance, among whatever else it keeps.
//! struct Tenant {
//!     name: &'static str,
//!     catalog: CatalogStoreCtx,
//!     limits: StoreLimits,
//! }
//!
//! fn main() -> Result<()> {
//!     // Once: compiling takes some tens of milliseconds.
//!     let engine = Engine::default();
//!     let component = Component::new(&engine, BUILT_IN_COMPONENT)?;
//!     // Says both versions and the first difference, if it is not the built-in one and does not fit.
//!     check(&engine, &component)?;
//!     let mut linker = Linker::<Tenant>::new(&engine);
//!     add_to_linker(&mut linker, |tenant| &mut tenant.catalog)?;
//!     // Not where `wasmtime_wasi::p2::add_to_linker_sync` is called as well.
//!     add_wasi_to_linker(&mut linker)?;
//!     let authority = AuthorityPre::new(linker.instantiate_pre(&component)?)?;
//!
//!     // For each command, and for each state of the catalog that tokens are checked against.
//!     let tenant = Tenant {
//!         name: "blue",
//!         catalog: CatalogStoreCtx::of_store(Arc::new(MemoryStore::default())),
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
//!     assert!(Principal::from(principal.expect("it is accepted")).operator);
//!     assert!(authenticator.call_authenticate(&mut store, "something else")?.is_err());
//!
//!     let Tenant { name, catalog, .. } = store.into_data();
//!     assert!(name == "blue" && catalog.seen().wrote);
//!     Ok(())
//! }
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use wasmtime::component::{ComponentType, HasSelf, Linker, Lower};
use wasmtime::{Result, StoreContextMut, StoreLimits, StoreLimitsBuilder};

use crate::sandbox::bindings::optoken::authority::catalog_store;
use crate::sandbox::{
    MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_MEMORY, MAX_RANDOM_BYTES, MAX_STORE_CALLS, MAX_TABLE_ELEMENTS,
    MAX_TABLES, Seen, Snapshot,
};
use crate::store::{self, Store, StoreError};

/// The catalog as one instance has it.
///
/// An instance that calls its store more than [`MAX_STORE_CALLS`] times for one command traps.
pub struct CatalogStoreCtx {
    source: Source,
    seen: Seen,
    /// How often the store was called for the current command.
    calls: u32,
}

impl fmt::Debug for CatalogStoreCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, calls, .. } = self;
        f.debug_struct("CatalogStoreCtx").field("seen", seen).field("calls", calls).finish_non_exhaustive()
    }
}

enum Source {
    Snapshot(Arc<Snapshot>),
    Store(Arc<dyn Store>),
}

impl CatalogStoreCtx {
    /// A catalog that can only be read and stays as it is: for an instance that checks tokens, which need not wait for a
    /// store. An instance that tries to write to it traps.
    pub fn of_snapshot(snapshot: Arc<Snapshot>) -> Self {
        Self { source: Source::Snapshot(snapshot), seen: Seen::default(), calls: 0 }
    }

    /// The catalog itself: for an instance that carries out commands. Calls into the instance then block for as long as
    /// the store does.
    pub fn of_store(store: Arc<dyn Store>) -> Self {
        Self { source: Source::Store(store), seen: Seen::default(), calls: 0 }
    }

    /// Another command begins on the same instance, and its calls of the store count from none. Not needed where each
    /// command has an instance of its own.
    pub fn begin_command(&mut self) {
        self.calls = 0;
    }

    /// What the instance has seen of the store; nothing where it has none.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// As [`seen`](Self::seen), when the instance is gone.
    pub fn into_seen(self) -> Seen {
        self.seen
    }
}

/// Adds `optoken:authority/catalog-store` to a linker; `get` finds its context in the data of a store.
///
/// Fails where the linker has that interface already.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut CatalogStoreCtx,
) -> Result<()> {
    catalog_store::add_to_linker::<T, HasSelf<CatalogStoreCtx>>(linker, get)
}

/// Adds `wasi:random/random` and `wasi:clocks/wall-clock` to a linker, the only interfaces of WASI that the component
/// imports, in every version 0.2.x.
///
/// Random bytes come straight from the operating system, at most [`MAX_RANDOM_BYTES`] of them at a time. `wasmtime-wasi`'s
/// do as well, but it writes every random number that it gives into the log of whoever logs at `trace`, and these become tokens:
/// a host that takes it keeps that level off for it. What was handed over is freed by wasmtime without being wiped; a program
/// that minds has a global allocator that wipes, as `influxdb3` has.
///
/// Fails where the linker has one of these interfaces already, in whatever version 0.2.x, and lets nobody add one after
/// it: of two implementations it would depend on their versions which one makes the tokens. After an error the linker has
/// some of the functions and is of no use.
pub fn add_wasi_to_linker<T: 'static>(linker: &mut Linker<T>) -> Result<()> {
    // A linker gives a component the very version that it asks for, and otherwise the highest there is. So each is
    // occupied that anybody may have.
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

/// Far more than there are: the newest of WASI 0.2 is its twelfth, and work goes on in 0.3.
const WASI_PATCH_RELEASES: u64 = 64;

/// The limits of one instance: [`MAX_MEMORY`], [`MAX_MEMORIES`], [`MAX_CORE_INSTANCES`], [`MAX_TABLES`] and
/// [`MAX_TABLE_ELEMENTS`]; for [`wasmtime::Store::limiter`].
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
            Source::Snapshot(snapshot) => return Ok(Ok(snapshot.as_ref().clone().map(Into::into))),
            Source::Store(store) => store,
        };
        one_call_more(&mut self.calls)?;
        Ok(match store.load() {
            Ok(entry) => {
                self.seen.snapshot = Some(entry.clone());
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
        let Source::Store(store) = &self.source else {
            // `authenticator` promises not to; a component that does it all the same has lost its way.
            wasmtime::bail!("a reader tried to write")
        };
        one_call_more(&mut self.calls)?;
        let expected = expected.map(store::Version::from);
        Ok(match store.swap(expected.as_ref(), &document) {
            Ok(store::SwapOutcome::Swapped(version)) => {
                let name = version.as_str().to_owned();
                let entry = store::Entry { version, document };
                self.seen = Seen { snapshot: Some(Some(entry)), wrote: true };
                Ok(catalog_store::SwapOutcome::Swapped(name))
            }
            Ok(store::SwapOutcome::Stale) => Ok(catalog_store::SwapOutcome::Stale),
            Err(error) => {
                self.seen.wrote |= matches!(error, StoreError::UnknownOutcome(_));
                Err(error.into())
            }
        })
    }
}

fn one_call_more(calls: &mut u32) -> Result<()> {
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
    // Straight from the operating system, as COMPAT 1.1 has it: these bytes become tokens.
    let mut bytes = vec![0; usize::try_from(len)?];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn now() -> Result<Datetime> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() })
}

//! The catalog store of the contract over an asynchronous client, for a host that has an engine and
//! a linker of its own.
//!
//! Differs from [`linker`](super::linker) in one point: a call of the store suspends the instance
//! instead of blocking its thread. wasmtime runs such an instance on a stack of its own. So the
//! host instantiates and calls it with the `async` functions of
//! [`bindings_async`](super::bindings_async). The duties that [`linker`](super::linker) lists stay
//! with the host.
//!
//! ```
//! use std::sync::Arc;
//!
//! use optoken::sandbox::async_linker::{AsyncCatalogStoreCtx, AsyncStore, StoreFuture, add_to_linker_async};
//! use optoken::sandbox::bindings_async::AuthorityPre;
//! use optoken::sandbox::linker::add_wasi_to_linker;
//! use optoken::sandbox::wasmtime::component::{Component, Linker};
//! use optoken::sandbox::wasmtime::{Engine, Result, Store};
//! use optoken::sandbox::BUILT_IN_COMPONENT;
//! use optoken::store::{Entry, MemoryStore, Store as _, StoreError, SwapOutcome, Version};
//!
//! /// A store with an asynchronous client.
//! #[derive(Default)]
//! struct Remote(MemoryStore);
//!
//! impl AsyncStore for Remote {
//!     fn load(&self) -> StoreFuture<'_, Option<Entry>> {
//!         Box::pin(async { self.0.load() })
//!     }
//!
//!     fn swap<'a>(&'a self, expected: Option<&'a Version>, document: &'a str) -> StoreFuture<'a, SwapOutcome> {
//!         Box::pin(async move { self.0.swap(expected, document) })
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let engine = Engine::default();
//! let component = Component::new(&engine, BUILT_IN_COMPONENT)?;
//! let mut linker = Linker::<AsyncCatalogStoreCtx>::new(&engine);
//! add_to_linker_async(&mut linker, |context| context)?;
//! add_wasi_to_linker(&mut linker)?;
//! let authority = AuthorityPre::new(linker.instantiate_pre(&component)?)?;
//!
//! let mut store = Store::new(&engine, AsyncCatalogStoreCtx::from_store(Arc::new(Remote::default())));
//! let instance = authority.instantiate_async(&mut store).await?;
//! let tokens = instance.optoken_authority_tokens();
//! let issued = tokens.call_create_operator(&mut store, "example").await?.expect("no token exists");
//! assert_eq!(issued.info.name, "_admin");
//! # Ok(())
//! # })
//! # }
//! ```

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use wasmtime::component::Linker;
use wasmtime::{Result, StoreContextMut};

use crate::sandbox::bindings::optoken::authority::catalog_store;
use crate::sandbox::error::CONTRACT;
use crate::sandbox::linker::{Snapshot, StoreEffects, count_store_call};
use crate::store::{Entry, StoreError, SwapOutcome, Version};

/// The future of a call of an [`AsyncStore`].
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A [`Store`](crate::store::Store) whose calls are awaited. Both functions have the contract of
/// the functions of that name there.
pub trait AsyncStore: Send + Sync + 'static {
    /// Reads the document; `None` if no document was ever stored.
    fn load(&self) -> StoreFuture<'_, Option<Entry>>;

    /// Replaces the document if it has the version `expected`, durably and in one atomic step.
    fn swap<'a>(&'a self, expected: Option<&'a Version>, document: &'a str) -> StoreFuture<'a, SwapOutcome>;
}

/// The catalog of one instance, in an asynchronous store.
///
/// An instance that calls its store more than [`MAX_STORE_CALLS`](super::MAX_STORE_CALLS) times for
/// one command traps.
pub struct AsyncCatalogStoreCtx {
    store: Arc<dyn AsyncStore>,
    effects: StoreEffects,
    /// The store calls of the current command.
    calls: u32,
}

impl AsyncCatalogStoreCtx {
    /// The catalog in this store.
    pub fn from_store(store: Arc<dyn AsyncStore>) -> Self {
        Self { store, effects: StoreEffects::default(), calls: 0 }
    }

    /// Starts another command on the same instance: its store calls count from zero. A host that
    /// makes an instance for each command does not need it.
    pub fn begin_command(&mut self) {
        self.calls = 0;
    }

    /// The effects of the instance on the store.
    pub fn effects(&self) -> &StoreEffects {
        &self.effects
    }

    /// The effects of an instance that was dropped.
    pub fn into_effects(self) -> StoreEffects {
        self.effects
    }

    /// Counts a call and returns the store for it.
    fn begin_call(&mut self) -> Result<Arc<dyn AsyncStore>> {
        count_store_call(&mut self.calls)?;
        Ok(Arc::clone(&self.store))
    }
}

impl fmt::Debug for AsyncCatalogStoreCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { effects, calls, .. } = self;
        f.debug_struct("AsyncCatalogStoreCtx")
            .field("effects", effects)
            .field("calls", calls)
            .finish_non_exhaustive()
    }
}

/// Adds `optoken:authority/catalog-store` to a linker, over an asynchronous store; `get` returns
/// its context from the data of a wasmtime store. Instances of that linker must be called
/// asynchronously.
///
/// The future of a call that is dropped leaves the outcome of a swap in progress unknown. The host
/// must drop the instance then.
///
/// Fails if the linker has that interface.
pub fn add_to_linker_async<T: Send + 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut AsyncCatalogStoreCtx,
) -> Result<()> {
    let (package, version) = CONTRACT.split_once('@').unwrap_or((CONTRACT, ""));
    let mut interface = linker.instance(&format!("{package}/catalog-store@{version}"))?;
    interface.func_wrap_async("load", move |mut store: StoreContextMut<'_, T>, ()| {
        Box::new(async move { Ok((load(get(store.data_mut())).await?,)) })
    })?;
    interface.func_wrap_async(
        "swap",
        move |mut store: StoreContextMut<'_, T>, (expected, document): (Option<String>, String)| {
            Box::new(async move { Ok((swap(get(store.data_mut()), expected, document).await?,)) })
        },
    )
}

async fn load(
    context: &mut AsyncCatalogStoreCtx,
) -> Result<Result<Option<catalog_store::Entry>, catalog_store::StoreError>> {
    let store = context.begin_call()?;
    Ok(match store.load().await {
        Ok(entry) => {
            context.effects.snapshot = Some(entry.clone().into());
            Ok(entry.map(Into::into))
        }
        Err(error) => Err(error.into()),
    })
}

async fn swap(
    context: &mut AsyncCatalogStoreCtx,
    expected: Option<String>,
    document: String,
) -> Result<Result<catalog_store::SwapOutcome, catalog_store::StoreError>> {
    let store = context.begin_call()?;
    let expected = expected.map(Version::from);
    // A trap or a dropped future in the middle of the swap leaves its outcome unknown.
    let wrote = std::mem::replace(&mut context.effects.wrote, true);
    Ok(match store.swap(expected.as_ref(), &document).await {
        Ok(SwapOutcome::Swapped(version)) => {
            let name = version.as_str().to_owned();
            context.effects.snapshot = Some(Snapshot::Stored(Entry { version, document }));
            Ok(catalog_store::SwapOutcome::Swapped(name))
        }
        Ok(SwapOutcome::Stale) => {
            context.effects.wrote = wrote;
            Ok(catalog_store::SwapOutcome::Stale)
        }
        Err(error) => {
            context.effects.wrote = wrote || matches!(error, StoreError::UnknownOutcome(_));
            Err(error.into())
        }
    })
}

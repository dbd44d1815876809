//! What the sandbox adds to the check of a token.
//!
//! The same token is checked in the sandbox, as the server does, and by the same code native. A
//! call of an empty component and a native digest of the token are the least that such a check has.

use std::fmt::{self, Display};
use std::hint::black_box;
use std::time::Instant;

use optoken::authority::Authority;
use optoken::sandbox::wasmtime;
use optoken::store::{MemoryStore, Store as _};
use optoken_core::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};
use sha2::{Digest as _, Sha512};

use crate::statistics::quantile;
use wasmtime::component::{Component, Linker, TypedFunc};

/// Calls in each round.
const CALLS: u32 = 200;

/// A component with one function, without parameters and without an effect.
const EMPTY: &str = r#"
    (component
        (core module $module (func (export "run")))
        (core instance $instance (instantiate $module))
        (func (export "run") (canon lift (core func $instance "run"))))
"#;

/// Nanoseconds of one call of each, the lower quartile of all rounds.
pub(crate) struct Measured {
    pub(crate) sandboxed: f64,
    pub(crate) native: f64,
    pub(crate) empty: f64,
    pub(crate) digest: f64,
}

impl Measured {
    /// What the sandbox adds to a check, in nanoseconds.
    pub(crate) fn added(&self) -> f64 {
        self.sandboxed - self.native
    }

    /// The check relative to the least that it has.
    pub(crate) fn relative(&self) -> f64 {
        self.sandboxed / (self.empty + self.digest)
    }
}

impl Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sandboxed {:.1}", self.sandboxed)?;
        writeln!(f, "native {:.1}", self.native)?;
        writeln!(f, "empty {:.1}", self.empty)?;
        writeln!(f, "digest {:.1}", self.digest)?;
        writeln!(f, "added {:.1}", self.added())?;
        writeln!(f, "relative {:.3}", self.relative())
    }
}

/// Measures all in turns, so that other load of the machine affects each.
pub(crate) fn measure(rounds: usize) -> Measured {
    let store = std::sync::Arc::new(MemoryStore::default());
    let sandboxed = Authority::builder_shared(store.clone()).build().unwrap();
    let secret = sandboxed.create_operator("bench").unwrap().secret;
    let token = secret.expose();
    let mut native = native(store.as_ref());
    let (mut empty_store, empty) = empty();

    let mut candidates: [Box<dyn FnMut() + '_>; 4] = [
        Box::new(|| assert!(sandboxed.authenticate(black_box(token)).is_ok())),
        Box::new(|| assert!(native.authenticate(black_box(token)).is_ok())),
        Box::new(|| empty.call(&mut empty_store, ()).unwrap()),
        Box::new(|| _ = black_box(Sha512::digest(black_box(token)))),
    ];
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        for (call, times) in candidates.iter_mut().zip(&mut times) {
            times.push(time(call));
        }
    }
    let [sandboxed, native, empty, digest] = times.map(|mut times| quantile(&mut times, 0.25));
    Measured { sandboxed, native, empty, digest }
}

/// The check without the sandbox.
pub(crate) fn native(store: &MemoryStore) -> optoken_core::authority::Authority<Reading> {
    let entry = store.load().unwrap().unwrap();
    let entry = Entry { version: entry.version.as_str().to_owned(), document: entry.document };
    optoken_core::authority::Authority::new(Reading(entry))
}

/// The empty component in an engine with the settings of the sandbox that a call can notice.
fn empty() -> (wasmtime::Store<()>, TypedFunc<(), ()>) {
    let mut config = wasmtime::Config::new();
    config.wasm_component_model(true).concurrency_support(false).epoch_interruption(true);
    let engine = wasmtime::Engine::new(&config).unwrap();
    let component = Component::new(&engine, wat::parse_str(EMPTY).unwrap()).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let run = instance.get_typed_func(&mut store, "run").unwrap();
    (store, run)
}

/// Nanoseconds of one call in a round.
fn time(call: &mut dyn FnMut()) -> f64 {
    let begun = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

/// Ports of the native side: a catalog to read.
pub(crate) struct Reading(Entry);

impl CatalogStore for Reading {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        Ok(Some(self.0.clone()))
    }

    fn swap(&mut self, _: Option<&str>, _: &str) -> Result<SwapOutcome, StoreError> {
        Ok(SwapOutcome::Stale)
    }
}

impl Entropy for Reading {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError("none here".into()))
    }
}

impl Clock for Reading {
    fn now(&mut self) -> Timestamp {
        0
    }
}

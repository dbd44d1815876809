//! The ports of the core over WASI alone, for components that WASI runtimes run without a host of
//! their own: randomness, the clock, and a store in a directory that the runtime has opened.
//!
//! [`file_store`] makes a compare-and-swap from the operations of a file system, and knows no WASI.
//! [`high_water`] keeps that store from going back. [`directory`] is the only module that knows
//! `wasi:filesystem`.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod directory;
pub mod file_store;
pub mod high_water;

use alloc::format;
use alloc::string::String;

use optoken_core::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};
use wasip2::clocks::wall_clock;
use wasip2::random::random;

use self::directory::WasiDirectory;
use self::file_store::FileStore;
use self::high_water::{Acceptance, HighWaterStore};

/// The directory of the mark, if the runtime has opened one under this name.
pub const STATE: &str = "/state";

/// The catalog in a directory that the runtime has opened.
type WasiStore = FileStore<WasiDirectory, fn() -> u64>;

/// The ports of the core, over WASI.
#[derive(Debug)]
pub struct Wasi {
    store: HighWaterStore<WasiStore, WasiDirectory, fn() -> u64>,
}

impl Wasi {
    /// Returns ports with the catalog in the directory at this path, which the runtime has opened,
    /// or which is below one that it has. The error has the next step.
    ///
    /// The [mark](high_water) is in the directory `state`; without a value, in [`STATE`] if the
    /// runtime has opened that, else beside the catalog. `warn` receives a mark that could not be
    /// written, and whether a change caused it.
    pub fn at(
        path: &str,
        state: Option<&str>,
        acceptance: Acceptance,
        warn: fn(&str, bool),
    ) -> Result<Self, String> {
        let random: fn() -> u64 = random::get_random_u64;
        let catalog = FileStore::new(directory::open(path)?, random);
        let state = state.unwrap_or(if directory::is_opened(STATE) { STATE } else { path });
        let state = directory::open(state)?;
        Ok(Self { store: HighWaterStore::new(catalog, state, random, acceptance, warn) })
    }
}

impl Entropy for Wasi {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        let random = random::get_random_bytes(bytes.len() as u64);
        if random.len() != bytes.len() {
            return Err(EntropyError(format!("{} bytes instead of {}", random.len(), bytes.len())));
        }
        bytes.copy_from_slice(&random);
        Ok(())
    }
}

impl Clock for Wasi {
    fn now(&mut self) -> Timestamp {
        let now = wall_clock::now();
        now.seconds.saturating_mul(1000).saturating_add(u64::from(now.nanoseconds / 1_000_000))
    }
}

impl CatalogStore for Wasi {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        self.store.load()
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.store.swap(expected, document)
    }
}

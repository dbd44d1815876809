//! The ports of the core over WASI alone, for components that WASI runtimes run without a host of
//! their own: randomness, the clock, and a store in a directory that the runtime has opened.
//!
//! [`file_store`] makes a compare-and-swap from the operations of a file system, and knows no WASI.
//! [`directory`] is the only module that knows `wasi:filesystem`.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod directory;
pub mod file_store;

use alloc::format;
use alloc::string::String;

use optoken_core::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};
use wasip2::clocks::wall_clock;
use wasip2::random::random;

use self::directory::WasiDirectory;
use self::file_store::FileStore;

/// The ports of the core, over WASI.
#[derive(Debug)]
pub struct Wasi {
    store: FileStore<WasiDirectory, fn() -> u64>,
}

impl Wasi {
    /// Returns ports with the catalog in the directory at this path, which the runtime has opened,
    /// or which is below one that it has. The error has the next step.
    pub fn at(path: &str) -> Result<Self, String> {
        let directory = directory::open(path)?;
        Ok(Self { store: FileStore::new(directory, random::get_random_u64) })
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

//! Ports in memory, for tests of this crate and of the crates that use it (feature `testing`).

use alloc::string::ToString as _;

use crate::ports::{CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp};

/// A store, a source of random bytes and a clock that tests set.
#[derive(Debug, Default)]
pub struct MemoryPorts {
    /// The stored document.
    pub stored: Option<Entry>,
    /// How many swaps have stored a document. It names the version.
    pub swaps: u32,
    /// The error of the store: `Unavailable` fails every call, `UnknownOutcome` fails swaps, which
    /// write nothing.
    pub store_error: Option<StoreError>,
    /// The byte that filled the last request for random bytes. The next request gets the next one.
    pub random: u8,
    /// Whether there are no random bytes.
    pub entropy_exhausted: bool,
    /// The time that the clock returned last, in milliseconds since the epoch.
    pub now: Timestamp,
    /// How far the clock advances at each call, in milliseconds.
    pub tick: u64,
}

impl CatalogStore for MemoryPorts {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        match &self.store_error {
            Some(error @ StoreError::Unavailable(_)) => Err(error.clone()),
            _ => Ok(self.stored.clone()),
        }
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        if let Some(error) = &self.store_error {
            return Err(error.clone());
        }
        if self.stored.as_ref().map(|entry| entry.version.as_str()) != expected {
            return Ok(SwapOutcome::Stale);
        }
        self.swaps += 1;
        let version = self.swaps.to_string();
        self.stored = Some(Entry { version: version.clone(), document: document.into() });
        Ok(SwapOutcome::Swapped(version))
    }
}

impl Entropy for MemoryPorts {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        if self.entropy_exhausted {
            return Err(EntropyError("exhausted".into()));
        }
        self.random = self.random.wrapping_add(1);
        bytes.fill(self.random);
        Ok(())
    }
}

impl Clock for MemoryPorts {
    fn now(&mut self) -> Timestamp {
        self.now += self.tick;
        self.now
    }
}

//! `memory:`: a store that ends with its process, for tests and trials.

use std::sync::{Mutex, PoisonError};

use crate::store::{Entry, Store, StoreError, SwapOutcome, Version};

/// A document in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    swaps: u64,
    entry: Option<Entry>,
}

impl MemoryStore {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is assigned whole, so a panic cannot leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn location(&self) -> Option<String> {
        Some("memory:".to_owned())
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        Ok(self.state().entry.clone())
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let mut state = self.state();
        if state.entry.as_ref().map(|entry| &entry.version) != expected {
            return Ok(SwapOutcome::Stale);
        }
        let swaps = state.swaps + 1;
        let version = Version::from(swaps.to_string());
        let entry = Entry { version: version.clone(), document: document.to_owned() };
        *state = State { swaps, entry: Some(entry) };
        Ok(SwapOutcome::Swapped(version))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_store_passes_conformance() {
        crate::store::conformance::run(&super::MemoryStore::default());
    }
}

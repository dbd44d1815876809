//! Times the calls of another store. No store of its own: it adds nothing and keeps nothing.

use std::sync::Arc;
use std::time::Instant;

use crate::observer::Observer;
use crate::store::{Entry, Store, StoreError, SwapOutcome, Version};

/// A store of whose answers an observer is told.
pub(crate) struct Measured {
    store: Arc<dyn Store>,
    observer: Arc<dyn Observer>,
}

impl Measured {
    pub(crate) fn new(store: Arc<dyn Store>, observer: Arc<dyn Observer>) -> Self {
        Self { store, observer }
    }

    fn time<T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let answer = ask(&*self.store);
        self.observer.store_answered(operation, asked.elapsed(), answer.as_ref().map(drop));
        answer
    }
}

impl Store for Measured {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.time("version", Store::version)
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.time("load", Store::load)
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.time("swap", |store| store.swap(expected, document))
    }
}

//! Times the calls of another store. No store of its own: it adds nothing and keeps nothing.

use std::sync::Arc;
use std::time::Instant;

use super::{Entry, Store, StoreError, SwapOutcome, Version};
use crate::metrics::Metrics;

/// A store whose answers are timed.
pub(crate) struct Measured {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl Measured {
    pub(crate) fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    fn time<T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let asked = Instant::now();
        let answer = ask(&*self.store);
        self.metrics.store_operation(operation, &answer).observe(asked.elapsed().as_secs_f64());
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

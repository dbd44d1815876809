//! A store that reports its calls to an observer. It adds no storage of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observer::Observer;
use crate::store::{ClockDifference, Entry, Newest, News, Store, StoreError, SwapOutcome, Version};

/// The most bytes that the sandbox gets. The component names a document that is a little too large;
/// a much larger one would exhaust its memory.
const MAX_DOCUMENT_BYTES: usize = 8 << 20;

/// A store and the observer of its calls.
pub(crate) struct ObservedStore {
    store: Arc<dyn Store>,
    observer: Arc<dyn Observer>,
}

impl ObservedStore {
    pub(crate) fn new(store: Arc<dyn Store>, observer: Arc<dyn Observer>) -> Self {
        Self { store, observer }
    }

    fn observe<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let result = call(&*self.store);
        self.observer.store_operation_completed(operation, started.elapsed(), result.as_ref().map(drop));
        result
    }
}

fn check_size(entry: Option<Entry>) -> Result<Option<Entry>, StoreError> {
    let bytes = entry.as_ref().map_or(0, |entry| entry.document.len());
    if bytes <= MAX_DOCUMENT_BYTES {
        return Ok(entry);
    }
    Err(StoreError::Unavailable(format!(
        "the stored document has {bytes} bytes, more than any catalog; put the newest catalog back, or a backup with \
         `restore`"
    )))
}

impl Store for ObservedStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.observe("version", Store::version)
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.observe("load", |store| check_size(store.load()?))
    }

    fn load_unless(&self, known: &Version) -> Result<Newest, StoreError> {
        self.observe("load", |store| match store.load_unless(known)? {
            Newest::Known => Ok(Newest::Known),
            Newest::Other(entry) => check_size(entry).map(Newest::Other),
        })
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.observe("swap", |store| store.swap(expected, document))
    }

    fn interval(&self) -> Duration {
        self.store.interval()
    }

    fn listen(&self, news: News) {
        self.store.listen(news);
    }

    fn location(&self) -> Option<String> {
        self.store.location()
    }

    fn clock(&self) -> Option<ClockDifference> {
        self.store.clock()
    }
}

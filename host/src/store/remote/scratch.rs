//! A place for trials, in whichever engine.

use std::time::Duration;

use super::ScratchStore;
use crate::store::{ClockDifference, Entry, News, Store, StoreError, SwapOutcome, Version};

/// An adapter that can remove what it has stored. The type of a live store has no such call in
/// public, so that no embedder removes a catalog.
pub(crate) trait Removable: Store {
    /// Removes all that is there.
    fn remove(&self) -> Result<(), StoreError>;
}

/// A store at a place that nothing else uses.
#[derive(Debug)]
pub(crate) struct Scratch<S>(pub(crate) S);

impl<S: Removable> Store for Scratch<S> {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.0.version()
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.0.load()
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.0.swap(expected, document)
    }

    fn interval(&self) -> Duration {
        self.0.interval()
    }

    fn listen(&self, news: News) {
        self.0.listen(news);
    }

    fn location(&self) -> Option<String> {
        self.0.location()
    }

    fn clock(&self) -> Option<ClockDifference> {
        self.0.clock()
    }
}

impl<S: Removable> ScratchStore for Scratch<S> {
    fn remove(&self) -> Result<(), StoreError> {
        self.0.remove()
    }
}

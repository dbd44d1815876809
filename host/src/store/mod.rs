//! The port to storage: one document, read whole and replaced whole by compare-and-swap.
//!
//! The contract is that of `wit/catalog-store.wit`; an adapter is one file beside this one and knows nothing of
//! the others. Calls block and are made from threads that may block.

use std::fmt;

use thiserror::Error;

mod measured;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(test, feature = "test-suite"))]
pub mod suite;

pub(crate) use measured::Measured;
pub use memory::MemoryStore;
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, SqliteStore};

/// Storage for the catalog.
///
/// An implementation must keep two promises: two states of the document never share a version, also not across a
/// restart, and a [`Swapped`](SwapOutcome::Swapped) change survives a power cut.
pub trait Store: Send + Sync + 'static {
    /// The newest version, cheaper than loading the document; `None` if there never was one.
    fn version(&self) -> Result<Option<Version>, StoreError> {
        Ok(self.load()?.map(|entry| entry.version))
    }

    /// The newest document; `None` if there never was one.
    fn load(&self) -> Result<Option<Entry>, StoreError>;

    /// Replaces the document if it still has the version `expected`; `None` expects that there is none yet.
    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError>;
}

/// Names one state of the document. Only equality means something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

impl Version {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Version {
    fn from(name: String) -> Self {
        Self(name)
    }
}

/// A document and its version.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names this state of the document.
    pub version: Version,
    /// The text to keep, byte for byte.
    pub document: String,
}

impl fmt::Debug for Entry {
    /// Leaves the document out: it holds hashes, which have no business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, document } = self;
        f.debug_struct("Entry").field("version", version).field("bytes", &document.len()).finish()
    }
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Stored durably, under this version.
    Swapped(Version),
    /// The document has another version; nothing was written.
    Stale,
}

/// Why a store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Nothing was read or written.
    #[error("{0}")]
    Unavailable(String),
    /// The write may or may not have happened, now or a little later.
    #[error("{0}")]
    UnknownOutcome(String),
}

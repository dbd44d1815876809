//! What the core needs from outside, as traits: randomness, time and one document to compare and swap.
//!
//! The guest implements them over the imports of `wit/world.wit`, tests implement them in memory.

use alloc::string::String;

use thiserror::Error;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Timestamp = u64;

/// A cryptographically secure source of random bytes.
pub trait Entropy {
    /// Fills all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError>;
}

/// The source had no random bytes to give.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no randomness: {0}")]
pub struct EntropyError(pub String);

/// The time of day.
pub trait Clock {
    /// The current time.
    fn now(&mut self) -> Timestamp;
}

/// Storage for one document. The contract is that of `wit/catalog-store.wit`.
pub trait CatalogStore {
    /// Reads the document; `None` if there has never been one.
    fn load(&mut self) -> Result<Option<Entry>, StoreError>;

    /// Replaces the document if it still has the version `expected`, durably.
    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError>;
}

/// The stored document and the opaque name of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names this state of the document; only equality means something.
    pub version: String,
    /// The catalog as [`Catalog::encode`](crate::catalog::Catalog::encode) wrote it.
    pub document: String,
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Stored, under this version.
    Swapped(String),
    /// Somebody else was faster; nothing was written.
    Stale,
}

/// Why the store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Nothing was read or written.
    #[error("{0}")]
    Unavailable(String),
    /// The write may or may not have happened, now or a little later.
    #[error("{0}")]
    UnknownOutcome(String),
}

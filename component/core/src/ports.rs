//! The resources that a host provides, as traits: randomness, time and one document to compare and
//! swap.
//!
//! A component implements them over its imports, tests implement them in memory.

use alloc::string::String;

use thiserror::Error;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Timestamp = u64;

/// A cryptographically secure source of random bytes.
pub trait Entropy {
    /// Fills all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError>;
}

impl<T: Entropy + ?Sized> Entropy for &mut T {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        (**self).fill(bytes)
    }
}

/// The source of random bytes failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no randomness: {0}")]
pub struct EntropyError(pub String);

/// The time of day.
pub trait Clock {
    /// The current time.
    fn now(&mut self) -> Timestamp;
}

impl<T: Clock + ?Sized> Clock for &mut T {
    fn now(&mut self) -> Timestamp {
        (**self).now()
    }
}

/// Storage for one document. The contract is that of `wit/catalog-store.wit`.
pub trait CatalogStore {
    /// Reads the document; `None` if there has never been one.
    fn load(&mut self) -> Result<Option<Entry>, StoreError>;

    /// Replaces the document if it still has the version `expected`, durably.
    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError>;
}

impl<T: CatalogStore + ?Sized> CatalogStore for &mut T {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        (**self).load()
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        (**self).swap(expected, document)
    }
}

/// The stored document and the opaque version of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The version of this state; only equality is meaningful.
    pub version: String,
    /// The catalog as [`Catalog::encode`](crate::catalog::Catalog::encode) wrote it.
    pub document: String,
}

/// The outcome of a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwapOutcome {
    /// Stored, under this version.
    Swapped(String),
    /// The stored version differs from the expected one; nothing was written.
    Stale,
}

/// Why the store failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Nothing was read or written.
    #[error("{0}")]
    Unavailable(String),
    /// The write may or may not have happened, now or a little later.
    #[error("{0}")]
    UnknownOutcome(String),
}

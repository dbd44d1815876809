//! The snapshot that read instances have.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::sandbox::linker::Snapshot;

/// A snapshot and its number: a newer one has a higher number.
#[derive(Debug, Clone)]
pub(crate) struct VersionedSnapshot {
    pub(crate) number: u64,
    pub(crate) snapshot: Arc<Snapshot>,
    /// When the store last confirmed that this snapshot is the newest. The sandbox does not read
    /// it.
    pub(crate) confirmed: Arc<AtomicU64>,
}

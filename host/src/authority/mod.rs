//! The authority: authentication and the commands that change tokens.
//!
//! Answers authentication from the current snapshot of the catalog, in memory. A command goes to
//! the store, and the authority publishes the state that it read or wrote before the command
//! returns. Knows the sandbox and the store, nothing of HTTP.

mod api;
mod boot_clock;
mod builder;
mod command_lock;
mod freshness;
mod high_water;
mod last_used;
mod lineage;
mod poll_signal;
mod poller;
mod snapshot;
mod store_clock;
#[cfg(feature = "test-suite")]
mod test_suite;

pub use self::api::Authority;
pub use self::builder::{
    BuildError, Builder, DEFAULT_MAX_STALENESS, MAX_POLL_INTERVAL, MIN_MAX_STALENESS, MIN_POLL_INTERVAL,
};
pub use self::freshness::ProofSource;
pub use self::high_water::HighWaterError;
#[cfg(feature = "server")]
pub(crate) use self::high_water::HighWaterMark;
pub use self::last_used::LastUsed;
pub use self::lineage::{CatalogPosition, CatalogRefusal};
pub use self::poller::DROP_TIMEOUT;
#[cfg(feature = "async")]
pub(crate) use self::snapshot::MAX_CONCURRENT_COMMANDS;

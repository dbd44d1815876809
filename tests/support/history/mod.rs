//! Histories of concurrent operations on one store, and the checks that hold them against one
//! truth.
//!
//! [`chain`] checks the operations of a store: each state names its predecessor, so the order of
//! all states is known. [`bound`] checks how long tokens are accepted after their revocation.
//! [`recorder`] records both. A moment is a number of nanoseconds on one clock.

pub(crate) mod bound;
pub(crate) mod chain;
pub(crate) mod faults;
pub(crate) mod recorder;
pub(crate) mod workload;

/// A point in time.
pub(crate) type Moment = u64;

/// The end of an operation without an answer.
pub(crate) const NEVER: Moment = Moment::MAX;

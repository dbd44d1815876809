//! Reports the events of an authority, for metrics or logs.

use std::time::Duration;

use crate::access::AuthorizeError;
use crate::store::StoreError;
use crate::token::{AuthenticateError, CommandError, Principal};

/// Receives the events of an authority. Each function does nothing by default.
///
/// The authority calls it on the thread of the event, before the caller gets its result. An
/// implementation must not block and should take no longer than an increment. It must not panic: a
/// panic on the thread of a caller reaches that caller, although a command may have been executed.
/// A panic on the polling thread counts as a failed poll. No function receives a token.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use optoken::authority::Authority;
/// use optoken::observer::Observer;
/// use optoken::store::MemoryStore;
/// use optoken::token::{AuthenticateError, Principal};
///
/// #[derive(Default)]
/// struct Refused(AtomicU64);
///
/// impl Observer for Refused {
///     fn authenticated(&self, result: &Result<Principal, AuthenticateError>) {
///         if result.is_err() {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let refused = Arc::new(Refused::default());
/// let authority = Authority::builder(MemoryStore::default()).observer(refused.clone()).build()?;
/// assert!(authority.authenticate("unknown").is_err());
/// assert_eq!(refused.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A presented token was checked.
    fn authenticated(&self, result: &Result<Principal, AuthenticateError>) {
        let _ = result;
    }

    /// A request was checked against the permissions of a presented token.
    fn authorized(&self, result: &Result<Principal, AuthorizeError>) {
        let _ = result;
    }

    /// A command succeeded or failed. `command` is the name of the function of
    /// [`Authority`](crate::authority::Authority); `preset` for both imports.
    fn command_completed(&self, command: &'static str, result: Result<(), &CommandError>) {
        let _ = (command, result);
    }

    /// A call of the store succeeded or failed. `operation` is `version`, `load` or `swap`.
    fn store_operation_completed(
        &self,
        operation: &'static str,
        duration: Duration,
        result: Result<(), &StoreError>,
    ) {
        let _ = (operation, duration, result);
    }

    /// The poller has read the store, to learn of changes by other processes. `cause` is `interval`
    /// or `news`. `outcome` is `unchanged`, `changed`, `unavailable` (the store failed), `refused`
    /// (it went back), or `failed` (the component cannot read the catalog).
    fn poll_completed(&self, cause: &'static str, outcome: &'static str) {
        let _ = (cause, outcome);
    }

    /// A call of the component trapped.
    fn trapped(&self) {}

    /// Audit records were not appended to the audit log, or not in time for their command.
    ///
    /// The catalog retains the newest records. The authority repeats the attempt at least four
    /// times a second and calls this for each failure, also on the thread that appends.
    fn audit_append_failed(&self) {}

    /// The audit log lacks so many records for good: the store made more changes than a catalog
    /// retains, between two polls or while the log could not be written.
    fn audit_records_lost(&self, count: u64) {
        let _ = count;
    }
}

/// The observer of an authority that has no other.
pub(crate) struct NoopObserver;

impl Observer for NoopObserver {}

//! Who wants to know what an authority does: for metrics, or for a log of one's own.

use std::time::Duration;

use crate::store::StoreError;
use crate::token::{AuthenticateError, CommandError, Principal};

/// Is told what an authority does, when it has done it. Each function does nothing unless it is implemented.
///
/// Called on the thread that asked, before that gets its answer: an implementation must not block, and should take no
/// longer than it takes to count something. It must not panic: on a thread that asked, the panic goes on to whoever has asked,
/// although a command may have been carried out; on the one that polls the store, the poll counts as failed. It is never
/// handed a token.
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
///     fn authenticated(&self, answer: &Result<Principal, AuthenticateError>) {
///         if answer.is_err() {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let refused = Arc::new(Refused::default());
/// let authority = Authority::builder(MemoryStore::default()).observer(refused.clone()).build()?;
/// assert!(authority.authenticate("nobody's").is_err());
/// assert_eq!(refused.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A presented token was judged.
    fn authenticated(&self, answer: &Result<Principal, AuthenticateError>) {
        let _ = answer;
    }

    /// A command was carried out, or was not. `command` is the name of the function of
    /// [`Authority`](crate::authority::Authority); `preset` for both that take a token in.
    fn commanded(&self, command: &'static str, outcome: Result<(), &CommandError>) {
        let _ = (command, outcome);
    }

    /// The store has answered, or has not. `operation` is `version`, `load` or `swap`.
    fn store_answered(&self, operation: &'static str, took: Duration, outcome: Result<(), &StoreError>) {
        let _ = (operation, took, outcome);
    }

    /// The component has failed to answer a call.
    fn trapped(&self) {}

    /// Audit records could not be appended to the audit log, or not in time for the command that made them. The catalog keeps
    /// the newest; it is tried again at least four times a second, and this is called each time that it fails, also by the
    /// thread that appends.
    fn not_recorded(&self) {}

    /// So many audit records are not in the audit log and will never be: there were more changes than the catalog keeps records
    /// of, by others on the same store from one look at it to the next, or while the log could not be written.
    fn records_lost(&self, count: u64) {
        let _ = count;
    }
}

/// Where nobody wants to know.
pub(crate) struct Nobody;

impl Observer for Nobody {}

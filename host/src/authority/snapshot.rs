//! The current snapshot of the catalog, shared by all clones of an authority and its poller.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::audit::{AuditLogError, AuditWriter, RetainedRecord};
use crate::authority::last_used::OperatorLastUsed;
use crate::command::{Command, Outcome};
use crate::observer::Observer;
use crate::sandbox::linker::{Snapshot, StoreEffects};
use crate::sandbox::{CallResult, ReadInstance, Sandbox, Trap, VersionedSnapshot};
use crate::store::{Store, StoreError};
use crate::token::{CommandError, TokenInfo};

/// The commands of one authority that block a thread at a time. They wait for each other at the
/// store; a higher number of threads would only wait there. A function that only reads needs no
/// permit.
#[cfg(feature = "async")]
pub(crate) const MAX_CONCURRENT_COMMANDS: usize = 4;

/// The error text of a trap. Its cause is for the log, not for the client.
pub(crate) const COMPONENT_FAILED: &str = "the sandboxed component failed";

/// The state of an authority.
pub(crate) struct Shared {
    pub(crate) sandbox: Sandbox,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog_id: String,
    pub(crate) max_staleness: Duration,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) audit: Option<Audit>,
    pub(crate) operator: OperatorLastUsed,
    pub(crate) traps: AtomicU64,
    /// The names of all tokens, after the first query for one.
    names: Mutex<TokenNameCache>,
    current: CurrentSnapshot,
    /// Locked to read the store and publish the result: so the result is newer than the current
    /// snapshot. Audit records are submitted under it as well, and therefore in order.
    publish_lock: Mutex<()>,
    /// The permits of the commands that are awaited.
    #[cfg(feature = "async")]
    pub(crate) command_permits: Arc<tokio::sync::Semaphore>,
}

/// The audit log beside the catalog.
pub(crate) struct Audit {
    pub(crate) writer: AuditWriter,
    /// Whether the last attempt to read the newest records from the component failed.
    last_read_failed: AtomicBool,
}

impl Audit {
    pub(crate) fn new(writer: AuditWriter) -> Self {
        Self { writer, last_read_failed: AtomicBool::new(false) }
    }
}

/// The snapshot that tokens are checked against, and when the store last confirmed it.
struct CurrentSnapshot {
    snapshot: RwLock<VersionedSnapshot>,
    /// The number of that snapshot, which a request compares before it reads the snapshot.
    number: AtomicU64,
    /// When the store last confirmed that this is the newest, in milliseconds since `started`.
    last_confirmed_fresh: AtomicU64,
    started: Instant,
}

/// The names of the tokens by their numbers, in the snapshot of this number; 0 is none.
#[derive(Default)]
struct TokenNameCache {
    number: u64,
    by_id: HashMap<u64, Arc<str>>,
}

/// The parts of [`Shared`] that its builder makes.
pub(crate) struct Parts {
    pub(crate) sandbox: Sandbox,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog_id: String,
    pub(crate) max_staleness: Duration,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) audit: Option<Audit>,
    pub(crate) snapshot: VersionedSnapshot,
    /// When the read of the snapshot began.
    pub(crate) started: Instant,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { sandbox, store, catalog_id, max_staleness, observer, audit, snapshot, started } = parts;
        Self {
            sandbox,
            store,
            catalog_id,
            max_staleness,
            observer,
            audit,
            operator: OperatorLastUsed::new(),
            traps: AtomicU64::new(0),
            names: Mutex::default(),
            current: CurrentSnapshot {
                number: AtomicU64::new(snapshot.number),
                snapshot: RwLock::new(snapshot),
                last_confirmed_fresh: AtomicU64::new(0),
                started,
            },
            publish_lock: Mutex::default(),
            #[cfg(feature = "async")]
            command_permits: Arc::new(tokio::sync::Semaphore::new(MAX_CONCURRENT_COMMANDS)),
        }
    }

    /// How long ago the store last confirmed that the current snapshot is the newest.
    pub(crate) fn staleness(&self) -> Duration {
        let confirmed = Duration::from_millis(self.current.last_confirmed_fresh.load(Ordering::Acquire));
        self.current.started.elapsed().saturating_sub(confirmed)
    }

    /// Calls a read instance of the current snapshot.
    pub(crate) fn read<T>(&self, call: impl FnOnce(&mut ReadInstance) -> Result<T, Trap>) -> Result<T, Trap> {
        let current = self.current.number.load(Ordering::Acquire);
        self.sandbox.read(current, || self.snapshot(), call)
    }

    /// As [`read`](Self::read), with the error of a command for a trap.
    pub(crate) fn query<T>(
        &self,
        call: impl FnOnce(&mut ReadInstance) -> CallResult<T>,
    ) -> Result<T, CommandError> {
        self.read(call).unwrap_or_else(|trap| {
            self.count_trap(&trap);
            Err(CommandError::Unavailable(COMPONENT_FAILED.to_owned()))
        })
    }

    /// Executes a command and publishes the state of the store that it read or wrote.
    pub(crate) fn execute(&self, command: &Command<'_>, origin: &str) -> Result<Outcome, CommandError> {
        let publish_lock = self.lock_publishing();
        let started = Instant::now();
        let (result, effects) = self.sandbox.execute(Arc::clone(&self.store), command, origin);
        let StoreEffects { snapshot, wrote } = effects;
        let changed = snapshot.is_some_and(|snapshot| self.publish(snapshot, started));
        let submitted = if changed { self.on_catalog_changed() } else { None };
        drop(publish_lock);
        // A log that hangs must not delay other commands.
        if let (Some(audit), Some(submitted)) = (&self.audit, submitted) {
            audit.writer.wait(submitted);
        }
        result.unwrap_or_else(|trap| {
            self.count_trap(&trap);
            let why = COMPONENT_FAILED.to_owned();
            Err(if wrote { CommandError::UnknownOutcome(why) } else { CommandError::Unavailable(why) })
        })
    }

    /// The name of the token with this number, from a cache of the current snapshot.
    pub(crate) fn token_name(
        &self,
        id: u64,
        list: impl FnOnce() -> Result<Vec<TokenInfo>, CommandError>,
    ) -> Result<Option<Arc<str>>, CommandError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Read before the list, which may be that of a newer snapshot.
        let number = self.current.number.load(Ordering::Acquire);
        if names.number != number {
            let by_id = list()?.into_iter().map(|token| (token.id, token.name.into())).collect();
            *names = TokenNameCache { number, by_id };
        }
        Ok(names.by_id.get(&id).cloned())
    }

    /// Compares the store with the current snapshot, and publishes its state if another process has
    /// changed it.
    pub(crate) fn poll(&self) -> Result<(), StoreError> {
        let _publish_lock = self.lock_publishing();
        let started = Instant::now();
        if self.store.version()?.as_ref() == self.snapshot().snapshot.version() {
            self.confirm_fresh(started);
        } else if self.publish(self.store.load()?.into(), started) {
            self.on_catalog_changed();
        }
        if self.audit.as_ref().is_some_and(|audit| audit.last_read_failed.load(Ordering::Relaxed)) {
            self.submit_audit_records();
        }
        Ok(())
    }

    /// Reads the creation time of the operator secret. The read instance has then loaded the
    /// snapshot, before a request waits for that.
    pub(crate) fn refresh_operator_last_used(&self) {
        match self.read(ReadInstance::status) {
            Ok(Ok(Some(status))) => {
                self.operator.set_created_at(status.info.updated_at.unwrap_or(status.info.created_at));
            }
            // A client that requests the status gets the error.
            Ok(Ok(None) | Err(_)) => {}
            Err(trap) => self.count_trap(&trap),
        }
    }

    /// Counts, reports and logs a trap.
    pub(crate) fn count_trap(&self, trap: &Trap) {
        self.traps.fetch_add(1, Ordering::Relaxed);
        self.observer.trapped();
        tracing::error!("{trap}");
    }

    fn snapshot(&self) -> VersionedSnapshot {
        self.current.snapshot.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `snapshot` the current one. The store returned it to a read that began at `started` or
    /// later. Returns whether it differs from the one before.
    fn publish(&self, snapshot: Snapshot, started: Instant) -> bool {
        let mut current = self.current.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        // An equal state stays the same snapshot, or every read instance would load it again.
        let changed = current.snapshot.version() != snapshot.version();
        if changed {
            let number = current.number + 1;
            *current = VersionedSnapshot { number, snapshot: Arc::new(snapshot) };
            self.current.number.store(number, Ordering::Release);
        }
        self.confirm_fresh(started);
        changed
    }

    fn confirm_fresh(&self, at: Instant) {
        let at = at.saturating_duration_since(self.current.started).as_millis();
        self.current.last_confirmed_fresh.store(u64::try_from(at).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn lock_publishing(&self) -> MutexGuard<'_, ()> {
        self.publish_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a change of the catalog. Returns the submission to wait for, if there is an audit
    /// log.
    fn on_catalog_changed(&self) -> Option<u64> {
        self.refresh_operator_last_used();
        self.submit_audit_records()
    }

    /// Submits the retained records to the audit log.
    fn submit_audit_records(&self) -> Option<u64> {
        let Audit { writer, last_read_failed } = self.audit.as_ref()?;
        let retained = match self.read(|reader| reader.audit(None)) {
            Ok(Ok(records)) => RetainedRecord::read(records.lines),
            Ok(Err(error)) => Err(AuditLogError::Catalog(error.to_string())),
            Err(trap) => {
                self.count_trap(&trap);
                Err(AuditLogError::Catalog(trap.to_string()))
            }
        };
        let failed_before = last_read_failed.swap(retained.is_err(), Ordering::Relaxed);
        match retained {
            Ok(retained) => Some(writer.submit(retained)),
            Err(error) => {
                self.observer.audit_append_failed();
                // Logged once, not at every attempt.
                if !failed_before {
                    tracing::error!("{error}; changes are still made");
                }
                None
            }
        }
    }
}

//! Builds an authority: compiles the component, loads the catalog, opens the audit log.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::audit::{AuditLog, AuditLogError, AuditWriter, RetainedRecord};
use crate::authority::api::Authority;
use crate::authority::poller::{POLL_INTERVAL, StorePoller};
use crate::authority::snapshot::{Audit, Parts, Shared};
use crate::command::Command;
use crate::observed_store::ObservedStore;
use crate::observer::{NoopObserver, Observer};
use crate::sandbox::{BUILT_IN_COMPONENT, Sandbox, SandboxError, Trap, VersionedSnapshot};
use crate::store::Store;
use crate::token::CommandError;

/// The default of [`Builder::max_staleness`]. Longer than a checkpoint or a short lock of the
/// database, and short enough that a revocation by another process is not ignored for long.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(10);

/// The minimum of [`Builder::max_staleness`]: with less, one slow poll would refuse all tokens.
pub const MIN_MAX_STALENESS: Duration = POLL_INTERVAL.saturating_mul(2);

/// The origin of the changes that an authority makes at its start, for the audit record.
const STARTUP_ORIGIN: &str = "start";

/// Why an authority cannot be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// This host cannot run the component.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store failed, or holds no catalog of this version.
    #[error("cannot use the token store: {0}")]
    Catalog(CommandError),
    /// The component trapped while it loaded the catalog.
    #[error(transparent)]
    Trap(#[from] Trap),
    /// The audit log cannot be used, or belongs to another catalog.
    #[error(transparent)]
    AuditLog(#[from] AuditLogError),
    /// The operating system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The store or the observer panicked in `build_async`; in [`build`](Builder::build) the panic
    /// continues.
    #[error("the token store panicked")]
    Panicked,
}

/// The configuration of an [`Authority`].
#[must_use]
pub struct Builder<'a> {
    store: Arc<dyn Store>,
    component: Cow<'a, [u8]>,
    max_staleness: Duration,
    audit_log: Option<PathBuf>,
    observer: Arc<dyn Observer>,
}

impl Authority {
    /// Starts to build an authority over a store, with the built-in component.
    pub fn builder(store: impl Store) -> Builder<'static> {
        Self::builder_shared(Arc::new(store))
    }

    /// Starts to build an authority over a store that the program uses elsewhere as well.
    pub fn builder_shared(store: Arc<dyn Store>) -> Builder<'static> {
        Builder {
            store,
            component: Cow::Borrowed(BUILT_IN_COMPONENT),
            max_staleness: DEFAULT_MAX_STALENESS,
            audit_log: None,
            observer: Arc::new(NoopObserver),
        }
    }
}

impl<'a> Builder<'a> {
    /// Runs this component instead of the built-in one.
    pub fn component(mut self, component: impl Into<Cow<'a, [u8]>>) -> Self {
        self.component = component.into();
        self
    }

    /// How long tokens are accepted without an answer of the store; the default is
    /// [`DEFAULT_MAX_STALENESS`]. A shorter time than [`MIN_MAX_STALENESS`] becomes that.
    pub fn max_staleness(mut self, max_staleness: Duration) -> Self {
        self.max_staleness = max_staleness.max(MIN_MAX_STALENESS);
        self
    }

    /// Appends the record of every change to this file. The authority creates a missing file with
    /// mode
    /// 0600. No other process may write to it.
    ///
    /// A command returns when its record is on disk, or after a second. A failure to append does
    /// not undo the change. The catalog retains the newest 64 records, and this process or the next
    /// appends them when that is possible again.
    ///
    /// Between two polls of the store, which are [`POLL_INTERVAL`] apart, the log records up to 64
    /// changes by other processes. [`Observer::audit_records_lost`] reports more.
    ///
    /// To rotate the file, rename it: the next record goes into a new file. It must not be copied
    /// and truncated.
    pub fn audit_log(mut self, file: impl Into<PathBuf>) -> Self {
        self.audit_log = Some(file.into());
        self
    }

    /// Reports the events of the authority to this observer.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Compiles the component, loads the catalog or creates an empty one, and starts to poll the
    /// store.
    ///
    /// Blocks for some tens of milliseconds in a release build, and for a second or two in one
    /// without optimisation. Fails on a catalog that cannot be read, and on the audit log of
    /// another catalog.
    pub fn build(self) -> Result<Authority, BuildError> {
        let sandbox = Sandbox::new(&self.component)?;
        let store: Arc<dyn Store> = Arc::new(ObservedStore::new(self.store, Arc::clone(&self.observer)));
        // Opened before the first change, which has to be recorded.
        let log = self.audit_log.as_deref().map(AuditLog::open).transpose()?;
        let started = Instant::now();
        let (result, effects) = sandbox.execute(Arc::clone(&store), &Command::Initialize, STARTUP_ORIGIN);
        let catalog_id = result?.and_then(String::try_from).map_err(BuildError::Catalog)?;
        // The component has loaded the catalog, as it returned its identifier.
        let snapshot =
            VersionedSnapshot { number: 1, snapshot: Arc::new(effects.snapshot.unwrap_or_default()) };
        let audit = match log {
            Some(log) => Some(start_audit_writer(log, &sandbox, &snapshot, Arc::clone(&self.observer))?),
            None => None,
        };
        let shared = Arc::new(Shared::new(Parts {
            sandbox,
            store,
            catalog_id,
            max_staleness: self.max_staleness,
            observer: self.observer,
            audit,
            snapshot,
            started,
        }));
        shared.refresh_operator_last_used();
        let poller = StorePoller::start(Arc::clone(&shared)).map_err(BuildError::Thread)?;
        Ok(Authority::new(shared, poller))
    }
}

#[cfg(feature = "async")]
impl Builder<'_> {
    /// The same configuration, for another thread.
    pub(crate) fn into_owned(self) -> Builder<'static> {
        Builder { component: Cow::Owned(self.component.into_owned()), ..self }
    }
}

impl fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_staleness, audit_log, .. } = self;
        f.debug_struct("Builder")
            .field("max_staleness", max_staleness)
            .field("audit_log", audit_log)
            .finish_non_exhaustive()
    }
}

/// Appends the retained records to the log and starts the thread that writes it from then on.
fn start_audit_writer(
    mut log: AuditLog,
    sandbox: &Sandbox,
    snapshot: &VersionedSnapshot,
    observer: Arc<dyn Observer>,
) -> Result<Audit, BuildError> {
    let records = sandbox.read(snapshot.number, || snapshot.clone(), |reader| reader.audit(None))?;
    let retained = RetainedRecord::read(records.map_err(BuildError::Catalog)?.lines)?;
    let attempted = match log.append_missing(&retained) {
        // As with a later change: a full disk is no reason to refuse all tokens.
        attempted @ (Ok(_) | Err(AuditLogError::Append { .. })) => attempted,
        Err(error) => return Err(error.into()),
    };
    let writer = AuditWriter::start(log, retained, attempted, observer).map_err(BuildError::Thread)?;
    Ok(Audit::new(writer))
}

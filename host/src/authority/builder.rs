//! Builds an authority: compiles the component, loads the catalog, opens the audit log.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use thiserror::Error;

use crate::audit::{AuditLog, AuditLogError, AuditWriter, RetainedRecord};
use crate::authority::api::Authority;
use crate::authority::boot_clock;
use crate::authority::freshness::{Proof, ProofSource};
use crate::authority::high_water::{HighWaterError, HighWaterMark};
use crate::authority::lineage::{CatalogPosition, CatalogRefusal, CheckedStore, Examined, Lineage};
use crate::authority::poller::StorePoller;
use crate::authority::snapshot::{Parts, Shared};
use crate::command::Command;
use crate::observed_store::ObservedStore;
use crate::observer::{NoopObserver, Observer};
use crate::sandbox::{BUILT_IN_COMPONENT, Executed, Sandbox, SandboxError, Trap, VersionedSnapshot};
use crate::store::{POLL_INTERVAL, Store, StoreError};
use crate::token::{CommandError, Timestamp, now};

/// The default of [`Builder::max_staleness`]. Longer than a checkpoint or a short lock of the
/// database, and short enough that a revocation by another process is not ignored for long.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(10);

/// The minimum of [`Builder::max_staleness`]: with less, one slow poll would refuse all tokens.
pub const MIN_MAX_STALENESS: Duration = POLL_INTERVAL.saturating_mul(2);

/// The minimum of [`Builder::poll_interval`].
pub const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum of [`Builder::poll_interval`].
pub const MAX_POLL_INTERVAL: Duration = Duration::from_hours(1);

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
    /// The store went back: it holds another catalog than this node has seen, or an older state.
    #[error("{}", refusal_text(refusal, *accepted_at))]
    Refused {
        /// The difference.
        refusal: CatalogRefusal,
        /// When an operator has accepted this sequence before; it is accepted once.
        accepted_at: Option<Timestamp>,
    },
    /// The high-water mark cannot be used.
    #[error(transparent)]
    HighWater(#[from] HighWaterError),
    /// The audit log cannot be used, or belongs to another catalog.
    #[error(transparent)]
    AuditLog(#[from] AuditLogError),
    /// The maximum staleness is shorter than two poll intervals: one slow read would refuse all
    /// tokens.
    #[error(
        "tokens are accepted for {max_staleness:?} after a read of the token store, and it is read every \
         {poll_interval:?}: set --max-staleness to at least {:?}, or --poll-interval to at most {:?}",
        *poll_interval * 2, *max_staleness / 2
    )]
    TooRarePolls {
        /// How long tokens are accepted without an answer of the store.
        max_staleness: Duration,
        /// The time between two reads.
        poll_interval: Duration,
    },
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
    poll_interval: Option<Duration>,
    audit_log: Option<PathBuf>,
    high_water_mark: Option<PathBuf>,
    accept_catalog_at: Option<u64>,
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
            poll_interval: None,
            audit_log: None,
            high_water_mark: None,
            accept_catalog_at: None,
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
    ///
    /// The build fails if it is shorter than two [poll intervals](Self::poll_interval), and logs a
    /// warning if it is shorter than four: one lost poll is then felt. A command begins no call of
    /// the store after half of this time.
    pub fn max_staleness(mut self, max_staleness: Duration) -> Self {
        self.max_staleness = max_staleness.max(MIN_MAX_STALENESS);
        self
    }

    /// The time between two reads of the store that look for changes by other processes; the
    /// default is [`Store::interval`]. It becomes at least [`MIN_POLL_INTERVAL`] and at most
    /// [`MAX_POLL_INTERVAL`].
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = Some(interval);
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
    /// Between two polls of the store, which are one [`poll_interval`](Self::poll_interval) apart,
    /// the log records up to 64 changes by other processes.
    /// [`Observer::audit_records_lost`] reports more.
    ///
    /// To rotate the file, rename it: the next record goes into a new file. It must not be copied
    /// and truncated.
    pub fn audit_log(mut self, file: impl Into<PathBuf>) -> Self {
        self.audit_log = Some(file.into());
        self
    }

    /// Keeps the newest state of the catalog that this node has seen in this file, of mode 0600.
    /// The start fails with [`BuildError::Refused`] if the store holds an older state, a history
    /// that does not continue the newest one, another catalog, or none.
    ///
    /// A thread writes the file within a second of a change, also of a change by another process,
    /// and at the drop of the authority. On another disk than the store, the file also shows that
    /// the disk of the store went back. Servers on one store and one machine may share the file.
    pub fn high_water_mark(mut self, file: impl Into<PathBuf>) -> Self {
        self.high_water_mark = Some(file.into());
        self
    }

    /// Accepts a state of the store that would be [refused](BuildError::Refused), if its sequence is
    /// this one; 0 is an empty store. An audit log of the newer state is renamed.
    ///
    /// The use is noted in the file of the [high-water mark](Self::high_water_mark), and a second
    /// use of the same sequence is refused. Where nothing is refused, this has no effect.
    pub fn accept_catalog_at(mut self, sequence: u64) -> Self {
        self.accept_catalog_at = Some(sequence);
        self
    }

    /// Reports the events of the authority to this observer.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Loads the catalog or creates an empty one, and starts to poll the store.
    ///
    /// Blocks for the first read of the store. Without the feature `precompiled`, or with another
    /// component, it also compiles the component, for about a tenth of a second. Fails on a catalog
    /// that cannot be read, and on the audit log of another catalog.
    pub fn build(self) -> Result<Authority, BuildError> {
        let poll_interval = self.checked_interval()?;
        let sandbox = Arc::new(Sandbox::new(&self.component)?);
        let store: Arc<dyn Store> = Arc::new(ObservedStore::new(self.store, Arc::clone(&self.observer)));
        // Opened before the first change, which has to be recorded.
        let mut log = self.audit_log.as_deref().map(AuditLog::open).transpose()?;
        let accept = self.accept_catalog_at;
        let mark = self.high_water_mark.as_deref();
        let mark = mark.map(|path| HighWaterMark::open(path, accept.is_some())).transpose()?;
        let unavailable =
            |error: StoreError| BuildError::Catalog(CommandError::Unavailable(error.to_string()));
        let entry = store.load().map_err(unavailable)?;
        let examined = Examined::of_entry(&sandbox, entry.as_ref())?.map_err(BuildError::Catalog)?;
        let version = entry.as_ref().map(|entry| entry.version.clone());
        let start = start_lineage(&examined, mark.as_ref(), &mut log, accept)?;
        let lineage = Arc::new(Lineage::new(start, version.clone()));
        let checked = CheckedStore::new(
            Arc::clone(&store),
            Arc::clone(&sandbox),
            Arc::clone(&lineage),
            Arc::new(entry.into()),
            self.max_staleness / 2,
        );
        let began = boot_clock::now();
        let Executed { result, effects, instance } =
            sandbox.execute(0, Arc::new(checked), &Command::Initialize, STARTUP_ORIGIN);
        let catalog_id = result?.and_then(String::try_from).map_err(BuildError::Catalog)?;
        // The component has loaded the catalog, as it returned its identifier.
        let snapshot = VersionedSnapshot {
            number: 1,
            snapshot: Arc::new(effects.snapshot.unwrap_or_default()),
            confirmed: Arc::new(AtomicU64::new(Proof::new(began, ProofSource::Start).word())),
        };
        let mut reader = instance.and_then(|instance| {
            let reader = instance.into_reader(snapshot.clone());
            reader.inspect_err(|trap| tracing::error!("{trap}")).ok().flatten()
        });
        let examined = if snapshot.snapshot.version() == version.as_ref() {
            examined
        } else {
            let entry = snapshot.snapshot.entry();
            let examined = match &mut reader {
                Some(reader) => Examined::of_instance(entry, reader, None),
                None => Examined::of_entry(&sandbox, entry),
            };
            match examined {
                Ok(examined) => examined.map_err(BuildError::Catalog)?,
                // A component that cannot read its catalog denies every request. Without witness
                // there is nothing to compare.
                Err(_) if mark.is_none() && log.is_none() => {
                    reader = None;
                    Examined::empty()
                }
                Err(trap) => return Err(trap.into()),
            }
        };
        if let Some(reader) = reader {
            sandbox.install(reader);
        }
        if let (Some(mark), Some(position)) = (&mark, &examined.position) {
            mark.advance(position);
        }
        lineage.advance(examined.position, snapshot.snapshot.version().cloned());
        let audit = match log {
            Some(log) => Some(start_audit_writer(log, examined.records, Arc::clone(&self.observer))?),
            None => None,
        };
        let shared = Arc::new(Shared::new(Parts {
            sandbox,
            store,
            catalog_id,
            max_staleness: self.max_staleness,
            poll_interval,
            observer: self.observer,
            audit,
            high_water: mark,
            lineage,
            snapshot,
            newest_at: examined.newest_at,
        }));
        shared.refresh_operator_last_used();
        let poller = StorePoller::start(Arc::clone(&shared)).map_err(BuildError::Thread)?;
        Ok(Authority::new(shared, poller))
    }

    /// The time between two polls, if the maximum staleness has room for it.
    fn checked_interval(&self) -> Result<Duration, BuildError> {
        let interval = self.poll_interval.unwrap_or_else(|| self.store.interval());
        let interval = interval.clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL);
        let max_staleness = self.max_staleness;
        if max_staleness < interval * 2 {
            return Err(BuildError::TooRarePolls { max_staleness, poll_interval: interval });
        }
        if max_staleness < interval * 4 {
            tracing::warn!(
                "tokens are accepted for {max_staleness:?} after a read of the token store, and it is read every \
                 {interval:?}: a lost read can refuse all tokens; set --max-staleness to at least {:?}, or \
                 --poll-interval to at most {:?}",
                interval * 4,
                max_staleness / 4
            );
        }
        Ok(interval)
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
        let Self { max_staleness, poll_interval, audit_log, .. } = self;
        f.debug_struct("Builder")
            .field("max_staleness", max_staleness)
            .field("poll_interval", poll_interval)
            .field("audit_log", audit_log)
            .finish_non_exhaustive()
    }
}

/// Returns the state that every later one must continue: the one that the store holds now, if it
/// continues the high-water mark and the audit log, or if the operator accepts it.
fn start_lineage(
    examined: &Examined,
    mark: Option<&HighWaterMark>,
    log: &mut Option<AuditLog>,
    accept: Option<u64>,
) -> Result<Option<CatalogPosition>, BuildError> {
    let newest = mark.and_then(HighWaterMark::newest);
    let by_mark = newest.as_ref().map_or(Ok(()), |newest| examined.check_continues(newest));
    let by_log = log.as_ref().map_or(Ok(()), |log| log.check_continued_by(&examined.records));
    let sequence = examined.sequence();
    if by_mark.is_ok()
        && by_log.is_err()
        && let Some((mark, log)) = mark.zip(log.as_mut())
        && let Some(replaced_at) = log.last_sequence().and_then(|last| mark.replaced_history(last))
    {
        // A restore has replaced that history, and the mark has noted it.
        log.set_aside(replaced_at)?;
        return Ok(newest.or_else(|| examined.position.clone()));
    }
    if accept != Some(sequence) || (by_mark.is_ok() && by_log.is_ok()) {
        by_mark.map_err(|refusal| BuildError::Refused { refusal, accepted_at: None })?;
        by_log?;
        return Ok(newest.or_else(|| examined.position.clone()));
    }
    if let Some(mark) = mark {
        if let (Some(at), Err(refusal)) = (mark.accepted_at(sequence), &by_mark) {
            return Err(BuildError::Refused { refusal: refusal.clone(), accepted_at: Some(at) });
        }
        let logged = log.as_ref().and_then(AuditLog::last_sequence).unwrap_or(0);
        mark.accept(sequence, examined.position.as_ref(), logged)?;
    }
    tracing::warn!("accepting the catalog at sequence {sequence} although this node has seen a newer state");
    if by_log.is_err()
        && let Some(log) = log
    {
        log.set_aside(sequence)?;
    }
    Ok(examined.position.clone())
}

/// The text of [`BuildError::Refused`] with the next step.
fn refusal_text(refusal: &CatalogRefusal, accepted_at: Option<Timestamp>) -> String {
    let sequence = refusal.found_sequence();
    match accepted_at {
        None => format!(
            "{refusal}; put the newest catalog back, or a backup with `restore`, which replaces the operator token; if \
             this state is meant as it is, start with --accept-catalog-at {sequence}"
        ),
        Some(at) => format!(
            "{refusal}; --accept-catalog-at {sequence} was used before, {} seconds ago, and accepts a sequence once; put the \
             newest catalog back, or a backup with `restore`, which replaces the operator token",
            now().saturating_sub(at) / 1000
        ),
    }
}

/// Appends the retained records to the log and starts the thread that writes it from then on.
fn start_audit_writer(
    mut log: AuditLog,
    retained: Vec<RetainedRecord>,
    observer: Arc<dyn Observer>,
) -> Result<AuditWriter, BuildError> {
    let attempted = match log.append_missing(&retained) {
        // As with a later change: a full disk is no reason to refuse all tokens.
        attempted @ (Ok(_) | Err(AuditLogError::Append { .. })) => attempted,
        Err(error) => return Err(error.into()),
    };
    AuditWriter::start(log, retained, attempted, observer).map_err(BuildError::Thread)
}

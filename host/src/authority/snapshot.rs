//! The current snapshot of the catalog, shared by all clones of an authority and its poller.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::audit::AuditWriter;
use crate::authority::boot_clock;
use crate::authority::command_lock::CommandLock;
use crate::authority::freshness::{Freshness, Proof, ProofSource};
use crate::authority::high_water::HighWaterMark;
use crate::authority::last_used::OperatorLastUsed;
use crate::authority::lineage::{CatalogRefusal, CheckedStore, Examined, Lineage, LineageError};
use crate::authority::poll_signal::PollSignal;
use crate::authority::store_clock::{CLOCK_TOLERANCE, StoreClock};
use crate::command::{Command, Outcome};
use crate::observer::Observer;
use crate::sandbox::linker::{Snapshot, StoreEffects};
use crate::sandbox::{CallResult, CommandInstance, Executed, ReadInstance, Sandbox, Trap, VersionedSnapshot};
use crate::store::{Store, StoreError, relocation};
use crate::token::{AuthenticateError, CommandError, Timestamp, TokenInfo, now};

/// The commands of one authority that block a thread at a time. They wait for each other at the
/// store; a higher number of threads would only wait there. A function that only reads needs no
/// permit.
#[cfg(feature = "async")]
pub(crate) const MAX_CONCURRENT_COMMANDS: usize = 4;

/// How long a command waits for the one before it.
const COMMAND_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a command that was slow waits for a read that proves its change again.
const PROOF_TIMEOUT: Duration = Duration::from_secs(2);

/// The error text of a trap. Its cause is for the log, not for the client.
pub(crate) const COMPONENT_FAILED: &str = "the sandboxed component failed";

/// The state of an authority.
pub(crate) struct Shared {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog_id: String,
    pub(crate) freshness: Freshness,
    pub(crate) poll_interval: Duration,
    pub(crate) poll_signal: Arc<PollSignal>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) audit: Option<AuditWriter>,
    pub(crate) high_water: Option<HighWaterMark>,
    pub(crate) operator: OperatorLastUsed,
    pub(crate) traps: AtomicU64,
    /// The names of all tokens, after the first query for one.
    names: Mutex<TokenNameCache>,
    current: RwLock<VersionedSnapshot>,
    /// The number of that snapshot, which a request compares before it reads the snapshot.
    current_number: AtomicU64,
    /// The states that may follow the current one.
    lineage: Arc<Lineage>,
    /// Why the state in the store is not published, if it is not.
    refusal: Mutex<Option<CatalogRefusal>>,
    /// The time of the newest record of the current snapshot.
    newest_at: AtomicU64,
    /// Whether the clock was behind that record at the last poll.
    clock_is_behind: AtomicBool,
    store_clock: StoreClock,
    /// Held by a command, so that the commands of one process do not race for the store.
    commands: CommandLock,
    /// Locked to compare a state with the current snapshot and to replace that. No call of the
    /// store is made under it.
    publish_lock: Mutex<()>,
    /// The permits of the commands that are awaited.
    #[cfg(feature = "async")]
    pub(crate) command_permits: Arc<tokio::sync::Semaphore>,
}

/// The names of the tokens by their numbers, in the snapshot of this number; 0 is none.
#[derive(Default)]
struct TokenNameCache {
    number: u64,
    by_id: HashMap<u64, Arc<str>>,
}

/// The parts of [`Shared`] that its builder makes.
pub(crate) struct Parts {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalog_id: String,
    pub(crate) max_staleness: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) audit: Option<AuditWriter>,
    pub(crate) high_water: Option<HighWaterMark>,
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) snapshot: VersionedSnapshot,
    /// The time of its newest record.
    pub(crate) newest_at: Option<Timestamp>,
}

/// Why a poll did not confirm the current snapshot.
#[derive(Debug)]
pub(crate) enum PollError {
    /// The store failed.
    Store(StoreError),
    /// The component failed to read the catalog.
    Trap,
    /// The store went back.
    Refused(CatalogRefusal),
    /// The store holds no readable catalog, for this reason: all tokens are refused at once.
    Unusable(String),
}

impl PollError {
    /// One word for metrics.
    pub(crate) const fn outcome(&self) -> &'static str {
        match self {
            Self::Store(_) => "unavailable",
            Self::Trap | Self::Unusable(_) => "failed",
            Self::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for PollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "the token store does not answer: {error}"),
            Self::Trap => write!(f, "the token store cannot be used: {COMPONENT_FAILED}"),
            Self::Unusable(why) => write!(f, "the token store cannot be used: {why}"),
            Self::Refused(refusal) => write!(
                f,
                "{refusal}; changes are refused; put the newest catalog back, or stop the server and start it with \
                 --accept-catalog-at {} if this state is meant",
                refusal.found_sequence()
            ),
        }
    }
}

/// When the current operator secret was created; `None` if there is none. A client that requests
/// the status gets the error.
fn secret_created_at(reader: &mut ReadInstance) -> Result<Option<Timestamp>, Trap> {
    let status = reader.status()?.ok().flatten();
    Ok(status.map(|status| status.info.updated_at.unwrap_or(status.info.created_at)))
}

/// How a state of the store was published.
#[derive(Debug, PartialEq, Eq)]
enum Published {
    /// It is the current snapshot now.
    Changed {
        /// The submission to wait for, if there is an audit log.
        submitted: Option<u64>,
    },
    /// It was the current snapshot before.
    Unchanged,
    /// A newer state was published meanwhile.
    Overtaken,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { sandbox, store, catalog_id, max_staleness, poll_interval, observer, .. } = parts;
        let Parts { audit, high_water, lineage, snapshot, newest_at, .. } = parts;
        Self {
            sandbox,
            store,
            catalog_id,
            freshness: Freshness::new(max_staleness),
            poll_interval,
            poll_signal: Arc::default(),
            observer,
            audit,
            high_water,
            operator: OperatorLastUsed::new(),
            traps: AtomicU64::new(0),
            names: Mutex::default(),
            current_number: AtomicU64::new(snapshot.number),
            current: RwLock::new(snapshot),
            lineage,
            refusal: Mutex::default(),
            newest_at: AtomicU64::new(newest_at.unwrap_or_default()),
            clock_is_behind: AtomicBool::new(false),
            store_clock: StoreClock::default(),
            commands: CommandLock::default(),
            publish_lock: Mutex::default(),
            #[cfg(feature = "async")]
            command_permits: Arc::new(tokio::sync::Semaphore::new(MAX_CONCURRENT_COMMANDS)),
        }
    }

    /// The newest read that has found the current snapshot to be the newest.
    pub(crate) fn proof(&self) -> Proof {
        Proof::load(&self.snapshot().confirmed)
    }

    /// How long ago that read began.
    pub(crate) fn staleness(&self) -> Duration {
        boot_clock::now().since(self.proof().begun)
    }

    /// Whether the current snapshot may be used.
    pub(crate) fn is_fresh(&self) -> bool {
        self.freshness.accepts(&self.snapshot().confirmed, boot_clock::now())
    }

    /// Why the state in the store is not published; `None` if it is.
    pub(crate) fn refusal(&self) -> Option<CatalogRefusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far the clock is behind the newest record.
    pub(crate) fn clock_behind(&self) -> Duration {
        Duration::from_millis(self.newest_at.load(Ordering::Relaxed).saturating_sub(now()))
    }

    /// Checks a token in a read instance of the current snapshot.
    pub(crate) fn check_token<T, E: From<AuthenticateError>>(
        &self,
        call: impl FnOnce(&mut ReadInstance) -> Result<Result<T, E>, Trap>,
    ) -> Result<T, E> {
        let checked = self.read(|reader| {
            let result = call(reader)?;
            // After the call: a process that was stopped in between must not use an old snapshot.
            Ok((result, self.freshness.accepts(&reader.confirmed, boot_clock::now())))
        });
        match checked {
            Ok((result, true)) => result,
            Ok((_, false)) => Err(AuthenticateError::Unavailable(self.refusal().map_or_else(
                || {
                    format!(
                        "the token store has not answered for more than {:?}",
                        self.freshness.max_staleness()
                    )
                },
                |refusal| refusal.to_string(),
            ))
            .into()),
            Err(trap) => {
                self.count_trap(&trap);
                Err(AuthenticateError::Unavailable(COMPONENT_FAILED.to_owned()).into())
            }
        }
    }

    /// Calls a read instance of the current snapshot.
    pub(crate) fn read<T>(&self, call: impl FnOnce(&mut ReadInstance) -> Result<T, Trap>) -> Result<T, Trap> {
        let current = self.current_number.load(Ordering::Acquire);
        self.sandbox.read(current, || self.snapshot(), call)
    }

    /// As [`read`](Self::read), with the error of a command for a trap.
    pub(crate) fn query<T>(
        &self,
        call: impl FnOnce(&mut ReadInstance) -> CallResult<T>,
    ) -> Result<T, CommandError> {
        let result = self.read(call).unwrap_or_else(|trap| {
            self.count_trap(&trap);
            Err(CommandError::Unavailable(COMPONENT_FAILED.to_owned()))
        });
        result.map_err(|error| match self.snapshot().snapshot.entry() {
            // The component reads a note about a move as a damaged catalog.
            Some(entry) => relocation::refusal(&entry.document).map_or(error, CommandError::Unavailable),
            None => error,
        })
    }

    /// Executes a command and publishes the state of the store that it read or wrote.
    pub(crate) fn execute(&self, command: &Command<'_>, origin: &str) -> Result<Outcome, CommandError> {
        let Some(lock) = self.commands.lock(COMMAND_LOCK_TIMEOUT) else {
            return Err(CommandError::Unavailable(format!(
                "another change has waited for the token store for more than {COMMAND_LOCK_TIMEOUT:?}"
            )));
        };
        let began = boot_clock::now();
        let store = Arc::new(self.checked_store());
        let number = self.current_number.load(Ordering::Acquire);
        let Executed { result, effects, instance } =
            self.sandbox.execute(number, Arc::<CheckedStore>::clone(&store), command, origin);
        let StoreEffects { snapshot, wrote } = effects;
        let published = snapshot.map_or(Ok(Published::Unchanged), |snapshot| {
            let read_at = store.read_at(snapshot.version()).unwrap_or(began);
            self.publish(snapshot, Proof::new(read_at, ProofSource::Command), instance)
        });
        drop(lock);
        let is_published = published.is_ok();
        match published {
            // A log that hangs must not delay other commands.
            Ok(Published::Changed { submitted: Some(submitted) }) => {
                if let Some(audit) = &self.audit {
                    audit.wait(submitted);
                }
            }
            Err(error) if wrote => {
                tracing::error!("{error}; all tokens are refused until the change can be read back");
                // Tokens that the change has revoked must not be accepted.
                self.freshness.demand_read_after(boot_clock::now());
            }
            // The next poll reports an error.
            Ok(_) | Err(_) => {}
        }
        let fresh_for = self.freshness.max_staleness() / 2;
        if is_published && wrote && self.staleness() > fresh_for {
            // The store was slow. A read that begins now proves the new snapshot for longer.
            self.poll_signal.wait_until(PROOF_TIMEOUT, || self.staleness() <= fresh_for);
        } else if wrote && (!is_published || matches!(result, Ok(Err(_)))) {
            // The change may be in the store all the same.
            self.poll_signal.notify_news();
        }
        result.unwrap_or_else(|trap| {
            self.count_trap(&trap);
            let why = COMPONENT_FAILED.to_owned();
            Err(if wrote { CommandError::UnknownOutcome(why) } else { CommandError::Unavailable(why) })
        })
    }

    /// The store for the instances that execute commands.
    pub(crate) fn checked_store(&self) -> CheckedStore {
        let (store, sandbox) = (Arc::clone(&self.store), Arc::clone(&self.sandbox));
        let time_limit = self.freshness.max_staleness() / 2;
        CheckedStore::new(store, sandbox, Arc::clone(&self.lineage), self.snapshot().snapshot, time_limit)
    }

    /// The name of the token with this number, from a cache of the current snapshot.
    pub(crate) fn token_name(
        &self,
        id: u64,
        list: impl FnOnce() -> Result<Vec<TokenInfo>, CommandError>,
    ) -> Result<Option<Arc<str>>, CommandError> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Read before the list, which may be that of a newer snapshot.
        let number = self.current_number.load(Ordering::Acquire);
        if names.number != number {
            let by_id = list()?.into_iter().map(|token| (token.id, token.name.into())).collect();
            *names = TokenNameCache { number, by_id };
        }
        Ok(names.by_id.get(&id).cloned())
    }

    /// Compares the store with the current snapshot, and publishes its state if another process has
    /// changed it. Returns whether it has.
    pub(crate) fn poll(&self, source: ProofSource) -> Result<bool, PollError> {
        self.check_clock();
        let current = self.snapshot();
        let read_at = boot_clock::now();
        let version = self.store.version().map_err(PollError::Store)?;
        if let Some(change) = self.store_clock.compare(self.store.clock()) {
            change.log();
        }
        if version.as_ref() == current.snapshot.version() {
            self.confirm(&current, Proof::new(read_at, source));
            return self.lineage.unusable().map_or(Ok(false), |why| Err(PollError::Unusable(why)));
        }
        let read_at = boot_clock::now();
        let snapshot = self.store.load().map_err(PollError::Store)?.into();
        let published = self.publish(snapshot, Proof::new(read_at, source), None)?;
        Ok(matches!(published, Published::Changed { .. }))
    }

    /// Reads the creation time of the operator secret. The read instance has then loaded the
    /// snapshot, before a request waits for that.
    pub(crate) fn refresh_operator_last_used(&self) {
        match self.read(secret_created_at) {
            Ok(created_at) => self.note_operator(created_at),
            Err(trap) => self.count_trap(&trap),
        }
    }

    fn note_operator(&self, secret_created_at: Option<Timestamp>) {
        if let Some(at) = secret_created_at {
            self.operator.set_created_at(at);
        }
    }

    /// Counts, reports and logs a trap.
    pub(crate) fn count_trap(&self, trap: &Trap) {
        self.traps.fetch_add(1, Ordering::Relaxed);
        self.observer.trapped();
        tracing::error!("{trap}");
    }

    fn snapshot(&self) -> VersionedSnapshot {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes a state that this read returned, if it continues the current one. Of two states,
    /// the newer one stays, in whichever order they arrive. `instance` has executed the command
    /// that read or wrote the state, if a command did.
    fn publish(
        &self,
        snapshot: Snapshot,
        proof: Proof,
        instance: Option<CommandInstance>,
    ) -> Result<Published, PollError> {
        let _publish_lock = self.publish_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.snapshot();
        // An equal state stays the same snapshot, or every read instance would load it again.
        if current.snapshot.version() == snapshot.version() {
            self.confirm(&current, proof);
            if let Some(reader) = self.reader_of(instance, &current) {
                self.sandbox.install(reader);
            }
            return Ok(Published::Unchanged);
        }
        let next = VersionedSnapshot {
            number: current.number + 1,
            snapshot: Arc::new(snapshot),
            confirmed: Arc::new(AtomicU64::new(proof.word())),
        };
        // The audit log may need all of them again, for a file that was cut or deleted.
        let after = if self.audit.is_some() { None } else { self.lineage.compared_after() };
        let opened =
            self.reader_of(instance, &next).map_or_else(|| self.sandbox.open_reader(next.clone()), Ok);
        let opened = opened.and_then(|mut reader| {
            let examined = Examined::of_instance(next.snapshot.entry(), &mut reader, after)?;
            Ok(examined.map(|examined| (examined, reader)))
        });
        let (examined, mut reader) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) if self.lineage.is_overtaken(proof.begun) => return Ok(Published::Overtaken),
            Ok(Err(error)) => {
                // It denies every token from now on. The next readable state must continue the one
                // before it.
                let why = error.to_string();
                self.replace_current(next);
                self.lineage.note_unusable(&why);
                return Err(PollError::Unusable(why));
            }
            Err(trap) => {
                self.count_trap(&trap);
                return Err(PollError::Trap);
            }
        };
        match self.lineage.check(&examined, proof.begun) {
            Ok(()) => {}
            Err(LineageError::Overtaken) => return Ok(Published::Overtaken),
            Err(LineageError::Refused(refusal)) => {
                self.set_refusal(Some(refusal.clone()));
                return Err(PollError::Refused(refusal));
            }
        }
        let secret_created_at = secret_created_at(&mut reader);
        let Examined { position, newest_at, records, .. } = examined;
        let version = next.snapshot.version().cloned();
        self.replace_current(next);
        match secret_created_at {
            Ok(created_at) => {
                self.note_operator(created_at);
                self.sandbox.install(reader);
            }
            // An instance that trapped must not be called again.
            Err(trap) => self.count_trap(&trap),
        }
        if let (Some(mark), Some(position)) = (&self.high_water, &position) {
            mark.advance(position);
        }
        self.lineage.advance(position, version);
        self.newest_at.store(newest_at.unwrap_or_default(), Ordering::Relaxed);
        self.set_refusal(None);
        // Under the lock, and so in the order of the changes.
        let submitted = self.audit.as_ref().map(|audit| audit.submit(records));
        Ok(Published::Changed { submitted })
    }

    /// The read instance that the instance of a command becomes, if it holds this very snapshot.
    fn reader_of(
        &self,
        instance: Option<CommandInstance>,
        snapshot: &VersionedSnapshot,
    ) -> Option<ReadInstance> {
        instance?.into_reader(snapshot.clone()).unwrap_or_else(|trap| {
            self.count_trap(&trap);
            None
        })
    }

    fn replace_current(&self, next: VersionedSnapshot) {
        let number = next.number;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        self.current_number.store(number, Ordering::Release);
    }

    /// Accepts any state as the next one.
    #[cfg(feature = "test-suite")]
    pub(crate) fn forget_catalog(&self) {
        self.lineage.advance(None, None);
    }

    /// Moves the proof that a snapshot is the newest.
    fn confirm(&self, snapshot: &VersionedSnapshot, proof: Proof) {
        proof.extend(&snapshot.confirmed);
        self.set_refusal(None);
    }

    fn set_refusal(&self, refusal: Option<CatalogRefusal>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    /// Logs a clock that is behind the newest record, once.
    fn check_clock(&self) {
        let behind = self.clock_behind();
        let is_behind = behind > CLOCK_TOLERANCE;
        if self.clock_is_behind.swap(is_behind, Ordering::Relaxed) == is_behind {
            return;
        }
        if is_behind {
            tracing::warn!(
                "the clock of this machine is {}s behind the newest audit record; until it has caught up, deadlines \
                 are compared with the time of that record",
                behind.as_secs()
            );
        } else {
            tracing::info!("the clock of this machine is no longer behind the newest audit record");
        }
    }
}

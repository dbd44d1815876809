//! The authority: whose token is this, and the commands that change tokens.
//!
//! Owns the published snapshot of the catalog. Authentication is answered from it at once; a command goes to the
//! store, and what it has seen there is published before its answer leaves. Knows the sandbox and the store, nothing
//! of HTTP.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::audit::{AuditLog, AuditLogError, AuditWriter, RetainedRecord};
use crate::observed_store::Measured;
use crate::observer::{Nobody, Observer};
use crate::sandbox::{
    Answer, BUILT_IN_COMPONENT, Numbered, Sandbox, SandboxError, Seen, Snapshot, Trap, Writer,
};
use crate::secret::Secret;
use crate::store::{Store, StoreError, Version};
use crate::token::{
    AuthenticateError, CommandError, IssuedToken, OperatorStatus, Preset, Principal, StagedSecret, Timestamp,
    TokenInfo, now,
};

/// How often the store is asked whether somebody else has changed the catalog. Once a regenerate is answered, every
/// other process on the same store refuses the old token within this time and the one read that follows.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long tokens are accepted without word from the store, unless the builder is told otherwise. Long enough for
/// a checkpoint or a short lock of the database, short enough that a revocation elsewhere is not ignored for long.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(10);

/// The least that can be said for that: with less, a poll that takes a moment longer than usual would have all tokens refused.
pub const MIN_MAX_STALENESS: Duration = POLL_INTERVAL.saturating_mul(2);

/// How long the last of an authority's clones waits, when it is dropped, for the store to answer a question that it was
/// asked just then.
pub const DROP_PATIENCE: Duration = Duration::from_secs(1);

/// The origin of what an authority does when it starts, for the audit record.
const START: &str = "start";

/// What a caller is told of a trap. What the component stumbled over is for the log, not for whoever presented a token.
const COMPONENT_FAILED: &str = "the sandboxed component failed";

/// An operator-token authority over one store. Clones are the same authority.
///
/// When the last clone is gone, so is its thread, and with it the lock of its audit log: whoever builds another one on the
/// same log after that finds it free. Dropping the last clone waits for a poll that is under way, and for no longer than
/// [`DROP_PATIENCE`] if the store does not answer that; store and log are then let go when it does.
///
/// ```
/// use optoken::authority::Authority;
/// use optoken::store::MemoryStore;
/// use optoken::token::AuthenticateError;
///
/// let authority = Authority::builder(MemoryStore::default()).build()?;
/// let first = authority.create_operator("example")?;
/// let second = authority.regenerate(&first.secret, 0, "example")?;
///
/// assert_eq!(authority.authenticate(first.secret.expose()), Err(AuthenticateError::Unknown));
/// assert!(authority.authenticate(second.secret.expose())?.operator);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
    /// Held by all clones, and by nobody else: what is in there ends with the last of them.
    _watcher: Arc<Watcher>,
}

struct Inner {
    sandbox: Sandbox,
    store: Arc<dyn Store>,
    catalog_id: String,
    max_staleness: Duration,
    /// The snapshot that tokens are checked against.
    published: RwLock<Numbered>,
    /// The number of that snapshot: what a request needs to know of it, unless it is new.
    newest: AtomicU64,
    /// When the store last said that this is the newest, in milliseconds since `started`.
    confirmed: AtomicU64,
    started: Instant,
    /// Held by whoever reads the store in order to publish: what is read under it is newer than what is published. Audit records
    /// are handed over under it, too, so in that order.
    publishing: Mutex<()>,
    audit: Option<Audit>,
    /// The names of all tokens, once one was asked for.
    names: Mutex<Names>,
    observer: Arc<dyn Observer>,
    traps: AtomicU64,
    operator: OperatorUse,
    /// The turns of the commands that are awaited.
    #[cfg(feature = "async")]
    turns: Arc<tokio::sync::Semaphore>,
}

/// Where records go beside the catalog.
struct Audit {
    recorder: AuditWriter,
    /// Whether the newest could not be had from the component.
    missed: AtomicBool,
}

/// When this process last accepted the operator token, and the one before it.
#[derive(Default)]
struct OperatorUse {
    /// In milliseconds since the epoch; 0 for never.
    current: AtomicU64,
    replaced: AtomicU64,
    /// When the current one was made, to notice when there is another.
    made: AtomicU64,
    /// When this process began to look.
    since: Timestamp,
}

/// When this process last accepted the operator token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastUsed {
    /// The current one; `None` if not since the start or since it became that.
    pub current: Option<Timestamp>,
    /// The one before, where it is still accepted.
    pub replaced: Option<Timestamp>,
    /// When this process was started: of what was before, it knows nothing.
    pub since: Timestamp,
}

impl OperatorUse {
    fn used(&self, replaced: bool) {
        let used = if replaced { &self.replaced } else { &self.current };
        used.store(now(), Ordering::Relaxed);
    }

    /// The current one was made at this time. If that is another one, what was said of the old one is said of the
    /// replaced one.
    fn is_made(&self, at: Timestamp) {
        if self.made.swap(at, Ordering::Relaxed) != at {
            self.replaced.store(self.current.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// The names of the tokens by their ids, in the snapshot of this number; 0 is none.
#[derive(Default)]
struct Names {
    number: u64,
    by_id: HashMap<u64, Arc<str>>,
}

/// The authority cannot start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The component is not one that this host can run.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The store does not answer, or not with a catalog of this version.
    #[error("cannot use the token store: {0}")]
    Catalog(CommandError),
    /// The component fails already in reading the catalog.
    #[error(transparent)]
    Trap(#[from] Trap),
    /// The audit log cannot be used, or belongs to another catalog.
    #[error(transparent)]
    AuditLog(#[from] AuditLogError),
    /// The machine does not let a thread start.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The store or the observer has panicked, in `build_async`; in [`build`](Builder::build) that panic goes on.
    #[error("the token store panicked")]
    Panicked,
}

/// How to make an [`Authority`].
#[must_use]
pub struct Builder<'a> {
    store: Arc<dyn Store>,
    component: Cow<'a, [u8]>,
    max_staleness: Duration,
    audit_log: Option<PathBuf>,
    observer: Arc<dyn Observer>,
}

impl<'a> Builder<'a> {
    /// Runs this component instead of the built-in one.
    pub fn component(mut self, component: impl Into<Cow<'a, [u8]>>) -> Self {
        self.component = component.into();
        self
    }

    /// How long tokens are accepted without word from the store; [`DEFAULT_MAX_STALENESS`] if not said. Less than
    /// [`MIN_MAX_STALENESS`] is taken for that.
    pub fn max_staleness(mut self, max_staleness: Duration) -> Self {
        self.max_staleness = max_staleness.max(MIN_MAX_STALENESS);
        self
    }

    /// Appends the record of every change to this file, which is made with mode 0600 if there is none, and which no other
    /// process may write to.
    ///
    /// A command answers when its record is on disk, or after a second. Where it cannot be appended, the change stays made: the
    /// catalog keeps the records of the newest 64, and they are appended once that is possible again, by this process or
    /// the next.
    ///
    /// Of changes that others make on the same store, no more than 64 are recorded from one look at the store to the next,
    /// every [`POLL_INTERVAL`]. [`Observer::records_lost`] tells of more.
    ///
    /// To rotate the file, move it away: the next record goes into a new one. It must not be copied and truncated.
    pub fn audit_log(mut self, file: impl Into<PathBuf>) -> Self {
        self.audit_log = Some(file.into());
        self
    }

    /// Tells this observer what the authority does.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Compiles the component, reads the catalog, or makes an empty one, and starts to watch the store for changes of
    /// others.
    ///
    /// Blocks for some tens of milliseconds in a release build, and for a second or two in one without optimisation. Fails,
    /// rather than start, on a catalog that cannot be read, and on an audit log that is not its own.
    pub fn build(self) -> Result<Authority, BuildError> {
        let sandbox = Sandbox::new(&self.component)?;
        let store: Arc<dyn Store> = Arc::new(Measured::new(self.store, Arc::clone(&self.observer)));
        // Before anything is changed that has to be recorded.
        let log = self.audit_log.as_deref().map(AuditLog::open).transpose()?;
        let started = Instant::now();
        let (catalog_id, seen) = {
            let mut writer = sandbox.writer(Arc::clone(&store))?;
            let answer = writer.initialize(START);
            (answer?.map_err(BuildError::Catalog)?, writer.finish())
        };
        // It has read the catalog, or it would not know its name.
        let snapshot = seen.snapshot.unwrap_or_default();
        let published = Numbered { number: 1, snapshot: Arc::new(snapshot) };
        let audit = match log {
            Some(log) => Some(start_recorder(log, &sandbox, &published, Arc::clone(&self.observer))?),
            None => None,
        };
        let inner = Arc::new(Inner {
            sandbox,
            store,
            catalog_id,
            max_staleness: self.max_staleness,
            newest: AtomicU64::new(published.number),
            published: RwLock::new(published),
            confirmed: AtomicU64::new(0),
            started,
            publishing: Mutex::default(),
            audit,
            names: Mutex::default(),
            observer: self.observer,
            traps: AtomicU64::new(0),
            operator: OperatorUse { since: now(), ..OperatorUse::default() },
            #[cfg(feature = "async")]
            turns: Arc::new(tokio::sync::Semaphore::new(crate::async_authority::MAX_COMMANDS)),
        });
        inner.look_at_operator();
        let watcher = Watcher::start(Arc::clone(&inner)).map_err(BuildError::Thread)?;
        Ok(Authority { inner, _watcher: Arc::new(watcher) })
    }
}

#[cfg(feature = "async")]
impl Builder<'_> {
    /// The same, for another thread.
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

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("catalog_id", &self.inner.catalog_id)
            .field("staleness", &self.staleness())
            .field("traps", &self.traps())
            .finish_non_exhaustive()
    }
}

/// Brings the log up to date and lets it be written from here on.
fn start_recorder(
    mut log: AuditLog,
    sandbox: &Sandbox,
    published: &Numbered,
    observer: Arc<dyn Observer>,
) -> Result<Audit, BuildError> {
    let kept = sandbox.audit(published.number, || published.clone())?.map_err(BuildError::Catalog)?;
    let kept = RetainedRecord::read(kept)?;
    let tried = match log.append_missing(&kept) {
        // As with a change that is made later: a full disk is no reason to refuse all tokens.
        tried @ (Ok(_) | Err(AuditLogError::Append { .. })) => tried,
        Err(error) => return Err(error.into()),
    };
    let recorder = AuditWriter::start(log, kept, tried, observer).map_err(BuildError::Thread)?;
    Ok(Audit { recorder, missed: AtomicBool::new(false) })
}

impl Authority {
    /// Starts to build an authority over a store, with the built-in component.
    pub fn builder(store: impl Store) -> Builder<'static> {
        Self::builder_shared(Arc::new(store))
    }

    /// As [`builder`](Self::builder), over a store that others use as well.
    pub fn builder_shared(store: Arc<dyn Store>) -> Builder<'static> {
        Builder {
            store,
            component: Cow::Borrowed(BUILT_IN_COMPONENT),
            max_staleness: DEFAULT_MAX_STALENESS,
            audit_log: None,
            observer: Arc::new(Nobody),
        }
    }

    /// Tells whose token this is.
    ///
    /// Answers from memory in about a microsecond, so it may be called from async code. It waits for no store and no command;
    /// where as many calls are under way as the machine has processors, it waits for one of them. Denies whenever it is not
    /// certain: a failing component or a store that has been silent for too long are
    /// [`Unavailable`](AuthenticateError::Unavailable), which is not the same as a wrong token.
    pub fn authenticate(&self, credential: &str) -> Result<Principal, AuthenticateError> {
        let answer = self.judge(credential);
        self.inner.observer.authenticated(&answer);
        if let Ok(principal) = &answer
            && principal.operator
        {
            self.inner.operator.used(principal.replaced);
        }
        answer
    }

    fn judge(&self, credential: &str) -> Result<Principal, AuthenticateError> {
        let inner = &*self.inner;
        if inner.staleness() > inner.max_staleness {
            return Err(AuthenticateError::Unavailable(format!(
                "the token store has not answered for more than {:?}",
                inner.max_staleness
            )));
        }
        let newest = inner.newest.load(Ordering::Acquire);
        inner.sandbox.authenticate(newest, || inner.published(), credential).unwrap_or_else(|trap| {
            inner.count(&trap);
            Err(AuthenticateError::Unavailable(COMPONENT_FAILED.to_owned()))
        })
    }

    /// Makes the operator token, if there is none. Whoever may call this becomes the operator.
    ///
    /// Like all commands it blocks until the change is durable, which takes as long as the store takes, and
    /// commands of one authority take turns. `origin` says where the request came from, for the
    /// audit record; it decides nothing.
    pub fn create_operator(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        self.command("create_operator", |writer| writer.create_operator(origin)).inspect(|issued| {
            tracing::info!(token_id = issued.info.id, origin, "operator token created");
        })
    }

    /// Makes a named admin token that is accepted for `lifetime_seconds`, or for ever; with 0 it has expired already.
    /// `credential` may be any accepted token.
    ///
    /// `name` is 1 to 128 bytes of visible text that neither begins nor ends with a space and looks neither like `_admin` nor
    /// like a token; anything else is an [`InvalidArgument`](CommandError::InvalidArgument), one that is in use
    /// [`AlreadyExists`](CommandError::AlreadyExists). A catalog holds 10,000 tokens, then it is
    /// [`Full`](CommandError::Full).
    pub fn create_named(
        &self,
        credential: &Secret,
        name: &str,
        lifetime_seconds: Option<u64>,
        origin: &str,
    ) -> Result<IssuedToken, CommandError> {
        self.command("create_named", |writer| {
            writer.create_named(credential.expose(), name, lifetime_seconds, origin)
        })
        .inspect(|issued| tracing::info!(token_id = issued.info.id, origin, "named admin token created"))
    }

    /// Replaces the operator token; `credential` must be the one that is replaced. When this answers, the old token
    /// is refused, unless `overlap_seconds` is more than 0: then it is accepted for so long, up to 30 days, which are
    /// 2,592,000. More is an [`InvalidArgument`](CommandError::InvalidArgument). Whatever was
    /// staged or overlapping before ends.
    pub fn regenerate(
        &self,
        credential: &Secret,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<IssuedToken, CommandError> {
        self.command("regenerate", |writer| writer.regenerate(credential.expose(), overlap_seconds, origin))
            .inspect(|issued| tracing::info!(token_id = issued.info.id, origin, "operator token regenerated"))
    }

    /// Lets a secret wait to become that of the operator token, which stays in force; `credential` must be that. The
    /// secret is a new one, or the one with this hash. It is accepted by [`confirm`](Self::confirm) and nowhere else, for
    /// `ttl_seconds`, or an hour; 0 is over at once, and more than a week, 604,800 seconds, is an
    /// [`InvalidArgument`](CommandError::InvalidArgument). `sha512` is 128 lower-case hexadecimal digits. Staging again
    /// replaces what was staged, or prolongs it. While an earlier secret is still accepted, it is a
    /// [`Conflict`](CommandError::Conflict).
    pub fn stage(
        &self,
        credential: &Secret,
        sha512: Option<&str>,
        ttl_seconds: Option<u64>,
        origin: &str,
    ) -> Result<StagedSecret, CommandError> {
        self.command("stage", |writer| writer.stage(credential.expose(), sha512, ttl_seconds, origin))
            .inspect(|_| tracing::info!(origin, "operator token staged"))
    }

    /// Makes the staged secret, which `credential` must be, that of the operator token. When this answers, the one before
    /// is refused, or accepted for `overlap_seconds` more, as in [`regenerate`](Self::regenerate). Called again, it answers
    /// the same and changes nothing.
    pub fn confirm(
        &self,
        credential: &Secret,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<TokenInfo, CommandError> {
        self.command("confirm", |writer| writer.confirm(credential.expose(), overlap_seconds, origin))
            .inspect(|token| tracing::info!(token_id = token.id, origin, "operator token confirmed"))
    }

    /// Gives the staged secret up, if there is one; `credential` must be the operator token.
    pub fn cancel(&self, credential: &Secret, origin: &str) -> Result<(), CommandError> {
        self.command("cancel", |writer| writer.cancel(credential.expose(), origin))
            .inspect(|()| tracing::info!(origin, "no operator token is staged any more"))
    }

    /// Stops accepting the secret that was replaced, if it still is; `credential` must be the operator token.
    pub fn end_overlap(&self, credential: &Secret, origin: &str) -> Result<(), CommandError> {
        self.command("end_overlap", |writer| writer.end_overlap(credential.expose(), origin))
            .inspect(|()| tracing::info!(origin, "no replaced operator token is accepted any more"))
    }

    /// The operator token and what is under way with it; `None` while there is none.
    pub fn status(&self) -> Result<Option<OperatorStatus>, CommandError> {
        self.ask(|sandbox, newest, published| sandbox.status(newest, published))
    }

    /// When this process last accepted the operator token and the one that it replaced.
    pub fn operator_last_used(&self) -> LastUsed {
        let moment = |at: &AtomicU64| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let OperatorUse { current, replaced, since, .. } = &self.inner.operator;
        LastUsed { current: moment(current), replaced: moment(replaced), since: *since }
    }

    /// The newest audit records, oldest first and at most 64, each as its line of JSON.
    pub fn audit(&self) -> Result<Vec<String>, CommandError> {
        self.ask(|sandbox, newest, published| sandbox.audit(newest, published))
    }

    /// Takes a named admin token out. `credential` may be any accepted token. When this answers, the token is refused.
    pub fn delete(&self, credential: &Secret, name: &str, origin: &str) -> Result<TokenInfo, CommandError> {
        self.command("delete", |writer| writer.delete(credential.expose(), name, origin))
            .inspect(|token| tracing::info!(token_id = token.id, origin, "named admin token deleted"))
    }

    /// Replaces the operator token without a credential. Whoever may call this becomes the operator.
    pub fn recover(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        self.command("recover", |writer| writer.recover(origin))
    }

    /// Takes in a token that was made elsewhere, unless there is one of its name. `expiry` is the first moment at which
    /// it is refused. `name` is as in [`create_named`](Self::create_named), or that of the operator token,
    /// [`OPERATOR`](crate::token::OPERATOR).
    ///
    /// The token must begin with `apiv3_`, be visible ASCII and carry at least 112 bits of plausible randomness; anything else
    /// is an [`InvalidArgument`](CommandError::InvalidArgument).
    pub fn preset_token(
        &self,
        name: &str,
        token: &Secret,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        self.command("preset", |writer| writer.preset_token(name, token.expose(), expiry, origin))
    }

    /// As [`preset_token`](Self::preset_token), of a token of which only the SHA-512 is known, as 128 lower-case
    /// hexadecimal digits.
    pub fn preset_hash(
        &self,
        name: &str,
        sha512: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        self.command("preset", |writer| writer.preset_hash(name, sha512, expiry, origin))
    }

    /// All tokens, expired ones included, in the order they were made.
    pub fn list(&self) -> Result<Vec<TokenInfo>, CommandError> {
        self.ask(|sandbox, newest, published| sandbox.list(newest, published))
    }

    /// The name of the token with this id; `None` if there is none any more.
    ///
    /// Answers from memory, in well under a microsecond, but for the first call after each change of the catalog: that one lists all
    /// tokens, which takes some milliseconds if there are ten thousand.
    pub fn token_name(&self, id: u64) -> Result<Option<Arc<str>>, CommandError> {
        let mut names = self.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the list is made, which may be that of a newer snapshot already.
        let newest = self.inner.newest.load(Ordering::Acquire);
        if names.number != newest {
            let by_id = self.list()?.into_iter().map(|token| (token.id, token.name.into())).collect();
            *names = Names { number: newest, by_id };
        }
        Ok(names.by_id.get(&id).cloned())
    }

    /// The name of the catalog, a UUID that it keeps for good.
    pub fn catalog_id(&self) -> &str {
        &self.inner.catalog_id
    }

    /// How long ago the store last said that the tokens that are accepted now are the newest; beyond
    /// [`max_staleness`](Builder::max_staleness) none is.
    pub fn staleness(&self) -> Duration {
        self.inner.staleness()
    }

    /// How many calls the component has failed to answer since the start.
    pub fn traps(&self) -> u64 {
        self.inner.traps.load(Ordering::Relaxed)
    }

    #[cfg(feature = "async")]
    pub(crate) fn turns(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.inner.turns
    }

    fn command<T>(
        &self,
        name: &'static str,
        run: impl FnOnce(&mut Writer) -> Answer<T>,
    ) -> Result<T, CommandError> {
        let answer = self.carry_out(run);
        self.inner.observer.commanded(name, answer.as_ref().map(drop));
        answer
    }

    /// Asks a reader of the newest snapshot.
    fn ask<T>(
        &self,
        ask: impl FnOnce(&Sandbox, u64, &dyn Fn() -> Numbered) -> Answer<T>,
    ) -> Result<T, CommandError> {
        let inner = &*self.inner;
        let newest = inner.newest.load(Ordering::Acquire);
        ask(&inner.sandbox, newest, &|| inner.published()).unwrap_or_else(|trap| {
            inner.count(&trap);
            Err(CommandError::Unavailable(COMPONENT_FAILED.to_owned()))
        })
    }

    fn carry_out<T>(&self, run: impl FnOnce(&mut Writer) -> Answer<T>) -> Result<T, CommandError> {
        let inner = &*self.inner;
        let publishing = inner.publishing();
        let asked = Instant::now();
        let failed = |trap: &Trap| {
            inner.count(trap);
            COMPONENT_FAILED.to_owned()
        };
        let mut writer = inner
            .sandbox
            .writer(Arc::clone(&inner.store))
            .map_err(|trap| CommandError::Unavailable(failed(&trap)))?;
        let answer = run(&mut writer);
        let Seen { snapshot, wrote } = writer.finish();
        let changed = snapshot.is_some_and(|snapshot| inner.publish(snapshot, asked));
        let handed = if changed { inner.take_notice() } else { None };
        drop(publishing);
        // A log that hangs must hold up nobody else.
        if let (Some(audit), Some(handed)) = (&inner.audit, handed) {
            audit.recorder.wait(handed);
        }
        answer.unwrap_or_else(|trap| {
            let why = failed(&trap);
            Err(if wrote { CommandError::UnknownOutcome(why) } else { CommandError::Unavailable(why) })
        })
    }
}

impl Inner {
    /// How long ago the store last said that what is published is the newest.
    fn staleness(&self) -> Duration {
        let confirmed = Duration::from_millis(self.confirmed.load(Ordering::Acquire));
        self.started.elapsed().saturating_sub(confirmed)
    }

    fn published(&self) -> Numbered {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `snapshot`, which the store gave when it was asked at that time or later, the one that counts.
    /// Whether it is another one than before.
    fn publish(&self, snapshot: Snapshot, asked: Instant) -> bool {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        // The same state must stay the same snapshot, or every reader would read it again.
        let changed = version_of(&published.snapshot) != version_of(&snapshot);
        if changed {
            let number = published.number + 1;
            *published = Numbered { number, snapshot: Arc::new(snapshot) };
            self.newest.store(number, Ordering::Release);
        }
        self.confirm(asked);
        changed
    }

    /// Notices another operator token. The reader that is asked has then read the new snapshot, before a request has to
    /// wait for that.
    fn look_at_operator(&self) {
        let newest = self.newest.load(Ordering::Acquire);
        match self.sandbox.status(newest, || self.published()) {
            Ok(Ok(Some(status))) => {
                self.operator.is_made(status.info.updated_at.unwrap_or(status.info.created_at));
            }
            // Whoever asks for it is told why not.
            Ok(Ok(None) | Err(_)) => {}
            Err(trap) => self.count(&trap),
        }
    }

    fn confirm(&self, asked: Instant) {
        let at = asked.saturating_duration_since(self.started).as_millis();
        self.confirmed.store(u64::try_from(at).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn publishing(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what another snapshot makes necessary. Gives what to wait for, if there is an audit log.
    fn take_notice(&self) -> Option<u64> {
        self.look_at_operator();
        self.record()
    }

    /// Hands the newest records over to the audit log.
    fn record(&self) -> Option<u64> {
        let Audit { recorder, missed } = self.audit.as_ref()?;
        let newest = self.newest.load(Ordering::Acquire);
        let kept = match self.sandbox.audit(newest, || self.published()) {
            Ok(Ok(kept)) => RetainedRecord::read(kept),
            Ok(Err(error)) => Err(AuditLogError::Catalog(error.to_string())),
            Err(trap) => {
                self.count(&trap);
                Err(AuditLogError::Catalog(trap.to_string()))
            }
        };
        let was_missed = missed.swap(kept.is_err(), Ordering::Relaxed);
        match kept {
            Ok(kept) => Some(recorder.submit(kept)),
            Err(error) => {
                self.observer.not_recorded();
                // Once, not at every try.
                if !was_missed {
                    tracing::error!("{error}; changes are still made");
                }
                None
            }
        }
    }

    /// Looks whether somebody else has changed the catalog.
    fn poll(&self) -> Result<(), StoreError> {
        let _publishing = self.publishing();
        let asked = Instant::now();
        if self.store.version()?.as_ref() == version_of(&self.published().snapshot) {
            self.confirm(asked);
        } else if self.publish(self.store.load()?, asked) {
            self.take_notice();
        }
        if self.audit.as_ref().is_some_and(|audit| audit.missed.load(Ordering::Relaxed)) {
            self.record();
        }
        Ok(())
    }

    fn count(&self, trap: &Trap) {
        self.traps.fetch_add(1, Ordering::Relaxed);
        self.observer.trapped();
        tracing::error!("{trap}");
    }
}

fn version_of(snapshot: &Snapshot) -> Option<&Version> {
    snapshot.as_ref().map(|entry| &entry.version)
}

/// The thread that polls the store, for as long as somebody has the authority.
struct Watcher {
    thread: ThreadId,
    /// Dropped to end the thread.
    stop: Option<Sender<Infallible>>,
    /// Its other end goes when the thread has let go of everything.
    ended: Mutex<Receiver<Infallible>>,
}

impl Watcher {
    fn start(inner: Arc<Inner>) -> std::io::Result<Self> {
        let (stop, stopped) = channel();
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("optoken-poll".into()).spawn(move || {
            watch(&inner, &stopped);
            drop(inner);
            drop::<Sender<_>>(end);
        })?;
        Ok(Self { thread: thread.thread().id(), stop: Some(stop), ended: Mutex::new(ended) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop = None;
        // Not for itself, where it was an observer that had the last clone.
        if thread::current().id() != self.thread {
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(DROP_PATIENCE);
        }
    }
}

/// Polls until it is told to stop.
fn watch(inner: &Inner, stopped: &Receiver<Infallible>) {
    let mut failing = false;
    loop {
        // Were this thread to end by a panic in a store or an observer, no token would be accepted ever again. Nothing is
        // left half changed: what is published is assigned whole.
        let answer = catch_unwind(AssertUnwindSafe(|| inner.poll()))
            .unwrap_or_else(|_| Err(StoreError::Unavailable("it panicked".to_owned())));
        match &answer {
            // Once, not four times a second.
            Err(error) if !failing => tracing::error!(
                "the token store does not answer: {error}; tokens are refused {:?} after its last word",
                inner.max_staleness
            ),
            Ok(()) if failing => tracing::info!("the token store answers again"),
            _ => {}
        }
        failing = answer.is_err();
        if stopped.recv_timeout(POLL_INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

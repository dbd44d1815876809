//! The functions of an authority.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::access::{Access, AuthorizeError};
use crate::audit::{AuditLogError, AuditWriter};
use crate::authority::freshness::ProofSource;
use crate::authority::last_used::LastUsed;
use crate::authority::lineage::{CatalogPosition, CatalogRefusal, Examined};
use crate::authority::poller::StorePoller;
use crate::authority::snapshot::Shared;
use crate::command::{Command, Outcome};
use crate::sandbox::ReadInstance;
use crate::secret::Secret;
use crate::store::ClockDifference;
use crate::token::{
    AuditRecords, AuthenticateError, CatalogState, CommandError, ComponentInfo, ConfiguredToken,
    ImportOutcome, IssuedToken, OperatorStatus, Principal, ReplaceOutcome, StagedSecret, Timestamp,
    TokenInfo, TokenSource,
};

/// An operator-token authority over one store. Clones are the same authority.
///
/// All commands block until their change is durable, which takes as long as the store takes; the
/// commands of one authority run one after the other. Each takes the `origin` of its request for
/// the audit record; the origin decides nothing.
///
/// The drop of the last clone ends the polling thread and unlocks the audit log, so that another
/// authority can be built on the same log. It waits for a poll in progress, at most for
/// [`DROP_TIMEOUT`](crate::authority::DROP_TIMEOUT). If the store is slower than that, store and
/// log are dropped when it returns.
///
/// ```
/// use optoken::authority::Authority;
/// use optoken::store::MemoryStore;
/// use optoken::token::{AuthenticateError, TokenKind};
///
/// let authority = Authority::builder(MemoryStore::default()).build()?;
/// let first = authority.create_operator("example")?;
/// let second = authority.regenerate(&first.secret, 0, "example")?;
///
/// assert_eq!(authority.authenticate(first.secret.expose()), Err(AuthenticateError::Unknown));
/// assert_eq!(authority.authenticate(second.secret.expose())?.kind, TokenKind::Operator);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Authority {
    pub(super) shared: Arc<Shared>,
    /// Only the clones hold it, so the thread ends with the last of them.
    _poller: Arc<StorePoller>,
}

impl Authority {
    pub(super) fn new(shared: Arc<Shared>, poller: StorePoller) -> Self {
        Self { shared, _poller: Arc::new(poller) }
    }

    /// The token that a credential belongs to.
    ///
    /// Answers from memory in about a microsecond, so async code may call it. It waits for no store
    /// and no command; where as many calls run as the machine has processors, it waits for one of
    /// them. A component that failed, or a store that has not answered for too long, is
    /// [`Unavailable`](AuthenticateError::Unavailable), which means that the state of the token is
    /// unknown.
    pub fn authenticate(&self, credential: &str) -> Result<Principal, AuthenticateError> {
        self.authenticate_on_snapshot(credential).map(|(principal, _)| principal)
    }

    /// As [`authenticate`](Self::authenticate), with the number of the snapshot on which the
    /// credential was checked. A later snapshot has a higher number.
    pub(crate) fn authenticate_on_snapshot(
        &self,
        credential: &str,
    ) -> Result<(Principal, u64), AuthenticateError> {
        let mut snapshot = 0;
        let result = self.shared.check_token(|reader| {
            snapshot = reader.number;
            reader.authenticate(credential)
        });
        self.shared.observer.authenticated(&result);
        let principal = result?;
        self.shared.operator.record_use(principal);
        Ok((principal, snapshot))
    }

    /// The token that a credential belongs to, if it may do this.
    ///
    /// Decides like [`authenticate`](Self::authenticate), and then by the permissions of the token.
    pub fn authorize(&self, credential: &str, access: &Access<'_>) -> Result<Principal, AuthorizeError> {
        let result = self.shared.check_token(|reader| reader.authorize(credential, access));
        self.shared.observer.authorized(&result);
        if let Ok(principal) = result {
            self.shared.operator.record_use(principal);
        }
        result
    }

    /// The record of the token that a credential belongs to, by the decision of
    /// [`authenticate`](Self::authenticate). It is no use of the token: neither the observer nor
    /// [`operator_last_used`](Self::operator_last_used) reports it.
    pub fn describe(&self, credential: &str) -> Result<TokenInfo, AuthenticateError> {
        self.shared.check_token(|reader| reader.describe(credential))
    }

    /// Creates the operator token, if there is none. A client that may call this becomes the
    /// operator.
    pub fn create_operator(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        self.execute(&Command::CreateOperator, origin)
    }

    /// Creates a named token that is accepted for `lifetime_seconds`, without limit if `None`; 0
    /// creates an expired token. `credential` may be any accepted token with all permissions.
    ///
    /// Without `permissions` the new token has all of them; otherwise these, each
    /// `TYPE:NAMES:ACTIONS` (`wit/tokens.wit`). A text that is none is an
    /// [`InvalidArgument`](CommandError::InvalidArgument) that names its part.
    ///
    /// `name` is 1 to 128 bytes of visible text without leading or trailing space, and looks
    /// neither like `_admin` nor like a token. Any other name is an
    /// [`InvalidArgument`](CommandError::InvalidArgument), a name in use
    /// [`AlreadyExists`](CommandError::AlreadyExists). A catalog holds 10,000 tokens, then it is
    /// [`Full`](CommandError::Full).
    pub fn create_named(
        &self,
        credential: &Secret,
        name: &str,
        permissions: Option<&[String]>,
        lifetime_seconds: Option<u64>,
        origin: &str,
    ) -> Result<IssuedToken, CommandError> {
        self.execute(&Command::CreateNamed { credential, name, permissions, lifetime_seconds }, origin)
    }

    /// Replaces the secret of the operator token; `credential` must be that secret.
    ///
    /// When this returns, the old secret is refused, unless `overlap_seconds` is more than 0: then
    /// it is accepted for so long. The maximum is 2,592,000 (30 days); more is an
    /// [`InvalidArgument`](CommandError::InvalidArgument). A staged secret and an earlier overlap
    /// end.
    pub fn regenerate(
        &self,
        credential: &Secret,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<IssuedToken, CommandError> {
        self.execute(&Command::Regenerate { credential, overlap_seconds }, origin)
    }

    /// Stages a secret that waits to replace the secret of the operator token, which `credential`
    /// must be and which stays accepted.
    ///
    /// The secret is a new one, or the one with this SHA-512 of 128 lower-case hexadecimal digits.
    /// Only [`confirm`](Self::confirm) accepts it, for `ttl_seconds`. The default is an hour, 0
    /// expires at once, and more than 604,800 (a week) is an
    /// [`InvalidArgument`](CommandError::InvalidArgument). Repeated, the command replaces the
    /// staged secret or sets a new deadline. During an overlap it is a
    /// [`Conflict`](CommandError::Conflict).
    pub fn stage(
        &self,
        credential: &Secret,
        sha512: Option<&str>,
        ttl_seconds: Option<u64>,
        origin: &str,
    ) -> Result<StagedSecret, CommandError> {
        self.execute(&Command::Stage { credential, sha512, ttl_seconds }, origin)
    }

    /// Makes the staged secret, which `credential` must be, the secret of the operator token.
    ///
    /// When this returns, the old secret is refused, or accepted for `overlap_seconds` as in
    /// [`regenerate`](Self::regenerate). Repeated, it returns the same and changes nothing.
    pub fn confirm(
        &self,
        credential: &Secret,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<TokenInfo, CommandError> {
        self.execute(&Command::Confirm { credential, overlap_seconds }, origin)
    }

    /// Removes the staged secret, if there is one; `credential` must be the operator secret.
    pub fn cancel(&self, credential: &Secret, origin: &str) -> Result<(), CommandError> {
        self.execute(&Command::Cancel { credential }, origin)
    }

    /// Ends the overlap, if there is one; `credential` must be the operator secret.
    ///
    /// Returns the tokens that were made with the previous secret since its replacement, or with
    /// such a token. They stay accepted until they are deleted: if that secret had leaked, an
    /// attacker may hold them.
    pub fn end_overlap(&self, credential: &Secret, origin: &str) -> Result<Vec<TokenInfo>, CommandError> {
        self.execute::<()>(&Command::EndOverlap { credential }, origin)?;
        self.made_with_previous_secret()
    }

    /// The tokens that were made with the previous secret of the operator token since its last
    /// replacement, or with such a token. They stay accepted until they are deleted.
    pub fn made_with_previous_secret(&self) -> Result<Vec<TokenInfo>, CommandError> {
        let replaced_at = self.status()?.and_then(|status| status.info.updated_at);
        let mut tokens = self.list_tokens()?;
        tokens.retain(|token| {
            token.source == TokenSource::PreviousSecret
                && replaced_at.is_some_and(|at| token.created_at >= at)
        });
        Ok(tokens)
    }

    /// Deletes a named token. `credential` may be any accepted token with all permissions. When
    /// this returns, the token is refused.
    pub fn delete(&self, credential: &Secret, name: &str, origin: &str) -> Result<TokenInfo, CommandError> {
        self.execute(&Command::Delete { credential, name }, origin)
    }

    /// Replaces the secret of the operator token without a credential. A client that may call this
    /// becomes the operator.
    pub fn recover(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        self.execute(&Command::Recover, origin)
    }

    /// Replaces the secret of the operator token of an older catalog, such as a backup, before that
    /// catalog is put back. So no old secret of the operator comes back with it. The audit record
    /// has the action `restore`, and the time of the clock even if a record before it is later.
    pub fn restore(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        self.execute(&Command::Restore, origin)
    }

    /// Returns the SHA-512 of a token that was made elsewhere, as 128 lower-case hexadecimal
    /// digits.
    ///
    /// The token must begin with `apiv3_`, be visible ASCII and carry at least 112 bits of
    /// plausible randomness. Any other text is an
    /// [`InvalidArgument`](CommandError::InvalidArgument).
    pub fn hash_token(&self, token: &Secret) -> Result<String, CommandError> {
        self.shared.query(|reader| reader.hash_token(token))
    }

    /// Imports a token by its text, unless a token of its name exists. `expiry` is the first moment
    /// at which it is refused. `name` is as in [`create_named`](Self::create_named), or
    /// [`OPERATOR`](crate::token::OPERATOR).
    /// The text must be as [`hash_token`](Self::hash_token) demands.
    pub fn import_token(
        &self,
        name: &str,
        token: &Secret,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<ImportOutcome, CommandError> {
        let sha512 = self.hash_token(token)?;
        self.import_hash(&ConfiguredToken { expiry, ..ConfiguredToken::admin(name, &sha512) }, origin)
    }

    /// Imports a token by its SHA-512; otherwise as [`import_token`](Self::import_token).
    /// Permissions are as in [`create_named`](Self::create_named). The operator token has all.
    pub fn import_hash(
        &self,
        token: &ConfiguredToken<'_>,
        origin: &str,
    ) -> Result<ImportOutcome, CommandError> {
        self.execute(&Command::ImportHash(token), origin)
    }

    /// Replaces the secret of the operator token by a secret of the configuration, if its current
    /// one is the earlier secret of the same configuration.
    ///
    /// `current` is the SHA-512 of that earlier secret, `sha512` that of the new one, each as 128
    /// lower-case hexadecimal digits; [`hash_token`](Self::hash_token) checks the strength of a
    /// text and returns its hash. The overlap is that of [`regenerate`](Self::regenerate). A former
    /// secret of the operator token is [`Revoked`](ReplaceOutcome::Revoked). A [`Conflict`](CommandError::Conflict) means that the
    /// catalog does not know all former secrets.
    pub fn replace_operator(
        &self,
        current: &str,
        sha512: &str,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<ReplaceOutcome, CommandError> {
        self.execute(&Command::ReplaceOperator { current, sha512, overlap_seconds }, origin)
    }

    /// The operator token and its rotation; `None` if there is no operator token.
    pub fn status(&self) -> Result<Option<OperatorStatus>, CommandError> {
        self.shared.query(ReadInstance::status)
    }

    /// When this process last accepted the operator token and the previous one.
    pub fn operator_last_used(&self) -> LastUsed {
        self.shared.operator.get()
    }

    /// The retained audit records after this sequence number, at most 64; all of them for `None`.
    pub fn audit(&self, after_sequence: Option<u64>) -> Result<AuditRecords, CommandError> {
        self.shared.query(|reader| reader.audit(after_sequence))
    }

    /// All tokens in the order of their creation, expired ones included.
    pub fn list_tokens(&self) -> Result<Vec<TokenInfo>, CommandError> {
        self.shared.query(ReadInstance::list_tokens)
    }

    /// The name of the token with this number; `None` if no token has it.
    ///
    /// Answers from memory in well under a microsecond. The first call after a change of the
    /// catalog lists all tokens, which takes some milliseconds for ten thousand.
    pub fn token_name(&self, id: u64) -> Result<Option<Arc<str>>, CommandError> {
        self.shared.token_name(id, || self.list_tokens())
    }

    /// The state of the catalog that tokens are checked against; `None` if the store is empty.
    pub fn catalog_state(&self) -> Result<Option<CatalogState>, CommandError> {
        self.shared.query(ReadInstance::state)
    }

    /// What the component is: contract, build, catalog format and limits.
    pub fn component_info(&self) -> Result<ComponentInfo, CommandError> {
        self.shared.query(ReadInstance::component_info)
    }

    /// The identifier of the catalog, a UUID that never changes.
    pub fn catalog_id(&self) -> &str {
        &self.shared.catalog_id
    }

    /// Whether tokens are checked: false while all of them are refused, because no read of the
    /// store proves that the current snapshot is the newest.
    pub fn is_fresh(&self) -> bool {
        self.shared.is_fresh()
    }

    /// How long ago the store last confirmed that the current snapshot is the newest. Beyond
    /// [`max_staleness`](crate::authority::Builder::max_staleness) no token is accepted.
    pub fn staleness(&self) -> Duration {
        self.shared.staleness()
    }

    /// What has confirmed that. [`staleness`](Self::staleness) is its age.
    pub fn proof_source(&self) -> ProofSource {
        self.shared.proof().source
    }

    /// The time between two reads of the store that look for changes by other processes.
    pub fn poll_interval(&self) -> Duration {
        self.shared.poll_interval
    }

    /// Where the store is, without secrets; `None` if it does not state that.
    pub fn store_location(&self) -> Option<String> {
        self.shared.store.location()
    }

    /// The clock of the store beside that of this machine; `None` if the store states no time. A
    /// token expires by the clock of each machine, so a wrong clock accepts it for too long or too
    /// short a time.
    pub fn store_clock(&self) -> Option<ClockDifference> {
        self.shared.store.clock()
    }

    /// The end of the audit chain of the catalog that tokens are checked against; `None` if it has
    /// no record.
    pub fn position(&self) -> Result<Option<CatalogPosition>, CommandError> {
        Ok(self.shared.query(|reader| Examined::read(reader, Some(u64::MAX)))?.position)
    }

    /// Whether the catalog that tokens are checked against is in this state or continues it.
    pub fn check_continues(
        &self,
        earlier: &CatalogPosition,
    ) -> Result<Result<(), CatalogRefusal>, CommandError> {
        Ok(self.shared.query(|reader| Examined::read(reader, None))?.check_continues(earlier))
    }

    /// Why the state in the store is not used; `None` if it is. Then changes are refused, and all
    /// tokens beyond [`max_staleness`](crate::authority::Builder::max_staleness).
    pub fn catalog_refusal(&self) -> Option<CatalogRefusal> {
        self.shared.refusal()
    }

    /// The file with the high-water mark and the state that it holds; `None` without such a file.
    pub fn high_water_mark(&self) -> Option<(&Path, Option<CatalogPosition>)> {
        self.shared.high_water.as_ref().map(|mark| (mark.path(), mark.written()))
    }

    /// How far the clock is behind the newest audit record. Until it has caught up, deadlines are
    /// compared with the time of that record.
    pub fn clock_behind(&self) -> Duration {
        self.shared.clock_behind()
    }

    /// The configured [`max_staleness`](crate::authority::Builder::max_staleness).
    pub fn max_staleness(&self) -> Duration {
        self.shared.freshness.max_staleness()
    }

    /// The number of calls into the component that trapped since the start.
    pub fn traps(&self) -> u64 {
        self.shared.traps.load(Ordering::Relaxed)
    }

    /// Opens the file at the path of the audit log now, if the open one was moved away. The next
    /// record does so, too. Does nothing without an audit log, and waits for a second at most.
    ///
    /// Fails if the file cannot be opened, or if the disk does not answer. The next record then
    /// tries it again.
    pub fn reopen_audit_log(&self) -> Result<(), AuditLogError> {
        self.shared.audit.as_ref().map_or(Ok(()), AuditWriter::reopen)
    }

    #[cfg(feature = "async")]
    pub(crate) fn command_permits(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.shared.command_permits
    }

    pub(super) fn execute<T>(&self, command: &Command<'_>, origin: &str) -> Result<T, CommandError>
    where
        T: TryFrom<Outcome, Error = CommandError>,
    {
        let result = self.shared.execute(command, origin);
        self.shared.observer.command_completed(command.name(), result.as_ref().map(drop));
        let outcome = result?;
        if let Some(success) = command.success() {
            tracing::info!(token_id = outcome.token_id(), origin, "{success}");
        }
        outcome.try_into()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("catalog_id", &self.shared.catalog_id)
            .field("staleness", &self.staleness())
            .field("traps", &self.traps())
            .finish_non_exhaustive()
    }
}

//! The commands and the authentication of an authority over one set of ports.
//!
//! Keeps the catalog that it has loaded, as `wit/authenticator.wit` specifies. [`transition`] makes
//! every decision; [`commit`] makes every change.

use alloc::string::{String, ToString as _};

use thiserror::Error;

use crate::access::Access;
use crate::audit::AuditChain;
use crate::catalog::{Catalog, CatalogError, TokenRecord};
use crate::command::Command;
use crate::commit::{self, CommandError, Committed, Loaded};
use crate::permission::Permissions;
use crate::ports::{CatalogStore, Clock, Entropy, Timestamp};
use crate::rotation::{DEFAULT_STAGE_SECONDS, ExpiringHash, Rotation};
use crate::token::{Secret, TokenHash};
use crate::token_strength;
use crate::transition::{self, AccessError, AuthError, CommandRejected, Principal};

/// An operator-token authority over the storage, randomness and clock of a host.
#[derive(Debug)]
pub struct Authority<P> {
    ports: P,
    /// The catalog as last loaded or committed here; `None` before the first use and after a failed
    /// command.
    loaded: Option<Loaded>,
}

/// The token that a client presents, and the origin of its request.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The text of the presented token.
    pub credential: &'a str,
    /// Where the request comes from. It is recorded and decides nothing.
    pub origin: &'a str,
}

/// A new token and its secret, after its hash has become durable.
#[derive(Debug)]
pub struct Issued {
    /// The record as committed.
    pub token: TokenRecord,
    /// The secret; the authority keeps no copy.
    pub secret: Secret,
}

/// A secret that waits to replace the secret of the operator token.
#[derive(Debug)]
pub struct Staged {
    /// The secret, if the authority made it; the authority keeps no copy.
    pub secret: Option<Secret>,
    /// The hash of the secret.
    pub hash: TokenHash,
    /// The first moment at which the secret can no longer be confirmed.
    pub expires_at: Timestamp,
}

/// A token of a configuration.
#[derive(Debug, Clone, Copy)]
pub struct ConfiguredToken<'a> {
    /// The name of the token.
    pub name: &'a str,
    /// The hash of its secret.
    pub sha512: &'a str,
    /// What it may do; `None` for everything.
    pub permissions: Option<&'a [String]>,
    /// What it is for.
    pub description: Option<&'a str>,
    /// The first moment at which it is refused; `None` for never.
    pub expiry: Option<Timestamp>,
}

/// The outcome of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The token was imported.
    Created(TokenRecord),
    /// The token was imported before.
    Unchanged(TokenRecord),
    /// A token of that name exists with another secret, which stays.
    Different(TokenRecord),
    /// The secret was revoked, and stays so.
    Revoked,
}

/// The outcome of a replacement of the operator token by the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceOutcome {
    /// The secret was replaced.
    Replaced,
    /// The operator token has the new secret already.
    Unchanged,
    /// The operator token has another secret than the earlier one of the configuration.
    Different,
    /// The new secret was revoked, and stays so.
    Revoked,
}

/// The state of the catalog that an authority holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogState<'a> {
    /// The version of the document in the store.
    pub version: &'a str,
    /// The identifier of the catalog, if it has one.
    pub catalog_id: Option<&'a str>,
    /// The sequence number of the newest audit record; 0 if there is none.
    pub audit_sequence: u64,
    /// The hash of the newest audit record.
    pub audit_head: Option<&'a str>,
}

/// How a catalog relates to an earlier state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// The catalog has the same newest record.
    Same,
    /// The catalog has more records, and the earlier ones are their predecessors.
    Newer,
    /// The catalog has so many more records that it no longer retains the earlier ones.
    NewerUnproven,
    /// The catalog has fewer records.
    Older,
    /// The catalog has another record at the end of the earlier state.
    Diverged,
    /// The catalog has another identifier or none, or the store is empty.
    OtherCatalog,
}

impl Succession {
    /// How a catalog of this identifier with these records relates to an earlier state: its
    /// identifier, and number and hash of its newest record.
    pub fn of(id: Option<&str>, audit: &AuditChain, earlier: (Option<&str>, u64, Option<&str>)) -> Self {
        let (earlier_id, sequence, head) = earlier;
        if id != earlier_id {
            Self::OtherCatalog
        } else if audit.sequence() < sequence {
            Self::Older
        } else {
            match head.map_or(Some(true), |head| audit.has(sequence, head)) {
                Some(true) if audit.sequence() == sequence => Self::Same,
                Some(true) => Self::Newer,
                Some(false) => Self::Diverged,
                None => Self::NewerUnproven,
            }
        }
    }
}

/// Audit records that the catalog retains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditRecords<'a> {
    /// The requested records in ascending order, each as its line.
    pub lines: &'a [String],
    /// The oldest and the newest sequence number that the catalog retains.
    pub retained: Option<(u64, u64)>,
}

/// Why a token was not accepted. A host must refuse the request in every case.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticateError {
    /// The catalog does not accept the token.
    #[error(transparent)]
    Refused(#[from] AuthError),
    /// The catalog could not be loaded, so the state of the token is unknown.
    #[error(transparent)]
    Unavailable(CommandError),
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorizeError {
    /// The token is not accepted, or lacks the permission.
    #[error(transparent)]
    Refused(#[from] AccessError),
    /// The catalog could not be loaded, so the state of the token is unknown.
    #[error(transparent)]
    Unavailable(CommandError),
}

/// The hash of a token that was made elsewhere. A text that is no token is an error, and so is a
/// weak token.
pub fn hash_token(token: &str) -> Result<String, CommandError> {
    token_strength::check(token)?;
    Ok(TokenHash::of(token).to_string())
}

impl<P: CatalogStore + Entropy + Clock> Authority<P> {
    /// An authority that has not loaded anything yet.
    pub const fn new(ports: P) -> Self {
        Self { ports, loaded: None }
    }

    /// Loads the catalog, unless the authority holds one.
    pub fn load(&mut self) -> Result<(), CommandError> {
        self.loaded().map(drop)
    }

    /// The state of the catalog that the authority holds; `None` if the store is empty.
    pub fn state(&mut self) -> Result<Option<CatalogState<'_>>, CommandError> {
        let (Loaded { version, catalog }, _) = self.loaded()?;
        let audit = catalog.audit();
        Ok(version.as_deref().map(|version| CatalogState {
            version,
            catalog_id: catalog.id(),
            audit_sequence: audit.sequence(),
            audit_head: audit.head().map(crate::audit::RecordHash::as_str),
        }))
    }

    /// How the catalog that the authority holds relates to an earlier state.
    pub fn succession(
        &mut self,
        catalog_id: Option<&str>,
        audit_sequence: u64,
        audit_head: Option<&str>,
    ) -> Result<Succession, CommandError> {
        let catalog = self.catalog()?;
        let earlier = (catalog_id, audit_sequence, audit_head);
        Ok(Succession::of(catalog.id(), catalog.audit(), earlier))
    }

    /// The token that a credential belongs to.
    pub fn authenticate(&mut self, credential: &str) -> Result<Principal, AuthenticateError> {
        let hash = TokenHash::of(credential);
        let (loaded, ports) = self.loaded().map_err(AuthenticateError::Unavailable)?;
        Ok(transition::authenticate(&loaded.catalog, &hash, || ports.now())?)
    }

    /// The token that a credential belongs to, if it may do this.
    pub fn authorize(&mut self, credential: &str, access: &Access<'_>) -> Result<Principal, AuthorizeError> {
        let hash = TokenHash::of(credential);
        let (loaded, ports) = self.loaded().map_err(AuthorizeError::Unavailable)?;
        Ok(transition::authorize(&loaded.catalog, &hash, access, || ports.now())?)
    }

    /// The record of the token that a credential belongs to, by the decision of
    /// [`authenticate`](Self::authenticate).
    pub fn describe(&mut self, credential: &str) -> Result<&TokenRecord, AuthenticateError> {
        let Principal { id, .. } = self.authenticate(credential)?;
        let catalog = self.catalog().map_err(AuthenticateError::Unavailable)?;
        Ok(catalog.numbered(id).ok_or(AuthError::Unknown)?)
    }

    /// The retained audit records with a higher sequence number than this one; all of them for 0.
    pub fn audit(&mut self, after_sequence: u64) -> Result<AuditRecords<'_>, CommandError> {
        let audit = self.catalog()?.audit();
        let lines = audit.lines();
        let newest = audit.sequence();
        // The chain has no gap, so the number of records gives the sequence number of the oldest.
        let before_oldest = newest.saturating_sub(lines.len() as u64);
        let skipped = usize::try_from(after_sequence.saturating_sub(before_oldest)).unwrap_or(usize::MAX);
        Ok(AuditRecords {
            lines: lines.get(skipped..).unwrap_or_default(),
            retained: (!lines.is_empty()).then_some((before_oldest.saturating_add(1), newest)),
        })
    }

    /// All tokens, in the order of their creation.
    pub fn list_tokens(&mut self) -> Result<&[TokenRecord], CommandError> {
        Ok(self.catalog()?.tokens())
    }

    /// The identifier of the catalog. Stores a new one, made of random bytes, if it has none.
    pub fn initialize(&mut self, origin: &str) -> Result<String, CommandError> {
        let id = random_uuid(&mut self.ports)?;
        self.commit(origin, &Command::Initialize { id: &id })?;
        Ok(self.loaded.as_ref().and_then(|loaded| loaded.catalog.id()).map_or(id, Into::into))
    }

    /// Imports a token by its hash, unless a token of its name exists.
    pub fn import_hash(
        &mut self,
        token: &ConfiguredToken<'_>,
        origin: &str,
    ) -> Result<ImportOutcome, CommandError> {
        let new = token.sha512.parse()?;
        let permissions = parse(token.permissions)?;
        let command = Command::Import {
            name: token.name,
            expiry: token.expiry,
            permissions: permissions.as_ref(),
            description: token.description,
            new,
        };
        Ok(match self.commit(origin, &command)? {
            (_, None) => ImportOutcome::Revoked,
            (true, Some(token)) => ImportOutcome::Created(token),
            (false, Some(token)) if token.hash == new => ImportOutcome::Unchanged(token),
            (false, Some(token)) => ImportOutcome::Different(token),
        })
    }

    /// Replaces the secret of the operator token by that of the configuration, if the current one
    /// is its earlier, which has the hash `current`. `sha512` is the hash of the new secret. An
    /// overlap of `None` is none.
    pub fn replace_operator(
        &mut self,
        current: &str,
        sha512: &str,
        overlap_seconds: Option<u64>,
        origin: &str,
    ) -> Result<ReplaceOutcome, CommandError> {
        let (current, new) = (current.parse()?, sha512.parse()?);
        let overlap_seconds = overlap_seconds.unwrap_or(0);
        Ok(match self.commit(origin, &Command::Replace { current, new, overlap_seconds })? {
            (_, None) => ReplaceOutcome::Revoked,
            (true, Some(_)) => ReplaceOutcome::Replaced,
            (false, Some(token)) if token.hash == new => ReplaceOutcome::Unchanged,
            (false, Some(_)) => ReplaceOutcome::Different,
        })
    }

    /// Creates the operator token, if there is none.
    pub fn create_operator(&mut self, origin: &str) -> Result<Issued, CommandError> {
        self.issue(origin, &|new| Command::CreateOperator { new })
    }

    /// Creates a named token that is accepted for `lifetime_seconds`, without limit if `None`. It
    /// has these permissions, all if `None`.
    pub fn create_named(
        &mut self,
        Caller { credential, origin }: Caller<'_>,
        name: &str,
        permissions: Option<&[String]>,
        lifetime_seconds: Option<u64>,
    ) -> Result<Issued, CommandError> {
        let credential = TokenHash::of(credential);
        let permissions = parse(permissions)?;
        let permissions = permissions.as_ref();
        let create = |new| Command::CreateNamed { credential, name, lifetime_seconds, permissions, new };
        self.issue(origin, &create)
    }

    /// Replaces the secret of the operator token; the credential must be that secret. An overlap of
    /// `None` is none.
    pub fn regenerate(
        &mut self,
        Caller { credential, origin }: Caller<'_>,
        overlap_seconds: Option<u64>,
    ) -> Result<Issued, CommandError> {
        let credential = TokenHash::of(credential);
        let overlap_seconds = overlap_seconds.unwrap_or(0);
        self.issue(origin, &|new| Command::Regenerate { credential, new, overlap_seconds })
    }

    /// Stages a secret that waits to replace the secret of the operator token: the one with this
    /// hash, or a new one. A `ttl_seconds` of `None` is [`DEFAULT_STAGE_SECONDS`].
    pub fn stage(
        &mut self,
        Caller { credential, origin }: Caller<'_>,
        sha512: Option<&str>,
        ttl_seconds: Option<u64>,
    ) -> Result<Staged, CommandError> {
        let credential = TokenHash::of(credential);
        let (new, secret) = if let Some(sha512) = sha512 {
            (sha512.parse()?, None)
        } else {
            let secret = Secret::mint(&mut self.ports)?;
            (secret.hash(), Some(secret))
        };
        let ttl_seconds = ttl_seconds.unwrap_or(DEFAULT_STAGE_SECONDS);
        self.commit(origin, &Command::Stage { credential, new, ttl_seconds })?;
        match self.loaded.as_ref().map(|loaded| loaded.catalog.rotation()) {
            Some(Rotation::Staged(ExpiringHash { hash, expires_at })) => {
                Ok(Staged { secret, hash, expires_at })
            }
            _ => Err(MISSING_TOKEN),
        }
    }

    /// Makes the staged secret, which is the credential, the secret of the operator token. An
    /// overlap of `None` is none.
    pub fn confirm(
        &mut self,
        Caller { credential, origin }: Caller<'_>,
        overlap_seconds: Option<u64>,
    ) -> Result<TokenRecord, CommandError> {
        let credential = TokenHash::of(credential);
        let overlap_seconds = overlap_seconds.unwrap_or(0);
        self.commit(origin, &Command::Confirm { credential, overlap_seconds })?.1.ok_or(MISSING_TOKEN)
    }

    /// Removes the staged secret, if there is one.
    pub fn cancel(&mut self, Caller { credential, origin }: Caller<'_>) -> Result<(), CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::Cancel { credential }).map(drop)
    }

    /// Ends the overlap, if there is one.
    pub fn end_overlap(&mut self, Caller { credential, origin }: Caller<'_>) -> Result<(), CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::EndOverlap { credential }).map(drop)
    }

    /// The operator token and its rotation; `None` if there is no operator token.
    pub fn status(&mut self) -> Result<Option<(&TokenRecord, Rotation)>, CommandError> {
        let (Loaded { catalog, .. }, ports) = self.loaded()?;
        let rotation = catalog.rotation();
        let rotation = if rotation.pending().is_some() {
            rotation.at(catalog.not_before_newest(ports.now()))
        } else {
            rotation
        };
        Ok(catalog.operator().map(|operator| (operator, rotation)))
    }

    /// Replaces the secret of the operator token without a credential. `restore` if an older state
    /// of the catalog is about to be put back.
    pub fn recover(&mut self, origin: &str, restore: bool) -> Result<Issued, CommandError> {
        self.issue(origin, &|new| if restore { Command::Restore { new } } else { Command::Recover { new } })
    }

    /// Deletes a named token and returns its last record.
    pub fn delete(
        &mut self,
        Caller { credential, origin }: Caller<'_>,
        name: &str,
    ) -> Result<TokenRecord, CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::Delete { credential, name })?.1.ok_or(MISSING_TOKEN)
    }

    fn loaded(&mut self) -> Result<(&Loaded, &mut P), CommandError> {
        let loaded = match &mut self.loaded {
            Some(loaded) => loaded,
            none => none.insert(commit::load(&mut self.ports)?),
        };
        Ok((loaded, &mut self.ports))
    }

    fn catalog(&mut self) -> Result<&Catalog, CommandError> {
        Ok(&self.loaded()?.0.catalog)
    }

    /// Mints a secret and commits the command that `command` makes of its hash.
    // Inlined into each command, it takes a kilobyte more.
    #[inline(never)]
    fn issue<'a>(
        &mut self,
        origin: &str,
        command: &dyn Fn(TokenHash) -> Command<'a>,
    ) -> Result<Issued, CommandError> {
        let secret = Secret::mint(&mut self.ports)?;
        let token = self.commit(origin, &command(secret.hash()))?.1.ok_or(MISSING_TOKEN)?;
        Ok(Issued { token, secret })
    }

    #[inline(never)]
    fn commit(
        &mut self,
        origin: &str,
        command: &Command<'_>,
    ) -> Result<(bool, Option<TokenRecord>), CommandError> {
        // After any failure from here on, the next authentication loads the catalog again.
        let held = self.loaded.take();
        let Committed { version, catalog, token, changed } =
            commit::commit(&mut self.ports, held, origin, command)?;
        self.loaded = Some(Loaded { version, catalog });
        Ok((changed, token))
    }
}

/// The transition returns the token of every command that is about one.
const MISSING_TOKEN: CommandError = CommandError::Rejected(CommandRejected::Invariant(
    CatalogError::Inconsistent("the token has gone missing"),
));

/// The permissions of these texts; `None` for all.
fn parse(texts: Option<&[String]>) -> Result<Option<Permissions>, CommandError> {
    let parse = |texts: &[String]| Permissions::parse(texts.iter().map(String::as_str));
    Ok(texts.map(parse).transpose()?.flatten())
}

/// A random UUID (RFC 9562, version 4).
fn random_uuid(entropy: &mut impl Entropy) -> Result<String, CommandError> {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

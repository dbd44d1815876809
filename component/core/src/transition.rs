//! The state machine: the effect of each command on a catalog, and the credential that it requires.
//!
//! Pure functions without I/O: the same code runs in production, in unit tests and under a model
//! checker. Randomness is drawn and texts are hashed before a [`Command`] exists, so nothing here
//! ever sees a secret.

use alloc::string::String;

use thiserror::Error;

use crate::audit::{Action, Actor, Subject};
pub use crate::authentication::{AccessError, AuthError, Principal, TokenKind, authenticate, authorize};
use crate::catalog::{
    Catalog, CatalogError, MAX_SCOPE_BYTES, MAX_TOKENS, OPERATOR, SecretMatch, Source, TokenRecord,
};
use crate::command::Command;
use crate::permission::Permissions;
use crate::ports::Timestamp;
use crate::rotation::{ExpiringHash, MAX_OVERLAP_SECONDS, MAX_STAGE_SECONDS, Rotation};
use crate::token::TokenHash;
use crate::token_name::{self, NameError};
use crate::token_record::MAX_DESCRIPTION_BYTES;

/// The latest expiry of a token, in milliseconds since the epoch: the last whole day that has a
/// four-digit year in every time zone. A later expiry becomes this one.
pub const MAX_EXPIRY: Timestamp = 253_402_207_200_000;

/// The effect of a command on a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// This catalog replaces the one that the command was applied to.
    Changed {
        /// The catalog after the change.
        catalog: Catalog,
        /// The token that was created, changed or deleted.
        token: Option<TokenRecord>,
    },
    /// The catalog stays. The existing token, where the command is about one.
    Unchanged(Catalog, Option<TokenRecord>),
}

/// Why a command is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandRejected {
    /// The credential is not accepted.
    #[error(transparent)]
    Unauthenticated(#[from] AuthError),
    /// The credential is accepted, but its token lacks the permission.
    #[error("the token lacks the permission for this")]
    Forbidden,
    /// The previous secret is still accepted, and only one secret may exist beside the current.
    #[error("the token that was replaced last is accepted until {until} ms; end that first")]
    Overlapping {
        /// The end of the overlap.
        until: Timestamp,
    },
    /// A duration is longer than its maximum.
    #[error("at most {limit} seconds are possible")]
    TooLong {
        /// The maximum, in seconds.
        limit: u64,
    },
    /// The text is no valid token name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No token has this name.
    #[error("there is no token named '{0}'")]
    NotFound(String),
    /// A token of this name exists.
    #[error("there is a token named '{0}' already")]
    AlreadyExists(String),
    /// The operator token cannot be deleted, only replaced.
    #[error("the operator token cannot be deleted")]
    OperatorProtected,
    /// The catalog holds [`MAX_TOKENS`].
    #[error("there are {MAX_TOKENS} tokens already, more are not possible; delete some")]
    Full,
    /// The permissions and descriptions of all tokens have [`MAX_SCOPE_BYTES`].
    #[error(
        "the permissions and descriptions of all tokens have {MAX_SCOPE_BYTES} bytes already, more are not possible; delete \
         some tokens"
    )]
    ScopesFull,
    /// The operator token has all permissions.
    #[error("the token named {OPERATOR} has all permissions and cannot have fewer")]
    OperatorScope,
    /// The description is too long, or has invisible characters.
    #[error(
        "a description must be visible text of 1 to {MAX_DESCRIPTION_BYTES} bytes, and must not contain a token"
    )]
    Description,
    /// A token of another name has this secret.
    #[error("the token named '{0}' has this secret already")]
    SecretTaken(String),
    /// The secret was accepted before, and revoked.
    #[error("the secret was accepted before and is revoked; use a new one")]
    SecretRevoked,
    /// The catalog does not know all former secrets of the operator token.
    #[error(
        "the catalog does not know all former operator secrets, and the new one may be one of them; replace the token \
         with a command"
    )]
    FormerUnknown,
    /// A token has the new secret already: the source of randomness is broken.
    #[error("the new secret is not new: the source of randomness repeats itself")]
    SecretCollision,
    /// The change would break an invariant of the catalog.
    #[error("the change cannot be made: {0}")]
    Invariant(#[from] CatalogError),
}

/// Applies a command to a catalog: its effect, or why the catalog stays. `origin` goes into the
/// audit record and decides nothing.
pub fn apply(
    mut catalog: Catalog,
    command: &Command<'_>,
    origin: &str,
    clock: Timestamp,
) -> Result<Transition, CommandRejected> {
    let now = catalog.not_before_newest(clock);
    match *command {
        Command::Initialize { id } => {
            if catalog.id().is_some() {
                return Ok(Transition::Unchanged(catalog, None));
            }
            let mut audit = catalog.take_audit();
            audit.append(now, Action::Initialize, Actor::Provision, None, origin);
            Ok(Transition::Changed { catalog: catalog.with_id(id, audit), token: None })
        }
        Command::CreateOperator { new } => {
            let by = (Action::CreateOperator, Actor::Bootstrap);
            add(catalog, &NewToken::admin(OPERATOR, new), by, origin, now)
        }
        Command::CreateNamed { credential, name, lifetime_seconds, permissions, new } => {
            let principal = require_admin(&catalog, &credential, now)?;
            token_name::check(name)?;
            let expiry = lifetime_seconds.map(|seconds| after(now, seconds));
            // An admin may create a missing operator token this way, too
            // (docs/compatibility.md 2.5).
            let action = if name == OPERATOR { Action::CreateOperator } else { Action::CreateNamed };
            let source = source_of(&catalog, principal);
            let token = NewToken { expiry, source, permissions, ..NewToken::admin(name, new) };
            add(catalog, &token, (action, Actor::Token(principal.id)), origin, now)
        }
        Command::Import { name, expiry, permissions, description, new } => {
            let source = Source::Import;
            let admin = NewToken::admin(name, new);
            import(catalog, &NewToken { expiry, source, permissions, description, ..admin }, origin, now)
        }
        Command::Regenerate { credential, new, overlap_seconds } => {
            let operator = require_current_operator(&catalog, &credential, now)?;
            let rotation = overlap_of(operator.hash, overlap_seconds, now)?;
            let actor = Actor::Token(operator.id);
            replace_operator(catalog, new, rotation, (Action::Regenerate, actor), origin, now)
        }
        Command::Stage { credential, new, ttl_seconds } => {
            stage(catalog, &credential, new, ttl_seconds, origin, now)
        }
        Command::Confirm { credential, overlap_seconds } => {
            confirm(catalog, &credential, overlap_seconds, origin, now)
        }
        Command::Cancel { credential } => {
            let operator = require_current_operator(&catalog, &credential, now)?.clone();
            match catalog.rotation() {
                Rotation::Staged(_) => rotate(catalog, Rotation::Idle, Action::Cancel, origin, now),
                Rotation::Idle | Rotation::Overlap(_) => Ok(Transition::Unchanged(catalog, Some(operator))),
            }
        }
        Command::EndOverlap { credential } => {
            let operator = require_current_operator(&catalog, &credential, now)?.clone();
            match catalog.rotation() {
                Rotation::Overlap(_) => rotate(catalog, Rotation::Idle, Action::EndOverlap, origin, now),
                Rotation::Idle | Rotation::Staged(_) => Ok(Transition::Unchanged(catalog, Some(operator))),
            }
        }
        Command::Replace { current, new, overlap_seconds } => {
            replace(catalog, current, new, overlap_seconds, origin, now)
        }
        Command::Recover { new } => {
            replace_operator(catalog, new, Rotation::Idle, (Action::Recover, Actor::Recovery), origin, now)
        }
        Command::Delete { credential, name } => delete(catalog, &credential, name, origin, now),
        Command::Restore { new } => {
            // At the time of the clock: this is how an operator corrects a record from the future.
            let by = (Action::Restore, Actor::Provision);
            replace_operator(catalog, new, Rotation::Idle, by, origin, clock)
        }
    }
}

/// How a token is made that this principal creates.
fn source_of(catalog: &Catalog, principal: Principal) -> Source {
    let is_from_previous = |token: &TokenRecord| token.id == principal.id;
    if principal.kind == TokenKind::PreviousOperator
        || catalog.made_with_previous_secret().any(is_from_previous)
    {
        Source::PreviousSecret
    } else {
        Source::Command
    }
}

/// Whether a catalog shows that a command was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence<'a> {
    /// The catalog does not show it.
    Missing,
    /// The catalog shows that the command was applied; the token that it was about, if any.
    Applied(Option<&'a TokenRecord>),
}

/// Looks for the effect of a command whose outcome is unknown. `token` is the one that the command
/// would have been about.
pub fn was_applied<'a>(
    catalog: &'a Catalog,
    command: &Command<'_>,
    token: Option<&'a TokenRecord>,
) -> Evidence<'a> {
    let (applied, token) = match command {
        Command::Initialize { id } => (catalog.id() == Some(*id), None),
        // No other client knows this secret, or wants another effect with it.
        Command::CreateOperator { new }
        | Command::CreateNamed { new, .. }
        | Command::Import { new, .. }
        | Command::Regenerate { new, .. }
        | Command::Recover { new }
        | Command::Replace { new, .. }
        | Command::Restore { new }
        | Command::Confirm { credential: new, .. } => match catalog.find(new) {
            Some(SecretMatch::Current(token)) => (true, Some(token)),
            _ => (false, None),
        },
        Command::Stage { new, .. } => {
            (matches!(catalog.find(new), Some(SecretMatch::Staged(_))), catalog.operator())
        }
        Command::Cancel { .. } => (!matches!(catalog.rotation(), Rotation::Staged(_)), catalog.operator()),
        Command::EndOverlap { .. } => {
            (!matches!(catalog.rotation(), Rotation::Overlap(_)), catalog.operator())
        }
        // A deletion by another client is the same. The number distinguishes the token from a later
        // one of this name.
        Command::Delete { .. } => (token.is_none_or(|token| catalog.numbered(token.id).is_none()), token),
    };
    if applied { Evidence::Applied(token) } else { Evidence::Missing }
}

/// Adds a token that was made elsewhere. Without a token in the result, its secret was revoked.
fn import(
    catalog: Catalog,
    token: &NewToken<'_>,
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    let new = token.hash;
    token_name::check(token.name)?;
    token.check_scope()?;
    if let Some(existing) = catalog.named(token.name).cloned() {
        return Ok(Transition::Unchanged(catalog, Some(existing)));
    }
    if catalog.is_revoked(&new) {
        return Ok(Transition::Unchanged(catalog, None));
    }
    match catalog.find(&new) {
        None => {}
        Some(SecretMatch::Current(other)) => return Err(CommandRejected::SecretTaken(other.name.clone())),
        Some(SecretMatch::Staged(_) | SecretMatch::Previous(_)) => {
            return Err(CommandRejected::SecretTaken(OPERATOR.into()));
        }
    }
    let token = NewToken { expiry: token.expiry.map(|at| at.min(MAX_EXPIRY)), ..*token };
    add(catalog, &token, (Action::Import, Actor::Provision), origin, now)
}

/// Replaces the secret of the operator token by that of the configuration. Without a token in the
/// result, the new secret was revoked.
fn replace(
    catalog: Catalog,
    current: TokenHash,
    new: TokenHash,
    overlap_seconds: u64,
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    let operator = catalog.operator().ok_or_else(|| CommandRejected::NotFound(OPERATOR.into()))?.clone();
    if operator.hash == new {
        return Ok(Transition::Unchanged(catalog, Some(operator)));
    }
    if catalog.is_revoked(&new) {
        return Ok(Transition::Unchanged(catalog, None));
    }
    if operator.hash != current {
        return Ok(Transition::Unchanged(catalog, Some(operator)));
    }
    if !catalog.former_secrets().is_complete() {
        return Err(CommandRejected::FormerUnknown);
    }
    if let Some(SecretMatch::Current(token)) = catalog.find(&new) {
        return Err(CommandRejected::SecretTaken(token.name.clone()));
    }
    let rotation = overlap_of(operator.hash, overlap_seconds, now)?;
    replace_operator(catalog, new, rotation, (Action::Replace, Actor::Provision), origin, now)
}

/// Stages a secret.
fn stage(
    catalog: Catalog,
    credential: &TokenHash,
    new: TokenHash,
    ttl_seconds: u64,
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    require_current_operator(&catalog, credential, now)?;
    if ttl_seconds > MAX_STAGE_SECONDS {
        return Err(CommandRejected::TooLong { limit: MAX_STAGE_SECONDS });
    }
    if let Rotation::Overlap(previous) = catalog.rotation().at(now) {
        return Err(CommandRejected::Overlapping { until: previous.expires_at });
    }
    match catalog.find(&new) {
        // Staged again, with another deadline.
        None | Some(SecretMatch::Staged(_)) => {}
        Some(SecretMatch::Current(token)) => return Err(CommandRejected::SecretTaken(token.name.clone())),
        Some(SecretMatch::Previous(_)) => return Err(CommandRejected::SecretTaken(OPERATOR.into())),
    }
    if catalog.is_revoked(&new) {
        return Err(CommandRejected::SecretRevoked);
    }
    let rotation = Rotation::Staged(ExpiringHash { hash: new, expires_at: after(now, ttl_seconds) });
    rotate(catalog, rotation, Action::Stage, origin, now)
}

/// Deletes a named token.
fn delete(
    mut catalog: Catalog,
    credential: &TokenHash,
    name: &str,
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    let principal = require_admin(&catalog, credential, now)?;
    // Exactly this name, and whether or not such a token exists (docs/compatibility.md 2.6).
    if name == OPERATOR {
        return Err(CommandRejected::OperatorProtected);
    }
    let token = catalog.named(name).ok_or_else(|| CommandRejected::NotFound(name.into()))?.clone();
    let actor = Actor::Token(principal.id);
    let mut audit = catalog.take_audit();
    audit.append(now, Action::Delete, actor, Some(subject(&token)), origin);
    Ok(Transition::Changed { catalog: catalog.without(&token, audit)?, token: Some(token) })
}

/// Makes the staged secret the secret of the operator token.
fn confirm(
    catalog: Catalog,
    credential: &TokenHash,
    overlap_seconds: u64,
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    let staged = match catalog.find(credential) {
        None => return Err(AuthError::Unknown.into()),
        Some(SecretMatch::Staged(staged)) => *staged,
        // Confirmed already: a client whose answer was lost repeats the command.
        Some(SecretMatch::Current(token)) if token.is_operator() => {
            let token = token.clone();
            return Ok(Transition::Unchanged(catalog, Some(token)));
        }
        Some(SecretMatch::Current(_) | SecretMatch::Previous(_)) => return Err(CommandRejected::Forbidden),
    };
    if staged.expires_at <= now {
        return Err(AuthError::Expired { at: staged.expires_at }.into());
    }
    let operator = catalog.operator().ok_or_else(|| CommandRejected::NotFound(OPERATOR.into()))?;
    let rotation = overlap_of(operator.hash, overlap_seconds, now)?;
    let actor = Actor::Token(operator.id);
    replace_operator(catalog, staged.hash, rotation, (Action::Confirm, actor), origin, now)
}

/// A token to add.
#[derive(Clone, Copy)]
struct NewToken<'a> {
    name: &'a str,
    hash: TokenHash,
    expiry: Option<Timestamp>,
    source: Source,
    permissions: Option<&'a Permissions>,
    description: Option<&'a str>,
}

impl<'a> NewToken<'a> {
    /// A token with all permissions that never expires.
    const fn admin(name: &'a str, hash: TokenHash) -> Self {
        Self { name, hash, expiry: None, source: Source::Command, permissions: None, description: None }
    }

    fn check_scope(&self) -> Result<(), CommandRejected> {
        if self.name == OPERATOR && self.permissions.is_some() {
            return Err(CommandRejected::OperatorScope);
        }
        if self
            .description
            .is_some_and(|text| text.len() > MAX_DESCRIPTION_BYTES || !token_name::is_visible(text))
        {
            return Err(CommandRejected::Description);
        }
        Ok(())
    }
}

/// Adds a token (docs/compatibility.md 6.1).
fn add(
    mut catalog: Catalog,
    new: &NewToken<'_>,
    (action, actor): (Action, Actor),
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    new.check_scope()?;
    if catalog.named(new.name).is_some() {
        return Err(CommandRejected::AlreadyExists(new.name.into()));
    }
    if catalog.find(&new.hash).is_some() {
        return Err(CommandRejected::SecretCollision);
    }
    if catalog.tokens().len() >= MAX_TOKENS {
        return Err(CommandRejected::Full);
    }
    let token = TokenRecord {
        id: catalog.next_id(),
        name: new.name.into(),
        hash: new.hash,
        created_at: now,
        updated_at: None,
        updated_by: None,
        expiry: new.expiry,
        source: new.source,
        permissions: new.permissions.cloned(),
        description: new.description.map(Into::into),
    };
    let bytes = token.scope_bytes();
    if bytes > 0 && catalog.scope_bytes() + bytes > MAX_SCOPE_BYTES {
        return Err(CommandRejected::ScopesFull);
    }
    let mut audit = catalog.take_audit();
    audit.append(now, action, actor, Some(subject(&token)), origin);
    Ok(Transition::Changed { catalog: catalog.with_new(token.clone(), audit)?, token: Some(token) })
}

/// The token of the credential, if it has all permissions.
fn require_admin(
    catalog: &Catalog,
    credential: &TokenHash,
    now: Timestamp,
) -> Result<Principal, CommandRejected> {
    let principal = authenticate(catalog, credential, || now)?;
    if principal.kind == TokenKind::Scoped { Err(CommandRejected::Forbidden) } else { Ok(principal) }
}

/// The record of the operator token, if the credential is its current secret.
///
/// InfluxDB lets any token rotate the operator token; this authority does not
/// (docs/compatibility.md, the table of differences). The previous secret may not either: it may
/// have been replaced because it leaked.
fn require_current_operator<'a>(
    catalog: &'a Catalog,
    credential: &TokenHash,
    now: Timestamp,
) -> Result<&'a TokenRecord, CommandRejected> {
    let principal = authenticate(catalog, credential, || now)?;
    let operator = catalog.operator().ok_or_else(|| CommandRejected::NotFound(OPERATOR.into()))?;
    if principal.kind == TokenKind::Operator { Ok(operator) } else { Err(CommandRejected::Forbidden) }
}

/// The rotation that an overlap of so many seconds makes of the old hash.
fn overlap_of(old: TokenHash, seconds: u64, now: Timestamp) -> Result<Rotation, CommandRejected> {
    match seconds {
        0 => Ok(Rotation::Idle),
        1..=MAX_OVERLAP_SECONDS => {
            Ok(Rotation::Overlap(ExpiringHash { hash: old, expires_at: after(now, seconds) }))
        }
        _ => Err(CommandRejected::TooLong { limit: MAX_OVERLAP_SECONDS }),
    }
}

/// Changes the rotation, on the authority of the operator.
fn rotate(
    mut catalog: Catalog,
    rotation: Rotation,
    action: Action,
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    let operator = catalog.operator().ok_or_else(|| CommandRejected::NotFound(OPERATOR.into()))?.clone();
    let actor = Actor::Token(operator.id);
    let mut audit = catalog.take_audit();
    audit.append(now, action, actor, Some(subject(&operator)), origin);
    Ok(Transition::Changed { catalog: catalog.with_rotation(rotation, audit)?, token: Some(operator) })
}

/// The moment so many seconds from now.
fn after(now: Timestamp, seconds: u64) -> Timestamp {
    now.saturating_add(seconds.saturating_mul(1000)).min(MAX_EXPIRY)
}

/// Replaces the secret of the operator token. The same step ends the old hash
/// (docs/compatibility.md 6.1), unless the rotation keeps it. An earlier rotation ends.
fn replace_operator(
    mut catalog: Catalog,
    new: TokenHash,
    rotation: Rotation,
    (action, actor): (Action, Actor),
    origin: &str,
    now: Timestamp,
) -> Result<Transition, CommandRejected> {
    let operator = catalog.operator().ok_or_else(|| CommandRejected::NotFound(OPERATOR.into()))?;
    // `confirm` replaces by a staged hash.
    if !matches!(catalog.find(&new), None | Some(SecretMatch::Staged(_))) {
        return Err(CommandRejected::SecretCollision);
    }
    let token = TokenRecord {
        hash: new,
        updated_at: Some(now),
        // The operator's own number, also after a recovery (docs/compatibility.md 6.3); the audit
        // record holds the actor.
        updated_by: Some(operator.id),
        ..operator.clone()
    };
    let mut audit = catalog.take_audit();
    audit.append(now, action, actor, Some(subject(&token)), origin);
    Ok(Transition::Changed { catalog: catalog.with_changed(&token, rotation, audit)?, token: Some(token) })
}

fn subject(token: &TokenRecord) -> Subject {
    Subject { id: token.id, name: token.name.clone(), permissions: token.permissions.clone() }
}

#[cfg(test)]
mod tests;

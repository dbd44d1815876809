//! The component of `wit/world.wit`: converts between the contract and the core.
//!
//! The only file that knows the bindings of the contract. It makes no decision. Compiled natively
//! it is empty.

#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use optoken_core::access::{Access, DatabaseAction, Target};
use optoken_core::audit::{MAX_ORIGIN_BYTES, RETAINED_RECORDS};
use optoken_core::authority::{
    self, AuthenticateError, AuthorizeError, ConfiguredToken, Issued, ReplaceOutcome, Staged,
};
use optoken_core::catalog::{FORMAT, MAX_DOCUMENT_BYTES, MAX_TOKENS, Source, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::permission::{MAX_PERMISSION_BYTES, MAX_PERMISSIONS};
use optoken_core::ports::{self, CatalogStore, Clock, Entropy, EntropyError, Timestamp};
use optoken_core::rotation::{ExpiringHash, MAX_OVERLAP_SECONDS, MAX_STAGE_SECONDS, Rotation};
use optoken_core::token_name::MAX_NAME_BYTES;
use optoken_core::token_record::MAX_DESCRIPTION_BYTES;
use optoken_core::transition::{self, AccessError, AuthError, CommandRejected};
use optoken_runtime as _;

use self::bindings::exports::optoken::authority::{
    authenticator, component_info, provision, recovery, tokens, types,
};
use self::bindings::optoken::authority::catalog_store;
use self::bindings::wasi::clocks::wall_clock;
use self::bindings::wasi::random::random;

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, clippy::pedantic)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "authority", generate_all });
}

/// The contract that this component implements.
const CONTRACT: &str = "optoken:authority@0.2.0";

/// The digest of the sources, which `component/build` sets.
const REVISION: Option<&str> = option_env!("OPTOKEN_SOURCES_REVISION");

struct Component;

#[allow(unsafe_code)]
mod export {
    use super::{Component, bindings};
    bindings::export!(Component with_types_in bindings);
}

impl component_info::Guest for Component {
    fn get_info() -> component_info::Info {
        component_info::Info {
            contract: CONTRACT.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision: REVISION.map(Into::into),
            catalog_format: FORMAT,
            limits: component_info::Limits {
                max_tokens: MAX_TOKENS as u32,
                max_document_bytes: MAX_DOCUMENT_BYTES as u64,
                max_audit_records: RETAINED_RECORDS as u32,
                max_name_bytes: MAX_NAME_BYTES as u32,
                max_origin_bytes: MAX_ORIGIN_BYTES as u32,
                max_overlap_seconds: MAX_OVERLAP_SECONDS,
                max_ttl_seconds: MAX_STAGE_SECONDS,
                max_permissions: MAX_PERMISSIONS as u32,
                max_permission_bytes: MAX_PERMISSION_BYTES as u32,
                max_description_bytes: MAX_DESCRIPTION_BYTES as u32,
            },
        }
    }
}

impl authenticator::Guest for Component {
    fn load() -> Result<(), types::CommandError> {
        Ok(authority().load()?)
    }

    fn state() -> Result<Option<authenticator::CatalogState>, types::CommandError> {
        Ok(authority().state()?.map(|state| authenticator::CatalogState {
            version: state.version.into(),
            catalog_id: state.catalog_id.map(Into::into),
            audit_sequence: state.audit_sequence,
            audit_head: state.audit_head.map(Into::into),
        }))
    }

    fn authenticate(
        credential: String,
    ) -> Result<authenticator::Principal, authenticator::AuthenticationError> {
        Ok(authority().authenticate(&credential)?.into())
    }

    fn authorize(
        credential: String,
        access: authenticator::Access,
    ) -> Result<authenticator::Principal, authenticator::AuthorizationError> {
        let target = match &access.target {
            authenticator::Target::Http => Target::Http,
            authenticator::Target::Database(database) => Target::Database(
                &database.name,
                match database.action {
                    authenticator::DatabaseAction::Read => DatabaseAction::Read,
                    authenticator::DatabaseAction::Write => DatabaseAction::Write,
                    authenticator::DatabaseAction::Create => DatabaseAction::Create,
                },
            ),
            authenticator::Target::System(name) => Target::System(name),
            authenticator::Target::Administration => Target::Administration,
        };
        let access = Access { method: &access.method, host: &access.host, path: &access.path, target };
        Ok(authority().authorize(&credential, &access)?.into())
    }

    fn describe(credential: String) -> Result<types::TokenInfo, authenticator::AuthenticationError> {
        Ok(authority().describe(&credential)?.into())
    }
}

impl tokens::Guest for Component {
    fn create_operator(origin: String) -> Result<types::IssuedToken, types::CommandError> {
        issued(authority().create_operator(&origin))
    }

    fn regenerate(
        caller: types::Caller,
        overlap_seconds: Option<u64>,
    ) -> Result<types::IssuedToken, types::CommandError> {
        issued(authority().regenerate((&caller).into(), overlap_seconds))
    }

    fn stage(
        caller: types::Caller,
        sha512: Option<String>,
        ttl_seconds: Option<u64>,
    ) -> Result<tokens::StagedSecret, types::CommandError> {
        let Staged { secret, hash, expires_at } =
            authority().stage((&caller).into(), sha512.as_deref(), ttl_seconds)?;
        let secret = secret.map(|secret| secret.expose().into());
        Ok(tokens::StagedSecret { secret, sha512: hash.to_string(), expires_at })
    }

    fn confirm(
        caller: types::Caller,
        overlap_seconds: Option<u64>,
    ) -> Result<types::TokenInfo, types::CommandError> {
        Ok((&authority().confirm((&caller).into(), overlap_seconds)?).into())
    }

    fn cancel(caller: types::Caller) -> Result<(), types::CommandError> {
        Ok(authority().cancel((&caller).into())?)
    }

    fn end_overlap(caller: types::Caller) -> Result<(), types::CommandError> {
        Ok(authority().end_overlap((&caller).into())?)
    }

    fn status() -> Result<Option<tokens::OperatorStatus>, types::CommandError> {
        Ok(authority().status()?.map(|(operator, rotation)| tokens::OperatorStatus {
            info: operator.into(),
            rotation: match rotation {
                Rotation::Idle => tokens::Rotation::Idle,
                Rotation::Staged(staged) => tokens::Rotation::Staged(staged.into()),
                Rotation::Overlap(previous) => tokens::Rotation::Overlapping(previous.into()),
            },
        }))
    }

    fn create_named(
        caller: types::Caller,
        name: String,
        permissions: Option<Vec<String>>,
        lifetime_seconds: Option<u64>,
    ) -> Result<types::IssuedToken, types::CommandError> {
        let permissions = permissions.as_deref();
        issued(authority().create_named((&caller).into(), &name, permissions, lifetime_seconds))
    }

    fn delete(caller: types::Caller, name: String) -> Result<types::TokenInfo, types::CommandError> {
        Ok((&authority().delete((&caller).into(), &name)?).into())
    }

    fn audit(after_sequence: Option<u64>) -> Result<tokens::AuditRecords, types::CommandError> {
        let mut authority = authority();
        let records = authority.audit(after_sequence.unwrap_or(0))?;
        Ok(tokens::AuditRecords {
            lines: records.lines.to_vec(),
            retained: records.retained.map(|(oldest, newest)| tokens::AuditRange { oldest, newest }),
        })
    }

    fn list_tokens() -> Result<Vec<types::TokenInfo>, types::CommandError> {
        Ok(authority().list_tokens()?.iter().map(Into::into).collect())
    }
}

impl provision::Guest for Component {
    fn initialize(origin: String) -> Result<String, types::CommandError> {
        Ok(authority().initialize(&origin)?)
    }

    fn hash_token(token: String) -> Result<String, types::CommandError> {
        Ok(authority::hash_token(&token)?)
    }

    fn import_hash(
        name: String,
        sha512: String,
        permissions: Option<Vec<String>>,
        description: Option<String>,
        expiry: Option<Timestamp>,
        origin: String,
    ) -> Result<provision::ImportOutcome, types::CommandError> {
        let (permissions, description) = (permissions.as_deref(), description.as_deref());
        let token = ConfiguredToken { name: &name, sha512: &sha512, permissions, description, expiry };
        Ok(authority().import_hash(&token, &origin)?.into())
    }

    fn replace_operator(
        current: String,
        sha512: String,
        overlap_seconds: Option<u64>,
        origin: String,
    ) -> Result<provision::ReplaceOutcome, types::CommandError> {
        Ok(match authority().replace_operator(&current, &sha512, overlap_seconds, &origin)? {
            ReplaceOutcome::Replaced => provision::ReplaceOutcome::Replaced,
            ReplaceOutcome::Unchanged => provision::ReplaceOutcome::Unchanged,
            ReplaceOutcome::Different => provision::ReplaceOutcome::Different,
            ReplaceOutcome::Revoked => provision::ReplaceOutcome::Revoked,
        })
    }
}

impl recovery::Guest for Component {
    fn regenerate(
        origin: String,
        reason: recovery::Reason,
    ) -> Result<types::IssuedToken, types::CommandError> {
        issued(authority().recover(&origin, matches!(reason, recovery::Reason::Restore)))
    }
}

fn issued(issued: Result<Issued, CommandError>) -> Result<types::IssuedToken, types::CommandError> {
    let Issued { token, secret } = issued?;
    Ok(types::IssuedToken { info: (&token).into(), secret: secret.expose().into() })
}

impl<'a> From<&'a types::Caller> for authority::Caller<'a> {
    fn from(types::Caller { credential, origin }: &'a types::Caller) -> Self {
        Self { credential, origin }
    }
}

impl From<authority::ImportOutcome> for provision::ImportOutcome {
    fn from(outcome: authority::ImportOutcome) -> Self {
        match &outcome {
            authority::ImportOutcome::Created(token) => Self::Created(token.into()),
            authority::ImportOutcome::Unchanged(token) => Self::Unchanged(token.into()),
            authority::ImportOutcome::Different(token) => Self::Different(token.into()),
            authority::ImportOutcome::Revoked => Self::Revoked,
        }
    }
}

impl From<ExpiringHash> for tokens::ExpiringSecret {
    fn from(ExpiringHash { hash, expires_at }: ExpiringHash) -> Self {
        Self { sha512: hash.to_string(), expires_at }
    }
}

impl From<&TokenRecord> for types::TokenInfo {
    // Inlined into each export, it takes a kilobyte more.
    #[inline(never)]
    fn from(token: &TokenRecord) -> Self {
        Self {
            id: token.id,
            name: token.name.clone(),
            sha512: token.hash.to_string(),
            created_at: token.created_at,
            updated_at: token.updated_at,
            updated_by: token.updated_by,
            expiry: token.expiry,
            source: match token.source {
                Source::Command => types::TokenSource::Command,
                Source::Import => types::TokenSource::Imported,
                Source::PreviousSecret => types::TokenSource::PreviousSecret,
            },
            permissions: token
                .permissions
                .as_ref()
                .map(|permissions| permissions.texts().map(Into::into).collect()),
            description: token.description.clone(),
        }
    }
}

impl From<transition::Principal> for authenticator::Principal {
    fn from(transition::Principal { id, kind }: transition::Principal) -> Self {
        let kind = match kind {
            transition::TokenKind::Operator => authenticator::TokenKind::Operator,
            transition::TokenKind::PreviousOperator => authenticator::TokenKind::PreviousOperator,
            transition::TokenKind::NamedAdmin => authenticator::TokenKind::NamedAdmin,
            transition::TokenKind::Scoped => authenticator::TokenKind::Scoped,
        };
        Self { id, kind }
    }
}

impl From<AuthorizeError> for authenticator::AuthorizationError {
    fn from(error: AuthorizeError) -> Self {
        match error {
            AuthorizeError::Refused(AccessError::Unauthenticated(AuthError::Unknown)) => Self::UnknownToken,
            AuthorizeError::Refused(AccessError::Unauthenticated(AuthError::Expired { at })) => {
                Self::Expired(at)
            }
            AuthorizeError::Refused(AccessError::Forbidden) => Self::Forbidden,
            AuthorizeError::Unavailable(_) => Self::Unavailable,
        }
    }
}

impl From<AuthenticateError> for authenticator::AuthenticationError {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Refused(AuthError::Unknown) => Self::UnknownToken,
            AuthenticateError::Refused(AuthError::Expired { at }) => Self::Expired(at),
            AuthenticateError::Unavailable(_) => Self::Unavailable,
        }
    }
}

impl From<CommandError> for types::CommandError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Rejected(rejected) => match rejected {
                CommandRejected::Unauthenticated(AuthError::Unknown) => Self::Unauthenticated,
                CommandRejected::Unauthenticated(AuthError::Expired { at }) => Self::Expired(at),
                CommandRejected::Forbidden => Self::Forbidden,
                CommandRejected::NotFound(name) => Self::NotFound(name),
                CommandRejected::AlreadyExists(name) => Self::AlreadyExists(name),
                CommandRejected::OperatorProtected => Self::OperatorProtected,
                CommandRejected::Overlapping { .. }
                | CommandRejected::FormerUnknown
                | CommandRejected::ScopesFull => Self::Conflict(rejected.to_string()),
                CommandRejected::TooLong { .. }
                | CommandRejected::Name(_)
                | CommandRejected::OperatorScope
                | CommandRejected::Description
                | CommandRejected::SecretTaken(_)
                | CommandRejected::SecretRevoked => Self::InvalidArgument(rejected.to_string()),
                CommandRejected::Full => Self::Full(MAX_TOKENS as u32),
                CommandRejected::SecretCollision => Self::NoEntropy(rejected.to_string()),
                CommandRejected::Invariant(error) => Self::Other(error.to_string()),
            },
            CommandError::Catalog(error) => Self::UnreadableCatalog(error.to_string()),
            CommandError::Contended => Self::Contended,
            CommandError::Unavailable(why) => Self::Unavailable(why),
            CommandError::UnknownOutcome(why) => Self::UnknownOutcome(why),
            CommandError::Entropy(error) => Self::NoEntropy(error.to_string()),
            CommandError::Weak(error) => Self::InvalidArgument(error.to_string()),
            CommandError::Hash(error) => Self::InvalidArgument(error.to_string()),
            CommandError::Permission(error) => Self::InvalidArgument(error.to_string()),
        }
    }
}

/// The ports, over the imports.
struct Imports;

impl Entropy for Imports {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in bytes.chunks_mut(8) {
            let random = random::get_random_u64().to_le_bytes();
            for (byte, random) in chunk.iter_mut().zip(random) {
                *byte = random;
            }
        }
        Ok(())
    }
}

impl Clock for Imports {
    fn now(&mut self) -> Timestamp {
        let now = wall_clock::now();
        now.seconds.saturating_mul(1000).saturating_add(u64::from(now.nanoseconds / 1_000_000))
    }
}

impl CatalogStore for Imports {
    fn load(&mut self) -> Result<Option<ports::Entry>, ports::StoreError> {
        use catalog_store::StoreError;
        match catalog_store::load() {
            Ok(entry) => Ok(entry.map(|catalog_store::Entry { version, document }| ports::Entry {
                version: kept(version),
                document,
            })),
            Err(StoreError::Unavailable(why) | StoreError::UnknownOutcome(why) | StoreError::Other(why)) => {
                Err(ports::StoreError::Unavailable(why))
            }
        }
    }

    fn swap(
        &mut self,
        expected: Option<&str>,
        document: &str,
    ) -> Result<ports::SwapOutcome, ports::StoreError> {
        use catalog_store::{StoreError, SwapOutcome};
        match catalog_store::swap(expected, document) {
            Ok(SwapOutcome::Swapped(version)) => Ok(ports::SwapOutcome::Swapped(kept(version))),
            Ok(SwapOutcome::Stale) => Ok(ports::SwapOutcome::Stale),
            Err(StoreError::Unavailable(why)) => Err(ports::StoreError::Unavailable(why)),
            Err(StoreError::UnknownOutcome(why) | StoreError::Other(why)) => {
                Err(ports::StoreError::UnknownOutcome(why))
            }
        }
    }
}

/// A string of the host for longer than a call. The original may be in the scratch block of
/// `optoken_runtime`, which the next authentication needs.
fn kept(string: String) -> String {
    string.as_str().into()
}

/// State of an instance, which has one thread.
struct Instance<T>(T);

// SAFETY: wasm32-wasip2 has no threads, so no second thread reaches the state.
#[allow(unsafe_code)]
unsafe impl<T> Sync for Instance<T> {}

static AUTHORITY: Instance<RefCell<authority::Authority<Imports>>> =
    Instance(RefCell::new(authority::Authority::new(Imports)));

/// The authority of this instance. The component model forbids a host to call an export during an
/// import; such a call traps here.
fn authority() -> RefMut<'static, authority::Authority<Imports>> {
    AUTHORITY.0.borrow_mut()
}

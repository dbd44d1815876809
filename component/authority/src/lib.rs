//! The component of `wit/world.wit`: translates between the contract and the core.
//!
//! The only file that knows wit-bindgen. It decides nothing. Compiled natively it is empty.

#![cfg(target_arch = "wasm32")]
#![no_std]

extern crate alloc;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use optoken_core::authority::{self, AuthenticateError, Issued, Preset, Staged};
use optoken_core::catalog::{MAX_TOKENS, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::{self, CatalogStore, Clock, Entropy, EntropyError, Timestamp};
use optoken_core::rotation::{Rotation, Timed};
use optoken_core::transition::{Denial, Principal, Refusal};
use optoken_runtime as _;
use wasip2::clocks::wall_clock;

use self::exports::optoken::authority::{authenticator, provision, recovery, tokens, types};
use self::optoken::authority::catalog_store;

#[allow(missing_docs, unreachable_pub, unsafe_code, clippy::all, clippy::pedantic)]
mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "authority" });
}
use self::bindings::{exports, optoken};

struct Guest;

#[allow(unsafe_code)]
mod export {
    use super::{Guest, bindings};
    bindings::export!(Guest with_types_in bindings);
}

impl authenticator::Guest for Guest {
    fn prepare() -> Result<(), types::CommandError> {
        authority().prepare().map_err(Into::into)
    }

    fn authenticate(
        credential: String,
    ) -> Result<authenticator::Principal, authenticator::AuthenticationError> {
        match authority().authenticate(&credential) {
            Ok(Principal { id, operator, replaced }) => Ok(authenticator::Principal {
                id,
                kind: match (operator, replaced) {
                    (true, false) => authenticator::TokenKind::Operator,
                    (true, true) => authenticator::TokenKind::ReplacedOperator,
                    (false, _) => authenticator::TokenKind::NamedAdmin,
                },
            }),
            Err(AuthenticateError::Refused(Refusal::Unknown)) => {
                Err(authenticator::AuthenticationError::UnknownToken)
            }
            Err(AuthenticateError::Refused(Refusal::Expired { at })) => {
                Err(authenticator::AuthenticationError::Expired(at))
            }
            Err(AuthenticateError::Undecided(_)) => Err(authenticator::AuthenticationError::Unavailable),
        }
    }
}

impl tokens::Guest for Guest {
    fn create_operator(origin: String) -> Result<types::IssuedToken, types::CommandError> {
        answer(authority().create_operator(&origin))
    }

    fn regenerate(
        credential: String,
        overlap: u64,
        origin: String,
    ) -> Result<types::IssuedToken, types::CommandError> {
        answer(authority().regenerate(&credential, overlap, &origin))
    }

    fn stage(
        credential: String,
        sha512: Option<String>,
        ttl: Option<u64>,
        origin: String,
    ) -> Result<tokens::StagedSecret, types::CommandError> {
        let Staged { secret, hash, until } =
            authority().stage(&credential, sha512.as_deref(), ttl, &origin)?;
        let secret = secret.map(|secret| secret.expose().into());
        Ok(tokens::StagedSecret { secret, sha512: hash.to_string(), expires_at: until })
    }

    fn confirm(
        credential: String,
        overlap: u64,
        origin: String,
    ) -> Result<types::TokenInfo, types::CommandError> {
        Ok(authority().confirm(&credential, overlap, &origin)?.into())
    }

    fn cancel(credential: String, origin: String) -> Result<(), types::CommandError> {
        Ok(authority().cancel(&credential, &origin)?)
    }

    fn end_overlap(credential: String, origin: String) -> Result<(), types::CommandError> {
        Ok(authority().end_overlap(&credential, &origin)?)
    }

    fn status() -> Result<Option<tokens::OperatorStatus>, types::CommandError> {
        Ok(authority().status()?.map(|(operator, rotation)| tokens::OperatorStatus {
            info: operator.clone().into(),
            rotation: match rotation {
                Rotation::None => tokens::Rotation::Settled,
                Rotation::Staged(staged) => tokens::Rotation::Staged(staged.into()),
                Rotation::Overlap(replaced) => tokens::Rotation::Overlapping(replaced.into()),
            },
        }))
    }

    fn create_named(
        credential: String,
        name: String,
        lifetime: Option<u64>,
        origin: String,
    ) -> Result<types::IssuedToken, types::CommandError> {
        answer(authority().create_named(&credential, &name, lifetime, &origin))
    }

    fn delete(
        credential: String,
        name: String,
        origin: String,
    ) -> Result<types::TokenInfo, types::CommandError> {
        Ok(authority().delete(&credential, &name, &origin)?.into())
    }

    fn audit() -> Result<Vec<String>, types::CommandError> {
        Ok(authority().audit()?.to_vec())
    }

    fn list() -> Result<Vec<types::TokenInfo>, types::CommandError> {
        Ok(authority().list()?.iter().cloned().map(Into::into).collect())
    }
}

impl provision::Guest for Guest {
    fn initialize(origin: String) -> Result<String, types::CommandError> {
        Ok(authority().initialize(&origin)?)
    }

    fn preset_token(
        name: String,
        token: String,
        expiry: Option<Timestamp>,
        origin: String,
    ) -> Result<provision::PresetOutcome, types::CommandError> {
        Ok(authority().preset_token(&name, &token, expiry, &origin)?.into())
    }

    fn preset_hash(
        name: String,
        sha512: String,
        expiry: Option<Timestamp>,
        origin: String,
    ) -> Result<provision::PresetOutcome, types::CommandError> {
        Ok(authority().preset_hash(&name, &sha512, expiry, &origin)?.into())
    }
}

impl recovery::Guest for Guest {
    fn regenerate(origin: String) -> Result<types::IssuedToken, types::CommandError> {
        answer(authority().recover(&origin))
    }
}

fn answer(issued: Result<Issued, CommandError>) -> Result<types::IssuedToken, types::CommandError> {
    let Issued { token, secret } = issued?;
    Ok(types::IssuedToken { info: token.into(), secret: secret.expose().into() })
}

impl From<Preset> for provision::PresetOutcome {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Created(token) => Self::Created(token.into()),
            Preset::Unchanged(token) => Self::Unchanged(token.into()),
            Preset::Different(token) => Self::Different(token.into()),
        }
    }
}

impl From<Timed> for tokens::TimedSecret {
    fn from(Timed { hash, until }: Timed) -> Self {
        Self { sha512: hash.to_string(), until }
    }
}

impl From<TokenRecord> for types::TokenInfo {
    fn from(token: TokenRecord) -> Self {
        Self {
            id: token.id,
            name: token.name,
            sha512: token.hash.to_string(),
            created_at: token.created_at,
            updated_at: token.updated_at,
            updated_by: token.updated_by,
            expiry: token.expiry,
        }
    }
}

impl From<CommandError> for types::CommandError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Denied(denial) => match denial {
                Denial::Unauthenticated(Refusal::Unknown) => Self::Unauthenticated,
                Denial::Unauthenticated(Refusal::Expired { at }) => Self::Expired(at),
                Denial::Forbidden => Self::Forbidden,
                Denial::NotFound(name) => Self::NotFound(name),
                Denial::AlreadyExists(name) => Self::AlreadyExists(name),
                Denial::OperatorProtected => Self::OperatorProtected,
                overlapping @ Denial::Overlapping { .. } => Self::Conflict(overlapping.to_string()),
                too_long @ Denial::TooLong { .. } => Self::InvalidArgument(too_long.to_string()),
                Denial::Full => Self::Full(u32::try_from(MAX_TOKENS).unwrap_or(u32::MAX)),
                Denial::Name(error) => Self::InvalidArgument(error.to_string()),
                taken @ Denial::SecretTaken(_) => Self::InvalidArgument(taken.to_string()),
                Denial::SecretNotNew => Self::NoEntropy(Denial::SecretNotNew.to_string()),
                Denial::Impossible(error) => Self::Other(error.to_string()),
            },
            CommandError::Catalog(error) => Self::UnreadableCatalog(error.to_string()),
            CommandError::Contended => Self::Contended,
            CommandError::Unavailable(why) => Self::Unavailable(why),
            CommandError::UnknownOutcome(why) => Self::UnknownOutcome(why),
            CommandError::Entropy(error) => Self::NoEntropy(error.to_string()),
            CommandError::Weak(error) => Self::InvalidArgument(error.to_string()),
            CommandError::Hash(error) => Self::InvalidArgument(error.to_string()),
        }
    }
}

/// The ports, over the imports.
struct Imports;

impl Entropy for Imports {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(bytes).map_err(|error| EntropyError(error.to_string()))
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
        use catalog_store::StoreError as Theirs;
        match catalog_store::load() {
            Ok(entry) => Ok(entry.map(|e| ports::Entry { version: e.version, document: e.document })),
            Err(Theirs::Unavailable(why) | Theirs::UnknownOutcome(why) | Theirs::Other(why)) => {
                Err(ports::StoreError::Unavailable(why))
            }
        }
    }

    fn swap(
        &mut self,
        expected: Option<&str>,
        document: &str,
    ) -> Result<ports::SwapOutcome, ports::StoreError> {
        use catalog_store::{StoreError as Theirs, SwapOutcome};
        match catalog_store::swap(expected, document) {
            Ok(SwapOutcome::Swapped(version)) => Ok(ports::SwapOutcome::Swapped(version)),
            Ok(SwapOutcome::Stale) => Ok(ports::SwapOutcome::Stale),
            Err(Theirs::Unavailable(why)) => Err(ports::StoreError::Unavailable(why)),
            Err(Theirs::UnknownOutcome(why) | Theirs::Other(why)) => {
                Err(ports::StoreError::UnknownOutcome(why))
            }
        }
    }
}

/// State of an instance, which has one thread.
struct Instance<T>(T);

// SAFETY: wasm32-wasip2 has no threads, so there is nobody to share the state with.
#[allow(unsafe_code)]
unsafe impl<T> Sync for Instance<T> {}

static AUTHORITY: Instance<RefCell<authority::Authority<Imports>>> =
    Instance(RefCell::new(authority::Authority::new(Imports)));

/// The authority of this instance. A host that calls an export while an import is waiting, which the component model
/// forbids, ends the instance here.
fn authority() -> RefMut<'static, authority::Authority<Imports>> {
    AUTHORITY.0.borrow_mut()
}

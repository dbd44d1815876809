//! The words of the contract in the host's own, and back: between [`bindings`](super::bindings) and [`token`](crate::token)
//! or [`store`].

use crate::sandbox::bindings::exports::optoken::authority::{authenticator, provision, tokens, types};
use crate::sandbox::bindings::optoken::authority::catalog_store;
use crate::secret::Secret;
use crate::store::{self, StoreError};
use crate::token::{
    AuthenticateError, CommandError, IssuedToken, OperatorStatus, Preset, Principal, Rotation, StagedSecret,
    TimedSecret, TokenInfo,
};

impl From<authenticator::Principal> for Principal {
    fn from(principal: authenticator::Principal) -> Self {
        use authenticator::TokenKind;
        Self {
            id: principal.id,
            operator: principal.kind != TokenKind::NamedAdmin,
            replaced: principal.kind == TokenKind::ReplacedOperator,
        }
    }
}

impl From<authenticator::AuthenticationError> for AuthenticateError {
    fn from(error: authenticator::AuthenticationError) -> Self {
        use authenticator::AuthenticationError as Theirs;
        match error {
            Theirs::UnknownToken => Self::Unknown,
            Theirs::Expired(at) => Self::Expired(at),
            Theirs::Unavailable => Self::Unavailable("the catalog cannot be read".to_owned()),
        }
    }
}

impl From<types::TokenInfo> for TokenInfo {
    fn from(info: types::TokenInfo) -> Self {
        let types::TokenInfo { id, name, sha512, created_at, updated_at, updated_by, expiry } = info;
        Self { id, name, sha512, created_at, updated_at, updated_by, expiry }
    }
}

impl From<types::IssuedToken> for IssuedToken {
    fn from(issued: types::IssuedToken) -> Self {
        Self { info: issued.info.into(), secret: issued.secret.into() }
    }
}

impl From<tokens::StagedSecret> for StagedSecret {
    fn from(staged: tokens::StagedSecret) -> Self {
        let tokens::StagedSecret { secret, sha512, expires_at } = staged;
        Self { secret: secret.map(Secret::from), sha512, expires_at }
    }
}

impl From<tokens::OperatorStatus> for OperatorStatus {
    fn from(status: tokens::OperatorStatus) -> Self {
        let rotation = match status.rotation {
            tokens::Rotation::Settled => Rotation::Settled,
            tokens::Rotation::Staged(staged) => Rotation::Staged(staged.into()),
            tokens::Rotation::Overlapping(replaced) => Rotation::Overlapping(replaced.into()),
        };
        Self { info: status.info.into(), rotation }
    }
}

impl From<tokens::TimedSecret> for TimedSecret {
    fn from(tokens::TimedSecret { sha512, until }: tokens::TimedSecret) -> Self {
        Self { sha512, until }
    }
}

impl From<provision::PresetOutcome> for Preset {
    fn from(outcome: provision::PresetOutcome) -> Self {
        match outcome {
            provision::PresetOutcome::Created(info) => Self::Created(info.into()),
            provision::PresetOutcome::Unchanged(info) => Self::Unchanged(info.into()),
            provision::PresetOutcome::Different(info) => Self::Different(info.into()),
        }
    }
}

impl From<types::CommandError> for CommandError {
    fn from(error: types::CommandError) -> Self {
        use types::CommandError as Theirs;
        match error {
            Theirs::Unauthenticated => Self::Unauthenticated,
            Theirs::Expired(at) => Self::Expired(at),
            Theirs::Forbidden => Self::Forbidden,
            Theirs::NotFound(name) => Self::NotFound(name),
            Theirs::AlreadyExists(name) => Self::AlreadyExists(name),
            Theirs::OperatorProtected => Self::OperatorProtected,
            Theirs::Full(limit) => Self::Full(limit),
            Theirs::Conflict(why) => Self::Conflict(why),
            Theirs::InvalidArgument(why) => Self::InvalidArgument(why),
            Theirs::Contended => {
                Self::Unavailable("too many others are changing the catalog at this moment".to_owned())
            }
            Theirs::Unavailable(why) => Self::Unavailable(why),
            Theirs::UnknownOutcome(why) => Self::UnknownOutcome(why),
            Theirs::UnreadableCatalog(why) | Theirs::NoEntropy(why) | Theirs::Other(why) => {
                Self::Internal(why)
            }
        }
    }
}

impl From<store::Entry> for catalog_store::Entry {
    fn from(entry: store::Entry) -> Self {
        Self { version: entry.version.as_str().to_owned(), document: entry.document }
    }
}

impl From<StoreError> for catalog_store::StoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(why) => Self::Unavailable(why),
            StoreError::UnknownOutcome(why) => Self::UnknownOutcome(why),
        }
    }
}

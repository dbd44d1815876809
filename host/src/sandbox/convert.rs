//! Converts between the types of the contract ([`bindings`](super::bindings)) and the types of the
//! host ([`token`](crate::token) and [`store`]).

use crate::access::{Access, AuthorizeError, DatabaseAction, Target};
use crate::sandbox::bindings::exports::optoken::authority::{
    authenticator, component_info, provision, tokens, types,
};
use crate::sandbox::bindings::optoken::authority::catalog_store;
use crate::secret::Secret;
use crate::store::{self, StoreError};
use crate::token::{
    AuditRecords, AuthenticateError, CatalogState, CommandError, ComponentInfo, ComponentLimits,
    ExpiringSecret, ImportOutcome, IssuedToken, OperatorStatus, Principal, ReplaceOutcome, Rotation,
    StagedSecret, TokenInfo, TokenKind, TokenSource,
};

impl From<authenticator::TokenKind> for TokenKind {
    fn from(kind: authenticator::TokenKind) -> Self {
        match kind {
            authenticator::TokenKind::Operator => Self::Operator,
            authenticator::TokenKind::PreviousOperator => Self::PreviousOperator,
            authenticator::TokenKind::NamedAdmin => Self::NamedAdmin,
            authenticator::TokenKind::Scoped => Self::Scoped,
        }
    }
}

impl From<authenticator::Principal> for Principal {
    fn from(authenticator::Principal { id, kind }: authenticator::Principal) -> Self {
        Self { id, kind: kind.into() }
    }
}

impl From<authenticator::CatalogState> for CatalogState {
    fn from(state: authenticator::CatalogState) -> Self {
        let authenticator::CatalogState { version, catalog_id, audit_sequence, audit_head } = state;
        Self { version, catalog_id, audit_sequence, audit_head }
    }
}

impl From<component_info::Info> for ComponentInfo {
    fn from(info: component_info::Info) -> Self {
        let component_info::Info { contract, version, revision, catalog_format, limits } = info;
        Self { contract, version, revision, catalog_format, limits: limits.into() }
    }
}

impl From<component_info::Limits> for ComponentLimits {
    fn from(limits: component_info::Limits) -> Self {
        let component_info::Limits {
            max_tokens,
            max_document_bytes,
            max_audit_records,
            max_name_bytes,
            max_origin_bytes,
            max_overlap_seconds,
            max_ttl_seconds,
            max_permissions,
            max_permission_bytes,
            max_description_bytes,
        } = limits;
        Self {
            max_tokens,
            max_document_bytes,
            max_audit_records,
            max_name_bytes,
            max_origin_bytes,
            max_overlap_seconds,
            max_ttl_seconds,
            max_permissions,
            max_permission_bytes,
            max_description_bytes,
        }
    }
}

impl From<tokens::AuditRecords> for AuditRecords {
    fn from(tokens::AuditRecords { lines, retained }: tokens::AuditRecords) -> Self {
        Self { lines, retained: retained.map(|tokens::AuditRange { oldest, newest }| oldest..=newest) }
    }
}

impl From<authenticator::AuthenticationError> for AuthenticateError {
    fn from(error: authenticator::AuthenticationError) -> Self {
        use authenticator::AuthenticationError as Contract;
        match error {
            Contract::UnknownToken => Self::Unknown,
            Contract::Expired(at) => Self::Expired(at),
            Contract::Unavailable => Self::Unavailable("the catalog cannot be read".to_owned()),
        }
    }
}

impl From<authenticator::AuthorizationError> for AuthorizeError {
    fn from(error: authenticator::AuthorizationError) -> Self {
        use authenticator::{AuthenticationError, AuthorizationError as Contract};
        let authentication = match error {
            Contract::Forbidden => return Self::Forbidden,
            Contract::UnknownToken => AuthenticationError::UnknownToken,
            Contract::Expired(at) => AuthenticationError::Expired(at),
            Contract::Unavailable => AuthenticationError::Unavailable,
        };
        Self::Authentication(authentication.into())
    }
}

impl<'a> From<&Access<'a>> for authenticator::Access<'a> {
    fn from(access: &Access<'a>) -> Self {
        let target = match access.target {
            Target::Http => authenticator::Target::Http,
            Target::Database { name, action } => {
                authenticator::Target::Database(authenticator::DatabaseAccess {
                    name,
                    action: match action {
                        DatabaseAction::Read => authenticator::DatabaseAction::Read,
                        DatabaseAction::Write => authenticator::DatabaseAction::Write,
                        DatabaseAction::Create => authenticator::DatabaseAction::Create,
                    },
                })
            }
            Target::System(name) => authenticator::Target::System(name),
            Target::Administration => authenticator::Target::Administration,
        };
        Self { method: access.method, host: access.host, path: access.path, query: access.query, target }
    }
}

impl From<types::TokenInfo> for TokenInfo {
    fn from(info: types::TokenInfo) -> Self {
        Self {
            id: info.id,
            name: info.name,
            sha512: info.sha512,
            created_at: info.created_at,
            updated_at: info.updated_at,
            updated_by: info.updated_by,
            expiry: info.expiry,
            source: info.source.into(),
            permissions: info.permissions,
            description: info.description,
        }
    }
}

impl From<types::TokenSource> for TokenSource {
    fn from(source: types::TokenSource) -> Self {
        match source {
            types::TokenSource::Command => Self::Command,
            types::TokenSource::Imported => Self::Imported,
            types::TokenSource::PreviousSecret => Self::PreviousSecret,
        }
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
            tokens::Rotation::Idle => Rotation::Idle,
            tokens::Rotation::Staged(staged) => Rotation::Staged(staged.into()),
            tokens::Rotation::Overlapping(previous) => Rotation::Overlapping(previous.into()),
        };
        Self { info: status.info.into(), rotation }
    }
}

impl From<tokens::ExpiringSecret> for ExpiringSecret {
    fn from(tokens::ExpiringSecret { sha512, expires_at }: tokens::ExpiringSecret) -> Self {
        Self { sha512, expires_at }
    }
}

impl From<provision::ReplaceOutcome> for ReplaceOutcome {
    fn from(outcome: provision::ReplaceOutcome) -> Self {
        match outcome {
            provision::ReplaceOutcome::Replaced => Self::Replaced,
            provision::ReplaceOutcome::Unchanged => Self::Unchanged,
            provision::ReplaceOutcome::Different => Self::Different,
            provision::ReplaceOutcome::Revoked => Self::Revoked,
        }
    }
}

impl From<provision::ImportOutcome> for ImportOutcome {
    fn from(outcome: provision::ImportOutcome) -> Self {
        match outcome {
            provision::ImportOutcome::Created(info) => Self::Created(info.into()),
            provision::ImportOutcome::Unchanged(info) => Self::Unchanged(info.into()),
            provision::ImportOutcome::Different(info) => Self::Different(info.into()),
            provision::ImportOutcome::Revoked => Self::Revoked,
        }
    }
}

impl From<types::CommandError> for CommandError {
    fn from(error: types::CommandError) -> Self {
        use types::CommandError as Contract;
        match error {
            Contract::Unauthenticated => Self::Unauthenticated,
            Contract::Expired(at) => Self::Expired(at),
            Contract::Forbidden => Self::Forbidden,
            Contract::NotFound(name) => Self::NotFound(name),
            Contract::AlreadyExists(name) => Self::AlreadyExists(name),
            Contract::OperatorProtected => Self::OperatorProtected,
            Contract::Full(limit) => Self::Full(limit),
            Contract::Conflict(why) => Self::Conflict(why),
            Contract::InvalidArgument(why) => Self::InvalidArgument(why),
            Contract::Contended => {
                Self::Unavailable("too many others are changing the catalog at this moment".to_owned())
            }
            Contract::Unavailable(why) => Self::Unavailable(why),
            Contract::UnknownOutcome(why) => Self::UnknownOutcome(why),
            Contract::UnreadableCatalog(why) | Contract::NoEntropy(why) | Contract::Other(why) => {
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

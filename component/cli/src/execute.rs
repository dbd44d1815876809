//! Executes commands over any ports. Returns their output as values, which `text` and `json` write.

use alloc::string::String;
use alloc::vec::Vec;

use optoken_core::authority::{
    AuthenticateError, Authority, AuthorizeError, Caller, ConfiguredToken, ImportOutcome, Issued,
    ReplaceOutcome, Staged, hash_token,
};
use optoken_core::catalog::{Source, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::{CatalogStore, Clock, Entropy};
use optoken_core::rotation::Rotation;
use optoken_core::transition::Principal;
use thiserror::Error;

use crate::args::Command;

/// The output of a command.
#[derive(Debug)]
pub(crate) enum Output {
    /// A new token.
    Issued(Issued),
    /// A staged secret.
    Staged(Staged),
    /// The operator token after the staged secret became its own.
    Confirmed(TokenRecord),
    /// The overlap ended. The tokens that were made with the previous secret stay accepted.
    OverlapEnded(Vec<TokenRecord>),
    /// The record of a deleted token.
    Deleted(TokenRecord),
    /// The token that a credential belongs to.
    Described(TokenRecord),
    /// The outcome of an import.
    Import(ImportOutcome),
    /// The outcome of a replacement of the operator token by a configuration.
    Replacement(ReplaceOutcome),
    /// The hash of a token.
    Hash(String),
    /// Number and kind of a token.
    Principal(Principal),
    /// Number and kind of a token that may do what was asked.
    Allowed(Principal),
    /// The operator token, if there is one, and its rotation.
    Status(Option<(TokenRecord, Rotation)>),
    /// All tokens.
    List(Vec<TokenRecord>),
    /// Audit records, and the oldest and newest sequence number that the catalog retains.
    Audit(Vec<String>, Option<(u64, u64)>),
    /// The state of the catalog, if there is one.
    State(Option<State>),
    /// The id of the catalog.
    CatalogId(String),
    /// The command has no other output than this text.
    Done(&'static str),
}

/// The state of a catalog.
#[derive(Debug)]
pub(crate) struct State {
    /// The version of the document.
    pub(crate) version: String,
    /// The id of the catalog, if it has one.
    pub(crate) catalog_id: Option<String>,
    /// The sequence number of the newest audit record; 0 if there is none.
    pub(crate) audit_sequence: u64,
    /// The hash of the newest audit record.
    pub(crate) audit_head: Option<String>,
}

/// A command failed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// The command was not carried out.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The token was not accepted.
    #[error(transparent)]
    Authenticate(#[from] AuthenticateError),
    /// The token was not accepted, or lacks the permission.
    #[error(transparent)]
    Authorize(#[from] AuthorizeError),
}

/// Executes a command. `token` is the presented token, or empty. Returns `None` for commands that
/// do not use the authority.
pub(crate) fn execute<P: CatalogStore + Entropy + Clock>(
    authority: &mut Authority<P>,
    command: &Command,
    token: &str,
    origin: &str,
) -> Result<Option<Output>, Error> {
    let caller = Caller { credential: token, origin };
    Ok(Some(match command {
        Command::CreateOperator => Output::Issued(authority.create_operator(origin)?),
        Command::CreateNamed { name, permissions, lifetime_seconds } => {
            Output::Issued(authority.create_named(caller, name, permissions.as_deref(), *lifetime_seconds)?)
        }
        Command::Regenerate { overlap_seconds } => {
            Output::Issued(authority.regenerate(caller, *overlap_seconds)?)
        }
        Command::Stage { sha512, ttl_seconds } => {
            Output::Staged(authority.stage(caller, sha512.as_deref(), *ttl_seconds)?)
        }
        Command::Confirm { overlap_seconds } => {
            Output::Confirmed(authority.confirm(caller, *overlap_seconds)?)
        }
        Command::Cancel => {
            authority.cancel(caller)?;
            Output::Done("No token waits to be confirmed.")
        }
        Command::EndOverlap => {
            authority.end_overlap(caller)?;
            let replaced_at = authority.status()?.and_then(|(operator, _)| operator.updated_at);
            let made_since = |token: &&TokenRecord| {
                token.source == Source::PreviousSecret && replaced_at.is_some_and(|at| token.created_at >= at)
            };
            Output::OverlapEnded(authority.list_tokens()?.iter().filter(made_since).cloned().collect())
        }
        Command::Authenticate => Output::Principal(authority.authenticate(token)?),
        Command::Authorize(request) => Output::Allowed(authority.authorize(token, &request.access())?),
        Command::Describe => Output::Described(authority.describe(token)?.clone()),
        Command::Delete { name } => Output::Deleted(authority.delete(caller, name)?),
        Command::Status => {
            let status = authority.status()?;
            Output::Status(status.map(|(operator, rotation)| (operator.clone(), rotation)))
        }
        Command::List => Output::List(authority.list_tokens()?.to_vec()),
        Command::Audit { after } => {
            let records = authority.audit(after.unwrap_or(0))?;
            Output::Audit(records.lines.to_vec(), records.retained)
        }
        Command::State => Output::State(authority.state()?.map(|state| State {
            version: state.version.into(),
            catalog_id: state.catalog_id.map(Into::into),
            audit_sequence: state.audit_sequence,
            audit_head: state.audit_head.map(Into::into),
        })),
        Command::Recover { restore } => Output::Issued(authority.recover(origin, *restore)?),
        Command::Initialize => Output::CatalogId(authority.initialize(origin)?),
        Command::Check => {
            authority.load()?;
            Output::Done("The catalog can be read.")
        }
        Command::Import { name, permissions, description, expiry, sha512 } => {
            let configured = ConfiguredToken {
                name,
                sha512: &sha512.clone().map_or_else(|| hash_token(token), Ok)?,
                permissions: permissions.as_deref(),
                description: description.as_deref(),
                expiry: *expiry,
            };
            Output::Import(authority.import_hash(&configured, origin)?)
        }
        Command::Hash => Output::Hash(hash_token(token)?),
        Command::Replace { current, sha512, overlap_seconds } => {
            Output::Replacement(authority.replace_operator(current, sha512, *overlap_seconds, origin)?)
        }
        Command::Help | Command::Version => return Ok(None),
    }))
}

//! Carries commands out, over any ports, and keeps what came back until somebody writes it down.

use alloc::string::String;
use alloc::vec::Vec;

use optoken_core::authority::{AuthenticateError, Authority, Caller, ImportOutcome, Issued, Staged};
use optoken_core::catalog::TokenRecord;
use optoken_core::commit::CommandError;
use optoken_core::ports::{CatalogStore, Clock, Entropy};
use optoken_core::rotation::Rotation;
use optoken_core::transition::Principal;
use thiserror::Error;

use crate::args::Command;

/// What a command came to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A new token.
    Issued(Issued),
    /// A secret that waits.
    Staged(Staged),
    /// A token that has taken over.
    Confirmed(TokenRecord),
    /// A token that is gone.
    Deleted(TokenRecord),
    /// The token that a credential belongs to.
    Described(TokenRecord),
    /// The outcome of an import.
    Import(ImportOutcome),
    /// Whose token it is.
    Principal(Principal),
    /// How the operator token stands, if there is one.
    Status(Option<(TokenRecord, Rotation)>),
    /// All tokens.
    List(Vec<TokenRecord>),
    /// Audit records, and the oldest and newest sequence number that the catalog retains.
    Audit(Vec<String>, Option<(u64, u64)>),
    /// The state of the catalog, if there is one.
    State(Option<State>),
    /// The name of the catalog.
    Name(String),
    /// It is done, and there is no more to tell.
    Done(&'static str),
}

/// The state of a catalog.
#[derive(Debug)]
pub(crate) struct State {
    /// The version of the document.
    pub(crate) version: String,
    /// The sequence number of the newest audit record; 0 if there is none.
    pub(crate) audit_sequence: u64,
    /// The hash of the newest audit record.
    pub(crate) audit_head: Option<String>,
}

/// Why it came to nothing.
#[derive(Debug, Error)]
pub(crate) enum Failed {
    /// A command was not carried out.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A token was not accepted.
    #[error(transparent)]
    Authenticate(#[from] AuthenticateError),
}

/// Carries a command out. `token` is what was presented, where something is. None for what the authority has no part in.
pub(crate) fn carry_out<P: CatalogStore + Entropy + Clock>(
    authority: &mut Authority<P>,
    command: &Command,
    token: &str,
    origin: &str,
) -> Result<Option<Answer>, Failed> {
    let caller = Caller { credential: token, origin };
    Ok(Some(match command {
        Command::CreateOperator => Answer::Issued(authority.create_operator(origin)?),
        Command::CreateNamed { name, lifetime } => {
            Answer::Issued(authority.create_named(caller, name, *lifetime)?)
        }
        Command::Regenerate { overlap } => Answer::Issued(authority.regenerate(caller, *overlap)?),
        Command::Stage { sha512, ttl } => Answer::Staged(authority.stage(caller, sha512.as_deref(), *ttl)?),
        Command::Confirm { overlap } => Answer::Confirmed(authority.confirm(caller, *overlap)?),
        Command::Cancel => {
            authority.cancel(caller)?;
            Answer::Done("No token waits to be confirmed.")
        }
        Command::EndOverlap => {
            authority.end_overlap(caller)?;
            Answer::Done("No replaced token is accepted.")
        }
        Command::Authenticate => Answer::Principal(authority.authenticate(token)?),
        Command::Describe => Answer::Described(authority.describe(token)?.clone()),
        Command::Delete { name } => Answer::Deleted(authority.delete(caller, name)?),
        Command::Status => {
            let status = authority.status()?;
            Answer::Status(status.map(|(operator, rotation)| (operator.clone(), rotation)))
        }
        Command::List => Answer::List(authority.list_tokens()?.to_vec()),
        Command::Audit { after } => {
            let records = authority.audit(after.unwrap_or(0))?;
            Answer::Audit(records.lines.to_vec(), records.retained)
        }
        Command::State => Answer::State(authority.state()?.map(|state| State {
            version: state.version.into(),
            audit_sequence: state.audit_sequence,
            audit_head: state.audit_head.map(Into::into),
        })),
        Command::Recover => Answer::Issued(authority.recover(origin)?),
        Command::Initialize => Answer::Name(authority.initialize(origin)?),
        Command::Check => {
            authority.load()?;
            Answer::Done("The catalog can be read.")
        }
        Command::Import { name, expiry, sha512: Some(sha512) } => {
            Answer::Import(authority.import_hash(name, sha512, *expiry, origin)?)
        }
        Command::Import { name, expiry, sha512: None } => {
            Answer::Import(authority.import_token(name, token, *expiry, origin)?)
        }
        Command::Help | Command::Version => return Ok(None),
    }))
}

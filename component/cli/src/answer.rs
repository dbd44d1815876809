//! Carries commands out, over any ports, and keeps what came back until somebody writes it down.

use alloc::string::String;
use alloc::vec::Vec;

use optoken_core::authority::{AuthenticateError, Authority, Issued, Preset, Staged};
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
    /// What has become of a token that was made elsewhere.
    Preset(Preset),
    /// Whose token it is.
    Principal(Principal),
    /// How the operator token stands, if there is one.
    Status(Option<(TokenRecord, Rotation)>),
    /// All tokens.
    List(Vec<TokenRecord>),
    /// The newest audit records.
    Audit(Vec<String>),
    /// The name of the catalog.
    Name(String),
    /// It is done, and there is no more to tell.
    Done(&'static str),
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
    Ok(Some(match command {
        Command::CreateOperator => Answer::Issued(authority.create_operator(origin)?),
        Command::CreateNamed { name, lifetime } => {
            Answer::Issued(authority.create_named(token, name, *lifetime, origin)?)
        }
        Command::Regenerate { overlap } => Answer::Issued(authority.regenerate(token, *overlap, origin)?),
        Command::Stage { sha512, ttl } => {
            Answer::Staged(authority.stage(token, sha512.as_deref(), *ttl, origin)?)
        }
        Command::Confirm { overlap } => Answer::Confirmed(authority.confirm(token, *overlap, origin)?),
        Command::Cancel => {
            authority.cancel(token, origin)?;
            Answer::Done("No token waits to be confirmed.")
        }
        Command::EndOverlap => {
            authority.end_overlap(token, origin)?;
            Answer::Done("No replaced token is accepted.")
        }
        Command::Authenticate => Answer::Principal(authority.authenticate(token)?),
        Command::Delete { name } => Answer::Deleted(authority.delete(token, name, origin)?),
        Command::Status => {
            let status = authority.status()?;
            Answer::Status(status.map(|(operator, rotation)| (operator.clone(), rotation)))
        }
        Command::List => Answer::List(authority.list()?.to_vec()),
        Command::Audit => Answer::Audit(authority.audit()?.to_vec()),
        Command::Recover => Answer::Issued(authority.recover(origin)?),
        Command::Initialize => Answer::Name(authority.initialize(origin)?),
        Command::Check => {
            authority.prepare()?;
            Answer::Done("The catalog can be read.")
        }
        Command::Preset { name, expiry, sha512: Some(sha512) } => {
            Answer::Preset(authority.preset_hash(name, sha512, *expiry, origin)?)
        }
        Command::Preset { name, expiry, sha512: None } => {
            Answer::Preset(authority.preset_token(name, token, *expiry, origin)?)
        }
        Command::Help | Command::Version => return Ok(None),
    }))
}

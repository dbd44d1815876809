//! The authority as an embedder sees it: commands and authentication over one set of ports.
//!
//! Keeps the catalog it has read, as `wit/authenticator.wit` promises. Everything it decides, it asks of
//! [`machine`]; everything it changes, of [`commit`].

use crate::catalog::{Catalog, TokenRecord};
use crate::commit::{self, CommandError, Issued};
use crate::machine::{self, Command, Principal, Refusal};
use crate::ports::{CatalogStore, Clock, Entropy};
use crate::token::{Secret, TokenHash};

use thiserror::Error;

/// An operator-token authority over the caller's storage, randomness and clock.
#[derive(Debug)]
pub struct Authority<P> {
    ports: P,
    /// The catalog as last read or committed here; `None` before the first use and after a failed command.
    catalog: Option<Catalog>,
}

/// Why a token was not accepted. Either way, the request must not pass.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthenticateError {
    /// The catalog says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The catalog could not be read, so nothing is known.
    #[error(transparent)]
    Undecided(CommandError),
}

impl<P: CatalogStore + Entropy + Clock> Authority<P> {
    /// An authority that has not read anything yet.
    pub const fn new(ports: P) -> Self {
        Self { ports, catalog: None }
    }

    /// Reads the catalog, unless it is known.
    pub fn prepare(&mut self) -> Result<(), CommandError> {
        self.prepared().map(drop)
    }

    /// Tells whose token this is, from the catalog that is known.
    pub fn authenticate(&mut self, credential: &str) -> Result<Principal, AuthenticateError> {
        let hash = TokenHash::of(credential);
        let (catalog, ports) = self.prepared().map_err(AuthenticateError::Undecided)?;
        Ok(machine::authenticate(catalog, &hash, || ports.now())?)
    }

    /// Makes the operator token, if there is none.
    pub fn create_operator(&mut self, origin: &str) -> Result<(TokenRecord, Secret), CommandError> {
        self.issue(origin, &|new| Command::CreateOperator { new })
    }

    /// Replaces the operator token; `credential` must be the one it replaces.
    pub fn regenerate(
        &mut self,
        credential: &str,
        origin: &str,
    ) -> Result<(TokenRecord, Secret), CommandError> {
        let credential = TokenHash::of(credential);
        self.issue(origin, &|new| Command::Regenerate { credential, new })
    }

    /// Replaces the operator token without a credential.
    pub fn recover(&mut self, origin: &str) -> Result<(TokenRecord, Secret), CommandError> {
        self.issue(origin, &|new| Command::Recover { new })
    }

    fn prepared(&mut self) -> Result<(&Catalog, &mut P), CommandError> {
        let catalog = match &mut self.catalog {
            Some(catalog) => catalog,
            none => none.insert(commit::load(&mut self.ports)?.1),
        };
        Ok((catalog, &mut self.ports))
    }

    fn issue(
        &mut self,
        origin: &str,
        command: &dyn Fn(TokenHash) -> Command,
    ) -> Result<(TokenRecord, Secret), CommandError> {
        // Whatever goes wrong from here on, the next authentication reads the catalog again.
        self.catalog = None;
        let Issued { token, secret, catalog } = commit::issue(&mut self.ports, origin, command)?;
        self.catalog = Some(catalog);
        Ok((token, secret))
    }
}

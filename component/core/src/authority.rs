//! The authority as an embedder sees it: commands and authentication over one set of ports.
//!
//! Keeps the catalog it has read, as `wit/authenticator.wit` promises. Everything it decides, it asks of
//! [`transition`]; everything it changes, of [`commit`].

use alloc::string::String;

use thiserror::Error;

use crate::catalog::{Catalog, CatalogError, TokenRecord};
use crate::commit::{self, CommandError, Committed};
use crate::ports::{CatalogStore, Clock, Entropy, Timestamp};
use crate::rotation::{DEFAULT_STAGE_SECONDS, Rotation, Timed};
use crate::token::{Secret, TokenHash};
use crate::token_strength;
use crate::transition::{self, Command, Denial, Principal, Refusal};

/// An operator-token authority over the caller's storage, randomness and clock.
#[derive(Debug)]
pub struct Authority<P> {
    ports: P,
    /// The catalog as last read or committed here; `None` before the first use and after a failed command.
    catalog: Option<Catalog>,
}

/// A new token and its secret, after its hash has become durable.
#[derive(Debug)]
pub struct Issued {
    /// The record as committed.
    pub token: TokenRecord,
    /// What the hash in the record is of. This is its only showing.
    pub secret: Secret,
}

/// A secret that waits to replace that of the operator token.
#[derive(Debug)]
pub struct Staged {
    /// The secret, if it was made here. This is its only showing.
    pub secret: Option<Secret>,
    /// Its hash.
    pub hash: TokenHash,
    /// The first moment at which it can no longer be confirmed.
    pub until: Timestamp,
}

/// What has become of a token that was made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preset {
    /// It was taken in.
    Created(TokenRecord),
    /// It was there already.
    Unchanged(TokenRecord),
    /// There is a token of its name with another secret, which stays.
    Different(TokenRecord),
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
        Ok(transition::authenticate(catalog, &hash, || ports.now())?)
    }

    /// The newest audit records, each as its line, from the catalog that is known.
    pub fn audit(&mut self) -> Result<&[String], CommandError> {
        Ok(self.prepared()?.0.audit().lines())
    }

    /// All tokens, from the catalog that is known.
    pub fn list(&mut self) -> Result<&[TokenRecord], CommandError> {
        Ok(self.prepared()?.0.tokens())
    }

    /// The name of the catalog. Gives it one, made of fresh random bytes, if it has none.
    pub fn initialize(&mut self, origin: &str) -> Result<String, CommandError> {
        let id = random_uuid(&mut self.ports)?;
        self.commit(origin, &Command::Initialize { id: &id })?;
        Ok(self.catalog.as_ref().and_then(Catalog::id).map_or(id, Into::into))
    }

    /// Takes in a token that was made elsewhere, unless there is one of its name.
    pub fn preset_token(
        &mut self,
        name: &str,
        token: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        token_strength::check(token)?;
        self.preset(name, TokenHash::of(token), expiry, origin)
    }

    /// As [`preset_token`](Self::preset_token), of a token of which only the hash is known here.
    pub fn preset_hash(
        &mut self,
        name: &str,
        sha512: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        self.preset(name, sha512.parse()?, expiry, origin)
    }

    /// Makes the operator token, if there is none.
    pub fn create_operator(&mut self, origin: &str) -> Result<Issued, CommandError> {
        self.issue(origin, &|new| Command::CreateOperator { new })
    }

    /// Makes a named admin token that is accepted for `lifetime` seconds, or for ever.
    pub fn create_named(
        &mut self,
        credential: &str,
        name: &str,
        lifetime: Option<u64>,
        origin: &str,
    ) -> Result<Issued, CommandError> {
        let credential = TokenHash::of(credential);
        self.issue(origin, &|new| Command::CreateNamed { credential, name, lifetime, new })
    }

    /// Replaces the operator token; `credential` must be the one it replaces, and is accepted for so many seconds more.
    pub fn regenerate(
        &mut self,
        credential: &str,
        overlap: u64,
        origin: &str,
    ) -> Result<Issued, CommandError> {
        let credential = TokenHash::of(credential);
        self.issue(origin, &|new| Command::Regenerate { credential, new, overlap })
    }

    /// Lets a secret wait to replace that of the operator token, for `ttl` seconds: the one with this hash, or a new one.
    pub fn stage(
        &mut self,
        credential: &str,
        sha512: Option<&str>,
        ttl: Option<u64>,
        origin: &str,
    ) -> Result<Staged, CommandError> {
        let credential = TokenHash::of(credential);
        let (new, secret) = if let Some(sha512) = sha512 {
            (sha512.parse()?, None)
        } else {
            let secret = Secret::mint(&mut self.ports)?;
            (secret.hash(), Some(secret))
        };
        let ttl = ttl.unwrap_or(DEFAULT_STAGE_SECONDS);
        self.commit(origin, &Command::Stage { credential, new, ttl })?;
        match self.catalog.as_ref().map(Catalog::rotation) {
            Some(Rotation::Staged(Timed { hash, until })) => Ok(Staged { secret, hash, until }),
            _ => Err(NO_TOKEN),
        }
    }

    /// Lets the staged secret take over, presenting it. The one that it replaces is accepted for so many seconds more.
    pub fn confirm(
        &mut self,
        credential: &str,
        overlap: u64,
        origin: &str,
    ) -> Result<TokenRecord, CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::Confirm { credential, overlap })?.1.ok_or(NO_TOKEN)
    }

    /// Gives the staged secret up, if there is one.
    pub fn cancel(&mut self, credential: &str, origin: &str) -> Result<(), CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::Cancel { credential }).map(drop)
    }

    /// Accepts the replaced secret no longer, if one still is.
    pub fn end_overlap(&mut self, credential: &str, origin: &str) -> Result<(), CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::EndOverlap { credential }).map(drop)
    }

    /// The operator token and what is under way with it, from the catalog that is known; `None` while there is none.
    pub fn status(&mut self) -> Result<Option<(&TokenRecord, Rotation)>, CommandError> {
        let (catalog, ports) = self.prepared()?;
        let rotation = catalog.rotation();
        let rotation = if rotation.timed().is_some() { rotation.at(ports.now()) } else { rotation };
        Ok(catalog.operator().map(|operator| (operator, rotation)))
    }

    /// Replaces the operator token without a credential.
    pub fn recover(&mut self, origin: &str) -> Result<Issued, CommandError> {
        self.issue(origin, &|new| Command::Recover { new })
    }

    /// Takes a named admin token out and gives its record for the last time.
    pub fn delete(
        &mut self,
        credential: &str,
        name: &str,
        origin: &str,
    ) -> Result<TokenRecord, CommandError> {
        let credential = TokenHash::of(credential);
        self.commit(origin, &Command::Delete { credential, name })?.1.ok_or(NO_TOKEN)
    }

    fn prepared(&mut self) -> Result<(&Catalog, &mut P), CommandError> {
        let catalog = match &mut self.catalog {
            Some(catalog) => catalog,
            none => none.insert(commit::load(&mut self.ports)?.1),
        };
        Ok((catalog, &mut self.ports))
    }

    fn preset(
        &mut self,
        name: &str,
        new: TokenHash,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        let (changed, token) = self.commit(origin, &Command::Preset { name, expiry, new })?;
        let token = token.ok_or(NO_TOKEN)?;
        Ok(if changed {
            Preset::Created(token)
        } else if token.hash == new {
            Preset::Unchanged(token)
        } else {
            Preset::Different(token)
        })
    }

    /// Mints a secret and commits the command that `command` makes of its hash.
    fn issue<'a>(
        &mut self,
        origin: &str,
        command: &dyn Fn(TokenHash) -> Command<'a>,
    ) -> Result<Issued, CommandError> {
        let secret = Secret::mint(&mut self.ports)?;
        let token = self.commit(origin, &command(secret.hash()))?.1.ok_or(NO_TOKEN)?;
        Ok(Issued { token, secret })
    }

    fn commit(
        &mut self,
        origin: &str,
        command: &Command<'_>,
    ) -> Result<(bool, Option<TokenRecord>), CommandError> {
        // Whatever goes wrong from here on, the next authentication reads the catalog again.
        self.catalog = None;
        let Committed { catalog, token, changed } = commit::commit(&mut self.ports, origin, command)?;
        self.catalog = Some(catalog);
        Ok((changed, token))
    }
}

/// The machine gives every command about a token that token.
const NO_TOKEN: CommandError =
    CommandError::Denied(Denial::Impossible(CatalogError::Contradictory("the token has gone missing")));

/// A random UUID (RFC 9562, version 4).
fn random_uuid(entropy: &mut impl Entropy) -> Result<String, CommandError> {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes)?;
    let mut digits = base16ct::lower::encode_string(&bytes);
    // From the back, so that the places before stay where they are. The version, then the variant.
    digits.replace_range(16..17, "8");
    digits.replace_range(12..13, "4");
    for dash in [20, 16, 12, 8] {
        digits.insert(dash, '-');
    }
    Ok(digits)
}

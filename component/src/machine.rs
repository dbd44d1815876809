//! The state machine: what each command does to a catalog, and who may give it.
//!
//! Pure functions without I/O: the same code runs in production, in unit tests and under a model checker. Randomness
//! has been drawn and texts have been hashed before a [`Command`] exists, so nothing here ever sees a secret.

use alloc::string::String;

use thiserror::Error;

use crate::audit::{Action, Actor};
use crate::catalog::{Catalog, CatalogError, OPERATOR, TokenRecord};
use crate::ports::Timestamp;
use crate::token::TokenHash;

/// A change that somebody asks for. Hashes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Make the operator token.
    CreateOperator {
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Replace the operator token, presenting it.
    Regenerate {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The hash of the secret that takes its place.
        new: TokenHash,
    },
    /// Replace the operator token, presenting nothing.
    Recover {
        /// The hash of the secret that takes its place.
        new: TokenHash,
    },
}

/// Whose token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The number of the token.
    pub id: u64,
    /// Whether it is the operator token.
    pub operator: bool,
}

/// Why a presented token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No token of the catalog has this hash.
    #[error("the token is not known")]
    Unknown,
    /// The token's time is over.
    #[error("the token expired at {at} ms")]
    Expired {
        /// When it did.
        at: Timestamp,
    },
}

/// Why a command is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Denial {
    /// The credential is not accepted.
    #[error(transparent)]
    Unauthenticated(#[from] Refusal),
    /// The credential is accepted, but not for this.
    #[error("only the operator token may do this")]
    Forbidden,
    /// There is no token of this name.
    #[error("there is no token named {0:?}")]
    NotFound(String),
    /// There is a token of this name already.
    #[error("there is a token named {0:?} already")]
    AlreadyExists(String),
    /// The new secret has been handed out before: the source of randomness is broken.
    #[error("the new secret is not new: the source of randomness repeats itself")]
    SecretNotNew,
    /// The change would make a catalog that contradicts itself.
    #[error("the change cannot be made: {0}")]
    Impossible(#[from] CatalogError),
}

/// Tells whose token has this hash. `now` is asked for only where a token has an expiry.
pub fn authenticate(
    catalog: &Catalog,
    credential: &TokenHash,
    now: impl FnOnce() -> Timestamp,
) -> Result<Principal, Refusal> {
    let token = catalog.find(credential).ok_or(Refusal::Unknown)?;
    match token.expiry {
        // Strictly later than now (COMPAT 1.13).
        Some(at) if at <= now() => Err(Refusal::Expired { at }),
        _ => Ok(Principal { id: token.id, operator: token.is_operator() }),
    }
}

/// Judges a command on a catalog: the catalog that takes its place and the record of the token it was about, or
/// the reason why everything stays. `origin` goes into the audit record and decides nothing.
pub fn apply(
    catalog: &Catalog,
    command: &Command,
    origin: &str,
    now: Timestamp,
) -> Result<(Catalog, TokenRecord), Denial> {
    let (Command::CreateOperator { new } | Command::Regenerate { new, .. } | Command::Recover { new }) =
        *command;
    if catalog.find(&new).is_some() {
        return Err(Denial::SecretNotNew);
    }
    match *command {
        Command::CreateOperator { new } => {
            if catalog.operator().is_some() {
                return Err(Denial::AlreadyExists(OPERATOR.into()));
            }
            let token = TokenRecord {
                id: catalog.next_id(),
                name: OPERATOR.into(),
                hash: new,
                created_at: now,
                updated_at: None,
                updated_by: None,
                expiry: None,
            };
            let audit = catalog.audit().with(now, Action::CreateOperator, Actor::Bootstrap, token.id, origin);
            Ok((catalog.with_new(token.clone(), audit)?, token))
        }
        Command::Regenerate { credential, new } => {
            let principal = authenticate(catalog, &credential, || now)?;
            // COMPAT lets any token do this; DESIGN section 6 does not.
            if !principal.operator {
                return Err(Denial::Forbidden);
            }
            replace_operator(catalog, new, Action::Regenerate, Actor::Token(principal.id), origin, now)
        }
        Command::Recover { new } => {
            replace_operator(catalog, new, Action::Recover, Actor::Recovery, origin, now)
        }
    }
}

/// The old hash goes in the same step that brings the new one (COMPAT 6.1).
fn replace_operator(
    catalog: &Catalog,
    new: TokenHash,
    action: Action,
    actor: Actor,
    origin: &str,
    now: Timestamp,
) -> Result<(Catalog, TokenRecord), Denial> {
    let operator = catalog.operator().ok_or_else(|| Denial::NotFound(OPERATOR.into()))?;
    let token = TokenRecord {
        hash: new,
        updated_at: Some(now),
        // The operator's own number, whoever asked (COMPAT 6.3); the audit record tells who did.
        updated_by: Some(operator.id),
        ..operator.clone()
    };
    let audit = catalog.audit().with(now, action, actor, token.id, origin);
    Ok((catalog.with_changed(&token, audit)?, token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Trail;

    const NOW: Timestamp = 1_700_000_000_000;

    fn hash(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    /// An operator whose secret is "first" and a named admin whose secret is "ci".
    fn catalog() -> Catalog {
        let (catalog, _) =
            apply(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "test", NOW).unwrap();
        with_admin(&catalog, None)
    }

    fn with_admin(catalog: &Catalog, expiry: Option<Timestamp>) -> Catalog {
        let admin = TokenRecord {
            id: catalog.next_id(),
            name: "ci".into(),
            hash: hash("ci"),
            created_at: NOW,
            updated_at: None,
            updated_by: None,
            expiry,
        };
        catalog.with_new(admin, catalog.audit().clone()).unwrap()
    }

    fn who(catalog: &Catalog, text: &str) -> Result<Principal, Refusal> {
        authenticate(catalog, &hash(text), || NOW)
    }

    #[test]
    fn the_first_token_is_number_0_and_named_admin() {
        let (catalog, token) =
            apply(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "test", NOW).unwrap();
        assert_eq!((token.id, token.name.as_str(), token.expiry), (0, "_admin", None));
        assert_eq!((token.created_at, token.updated_at, token.updated_by), (NOW, None, None));
        assert_eq!(who(&catalog, "first"), Ok(Principal { id: 0, operator: true }));
        let denial = apply(&catalog, &Command::CreateOperator { new: hash("second") }, "test", NOW);
        assert_eq!(denial.unwrap_err(), Denial::AlreadyExists("_admin".into()));
    }

    #[test]
    fn regenerating_replaces_the_secret_and_keeps_the_rest() {
        let before = catalog();
        for (command, actor) in [
            (Command::Regenerate { credential: hash("first"), new: hash("second") }, Actor::Token(0)),
            (Command::Recover { new: hash("second") }, Actor::Recovery),
        ] {
            let (after, token) = apply(&before, &command, "here", NOW + 1).unwrap();
            let expected = TokenRecord {
                hash: hash("second"),
                updated_at: Some(NOW + 1),
                updated_by: Some(0),
                ..before.operator().unwrap().clone()
            };
            assert_eq!(token, expected);
            assert_eq!(who(&after, "first"), Err(Refusal::Unknown));
            assert_eq!(who(&after, "second"), Ok(Principal { id: 0, operator: true }));
            assert_eq!(who(&after, "ci"), Ok(Principal { id: 1, operator: false }));
            let [.., newest] = after.audit().records() else { panic!("no record") };
            assert_eq!((newest.sequence, newest.actor, newest.origin.as_str()), (2, actor, "here"));
            assert_eq!(after.audit().verify(), Ok(()));
        }
    }

    #[test]
    fn only_the_operator_token_regenerates() {
        let catalog = catalog();
        let regenerate = |text| {
            apply(&catalog, &Command::Regenerate { credential: hash(text), new: hash("second") }, "test", NOW)
                .map(|_| ())
        };
        assert_eq!(regenerate("ci"), Err(Denial::Forbidden));
        assert_eq!(regenerate(""), Err(Denial::Unauthenticated(Refusal::Unknown)));
        assert_eq!(regenerate("First"), Err(Denial::Unauthenticated(Refusal::Unknown)));
        assert_eq!(regenerate("first"), Ok(()));
    }

    #[test]
    fn without_an_operator_there_is_nothing_to_recover() {
        let denial = apply(&Catalog::default(), &Command::Recover { new: hash("x") }, "test", NOW);
        assert_eq!(denial.unwrap_err(), Denial::NotFound("_admin".into()));
        let orphan = with_admin(&Catalog::default(), None);
        let denial = apply(&orphan, &Command::Recover { new: hash("x") }, "test", NOW);
        assert_eq!(denial.unwrap_err(), Denial::NotFound("_admin".into()));
    }

    #[test]
    fn a_token_is_refused_from_its_expiry_on() {
        for (expiry, expected) in [
            (NOW - 1, Err(Refusal::Expired { at: NOW - 1 })),
            (NOW, Err(Refusal::Expired { at: NOW })),
            (NOW + 1, Ok(Principal { id: 0, operator: false })),
        ] {
            assert_eq!(who(&with_admin(&Catalog::default(), Some(expiry)), "ci"), expected);
        }
    }

    #[test]
    fn the_clock_is_not_asked_about_a_token_without_expiry() {
        let asked = || -> Timestamp { panic!("asked") };
        assert!(authenticate(&catalog(), &hash("first"), asked).is_ok());
        assert!(authenticate(&catalog(), &hash("nobody"), asked).is_err());
    }

    #[test]
    fn an_audit_trail_starts_with_the_first_token() {
        assert_eq!(Catalog::default().audit(), &Trail::default());
        let (catalog, _) =
            apply(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "here", NOW).unwrap();
        let [record] = catalog.audit().records() else { panic!("not one record") };
        assert_eq!((record.sequence, record.at, record.subject), (1, NOW, 0));
        assert_eq!((record.action, record.actor), (Action::CreateOperator, Actor::Bootstrap));
    }
}

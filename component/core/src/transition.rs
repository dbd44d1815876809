//! The state machine: what each command does to a catalog, and who may give it.
//!
//! Pure functions without I/O: the same code runs in production, in unit tests and under a model checker. Randomness
//! has been drawn and texts have been hashed before a [`Command`] exists, so nothing here ever sees a secret.

use alloc::string::String;

use thiserror::Error;

use crate::audit::{Action, Actor, Subject};
use crate::catalog::{Catalog, CatalogError, Found, MAX_TOKENS, OPERATOR, TokenRecord};
use crate::ports::Timestamp;
use crate::rotation::{MAX_OVERLAP_SECONDS, MAX_STAGE_SECONDS, Rotation, Timed};
use crate::token::TokenHash;
use crate::token_name::{self, NameError};

/// The latest expiry a token can have, in milliseconds since the epoch: the last whole day that has a four-digit year
/// in every time zone. What would expire later expires then.
pub const MAX_EXPIRY: Timestamp = 253_402_207_200_000;

/// A change that somebody asks for. Hashes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// Give the catalog its name, if it has none.
    Initialize {
        /// The name.
        id: &'a str,
    },
    /// Make the operator token.
    CreateOperator {
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Make a named admin token.
    CreateNamed {
        /// The hash of the presented token.
        credential: TokenHash,
        /// What it is called.
        name: &'a str,
        /// How long it is accepted, in seconds; `None` for ever. 0 makes a token that has expired already.
        lifetime: Option<u64>,
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Take in a token that was made elsewhere, unless there is one of its name.
    Preset {
        /// What it is called.
        name: &'a str,
        /// The first moment at which it is refused; `None` for never.
        expiry: Option<Timestamp>,
        /// The hash of its secret.
        new: TokenHash,
    },
    /// Replace the operator token, presenting it.
    Regenerate {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The hash of the secret that takes its place.
        new: TokenHash,
        /// How long the presented token is still accepted, in seconds.
        overlap: u64,
    },
    /// Let a secret wait to replace that of the operator token, presenting that.
    Stage {
        /// The hash of the presented token.
        credential: TokenHash,
        /// The hash of the secret that is to take its place.
        new: TokenHash,
        /// How long it waits, in seconds.
        ttl: u64,
    },
    /// Let the staged secret take over, presenting it.
    Confirm {
        /// The hash of the staged secret.
        credential: TokenHash,
        /// How long the one that it replaces is still accepted, in seconds.
        overlap: u64,
    },
    /// Give the staged secret up, presenting the operator token.
    Cancel {
        /// The hash of the presented token.
        credential: TokenHash,
    },
    /// Accept the replaced secret no longer, presenting the operator token.
    EndOverlap {
        /// The hash of the presented token.
        credential: TokenHash,
    },
    /// Replace the operator token, presenting nothing.
    Recover {
        /// The hash of the secret that takes its place.
        new: TokenHash,
    },
    /// Take a named admin token out.
    Delete {
        /// The hash of the presented token.
        credential: TokenHash,
        /// What it is called.
        name: &'a str,
    },
}

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This catalog takes the place of the one that was judged.
    Change {
        /// The catalog after the change.
        catalog: Catalog,
        /// The token that was made, changed or taken out.
        token: Option<TokenRecord>,
    },
    /// There is nothing to change in the catalog. The token that is there already, where the command is about one.
    Nothing(Catalog, Option<TokenRecord>),
}

/// Whose token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The number of the token.
    pub id: u64,
    /// Whether it is the operator token.
    pub operator: bool,
    /// Whether it is the secret that was the operator token's before, and is accepted a while longer.
    pub replaced: bool,
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
    /// The secret that was replaced last is still accepted, and there is room for one beside the current.
    #[error("the token that was replaced last is accepted until {until} ms; end that first")]
    Overlapping {
        /// Until when.
        until: Timestamp,
    },
    /// A time span is longer than it may be.
    #[error("at most {limit} seconds are possible")]
    TooLong {
        /// The longest possible, in seconds.
        limit: u64,
    },
    /// The text is no name for a token.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no token of this name.
    #[error("there is no token named '{0}'")]
    NotFound(String),
    /// There is a token of this name already.
    #[error("there is a token named '{0}' already")]
    AlreadyExists(String),
    /// The operator token is replaced, never taken out.
    #[error("the operator token cannot be deleted")]
    OperatorProtected,
    /// There are [`MAX_TOKENS`] already.
    #[error("there are {MAX_TOKENS} tokens already, more are not possible; delete some")]
    Full,
    /// A token of another name has this secret.
    #[error("the token named '{0}' has this secret already")]
    SecretTaken(String),
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
    let expired =
        |at: Timestamp, now: Timestamp| if at <= now { Err(Refusal::Expired { at }) } else { Ok(()) };
    match catalog.find(credential) {
        // Strictly later than now (COMPAT 1.13).
        Some(Found::Current(token)) => {
            token.expiry.map_or(Ok(()), |at| expired(at, now()))?;
            Ok(Principal { id: token.id, operator: token.is_operator(), replaced: false })
        }
        Some(Found::Replaced(old)) => {
            let operator = catalog.operator().ok_or(Refusal::Unknown)?;
            let until = operator.expiry.map_or(old.until, |at| at.min(old.until));
            expired(until, now())?;
            Ok(Principal { id: operator.id, operator: true, replaced: true })
        }
        // What waits to be confirmed is accepted for that alone.
        Some(Found::Staged(_)) | None => Err(Refusal::Unknown),
    }
}

/// Judges a command on a catalog: what it comes to, or the reason why everything stays. `origin` goes into the audit
/// record and decides nothing.
pub fn apply(
    catalog: Catalog,
    command: &Command<'_>,
    origin: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    match *command {
        Command::Initialize { id } => {
            if catalog.id().is_some() {
                return Ok(Verdict::Nothing(catalog, None));
            }
            let audit = catalog.audit().with(now, Action::Initialize, Actor::Provision, None, origin);
            Ok(Verdict::Change { catalog: catalog.with_id(id, audit), token: None })
        }
        Command::CreateOperator { new } => {
            add(catalog, OPERATOR, None, new, (Action::CreateOperator, Actor::Bootstrap), origin, now)
        }
        Command::CreateNamed { credential, name, lifetime, new } => {
            let principal = authenticate(&catalog, &credential, || now)?;
            token_name::check(name)?;
            let expiry = lifetime.map(|seconds| after(now, seconds));
            // Whoever holds a token although there is no operator may make one this way, too (COMPAT 2.5).
            let action = if name == OPERATOR { Action::CreateOperator } else { Action::CreateNamed };
            add(catalog, name, expiry, new, (action, Actor::Token(principal.id)), origin, now)
        }
        Command::Preset { name, expiry, new } => {
            token_name::check(name)?;
            if let Some(there) = catalog.named(name).cloned() {
                return Ok(Verdict::Nothing(catalog, Some(there)));
            }
            match catalog.find(&new) {
                None => {}
                Some(Found::Current(other)) => return Err(Denial::SecretTaken(other.name.clone())),
                Some(Found::Staged(_) | Found::Replaced(_)) => {
                    return Err(Denial::SecretTaken(OPERATOR.into()));
                }
            }
            let expiry = expiry.map(|at| at.min(MAX_EXPIRY));
            add(catalog, name, expiry, new, (Action::Preset, Actor::Provision), origin, now)
        }
        Command::Regenerate { credential, new, overlap } => {
            let operator = present_operator(&catalog, &credential, now)?;
            let rotation = overlap_of(operator.hash, overlap, now)?;
            let actor = Actor::Token(operator.id);
            replace_operator(catalog, new, rotation, (Action::Regenerate, actor), origin, now)
        }
        Command::Stage { credential, new, ttl } => {
            present_operator(&catalog, &credential, now)?;
            if ttl > MAX_STAGE_SECONDS {
                return Err(Denial::TooLong { limit: MAX_STAGE_SECONDS });
            }
            if let Rotation::Overlap(old) = catalog.rotation().at(now) {
                return Err(Denial::Overlapping { until: old.until });
            }
            match catalog.find(&new) {
                // Staged again, for another while.
                None | Some(Found::Staged(_)) => {}
                Some(Found::Current(token)) => return Err(Denial::SecretTaken(token.name.clone())),
                Some(Found::Replaced(_)) => return Err(Denial::SecretTaken(OPERATOR.into())),
            }
            let rotation = Rotation::Staged(Timed { hash: new, until: after(now, ttl) });
            rotate(catalog, rotation, Action::Stage, origin, now)
        }
        Command::Confirm { credential, overlap } => confirm(catalog, &credential, overlap, origin, now),
        Command::Cancel { credential } => {
            let operator = present_operator(&catalog, &credential, now)?.clone();
            match catalog.rotation() {
                Rotation::Staged(_) => rotate(catalog, Rotation::None, Action::Cancel, origin, now),
                Rotation::None | Rotation::Overlap(_) => Ok(Verdict::Nothing(catalog, Some(operator))),
            }
        }
        Command::EndOverlap { credential } => {
            let operator = present_operator(&catalog, &credential, now)?.clone();
            match catalog.rotation() {
                Rotation::Overlap(_) => rotate(catalog, Rotation::None, Action::EndOverlap, origin, now),
                Rotation::None | Rotation::Staged(_) => Ok(Verdict::Nothing(catalog, Some(operator))),
            }
        }
        Command::Recover { new } => {
            replace_operator(catalog, new, Rotation::None, (Action::Recover, Actor::Recovery), origin, now)
        }
        Command::Delete { credential, name } => {
            let principal = authenticate(&catalog, &credential, || now)?;
            // Exactly this name, and whether or not there is such a token (COMPAT 2.6).
            if name == OPERATOR {
                return Err(Denial::OperatorProtected);
            }
            let token = catalog.named(name).ok_or_else(|| Denial::NotFound(name.into()))?.clone();
            let actor = Actor::Token(principal.id);
            let audit = catalog.audit().with(now, Action::Delete, actor, Some(subject(&token)), origin);
            Ok(Verdict::Change { catalog: catalog.without(token.id, audit)?, token: Some(token) })
        }
    }
}

/// Whether a catalog shows that the command was carried out, for whoever does not know; then the token it was about.
/// `token` is the one that it would have been about.
pub fn is_done<'a>(
    catalog: &'a Catalog,
    command: &Command<'_>,
    token: Option<&'a TokenRecord>,
) -> Option<Option<&'a TokenRecord>> {
    match command {
        Command::Initialize { id } => (catalog.id() == Some(*id)).then_some(None),
        // Nobody else can know this secret, or wants another effect with it.
        Command::CreateOperator { new }
        | Command::CreateNamed { new, .. }
        | Command::Preset { new, .. }
        | Command::Regenerate { new, .. }
        | Command::Recover { new }
        | Command::Confirm { credential: new, .. } => match catalog.find(new) {
            Some(Found::Current(token)) => Some(Some(token)),
            _ => None,
        },
        Command::Stage { new, .. } => {
            matches!(catalog.find(new), Some(Found::Staged(_))).then(|| catalog.operator())
        }
        Command::Cancel { .. } => {
            (!matches!(catalog.rotation(), Rotation::Staged(_))).then(|| catalog.operator())
        }
        Command::EndOverlap { .. } => {
            (!matches!(catalog.rotation(), Rotation::Overlap(_))).then(|| catalog.operator())
        }
        // Gone is gone, whoever took it out. The number tells it from a later token of this name.
        Command::Delete { .. } => {
            let gone = token.is_none_or(|token| catalog.tokens().iter().all(|there| there.id != token.id));
            gone.then_some(token)
        }
    }
}

/// The staged secret takes over.
fn confirm(
    catalog: Catalog,
    credential: &TokenHash,
    overlap: u64,
    origin: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    let staged = match catalog.find(credential) {
        None => return Err(Refusal::Unknown.into()),
        Some(Found::Staged(staged)) => *staged,
        // Confirmed already: whoever did not get the answer asks again.
        Some(Found::Current(token)) if token.is_operator() => {
            let token = token.clone();
            return Ok(Verdict::Nothing(catalog, Some(token)));
        }
        Some(Found::Current(_) | Found::Replaced(_)) => return Err(Denial::Forbidden),
    };
    if staged.until <= now {
        return Err(Refusal::Expired { at: staged.until }.into());
    }
    let operator = catalog.operator().ok_or_else(|| Denial::NotFound(OPERATOR.into()))?;
    let rotation = overlap_of(operator.hash, overlap, now)?;
    let actor = Actor::Token(operator.id);
    replace_operator(catalog, staged.hash, rotation, (Action::Confirm, actor), origin, now)
}

/// Adds a token (COMPAT 6.1).
fn add(
    catalog: Catalog,
    name: &str,
    expiry: Option<Timestamp>,
    new: TokenHash,
    (action, actor): (Action, Actor),
    origin: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    if catalog.named(name).is_some() {
        return Err(Denial::AlreadyExists(name.into()));
    }
    if catalog.find(&new).is_some() {
        return Err(Denial::SecretNotNew);
    }
    if catalog.tokens().len() >= MAX_TOKENS {
        return Err(Denial::Full);
    }
    let token = TokenRecord {
        id: catalog.next_id(),
        name: name.into(),
        hash: new,
        created_at: now,
        updated_at: None,
        updated_by: None,
        expiry,
    };
    let audit = catalog.audit().with(now, action, actor, Some(subject(&token)), origin);
    Ok(Verdict::Change { catalog: catalog.with_new(token.clone(), audit)?, token: Some(token) })
}

/// The operator's record, if it is its current secret that was presented.
///
/// COMPAT lets any token rotate the operator's; DESIGN section 6 does not. Nor does a secret that was replaced: whoever
/// replaced it may have had reason to.
fn present_operator<'a>(
    catalog: &'a Catalog,
    credential: &TokenHash,
    now: Timestamp,
) -> Result<&'a TokenRecord, Denial> {
    let principal = authenticate(catalog, credential, || now)?;
    let operator = catalog.operator().ok_or_else(|| Denial::NotFound(OPERATOR.into()))?;
    if principal.operator && !principal.replaced { Ok(operator) } else { Err(Denial::Forbidden) }
}

/// What becomes of the secret that is replaced.
fn overlap_of(old: TokenHash, seconds: u64, now: Timestamp) -> Result<Rotation, Denial> {
    match seconds {
        0 => Ok(Rotation::None),
        1..=MAX_OVERLAP_SECONDS => Ok(Rotation::Overlap(Timed { hash: old, until: after(now, seconds) })),
        _ => Err(Denial::TooLong { limit: MAX_OVERLAP_SECONDS }),
    }
}

/// Changes what is under way, on the authority of the operator.
fn rotate(
    catalog: Catalog,
    rotation: Rotation,
    action: Action,
    origin: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    let operator = catalog.operator().ok_or_else(|| Denial::NotFound(OPERATOR.into()))?.clone();
    let actor = Actor::Token(operator.id);
    let audit = catalog.audit().with(now, action, actor, Some(subject(&operator)), origin);
    Ok(Verdict::Change { catalog: catalog.with_rotation(rotation, audit)?, token: Some(operator) })
}

/// The moment so many seconds from now.
fn after(now: Timestamp, seconds: u64) -> Timestamp {
    now.saturating_add(seconds.saturating_mul(1000)).min(MAX_EXPIRY)
}

/// The old hash goes in the same step that brings the new one (COMPAT 6.1), unless the rotation says otherwise. Whatever
/// else was under way ends.
fn replace_operator(
    catalog: Catalog,
    new: TokenHash,
    rotation: Rotation,
    (action, actor): (Action, Actor),
    origin: &str,
    now: Timestamp,
) -> Result<Verdict, Denial> {
    let operator = catalog.operator().ok_or_else(|| Denial::NotFound(OPERATOR.into()))?;
    // A staged one takes over here.
    if !matches!(catalog.find(&new), None | Some(Found::Staged(_))) {
        return Err(Denial::SecretNotNew);
    }
    let token = TokenRecord {
        hash: new,
        updated_at: Some(now),
        // The operator's own number, whoever asked (COMPAT 6.3); the audit record tells who did.
        updated_by: Some(operator.id),
        ..operator.clone()
    };
    let audit = catalog.audit().with(now, action, actor, Some(subject(&token)), origin);
    Ok(Verdict::Change { catalog: catalog.with_changed(&token, rotation, audit)?, token: Some(token) })
}

fn subject(token: &TokenRecord) -> Subject {
    Subject { id: token.id, name: token.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Trail;

    const NOW: Timestamp = 1_700_000_000_000;

    fn hash(text: &str) -> TokenHash {
        TokenHash::of(text)
    }

    /// The catalog after a command, and the token it was about.
    fn change(
        catalog: &Catalog,
        command: &Command<'_>,
        origin: &str,
        now: Timestamp,
    ) -> Result<(Catalog, TokenRecord), Denial> {
        match apply(catalog.clone(), command, origin, now)? {
            Verdict::Change { catalog, token } => Ok((catalog, token.unwrap())),
            Verdict::Nothing(..) => panic!("nothing was changed"),
        }
    }

    /// An operator whose secret is "first" and a named admin whose secret is "ci".
    fn catalog() -> Catalog {
        let (catalog, _) =
            change(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "test", NOW)
                .unwrap();
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
        catalog.clone().with_new(admin, catalog.audit().clone()).unwrap()
    }

    fn who(catalog: &Catalog, text: &str) -> Result<Principal, Refusal> {
        authenticate(catalog, &hash(text), || NOW)
    }

    #[test]
    fn the_first_token_is_number_0_and_named_admin() {
        let (catalog, token) =
            change(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "test", NOW)
                .unwrap();
        assert_eq!((token.id, token.name.as_str(), token.expiry), (0, "_admin", None));
        assert_eq!((token.created_at, token.updated_at, token.updated_by), (NOW, None, None));
        assert_eq!(who(&catalog, "first"), Ok(Principal { id: 0, operator: true, replaced: false }));
        let denial = change(&catalog, &Command::CreateOperator { new: hash("second") }, "test", NOW);
        assert_eq!(denial.unwrap_err(), Denial::AlreadyExists("_admin".into()));
    }

    #[test]
    fn regenerating_replaces_the_secret_and_keeps_the_rest() {
        let before = catalog();
        for (command, actor) in [
            (
                Command::Regenerate { credential: hash("first"), new: hash("second"), overlap: 0 },
                Actor::Token(0),
            ),
            (Command::Recover { new: hash("second") }, Actor::Recovery),
        ] {
            let (after, token) = change(&before, &command, "here", NOW + 1).unwrap();
            let expected = TokenRecord {
                hash: hash("second"),
                updated_at: Some(NOW + 1),
                updated_by: Some(0),
                ..before.operator().unwrap().clone()
            };
            assert_eq!(token, expected);
            assert_eq!(who(&after, "first"), Err(Refusal::Unknown));
            assert_eq!(who(&after, "second"), Ok(Principal { id: 0, operator: true, replaced: false }));
            assert_eq!(who(&after, "ci"), Ok(Principal { id: 1, operator: false, replaced: false }));
            let [.., newest] = &after.audit().records()[..] else { panic!("no record") };
            assert_eq!((newest.sequence, newest.actor, newest.origin.as_str()), (2, actor, "here"));
            assert_eq!(Catalog::decode(&after.encode()).as_ref(), Ok(&after));
        }
    }

    #[test]
    fn only_the_operator_token_regenerates() {
        let catalog = catalog();
        let regenerate = |text| {
            change(
                &catalog,
                &Command::Regenerate { credential: hash(text), new: hash("second"), overlap: 0 },
                "test",
                NOW,
            )
            .map(|_| ())
        };
        assert_eq!(regenerate("ci"), Err(Denial::Forbidden));
        assert_eq!(regenerate(""), Err(Denial::Unauthenticated(Refusal::Unknown)));
        assert_eq!(regenerate("First"), Err(Denial::Unauthenticated(Refusal::Unknown)));
        assert_eq!(regenerate("first"), Ok(()));
    }

    #[test]
    fn without_an_operator_there_is_nothing_to_recover() {
        let denial = change(&Catalog::default(), &Command::Recover { new: hash("x") }, "test", NOW);
        assert_eq!(denial.unwrap_err(), Denial::NotFound("_admin".into()));
        let orphan = with_admin(&Catalog::default(), None);
        for command in [
            Command::Recover { new: hash("x") },
            Command::Regenerate { credential: hash("ci"), new: hash("x"), overlap: 0 },
            Command::Stage { credential: hash("ci"), new: hash("x"), ttl: 60 },
        ] {
            let denial = change(&orphan, &command, "test", NOW);
            assert_eq!(denial.unwrap_err(), Denial::NotFound("_admin".into()), "{command:?}");
        }
    }

    #[test]
    fn a_token_is_refused_from_its_expiry_on() {
        for (expiry, expected) in [
            (NOW - 1, Err(Refusal::Expired { at: NOW - 1 })),
            (NOW, Err(Refusal::Expired { at: NOW })),
            (NOW + 1, Ok(Principal { id: 0, operator: false, replaced: false })),
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
            change(&Catalog::default(), &Command::CreateOperator { new: hash("first") }, "here", NOW)
                .unwrap();
        let [record] = &catalog.audit().records()[..] else { panic!("not one record") };
        assert_eq!((record.sequence, record.at), (1, NOW));
        assert_eq!(record.subject, Some(Subject { id: 0, name: "_admin".into() }));
        assert_eq!((record.action, record.actor), (Action::CreateOperator, Actor::Bootstrap));
    }

    fn create_named(credential: &str, name: &'static str, lifetime: Option<u64>) -> Command<'static> {
        Command::CreateNamed { credential: hash(credential), name, lifetime, new: hash(name) }
    }

    #[test]
    fn any_accepted_token_makes_named_ones_and_takes_them_out() {
        let catalog = catalog();
        for credential in ["first", "ci"] {
            let (with, token) =
                change(&catalog, &create_named(credential, "new", None), "here", NOW).unwrap();
            assert_eq!((token.id, token.name.as_str(), token.expiry), (2, "new", None));
            assert_eq!(who(&with, "new"), Ok(Principal { id: 2, operator: false, replaced: false }));
            let delete = Command::Delete { credential: hash(credential), name: "new" };
            let (without, gone) = change(&with, &delete, "here", NOW).unwrap();
            assert_eq!(gone, token);
            assert_eq!(who(&without, "new"), Err(Refusal::Unknown));
            assert_eq!(who(&without, "first"), Ok(Principal { id: 0, operator: true, replaced: false }));
            // The name is free again, the number is not.
            let (again, token) = change(&without, &create_named("ci", "new", None), "here", NOW).unwrap();
            assert_eq!((token.id, again.tokens().len()), (3, 3));
            let [.., created, deleted, newest] = &again.audit().records()[..] else {
                panic!("too few records")
            };
            assert_eq!(created.action, Action::CreateNamed);
            assert_eq!((deleted.action, &deleted.subject), (Action::Delete, &Some(subject(&gone))));
            assert_eq!(newest.actor, Actor::Token(1));
            assert_eq!(Catalog::decode(&again.encode()), Ok(again));
        }
    }

    #[test]
    fn a_token_may_take_itself_out() {
        let delete = Command::Delete { credential: hash("ci"), name: "ci" };
        let (without, _) = change(&catalog(), &delete, "here", NOW).unwrap();
        assert_eq!(who(&without, "ci"), Err(Refusal::Unknown));
    }

    #[test]
    fn what_is_denied_is_denied_for_its_reason() {
        let catalog = catalog();
        let named =
            |credential, name| apply(catalog.clone(), &create_named(credential, name, None), "test", NOW);
        let delete = |credential, name| {
            apply(catalog.clone(), &Command::Delete { credential: hash(credential), name }, "test", NOW)
        };
        for (verdict, expected) in [
            (named("nobody", "new"), Refusal::Unknown.into()),
            // Whose name it is, only who is accepted learns.
            (named("nobody", "ci"), Refusal::Unknown.into()),
            (named("first", "ci"), Denial::AlreadyExists("ci".into())),
            (named("first", "_admin"), Denial::AlreadyExists("_admin".into())),
            (named("first", ""), NameError::Empty.into()),
            (named("first", "_Admin"), NameError::LooksLikeOperator.into()),
            (delete("nobody", "ci"), Refusal::Unknown.into()),
            (delete("nobody", "_admin"), Refusal::Unknown.into()),
            (delete("first", "_admin"), Denial::OperatorProtected),
            (delete("ci", "_admin"), Denial::OperatorProtected),
            (delete("first", "CI"), Denial::NotFound("CI".into())),
            (delete("first", ""), Denial::NotFound(String::new())),
        ] {
            assert_eq!(verdict, Err(expected));
        }
    }

    #[test]
    fn a_lifetime_that_no_clock_can_hold_ends_with_the_last_year() {
        for (lifetime, expiry) in [
            (None, None),
            (Some(0), Some(NOW)),
            (Some(1), Some(NOW + 1000)),
            (Some(u64::MAX / 1000), Some(MAX_EXPIRY)),
            (Some(u64::MAX), Some(MAX_EXPIRY)),
        ] {
            let (catalog, token) =
                change(&catalog(), &create_named("first", "new", lifetime), "test", NOW).unwrap();
            assert_eq!(token.expiry, expiry);
            assert_eq!(who(&catalog, "new").is_ok(), lifetime != Some(0));
        }
    }

    #[test]
    fn a_full_catalog_takes_no_more_and_still_lets_go() {
        let audit = Trail::default();
        let first = catalog();
        let full = (2..MAX_TOKENS as u64).fold(first.tokens().to_vec(), |mut tokens, id| {
            let name = format!("t{id}");
            tokens.push(TokenRecord { id, hash: hash(&name), name, ..tokens[1].clone() });
            tokens
        });
        let full = Catalog::of(MAX_TOKENS as u64, full, audit).unwrap();
        let denial = apply(full.clone(), &create_named("first", "one more", None), "test", NOW);
        assert_eq!(denial, Err(Denial::Full));
        let delete = Command::Delete { credential: hash("first"), name: "t77" };
        let (less, _) = change(&full, &delete, "test", NOW).unwrap();
        assert!(change(&less, &create_named("first", "one more", None), "test", NOW).is_ok());
        let regenerate = Command::Regenerate { credential: hash("first"), new: hash("second"), overlap: 0 };
        assert!(change(&full, &regenerate, "test", NOW).is_ok());
    }

    #[test]
    fn a_preset_token_is_taken_in_once_and_changes_nothing_that_is_there() {
        let preset = |catalog: &Catalog, name, text| {
            apply(
                catalog.clone(),
                &Command::Preset { name, expiry: Some(u64::MAX), new: hash(text) },
                "test",
                NOW,
            )
        };
        let Ok(Verdict::Change { catalog, token: Some(token) }) = preset(&Catalog::default(), "_admin", "p")
        else {
            panic!("not taken in")
        };
        assert_eq!((token.id, token.expiry), (0, Some(MAX_EXPIRY)));
        assert_eq!(who(&catalog, "p"), Ok(Principal { id: 0, operator: true, replaced: false }));
        let record = &catalog.audit().records()[0];
        assert_eq!((record.action, record.actor), (Action::Preset, Actor::Provision));
        for text in ["p", "another"] {
            assert_eq!(
                preset(&catalog, "_admin", text),
                Ok(Verdict::Nothing(catalog.clone(), Some(token.clone())))
            );
        }
        assert_eq!(preset(&catalog, "ci", "p"), Err(Denial::SecretTaken("_admin".into())));
        assert_eq!(preset(&catalog, "_ADMIN", "q"), Err(NameError::LooksLikeOperator.into()));
    }

    #[test]
    fn a_catalog_is_named_once() {
        let name = |catalog: &Catalog, id| apply(catalog.clone(), &Command::Initialize { id }, "test", NOW);
        let Ok(Verdict::Change { catalog, token: None }) = name(&catalog(), "one") else {
            panic!("not named")
        };
        assert_eq!((catalog.id(), catalog.tokens().len()), (Some("one"), 2));
        assert_eq!(name(&catalog, "two"), Ok(Verdict::Nothing(catalog.clone(), None)));
    }

    #[test]
    fn whoever_holds_a_token_may_make_a_missing_operator() {
        let orphan = with_admin(&Catalog::default(), None);
        let (catalog, token) = change(&orphan, &create_named("ci", "_admin", None), "test", NOW).unwrap();
        assert!(token.is_operator());
        let record = &catalog.audit().records()[0];
        assert_eq!((record.action, record.actor), (Action::CreateOperator, Actor::Token(0)));
    }

    fn stage(credential: &str, new: &str) -> Command<'static> {
        Command::Stage { credential: hash(credential), new: hash(new), ttl: 60 }
    }

    fn confirming(credential: &str) -> Command<'static> {
        Command::Confirm { credential: hash(credential), overlap: 0 }
    }

    #[test]
    fn a_staged_secret_is_accepted_for_its_confirmation_and_nothing_else() {
        let (staged, token) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
        assert_eq!(token.hash, hash("first"));
        assert_eq!(who(&staged, "second"), Err(Refusal::Unknown));
        assert!(who(&staged, "first").is_ok());
        for command in [
            create_named("second", "new", None),
            stage("second", "third"),
            Command::Regenerate { credential: hash("second"), new: hash("third"), overlap: 0 },
            Command::Cancel { credential: hash("second") },
            Command::Delete { credential: hash("second"), name: "ci" },
        ] {
            let denial = apply(staged.clone(), &command, "test", NOW);
            assert_eq!(denial, Err(Refusal::Unknown.into()), "{command:?}");
        }
        let (confirmed, token) = change(&staged, &confirming("second"), "here", NOW + 1).unwrap();
        assert_eq!((token.hash, token.updated_at, token.id), (hash("second"), Some(NOW + 1), 0));
        assert_eq!(who(&confirmed, "first"), Err(Refusal::Unknown));
        assert_eq!(who(&confirmed, "second"), Ok(Principal { id: 0, operator: true, replaced: false }));
        assert_eq!(confirmed.rotation(), Rotation::None);
        // Asked again by whoever did not get the answer.
        let again = apply(confirmed.clone(), &confirming("second"), "here", NOW + 9_999_999);
        assert_eq!(again, Ok(Verdict::Nothing(confirmed.clone(), Some(token))));
        assert_eq!(apply(confirmed, &confirming("first"), "here", NOW), Err(Refusal::Unknown.into()));
    }

    #[test]
    fn a_staged_secret_has_a_deadline_and_can_be_staged_again() {
        let (staged, _) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
        let until = NOW + 60_000;
        assert!(change(&staged, &confirming("second"), "here", until - 1).is_ok());
        let late = apply(staged.clone(), &confirming("second"), "here", until);
        assert_eq!(late, Err(Refusal::Expired { at: until }.into()));
        let (again, _) = change(&staged, &stage("first", "second"), "here", until).unwrap();
        assert!(change(&again, &confirming("second"), "here", until).is_ok());
        let (other, _) = change(&staged, &stage("first", "third"), "here", NOW).unwrap();
        assert_eq!(apply(other.clone(), &confirming("second"), "here", NOW), Err(Refusal::Unknown.into()));
        assert!(change(&other, &confirming("third"), "here", NOW).is_ok());
        for taken in ["first", "ci"] {
            let denial = apply(staged.clone(), &stage("first", taken), "here", NOW).unwrap_err();
            assert!(matches!(denial, Denial::SecretTaken(_)), "{denial:?}");
        }
        let long = Command::Stage { credential: hash("first"), new: hash("x"), ttl: MAX_STAGE_SECONDS + 1 };
        assert_eq!(apply(staged, &long, "here", NOW), Err(Denial::TooLong { limit: MAX_STAGE_SECONDS }));
    }

    #[test]
    fn a_staged_secret_can_be_given_up_and_ends_with_a_plain_change() {
        let (staged, _) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
        for command in [
            Command::Cancel { credential: hash("first") },
            Command::Regenerate { credential: hash("first"), new: hash("third"), overlap: 0 },
            Command::Recover { new: hash("third") },
        ] {
            let (after, _) = change(&staged, &command, "here", NOW).unwrap();
            assert_eq!(after.rotation(), Rotation::None, "{command:?}");
            assert_eq!(apply(after, &confirming("second"), "here", NOW), Err(Refusal::Unknown.into()));
        }
        let nothing = apply(catalog(), &Command::Cancel { credential: hash("first") }, "here", NOW).unwrap();
        assert!(matches!(nothing, Verdict::Nothing(..)));
        let denial = apply(staged, &Command::Cancel { credential: hash("ci") }, "here", NOW);
        assert_eq!(denial, Err(Denial::Forbidden));
    }

    #[test]
    fn a_replaced_secret_is_accepted_until_the_end_of_the_overlap_but_rotates_nothing() {
        let regenerate = Command::Regenerate { credential: hash("first"), new: hash("second"), overlap: 60 };
        let (direct, _) = change(&catalog(), &regenerate, "here", NOW).unwrap();
        let (staged, _) = change(&catalog(), &stage("first", "second"), "here", NOW).unwrap();
        let confirm = Command::Confirm { credential: hash("second"), overlap: 60 };
        let (confirmed, _) = change(&staged, &confirm, "here", NOW).unwrap();
        for catalog in [direct, confirmed] {
            let until = NOW + 60_000;
            let at = |moment| authenticate(&catalog, &hash("first"), || moment);
            assert_eq!(at(until - 1), Ok(Principal { id: 0, operator: true, replaced: true }));
            assert_eq!(at(until), Err(Refusal::Expired { at: until }));
            assert!(who(&catalog, "second").is_ok());
            for command in [
                Command::Regenerate { credential: hash("first"), new: hash("third"), overlap: 0 },
                stage("first", "third"),
                Command::Confirm { credential: hash("first"), overlap: 0 },
                Command::EndOverlap { credential: hash("first") },
                Command::EndOverlap { credential: hash("ci") },
            ] {
                assert_eq!(
                    apply(catalog.clone(), &command, "here", NOW),
                    Err(Denial::Forbidden),
                    "{command:?}"
                );
            }
            // Never one staged and one overlapping.
            let denial = apply(catalog.clone(), &stage("second", "third"), "here", until - 1);
            assert_eq!(denial, Err(Denial::Overlapping { until }));
            assert!(change(&catalog, &stage("second", "third"), "here", until).is_ok());
            for command in [
                Command::EndOverlap { credential: hash("second") },
                Command::Recover { new: hash("third") },
                Command::Regenerate { credential: hash("second"), new: hash("third"), overlap: 0 },
            ] {
                let (after, _) = change(&catalog, &command, "here", NOW).unwrap();
                assert_eq!(who(&after, "first"), Err(Refusal::Unknown), "{command:?}");
            }
        }
        let long = MAX_OVERLAP_SECONDS + 1;
        let regenerate = Command::Regenerate { credential: hash("first"), new: hash("x"), overlap: long };
        let denial = apply(catalog(), &regenerate, "here", NOW);
        assert_eq!(denial, Err(Denial::TooLong { limit: MAX_OVERLAP_SECONDS }));
    }
}

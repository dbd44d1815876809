//! Makes a change durable: load, apply, swap. Resolves a lost race and an unknown outcome.
//!
//! Authorization and effect are always decided on the very catalog that the swap replaces: a lost
//! race starts over with the newest one. Knows the ports and the transition function, nothing of
//! the caller.

use alloc::string::String;

use thiserror::Error;

use crate::catalog::{Catalog, CatalogError, TokenRecord};
use crate::command::Command;
use crate::permission::PermissionError;
use crate::ports::{CatalogStore, Clock, EntropyError, StoreError, SwapOutcome};
use crate::token::TokenHashError;
use crate::token_strength::WeakToken;
use crate::transition::{self, CommandRejected, Evidence, Transition};

/// How many times a command is applied before it fails. Each lost race means that another command
/// was committed, so this many nodes may change the catalog at the same moment and all succeed.
pub const MAX_TRIES: u32 = 32;

/// A catalog and its version.
#[derive(Debug)]
pub struct Loaded {
    /// The version of its document; `None` if none was ever stored.
    pub version: Option<String>,
    /// The catalog.
    pub catalog: Catalog,
}

/// The result of a command whose change, if any, is durable.
#[derive(Debug)]
pub struct Committed {
    /// The version of the document that holds the catalog; `None` if none was ever stored.
    pub version: Option<String>,
    /// The catalog after the command.
    pub catalog: Catalog,
    /// The token that the command was about.
    pub token: Option<TokenRecord>,
    /// Whether the command changed the catalog.
    pub changed: bool,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The transition function rejected the command.
    #[error(transparent)]
    Rejected(#[from] CommandRejected),
    /// The stored catalog cannot be decoded; it stays as it is.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The race was lost [`MAX_TRIES`] times; nothing was written.
    #[error("too many others are changing the catalog at this moment")]
    Contended,
    /// Nothing was written.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The change may or may not have been made, and reading it back failed.
    #[error("the store failed in the middle of the change: {0}")]
    UnknownOutcome(String),
    /// No secret was made.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// An imported text is no token, or a weak one.
    #[error(transparent)]
    Weak(#[from] WeakToken),
    /// An imported text is no hash.
    #[error(transparent)]
    Hash(#[from] TokenHashError),
    /// A text is no permission.
    #[error(transparent)]
    Permission(#[from] PermissionError),
}

/// Loads the catalog with its version; an empty catalog without version if none was ever stored.
pub fn load(store: &mut dyn CatalogStore) -> Result<Loaded, CommandError> {
    load_unless_held(store, None)
}

/// As [`load`], and returns the held state if the store still holds it: a version names one state
/// of the document.
#[inline(never)]
fn load_unless_held(store: &mut dyn CatalogStore, held: Option<Loaded>) -> Result<Loaded, CommandError> {
    match store.load() {
        Ok(Some(entry)) => match held {
            Some(held) if held.version.as_ref() == Some(&entry.version) => Ok(held),
            _ => Ok(Loaded { version: Some(entry.version), catalog: Catalog::decode(&entry.document)? }),
        },
        Ok(None) => Ok(Loaded { version: None, catalog: Catalog::default() }),
        Err(StoreError::Unavailable(why) | StoreError::UnknownOutcome(why)) => {
            Err(CommandError::Unavailable(why))
        }
    }
}

/// The ports of a commit. Their type stays unknown here, so that this crate has the code of all
/// commands: it is compiled smaller than the crate of a component.
pub trait CommitPorts: CatalogStore + Clock {}

impl<P: CatalogStore + Clock> CommitPorts for P {}

/// Executes a command durably. `held` is a state that was loaded or committed before: a document of
/// its version is not read again.
#[inline(never)]
pub fn commit(
    ports: &mut dyn CommitPorts,
    held: Option<Loaded>,
    origin: &str,
    command: &Command<'_>,
) -> Result<Committed, CommandError> {
    // Set once a swap may have happened without an answer: the reason, and the token of the
    // command.
    let mut in_doubt: Option<(String, Option<TokenRecord>)> = None;
    let mut held = held;

    for _ in 0..MAX_TRIES {
        let Loaded { version, catalog } = match (load_unless_held(ports, held.take()), &in_doubt) {
            (Ok(loaded), _) => loaded,
            (Err(_), Some((why, _))) => return Err(CommandError::UnknownOutcome(why.clone())),
            (Err(error), None) => return Err(error),
        };
        if let Some((_, token)) = &in_doubt
            && let Evidence::Applied(token) = transition::was_applied(&catalog, command, token.as_ref())
        {
            let token = token.cloned();
            return Ok(Committed { version, catalog, token, changed: true });
        }
        let (next, token) = match transition::apply(catalog, command, origin, ports.now())? {
            Transition::Changed { catalog, token } => (catalog, token),
            Transition::Unchanged(catalog, token) => {
                return Ok(Committed { version, catalog, token, changed: false });
            }
        };
        match ports.swap(version.as_deref(), &next.encode()) {
            Ok(SwapOutcome::Swapped(version)) => {
                return Ok(Committed { version: Some(version), catalog: next, token, changed: true });
            }
            Ok(SwapOutcome::Stale) => {}
            Err(StoreError::Unavailable(why)) if in_doubt.is_none() => {
                return Err(CommandError::Unavailable(why));
            }
            // A swap in doubt may still happen later. Only a later swap that wins, or that loses to
            // another version, resolves the doubt. So the answer is read from the store.
            Err(StoreError::Unavailable(why) | StoreError::UnknownOutcome(why)) => {
                in_doubt = Some((why, token));
            }
        }
    }
    match in_doubt {
        Some((why, _)) => Err(CommandError::UnknownOutcome(why)),
        None => Err(CommandError::Contended),
    }
}

#[cfg(test)]
mod tests {
    // The stores that fail. The conformance suite covers stores that do not.
    use std::collections::VecDeque;

    use super::*;
    use crate::ports::{Entry, Timestamp};
    use crate::testing::MemoryPorts;
    use crate::token::TokenHash;
    use crate::transition::AuthError;

    /// A fault of the store at its next swap.
    #[derive(Clone, Copy)]
    enum Fault {
        /// Another command is committed first.
        LostRace,
        /// Nothing is written, and the store reports that.
        Unavailable,
        /// The document is written, and the answer is lost.
        AnswerLost,
        /// Nothing is written, and the answer is lost.
        WriteLost,
        /// The document is written, the answer is lost, and another client then regenerates with
        /// the same token.
        LostThenReplaced,
    }

    /// A store with scripted faults.
    #[derive(Default)]
    struct FaultyPorts {
        memory: MemoryPorts,
        next_swaps: VecDeque<Fault>,
        loads_until_failure: Option<u32>,
        secrets: u32,
    }

    impl FaultyPorts {
        fn catalog(&self) -> Catalog {
            let stored = self.memory.stored.as_ref();
            stored.map_or_else(Catalog::default, |entry| Catalog::decode(&entry.document).unwrap())
        }

        /// Commits a change of another client, behind the command under test.
        fn interfere(&mut self) {
            let new = TokenHash::of(&format!("of another client {}", self.memory.swaps));
            let command = Command::Recover { new };
            let Transition::Changed { catalog, .. } =
                transition::apply(self.catalog(), &command, "", 0).unwrap()
            else {
                panic!("nothing")
            };
            let version = self.memory.stored.as_ref().map(|entry| entry.version.clone());
            self.memory.swap(version.as_deref(), &catalog.encode()).unwrap();
        }

        /// A hash that no token has yet.
        fn fresh(&mut self) -> TokenHash {
            self.secrets += 1;
            TokenHash::of(&format!("secret {}", self.secrets))
        }
    }

    impl CatalogStore for FaultyPorts {
        fn load(&mut self) -> Result<Option<Entry>, StoreError> {
            match &mut self.loads_until_failure {
                Some(0) => return Err(StoreError::Unavailable("no disk".into())),
                Some(left) => *left -= 1,
                None => {}
            }
            self.memory.load()
        }

        fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
            let lost = || Err(StoreError::UnknownOutcome("no answer".into()));
            match self.next_swaps.pop_front() {
                None => self.memory.swap(expected, document),
                Some(Fault::LostRace) => {
                    self.interfere();
                    self.memory.swap(expected, document)
                }
                Some(Fault::Unavailable) => Err(StoreError::Unavailable("no disk".into())),
                Some(Fault::WriteLost) => lost(),
                Some(Fault::AnswerLost) => {
                    self.memory.swap(expected, document)?;
                    lost()
                }
                Some(Fault::LostThenReplaced) => {
                    self.memory.swap(expected, document)?;
                    self.interfere();
                    lost()
                }
            }
        }
    }

    impl Clock for FaultyPorts {
        fn now(&mut self) -> Timestamp {
            1_700_000_000_000
        }
    }

    fn recover(ports: &mut FaultyPorts) -> Result<(Committed, TokenHash), CommandError> {
        let new = ports.fresh();
        Ok((commit(ports, None, "test", &Command::Recover { new })?, new))
    }

    fn regenerate(ports: &mut FaultyPorts, credential: TokenHash) -> Result<Committed, CommandError> {
        let new = ports.fresh();
        commit(ports, None, "test", &Command::Regenerate { credential, new, overlap_seconds: 0 })
    }

    /// A store with an operator token, and the hash of that token.
    fn bootstrapped() -> (FaultyPorts, TokenHash) {
        let mut ports = FaultyPorts::default();
        let new = ports.fresh();
        commit(&mut ports, None, "test", &Command::CreateOperator { new }).unwrap();
        (ports, new)
    }

    /// Asserts that the new secret is the accepted one, and has one audit record.
    fn assert_committed(ports: &FaultyPorts, (committed, new): &(Committed, TokenHash), changes: usize) {
        let catalog = ports.catalog();
        assert_eq!(catalog, committed.catalog);
        assert_eq!(catalog.operator(), committed.token.as_ref());
        assert_eq!(catalog.operator().unwrap().hash, *new);
        assert!(committed.changed);
        assert_eq!(catalog.audit().records().len(), changes);
    }

    #[test]
    fn lost_race_is_decided_again_on_the_newest_catalog() {
        let (mut ports, credential) = bootstrapped();
        ports.next_swaps.extend([Fault::LostRace; 3]);
        let committed = recover(&mut ports).unwrap();
        assert_committed(&ports, &committed, 5);

        // The same race, which replaces the credential of the command.
        let (mut ports, _) = bootstrapped();
        ports.next_swaps.push_back(Fault::LostRace);
        let error = regenerate(&mut ports, credential).unwrap_err();
        assert_eq!(error, CommandError::Rejected(AuthError::Unknown.into()));
        assert_eq!(ports.memory.swaps, 2, "only the change of the other client was written");
    }

    #[test]
    fn race_that_is_always_lost_is_contended() {
        let (mut ports, _) = bootstrapped();
        ports.next_swaps.extend([Fault::LostRace; MAX_TRIES as usize]);
        assert_eq!(recover(&mut ports).unwrap_err(), CommandError::Contended);
        assert_eq!(ports.memory.swaps, 1 + MAX_TRIES, "only the changes of the other clients were written");
    }

    #[test]
    fn unavailable_store_is_reported_and_unchanged() {
        let (mut ports, _) = bootstrapped();
        ports.next_swaps.push_back(Fault::Unavailable);
        assert_eq!(recover(&mut ports).unwrap_err(), CommandError::Unavailable("no disk".into()));
        ports.loads_until_failure = Some(0);
        assert_eq!(recover(&mut ports).unwrap_err(), CommandError::Unavailable("no disk".into()));
        assert_eq!(ports.memory.swaps, 1);
    }

    #[test]
    fn swap_with_a_lost_answer_is_found() {
        let (mut ports, _) = bootstrapped();
        ports.next_swaps.push_back(Fault::AnswerLost);
        let committed = recover(&mut ports).unwrap();
        assert_committed(&ports, &committed, 2);
    }

    #[test]
    fn lost_swap_is_repeated() {
        let (mut ports, _) = bootstrapped();
        ports.next_swaps.extend([Fault::WriteLost, Fault::Unavailable, Fault::WriteLost]);
        let committed = recover(&mut ports).unwrap();
        assert_committed(&ports, &committed, 2);
    }

    #[test]
    fn secret_replaced_before_its_answer_is_not_returned() {
        let (mut ports, credential) = bootstrapped();
        ports.next_swaps.push_back(Fault::LostThenReplaced);
        let error = regenerate(&mut ports, credential).unwrap_err();
        assert_eq!(error, CommandError::Rejected(AuthError::Unknown.into()));
    }

    #[test]
    fn unresolved_outcome_is_reported() {
        let (mut ports, _) = bootstrapped();
        ports.next_swaps.push_back(Fault::AnswerLost);
        ports.loads_until_failure = Some(1);
        assert_eq!(recover(&mut ports).unwrap_err(), CommandError::UnknownOutcome("no answer".into()));

        let (mut ports, _) = bootstrapped();
        ports.next_swaps.extend([Fault::WriteLost; MAX_TRIES as usize]);
        assert_eq!(recover(&mut ports).unwrap_err(), CommandError::UnknownOutcome("no answer".into()));
    }

    #[test]
    fn repeating_entropy_is_a_secret_collision() {
        let (mut ports, _) = bootstrapped();
        ports.secrets -= 1;
        assert_eq!(
            recover(&mut ports).unwrap_err(),
            CommandError::Rejected(CommandRejected::SecretCollision)
        );
        assert_eq!(ports.memory.swaps, 1);
    }

    #[test]
    fn unknown_deletion_is_resolved_by_token_number() {
        for (fault, changes) in [(Fault::AnswerLost, 3), (Fault::WriteLost, 3), (Fault::LostThenReplaced, 4)]
        {
            let (mut ports, credential) = bootstrapped();
            let new = ports.fresh();
            let create = Command::CreateNamed {
                credential,
                name: "ci",
                lifetime_seconds: None,
                permissions: None,
                new,
            };
            commit(&mut ports, None, "test", &create).unwrap();
            ports.next_swaps.push_back(fault);
            let delete = Command::Delete { credential, name: "ci" };
            let committed = commit(&mut ports, None, "test", &delete).unwrap();
            assert_eq!(committed.token.unwrap().name, "ci");
            assert_eq!(ports.catalog().named("ci"), None);
            assert_eq!(ports.catalog().audit().records().len(), changes);
        }
    }

    #[test]
    fn held_state_is_used_at_its_version_alone() {
        let (mut ports, credential) = bootstrapped();
        let (first, second) = (load(&mut ports).unwrap(), load(&mut ports).unwrap());
        let damage = |ports: &mut FaultyPorts| {
            ports.memory.stored.as_mut().unwrap().document = "damaged".into();
        };
        // The document of its version is not read again.
        damage(&mut ports);
        let new = ports.fresh();
        let command = Command::Regenerate { credential, new, overlap_seconds: 0 };
        let committed = commit(&mut ports, Some(first), "test", &command).unwrap();
        assert_committed(&ports, &(committed, new), 2);

        // That of another version is, whatever is held.
        damage(&mut ports);
        let error = commit(&mut ports, Some(second), "test", &command).unwrap_err();
        assert_eq!(error, CommandError::Catalog(CatalogError::Malformed));
    }

    #[test]
    fn lost_race_is_decided_on_the_newest_catalog_despite_a_held_one() {
        let (mut ports, credential) = bootstrapped();
        let held = Some(load(&mut ports).unwrap());
        ports.next_swaps.push_back(Fault::LostRace);
        let new = ports.fresh();
        let command = Command::Regenerate { credential, new, overlap_seconds: 0 };
        let error = commit(&mut ports, held, "test", &command).unwrap_err();
        assert_eq!(error, CommandError::Rejected(AuthError::Unknown.into()));
    }

    #[test]
    fn catalog_id_is_given_once_despite_unknown_outcome() {
        let mut ports = FaultyPorts::default();
        ports.next_swaps.push_back(Fault::AnswerLost);
        assert!(commit(&mut ports, None, "test", &Command::Initialize { id: "one" }).unwrap().changed);
        assert!(!commit(&mut ports, None, "test", &Command::Initialize { id: "two" }).unwrap().changed);
        assert_eq!(ports.catalog().id(), Some("one"));
        assert_eq!(ports.memory.swaps, 1);
    }

    #[test]
    fn unreadable_catalog_is_unchanged() {
        let newer = Entry { version: "7".into(), document: r#"{"format":9}"#.into() };
        let mut ports = FaultyPorts::default();
        ports.memory.stored = Some(newer.clone());
        let error = recover(&mut ports).unwrap_err();
        assert_eq!(error, CommandError::Catalog(CatalogError::UnknownFormat { found: 9 }));
        assert_eq!((ports.memory.stored, ports.memory.swaps), (Some(newer), 0));
    }
}

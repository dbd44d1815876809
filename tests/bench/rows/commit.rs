//! A command on rows: loads those that it names, applies it, and puts what it changed.

use optoken_core::catalog::{Catalog, MAX_TOKENS, OPERATOR};
use optoken_core::command::Command;
use optoken_core::ports::Timestamp;
use optoken_core::token::TokenHash;
use optoken_core::transition::{Transition, apply};

use super::form::{
    HEAD, Head, audit_key, audit_row, dropped_by, former_row, partial_document, token_key, token_row,
};
use super::store::{Change, Find, RowStore};

/// A command of the comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Create { name: &'a str, new: TokenHash },
    Regenerate { new: TokenHash },
    Delete { name: &'a str },
}

impl<'a> Step<'a> {
    pub(crate) fn command(self, credential: TokenHash) -> Command<'a> {
        match self {
            Self::Create { name, new } => {
                Command::CreateNamed { credential, name, lifetime_seconds: None, permissions: None, new }
            }
            Self::Regenerate { new } => Command::Regenerate { credential, new, overlap_seconds: 0 },
            Self::Delete { name } => Command::Delete { credential, name },
        }
    }
}

/// Executes a step durably. Returns the changes.
pub(crate) fn commit(
    store: &mut RowStore,
    origin: &str,
    (step, credential): (Step<'_>, TokenHash),
    now: Timestamp,
) -> Vec<Change> {
    let (presented, new) = match step {
        Step::Create { new, .. } | Step::Regenerate { new } => (credential.to_string(), new.to_string()),
        Step::Delete { .. } => (credential.to_string(), String::new()),
    };
    let mut wanted =
        vec![Find::Key(HEAD), Find::Secret(&presented), Find::Secret(&new), Find::Name(OPERATOR)];
    if let Step::Create { name, .. } | Step::Delete { name } = step {
        wanted.push(Find::Name(name));
    }
    loop {
        let (version, mut rows) = store.load(&wanted);
        let head = Head::of_row(&rows.remove(0).text);
        rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let before =
            Catalog::decode(&partial_document(&head, rows.iter().map(|row| row.text.as_str()))).unwrap();
        let ids: Vec<u64> = before.tokens().iter().map(|token| token.id).collect();
        // The catalog sees the tokens that were loaded. Their number is in the header.
        assert!(!matches!(step, Step::Create { .. }) || head.tokens < MAX_TOKENS);
        let Transition::Changed { catalog, .. } =
            apply(before, &step.command(credential), origin, now).unwrap()
        else {
            panic!("a step that changes nothing");
        };

        let document = catalog.encode();
        let mut lines = document.lines().skip(1);
        let (mut next, former) = Head::of_line(lines.next().unwrap());
        let sequence = catalog.audit().sequence();
        let mut changes = Vec::new();
        for (token, line) in catalog.tokens().iter().zip(&mut lines) {
            if rows.iter().all(|row| row.text != line) {
                changes.push(Change::Put(token_row(token, line)));
            }
        }
        let deleted = ids.iter().filter(|id| catalog.numbered(**id).is_none());
        changes.extend(deleted.map(|id| Change::Delete(token_key(*id))));
        next.tokens = head.tokens + catalog.tokens().len() - ids.len();
        next.newest = lines.last().map(str::to_owned);
        if let Some(record) = &head.newest {
            changes.push(Change::Put(audit_row(sequence - 1, record)));
        }
        changes.extend(dropped_by(sequence).map(|dropped| Change::Delete(audit_key(dropped))));
        if !former.is_empty() {
            changes.push(Change::Put(former_row(sequence, former)));
        }
        changes.push(Change::Put(next.to_row()));
        // Any other change of the catalog since the load makes this stale, so no other command can
        // have used the name or the secret meanwhile.
        if store.swap(version.as_deref(), &changes).is_some() {
            return changes;
        }
    }
}

//! Plays cases against the core as ordinary Rust, without wasm.

use std::time::SystemTime;

use optoken::store::{self, Store as _};
use optoken_core::authority::{AuthenticateError, Authority, Issued, Preset, Staged};
use optoken_core::catalog::{MAX_TOKENS, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};
use optoken_core::rotation::{ExpiringHash, Rotation};
use optoken_core::transition::{AuthError, CommandRejected, Principal};
use serde_json::{Value, json};

use crate::faults::ScriptedStore;
use crate::harness::{Bindings, Case, CaseResult};

/// Everything the core needs.
struct Ports<'a>(&'a ScriptedStore);

impl Entropy for Ports<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        let Some(random) = self.0.random() else {
            return getrandom::fill(bytes).map_err(|error| EntropyError(error.to_string()));
        };
        for (byte, random) in bytes.iter_mut().zip(random.to_le_bytes().into_iter().cycle()) {
            *byte = random;
        }
        Ok(())
    }
}

impl Clock for Ports<'_> {
    fn now(&mut self) -> Timestamp {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_millis().try_into().unwrap()
    }
}

impl CatalogStore for Ports<'_> {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        let entry = self.0.load().map_err(store_error)?;
        Ok(entry.map(|store::Entry { version, document }| Entry {
            version: version.as_str().to_owned(),
            document,
        }))
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        let expected = expected.map(|version| store::Version::from(version.to_owned()));
        Ok(match self.0.swap(expected.as_ref(), document).map_err(store_error)? {
            store::SwapOutcome::Swapped(version) => SwapOutcome::Swapped(version.as_str().to_owned()),
            store::SwapOutcome::Stale => SwapOutcome::Stale,
        })
    }
}

fn store_error(error: store::StoreError) -> StoreError {
    match error {
        store::StoreError::Unavailable(why) => StoreError::Unavailable(why),
        store::StoreError::UnknownOutcome(why) => StoreError::UnknownOutcome(why),
    }
}

pub(crate) fn play(case: &Case) -> CaseResult {
    let store = ScriptedStore::default();
    store.open(&case.directory).unwrap();
    let mut authority = Authority::new(Ports(&store));
    let mut answered = Bindings::default();
    let answers = case.calls.iter().enumerate().map(|(at, call)| {
        store.begin(&case.directory, at + 1).unwrap();
        let answer = answer(&mut authority, &call.function, &answered.arguments(call));
        store.end().unwrap_or_else(|error| panic!("{}, call {}: {error}", case.name, at + 1));
        answered.keep(call, &answer);
        answer
    });
    let answers = answers.collect();
    CaseResult { case: case.name.clone(), answers, document: store.document(), started: None }
}

fn answer(authority: &mut Authority<Ports<'_>>, call: &str, args: &[Value]) -> Value {
    match (call, args) {
        ("authenticator.prepare", []) => result(authority.prepare(), |()| Value::Null),
        ("authenticator.authenticate", [token]) => match authority.authenticate(text(token)) {
            Ok(Principal { id, operator, replaced }) => {
                let kind = match (operator, replaced) {
                    (true, false) => "operator",
                    (true, true) => "replaced-operator",
                    (false, _) => "named-admin",
                };
                json!({ "ok": { "id": id, "kind": kind } })
            }
            Err(AuthenticateError::Refused(AuthError::Unknown)) => json!({ "err": "unknown-token" }),
            Err(AuthenticateError::Refused(AuthError::Expired { at })) => json!({ "err": { "expired": at } }),
            Err(AuthenticateError::Unavailable(_)) => json!({ "err": "unavailable" }),
        },
        ("tokens.create-operator", [origin]) => result(authority.create_operator(text(origin)), issued),
        ("tokens.create-named", [token, name, lifetime, origin]) => {
            let created = authority.create_named(text(token), text(name), seconds(lifetime), text(origin));
            result(created, issued)
        }
        ("tokens.regenerate", [token, overlap, origin]) => {
            result(authority.regenerate(text(token), number(overlap), text(origin)), issued)
        }
        ("tokens.stage", [token, sha512, ttl, origin]) => {
            let staged = authority.stage(text(token), sha512.as_str(), seconds(ttl), text(origin));
            result(staged, |Staged { secret, hash, until }| {
                let secret = secret.map(|secret| secret.expose().to_owned());
                json!({ "secret": secret, "sha512": hash.to_string(), "expires-at": until })
            })
        }
        ("tokens.confirm", [token, overlap, origin]) => {
            result(authority.confirm(text(token), number(overlap), text(origin)), |token| info(&token))
        }
        ("tokens.cancel", [token, origin]) => {
            result(authority.cancel(text(token), text(origin)), |()| Value::Null)
        }
        ("tokens.end-overlap", [token, origin]) => {
            result(authority.end_overlap(text(token), text(origin)), |()| Value::Null)
        }
        ("tokens.status", []) => result(authority.status(), |status| match status {
            None => Value::Null,
            Some((operator, rotation)) => json!({
                "info": info(operator),
                "rotation": match rotation {
                    Rotation::None => json!("settled"),
                    Rotation::Staged(staged) => json!({ "staged": timed(staged) }),
                    Rotation::Overlap(replaced) => json!({ "overlapping": timed(replaced) }),
                },
            }),
        }),
        ("tokens.delete", [token, name, origin]) => {
            result(authority.delete(text(token), text(name), text(origin)), |token| info(&token))
        }
        ("tokens.audit", []) => result(authority.audit(), |lines| json!(lines)),
        ("tokens.list", []) => result(authority.list(), |tokens| tokens.iter().map(info).collect()),
        ("recovery.regenerate", [origin]) => result(authority.recover(text(origin)), issued),
        ("provision.initialize", [origin]) => result(authority.initialize(text(origin)), Value::from),
        ("provision.preset-token", [name, token, expiry, origin]) => {
            result(authority.import_token(text(name), text(token), seconds(expiry), text(origin)), preset)
        }
        ("provision.preset-hash", [name, sha512, expiry, origin]) => {
            result(authority.import_hash(text(name), text(sha512), seconds(expiry), text(origin)), preset)
        }
        (call, args) => panic!("there is no {call} of {} arguments", args.len()),
    }
}

/// The arguments of the contract, as a case has them.
pub(crate) fn text(argument: &Value) -> &str {
    argument.as_str().unwrap_or_else(|| panic!("{argument} is no text"))
}

pub(crate) fn number(argument: &Value) -> u64 {
    argument.as_u64().unwrap_or_else(|| panic!("{argument} is no number"))
}

pub(crate) fn seconds(argument: &Value) -> Option<u64> {
    (!argument.is_null()).then(|| number(argument))
}

fn result<T>(result: Result<T, CommandError>, value: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(ok) => json!({ "ok": value(ok) }),
        Err(error) => json!({ "err": command_error(error) }),
    }
}

fn issued(Issued { token, secret }: Issued) -> Value {
    json!({ "info": info(&token), "secret": secret.expose() })
}

fn preset(outcome: Preset) -> Value {
    match outcome {
        Preset::Created(token) => json!({ "created": info(&token) }),
        Preset::Unchanged(token) => json!({ "unchanged": info(&token) }),
        Preset::Different(token) => json!({ "different": info(&token) }),
    }
}

fn timed(ExpiringHash { hash, until }: ExpiringHash) -> Value {
    json!({ "sha512": hash.to_string(), "until": until })
}

fn info(token: &TokenRecord) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "sha512": token.hash.to_string(),
        "created-at": token.created_at,
        "updated-at": token.updated_at,
        "updated-by": token.updated_by,
        "expiry": token.expiry,
    })
}

fn command_error(error: CommandError) -> Value {
    let invalid = |text: String| json!({ "invalid-argument": text });
    match error {
        CommandError::Rejected(denial) => match denial {
            CommandRejected::Unauthenticated(AuthError::Unknown) => json!("unauthenticated"),
            CommandRejected::Unauthenticated(AuthError::Expired { at }) => json!({ "expired": at }),
            CommandRejected::Forbidden => json!("forbidden"),
            CommandRejected::NotFound(name) => json!({ "not-found": name }),
            CommandRejected::AlreadyExists(name) => json!({ "already-exists": name }),
            CommandRejected::OperatorProtected => json!("operator-protected"),
            CommandRejected::Full => json!({ "full": MAX_TOKENS }),
            CommandRejected::Overlapping { .. } => json!({ "conflict": denial.to_string() }),
            CommandRejected::Name(error) => invalid(error.to_string()),
            CommandRejected::TooLong { .. } | CommandRejected::SecretTaken(_) => invalid(denial.to_string()),
            CommandRejected::SecretCollision => json!({ "no-entropy": denial.to_string() }),
            CommandRejected::Invariant(error) => json!({ "other": error.to_string() }),
        },
        CommandError::Catalog(error) => json!({ "unreadable-catalog": error.to_string() }),
        CommandError::Contended => json!("contended"),
        CommandError::Unavailable(why) => json!({ "unavailable": why }),
        CommandError::UnknownOutcome(why) => json!({ "unknown-outcome": why }),
        CommandError::Entropy(error) => json!({ "no-entropy": error.to_string() }),
        CommandError::Weak(error) => invalid(error.to_string()),
        CommandError::Hash(error) => invalid(error.to_string()),
    }
}

//! Plays cases with the core as native Rust, without wasm.

use std::time::SystemTime;

use optoken::access as host;
use optoken::store::{self, Store as _};
use optoken_core::access::{Access, DatabaseAction, Target};
use optoken_core::authority::{
    AuthenticateError, Authority, AuthorizeError, Caller, ConfiguredToken, ImportOutcome, Issued,
    ReplaceOutcome, Staged, hash_token,
};
use optoken_core::catalog::{MAX_TOKENS, Source, TokenRecord};
use optoken_core::commit::CommandError;
use optoken_core::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};
use optoken_core::rotation::{ExpiringHash, Rotation};
use optoken_core::transition::{AccessError, AuthError, CommandRejected, Principal, TokenKind};
use serde_json::{Value, json};

use crate::authority;
use crate::faults::ScriptedStore;
use crate::harness::{Bindings, Case, CaseResult};

/// The ports of the core.
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
    let mut bindings = Bindings::default();
    let answers = case.calls.iter().enumerate().map(|(at, call)| {
        store.begin(&case.directory, at + 1).unwrap();
        let answer = answer(&mut authority, &call.function, &bindings.arguments(call));
        store.end().unwrap_or_else(|error| panic!("{}, call {}: {error}", case.name, at + 1));
        bindings.bind(call, &answer);
        answer
    });
    let answers = answers.collect();
    CaseResult { case: case.name.clone(), answers, document: store.document(), started: None }
}

fn answer(authority: &mut Authority<Ports<'_>>, call: &str, args: &[Value]) -> Value {
    match (call, args) {
        ("authenticator.load", []) => result(authority.load(), |()| Value::Null),
        ("authenticator.state", []) => result(authority.state(), |state| {
            state.map_or(Value::Null, |state| {
                json!({
                    "version": state.version,
                    "catalog-id": state.catalog_id,
                    "audit-sequence": state.audit_sequence,
                    "audit-head": state.audit_head,
                })
            })
        }),
        ("authenticator.describe", [token]) => match authority.describe(text(token)) {
            Ok(token) => json!({ "ok": info(token) }),
            Err(error) => json!({ "err": authenticate_error(&error) }),
        },
        ("authenticator.authenticate", [token]) => match authority.authenticate(text(token)) {
            Ok(token) => json!({ "ok": principal(token) }),
            Err(error) => json!({ "err": authenticate_error(&error) }),
        },
        ("authenticator.authorize", [token, request]) => {
            match authority.authorize(text(token), &access(request)) {
                Ok(token) => json!({ "ok": principal(token) }),
                Err(error) => json!({ "err": authorize_error(&error) }),
            }
        }
        ("tokens.create-operator", [origin]) => result(authority.create_operator(text(origin)), issued),
        ("tokens.create-named", [by, name, permissions, lifetime]) => {
            let permissions = texts(permissions);
            let permissions = permissions.as_deref();
            let created = authority.create_named(caller(by), text(name), permissions, seconds(lifetime));
            result(created, issued)
        }
        ("tokens.regenerate", [by, overlap]) => {
            result(authority.regenerate(caller(by), seconds(overlap)), issued)
        }
        ("tokens.stage", [by, sha512, ttl]) => {
            let staged = authority.stage(caller(by), sha512.as_str(), seconds(ttl));
            result(staged, |Staged { secret, hash, expires_at }| {
                let secret = secret.map(|secret| secret.expose().to_owned());
                json!({ "secret": secret, "sha512": hash.to_string(), "expires-at": expires_at })
            })
        }
        ("tokens.confirm", [by, overlap]) => {
            result(authority.confirm(caller(by), seconds(overlap)), |token| info(&token))
        }
        ("tokens.cancel", [by]) => result(authority.cancel(caller(by)), |()| Value::Null),
        ("tokens.end-overlap", [by]) => result(authority.end_overlap(caller(by)), |()| Value::Null),
        ("tokens.status", []) => result(authority.status(), |status| match status {
            None => Value::Null,
            Some((operator, rotation)) => json!({
                "info": info(operator),
                "rotation": match rotation {
                    Rotation::Idle => json!("idle"),
                    Rotation::Staged(staged) => json!({ "staged": expiring(staged) }),
                    Rotation::Overlap(previous) => json!({ "overlapping": expiring(previous) }),
                },
            }),
        }),
        ("tokens.delete", [by, name]) => {
            result(authority.delete(caller(by), text(name)), |token| info(&token))
        }
        ("tokens.audit", [after]) => result(authority.audit(seconds(after).unwrap_or(0)), |records| {
            let retained =
                records.retained.map(|(oldest, newest)| json!({ "oldest": oldest, "newest": newest }));
            json!({ "lines": records.lines, "retained": retained })
        }),
        ("tokens.list-tokens", []) => {
            result(authority.list_tokens(), |tokens| tokens.iter().map(info).collect())
        }
        ("recovery.regenerate", [origin, reason]) => {
            result(authority.recover(text(origin), is_restore(reason)), issued)
        }
        ("provision.initialize", [origin]) => result(authority.initialize(text(origin)), Value::from),
        ("provision.hash-token", [token]) => result(hash_token(text(token)), Value::from),
        ("provision.import-hash", [name, sha512, permissions, description, expiry, origin]) => {
            let permissions = texts(permissions);
            let token = ConfiguredToken {
                name: text(name),
                sha512: text(sha512),
                permissions: permissions.as_deref(),
                description: description.as_str(),
                expiry: seconds(expiry),
            };
            result(authority.import_hash(&token, text(origin)), imported)
        }
        ("provision.replace-operator", [current, sha512, overlap, origin]) => result(
            authority.replace_operator(text(current), text(sha512), seconds(overlap), text(origin)),
            replaced,
        ),
        (call, args) => panic!("there is no {call} of {} arguments", args.len()),
    }
}

/// A string argument of a case.
pub(crate) fn text(argument: &Value) -> &str {
    argument.as_str().unwrap_or_else(|| panic!("{argument} is no text"))
}

/// An integer argument of a case.
pub(crate) fn number(argument: &Value) -> u64 {
    argument.as_u64().unwrap_or_else(|| panic!("{argument} is no number"))
}

/// An optional integer argument of a case.
pub(crate) fn seconds(argument: &Value) -> Option<u64> {
    (!argument.is_null()).then(|| number(argument))
}

/// An optional list of texts of a case.
pub(crate) fn texts(argument: &Value) -> Option<Vec<String>> {
    let texts = |texts: &Vec<Value>| texts.iter().map(|argument| text(argument).to_owned()).collect();
    let list = || argument.as_array().unwrap_or_else(|| panic!("{argument} is no list"));
    (!argument.is_null()).then(|| texts(list()))
}

/// Whether an argument of type `reason` is `restore`.
pub(crate) fn is_restore(argument: &Value) -> bool {
    match text(argument) {
        "lost-secret" => false,
        "restore" => true,
        reason => panic!("there is no reason {reason}"),
    }
}

/// The fields of a record, and no other.
pub(crate) fn fields<'a, const N: usize>(argument: &'a Value, names: [&str; N]) -> [&'a Value; N] {
    let fields = argument.as_object().filter(|fields| fields.len() == N);
    names.map(|name| fields.and_then(|fields| fields.get(name)).unwrap_or_else(|| panic!("no {name}")))
}

/// The fields of a record `caller`, and no other.
pub(crate) fn caller_fields(argument: &Value) -> (&str, &str) {
    let [credential, origin] = fields(argument, ["credential", "origin"]);
    (text(credential), text(origin))
}

fn caller(argument: &Value) -> Caller<'_> {
    let (credential, origin) = caller_fields(argument);
    Caller { credential, origin }
}

fn principal(Principal { id, kind }: Principal) -> Value {
    let kind = match kind {
        TokenKind::Operator => "operator",
        TokenKind::PreviousOperator => "previous-operator",
        TokenKind::NamedAdmin => "named-admin",
        TokenKind::Scoped => "scoped",
    };
    json!({ "id": id, "kind": kind })
}

/// The type of the core for a request that [`authority::access`] has read.
fn access(argument: &Value) -> Access<'_> {
    // No permission depends on the query.
    let host::Access { method, host, path, target, .. } = authority::access(argument);
    let target = match target {
        host::Target::Http => Target::Http,
        host::Target::Administration => Target::Administration,
        host::Target::System(name) => Target::System(name),
        host::Target::Database { name, action } => Target::Database(
            name,
            match action {
                host::DatabaseAction::Read => DatabaseAction::Read,
                host::DatabaseAction::Write => DatabaseAction::Write,
                host::DatabaseAction::Create => DatabaseAction::Create,
            },
        ),
    };
    Access { method, host, path, target }
}

fn authorize_error(error: &AuthorizeError) -> Value {
    match error {
        AuthorizeError::Refused(AccessError::Unauthenticated(AuthError::Unknown)) => json!("unknown-token"),
        AuthorizeError::Refused(AccessError::Unauthenticated(AuthError::Expired { at })) => {
            json!({ "expired": at })
        }
        AuthorizeError::Refused(AccessError::Forbidden) => json!("forbidden"),
        AuthorizeError::Unavailable(_) => json!("unavailable"),
    }
}

fn authenticate_error(error: &AuthenticateError) -> Value {
    match error {
        AuthenticateError::Refused(AuthError::Unknown) => json!("unknown-token"),
        AuthenticateError::Refused(AuthError::Expired { at }) => json!({ "expired": at }),
        AuthenticateError::Unavailable(_) => json!("unavailable"),
    }
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

fn imported(outcome: ImportOutcome) -> Value {
    match outcome {
        ImportOutcome::Created(token) => json!({ "created": info(&token) }),
        ImportOutcome::Unchanged(token) => json!({ "unchanged": info(&token) }),
        ImportOutcome::Different(token) => json!({ "different": info(&token) }),
        ImportOutcome::Revoked => json!("revoked"),
    }
}

fn replaced(outcome: ReplaceOutcome) -> Value {
    match outcome {
        ReplaceOutcome::Replaced => json!("replaced"),
        ReplaceOutcome::Unchanged => json!("unchanged"),
        ReplaceOutcome::Different => json!("different"),
        ReplaceOutcome::Revoked => json!("revoked"),
    }
}

fn expiring(ExpiringHash { hash, expires_at }: ExpiringHash) -> Value {
    json!({ "sha512": hash.to_string(), "expires-at": expires_at })
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
        "source": match token.source {
            Source::Command => "command",
            Source::Import => "imported",
            Source::PreviousSecret => "previous-secret",
        },
        "permissions": token.permissions.as_ref().map(|permissions| permissions.texts().collect::<Vec<_>>()),
        "description": token.description,
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
            CommandRejected::Overlapping { .. }
            | CommandRejected::FormerUnknown
            | CommandRejected::ScopesFull => json!({ "conflict": denial.to_string() }),
            CommandRejected::Name(error) => invalid(error.to_string()),
            CommandRejected::TooLong { .. }
            | CommandRejected::OperatorScope
            | CommandRejected::Description
            | CommandRejected::SecretTaken(_)
            | CommandRejected::SecretRevoked => invalid(denial.to_string()),
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
        CommandError::Permission(error) => invalid(error.to_string()),
    }
}

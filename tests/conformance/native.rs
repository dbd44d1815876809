//! Plays cases against the core as ordinary Rust, without wasm.

use std::time::SystemTime;

use optoken_component::authority::{AuthenticateError, Authority, Issued, Preset, Staged};
use optoken_component::catalog::TokenRecord;
use optoken_component::commit::CommandError;
use optoken_component::machine::{Denial, Principal, Refusal};
use optoken_component::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};
use optoken_component::rotation::{Rotation, Timed};
use serde_json::{Value, json};

use crate::judge::{Answered, Case, Played};

/// Everything the core needs, with the document in memory.
struct Ports {
    document: Option<String>,
    version: u64,
}

impl Entropy for Ports {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(bytes).map_err(|error| EntropyError(error.to_string()))
    }
}

impl Clock for Ports {
    fn now(&mut self) -> Timestamp {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        now.as_millis().try_into().unwrap()
    }
}

impl CatalogStore for &mut Ports {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        let entry =
            |document: &String| Entry { version: self.version.to_string(), document: document.clone() };
        Ok(self.document.as_ref().map(entry))
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        let version = self.document.as_ref().map(|_| self.version.to_string());
        if expected != version.as_deref() {
            return Ok(SwapOutcome::Stale);
        }
        self.document = Some(document.to_owned());
        self.version += 1;
        Ok(SwapOutcome::Swapped(self.version.to_string()))
    }
}

impl Entropy for &mut Ports {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        (**self).fill(bytes)
    }
}

impl Clock for &mut Ports {
    fn now(&mut self) -> Timestamp {
        (**self).now()
    }
}

pub(crate) fn play(case: &Case) -> Played {
    let mut ports = Ports { document: case.before.clone(), version: 0 };
    let mut authority = Authority::new(&mut ports);
    let mut answered = Answered::default();
    let answers = case.calls.iter().map(|call| {
        let answer = answer(&mut authority, &call.function, &answered.arguments(call));
        answered.keep(call, &answer);
        answer
    });
    let answers = answers.collect();
    Played { case: case.name.clone(), answers, document: ports.document }
}

fn answer(authority: &mut Authority<&mut Ports>, call: &str, args: &[Value]) -> Value {
    let text = |at: usize| args[at].as_str().unwrap();
    let number = |at: usize| args[at].as_u64();
    match call {
        "authenticator.prepare" => result(authority.prepare(), |()| Value::Null),
        "authenticator.authenticate" => match authority.authenticate(text(0)) {
            Ok(Principal { id, operator, replaced }) => {
                let kind = match (operator, replaced) {
                    (true, false) => "operator",
                    (true, true) => "replaced-operator",
                    (false, _) => "named-admin",
                };
                json!({ "ok": { "id": id, "kind": kind } })
            }
            Err(AuthenticateError::Refused(Refusal::Unknown)) => json!({ "err": "unknown-token" }),
            Err(AuthenticateError::Refused(Refusal::Expired { at })) => json!({ "err": { "expired": at } }),
            Err(AuthenticateError::Undecided(_)) => json!({ "err": "unavailable" }),
        },
        "tokens.create-operator" => result(authority.create_operator(text(0)), issued),
        "tokens.create-named" => result(authority.create_named(text(0), text(1), number(2), text(3)), issued),
        "tokens.regenerate" => result(authority.regenerate(text(0), number(1).unwrap(), text(2)), issued),
        "tokens.stage" => {
            let staged = authority.stage(text(0), args[1].as_str(), number(2), text(3));
            result(staged, |Staged { secret, hash, until }| {
                let secret = secret.map(|secret| secret.expose().to_owned());
                json!({ "secret": secret, "sha512": hash.to_string(), "expires-at": until })
            })
        }
        "tokens.confirm" => {
            result(authority.confirm(text(0), number(1).unwrap(), text(2)), |token| info(&token))
        }
        "tokens.cancel" => result(authority.cancel(text(0), text(1)), |()| Value::Null),
        "tokens.end-overlap" => result(authority.end_overlap(text(0), text(1)), |()| Value::Null),
        "tokens.status" => result(authority.status(), |status| match status {
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
        "tokens.delete" => result(authority.delete(text(0), text(1), text(2)), |token| info(&token)),
        "tokens.audit" => result(authority.audit(), |lines| json!(lines)),
        "tokens.list" => result(authority.list(), |tokens| tokens.iter().map(info).collect()),
        "recovery.regenerate" => result(authority.recover(text(0)), issued),
        "provision.initialize" => result(authority.initialize(text(0)), Value::from),
        "provision.preset-token" => {
            result(authority.preset_token(text(0), text(1), number(2), text(3)), preset)
        }
        "provision.preset-hash" => {
            result(authority.preset_hash(text(0), text(1), number(2), text(3)), preset)
        }
        unknown => panic!("there is no {unknown}"),
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

fn preset(outcome: Preset) -> Value {
    match outcome {
        Preset::Created(token) => json!({ "created": info(&token) }),
        Preset::Unchanged(token) => json!({ "unchanged": info(&token) }),
        Preset::Different(token) => json!({ "different": info(&token) }),
    }
}

fn timed(Timed { hash, until }: Timed) -> Value {
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
        CommandError::Denied(Denial::Unauthenticated(Refusal::Unknown)) => json!("unauthenticated"),
        CommandError::Denied(Denial::Unauthenticated(Refusal::Expired { at })) => json!({ "expired": at }),
        CommandError::Denied(Denial::Forbidden) => json!("forbidden"),
        CommandError::Denied(Denial::NotFound(name)) => json!({ "not-found": name }),
        CommandError::Denied(Denial::AlreadyExists(name)) => json!({ "already-exists": name }),
        CommandError::Denied(Denial::OperatorProtected) => json!("operator-protected"),
        CommandError::Denied(denial @ Denial::Overlapping { .. }) => {
            json!({ "conflict": denial.to_string() })
        }
        CommandError::Denied(Denial::Name(error)) => invalid(error.to_string()),
        CommandError::Denied(denial @ (Denial::TooLong { .. } | Denial::SecretTaken(_))) => {
            invalid(denial.to_string())
        }
        CommandError::Catalog(error) => json!({ "unreadable-catalog": error.to_string() }),
        CommandError::Weak(error) => invalid(error.to_string()),
        CommandError::Hash(error) => invalid(error.to_string()),
        other => panic!("no case is about this: {other}"),
    }
}

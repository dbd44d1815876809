//! Plays cases against the crate's own `Authority`, as the server runs it: with its readers and writers, its pool of
//! instances, its limits, and the words into which it puts what the component answers.
//!
//! One authority plays them all. Each case begins with its document in the store, which to the authority looks as if another
//! process had put it there. What differs from the contract, and how it is compared, stands in `README.md`.

use std::sync::Arc;

use optoken::authority::Authority;
use optoken::sandbox::{BUILT_IN_COMPONENT, Sandbox};
use optoken::secret::Secret;
use optoken::store::Store;
use optoken::token::{
    AuthenticateError, CommandError, IssuedToken, Preset, Principal, Rotation, TimedSecret, TokenInfo,
};
use serde_json::{Value, json};

use crate::faults::ScriptedStore;
use crate::harness::{Bindings, Case, CaseResult};
use crate::native::{number, seconds, text};

pub(crate) struct Runner {
    store: Arc<ScriptedStore>,
    authority: Authority,
    /// For `provision.initialize`, which the authority calls when it is built, with an origin of its own.
    sandbox: Sandbox,
}

impl Runner {
    pub(crate) fn new() -> Self {
        let store = Arc::new(ScriptedStore::default());
        let authority = Authority::builder_shared(Arc::<ScriptedStore>::clone(&store)).build().unwrap();
        Self { store, authority, sandbox: Sandbox::new(BUILT_IN_COMPONENT).unwrap() }
    }

    pub(crate) fn play(&self, case: &Case) -> CaseResult {
        self.store.open(&case.directory).unwrap();
        self.look();
        let mut answered = Bindings::default();
        let answers = case.calls.iter().enumerate().map(|(at, call)| {
            self.store.begin(&case.directory, at + 1).unwrap();
            let answer = self.answer(&call.function, &answered.arguments(call));
            self.store.end().unwrap_or_else(|error| panic!("{}, call {}: {error}", case.name, at + 1));
            // What an initialization has made, and what nobody knows whether it was made, it finds a little later by itself.
            if call.function == "provision.initialize" || answer["err"].get("unknown-outcome").is_some() {
                self.look();
            }
            answered.keep(call, &answer);
            answer
        });
        let answers = answers.collect();
        assert_eq!(self.authority.traps(), 0, "{}", case.name);
        CaseResult { case: case.name.clone(), answers, document: self.store.document(), started: None }
    }

    /// Lets the authority see what is in the store now, without waiting until it looks by itself: every command reads it, also
    /// one that is refused.
    fn look(&self) {
        self.authority.cancel(&Secret::from(String::new()), "").unwrap_err();
    }

    fn answer(&self, call: &str, args: &[Value]) -> Value {
        let authority = &self.authority;
        let secret = |argument: &Value| Secret::from(text(argument).to_owned());
        match (call, args) {
            ("authenticator.prepare", []) => result(authority.list(), |_| Value::Null),
            ("authenticator.authenticate", [token]) => match authority.authenticate(text(token)) {
                Ok(Principal { id, operator, replaced, .. }) => {
                    let kind = match (operator, replaced) {
                        (true, false) => "operator",
                        (true, true) => "replaced-operator",
                        (false, false) => "named-admin",
                        (false, true) => panic!("only the operator token is replaced"),
                    };
                    json!({ "ok": { "id": id, "kind": kind } })
                }
                Err(AuthenticateError::Unknown) => json!({ "err": "unknown-token" }),
                Err(AuthenticateError::Expired(at)) => json!({ "err": { "expired": at } }),
                Err(AuthenticateError::Unavailable(_)) => json!({ "err": "unavailable" }),
                Err(unknown) => panic!("{unknown:?} is none of the contract's"),
            },
            ("tokens.create-operator", [origin]) => result(authority.create_operator(text(origin)), issued),
            ("tokens.create-named", [token, name, lifetime, origin]) => {
                let lifetime = seconds(lifetime);
                result(authority.create_named(&secret(token), text(name), lifetime, text(origin)), issued)
            }
            ("tokens.regenerate", [token, overlap, origin]) => {
                result(authority.regenerate(&secret(token), number(overlap), text(origin)), issued)
            }
            ("tokens.stage", [token, sha512, ttl, origin]) => {
                let staged = authority.stage(&secret(token), sha512.as_str(), seconds(ttl), text(origin));
                result(staged, |staged| {
                    let secret = staged.secret.as_ref().map(Secret::expose);
                    json!({ "secret": secret, "sha512": staged.sha512, "expires-at": staged.expires_at })
                })
            }
            ("tokens.confirm", [token, overlap, origin]) => {
                result(authority.confirm(&secret(token), number(overlap), text(origin)), |token| info(&token))
            }
            ("tokens.cancel", [token, origin]) => {
                result(authority.cancel(&secret(token), text(origin)), |()| Value::Null)
            }
            ("tokens.end-overlap", [token, origin]) => {
                result(authority.end_overlap(&secret(token), text(origin)), |()| Value::Null)
            }
            ("tokens.status", []) => result(authority.status(), |status| {
                status.map_or(Value::Null, |status| {
                    let rotation = match &status.rotation {
                        Rotation::Settled => json!("settled"),
                        Rotation::Staged(staged) => json!({ "staged": timed(staged) }),
                        Rotation::Overlapping(replaced) => json!({ "overlapping": timed(replaced) }),
                    };
                    json!({ "info": info(&status.info), "rotation": rotation })
                })
            }),
            ("tokens.delete", [token, name, origin]) => {
                result(authority.delete(&secret(token), text(name), text(origin)), |token| info(&token))
            }
            ("tokens.audit", []) => result(authority.audit(), Value::from),
            ("tokens.list", []) => result(authority.list(), |tokens| tokens.iter().map(info).collect()),
            ("recovery.regenerate", [origin]) => result(authority.recover(text(origin)), issued),
            ("provision.initialize", [origin]) => {
                let store: Arc<dyn Store> = Arc::<ScriptedStore>::clone(&self.store);
                let mut writer = self.sandbox.writer(store).unwrap();
                result(writer.initialize(text(origin)).unwrap(), Value::from)
            }
            ("provision.preset-token", [name, token, expiry, origin]) => {
                let expiry = seconds(expiry);
                result(authority.preset_token(text(name), &secret(token), expiry, text(origin)), preset)
            }
            ("provision.preset-hash", [name, sha512, expiry, origin]) => {
                let expiry = seconds(expiry);
                result(authority.preset_hash(text(name), text(sha512), expiry, text(origin)), preset)
            }
            (call, args) => panic!("there is no {call} of {} arguments", args.len()),
        }
    }
}

/// An answer of the contract, as far as the host's types tell it apart.
pub(crate) fn normalize(answer: &Value) -> Value {
    let error = &answer["err"];
    if error == "contended" {
        return json!({ "err": { "unavailable": "too many others are changing the catalog at this moment" } });
    }
    let internal = ["unreadable-catalog", "no-entropy", "other"].iter().find_map(|name| error.get(name));
    internal.map_or_else(|| answer.clone(), |why| json!({ "err": { "internal": why } }))
}

fn result<T>(result: Result<T, CommandError>, value: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(ok) => json!({ "ok": value(ok) }),
        Err(error) => json!({ "err": command_error(error) }),
    }
}

fn issued(IssuedToken { info: token, secret, .. }: IssuedToken) -> Value {
    json!({ "info": info(&token), "secret": secret.expose() })
}

fn preset(outcome: Preset) -> Value {
    match outcome {
        Preset::Created(token) => json!({ "created": info(&token) }),
        Preset::Unchanged(token) => json!({ "unchanged": info(&token) }),
        Preset::Different(token) => json!({ "different": info(&token) }),
    }
}

fn timed(TimedSecret { sha512, until, .. }: &TimedSecret) -> Value {
    json!({ "sha512": sha512, "until": until })
}

fn info(token: &TokenInfo) -> Value {
    let TokenInfo { id, name, sha512, created_at, updated_at, updated_by, expiry, .. } = token;
    json!({
        "id": id,
        "name": name,
        "sha512": sha512,
        "created-at": created_at,
        "updated-at": updated_at,
        "updated-by": updated_by,
        "expiry": expiry,
    })
}

fn command_error(error: CommandError) -> Value {
    match error {
        CommandError::Unauthenticated => json!("unauthenticated"),
        CommandError::Expired(at) => json!({ "expired": at }),
        CommandError::Forbidden => json!("forbidden"),
        CommandError::NotFound(name) => json!({ "not-found": name }),
        CommandError::AlreadyExists(name) => json!({ "already-exists": name }),
        CommandError::OperatorProtected => json!("operator-protected"),
        CommandError::Full(limit) => json!({ "full": limit }),
        CommandError::Conflict(why) => json!({ "conflict": why }),
        CommandError::InvalidArgument(why) => json!({ "invalid-argument": why }),
        CommandError::Unavailable(why) => json!({ "unavailable": why }),
        CommandError::UnknownOutcome(why) => json!({ "unknown-outcome": why }),
        CommandError::Internal(why) => json!({ "internal": why }),
        unknown => panic!("{unknown:?} is none of the contract's"),
    }
}

//! Plays cases with the `Authority` of the crate, as the server runs it: with its instances, limits
//! and error texts.
//!
//! One authority plays all cases. Each case starts with its document in the store, as if another
//! process had written it. README.md lists the differences from the contract.

use std::sync::Arc;

use optoken::access::{Access, AuthorizeError, DatabaseAction, Target};
use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::token::{
    AuthenticateError, CommandError, ConfiguredToken, ExpiringSecret, ImportOutcome, IssuedToken, Principal,
    ReplaceOutcome, Rotation, TokenInfo, TokenKind, TokenSource,
};
use serde_json::{Value, json};

use crate::faults::ScriptedStore;
use crate::harness::{self, Bindings, Case, CaseResult};
use crate::native::{caller_fields, fields, is_restore, seconds, text, texts};

pub(crate) struct Runner {
    store: Arc<ScriptedStore>,
    authority: Authority,
}

impl Runner {
    pub(crate) fn new() -> Self {
        let store = Arc::new(ScriptedStore::default());
        let builder = Authority::builder_shared(Arc::<ScriptedStore>::clone(&store));
        let authority = builder.component(harness::component()).build().unwrap();
        Self { store, authority }
    }

    pub(crate) fn play(&self, case: &Case) -> CaseResult {
        self.store.open(&case.directory).unwrap();
        // The case is another catalog than the one before.
        self.authority.forget_catalog();
        self.refresh();
        let mut bindings = Bindings::default();
        let answers = case.calls.iter().enumerate().map(|(at, call)| {
            self.store.begin(&case.directory, at + 1).unwrap();
            let answer = self.answer(&call.function, &bindings.arguments(call));
            self.store.end().unwrap_or_else(|error| panic!("{}, call {}: {error}", case.name, at + 1));
            // After these the authority reads the store a little later by itself.
            if call.function == "provision.initialize" || answer["err"].get("unknown-outcome").is_some() {
                self.refresh();
            }
            bindings.bind(call, &answer);
            answer
        });
        let answers = answers.collect();
        assert_eq!(self.authority.traps(), 0, "{}", case.name);
        CaseResult { case: case.name.clone(), answers, document: self.store.document(), started: None }
    }

    /// Makes the authority read the store, which every command does, also one that is rejected.
    fn refresh(&self) {
        self.authority.cancel(&Secret::from(String::new()), "").unwrap_err();
    }

    #[expect(clippy::too_many_lines, reason = "one table of all calls")]
    fn answer(&self, call: &str, args: &[Value]) -> Value {
        let authority = &self.authority;
        let secret = |argument: &Value| Secret::from(text(argument).to_owned());
        match (call, args) {
            ("authenticator.load", []) => result(authority.list_tokens(), |_| Value::Null),
            ("authenticator.state", []) => result(authority.catalog_state(), |state| {
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
                Ok(token) => json!({ "ok": info(&token) }),
                Err(error) => json!({ "err": authenticate_error(error) }),
            },
            ("component-info.get-info", []) => {
                let info = authority.component_info().unwrap();
                let limits = info.limits;
                // It returns no result.
                json!({
                    "ok": {
                        "contract": info.contract,
                        "version": info.version,
                        "revision": info.revision,
                        "catalog-format": info.catalog_format,
                        "limits": {
                            "max-tokens": limits.max_tokens,
                            "max-document-bytes": limits.max_document_bytes,
                            "max-audit-records": limits.max_audit_records,
                            "max-name-bytes": limits.max_name_bytes,
                            "max-origin-bytes": limits.max_origin_bytes,
                            "max-overlap-seconds": limits.max_overlap_seconds,
                            "max-ttl-seconds": limits.max_ttl_seconds,
                            "max-permissions": limits.max_permissions,
                            "max-permission-bytes": limits.max_permission_bytes,
                            "max-description-bytes": limits.max_description_bytes,
                        },
                    },
                })
            }
            ("authenticator.authenticate", [token]) => match authority.authenticate(text(token)) {
                Ok(token) => json!({ "ok": principal(&token) }),
                Err(error) => json!({ "err": authenticate_error(error) }),
            },
            ("authenticator.authorize", [token, request]) => {
                match authority.authorize(text(token), &access(request)) {
                    Ok(token) => json!({ "ok": principal(&token) }),
                    Err(AuthorizeError::Authentication(error)) => {
                        json!({ "err": authenticate_error(error) })
                    }
                    Err(AuthorizeError::Forbidden) => json!({ "err": "forbidden" }),
                    Err(unknown) => panic!("{unknown:?} is none of the contract's"),
                }
            }
            ("tokens.create-operator", [origin]) => result(authority.create_operator(text(origin)), issued),
            ("tokens.create-named", [by, name, permissions, lifetime]) => {
                let (token, origin) = caller(by);
                let permissions = texts(permissions);
                let permissions = permissions.as_deref();
                let created =
                    authority.create_named(&token, text(name), permissions, seconds(lifetime), origin);
                result(created, issued)
            }
            ("tokens.regenerate", [by, overlap]) => {
                let (token, origin) = caller(by);
                result(authority.regenerate(&token, seconds(overlap).unwrap_or(0), origin), issued)
            }
            ("tokens.stage", [by, sha512, ttl]) => {
                let (token, origin) = caller(by);
                result(authority.stage(&token, sha512.as_str(), seconds(ttl), origin), |staged| {
                    let secret = staged.secret.as_ref().map(Secret::expose);
                    json!({ "secret": secret, "sha512": staged.sha512, "expires-at": staged.expires_at })
                })
            }
            ("tokens.confirm", [by, overlap]) => {
                let (token, origin) = caller(by);
                result(authority.confirm(&token, seconds(overlap).unwrap_or(0), origin), |token| info(&token))
            }
            ("tokens.cancel", [by]) => {
                let (token, origin) = caller(by);
                result(authority.cancel(&token, origin), |()| Value::Null)
            }
            ("tokens.end-overlap", [by]) => {
                let (token, origin) = caller(by);
                result(authority.end_overlap(&token, origin), |_| Value::Null)
            }
            ("tokens.status", []) => result(authority.status(), |status| {
                status.map_or(Value::Null, |status| {
                    let rotation = match &status.rotation {
                        Rotation::Idle => json!("idle"),
                        Rotation::Staged(staged) => json!({ "staged": expiring(staged) }),
                        Rotation::Overlapping(previous) => json!({ "overlapping": expiring(previous) }),
                    };
                    json!({ "info": info(&status.info), "rotation": rotation })
                })
            }),
            ("tokens.delete", [by, name]) => {
                let (token, origin) = caller(by);
                result(authority.delete(&token, text(name), origin), |token| info(&token))
            }
            ("tokens.audit", [after]) => result(authority.audit(seconds(after)), |records| {
                let retained = records
                    .retained
                    .map(|retained| json!({ "oldest": retained.start(), "newest": retained.end() }));
                json!({ "lines": records.lines, "retained": retained })
            }),
            ("tokens.list-tokens", []) => {
                result(authority.list_tokens(), |tokens| tokens.iter().map(info).collect())
            }
            ("recovery.regenerate", [origin, reason]) => {
                let origin = text(origin);
                let new =
                    if is_restore(reason) { authority.restore(origin) } else { authority.recover(origin) };
                result(new, issued)
            }
            ("provision.initialize", [origin]) => result(authority.initialize(text(origin)), Value::from),
            ("provision.hash-token", [token]) => result(authority.hash_token(&secret(token)), Value::from),
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
            ("provision.replace-operator", [current, sha512, overlap, origin]) => {
                let overlap = seconds(overlap).unwrap_or(0);
                let (current, sha512) = (text(current), text(sha512));
                result(authority.replace_operator(current, sha512, overlap, text(origin)), replaced)
            }
            (call, args) => panic!("there is no {call} of {} arguments", args.len()),
        }
    }
}

/// Maps an answer of the contract to the types of the host, which distinguish fewer errors.
pub(crate) fn normalize(answer: &Value) -> Value {
    let error = &answer["err"];
    if error == "contended" {
        return json!({ "err": { "unavailable": "too many others are changing the catalog at this moment" } });
    }
    let internal = ["unreadable-catalog", "no-entropy", "other"].iter().find_map(|name| error.get(name));
    internal.map_or_else(|| answer.clone(), |why| json!({ "err": { "internal": why } }))
}

fn principal(Principal { id, kind, .. }: &Principal) -> Value {
    let kind = match kind {
        TokenKind::Operator => "operator",
        TokenKind::PreviousOperator => "previous-operator",
        TokenKind::NamedAdmin => "named-admin",
        TokenKind::Scoped => "scoped",
    };
    json!({ "id": id, "kind": kind })
}

/// Reads the argument `access` of the contract.
pub(crate) fn access(argument: &Value) -> Access<'_> {
    let [method, host, path, query, target] = fields(argument, ["method", "host", "path", "query", "target"]);
    let target = match target.as_object() {
        None => match text(target) {
            "http" => Target::Http,
            "administration" => Target::Administration,
            unknown => panic!("there is no target {unknown}"),
        },
        Some(target) if target.len() == 1 && target.contains_key("system") => {
            Target::System(text(&target["system"]))
        }
        Some(target) if target.len() == 1 => {
            let [name, action] = fields(&target["database"], ["name", "action"]);
            let action = match text(action) {
                "read" => DatabaseAction::Read,
                "write" => DatabaseAction::Write,
                "create" => DatabaseAction::Create,
                unknown => panic!("there is no action {unknown}"),
            };
            Target::Database { name: text(name), action }
        }
        Some(target) => panic!("{target:?} is no target"),
    };
    let (method, host, path) = (text(method), text(host), text(path));
    Access { method, host, path, query: query.as_str(), target }
}

fn authenticate_error(error: AuthenticateError) -> Value {
    match error {
        AuthenticateError::Unknown => json!("unknown-token"),
        AuthenticateError::Expired(at) => json!({ "expired": at }),
        AuthenticateError::Unavailable(_) => json!("unavailable"),
        unknown => panic!("{unknown:?} is none of the contract's"),
    }
}

fn result<T>(result: Result<T, CommandError>, value: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(ok) => json!({ "ok": value(ok) }),
        Err(error) => json!({ "err": command_error(error) }),
    }
}

fn caller(argument: &Value) -> (Secret, &str) {
    let (credential, origin) = caller_fields(argument);
    (Secret::from(credential.to_owned()), origin)
}

fn issued(IssuedToken { info: token, secret, .. }: IssuedToken) -> Value {
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

fn expiring(ExpiringSecret { sha512, expires_at, .. }: &ExpiringSecret) -> Value {
    json!({ "sha512": sha512, "expires-at": expires_at })
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
        "source": match token.source {
            TokenSource::Command => "command",
            TokenSource::Imported => "imported",
            TokenSource::PreviousSecret => "previous-secret",
        },
        "permissions": token.permissions,
        "description": token.description,
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
        unknown => panic!("{unknown:?} is not in the contract"),
    }
}

//! The lifecycle of an operator token. Every step asserts its result, so the example is also a
//! test.
//!
//! `optoken::sandbox::linker` lists the duties of a host with its own engine. This example omits
//! two:
//!
//! - It bounds the memory of an instance, but not the time of a call. `Config::epoch_interruption`
//!   and `Store::set_epoch_deadline` bound the time.
//! - It checks tokens with the instance that executes commands, which waits for the store. A server
//!   has other instances for that, which only read (`CatalogStoreCtx::from_snapshot`).

use std::sync::Arc;

use optoken::sandbox::bindings::AuthorityPre;
use optoken::sandbox::bindings::exports::optoken::authority::authenticator::{
    Access, AuthorizationError, DatabaseAccess, DatabaseAction, Principal, Target, TokenKind,
};
use optoken::sandbox::bindings::exports::optoken::authority::types::{Caller, CommandError};
use optoken::sandbox::linker::{CatalogStoreCtx, add_to_linker, add_wasi_to_linker, store_limits};
use optoken::sandbox::wasmtime::component::{Component, Linker};
use optoken::sandbox::wasmtime::error::Context as _;
use optoken::sandbox::wasmtime::{Engine, Result, Store, StoreLimits, ensure};
use optoken::sandbox::{BUILT_IN_COMPONENT, MAX_HOSTCALL_DATA};
use optoken::store::{MemoryStore, Store as _};

const ORIGIN: &str = "example";

/// The data of this host for an instance.
struct Tenant {
    catalog: CatalogStoreCtx,
    limits: StoreLimits,
}

impl Tenant {
    fn new(store: &Arc<MemoryStore>) -> Self {
        let store = Arc::<MemoryStore>::clone(store);
        Self { catalog: CatalogStoreCtx::from_store(store), limits: store_limits() }
    }
}

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
pub(crate) fn run() -> Result<()> {
    let engine = Engine::default();
    let component = Component::new(&engine, BUILT_IN_COMPONENT)?;
    let mut linker = Linker::<Tenant>::new(&engine);
    add_to_linker(&mut linker, |tenant| &mut tenant.catalog)?;
    add_wasi_to_linker(&mut linker)?;
    let authority = AuthorityPre::new(linker.instantiate_pre(&component)?)?;

    let catalog = Arc::new(MemoryStore::default());
    let open = || -> Result<_> {
        let mut store = Store::new(&engine, Tenant::new(&catalog));
        store.limiter(|tenant| &mut tenant.limits);
        store.set_hostcall_fuel(MAX_HOSTCALL_DATA);
        let instance = authority.instantiate(&mut store)?;
        Ok((store, instance))
    };

    // Create the operator token. The component returns the secret once, and stores its hash.
    let (mut store, instance) = open()?;
    let tokens = instance.optoken_authority_tokens();
    let first = tokens.call_create_operator(&mut store, ORIGIN)??;
    let document = catalog.load()?.context("nothing is stored")?.document;
    ensure!(!document.contains(&first.secret), "the secret is in the catalog");
    println!("created token {}, {}", first.info.id, first.info.name);

    // Check the token of a request.
    let authenticator = instance.optoken_authority_authenticator();
    let is_operator = |principal: Principal| principal.kind == TokenKind::Operator;
    let accepted = authenticator.call_authenticate(&mut store, &first.secret)?;
    ensure!(accepted.is_ok_and(is_operator), "the secret is rejected");
    println!("the secret is accepted");

    // Replace the token. Without an overlap the old secret is invalid before the component returns
    // the new one.
    let caller = Caller { credential: &first.secret, origin: ORIGIN };
    let second = tokens.call_regenerate(&mut store, caller, None)??;
    let accepted = authenticator.call_authenticate(&mut store, &second.secret)?;
    ensure!(accepted.is_ok_and(is_operator), "the new one is rejected");
    ensure!(authenticator.call_authenticate(&mut store, &first.secret)?.is_err(), "the old one is accepted");
    println!("regenerated: the new secret is accepted, the old one rejected");

    // Errors of the contract.
    let again = tokens.call_create_operator(&mut store, ORIGIN)?;
    ensure!(
        matches!(again, Err(CommandError::AlreadyExists(name)) if name == "_admin"),
        "a second token was created"
    );

    // A token with permissions is no admin token: each request needs one that covers it.
    let caller = Caller { credential: &second.secret, origin: ORIGIN };
    let permissions = ["db:sensors:read", "http:/orders/*:GET"];
    let scoped = tokens.call_create_named(&mut store, caller, "ci", Some(&permissions), None)??;
    let principal = authenticator.call_authenticate(&mut store, &scoped.secret)??;
    ensure!(principal.kind == TokenKind::Scoped, "the token is an admin token");
    let database = |action| Target::Database(DatabaseAccess { name: "sensors", action });
    for (method, path, target, is_allowed) in [
        ("GET", "/orders/7", Target::Http, true),
        ("POST", "/orders/7", Target::Http, false),
        ("GET", "/orders/../users", Target::Http, false),
        ("POST", "/api/v3/query_sql", database(DatabaseAction::Read), true),
        ("POST", "/api/v3/write_lp", database(DatabaseAction::Write), false),
        ("GET", "/", Target::Administration, false),
    ] {
        let access = Access { method, host: "", path, query: None, target };
        let decision = authenticator.call_authorize(&mut store, &scoped.secret, access.clone())?;
        match decision {
            Ok(principal) => ensure!(is_allowed && principal.kind == TokenKind::Scoped, "{method} {path}"),
            Err(error) => {
                ensure!(!is_allowed && matches!(error, AuthorizationError::Forbidden), "{method} {path}");
            }
        }
        let admin = authenticator.call_authorize(&mut store, &second.secret, access)?;
        ensure!(admin.is_ok_and(is_operator), "{method} {path}");
    }
    let caller = Caller { credential: &scoped.secret, origin: ORIGIN };
    let refused = tokens.call_create_named(&mut store, caller, "other", None, None)?;
    ensure!(matches!(refused, Err(CommandError::Forbidden)), "the token created another one");
    println!("a token with permissions may do what they cover, and nothing else");

    // The store holds all state, so another instance continues from there.
    let (mut store, instance) = open()?;
    let authenticator = instance.optoken_authority_authenticator();
    let accepted = authenticator.call_authenticate(&mut store, &second.secret)?;
    ensure!(accepted.is_ok_and(is_operator), "the new one is lost");
    println!("another instance accepts the secret, too");
    Ok(())
}

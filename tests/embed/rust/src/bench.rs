//! How fast the component is here, as one line of JSON.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use optoken::authority::Authority;
use optoken::sandbox::BUILT_IN_COMPONENT;
use optoken::sandbox::bindings::AuthorityPre;
use optoken::sandbox::linker::{CatalogStoreCtx, add_to_linker, add_wasi_to_linker};
use optoken::sandbox::wasmtime::component::{Component, Linker};
use optoken::sandbox::wasmtime::{Engine, Result, Store};
use optoken::store::MemoryStore;
use serde_json::json;

const DURATION: Duration = Duration::from_secs(2);

pub(crate) fn run() -> Result<()> {
    let engine = Engine::default();
    let started = Instant::now();
    let component = Component::new(&engine, BUILT_IN_COMPONENT)?;
    let loaded = started.elapsed();
    let mut linker = Linker::<CatalogStoreCtx>::new(&engine);
    add_to_linker(&mut linker, |catalog| catalog)?;
    add_wasi_to_linker(&mut linker)?;
    let component = AuthorityPre::new(linker.instantiate_pre(&component)?)?;
    let catalog = Arc::new(MemoryStore::default());
    let instantiate = measure(|| {
        let mut store = Store::new(&engine, CatalogStoreCtx::of_store(Arc::<MemoryStore>::clone(&catalog)));
        component.instantiate(&mut store)?;
        Ok(())
    })?;

    let authority = Authority::builder(MemoryStore::default()).build()?;
    let secret = authority.create_operator("bench")?.secret;
    let authenticate = measure(|| Ok(authority.authenticate(secret.expose()).map(drop)?))?;
    let result = json!({
        "host": "rust",
        "authenticate_per_second": (1.0 / authenticate).round(),
        "instantiate_microseconds": (instantiate * 1e6).round(),
        "load_milliseconds": loaded.as_millis(),
    });
    Ok(writeln!(io::stdout(), "{result}")?)
}

/// How many seconds one call takes, on average over some time.
fn measure(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    let mut calls = 0_u32;
    while started.elapsed() < DURATION {
        for _ in 0..100 {
            call()?;
        }
        calls += 100;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(calls))
}

//! Measures the component in the sandbox of `optoken`, as the server runs it. Prints one line of
//! JSON.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use optoken::authority::Authority;
use optoken::sandbox::wasmtime::Result;
use optoken::store::MemoryStore;
use serde_json::json;

const DURATION: Duration = Duration::from_secs(2);

pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let authority = Authority::builder(MemoryStore::default()).build()?;
    let loaded = started.elapsed();
    let instantiate = measure(|| Ok(authority.instantiate()?))?;
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

/// Returns the mean duration of a call in seconds.
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

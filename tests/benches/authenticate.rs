//! Cost of the sandbox: `authenticate` of the component in wasmtime, compared with the same code
//! native.
//!
//! `cargo bench --bench authenticate` prints criterion's figures and, last, the ratio that
//! docs/benchmarks.md quotes. The ratio is the median of many rounds. Both sides alternate in each
//! round, so other load of the machine affects both.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::Instant;

use criterion::Criterion;
use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::{MemoryStore, Store as _};
use optoken_core::ports::{
    CatalogStore, Clock, Entropy, EntropyError, Entry, StoreError, SwapOutcome, Timestamp,
};

/// Number of rounds, and of calls in each.
const ROUNDS: usize = 200;
const CALLS: u32 = 2_000;

/// Ports of the native side: a catalog to read.
struct Reading(Entry);

impl CatalogStore for Reading {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        Ok(Some(self.0.clone()))
    }

    fn swap(&mut self, _: Option<&str>, _: &str) -> Result<SwapOutcome, StoreError> {
        Ok(SwapOutcome::Stale)
    }
}

impl Entropy for Reading {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError("none here".into()))
    }
}

impl Clock for Reading {
    fn now(&mut self) -> Timestamp {
        0
    }
}

fn main() {
    let store = std::sync::Arc::new(MemoryStore::default());
    let sandboxed = Authority::builder_shared(store.clone()).build().unwrap();
    let token: Secret = sandboxed.create_operator("bench").unwrap().secret;
    let token = token.expose();
    let entry = store.load().unwrap().unwrap();
    let entry = Entry { version: entry.version.as_str().to_owned(), document: entry.document };
    let mut native = optoken_core::authority::Authority::new(Reading(entry));

    let mut sandboxed = || assert!(sandboxed.authenticate(black_box(token)).is_ok());
    let mut native = || assert!(native.authenticate(black_box(token)).is_ok());

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("authenticate");
    group.bench_function("native", |bencher| bencher.iter(&mut native));
    group.bench_function("sandboxed", |bencher| bencher.iter(&mut sandboxed));
    group.finish();
    criterion.final_summary();

    let mut ratios: Vec<f64> = (0..ROUNDS).map(|_| time(&mut sandboxed) / time(&mut native)).collect();
    ratios.sort_by(f64::total_cmp);
    println!("authenticate: sandboxed takes {:.2} times native", ratios[ROUNDS / 2]);
}

/// Seconds of one round.
fn time(call: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed().as_secs_f64()
}

//! Cost of the sandbox: `authenticate` of the component in wasmtime, compared with the same code
//! native. Cost of permissions: `authorize` of a token with 32 permissions, compared with
//! `authenticate`.
//!
//! `cargo bench --bench authenticate` prints criterion's figures and, last, what the sandbox adds,
//! as `tests/bench/run` does, and the ratios of permissions. A ratio is the median of many rounds.
//! Both sides alternate in each round, so other load of the machine affects both.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::Instant;

use criterion::Criterion;
use optoken::access::{Access, DatabaseAction, Target};
use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::MemoryStore;

#[path = "baseline/src/check.rs"]
mod check;
#[path = "baseline/src/statistics.rs"]
mod statistics;

/// Number of rounds, and of calls in each.
const ROUNDS: usize = 200;
const CALLS: u32 = 2_000;

fn main() {
    let store = std::sync::Arc::new(MemoryStore::default());
    let sandboxed = Authority::builder_shared(store.clone()).build().unwrap();
    let token: Secret = sandboxed.create_operator("bench").unwrap().secret;
    let create = |name: &str, permissions: &dyn Fn(usize) -> String| {
        let permissions: Vec<_> = (0..32).map(permissions).collect();
        sandboxed.create_named(&token, name, Some(&permissions), None, "bench").unwrap().secret
    };
    let databases = create("databases", &|number| format!("db:sensors-{number:02}:read"));
    let patterns = create("patterns", &|number| format!("http:a.example/reports/{number:02}/*:read"));
    let token = token.expose();
    let mut native = check::native(store.as_ref());

    // The last of the permissions covers the request, and in the other case none does.
    let database = |name| Access {
        method: "POST",
        host: "a.example",
        path: "/api/v3/query_sql",
        query: None,
        target: Target::Database { name, action: DatabaseAction::Read },
    };
    let path = |path| Access { method: "GET", path, target: Target::Http, ..database("") };
    let accesses = [
        (&databases, database("sensors-31"), true),
        (&databases, database("sensors-32"), false),
        (&patterns, path("/reports/31/today"), true),
        (&patterns, path("/reports/32/today"), false),
    ];
    let mut permission_ratios = accesses.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((token, access, allowed), ratios) in accesses.iter().zip(&mut permission_ratios) {
            let token = token.expose();
            let mut authorize = || {
                let authorized = sandboxed.authorize(black_box(token), black_box(access));
                assert_eq!(authorized.is_ok(), *allowed);
            };
            let mut authenticate = || assert!(sandboxed.authenticate(black_box(token)).is_ok());
            ratios.push(time(&mut authorize) / time(&mut authenticate));
        }
    }

    let mut sandboxed = || assert!(sandboxed.authenticate(black_box(token)).is_ok());
    let mut native = || assert!(native.authenticate(black_box(token)).is_ok());

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("authenticate");
    group.bench_function("native", |bencher| bencher.iter(&mut native));
    group.bench_function("sandboxed", |bencher| bencher.iter(&mut sandboxed));
    group.finish();
    criterion.final_summary();

    let measured = check::measure(ROUNDS * 10);
    println!("authenticate: the sandbox adds {:.0} ns", measured.added());
    println!(
        "authenticate: sandboxed takes {:.2} times an empty component call and a native digest",
        measured.relative()
    );
    for ((_, access, allowed), mut ratios) in accesses.iter().zip(permission_ratios) {
        let (target, ratio) = (access.target, statistics::quantile(&mut ratios, 0.5));
        println!("authorize, 32 permissions, {target:?}, {allowed}: {ratio:.2} times authenticate");
    }
}

/// Seconds of one round.
fn time(call: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed().as_secs_f64()
}

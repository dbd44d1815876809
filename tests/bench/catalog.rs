//! Cost of commands, and of the number of tokens: `authenticate`, the creation and deletion of a
//! token and the regeneration of the operator token, with 1, 1,000, 5,000 and 9,990 tokens.
//!
//! `cargo bench --bench catalog` prints all of them. All sizes alternate in each round, so other
//! load of the machine affects each. Commands use SQLite on disk, synced as in production. With
//! 5,000 tokens they also use an audit log, and tokens with two permissions each. Processor time is
//! that of the whole process, its checkpoints included.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::{SqliteStore, Store as _};
use rustix::time::{ClockId, clock_gettime};

use document::{document, secret};
use statistics::quantile;

#[path = "baseline/src/document.rs"]
mod document;
#[path = "baseline/src/statistics.rs"]
mod statistics;

/// Numbers of tokens.
const SIZES: [usize; 4] = [1, 1_000, 5_000, 9_990];

/// The number of tokens of the variants.
const VARIANT_SIZE: usize = 5_000;

/// Number of rounds, and of calls in each.
const ROUNDS: usize = 200;
const CALLS: usize = 2_000;

/// Number of tokens to create and delete, and of regenerations.
const COMMANDS: usize = 50;

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let authorities = SIZES.map(|tokens| {
        let store = SqliteStore::open(directory.path().join(format!("{tokens}.db"))).unwrap();
        store.swap(None, &document(tokens, "")).unwrap();
        Authority::builder(store).build().unwrap()
    });

    // A single token, or a thousand different ones.
    let presented: Vec<Vec<String>> =
        SIZES.iter().map(|tokens| (0..CALLS).map(|call| secret(call * 7919 % tokens)).collect()).collect();
    let mut rounds: Vec<[f64; SIZES.len()]> = Vec::new();
    for _ in 0..ROUNDS {
        let turn = |size: usize| {
            let start = Instant::now();
            for token in &presented[size] {
                assert!(authorities[size].authenticate(black_box(token)).is_ok());
            }
            start.elapsed().as_secs_f64()
        };
        rounds.push([turn(0), turn(1), turn(2), turn(3)]);
    }
    for (size, tokens) in SIZES.iter().enumerate() {
        let mut ratios: Vec<f64> = rounds.iter().map(|turns| turns[size] / turns[0]).collect();
        let ratio = quantile(&mut ratios, 0.5);
        println!("authenticate: with {tokens} tokens it takes {ratio:.2} times what it takes with one");
    }

    for (authority, tokens) in authorities.iter().zip(SIZES) {
        commands(authority, &format!("with {tokens} tokens"));
    }
    let logged = SqliteStore::open(directory.path().join("logged.db")).unwrap();
    logged.swap(None, &document(VARIANT_SIZE, "")).unwrap();
    let authority =
        Authority::builder(logged).audit_log(directory.path().join("audit.jsonl")).build().unwrap();
    commands(&authority, &format!("with {VARIANT_SIZE} tokens and an audit log"));
    let scoped = SqliteStore::open(directory.path().join("scoped.db")).unwrap();
    let scope = r#","permissions":["db:sensors:read,write","http:/reports/*:read"]"#;
    scoped.swap(None, &document(VARIANT_SIZE, scope)).unwrap();
    let authority = Authority::builder(scoped).build().unwrap();
    commands(&authority, &format!("with {VARIANT_SIZE} tokens with permissions"));
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap()
}

fn commands(authority: &Authority, label: &str) {
    let mut operator = Secret::from(secret(0));
    let (mut created, mut deleted, mut regenerated) = (Vec::new(), Vec::new(), Vec::new());
    let before = processor_time();
    for number in 0..COMMANDS {
        let name = format!("one more {number}");
        let start = Instant::now();
        authority.create_named(&operator, &name, None, None, "bench").unwrap();
        created.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        authority.delete(&operator, &name, "bench").unwrap();
        deleted.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        operator = authority.regenerate(&operator, 0, "bench").unwrap().secret;
        regenerated.push(start.elapsed().as_secs_f64());
    }
    let processor = processor_time().saturating_sub(before) / u32::try_from(3 * COMMANDS).unwrap();
    let [created, deleted, regenerated] =
        [created, deleted, regenerated].map(|mut times| Duration::from_secs_f64(quantile(&mut times, 0.5)));
    println!(
        "{label}: create {created:.1?}, delete {deleted:.1?}, regenerate {regenerated:.1?}; processor time of a command {processor:.1?}"
    );
}

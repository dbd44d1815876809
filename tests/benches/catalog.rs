//! What the number of tokens costs: authenticating with 1, 1,000 and 5,000 of them, and creating and deleting one.
//!
//! `cargo bench --bench catalog` prints both. Authentication is compared in rounds in which all sizes take turns, so that
//! whatever else the machine does hits each; creating and deleting go to SQLite on disk, synced as in production, and with the
//! largest catalog into an audit log as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::{SqliteStore, Store as _};
use sha2::{Digest as _, Sha512};

/// How many tokens there are.
const SIZES: [usize; 3] = [1, 1_000, 5_000];

/// How often the sizes take turns, and how many calls each makes at its turn.
const ROUNDS: usize = 200;
const CALLS: usize = 2_000;

/// How many tokens are created and deleted.
const COMMANDS: usize = 50;

fn secret(number: usize) -> String {
    format!("apiv3_{number:086}")
}

/// A catalog as the component writes it, with the operator and as many named tokens as are missing.
fn document(tokens: usize) -> String {
    let mut document = format!("{{\"format\":1}}\n{{\"next_id\":{tokens},\"tokens\":{tokens}}}\n");
    for id in 0..tokens {
        let name = if id == 0 { "_admin".to_owned() } else { format!("deployment number {id}") };
        let hash = Sha512::digest(secret(id)).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(document, r#"{{"id":{id},"name":"{name}","hash":"{hash}","created_at":1700000000000}}"#)
            .unwrap();
    }
    document
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let authorities = SIZES.map(|tokens| {
        let store = SqliteStore::open(directory.path().join(format!("{tokens}.db"))).unwrap();
        store.swap(None, &document(tokens)).unwrap();
        Authority::builder(store).build().unwrap()
    });

    // One token for one, a thousand different ones for the others: as it would be.
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
        rounds.push([turn(0), turn(1), turn(2)]);
    }
    for (size, tokens) in SIZES.iter().enumerate() {
        let ratio = median(rounds.iter().map(|turns| turns[size] / turns[0]).collect());
        println!("authenticate: with {tokens} tokens it takes {ratio:.2} times what it takes with one");
    }

    for (authority, tokens) in authorities.iter().zip(SIZES) {
        create_and_delete(authority, &format!("with {tokens} tokens"));
    }
    let largest = SIZES[SIZES.len() - 1];
    let logged = SqliteStore::open(directory.path().join("logged.db")).unwrap();
    logged.swap(None, &document(largest)).unwrap();
    let authority =
        Authority::builder(logged).audit_log(directory.path().join("audit.jsonl")).build().unwrap();
    create_and_delete(&authority, &format!("with {largest} tokens and an audit log"));
}

fn create_and_delete(authority: &Authority, label: &str) {
    let operator = Secret::from(secret(0));
    let mut created = Vec::new();
    let mut deleted = Vec::new();
    for number in 0..COMMANDS {
        let name = format!("one more {number}");
        let start = Instant::now();
        authority.create_named(&operator, &name, None, "bench").unwrap();
        created.push(start.elapsed());
        let start = Instant::now();
        authority.delete(&operator, &name, "bench").unwrap();
        deleted.push(start.elapsed());
    }
    println!(
        "{label}: create {:.1?} (slowest {:.1?}), delete {:.1?} (slowest {:.1?})",
        median_time(&mut created),
        created[COMMANDS - 1],
        median_time(&mut deleted),
        deleted[COMMANDS - 1],
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median; sorts, so that the last is the slowest.
fn median_time(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

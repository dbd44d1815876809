//! Cost of the number of tokens: `authenticate` with 1, 1,000 and 5,000 tokens, and the creation
//! and deletion of one.
//!
//! `cargo bench --bench catalog` prints both. All sizes alternate in each round, so other load of
//! the machine affects each. Creation and deletion use SQLite on disk, synced as in production.
//! With the largest catalog they also use an audit log, and tokens with two permissions each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::{SqliteStore, Store as _};
use sha2::{Digest as _, Sha512};

/// Numbers of tokens.
const SIZES: [usize; 3] = [1, 1_000, 5_000];

/// Number of rounds, and of calls in each.
const ROUNDS: usize = 200;
const CALLS: usize = 2_000;

/// Number of tokens to create and delete.
const COMMANDS: usize = 50;

fn secret(number: usize) -> String {
    format!("apiv3_{number:086}")
}

/// A catalog of the operator token and named tokens, in the format of the component. `scope` is
/// what the record of a named token has at its end.
fn document(tokens: usize, scope: &str) -> String {
    let mut document = format!("{{\"format\":3}}\n{{\"next_id\":{tokens},\"tokens\":{tokens}}}\n");
    for id in 0..tokens {
        let name = if id == 0 { "_admin".to_owned() } else { format!("deployment number {id}") };
        let hash = Sha512::digest(secret(id)).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        let scope = if id == 0 { "" } else { scope };
        writeln!(
            document,
            r#"{{"id":{id},"name":"{name}","hash":"{hash}","created_at":1700000000000{scope}}}"#
        )
        .unwrap();
    }
    document
}

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
    logged.swap(None, &document(largest, "")).unwrap();
    let authority =
        Authority::builder(logged).audit_log(directory.path().join("audit.jsonl")).build().unwrap();
    create_and_delete(&authority, &format!("with {largest} tokens and an audit log"));
    let scoped = SqliteStore::open(directory.path().join("scoped.db")).unwrap();
    let scope = r#","permissions":["db:sensors:read,write","http:/reports/*:read"]"#;
    scoped.swap(None, &document(largest, scope)).unwrap();
    let authority = Authority::builder(scoped).build().unwrap();
    create_and_delete(&authority, &format!("with {largest} tokens with permissions"));
}

fn create_and_delete(authority: &Authority, label: &str) {
    let operator = Secret::from(secret(0));
    let mut created = Vec::new();
    let mut deleted = Vec::new();
    for number in 0..COMMANDS {
        let name = format!("one more {number}");
        let start = Instant::now();
        authority.create_named(&operator, &name, None, None, "bench").unwrap();
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

/// Returns the median. Sorts the times.
fn median_time(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

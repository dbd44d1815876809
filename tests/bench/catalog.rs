//! Cost of commands, and of the number of tokens: `authenticate`, the creation and deletion of a
//! token and the regeneration of the operator token, with 1, 1,000, 5,000 and 9,990 tokens.
//!
//! `cargo bench --bench catalog` prints all of them. All sizes alternate in each round, so other
//! load of the machine affects each. Commands use SQLite on disk, synced as in production. With
//! 5,000 tokens they also use an audit log, and tokens with two permissions each. Processor time is
//! that of the whole process, its checkpoints included.
//!
//! Chained regenerations with one token take turns with bare commits: transactions of SQLite that
//! write a text of the same size, with the same durability.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::{SqliteStore, Store as _};
use rusqlite::Connection;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha512};

/// Numbers of tokens.
const SIZES: [usize; 4] = [1, 1_000, 5_000, 9_990];

/// The number of tokens of the variants.
const VARIANT_SIZE: usize = 5_000;

/// Number of rounds, and of calls in each.
const ROUNDS: usize = 200;
const CALLS: usize = 2_000;

/// Number of tokens to create and delete, and of regenerations.
const COMMANDS: usize = 50;

/// Number of rounds of regenerations and bare commits, and of each in a round.
const COMMIT_ROUNDS: usize = 40;
const COMMITS: usize = 25;

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
        rounds.push([turn(0), turn(1), turn(2), turn(3)]);
    }
    for (size, tokens) in SIZES.iter().enumerate() {
        let ratio = median(rounds.iter().map(|turns| turns[size] / turns[0]).collect());
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
    drop(authorities);
    regenerate_beside_bare_commits(directory.path());
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
        created.push(start.elapsed());
        let start = Instant::now();
        authority.delete(&operator, &name, "bench").unwrap();
        deleted.push(start.elapsed());
        let start = Instant::now();
        operator = authority.regenerate(&operator, 0, "bench").unwrap().secret;
        regenerated.push(start.elapsed());
    }
    let processor = processor_time().saturating_sub(before) / u32::try_from(3 * COMMANDS).unwrap();
    println!(
        "{label}: create {:.1?}, delete {:.1?}, regenerate {:.1?}; processor time of a command {processor:.1?}",
        median_time(&mut created),
        median_time(&mut deleted),
        median_time(&mut regenerated),
    );
}

fn regenerate_beside_bare_commits(directory: &Path) {
    let store = SqliteStore::open(directory.join("regenerate.db")).unwrap();
    store.swap(None, &document(1, "")).unwrap();
    let authority = Authority::builder(store).build().unwrap();
    let mut operator = Secret::from(secret(0));
    // From here on, the document has its most audit records.
    for _ in 0..100 {
        operator = authority.regenerate(&operator, 0, "bench").unwrap().secret;
    }
    let path = directory.join("bare.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
             CREATE TABLE bare (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;
             INSERT INTO bare VALUES (1, '');",
        )
        .unwrap();
    let bytes = fs::metadata(directory.join("regenerate.db")).unwrap().len();
    let mut number = 0_u64;
    let mut bare_commit = || {
        // SQLite writes no page that stays as it is.
        number += 1;
        let text = format!("{number:020}").repeat(15_000 / 20);
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection.execute("UPDATE bare SET text = ?1 WHERE id = 1", [&text]).unwrap();
        connection.execute_batch("COMMIT").unwrap();
    };
    let (mut regenerated, mut committed) = (Vec::new(), Vec::new());
    let (mut processor, mut bare_processor) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..COMMIT_ROUNDS {
        let before = processor_time();
        for _ in 0..COMMITS {
            let start = Instant::now();
            operator = authority.regenerate(&operator, 0, "bench").unwrap().secret;
            regenerated.push(start.elapsed());
        }
        let between = processor_time();
        processor += between.saturating_sub(before);
        for _ in 0..COMMITS {
            let start = Instant::now();
            bare_commit();
            committed.push(start.elapsed());
        }
        bare_processor += processor_time().saturating_sub(between);
    }
    let (regenerated, committed) = (median_time(&mut regenerated), median_time(&mut committed));
    let each = u32::try_from(COMMIT_ROUNDS * COMMITS).unwrap();
    println!(
        "regenerate ({bytes} bytes on disk) {regenerated:.1?}, bare commit {committed:.1?}: {:.2} of its rate; processor time {:.1?} and {:.1?}",
        committed.as_secs_f64() / regenerated.as_secs_f64(),
        processor / each,
        bare_processor / each,
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

//! Durable replacements of a token, in this process and over HTTP, and bare commits of SQLite.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use optoken::authority::Authority;
use optoken::store::SqliteStore;
use rusqlite::{Connection, TransactionBehavior};

use crate::client::Client;
use crate::statistics::quantile;
use crate::units::microseconds;

/// A change that can be made again and again.
type Change<'a> = Box<dyn FnMut(usize) + 'a>;

/// Calls in each round.
const CALLS: usize = 20;

/// A bare commit writes this many bytes: the record of a token.
const BYTES: usize = 200;

/// Prints what one of each takes, in microseconds. The three alternate in each round. Beside the
/// server, whose store is in the same file system, the process has a store of its own.
pub(crate) fn measure(rounds: usize, directory: &Path, address: &str, token: &str) {
    let bare = bare(&directory.join("bare.db"));
    // Until its first checkpoint the log grows, and each sync also writes the size of the file. A
    // checkpoint follows a thousand pages; from then on SQLite overwrites the log.
    (0..1_200).for_each(|number| commit(&bare, number));
    let store = SqliteStore::open(directory.join("process.db")).unwrap();
    let authority = Authority::builder(store).build().unwrap();
    let mut secret = authority.create_operator("bench").unwrap().secret;
    let mut client = Client::connect(address);
    let mut presented = token.to_owned();

    let mut candidates: [(&str, Change<'_>); 3] = [
        ("bare", Box::new(|number| commit(&bare, number))),
        (
            "process",
            Box::new(|_| secret = authority.regenerate(black_box(&secret), 0, "bench").unwrap().secret),
        ),
        (
            "http",
            Box::new(|_| {
                let path = "/api/v3/configure/token/admin/regenerate";
                let request = client.request("POST", path, &presented);
                let (status, body) = client.send(&request);
                assert_eq!(status, 201, "{body}");
                let (_, rest) = body.split_once(r#""token":"#).expect("a token");
                let text = rest.split('"').nth(1).expect("the text of the token");
                text.clone_into(&mut presented);
            }),
        ),
    ];
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut medians: [Vec<f64>; 3] = Default::default();
    // The first round of each counts for nothing.
    for round in 0..=rounds {
        for (((_, call), times), medians) in candidates.iter_mut().zip(&mut times).zip(&mut medians) {
            let mut of_round: Vec<f64> = (0..CALLS)
                .map(|number| {
                    let begun = Instant::now();
                    call(round * CALLS + number);
                    microseconds(begun.elapsed())
                })
                .collect();
            if round > 0 {
                medians.push(quantile(&mut of_round, 0.5));
                times.append(&mut of_round);
            }
        }
    }
    let names = candidates.map(|(name, _)| name);
    for (name, times) in names.iter().zip(&mut times) {
        for (part, share) in [("lowest", 0.0), ("quartile", 0.25), ("median", 0.5)] {
            println!("{name}_{part} {:.1}", quantile(times, share));
        }
    }
    for (name, of_name) in names.iter().zip(&medians).skip(1) {
        let mut ratios: Vec<f64> = medians[0].iter().zip(of_name).map(|(bare, own)| bare / own).collect();
        println!("{name}_ratio {:.4}", quantile(&mut ratios, 0.5));
    }
}

/// A database with the durability of the token store (`host/src/store/sqlite/database.rs`).
fn bare(file: &Path) -> Connection {
    let connection = Connection::open(file).unwrap();
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.execute_batch("CREATE TABLE row (id INTEGER PRIMARY KEY, text TEXT NOT NULL)").unwrap();
    connection.execute("INSERT INTO row VALUES (1, '')", []).unwrap();
    connection
}

/// Replaces the row in a transaction of its own.
fn commit(connection: &Connection, number: usize) {
    let text = format!("{number:0BYTES$}");
    let transaction =
        rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate).unwrap();
    transaction.prepare_cached("UPDATE row SET text = ?1 WHERE id = 1").unwrap().execute([text]).unwrap();
    transaction.commit().unwrap();
}

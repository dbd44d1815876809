//! What a catalog that is stored row by row costs, beside one that is stored as one document
//! (docs/design.md 8): commands, another node that follows, and the start.
//!
//! `cargo bench --bench rows` prints Markdown tables. Three ways alternate in each round, so other
//! load of the machine affects each: rows and the document natively, and the document as the
//! product has it, with the sandboxed component. The first two get the same commands, and must end
//! with the same catalog. If `strace` is there, it counts the syncs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "rows/mod.rs"]
mod rows;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use optoken::authority::Authority;
use optoken::secret::Secret;
use optoken::store::{SqliteStore, Store as _};
use optoken_core::catalog::{Catalog, MAX_TOKENS};
use optoken_core::ports::CatalogStore as _;
use optoken_core::token::TokenHash;
use optoken_core::transition::{Transition, apply};
use rows::commit::{Step, commit};
use rows::document::DocumentStore;
use rows::form::{document_of, rows_of};
use rows::measure::{Cost, cost, memory, quartiles};
use rows::mirror::Mirror;
use rows::store::{Change, RowStore, checkpoint};

/// Numbers of tokens. The largest leaves room for one more.
const SIZES: [usize; 3] = [1, 1_000, MAX_TOKENS - 1];

/// The number of rounds. Each has every command once, in every way and size.
const ROUNDS: usize = 40;

/// The number of starts of each way.
const STARTS: usize = 7;

/// The number of commands whose syncs are counted.
const TRACED: usize = 20;

const ORIGIN: &str = "http 192.0.2.1:54321";

/// The time of the first command, in milliseconds since the epoch.
const BEGIN: u64 = 1_700_000_000_000;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(),
        // The rest runs in processes of its own.
        ["start", kind, path] => start(kind, Path::new(path)),
        ["commands", kind, path, count] => run_commands(kind, Path::new(path), count.parse().unwrap()),
        _ => panic!("no arguments are expected"),
    }
}

fn secret(number: usize) -> String {
    format!("apiv3_{number:086}")
}

/// A catalog of the operator token and named tokens, with as many audit records as one retains.
fn document(tokens: usize) -> String {
    let id = "5e9c8a9e-5a0b-4c53-9d3c-0c8f5f1b7a11";
    let mut document =
        format!("{{\"format\":3}}\n{{\"next_id\":{tokens},\"tokens\":{tokens},\"id\":\"{id}\"}}\n");
    for number in 0..tokens {
        let name = if number == 0 { "_admin".to_owned() } else { format!("deployment number {number}") };
        let hash = TokenHash::of(&secret(number));
        writeln!(document, r#"{{"id":{number},"name":"{name}","hash":"{hash}","created_at":{BEGIN}}}"#)
            .unwrap();
    }
    let mut catalog = Catalog::decode(&document).unwrap();
    for number in 0..32 {
        let name = format!("short-lived {number}");
        let new = TokenHash::of(&format!("of a short life {number}"));
        for step in [Step::Create { name: &name, new }, Step::Delete { name: &name }] {
            let command = step.command(TokenHash::of(&secret(0)));
            let Transition::Changed { catalog: next, .. } = apply(catalog, &command, ORIGIN, BEGIN).unwrap()
            else {
                panic!("no change");
            };
            catalog = next;
        }
    }
    catalog.encode()
}

/// One size of the comparison, in all three ways.
struct Contestants {
    tokens: usize,
    document: DocumentStore,
    rows: RowStore,
    sandboxed: Authority,
    /// Another node on the document, and the one on the rows.
    document_node: DocumentStore,
    rows_node: (RowStore, Mirror),
    /// The hash of the operator token of the first two, and the operator token of the third.
    operator: TokenHash,
    sandboxed_operator: Secret,
}

impl Contestants {
    fn new(tokens: usize, directory: &Path) -> Self {
        let document = document(tokens);
        let [document_path, rows_path, sandboxed_path] =
            ["document", "rows", "sandboxed"].map(|kind| directory.join(format!("{kind}-{tokens}.db")));
        seed_document(&document_path, &document);
        seed_rows(&rows_path, &document);
        let sandboxed = SqliteStore::open(sandboxed_path).unwrap();
        sandboxed.swap(None, &document).unwrap();
        let mut node = RowStore::open(&rows_path);
        let mirror = Mirror::start(&mut node);
        Self {
            tokens,
            document: DocumentStore::open(&document_path),
            rows: RowStore::open(&rows_path),
            sandboxed: Authority::builder(sandboxed).build().unwrap(),
            document_node: DocumentStore::open(&document_path),
            rows_node: (node, mirror),
            operator: TokenHash::of(&secret(0)),
            sandboxed_operator: Secret::from(secret(0)),
        }
    }

    /// Runs every command once in every way.
    fn round(&mut self, round: usize, results: &mut Results) {
        let name = format!("one more {round}");
        let new = TokenHash::of(&format!("one more {round}"));
        let next_operator = TokenHash::of(&format!("operator {round}"));
        let now = BEGIN + 1 + round as u64;
        let steps = [
            ("create", Step::Create { name: &name, new }),
            ("regenerate", Step::Regenerate { new: next_operator }),
            ("delete", Step::Delete { name: &name }),
        ];
        for (command, step) in steps {
            let mut record =
                |way, cost| results.costs.entry((self.tokens, command, way)).or_default().push(cost);
            let credential = self.operator;
            let (changes, spent) = cost(|| commit(&mut self.rows, ORIGIN, (step, credential), now));
            record(Way::Rows, spent);
            results.changes.insert((self.tokens, command), changes);
            let ((), spent) = cost(|| self.document.commit(ORIGIN, &step.command(credential), now));
            record(Way::Document, spent);
            let operator = &self.sandboxed_operator;
            let (issued, spent) = cost(|| match step {
                Step::Create { name, .. } => {
                    self.sandboxed.create_named(operator, name, None, None, ORIGIN).map(|_| None).unwrap()
                }
                Step::Regenerate { .. } => Some(self.sandboxed.regenerate(operator, 0, ORIGIN).unwrap()),
                Step::Delete { name } => self.sandboxed.delete(operator, name, ORIGIN).map(|_| None).unwrap(),
            });
            record(Way::Sandboxed, spent);
            if let Some(issued) = issued {
                self.sandboxed_operator = issued.secret;
                self.operator = next_operator;
            }
            let (node, mirror) = &mut self.rows_node;
            let (_, spent) = cost(|| mirror.follow(node));
            record(Way::RowsNode, spent);
            let (_, spent) = cost(|| {
                let entry = self.document_node.load().unwrap().unwrap();
                (Catalog::decode(&entry.document).unwrap(), entry)
            });
            record(Way::DocumentNode, spent);
        }
        let mut record =
            |way, cost| results.costs.entry((self.tokens, "checkpoint", way)).or_default().push(cost);
        record(Way::Rows, cost(|| checkpoint(self.rows.connection())).1);
        record(Way::Document, cost(|| checkpoint(self.document.connection())).1);
    }

    /// The same commands must have led to the same catalog, in both stores and in the memory of the
    /// other node.
    fn check(&mut self) {
        let stored = self.document.load().unwrap().unwrap().document;
        assert!(document_of(&self.rows.load_all().1) == stored, "the catalogs differ");
        let catalog = Catalog::decode(&stored).unwrap();
        assert!(catalog.tokens().iter().eq(self.rows_node.1.tokens.values()), "the node differs");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Rows,
    Document,
    Sandboxed,
    RowsNode,
    DocumentNode,
}

/// Costs by tokens, command and way; and what the newest command of each kind changed.
#[derive(Default)]
struct Results {
    costs: BTreeMap<(usize, &'static str, Way), Vec<Cost>>,
    changes: BTreeMap<(usize, &'static str), Vec<Change>>,
}

impl Results {
    /// Processor time and time, each as lower quartile and median in microseconds, and KiB written.
    fn cell(&self, tokens: usize, command: &'static str, way: Way) -> String {
        let costs = &self.costs[&(tokens, command, way)];
        let [low, mid] = quartiles(costs.iter().map(|cost| cost.processor));
        let [wall_low, wall_mid] = quartiles(costs.iter().map(|cost| cost.wall));
        let written = costs.iter().map(|cost| cost.written).sum::<u64>() / costs.len() as u64;
        format!("{low}, {mid} | {wall_low}, {wall_mid} | {}", written.div_ceil(1024))
    }
}

fn compare() {
    let directory = tempfile::tempdir().unwrap();
    let mut contestants = SIZES.map(|tokens| Contestants::new(tokens, directory.path()));
    let mut results = Results::default();
    // The first round fills the caches.
    for contestant in &mut contestants {
        contestant.round(0, &mut Results::default());
    }
    for round in 1..=ROUNDS {
        for contestant in &mut contestants {
            contestant.round(round, &mut results);
        }
    }
    for contestant in &mut contestants {
        contestant.check();
    }
    drop(contestants);

    println!("Lower quartile and median in microseconds; KiB written.\n");
    println!("| tokens | command | way | processor | time | KiB |\n|---|---|---|---|---|---|");
    let ways = [
        (Way::Rows, "rows"),
        (Way::Document, "document"),
        (Way::Sandboxed, "document, sandboxed"),
        (Way::RowsNode, "another node: rows"),
        (Way::DocumentNode, "another node: document"),
    ];
    for tokens in SIZES {
        for command in ["create", "regenerate", "delete", "checkpoint"] {
            for (way, label) in ways {
                if results.costs.contains_key(&(tokens, command, way)) {
                    println!("| {tokens} | {command} | {label} | {} |", results.cell(tokens, command, way));
                }
            }
        }
    }
    println!("\nWhat a command changes, with one key for each row, name and secret as in etcd.\n");
    println!(
        "| tokens | command | rows put | rows deleted | bytes | operations of etcd |\n|---|---|---|---|---|---|"
    );
    for ((tokens, command), changes) in &results.changes {
        let put = changes.iter().filter(|change| matches!(change, Change::Put(_))).count();
        let bytes: usize = changes.iter().map(bytes_of).sum();
        let operations = operations(changes, command);
        println!("| {tokens} | {command} | {put} | {} | {bytes} | {operations} |", changes.len() - put);
    }
    starts(directory.path());
    syncs(directory.path());
}

fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Put(row) => {
            let found_by = row.name.iter().chain(&row.secret).map(|text| text.len() + row.key.len());
            row.key.len() + row.text.len() + found_by.sum::<usize>()
        }
        Change::Delete(key) => key.len(),
    }
}

/// The operations of one transaction of etcd, beside the comparison of the version: a key for each
/// row, one for each name and secret, and one for the version.
fn operations(changes: &[Change], command: &str) -> usize {
    let of = |change: &Change| match change {
        // The secret that was replaced has a key as well.
        Change::Put(row) if row.name.is_some() => 3 + usize::from(command == "regenerate"),
        Change::Put(row) => 1 + usize::from(row.secret.is_some()),
        Change::Delete(key) if key.starts_with("token/") => 3,
        Change::Delete(_) => 1,
    };
    1 + changes.iter().map(of).sum::<usize>()
}

fn seed_document(path: &Path, document: &str) {
    let mut store = DocumentStore::open(path);
    store.swap(None, document).unwrap();
    checkpoint(store.connection());
}

fn seed_rows(path: &Path, document: &str) {
    let mut store = RowStore::open(path);
    let changes: Vec<Change> = rows_of(document).into_iter().map(Change::Put).collect();
    store.swap(None, &changes).unwrap();
    checkpoint(store.connection());
}

fn seed(kind: &str, directory: &Path, name: &str, tokens: usize) -> PathBuf {
    let path = directory.join(name);
    let seed = if kind == "rows" { seed_rows } else { seed_document };
    seed(&path, &document(tokens));
    path
}

/// Starts nodes in processes of their own, and prints time, memory and the size of the files.
fn starts(directory: &Path) {
    println!("\nThe start of a node, in microseconds, and its memory in KiB.\n");
    println!(
        "| tokens | way | processor | time | memory | most memory | file |\n|---|---|---|---|---|---|---|"
    );
    for tokens in SIZES {
        let kinds = ["rows", "document"];
        let paths = kinds.map(|kind| seed(kind, directory, &format!("start-{kind}-{tokens}.db"), tokens));
        let mut outputs: [Vec<Vec<u64>>; 2] = Default::default();
        for _ in 0..STARTS {
            for (at, kind) in kinds.iter().enumerate() {
                let path = paths[at].to_str().unwrap();
                let output =
                    Program::new(env::current_exe().unwrap()).args(["start", kind, path]).output().unwrap();
                let output = String::from_utf8(output.stdout).unwrap();
                outputs[at].push(output.split_whitespace().map(|number| number.parse().unwrap()).collect());
            }
        }
        for (at, kind) in kinds.iter().enumerate() {
            let medians: Vec<u64> = (0..4)
                .map(|column| {
                    let mut values: Vec<u64> = outputs[at].iter().map(|output| output[column]).collect();
                    values.sort_unstable();
                    values[values.len() / 2]
                })
                .collect();
            let [processor, wall, kept, most] = medians[..] else { panic!("four numbers") };
            let file = fs::metadata(&paths[at]).unwrap().len() / 1024;
            println!("| {tokens} | {kind} | {processor} | {wall} | {kept} | {most} | {file} |");
        }
    }
}

/// Opens a store and reads all of it; prints microseconds and KiB.
fn start(kind: &str, path: &Path) {
    let (before, _) = memory();
    let (held, spent) = cost(|| {
        let check = |connection: &rusqlite::Connection| {
            let report: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).unwrap();
            assert_eq!(report, "ok");
        };
        if kind == "rows" {
            let mut store = RowStore::open(path);
            check(store.connection());
            let mirror = Mirror::start(&mut store);
            (Some((store, mirror)), None)
        } else {
            let mut store = DocumentStore::open(path);
            check(store.connection());
            // The host keeps the document for its read instances.
            let entry = store.load().unwrap().unwrap();
            let catalog = Catalog::decode(&entry.document).unwrap();
            (None, Some((store, entry, catalog)))
        }
    });
    let (kept, most) = memory();
    let [processor, wall] = [spent.processor, spent.wall].map(|time| time.as_micros());
    println!("{processor} {wall} {} {}", kept - before, most - before);
    drop(held);
}

/// Counts the syncs of commands with `strace`.
fn syncs(directory: &Path) {
    println!("\nSyncs of {TRACED} creations among 1,000 tokens:\n");
    for kind in ["rows", "document"] {
        let count = |commands: usize| {
            let path = seed(kind, directory, &format!("traced-{kind}-{commands}.db"), 1_000);
            let trace = directory.join(format!("trace-{kind}-{commands}"));
            let status = Program::new("strace")
                .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
                .arg(&trace)
                .arg(env::current_exe().unwrap())
                .args(["commands", kind, path.to_str().unwrap(), &commands.to_string()])
                .status();
            let traced = status.is_ok_and(|status| status.success());
            traced.then(|| fs::read_to_string(trace).unwrap().matches("sync(").count())
        };
        // Without those that open and close the database.
        match (count(2 * TRACED), count(TRACED)) {
            (Some(twice), Some(once)) => println!("- {kind}: {}", twice - once),
            _ => println!("- {kind}: not counted, because strace does not run"),
        }
    }
}

fn run_commands(kind: &str, path: &Path, count: usize) {
    let operator = TokenHash::of(&secret(0));
    let names: Vec<String> = (0..count).map(|number| format!("one more {number}")).collect();
    let steps = names.iter().map(|name| Step::Create { name, new: TokenHash::of(name) });
    if kind == "rows" {
        let mut store = RowStore::open(path);
        steps.for_each(|step| drop(commit(&mut store, ORIGIN, (step, operator), BEGIN)));
    } else {
        let mut store = DocumentStore::open(path);
        steps.for_each(|step| store.commit(ORIGIN, &step.command(operator), BEGIN));
    }
}

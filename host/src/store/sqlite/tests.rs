//! Tests of the store as a whole: on disk, with files that change under it.

mod copies;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;

use super::copies::read;
use super::database::{Checkpoint, UPDATE};
use super::failure::SCHEMA;
use super::{OpenError, SqliteStore};
use crate::store::{Entry, Store as _, StoreError, SwapOutcome, Version, conformance};

/// A limit for what needs milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_mins(1);

struct Fixture {
    directory: TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        Self { directory, path }
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path).unwrap()
    }

    /// A store with this document.
    fn with(&self, document: &str) -> SqliteStore {
        let store = self.open();
        swapped(&store, document);
        store
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn files(&self) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

fn swapped(store: &SqliteStore, document: &str) -> Version {
    match store.swap(store.version().unwrap().as_ref(), document).unwrap() {
        SwapOutcome::Swapped(version) => version,
        SwapOutcome::Stale => panic!("stale"),
    }
}

fn document(store: &SqliteStore) -> String {
    store.load().unwrap().unwrap().document
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that every call fails with this text, and that nothing is stored.
#[track_caller]
fn assert_unavailable(store: &SqliteStore, text: &str) {
    let unknown = Version::from("unknown".to_owned());
    for error in [
        store.version().map(drop).unwrap_err(),
        store.load().map(drop).unwrap_err(),
        store.swap(Some(&unknown), "lost").map(drop).unwrap_err(),
    ] {
        assert!(matches!(&error, StoreError::Unavailable(why) if why.contains(text)), "{error:?}");
        // A server without its database opens the bootstrap.
        assert!(!error.to_string().contains("move it away"), "{error}");
    }
}

#[test]
fn sqlite_store_passes_conformance() {
    conformance::run(&Fixture::new().open());
}

#[test]
fn document_survives_reopening_and_is_shared() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.open(), fixture.open());
    one.swap(None, "kept").unwrap();
    assert_eq!(document(&two), "kept");
    assert_eq!(two.swap(None, "overwritten").unwrap(), SwapOutcome::Stale);
    let version = two.version().unwrap();
    drop((one, two));
    let again = fixture.open();
    assert_eq!(again.version().unwrap(), version);
    assert_eq!(document(&again), "kept");
}

#[test]
fn files_have_mode_0600() {
    let fixture = Fixture::new();
    let store = fixture.with("x");
    swapped(&store, "y");
    for name in ["tokens.db", "tokens.db-wal", "tokens.db-shm"] {
        assert_eq!(mode(&fixture.at(name)), 0o600, "{name}");
    }
    drop(store);
    fs::set_permissions(&fixture.path, Permissions::from_mode(0o644)).unwrap();
    fixture.open();
    assert_eq!(mode(&fixture.path), 0o600);
}

#[test]
fn synchronous_mode_is_full() {
    let fixture = Fixture::new();
    fixture.with("x").database().with_writer(|connection| {
        let journal: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        let synchronous: i32 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2), "2 is FULL");
    });
}

#[test]
fn foreign_file_is_refused_unchanged() {
    let fixture = Fixture::new();
    let text = fixture.at("notes.txt");
    fs::write(&text, "not a database, but long enough to have a header, if it were one".repeat(20)).unwrap();
    let before = fs::read(&text).unwrap();
    assert!(matches!(SqliteStore::open(&text).unwrap_err(), OpenError::Foreign { .. }));
    assert_eq!(fs::read(&text).unwrap(), before);

    let other = fixture.at("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE other (x)").unwrap();
    let before = fs::read(&other).unwrap();
    assert!(matches!(SqliteStore::open(&other).unwrap_err(), OpenError::Foreign { .. }));
    assert_eq!(fs::read(&other).unwrap(), before);
}

#[test]
fn foreign_write_ahead_log_is_unchanged() {
    let fixture = Fixture::new();
    let foreign = Connection::open(&fixture.path).unwrap();
    foreign.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
    foreign.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    foreign.execute_batch("CREATE TABLE other (x)").unwrap();
    drop(foreign);
    let files = || ["tokens.db", "tokens.db-wal"].map(|name| fs::read(fixture.at(name)).unwrap());
    let before = files();
    assert!(matches!(SqliteStore::open(&fixture.path).unwrap_err(), OpenError::Foreign { .. }));
    assert_eq!(files(), before);
}

#[test]
fn damaged_store_error_names_the_file() {
    let fixture = Fixture::new();
    let store = fixture.with("x");
    let damage =
        "DROP TABLE catalog; CREATE TABLE catalog (version, document); INSERT INTO catalog VALUES (NULL, 1)";
    store.database().with_writer(|connection| connection.execute_batch(damage).unwrap());
    let error = store.load().unwrap_err().to_string();
    assert!(error.contains("tokens.db") && error.contains("it is damaged: restore a backup"), "{error}");
}

#[test]
fn newer_schema_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.with("x"));
    Connection::open(&fixture.path).unwrap().pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    let error = SqliteStore::open(&fixture.path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, .. }), "{error}");
}

#[test]
fn unwritable_path_is_named() {
    let fixture = Fixture::new();
    let error = SqliteStore::open(fixture.at("missing/tokens.db")).unwrap_err().to_string();
    assert!(error.contains("missing/tokens.db") && error.contains("No such file or directory"), "{error}");
    let error = SqliteStore::open(fixture.directory.path()).unwrap_err().to_string();
    assert!(error.contains("it is not a regular file"), "{error}");
}

#[test]
fn first_swap_creates_the_whole_file() {
    let fixture = Fixture::new();
    let store = fixture.open();
    // A process that is killed here leaves nothing, and the next one starts.
    assert!(fixture.files().is_empty());
    let version = swapped(&store, "first");
    assert_eq!(fixture.files(), ["tokens.db"]);
    assert_eq!(read(&fixture.path).unwrap(), Entry { version, document: "first".to_owned() });
}

#[test]
fn racing_first_starts_share_one_database() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let stores: Vec<_> = (0..4).map(|_| fixture.open()).collect();
        let won: usize = thread::scope(|scope| {
            let starts: Vec<_> = stores
                .iter()
                .map(|store| {
                    scope.spawn(|| matches!(store.swap(None, "x").unwrap(), SwapOutcome::Swapped(_)))
                })
                .collect();
            starts.into_iter().map(|start| usize::from(start.join().unwrap())).sum()
        });
        assert_eq!(won, 1);
        let versions: Vec<_> = stores.iter().map(|store| store.version().unwrap().unwrap()).collect();
        assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
        drop(stores);
        fs::remove_file(&fixture.path).unwrap();
    }
}

#[test]
fn version_of_an_earlier_build_is_accepted() {
    let fixture = Fixture::new();
    let store = fixture.with("x");
    let old = "0123456789abcdef0123456789abcdef";
    store.database().with_writer(|connection| {
        connection.execute("UPDATE catalog SET version = ?1, document = 'old'", [old]).unwrap();
    });
    assert_eq!(
        store.load().unwrap().unwrap(),
        Entry { version: old.to_owned().into(), document: "old".into() }
    );
    assert_eq!(swapped(&store, "new").as_str().len(), old.len() + 1 + 64);
}

#[test]
fn altered_document_is_damaged() {
    let fixture = Fixture::new();
    drop(fixture.with("x"));
    Connection::open(&fixture.path).unwrap().execute("UPDATE catalog SET document = 'y'", []).unwrap();
    for error in [SqliteStore::open(&fixture.path).unwrap_err(), read(&fixture.path).unwrap_err()] {
        assert!(error.to_string().contains("it is damaged: restore a backup"), "{error}");
    }
}

#[test]
fn file_without_catalog_is_not_a_new_store() {
    let fixture = Fixture::new();
    let emptied = fixture.at("emptied.db");
    drop(SqliteStore::open(&emptied).unwrap().swap(None, "x").unwrap());
    Connection::open(&emptied).unwrap().execute_batch("DELETE FROM catalog").unwrap();
    let empty = fixture.at("empty.db");
    File::create(&empty).unwrap();
    // The database file of an earlier build, without its write-ahead log.
    let bare = fixture.at("bare.db");
    let connection = Connection::open(&bare).unwrap();
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
    drop(connection);
    assert_eq!(fs::metadata(&bare).unwrap().len(), 4096);
    for path in [emptied, empty, bare] {
        let before = fs::read(&path).unwrap();
        for error in [SqliteStore::open(&path).unwrap_err(), read(&path).unwrap_err()] {
            assert!(matches!(error, OpenError::NoCatalog { .. }), "{error}");
            assert!(error.to_string().contains("restore a backup. Do not delete it"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn file_alone_holds_each_change_soon() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    for document in ["second".to_owned(), "x".repeat(100_000), "third".to_owned()] {
        swapped(&store, &document);
        let copy = fixture.at("copy.db");
        eventually("the copy of the file alone holds the change", || {
            fs::copy(&fixture.path, &copy).unwrap();
            read(&copy).is_ok_and(|entry| entry.document == document)
        });
    }
    eventually("the log is empty", || fs::metadata(fixture.at("tokens.db-wal")).unwrap().len() == 0);
}

#[test]
fn files_beside_a_small_database_stay_small() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let mut version = store.version().unwrap();
    // As large as a catalog of one token with its audit records.
    let document = "x".repeat(15_000);
    let beside =
        || ["tokens.db-wal", "tokens.db-shm"].map(|name| fs::metadata(fixture.at(name)).unwrap().len());
    for change in 0..300 {
        let Some(SwapOutcome::Swapped(next)) = store.swap(version.as_ref(), &document).ok() else {
            panic!("change {change}")
        };
        version = Some(next);
        assert!(beside().iter().sum::<u64>() <= 1 << 20, "{:?} bytes after change {change}", beside());
    }
}

#[test]
fn change_of_a_killed_process_reaches_the_file() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    // A process that makes no checkpoint before its end.
    let killed = Connection::open(&fixture.path).unwrap();
    killed.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    killed.execute("UPDATE catalog SET version = 'other', document = 'second'", []).unwrap();
    drop(killed);
    let copy = fixture.at("copy.db");
    eventually("the copy holds the change of the other process", || {
        store.version().unwrap();
        fs::copy(&fixture.path, &copy).unwrap();
        read(&copy).is_ok_and(|entry| entry.document == "second")
    });
}

#[test]
fn torn_copy_is_one_state_or_damaged() {
    let fixture = Fixture::new();
    let pages = |document: &str| {
        swapped(&fixture.open(), document);
        fs::read(&fixture.path).unwrap().chunks(4096).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let documents = ["a".repeat(40_000), "b".repeat(50_000), "c".repeat(30_000)];
    let states = [pages(&documents[0]), pages(&documents[1]), pages(&documents[2])];
    let torn = fixture.at("torn.db");
    let (mut whole, mut damaged) = (0, 0);
    for (old, new) in [(0, 1), (1, 2), (0, 2)] {
        let (old, new) = (&states[old], &states[new]);
        let length = old.len().max(new.len());
        // A copy reads from the front, and a checkpoint writes in any order.
        let cuts = (0..=length).map(|cut| (0..length).map(|page| page < cut).collect::<Vec<_>>());
        let singles = (0..length).map(|single| (0..length).map(|page| page == single).collect());
        for choice in cuts.chain(singles) {
            for flipped in [false, true] {
                let pages: Vec<u8> = choice
                    .iter()
                    .enumerate()
                    .filter_map(|(page, new_page)| {
                        if *new_page == flipped { old.get(page).or(new.get(page)) } else { new.get(page) }
                    })
                    .flatten()
                    .copied()
                    .collect();
                fs::write(&torn, &pages).unwrap();
                match read(&torn) {
                    Ok(entry) => {
                        assert!(documents.contains(&entry.document), "a mixed document");
                        whole += 1;
                    }
                    Err(OpenError::Unusable { reason, .. }) => {
                        assert!(reason.contains("it is damaged"), "{reason}");
                        damaged += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
                assert_eq!(SqliteStore::open(&torn).is_ok(), read(&torn).is_ok());
            }
        }
    }
    assert!(whole > 4 && damaged > 20, "{whole} whole, {damaged} damaged");
}

#[test]
fn moved_files_are_unavailable_until_they_are_back() {
    for name in ["tokens.db", "tokens.db-wal"] {
        let fixture = Fixture::new();
        let store = fixture.with("kept");
        document(&store);
        let away = fixture.at("away");
        fs::rename(fixture.at(name), &away).unwrap();
        assert_unavailable(&store, "is gone or was moved while the server runs: move the same file back");
        fs::write(fixture.at(name), "other").unwrap();
        assert_unavailable(&store, "was replaced by another file while the server runs");
        fs::rename(&away, fixture.at(name)).unwrap();
        assert_eq!(document(&store), "kept", "{name}");
        swapped(&store, "changed");
        drop(store);
        assert_eq!(document(&fixture.open()), "changed", "{name}");
    }
}

#[test]
fn replaced_directory_is_unavailable_until_it_is_back() {
    let fixture = Fixture::new();
    let (data, away) = (fixture.at("data"), fixture.at("away"));
    fs::create_dir(&data).unwrap();
    let store = SqliteStore::open(data.join("tokens.db")).unwrap();
    swapped(&store, "kept");
    document(&store);
    fs::rename(&data, &away).unwrap();
    assert_unavailable(&store, "is gone or was moved");
    fs::create_dir(&data).unwrap();
    assert_unavailable(&store, "is gone or was moved");
    // Another process begins another catalog there.
    let other = SqliteStore::open(data.join("tokens.db")).unwrap();
    swapped(&other, "other");
    swapped(&other, "another");
    assert_unavailable(&store, "was replaced by another file");
    // The files of the other one stay when this one closes.
    drop(store);
    assert_eq!(document(&other), "another");
    drop(other);
    assert_eq!(document(&SqliteStore::open(data.join("tokens.db")).unwrap()), "another");
    assert_eq!(document(&SqliteStore::open(away.join("tokens.db")).unwrap()), "kept");
}

#[test]
fn truncated_database_is_unavailable() {
    let fixture = Fixture::new();
    let store = fixture.with("kept");
    document(&store);
    OpenOptions::new().write(true).open(&fixture.path).unwrap().set_len(4096).unwrap();
    assert_unavailable(&store, "was truncated while the server runs: stop the server and restore a backup");
}

#[test]
fn lost_log_is_written_back_by_an_orderly_end() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let database = store.database();
    // Holds the checkpoint back.
    let reader = Connection::open(&fixture.path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM catalog").unwrap();
    swapped(&store, "second");
    fs::remove_file(fixture.at("tokens.db-wal")).unwrap();
    assert_unavailable(&store, "stop the server with SIGTERM");
    reader.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    reader.execute_batch("COMMIT").unwrap();
    drop((reader, database));
    drop(store);
    assert_eq!(document(&fixture.open()), "second");
}

#[test]
fn changed_index_is_opened_again() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let index = fixture.at("tokens.db-shm");
    for round in 0..6 {
        let written = format!("round {round}");
        swapped(&store, &written);
        // A process that uses a part of the index that is cut off would die.
        store.database().without_checkpoints(|| match round % 3 {
            0 => OpenOptions::new().write(true).open(&index).unwrap().set_len(0).unwrap(),
            1 => OpenOptions::new().write(true).open(&index).unwrap().set_len(4096).unwrap(),
            _ => fs::remove_file(&index).unwrap(),
        });
        // A checkpoint may hold the database for a moment.
        eventually("the store is opened again", || store.version().is_ok());
        assert_eq!(document(&store), written);
    }
}

#[test]
fn copied_log_is_overwritten_and_emptied_in_the_end() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let log = || fs::metadata(fixture.at("tokens.db-wal")).unwrap().len();
    // Several times as much as the log may hold.
    for number in 0..100 {
        swapped(&store, &format!("{number:020000}"));
        assert!(log() < 900 << 10, "{number}: {}", log());
    }
    // Unless the test stops for a second.
    eventually("a copied log is overwritten", || {
        swapped(&store, &"x".repeat(20_000));
        let copied = store.database().checkpoint() == Ok(Checkpoint::Complete);
        let before = log();
        swapped(&store, "short");
        copied && before > 0 && log() == before
    });
    eventually("the log is emptied", || log() == 0);
    swapped(&store, "last");
    assert_eq!(document(&fixture.open()), "last");
}

#[test]
fn swap_needs_no_table_of_its_own() {
    let fixture = Fixture::new();
    let store = fixture.with("kept");
    store.database().with_writer(|connection| {
        let mut explain = connection.prepare(&format!("EXPLAIN {UPDATE}")).unwrap();
        let steps = explain.query_map(["a", "b", "c"], |row| row.get::<_, String>(1)).unwrap();
        let steps: Vec<_> = steps.map(Result::unwrap).collect();
        assert!(steps.contains(&"Insert".to_owned()), "{steps:?}");
        assert!(!steps.contains(&"OpenEphemeral".to_owned()), "{steps:?}");
    });
}

#[test]
fn busy_writer_delays_no_read() {
    let fixture = Fixture::new();
    let store = fixture.with("kept");
    let database = store.database();
    let (begun, has_begun) = channel();
    let (finish, finished) = channel::<()>();
    let writer = &database;
    thread::scope(|scope| {
        scope.spawn(move || {
            // As a commit that waits for the disk: with the lock of this process and of SQLite.
            writer.with_writer(|connection| {
                connection.execute_batch("BEGIN IMMEDIATE; UPDATE catalog SET document = 'half'").unwrap();
                begun.send(()).unwrap();
                let _ = finished.recv_timeout(LIMIT);
                connection.execute_batch("ROLLBACK").unwrap();
            });
        });
        has_begun.recv().unwrap();
        // Without a connection of their own, these wait until the limit.
        let started = Instant::now();
        assert!(store.version().unwrap().is_some());
        assert_eq!(document(&store), "kept");
        // A checkpoint that is in progress delays none either.
        let _ = database.checkpoint();
        assert!(started.elapsed() < LIMIT);
        finish.send(()).unwrap();
    });
}

#[test]
fn busy_reader_delays_no_swap() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let reader = Connection::open(&fixture.path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM catalog").unwrap();
    swapped(&store, "second");
    assert_eq!(document(&store), "second");
    reader.execute_batch("COMMIT").unwrap();
}

#[test]
fn full_disk_is_a_certain_failure() {
    let fixture = Fixture::new();
    let store = fixture.with("kept");
    let version = store.version().unwrap();
    let limit = |pages: u32| {
        store.database().with_writer(|connection| {
            connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
        });
    };
    limit(3);
    let error = store.swap(version.as_ref(), &"x".repeat(100_000)).unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("the disk is full")), "{error:?}");
    assert_eq!((store.version().unwrap(), document(&store).as_str()), (version, "kept"));
    limit(1_000_000);
    swapped(&store, "changed");
}

#[test]
fn locked_database_is_a_certain_failure() {
    let fixture = Fixture::new();
    let store = fixture.with("kept");
    let version = store.version().unwrap();
    store.database().with_writer(|connection| connection.busy_timeout(Duration::ZERO).unwrap());
    let other = Connection::open(&fixture.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.swap(version.as_ref(), "lost").unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("holds its lock")), "{error:?}");
}

//! Backups and restores of a store on disk.

use std::fs;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{Fixture, document, mode, swapped};
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::copies::{backup, install, read};
use crate::store::{Entry, Store as _};

#[test]
fn backup_of_a_running_store_is_complete() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let version = swapped(&store, "second");
    let copy = fixture.at("backup.db");
    let entry = backup(&fixture.path, &copy).unwrap();
    assert_eq!(entry, Entry { version, document: "second".to_owned() });
    assert_eq!((read(&copy).unwrap(), mode(&copy)), (entry, 0o600));
    assert!(!fixture.files().iter().any(|name| name.to_string_lossy().starts_with("backup.db-")));
    let error = backup(&fixture.path, &copy).unwrap_err().to_string();
    assert!(error.contains("it exists, and is not replaced"), "{error}");
    let error = backup(&fixture.at("nothing"), &fixture.at("other")).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
    assert!(!fixture.at("nothing").exists() && !fixture.at("other").exists());
}

#[test]
fn backup_reads_each_kind_of_copy() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    let reader = Connection::open(&fixture.path).unwrap();
    // Holds the checkpoint back, so that the newest change is in the log.
    reader.execute_batch("BEGIN; SELECT * FROM catalog").unwrap();
    swapped(&store, "second");
    let copied = |suffix: &str, name: &str| {
        fs::copy(fixture.at(&format!("tokens.db{suffix}")), fixture.at(name)).unwrap();
    };
    copied("", "three.db");
    copied("-wal", "three.db-wal");
    let into = |name: &str| format!("VACUUM INTO '{}'", fixture.at(name).display());
    Connection::open(&fixture.path).unwrap().execute_batch(&into("vacuum.db")).unwrap();
    reader.execute_batch("COMMIT").unwrap();
    for name in ["three.db", "vacuum.db"] {
        let before = (fs::read(fixture.at(name)).unwrap(), fixture.files());
        assert_eq!(read(&fixture.at(name)).unwrap().document, "second", "{name}");
        assert_eq!((fs::read(fixture.at(name)).unwrap(), fixture.files()), before, "{name}");
    }
}

#[test]
fn install_replaces_an_unused_database_only() {
    let fixture = Fixture::new();
    let store = fixture.with("first");
    assert!(store.version().unwrap().is_some());
    let error = install(&fixture.path, "second").unwrap_err().to_string();
    assert!(error.contains("another process uses it: stop the server"), "{error}");
    assert_eq!(document(&store), "first");
    drop(store);
    assert_eq!(fixture.files(), ["tokens.db"]);
    let version = install(&fixture.path, "second").unwrap();
    assert_eq!(fixture.files(), ["tokens.db"]);
    assert_eq!(read(&fixture.path).unwrap(), Entry { version, document: "second".to_owned() });
    install(&fixture.at("new.db"), "third").unwrap();
    assert_eq!(document(&SqliteStore::open(fixture.at("new.db")).unwrap()), "third");
}

#[test]
fn install_removes_the_log_of_a_killed_process() {
    let fixture = Fixture::new();
    drop(fixture.with("first"));
    let killed = Connection::open(&fixture.path).unwrap();
    killed.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    killed.execute("UPDATE catalog SET version = 'other', document = 'second'", []).unwrap();
    drop(killed);
    assert!(fs::metadata(fixture.at("tokens.db-wal")).unwrap().len() > 0);
    install(&fixture.path, "third").unwrap();
    assert_eq!(fixture.files(), ["tokens.db"]);
    assert_eq!(document(&fixture.open()), "third");
}

#[test]
fn install_replaces_a_damaged_database() {
    let fixture = Fixture::new();
    for damaged in [&b""[..], b"damaged", &[0; 8192]] {
        fs::write(&fixture.path, damaged).unwrap();
        fs::write(fixture.at("tokens.db-wal"), "stale").unwrap();
        install(&fixture.path, "restored").unwrap();
        assert_eq!(document(&fixture.open()), "restored");
    }
}

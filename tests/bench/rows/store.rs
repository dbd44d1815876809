//! A store of rows. It knows keys, names, secrets and texts, and not what they mean.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row as Record, TransactionBehavior};
use sha2::{Digest as _, Sha256};

/// How many changes a reader can be behind and still apply them one by one.
pub(crate) const RETAINED_CHANGES: i64 = 64;

/// A row. No two rows have one name or one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) name: Option<String>,
    pub(crate) secret: Option<String>,
    pub(crate) text: String,
}

/// What finds a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Find<'a> {
    Key(&'a str),
    Name(&'a str),
    Secret(&'a str),
}

/// What a swap does to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(Row),
    Delete(String),
}

impl Change {
    fn key(&self) -> &str {
        match self {
            Self::Put(row) => &row.key,
            Self::Delete(key) => key,
        }
    }
}

/// Rows in a database, and the versions of the newest changes.
pub(crate) struct RowStore(Connection);

impl RowStore {
    pub(crate) fn open(path: &Path) -> Self {
        let connection = connect(path);
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS row (
                     key TEXT PRIMARY KEY, name TEXT UNIQUE, secret TEXT UNIQUE, text TEXT NOT NULL
                 ) STRICT, WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS change (
                     number INTEGER PRIMARY KEY, version TEXT NOT NULL, keys TEXT NOT NULL
                 ) STRICT",
            )
            .unwrap();
        Self(connection)
    }

    /// Returns the rows that were found, and the version of that state.
    pub(crate) fn load(&mut self, wanted: &[Find<'_>]) -> (Option<String>, Vec<Row>) {
        let transaction = self.0.transaction().unwrap();
        let version = newest(&transaction).map(|(_, version)| version);
        let mut rows: Vec<Row> = Vec::with_capacity(wanted.len());
        for find in wanted {
            let (column, value) = match find {
                Find::Key(value) => ("key", value),
                Find::Name(value) => ("name", value),
                Find::Secret(value) => ("secret", value),
            };
            let select = format!("SELECT key, name, secret, text FROM row WHERE {column} = ?1");
            let mut select = transaction.prepare_cached(&select).unwrap();
            let row = select.query_row([value], row_of).optional().unwrap();
            rows.extend(row.filter(|row| rows.iter().all(|other| other.key != row.key)));
        }
        transaction.commit().unwrap();
        (version, rows)
    }

    /// Returns every row in the order of the keys, and the version.
    pub(crate) fn load_all(&mut self) -> (Option<String>, Vec<Row>) {
        let transaction = self.0.transaction().unwrap();
        let version = newest(&transaction).map(|(_, version)| version);
        let mut select = transaction.prepare("SELECT key, name, secret, text FROM row ORDER BY key").unwrap();
        let rows = select.query_map([], row_of).unwrap().map(Result::unwrap).collect();
        drop(select);
        transaction.commit().unwrap();
        (version, rows)
    }

    /// Makes all changes or none. Returns the new version; `None` if the newest is not `expected`.
    pub(crate) fn swap(&mut self, expected: Option<&str>, changes: &[Change]) -> Option<String> {
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let newest = newest(&transaction);
        if newest.as_ref().map(|(_, version)| version.as_str()) != expected {
            return None;
        }
        let mut digest = Sha256::new();
        digest.update(expected.unwrap_or_default());
        for change in changes {
            digest.update(change.key());
            match change {
                Change::Put(row) => {
                    let put = "INSERT OR REPLACE INTO row (key, name, secret, text) VALUES (?1, ?2, ?3, ?4)";
                    let mut put = transaction.prepare_cached(put).unwrap();
                    put.execute((&row.key, &row.name, &row.secret, &row.text)).unwrap();
                    digest.update(&row.text);
                }
                Change::Delete(key) => {
                    let mut delete = transaction.prepare_cached("DELETE FROM row WHERE key = ?1").unwrap();
                    delete.execute([key]).unwrap();
                }
            }
        }
        let number = newest.map_or(1, |(number, _)| number + 1);
        let random = getrandom::u64().unwrap();
        let version = format!("{random:032x}-{}", base16ct::lower::encode_string(&digest.finalize()));
        let keys: Vec<&str> = changes.iter().map(Change::key).collect();
        let insert = "INSERT INTO change (number, version, keys) VALUES (?1, ?2, ?3)";
        transaction.prepare_cached(insert).unwrap().execute((number, &version, keys.join("\n"))).unwrap();
        let forget = "DELETE FROM change WHERE number <= ?1";
        transaction.prepare_cached(forget).unwrap().execute([number - RETAINED_CHANGES]).unwrap();
        transaction.commit().unwrap();
        Some(version)
    }

    /// Returns the newest version and the rows that were changed since this one, without those that
    /// were deleted, and all their keys; `None` if that is too long ago.
    pub(crate) fn load_since(&mut self, version: &str) -> Option<(String, Vec<String>, Vec<Row>)> {
        let transaction = self.0.transaction().unwrap();
        let known = "SELECT number FROM change WHERE version = ?1 ORDER BY number DESC";
        let known: Option<i64> = transaction
            .prepare_cached(known)
            .unwrap()
            .query_row([version], |row| row.get(0))
            .optional()
            .unwrap();
        let (_, newest) = newest(&transaction)?;
        let mut later = transaction.prepare_cached("SELECT keys FROM change WHERE number > ?1").unwrap();
        let mut keys: Vec<String> = later
            .query_map([known?], |row| row.get::<_, String>(0))
            .unwrap()
            .flat_map(|keys| keys.unwrap().split('\n').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let mut select =
            transaction.prepare_cached("SELECT key, name, secret, text FROM row WHERE key = ?1").unwrap();
        let rows =
            keys.iter().filter_map(|key| select.query_row([key], row_of).optional().unwrap()).collect();
        drop((later, select));
        transaction.commit().unwrap();
        Some((newest, keys, rows))
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.0
    }
}

fn row_of(record: &Record<'_>) -> rusqlite::Result<Row> {
    Ok(Row { key: record.get(0)?, name: record.get(1)?, secret: record.get(2)?, text: record.get(3)? })
}

fn newest(connection: &Connection) -> Option<(i64, String)> {
    connection
        .prepare_cached("SELECT number, version FROM change ORDER BY number DESC LIMIT 1")
        .unwrap()
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .unwrap()
}

/// Opens a database with the settings of the product.
pub(crate) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    connection
}

/// Copies the log into the database, and empties it.
pub(crate) fn checkpoint(connection: &Connection) {
    let blocked: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(blocked, 0);
}

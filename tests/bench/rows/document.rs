//! The catalog as one document, by the statements of `host/src/store/sqlite`.

use std::path::Path;

use optoken_core::command::Command;
use optoken_core::commit::{Committed, Loaded, commit};
use optoken_core::ports::{CatalogStore, Clock, Entry, StoreError, SwapOutcome, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use sha2::{Digest as _, Sha256};

use super::store::connect;

/// A document in a database, and the time of the next command.
pub(crate) struct DocumentStore {
    connection: Connection,
    /// The catalog after the last command. An instance of the component holds it as well, and
    /// parses a document of another version alone.
    held: Option<Loaded>,
    now: Timestamp,
}

impl DocumentStore {
    pub(crate) fn open(path: &Path) -> Self {
        let connection = connect(path);
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS catalog (
                     id INTEGER PRIMARY KEY CHECK (id = 1), version TEXT NOT NULL, document TEXT NOT NULL
                 ) STRICT",
            )
            .unwrap();
        Self { connection, held: None, now: 0 }
    }

    /// Executes a command as the component does.
    pub(crate) fn commit(&mut self, origin: &str, command: &Command<'_>, now: Timestamp) {
        self.now = now;
        let held = self.held.take();
        let Committed { version, catalog, .. } = commit(self, held, origin, command).unwrap();
        self.held = Some(Loaded { version, catalog });
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Clock for DocumentStore {
    fn now(&mut self) -> Timestamp {
        self.now
    }
}

impl CatalogStore for DocumentStore {
    fn load(&mut self) -> Result<Option<Entry>, StoreError> {
        let mut select = self.connection.prepare_cached("SELECT version, document FROM catalog").unwrap();
        let entry = select
            .query_row([], |row| Ok(Entry { version: row.get(0)?, document: row.get(1)? }))
            .optional()
            .unwrap();
        if let Some(entry) = &entry {
            // A version vouches for its document.
            assert!(entry.version.ends_with(&digest(&entry.document)));
        }
        Ok(entry)
    }

    fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
        let version = format!("{:032x}-{}", getrandom::u64().unwrap(), digest(document));
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let statement = match expected {
            Some(_) => "UPDATE catalog SET version = ?2, document = ?3 WHERE version = ?1",
            None => "INSERT OR IGNORE INTO catalog (id, version, document) SELECT 1, ?2, ?3 WHERE ?1 IS NULL",
        };
        let changed =
            transaction.prepare_cached(statement).unwrap().execute((expected, &version, document)).unwrap();
        transaction.commit().unwrap();
        Ok(if changed == 1 { SwapOutcome::Swapped(version) } else { SwapOutcome::Stale })
    }
}

fn digest(document: &str) -> String {
    base16ct::lower::encode_string(&Sha256::digest(document))
}

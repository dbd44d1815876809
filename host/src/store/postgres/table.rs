//! The table of the documents, and where one document is in it.

use std::fmt;

use crate::store::remote::Nonce;

/// The longest name of PostgreSQL, which is also that of a channel.
const MAX_NAME_BYTES: usize = 63;

/// The row of the catalog.
const CATALOG: &str = "catalog";

/// A table by its name, which may have a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table(String);

impl Default for Table {
    fn default() -> Self {
        Self("optoken_catalog".to_owned())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Table {
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let is_name = |part: &str| {
            !part.starts_with(|first: char| first.is_ascii_digit())
                && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
                && !part.is_empty()
        };
        let parts = name.split('.').count();
        if name.len() > MAX_NAME_BYTES || parts > 2 || !name.split('.').all(is_name) {
            return Err(format!(
                "table is NAME or SCHEMA.NAME of lower-case letters, digits and _, and has at most \
                 {MAX_NAME_BYTES} characters"
            ));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name in a statement.
    pub(super) fn quoted(&self) -> String {
        let parts: Vec<_> = self.0.split('.').map(|part| format!("\"{part}\"")).collect();
        parts.join(".")
    }

    /// Creates the table. A row has one document.
    pub(super) fn ddl(&self) -> String {
        format!("CREATE TABLE {self} (name text PRIMARY KEY, version text NOT NULL, document bytea NOT NULL)")
    }

    /// What an administrator runs in place of this user.
    pub(super) fn advice(&self, user: &str) -> String {
        let user = user.replace('"', "\"\"");
        format!(
            "run as an administrator of the database: {}; GRANT SELECT, INSERT, UPDATE, DELETE ON {self} TO \
             \"{user}\"",
            self.ddl()
        )
    }
}

/// The place of one document.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its row.
    pub(super) row: String,
    /// The channel of its news.
    pub(super) channel: String,
}

impl Place {
    pub(super) fn catalog(table: &Table) -> Self {
        Self { row: CATALOG.to_owned(), channel: table.to_string() }
    }

    /// A place for a trial.
    pub(super) fn scratch(nonce: &Nonce) -> Self {
        Self { row: format!("scratch-{nonce}"), channel: format!("optoken-{nonce}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_a_plain_name() {
        let long = "x".repeat(MAX_NAME_BYTES);
        for (name, quoted) in [
            ("t", "\"t\"".to_owned()),
            ("optoken.catalog_2", "\"optoken\".\"catalog_2\"".to_owned()),
            (&long, format!("\"{long}\"")),
        ] {
            assert_eq!(Table::parse(name).unwrap().quoted(), quoted);
        }
        let too_long = format!("{long}x");
        for name in ["", ".", "a.", ".b", "a.b.c", "A", "a-b", "a\"b", "1a", "a.1", "a b", &too_long] {
            assert!(Table::parse(name).unwrap_err().contains("SCHEMA.NAME"), "{name}");
        }
    }

    #[test]
    fn channels_are_short_enough() {
        let nonce = Nonce::random().unwrap();
        assert!(Place::scratch(&nonce).channel.len() <= MAX_NAME_BYTES);
    }
}

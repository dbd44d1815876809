//! A token store with many tokens.

use std::path::Path;

use optoken::store::{SqliteStore, Store as _};

use crate::document::{document, secret};

/// Writes a SQLite store, and prints the secret of its operator token.
pub(crate) fn write(file: &Path, tokens: usize) {
    SqliteStore::open(file).unwrap().swap(None, &document(tokens, "")).unwrap();
    println!("operator {}", secret(0));
}

//! The tokens in the memory of a node, which follow the changes of the store.

use std::collections::{BTreeMap, HashMap};

use optoken_core::catalog::{Catalog, TokenRecord};
use optoken_core::token::TokenHash;

use super::form::{HEAD, Head, partial_document, token_key};
use super::store::{Row, RowStore};

/// How many rows are read as one document.
const BATCH: usize = 1_000;

/// All tokens, and the position of each by its hash.
pub(crate) struct Mirror {
    version: String,
    head: Head,
    pub(crate) tokens: BTreeMap<u64, TokenRecord>,
    by_hash: HashMap<u64, u64>,
}

impl Mirror {
    /// Reads all rows, and checks what the decoding of a document checks: forms, numbers, names,
    /// hashes and the number of tokens.
    pub(crate) fn start(store: &mut RowStore) -> Self {
        let (version, rows) = store.load_all();
        let head = rows.iter().find(|row| row.key == HEAD).unwrap();
        let head = Head::of_row(&head.text);
        let mut mirror =
            Self { version: version.unwrap(), head, tokens: BTreeMap::new(), by_hash: HashMap::new() };
        let tokens: Vec<&Row> = rows.iter().filter(|row| row.key.starts_with("token/")).collect();
        for batch in tokens.chunks(BATCH) {
            mirror.put(batch);
        }
        // The store vouches for names: two rows cannot have one.
        assert_eq!(mirror.tokens.len(), mirror.head.tokens);
        assert_eq!(mirror.by_hash.len(), mirror.head.tokens);
        mirror
    }

    /// Applies what was changed in the store. Returns the number of rows.
    pub(crate) fn follow(&mut self, store: &mut RowStore) -> usize {
        let (version, keys, rows) = store.load_since(&self.version).unwrap();
        let head = rows.iter().find(|row| row.key == HEAD).unwrap();
        self.head = Head::of_row(&head.text);
        for key in keys.iter().filter_map(|key| key.strip_prefix("token/")) {
            if let Some(old) = self.tokens.remove(&key.parse().unwrap()) {
                self.by_hash.remove(&bucket(&old.hash));
            }
        }
        self.put(&rows.iter().filter(|row| row.key.starts_with("token/")).collect::<Vec<_>>());
        self.version = version;
        assert_eq!(self.tokens.len(), self.head.tokens);
        keys.len()
    }

    fn put(&mut self, rows: &[&Row]) {
        let document = partial_document(&self.head, rows.iter().map(|row| row.text.as_str()));
        for (token, row) in Catalog::decode(&document).unwrap().tokens().iter().zip(rows) {
            assert_eq!(token_key(token.id), row.key);
            assert!(self.by_hash.insert(bucket(&token.hash), token.id).is_none());
            self.tokens.insert(token.id, token.clone());
        }
    }
}

/// The first digits of a hash. The index of the product compares the rest, too.
fn bucket(hash: &TokenHash) -> u64 {
    u64::from_str_radix(&hash.to_string()[..16], 16).unwrap()
}

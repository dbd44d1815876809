//! Finds the place of a token by its hash.

use hashbrown::HashTable;
use subtle::ConstantTimeEq as _;

use crate::hash::TokenHash;

/// Hashes and where what they belong to stands.
#[derive(Debug, Clone, Default)]
pub struct HashIndex {
    table: HashTable<(TokenHash, usize)>,
}

impl HashIndex {
    /// An empty index with room for so many.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { table: HashTable::with_capacity(capacity) }
    }

    /// Adds a hash, unless it is there already.
    #[must_use]
    pub fn insert(&mut self, hash: TokenHash, position: usize) -> bool {
        if self.position(&hash).is_some() {
            return false;
        }
        self.table.insert_unique(hash.bucket(), (hash, position), |(hash, _)| hash.bucket());
        true
    }

    /// The position of a hash. Finding none costs as much as finding one.
    pub fn find(&self, hash: &TokenHash) -> Option<usize> {
        let found = self.position(hash);
        if found.is_none() {
            // The comparison that a hit would have made.
            core::hint::black_box(TokenHash::NOBODY.ct_eq(hash));
        }
        found
    }

    fn position(&self, hash: &TokenHash) -> Option<usize> {
        self.table.find(hash.bucket(), |(other, _)| other.ct_eq(hash).into()).map(|(_, position)| *position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_found_where_it_was_put_and_put_once() {
        let hash = |number: usize| TokenHash::of(&number.to_string());
        let mut index = HashIndex::default();
        for number in 0..1000 {
            assert_eq!(index.find(&hash(number)), None);
            assert!(index.insert(hash(number), number));
            assert!(!index.insert(hash(number), number + 1));
        }
        for number in 0..1000 {
            assert_eq!(index.find(&hash(number)), Some(number));
        }
    }
}

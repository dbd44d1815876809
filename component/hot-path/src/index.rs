//! Finds the position of a token by its hash.

use hashbrown::HashTable;
use subtle::ConstantTimeEq as _;

use crate::hash::TokenHash;

/// Hashes and positions.
#[derive(Debug, Clone, Default)]
pub struct HashIndex {
    table: HashTable<(TokenHash, usize)>,
}

impl HashIndex {
    /// Returns an empty index with room for this many hashes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { table: HashTable::with_capacity(capacity) }
    }

    /// Adds a hash and returns true, unless the index has it.
    #[must_use]
    pub fn insert(&mut self, hash: TokenHash, position: usize) -> bool {
        if self.position(&hash).is_some() {
            return false;
        }
        self.table.insert_unique(hash.bucket(), (hash, position), |(hash, _)| hash.bucket());
        true
    }

    /// Returns the position of a hash. A miss costs as much as a hit.
    pub fn find(&self, hash: &TokenHash) -> Option<usize> {
        let found = self.position(hash);
        if found.is_none() {
            // The comparison of a hit.
            core::hint::black_box(TokenHash::DUMMY.ct_eq(hash));
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
    fn hash_is_inserted_once_and_found() {
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

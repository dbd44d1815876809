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

    /// Removes a hash, if the index has it. Returns its position.
    pub fn remove(&mut self, hash: &TokenHash) -> Option<usize> {
        let entry = self.table.find_entry(hash.bucket(), |(other, _)| other.ct_eq(hash).into()).ok()?;
        Some(entry.remove().0.1)
    }

    /// Gives every hash the position that `next` returns for its own.
    pub fn renumber(&mut self, next: impl Fn(usize) -> usize) {
        for (_, position) in &mut self.table {
            *position = next(*position);
        }
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

    #[test]
    fn removed_hash_is_gone_and_the_others_move() {
        let hash = |number: usize| TokenHash::of(&number.to_string());
        let mut index = HashIndex::default();
        for number in 0..100 {
            assert!(index.insert(hash(number), number));
        }
        assert_eq!(index.remove(&hash(50)), Some(50));
        assert_eq!(index.remove(&hash(50)), None);
        index.renumber(|position| if position > 50 { position - 1 } else { position });
        for number in 0..100 {
            let moved = if number > 50 { number - 1 } else { number };
            assert_eq!(index.find(&hash(number)), (number != 50).then_some(moved));
        }
        assert!(index.insert(hash(50), 99));
    }
}

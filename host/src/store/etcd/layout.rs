//! The keys of a store, and the value that names its state.
//!
//! `PREFIX/catalog/version` holds `NONCE COUNT`. The document is in `PREFIX/catalog/document` if
//! COUNT is 0, else in `PREFIX/catalog/chunks/NONCE/` below numbers from 0.

use std::fmt;

use crate::store::remote::Nonce;

/// The most bytes of a value. A request has 1.5 MiB at most, by the default of etcd.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// The most chunks of a document.
pub(super) const MAX_CHUNKS: usize = 8;

/// The keys below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys of the catalog below the prefix of a URL.
    pub(super) fn catalog(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/catalog") }
    }

    /// Keys for a trial, below the prefix of a URL.
    pub(super) fn scratch(prefix: &str, nonce: &Nonce) -> Self {
        Self { prefix: format!("{prefix}/probe-{nonce}") }
    }

    /// The key that names the state.
    pub(super) fn version(&self) -> String {
        format!("{}/version", self.prefix)
    }

    /// The key of a document without chunks.
    pub(super) fn document(&self) -> String {
        format!("{}/document", self.prefix)
    }

    /// What the keys of all chunks begin with.
    pub(super) fn chunks(&self) -> String {
        format!("{}/chunks/", self.prefix)
    }

    /// What the keys of the chunks of one state begin with.
    pub(super) fn chunks_of(&self, nonce: &Nonce) -> String {
        format!("{}{nonce}/", self.chunks())
    }

    pub(super) fn chunk(&self, nonce: &Nonce, number: usize) -> String {
        format!("{}{number}", self.chunks_of(nonce))
    }

    /// What all keys begin with.
    pub(super) fn all(&self) -> String {
        format!("{}/", self.prefix)
    }
}

/// The value of the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) nonce: Nonce,
    /// The number of chunks; 0 if the document has a key of its own.
    pub(super) chunks: usize,
}

impl State {
    /// Parses the one form that [`Display`](fmt::Display) writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (nonce, chunks) = text.split_once(' ')?;
        let state = Self { nonce: Nonce::parse(nonce)?, chunks: chunks.parse().ok()? };
        (state.chunks <= MAX_CHUNKS && state.to_string() == text).then_some(state)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.nonce, self.chunks)
    }
}

/// Splits a document into chunks, at boundaries of characters. A document that fits one value has
/// none.
pub(super) fn chunks_of(document: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    if document.len() <= CHUNK_BYTES {
        return chunks;
    }
    let mut rest = document;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(rest.floor_char_boundary(CHUNK_BYTES));
        chunks.push(chunk);
        rest = behind;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_has_one_text() {
        let state = State { nonce: Nonce::random().unwrap(), chunks: 6 };
        assert_eq!(State::parse(&state.to_string()), Some(state.clone()));
        let nonce = &state.nonce;
        for text in [
            "",
            "1",
            &format!("{nonce}"),
            &format!("{nonce} 06"),
            &format!("{nonce} +6"),
            &format!("{nonce} 9"),
            &format!("{nonce} 6 "),
            &format!("{nonce}  6"),
        ] {
            assert_eq!(State::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn chunks_keep_characters_whole() {
        assert!(chunks_of("").is_empty() && chunks_of(&"x".repeat(CHUNK_BYTES)).is_empty());
        let document = "x".to_owned() + &"\u{1f511}".repeat(CHUNK_BYTES / 2);
        let chunks = chunks_of(&document);
        assert_eq!(chunks.concat(), document);
        assert!(chunks.len() == 3 && chunks.iter().all(|chunk| (1..=CHUNK_BYTES).contains(&chunk.len())));
        assert!(chunks_of(&"x".repeat(MAX_CHUNKS * CHUNK_BYTES)).len() == MAX_CHUNKS);
    }
}

//! The stored form: a first line with random names, then the document. What a read of it proves
//! about a write.

use crate::store::Version;
use crate::store::remote::Nonce;

/// The words that begin each object.
const FORM: &str = "optoken 1 ";

/// How many earlier nonces an object names. A lost answer of a write is found among them.
const MAX_PREVIOUS: usize = 8;

/// More bytes than the longest first line has.
pub(super) const MAX_LINE: u64 = 512;

/// The first line of an object: a nonce of its own, and those of the states before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    nonce: Nonce,
    /// The newest is first.
    previous: Vec<Nonce>,
}

impl Header {
    /// The line of the state that follows `predecessor`, or of the first state.
    pub(super) fn after(predecessor: Option<&Self>, nonce: Nonce) -> Self {
        let previous = predecessor.map_or_else(Vec::new, |header| {
            let chain = std::iter::once(&header.nonce).chain(&header.previous);
            chain.take(MAX_PREVIOUS).cloned().collect()
        });
        Self { nonce, previous }
    }

    /// The bytes of the object.
    pub(super) fn object(&self, document: &str) -> String {
        let previous: Vec<_> = self.previous.iter().map(Nonce::as_str).collect();
        let previous = if previous.is_empty() { "-".to_owned() } else { previous.join(",") };
        format!("{FORM}{} {previous}\n{document}", self.nonce)
    }

    /// Reads the first line, and returns the number of its bytes as well.
    pub(super) fn parse(object: &[u8]) -> Option<(Self, usize)> {
        let end = object.iter().position(|&byte| byte == b'\n')?;
        let line = std::str::from_utf8(object.get(..end)?).ok()?;
        let (nonce, previous) = line.strip_prefix(FORM)?.split_once(' ')?;
        let previous = match previous {
            "-" => Vec::new(),
            list => list.split(',').map(Nonce::parse).collect::<Option<_>>()?,
        };
        Some((Self { nonce: Nonce::parse(nonce)?, previous }, end + 1))
    }

    pub(super) fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// Whether every state before this one is named.
    fn is_complete(&self) -> bool {
        self.previous.len() < MAX_PREVIOUS
    }
}

/// What the store gives a stored state: a tag, and a number in Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The `ETag` without quotes and without the prefix of a weak one. Every state has another one
    /// because of its nonce, so a tag that a proxy has weakened still names one state.
    pub(super) tag: String,
    pub(super) generation: Option<String>,
}

impl Mark {
    pub(super) fn new(e_tag: &str, generation: Option<String>) -> Self {
        let tag = e_tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let bare = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        Self { tag: bare.unwrap_or(tag).to_owned(), generation }
    }

    pub(super) fn version(&self) -> Version {
        Version::from(match &self.generation {
            None => self.tag.clone(),
            Some(generation) => format!("{generation}:{}", self.tag),
        })
    }
}

/// How the engine wants the tag in a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In quotes, as RFC 9110 demands.
    Quoted,
    /// Without quotes, as the Ceph gateway up to Reef.
    Bare,
}

impl Form {
    pub(super) fn condition(self, tag: &str) -> String {
        match self {
            Self::Quoted => format!("\"{tag}\""),
            Self::Bare => tag.to_owned(),
        }
    }
}

/// What a read after a write proves about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// The stored state is that of the write.
    Written,
    /// The write happened, and another one has replaced it.
    Replaced,
    /// Another state has followed the expected one, so the write has not happened and cannot.
    Lost,
    /// The expected state is still there. The write has not happened yet.
    Unchanged,
    /// More writes have happened than the object names.
    Open,
}

/// Compares the found object with a write of `nonce`, on the condition that `expected` was there.
pub(super) fn evidence(nonce: &Nonce, expected: Option<&Nonce>, found: Option<&Header>) -> Evidence {
    let Some(found) = found else {
        return if expected.is_none() { Evidence::Unchanged } else { Evidence::Lost };
    };
    if found.nonce == *nonce {
        Evidence::Written
    } else if found.previous.contains(nonce) {
        Evidence::Replaced
    } else if expected == Some(&found.nonce) {
        Evidence::Unchanged
    } else if found.is_complete() || expected.is_some_and(|expected| found.previous.contains(expected)) {
        Evidence::Lost
    } else {
        Evidence::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonces(count: usize) -> Vec<Nonce> {
        (0..count).map(|_| Nonce::random().unwrap()).collect()
    }

    /// The newest of a chain of states, oldest first.
    fn chain(nonces: &[Nonce]) -> Header {
        let mut header = None;
        for nonce in nonces {
            header = Some(Header::after(header.as_ref(), nonce.clone()));
        }
        header.unwrap()
    }

    #[test]
    fn object_is_read_back_with_its_chain() {
        for length in [1, 2, 9, 12] {
            let header = chain(&nonces(length));
            for document in ["", "one\ntwo\n", "\u{0}"] {
                let object = header.object(document);
                let (read, start) = Header::parse(object.as_bytes()).unwrap();
                assert_eq!((&read, &object[start..]), (&header, document));
                assert!((start as u64) < MAX_LINE && header.previous.len() <= MAX_PREVIOUS);
            }
        }
    }

    #[test]
    fn other_objects_are_not_read() {
        let nonce = Nonce::random().unwrap();
        for object in [
            String::new(),
            "{\"format\":3}\n".to_owned(),
            format!("optoken 1 {nonce} -"),
            format!("optoken 2 {nonce} -\n"),
            format!("optoken 1 {nonce}\n"),
            format!("optoken 1 {nonce} {nonce},\n"),
            "optoken 1 x -\n".to_owned(),
        ] {
            assert_eq!(Header::parse(object.as_bytes()), None, "{object}");
        }
    }

    #[test]
    fn tag_has_one_text_whatever_its_quotes() {
        for e_tag in ["a", "\"a\"", "W/\"a\"", " \"a\" "] {
            let mark = Mark::new(e_tag, None);
            assert_eq!((mark.tag.as_str(), mark.version().as_str()), ("a", "a"));
            assert_eq!(Mark::new(e_tag, Some("7".to_owned())).version().as_str(), "7:a");
        }
        assert_eq!(
            (Form::Quoted.condition("a").as_str(), Form::Bare.condition("a").as_str()),
            ("\"a\"", "a")
        );
    }

    #[test]
    fn evidence_is_what_the_chain_proves() {
        let all = nonces(20);
        let (expected, own) = (&all[3], &all[19]);
        let with_own = |after: usize| {
            let mut states = all[..4].to_vec();
            states.push(own.clone());
            states.extend_from_slice(&all[4..4 + after]);
            chain(&states)
        };
        let evidence = |found: Option<&Header>| evidence(own, Some(expected), found);
        assert_eq!(evidence(Some(&with_own(0))), Evidence::Written);
        assert_eq!(evidence(Some(&with_own(1))), Evidence::Replaced);
        assert_eq!(evidence(Some(&with_own(8))), Evidence::Replaced);
        // The chain no longer reaches back to the write.
        assert_eq!(evidence(Some(&with_own(9))), Evidence::Open);
        assert_eq!(evidence(Some(&chain(&all[..4]))), Evidence::Unchanged);
        assert_eq!(evidence(Some(&chain(&all[..5]))), Evidence::Lost);
        assert_eq!(evidence(Some(&chain(&all[..12]))), Evidence::Lost);
        assert_eq!(evidence(Some(&chain(&all[..13]))), Evidence::Open);
        // The catalog was removed, or another one was put in its place.
        assert_eq!(evidence(None), Evidence::Lost);
        assert_eq!(evidence(Some(&chain(&all[8..10]))), Evidence::Lost);
    }

    #[test]
    fn evidence_of_a_first_write() {
        let all = nonces(12);
        let evidence = |found: Option<&Header>| evidence(&all[0], None, found);
        assert_eq!(evidence(None), Evidence::Unchanged);
        assert_eq!(evidence(Some(&chain(&all[..1]))), Evidence::Written);
        assert_eq!(evidence(Some(&chain(&all[..9]))), Evidence::Replaced);
        assert_eq!(evidence(Some(&chain(&all[1..3]))), Evidence::Lost);
        assert_eq!(evidence(Some(&chain(&all[1..11]))), Evidence::Open);
    }
}

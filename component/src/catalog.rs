//! The catalog: every token record, and the one document it is stored as.
//!
//! A [`Catalog`] in memory always holds together: numbers, names and hashes are unique and the audit chain verifies.
//! Reading checks that once, so nothing else has to. Knows nothing of commands or of where the document lies.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::audit::{BrokenChain, Trail};
use crate::ports::Timestamp;
use crate::token::TokenHash;

/// The format this code writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// The name of the operator token, exactly so (COMPAT 6.2).
pub const OPERATOR: &str = "_admin";

/// What is known of one token (COMPAT 1.A, without the fields that are never set).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRecord {
    /// Counted from 0, never used twice.
    pub id: u64,
    /// Unique; [`OPERATOR`] for the operator token.
    pub name: String,
    /// The hash of the secret.
    pub hash: TokenHash,
    /// When the record was made.
    pub created_at: Timestamp,
    /// When it was last changed, if ever.
    pub updated_at: Option<Timestamp>,
    /// The number of the token that changed it.
    pub updated_by: Option<u64>,
    /// The first moment at which the token is refused; `None` for never (COMPAT 1.13).
    pub expiry: Option<Timestamp>,
}

impl TokenRecord {
    /// Whether this is the operator token.
    pub fn is_operator(&self) -> bool {
        self.name == OPERATOR
    }
}

/// The most tokens a catalog may have. It is read and written whole, and an instance has room for about three times
/// as many.
pub const MAX_TOKENS: usize = 10_000;

/// All tokens, in the order they were made, with the record of how they came about.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Names the catalog, for good.
    id: Option<String>,
    next_id: u64,
    tokens: Vec<TokenRecord>,
    audit: Trail,
    /// Positions in `tokens`, found by [`TokenHash::bucket`].
    by_hash: HashTable<usize>,
}

impl Catalog {
    /// Reads a stored document.
    pub fn decode(document: &str) -> Result<Self, CatalogError> {
        let parsed = parse(document);
        let format = match &parsed {
            Ok(Document { format, .. }) => *format,
            // A newer document may have anything else inside; nobody wants to read a large one twice to find out.
            Err(_) => parse::<Header>(document)?.format,
        };
        if format != FORMAT {
            return Err(CatalogError::UnknownFormat { found: format });
        }
        let Document { id, next_id, tokens, audit, .. } = parsed?;
        audit.verify()?;
        Self::assemble(id.map(Cow::into_owned), next_id, tokens.into_owned(), audit.into_owned())
    }

    /// Writes the document to store. The same catalog gives the same bytes.
    pub fn encode(&self) -> Result<String, CatalogError> {
        let document = Document {
            format: FORMAT,
            id: self.id.as_deref().map(Cow::Borrowed),
            next_id: self.next_id,
            tokens: Cow::Borrowed(&self.tokens),
            audit: Cow::Borrowed(&self.audit),
        };
        serde_json::to_string(&document).map_err(|_| CatalogError::Contradictory("it cannot be written"))
    }

    /// Puts a catalog together, refusing one that contradicts itself.
    fn assemble(
        id: Option<String>,
        next_id: u64,
        tokens: Vec<TokenRecord>,
        audit: Trail,
    ) -> Result<Self, CatalogError> {
        let mut by_hash = HashTable::with_capacity(tokens.len());
        let mut names = HashTable::with_capacity(tokens.len());
        let mut last_id = None;
        for (position, token) in tokens.iter().enumerate() {
            // Records stand in the order they were made, so rising numbers are unique numbers.
            if token.id >= next_id || last_id.is_some_and(|last| last >= token.id) {
                return Err(CatalogError::Contradictory("token numbers repeat or run ahead"));
            }
            last_id = Some(token.id);
            let same_hash = |other: &usize| tokens.get(*other).is_some_and(|other| other.hash == token.hash);
            if by_hash.find(token.hash.bucket(), same_hash).is_some() {
                return Err(CatalogError::Contradictory("two tokens have one hash"));
            }
            by_hash.insert_unique(token.hash.bucket(), position, |other| bucket_at(&tokens, *other));
            let name = token.name.as_str();
            if names.find(name_bucket(name), |other| *other == name).is_some() {
                return Err(CatalogError::Contradictory("two tokens have one name"));
            }
            names.insert_unique(name_bucket(name), name, |other| name_bucket(other));
        }
        drop(names);
        Ok(Self { id, next_id, tokens, audit, by_hash })
    }

    /// The name of the catalog, once it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// A catalog of these tokens.
    #[cfg(test)]
    pub(crate) fn of(next_id: u64, tokens: Vec<TokenRecord>, audit: Trail) -> Result<Self, CatalogError> {
        Self::assemble(None, next_id, tokens, audit)
    }

    /// All records, in the order they were made.
    pub fn tokens(&self) -> &[TokenRecord] {
        &self.tokens
    }

    /// The record of every committed change, newest last.
    pub fn audit(&self) -> &Trail {
        &self.audit
    }

    /// The number that the next new token gets.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The operator's record, if there is one.
    pub fn operator(&self) -> Option<&TokenRecord> {
        self.named(OPERATOR)
    }

    /// The record with this name.
    pub fn named(&self, name: &str) -> Option<&TokenRecord> {
        self.tokens.iter().find(|token| token.name == name)
    }

    /// The record with this hash. Finding none costs as much as finding one.
    pub fn find(&self, hash: &TokenHash) -> Option<&TokenRecord> {
        let found = self
            .by_hash
            .find(hash.bucket(), |position| {
                self.tokens.get(*position).is_some_and(|token| token.hash.ct_eq(hash).into())
            })
            .and_then(|position| self.tokens.get(*position));
        if found.is_none() {
            // The comparison that a hit would have made.
            core::hint::black_box(TokenHash::NOBODY.ct_eq(hash));
        }
        found
    }

    /// The catalog with a name, and `audit` instead of its trail.
    pub(crate) fn with_id(&self, id: &str, audit: Trail) -> Self {
        Self { id: Some(id.into()), audit, ..self.clone() }
    }

    /// The catalog with one more token, which gets the next number, and `audit` instead of its trail.
    pub(crate) fn with_new(&self, token: TokenRecord, audit: Trail) -> Result<Self, CatalogError> {
        let next_id =
            self.next_id.checked_add(1).ok_or(CatalogError::Contradictory("no token number is left"))?;
        let tokens = self.tokens.iter().cloned().chain([token]).collect();
        Self::assemble(self.id.clone(), next_id, tokens, audit)
    }

    /// The catalog with the record of `token`'s number replaced by it, and `audit` instead of its trail.
    pub(crate) fn with_changed(&self, token: &TokenRecord, audit: Trail) -> Result<Self, CatalogError> {
        let changed = |old: &TokenRecord| if old.id == token.id { token } else { old }.clone();
        let tokens = self.tokens.iter().map(changed).collect();
        Self::assemble(self.id.clone(), self.next_id, tokens, audit)
    }

    /// The catalog without the token of this number, and `audit` instead of its trail.
    pub(crate) fn without(&self, id: u64, audit: Trail) -> Result<Self, CatalogError> {
        let tokens = self.tokens.iter().filter(|token| token.id != id).cloned().collect();
        Self::assemble(self.id.clone(), self.next_id, tokens, audit)
    }
}

impl PartialEq for Catalog {
    fn eq(&self, other: &Self) -> bool {
        // The index follows from the rest.
        (&self.id, self.next_id, &self.tokens, &self.audit)
            == (&other.id, other.next_id, &other.tokens, &other.audit)
    }
}

impl Eq for Catalog {}

/// The stored document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// Written by a version of this software that knows more, or by something else.
    #[error(
        "the catalog has format {found}, this version reads format {FORMAT} only; a newer version may have written it"
    )]
    UnknownFormat {
        /// The format number it has.
        found: u32,
    },
    /// Not the JSON that [`Catalog::encode`] writes. Says no more, so as to quote nothing of what is there.
    #[error("the catalog is damaged: it is malformed")]
    Malformed,
    /// Well-formed, but its parts do not agree.
    #[error("the catalog is damaged: {0}")]
    Contradictory(&'static str),
    /// Well-formed, but somebody altered its history.
    #[error("the catalog is damaged: {0}")]
    BrokenChain(#[from] BrokenChain),
}

/// The one field that every format has.
#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// Format 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    format: u32,
    id: Option<Cow<'a, str>>,
    next_id: u64,
    tokens: Cow<'a, [TokenRecord]>,
    audit: Cow<'a, Trail>,
}

/// Reads all of `text` as one JSON value.
fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, CatalogError> {
    // Escapes only become shorter when they are read, so no string outgrows this.
    let mut unescaped = vec![0; text.len()];
    match serde_json_core::from_str_escaped(text, &mut unescaped) {
        Ok((value, read)) if read == text.len() => Ok(value),
        _ => Err(CatalogError::Malformed),
    }
}

fn bucket_at(tokens: &[TokenRecord], position: usize) -> u64 {
    tokens.get(position).map_or(0, |token| token.hash.bucket())
}

/// FNV-1a. Names are chosen by admins, who have nothing to gain from choosing them so that they collide.
fn name_bucket(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Action, Actor, Subject};

    fn record(id: u64, name: &str) -> TokenRecord {
        TokenRecord {
            id,
            name: name.into(),
            hash: TokenHash::of(&format!("secret of {name}")),
            created_at: 1_700_000_000_000,
            updated_at: None,
            updated_by: None,
            expiry: None,
        }
    }

    fn catalog() -> Catalog {
        let trail = Trail::default().with(1, Action::CreateOperator, Actor::Bootstrap, None, "test");
        let catalog = Catalog::default().with_new(record(0, OPERATOR), trail.clone()).unwrap();
        catalog.with_new(record(1, "ci"), trail).unwrap()
    }

    #[test]
    fn a_catalog_survives_being_stored() {
        let catalog = catalog();
        let document = catalog.encode().unwrap();
        let again = Catalog::decode(&document).unwrap();
        assert_eq!(again, catalog);
        assert_eq!(again.encode().unwrap(), document);
        assert_eq!(again.find(&TokenHash::of("secret of ci")).unwrap().id, 1);
        assert_eq!(again.find(&TokenHash::of("secret of nobody")), None);
    }

    #[test]
    fn the_stored_form_is_fixed() {
        // A change of this text is a change of the format: raise FORMAT and keep reading the old one.
        let hash = TokenHash::of("secret of _admin");
        let trail = Trail::default().with(5, Action::Initialize, Actor::Provision, None, "here");
        let subject = Subject { id: 0, name: OPERATOR.into() };
        let trail = trail.with(6, Action::CreateOperator, Actor::Bootstrap, Some(subject), "here");
        let catalog =
            Catalog::default().with_id("a name", trail.clone()).with_new(record(0, OPERATOR), trail).unwrap();
        let [first, second] = catalog.audit().records() else { panic!("not two records") };
        let [first, second] = [first, second].map(|record| serde_json::to_string(&record.hash()).unwrap());
        assert_eq!(
            catalog.encode().unwrap(),
            format!(
                r#"{{"format":1,"id":"a name","next_id":1,"tokens":[{{"id":0,"name":"_admin","hash":"{hash}","created_at":1700000000000,"updated_at":null,"updated_by":null,"expiry":null}}],"audit":{{"head":{second},"records":[{{"sequence":1,"at":5,"action":"initialize","actor":"provision","subject":null,"origin":"here","previous":null}},{{"sequence":2,"at":6,"action":"create_operator","actor":"bootstrap","subject":{{"id":0,"name":"_admin"}},"origin":"here","previous":{first}}}]}}}}"#
            )
        );
    }

    #[test]
    fn a_newer_format_is_refused_whatever_is_in_it() {
        let newer = r#"{"format":2,"shards":[]}"#;
        assert_eq!(Catalog::decode(newer).unwrap_err(), CatalogError::UnknownFormat { found: 2 });
    }

    #[test]
    fn a_document_that_contradicts_itself_is_refused() {
        let good = catalog().encode().unwrap();
        let hash = |name: &str| TokenHash::of(&format!("secret of {name}")).to_string();
        for (case, bad) in [
            ("empty", String::new()),
            ("no JSON", "SQLite format 3".into()),
            ("cut off", good[..good.len() - 1].into()),
            ("two at once", format!("{good}{good}")),
            ("no format", good.replace("\"format\":1,", "")),
            ("unknown field", good.replace("\"format\":1,", "\"format\":1,\"note\":\"\",")),
            ("number repeats", good.replace("\"id\":1,", "\"id\":0,")),
            ("number ahead", good.replace("\"next_id\":2", "\"next_id\":1")),
            ("name repeats", good.replace("\"name\":\"ci\"", "\"name\":\"_admin\"")),
            ("hash repeats", good.replace(&hash("ci"), &hash(OPERATOR))),
            ("hash too short", good.replace(&hash("ci"), &hash("ci")[2..])),
            ("history altered", good.replace("\"origin\":\"test\"", "\"origin\":\"rest\"")),
        ] {
            assert_ne!(bad, good, "{case} is not a case");
            assert!(Catalog::decode(&bad).is_err(), "{case}");
        }
    }

    #[test]
    fn the_error_of_a_damaged_document_quotes_nothing_of_it() {
        let hash = TokenHash::of("secret of ci").to_string();
        let bad = catalog().encode().unwrap().replace(&hash, "apiv3_secret");
        let error = Catalog::decode(&bad).unwrap_err();
        assert_eq!(error, CatalogError::Malformed);
        assert!(!error.to_string().contains("apiv3_"), "{error}");
    }
}

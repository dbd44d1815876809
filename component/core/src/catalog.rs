//! The catalog: every token record, and the document that stores them.
//!
//! The document is JSON Lines: the number of its format, which every format has in its first line;
//! a header; a line for each token; a line for each retained audit record.
//!
//! A [`Catalog`] in memory is always consistent: numbers, names and hashes are unique and the audit
//! chain verifies. Decoding checks that once, so that no other code has to. Knows nothing of
//! commands or of the store.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem;
use core::str::Split;

use hashbrown::HashTable;
use optoken_hot_path::HashIndex;
use thiserror::Error;

use crate::audit::{AuditChain, BrokenChain, RETAINED_RECORDS};
use crate::former_secrets::FormerSecrets;
use crate::json_line::{LineReader, push_hash, push_number, push_string};
use crate::ports::Timestamp;
use crate::rotation::{ExpiringHash, Rotation};
use crate::token::TokenHash;
pub use crate::token_record::{OPERATOR, Source, TokenRecord};

/// The format this code writes, and the newest it reads.
pub const FORMAT: u32 = 3;

/// The oldest format this code reads. The next change of such a catalog writes [`FORMAT`].
const OLDEST_FORMAT: u32 = 1;

/// The most imported tokens that a catalog remembers as deleted; the oldest go first.
pub const MAX_TOMBSTONES: usize = 256;

/// The largest document that is decoded, in bytes. A full catalog with the longest names stays
/// below it. The limit bounds the memory of an instance on hosts that cannot.
pub const MAX_DOCUMENT_BYTES: usize = 6 << 20;

/// The most tokens of a catalog. A catalog is read and written whole, and the memory of an instance
/// has room for about three times as many.
pub const MAX_TOKENS: usize = 10_000;

/// The most bytes that permissions and descriptions of all tokens take up. With them and with the
/// longest names, a full catalog stays below [`MAX_DOCUMENT_BYTES`].
pub const MAX_SCOPE_BYTES: usize = 1 << 20;

/// The position of the hash of a [`Rotation`] in the index; no token has it.
const ROTATION_SLOT: usize = usize::MAX;

/// The secret that a hash belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretMatch<'a> {
    /// The current secret of a token.
    Current(&'a TokenRecord),
    /// The staged secret of the operator token.
    Staged(&'a ExpiringHash),
    /// The previous secret of the operator token.
    Previous(&'a ExpiringHash),
}

/// All tokens, in the order of their creation, with the rotation and the audit records.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The identifier; it never changes.
    id: Option<String>,
    next_id: u64,
    tokens: Vec<TokenRecord>,
    rotation: Rotation,
    /// The hashes of the imported tokens that were deleted, oldest first.
    tombstones: Vec<TokenHash>,
    former: FormerSecrets,
    audit: AuditChain,
    /// Positions in `tokens`, and [`ROTATION_SLOT`].
    by_hash: HashIndex,
}

impl Catalog {
    /// Reads a stored document of at most [`MAX_DOCUMENT_BYTES`].
    pub fn decode(document: &str) -> Result<Self, CatalogError> {
        let (format, header, mut lines) = read_header(document)?;
        let default_source = if format < 2 { Source::Import } else { Source::Command };
        let mut tokens = Vec::with_capacity(header.tokens.min(document.len() / SHORTEST_LINE));
        for _ in 0..header.tokens {
            let token = lines.next().and_then(|line| TokenRecord::read(line, default_source));
            tokens.push(token.ok_or(CatalogError::Malformed)?);
        }
        let audit = AuditChain::read(header.audit.as_deref(), lines)?;
        let Header { id, next_id, rotation, tombstones, former, .. } = header;
        // A catalog that has not recorded them knows none, unless there is none.
        let was_replaced = |token: &TokenRecord| token.is_operator() && token.updated_at.is_some();
        let former = match former {
            Some(former) => former,
            None if tokens.iter().any(was_replaced) => FormerSecrets::unknown(),
            None => FormerSecrets::default(),
        };
        Self { id, next_id, tokens, rotation, tombstones, former, audit, by_hash: HashIndex::default() }
            .validate_and_index()
    }

    /// Writes the document to store. Equal catalogs give equal bytes.
    pub fn encode(&self) -> String {
        // Moving a large text as it grows takes longer than writing it.
        let mut document = String::with_capacity((self.tokens.len() + RETAINED_RECORDS) * TYPICAL_LINE);
        document.push_str(BEFORE_FORMAT);
        push_number(&mut document, u64::from(FORMAT));
        document.push_str("}\n");
        let header = Header {
            id: self.id.clone(),
            next_id: self.next_id,
            tokens: self.tokens.len(),
            rotation: self.rotation,
            tombstones: self.tombstones.clone(),
            former: Some(self.former.clone()),
            audit: self.audit.head().map(|head| head.as_str().into()),
        };
        header.write(&mut document);
        for token in &self.tokens {
            token.write(&mut document);
        }
        for line in self.audit.lines() {
            document.push_str(line);
            document.push('\n');
        }
        document
    }

    /// Rebuilds the index; refuses an inconsistent catalog.
    fn validate_and_index(mut self) -> Result<Self, CatalogError> {
        let tokens = &self.tokens;
        let mut by_hash = HashIndex::with_capacity(tokens.len() + 1);
        let mut by_name = HashTable::with_capacity(tokens.len());
        let mut last_id = None;
        for (position, token) in tokens.iter().enumerate() {
            // Records are in the order of their creation, so rising numbers are unique numbers.
            if token.id >= self.next_id || last_id.is_some_and(|last| last >= token.id) {
                return Err(CatalogError::Inconsistent("token numbers repeat or run ahead"));
            }
            last_id = Some(token.id);
            if !by_hash.insert(token.hash, position) {
                return Err(TWO_HASHES);
            }
            let name = token.name.as_str();
            let bucket = name_bucket(name);
            if by_name.find(bucket, |other| *other == name).is_some() {
                return Err(TWO_NAMES);
            }
            by_name.insert_unique(bucket, name, |other| name_bucket(other));
        }
        drop(by_name);
        self.by_hash = by_hash;
        let (rotation, audit) = (self.rotation, self.take_audit());
        self.with_indexed_rotation(rotation, audit)
    }

    /// The identifier of the catalog, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// A catalog of these tokens.
    #[cfg(test)]
    pub(crate) fn of(
        next_id: u64,
        tokens: Vec<TokenRecord>,
        audit: AuditChain,
    ) -> Result<Self, CatalogError> {
        Self { next_id, tokens, audit, ..Self::default() }.validate_and_index()
    }

    /// All records, in the order of their creation.
    pub fn tokens(&self) -> &[TokenRecord] {
        &self.tokens
    }

    /// How many bytes the permissions and descriptions of all tokens take up, about.
    pub(crate) fn scope_bytes(&self) -> usize {
        self.tokens.iter().map(TokenRecord::scope_bytes).sum()
    }

    /// The rotation of the operator token, also past its deadline.
    pub fn rotation(&self) -> Rotation {
        self.rotation
    }

    /// The audit records, newest last.
    pub fn audit(&self) -> &AuditChain {
        &self.audit
    }

    /// Takes the audit records, for the next state of the catalog.
    pub(crate) fn take_audit(&mut self) -> AuditChain {
        mem::take(&mut self.audit)
    }

    /// The number of the next new token.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The record of the operator token, if there is one.
    pub fn operator(&self) -> Option<&TokenRecord> {
        self.named(OPERATOR)
    }

    /// The record with this name.
    pub fn named(&self, name: &str) -> Option<&TokenRecord> {
        self.tokens.iter().find(|token| token.name == name)
    }

    /// The record with this number.
    pub fn numbered(&self, id: u64) -> Option<&TokenRecord> {
        self.tokens.get(self.position(id).ok()?)
    }

    /// The secret that this hash belongs to. A miss costs as much as a hit.
    pub fn find(&self, hash: &TokenHash) -> Option<SecretMatch<'_>> {
        match (self.by_hash.find(hash)?, &self.rotation) {
            (ROTATION_SLOT, Rotation::Staged(staged)) => Some(SecretMatch::Staged(staged)),
            (ROTATION_SLOT, Rotation::Overlap(previous)) => Some(SecretMatch::Previous(previous)),
            (position, _) => self.tokens.get(position).map(SecretMatch::Current),
        }
    }

    /// The catalog with this identifier and these audit records.
    pub(crate) fn with_id(self, id: &str, audit: AuditChain) -> Self {
        Self { id: Some(id.into()), audit, ..self }
    }

    /// The catalog with one more token, of the next number, and these audit records.
    pub(crate) fn with_new(mut self, token: TokenRecord, audit: AuditChain) -> Result<Self, CatalogError> {
        self.next_id =
            self.next_id.checked_add(1).ok_or(CatalogError::Inconsistent("no token number is left"))?;
        if self.named(&token.name).is_some() || !self.by_hash.insert(token.hash, self.tokens.len()) {
            return Err(CatalogError::Inconsistent("the new token is there already"));
        }
        self.tokens.push(token);
        Ok(Self { audit, ..self })
    }

    /// The catalog with the record of `token`'s number replaced by it, this rotation and these
    /// audit records. A replaced secret of the operator token becomes a former one.
    pub(crate) fn with_changed(
        mut self,
        token: &TokenRecord,
        rotation: Rotation,
        audit: AuditChain,
    ) -> Result<Self, CatalogError> {
        let position = self.position(token.id)?;
        if self.named(&token.name).is_some_and(|other| other.id != token.id) {
            return Err(TWO_NAMES);
        }
        self.forget_rotation();
        let Some(old) = self.tokens.get_mut(position) else { return Err(NO_SUCH_TOKEN) };
        self.by_hash.remove(&old.hash);
        if !self.by_hash.insert(token.hash, position) {
            return Err(TWO_HASHES);
        }
        if old.is_operator() && old.hash != token.hash {
            self.former.push(&old.hash);
        }
        old.clone_from(token);
        self.with_indexed_rotation(rotation, audit)
    }

    /// The catalog with this rotation and these audit records.
    pub(crate) fn with_rotation(
        mut self,
        rotation: Rotation,
        audit: AuditChain,
    ) -> Result<Self, CatalogError> {
        self.forget_rotation();
        self.with_indexed_rotation(rotation, audit)
    }

    /// The catalog without this token, with these audit records.
    pub(crate) fn without(mut self, token: &TokenRecord, audit: AuditChain) -> Result<Self, CatalogError> {
        let removed = self.position(token.id)?;
        let token = self.tokens.remove(removed);
        self.by_hash.remove(&token.hash);
        self.by_hash.renumber(|position| {
            if position == ROTATION_SLOT || position < removed { position } else { position - 1 }
        });
        if token.source == Source::Import {
            if self.tombstones.len() >= MAX_TOMBSTONES {
                self.tombstones.remove(0);
            }
            self.tombstones.push(token.hash);
        }
        let rotation = self.rotation;
        self.forget_rotation();
        self.with_indexed_rotation(rotation, audit)
    }

    /// The place of the record with this number. Records are in the order of their numbers.
    fn position(&self, id: u64) -> Result<usize, CatalogError> {
        self.tokens.binary_search_by_key(&id, |token| token.id).map_err(|_| NO_SUCH_TOKEN)
    }

    /// Removes the hash of the rotation from the index.
    fn forget_rotation(&mut self) {
        if let Some(pending) = self.rotation.pending() {
            self.by_hash.remove(&pending.hash);
        }
    }

    /// The catalog with this rotation, whose hash the index lacks, and these audit records.
    fn with_indexed_rotation(mut self, rotation: Rotation, audit: AuditChain) -> Result<Self, CatalogError> {
        if let Some(pending) = rotation.pending()
            && !(self.by_hash.insert(pending.hash, ROTATION_SLOT) && self.operator().is_some())
        {
            return Err(IMPOSSIBLE_ROTATION);
        }
        Ok(Self { rotation, audit, ..self })
    }

    /// Whether a secret with this hash was revoked: that of an imported token by its deletion, that
    /// of the operator token by its replacement. A configuration that still has it must not bring
    /// it back.
    pub fn is_revoked(&self, hash: &TokenHash) -> bool {
        self.tombstones.contains(hash) || self.former.contains(hash)
    }

    /// The former secrets of the operator token.
    pub fn former_secrets(&self) -> &FormerSecrets {
        &self.former
    }

    /// The time of a decision on this catalog: that of the clock, but never before the newest
    /// record. So a clock that was set back revives nothing that has expired.
    pub fn not_before_newest(&self, now: Timestamp) -> Timestamp {
        now.max(self.audit.newest_at())
    }

    /// The tokens that were made with the previous secret of the operator token since its last
    /// replacement, and those made with them.
    pub fn made_with_previous_secret(&self) -> impl Iterator<Item = &TokenRecord> {
        let replaced_at = self.operator().and_then(|operator| operator.updated_at);
        self.tokens.iter().filter(move |token| {
            token.source == Source::PreviousSecret && replaced_at.is_some_and(|at| token.created_at >= at)
        })
    }
}

/// Reads the identifier and the audit records of a document, and no token. A store knows by them
/// whether a document continues an earlier one, and pays for no second reading of the whole.
pub fn read_identity(document: &str) -> Result<(Option<String>, AuditChain), CatalogError> {
    let (_, header, lines) = read_header(document)?;
    let audit = AuditChain::read(header.audit.as_deref(), lines.skip(header.tokens))?;
    Ok((header.id, audit))
}

/// Reads the format and the header. The remaining lines are those of the tokens and of the audit
/// records.
fn read_header(document: &str) -> Result<(u64, Header, Split<'_, char>), CatalogError> {
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(CatalogError::TooLarge { bytes: document.len() });
    }
    let (first, rest) = document.split_once('\n').unwrap_or((document, ""));
    let format = read_format(first).ok_or(CatalogError::Malformed)?;
    if !(u64::from(OLDEST_FORMAT)..=u64::from(FORMAT)).contains(&format) {
        return Err(CatalogError::UnknownFormat { found: format });
    }
    let mut lines = rest.strip_suffix('\n').ok_or(CatalogError::Malformed)?.split('\n');
    let header = lines.next().and_then(Header::read).ok_or(CatalogError::Malformed)?;
    Ok((format, header, lines))
}

impl PartialEq for Catalog {
    fn eq(&self, other: &Self) -> bool {
        // The index follows from the rest.
        (&self.id, self.next_id, &self.tokens, self.rotation, &self.tombstones, &self.former, &self.audit)
            == (
                &other.id,
                other.next_id,
                &other.tokens,
                other.rotation,
                &other.tombstones,
                &other.former,
                &other.audit,
            )
    }
}

impl Eq for Catalog {}

/// Why a stored document cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// The document exceeds [`MAX_DOCUMENT_BYTES`].
    #[error("the catalog document has {bytes} bytes, this version reads at most {MAX_DOCUMENT_BYTES}")]
    TooLarge {
        /// The size of the document.
        bytes: usize,
    },
    /// The document has another format: of a newer version of this software, or of another program.
    #[error(
        "the catalog has format {found}, this version reads formats 1 to {FORMAT}; a newer version may have written it"
    )]
    UnknownFormat {
        /// The format number of the document.
        found: u64,
    },
    /// The document is not the JSON that [`Catalog::encode`] writes. The text quotes nothing of it.
    #[error("the catalog is damaged: it is malformed")]
    Malformed,
    /// The document is well-formed, but its parts do not agree.
    #[error("the catalog is damaged: {0}")]
    Inconsistent(&'static str),
    /// The document is well-formed, but its audit records were altered.
    #[error("the catalog is damaged: {0}")]
    BrokenChain(#[from] BrokenChain),
}

const TWO_HASHES: CatalogError = CatalogError::Inconsistent("two tokens have one hash");
const TWO_NAMES: CatalogError = CatalogError::Inconsistent("two tokens have one name");
const NO_SUCH_TOKEN: CatalogError = CatalogError::Inconsistent("the token has gone missing");
const IMPOSSIBLE_ROTATION: CatalogError = CatalogError::Inconsistent("a rotation that cannot be");

/// The begin of the first line, up to the number of the format.
const BEFORE_FORMAT: &str = "{\"format\":";

/// The typical length of a line, in bytes.
const TYPICAL_LINE: usize = 256;

/// The length that every line of a token exceeds, in bytes.
const SHORTEST_LINE: usize = TokenHash::HEX_DIGITS;

fn read_format(line: &str) -> Option<u64> {
    let mut line = LineReader::new(line);
    line.literal(BEFORE_FORMAT)?;
    let format = line.number()?;
    line.literal("}")?;
    line.end().map(|()| format)
}

/// The second line.
struct Header {
    id: Option<String>,
    next_id: u64,
    /// The number of token lines that follow.
    tokens: usize,
    rotation: Rotation,
    tombstones: Vec<TokenHash>,
    /// `None` if the document does not have the field.
    former: Option<FormerSecrets>,
    /// The hash of the last line, which is the newest audit record.
    audit: Option<String>,
}

impl Header {
    fn read(line: &str) -> Option<Self> {
        let mut line = LineReader::new(line);
        line.literal("{\"next_id\":")?;
        let next_id = line.number()?;
        line.literal(",\"tokens\":")?;
        let tokens = line.number()?.try_into().ok()?;
        let id = line.optional(",\"id\":", LineReader::string)?;
        let rotation = match line.optional(STAGED, read_expiring)? {
            Some(staged) => Rotation::Staged(staged),
            None => line.optional(OVERLAP, read_expiring)?.map_or(Rotation::Idle, Rotation::Overlap),
        };
        let tombstones = line.optional(TOMBSTONES, read_hashes)?.unwrap_or_default();
        let former = FormerSecrets::read(&mut line)?;
        let audit = line.optional(",\"audit\":", LineReader::string)?;
        line.literal("}")?;
        line.end()?;
        Some(Self { id, next_id, tokens, rotation, tombstones, former, audit })
    }

    fn write(&self, document: &mut String) {
        document.push_str("{\"next_id\":");
        push_number(document, self.next_id);
        document.push_str(",\"tokens\":");
        push_number(document, self.tokens as u64);
        if let Some(id) = &self.id {
            document.push_str(",\"id\":");
            push_string(document, id);
        }
        let rotation = match &self.rotation {
            Rotation::Idle => None,
            Rotation::Staged(pending) => Some((STAGED, pending)),
            Rotation::Overlap(pending) => Some((OVERLAP, pending)),
        };
        if let Some((key, ExpiringHash { hash, expires_at })) = rotation {
            document.push_str(key);
            document.push_str("{\"hash\":");
            push_hash(document, hash);
            document.push_str(",\"until\":");
            push_number(document, *expires_at);
            document.push('}');
        }
        let mut separator = TOMBSTONES;
        for hash in &self.tombstones {
            document.push_str(separator);
            push_hash(document, hash);
            separator = ",";
        }
        if !self.tombstones.is_empty() {
            document.push(']');
        }
        if let Some(former) = &self.former {
            former.write(document);
        }
        if let Some(audit) = &self.audit {
            document.push_str(",\"audit\":");
            push_string(document, audit);
        }
        document.push_str("}\n");
    }
}

const STAGED: &str = ",\"staged\":";
const OVERLAP: &str = ",\"overlap\":";
const TOMBSTONES: &str = ",\"deleted_imports\":[";

/// Reads the hashes of a list that has one at least, after its begin.
fn read_hashes(line: &mut LineReader<'_>) -> Option<Vec<TokenHash>> {
    let mut hashes = Vec::new();
    loop {
        hashes.push(line.hash()?);
        if line.literal("]").is_some() {
            return Some(hashes);
        }
        line.literal(",")?;
    }
}

fn read_expiring(line: &mut LineReader<'_>) -> Option<ExpiringHash> {
    line.literal("{\"hash\":")?;
    let hash = line.hash()?;
    line.literal(",\"until\":")?;
    let expires_at = line.number()?;
    line.literal("}")?;
    Some(ExpiringHash { hash, expires_at })
}

/// FNV-1a. Admins choose the names and gain nothing from collisions.
fn name_bucket(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests;

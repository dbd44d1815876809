//! The record of one token, and its line in the stored document. Knows nothing of other tokens.

use alloc::string::String;

use crate::json_line::{LineReader, push_hash, push_number, push_string};
use crate::permission::Permissions;
use crate::ports::Timestamp;
use crate::token::TokenHash;

/// The longest description of a token, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 256;

/// The name of the operator token, exactly so (docs/compatibility.md 6.2).
pub const OPERATOR: &str = "_admin";

/// The record of one token (docs/compatibility.md 1.A, without the fields that are never set).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The number of the token, counted from 0 and never used twice.
    pub id: u64,
    /// Unique; [`OPERATOR`] for the operator token.
    pub name: String,
    /// The hash of the secret.
    pub hash: TokenHash,
    /// When the token was created or imported.
    pub created_at: Timestamp,
    /// When the token was last changed, if ever.
    pub updated_at: Option<Timestamp>,
    /// The number of the token that made that change.
    pub updated_by: Option<u64>,
    /// The first moment at which the token is refused; `None` for never
    /// (docs/compatibility.md 1.13).
    pub expiry: Option<Timestamp>,
    /// How the token was made.
    pub source: Source,
    /// What the token may do; `None` if it has all permissions.
    pub permissions: Option<Permissions>,
    /// What the token is for, in the words of its configuration.
    pub description: Option<String>,
}

/// How a token was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// With the current operator token, with a named token, or without a credential.
    #[default]
    Command,
    /// By an import. Every token of format 1 counts as imported: that format does not record it.
    Import,
    /// With the previous secret of the operator token, or with a token that was made with it.
    PreviousSecret,
}

impl TokenRecord {
    /// Whether this is the operator token.
    pub fn is_operator(&self) -> bool {
        self.name == OPERATOR
    }

    /// How many bytes permissions and description take up in the document, about.
    pub(crate) fn scope_bytes(&self) -> usize {
        // Of a description, each byte can need an escape.
        self.permissions.as_ref().map_or(0, Permissions::bytes)
            + self.description.as_ref().map_or(0, |text| text.len() * 2)
    }
}

impl TokenRecord {
    /// Reads a line; a line of a format without sources has this one.
    pub(crate) fn read(line: &str, default_source: Source) -> Option<Self> {
        let mut line = LineReader::new(line);
        line.literal("{\"id\":")?;
        let id = line.number()?;
        line.literal(",\"name\":")?;
        let name = line.string()?;
        line.literal(",\"hash\":")?;
        let hash = line.hash()?;
        line.literal(",\"created_at\":")?;
        let created_at = line.number()?;
        let updated_at = line.optional(",\"updated_at\":", LineReader::number)?;
        let updated_by = line.optional(",\"updated_by\":", LineReader::number)?;
        let expiry = line.optional(",\"expiry\":", LineReader::number)?;
        let source = if line.literal(IMPORTED).is_some() {
            Source::Import
        } else if line.literal(BY_PREVIOUS_SECRET).is_some() {
            Source::PreviousSecret
        } else {
            default_source
        };
        let permissions = Permissions::read(&mut line)?;
        let description = line.optional(DESCRIPTION, LineReader::string)?;
        line.literal("}")?;
        line.end()?;
        Some(Self {
            id,
            name,
            hash,
            created_at,
            updated_at,
            updated_by,
            expiry,
            source,
            permissions,
            description,
        })
    }

    /// Writes its line.
    pub(crate) fn write(&self, document: &mut String) {
        document.push_str("{\"id\":");
        push_number(document, self.id);
        document.push_str(",\"name\":");
        push_string(document, &self.name);
        document.push_str(",\"hash\":");
        push_hash(document, &self.hash);
        document.push_str(",\"created_at\":");
        push_number(document, self.created_at);
        let rest = [
            (",\"updated_at\":", self.updated_at),
            (",\"updated_by\":", self.updated_by),
            (",\"expiry\":", self.expiry),
        ];
        for (key, value) in rest {
            if let Some(value) = value {
                document.push_str(key);
                push_number(document, value);
            }
        }
        document.push_str(match self.source {
            Source::Command => "",
            Source::Import => IMPORTED,
            Source::PreviousSecret => BY_PREVIOUS_SECRET,
        });
        if let Some(permissions) = &self.permissions {
            permissions.write(document);
        }
        if let Some(description) = &self.description {
            document.push_str(DESCRIPTION);
            push_string(document, description);
        }
        document.push_str("}\n");
    }
}

const IMPORTED: &str = ",\"source\":\"import\"";
const BY_PREVIOUS_SECRET: &str = ",\"source\":\"previous_secret\"";
const DESCRIPTION: &str = ",\"description\":";

//! The table `system.tokens` of InfluxDB 3 Core (docs/compatibility.md 2.7).

use optoken_protocol::token::SHORT_HASH_DIGITS;

use crate::http::api::sql::instant::timestamp;
use crate::http::api::sql::table::{Column, ColumnKind, Table, Value};
use crate::token::TokenInfo;

/// The text of all permissions.
pub(crate) const ALL_PERMISSIONS: &str = "*:*:*";

/// The columns in their order.
const COLUMNS: [(&str, ColumnKind); 10] = [
    ("token_id", ColumnKind::UInt64),
    ("name", ColumnKind::Utf8),
    (HASH, ColumnKind::Utf8),
    ("created_at", ColumnKind::Timestamp),
    ("description", ColumnKind::Utf8),
    ("created_by_token_id", ColumnKind::UInt64),
    ("updated_at", ColumnKind::Timestamp),
    ("updated_by_token_id", ColumnKind::UInt64),
    ("expiry", ColumnKind::Timestamp),
    ("permissions", ColumnKind::Utf8),
];

/// The column of hashes, which is absent without authentication.
const HASH: &str = "hash";

/// Returns the part of a hash that listings show.
pub(crate) fn short_hash(sha512: &str) -> String {
    sha512.chars().take(SHORT_HASH_DIGITS).collect()
}

/// Returns the table of these tokens, with or without the column of hashes.
pub(crate) fn table(tokens: Vec<TokenInfo>, hashes: bool) -> Table {
    let columns = COLUMNS.iter().filter(|(name, _)| hashes || *name != HASH);
    Table {
        columns: columns.map(|(name, kind)| Column::new(name, *kind)).collect(),
        rows: tokens.into_iter().map(|token| row(token, hashes)).collect(),
    }
}

/// Returns the permissions as one text: all of them as such, others as a JSON array, like in
/// InfluxDB 3 Enterprise.
fn permissions_text(permissions: Option<&[String]>) -> String {
    match permissions {
        None => ALL_PERMISSIONS.to_owned(),
        Some(permissions) => serde_json::Value::from(permissions).to_string(),
    }
}

fn row(token: TokenInfo, hashes: bool) -> Vec<Value> {
    // SQLite has no larger integers.
    let id = |id: u64| Value::Integer(i64::try_from(id).unwrap_or(i64::MAX));
    let hash = hashes.then(|| Value::Text(short_hash(&token.sha512)));
    let at = |at| Value::Text(timestamp(at));
    [id(token.id), Value::Text(token.name)]
        .into_iter()
        .chain(hash)
        .chain([
            at(token.created_at),
            token.description.map_or(Value::Null, Value::Text),
            Value::Null,
            token.updated_at.map_or(Value::Null, at),
            token.updated_by.map_or(Value::Null, id),
            token.expiry.map_or(Value::Null, at),
            Value::Text(permissions_text(token.permissions.as_deref())),
        ])
        .collect()
}

//! The table `system.tokens`, in the formats of InfluxDB 3 Core (docs/compatibility.md 2.7).
//!
//! The formats look like those of Apache Arrow. Knows nothing of HTTP but their media types.

use comfy_table::Table;
use optoken_protocol::media_type::{JSON, JSONL, TEXT};
use optoken_protocol::timestamp::rfc3339;
use optoken_protocol::token::SHORT_HASH_DIGITS;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::token::{Timestamp, TokenInfo};

/// The permissions of every token: all.
pub(crate) const PERMISSIONS: &str = "*:*:*";

/// The borders of a table of Arrow, as a preset of `comfy_table`.
const ARROW_PRESET: &str = "||--+-++|    ++++++";

/// A format of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// An array of objects.
    Json,
    /// One object a line.
    Jsonl,
    /// RFC 4180, with a header row.
    Csv,
    /// A table with borders, for a terminal.
    Pretty,
}

impl Format {
    pub(crate) const ALL: [Self; 4] = [Self::Json, Self::Jsonl, Self::Csv, Self::Pretty];

    /// Returns the format of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        // An alias, like in InfluxDB 3 Core.
        let name = if name == "json_lines" { "jsonl" } else { name };
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Pretty => "pretty",
        }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Jsonl => JSONL,
            Self::Csv => "text/csv",
            Self::Pretty => TEXT,
        }
    }
}

/// A row, with the columns in their order. JSON leaves out those that are null.
#[derive(Serialize, ToSchema)]
pub(crate) struct Row {
    token_id: u64,
    name: String,
    /// The first nine hexadecimal digits of the SHA-512 of the token. Absent if the server runs
    /// without authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{9}$")]
    hash: Option<String>,
    /// When the token was created, in UTC without a suffix, like all times of the table.
    created_at: String,
    /// Always null.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    description: Option<String>,
    /// Always null.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    created_by_token_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    updated_by_token_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expiry: Option<String>,
    permissions: &'static str,
}

/// The columns in their order.
const COLUMNS: [&str; 10] = [
    "token_id",
    "name",
    HASH,
    "created_at",
    "description",
    "created_by_token_id",
    "updated_at",
    "updated_by_token_id",
    "expiry",
    "permissions",
];
const HASH: &str = "hash";

/// Returns the part of a hash that listings show.
pub(crate) fn short_hash(sha512: &str) -> String {
    sha512.chars().take(SHORT_HASH_DIGITS).collect()
}

/// Renders all tokens, with or without the column of hashes.
pub(crate) fn render(
    tokens: Vec<TokenInfo>,
    hashes: bool,
    format: Format,
) -> Result<String, serde_json::Error> {
    let rows: Vec<_> = tokens.into_iter().map(|token| row(token, hashes)).collect();
    let columns: Vec<_> = COLUMNS.into_iter().filter(|column| hashes || *column != HASH).collect();
    match format {
        Format::Json => serde_json::to_string(&rows),
        Format::Jsonl => rows.iter().map(|row| Ok(serde_json::to_string(row)? + "\n")).collect(),
        Format::Csv => {
            let line = |cells: Vec<String>| {
                cells.iter().map(|cell| csv_field(cell)).collect::<Vec<_>>().join(",") + "\n"
            };
            let head = line(columns.iter().map(ToString::to_string).collect());
            rows.iter().try_fold(head, |lines, row| Ok(lines + &line(cells(row, &columns)?)))
        }
        Format::Pretty => {
            let mut table = Table::new();
            table.load_preset(ARROW_PRESET).set_header(&columns);
            for row in &rows {
                table.add_row(cells(row, &columns)?);
            }
            Ok(table.to_string())
        }
    }
}

fn row(token: TokenInfo, hashes: bool) -> Row {
    Row {
        token_id: token.id,
        hash: hashes.then(|| short_hash(&token.sha512)),
        name: token.name,
        created_at: timestamp(token.created_at),
        description: None,
        created_by_token_id: None,
        updated_at: token.updated_at.map(timestamp),
        updated_by_token_id: token.updated_by,
        expiry: token.expiry.map(timestamp),
        permissions: PERMISSIONS,
    }
}

/// Returns a timestamp as Arrow writes it without a time zone.
fn timestamp(at: Timestamp) -> String {
    rfc3339(at).trim_end_matches('Z').to_owned()
}

/// Returns the cells of a row. A null is empty.
fn cells(row: &Row, columns: &[&str]) -> Result<Vec<String>, serde_json::Error> {
    let row = serde_json::to_value(row)?;
    let cell = |column: &&str| match row.get(column) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Ok(columns.iter().map(cell).collect())
}

/// Returns a field of RFC 4180, quoted only if necessary.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenSource;

    fn tokens() -> Vec<TokenInfo> {
        let token = |id, name: &str, expiry| TokenInfo {
            id,
            name: name.to_owned(),
            sha512: format!("{id}123456789abcdef").repeat(8),
            created_at: 1_744_984_965_331 + id,
            updated_at: None,
            updated_by: None,
            expiry,
            source: TokenSource::Command,
        };
        vec![
            // Regenerated, in a whole second.
            TokenInfo {
                updated_at: Some(1_744_984_966_000),
                updated_by: Some(0),
                ..token(0, "_admin", None)
            },
            token(1, "a, \"b\" – Zürich 東京", None),
            // Expired.
            token(2, "two\nlines", Some(1_744_984_965_339)),
            token(3, "late", Some(u64::MAX)),
        ]
    }

    #[test]
    fn formats_match_arrow() {
        for (format, hashes, expected) in [
            (
                Format::Json,
                true,
                concat!(
                    r#"[{"token_id":0,"name":"_admin","hash":"012345678","created_at":"2025-04-18T14:02:45.331","updated_at":"2025-04-18T14:02:46","updated_by_token_id":0,"permissions":"*:*:*"},"#,
                    r#"{"token_id":1,"name":"a, \"b\" – Zürich 東京","hash":"112345678","created_at":"2025-04-18T14:02:45.332","permissions":"*:*:*"},"#,
                    r#"{"token_id":2,"name":"two\nlines","hash":"212345678","created_at":"2025-04-18T14:02:45.333","expiry":"2025-04-18T14:02:45.339","permissions":"*:*:*"},"#,
                    r#"{"token_id":3,"name":"late","hash":"312345678","created_at":"2025-04-18T14:02:45.334","expiry":"9999-12-31T23:59:59.999","permissions":"*:*:*"}]"#,
                ),
            ),
            (
                Format::Jsonl,
                false,
                concat!(
                    r#"{"token_id":0,"name":"_admin","created_at":"2025-04-18T14:02:45.331","updated_at":"2025-04-18T14:02:46","updated_by_token_id":0,"permissions":"*:*:*"}"#,
                    "\n",
                    r#"{"token_id":1,"name":"a, \"b\" – Zürich 東京","created_at":"2025-04-18T14:02:45.332","permissions":"*:*:*"}"#,
                    "\n",
                    r#"{"token_id":2,"name":"two\nlines","created_at":"2025-04-18T14:02:45.333","expiry":"2025-04-18T14:02:45.339","permissions":"*:*:*"}"#,
                    "\n",
                    r#"{"token_id":3,"name":"late","created_at":"2025-04-18T14:02:45.334","expiry":"9999-12-31T23:59:59.999","permissions":"*:*:*"}"#,
                    "\n",
                ),
            ),
            (
                Format::Csv,
                true,
                "\
token_id,name,hash,created_at,description,created_by_token_id,updated_at,updated_by_token_id,expiry,permissions
0,_admin,012345678,2025-04-18T14:02:45.331,,,2025-04-18T14:02:46,0,,*:*:*
1,\"a, \"\"b\"\" – Zürich 東京\",112345678,2025-04-18T14:02:45.332,,,,,,*:*:*
2,\"two
lines\",212345678,2025-04-18T14:02:45.333,,,,,2025-04-18T14:02:45.339,*:*:*
3,late,312345678,2025-04-18T14:02:45.334,,,,,9999-12-31T23:59:59.999,*:*:*
",
            ),
            (
                Format::Csv,
                false,
                "\
token_id,name,created_at,description,created_by_token_id,updated_at,updated_by_token_id,expiry,permissions
0,_admin,2025-04-18T14:02:45.331,,,2025-04-18T14:02:46,0,,*:*:*
1,\"a, \"\"b\"\" – Zürich 東京\",2025-04-18T14:02:45.332,,,,,,*:*:*
2,\"two
lines\",2025-04-18T14:02:45.333,,,,,2025-04-18T14:02:45.339,*:*:*
3,late,2025-04-18T14:02:45.334,,,,,9999-12-31T23:59:59.999,*:*:*
",
            ),
            (
                Format::Pretty,
                true,
                r#"+----------+----------------------+-----------+-------------------------+-------------+---------------------+---------------------+---------------------+-------------------------+-------------+
| token_id | name                 | hash      | created_at              | description | created_by_token_id | updated_at          | updated_by_token_id | expiry                  | permissions |
+----------+----------------------+-----------+-------------------------+-------------+---------------------+---------------------+---------------------+-------------------------+-------------+
| 0        | _admin               | 012345678 | 2025-04-18T14:02:45.331 |             |                     | 2025-04-18T14:02:46 | 0                   |                         | *:*:*       |
| 1        | a, "b" – Zürich 東京 | 112345678 | 2025-04-18T14:02:45.332 |             |                     |                     |                     |                         | *:*:*       |
| 2        | two                  | 212345678 | 2025-04-18T14:02:45.333 |             |                     |                     |                     | 2025-04-18T14:02:45.339 | *:*:*       |
|          | lines                |           |                         |             |                     |                     |                     |                         |             |
| 3        | late                 | 312345678 | 2025-04-18T14:02:45.334 |             |                     |                     |                     | 9999-12-31T23:59:59.999 | *:*:*       |
+----------+----------------------+-----------+-------------------------+-------------+---------------------+---------------------+---------------------+-------------------------+-------------+"#,
            ),
        ] {
            assert_eq!(render(tokens(), hashes, format).unwrap(), expected, "{format:?}");
        }
    }

    #[test]
    fn empty_table_has_a_header() {
        let head = "token_id,name,hash,created_at,description,created_by_token_id,updated_at,updated_by_token_id,expiry,\
                    permissions\n";
        for (format, expected) in [(Format::Json, "[]"), (Format::Jsonl, ""), (Format::Csv, head)] {
            assert_eq!(render(Vec::new(), true, format).unwrap(), expected, "{format:?}");
        }
    }

    #[test]
    fn format_names_match_influxdb() {
        for (name, format) in [
            ("json", Some(Format::Json)),
            ("jsonl", Some(Format::Jsonl)),
            ("json_lines", Some(Format::Jsonl)),
            ("csv", Some(Format::Csv)),
            ("pretty", Some(Format::Pretty)),
            ("parquet", None),
            ("JSON", None),
            ("", None),
        ] {
            assert_eq!(Format::from_name(name), format, "{name:?}");
        }
    }
}

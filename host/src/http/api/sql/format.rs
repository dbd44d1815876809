//! Writes a table in the formats of InfluxDB 3 Core (docs/compatibility.md 2.7).
//!
//! The formats look like those of Apache Arrow. Knows nothing of HTTP but their media types.

use comfy_table::Table as Printed;
use optoken_protocol::media_type::{JSON, JSONL, TEXT};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::parquet;
use super::table::{Table, Value};
use crate::http::query_error::QueryError;

/// The borders of a table of Arrow, as a preset of `comfy_table`.
const ARROW_PRESET: &str = "||--+-++|    ++++++";

/// The most characters of a printed table. Its columns are as wide as their longest value.
const MAX_PRINTED: usize = 16 << 20;

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
    /// A file of Apache Parquet.
    Parquet,
}

impl Format {
    pub(crate) const ALL: [Self; 5] = [Self::Json, Self::Jsonl, Self::Csv, Self::Pretty, Self::Parquet];

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
            Self::Parquet => "parquet",
        }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Jsonl => JSONL,
            Self::Csv => "text/csv",
            Self::Pretty => TEXT,
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Writes a table.
pub(super) fn render(table: &Table, format: Format) -> Result<Vec<u8>, QueryError> {
    Ok(match format {
        Format::Json => json(&objects(table).collect::<Vec<_>>())?,
        Format::Jsonl => {
            let mut lines = Vec::new();
            for object in objects(table) {
                lines.extend(json(&object)?);
                lines.push(b'\n');
            }
            lines
        }
        Format::Csv => {
            let head = csv_line(table.columns.iter().map(|column| column.name.clone()));
            let lines = table.rows.iter().map(|row| csv_line(row.iter().map(Value::cell)));
            [head].into_iter().chain(lines).collect::<String>().into_bytes()
        }
        Format::Pretty => pretty(table)?.into_bytes(),
        Format::Parquet => parquet::file(table),
    })
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, QueryError> {
    serde_json::to_vec(value).map_err(|error| QueryError::new(error.to_string()))
}

/// A row as a JSON object, which leaves out a null.
struct Object<'a> {
    table: &'a Table,
    row: &'a [Value],
}

fn objects(table: &Table) -> impl Iterator<Item = Object<'_>> {
    table.rows.iter().map(move |row| Object { table, row })
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (column, value) in self.table.columns.iter().zip(self.row) {
            match value {
                Value::Null => {}
                Value::Integer(number) => map.serialize_entry(&column.name, number)?,
                Value::Real(number) => map.serialize_entry(&column.name, number)?,
                Value::Text(text) => map.serialize_entry(&column.name, text)?,
            }
        }
        map.end()
    }
}

fn csv_line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<_> = cells.map(|cell| csv_field(&cell)).collect();
    // A line without a character would be no row.
    if cells == [""] { "\"\"\n".to_owned() } else { cells.join(",") + "\n" }
}

/// Returns a field of RFC 4180, quoted only if necessary.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn pretty(table: &Table) -> Result<String, QueryError> {
    if printed_size(table) > MAX_PRINTED {
        return Err(QueryError::new(
            "the result is too wide for the format pretty: select fewer columns, or ask for json",
        ));
    }
    let mut printed = Printed::new();
    printed.load_preset(ARROW_PRESET).set_header(table.columns.iter().map(|column| &column.name));
    for row in &table.rows {
        printed.add_row(row.iter().map(Value::cell));
    }
    Ok(printed.to_string())
}

/// Returns an upper limit for the characters of a printed table.
fn printed_size(table: &Table) -> usize {
    let mut widths: Vec<usize> = table.columns.iter().map(|column| column.name.len()).collect();
    let mut lines = 4;
    for row in &table.rows {
        let mut height = 1;
        for (value, width) in row.iter().zip(&mut widths) {
            let cell = value.cell();
            *width = cell.split('\n').map(str::len).max().unwrap_or_default().max(*width);
            height = cell.split('\n').count().max(height);
        }
        lines += height;
    }
    // Each cell has borders and a space at both ends.
    lines.saturating_mul(widths.iter().map(|width| width + 3).sum::<usize>() + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::system_tokens;
    use crate::token::{TokenInfo, TokenSource};

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
            permissions: None,
            description: None,
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
            let rendered = render(&system_tokens::table(tokens(), hashes), format).unwrap();
            assert_eq!(String::from_utf8(rendered).unwrap(), expected, "{format:?}");
        }
    }

    #[test]
    fn empty_table_has_a_header() {
        let head = "token_id,name,hash,created_at,description,created_by_token_id,updated_at,updated_by_token_id,expiry,\
                    permissions\n";
        for (format, expected) in [(Format::Json, "[]"), (Format::Jsonl, ""), (Format::Csv, head)] {
            let rendered = render(&system_tokens::table(Vec::new(), true), format).unwrap();
            assert_eq!(rendered, expected.as_bytes(), "{format:?}");
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
            ("parquet", Some(Format::Parquet)),
            ("JSON", None),
            ("", None),
        ] {
            assert_eq!(Format::from_name(name), format, "{name:?}");
        }
    }
}

//! The file of `--permission-tokens-file`: many tokens with permissions, in the form of InfluxDB 3
//! Enterprise (docs/compatibility.md 5.6).
//!
//! Knows the form of the file. Nothing here makes or imports a token.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::cli::token_file::{read_secret_up_to, without_mark};
use crate::private_file::ownership::trust_file_at;
use crate::token::Timestamp;

/// The size limit of the file, in bytes. A catalog holds a mebibyte of permissions.
pub(crate) const MAX_BYTES: usize = 4 << 20;

const TOKENS: &str = "tokens";

const DATABASES: &str = "create_databases";

/// The content of the file.
#[derive(Deserialize)]
pub(crate) struct PermissionFile {
    /// Databases, which InfluxDB creates at its start. Nothing is done with them here.
    pub(crate) create_databases: Option<IgnoredAny>,
    pub(crate) tokens: Vec<Entry>,
}

/// A token of the file. Other fields are ignored, as InfluxDB does.
#[derive(Deserialize)]
pub(crate) struct Entry {
    pub(crate) token: Option<String>,
    pub(crate) token_sha512: Option<String>,
    pub(crate) name: String,
    /// Each `TYPE:NAMES:ACTIONS`.
    pub(crate) permissions: Vec<String>,
    pub(crate) description: Option<String>,
    /// Milliseconds since the epoch.
    pub(crate) expiry_millis: Option<i64>,
}

/// A token to add to the file.
pub(crate) struct NewEntry<'a> {
    pub(crate) token: &'a str,
    pub(crate) name: &'a str,
    pub(crate) permissions: &'a [String],
    pub(crate) expiry_millis: Option<Timestamp>,
}

impl PermissionFile {
    /// Parses the text of the file. The error quotes nothing of it.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        serde_json::from_str(without_mark(text)).map_err(|error| {
            let expected = if error.is_data() {
                "\"tokens\" is a list of objects, each with \"name\", \"permissions\" (a list of strings), and \"token\" or \
                 \"token_sha512\", and perhaps \"description\" and \"expiry_millis\", which is a whole number"
            } else {
                "it is not JSON"
            };
            anyhow!("{expected} (line {}, column {})", error.line(), error.column())
        })
    }
}

/// Returns the content of the file with another token and further databases. A file that is not
/// there yet is empty. Everything in the file stays as it is.
pub(crate) fn with_entry(
    path: &Path,
    entry: &NewEntry<'_>,
    databases: &[String],
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let failed = || format!("cannot add a token to {}", path.display());
    let existing = read(path).with_context(failed)?;
    let mut fields = Map::new();
    if let Some(text) = &existing {
        let file = PermissionFile::parse(text)
            .context("it is there already, and is no file for --permission-tokens-file")
            .with_context(failed)?;
        ensure!(
            file.tokens.iter().all(|token| token.name != entry.name),
            "{} has a token named {:?} already; choose another --name, or remove that token from the file",
            path.display(),
            entry.name
        );
        fields = serde_json::from_str(without_mark(text)).with_context(failed)?;
    }
    let list = |fields: &mut Map<String, Value>, name: &str| match fields.remove(name) {
        Some(Value::Array(values)) => values,
        _ => Vec::new(),
    };
    if !databases.is_empty() {
        let mut values = list(&mut fields, DATABASES);
        for database in databases.iter().map(|name| Value::from(name.as_str())) {
            if !values.contains(&database) {
                values.push(database);
            }
        }
        fields.insert(DATABASES.to_owned(), values.into());
    }
    let NewEntry { token, name, permissions, expiry_millis } = entry;
    let mut added = Map::<String, Value>::new();
    added.insert("token".to_owned(), (*token).into());
    added.insert("name".to_owned(), (*name).into());
    added.extend(expiry_millis.map(|expiry| ("expiry_millis".to_owned(), expiry.into())));
    added.insert("permissions".to_owned(), (*permissions).into());
    let mut tokens = list(&mut fields, TOKENS);
    tokens.push(added.into());
    fields.insert(TOKENS.to_owned(), tokens.into());
    // A buffer that grows leaves copies of the tokens in memory.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * MAX_BYTES));
    serde_json::to_writer_pretty(&mut *content, &fields)?;
    content.push(b'\n');
    ensure!(
        content.len() <= MAX_BYTES,
        "{} would have more than {MAX_BYTES} bytes, and no server would read it; use another file",
        path.display()
    );
    Ok(content)
}

/// Reads the file; `None` if it is not there.
fn read(path: &Path) -> anyhow::Result<Option<Zeroizing<String>>> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    trust_file_at(path)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is not a regular file");
    ensure!(metadata.len() <= MAX_BYTES as u64, "it has more than {MAX_BYTES} bytes");
    Ok(Some(read_secret_up_to(&file, MAX_BYTES)?))
}

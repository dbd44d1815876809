//! `--admin-token-file`: imports a preconfigured token when the server starts
//! (docs/compatibility.md 5.4).
//!
//! The file holds the token or, better, only its hash. InfluxDB accepts a file that other users can
//! read, a token that is easy to guess, and a file that differs from the catalog. Here the first
//! two are errors, and the third causes a warning.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use optoken_protocol::token::PREFIX;
use serde::Deserialize;
use serde_json::error::Category;

use crate::authority::Authority;
use crate::cli::token_file::{MAX_BYTES, read_secret, without_mark};
use crate::private_file::ownership::{Readers, readers_of, trust_owner, trust_path};
use crate::private_file::{Mode, identity};
use crate::program;
use crate::secret::Secret;
use crate::token::{ImportOutcome, OPERATOR, now};

/// The content of the file. Other fields are ignored, as InfluxDB does.
#[derive(Deserialize)]
struct TokenFile {
    token: Option<String>,
    token_sha512: Option<String>,
    name: String,
    /// Milliseconds since the epoch.
    expiry_millis: Option<i64>,
}

/// Imports the token of the file, unless a token of its name exists. After an error the server must
/// not start.
pub(crate) fn import(authority: &Authority, path: &Path) -> anyhow::Result<()> {
    tracing::info!("Initializing admin token from file: {}", path.display());
    let TokenFile { token, token_sha512, name, expiry_millis } = read(path)?;
    tracing::info!("Loaded admin token from file, name: {name}");

    let origin = format!("file {}", path.display());
    // A token that expired before 1970 is as expired as one of 1970.
    let expiry = expiry_millis.map(|at| u64::try_from(at).unwrap_or(0));
    let imported = match (token.map(Secret::from), token_sha512) {
        (Some(token), None) => authority.import_token(&name, &token, expiry, &origin)?,
        (None, Some(sha512)) => authority.import_hash(&name, &sha512, expiry, &origin)?,
        (Some(_), Some(_)) => bail!("it has both \"token\" and \"token_sha512\": remove one of them"),
        (None, None) => bail!("it has neither \"token\" nor \"token_sha512\""),
    };
    let token = match imported {
        ImportOutcome::Created(token) => {
            tracing::info!("Admin token '{name}' initialized from file");
            token
        }
        ImportOutcome::Unchanged(token) => {
            tracing::info!("Admin token '{name}' already exists, skipping initialization");
            token
        }
        ImportOutcome::Different(token) => {
            tracing::warn!(
                "Admin token '{name}' already exists with another secret, skipping initialization: the token of the file \
                 is not accepted; if it was replaced since, omit --admin-token-file or update the file"
            );
            token
        }
        ImportOutcome::Revoked => {
            tracing::warn!(
                "Admin token '{name}' was accepted before and then revoked, skipping initialization: the token of the file \
                 is not accepted; omit --admin-token-file, or put a new token into the file"
            );
            return Ok(());
        }
    };
    match token.expiry {
        Some(expiry) if expiry <= now() => {
            tracing::warn!("Admin token '{name}' has expired and is not accepted");
        }
        Some(_) if token.name == OPERATOR => tracing::warn!(
            "the operator token expires; replacing it does not change that, and only token recovery and other admin tokens \
             work afterwards"
        ),
        _ => {}
    }
    if expiry.is_some_and(|wanted| token.expiry != Some(wanted)) {
        tracing::warn!("Admin token '{name}' keeps the expiry that it has, not that of the file");
    }
    Ok(())
}

/// Does what [`import`] does, while the server runs. After an error the tokens are as they were.
pub(crate) fn reload(authority: &Authority, path: &Path) -> anyhow::Result<()> {
    import(authority, path).with_context(|| format!("cannot use {} (--admin-token-file)", path.display()))
}

/// Returns whether a file holds a token as client commands read it.
fn is_token_alone(text: &str) -> bool {
    without_mark(text).trim_start().starts_with(PREFIX)
}

fn read(path: &Path) -> anyhow::Result<TokenFile> {
    let trusted = trust_path(path).context("Failed to read admin token file")?;
    // A pipe is not opened: it may have no writer.
    if let Some(metadata) = &trusted.metadata {
        ensure!(metadata.is_file(), "Failed to read admin token file: it is not a regular file");
        trust_owner(&trusted.path, metadata).context("Failed to read admin token file")?;
    }
    let file = File::open(&trusted.path).context("Failed to read admin token file")?;
    let metadata = file.metadata().context("Failed to read admin token file metadata")?;
    ensure!(metadata.is_file(), "Failed to read admin token file: it is not a regular file");
    ensure!(
        trusted.metadata.is_some_and(|checked| identity(&checked) == identity(&metadata)),
        "Failed to read admin token file: another file has replaced it meanwhile"
    );
    ensure!(
        metadata.len() <= MAX_BYTES as u64,
        "Failed to read admin token file: it has more than {MAX_BYTES} bytes"
    );
    let text = read_secret(&file).context("Failed to read admin token file")?;
    // The message of serde quotes the file.
    let parsed: TokenFile = serde_json::from_str(without_mark(&text)).map_err(|error| {
        let expected = match error.classify() {
            Category::Data => {
                "it must have \"name\" and \"token\" or \"token_sha512\", which are strings, and may have \"expiry_millis\", \
                 which is a whole number"
            }
            _ if is_token_alone(&text) => {
                "it is a token alone, and not JSON; `hash token` makes a file with the hash of a token"
            }
            _ => "it is not JSON",
        };
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!(
            "Failed to parse admin token file as JSON: {expected} (line {line}, column {column})"
        )
    })?;

    let mode = Mode::of(&metadata);
    let path = path.display();
    ensure!(
        !mode.is_writable_by_others(),
        "Admin token file has insecure permissions: {mode:o}. Others can change it; run: chmod go-w {path}"
    );
    ensure!(
        readers_of(&metadata) != Readers::Others || parsed.token.is_none(),
        "Admin token file has insecure permissions: {mode:o}. Others can read the token; run: chmod 0600 {path}\n\
         In Kubernetes, set defaultMode: 0440 for the secret, and fsGroup to a group of the server.\n\
         Where its mode cannot be changed, use a file with the hash of this token instead, which is no secret. To make \
         it, run: {} hash token --token-file {path} --output-file hash.json",
        program::name()
    );
    Ok(parsed)
}

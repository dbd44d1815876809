//! `--admin-token-file`: takes in a token that was made elsewhere, when the server starts (COMPAT 5.4).
//!
//! The file holds the token itself or, better, only its hash. Where InfluxDB warns or keeps silent, a file that gives the
//! token away, a token that can be guessed and a change that is not followed are refused or reported.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::error::Category;
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::private_file::Mode;
use crate::secret::Secret;
use crate::token::{ImportOutcome, OPERATOR, now};

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// The content of the file. Other fields are ignored, as they always were.
#[derive(Deserialize)]
struct TokenFile {
    token: Option<String>,
    token_sha512: Option<String>,
    name: String,
    /// Milliseconds since the epoch.
    expiry_millis: Option<i64>,
}

/// Takes the token of the file in, unless there is one of its name. An error means that the server must not start.
pub(crate) fn preset(authority: &Authority, path: &Path) -> anyhow::Result<()> {
    tracing::info!("Initializing admin token from file: {}", path.display());
    let TokenFile { token, token_sha512, name, expiry_millis } = read(path)?;
    tracing::info!("Loaded admin token from file, name: {name}");

    let origin = format!("file {}", path.display());
    // A time before 1970 is as past as 1970.
    let expiry = expiry_millis.map(|at| u64::try_from(at).unwrap_or(0));
    let preset = match (token.map(Secret::from), token_sha512) {
        (Some(token), None) => authority.import_token(&name, &token, expiry, &origin)?,
        (None, Some(sha512)) => authority.import_hash(&name, &sha512, expiry, &origin)?,
        (Some(_), Some(_)) => bail!("it has both \"token\" and \"token_sha512\": leave one of them out"),
        (None, None) => bail!("it has neither \"token\" nor \"token_sha512\""),
    };
    match &preset {
        ImportOutcome::Created(_) => tracing::info!("Admin token '{name}' initialized from file"),
        ImportOutcome::Unchanged(_) => {
            tracing::info!("Admin token '{name}' already exists, skipping initialization");
        }
        ImportOutcome::Different(_) => tracing::warn!(
            "Admin token '{name}' already exists with another secret, skipping initialization: the token of the file is \
             not accepted; if it was replaced since, leave --admin-token-file out or bring the file up to date"
        ),
    }
    let (ImportOutcome::Created(token) | ImportOutcome::Unchanged(token) | ImportOutcome::Different(token)) =
        preset;
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
    // What was asked for differs from what holds.
    if expiry.is_some_and(|asked| token.expiry.is_none_or(|holds| holds != asked)) {
        tracing::warn!("Admin token '{name}' keeps the expiry that it has, not that of the file");
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<TokenFile> {
    let file = File::open(path).context("Failed to read admin token file")?;
    let metadata = file.metadata().context("Failed to read admin token file metadata")?;
    ensure!(metadata.is_file(), "Failed to read admin token file: it is not a regular file");
    ensure!(
        metadata.len() <= MAX_BYTES as u64,
        "Failed to read admin token file: it has more than {MAX_BYTES} bytes"
    );
    // As long as it can get, so that no copy is left behind where it grows.
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES + 1));
    file.take(MAX_BYTES as u64).read_to_string(&mut text).context("Failed to read admin token file")?;
    // Without serde's own text, which quotes what it found.
    let parsed: TokenFile = serde_json::from_str(&text).map_err(|error| {
        let wanted = match error.classify() {
            Category::Data => {
                "it must have \"name\" and \"token\" or \"token_sha512\", which are strings, and may have \"expiry_millis\", \
                 which is a whole number"
            }
            _ => "it is not JSON",
        };
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!(
            "Failed to parse admin token file as JSON: {wanted} (line {line}, column {column})"
        )
    })?;

    let mode = Mode::of(&metadata);
    let path = path.display();
    ensure!(
        !mode.is_writable_by_others(),
        "Admin token file has insecure permissions: {mode:o}. Others can change it; run: chmod go-w {path}"
    );
    ensure!(
        mode.is_private() || parsed.token.is_none(),
        "Admin token file has insecure permissions: {mode:o}. Others can read the token; run: chmod 0600 {path}\n\
         Where its mode cannot be changed, give the hash instead: influxdb3 create token --admin --offline --output-file FILE \
         --hash-file FILE"
    );
    Ok(parsed)
}

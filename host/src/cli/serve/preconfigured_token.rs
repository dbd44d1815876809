//! `--admin-token-file`: imports a preconfigured token when the server starts
//! (docs/compatibility.md 5.4). A new secret in the file of a running server replaces the operator
//! token.
//!
//! The file holds the token or, better, only its hash. InfluxDB accepts a file that other users can
//! read, a token that is easy to guess, and a file that differs from the catalog. Here the first
//! two are errors, and the third causes a warning.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
use crate::token::{ConfiguredToken, ImportOutcome, OPERATOR, ReplaceOutcome, now};
use crate::visible_text::escape;

/// The content of the file. Other fields are ignored, as InfluxDB does.
#[derive(Deserialize)]
struct TokenFile {
    token: Option<String>,
    token_sha512: Option<String>,
    name: String,
    /// Milliseconds since the epoch.
    expiry_millis: Option<i64>,
}

/// What reading the file again has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// The file has the token that it had.
    Same,
    /// The file has another token, or was read because of a signal. The log states what became of
    /// it.
    Read,
    /// The operator token was replaced by that of the file.
    Replaced,
}

/// The token of the file, and the operator secret that the file had.
#[derive(Debug)]
pub(crate) struct PreconfiguredToken {
    path: PathBuf,
    /// How long a replaced operator token is still accepted, in seconds.
    overlap_seconds: u64,
    /// The SHA-512 of the newest operator secret of the file that was the current one.
    current: Option<String>,
    /// The name, and the SHA-512 of the secret, of the token that was read last.
    last_read: Option<(String, String)>,
}

impl PreconfiguredToken {
    /// Imports the token of the file, unless a token of its name exists. After an error the server
    /// must not start.
    pub(crate) fn import(authority: &Authority, path: PathBuf, overlap_seconds: u64) -> anyhow::Result<Self> {
        tracing::info!("Initializing admin token from file: {}", path.display());
        let mut this = Self { path, overlap_seconds, current: None, last_read: None };
        this.apply(authority, true)?;
        Ok(this)
    }

    /// Reads the file again while the server runs. A new secret replaces the operator token, if
    /// that still has the earlier secret of the file. After an error the tokens are as they were.
    /// Without a signal, a file that has the same token is left alone.
    pub(crate) fn reload(&mut self, authority: &Authority, at_signal: bool) -> anyhow::Result<Reloaded> {
        self.apply(authority, at_signal)
            .with_context(|| format!("cannot use {} (--admin-token-file)", self.path.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn apply(&mut self, authority: &Authority, always: bool) -> anyhow::Result<Reloaded> {
        let TokenFile { token, token_sha512, name, expiry_millis } = read(&self.path)?;

        let origin = format!("file {}", self.path.display());
        // A token that expired before 1970 is as expired as one of 1970.
        let expiry = expiry_millis.map(|at| u64::try_from(at).unwrap_or(0));
        let sha512 = match (token.map(Secret::from), token_sha512) {
            (Some(token), None) => authority.hash_token(&token)?,
            (None, Some(sha512)) => sha512,
            (Some(_), Some(_)) => bail!("it has both \"token\" and \"token_sha512\": remove one of them"),
            (None, None) => bail!("it has neither \"token\" nor \"token_sha512\""),
        };
        let read = Some((name.clone(), sha512.clone()));
        if !always && self.last_read == read {
            return Ok(Reloaded::Same);
        }
        // Before the name is checked.
        tracing::info!("Loaded admin token from file, name: {}", escape(&name));
        let mut reloaded = Reloaded::Read;
        let configured = ConfiguredToken { expiry, ..ConfiguredToken::admin(&name, &sha512) };
        let token = match authority.import_hash(&configured, &origin)? {
            ImportOutcome::Created(token) => {
                tracing::info!("Admin token '{name}' initialized from file");
                token
            }
            ImportOutcome::Unchanged(token) => {
                tracing::info!("Admin token '{name}' already exists, skipping initialization");
                token
            }
            ImportOutcome::Different(token) => {
                if name == OPERATOR && self.replace_operator(authority, &sha512, &origin)? {
                    tracing::warn!("{}", self.replaced());
                    reloaded = Reloaded::Replaced;
                } else {
                    tracing::warn!("{}", different(&name));
                }
                token
            }
            ImportOutcome::Revoked => {
                tracing::warn!(
                    "Admin token '{name}' was accepted before and then revoked, skipping initialization: the token of the \
                     file is not accepted; omit --admin-token-file, or put a new token into the file"
                );
                self.last_read = read;
                return Ok(reloaded);
            }
        };
        self.last_read = read;
        if name == OPERATOR && token.sha512 == sha512 {
            self.current = Some(sha512);
        }
        match token.expiry {
            Some(expiry) if expiry <= now() => {
                tracing::warn!("Admin token '{name}' has expired and is not accepted");
            }
            Some(_) if token.name == OPERATOR => tracing::warn!(
                "the operator token expires; replacing it does not change that, and only token recovery and other admin \
                 tokens work afterwards"
            ),
            _ => {}
        }
        if expiry.is_some_and(|wanted| token.expiry != Some(wanted)) {
            tracing::warn!("Admin token '{name}' keeps the expiry that it has, not that of the file");
        }
        Ok(reloaded)
    }

    /// Replaces the operator token by that of the file. Returns whether it has done so.
    fn replace_operator(
        &mut self,
        authority: &Authority,
        sha512: &str,
        origin: &str,
    ) -> anyhow::Result<bool> {
        let Some(current) = self.current.as_deref().filter(|current| *current != sha512) else {
            return Ok(false);
        };
        match authority.replace_operator(current, sha512, self.overlap_seconds, origin)? {
            ReplaceOutcome::Replaced | ReplaceOutcome::Unchanged => {
                self.current = Some(sha512.to_owned());
                Ok(true)
            }
            ReplaceOutcome::Different => Ok(false),
            ReplaceOutcome::Revoked => bail!(
                "its token was the operator token before, and is revoked: was the file rolled back? Put a new token into it"
            ),
        }
    }

    fn replaced(&self) -> String {
        let old = match self.overlap_seconds {
            0 => "refused".to_owned(),
            seconds => {
                let overlap = humantime::format_duration(Duration::from_secs(seconds));
                format!("accepted for {overlap} more (--admin-token-file-overlap)")
            }
        };
        format!("the operator token was replaced by that of {}; the old one is {old}", self.path.display())
    }
}

/// The reason why the token of the file is not accepted.
fn different(name: &str) -> String {
    let next = if name == OPERATOR {
        "if it was replaced since, omit --admin-token-file or update the file; a new token in the file replaces the \
         operator token only while the server runs, and only if that is the token that the file had: put the current \
         one there first"
    } else {
        "if it was replaced since, omit --admin-token-file or update the file"
    };
    format!(
        "Admin token '{name}' already exists with another secret, skipping initialization: the token of the file is not \
         accepted; {next}"
    )
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

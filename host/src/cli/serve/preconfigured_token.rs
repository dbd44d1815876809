//! `--admin-token-file`: imports a preconfigured token when the server starts
//! (docs/compatibility.md 5.4). A new secret in the file of a running server replaces the operator
//! token.
//!
//! The file holds the token or, better, only its hash. InfluxDB accepts a file that other users can
//! read, a token that is easy to guess, and a file that differs from the catalog. Here the first
//! two are errors, and the third causes a warning.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use optoken_protocol::token::PREFIX;
use serde::Deserialize;
use serde_json::error::Category;

use crate::authority::Authority;
use crate::cli::serve::configured_file::ConfiguredFile;
use crate::cli::serve::reload::{Reloaded, TokenFile as ReloadedTokenFile};
use crate::cli::token_file::{MAX_BYTES, without_mark};
use crate::metrics::ReloadedFile;
use crate::program;
use crate::secret::Secret;
use crate::token::{CommandError, ConfiguredToken, ImportOutcome, OPERATOR, ReplaceOutcome, now};
use crate::visible_text::escape;

/// The content of the file. Other fields are ignored, as InfluxDB does.
#[derive(Deserialize)]
struct TokenFile {
    token: Option<String>,
    token_sha512: Option<String>,
    name: String,
    description: Option<String>,
    /// Milliseconds since the epoch.
    expiry_millis: Option<i64>,
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

    fn apply(&mut self, authority: &Authority, always: bool) -> anyhow::Result<Reloaded> {
        let TokenFile { token, token_sha512, name, description, expiry_millis } = read(&self.path)?;

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
        let token = match import(authority, configured, description.as_deref(), &origin)? {
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

impl ReloadedTokenFile for PreconfiguredToken {
    const FILE: ReloadedFile = ReloadedFile::TokenFile;

    fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again while the server runs. A new secret replaces the operator token, if
    /// that still has the earlier secret of the file. After an error the tokens are as they were.
    /// Without a signal, a file that has the same token is left alone.
    fn reload(&mut self, authority: &Authority, at_signal: bool) -> anyhow::Result<Reloaded> {
        self.apply(authority, at_signal)
            .with_context(|| format!("cannot use {} (--admin-token-file)", self.path.display()))
    }
}

/// Imports the token with its description, or without one that cannot be kept: InfluxDB accepts any
/// text there.
fn import(
    authority: &Authority,
    token: ConfiguredToken<'_>,
    description: Option<&str>,
    origin: &str,
) -> Result<ImportOutcome, CommandError> {
    let description = description.filter(|description| !description.is_empty());
    let described = authority.import_hash(&ConfiguredToken { description, ..token }, origin);
    let Err(CommandError::InvalidArgument(why)) = &described else { return described };
    if description.is_none() {
        return described;
    }
    // If something else is wrong, this fails for it.
    let imported = authority.import_hash(&token, origin)?;
    tracing::warn!("the description of the admin token file is not kept: {why}");
    Ok(imported)
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
    let file = ConfiguredFile::read(path, "admin token file", MAX_BYTES)?;
    // The message of serde quotes the file.
    let parsed: TokenFile = serde_json::from_str(without_mark(&file.text)).map_err(|error| {
        let expected = match error.classify() {
            Category::Data => {
                "it must have \"name\" and \"token\" or \"token_sha512\", which are strings, and may have \"expiry_millis\", \
                 which is a whole number"
            }
            _ if is_token_alone(&file.text) => {
                "it is a token alone, and not JSON; `hash token` makes a file with the hash of a token"
            }
            _ => "it is not JSON",
        };
        let (line, column) = (error.line(), error.column());
        anyhow::anyhow!(
            "Failed to parse admin token file as JSON: {expected} (line {line}, column {column})"
        )
    })?;
    let way_out = format!(
        "use a file with the hash of this token instead, which is no secret. To make it, run: {} hash token \
         --token-file {} --output-file hash.json",
        program::name(),
        path.display()
    );
    file.check_mode("Admin token file", "the token", parsed.token.is_some(), way_out)?;
    Ok(parsed)
}

//! `--permission-tokens-file`: imports tokens with permissions when the server starts, and new ones
//! while it runs (docs/compatibility.md 5.6).
//!
//! All tokens of the file are checked before one is imported. A token of the catalog is never
//! changed: the log names the difference, and the way out.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use sha2::{Digest as _, Sha512_256};

use crate::authority::Authority;
use crate::cli::permission_file::{Entry, MAX_BYTES, PermissionFile};
use crate::cli::serve::configured_file::ConfiguredFile;
use crate::cli::serve::reload::{Reloaded, TokenFile};
use crate::metrics::ReloadedFile;
use crate::program;
use crate::secret::Secret;
use crate::store::MemoryStore;
use crate::token::{ConfiguredToken, ImportOutcome, OPERATOR, Timestamp, TokenInfo, now};

/// The name of the file in errors.
const WHAT: &str = "permission tokens file";

/// The origin in the audit records of the authority that checks the tokens, which are dropped with
/// it.
const CHECK_ORIGIN: &str = "check";

/// How many tokens one empty catalog checks. Each import writes the whole catalog.
const CHECKED_TOGETHER: usize = 250;

/// The tokens of the file.
pub(crate) struct PermissionTokens {
    path: PathBuf,
    /// The component of the server, if it is not the built-in one.
    component: Option<Arc<[u8]>>,
    /// The digest of the file that was read last.
    last_read: Option<[u8; 32]>,
}

/// A token of the file, by its hash.
struct FileToken {
    /// Where it stands, for errors.
    place: String,
    name: String,
    sha512: String,
    permissions: Vec<String>,
    description: Option<String>,
    expiry: Option<Timestamp>,
}

impl FileToken {
    fn configured(&self) -> ConfiguredToken<'_> {
        ConfiguredToken {
            name: &self.name,
            sha512: &self.sha512,
            permissions: Some(&self.permissions),
            description: self.description.as_deref(),
            expiry: self.expiry,
        }
    }

    /// Returns whether a token of the catalog is this one in all that the file states.
    fn is(&self, token: &TokenInfo) -> bool {
        self.sha512 == token.sha512
            && Some(&self.permissions) == token.permissions.as_ref()
            && self.description == token.description
            && self.expiry == token.expiry
    }
}

impl PermissionTokens {
    /// Imports the tokens of the file that do not exist yet. After an error the server must not
    /// start.
    pub(crate) fn import(
        authority: &Authority,
        path: PathBuf,
        component: Option<Arc<[u8]>>,
    ) -> anyhow::Result<Self> {
        let mut this = Self { path, component, last_read: None };
        this.apply(authority, true).with_context(|| this.failed())?;
        Ok(this)
    }

    fn failed(&self) -> String {
        format!("cannot use {} (--permission-tokens-file)", self.path.display())
    }

    fn apply(&mut self, authority: &Authority, always: bool) -> anyhow::Result<Reloaded> {
        let file = ConfiguredFile::read(&self.path, WHAT, MAX_BYTES)?;
        let digest = Sha512_256::digest(file.text.as_bytes()).into();
        let PermissionFile { create_databases, tokens } =
            PermissionFile::parse(&file.text).with_context(|| format!("Failed to parse {WHAT} as JSON"))?;
        let holds_secret = tokens.iter().any(|entry| entry.token.is_some());
        let way_out = "put the hash of each token into the file instead, as \"token_sha512\", which is no secret; \
                       `hash token` prints it";
        file.check_mode("Permission tokens file", "the tokens", holds_secret, way_out)?;
        if !always && self.last_read == Some(digest) {
            return Ok(Reloaded::Same);
        }
        let tokens = hashed(authority, tokens)?;
        let existing = authority.list_tokens()?;
        for token in &tokens {
            let other = existing.iter().find(|it| it.sha512 == token.sha512 && it.name != token.name);
            ensure!(
                other.is_none(),
                "{}: its secret is that of the token {:?}, and each token must have its own",
                token.place,
                other.map_or("", |other| &other.name)
            );
        }
        let existing: HashMap<_, _> = existing.iter().map(|token| (token.name.as_str(), token)).collect();
        let is_known = |token: &FileToken| existing.get(token.name.as_str()).is_some_and(|it| token.is(it));
        let (known, others): (Vec<_>, Vec<_>) = tokens.into_iter().partition(is_known);
        let checked = self.check(&others)?;
        // Nothing of the file is wrong by itself.
        if create_databases.is_some() {
            tracing::info!(
                "\"create_databases\" of {} has no effect: this server has tokens only",
                self.path.display()
            );
        }
        let origin = format!("file {}", self.path.display());
        let mut created = 0_usize;
        for (token, checked) in others.iter().zip(&checked) {
            let imported = authority.import_hash(&token.configured(), &origin);
            match imported.with_context(|| token.place.clone())? {
                ImportOutcome::Created(_) => {
                    created += 1;
                    tracing::info!("Token '{}' initialized from file", token.name);
                }
                ImportOutcome::Unchanged(kept) => self.warn_of_differences(&kept, checked),
                ImportOutcome::Different(_) => tracing::warn!(
                    "Token '{0}' already exists with another secret, skipping initialization: the token of {1} is not \
                     accepted; delete it first ({2} delete token --token-name NAME), then send SIGHUP or start again",
                    token.name,
                    self.path.display(),
                    program::name()
                ),
                ImportOutcome::Revoked => tracing::warn!(
                    "Token '{}' was accepted before and then revoked, skipping initialization: the token of {} is not \
                     accepted; remove it from the file, or put a new token there",
                    token.name,
                    self.path.display()
                ),
            }
        }
        let expired = known.iter().chain(&others).filter(|token| token.expiry.is_some_and(|at| at <= now()));
        for token in expired {
            tracing::warn!("Token '{}' has expired and is not accepted", token.name);
        }
        tracing::info!(
            "Loaded permission tokens from file: {}, tokens: {}, new: {created}",
            self.path.display(),
            known.len() + others.len()
        );
        self.last_read = Some(digest);
        Ok(Reloaded::Read)
    }

    /// Checks these tokens: imports them into empty catalogs, which are dropped. Returns them as a
    /// catalog has them. Fails at the first that is wrong.
    fn check(&self, tokens: &[FileToken]) -> anyhow::Result<Vec<TokenInfo>> {
        let mut checked = Vec::with_capacity(tokens.len());
        for tokens in tokens.chunks(CHECKED_TOGETHER) {
            checked.extend(self.check_together(tokens)?);
        }
        Ok(checked)
    }

    fn check_together(&self, tokens: &[FileToken]) -> anyhow::Result<Vec<TokenInfo>> {
        let mut builder = Authority::builder(MemoryStore::default());
        if let Some(component) = &self.component {
            builder = builder.component(component.to_vec());
        }
        let scratch = builder.build().context("cannot check the tokens")?;
        let import = |token: &FileToken| {
            let imported = scratch.import_hash(&token.configured(), CHECK_ORIGIN);
            match imported.with_context(|| token.place.clone())? {
                ImportOutcome::Created(info) => Ok(info),
                _ => bail!("{}: it stands twice in the file", token.place),
            }
        };
        tokens.iter().map(import).collect()
    }

    /// Logs what the file has otherwise than the catalog. `wanted` is the token of the file as a
    /// catalog has it.
    fn warn_of_differences(&self, kept: &TokenInfo, wanted: &TokenInfo) {
        let name = &kept.name;
        if kept.permissions != wanted.permissions {
            tracing::warn!(
                "Token '{name}' keeps the permissions that it has, and not those of {}: to change them, delete the token \
                 ({} delete token --token-name NAME) and put a new secret into the file; a deleted one is not imported again",
                self.path.display(),
                program::name()
            );
        }
        if wanted.expiry.is_some() && kept.expiry != wanted.expiry {
            tracing::warn!("Token '{name}' keeps the expiry that it has, not that of the file");
        }
        if kept.description != wanted.description {
            tracing::info!("Token '{name}' keeps the description that it has, not that of the file");
        }
    }
}

impl TokenFile for PermissionTokens {
    const FILE: ReloadedFile = ReloadedFile::PermissionTokensFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn reload(&mut self, authority: &Authority, at_signal: bool) -> anyhow::Result<Reloaded> {
        self.apply(authority, at_signal).with_context(|| self.failed())
    }
}

/// Returns the tokens of the file by their hashes. Fails at the first that is easy to guess, or
/// that stands twice.
fn hashed(authority: &Authority, entries: Vec<Entry>) -> anyhow::Result<Vec<FileToken>> {
    let mut names = HashMap::new();
    let mut hashes = HashMap::new();
    let mut tokens = Vec::with_capacity(entries.len());
    for (position, entry) in entries.into_iter().enumerate() {
        let position = position + 1;
        let place = format!("token {position} ({:?})", entry.name);
        let token = hashed_entry(authority, entry, place.clone()).context(place)?;
        for (known, key) in [(&mut names, &token.name), (&mut hashes, &token.sha512)] {
            match known.entry(key.clone()) {
                Place::Occupied(first) => bail!(
                    "{}: it has the name or the secret of token {}, and each must have its own",
                    token.place,
                    first.get()
                ),
                Place::Vacant(place) => place.insert(position),
            };
        }
        tokens.push(token);
    }
    Ok(tokens)
}

fn hashed_entry(authority: &Authority, entry: Entry, place: String) -> anyhow::Result<FileToken> {
    let Entry { token, token_sha512, name, permissions, description, expiry_millis } = entry;
    ensure!(name != OPERATOR, "the operator token has all permissions, and belongs into --admin-token-file");
    let sha512 = match (token.map(Secret::from), token_sha512) {
        (Some(token), None) => authority.hash_token(&token)?,
        (None, Some(sha512)) => sha512,
        (Some(_), Some(_)) => bail!("it has both \"token\" and \"token_sha512\": remove one of them"),
        (None, None) => bail!("it has neither \"token\" nor \"token_sha512\""),
    };
    Ok(FileToken {
        place,
        name,
        sha512,
        permissions,
        description: description.filter(|description| !description.is_empty()),
        // A token that expired before 1970 is as expired as one of 1970.
        expiry: expiry_millis.map(|at| Timestamp::try_from(at).unwrap_or(0)),
    })
}

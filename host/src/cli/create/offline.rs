//! Tokens that are generated without a server, and the files that a server starts with
//! (docs/compatibility.md 4.1 and 5.4).
//!
//! The component generates the token and checks its name, as it does in a server.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::cli::output_file::replace;
use crate::private_file::PRIVATE_MODE;
use crate::secret::Secret;
use crate::store::MemoryStore;
use crate::token::{ConfiguredToken, ImportOutcome, OPERATOR, Timestamp, TokenInfo};

/// The origin in the audit records of the authority, which are dropped with it.
const ORIGIN: &str = "offline";

/// The mode of a file without a secret.
const PUBLIC_MODE: u32 = 0o644;

/// Large enough for the content of a token file: a buffer that grows leaves copies of the token in
/// memory.
const CONTENT_CAPACITY: usize = 1024;

/// A token that no server knows yet.
pub(crate) struct OfflineToken {
    pub(crate) secret: Secret,
    pub(crate) info: TokenInfo,
}

impl OfflineToken {
    /// Generates a token of this name, or the operator token. It expires after `lifetime` seconds,
    /// or never.
    pub(crate) fn generate(name: Option<&str>, lifetime: Option<u64>) -> anyhow::Result<Self> {
        let issued = authority()?.create_operator(ORIGIN)?;
        let info = if name.is_none() && lifetime.is_none() {
            issued.info
        } else {
            // A server will import it in the same way.
            let name = name.unwrap_or(OPERATOR);
            let expiry = lifetime.map(Self::expiry_after).transpose()?;
            let imported = authority()?.import_hash(
                &ConfiguredToken { expiry, ..ConfiguredToken::admin(name, &issued.info.sha512) },
                ORIGIN,
            )?;
            created(imported)?
        };
        Ok(Self { secret: issued.secret, info })
    }

    /// Generates a token with permissions, each `TYPE:NAMES:ACTIONS`.
    pub(crate) fn generate_scoped(
        name: &str,
        permissions: &[String],
        lifetime: Option<u64>,
    ) -> anyhow::Result<Self> {
        let issued = authority()?.create_operator(ORIGIN)?;
        let expiry = lifetime.map(Self::expiry_after).transpose()?;
        let configured = ConfiguredToken {
            permissions: Some(permissions),
            expiry,
            ..ConfiguredToken::admin(name, &issued.info.sha512)
        };
        let info = created(authority()?.import_hash(&configured, ORIGIN)?)?;
        Ok(Self { secret: issued.secret, info })
    }

    /// Returns a token that was generated before, as a server would import it. Rejects one that is
    /// easy to guess.
    pub(crate) fn from_secret(secret: Secret, name: &str, expiry: Option<Timestamp>) -> anyhow::Result<Self> {
        let info = created(authority()?.import_token(name, &secret, expiry, ORIGIN)?)?;
        Ok(Self { secret, info })
    }

    /// Returns when a token expires that is accepted for this many seconds from now.
    pub(crate) fn expiry_after(seconds: u64) -> anyhow::Result<Timestamp> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock of this machine stands before 1970, so an expiry means nothing")?;
        let now = Timestamp::try_from(now.as_millis()).unwrap_or(Timestamp::MAX);
        // The component limits an expiry to the last moment that it can represent.
        Ok(now.saturating_add(seconds.saturating_mul(1000)))
    }

    /// Returns the SHA-512 of its text, as 128 lower-case hexadecimal digits.
    pub(crate) fn sha512(&self) -> &str {
        &self.info.sha512
    }

    /// Writes the file that `serve --admin-token-file` imports the token from.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct TokenFile<'a> {
            token: &'a str,
            name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            expiry_millis: Option<Timestamp>,
        }

        let TokenInfo { name, expiry, .. } = &self.info;
        let file = TokenFile { token: self.secret.expose(), name, expiry_millis: *expiry };
        replace(path, &to_json(&file)?, PRIVATE_MODE)
    }

    /// Writes the file that `serve --admin-token-file` imports the hash of the token from.
    pub(crate) fn save_hash(&self, path: &Path) -> anyhow::Result<()> {
        replace(path, &self.hash_file()?, PUBLIC_MODE)
    }

    /// Returns the content of that file.
    pub(crate) fn hash_file(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        #[derive(Serialize)]
        struct HashFile<'a> {
            token_sha512: &'a str,
            name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            expiry_millis: Option<Timestamp>,
        }

        let TokenInfo { name, sha512, expiry, .. } = &self.info;
        let file = HashFile { token_sha512: sha512, name, expiry_millis: *expiry };
        to_json(&file)
    }
}

/// Creates an authority with an empty catalog, which is dropped with it.
fn authority() -> anyhow::Result<Authority> {
    Authority::builder(MemoryStore::default()).build().context("cannot make a token")
}

/// Returns the token that an empty catalog has imported.
fn created(imported: ImportOutcome) -> anyhow::Result<TokenInfo> {
    let ImportOutcome::Created(info) = imported else { bail!("an empty catalog holds a token already") };
    Ok(info)
}

fn to_json(file: &impl Serialize) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::with_capacity(CONTENT_CAPACITY));
    serde_json::to_writer_pretty(&mut *content, file)?;
    content.push(b'\n');
    Ok(content)
}

//! Tokens that are made without a server, and the files that a server starts with (COMPAT 4.1 and 5.4).
//!
//! The component makes the token and judges its name here as it does in a server; this only writes down what it says.

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
use crate::token::{ImportOutcome, OPERATOR, Timestamp, TokenInfo};

/// The origin of what is done here, for an audit record that nobody reads.
const ORIGIN: &str = "offline";

/// A token that no server knows yet.
pub(crate) struct OfflineToken {
    pub(crate) secret: Secret,
    info: TokenInfo,
}

impl OfflineToken {
    /// Makes a token of this name, the operator's if there is none. It is accepted for `lifetime` seconds from now on, or
    /// for ever.
    pub(crate) fn mint(name: Option<&str>, lifetime: Option<u64>) -> anyhow::Result<Self> {
        let issued = authority()?.create_operator(ORIGIN)?;
        let info = if name.is_none() && lifetime.is_none() {
            issued.info
        } else {
            // As a server will take it in.
            let name = name.unwrap_or(OPERATOR);
            let preset = authority()?.import_hash(name, &issued.info.sha512, expiry(lifetime)?, ORIGIN)?;
            let ImportOutcome::Created(info) = preset else {
                bail!("an empty catalog holds a token already")
            };
            info
        };
        Ok(Self { secret: issued.secret, info })
    }

    /// A token that was made like this before. One that can be guessed is none.
    pub(crate) fn of(secret: Secret) -> anyhow::Result<Self> {
        let preset = authority()?.import_token(OPERATOR, &secret, None, ORIGIN)?;
        let ImportOutcome::Created(info) = preset else { bail!("an empty catalog holds a token already") };
        Ok(Self { secret, info })
    }

    /// SHA-512 of its text, as 128 lower-case hexadecimal digits.
    pub(crate) fn sha512(&self) -> &str {
        &self.info.sha512
    }

    /// Writes the file that `influxdb3 serve --admin-token-file` takes the token from.
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
        replace(path, &lines(&file)?, PRIVATE_MODE)
    }

    /// Writes the file that tells a server only the hash of the token.
    pub(crate) fn save_hash(&self, path: &Path) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct HashFile<'a> {
            token_sha512: &'a str,
            name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            expiry_millis: Option<Timestamp>,
        }

        let TokenInfo { name, sha512, expiry, .. } = &self.info;
        let file = HashFile { token_sha512: sha512, name, expiry_millis: *expiry };
        replace(path, &lines(&file)?, 0o644)
    }
}

/// An authority that is gone with its store.
fn authority() -> anyhow::Result<Authority> {
    Authority::builder(MemoryStore::default()).build().context("cannot make a token")
}

fn expiry(lifetime: Option<u64>) -> anyhow::Result<Option<Timestamp>> {
    let Some(seconds) = lifetime else { return Ok(None) };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock of this machine stands before 1970, so an expiry means nothing")?;
    let now = Timestamp::try_from(now.as_millis()).unwrap_or(Timestamp::MAX);
    // However far away: the component knows the last moment there is.
    Ok(Some(now.saturating_add(seconds.saturating_mul(1000))))
}

fn lines(file: &impl Serialize) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    // Larger than what is written, so that no copy is left behind by growing.
    let mut lines = Zeroizing::new(Vec::with_capacity(1024));
    serde_json::to_writer_pretty(&mut *lines, file)?;
    lines.push(b'\n');
    Ok(lines)
}

//! Files that hold one token, for commands that use it: the token alone, or JSON with it as `--offline` writes it (COMPAT
//! 5.4).

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::warn;
use crate::secret::Secret;

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// A file with a token, as it was read.
pub(super) struct SavedToken {
    pub(super) token: Secret,
    /// All of the file, if it is more than the token and the end of its line.
    json: Option<Zeroizing<String>>,
}

impl SavedToken {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot read the token from {}", path.display());
        let file = File::open(path).with_context(failed)?;
        let metadata = file.metadata().with_context(failed)?;
        // As long as it can get, so that no copy is left behind where it grows.
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES + 1));
        file.take(MAX_BYTES as u64).read_to_string(&mut text).with_context(failed)?;
        let saved = Self::parse(text).with_context(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            // To refuse it would be to refuse its replacement, which is the remedy.
            let path = path.display();
            warn(&format!("others may read the token in {path} (mode {mode:o}); run: chmod 0600 {path}"));
        }
        Ok(saved)
    }

    fn parse(text: Zeroizing<String>) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Json {
            token: String,
        }

        let line = text.trim();
        if line.starts_with('{') {
            // Without serde's own text, which quotes what it found.
            let Ok(Json { token }) = serde_json::from_str(line) else {
                bail!("it is not JSON with a \"token\", which is a string");
            };
            return Ok(Self { token: token.into(), json: Some(text) });
        }
        if line.is_empty() || line.contains(char::is_whitespace) {
            bail!("it must hold one token and nothing else, or JSON with a \"token\"");
        }
        Ok(Self { token: line.to_owned().into(), json: None })
    }

    /// What the file is to hold with another token in the place of this one: whoever reads it finds what they know.
    pub(super) fn with(&self, token: &Secret) -> Zeroizing<String> {
        match &self.json {
            Some(json) => json.replace(self.token.expose(), token.expose()).into(),
            None => alone(token),
        }
    }
}

/// What a file holds that has nothing but this token.
pub(super) fn alone(token: &Secret) -> Zeroizing<String> {
    format!("{}\n", token.expose()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<SavedToken> {
        SavedToken::parse(text.to_owned().into()).ok()
    }

    #[test]
    fn a_token_is_read_alone_or_from_json_and_replaced_in_its_form() {
        for (text, replaced) in [
            ("apiv3_x", "apiv3_y\n"),
            ("\r\n apiv3_x \r\n", "apiv3_y\n"),
            (r#"{"name": "_admin", "token": "apiv3_x"}"#, r#"{"name": "_admin", "token": "apiv3_y"}"#),
            ("{\n  \"token\": \"apiv3_x\"\n}\n", "{\n  \"token\": \"apiv3_y\"\n}\n"),
        ] {
            let saved = parse(text).unwrap();
            assert_eq!(saved.token.expose(), "apiv3_x");
            assert_eq!(saved.with(&Secret::from("apiv3_y".to_owned())).as_str(), replaced);
        }
        for text in
            ["", "\n", "apiv3_x apiv3_y", "apiv3_x\napiv3_y", "{", r#"{"token": 1}"#, r#"{"name": "x"}"#]
        {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }
}

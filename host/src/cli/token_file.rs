//! Files that hold one token, for commands that present it: the token alone, or JSON with a
//! `token`, as `--offline` writes it (docs/compatibility.md 5.4).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::cli::pasted::{self, Surroundings};
use crate::cli::stderr::warn;
use crate::private_file::Mode;
use crate::private_file::ownership::trust_file_at;
use crate::secret::Secret;

/// The size limit of a token file, in bytes.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// The content of a token file.
pub(crate) struct SavedToken {
    pub(crate) token: Secret,
    /// The whole file, if it is JSON.
    json: Option<Zeroizing<String>>,
}

impl SavedToken {
    /// Reads the file, and warns if other users may read it.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot read the token from {}", path.display());
        trust_file_at(path).with_context(failed)?;
        let file = File::open(path).with_context(failed)?;
        let metadata = file.metadata().with_context(failed)?;
        let text = read_secret(&file).with_context(failed)?;
        ensure!(
            text.len() < MAX_BYTES,
            "the token in {} is longer than 64 KiB; was the right file given?",
            path.display()
        );
        let saved = Self::parse(&text).with_context(failed)?;
        let mode = Mode::of(&metadata);
        if metadata.is_file() && !mode.is_private() {
            // An error would prevent the replacement of the token, which is the remedy.
            let path = path.display();
            warn(&format!("others may read the token in {path} (mode {mode:o}); run: chmod 0600 {path}"));
        }
        Ok(saved)
    }

    /// Returns the JSON of the file, if it is JSON.
    pub(crate) fn json(&self) -> Option<&str> {
        self.json.as_ref().map(|json| json.as_str())
    }

    /// Reads an open file.
    pub(crate) fn from_file(file: &File) -> anyhow::Result<Self> {
        Self::parse(&read_secret(file)?)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct TokenJson {
            token: Option<String>,
            token_sha512: Option<IgnoredAny>,
        }

        let content = without_mark(text).trim();
        if content.starts_with('{') {
            // The message of serde quotes the file.
            let parsed: Result<TokenJson, _> = serde_json::from_str(content);
            let Ok(TokenJson { token: Some(token), .. }) = parsed else {
                ensure!(
                    !parsed.is_ok_and(|json| json.token_sha512.is_some()),
                    "it holds the hash of a token, and not the token itself"
                );
                bail!("it is not JSON with a \"token\", which is a string");
            };
            return Ok(Self { token: token.into(), json: Some(content.to_owned().into()) });
        }
        match pasted::token(content) {
            Ok(token) => Ok(Self { token: token.to_owned().into(), json: None }),
            // A file of another kind, or an empty one.
            Err(Surroundings::Characters | Surroundings::Empty) => {
                bail!("it must hold one token and nothing else, or JSON with a \"token\"")
            }
            Err(error) => bail!("the token in it {error}"),
        }
    }

    /// Returns the content of the file with another token. Its form stays, so that its readers find
    /// what they expect. Without a form to keep, the content is the token alone.
    pub(crate) fn with_token(&self, token: &Secret) -> Zeroizing<String> {
        self.json.as_ref().and_then(|json| replace_token(json, token)).unwrap_or_else(|| plain(token))
    }
}

/// Returns the JSON with another token. Replaces the value of the field: its text may be escaped,
/// empty or equal to that of another field.
fn replace_token(json: &str, token: &Secret) -> Option<Zeroizing<String>> {
    let mut fields: Map<String, Value> = serde_json::from_str(json).ok()?;
    fields.insert("token".to_owned(), token.expose().into());
    // A buffer that grows leaves copies of the token in memory.
    let mut lines = Vec::with_capacity(2 * MAX_BYTES);
    serde_json::to_writer_pretty(&mut lines, &fields).ok()?;
    lines.push(b'\n');
    let lines = Zeroizing::new(String::from_utf8(lines).ok()?);
    // The next command must be able to read it.
    let reads = lines.len() < MAX_BYTES
        && SavedToken::parse(&lines).is_ok_and(|saved| saved.token.expose() == token.expose());
    reads.then_some(lines)
}

/// Returns the text without the byte order mark that some editors put at the beginning of a file.
pub(crate) fn without_mark(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// Reads a file, up to the size limit.
pub(crate) fn read_secret(file: &File) -> io::Result<Zeroizing<String>> {
    read_secret_up_to(file, MAX_BYTES)
}

/// Reads a file, up to this many bytes.
pub(crate) fn read_secret_up_to(file: &File, limit: usize) -> io::Result<Zeroizing<String>> {
    // A buffer that grows leaves copies of the token in memory.
    let mut text = Zeroizing::new(String::with_capacity(limit + 1));
    file.take(limit as u64).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the content of a file that holds this token alone.
pub(crate) fn plain(token: &Secret) -> Zeroizing<String> {
    format!("{}\n", token.expose()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<SavedToken> {
        SavedToken::parse(text).ok()
    }

    #[test]
    fn token_is_replaced_in_the_form_of_its_file() {
        for (text, old, replaced) in [
            ("apiv3_x", "apiv3_x", "apiv3_y\n"),
            ("\r\n apiv3_x \r\n", "apiv3_x", "apiv3_y\n"),
            ("\u{feff}apiv3_x\r\n", "apiv3_x", "apiv3_y\n"),
            ("\u{feff}{\"token\":\"apiv3_x\"}", "apiv3_x", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            (
                r#"{"name": "_admin", "token": "apiv3_x", "expiry_millis": 9223372036854775807}"#,
                "apiv3_x",
                "{\n  \"name\": \"_admin\",\n  \"token\": \"apiv3_y\",\n  \"expiry_millis\": 9223372036854775807\n}\n",
            ),
            ("{\n  \"token\": \"apiv3_x\"\n}\n", "apiv3_x", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            // Escaped, and equal to other texts.
            (r#"{"token":"apiv3\u005fx"}"#, "apiv3_x", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            (r#"{"token":"a\/x"}"#, "a/x", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            (r#"{"\u0074oken":"apiv3_x"}"#, "apiv3_x", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            (r#"{"token":""}"#, "", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            (r#"{"token":"token"}"#, "token", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            (
                r#"{"name":"_admin","token":"_admin"}"#,
                "_admin",
                "{\n  \"name\": \"_admin\",\n  \"token\": \"apiv3_y\"\n}\n",
            ),
            (
                r#"{"before":{"token":"apiv3_x"},"token":"apiv3_x"}"#,
                "apiv3_x",
                "{\n  \"before\": {\n    \"token\": \"apiv3_x\"\n  },\n  \"token\": \"apiv3_y\"\n}\n",
            ),
        ] {
            let saved = parse(text).unwrap();
            assert_eq!(saved.token.expose(), old, "{text}");
            let replaced_by = saved.with_token(&Secret::from("apiv3_y".to_owned()));
            assert_eq!(replaced_by.as_str(), replaced, "{text}");
            assert_eq!(parse(&replaced_by).unwrap().token.expose(), "apiv3_y", "{text}");
        }
        // JSON that would be too large to be read again.
        let large = format!("{{\"a\": [{}0], \"token\": \"apiv3_x\"}}", "0,".repeat(20_000));
        assert_eq!(
            parse(&large).unwrap().with_token(&Secret::from("apiv3_y".to_owned())).as_str(),
            "apiv3_y\n"
        );
        for text in
            ["", "\n", "apiv3_x apiv3_y", "apiv3_x\napiv3_y", "{", r#"{"token": 1}"#, r#"{"name": "x"}"#]
        {
            assert!(parse(text).is_none(), "{text:?}");
        }
        for (text, message) in [
            (
                "{\"token_sha512\": \"f9d9\", \"name\": \"x\"}",
                "it holds the hash of a token, and not the token",
            ),
            ("\"apiv3_x\"", "the token in it has quotes around it"),
            ("Bearer apiv3_x\n", "the token in it begins with the word Bearer"),
            ("INFLUXDB3_AUTH_TOKEN=apiv3_x\n", "the token in it begins with the name of a variable"),
            ("apiv3_x\napiv3_y\n", "it must hold one token and nothing else"),
        ] {
            let error = SavedToken::parse(text).err().unwrap().to_string();
            assert!(error.starts_with(message) && !error.contains("apiv3"), "{text:?}: {error}");
        }
    }
}

//! Files that hold one token, for commands that use it: the token alone, or JSON with it as `--offline` writes it (COMPAT
//! 5.4).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::cli::warn;
use crate::private_file::Mode;
use crate::secret::Secret;

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// A file with a token, as it was read.
pub(crate) struct SavedToken {
    pub(crate) token: Secret,
    /// All of the file, if it is more than the token and the end of its line.
    json: Option<Zeroizing<String>>,
}

impl SavedToken {
    /// Reads the file, and warns if others may, too.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot read the token from {}", path.display());
        let file = File::open(path).with_context(failed)?;
        let metadata = file.metadata().with_context(failed)?;
        let saved = Self::of(&file).with_context(failed)?;
        let mode = Mode::of(&metadata);
        if metadata.is_file() && !mode.is_private() {
            // To refuse it would be to refuse its replacement, which is the remedy.
            let path = path.display();
            warn(&format!("others may read the token in {path} (mode {mode:o}); run: chmod 0600 {path}"));
        }
        Ok(saved)
    }

    /// Reads a file that is open.
    pub(crate) fn of(file: &File) -> anyhow::Result<Self> {
        Self::parse(text_of(file)?)
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

    /// What the file is to hold with another token in the place of this one: whoever reads it finds what they know. Where
    /// that cannot be, the other token alone.
    pub(crate) fn with(&self, token: &Secret) -> Zeroizing<String> {
        self.json.as_ref().and_then(|json| with_token(json, token)).unwrap_or_else(|| alone(token))
    }
}

/// JSON with another token in it. The value is what is replaced, whatever its text looks like: it may be escaped, empty
/// or that of another field.
fn with_token(json: &str, token: &Secret) -> Option<Zeroizing<String>> {
    let mut fields: Map<String, Value> = serde_json::from_str(json).ok()?;
    fields.insert("token".to_owned(), token.expose().into());
    // Larger than what is written, so that no copy is left behind by growing.
    let mut lines = Vec::with_capacity(2 * MAX_BYTES);
    serde_json::to_writer_pretty(&mut lines, &fields).ok()?;
    lines.push(b'\n');
    let lines = Zeroizing::new(String::from_utf8(lines).ok()?);
    // As the next command reads it.
    let reads = lines.len() <= MAX_BYTES
        && SavedToken::parse(lines.clone()).is_ok_and(|saved| saved.token.expose() == token.expose());
    reads.then_some(lines)
}

/// All of a file, or as much as is read of one.
pub(crate) fn text_of(file: &File) -> io::Result<Zeroizing<String>> {
    // As long as it can get, so that no copy is left behind where it grows.
    let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES + 1));
    file.take(MAX_BYTES as u64).read_to_string(&mut text)?;
    Ok(text)
}

/// What a file holds that has nothing but this token.
pub(crate) fn alone(token: &Secret) -> Zeroizing<String> {
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
        for (text, old, replaced) in [
            ("apiv3_x", "apiv3_x", "apiv3_y\n"),
            ("\r\n apiv3_x \r\n", "apiv3_x", "apiv3_y\n"),
            (
                r#"{"name": "_admin", "token": "apiv3_x", "expiry_millis": 9223372036854775807}"#,
                "apiv3_x",
                "{\n  \"name\": \"_admin\",\n  \"token\": \"apiv3_y\",\n  \"expiry_millis\": 9223372036854775807\n}\n",
            ),
            ("{\n  \"token\": \"apiv3_x\"\n}\n", "apiv3_x", "{\n  \"token\": \"apiv3_y\"\n}\n"),
            // However it is written, and whatever else is written the same way.
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
            let replaced_by = saved.with(&Secret::from("apiv3_y".to_owned()));
            assert_eq!(replaced_by.as_str(), replaced, "{text}");
            assert_eq!(parse(&replaced_by).unwrap().token.expose(), "apiv3_y", "{text}");
        }
        // What has grown too large to be read.
        let large = format!("{{\"a\": [{}0], \"token\": \"apiv3_x\"}}", "0,".repeat(20_000));
        assert_eq!(parse(&large).unwrap().with(&Secret::from("apiv3_y".to_owned())).as_str(), "apiv3_y\n");
        for text in
            ["", "\n", "apiv3_x apiv3_y", "apiv3_x\napiv3_y", "{", r#"{"token": 1}"#, r#"{"name": "x"}"#]
        {
            assert!(parse(text).is_none(), "{text:?}");
        }
    }
}

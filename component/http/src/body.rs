//! Reads request bodies, within limits of size and time. The order of judgement is that of `host/src/http/body.rs`.

use alloc::string::{String, ToString as _};

use optoken_core::redact::redact;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::routes::Request;

/// The most bytes that a body may have.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 10;

/// How long a body may take to arrive, in seconds.
pub(crate) const BODY_TIMEOUT_SECONDS: u64 = 10;

/// Reads a body of JSON, or none, which means what is left out of it. A body that is not announced as JSON means nothing: it
/// is read, so that the client gets to read the answer, and not looked at.
pub(crate) fn json_or_nothing<T: DeserializeOwned + Default>(
    request: &mut impl Request,
) -> Result<T, Problem> {
    let announced = request.header("content-type").and_then(|value| String::from_utf8(value).ok());
    let announced = announced.is_some_and(|content_type| is_json(&content_type));
    let encoding = request.header("content-encoding").filter(|encoding| encoding != b"identity");
    let body = request.body()?;
    if !announced || body.is_empty() {
        return Ok(T::default());
    }
    if let Some(encoding) = encoding {
        return Err(Problem::UnknownEncoding(redact(&String::from_utf8_lossy(&encoding))));
    }
    // The text repeats parts of what was sent.
    serde_json::from_slice(&body).map_err(|error| Problem::BadJson(redact(&error.to_string())))
}

/// Whether this is a media type of JSON: `application/json`, or `application/` and a suffix `+json` (COMPAT 2.5).
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    let json = subtype == "json" || subtype.strip_suffix("+json").is_some_and(is_name);
    let is_parameter = |part: &str| part.split_once('=').is_some_and(|(name, _)| is_name(name));
    json && parts.all(|part| part.is_empty() || is_parameter(part))
}

/// A restricted name of RFC 6838, section 4.2.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_of_json_is_recognized() {
        for (content_type, json) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/vnd.x+json; a=b; c=d", true),
            ("", false),
            ("application/+json", false),
            ("application/jsonl", false),
            ("application/json; charset", false),
            ("text/json", false),
        ] {
            assert_eq!(is_json(content_type), json, "{content_type:?}");
        }
    }
}

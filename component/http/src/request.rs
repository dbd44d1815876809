//! A request as a value, and its body within limits of size and time. The checks of a body have the
//! order of the server's `host/src/http/body.rs`.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_protocol::browser;
use optoken_protocol::fields::{Field, Fields, Limit};
use optoken_protocol::media_type::is_json;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact;
use serde::de::DeserializeOwned;

/// The most bytes of a body.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 10;

/// The longest time in which a body may arrive, in seconds.
pub(crate) const BODY_TIMEOUT_SECONDS: u64 = 10;

/// The parts of a request that decide its answer.
pub(crate) trait Request {
    /// The method, in the case in which it was sent.
    fn method(&self) -> &str;
    /// The path, byte for byte, without the query string.
    fn path(&self) -> &str;
    /// The first header of this name, which is in lower case.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
    /// All headers, with their names in lower case.
    fn headers(&self) -> Vec<(String, Vec<u8>)>;
    /// The whole body, of at most [`MAX_BODY_BYTES`].
    fn body(&mut self) -> Result<Vec<u8>, Problem>;
    /// Writes the cause of a problem to the log of the operator.
    fn log(&self, message: &str);
}

/// Returns whether a page in a browser has sent the request.
pub(crate) fn is_sent_by_page(request: &impl Request) -> bool {
    request.headers().iter().any(|(name, value)| browser::is_sent_by_page(name, value))
}

/// Reads a JSON body with these fields. No body, one without content, `null`, and one that is not
/// announced as JSON, have the meaning of an empty object. Every body is read, so that the client
/// gets to read the answer.
pub(crate) fn json_or_default<T: DeserializeOwned + Default>(
    request: &mut impl Request,
    fields: &[&str],
) -> Result<T, Problem> {
    let announced = request.header("content-type").and_then(|value| String::from_utf8(value).ok());
    let announced = announced.is_some_and(|content_type| is_json(&content_type));
    let encoding = request.header("content-encoding").filter(|encoding| encoding != b"identity");
    let body = request.body()?;
    if !announced || body.is_empty() {
        check_fields(&body, fields)?;
        return Ok(T::default());
    }
    if let Some(encoding) = encoding {
        return Err(Problem::UnsupportedEncoding(redact(&String::from_utf8_lossy(&encoding)).into_owned()));
    }
    if matches!(body.trim_ascii(), b"" | b"null") {
        return Ok(T::default());
    }
    // The text of the error quotes the body.
    let parsed = serde_json::from_slice(&body)
        .map_err(|error| Problem::InvalidJson(redact(&error.to_string()).into_owned()))?;
    check_fields(&body, fields)?;
    Ok(parsed)
}

/// Rejects a JSON body with a field about a limit that the endpoint does not have: the client would
/// get a token without that limit. Other unknown fields are ignored (`docs/compatibility.md` 2.5).
pub(crate) fn check_fields(body: &[u8], fields: &[&str]) -> Result<(), Problem> {
    // A body that is no object has no fields.
    let Ok(Fields(sent)) = serde_json::from_slice(body) else { return Ok(()) };
    for Field { name, is_null } in sent {
        if !is_null && !fields.contains(&name.as_str()) && Limit::of_field(&name).is_some() {
            let name: String = redact(&name).escape_debug().take(64).collect();
            return Err(Problem::InvalidArgument(format!(
                "unknown field \"{name}\"; this request sets neither an expiry nor permissions"
            )));
        }
    }
    Ok(())
}

//! A request as a value, and its body within limits of size and time. The checks of a body have the
//! order of the server's `host/src/http/body.rs`.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use optoken_protocol::browser;
use optoken_protocol::fields::{Fields, KnownFields};
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
    /// The query string, without its question mark.
    fn query(&self) -> Option<&str>;
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

/// Returns whether the client may be offered the scheme Basic.
pub(crate) fn may_offer_basic(request: &impl Request) -> bool {
    let headers = request.headers();
    browser::may_offer_basic(headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
}

/// Reads a JSON body with these fields. No body, one without content, `null`, and one that is not
/// announced as JSON, have the meaning of an empty object. Every body is read, so that the client
/// gets to read the answer.
pub(crate) fn json_or_default<T: DeserializeOwned + Default>(
    request: &mut impl Request,
    fields: KnownFields,
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
    let sent = serde_json::from_slice::<Fields>(&body);
    // Serde reads an array as an object, and names the type of this program in its error.
    if sent.as_ref().is_err_and(serde_json::Error::is_data) {
        return Err(fields.not_an_object());
    }
    // The text of the error quotes the body.
    let parsed = serde_json::from_slice(&body)
        .map_err(|error| Problem::InvalidJson(redact(&error.to_string()).into_owned()))?;
    sent.map_or(Ok(()), |sent| fields.check_body(&sent))?;
    Ok(parsed)
}

/// Rejects an ignored body with a field about a limit, which the endpoint does not set.
pub(crate) fn check_fields(body: &[u8], fields: KnownFields) -> Result<(), Problem> {
    // A body that is no object has no fields.
    serde_json::from_slice(body).map_or(Ok(()), |sent| fields.check_body(&sent))
}

//! Reads request bodies, within limits of size and time.

use std::io::Read as _;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use optoken_protocol::fields::{Fields, KnownFields};
use optoken_protocol::media_type::is_json;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact;
use serde::de::DeserializeOwned;
use tokio::time;

use crate::server::message::Request;

/// How many bytes an ignored body may have.
pub(crate) const MAX_IGNORED_BYTES: usize = 64 << 10;

/// How long a body may take to arrive.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads and ignores a body, so that the client can read the response. Rejects a body that is too
/// large.
pub(crate) async fn discard(body: Incoming) -> Result<(), Problem> {
    discard_up_to(body, MAX_IGNORED_BYTES).await
}

/// Reads and ignores a body of at most `limit` bytes.
pub(crate) async fn discard_up_to(body: Incoming, limit: usize) -> Result<(), Problem> {
    read_body(body, limit, |_| {}).await
}

/// Rejects a body that is not announced as JSON.
pub(crate) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(is_json) { Ok(()) } else { Err(Problem::UnsupportedMediaType) }
}

/// Reads a body whose values are ignored. Rejects one whose fields ask for a limit that the
/// endpoint does not set.
pub(crate) async fn ignore(body: Incoming, fields: KnownFields) -> Result<(), Problem> {
    let mut bytes = Vec::new();
    read_body(body, MAX_IGNORED_BYTES, |data| bytes.extend_from_slice(data)).await?;
    // A body that is no object has no fields.
    serde_json::from_slice(&bytes).map_or(Ok(()), |sent| fields.check_body(&sent))
}

/// Reads a body of JSON, which may be compressed, of at most `limit` bytes before and after
/// decompression. The order of checks is that of docs/compatibility.md 2.2, step 7.
pub(crate) async fn json<T: DeserializeOwned>(
    request: Request,
    limit: usize,
    fields: Option<KnownFields>,
) -> Result<T, Problem> {
    parse(&content(request, limit).await?, fields)
}

/// Reads an optional body of JSON. A body without content, or with `null`, has every field at its
/// default.
pub(crate) async fn optional_json<T: DeserializeOwned + Default>(
    request: Request,
    limit: usize,
    fields: Option<KnownFields>,
) -> Result<T, Problem> {
    // Some clients announce no type for a body that has no content, and send it in empty chunks.
    let bytes = match require_json(request.headers()) {
        Ok(()) => content(request, limit).await?,
        Err(unsupported) => {
            let mut is_blank = true;
            let read =
                read_body(request.into_body(), MAX_IGNORED_BYTES, |data| is_blank &= is_blank_text(data));
            return match read.await {
                Ok(()) if is_blank => Ok(T::default()),
                Ok(()) | Err(Problem::BodyTooLarge(_)) => Err(unsupported),
                Err(problem) => Err(problem),
            };
        }
    };
    if is_blank_text(&bytes) || bytes.trim_ascii() == b"null" {
        return Ok(T::default());
    }
    parse(&bytes, fields)
}

fn is_blank_text(bytes: &[u8]) -> bool {
    bytes.trim_ascii().is_empty()
}

/// Parses a body of JSON.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], fields: Option<KnownFields>) -> Result<T, Problem> {
    let sent = serde_json::from_slice::<Fields>(bytes);
    // Serde reads an array as an object, and names the type of this program in its error.
    if let (Err(error), Some(fields)) = (&sent, fields)
        && error.is_data()
    {
        return Err(fields.not_an_object());
    }
    // The text of the error quotes the body.
    let parsed = serde_json::from_slice(bytes)
        .map_err(|error| Problem::InvalidJson(redact(&error.to_string()).into_owned()))?;
    if let (Ok(sent), Some(fields)) = (&sent, fields) {
        fields.check_body(sent)?;
    }
    Ok(parsed)
}

/// Reads a body that may be compressed.
async fn content(request: Request, limit: usize) -> Result<Vec<u8>, Problem> {
    let compressed = match request.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        Some(other) => {
            return Err(Problem::UnsupportedEncoding(redact(&String::from_utf8_lossy(other)).into_owned()));
        }
    };
    let mut bytes = Vec::new();
    read_body(request.into_body(), limit, |data| bytes.extend_from_slice(data)).await?;
    if compressed && !bytes.is_empty() {
        bytes = decompress(&bytes, limit)?;
    }
    Ok(bytes)
}

async fn read_body(body: Incoming, limit: usize, mut each: impl FnMut(&[u8])) -> Result<(), Problem> {
    let too_large = || Problem::BodyTooLarge(limit);
    // If the announced length is too large, nothing is read.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut body = Limited::new(body, limit);
    let read = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() { too_large() } else { Problem::BodyUnreadable }
            })?;
            if let Some(data) = frame.data_ref() {
                each(data);
            }
        }
        Ok(())
    };
    time::timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(Problem::BodyTimeout))
}

fn decompress(compressed: &[u8], limit: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    // Several members are one text (RFC 1952, section 2.2). Other bytes behind one are an error.
    // One byte above the limit shows that it is exceeded.
    let read = MultiGzDecoder::new(compressed).take(limit as u64 + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| Problem::InvalidGzip(error.to_string()))?;
    if length > limit { Err(Problem::BodyTooLarge(limit)) } else { Ok(bytes) }
}

//! The newest audit records, as the catalog keeps them.
//!
//! As lines, not as one JSON document: the line is what is hashed, so the answer is a piece of an audit log, byte for byte,
//! and can be verified as one.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};

use crate::http::JSONL;
use crate::http::api::Call;
use crate::http::problem::Problem;

pub(crate) fn newest(call: &Call) -> Result<Response, Problem> {
    let mut lines = call.served.authority.audit(None)?.lines;
    // Each has an end.
    lines.push(String::new());
    Ok(([(CONTENT_TYPE, JSONL)], lines.join("\n")).into_response())
}

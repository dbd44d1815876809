//! The newest audit records, as the catalog keeps them.
//!
//! As lines, not as one JSON document: the line is what is hashed, so the answer is a piece of an audit log, byte for byte,
//! and can be verified as one.

use crate::http::api::Call;
use crate::http::problem::Problem;
use crate::http::{JSONL, response};
use crate::server::serve::Response;

pub(crate) fn newest(call: &Call) -> Result<Response, Problem> {
    let mut lines = call.served.authority.audit(None)?.lines;
    // Each has an end.
    lines.push(String::new());
    Ok(response::content(JSONL, lines.join("\n")))
}

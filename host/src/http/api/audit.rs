//! The newest audit records, as the catalog keeps them.
//!
//! As lines, not as one JSON document: the line is what is hashed, so the answer is a piece of an audit log, byte for byte,
//! and can be verified as one.

use hyper::Method;
use optoken_protocol::media_type::JSONL;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::api::endpoint::{Call, Described, Endpoint, ok, unreadable_catalog};
use crate::http::response;
use crate::server::serve::Response;

fn newest(call: &Call) -> Result<Response, Problem> {
    let mut lines = call.state.read(|authority| authority.audit(None))?.lines;
    // Each has an end.
    lines.push(String::new());
    Ok(response::content(JSONL, lines.join("\n")))
}

/// What the main listener answers about it.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Some(Method::GET),
        path: paths::AUDIT,
        handler: |call| Box::pin(async move { newest(&call) }),
        name: "listAuditRecords",
        summary: "Show the newest records of the changes to the tokens, at most 64 and the oldest first, a line of JSON each, \
                  which names the hash of the line before it",
        parameters: vec![],
        body: None,
        success: ok(vec![(JSONL, Described::text())]),
        problems: unreadable_catalog(),
    }]
}

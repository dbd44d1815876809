//! The newest audit records, as the catalog keeps them.
//!
//! As lines, not as one JSON document: the line is what is hashed, so the answer is a piece of an audit log, byte for byte,
//! and can be verified as one.

use hyper::Method;
use optoken_protocol::media_type::JSONL;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::api::endpoint::{ApiRequest, BodySchema, Endpoint, ok_response, read_problems};
use crate::http::response;
use crate::server::serve::Response;

fn newest(request: &ApiRequest) -> Result<Response, Problem> {
    let mut lines = request.state.read(|authority| authority.audit(None))?.lines;
    // Each has an end.
    lines.push(String::new());
    Ok(response::content(JSONL, lines.join("\n")))
}

/// What the main listener answers about it.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Some(Method::GET),
        path: paths::AUDIT,
        handler: |request| Box::pin(async move { newest(&request) }),
        name: "listAuditRecords",
        summary: "Show the newest records of the changes to the tokens, at most 64 and the oldest first, a line of JSON each, \
                  which names the hash of the line before it",
        parameters: vec![],
        body: None,
        success: ok_response(vec![(JSONL, BodySchema::text())]),
        problems: read_problems(),
    }]
}

//! `GET /api/v3/configure/token/audit`: the newest audit records, as the catalog retains them.
//!
//! The response has lines, not one JSON document, because lines are hashed. It is a part of an
//! audit log, byte for byte, and can be verified like one.

use hyper::Method;
use optoken_protocol::media_type::JSONL;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::api::endpoint::{ApiRequest, BodySchema, Endpoint, Handler, ok_response, read_problems};
use crate::http::response;
use crate::server::message::Response;

fn newest(request: &ApiRequest) -> Result<Response, Problem> {
    let mut lines = request.state.read(|authority| authority.audit(None))?.lines;
    // Every line ends with a newline.
    lines.push(String::new());
    Ok(response::content(JSONL, lines.join("\n")))
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Some(Method::GET),
        path: paths::AUDIT,
        handler: Handler::Later(|request| Box::pin(async move { newest(&request) })),
        name: "listAuditRecords",
        summary: "List the newest audit records of changes to tokens, at most 64, oldest first; each is one line of JSON with \
                  the hash of the line before it",
        parameters: vec![],
        body: None,
        success: ok_response(vec![(JSONL, BodySchema::text())]),
        problems: read_problems(),
    }]
}

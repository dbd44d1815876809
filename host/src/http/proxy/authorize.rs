//! What a request acts on, by the kind of its upstream.

use optoken_protocol::paths;

use crate::http::influxdb3::rows::{Classified, ReadOutcome, classify};
use crate::http::influxdb3::system_tokens_query::{self, SystemTokens};
use crate::http::influxdb3::target::{OwnedTarget, ServiceKind};
use crate::http::proxy::body::RequestBody;
use crate::http::proxy::failure::Refusal;
use crate::http::proxy::plan::Plan;

/// Returns what a request of a token with permissions acts on. What is read of the body is passed
/// on unchanged.
pub(super) async fn target(
    kind: ServiceKind,
    plan: &Plan,
    body: &mut RequestBody,
) -> Result<OwnedTarget, Refusal> {
    let row = match classify(kind, &plan.method, &plan.path, plan.query.as_deref(), &plan.headers) {
        Classified::Known(target) => return Ok(target),
        Classified::Body(row) => row,
    };
    let read = |bytes: &[u8], complete| match row.read(bytes, complete) {
        ReadOutcome::NeedsMore => None,
        ReadOutcome::Target(target) => Some(target),
    };
    let target = body.read_ahead(row.limit(), read).await?;
    Ok(target.unwrap_or(OwnedTarget::Administration("the first MiB of the body does not name the database")))
}

/// Returns how a query in SQL uses the table of tokens, which this server has. A query that cannot
/// be read does not use it.
pub(super) async fn system_tokens(
    kind: ServiceKind,
    plan: &Plan,
    body: &mut RequestBody,
) -> Result<SystemTokens, Refusal> {
    if kind != ServiceKind::InfluxDb3 || plan.path != paths::QUERY_SQL {
        return Ok(SystemTokens::Absent);
    }
    let query = plan.query.as_deref().unwrap_or_default();
    if let Some(found) = system_tokens_query::in_query_string(&plan.method, query) {
        return Ok(found);
    }
    let read = |bytes: &[u8], complete: bool| complete.then(|| system_tokens_query::in_body(bytes));
    let found = body.read_ahead(system_tokens_query::MAX_BODY_BYTES, read).await?;
    Ok(found.unwrap_or(SystemTokens::Absent))
}

//! The reason why a query has no result.

use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact;

/// The most bytes of a reason, which quotes the query.
const MAX_REASON_BYTES: usize = 512;

/// What a query may be, for the client whose query is another.
const SUPPORTED: &str = "supported is SELECT … FROM system.tokens, with WHERE, GROUP BY, ORDER BY and LIMIT";

/// The reason why a query has no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct QueryError(String);

impl QueryError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        // Redacted first: a part of a token looks like none.
        let reason = redact(&error.0);
        let reason = reason.get(..reason.floor_char_boundary(MAX_REASON_BYTES)).unwrap_or_default();
        Self::InvalidArgument(format!("query error: {reason}; {SUPPORTED}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_short_and_has_no_token() {
        let text = |reason: &str| Problem::from(QueryError::new(reason)).text().into_owned();
        assert_eq!(
            text("no such column: apiv3_x"),
            format!("query error: no such column: [token]; {SUPPORTED}")
        );
        let long = format!("é{}", "é".repeat(MAX_REASON_BYTES));
        assert!(text(&long).len() <= MAX_REASON_BYTES + SUPPORTED.len() + 20);
    }
}

//! The paths of the HTTP API. A server compares them byte for byte, without percent-decoding
//! (`docs/compatibility.md` 2.1).

/// `GET` lists tokens, `DELETE` deletes one. Every path about tokens begins with it, or with
/// [`SCOPED`].
pub const TOKENS: &str = "/api/v3/configure/token";

/// `POST` creates the operator token, `GET` shows it.
pub const OPERATOR: &str = "/api/v3/configure/token/admin";

/// `POST` replaces the operator token. The recovery listener serves it without a credential.
pub const REGENERATE: &str = "/api/v3/configure/token/admin/regenerate";

/// `POST` stages a secret for the operator token, `DELETE` cancels it.
pub const STAGE: &str = "/api/v3/configure/token/admin/regenerate/stage";

/// `POST` makes the staged secret the operator's.
pub const CONFIRM: &str = "/api/v3/configure/token/admin/regenerate/confirm";

/// `DELETE` revokes the previous operator secret before its deadline, `GET` lists what it created.
pub const OVERLAP: &str = "/api/v3/configure/token/admin/regenerate/overlap";

/// `GET` shows the token that is presented, whatever its permissions.
pub const SELF: &str = "/api/v3/configure/token/self";

/// `POST` creates a token with permissions. The path is that of InfluxDB 3 Enterprise.
pub const SCOPED: &str = "/api/v3/enterprise/configure/token";

/// `POST` creates a named admin token.
pub const NAMED_ADMIN: &str = "/api/v3/configure/token/named_admin";

/// `GET` shows the newest audit records.
pub const AUDIT: &str = "/api/v3/configure/token/audit";

/// `GET` and `POST` answer the query of [`system_tokens`](crate::system_tokens).
pub const QUERY_SQL: &str = "/api/v3/query_sql";

/// `GET` shows what this server knows of its catalog and its store.
pub const STATUS: &str = "/api/v3/optoken/status";

/// Any method asks whether the token of a request is accepted (forward authentication). So does
/// every path below it: see [`is_verify`].
pub const VERIFY: &str = "/api/v3/verify";

/// Returns whether a path is [`VERIFY`] or below it. Some proxies append the path of their client
/// to that of the question, and cannot leave it out.
pub fn is_verify(path: &str) -> bool {
    path.strip_prefix(VERIFY).is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// `GET` shows the OpenAPI document.
pub const OPENAPI: &str = "/api/v3/openapi.json";

/// `GET` and `POST` show the identity of the server.
pub const PING: &str = "/ping";

/// `GET` shows the metrics.
pub const METRICS: &str = "/metrics";

/// `GET` answers while the server runs.
pub const HEALTH: [&str; 2] = ["/health", "/api/v1/health"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_verify_is_verify() {
        for (path, verify) in [
            ("/api/v3/verify", true),
            ("/api/v3/verify/", true),
            ("/api/v3/verify/orders/7", true),
            ("/api/v3/verify/../configure/token", true),
            ("/api/v3/verify//", true),
            ("/api/v3/verifying", false),
            ("/api/v3/verify%2F", false),
            ("/api/v3/Verify/", false),
            ("/x/api/v3/verify/", false),
            ("/", false),
        ] {
            assert_eq!(is_verify(path), verify, "{path}");
        }
    }
}

//! The headers that this API adds to those of HTTP, in lower case.

/// Carries the recovery code in a request to the recovery listener.
pub const RECOVERY_CODE: &str = "x-recovery-code";

/// The id of the accepted token in an answer to forward authentication, in decimal.
pub const TOKEN_ID: &str = "x-auth-token-id";

/// The name of that token, percent-encoded (see [`percent`](crate::percent)).
pub const TOKEN_NAME: &str = "x-auth-token-name";

/// The id of the catalog, in every answer of the main listener.
pub const CLUSTER_UUID: &str = "cluster-uuid";

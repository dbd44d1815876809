//! Tokens with permissions.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::http::post;

/// The path that creates them.
const SCOPED: &str = "/api/v3/enterprise/configure/token";

/// Creates a token with permissions, each of which is `TYPE:NAMES:ACTIONS`.
#[track_caller]
pub(crate) fn create_scoped(to: SocketAddr, credential: &str, name: &str, permissions: &[&str]) -> String {
    let permissions = permissions.iter().map(|permission| {
        let (resource_type, rest) = permission.split_once(':').unwrap();
        let (name, actions) = rest.rsplit_once(':').unwrap();
        let actions: Vec<_> = actions.split(',').collect();
        json!({ "resource_type": resource_type, "resource_identifier": [name], "actions": actions })
    });
    let body = json!({ "token_name": name, "permissions": permissions.collect::<Vec<Value>>() });
    post(SCOPED).bearer(credential).json(&body).send(to).token()
}

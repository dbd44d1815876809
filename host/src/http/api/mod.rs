//! The endpoints of the main listener, in one table.
//!
//! Requests are routed and the OpenAPI document is built from this table, so they agree. The checks
//! before an endpoint, which are the same for all, stand in [`access`](crate::http::access).

mod audit;
mod deadline;
pub(crate) mod endpoint;
pub(crate) mod issued_token;
pub(crate) mod openapi;
pub(crate) mod ready_headers;
mod rotation;
pub(crate) mod scope;
mod scoped_tokens;
mod service;
pub(crate) mod sql;
pub(crate) mod state;
mod status;
mod system_tokens;
mod tokens;
mod verify;

use crate::http::Options;
use crate::http::api::endpoint::Endpoint;

/// Returns all endpoints, in the order of the document.
pub(crate) fn table(options: &Options) -> Vec<Endpoint> {
    [
        rotation::endpoints(options),
        tokens::endpoints(options),
        scoped_tokens::endpoints(options),
        audit::endpoints(),
        sql::endpoints(options),
        verify::endpoints(),
        status::endpoints(),
        service::endpoints(),
        openapi::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::openapi::{document, http_method};
    use crate::http::bootstrap::Bootstrap;
    use crate::http::guarded_request::VerifyRequest;

    #[test]
    fn every_endpoint_is_documented_under_a_unique_name() {
        let options = Options {
            max_request_size: 1,
            without_auth: false,
            disabled_authz: "health".parse().unwrap(),
            bootstrap: Bootstrap::default(),
            verify_request: VerifyRequest::default(),
        };
        let table = table(&options);
        let document = document(&table, &options);
        let mut names = Vec::new();
        let mut there = 0;
        for endpoint in &table {
            for (method, _) in endpoint.operations() {
                let method = http_method(&method).unwrap();
                let operation = document.paths.get_path_operation(endpoint.path, method).unwrap();
                names.extend(operation.operation_id.clone());
                there += 1;
            }
        }
        let described = document.paths.paths.values().map(|item| serde_json::to_value(item).unwrap());
        assert_eq!(described.map(|item| item.as_object().unwrap().len()).sum::<usize>(), there);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), there);
    }
}

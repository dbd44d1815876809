//! Says who answers (COMPAT 2.9).

use std::sync::LazyLock;

use hyper::header::HeaderValue;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::problem::Problem;
use crate::http::response;
use crate::server::serve::Response;

/// The version of InfluxDB 3 Core whose API is spoken here. Clients choose by it what they ask for, so it is not the
/// version of this program, which is the revision.
const API_VERSION: &str = "3.10.1";

pub(crate) const VERSION_HEADER: &str = "x-influxdb-version";
pub(crate) const BUILD_HEADER: &str = "x-influxdb-build";
/// Of two names that it has.
pub(crate) const REQUEST_ID_HEADERS: [&str; 2] = ["request-id", "x-request-id"];

/// Which process this is among all that there have been.
static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

/// Who answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Identity {
    product_name: &'static str,
    /// The version of InfluxDB 3 Core whose API this is.
    version: &'static str,
    /// The version of this program.
    revision: &'static str,
    /// Another one after every start.
    #[schema(format = "uuid")]
    process_id: String,
}

pub(crate) fn ping() -> Result<Response, Problem> {
    let mut response = response::json(&Identity {
        product_name: "optoken",
        version: API_VERSION,
        revision: env!("CARGO_PKG_VERSION"),
        process_id: PROCESS.to_string(),
    })?;
    // A UUID is ASCII.
    let request_id = HeaderValue::from_str(&Uuid::new_v4().to_string()).map_err(|_| Problem::Internal)?;
    let headers = response.headers_mut();
    headers.insert(VERSION_HEADER, HeaderValue::from_static(API_VERSION));
    headers.insert(BUILD_HEADER, HeaderValue::from_static("Core"));
    for name in REQUEST_ID_HEADERS {
        headers.insert(name, request_id.clone());
    }
    Ok(response)
}

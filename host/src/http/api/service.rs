//! The service itself: ping, health and metrics (docs/compatibility.md 2.9).
//!
//! With an upstream, these paths are those of the upstream. So health and metrics have a second
//! path each, which is always that of this server. A load balancer sends requests to nodes that are
//! ready.

use std::sync::LazyLock;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use optoken_protocol::media_type::{JSON, TEXT};
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::api::endpoint::{
    ApiRequest, BodySchema, Endpoint, Handler, SuccessResponse, ok_response, read_problems,
};
use crate::http::response;
use crate::server::message::Response;

/// The version of InfluxDB 3 Core that has this API. Clients choose requests by it, so it is not
/// the version of this program, which is the revision.
const API_VERSION: &str = "3.10.1";

/// The paths of health and metrics of this server, with an upstream or without.
pub(crate) const OWN_HEALTH: &str = "/api/v3/optoken/health";
pub(crate) const OWN_METRICS: &str = "/api/v3/optoken/metrics";

/// InfluxDB has no path for that, so this one is beside the others of this server.
pub(crate) const READY: &str = "/api/v3/optoken/ready";

/// The media type of the Prometheus text format 0.0.4.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) const VERSION_HEADER: &str = "x-influxdb-version";
pub(crate) const BUILD_HEADER: &str = "x-influxdb-build";
/// The two headers of the request id.
pub(crate) const REQUEST_ID_HEADERS: [&str; 2] = ["request-id", "x-request-id"];

/// The id of this process.
static PROCESS: LazyLock<Uuid> = LazyLock::new(Uuid::new_v4);

/// The identity of the server.
#[derive(Serialize, ToSchema)]
struct Identity {
    product_name: &'static str,
    /// The version of InfluxDB 3 Core that has this API.
    version: &'static str,
    /// The version of this program.
    revision: &'static str,
    /// The id of the process, which differs after every start.
    #[schema(format = "uuid")]
    process_id: String,
}

fn ping() -> Result<Response, Problem> {
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

/// Health stays `OK` where the store is silent, since a restart would not mend that. A request to
/// another node can succeed, so this is 503.
fn ready(request: &ApiRequest) -> Result<Response, Problem> {
    let authority = &request.state.authority;
    // The catalog cannot be read after a move to another store.
    if request.state.options.without_auth || (authority.is_fresh() && authority.catalog_state().is_ok()) {
        Ok(response::text("OK"))
    } else {
        Err(Problem::Unavailable)
    }
}

fn metrics(request: &ApiRequest) -> Result<Response, Problem> {
    let text = request.state.read(|authority| request.state.metrics.text(authority))?;
    Ok(response::content(PROMETHEUS, text))
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let health = |path, name| Endpoint {
        method: Some(Method::GET),
        path,
        handler: Handler::Now(|_| Ok(response::text("OK"))),
        name,
        summary: "Check that the server runs",
        parameters: vec![],
        body: None,
        success: ok_response(vec![(TEXT, BodySchema::text())]),
        problems: vec![],
    };
    let ping = |method, name| Endpoint {
        method: Some(method),
        path: paths::PING,
        handler: Handler::Now(|_| ping()),
        name,
        summary: "Show the identity and the version of the server",
        parameters: vec![],
        body: None,
        success: SuccessResponse {
            status: StatusCode::OK,
            headers: [VERSION_HEADER, BUILD_HEADER].into_iter().chain(REQUEST_ID_HEADERS).collect(),
            content: vec![(JSON, BodySchema::of::<Identity>())],
        },
        problems: vec![],
    };
    let metrics_at = |path, name| Endpoint {
        method: Some(Method::GET),
        path,
        handler: Handler::Later(|request| Box::pin(async move { metrics(&request) })),
        name,
        summary: "Show metrics in the Prometheus text format",
        parameters: vec![],
        body: None,
        success: ok_response(vec![(PROMETHEUS, BodySchema::text())]),
        problems: read_problems(),
    };
    let [healthy, healthy_v1] = paths::HEALTH;
    vec![
        health(healthy, "getHealth"),
        health(healthy_v1, "getHealthV1"),
        ping(Method::GET, "getPing"),
        ping(Method::POST, "postPing"),
        metrics_at(paths::METRICS, "getMetrics"),
        health(OWN_HEALTH, "getOptokenHealth"),
        metrics_at(OWN_METRICS, "getOptokenMetrics"),
        Endpoint {
            method: Some(Method::GET),
            path: READY,
            handler: Handler::Later(|request| Box::pin(async move { ready(&request) })),
            name: "getOptokenReady",
            summary: "Check that the server knows the newest tokens: 503 while it refuses all of them",
            parameters: vec![],
            body: None,
            success: ok_response(vec![(TEXT, BodySchema::text())]),
            problems: vec![Problem::Unavailable],
        },
    ]
}

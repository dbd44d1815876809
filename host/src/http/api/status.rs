//! `GET /api/v3/optoken/status`: what this server knows of its catalog, its store and its clock.

use hyper::Method;
use optoken_protocol::media_type::JSON;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use serde::Serialize;
use utoipa::ToSchema;

use crate::authority::{Authority, CatalogRefusal};
use crate::http::api::endpoint::{ApiRequest, BodySchema, Endpoint, Handler, ok_response, read_problems};
use crate::http::response;
use crate::server::message::Response;

/// The state of a server.
#[derive(Serialize, ToSchema)]
struct Status {
    /// The version of this program.
    version: &'static str,
    catalog: CatalogStatus,
    store: StoreStatus,
    /// The file with the newest state that this server has seen; null without such a file.
    high_water_mark: Option<HighWaterStatus>,
    /// How far the clock is behind the newest audit record, in milliseconds.
    clock_behind_ms: u64,
    component: ComponentStatus,
}

/// The catalog that tokens are checked against.
#[derive(Serialize, ToSchema)]
struct CatalogStatus {
    #[schema(format = "uuid")]
    id: String,
    /// The sequence number of the newest audit record.
    sequence: u64,
    /// SHA-512/256 of that record.
    head: Option<String>,
}

/// The token store.
#[derive(Serialize, ToSchema)]
struct StoreStatus {
    /// Where it is, without secrets; null if the store does not state that.
    location: Option<String>,
    /// The time since the beginning of the read that last confirmed the catalog, in milliseconds.
    staleness_ms: u64,
    /// What made that read: `start`, `poll`, `news` of the store, or a `command` of this server.
    confirmed_by: &'static str,
    /// The time between two reads, in milliseconds.
    poll_interval_ms: u64,
    /// Beyond this time all tokens are refused.
    max_staleness_ms: u64,
    /// Why changes are refused; null if the store continues the catalog.
    refused: Option<RefusalStatus>,
    /// The clock of the store; null if the store states no time.
    clock: Option<StoreClockStatus>,
}

/// The clock of the store beside that of this machine.
#[derive(Serialize, ToSchema)]
struct StoreClockStatus {
    /// How far it is ahead, in milliseconds; negative if it is behind.
    ahead_ms: i64,
    /// How far that may be wrong, in milliseconds.
    precision_ms: u64,
}

/// A state of the store that does not continue the catalog.
#[derive(Serialize, ToSchema)]
struct RefusalStatus {
    /// `missing`, `other_catalog`, `older` or `diverged`.
    reason: &'static str,
    expected_sequence: u64,
    /// The sequence in the store; 0 if it holds no catalog.
    found_sequence: u64,
    text: String,
}

/// The high-water mark.
#[derive(Serialize, ToSchema)]
struct HighWaterStatus {
    file: String,
    /// The sequence in the file; null before the first write.
    sequence: Option<u64>,
}

/// The component that decides.
#[derive(Serialize, ToSchema)]
struct ComponentStatus {
    contract: String,
    version: String,
    revision: Option<String>,
    catalog_format: u32,
    /// The calls that trapped since the start.
    traps: u64,
}

impl From<CatalogRefusal> for RefusalStatus {
    fn from(refusal: CatalogRefusal) -> Self {
        Self {
            reason: refusal.reason(),
            expected_sequence: refusal.expected().sequence,
            found_sequence: refusal.found_sequence(),
            text: refusal.to_string(),
        }
    }
}

fn status(request: &ApiRequest) -> Result<Response, Problem> {
    let authority = &request.state.authority;
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let catalog = request.state.read(Authority::catalog_state)?;
    let component = request.state.read(Authority::component_info)?;
    response::json(&Status {
        version: env!("CARGO_PKG_VERSION"),
        catalog: CatalogStatus {
            id: authority.catalog_id().to_owned(),
            sequence: catalog.as_ref().map_or(0, |state| state.audit_sequence),
            head: catalog.and_then(|state| state.audit_head),
        },
        store: StoreStatus {
            location: authority.store_location(),
            staleness_ms: millis(authority.staleness()),
            confirmed_by: authority.proof_source().as_str(),
            poll_interval_ms: millis(authority.poll_interval()),
            max_staleness_ms: millis(authority.max_staleness()),
            refused: authority.catalog_refusal().map(Into::into),
            clock: authority.store_clock().map(|clock| StoreClockStatus {
                ahead_ms: clock.ahead_ms,
                precision_ms: millis(clock.precision),
            }),
        },
        high_water_mark: authority.high_water_mark().map(|(file, position)| HighWaterStatus {
            file: file.display().to_string(),
            sequence: position.map(|position| position.sequence),
        }),
        clock_behind_ms: millis(authority.clock_behind()),
        component: ComponentStatus {
            contract: component.contract,
            version: component.version,
            revision: component.revision,
            catalog_format: component.catalog_format,
            traps: authority.traps(),
        },
    })
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Some(Method::GET),
        path: paths::STATUS,
        handler: Handler::Later(|request| Box::pin(async move { status(&request) })),
        name: "getStatus",
        summary: "Show the state of the catalog, the token store and the clock of this server",
        parameters: vec![],
        body: None,
        success: ok_response(vec![(JSON, BodySchema::of::<Status>())]),
        problems: read_problems(),
    }]
}

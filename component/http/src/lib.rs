//! The operator-token authority over HTTP and a directory, for runtimes that serve `wasi:http`:
//!
//! ```console
//! $ mkdir -m 700 data
//! $ wasmtime serve -Scli --addr 127.0.0.1:8181 --dir ./data::/data optoken-http.wasm
//! ```
//!
//! Without `--addr`, wasmtime listens at 0.0.0.0:8080, and every client that reaches the machine
//! can connect. WASI sets no file modes: with the usual umask of 022, every user that may enter the
//! directory can read the catalog. So only the user of the server may enter it.
//!
//! | request | effect |
//! |---|---|
//! | `POST /api/v3/configure/token/admin` | create the operator token, if the environment allows it |
//! | `POST /api/v3/configure/token/admin/regenerate` | replace it; the JSON `{"overlap_secs": n}` keeps the previous one accepted for that time |
//! | any method, `/api/v3/verify` and every path below it | forward authentication: 200, 401, 403 or 503, without a body |
//! | `GET`, `HEAD /health` | requires a token, unless `OPTOKEN_DISABLE_AUTHZ=health` is set |
//!
//! A token with permissions of its own is answered 403 at every path but `/health`, where it needs
//! `system:health:read`. A proxy asks without path and host, which a permission `http` needs.
//!
//! Statuses, headers and bodies are those of the server in this repository. The differences come
//! from `wasi:http`:
//!
//! - It does not give the address of a client. So a request creates the first operator token only
//!   if `OPTOKEN_BOOTSTRAP=any` is set, and is answered 403 otherwise; `optoken-cli create` on the
//!   same directory creates it, too. The origin in audit records is `http`.
//! - It cannot close a connection after an answer.
//! - A body is not decompressed.
//! - TLS, limits on connections and the time for a request head belong to the runtime. So does a
//!   request without a `Host` header, which HTTP/1.0 allows: wasmtime answers it with 500.
//!
//! Every request compares the catalog with the high-water mark of this node, as
//! [`optoken_wasi::high_water`] describes. A catalog that went back is answered 503, and the log
//! has the reason. The mark is in the directory `/state` if the runtime opens one under this name,
//! else beside the catalog. `OPTOKEN_ACCEPT_CATALOG_AT=SEQUENCE` accepts an older catalog once.
//!
//! A runtime serves each request by an instance of its own, which reads the catalog from the
//! directory. So a change by another process counts at once. [`optoken_wasi::file_store`] describes
//! the durability of a change.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod problem;
mod request;
mod response;
mod routes;
mod wasi_http;

use alloc::format;

use optoken_protocol::problem::Problem;
#[cfg(target_arch = "wasm32")]
use optoken_runtime as _;
use optoken_wasi::Wasi;
use optoken_wasi::high_water::Acceptance;
use wasip2::cli::environment;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use self::routes::Options;

/// The directory of the catalog.
const DATA: &str = "/data";

/// The variable with the sequence number of an older catalog that the operator accepts once.
const ACCEPT: &str = "OPTOKEN_ACCEPT_CATALOG_AT=";

/// The component.
#[derive(Debug)]
pub struct Http;

/// Logs a mark that could not be written. A load that finds news is silent: any client can cause
/// one.
fn warn(warning: &str, changed: bool) {
    if changed {
        wasi_http::log(warning);
    }
}

impl wasip2::exports::http::incoming_handler::Guest for Http {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let environment = environment::get_environment();
        let options = Options::from_environment(&environment);
        let mut request = wasi_http::Incoming::new(request);
        let opened = routes::accepted_sequence(&environment)
            .and_then(|sequence| Wasi::at(DATA, None, Acceptance { sequence, option: ACCEPT }, warn));
        let response = match opened {
            Ok(ports) => routes::respond(&mut request, ports, options),
            Err(error) => {
                wasi_http::log(&format!("{error}; the runtime must provide wasi:cli as well"));
                routes::reject(&request, Problem::Unavailable)
            }
        };
        wasi_http::send(&response, out);
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)]
mod export {
    use super::Http;
    wasip2::http::proxy::export!(Http);
}

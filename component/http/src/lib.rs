//! The operator-token authority over HTTP, as any runtime serves it that knows `wasi:http`, over a directory:
//!
//! ```console
//! $ mkdir -m 700 data
//! $ wasmtime serve -Scli --addr 127.0.0.1:8181 --dir ./data::/data optoken-http.wasm
//! ```
//!
//! Without `--addr` wasmtime listens at 0.0.0.0:8080, for everybody who can reach the machine. WASI sets no file modes: with
//! the usual umask of 022 the catalog can be read by everybody who may enter the directory, so nobody else should.
//!
//! | request | |
//! |---|---|
//! | `POST /api/v3/configure/token/admin` | create the operator token, if that is allowed |
//! | `POST /api/v3/configure/token/admin/regenerate` | replace it; `{"overlap_secs": n}` as JSON if the old one is to be accepted a while |
//! | any method, `/api/v3/verify` | forward authentication: 200, 401 or 503, without a body |
//! | `GET /health` | for who has a token, or for everybody with `--env OPTOKEN_DISABLE_AUTHZ=health` |
//!
//! Statuses, headers and bodies are those of the server `influxdb3` of this repository. What differs has its reason in
//! `wasi:http`: it does not tell who is asking, so nobody may create the first operator token by a request (403) unless
//! `--env OPTOKEN_BOOTSTRAP=any` says that anybody may; `optoken-cli create` on the same directory makes it otherwise. A
//! connection cannot be closed after an answer, a body is not decompressed, and the audit records say of where a
//! request came from only `http`. TLS, limits on connections and the time that a head may take are the runtime's affair, and so is a
//! request without a `Host` header, as HTTP/1.0 allows: wasmtime answers 500 itself.
//!
//! Each request is served by an instance of its own (the runtime's default), which reads the catalog from the directory, so
//! what another process has changed there counts at once. How durable a change is says [`optoken_wasi::file_store`].

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
use wasip2::cli::environment;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use self::routes::Options;

/// Where the catalog is.
const DATA: &str = "/data";

/// The component.
#[derive(Debug)]
pub struct Http;

impl wasip2::exports::http::incoming_handler::Guest for Http {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let options = Options::from_environment(&environment::get_environment());
        let mut request = wasi_http::Incoming::new(request);
        let response = match Wasi::at(DATA) {
            Ok(ports) => routes::respond(&mut request, ports, options),
            Err(error) => {
                wasi_http::log(&format!("{error}; wasmtime serve wants -Scli beside it"));
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

//! Tests of everything that crosses a boundary: process, command line, HTTP, disk.

// All of this crate is test code; clippy.toml allows the same in the unit tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod audit;
mod backup;
mod catalog_lineage;
mod cli;
mod compat;
mod component;
mod concurrency;
mod connection;
mod contract;
mod deployment;
mod drop_in;
mod environment;
mod freshness;
mod hash;
mod history;
#[allow(dead_code, reason = "each test crate uses a part")]
mod http2;
mod http_edges;
mod invalid_input;
mod lifecycle;
mod memory;
mod metrics;
mod migrate;
#[allow(dead_code, reason = "each test crate uses a part")]
#[path = "../host/src/store/object/tests/endpoint.rs"]
mod object_endpoint;
mod openapi;
mod ownership;
mod permissions;
mod preconfigured_token;
mod program;
mod quickstart;
mod recovery;
mod redaction;
mod remote_store;
mod request_forgery;
mod rotation;
mod sandbox;
mod serve;
#[allow(dead_code, reason = "a benchmark uses the rest")]
mod simulation;
mod sql;
mod store_check;
#[allow(dead_code, unused_imports, reason = "each test crate uses a part")]
mod support;
mod tls;
mod token_file_rotation;
mod upstream;
mod verify;

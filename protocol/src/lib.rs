//! The token protocol of InfluxDB 3, as server and client speak it: paths, headers, credentials,
//! media types, problems, redaction, timestamps and the JSON of an issued token. Also the normal
//! form of paths and hosts, and the names of databases, which permissions of tokens depend on.
//!
//! The server, its client and the component `optoken-http` use these definitions, so the texts that
//! a client recognises are the constants that a server sends. Everything here is a constant or a
//! pure function over text and bytes: the crate does no I/O, knows no HTTP framework and holds no
//! authority over tokens. Facts about InfluxDB 3 come from `docs/compatibility.md`.

#![no_std]

extern crate alloc;

pub mod browser;
pub mod credentials;
pub mod database_name;
#[cfg(feature = "fields")]
pub mod fields;
pub mod headers;
pub mod host;
pub mod issued_token;
mod json;
pub mod media_type;
pub mod paths;
pub mod percent;
pub mod problem;
pub mod redact;
pub mod request_path;
pub mod system_tokens;
pub mod timestamp;
pub mod token;
pub mod visible;

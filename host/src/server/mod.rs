//! Sockets: listeners, connections, TLS and the Unix socket. Knows no HTTP API.

pub(crate) mod connections;
pub(crate) mod listener;
pub(crate) mod log_throttle;
pub(crate) mod peer;
pub(crate) mod serve;
pub(crate) mod tls;
pub(crate) mod unix_socket;

//! Sockets and connections: TCP, Unix and TLS listeners, and the limits of connections.
//!
//! Serves HTTP, and knows nothing of the API behind it.

pub(crate) mod body;
mod client_stream;
mod coarse_clock;
pub(crate) mod connections;
mod host_header;
pub(crate) mod listener;
pub(crate) mod log_throttle;
pub(crate) mod message;
pub(crate) mod peer;
pub(crate) mod serve;
mod signals;
pub(crate) mod tls;
pub(crate) mod unix_socket;

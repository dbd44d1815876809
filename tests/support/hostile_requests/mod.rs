//! Requests that try to do more than their token may, and harmless neighbours of them.
//!
//! Data alone: a test sends them through a server or a proxy, and compares what a service received
//! with what the row expects.

mod http;
mod influxdb3;
mod smuggling;
mod tickets;

pub(crate) use self::http::HTTP;
pub(crate) use self::influxdb3::INFLUXDB3;
pub(crate) use self::smuggling::{HTTP1, HTTP2};
pub(crate) use self::tickets::TICKETS;

/// A request of HTTP/1.1.
///
/// `Host: service.example`, `Authorization: Bearer TOKEN` and the length of the body are added
/// where `headers` has no such line.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The permissions of the token, with spaces between them.
    pub(crate) permissions: &'static str,
    /// Method and target. `HTTP/1.1` is added where the line has no version.
    pub(crate) line: &'static str,
    /// Whole lines. TOKEN stands for the token.
    pub(crate) headers: &'static str,
    pub(crate) body: &'static str,
    /// Method and target that reach the service, if the request does.
    pub(crate) arrives: Option<&'static str>,
}

/// A request of HTTP/1.1 to the last byte, which may be several to a lenient server.
pub(crate) struct RawRow {
    pub(crate) name: &'static str,
    pub(crate) permissions: &'static str,
    /// TOKEN stands for the token.
    pub(crate) bytes: &'static [u8],
    pub(crate) arrives: &'static [&'static str],
}

/// A request of HTTP/2: fields in their order, data, and trailers.
///
/// `authorization` is added where no field has TOKEN.
pub(crate) struct Http2Row {
    pub(crate) name: &'static str,
    pub(crate) permissions: &'static str,
    pub(crate) fields: &'static [(&'static str, &'static str)],
    pub(crate) data: Option<&'static [u8]>,
    pub(crate) trailers: &'static [(&'static str, &'static str)],
    pub(crate) arrives: Option<&'static str>,
}

/// A call of Arrow Flight.
pub(crate) struct TicketRow {
    pub(crate) name: &'static str,
    pub(crate) permissions: &'static str,
    /// The method of the service, or a whole path.
    pub(crate) method: &'static str,
    /// Headers beside those of gRPC.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    pub(crate) message: Message,
    /// Whether the call reaches the service.
    pub(crate) arrives: bool,
}

/// The body of a call.
pub(crate) enum Message {
    /// A message with this ticket.
    Ticket(&'static [u8]),
    /// The bytes of the body.
    Raw(&'static [u8]),
}

/// A row with all its columns.
const fn row(
    name: &'static str,
    permissions: &'static str,
    line: &'static str,
    headers: &'static str,
    body: &'static str,
    arrives: Option<&'static str>,
) -> Row {
    Row { name, permissions, line, headers, body, arrives }
}

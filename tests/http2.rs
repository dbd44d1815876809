//! A minimal HTTP/2 client, for one request on a connection (RFC 9113, RFC 7541).

use std::io::{self, Read};

use crate::support::Connection;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;

const END_STREAM: u8 = 0b001;
const END_HEADERS: u8 = 0b100;

/// Id of the first stream of a client.
const STREAM: u32 = 1;

/// First byte of a head with status 200: entry 8 of the static table.
pub(crate) const STATUS_200: u8 = 0x88;

/// Opens a connection: the preface, and default settings.
pub(crate) fn opening() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &[])].concat()
}

/// The head of a request. `all` ends the request.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], all: bool) -> Vec<u8> {
    request_to("localhost", method, path, headers, all)
}

/// As [`request`], with this authority.
pub(crate) fn request_to(
    authority: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    all: bool,
) -> Vec<u8> {
    request_on(STREAM, authority, method, path, headers, all)
}

/// As [`request_to`], on this stream. Ids of a client are odd and increase.
pub(crate) fn request_on(
    stream: u32,
    authority: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    all: bool,
) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", authority)];
    let fields: Vec<_> = pseudo.iter().chain(headers).map(|(name, value)| literal(name, value)).collect();
    let flags = if all { END_HEADERS | END_STREAM } else { END_HEADERS };
    frame(HEADERS, flags, stream, &fields.concat())
}

/// A whole request without `:authority`.
pub(crate) fn request_without_authority(method: &str, path: &str) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path)];
    let fields = pseudo.map(|(name, value)| literal(name, value));
    frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &fields.concat())
}

/// The whole body of a request.
pub(crate) fn body(bytes: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, STREAM, bytes)
}

/// Cancels the request.
pub(crate) fn cancel() -> Vec<u8> {
    const CANCEL: u32 = 8;
    frame(RST_STREAM, 0, STREAM, &CANCEL.to_be_bytes())
}

/// Waits until the server has read all that was sent, and has started to process it.
pub(crate) fn synchronize(connection: &mut Connection) {
    for _ in 0..3 {
        connection.write(&frame(PING, 0, 0, &[0; 8]));
        while read_frame(connection).0 != PING {}
    }
}

/// Returns the kinds of the frames that come before the response to a ping.
pub(crate) fn kinds_until_ping(connection: &mut Connection) -> Vec<u8> {
    connection.write(&frame(PING, 0, 0, &[0; 8]));
    let mut kinds = Vec::new();
    loop {
        match read_frame(connection).0 {
            PING => return kinds,
            kind => kinds.push(kind),
        }
    }
}

/// Reads a frame: its kind and its payload.
pub(crate) fn read_frame(from: &mut Connection) -> (u8, Vec<u8>) {
    let head = from.read_bytes(9);
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    (head[3], from.read_bytes(length as usize))
}

/// Reads up to the body of the response.
pub(crate) fn read_data(from: &mut Connection) -> String {
    loop {
        let (kind, payload) = read_frame(from);
        if kind == DATA {
            return String::from_utf8(payload).unwrap();
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal header without indexing.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

/// The head of a request with these fields and no others, which may be malformed.
pub(crate) fn fields(fields: &[(&str, &str)], all: bool) -> Vec<u8> {
    let flags = if all { END_HEADERS | END_STREAM } else { END_HEADERS };
    let fields: Vec<_> = fields.iter().map(|(name, value)| literal(name, value)).collect();
    frame(HEADERS, flags, STREAM, &fields.concat())
}

/// A part of the body of a request. `all` ends the request.
pub(crate) fn data(bytes: &[u8], all: bool) -> Vec<u8> {
    frame(DATA, if all { END_STREAM } else { 0 }, STREAM, bytes)
}

/// Reads until the response has ended, or the stream, or the connection.
pub(crate) fn read_to_end(from: &mut impl Read) {
    let mut head = [0; 9];
    while from.read_exact(&mut head).is_ok() {
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        let read = io::copy(&mut from.take(length), &mut io::sink());
        let is_of_stream = head[5..] == STREAM.to_be_bytes();
        let is_end = match head[3] {
            DATA | HEADERS => is_of_stream && head[4] & END_STREAM != 0,
            RST_STREAM => is_of_stream,
            kind => kind == GO_AWAY,
        };
        if is_end || read.is_err() {
            return;
        }
    }
}

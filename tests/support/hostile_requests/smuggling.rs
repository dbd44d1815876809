//! Requests that a lenient server reads as two, or as another one.
//!
//! The hidden request asks for `/secret`, which no token here may do. Its lines end in two empty
//! lines where a parser could need them.

use super::{Http2Row, RawRow};

const TOKEN: &str = "http:/a/*:read,write";

const fn raw(name: &'static str, bytes: &'static [u8], arrives: &'static [&'static str]) -> RawRow {
    RawRow { name, permissions: TOKEN, bytes, arrives }
}

/// The lines of a request up to the ones of a row.
macro_rules! post {
    ($rest:literal) => {
        concat!("POST /a/x HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\n", $rest)
            .as_bytes()
    };
}

pub(crate) const HTTP1: &[RawRow] = &[
    // Two lengths.
    raw(
        "length and chunks",
        post!("Content-Length: 43\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"),
        &["POST /a/x"],
    ),
    raw(
        "chunks and length",
        post!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n21\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n"),
        &["POST /a/x"],
    ),
    raw("two lengths", post!("Content-Length: 33\r\nContent-Length: 0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n"), &[]),
    raw("two lengths, zero first", post!("Content-Length: 0\r\nContent-Length: 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n"), &[]),
    raw("list of lengths", post!("Content-Length: 0, 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("signed length", post!("Content-Length: +33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("negative length", post!("Content-Length: -1\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("hexadecimal length", post!("Content-Length: 0x21\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("length with a space", post!("Content-Length: 3 3\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("empty length", post!("Content-Length: \r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("length that overflows", post!("Content-Length: 18446744073709551617\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    // Codings that a server may not know.
    raw("unknown coding", post!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("unknown coding and length", post!("Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("quoted coding", post!("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("coding with a tabulator", post!("Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &["POST /a/x"]),
    raw("coding with a form feed", post!("Transfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("coding with a vertical tabulator", post!("Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("chunked is not last", post!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("chunked twice", post!("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("two codings in two lines", post!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("identity and chunked in two lines", post!("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("gzip and chunked", post!("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("coding of an old version", b"POST /a/x HTTP/1.0\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
    // Names and lines that are malformed.
    raw("space before the colon", post!("Content-Length: 33\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("length with a space before the colon", post!("Content-Length : 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("folded line", post!("X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("folded coding", post!("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("first line folded", b"POST /a/x HTTP/1.1\r\n X: y\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
    raw("NUL in a name", post!("Transfer-Encoding\0: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("NUL in a value", post!("X: a\0b\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("carriage return in a value", post!("X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("carriage returns alone", b"POST /a/x HTTP/1.1\rHost: service.example\rAuthorization: Bearer TOKEN\r\rGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
    raw("line without a colon", post!("Transfer-Encoding chunked\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("empty name", post!(": x\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("underscore in the length", post!("Content_Length: 33\r\nContent-Length: 0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &["POST /a/x"]),
    raw("hop of the length", post!("Connection: Content-Length\r\nContent-Length: 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &["POST /a/x"]),
    raw("hop of the coding", post!("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n21\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n"), &["POST /a/x"]),
    // Chunks.
    raw("extension of a chunk", post!("Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\n\r\n"), &["POST /a/x"]),
    raw("line feed in the extension", post!("Transfer-Encoding: chunked\r\n\r\n1;\nab\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("carriage return in the extension", post!("Transfer-Encoding: chunked\r\n\r\n1;a\rb\r\na\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("size with a prefix", post!("Transfer-Encoding: chunked\r\n\r\n0x21\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n"), &[]),
    raw("size that overflows", post!("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n"), &[]),
    raw("size that is signed", post!("Transfer-Encoding: chunked\r\n\r\n-1\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n"), &[]),
    raw("chunk without its end", post!("Transfer-Encoding: chunked\r\n\r\n1\r\naGET /secret HTTP/1.1\r\nHost: x\r\n\r\n0\r\n\r\n"), &[]),
    raw("chunk that is longer than its size", post!("Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    raw("identity in a trailer", post!("Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Auth-Token-Id\r\n\r\n1\r\na\r\n0\r\nX-Auth-Token-Id: 0\r\nX_Forwarded_For: 1\r\nContent-Length: 9\r\n\r\n"), &["POST /a/x"]),
    raw("folded trailer", post!("Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n z\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &[]),
    // Two requests that are two, of which the second is not allowed.
    raw("pipelined", post!("Content-Length: 1\r\n\r\naGET /secret HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n\r\n"), &["POST /a/x"]),
    raw("pipelined behind chunks", post!("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n\r\n"), &["POST /a/x"]),
    raw("pipelined without credential", post!("Content-Length: 0\r\n\r\nGET /a/y HTTP/1.1\r\nHost: x\r\n\r\n"), &["POST /a/x"]),
    raw("request as a body", post!("Content-Length: 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &["POST /a/x"]),
    raw("expectation and no body", post!("Content-Length: 0\r\nExpect: 100-continue\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n\r\n"), &["POST /a/x"]),
    raw("unknown expectation", post!("Content-Length: 33\r\nExpect: y\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n"), &["POST /a/x"]),
    raw("upgrade to HTTP/2", post!("Content-Length: 0\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n\r\n"), &["POST /a/x"]),
    raw("upgrade to WebSocket", b"GET /a/x HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n\r\n", &["GET /a/x"]),
    raw("body of GET", b"GET /a/x HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &["GET /a/x"]),
    raw("body of HEAD", b"HEAD /a/x HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\nContent-Length: 33\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &["HEAD /a/x"]),
    // Request lines.
    raw("version of another protocol", b"GET /a/x HTTP/1.2\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
    raw("version 0.9", b"GET /secret\r\n\r\n", &[]),
    raw("two spaces", b"GET  /a/x HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\n\r\n", &[]),
    raw("request in the method", b"GET /secret HTTP/1.1\r\nX: GET /a/x HTTP/1.1\r\nHost: service.example\r\nAuthorization: Bearer TOKEN\r\n\r\n", &[]),
    raw("no host", b"GET /a/x HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n\r\n", &[]),
    raw("preface of HTTP/2 and HTTP/1", b"PRI * HTTP/2.0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
];

const fn h2(
    name: &'static str,
    fields: &'static [(&'static str, &'static str)],
    data: Option<&'static [u8]>,
    trailers: &'static [(&'static str, &'static str)],
    arrives: Option<&'static str>,
) -> Http2Row {
    Http2Row { name, permissions: TOKEN, fields, data, trailers, arrives }
}

/// The fields of a request, and those of a row.
macro_rules! fields {
    ($($field:expr),*) => {
        &[(":method", "POST"), (":scheme", "http"), (":path", "/a/x"), (":authority", "service.example"), $($field),*]
    };
}

const HIDDEN: Option<&[u8]> = Some(b"0\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n");
const SHORT: Option<&[u8]> = Some(b"x");

pub(crate) const HTTP2: &[Http2Row] = &[
    h2("request", fields!(), HIDDEN, &[], Some("POST /a/x")),
    h2("request without a body", fields!(), None, &[], Some("POST /a/x")),
    // Headers of HTTP/1.
    h2("coding", fields!(("transfer-encoding", "chunked")), HIDDEN, &[], None),
    h2("coding without a body", fields!(("transfer-encoding", "chunked")), None, &[], None),
    h2("connection", fields!(("connection", "close")), SHORT, &[], None),
    h2("connection of the previous version", fields!(("proxy-connection", "close")), SHORT, &[], None),
    h2("upgrade", fields!(("upgrade", "h2c")), SHORT, &[], None),
    h2("te of another coding", fields!(("te", "gzip")), SHORT, &[], None),
    h2("te of trailers", fields!(("te", "trailers")), SHORT, &[], Some("POST /a/x")),
    // Lengths.
    h2("length that is too small", fields!(("content-length", "0")), HIDDEN, &[], None),
    h2("length that is too large", fields!(("content-length", "99")), SHORT, &[], None),
    h2("length without a body", fields!(("content-length", "1")), None, &[], None),
    h2("two lengths", fields!(("content-length", "1"), ("content-length", "2")), SHORT, &[], None),
    h2("list of lengths", fields!(("content-length", "1, 1")), SHORT, &[], None),
    h2("signed length", fields!(("content-length", "+1")), SHORT, &[], None),
    // Names and values.
    h2("colon in a name", fields!(("x:y", "1")), SHORT, &[], None),
    h2("coding within a name", fields!(("x: y\r\ntransfer-encoding", "chunked")), HIDDEN, &[], None),
    h2("upper case", fields!(("Transfer-Encoding", "chunked")), HIDDEN, &[], None),
    h2("space in a name", fields!(("transfer-encoding ", "chunked")), HIDDEN, &[], None),
    h2("empty name", fields!(("", "x")), SHORT, &[], None),
    h2("line break in a value", fields!(("x", "y\r\ntransfer-encoding: chunked")), HIDDEN, &[], None),
    h2(
        "request in a value",
        fields!(("x", "y\r\n\r\nGET /secret HTTP/1.1\r\nHost: x\r\n\r\n")),
        SHORT,
        &[],
        None,
    ),
    h2("line feed in a value", fields!(("x", "y\nx-auth-token-id: 0")), SHORT, &[], None),
    h2("NUL in a value", fields!(("x", "y\0z")), SHORT, &[], None),
    // Pseudo-headers.
    h2(
        "line break in the path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a/x HTTP/1.1\r\nX: y\r\n\r\nGET /secret"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "space in the path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a/x HTTP/1.1"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "other path",
        &[(":method", "GET"), (":scheme", "http"), (":path", "/secret"), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "parents in the path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a/../secret"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "encoded parents in the path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a/%2e%2e/secret"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "URL as a path",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "http://service.example/a/x"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "path without a slash",
        &[(":method", "GET"), (":scheme", "http"), (":path", "a/x"), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "empty path",
        &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "no path",
        &[(":method", "GET"), (":scheme", "http"), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "two paths",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a/x"),
            (":path", "/secret"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "line break in the method",
        &[
            (":method", "GET /secret HTTP/1.1\r\nX: y\r\n\r\nGET"),
            (":scheme", "http"),
            (":path", "/a/x"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "space in the method",
        &[
            (":method", "GET /secret?"),
            (":scheme", "http"),
            (":path", "/a/x"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "no method",
        &[(":scheme", "http"), (":path", "/a/x"), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "no scheme",
        &[(":method", "GET"), (":path", "/a/x"), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "line break in the scheme",
        &[
            (":method", "GET"),
            (":scheme", "http\r\nX: y"),
            (":path", "/a/x"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2(
        "line break in the host",
        &[(":method", "GET"), (":scheme", "http"), (":path", "/a/x"), (":authority", "x\r\nX: y")],
        None,
        &[],
        None,
    ),
    h2(
        "user in the host",
        &[(":method", "GET"), (":scheme", "http"), (":path", "/a/x"), (":authority", "user@service.example")],
        None,
        &[],
        None,
    ),
    h2(
        "path in the host",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/a/x"),
            (":authority", "service.example/secret?"),
        ],
        None,
        &[],
        None,
    ),
    h2("another host header", fields!(("host", "evil.example")), None, &[], None),
    h2("two host headers", fields!(("host", "service.example"), ("host", "evil.example")), None, &[], None),
    h2(
        "pseudo-header behind a header",
        &[
            (":method", "GET"),
            (":scheme", "http"),
            ("x", "y"),
            (":path", "/a/x"),
            (":authority", "service.example"),
        ],
        None,
        &[],
        None,
    ),
    h2("unknown pseudo-header", fields!((":x", "y")), None, &[], None),
    h2("status in a request", fields!((":status", "200")), None, &[], None),
    h2("protocol of an upgrade", fields!((":protocol", "websocket")), None, &[], None),
    h2("CONNECT", &[(":method", "CONNECT"), (":authority", "service.example:80")], None, &[], None),
    h2(
        "TRACE",
        &[(":method", "TRACE"), (":scheme", "http"), (":path", "/a/x"), (":authority", "service.example")],
        None,
        &[],
        None,
    ),
    // Identity, and trailers.
    h2(
        "identity",
        fields!(("x-auth-token-id", "0"), ("x_auth_token_name", "_admin"), ("x-forwarded-for", "1")),
        None,
        &[],
        Some("POST /a/x"),
    ),
    h2(
        "identity in a trailer",
        fields!(("te", "trailers")),
        SHORT,
        &[("x-auth-token-id", "0"), ("x_real_ip", "1"), ("content-length", "9")],
        Some("POST /a/x"),
    ),
    h2("coding in a trailer", fields!(), HIDDEN, &[("transfer-encoding", "chunked")], None),
    h2("pseudo-header in a trailer", fields!(), SHORT, &[(":path", "/secret")], Some("POST /a/x")),
    h2("line break in a trailer", fields!(), SHORT, &[("x", "y\r\n\r\nGET /secret HTTP/1.1")], None),
];

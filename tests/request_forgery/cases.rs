//! Requests that forge a local client, and a check that the server rejects them.

use crate::support::{CREATE, Connection, REGENERATE, TestEnv};

/// Listeners that reject a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectedBy {
    /// The recovery listener, and bootstrap on the main listener.
    Both,
    /// The recovery listener alone, which is stricter.
    Recovery,
}
use RejectedBy::{Both, Recovery};

/// Name, head, body, status, and listeners.
///
/// PATH, PORT and OTHER in the head stand for the path, the port of the listener, and another port.
/// If the status is 400, the server may also close the connection without a response.
type Case = (&'static str, &'static str, &'static str, u16, RejectedBy);

const CASES: &[Case] = &[
    // Hosts that are not names of the listener, as after DNS rebinding.
    ("another name", "POST PATH HTTP/1.1\r\nHost: evil.example\r\n", "", 403, Both),
    ("another name and the port", "POST PATH HTTP/1.1\r\nHost: evil.example:PORT\r\n", "", 403, Both),
    ("the address as a label", "POST PATH HTTP/1.1\r\nHost: 127.0.0.1.evil.example:PORT\r\n", "", 403, Both),
    ("localhost as a label", "POST PATH HTTP/1.1\r\nHost: localhost.evil.example:PORT\r\n", "", 403, Both),
    ("a name below localhost", "POST PATH HTTP/1.1\r\nHost: a.localhost:PORT\r\n", "", 403, Both),
    ("a name that begins like it", "POST PATH HTTP/1.1\r\nHost: localhostx:PORT\r\n", "", 403, Both),
    ("a trailing dot", "POST PATH HTTP/1.1\r\nHost: localhost.:PORT\r\n", "", 403, Both),
    ("an address and a dot", "POST PATH HTTP/1.1\r\nHost: 127.0.0.1.:PORT\r\n", "", 403, Both),
    ("a public name of 127.0.0.1", "POST PATH HTTP/1.1\r\nHost: 127.0.0.1.nip.io:PORT\r\n", "", 403, Both),
    ("another loopback address", "POST PATH HTTP/1.1\r\nHost: 127.0.0.2:PORT\r\n", "", 403, Both),
    ("a short form of the address", "POST PATH HTTP/1.1\r\nHost: 127.1:PORT\r\n", "", 403, Both),
    ("a number for the address", "POST PATH HTTP/1.1\r\nHost: 2130706433:PORT\r\n", "", 403, Both),
    ("octal digits", "POST PATH HTTP/1.1\r\nHost: 0177.0.0.1:PORT\r\n", "", 403, Both),
    ("the unspecified address", "POST PATH HTTP/1.1\r\nHost: 0.0.0.0:PORT\r\n", "", 403, Both),
    ("IPv6 without brackets", "POST PATH HTTP/1.1\r\nHost: ::1:PORT\r\n", "", 400, Both),
    ("IPv6 in full", "POST PATH HTTP/1.1\r\nHost: [0:0:0:0:0:0:0:1]:PORT\r\n", "", 403, Both),
    ("IPv6 with a zone", "POST PATH HTTP/1.1\r\nHost: [::1%25lo]:PORT\r\n", "", 400, Both),
    ("IPv4 in IPv6", "POST PATH HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:PORT\r\n", "", 403, Both),
    ("the unspecified IPv6 address", "POST PATH HTTP/1.1\r\nHost: [::]:PORT\r\n", "", 403, Both),
    ("a user before the name", "POST PATH HTTP/1.1\r\nHost: evil@127.0.0.1:PORT\r\n", "", 400, Both),
    ("a list of names", "POST PATH HTTP/1.1\r\nHost: localhost:PORT, evil.example\r\n", "", 400, Both),
    ("a path after the name", "POST PATH HTTP/1.1\r\nHost: localhost:PORT/\r\n", "", 400, Both),
    ("two ports", "POST PATH HTTP/1.1\r\nHost: localhost:PORT:PORT\r\n", "", 400, Both),
    ("letters for a port", "POST PATH HTTP/1.1\r\nHost: localhost:http\r\n", "", 400, Both),
    ("an empty port", "POST PATH HTTP/1.1\r\nHost: localhost:\r\n", "", 403, Both),
    ("an empty name", "POST PATH HTTP/1.1\r\nHost: :PORT\r\n", "", 403, Both),
    ("a name outside ASCII", "POST PATH HTTP/1.1\r\nHost: löcalhost:PORT\r\n", "", 400, Both),
    ("an empty Host", "POST PATH HTTP/1.1\r\nHost:\r\n", "", 403, Both),
    ("no port", "POST PATH HTTP/1.1\r\nHost: localhost\r\n", "", 403, Recovery),
    ("another port", "POST PATH HTTP/1.1\r\nHost: localhost:OTHER\r\n", "", 403, Recovery),
    ("a port with a zero", "POST PATH HTTP/1.1\r\nHost: localhost:0PORT\r\n", "", 403, Recovery),
    // No Host, several, or one that contradicts the request line.
    ("no Host", "POST PATH HTTP/1.1\r\n", "", 400, Both),
    ("no Host and a whole URL", "POST http://localhost:PORTPATH HTTP/1.1\r\n", "", 400, Both),
    (
        "Host twice in HTTP/1.0",
        "POST PATH HTTP/1.0\r\nHost: localhost:PORT\r\nHost: localhost:PORT\r\n",
        "",
        400,
        Both,
    ),
    ("IPv6 without its end", "POST PATH HTTP/1.1\r\nHost: [::1:PORT\r\n", "", 400, Both),
    ("no Host in HTTP/1.0", "POST PATH HTTP/1.0\r\n", "", 403, Both),
    ("Host twice", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nHost: localhost:PORT\r\n", "", 400, Both),
    (
        "another Host before",
        "POST PATH HTTP/1.1\r\nHost: evil.example\r\nHost: localhost:PORT\r\n",
        "",
        400,
        Both,
    ),
    (
        "another Host after",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nhost: evil.example\r\n",
        "",
        400,
        Both,
    ),
    ("a folded Host", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\n evil.example\r\n", "", 400, Both),
    ("a space after Host", "POST PATH HTTP/1.1\r\nHost : localhost:PORT\r\n", "", 400, Both),
    ("a whole URL", "POST http://localhost:PORTPATH HTTP/1.1\r\nHost: localhost:PORT\r\n", "", 403, Both),
    ("a URL elsewhere", "POST http://evil.examplePATH HTTP/1.1\r\nHost: localhost:PORT\r\n", "", 403, Both),
    (
        "a URL with another Host",
        "POST http://localhost:PORTPATH HTTP/1.1\r\nHost: evil.example\r\n",
        "",
        403,
        Both,
    ),
    // Headers of a browser.
    (
        "a page",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: https://evil.example\r\n",
        "",
        403,
        Both,
    ),
    (
        "a page of this listener",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: http://localhost:PORT\r\n",
        "",
        403,
        Both,
    ),
    ("a page of no origin", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: null\r\n", "", 403, Both),
    ("an empty origin", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin:\r\n", "", 403, Both),
    ("origin, small", "POST PATH HTTP/1.1\r\nhost: localhost:PORT\r\norigin: x\r\n", "", 403, Both),
    (
        "a form on another page",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n\
         Sec-Fetch-Mode: navigate\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n",
        "a=b",
        403,
        Both,
    ),
    (
        "another site",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: cross-site\r\n",
        "",
        403,
        Both,
    ),
    (
        "the same site",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: same-site\r\n",
        "",
        403,
        Both,
    ),
    (
        "the same origin",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: same-origin\r\n",
        "",
        403,
        Both,
    ),
    (
        "a mode without a site",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Mode: no-cors\r\n",
        "",
        403,
        Both,
    ),
    (
        "none and more",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nSec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
        "",
        403,
        Both,
    ),
    (
        "a preflight",
        "OPTIONS PATH HTTP/1.1\r\nHost: localhost:PORT\r\nOrigin: https://evil.example\r\n\
         Access-Control-Request-Method: POST\r\n",
        "",
        403,
        Recovery,
    ),
    // Headers of a proxy.
    (
        "a proxy",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nX-Forwarded-For: 127.0.0.1\r\n",
        "",
        403,
        Both,
    ),
    (
        "a proxy by RFC 7239",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nForwarded: for=x\r\n",
        "",
        403,
        Both,
    ),
    ("a proxy by name", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nVia: 1.1 x\r\n", "", 403, Both),
    (
        "a proxy by the scheme",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nX-Forwarded-Proto: https\r\n",
        "",
        403,
        Both,
    ),
    (
        "a proxy by the client address",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nTrue-Client-IP: 127.0.0.1\r\n",
        "",
        403,
        Both,
    ),
    ("a proxy by its product", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nCF-Ray: 1\r\n", "", 403, Both),
    ("a proxy by its age", "POST PATH HTTP/1.0\r\nHost: localhost:PORT\r\n", "", 403, Both),
    // Length of the body.
    (
        "a length and chunks",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        403,
        Recovery,
    ),
    (
        "chunks and a length",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "0\r\n\r\n",
        403,
        Recovery,
    ),
    (
        "chunks alone",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        403,
        Recovery,
    ),
    (
        "an unknown encoding",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nTransfer-Encoding: xchunked\r\n",
        "0\r\n\r\n",
        400,
        Both,
    ),
    (
        "chunks inside another encoding",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nTransfer-Encoding: chunked, identity\r\n",
        "0\r\n\r\n",
        400,
        Both,
    ),
    (
        "chunks in HTTP/1.0",
        "POST PATH HTTP/1.0\r\nHost: localhost:PORT\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        400,
        Both,
    ),
    (
        "a space after the encoding",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nTransfer-Encoding : chunked\r\n",
        "0\r\n\r\n",
        400,
        Both,
    ),
    (
        "two lengths",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 0\r\nContent-Length: 5\r\n",
        "",
        400,
        Both,
    ),
    (
        "a signed length",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: +0\r\n",
        "",
        400,
        Both,
    ),
    (
        "a list of lengths",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 0, 5\r\n",
        "",
        400,
        Both,
    ),
    (
        "a huge length",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 9999999999\r\n",
        "",
        413,
        Both,
    ),
    (
        "a length over the limit",
        "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nContent-Length: 1025\r\n",
        "",
        413,
        Recovery,
    ),
    ("a NUL in a header", "POST PATH HTTP/1.1\r\nHost: localhost:PORT\r\nX: a\0b\r\n", "", 400, Both),
    // Variants of the path.
    ("a path with two slashes", "POST /PATH HTTP/1.1\r\nHost: localhost:PORT\r\n", "", 404, Recovery),
    ("a path with dots", "POST /x/..PATH HTTP/1.1\r\nHost: localhost:PORT\r\n", "", 404, Recovery),
    ("a path after a name", "POST @evil.examplePATH HTTP/1.1\r\nHost: localhost:PORT\r\n", "", 400, Both),
    ("another method", "PUT PATH HTTP/1.1\r\nHost: localhost:PORT\r\n", "", 404, Both),
    (
        "an overridden method",
        "PUT PATH HTTP/1.1\r\nHost: localhost:PORT\r\nX-HTTP-Method-Override: POST\r\n",
        "",
        404,
        Both,
    ),
];

/// The server rejects all cases over this loopback address, and accepts a valid request.
pub(crate) fn assert_all_rejected(address: &str) {
    assert!(CASES.len() >= 40);
    for by in [Recovery, Both] {
        assert_rejected(address, by);
    }
}

/// Sends all cases to a server that listens on this address, and a valid request afterwards.
fn assert_rejected(address: &str, by: RejectedBy) {
    let env = TestEnv::new();
    let server = env.cli(["serve", "--http-bind", address, "--admin-token-recovery-http-bind", address]);
    let server = server.arg("--data-dir").arg(env.data_dir()).start();
    let (to, path, token) = match by {
        Recovery => (server.recovery(), REGENERATE, Some(server.create())),
        Both => (server.address, CREATE, None),
    };
    let before = env.stored_catalog();
    for &(case, head, body, status, rejected_by) in CASES {
        if by == Both && rejected_by == Recovery {
            continue;
        }
        let head = head
            .replace("PATH", path)
            .replace("PORT", &to.port().to_string())
            .replace("OTHER", &(to.port() ^ 1).to_string());
        let mut connection = Connection::open(to).unwrap();
        connection.write(format!("{head}\r\n{body}").as_bytes());
        match connection.read() {
            Ok(response) => {
                assert_eq!(response.status, status, "{case}: {response:?}");
                assert!(!response.body.contains("apiv3_"), "{case}: {response:?}");
            }
            Err(error) => assert_eq!(status, 400, "{case}: {error}"),
        }
        assert_eq!(env.stored_catalog(), before, "{case}");
    }
    assert!(token.iter().all(|token| server.accepts(token)));
    let mut connection = Connection::open(to).unwrap();
    connection.write(format!("POST {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes());
    let new = connection.read().unwrap().token();
    assert!(server.accepts(&new));
}

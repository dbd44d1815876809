//! Requests that forge a local client to get the operator token without a credential: hosts of DNS
//! rebinding, web pages, proxies, and ambiguous bytes. The server rejects them, and accepts valid
//! requests.

mod cases;

use std::net::SocketAddr;

use crate::http2;
use crate::support::{CREATE, Connection, RECOVERY, REGENERATE, TestEnv, eventually, get, post};

#[test]
fn forged_requests_are_rejected_valid_ones_accepted() {
    cases::assert_all_rejected("127.0.0.1:0");
}

/// Returns the body of the response to one HTTP/2 request.
fn send_http2(to: SocketAddr, authority: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut connection = Connection::open(to).unwrap();
    connection.write(&http2::opening());
    connection.write(&http2::request_to(authority, "POST", path, headers, true));
    http2::read_data(&mut connection)
}

#[test]
fn http2_requests_are_checked_alike() {
    for (path, flags) in [(REGENERATE, &RECOVERY[..]), (CREATE, &[])] {
        let env = TestEnv::new();
        let server = env.serve(flags);
        let to = if path == REGENERATE { server.recovery() } else { server.address };
        if path == REGENERATE {
            server.create();
        }
        let before = env.stored_catalog();
        let own = to.to_string();
        let host_mismatch = "the Host header names no address of this listener";
        for (authority, headers, message) in [
            ("evil.example", &[][..], host_mismatch),
            ("127.0.0.1.evil.example", &[], host_mismatch),
            ("user@127.0.0.1", &[], host_mismatch),
            (&own, &[("host", "evil.example")], "the request names its host more than once"),
            (&own, &[("origin", "null")], "web pages may not ask for this"),
            (&own, &[("sec-fetch-site", "cross-site")], "web pages may not ask for this"),
        ] {
            let response = send_http2(to, authority, path, headers);
            assert!(response.starts_with(message), "{authority} {headers:?}: {response}");
        }
        assert_eq!(env.stored_catalog(), before);
        assert!(send_http2(to, &own, path, &[]).contains("apiv3_"));
    }
}

#[test]
fn valid_hosts_and_clients_are_accepted() {
    for (name, header) in [
        ("127.0.0.1", None),
        ("localhost", None),
        ("LOCALHOST", None),
        ("[::1]", None),
        ("127.0.0.1", Some("Sec-Fetch-Site: none")),
        ("127.0.0.1", Some("User-Agent: curl/8.5.0")),
        ("127.0.0.1", Some("Authorization: Bearer nonsense")),
    ] {
        let env = TestEnv::new();
        let server = env.serve(&RECOVERY);
        for (to, path) in [(server.address, CREATE), (server.recovery(), REGENERATE)] {
            let header = header.map(|header| format!("{header}\r\n")).unwrap_or_default();
            let mut connection = Connection::open(to).unwrap();
            let port = to.port();
            connection
                .write(format!("POST {path} HTTP/1.1\r\nHost: {name}:{port}\r\n{header}\r\n").as_bytes());
            connection.read().unwrap().token();
        }
    }
}

#[test]
fn rejection_is_logged_with_reason_and_without_secret() {
    let env = TestEnv::new();
    let server = env.serve(&[&RECOVERY[..], &["--log-filter", "debug"]].concat());
    let token = server.create();
    let forged = post(REGENERATE).bearer(&token).header("Origin", "https://evil.example");
    forged
        .send(server.recovery())
        .assert_is(403, "web pages may not ask for this: there is an Origin or Sec-Fetch header");
    server.wait_for_log("token recovery refused: web pages may not ask for this");
    // The check precedes the routing, so a rejected client learns no path.
    get("/").header("Origin", "null").send(server.recovery());
    post(&format!("{REGENERATE}?{token}"))
        .header("Origin", "null")
        .header("Host", &token)
        .send(server.recovery());
    server.wait_for_log("malformed request: the request names its host more than once");
    let rejections = server.log().matches("token recovery refused").count();
    assert_eq!(rejections, 2, "{}", server.log());
    // Any client can cause this as often as it likes, so it is a warning ten times a minute.
    for _ in 0..20 {
        get("/").header("Origin", "null").send(server.recovery());
    }
    // The log arrives a little after the response.
    eventually("all rejections are logged", || server.log().matches("token recovery refused").count() >= 22);
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("token recovery refused")).collect();
    assert_eq!(lines.len(), 22, "{log}");
    assert_eq!(lines.iter().filter(|line| line.contains("WARN")).count(), 10, "{log}");
}

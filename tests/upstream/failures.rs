//! An upstream that is gone, is silent, or sends something else than HTTP.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::Setup;
use super::client::{BOTH, Client, Http, body, data, no_body};
use crate::support::{Connection, TestEnv, eventually, get, post};

/// A peer that answers the first bytes of each connection with these, and closes it. Returns how
/// many connections there were.
fn answering(bytes: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
        }
    });
    (address, count)
}

#[test]
fn upstream_that_speaks_no_http_is_a_bad_gateway() {
    let many: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(200)).into_boxed_str());
    for (answer, reason) in [
        (&b"garbage\r\n\r\n"[..], "protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nbad header\r\n\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "protocol"),
        (many.as_bytes(), "protocol"),
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\ncontent-", "reset"),
    ] {
        let (address, _) = answering(answer);
        let env = TestEnv::new();
        let server = env.serve(&["--upstream", &format!("http://{address}"), "--upstream-kind", "http"]);
        let token = server.create();
        let response = post("/x").bearer(&token).body(b"x").send(server.address);
        assert_eq!(response.status, 502, "{} {response:?}", String::from_utf8_lossy(answer));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        assert!(!response.body.contains("127.0.0.1"), "{response:?}");
        let metrics = get("/api/v3/optoken/metrics").bearer(&token).send(server.address).body;
        for line in [
            format!("optoken_upstream_failures_total{{reason=\"{reason}\"}} 1\n"),
            "optoken_upstream_requests_total{code=\"none\"} 1\n".to_owned(),
            "optoken_upstream_in_flight 0\n".to_owned(),
        ] {
            assert!(metrics.contains(&line), "{line} {}\n{metrics}", server.log());
        }
        server.wait_for_log("failed: ");
    }
}

#[test]
fn upstream_that_is_gone_is_a_bad_gateway() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [format!("http://{gone}"), "http://no-such-host.invalid:1".to_owned()] {
        let env = TestEnv::new();
        let server = env.serve(&["--upstream", &url, "--upstream-kind", "http"]);
        let token = server.create();
        assert_eq!(get("/x").bearer(&token).send(server.address).status, 502);
        let metrics = get("/api/v3/optoken/metrics").bearer(&token).send(server.address).body;
        assert!(metrics.contains("optoken_upstream_failures_total{reason=\"connect\"} 1\n"), "{metrics}");
        let mut client = Client::open(Http::Two, server.address);
        let headers = [("content-type", "application/grpc"), ("authorization", &*format!("Bearer {token}"))];
        let response = client.send("POST", "/x", &headers, no_body());
        assert_eq!(
            (response.status().as_u16(), &response.headers()["grpc-status"]),
            (200, &"14".parse().unwrap())
        );
    }
}

#[test]
fn only_what_may_be_repeated_is_repeated_once() {
    let setup = Setup::start(&[]);
    let mut client = setup.client(Http::Two);
    let bearer = setup.bearer();
    let headers = [("authorization", &*bearer)];
    assert_eq!(client.get("/close-once", &headers).status(), 200);
    assert_eq!(setup.service.hits("/close-once"), 2);
    assert_eq!(client.get("/close", &headers).status(), 502);
    assert_eq!(setup.service.hits("/close"), 2);
    assert_eq!(client.send("POST", "/close", &headers, no_body()).status(), 502);
    assert_eq!(setup.service.hits("/close"), 3);
    let (sender, chunks) = body();
    let sent = client.start("GET", "/close", &headers, chunks);
    client.run(sender.send(data("x"))).unwrap();
    assert_eq!(client.run(sent).unwrap().status(), 502);
    assert_eq!(setup.service.hits("/close"), 4);
    assert_eq!(setup.metric(r#"optoken_upstream_failures_total{reason="reset"}"#), 3);
}

#[test]
fn silent_upstream_is_a_gateway_timeout() {
    let setup = Setup::start(&["--upstream-timeout", "300ms"]);
    for http in BOTH {
        let mut client = setup.client(http);
        let bearer = setup.bearer();
        let headers = [("authorization", &*bearer)];
        assert_eq!(client.get("/silent", &headers).status(), 504);
        // The connection is of use afterwards.
        assert_eq!(client.get("/x", &headers).status(), 200);
    }
    assert_eq!(setup.metric(r#"optoken_upstream_failures_total{reason="timeout"}"#), 2);
    assert_eq!(setup.metric("optoken_upstream_in_flight"), 0);
    let log = setup.server.log();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn client_that_sends_nothing_more_is_not_the_fault_of_the_upstream() {
    let setup = Setup::start(&["--upstream-timeout", "300ms"]);
    let mut client = setup.client(Http::One);
    let (sender, chunks) = body();
    let bearer = setup.bearer();
    let sent = client.start("POST", "/x", &[("authorization", &bearer)], chunks);
    client.run(sender.send(data("x"))).unwrap();
    assert_eq!(client.run(sent).unwrap().status(), 408);
    assert_eq!(setup.metric(r#"optoken_upstream_failures_total{reason="timeout"}"#), 0);
}

#[test]
fn slow_upload_is_no_silence() {
    let setup = Setup::start(&["--upstream-timeout", "1s"]);
    let mut client = setup.client(Http::One);
    let (sender, chunks) = body();
    let bearer = setup.bearer();
    let sent = client.start("POST", "/x", &[("authorization", &bearer)], chunks);
    for _ in 0..5 {
        client.run(async {
            sender.send(data("x")).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        });
    }
    drop(sender);
    assert_eq!(client.report(client.run(sent).unwrap()).text("body"), "xxxxx");
}

#[test]
fn response_that_breaks_off_is_not_mistaken_for_a_whole_one() {
    let setup = Setup::start(&["--upstream-timeout", "300ms"]);
    for http in BOTH {
        let mut client = setup.client(http);
        let bearer = setup.bearer();
        let response = client.get("/half", &[("authorization", &bearer)]);
        assert_eq!(response.status(), 200);
        assert!(client.collect(response).is_err(), "{http:?}");
        // Silence in the middle of a response.
        let mut client = setup.client(http);
        let mut response = client.get("/step", &[("authorization", &bearer)]);
        assert_eq!(setup.service.step("one"), 1);
        assert_eq!(client.next(&mut response).unwrap().unwrap(), "one");
        let cut = client.next(&mut response);
        assert!(matches!(cut, Some(Err(_))), "{http:?} {cut:?}");
        setup.service.end_steps();
    }
    assert_eq!(setup.metric(r#"optoken_upstream_failures_total{reason="body"}"#), 2);
    assert_eq!(setup.metric(r#"optoken_upstream_failures_total{reason="timeout"}"#), 2);
    eventually("nothing is in flight", || setup.metric("optoken_upstream_in_flight") == 0);
}

#[test]
fn large_head_of_a_response_is_refused() {
    let setup = Setup::start(&[]);
    assert_eq!(get("/big-head").bearer(&setup.token).send(setup.server.address).status, 502);
    let setup = Setup::start(&["--upstream-http-version", "2"]);
    assert_eq!(get("/big-head").bearer(&setup.token).send(setup.server.address).status, 502);
}

#[test]
fn request_that_could_be_two_is_refused() {
    let setup = Setup::start(&[]);
    let bearer = format!("Authorization: {}\r\n", setup.bearer());
    for head in [
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n",
        "GET http://b/x HTTP/1.1\r\nHost: a\r\n",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
    ] {
        let mut connection = Connection::open(setup.server.address).unwrap();
        connection.write(format!("{head}{bearer}\r\nabcd").as_bytes());
        let response = connection.read_head().unwrap();
        assert_eq!(response.status, 400, "{head}");
    }
    assert_eq!(setup.service.all_hits(), 0);
    // The length of chunks counts, and the other one does not arrive.
    let mut connection = Connection::open(setup.server.address).unwrap();
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 40\r\n";
    connection.write(format!("{head}{bearer}\r\n3\r\nabc\r\n0\r\n\r\n").as_bytes());
    let response = connection.read_head().unwrap();
    assert!(matches!(response.status, 200 | 400), "{response:?}");
}

#[test]
fn interim_responses_end_here() {
    let (address, _) = answering(
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let env = TestEnv::new();
    let server = env.serve(&["--upstream", &format!("http://{address}"), "--upstream-kind", "http"]);
    let token = server.create();
    let response = get("/x").bearer(&token).send(server.address);
    assert_eq!(response.header("link"), None);
    response.assert_is(200, "ok");
}

#[test]
fn malformed_body_is_the_fault_of_the_client() {
    let setup = Setup::start(&[]);
    let mut connection = Connection::open(setup.server.address).unwrap();
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
    connection.write(format!("{head}Authorization: {}\r\n\r\n1\r\na\r\nzz\r\n", setup.bearer()).as_bytes());
    assert_eq!(connection.read_head().unwrap().status, 400);
    for reason in ["protocol", "reset", "body"] {
        let series = format!("optoken_upstream_failures_total{{reason=\"{reason}\"}}");
        assert_eq!(setup.metric(&series), 0, "{reason}");
    }
}

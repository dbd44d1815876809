//! Bodies that pass through while they arrive, and their end.

use std::time::{Duration, Instant};

use hyper::body::Frame;
use hyper::header::{HeaderMap, HeaderValue};
use rustix::process::Signal;

use super::Setup;
use super::client::{BOTH, Http, body, data, no_body};
use super::service::CHUNK;
use crate::support::{Connection, create_named, delete_named, eventually, get, request};

#[test]
fn frames_pass_through_as_they_arrive() {
    for upstream_version in ["1.1", "2"] {
        let setup = Setup::start(&["--upstream-http-version", upstream_version]);
        for http in BOTH {
            let mut client = setup.client(http);
            let bearer = setup.bearer();
            let mut response = client.get("/step", &[("authorization", &bearer)]);
            for chunk in ["one", "two", "three"] {
                assert_eq!(setup.service.step(chunk), 1);
                assert_eq!(client.next(&mut response).unwrap().unwrap(), chunk, "{http:?}");
            }
            setup.service.end_steps();
            let end = client.next(&mut response);
            assert!(end.is_none(), "{upstream_version} {http:?} {end:?}");
            // Both directions at a time.
            let (sender, chunks) = body();
            let sent = client.start("POST", "/echo", &[("authorization", &bearer)], chunks);
            client.run(sender.send(data("first"))).unwrap();
            let mut response = client.run(sent).unwrap();
            assert_eq!(client.next(&mut response).unwrap().unwrap(), "first");
            client.run(sender.send(data("second"))).unwrap();
            assert_eq!(client.next(&mut response).unwrap().unwrap(), "second");
            drop(sender);
            assert!(client.next(&mut response).is_none());
        }
    }
}

#[test]
fn trailers_pass_through_in_both_directions() {
    for (http, upstream_version) in [(Http::One, "1.1"), (Http::Two, "2")] {
        let setup = Setup::start(&["--upstream-http-version", upstream_version]);
        let mut client = setup.client(http);
        let bearer = setup.bearer();
        let mut headers = vec![("authorization", &*bearer), ("te", "trailers")];
        if http == Http::One {
            headers.push(("connection", "te"));
        }
        let response = client.get("/trailers", &headers);
        let (text, trailers) = client.collect(response).unwrap();
        assert_eq!((&text[..], &trailers["x-sum"]), (&b"body"[..], &HeaderValue::from_static("7")));
        assert!(trailers.get("connection").is_none(), "{trailers:?}");

        let (sender, chunks) = body();
        headers.push(("trailer", "x-sum, x-auth-token-id, authorization"));
        let sent = client.start("POST", "/x", &headers, chunks);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        trailers.insert("x-auth-token-id", HeaderValue::from_static("77"));
        trailers.insert("authorization", HeaderValue::from_static("Bearer x"));
        client.run(async {
            sender.send(data("body")).await.unwrap();
            sender.send(Frame::trailers(trailers)).await.unwrap();
        });
        drop(sender);
        let report = client.report(client.run(sent).unwrap());
        assert_eq!(report.trailers(), &serde_json::json!([["x-sum", "7"]]), "{http:?}");
        assert_eq!(report.header("te"), ["trailers"]);
    }
}

#[test]
fn grpc_has_http_2_without_being_asked() {
    let setup = Setup::start(&[]);
    let mut client = setup.client(Http::Two);
    let bearer = setup.bearer();
    let headers =
        [("authorization", &*bearer), ("content-type", "application/grpc+proto"), ("te", "trailers")];
    let (sender, chunks) = body();
    let sent = client.start("POST", "/echo", &headers, chunks);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    client.run(async {
        sender.send(data("message")).await.unwrap();
        sender.send(Frame::trailers(trailers)).await.unwrap();
    });
    drop(sender);
    let (text, trailers) = client.collect(client.run(sent).unwrap()).unwrap();
    assert_eq!((&text[..], &trailers["grpc-status"]), (&b"message"[..], &HeaderValue::from_static("0")));
    let report = client.send("POST", "/x", &headers, no_body());
    assert_eq!(client.report(report).text("version"), "2");
}

#[test]
fn slow_side_slows_the_other() {
    for (http, upstream_version) in [(Http::One, "1.1"), (Http::Two, "2")] {
        let setup = Setup::start(&["--upstream-http-version", upstream_version]);
        let mut client = setup.client(http);
        let bearer = setup.bearer();
        let response = client.get("/endless", &[("authorization", &bearer)]);
        let produced = || setup.service.state.produced.load(std::sync::atomic::Ordering::Relaxed);
        let mut last = (produced(), Instant::now());
        eventually("the service is slowed down", || {
            let now = produced();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(500)
        });
        assert!(last.0 < 64 << 20, "{http:?}: {} bytes", last.0);
        // A client that vanishes ends the request.
        drop((response, client));
        let endless = || setup.service.state.endless.load(std::sync::atomic::Ordering::SeqCst);
        eventually("the request at the service ends", || endless() == 0);
        eventually("nothing is in flight", || setup.metric("optoken_upstream_in_flight") == 0);

        // An upstream that reads nothing.
        let mut client = setup.client(http);
        let (sender, chunks) = body();
        let sent = client.start("POST", "/stop-reading", &[("authorization", &bearer)], chunks);
        let sent = client.spawn(sent);
        let mut accepted = 0;
        let chunk = || Frame::data(hyper::body::Bytes::from_static(&CHUNK));
        while client.run_briefly(sender.send(chunk())).is_some() {
            accepted += CHUNK.len();
            assert!(accepted < 64 << 20, "{http:?}");
        }
        sent.abort();
    }
}

#[test]
fn client_that_vanishes_before_the_response_ends_the_request() {
    let setup = Setup::start(&[]);
    for http in BOTH {
        let mut client = setup.client(http);
        let bearer = setup.bearer();
        let sent = client.start("GET", "/silent", &[("authorization", &bearer)], no_body());
        let sent = client.spawn(sent);
        eventually("the request is in flight", || setup.metric("optoken_upstream_in_flight") == 1);
        sent.abort();
        drop(client);
        eventually("it ends", || setup.metric("optoken_upstream_in_flight") == 0);
    }
}

#[test]
fn stream_ends_with_its_token() {
    for upstream_version in ["1.1", "2"] {
        let setup = Setup::start(&["--upstream-http-version", upstream_version]);
        let address = setup.server.address;
        for (number, http) in BOTH.into_iter().enumerate() {
            let name = format!("stream-{number}");
            let named = create_named(&setup.token, &name).send(address).token();
            let bearer = format!("Bearer {named}");
            let headers = [("authorization", &*bearer)];
            // One that waits, one whose client sends, and one that has no response yet.
            let mut client = setup.client(http);
            let mut waiting = client.get("/step", &headers);
            assert_eq!(setup.service.step("one"), 1);
            assert_eq!(client.next(&mut waiting).unwrap().unwrap(), "one");
            let mut second = setup.client(http);
            let silent = second.start("GET", "/silent", &headers, no_body());
            let silent = second.spawn(silent);
            let mut third = setup.client(http);
            let (sender, chunks) = body();
            let uploading = third.start("POST", "/x", &headers, chunks);
            third.run(sender.send(data("x"))).unwrap();
            let uploading = third.spawn(uploading);
            // One whose client does not read.
            let mut fourth = setup.client(http);
            let unread = fourth.get("/endless", &headers);
            eventually("all are in flight", || setup.metric("optoken_upstream_in_flight") == 4);

            let began = Instant::now();
            assert_eq!(delete_named(&setup.token, &name).send(address).status, 200);
            assert!(client.next(&mut waiting).unwrap().is_err(), "{http:?}");
            assert!(began.elapsed() < Duration::from_secs(20));
            assert_eq!(second.run(silent).unwrap().unwrap().status(), 401);
            assert_eq!(third.run(uploading).unwrap().unwrap().status(), 401);
            eventually("none is in flight", || setup.metric("optoken_upstream_in_flight") == 0);
            drop(unread);
            setup.service.end_steps();
        }
        assert_eq!(setup.metric("optoken_upstream_revoked_streams_total"), 8);
    }
}

#[test]
fn body_is_asked_for_when_the_upstream_asks() {
    let setup = Setup::start(&[]);
    let expecting = |path: &str| {
        let request = request("POST", path).bearer(&setup.token).header("Expect", "100-continue");
        let mut connection = Connection::open(setup.server.address).unwrap();
        connection.write(&request.header("Content-Length", "4").to_bytes());
        connection
    };
    // The service reads the body, and so asks for it.
    let mut connection = expecting("/x");
    assert_eq!(connection.read_head().unwrap().status, 100);
    connection.write(b"body");
    let response = connection.read().unwrap();
    let report = super::client::Report(response.json());
    assert_eq!((report.text("body"), report.header("expect")), ("body", vec!["100-continue"]));
    // It answers without the body.
    let mut connection = expecting("/refuse");
    assert_eq!(connection.read_head().unwrap().status, 413);
    assert_eq!(setup.metric("optoken_upstream_in_flight"), 0);
    // It neither asks nor answers: the body comes after a second.
    let mut connection = expecting("/slow");
    let first = connection.read_head().unwrap().status;
    assert_eq!(first, 200);
    let began = Instant::now();
    let mut connection = expecting("/silent");
    assert_eq!(connection.read_head().unwrap().status, 100);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn websocket_needs_the_option_and_a_token() {
    let upgrade = |setup: &Setup, token: &str| {
        let mut connection = Connection::open(setup.server.address).unwrap();
        let request = get("/ws").bearer(token).header("Connection", "keep-alive, Upgrade");
        let request = request.header("Upgrade", "websocket").header("Sec-WebSocket-Key", "x");
        connection.write(&request.to_bytes());
        let response = connection.read_head().unwrap();
        (connection, response)
    };
    let setup = Setup::start(&[]);
    assert_eq!(upgrade(&setup, &setup.token).1.status, 426);

    let setup = Setup::start(&["--upstream-upgrade", "websocket", "--shutdown-timeout", "1s"]);
    assert_eq!(upgrade(&setup, "apiv3_unknown").1.status, 401);
    let named = create_named(&setup.token, "socket").send(setup.server.address).token();
    let (mut connection, response) = upgrade(&setup, &named);
    assert_eq!(response.status, 101, "{response:?}");
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert_eq!(response.header("connection"), Some("upgrade"));
    assert_eq!(response.header("sec-websocket-accept"), Some("x"));
    assert_eq!(response.header("content-length"), None);
    for text in ["hello", "again"] {
        connection.write(text.as_bytes());
        assert_eq!(connection.read_bytes(5), text.as_bytes());
    }
    assert_eq!(setup.metric("optoken_upstream_in_flight"), 1);
    assert_eq!(delete_named(&setup.token, "socket").send(setup.server.address).status, 200);
    assert!(connection.read_head().is_err());
    assert_eq!(setup.metric("optoken_upstream_revoked_streams_total"), 1);
    eventually("it is over", || setup.metric("optoken_upstream_in_flight") == 0);

    // A client that closes ends both sides, and a stop of the server does, in time.
    let (connection, _) = upgrade(&setup, &setup.token);
    drop(connection);
    eventually("it is over", || setup.metric("optoken_upstream_in_flight") == 0);
    let (mut connection, _) = upgrade(&setup, &setup.token);
    setup.server.signal(Signal::TERM);
    assert!(connection.read_head().is_err());
}

#[test]
fn stop_gives_streams_their_time() {
    let mut setup = Setup::start(&["--shutdown-timeout", "2s"]);
    let mut client = setup.client(Http::One);
    let bearer = setup.bearer();
    let mut response = client.get("/step", &[("authorization", &bearer)]);
    setup.server.signal(Signal::TERM);
    setup.server.wait_for_log("stopping after the requests in flight");
    assert_eq!(setup.service.step("one"), 1);
    assert_eq!(client.next(&mut response).unwrap().unwrap(), "one");
    assert!(client.next(&mut response).unwrap().is_err());
    assert_eq!(setup.server.exit_code(), Some(0));
}

//! The store against members that a test scripts: faults that no real cluster shows on demand.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};

use super::*;
use crate::store::remote::Usable;

/// What a member does with a request.
enum Reply {
    /// A response with this status and body.
    Json(u16, Value),
    /// A response of other software, with header lines.
    Raw(&'static str, String),
    /// The connection ends without a response.
    Close,
    /// The connection stays open without a response.
    Hang,
}

/// A request: its path below `/v3/`, its headers in lower case, and its body.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: String,
    body: Value,
}

/// A member that answers as a function decides.
struct Member {
    host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Member {
    fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = socket.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (reply, recorded) = (Arc::new(reply), Arc::clone(&requests));
        thread::spawn(move || {
            for connection in socket.incoming() {
                let (reply, recorded) = (Arc::clone(&reply), Arc::clone(&recorded));
                thread::spawn(move || serve(&connection.unwrap(), &*reply, &recorded));
            }
        });
        Self { host, requests }
    }

    /// Returns the paths of the requests so far.
    fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|request| request.path.clone()).collect()
    }
}

fn serve(connection: &TcpStream, reply: &dyn Fn(&Request) -> Reply, recorded: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(connection);
    loop {
        let (mut first, mut headers) = (String::new(), String::new());
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        while !headers.ends_with("\r\n\r\n") {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            headers += &line.to_lowercase();
        }
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let path = first.split(' ').nth(1).unwrap().strip_prefix("/v3/").unwrap().to_owned();
        let request = Request { path, headers, body: serde_json::from_slice(&body).unwrap() };
        recorded.lock().unwrap().push(request.clone());
        let (head, body) = match reply(&request) {
            Reply::Json(status, body) => {
                (format!("{status} -\r\ncontent-type: application/json"), body.to_string())
            }
            Reply::Raw(head, body) => (head.to_owned(), body),
            Reply::Close => return,
            Reply::Hang => {
                thread::sleep(Duration::from_mins(1));
                return;
            }
        };
        let length = body.len();
        // The client may have gone.
        let _ = write!(&mut &*connection, "HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}");
    }
}

fn store(hosts: &[&str]) -> EtcdStore {
    EtcdStore::open(&format!("etcd://{}/p", hosts.join(","))).unwrap()
}

/// A host that refuses every connection.
fn closed_host() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn fault(status: u16, code: u16, text: &str) -> Reply {
    Reply::Json(status, json!({ "error": text, "message": text, "code": code }))
}

/// The response to a range that finds this value, or none.
fn found(value: Option<&str>) -> Value {
    match value {
        None => json!({ "header": { "revision": "7" } }),
        Some(value) => {
            json!({ "kvs": [{ "key": "aw==", "value": Base64::encode_string(value.as_bytes()) }] })
        }
    }
}

fn empty() -> Reply {
    Reply::Json(200, found(None))
}

const OLD: &str = "00000000000000000000000000000000 0";

fn old() -> Version {
    Version::from(OLD.to_owned())
}

/// Returns the version that a transaction would write.
fn written(request: &Request) -> String {
    let value = &request.body["success"][0]["request_put"]["value"];
    String::from_utf8(Base64::decode_vec(value.as_str().unwrap()).unwrap()).unwrap()
}

#[test]
fn read_passes_over_silent_failed_and_closed_members() {
    let silent = Member::start(|_| Reply::Hang);
    let failed = Member::start(|_| fault(503, 14, "etcdserver: no leader"));
    let cut = Member::start(|_| Reply::Close);
    let good = Member::start(|_| Reply::Json(200, found(Some(OLD))));
    let store = store(&[&silent.host, &closed_host(), &failed.host, &cut.host, &good.host]);
    assert_eq!(store.version(), Ok(Some(old())));
    // The member that has answered is asked first from now on.
    assert_eq!(store.version(), Ok(Some(old())));
    assert_eq!((silent.paths().len(), good.paths().len()), (1, 2));
    let headers = &good.requests.lock().unwrap()[0].headers;
    assert!(headers.contains("grpc-metadata-hasleader: true\r\n"), "{headers}");
}

#[test]
fn read_without_answer_ends_in_time_and_names_each_member() {
    let silent = Member::start(|_| Reply::Hang);
    let failed = Member::start(|_| fault(503, 14, "etcdserver: no leader"));
    let began = Instant::now();
    let Err(StoreError::Unavailable(error)) = store(&[&silent.host, &failed.host]).version() else {
        panic!("an answer")
    };
    assert!(began.elapsed() < CALL_TIMEOUT + Duration::from_secs(5));
    for part in [&silent.host, "no answer in time", &failed.host, "no leader"] {
        assert!(error.contains(part), "{error}");
    }
    // A read is repeated while there is time.
    assert!(failed.paths().len() > 1);
}

#[test]
fn write_is_sent_once() {
    let other = Member::start(|_| empty());
    for reply in [
        || Reply::Close,
        || Reply::Hang,
        || fault(503, 14, "etcdserver: request timed out"),
        || fault(500, 2, "etcdserver: leader changed"),
        || fault(504, 4, "context deadline exceeded"),
        || Reply::Raw("502 Bad Gateway", "<html>".to_owned()),
        || Reply::Raw("429 Too Many Requests", String::new()),
        || Reply::Raw("200 OK", "<html>".to_owned()),
        || Reply::Raw("200 OK", "x".repeat(13 << 20)),
    ] {
        let member = Member::start(move |_| reply());
        let error = store(&[&member.host, &other.host]).swap(Some(&old()), "x").unwrap_err();
        assert!(matches!(error, StoreError::UnknownOutcome(_)), "{error:?}");
        assert_eq!(member.paths(), ["kv/txn"], "{error}");
        assert!(other.paths().is_empty());
    }
}

#[test]
fn refused_write_changes_nothing_and_names_the_remedy() {
    for (reply, remedy) in [
        (fault(403, 7, "etcdserver: permission denied"), "role grant-permission"),
        (fault(400, 3, "etcdserver: user name is empty"), "etcds://USER@HOST"),
        (fault(400, 3, "etcdserver: request is too large"), "--max-request-bytes"),
        (fault(429, 8, "grpc: received message larger than max (3 vs. 2)"), "--max-request-bytes"),
        (fault(400, 3, "etcdserver: key not found"), "key not found"),
        (Reply::Raw("404 Not Found", "404 page not found".to_owned()), "--enable-grpc-gateway=false"),
        (Reply::Raw("301 -\r\nlocation: http://127.0.0.1:1/", String::new()), "HTTP 301"),
        (Reply::Raw("403 Forbidden", "by a proxy".to_owned()), "by a proxy"),
    ] {
        let reply = Mutex::new(Some(reply));
        let member = Member::start(move |_| reply.lock().unwrap().take().unwrap());
        let error = store(&[&member.host]).swap(Some(&old()), "x").unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(remedy)), "{error:?}");
    }
}

#[test]
fn write_goes_to_next_member_if_nothing_was_sent() {
    let member = Member::start(|_| Reply::Json(200, json!({ "succeeded": true })));
    let outcome = store(&[&closed_host(), &member.host]).swap(None, "x").unwrap();
    let sent = member.requests.lock().unwrap()[0].clone();
    assert_eq!(outcome, SwapOutcome::Swapped(Version::from(written(&sent))));
    assert_eq!(sent.body["compare"][0]["target"], "CREATE");
    let error = store(&[&closed_host()]).swap(None, "x").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

/// etcd applies the transaction that exceeds its quota, and reports it as refused.
#[test]
fn full_database_is_read_before_the_outcome() {
    for (stored, expected) in
        [("own", "swapped"), ("old", "unavailable"), ("other", "unknown"), ("", "unknown")]
    {
        let own = Mutex::new(String::new());
        let member = Member::start(move |request| match request.path.as_str() {
            "kv/txn" => {
                *own.lock().unwrap() = written(request);
                fault(429, 8, "etcdserver: mvcc: database space exceeded")
            }
            _ => match stored {
                "own" => Reply::Json(200, found(Some(&own.lock().unwrap()))),
                "old" => Reply::Json(200, found(Some(OLD))),
                "other" => Reply::Json(200, found(Some("11111111111111111111111111111111 0"))),
                _ => Reply::Close,
            },
        });
        match (expected, store(&[&member.host]).swap(Some(&old()), "x")) {
            ("swapped", Ok(SwapOutcome::Swapped(_))) => {}
            ("unavailable", Err(StoreError::Unavailable(text)))
            | ("unknown", Err(StoreError::UnknownOutcome(text))) => {
                assert!(text.contains("etcdctl alarm disarm"), "{text}");
            }
            (_, outcome) => panic!("{stored}: {outcome:?}"),
        }
    }
}

#[test]
fn repeated_transaction_finds_its_own_version() {
    let member = Member::start(|request| {
        let own = found(Some(&written(request)));
        Reply::Json(200, json!({ "responses": [{ "response_range": own }] }))
    });
    let outcome = store(&[&member.host]).swap(Some(&old()), "x");
    assert!(matches!(outcome, Ok(SwapOutcome::Swapped(_))), "{outcome:?}");
    let member =
        Member::start(|_| Reply::Json(200, json!({ "responses": [{ "response_range": found(Some(OLD)) }] })));
    assert_eq!(store(&[&member.host]).swap(Some(&old()), "x"), Ok(SwapOutcome::Stale));
}

#[test]
fn reader_of_replaced_chunks_begins_again() {
    let replaced = "11111111111111111111111111111111 2";
    let is_replaced = Mutex::new(false);
    let member = Member::start(move |request| {
        let mut is_replaced = is_replaced.lock().unwrap();
        if request.path == "kv/range" {
            // Another writer deletes the chunks in between.
            *is_replaced = true;
            return empty();
        }
        let (version, document) = if *is_replaced { (OLD, Some("new")) } else { (replaced, None) };
        Reply::Json(
            200,
            json!({ "responses": [
                { "response_range": found(Some(version)) }, { "response_range": found(document) },
            ] }),
        )
    });
    let entry = store(&[&member.host]).load().unwrap().unwrap();
    assert_eq!(entry, Entry { version: old(), document: "new".to_owned() });
}

#[test]
fn damaged_keys_are_named() {
    for (version, document, expected) in [
        ("1", Some("x"), "does not have the form"),
        (OLD, None, "names a document that is missing"),
        ("00000000000000000000000000000000 3", None, "names chunks that are missing"),
    ] {
        let member = Member::start(move |request| match request.path.as_str() {
            "kv/txn" => Reply::Json(
                200,
                json!({ "responses": [
                    { "response_range": found(Some(version)) }, { "response_range": found(document) },
                ] }),
            ),
            _ => empty(),
        });
        let Err(StoreError::Unavailable(error)) = store(&[&member.host]).load() else { panic!("{version}") };
        assert!(error.contains("p/catalog/version") && error.contains(expected), "{error}");
    }
}

#[test]
fn ended_token_is_renewed_once_for_all() {
    let issued = Mutex::new(0);
    let member = Member::start(move |request| {
        if request.path == "auth/authenticate" {
            assert_eq!(request.body, json!({ "name": "u", "password": "secret" }));
            *issued.lock().unwrap() += 1;
            return Reply::Json(200, json!({ "token": format!("t{}", issued.lock().unwrap()) }));
        }
        // The first token has ended by now.
        if request.headers.contains("authorization: t2\r\n") {
            Reply::Json(200, json!({ "succeeded": true }))
        } else {
            fault(401, 16, "etcdserver: invalid auth token")
        }
    });
    let store = EtcdStore::open(&format!("etcd://u:secret@{}/p", member.host)).unwrap();
    let outcome = store.swap(Some(&old()), "x");
    assert!(matches!(outcome, Ok(SwapOutcome::Swapped(_))), "{outcome:?}");
    assert_eq!(member.paths(), ["auth/authenticate", "kv/txn", "auth/authenticate", "kv/txn"]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| store.version().unwrap());
        }
    });
    assert_eq!(member.paths().iter().filter(|path| *path == "auth/authenticate").count(), 2);
    assert!(!format!("{store:?}").contains("secret") && !store.address().contains("secret"));
}

/// The write itself was not sent yet, so another member may be asked.
#[test]
fn member_that_issues_no_token_is_passed_over() {
    for reply in [
        || fault(503, 14, "etcdserver: no leader"),
        || fault(429, 8, "etcdserver: too many requests"),
        || Reply::Raw("503 Service Unavailable", String::new()),
        || Reply::Raw("404 Not Found", "404 page not found".to_owned()),
        || Reply::Close,
    ] {
        let member = Member::start(move |_| reply());
        let alone = EtcdStore::open(&format!("etcd://u:secret@{}/p", member.host)).unwrap();
        let error = alone.swap(Some(&old()), "x").unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        let good = Member::start(|request| match request.path.as_str() {
            "auth/authenticate" => Reply::Json(200, json!({ "token": "t" })),
            _ => Reply::Json(200, json!({ "succeeded": true })),
        });
        let url = format!("etcd://u:secret@{},{}/p", member.host, good.host);
        let outcome = EtcdStore::open(&url).unwrap().swap(Some(&old()), "x");
        assert!(matches!(outcome, Ok(SwapOutcome::Swapped(_))), "{outcome:?}");
        assert_eq!(member.paths(), ["auth/authenticate"; 2]);
        assert_eq!(good.paths(), ["auth/authenticate", "kv/txn"]);
    }
}

#[test]
fn refusal_of_a_token_names_the_remedy() {
    let gone = || Reply::Raw("404 Not Found", "404 page not found".to_owned());
    let wrong = || fault(400, 3, "etcdserver: authentication failed, invalid user ID or password");
    let without_users = || fault(400, 9, "etcdserver: authentication is not enabled");
    for (reply, remedy, is_definite) in [
        (gone as fn() -> Reply, "--enable-grpc-gateway=false", false),
        (wrong, "check the user of the URL", true),
        (without_users, "etcdctl auth enable", true),
    ] {
        let (one, two) = (Member::start(move |_| reply()), Member::start(move |_| reply()));
        let url = format!("etcd://u:secret@{},{}/p", one.host, two.host);
        let error = EtcdStore::open(&url).unwrap().swap(Some(&old()), "x").unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(remedy)), "{error:?}");
        assert_eq!((one.paths().len(), two.paths().len()), (1, usize::from(!is_definite)), "{error}");
    }
}

#[test]
fn watch_that_ends_at_once_is_tried_less_and_less() {
    let member = Member::start(|request| match request.path.as_str() {
        "watch" => Reply::Raw("200 OK", "{\"result\":{\"created\":true}}\n".to_owned()),
        _ => empty(),
    });
    let store = store(&[&member.host]);
    let (sender, news) = std::sync::mpsc::channel();
    store.listen(Arc::new(move || sender.send(()).unwrap()));
    thread::sleep(Duration::from_millis(1500));
    // The pauses are 50, 100, 200, 400 and 800 ms at least.
    let count = news.try_iter().count();
    assert!((2..=5).contains(&count), "{count}");
}

#[test]
fn clock_of_the_member_is_compared() {
    for (date, expected) in
        [("Thu, 01 Jan 2065 00:00:00 GMT", true), ("Thu, 01 Jan 2015 00:00:00 GMT", false)]
    {
        let head: &'static str = format!("200 OK\r\ndate: {date}").leak();
        let member = Member::start(move |_| Reply::Raw(head, "{}".to_owned()));
        let store = store(&[&member.host]);
        assert_eq!(store.clock(), None);
        store.version().unwrap();
        let ClockDifference { ahead_ms, precision } = store.clock().unwrap();
        assert_eq!(ahead_ms > 0, expected, "{ahead_ms}");
        assert!(ahead_ms.unsigned_abs() > 86_400_000 && precision >= Duration::from_secs(1));
    }
}

#[test]
fn oversized_document_is_refused_before_any_request() {
    let member = Member::start(|_| empty());
    let error = store(&[&member.host]).swap(None, &"x".repeat((8 << 20) + 1)).unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("8388608")), "{error:?}");
    assert!(member.paths().is_empty());
}

#[test]
fn hosts_of_two_clusters_are_refused() {
    let member = |cluster: &'static str| {
        Member::start(move |_| {
            Reply::Json(200, json!({ "header": { "cluster_id": cluster }, "version": "3.4.23" }))
        })
    };
    let (one, two, same) = (member("1"), member("2"), member("1"));
    let is_refused =
        |hosts: &[&str]| store(hosts).inspect().unwrap().iter().any(|finding| finding.usable == Usable::No);
    assert!(is_refused(&[&one.host, &two.host]));
    assert!(!is_refused(&[&one.host, &same.host]));
}

//! The adapter against an endpoint that fails as a test wants it to. tests/external/engines has the
//! real engines.

mod endpoint;

use std::sync::Arc;

use self::endpoint::{Conditions, Endpoint, Fault};
use super::ObjectStore;
use crate::store::remote::probe::{Extent, probe};
use crate::store::remote::{RemoteStore as _, Usable};
use crate::store::{Store, StoreError, SwapOutcome, Version, conformance};

/// What nothing may print.
const SECRET: &str = "vErYsEcReT";

fn variables() -> [(String, String); 4] {
    [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("GOOGLE_BEARER_TOKEN", SECRET),
        ("AWS_CONDITIONAL_PUT", "disabled"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn store(endpoint: &Endpoint) -> ObjectStore {
    store_of("s3", endpoint)
}

fn store_of(scheme: &str, endpoint: &Endpoint) -> ObjectStore {
    let url = format!("{scheme}://bucket/prefix?endpoint=http://{}", endpoint.address);
    ObjectStore::open_with(&url, variables()).unwrap()
}

fn swapped(outcome: Result<SwapOutcome, StoreError>) -> Version {
    match outcome.unwrap() {
        SwapOutcome::Swapped(version) => version,
        SwapOutcome::Stale => panic!("stale"),
    }
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn unknown(result: Result<SwapOutcome, StoreError>) -> String {
    match result {
        Err(StoreError::UnknownOutcome(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn document(store: &ObjectStore) -> String {
    store.load().unwrap().unwrap().document
}

/// An endpoint with a catalog, and a client that knows its version.
fn with_catalog() -> (Endpoint, ObjectStore, Version) {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let store = store(&endpoint);
    let first = swapped(store.swap(None, "first"));
    // A trial before the first condition is over, so that a fault meets the write of a test.
    let second = swapped(store.swap(Some(&first), "second"));
    (endpoint, store, second)
}

#[test]
fn store_passes_conformance() {
    conformance::run(&store(&Endpoint::start(Conditions::Atomic)));
}

#[test]
fn tags_without_quotes_are_found_out_and_remembered() {
    let endpoint = Endpoint::start(Conditions::Bare);
    let store = store(&endpoint);
    conformance::run(&store);
    let quoted: Vec<_> = endpoint
        .heads("PUT")
        .into_iter()
        .filter(|head| head.to_ascii_lowercase().contains("if-match: \""))
        .collect();
    assert!(quoted.len() == 1 && quoted[0].contains("/prefix/probe-"), "{quoted:?}");
    let scratch = store.scratch().unwrap();
    let first = scratch.swap(None, "1").unwrap();
    let SwapOutcome::Swapped(first) = first else { panic!("{first:?}") };
    assert!(matches!(scratch.swap(Some(&first), "2").unwrap(), SwapOutcome::Swapped(_)));
    scratch.remove().unwrap();
    scratch.remove().unwrap();
    let names: Vec<_> = endpoint.objects().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["prefix/catalog"]);
    let findings = store.inspect().unwrap();
    assert!(findings[0].found.contains("without quotes"), "{findings:?}");
}

#[test]
fn engine_without_conditions_is_named() {
    let endpoint = Endpoint::start(Conditions::Refused);
    let store = store(&endpoint);
    let first = swapped(store.swap(None, "first"));
    let refusal = probe(&store, Extent::Full).unwrap().refusal().unwrap().found.clone();
    for text in [unavailable(store.swap(Some(&first), "second")), refusal] {
        assert!(text.contains("needs a store with conditional writes"), "{text}");
    }
    assert_eq!(document(&store), "first");
}

#[test]
fn generation_is_the_condition_in_google_cloud_storage() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let store = store_of("gs", &endpoint);
    let first = swapped(store.swap(None, "first"));
    assert_eq!(store.version().unwrap().as_ref(), Some(&first));
    let second = swapped(store.swap(Some(&first), "first"));
    assert_ne!(first, second);
    assert_eq!(store.swap(Some(&first), "third").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.swap(None, "third").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap().unwrap().version, second);
    let findings = store.inspect().unwrap();
    assert!(findings.iter().any(|finding| finding.check == "rate of writes"), "{findings:?}");
}

#[test]
fn own_success_is_found_behind_any_answer() {
    let (endpoint, store, mut version) = with_catalog();
    let before = endpoint.heads("PUT").len();
    let faults = [
        Fault::DoneButStatus(500),
        Fault::DoneButStatus(503),
        Fault::DoneButStatus(409),
        Fault::DoneThen(Box::new(|| {})),
        // As a proxy does that repeats a request: the second one is refused.
        Fault::Twice,
        Fault::DoneWithoutAnswer,
    ];
    let count = faults.len();
    for (number, fault) in faults.into_iter().enumerate() {
        endpoint.next_write(fault);
        let written = format!("write {number}");
        version = swapped(store.swap(Some(&version), &written));
        assert_eq!((document(&store), store.version().unwrap()), (written, Some(version.clone())));
    }
    // A write is one request.
    assert_eq!(endpoint.heads("PUT").len() - before, count);
}

#[test]
fn own_first_write_is_found_behind_any_answer() {
    for fault in [Fault::DoneButStatus(503), Fault::DoneThen(Box::new(|| {})), Fault::Twice] {
        let endpoint = Endpoint::start(Conditions::Atomic);
        let store = store(&endpoint);
        endpoint.next_write(fault);
        let version = swapped(store.swap(None, "first"));
        assert_eq!((store.version().unwrap(), endpoint.heads("PUT").len()), (Some(version), 1));
    }
}

/// What the default configuration of the client does, and a test of faults must catch.
#[test]
fn default_retries_turn_own_success_into_stale() {
    let (endpoint, _, version) = with_catalog();
    let url = format!("s3://bucket/prefix?endpoint=http://{}", endpoint.address);
    let repeating = ObjectStore::open_with_default_retries(&url, variables()).unwrap();
    for fault in [Fault::DoneButStatus(503), Fault::DoneButStatus(500)] {
        let version = repeating.version().unwrap().unwrap_or_else(|| version.clone());
        // Finds out the form of tags, which is a write as well.
        repeating.inspect().unwrap();
        endpoint.next_write(fault);
        assert_eq!(repeating.swap(Some(&version), "own").unwrap(), SwapOutcome::Stale);
        assert_eq!(document(&repeating), "own");
    }
}

#[test]
fn write_without_effect_is_stale_or_unknown_as_the_store_shows() {
    let (endpoint, store, version) = with_catalog();
    for fault in [Fault::Status(500, "InternalError"), Fault::Status(503, "SlowDown"), Fault::Closed] {
        endpoint.next_write(fault);
        let text = unknown(store.swap(Some(&version), "third"));
        assert!(text.contains("may still"), "{text}");
        assert_eq!(document(&store), "second");
    }
    // Another client is first: the write cannot happen any more.
    let other = store_of("s3", &endpoint);
    let expected = version.clone();
    let first = move || {
        swapped(other.swap(Some(&expected), "of another"));
    };
    endpoint.next_write(Fault::ThenStatus(Box::new(first), 500));
    // The trial of the other client, and its write, come in between.
    assert_eq!(store.swap(Some(&version), "third").unwrap(), SwapOutcome::Stale);
    assert_eq!(document(&store), "of another");
}

#[test]
fn replaced_write_is_unknown_however_much_follows() {
    for following in [1, 8, 9, 12] {
        let (endpoint, store, version) = with_catalog();
        let other = store_of("s3", &endpoint);
        endpoint.next_write(Fault::DoneThen(Box::new(move || {
            for number in 0..following {
                let version = other.version().unwrap();
                swapped(other.swap(version.as_ref(), &number.to_string()));
            }
        })));
        let text = unknown(store.swap(Some(&version), "own"));
        let is_known = text.contains("another one has replaced it");
        assert_eq!(is_known, following <= 8, "{following}: {text}");
    }
}

#[test]
fn certain_refusals_write_nothing_and_have_advice() {
    let (endpoint, store, version) = with_catalog();
    for (status, code, advice) in [
        (403, "AccessDenied", "must allow to read, write and delete"),
        (403, "SignatureDoesNotMatch", "Check the credentials"),
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
        (400, "ExpiredToken", "Renew the credentials"),
        (404, "NoSuchBucket", "Create the bucket"),
        (301, "", "region="),
        (501, "NotImplemented", "conditional writes"),
        (429, "TooManyRequests", "repeat the command in a second"),
    ] {
        endpoint.next_write(Fault::Status(status, code));
        let text = unavailable(store.swap(Some(&version), "third"));
        assert!(text.starts_with("s3://bucket/prefix?endpoint=http://127.0.0.1:"), "{text}");
        assert!(text.contains(code) && text.contains(advice), "{text}");
    }
    assert_eq!(document(&store), "second");
    // From the limit on, writes are spaced.
    let findings = store.inspect().unwrap();
    assert!(findings.iter().any(|finding| finding.usable == Usable::WithLimit), "{findings:?}");
    swapped(store.swap(Some(&version), "third"));
}

#[test]
fn missing_bucket_or_wrong_address_is_no_empty_store() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let store = store(&endpoint);
    let fail = |fault: fn() -> Fault| (0..2).for_each(|_| endpoint.next_read(fault()));
    let missing = || Fault::Status(404, "NoSuchBucket");
    let page = || Fault::Page(404);
    for (fault, advice) in [(missing as fn() -> Fault, "Create the bucket"), (page, "check endpoint=")] {
        fail(fault);
        assert!(unavailable(store.version()).contains(advice));
        endpoint.next_read(fault());
        assert!(unavailable(store.load()).contains(advice));
    }
    assert_eq!((store.version().unwrap(), store.load().unwrap()), (None, None));
    drop(endpoint);
    let closed = "s3://bucket?endpoint=http://127.0.0.1:1";
    let store = ObjectStore::open_with(closed, variables()).unwrap();
    for text in [unavailable(store.version()), unavailable(store.swap(None, "x"))] {
        assert!(text.contains("cannot be reached") && text.contains("Check the address"), "{text}");
    }
}

#[test]
fn reads_are_repeated_within_their_time() {
    let (endpoint, store, version) = with_catalog();
    for fault in [
        Fault::Status(503, "SlowDown"),
        Fault::Status(429, "TooManyRequests"),
        Fault::Closed,
        // A dead connection: another one is used.
        Fault::Silent,
    ] {
        endpoint.next_read(fault);
        assert_eq!(store.version().unwrap().as_ref(), Some(&version));
    }
    for fault in [Fault::Status(500, "InternalError"), Fault::Closed, Fault::Silent] {
        endpoint.next_read(fault);
        assert_eq!(document(&store), "second");
    }
    // The same failure again and again is reported with what to do.
    (0..100).for_each(|_| endpoint.next_read(Fault::Status(500, "InternalError")));
    let text = unavailable(store.version());
    assert!(text.contains("it answered 500") && text.contains("Check the store and the network"), "{text}");
    endpoint.forget_faults();
    // One that cannot succeed is not.
    endpoint.next_read(Fault::Status(403, "AccessDenied"));
    let before = endpoint.heads("GET").len();
    unavailable(store.load());
    assert_eq!(endpoint.heads("GET").len(), before + 1);
}

#[test]
fn answer_of_a_cache_is_refused() {
    let (endpoint, store, _) = with_catalog();
    endpoint.add_headers("age: 7\r\n");
    for text in [unavailable(store.version()), unavailable(store.load())] {
        assert!(text.contains("a cache has answered"), "{text}");
    }
}

#[test]
fn requests_forbid_caches() {
    let (endpoint, store, _) = with_catalog();
    store.version().unwrap();
    let has = |method: &str, line: &str| {
        endpoint.heads(method).iter().all(|head| head.to_ascii_lowercase().contains(line))
    };
    assert!(has("PUT", "cache-control: no-store\r\n"));
    assert!(has("HEAD", "cache-control: no-cache\r\n"));
}

#[test]
fn foreign_object_stays_and_is_named() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    endpoint.put("prefix/catalog", b"{\"format\":3}\n");
    let store = store(&endpoint);
    for text in [unavailable(store.load()), unavailable(store.swap(None, "x"))] {
        assert!(text.contains("no catalog of optoken") && text.contains("another prefix"), "{text}");
    }
    let version = store.version().unwrap();
    unavailable(store.swap(version.as_ref(), "x"));
    assert_eq!(endpoint.objects()[0].1, b"{\"format\":3}\n");
}

#[test]
fn clock_of_the_store_is_that_of_its_newest_answer() {
    let (endpoint, store, _) = with_catalog();
    assert_eq!(store.clock(), None);
    endpoint.add_headers("date: Thu, 01 Jan 2032 00:00:00 GMT\r\n");
    store.version().unwrap();
    let clock = store.clock().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let expected = 1_956_528_000_000 - i64::try_from(now.as_millis()).unwrap();
    assert!((clock.ahead_ms - expected).abs() < 60_000, "{clock:?}");
}

#[test]
fn racers_of_several_clients_have_one_winner() {
    let (endpoint, store, mut version) = with_catalog();
    let clients: Vec<_> = (0..8).map(|_| Arc::new(store_of("s3", &endpoint))).collect();
    for round in 0..5 {
        let racers: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let (client, version) = (Arc::clone(client), version.clone());
                let text = format!("{round} {number}");
                std::thread::spawn(move || match client.swap(Some(&version), &text).unwrap() {
                    SwapOutcome::Swapped(version) => Some((text, version)),
                    SwapOutcome::Stale => None,
                })
            })
            .collect();
        let mut winners: Vec<_> = racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect();
        let (text, newest) = winners.pop().unwrap();
        assert!(winners.is_empty());
        assert_eq!((document(&store), store.version().unwrap()), (text, Some(newest.clone())));
        version = newest;
    }
}

#[test]
fn secrets_are_in_no_text() {
    let (endpoint, store, version) = with_catalog();
    endpoint.next_write(Fault::Status(403, "SignatureDoesNotMatch"));
    let error = store.swap(Some(&version), "third");
    let scratch = store.scratch().unwrap();
    scratch.remove().unwrap();
    let text = format!("{store:?} {error:?} {}", store.address());
    assert!(text.contains("s3://bucket/prefix") && !text.contains(SECRET), "{text}");
}

#[test]
fn wrong_setup_is_named_before_any_call() {
    for (url, name, value, part) in [
        ("s3://b", "AWS_ENDPOINT_URL", "http://store.example", "no TLS"),
        ("s3://b", "AWS_SECRET_ACCESS_KEY", SECRET, "Check the variables AWS_"),
        ("s3://b?ca=/does/not/exist", "AWS_REGION", "x", "/does/not/exist"),
        ("az://b", "AZURE_STORAGE_USE_EMULATOR", "true", "?endpoint=http://127.0.0.1:10000/devstoreaccount1"),
        ("az://b", "AZURE_REGION", "x", "Check the variables AZURE_"),
        ("gs://b", "GOOGLE_SERVICE_ACCOUNT", "/does/not/exist", "Check the variables GOOGLE_"),
    ] {
        let variables = [(name.to_owned(), value.to_owned())];
        let error = ObjectStore::open_with(url, variables).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains(SECRET), "{url}: {error}");
    }
    // The variable for S3 counts before the one for all services.
    let endpoint = Endpoint::start(Conditions::Atomic);
    let mut variables = variables().to_vec();
    variables.push(("AWS_ENDPOINT_URL".to_owned(), "https://127.0.0.1:1".to_owned()));
    variables.push(("AWS_ENDPOINT_URL_S3".to_owned(), format!("http://{}", endpoint.address)));
    let store = ObjectStore::open_with("s3://bucket/prefix", variables).unwrap();
    assert_eq!(store.version().unwrap(), None);
}

/// One by one, such an engine does all right.
#[test]
fn engine_that_checks_and_then_writes_is_refused_for_its_races() {
    let endpoint = Endpoint::start(Conditions::CheckedThenWritten);
    let store = store(&endpoint);
    let first = swapped(store.swap(None, "first"));
    let second = swapped(store.swap(Some(&first), "second"));
    assert_eq!(store.swap(Some(&first), "third").unwrap(), SwapOutcome::Stale);
    let report = probe(&store, Extent::Full).unwrap();
    let refusal = report.refusal().unwrap();
    assert!(refusal.found.contains("writers that expected the same state won at once"), "{refusal:?}");
    assert_eq!(store.version().unwrap(), Some(second));
}

#[test]
fn engine_that_writes_in_one_step_passes_the_probe() {
    for conditions in [Conditions::Atomic, Conditions::Bare] {
        let endpoint = Endpoint::start(conditions);
        let report = probe(&store(&endpoint), Extent::Full).unwrap();
        assert_eq!(report.refusal(), None, "{report:?}");
        assert!(endpoint.objects().is_empty());
    }
}

/// As the learning of the form, which is a write as well.
#[test]
fn repeated_trial_does_not_change_the_form_of_tags() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let store = store(&endpoint);
    let first = swapped(store.swap(None, "first"));
    endpoint.next_write(Fault::None);
    endpoint.next_write(Fault::Twice);
    let second = swapped(store.swap(Some(&first), "second"));
    swapped(store.swap(Some(&second), "third"));
    assert_eq!(endpoint.heads("PUT").len(), 5);
}

#[test]
fn limit_of_a_proxy_that_has_written_is_success() {
    let (endpoint, store, version) = with_catalog();
    endpoint.next_write(Fault::DoneButStatus(429));
    let version = swapped(store.swap(Some(&version), "third"));
    assert_eq!((document(&store), store.version().unwrap()), ("third".to_owned(), Some(version)));
}

/// As a proxy does that repeats a request and has the second answer first.
#[test]
fn refused_write_that_happens_later_is_found() {
    let (endpoint, store, version) = with_catalog();
    endpoint.next_write(Fault::RefusedThenDone);
    let version = swapped(store.swap(Some(&version), "third"));
    assert_eq!((document(&store), store.version().unwrap()), ("third".to_owned(), Some(version.clone())));
    // One that happens never is stale in the end.
    endpoint.next_write(Fault::Status(412, "PreconditionFailed"));
    assert_eq!(store.swap(Some(&version), "fourth").unwrap(), SwapOutcome::Stale);
    // A loser does not wait.
    let other = store_of("s3", &endpoint);
    swapped(other.swap(Some(&version), "of another"));
    let begin = std::time::Instant::now();
    assert_eq!(store.swap(Some(&version), "fifth").unwrap(), SwapOutcome::Stale);
    assert!(begin.elapsed() < std::time::Duration::from_millis(400), "{:?}", begin.elapsed());
}

#[test]
fn limit_before_many_other_writes_is_unknown() {
    for (following, is_known) in [(8, true), (12, false)] {
        let (endpoint, store, version) = with_catalog();
        let other = store_of("s3", &endpoint);
        let first = move || {
            for number in 0..following {
                let version = other.version().unwrap();
                swapped(other.swap(version.as_ref(), &number.to_string()));
            }
        };
        endpoint.next_write(Fault::ThenStatus(Box::new(first), 429));
        let outcome = store.swap(Some(&version), "own");
        if is_known {
            assert_eq!(outcome, Ok(SwapOutcome::Stale));
        } else {
            assert!(unknown(outcome).contains("it answered 429"));
        }
    }
}

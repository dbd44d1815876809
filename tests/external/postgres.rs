//! The store in PostgreSQL, on real servers.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use optoken::store::remote::probe::{Extent, probe};
use optoken::store::remote::{RemoteStore, Usable};
use optoken::store::{Entry, PostgresStore, Store, StoreError, SwapOutcome, Version, conformance};

use crate::engines::postgres::{PASSWORD, Server};
use crate::engines::suite::swapped;
use crate::support::{CaseName, TIMEOUT, TestCertificate, eventually};

/// More than the deadline of any call, as a busy machine adds to it.
const DEADLINE: Duration = Duration::from_secs(15);

fn entry(store: &impl Store) -> Entry {
    store.load().unwrap().unwrap()
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

/// Returns the row of an inspection.
fn found(store: &PostgresStore, check: &str) -> (String, Usable) {
    let findings = store.inspect().unwrap();
    let finding = findings.iter().find(|finding| finding.check == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check} in {findings:?}"));
    (finding.found.clone(), finding.usable)
}

/// A connection of a store, which holds or waits for the row.
fn backends(server: &Server, database: &str, condition: &str) -> usize {
    let statement = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'optoken' AND datname = '{database}' \
         AND ({condition})"
    );
    server.sql("postgres", &statement).parse().unwrap()
}

/// Does something to the connections of a store that meet a condition.
fn on_backends(server: &Server, function: &str, database: &str, condition: &str) {
    let statement = format!(
        "SELECT {function}(pid) FROM pg_stat_activity WHERE application_name = 'optoken' AND datname = \
         '{database}' AND ({condition})"
    );
    server.sql("postgres", &statement);
}

pub(crate) fn store_conforms() {
    let server = Server::shared();
    let database = server.database();
    conformance::run(&server.open(&database));
    // The same in a schema, at a socket of this machine.
    server.sql(&database, "CREATE SCHEMA tokens");
    let directory = server.directory().display().to_string();
    let url = format!(
        "postgresql://postgres@/{database}?host={directory}&port={}&table=tokens.catalog_2&proof=write",
        server.port
    );
    let store = PostgresStore::open(&url).unwrap();
    conformance::run(&store);
    assert_eq!(server.sql(&database, "SELECT count(*) FROM tokens.catalog_2"), "1");
    assert!(store.address().contains(&directory), "{}", store.address());
    // A clock of this machine.
    let clock = store.clock().unwrap();
    assert!(clock.ahead_ms.abs() < 1000, "{clock:?}");
}

pub(crate) fn largest_document_is_unchanged() {
    let server = Server::shared();
    let store = server.open(&server.database());
    let document = "\u{0}\r\n\u{1F511}".repeat((6 << 20) / 7);
    let version = swapped(&store, None, &document);
    assert_eq!(store.version().unwrap().as_ref(), Some(&version));
    assert!(entry(&store) == Entry { version, document });
}

pub(crate) fn racing_nodes_have_one_winner() {
    const ROUNDS: usize = 20;
    let server = Server::shared();
    let database = server.database();
    // A stricter level would fail instead.
    server.sql(
        "postgres",
        &format!("ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"),
    );
    let nodes: Vec<_> = (0..3).map(|_| server.open(&database)).collect();
    let mut version = None;
    let mut versions = HashSet::new();
    for round in 0..ROUNDS {
        let barrier = Barrier::new(24);
        let winners: Vec<_> = thread::scope(|scope| {
            let racers: Vec<_> = (0..24)
                .map(|racer| {
                    let (node, version, barrier) = (&nodes[racer % 3], &version, &barrier);
                    scope.spawn(move || {
                        let document = format!("{round} {racer}");
                        barrier.wait();
                        match node.swap(version.as_ref(), &document).unwrap() {
                            SwapOutcome::Swapped(version) => Some(Entry { version, document }),
                            SwapOutcome::Stale => None,
                        }
                    })
                })
                .collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1, "{winners:?}");
        for node in &nodes {
            assert_eq!(entry(node), winners[0]);
        }
        version = Some(winners[0].version.clone());
        assert!(versions.insert(winners[0].version.as_str().to_owned()));
    }
    // The changes of one node race as well: none waits for the connection of another.
    let held = server.hold(&database, "SELECT * FROM optoken_catalog FOR UPDATE");
    let outcomes: Vec<_> = thread::scope(|scope| {
        let racers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| nodes[0].swap(version.as_ref(), "x").unwrap())).collect();
        let waits = "wait_event_type = 'Lock'";
        eventually("all changes wait", || backends(server, &database, waits) == 3);
        drop(held);
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == SwapOutcome::Stale).count(), 2);
}

pub(crate) fn user_without_create_right_gets_the_statements() {
    let server = Server::shared();
    let database = server.database();
    server.sql(&database, "CREATE ROLE \"plain\"\"user\" LOGIN");
    let store = PostgresStore::open(&server.url_of("plain%22user", &database)).unwrap();
    // A table that is missing holds no document.
    assert_eq!(store.load().unwrap(), None);
    let text = unavailable(store.swap(None, "x"));
    assert_eq!(found(&store, "table").1, Usable::No);
    let statements = text.split_once("of the database: ").unwrap_or_else(|| panic!("{text}")).1;
    assert!(statements.starts_with("CREATE TABLE optoken_catalog ("), "{text}");
    server.sql(&database, statements);
    let scratch = store.scratch().unwrap();
    swapped(&store, None, "kept");
    assert_eq!(scratch.swap(None, "x").is_ok(), scratch.version().unwrap().is_some());
    scratch.remove().unwrap();
    assert_eq!(scratch.load().unwrap(), None);
    assert_eq!(entry(&store).document, "kept");
    assert_eq!(server.sql(&database, "SELECT name FROM optoken_catalog"), "catalog");
    assert_eq!(found(&store, "table"), ("optoken_catalog exists".to_owned(), Usable::Yes));

    server.sql(&database, "GRANT UPDATE ON optoken_catalog TO PUBLIC");
    let (text, usable) = found(&store, "table");
    assert!(text.contains("REVOKE ALL ON optoken_catalog FROM PUBLIC") && usable == Usable::No, "{text}");
    server.sql(&database, "REVOKE ALL ON optoken_catalog FROM PUBLIC");
    server.sql(&database, "REVOKE DELETE ON optoken_catalog FROM \"plain\"\"user\"");
    let (text, usable) = found(&store, "table");
    assert!(text.contains("lacks rights") && usable == Usable::No, "{text}");
}

pub(crate) fn table_of_another_program_is_refused() {
    let server = Server::shared();
    let database = server.database();
    server.sql(&database, "CREATE TABLE optoken_catalog (id int, content text)");
    let store = server.open(&database);
    for text in [unavailable(store.load()), unavailable(store.version()), unavailable(store.swap(None, "x"))]
    {
        assert!(text.contains("42703") && text.contains("option table"), "{text}");
    }
}

pub(crate) fn password_is_checked_and_never_shown() {
    let server = Server::start(&[]);
    server.authenticate("host all secretive 127.0.0.1/32 scram-sha-256");
    server.sql("postgres", &format!("CREATE ROLE secretive LOGIN SUPERUSER PASSWORD '{PASSWORD}'"));
    let encoded = PASSWORD.replace('ä', "%C3%A4").replace('ö', "%C3%B6").replace(' ', "%20");
    let url = |password: &str| server.url_of(&format!("secretive{password}"), "postgres");
    let store = PostgresStore::open(&url(&format!(":{encoded}"))).unwrap();
    swapped(&store, None, "x");
    assert!(!format!("{store:?} {}", store.address()).contains("rd of"), "{store:?}");
    for (password, expected) in [(":wrong", "28P01"), ("", "INFLUXDB3_TOKEN_STORE_PASSWORD_FILE")] {
        let store = PostgresStore::open(&url(password)).unwrap();
        let start = Instant::now();
        for text in [unavailable(store.version()), unavailable(store.swap(None, "x"))] {
            assert!(text.contains(expected) && text.contains("INFLUXDB3_TOKEN_STORE_PASSWORD"), "{text}");
            assert!(!text.contains("wrong"), "{text}");
        }
        assert!(start.elapsed() < DEADLINE);
    }
}

pub(crate) fn certificate_of_server_is_verified() {
    let certificate = TestCertificate::with_names(&["localhost"]);
    let server = Server::start(&[]);
    let read = |path| std::fs::read(path).unwrap();
    let key = server.file("server.key", &read(&certificate.key));
    let chain = server.file("server.pem", &read(&certificate.certificate));
    server.set("ssl_cert_file", chain.to_str().unwrap());
    server.set("ssl_key_file", key.to_str().unwrap());
    server.set("ssl", "on");
    let other = TestCertificate::new();
    let url =
        |host: &str, options: &str| format!("postgres://postgres@{host}:{}/postgres?{options}", server.port);
    let ca = |certificate: &TestCertificate| format!("sslrootcert={}", certificate.authority.display());
    let good = PostgresStore::open(&url("localhost", &ca(&certificate))).unwrap();
    conformance::run(&good);
    let statement = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'optoken'";
    assert_eq!(server.sql("postgres", statement), "t");
    assert!(found(&good, "encryption").0.contains("TLS"));
    for (host, options, expected) in [
        // An authority of the same name, with another key.
        ("localhost", ca(&other), "BadSignature"),
        ("localhost", "sslmode=require".to_owned(), "UnknownIssuer"),
        ("127.0.0.1", ca(&certificate), "not valid for name"),
    ] {
        let _case = CaseName(format!("{host} {options}"));
        let store = PostgresStore::open(&url(host, &options)).unwrap();
        for text in [unavailable(store.load()), unavailable(store.swap(None, "x"))] {
            assert!(text.contains(expected) && text.contains("sslrootcert"), "{text}");
        }
    }
}

/// A server without TLS, or an attacker in its place, learns nothing.
pub(crate) fn server_without_tls_receives_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, received) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"N").unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            // The test may be over.
            let _ = send.send((request, rest));
        }
    });
    let url = format!("postgres://u:secret@127.0.0.1:{port}/d?sslmode=require");
    let text = unavailable(PostgresStore::open(&url).unwrap().version());
    assert!(text.contains("does not support TLS"), "{text}");
    let (request, rest) = received.recv_timeout(TIMEOUT).unwrap();
    assert_eq!((request, rest.as_slice()), ([0, 0, 0, 8, 4, 210, 22, 47], &[][..]));
    let error = PostgresStore::open("postgres://u@192.0.2.1/d?sslmode=disable").unwrap_err().to_string();
    assert!(error.contains("another machine"), "{error}");
}

pub(crate) fn server_without_durability_is_refused() {
    let server = Server::start(&[]);
    let database = server.database();
    let store = server.open(&database);
    let version = swapped(&store, None, "x");
    for setting in ["fsync", "full_page_writes"] {
        server.set(setting, "off");
        let store = server.open(&database);
        for text in [
            unavailable(store.version()),
            unavailable(store.load()),
            unavailable(store.swap(Some(&version), "y")),
        ] {
            assert!(text.contains(&format!("{setting} is off")) && text.contains("power cut"), "{text}");
        }
        assert_eq!(found(&store, setting).1, Usable::No);
        server.set(setting, "on");
        assert_eq!(found(&store, setting).1, Usable::Yes);
        assert_eq!(store.version().unwrap().as_ref(), Some(&version));
    }
    server.sql("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"));
    let store = server.open(&database);
    let text = unavailable(store.version());
    assert!(text.contains("default_transaction_read_only"), "{text}");
    assert_eq!(found(&store, "role").1, Usable::No);
}

pub(crate) fn standby_is_passed_over_for_the_primary() {
    let primary = Server::start(&[]);
    let store = primary.open("postgres");
    let version = swapped(&store, None, "x");
    assert_eq!(found(&store, "replication").1, Usable::Yes);
    let standby = primary.start_standby("second");
    assert_eq!(found(&store, "replication").1, Usable::WithLimit);
    primary.set("synchronous_standby_names", "second");
    assert_eq!(found(&store, "replication").1, Usable::Yes);

    let alone = standby.open("postgres");
    for text in [
        unavailable(alone.version()),
        unavailable(alone.load()),
        unavailable(alone.swap(Some(&version), "y")),
    ] {
        assert!(text.contains("is a standby"), "{text}");
    }
    assert_eq!(found(&alone, "role").1, Usable::No);

    let url = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", standby.port, primary.port);
    let both = PostgresStore::open(&url).unwrap();
    assert_eq!(both.version().unwrap().as_ref(), Some(&version));
    let version = swapped(&both, Some(&version), "y");
    assert_eq!(store.version().unwrap().as_ref(), Some(&version));
    // As at the start of a server. The standby, which answers first, is not the one to check.
    let report = probe(&both, Extent::Start).unwrap();
    assert_eq!(report.refusal(), None);
    assert_eq!(found(&both, "role"), ("a primary".to_owned(), Usable::Yes));
    assert!(found(&both, "server").0.contains(&primary.port.to_string()));

    // A server that accepts connections and is silent.
    standby.freeze();
    primary.set("synchronous_standby_names", "");
    let both = PostgresStore::open(&url).unwrap();
    eventually("the second server is found", || {
        both.version().is_ok_and(|found| found.as_ref() == Some(&version))
    });
    standby.thaw();

    // After the failover the other server is the primary.
    eventually("the standby has all", || {
        standby.sql("postgres", "SELECT version FROM optoken_catalog") == version.as_str()
    });
    drop(primary);
    standby.sql("postgres", "SELECT pg_promote()");
    eventually("the new primary is found", || {
        both.version().is_ok_and(|found| found.as_ref() == Some(&version))
    });
    eventually("the new primary is written", || match both.swap(Some(&version), "z") {
        Ok(outcome) => matches!(outcome, SwapOutcome::Swapped(_)),
        Err(_) => false,
    });
}

pub(crate) fn missing_synchronous_standby_leaves_an_unknown_outcome() {
    let server = Server::start(&[]);
    let database = server.database();
    let (store, other) = (server.open(&database), server.open(&database));
    let url = format!("{}?proof=write", server.url(&database));
    let proving = PostgresStore::open(&url).unwrap();
    // None of these may weaken a swap.
    for setting in ["synchronous_commit = off", "client_min_messages = error", "statement_timeout = 1000"] {
        server.sql("postgres", &format!("ALTER DATABASE {database} SET {setting}"));
    }
    let mut version = swapped(&store, None, "first");
    assert_eq!(proving.version().unwrap().as_ref(), Some(&version));
    for end in ["", "pg_cancel_backend", "pg_terminate_backend"] {
        let _case = CaseName(format!("ended by {end:?}"));
        server.set("synchronous_standby_names", "gone");
        let start = Instant::now();
        let document = format!("waits, then {end}");
        let text = thread::scope(|scope| {
            let swap = scope.spawn(|| unknown(store.swap(Some(&version), &document)));
            let waits = "wait_event = 'SyncRep' AND query = 'COMMIT'";
            eventually("the swap waits", || backends(&server, &database, waits) == 1);
            // Another node neither sees it nor proves it.
            assert_eq!(other.version().unwrap().as_ref(), Some(&version));
            if !end.is_empty() {
                on_backends(&server, end, &database, waits);
            }
            swap.join().unwrap()
        });
        assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        match end {
            "" => assert!(text.contains("no answer within"), "{text}"),
            "pg_cancel_backend" => {
                assert!(text.contains("canceling wait for synchronous replication"), "{text}");
            }
            _ => assert!(text.contains("terminating connection"), "{text}"),
        }
        // Nothing is proved by a commit, and the tries leave no connections behind.
        for _ in 0..3 {
            let text = unavailable(proving.version());
            assert!(text.contains("no answer within") || text.contains("warns"), "{text}");
        }
        let proofs = "query LIKE '%emit_message%' AND state <> 'idle'";
        eventually("no proof waits any more", || backends(&server, &database, proofs) == 0);
        if end.is_empty() {
            // The change of a dead client waits on. It keeps others from their changes.
            let text = unavailable(other.swap(Some(&version), "another"));
            assert!(text.contains("55P03") && text.contains("standby"), "{text}");
            assert_eq!(other.version().unwrap().as_ref(), Some(&version));
        }
        server.set("synchronous_standby_names", "");
        eventually("the change appears", || entry(&other).document == document);
        let now = entry(&other).version;
        assert_ne!(now, version);
        eventually("a commit proves again", || {
            proving.version().is_ok_and(|found| found.as_ref() == Some(&now))
        });
        version = swapped(&store, Some(&now), "works again");
    }
}

pub(crate) fn backend_killed_before_its_commit_has_written_nothing() {
    let server = Server::shared();
    let database = server.database();
    let store = server.open(&database);
    let version = swapped(&store, None, "first");
    let waits = "wait_event_type = 'Lock'";
    for end in ["pg_terminate_backend", "pg_cancel_backend", "none"] {
        let _case = CaseName(end);
        let held = server.hold(&database, "SELECT * FROM optoken_catalog FOR UPDATE");
        let start = Instant::now();
        let text = thread::scope(|scope| {
            let swap = scope.spawn(|| unavailable(store.swap(Some(&version), "second")));
            eventually("the swap waits", || backends(server, &database, waits) == 1);
            // It delays no read.
            assert_eq!(store.version().unwrap().as_ref(), Some(&version));
            assert_eq!(entry(&store).document, "first");
            if end != "none" {
                on_backends(server, end, &database, waits);
            }
            swap.join().unwrap()
        });
        assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        assert!(text.starts_with(store.address()), "{text}");
        drop(held);
        eventually("no swap waits", || backends(server, &database, waits) == 0);
        assert_eq!(entry(&store), Entry { version: version.clone(), document: "first".to_owned() });
    }
    swapped(&store, Some(&version), "second");
}

/// What a proxy keeps from its receiver, while both connections stay open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swallowed {
    Commit,
    AnswerToCommit,
}

/// Starts a proxy that passes all but the end of a transaction. Its first connections are reads.
fn swallow(server: &Server, swallowed: Swallowed) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), server.port);
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut upstream = TcpStream::connect(("127.0.0.1", server)).unwrap();
            let (mut answers, mut back) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            let silent = Arc::new(AtomicBool::new(false));
            let hears = Arc::clone(&silent);
            thread::spawn(move || {
                let mut buffer = [0; 1 << 14];
                while let Ok(length @ 1..) = answers.read(&mut buffer) {
                    if !hears.load(Ordering::SeqCst) && back.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
            thread::spawn(move || {
                let mut buffer = [0; 1 << 14];
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    let is_commit = buffer[..length].windows(7).any(|window| window == b"COMMIT\0");
                    silent.fetch_or(is_commit, Ordering::SeqCst);
                    let passes = !is_commit || swallowed == Swallowed::AnswerToCommit;
                    if passes && upstream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                // The server must not learn that the client has gone.
                thread::sleep(TIMEOUT);
                drop(upstream);
            });
        }
    });
    port
}

/// A node that stops in the middle of a change keeps the others waiting for seconds at most.
pub(crate) fn swallowed_commit_and_answer_leave_an_unknown_outcome() {
    let server = Server::shared();
    for swallowed in [Swallowed::Commit, Swallowed::AnswerToCommit] {
        let _case = CaseName(format!("{swallowed:?}"));
        let database = server.database();
        let direct = server.open(&database);
        let version = swapped(&direct, None, "first");
        let port = swallow(server, swallowed);
        let store = PostgresStore::open(&format!("postgres://postgres@127.0.0.1:{port}/{database}")).unwrap();
        assert_eq!(store.version().unwrap().as_ref(), Some(&version));
        let text = unknown(store.swap(Some(&version), "second"));
        assert!(text.contains("no answer within"), "{text}");
        let current = entry(&direct);
        let expected = if swallowed == Swallowed::Commit { "first" } else { "second" };
        assert_eq!(current.document, expected);
        assert_eq!(current.version == version, swallowed == Swallowed::Commit);
        // The server ends the transaction whose client is silent.
        let version = swapped(&direct, Some(&current.version), "third");
        assert_eq!(entry(&direct), Entry { version, document: "third".to_owned() });
    }
}

pub(crate) fn news_arrive_again_after_their_connection_was_killed() {
    let server = Server::shared();
    let database = server.database();
    let (listener, writer) = (server.open(&database), server.open(&database));
    let (send, news) = channel();
    listener.listen(Arc::new(move || {
        // The test may be over.
        let _ = send.send(());
    }));
    news.recv_timeout(TIMEOUT).expect("no news of the first connection");
    let mut version = swapped(&writer, None, "0");
    news.recv_timeout(TIMEOUT).expect("no news of the first document");
    for round in 1..4 {
        version = swapped(&writer, Some(&version), &round.to_string());
        news.recv_timeout(TIMEOUT).expect("no news of a change");
        while news.try_recv().is_ok() {}
        on_backends(server, "pg_terminate_backend", &database, "query LIKE 'LISTEN%'");
        news.recv_timeout(TIMEOUT).expect("no news of the new connection");
    }
    // A change elsewhere is no news.
    while news.try_recv().is_ok() {}
    let elsewhere = PostgresStore::open(&format!("{}?table=elsewhere", server.url(&database))).unwrap();
    swapped(&elsewhere, None, "x");
    let scratch = writer.scratch().unwrap();
    scratch.swap(None, "x").unwrap();
    swapped(&writer, Some(&version), "last");
    news.recv_timeout(TIMEOUT).expect("no news of the last change");
    assert!(news.try_recv().is_err());
    assert_eq!(found(&writer, "news").1, Usable::Yes);
    // The connection ends with its store, also while a scratch store is left.
    let listens = "query LIKE 'LISTEN%' OR query = 'SELECT 1'";
    eventually("one connection listens", || backends(server, &database, listens) == 1);
    let left = listener.scratch().unwrap();
    drop(listener);
    eventually("no connection listens", || backends(server, &database, listens) == 0);
    drop(left);
}

pub(crate) fn reads_recover_from_a_restart_and_a_standstill() {
    let mut server = Server::start(&[]);
    let store = server.open("postgres");
    let version = swapped(&store, None, "kept");
    for _ in 0..2 {
        server.stop();
        let text = unavailable(store.version());
        assert!(text.contains("check that the server runs"), "{text}");
        server.run();
        // By itself, at the first call.
        assert_eq!(store.version().unwrap().as_ref(), Some(&version));
        assert_eq!(entry(&store).document, "kept");
        let stale = Version::from("0".repeat(32));
        assert_eq!(store.swap(Some(&stale), "x").unwrap(), SwapOutcome::Stale);
    }
    server.freeze();
    let start = Instant::now();
    let text = unavailable(store.version());
    assert!(text.contains("no answer within"), "{text}");
    unavailable(store.load());
    unavailable(store.swap(Some(&version), "frozen"));
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    server.thaw();
    eventually("the store works again", || {
        store.version().is_ok_and(|found| found.as_ref() == Some(&version))
    });
    let version = swapped(&store, Some(&version), "thawed");
    assert_eq!(entry(&store).version, version);
}

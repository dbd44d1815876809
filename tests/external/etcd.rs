//! The store in a real etcd: members that are frozen, killed, full or locked.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use optoken::store::remote::{Usable, probe};
use optoken::store::{Entry, EtcdStore, Store as _, StoreError, SwapOutcome, Version, conformance};

use crate::engines::etcd::{Cluster, Setup, prefix};
use crate::engines::suite::swapped;
use crate::support::{TIMEOUT, eventually};

/// The most bytes of a document that is stored without chunks.
const INLINE: usize = 1 << 20;

/// The bytes of the largest document.
const LARGEST: usize = 6 << 20;

/// Longer than any call may need.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Replaces the document, whichever it is.
fn replace(store: &EtcdStore, document: &str) -> Version {
    swapped(store, store.version().unwrap().as_ref(), document)
}

/// Returns the text of the error of a call, which ends in time and has changed nothing.
fn unavailable<T: std::fmt::Debug>(call: impl FnOnce() -> Result<T, StoreError>) -> String {
    let began = Instant::now();
    let result = call();
    assert!(began.elapsed() < CALL_LIMIT, "{result:?} after {:?}", began.elapsed());
    match result {
        Err(StoreError::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn conformance_holds_on_three_members() {
    let prefix = prefix();
    conformance::run(&Cluster::shared().store(&prefix));
}

pub(crate) fn probe_passes_and_leaves_nothing() {
    let (cluster, prefix) = (Cluster::shared(), prefix());
    let store = cluster.store(&prefix);
    let report = probe::probe(&store, probe::Extent::Full).unwrap();
    assert!(report.refusal().is_none(), "{report:?}");
    let found = |check: &str| {
        let row = report.rows.iter().find(|row| row.check.starts_with(check));
        row.unwrap_or_else(|| panic!("no {check}: {report:?}")).found.clone()
    };
    assert!(found("member http://127.0.0.1:").starts_with("etcd 3."), "{report:?}");
    assert_eq!(found("majority"), "a majority answers (3 voting members, 1 of which may fail)");
    assert!(found("compaction").contains("--auto-compaction-retention=1h"), "{report:?}");
    assert_eq!(cluster.keys(&prefix), [""; 0]);
    assert_eq!(store.version().unwrap(), None);
}

pub(crate) fn documents_beyond_one_mebibyte_have_chunks() {
    let (cluster, prefix) = (Cluster::shared(), prefix());
    let store = cluster.store(&prefix);
    for (bytes, chunks) in
        [(INLINE - 1, 0), (INLINE + 1, 2), (INLINE, 0), (LARGEST, 6), (2 * INLINE, 2), (LARGEST, 6), (0, 0)]
    {
        let document = "ü".repeat(bytes / 2) + &"x".repeat(bytes % 2);
        let version = replace(&store, &document);
        let entry = store.load().unwrap().unwrap();
        assert!(entry.document == document && entry.version == version, "{bytes} bytes");
        // What was replaced is gone, by the same transaction.
        let keys = cluster.keys(&prefix);
        let parts = keys.iter().filter(|key| key.starts_with(&format!("{prefix}/catalog/chunks/"))).count();
        assert_eq!((parts, keys.len()), (chunks, if chunks == 0 { 2 } else { 1 + chunks }), "{keys:?}");
    }
}

pub(crate) fn racers_over_three_members_have_one_winner() {
    let prefix = prefix();
    let stores: Vec<_> = (0..3)
        .map(|first| EtcdStore::open(&Cluster::shared().url_from(first, "", &prefix)).unwrap())
        .collect();
    // Small documents, and ones with chunks.
    for (bytes, racers, rounds) in [(10, 24, 20), (INLINE + 1, 6, 4)] {
        for round in 0..rounds {
            let before = stores[0].version().unwrap();
            let start = Barrier::new(racers);
            let winners: Vec<Entry> = thread::scope(|scope| {
                let racers: Vec<_> = (0..racers)
                    .map(|racer| {
                        let (store, before, start) = (&stores[racer % 3], before.clone(), &start);
                        let document = format!("{bytes} {round} {racer} {}", "x".repeat(bytes));
                        scope.spawn(move || {
                            start.wait();
                            match store.swap(before.as_ref(), &document).unwrap() {
                                SwapOutcome::Swapped(version) => Some(Entry { version, document }),
                                SwapOutcome::Stale => None,
                            }
                        })
                    })
                    .collect();
                racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
            });
            for store in &stores {
                let entry = store.load().unwrap().unwrap();
                assert!(winners.len() == 1 && winners[0] == entry, "{} winners", winners.len());
            }
        }
    }
}

pub(crate) fn orphan_chunks_go_with_their_lease() {
    let (cluster, prefix) = (Cluster::shared(), prefix());
    let lease = Duration::from_secs(2);
    let store = cluster.store(&prefix).with_chunk_lease(lease);
    let adopted = "a".repeat(2 * INLINE);
    let version = swapped(&store, None, &adopted);
    let keys = cluster.keys(&prefix);
    // The connection of the next writer ends before its transaction.
    let proxy = Proxy::start(cluster.port(0), Cut::Before);
    let dying = EtcdStore::open(&proxy.url(&prefix)).unwrap().with_chunk_lease(lease);
    let result = dying.swap(Some(&version), &"b".repeat(2 * INLINE));
    assert!(matches!(result, Err(StoreError::UnknownOutcome(_))), "{result:?}");
    assert_eq!(cluster.keys(&prefix).len(), keys.len() + 2);
    eventually("the orphans are gone", || cluster.keys(&prefix).len() == keys.len());
    // The lease of the adopted ones has ended before.
    assert_eq!(cluster.keys(&prefix), keys);
    assert!(store.load().unwrap().unwrap() == Entry { version, document: adopted });
}

pub(crate) fn loser_removes_its_chunks() {
    let (cluster, prefix) = (Cluster::shared(), prefix());
    let store = cluster.store(&prefix);
    let version = swapped(&store, None, "first");
    // Another writer is faster than the transaction of this one.
    let proxy = Proxy::start(cluster.port(0), Cut::Hold);
    let slow = EtcdStore::open(&proxy.url(&prefix)).unwrap();
    thread::scope(|scope| {
        let slow = scope.spawn(|| slow.swap(Some(&version), &"b".repeat(2 * INLINE)));
        eventually("the transaction is on its way", || proxy.seen() == 1);
        swapped(&store, Some(&version), "second");
        proxy.release();
        assert_eq!(slow.join().unwrap(), Ok(SwapOutcome::Stale));
    });
    eventually("the chunks are gone", || cluster.keys(&prefix).len() == 2);
    assert_eq!(store.load().unwrap().unwrap().document, "second");
}

pub(crate) fn lost_answer_is_an_unknown_outcome() {
    let (cluster, prefix) = (Cluster::shared(), prefix());
    let store = cluster.store(&prefix);
    let mut version = swapped(&store, None, "first");
    for (cut, is_written) in [(Cut::Before, false), (Cut::After, true)] {
        let proxy = Proxy::start(cluster.port(0), cut);
        // The other member is there, and gets no second request.
        let hosts = format!("127.0.0.1:{},127.0.0.1:{}", proxy.port, cluster.port(1));
        let cut_off = EtcdStore::open(&format!("etcd://{hosts}/{prefix}")).unwrap();
        let result = cut_off.swap(Some(&version), "second");
        assert!(matches!(result, Err(StoreError::UnknownOutcome(_))), "{result:?}");
        assert_eq!(proxy.seen(), 1);
        let found = store.load().unwrap().unwrap();
        assert_eq!(found.version != version, is_written, "{cut:?}");
        assert_eq!(found.document, if is_written { "second" } else { "first" });
        version = found.version;
    }
}

pub(crate) fn restored_snapshot_repeats_no_version() {
    let cluster = Cluster::start(Setup::SINGLE);
    let store = cluster.store("restored");
    let first = swapped(&store, None, "first");
    let snapshot = cluster.snapshot();
    let second = swapped(&store, Some(&first), "second");
    let restored = Cluster::restore(&snapshot);
    let store = restored.store("restored");
    assert_eq!(
        store.load().unwrap().unwrap(),
        Entry { version: first.clone(), document: "first".to_owned() }
    );
    let third = swapped(&store, Some(&first), "second");
    assert_ne!(third, second);
    assert_eq!(store.swap(Some(&second), "x").unwrap(), SwapOutcome::Stale);
    assert_eq!(store.load().unwrap().unwrap().version, third);
}

pub(crate) fn lost_majority_proves_nothing() {
    let cluster = Cluster::start(Setup::default());
    let store = cluster.store("majority");
    let version = swapped(&store, None, "first");
    cluster.freeze(1);
    cluster.freeze(2);
    // The member that is left goes on answering reads of its own.
    assert_eq!(cluster.serializable_read(0, "majority/catalog/version"), version.as_str());
    unavailable(|| store.version());
    let error = unavailable(|| store.load());
    assert!(error.contains(&format!("127.0.0.1:{}", cluster.port(1))), "{error}");
    assert!(store.swap(Some(&version), "second").is_err());
    assert_eq!(cluster.serializable_read(0, "majority/catalog/version"), version.as_str());
    cluster.thaw(1);
    cluster.thaw(2);
    // The swap may have waited for the majority.
    eventually("the majority is back", || store.version().is_ok());
    let document = store.load().unwrap().unwrap().document;
    assert!(["first", "second"].contains(&document.as_str()), "{document}");
}

pub(crate) fn failed_member_is_passed_over() {
    let mut cluster = Cluster::start(Setup::default());
    let store = cluster.store("member");
    let version = swapped(&store, None, "first");
    cluster.kill(0);
    // Another member leads within a moment, if this one did.
    eventually("a majority answers", || store.version().is_ok());
    let version = swapped(&store, Some(&version), "second");
    cluster.restart(0);
    let store = cluster.store("member");
    assert_eq!(store.version().unwrap(), Some(version.clone()));
    cluster.freeze(0);
    eventually("a majority answers", || store.version().is_ok());
    // From now on writes go to the member that has answered.
    assert_eq!(store.load().unwrap().unwrap().version, version);
    swapped(&store, Some(&version), "third");
    cluster.thaw(0);
    assert_eq!(store.load().unwrap().unwrap().document, "third");
}

pub(crate) fn news_arrive_after_member_failed() {
    let mut cluster = Cluster::start(Setup::default());
    let listener = cluster.store("news");
    let writer = EtcdStore::open(&cluster.url_from(1, "", "news")).unwrap();
    swapped(&writer, None, "first");
    let news = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&news);
    listener.listen(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    let count = || news.load(Ordering::Relaxed);
    let arrives = |what: &str| {
        let before = count();
        replace(&writer, what);
        eventually(what, || count() > before);
    };
    eventually("the watch has started", || count() == 1);
    arrives("news of a change");
    // The watch is at the first member of the URL.
    let before = count();
    cluster.kill(0);
    eventually("a new watch at another member", || count() > before);
    eventually("a majority answers", || writer.version().is_ok());
    arrives("news after a member was killed");
    cluster.restart(0);
    // Whichever member it is at now.
    for member in 0..3 {
        cluster.freeze(member);
        eventually("a majority answers", || writer.version().is_ok());
        // A watch at this member is silent now, until it is tried.
        eventually("news while a member is frozen", || {
            let before = count();
            // A write may still go to the frozen member, and one in doubt is followed by a read.
            let _ = writer.version().and_then(|version| writer.swap(version.as_ref(), "x"));
            thread::sleep(Duration::from_millis(50));
            count() > before
        });
        cluster.thaw(member);
    }
    drop(listener);
    eventually("the store has dropped its news", || Arc::strong_count(&news) == 1);
}

pub(crate) fn user_needs_password_and_permission() {
    const SECRET: &str = "s3cret";
    let setup = Setup { options: &["--auth-token-ttl=1"], ..Setup::SINGLE };
    let mut cluster = Cluster::start(setup);
    cluster.require_accounts(&format!("ops:{SECRET}"), "tokens/");
    let open = |user: &str, prefix: &str| EtcdStore::open(&cluster.url_from(0, user, prefix)).unwrap();
    for (user, prefix, expected) in [
        ("", "tokens", "etcd requires a user"),
        ("ops:wrong-s3cret@", "tokens", "check the user of the URL and its password"),
        ("absent:s3cret@", "tokens", "check the user of the URL and its password"),
        ("ops:s3cret@", "others", "etcdctl role grant-permission"),
    ] {
        let store = open(user, prefix);
        for error in [
            unavailable(|| store.version()),
            unavailable(|| store.load()),
            unavailable(|| store.swap(None, "x")),
            unavailable(|| store.swap(None, &"x".repeat(2 * INLINE))),
        ] {
            assert!(error.contains(expected), "{user} {error}");
            assert!(!error.contains(SECRET), "{error}");
        }
    }
    let store = open("ops:s3cret@", "tokens");
    let version = swapped(&store, None, &"x".repeat(2 * INLINE));
    // The token ends after a second, and with the member.
    thread::sleep(Duration::from_secs(3));
    let version = swapped(&store, Some(&version), "second");
    cluster.kill(0);
    cluster.restart(0);
    eventually("a member answers", || store.version() == Ok(Some(version.clone())));
    let report = probe::probe(&store, probe::Extent::Start).unwrap();
    assert!(report.refusal().is_none(), "{report:?}");
}

pub(crate) fn user_without_accounts_is_refused() {
    let store = EtcdStore::open(&Cluster::shared().url_from(0, "ops:s3cret@", &prefix())).unwrap();
    let error = unavailable(|| store.version());
    assert!(error.contains("etcdctl auth enable") && !error.contains("s3cret"), "{error}");
}

pub(crate) fn tls_needs_authority_and_client_certificate() {
    let cluster = Cluster::start(Setup { tls: true, ..Setup::SINGLE });
    let store = cluster.store("tls");
    let version = swapped(&store, None, "first");
    assert_eq!(store.version().unwrap(), Some(version.clone()));
    let authority = cluster.certificate.as_ref().unwrap().authority.display();
    let host = format!("127.0.0.1:{}", cluster.port(0));
    let plain = format!("127.0.0.1:{}", Cluster::shared().port(0));
    for (url, expected) in [
        (format!("etcds://{host}/tls?ca={authority}"), "add ?cert=FILE&key=FILE"),
        (format!("etcds://{host}/tls"), "?ca=FILE"),
        (format!("etcd://{host}/tls"), "write etcds://"),
        (format!("etcds://{plain}/tls"), "if this port has no TLS"),
    ] {
        let store = EtcdStore::open(&url).unwrap();
        // A busy machine can need the whole time of a call for the first handshake.
        eventually(expected, || unavailable(|| store.version()).contains(expected));
        match store.swap(Some(&version), "x") {
            // Only a refused certificate proves that no request was read.
            Err(StoreError::UnknownOutcome(error)) if url.starts_with("etcd:") => {
                assert!(error.contains(expected), "{url}: {error}");
            }
            Err(StoreError::Unavailable(error)) => assert!(error.contains(expected), "{url}: {error}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    let news = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&news);
    store.listen(Arc::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    eventually("the watch has started", || news.load(Ordering::Relaxed) == 1);
    swapped(&store, Some(&version), "second");
    eventually("news", || news.load(Ordering::Relaxed) > 1);
}

pub(crate) fn absent_gateway_is_named() {
    let setup = Setup { options: &["--enable-grpc-gateway=false"], ..Setup::SINGLE };
    let cluster = Cluster::start(setup);
    let store = cluster.store("gateway");
    for error in [unavailable(|| store.version()), unavailable(|| store.swap(None, "x"))] {
        assert!(error.contains("without --enable-grpc-gateway=false"), "{error}");
    }
}

pub(crate) fn full_database_is_named() {
    let setup = Setup { options: &["--quota-backend-bytes=8388608"], ..Setup::SINGLE };
    let cluster = Cluster::start(setup);
    let store = cluster.store("full");
    let mut version = None;
    let mut document = String::new();
    let error = loop {
        let next = format!("{} {}", document.len(), "x".repeat(INLINE / 2));
        match store.swap(version.as_ref(), &next) {
            Ok(SwapOutcome::Swapped(new)) => (version, document) = (Some(new), next),
            Err(StoreError::Unavailable(error)) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(error.contains("NOSPACE") && error.contains("etcdctl alarm disarm"), "{error}");
    // The last swap that was answered is what is stored.
    assert!(store.load().unwrap() == version.clone().map(|version| Entry { version, document }));
    let refused = probe::probe(&store, probe::Extent::Start).unwrap();
    assert!(refused.refusal().unwrap().found.contains("NOSPACE"), "{refused:?}");
    assert_eq!(refused.refusal().unwrap().usable, Usable::No);
    // The remedy of the error works.
    let revision = cluster.revision();
    cluster.etcdctl(&["compact", &revision]);
    cluster.etcdctl(&["defrag"]);
    cluster.etcdctl(&["alarm", "disarm"]);
    swapped(&store, version.as_ref(), "small");
    let report = probe::probe(&store, probe::Extent::Start).unwrap();
    assert!(report.refusal().is_none(), "{report:?}");
    assert!(report.rows.iter().any(|row| row.found == "old revisions are removed"), "{report:?}");
}

/// What happens to a transaction that writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The connection ends before it arrives.
    Before,
    /// The connection ends before its answer.
    After,
    /// It waits until it is released.
    Hold,
}

/// A proxy in front of one member.
struct Proxy {
    port: u16,
    /// The transactions so far.
    seen: Arc<AtomicUsize>,
    released: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(member: u16, cut: Cut) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let (seen, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, wait) = (Arc::clone(&seen), Arc::clone(&released));
        thread::spawn(move || {
            for client in socket.incoming() {
                let (client, counter, wait) = (client.unwrap(), Arc::clone(&counter), Arc::clone(&wait));
                let server = TcpStream::connect(("127.0.0.1", member)).unwrap();
                thread::spawn(move || pass(&client, &server, cut, &counter, &wait));
            }
        });
        Self { port, seen, released }
    }

    fn url(&self, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}/{prefix}", self.port)
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    fn release(&self) {
        self.released.store(1, Ordering::SeqCst);
    }
}

/// Passes the requests of one connection. A client begins a piece with each request.
fn pass(client: &TcpStream, server: &TcpStream, cut: Cut, seen: &AtomicUsize, released: &AtomicUsize) {
    let end = || {
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    };
    thread::scope(|scope| {
        let is_cut = Arc::new(AtomicUsize::new(0));
        let of_answers = Arc::clone(&is_cut);
        scope.spawn(move || {
            let mut piece = vec![0; 64 << 10];
            while let Ok(length @ 1..) = (&*server).read(&mut piece) {
                // The answer exists, and goes no further.
                if of_answers.load(Ordering::SeqCst) == 1 || (&*client).write_all(&piece[..length]).is_err() {
                    break;
                }
            }
            end();
        });
        let mut piece = vec![0; 64 << 10];
        while let Ok(length @ 1..) = (&*client).read(&mut piece) {
            let piece = &piece[..length];
            let text = String::from_utf8_lossy(piece);
            if text.starts_with("POST /v3/kv/txn ") && text.contains("compare") {
                seen.fetch_add(1, Ordering::SeqCst);
                match cut {
                    Cut::Before => break,
                    Cut::After => is_cut.store(1, Ordering::SeqCst),
                    Cut::Hold => {
                        let began = Instant::now();
                        while released.load(Ordering::SeqCst) == 0 && began.elapsed() < TIMEOUT {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                }
            }
            if (&*server).write_all(piece).is_err() {
                break;
            }
        }
        end();
    });
}

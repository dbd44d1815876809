//! Real engines of the stores that several nodes share, and the tests that all of them pass.
//!
//! An engine starts once for all tests of the process, and each test has a store of its own there.
//! A test that stops or kills an engine starts one of its own. All listen on loopback, on ports
//! that the system picks, keep their data below one temporary directory, and end with this
//! process, also if it is killed.

mod azure;
pub(crate) mod ceph;
pub(crate) mod etcd;
mod etcd_kind;
pub(crate) mod fault;
pub(crate) mod http_fault;
pub(crate) mod moto;
#[allow(dead_code, reason = "the unit tests use all of it")]
#[path = "../../../host/src/store/object/tests/endpoint.rs"]
mod object_endpoint;
pub(crate) mod postgres;
mod postgres_kind;
mod process;
mod s3;
pub(crate) mod seaweedfs;
pub(crate) mod suite;
pub(crate) mod unfit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use optoken::store::StoreUrl;
use optoken::store::remote::RemoteStore;

pub(crate) use self::process::{Directory, Port, Process, end, run, until_ready, with_environment};
use crate::needs::Need;

/// A running engine. Dropping it ends it.
pub(crate) trait Engine: Send + Sync {
    /// The addresses of its members that serve clients.
    fn addresses(&self) -> Vec<SocketAddr>;

    /// The URL of the store with this name, of letters, digits and `_`, for a client that connects
    /// to these addresses. Every name is a store of its own.
    fn url(&self, store: &str, addresses: &[SocketAddr]) -> String;

    /// Stops all its processes in the middle of what they do, until [`thaw`](Self::thaw). Its
    /// connections stay open.
    fn freeze(&self);

    fn thaw(&self);
}

/// An engine, and how its tests differ from those of the others.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Its name in the names of the tests.
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    /// The racers that it serves in time.
    pub(crate) racers: usize,
    /// Whether its stores call their news.
    pub(crate) has_news: bool,
    /// Whether its clients speak HTTP/1.1 without TLS.
    pub(crate) speaks_http: bool,
    /// What must be in no error and no log.
    pub(crate) secrets: &'static [&'static str],
    /// Starts one. Returns when it serves.
    pub(crate) start: fn() -> Box<dyn Engine>,
    /// Starts the one that all tests share, unless it runs.
    shared: fn() -> &'static dyn Engine,
}

/// All engines, each of which passes the suite.
pub(crate) static KINDS: [&Kind; 6] =
    [&azure::KIND, &ceph::KIND, &etcd_kind::KIND, &moto::KIND, &postgres_kind::KIND, &seaweedfs::KIND];

/// What the clients of all engines read from the environment of this process.
pub(crate) const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY),
    ("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY),
    ("AZURE_STORAGE_ACCOUNT_KEY", azure::KEY),
    ("AZURE_STORAGE_ACCOUNT_NAME", azure::ACCOUNT),
];

impl Kind {
    pub(crate) const fn new(
        name: &'static str,
        needs: &'static [Need],
        start: fn() -> Box<dyn Engine>,
        shared: fn() -> &'static dyn Engine,
    ) -> Self {
        Self { name, needs, start, racers: 24, has_news: false, speaks_http: false, secrets: &[], shared }
    }

    /// The engine that all tests share. No test may end it.
    pub(crate) fn shared(&self) -> &dyn Engine {
        (self.shared)()
    }

    /// Opens a store of the shared engine.
    pub(crate) fn store(&self, name: &str) -> Arc<dyn RemoteStore> {
        self.store_at(name, &self.shared().addresses())
    }

    /// Opens a store of the shared engine through proxies at these addresses.
    pub(crate) fn store_at(&self, name: &str, addresses: &[SocketAddr]) -> Arc<dyn RemoteStore> {
        open(&self.shared().url(name, addresses))
    }
}

/// Opens the store of a URL.
pub(crate) fn open(url: &str) -> Arc<dyn RemoteStore> {
    let url: StoreUrl = url.parse().unwrap();
    url.open_remote().unwrap().unwrap()
}

/// A name of a store that no other test of this process uses.
pub(crate) fn fresh_name() -> String {
    static USED: AtomicUsize = AtomicUsize::new(0);
    format!("test_{}", USED.fetch_add(1, Ordering::Relaxed))
}

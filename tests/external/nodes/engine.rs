//! The engines that hold the store of several nodes.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use optoken::store::{Store, StoreUrl};
use tempfile::TempDir;

use crate::engines::etcd::{Cluster, Setup, prefix};
use crate::engines::{self, ENVIRONMENT, Engine as _, fresh_name, moto, postgres};
use crate::needs::{DEATH_SIGNAL, ETCD, ETCDCTL, GCC, IP, MOTO, NFT, Need, POSTGRES, SETPRIV};

/// An engine, as a row of the table of tests.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    /// Whether nodes reach it over a network.
    pub(crate) is_remote: bool,
    /// Whether they reach it without TLS at an address that is not loopback.
    pub(crate) allows_http: bool,
    /// The members, of which a majority is needed.
    pub(crate) members: usize,
    /// Starts one for a test alone, which may break it.
    pub(super) start: fn() -> Box<dyn SharedStore>,
    /// A store of the engine that tests share.
    pub(super) share: fn() -> Box<dyn SharedStore>,
}

impl Engine {
    /// Its needs, and what the tests of faults need.
    pub(crate) fn needs(&self) -> Vec<Need> {
        [self.needs, &[GCC]].concat()
    }

    /// Its needs, and what a network namespace needs.
    pub(crate) fn needs_of_network(&self) -> Vec<Need> {
        [self.needs, &[IP, NFT, Need::Root]].concat()
    }
}

pub(crate) static ENGINES: [Engine; 4] = [
    Engine {
        name: "sqlite",
        needs: &[],
        is_remote: false,
        allows_http: false,
        members: 0,
        start: || Box::new(Database::new()),
        share: || Box::new(Database::new()),
    },
    Engine {
        name: "etcd",
        needs: &[ETCD, ETCDCTL],
        is_remote: true,
        allows_http: true,
        members: 3,
        start: || Box::new(Etcd::new()),
        share: || Box::new(SharedEtcd(prefix())),
    },
    Engine {
        name: "postgres",
        needs: &[POSTGRES, SETPRIV],
        is_remote: true,
        allows_http: false,
        members: 1,
        start: || Box::new(Postgres(Mutex::new(postgres::Server::start(&[])))),
        share: || Box::new(SharedPostgres::new()),
    },
    Engine {
        name: "s3",
        needs: &[MOTO, DEATH_SIGNAL],
        is_remote: true,
        allows_http: true,
        members: 1,
        start: || Box::new(Bucket { engine: (moto::KIND.start)(), prefix: fresh_name() }),
        share: || Box::new(Bucket { engine: moto::KIND.shared(), prefix: fresh_name() }),
    },
];

/// A store that several nodes share.
pub(crate) trait SharedStore: Send + Sync {
    /// The addresses of its members.
    fn addresses(&self) -> Vec<SocketAddr>;

    /// The URL of the store with this name, for a node that reaches the members at these addresses.
    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String;

    /// Opens that store in this process.
    fn open(&self, name: &str, addresses: &[SocketAddr]) -> Arc<dyn Store> {
        let url: StoreUrl = self.url(name, addresses).parse().unwrap();
        url.open().unwrap()
    }

    /// Variables of a node.
    fn variables(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Stops a member in the middle of what it does.
    fn freeze(&self, _member: usize) {
        panic!("it has no member");
    }

    /// Lets a member go on.
    fn thaw(&self, _member: usize) {
        panic!("it has no member");
    }

    /// Kills a member. Its data stays.
    fn kill(&self, _member: usize) {
        panic!("it has no member");
    }

    /// Starts a member again.
    fn restart(&self, _member: usize) {
        panic!("it has no member");
    }
}

/// A database on the machine of all nodes.
struct Database(TempDir);

impl Database {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl SharedStore for Database {
    fn addresses(&self) -> Vec<SocketAddr> {
        Vec::new()
    }

    fn url(&self, name: &str, _addresses: &[SocketAddr]) -> String {
        format!("sqlite:{}", self.0.path().join(name).display())
    }
}

/// A cluster of etcd of its own.
struct Etcd(Mutex<Cluster>);

impl Etcd {
    fn new() -> Self {
        Self(Mutex::new(Cluster::start(Setup::default())))
    }
}

fn etcd_addresses(cluster: &Cluster) -> Vec<SocketAddr> {
    (0..3).map(|member| SocketAddr::from(([127, 0, 0, 1], cluster.port(member)))).collect()
}

fn etcd_url(addresses: &[SocketAddr], prefix: &str) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    format!("etcd://{}/{prefix}?allow_http=true", addresses.join(","))
}

impl SharedStore for Etcd {
    fn addresses(&self) -> Vec<SocketAddr> {
        etcd_addresses(&self.0.lock().unwrap())
    }

    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String {
        etcd_url(addresses, name)
    }

    fn freeze(&self, member: usize) {
        self.0.lock().unwrap().freeze(member);
    }

    fn thaw(&self, member: usize) {
        self.0.lock().unwrap().thaw(member);
    }

    fn kill(&self, member: usize) {
        self.0.lock().unwrap().kill(member);
    }

    fn restart(&self, member: usize) {
        self.0.lock().unwrap().restart(member);
    }
}

/// A prefix in the cluster of etcd that all tests share.
struct SharedEtcd(String);

impl SharedStore for SharedEtcd {
    fn addresses(&self) -> Vec<SocketAddr> {
        etcd_addresses(Cluster::shared())
    }

    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String {
        etcd_url(addresses, &format!("{}/{name}", self.0))
    }
}

/// A server of PostgreSQL of its own, with a table for each store.
struct Postgres(Mutex<postgres::Server>);

fn postgres_url(name: &str, addresses: &[SocketAddr], database: &str) -> String {
    format!("postgres://postgres@{}/{database}?table={name}", addresses[0])
}

impl SharedStore for Postgres {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], self.0.lock().unwrap().port))]
    }

    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String {
        postgres_url(name, addresses, "postgres")
    }

    fn freeze(&self, _member: usize) {
        self.0.lock().unwrap().freeze();
    }

    fn thaw(&self, _member: usize) {
        self.0.lock().unwrap().thaw();
    }

    fn kill(&self, _member: usize) {
        self.0.lock().unwrap().stop();
    }

    fn restart(&self, _member: usize) {
        self.0.lock().unwrap().run();
    }
}

/// A database of the server that all tests share.
struct SharedPostgres(String);

impl SharedPostgres {
    fn new() -> Self {
        Self(postgres::Server::shared().database())
    }
}

impl SharedStore for SharedPostgres {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([127, 0, 0, 1], postgres::Server::shared().port))]
    }

    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String {
        postgres_url(name, addresses, &self.0)
    }
}

/// Names in a bucket of an engine of its own, or of the one that all tests share.
struct Bucket<E> {
    engine: E,
    prefix: String,
}

impl<E: Deref<Target: engines::Engine> + Send + Sync> SharedStore for Bucket<E> {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.engine.addresses()
    }

    fn url(&self, name: &str, addresses: &[SocketAddr]) -> String {
        let url = self.engine.url(&format!("{}_{name}", self.prefix), addresses);
        format!("{url}&allow_http=true")
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        ENVIRONMENT.map(|(name, value)| (name, value.to_owned())).to_vec()
    }

    fn freeze(&self, _member: usize) {
        self.engine.freeze();
    }

    fn thaw(&self, _member: usize) {
        self.engine.thaw();
    }
}

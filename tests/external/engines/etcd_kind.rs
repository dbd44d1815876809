//! Clusters of etcd as one of the engines of the suite.

use std::net::{Ipv4Addr, SocketAddr};

use super::etcd::{Cluster, Setup};
use super::{Engine, Kind};
use crate::needs::{ETCD, ETCDCTL};

/// The shared one has three members; one that is frozen has one.
pub(crate) static KIND: Kind = Kind {
    has_news: true,
    speaks_http: true,
    ..Kind::new("etcd", &[ETCD, ETCDCTL], || Box::new(Cluster::start(Setup::SINGLE)), || Cluster::shared())
};

impl Engine for Cluster {
    fn addresses(&self) -> Vec<SocketAddr> {
        self.ports().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).collect()
    }

    fn url(&self, store: &str, addresses: &[SocketAddr]) -> String {
        let hosts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        format!("etcd://{}/{store}", hosts.join(","))
    }

    fn freeze(&self) {
        (0..self.ports().count()).for_each(|number| Self::freeze(self, number));
    }

    fn thaw(&self) {
        (0..self.ports().count()).for_each(|number| Self::thaw(self, number));
    }
}

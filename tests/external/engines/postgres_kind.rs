//! `PostgreSQL` as one of the engines of the suite: a table for each store.

use std::net::{Ipv4Addr, SocketAddr};

use super::postgres::Server;
use super::{Engine, Kind};
use crate::needs::{POSTGRES, SETPRIV};

pub(crate) static KIND: Kind = Kind {
    has_news: true,
    ..Kind::new("postgres", &[POSTGRES, SETPRIV], || Box::new(Server::start(&[])), || Server::shared())
};

impl Engine for Server {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))]
    }

    fn url(&self, store: &str, addresses: &[SocketAddr]) -> String {
        format!("postgres://postgres@{}/postgres?table={store}", addresses[0])
    }

    fn freeze(&self) {
        Self::freeze(self);
    }

    fn thaw(&self) {
        Self::thaw(self);
    }
}

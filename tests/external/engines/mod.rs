//! Engines of other projects that hold a catalog for several nodes, on loopback.

pub(crate) mod etcd;
pub(crate) mod postgres;

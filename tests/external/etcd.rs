//! The store in a real etcd of three members.

use optoken::store::conformance;

use crate::engines::etcd::{Cluster, prefix};

pub(crate) fn conformance_holds_on_three_members() {
    conformance::run(&Cluster::shared().store(&prefix()));
}

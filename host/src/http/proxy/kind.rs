//! What kind of service an upstream is, which decides how a request to it is authorized.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::http::influxdb3::target::ServiceKind;

/// The kind of one upstream, which may become known later. Clones are one kind.
#[derive(Debug, Clone)]
pub(super) struct SharedKind(Arc<AtomicU8>);

impl SharedKind {
    pub(super) fn new(kind: ServiceKind) -> Self {
        Self(Arc::new(AtomicU8::new(code(kind))))
    }

    pub(super) fn set(&self, kind: ServiceKind) {
        self.0.store(code(kind), Ordering::Release);
    }

    pub(super) fn get(&self) -> ServiceKind {
        match self.0.load(Ordering::Acquire) {
            0 => ServiceKind::InfluxDb3,
            1 => ServiceKind::Http,
            _ => ServiceKind::Unspecified,
        }
    }
}

const fn code(kind: ServiceKind) -> u8 {
    match kind {
        ServiceKind::InfluxDb3 => 0,
        ServiceKind::Http => 1,
        ServiceKind::Unspecified => 2,
    }
}

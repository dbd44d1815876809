//! The token that this server presents to its upstream.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The token of the upstream. Clones are one token, which can be replaced.
#[derive(Clone)]
pub(crate) struct UpstreamToken(Arc<RwLock<HeaderValue>>);

impl UpstreamToken {
    /// Returns `None` for a text that no header can hold.
    pub(crate) fn new(token: &Secret) -> Option<Self> {
        Some(Self(Arc::new(RwLock::new(header(token)?))))
    }

    /// Replaces the token. Returns whether it is another one; `None` for a text that no header can
    /// hold.
    pub(crate) fn replace(&self, token: &Secret) -> Option<bool> {
        let new = header(token)?;
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = *current != new;
        *current = new;
        Some(is_other)
    }

    /// Returns the value of `Authorization`.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn header(token: &Secret) -> Option<HeaderValue> {
    // The copy in the header is wiped by the allocator of the program.
    let text = Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

impl fmt::Debug for UpstreamToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpstreamToken(..)")
    }
}

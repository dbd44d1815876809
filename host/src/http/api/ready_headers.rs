//! The headers of a response that are the same for each request with a token.
//!
//! They stay the same until the catalog changes. So they are made once for each token and state of
//! the catalog, and copied for each response.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use hyper::HeaderMap;

use crate::token::Principal;

/// An accepted token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckedToken {
    pub(crate) principal: Principal,
    /// The number of the snapshot on which it was checked.
    pub(crate) snapshot: u64,
}

/// The headers of responses to accepted tokens.
#[derive(Debug, Default)]
pub(crate) struct ReadyHeaders(RwLock<OfSnapshot>);

/// The headers for the tokens of one snapshot, by the ids of the tokens.
#[derive(Debug, Default)]
struct OfSnapshot {
    /// The number of the snapshot.
    number: u64,
    by_id: BTreeMap<u64, HeaderMap>,
}

/// How many tokens have ready headers. More of them make theirs for each request.
const MAX_READY: usize = 1024;

impl ReadyHeaders {
    /// Returns a copy of the headers of a token that was checked on a snapshot.
    pub(crate) fn get(&self, token: CheckedToken) -> Option<HeaderMap> {
        let ready = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_current = ready.number == token.snapshot;
        is_current.then(|| ready.by_id.get(&token.principal.id).cloned()).flatten()
    }

    /// Keeps the headers of a token that was checked on a snapshot. Those of an older snapshot end:
    /// their tokens may be deleted.
    pub(crate) fn put(&self, token: CheckedToken, headers: &HeaderMap) {
        let ready = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let is_full = ready.number == token.snapshot && ready.by_id.len() >= MAX_READY;
        drop(ready);
        if is_full {
            return;
        }
        let mut ready = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if token.snapshot > ready.number {
            *ready = OfSnapshot { number: token.snapshot, by_id: BTreeMap::new() };
        }
        if token.snapshot == ready.number && ready.by_id.len() < MAX_READY {
            ready.by_id.insert(token.principal.id, headers.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::token::TokenKind;

    fn token(id: u64, snapshot: u64) -> CheckedToken {
        CheckedToken { principal: Principal { id, kind: TokenKind::NamedAdmin }, snapshot }
    }

    fn headers(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(hyper::header::SERVER, HeaderValue::from_static(text))])
    }

    #[test]
    fn headers_end_with_their_snapshot() {
        let ready = ReadyHeaders::default();
        ready.put(token(0, 1), &headers("first"));
        ready.put(token(1, 1), &headers("other"));
        assert_eq!(ready.get(token(0, 1)), Some(headers("first")));
        assert_eq!(ready.get(token(2, 1)), None);
        // Checked on the snapshot before or after.
        assert_eq!(ready.get(token(0, 0)), None);
        assert_eq!(ready.get(token(0, 2)), None);
        ready.put(token(0, 2), &headers("second"));
        assert_eq!(ready.get(token(0, 2)), Some(headers("second")));
        assert_eq!(ready.get(token(1, 2)), None);
        // A request that is slower than the change.
        ready.put(token(0, 1), &headers("first"));
        assert_eq!(ready.get(token(0, 1)), None);
        assert_eq!(ready.get(token(0, 2)), Some(headers("second")));
    }

    #[test]
    fn number_of_headers_is_bounded() {
        let ready = ReadyHeaders::default();
        for id in 0..2 * MAX_READY as u64 {
            ready.put(token(id, 1), &headers("x"));
        }
        assert_eq!(ready.0.read().unwrap().by_id.len(), MAX_READY);
        assert!(ready.get(token(0, 1)).is_some());
    }
}

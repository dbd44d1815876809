//! Reads the token out of a request: the grammar of the `Authorization` header (COMPAT 3.1 and 3.2), and the query
//! parameter of the first API of InfluxDB (COMPAT 3.3).
//!
//! Decides only whether there is a token, never whether it is a good one.

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Uri};
use optoken_protocol::credentials::{Malformed, QUERY_PARAMETER_PATHS, parse};
use serde::Deserialize;

use crate::secret::Secret;

/// Takes the credential out of the headers, so that nothing further on can log it or pass it on. `None` if there is
/// none. Of several headers the first counts.
pub(crate) fn take(headers: &mut HeaderMap) -> Result<Option<Secret>, Malformed> {
    Ok(headers.remove(AUTHORIZATION).map(|value| parse(value.as_bytes())).transpose()?.map(Secret::from))
}

/// The token in the query string, where there is one: `p`, on two paths only. It may be empty. Given twice, it counts as
/// not given.
pub(crate) fn from_query(uri: &Uri) -> Option<Secret> {
    /// The user, `u`, does not matter.
    #[derive(Deserialize)]
    struct Query {
        p: Option<String>,
    }

    if !QUERY_PARAMETER_PATHS.contains(&uri.path()) {
        return None;
    }
    let query: Query = serde_urlencoded::from_str(uri.query()?).ok()?;
    query.p.map(Secret::from)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_token_can_stand_in_the_query_string_of_two_paths() {
        for (uri, token) in [
            ("/query?p=apiv3_x", Some("apiv3_x")),
            ("/write?u=me&p=apiv3_x&db=y", Some("apiv3_x")),
            ("/query?p=apiv3%5Fx+y", Some("apiv3_x y")),
            ("/query?p=", Some("")),
            ("/query?p", Some("")),
            ("/query?p=a&u=1&u=2", Some("a")),
            ("/query?p=a&p=a", None),
            ("/query?P=a", None),
            ("/query?token=a", None),
            ("/query", None),
            ("/query?", None),
            ("/query/?p=a", None),
            ("/Query?p=a", None),
            ("/%71uery?p=a", None),
            ("/api/v3/query_sql?p=a", None),
            ("/health?p=a", None),
        ] {
            let found = from_query(&uri.parse().unwrap());
            assert_eq!(found.as_ref().map(Secret::expose), token, "{uri}");
        }
    }

    #[test]
    fn the_header_is_gone_after_it_was_read() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer first"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer second"));
        assert_eq!(take(&mut headers).unwrap().unwrap().expose(), "first");
        assert!(headers.is_empty());
        assert!(take(&mut headers).unwrap().is_none());
    }

    #[test]
    fn what_is_not_visible_ascii_is_malformed() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(take(&mut headers).unwrap_err(), Malformed);
    }
}

//! Extracts the token of a request: from the `Authorization` header (docs/compatibility.md 3.1,
//! 3.2), or from the query parameter of the API of InfluxDB 1 (docs/compatibility.md 3.3).
//!
//! Does not check whether the token is accepted.

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Uri};
use optoken_protocol::credentials::{Malformed, Presented, QUERY_PARAMETER_PATHS, SchemeCase, presented};
use serde::Deserialize;

use crate::secret::Secret;

/// The credential of a request.
pub(crate) enum Credential<'a> {
    /// In the header, where it stands.
    Header(Presented<'a>),
    /// In the query string, decoded.
    Query(Secret),
}

impl Credential<'_> {
    /// The text itself, for the one place that checks it.
    pub(crate) fn expose(&self) -> &str {
        match self {
            Self::Header(token) => token,
            Self::Query(secret) => secret.expose(),
        }
    }

    /// Copies it, for a handler that keeps it.
    pub(crate) fn into_owned(self) -> OwnedCredential {
        match self {
            Self::Header(Presented::Plain(token)) => {
                OwnedCredential { secret: token.to_owned().into(), is_in_header: true }
            }
            Self::Header(Presented::Decoded(token)) => {
                OwnedCredential { secret: token.into(), is_in_header: true }
            }
            Self::Query(secret) => OwnedCredential { secret, is_in_header: false },
        }
    }
}

/// A copied credential, whose request still has it.
pub(crate) struct OwnedCredential {
    secret: Secret,
    is_in_header: bool,
}

impl OwnedCredential {
    /// Removes the credential from the headers of its request, so that no later code can log it.
    pub(crate) fn remove_from(self, headers: &mut HeaderMap) -> Secret {
        if self.is_in_header {
            headers.remove(AUTHORIZATION);
        }
        self.secret
    }
}

/// Returns the credential of a request, `None` if there is none. The query string takes precedence;
/// the header may then be malformed (docs/compatibility.md 3.3). Of several headers, the first is
/// used.
pub(crate) fn find<'a>(
    headers: &'a HeaderMap,
    uri: &Uri,
    case: SchemeCase,
) -> Result<Option<Credential<'a>>, Malformed> {
    if let Some(secret) = from_query(uri) {
        return Ok(Some(Credential::Query(secret)));
    }
    let header = headers.get(AUTHORIZATION).map(|value| presented(value.as_bytes(), case));
    Ok(header.transpose()?.map(Credential::Header))
}

/// Returns the token in the query string, which two paths support. It may be empty. A repeated
/// parameter counts as absent.
fn from_query(uri: &Uri) -> Option<Secret> {
    /// The parameter `u`, the user, is ignored.
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

    /// Finds the credential of a request with these headers, and removes it.
    fn take(headers: &mut HeaderMap, uri: &str) -> Result<Option<Secret>, Malformed> {
        let found = find(headers, &uri.parse().unwrap(), SchemeCase::Exact)?;
        let found = found.map(Credential::into_owned);
        Ok(found.map(|credential| credential.remove_from(headers)))
    }

    #[test]
    fn two_paths_accept_token_in_query() {
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
    fn header_is_removed_after_reading() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer first"));
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer second"));
        assert_eq!(take(&mut headers, "/health").unwrap().unwrap().expose(), "first");
        assert!(headers.is_empty());
        assert!(take(&mut headers, "/health").unwrap().is_none());
    }

    #[test]
    fn found_credential_is_the_one_that_is_taken() {
        for (uri, values) in [
            ("/health", &[][..]),
            ("/health", &["Bearer first", "Bearer second"]),
            ("/health", &["Basic dTphcGl2M194"]),
            ("/health", &["nonsense", "Bearer second"]),
            ("/health?p=query", &["Token x"]),
            ("/query?p=query", &["Token x"]),
            ("/query?p=query", &["nonsense"]),
            ("/write?p=", &["Token x"]),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            let found = uri.parse().map(|uri| find(&headers, &uri, SchemeCase::Exact)).unwrap();
            let found = found.map(|found| found.map(|credential| credential.expose().to_owned()));
            let taken = take(&mut headers, uri);
            let taken = taken.map(|taken| taken.map(|secret| secret.expose().to_owned()));
            assert_eq!(found, taken, "{uri} {values:?}");
        }
    }

    #[test]
    fn invisible_characters_are_malformed() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").unwrap());
        assert_eq!(take(&mut headers, "/health").unwrap_err(), Malformed);
    }
}

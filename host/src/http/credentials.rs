//! Reads the token out of a request: the grammar of the `Authorization` header (COMPAT 3.1 and 3.2), and the query
//! parameter of the first API of InfluxDB (COMPAT 3.3).
//!
//! Decides only whether there is a token, never whether it is a good one.

use base64ct::{Base64, Encoding as _};
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Uri};
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The header has not the one form that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> <token>', \
     supported auth-schemes are Bearer, Token and Basic"
)]
pub(crate) struct Malformed;

/// Takes the credential out of the headers, so that nothing further on can log it or pass it on. `None` if there is
/// none. Of several headers the first counts.
pub(crate) fn take(headers: &mut HeaderMap) -> Result<Option<Secret>, Malformed> {
    headers.remove(AUTHORIZATION).map(|value| parse(value.to_str().map_err(|_| Malformed)?)).transpose()
}

/// The token in the query string, where there is one: `p`, on two paths only. It may be empty. Given twice, it counts as
/// not given.
pub(crate) fn in_query(uri: &Uri) -> Option<Secret> {
    /// The user, `u`, does not matter.
    #[derive(Deserialize)]
    struct Query {
        p: Option<String>,
    }

    if !matches!(uri.path(), "/query" | "/write") {
        return None;
    }
    let query: Query = serde_urlencoded::from_str(uri.query()?).ok()?;
    query.p.map(Secret::from)
}

/// `<scheme> <token>`: one space, scheme in exactly this case. Basic is base64 of `user:token`, padded; the user is
/// ignored and holds no colon.
fn parse(header: &str) -> Result<Secret, Malformed> {
    let (scheme, token) = header.split_once(' ').ok_or(Malformed)?;
    if token.is_empty() || token.contains(' ') {
        return Err(Malformed);
    }
    match scheme {
        "Bearer" | "Token" => Ok(token.to_owned().into()),
        "Basic" => {
            let decoded = Zeroizing::new(Base64::decode_vec(token).map_err(|_| Malformed)?);
            let pair = std::str::from_utf8(&decoded).map_err(|_| Malformed)?;
            match pair.split_once(':') {
                Some((_, token)) if !token.contains(':') => Ok(token.to_owned().into()),
                _ => Err(Malformed),
            }
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn taken(header: &str) -> Result<String, Malformed> {
        parse(header).map(|secret| secret.expose().to_owned())
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", Base64::encode_string(pair.as_bytes()))
    }

    #[test]
    fn three_schemes_carry_a_token() {
        for header in ["Bearer apiv3_x", "Token apiv3_x", &basic("user:apiv3_x"), &basic(":apiv3_x")] {
            assert_eq!(taken(header).as_deref(), Ok("apiv3_x"), "{header}");
        }
    }

    #[test]
    fn nothing_else_does() {
        for header in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Bearer  x",
            "Bearer x y",
            "Bearer x ",
            " Bearer x",
            "bearer x",
            "BEARER x",
            "token x",
            "Digest x",
            "x",
            "Basic",
            "Basic !",
            "Basic dTp4Og",
            &basic("no colon"),
            &basic("a:b:c"),
            "Basic dTp4=",
            "Basic /////w==",
            "Bearer\tx",
        ] {
            assert_eq!(taken(header), Err(Malformed), "{header:?}");
        }
    }

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
            let found = in_query(&uri.parse().unwrap());
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

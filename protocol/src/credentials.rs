//! The grammar of the `Authorization` header (`docs/compatibility.md` 3.1 and 3.2).
//!
//! Extracts a token and does not check whether it is accepted.

use alloc::string::String;
use core::ops::Deref;

use base64ct::{Base64, Encoding as _};
use thiserror::Error;
use zeroize::Zeroizing;

/// The paths whose query string may carry the token, and [the parameter](QUERY_PARAMETER) that does
/// (`docs/compatibility.md` 3.3).
pub const QUERY_PARAMETER_PATHS: [&str; 2] = ["/query", "/write"];

/// The query parameter that carries the token. It takes precedence over the header.
pub const QUERY_PARAMETER: &str = "p";

/// How the text of [`Malformed`] begins. Clients recognise it by that.
pub const MALFORMED_CREDENTIAL: &str = "Authorization header was malformed";

/// The header does not follow the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{MALFORMED_CREDENTIAL}, the request was not in the form of 'Authorization: <auth-scheme> <token>', supported \
     auth-schemes are Bearer, Token and Basic"
)]
pub struct Malformed;

/// Whether upper and lower case of a scheme differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemeCase {
    /// They differ, as in InfluxDB 3 Core.
    Exact,
    /// They are equal, as RFC 9110, section 11.1, has it: for paths that no client of InfluxDB
    /// asks.
    Any,
}

/// The token in an `Authorization` header.
#[derive(Debug)]
pub enum Presented<'a> {
    /// As it stands in the header.
    Plain(&'a str),
    /// The password of the scheme Basic, decoded. It is wiped after use.
    Decoded(Zeroizing<String>),
}

impl Deref for Presented<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Plain(token) => token,
            Self::Decoded(token) => token,
        }
    }
}

/// Returns the token in the value of an `Authorization` header: a scheme, one space, the token. The
/// token of the scheme Basic is the password of `user:password` in padded base64; its user is
/// ignored. Copies no other token.
pub fn presented(header: &[u8], case: SchemeCase) -> Result<Presented<'_>, Malformed> {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    let header = core::str::from_utf8(header).map_err(|_| Malformed)?;
    let (scheme, token) = header.split_once(' ').ok_or(Malformed)?;
    if !header.as_bytes().iter().all(is_text) || token.is_empty() || token.contains(' ') {
        return Err(Malformed);
    }
    let is = |name: &str| match case {
        SchemeCase::Exact => scheme == name,
        SchemeCase::Any => scheme.eq_ignore_ascii_case(name),
    };
    match () {
        () if is("Bearer") || is("Token") => Ok(Presented::Plain(token)),
        () if is("Basic") => {
            let decoded = Zeroizing::new(Base64::decode_vec(token).map_err(|_| Malformed)?);
            let pair = core::str::from_utf8(&decoded).map_err(|_| Malformed)?;
            match pair.split_once(':') {
                Some((_, token)) if !token.contains(':') => {
                    Ok(Presented::Decoded(Zeroizing::new(token.into())))
                }
                _ => Err(Malformed),
            }
        }
        () => Err(Malformed),
    }
}

/// As [`presented`], with a copy of the token.
pub fn parse(header: &[u8], case: SchemeCase) -> Result<Zeroizing<String>, Malformed> {
    Ok(match presented(header, case)? {
        Presented::Plain(token) => Zeroizing::new(token.into()),
        Presented::Decoded(token) => token,
    })
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned as _;
    use alloc::format;

    use super::*;

    fn parsed(header: &str) -> Result<String, Malformed> {
        parse(header.as_bytes(), SchemeCase::Exact).map(|token| token.as_str().to_owned())
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", Base64::encode_string(pair.as_bytes()))
    }

    #[test]
    fn three_schemes_carry_a_token() {
        for header in ["Bearer apiv3_x", "Token apiv3_x", &basic("user:apiv3_x"), &basic(":apiv3_x")] {
            assert_eq!(parsed(header).as_deref(), Ok("apiv3_x"), "{header}");
        }
    }

    #[test]
    fn other_authorization_headers_are_malformed() {
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
            "Bearer é",
            "Bearer x\u{7f}",
        ] {
            assert_eq!(parsed(header), Err(Malformed), "{header:?}");
        }
        assert_eq!(parse(b"Bearer \xff", SchemeCase::Any), Err(Malformed));
    }

    #[test]
    fn case_of_scheme_counts_for_clients_of_influxdb_alone() {
        for header in ["bearer x", "BEARER x", "tOKEN x", &basic("u:x").replace("Basic", "bAsIc")] {
            assert_eq!(parsed(header), Err(Malformed), "{header}");
            let token = parse(header.as_bytes(), SchemeCase::Any);
            assert_eq!(token.as_ref().map(|token| token.as_str()), Ok("x"), "{header}");
        }
        for header in ["bearer  x", "bearer", "digest x", "bearer x y"] {
            assert_eq!(parse(header.as_bytes(), SchemeCase::Any), Err(Malformed), "{header}");
        }
    }
}

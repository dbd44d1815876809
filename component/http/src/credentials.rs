//! The grammar of the `Authorization` header (COMPAT 3.1 and 3.2). The same as in `host/src/http/credentials.rs`, and held to
//! the same examples; the two sides share no code.

use alloc::string::String;

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

/// The header has not the one form that is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The token in a header: `<scheme> <token>`, one space, scheme in exactly this case. Basic is base64 of `user:token`,
/// padded; the user is ignored and holds no colon.
pub(crate) fn parse(header: &[u8]) -> Result<Zeroizing<String>, Malformed> {
    let is_text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    let header = core::str::from_utf8(header).map_err(|_| Malformed)?;
    let (scheme, token) = header.split_once(' ').ok_or(Malformed)?;
    if !header.as_bytes().iter().all(is_text) || token.is_empty() || token.contains(' ') {
        return Err(Malformed);
    }
    match scheme {
        "Bearer" | "Token" => Ok(Zeroizing::new(token.into())),
        "Basic" => {
            let decoded = Zeroizing::new(Base64::decode_vec(token).map_err(|_| Malformed)?);
            let pair = core::str::from_utf8(&decoded).map_err(|_| Malformed)?;
            match pair.split_once(':') {
                Some((_, token)) if !token.contains(':') => Ok(Zeroizing::new(token.into())),
                _ => Err(Malformed),
            }
        }
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(header: &str) -> Result<String, Malformed> {
        parse(header.as_bytes()).map(|token| token.as_str().to_owned())
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
            "Bearer é",
            "Bearer x\u{7f}",
        ] {
            assert_eq!(taken(header), Err(Malformed), "{header:?}");
        }
        assert_eq!(parse(b"Bearer \xff"), Err(Malformed));
    }
}

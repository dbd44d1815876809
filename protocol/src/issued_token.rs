//! The body of the answer that shows a new token (`docs/compatibility.md` 2.3).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::mem;

use zeroize::Zeroizing;

use crate::json::{MAX_ESCAPED_BYTES, Quoted};
use crate::timestamp::rfc3339;

/// A new token.
#[derive(Clone, Copy)]
pub struct IssuedToken<'a> {
    /// Its id, which counts tokens from 0.
    pub id: u64,
    /// Its name; `_admin` is the operator token's.
    pub name: &'a str,
    /// Its text. This answer is the only one that shows it.
    pub token: &'a str,
    /// The SHA-512 of its text, in hexadecimal.
    pub hash: &'a str,
    /// When it was created, in milliseconds since the epoch.
    pub created_at: u64,
    /// The first millisecond at which it is refused; `None` if it does not expire.
    pub expiry: Option<u64>,
}

/// An upper bound of the bytes of the JSON beside name, token and hash: keys, a number and two
/// timestamps.
const MAX_OVERHEAD_BYTES: usize = 160;

impl IssuedToken<'_> {
    /// Returns the JSON object, with the fields in the order that clients have always received. It
    /// is wiped when dropped.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let Self { id, name, token, hash, created_at, expiry } = *self;
        let texts = name.len() + token.len() + hash.len();
        let mut json = Zeroizing::new(String::with_capacity(MAX_OVERHEAD_BYTES + texts * MAX_ESCAPED_BYTES));
        let (name, token, hash) = (Quoted(name), Quoted(token), Quoted(hash));
        let created_at = rfc3339(created_at);
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            r#"{{"id":{id},"name":{name},"token":{token},"hash":{hash},"created_at":"{created_at}","expiry":"#
        );
        let _ = match expiry {
            Some(expiry) => write!(json, r#""{}"}}"#, rfc3339(expiry)),
            None => json.write_str("null}"),
        };
        Zeroizing::new(mem::take(&mut *json).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: IssuedToken<'_> = IssuedToken {
        id: 0,
        name: "_admin",
        token: "apiv3_x",
        hash: "0f",
        created_at: 1_795_456_443_229,
        expiry: None,
    };

    fn text(token: IssuedToken<'_>) -> String {
        String::from_utf8(token.to_json().to_vec()).unwrap()
    }

    #[test]
    fn an_issued_token_is_one_json_object() {
        assert_eq!(
            text(TOKEN),
            r#"{"id":0,"name":"_admin","token":"apiv3_x","hash":"0f","created_at":"2026-11-23T17:54:03.229Z","expiry":null}"#
        );
        assert_eq!(
            text(IssuedToken { id: 7, name: "a \"b\" \\ é", expiry: Some(0), ..TOKEN }),
            r#"{"id":7,"name":"a \"b\" \\ é","token":"apiv3_x","hash":"0f","created_at":"2026-11-23T17:54:03.229Z","expiry":"1970-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn the_buffer_of_the_json_never_grows() {
        let (escaped, plain) = ("\u{1f}".repeat(128), "x".repeat(128));
        let longest = IssuedToken { id: u64::MAX, created_at: u64::MAX, expiry: Some(u64::MAX), ..TOKEN };
        for texts in ["", &escaped, &plain] {
            let token = IssuedToken { name: texts, token: texts, hash: texts, ..longest };
            let bound = MAX_OVERHEAD_BYTES + 3 * texts.len() * MAX_ESCAPED_BYTES;
            let json = token.to_json();
            assert!(json.len() <= bound, "{} > {bound}", json.len());
        }
    }
}

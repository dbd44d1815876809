//! Percent-encoding of names in headers, which carry no other text than ASCII.

use alloc::string::{String, ToString as _};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Every byte but the unreserved characters of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes a text as a component of a URL, so that a client in any language can decode it.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_unreserved_characters_are_encoded() {
        for (name, encoded) in [
            ("_admin", "_admin"),
            ("a-Z.0~", "a-Z.0~"),
            ("two words", "two%20words"),
            ("50%", "50%25"),
            ("a+b,c=d;\"e\"", "a%2Bb%2Cc%3Dd%3B%22e%22"),
            ("Grüße \u{1f511}", "Gr%C3%BC%C3%9Fe%20%F0%9F%94%91"),
        ] {
            assert_eq!(encode(name), encoded);
        }
    }
}

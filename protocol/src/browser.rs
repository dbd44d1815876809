//! Detects requests that a page in a browser has sent.
//!
//! A hostile page can make its browser send requests to a local server, and can read the answers
//! after DNS rebinding. It cannot keep the browser from adding these headers.

/// Returns whether a header shows that a page has sent the request. `name` is in lower case. A
/// request that the user has typed or opened from a bookmark carries `Sec-Fetch-Site: none`, which
/// shows no page.
pub fn is_sent_by_page(name: &str, value: &[u8]) -> bool {
    name == "origin" || name.starts_with("sec-fetch-") && !(name == "sec-fetch-site" && value == b"none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_and_fetch_metadata_reveal_a_page() {
        for (name, value, page) in [
            ("origin", "http://localhost", true),
            ("origin", "null", true),
            ("sec-fetch-site", "cross-site", true),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "none", false),
            ("sec-fetch-mode", "none", true),
            ("sec-fetch-mode", "cors", true),
            ("sec-fetched", "x", false),
            ("host", "localhost", false),
            ("x-origin", "null", false),
        ] {
            assert_eq!(is_sent_by_page(name, value.as_bytes()), page, "{name}: {value}");
        }
    }
}

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

/// Returns whether a client may be offered the scheme Basic, by the names in lower case and the
/// values of the headers of its request. Some programs wait for that challenge (`wget`, Python's
/// `urllib`).
///
/// A browser asks its user for a password then, keeps it, and adds it to every later request,
/// including those that other sites cause. It shows itself by `Origin` or `Sec-Fetch-…`, but sends
/// neither with a navigation to an address that is not encrypted. A proxy may send neither, as it
/// asks in its own name. So only a client that names itself is offered the scheme, and none of
/// these names.
pub fn may_offer_basic<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> bool {
    let mut is_named = false;
    for (name, value) in headers {
        match name {
            "origin" | "upgrade-insecure-requests" => return false,
            "user-agent" if NO_OFFER.iter().any(|begin| value.starts_with(begin)) => return false,
            "user-agent" => is_named = true,
            _ if name.starts_with("sec-") => return false,
            _ => {}
        }
    }
    is_named
}

/// How `User-Agent` begins in requests of browsers, and in those that Traefik and `HAProxy` send
/// in their own name.
const NO_OFFER: [&[u8]; 4] = [b"Mozilla/", b"Opera/", b"Go-http-client/", b"HAProxy"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_offered_to_named_programs_alone() {
        let wget = ("user-agent", "Wget/1.21.3");
        for (headers, offered) in [
            (&[wget][..], true),
            (&[("accept", "*/*"), ("user-agent", "curl/7.88.1"), ("x-forwarded-for", "::1")], true),
            (&[("user-agent", "Python-urllib/3.11")], true),
            (&[], false),
            (&[("accept", "*/*")], false),
            (&[("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0)")], false),
            (&[("user-agent", "Opera/9.80")], false),
            (&[("user-agent", "Go-http-client/1.1")], false),
            (&[("user-agent", "HAProxy")], false),
            (&[wget, ("user-agent", "Mozilla/5.0")], false),
            (&[wget, ("origin", "null")], false),
            (&[("origin", ""), wget], false),
            (&[wget, ("sec-fetch-site", "none")], false),
            (&[wget, ("sec-fetch-mode", "navigate")], false),
            (&[wget, ("sec-ch-ua", "x")], false),
            (&[wget, ("upgrade-insecure-requests", "1")], false),
        ] {
            let offers = may_offer_basic(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
            assert_eq!(offers, offered, "{headers:?}");
        }
    }

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

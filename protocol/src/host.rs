//! The normal form of the host of a request: its name without the port.

use alloc::borrow::Cow;

use thiserror::Error;

/// Why a host has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the host is no name or address with an optional port")]
pub struct UncertainHost;

/// Returns the normal form of a host, as `Host` or `:authority` has it.
///
/// It is in lower case, without the port and without a dot at the end. An IPv6 address keeps its
/// brackets and its digits.
pub fn normalize_host(host: &str) -> Result<Cow<'_, str>, UncertainHost> {
    let name = without_port(host)?;
    // An address has no dot at its end.
    let name = name.strip_suffix('.').filter(|name| !name.ends_with(']')).unwrap_or(name);
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    if is_normal_host(&name) { Ok(name) } else { Err(UncertainHost) }
}

/// Returns whether a host is its own normal form. It allocates nothing.
pub fn is_normal_host(host: &str) -> bool {
    if let [b'[', address @ .., b']'] = host.as_bytes() {
        return address.contains(&b':')
            && address.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'.'));
    }
    let mut rest = host.as_bytes();
    loop {
        let label = rest.iter().position(|byte| !is_of_label(*byte)).unwrap_or(rest.len());
        match rest.get(label..) {
            _ if label == 0 => return false,
            Some([b'.', behind @ ..]) => rest = behind,
            end => return end == Some(&[]),
        }
    }
}

const fn is_of_label(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-' | b'_')
}

fn without_port(host: &str) -> Result<&str, UncertainHost> {
    // The colons of an IPv6 address stand in brackets.
    let name_end = host.find(']').unwrap_or(0);
    let Some(at) = host.get(name_end..).and_then(|rest| rest.find(':')) else { return Ok(host) };
    let (name, port) = host.split_at_checked(name_end + at).ok_or(UncertainHost)?;
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if port.strip_prefix(':').is_some_and(is_port) { Ok(name) } else { Err(UncertainHost) }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use fastrand::Rng;

    use super::*;

    #[test]
    fn certain_hosts_get_their_normal_form() {
        for (host, normal) in [
            ("a", "a"),
            ("db.example", "db.example"),
            ("DB.Example", "db.example"),
            ("db.example.", "db.example"),
            ("db.example:8181", "db.example"),
            ("DB.example.:8181", "db.example"),
            ("db.example:0", "db.example"),
            ("db.example:65535", "db.example"),
            ("db.example:00080", "db.example"),
            ("my_service-1", "my_service-1"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1:8181", "127.0.0.1"),
            ("127.1", "127.1"),
            ("0x7f.1", "0x7f.1"),
            ("[::1]", "[::1]"),
            ("[::1]:8181", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("[::FFFF:127.0.0.1]:80", "[::ffff:127.0.0.1]"),
        ] {
            assert_eq!(normalize_host(host).as_deref(), Ok(normal), "{host}");
            assert!(is_normal_host(normal), "{host}");
            assert_eq!(is_normal_host(host), host == normal, "{host}");
        }
    }

    #[test]
    fn uncertain_hosts_are_refused() {
        for host in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "a.:80.",
            ":80",
            ".:80",
            "a:",
            "a:b",
            "a:+80",
            "a:-1",
            "a:65536",
            "a:80:80",
            "a:80a",
            "a: 80",
            "a:80 ",
            " a",
            "a b",
            "a\t",
            "a\0",
            "a\u{7f}",
            "user@a",
            "user:secret@a",
            "a@b:80",
            "%61",
            "a%2eb",
            "a%00",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "a,b",
            "a;b",
            "a*",
            "*",
            "*.a",
            "a!",
            "a$b",
            "(a)",
            "a~b",
            "a+b",
            "a=b",
            "b\u{fc}cher.example",
            "a\u{3002}b",
            "\u{ff41}",
            "\u{212a}",
            "::1",
            "::1:80",
            "2001:db8::a",
            "[]",
            "[]:80",
            "[a]",
            "[::1",
            "::1]",
            "]",
            "[::1]a",
            "[::1].",
            "[::1]:",
            "[::1]:a",
            "[::1]:80:80",
            "[::1%25eth0]",
            "[fe80::1%eth0]",
            "[v1.a:b]",
            "[[::1]]",
            "a[::1]",
            "[::1]]:80",
            "http://a",
        ] {
            assert_eq!(normalize_host(host), Err(UncertainHost), "{host:?}");
            assert!(!is_normal_host(host), "{host:?}");
        }
    }

    const PARTS: [&str; 18] = [
        "a", "B", "example", "Example", ".", ".", "-", "_", "1", ":", ":80", "[", "]", "::1", "@", "%41",
        " ", "\u{e9}",
    ];

    #[test]
    fn normal_form_of_random_hosts_is_normal() {
        let mut changed = 0;
        for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
            let mut random = Rng::with_seed(seed);
            for _ in 0..4000 {
                let parts = (0..random.usize(..7)).map(|_| PARTS[random.usize(..PARTS.len())]);
                let host = parts.collect::<String>();
                let normal = normalize_host(&host);
                assert_eq!(is_normal_host(&host), normal.as_deref() == Ok(&host), "{host:?}");
                let Ok(normal) = normal else { continue };
                changed += usize::from(normal != host);
                assert!(is_normal_host(&normal), "{host:?}");
                assert_eq!(normalize_host(&normal).as_deref(), Ok(&*normal), "{host:?}");
                for same in [format!("{normal}:80"), normal.to_ascii_uppercase()] {
                    assert_eq!(normalize_host(&same).as_deref(), Ok(&*normal), "{host:?}");
                }
                assert!(!normal.contains(|character: char| "@%/\\ ".contains(character)), "{host:?}");
            }
        }
        assert!(changed > 1000, "{changed}");
    }
}

//! The normal form of the path of a request, without its query string.
//!
//! Services read one path in several ways: a service decodes `%2e` before it removes dot segments,
//! another one behind it does not. In normal form a path has one reading, so what is authorized is
//! what the service sees. A path that could have two readings has no normal form.

use alloc::borrow::Cow;
use alloc::string::String;

use thiserror::Error;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UncertainPath {
    /// It is no absolute path.
    #[error("the path does not begin with a slash")]
    Relative,
    /// A character that servers read in different ways, or that no path has.
    #[error("the path has a character that no path may have: encode it")]
    Character,
    /// `%` without two hexadecimal digits, or bytes that are no UTF-8.
    #[error("the path has an invalid percent-encoding")]
    Encoding,
    /// An encoded `/`, `\`, `;`, `%`, or control character, which some servers decode too early.
    #[error("the path has an encoded slash, backslash, semicolon, percent sign or control character")]
    EncodedDelimiter,
    /// Some servers count an empty segment as the parent of `..`, others ignore it.
    #[error("the path has a doubled slash and a segment \"..\"")]
    EmptyParent,
}

/// Returns the normal form of a path.
///
/// - Unreserved characters (RFC 3986, section 2.3) are decoded. Other encodings have upper-case
///   digits.
/// - Doubled slashes are one. Dot segments are removed. A slash at the end stays.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, UncertainPath> {
    if is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(UncertainPath::Relative);
    }
    let decoded = decode(path.as_bytes())?;
    if decoded.contains("//") && decoded.split('/').any(|segment| segment == "..") {
        return Err(UncertainPath::EmptyParent);
    }
    let mut normal = String::with_capacity(decoded.len());
    let mut is_folder = true;
    for segment in decoded.split('/').skip(1) {
        is_folder = matches!(segment, "" | "." | "..");
        if segment == ".." {
            normal.truncate(normal.rfind('/').unwrap_or(0));
        } else if !is_folder {
            normal.extend(["/", segment]);
        }
    }
    if is_folder {
        normal.push('/');
    }
    Ok(Cow::Owned(normal))
}

/// Returns whether a path is its own normal form. It allocates nothing.
pub fn is_normal(path: &str) -> bool {
    let Some(mut segment) = path.as_bytes().strip_prefix(b"/") else { return false };
    let mut rest = segment;
    loop {
        let plain = rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len());
        rest = rest.get(plain..).unwrap_or_default();
        match rest {
            [] => return !matches!(segment, b"." | b".."),
            [b'/', behind @ ..] => {
                let bytes = segment.len() - rest.len();
                if matches!(segment.get(..bytes), Some(b"" | b"." | b"..")) {
                    return false;
                }
                (segment, rest) = (behind, behind);
            }
            _ => match read(rest) {
                Ok((Character::Encoded(text), behind)) if !text.iter().any(u8::is_ascii_lowercase) => {
                    rest = behind;
                }
                _ => return false,
            },
        }
    }
}

/// A character of a path, as its normal form has it.
enum Character<'a> {
    /// A character without encoding.
    Plain(u8),
    /// The encoding of a character, with digits of any case.
    Encoded(&'a [u8]),
}

/// Decodes what normal form has decoded.
fn decode(path: &[u8]) -> Result<String, UncertainPath> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while !rest.is_empty() {
        let character;
        (character, rest) = read(rest)?;
        match character {
            Character::Plain(byte) => decoded.push(char::from(byte)),
            Character::Encoded(text) => {
                decoded.extend(text.iter().map(|digit| char::from(digit.to_ascii_uppercase())));
            }
        }
    }
    Ok(decoded)
}

/// Reads the first character. Returns what follows it, too.
fn read(rest: &[u8]) -> Result<(Character<'_>, &[u8]), UncertainPath> {
    let (byte, behind) = rest.split_first().ok_or(UncertainPath::Encoding)?;
    match byte {
        b'%' => {
            let (byte, behind) = encoded(rest)?;
            match byte {
                ..b' ' | b'/' | b'\\' | b'%' | b';' | 0x7f => Err(UncertainPath::EncodedDelimiter),
                _ if is_unreserved(byte) => Ok((Character::Plain(byte), behind)),
                _ => read_encoded(rest, byte),
            }
        }
        b'/' => Ok((Character::Plain(*byte), behind)),
        _ if is_plain(*byte) => Ok((Character::Plain(*byte), behind)),
        _ => Err(UncertainPath::Character),
    }
}

/// Reads an encoded character of one byte or several.
fn read_encoded(rest: &[u8], lead: u8) -> Result<(Character<'_>, &[u8]), UncertainPath> {
    let width = match lead {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let mut character = [0; 4];
    let mut behind = rest;
    let character = character.get_mut(..width).ok_or(UncertainPath::Encoding)?;
    for byte in &mut *character {
        (*byte, behind) = encoded(behind)?;
    }
    if core::str::from_utf8(character).is_err() {
        return Err(UncertainPath::Encoding);
    }
    let (text, behind) = rest.split_at_checked(3 * width).ok_or(UncertainPath::Encoding)?;
    Ok((Character::Encoded(text), behind))
}

/// Reads one encoded byte. Returns what follows it, too.
fn encoded(rest: &[u8]) -> Result<(u8, &[u8]), UncertainPath> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let [b'%', high, low, behind @ ..] = rest else { return Err(UncertainPath::Encoding) };
    let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(UncertainPath::Encoding) };
    Ok((high << 4 | low, behind))
}

/// Whether a segment has a byte as it stands. A look-up takes less time than comparisons.
fn is_plain(byte: u8) -> bool {
    const PLAIN: [bool; 128] = {
        let mut plain = [false; 128];
        let mut rest: &mut [bool] = &mut plain;
        let mut byte = 0_u8;
        while let Some((first, behind)) = rest.split_first_mut() {
            *first = matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@');
            rest = behind;
            byte += 1;
        }
        plain
    };
    PLAIN.get(usize::from(byte)).is_some_and(|plain| *plain)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec::Vec;
    use core::fmt::Write as _;

    use fastrand::Rng;

    use super::*;

    #[test]
    fn normal_paths_stay_as_they_are() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/d-e_f~g",
            "/api/v3/query_sql",
            "/a/...",
            "/a/.b/..c",
            "/a:b@c!$&'()*+,=",
            "/%20",
            "/a%3Fb%23c",
            "/%C3%A9",
            "/%F0%9F%94%91",
            "/%E2%82%AC",
            "/a%22%3C%3E%5B%5D%5E%60%7B%7C%7D",
            "/%2B%26",
        ] {
            assert!(is_normal(path), "{path}");
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn certain_paths_get_their_normal_form() {
        for (path, normal) in [
            ("//", "/"),
            ("///", "/"),
            ("//a", "/a"),
            ("/a//b", "/a/b"),
            ("/a///b//", "/a/b/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/..", "/"),
            ("/../", "/"),
            ("/../../a", "/a"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../..", "/"),
            ("/a/b/../../../c", "/c"),
            ("/a/../b/../c", "/c"),
            ("/.//a", "/a"),
            ("/a/.//b", "/a/b"),
            ("/%2e", "/"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E./b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/%2e/b", "/a/b"),
            ("/%2e%2e%2e", "/..."),
            ("/%61pi/%76%33", "/api/v3"),
            ("/%41%5A%5a%30%39", "/AZZ09"),
            ("/write%5Flp", "/write_lp"),
            ("/%2d%2E%5f%7e", "/-._~"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%C3%a9", "/%C3%A9"),
            ("/%f0%9f%94%91/..", "/"),
            ("/a%3fb", "/a%3Fb"),
            ("/a%2bb", "/a%2Bb"),
            ("/%3d/%2E%2e/%3d", "/%3D"),
        ] {
            assert_eq!(normalize(path).as_deref(), Ok(normal), "{path}");
            assert!(!is_normal(path), "{path}");
            assert!(is_normal(normal), "{path}");
        }
    }

    #[test]
    fn uncertain_paths_are_refused() {
        use UncertainPath::{Character, EmptyParent, EncodedDelimiter, Encoding, Relative};
        for (path, reason) in [
            ("", Relative),
            ("*", Relative),
            ("a", Relative),
            ("http://a/b", Relative),
            ("\\a", Relative),
            ("%2Fa", Relative),
            (" /a", Relative),
            ("/a\\b", Character),
            ("/..\\a", Character),
            ("/a;b", Character),
            ("/a/..;/b", Character),
            ("/;", Character),
            ("/a b", Character),
            ("/a\tb", Character),
            ("/a\r\n", Character),
            ("/a\0", Character),
            ("/a\u{7f}", Character),
            ("/a?b", Character),
            ("/a#b", Character),
            ("/\"", Character),
            ("/<a>", Character),
            ("/[a]", Character),
            ("/{a}", Character),
            ("/a|b", Character),
            ("/a^b", Character),
            ("/a`b", Character),
            ("/\u{e9}", Character),
            ("/\u{ff0f}a", Character),
            ("/\u{2025}/a", Character),
            ("/%", Encoding),
            ("/%4", Encoding),
            ("/%zz", Encoding),
            ("/%4g", Encoding),
            ("/%u002f", Encoding),
            ("/% 41", Encoding),
            ("/%+1", Encoding),
            ("/%-1", Encoding),
            ("/%80", Encoding),
            ("/%C3", Encoding),
            ("/%C3a", Encoding),
            ("/%C3%41", Encoding),
            ("/%C3/%A9", Encoding),
            ("/%c0%ae%c0%ae/a", Encoding),
            ("/%C0%AF", Encoding),
            ("/%E0%80%AF", Encoding),
            ("/%F0%80%80%AF", Encoding),
            ("/%ED%A0%80", Encoding),
            ("/%F4%90%80%80", Encoding),
            ("/%FF", Encoding),
            ("/%E2%82", Encoding),
            ("/a%2fb", EncodedDelimiter),
            ("/a%2Fb", EncodedDelimiter),
            ("/%2f%2e%2e", EncodedDelimiter),
            ("/a%5cb", EncodedDelimiter),
            ("/a%5Cb", EncodedDelimiter),
            ("/%252e%252e", EncodedDelimiter),
            ("/%25", EncodedDelimiter),
            ("/a%3bb", EncodedDelimiter),
            ("/a%3Bb", EncodedDelimiter),
            ("/a%00", EncodedDelimiter),
            ("/a%0d%0aX:%20b", EncodedDelimiter),
            ("/%1f", EncodedDelimiter),
            ("/%7f", EncodedDelimiter),
            ("/%7F", EncodedDelimiter),
            ("/a//../b", EmptyParent),
            ("//..", EmptyParent),
            ("/a//b/../../c", EmptyParent),
            ("/../a//b", EmptyParent),
            ("/a//%2e%2e/b", EmptyParent),
        ] {
            assert_eq!(normalize(path), Err(reason), "{path:?}");
            assert!(!is_normal(path), "{path:?}");
        }
    }

    /// Parts of paths, from which the generator makes them.
    const PARTS: [&str; 40] = [
        "/",
        "/",
        "/",
        "/",
        "//",
        ".",
        "..",
        "/../",
        "/./",
        "%2e",
        "%2E",
        "a",
        "b",
        "Z",
        "api",
        "%61",
        "%41",
        "%2f",
        "%25",
        "%5c",
        "%3b",
        "%c3%a9",
        "%C3%A9",
        "%C3",
        "%e2%82%ac",
        "%3d",
        "%3D",
        "%20",
        "%",
        "%4",
        ";",
        "\\",
        ":",
        "@",
        "=",
        "~",
        "_",
        "-",
        "\u{e9}",
        " ",
    ];

    fn random_path(random: &mut Rng) -> String {
        // Most parts are certain, or else few paths would be.
        let certain: Vec<_> =
            PARTS.into_iter().filter(|part| normalize(&format!("/{part}")).is_ok()).collect();
        let count = random.usize(..12);
        let mut path = String::from("/");
        for _ in 0..count {
            let parts = if random.u8(..20) == 0 { &PARTS[..] } else { &certain };
            path.push_str(parts[random.usize(..parts.len())]);
        }
        path
    }

    /// The normal form in another way: a list of segments, each of them a list of bytes.
    fn reference(path: &str) -> Option<String> {
        let segments: Vec<_> =
            path.strip_prefix('/')?.split('/').map(reference_segment).collect::<Option<_>>()?;
        let (last, inner) = segments.split_last()?;
        if inner.iter().any(String::is_empty) && segments.iter().any(|segment| segment == "..") {
            return None;
        }
        let mut kept = Vec::new();
        for segment in &segments {
            match segment.as_str() {
                "" | "." => {}
                ".." => drop(kept.pop()),
                segment => kept.push(segment),
            }
        }
        let is_folder = ["", ".", ".."].contains(&last.as_str());
        let end = if is_folder && !kept.is_empty() { "/" } else { "" };
        Some(format!("/{}{end}", kept.join("/")))
    }

    fn reference_segment(segment: &str) -> Option<String> {
        let (mut bytes, mut normal) = (Vec::new(), String::new());
        let mut rest = segment;
        while let Some(first) = rest.chars().next() {
            let is_encoded = first == '%';
            let byte = if is_encoded {
                let digits =
                    rest.get(1..3).filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()));
                u8::from_str_radix(digits?, 16).ok()?
            } else {
                u8::try_from(first).ok()?
            };
            rest = &rest[if is_encoded { 3 } else { first.len_utf8() }..];
            bytes.push(byte);
            let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            if byte < 0x20 || byte == 0x7f || b"/\\%;".contains(&byte) {
                return None;
            } else if is_unreserved || b"!$&'()*+,=:@".contains(&byte) && !is_encoded {
                normal.push(char::from(byte));
            } else if is_encoded {
                write!(normal, "%{byte:02X}").unwrap();
            } else {
                return None;
            }
        }
        String::from_utf8(bytes).ok().map(|_| normal)
    }

    #[test]
    fn random_paths_agree_with_the_reference() {
        let (mut same, mut changed, mut refused) = (0, 0, 0);
        for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
            let mut random = Rng::with_seed(seed);
            for _ in 0..4000 {
                let path = random_path(&mut random);
                let normal = normalize(&path);
                assert_eq!(normal.as_deref().ok(), reference(&path).as_deref(), "{path:?}");
                assert_eq!(is_normal(&path), normal.as_deref() == Ok(&path), "{path:?}");
                match normal {
                    Ok(Cow::Borrowed(_)) => same += 1,
                    Ok(Cow::Owned(normal)) => {
                        changed += 1;
                        assert_normal(&normal, &path);
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(same > 5000 && changed > 5000 && refused > 2500, "{same}, {changed}, {refused}");
    }

    fn assert_normal(normal: &str, path: &str) {
        assert!(is_normal(normal), "{path:?}");
        assert!(matches!(normalize(normal), Ok(Cow::Borrowed(_))), "{path:?}");
        assert!(normal.starts_with('/'), "{path:?}");
        assert!(!normal.split('/').any(|segment| [".", ".."].contains(&segment)), "{path:?}");
        let lower = normal.to_ascii_lowercase();
        for part in ["//", "\\", ";", "%2f", "%5c", "%25", "%3b", "%00", "%2e", "%61"] {
            assert!(!lower.contains(part), "{path:?} has {part}");
        }
    }

    #[test]
    fn every_single_byte_has_a_rule() {
        for byte in 0..=u8::MAX {
            for path in
                [format!("/a%{byte:02x}"), format!("/a%{byte:02X}"), format!("/a{}", char::from(byte))]
            {
                assert_eq!(normalize(&path).ok().as_deref(), reference(&path).as_deref(), "{path:?}");
            }
        }
    }
}

//! The names that a database of InfluxDB 3 Core can have.
//!
//! Databases of the server itself, such as `_internal`, have other names: no request of a client
//! creates one.

/// The most bytes of a name: those of a database and of a retention policy of InfluxDB 1.
const MAX_BYTES: usize = 511;

/// Returns whether a text is the name of a database.
///
/// It consists of ASCII letters, digits, `_` and `-`, and begins with a letter or a digit. One `/`
/// separates the name of a retention policy.
pub fn is_database_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/');
    bytes.len() <= MAX_BYTES
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(is_of_name)
        && bytes.split(|byte| *byte == b'/').nth(2).is_none()
        && bytes.last() != Some(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_core() {
        for name in ["a", "A", "7", "a_b-c", "a/b", "a/autogen", "a/_", "a/-", "0/0", "db-", "db_"] {
            assert!(is_database_name(name), "{name}");
        }
        for name in [
            "",
            "_",
            "_internal",
            "-a",
            "/a",
            "/",
            "a/",
            "a//b",
            "a/b/c",
            "a.b",
            "a b",
            "a*",
            "*",
            "a:b",
            "a,b",
            "a\"",
            "a'",
            "a\0",
            "a\n",
            "\u{e9}",
            "a\u{e9}",
            "a%2fb",
            "a;b",
            "a\\b",
            " a",
            "a ",
        ] {
            assert!(!is_database_name(name), "{name:?}");
        }
        let longest = "a".repeat(MAX_BYTES);
        assert!(is_database_name(&longest));
        assert!(!is_database_name(&(longest + "a")));
    }
}

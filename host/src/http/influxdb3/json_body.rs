//! The members of a JSON object that decide about a request.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Deserializer;

use super::target::Refusal;

/// Reads the texts of the members that have one of the names, in the order of `names`.
///
/// Each element of `names` lists the names of one member. The object has at most one of them, as a
/// string. Servers disagree on an object with two.
pub(super) fn members<const N: usize>(
    json: &[u8],
    names: &[&[&str]; N],
) -> Result<[Option<String>; N], Refusal> {
    // The parser ignores invalid UTF-8 in members that it skips.
    let json = str::from_utf8(json).map_err(|_| UNCERTAIN)?;
    let mut deserializer = Deserializer::from_str(json);
    let members = Members(names).deserialize(&mut deserializer).map_err(|_| UNCERTAIN)?;
    deserializer.end().map_err(|_| UNCERTAIN)?;
    Ok(members)
}

/// Why a body is refused. The error of the parser would quote it.
const UNCERTAIN: Refusal = "the JSON is no single object with each deciding member once, as a string";

struct Members<'a, const N: usize>(&'a [&'a [&'a str]; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Option<String>; N];

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<String>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = [const { None }; N];
        while let Some(key) = map.next_key::<String>()? {
            let named = self.0.iter().zip(&mut values).find(|(names, _)| names.contains(&key.as_str()));
            match named {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some((_, value @ None)) => *value = Some(map.next_value()?),
                Some((_, Some(_))) => return Err(A::Error::custom("a member stands twice")),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&[&str]; 2] = [&["db", "database"], &["q"]];

    #[test]
    fn members_are_found_by_any_name() {
        for (json, db, q) in [
            (r#"{"db":"a","q":"b"}"#, Some("a"), Some("b")),
            (r#" { "q" : "b" , "database" : "a" } "#, Some("a"), Some("b")),
            (r#"{"x":{"db":"c"},"db":"a","y":["db",{"q":1}],"z":null}"#, Some("a"), None),
            (r#"{"d\u0062":"\u0061"}"#, Some("a"), None),
            (r#"{"DB":"a","db ":"b","d b":"c"}"#, None, None),
            ("{}", None, None),
            ("\n{}\r\n\t", None, None),
            (r#"{"db":""}"#, Some(""), None),
            (r#"{"x":1,"x":2,"db":"a"}"#, Some("a"), None),
        ] {
            let [found_db, found_q] = members(json.as_bytes(), &NAMES).unwrap();
            assert_eq!((found_db.as_deref(), found_q.as_deref()), (db, q), "{json}");
        }
    }

    #[test]
    fn uncertain_objects_are_refused() {
        for json in [
            "",
            " ",
            "null",
            "[]",
            r#""a""#,
            r#"["a","b"]"#,
            r#"[{"db":"a"}]"#,
            r#"{"db":"a"}{"db":"b"}"#,
            r#"{"db":"a"} {"#,
            r#"{"db":"a"}x"#,
            "{\"db\":\"a\"}\0",
            "\u{feff}{\"db\":\"a\"}",
            r#"{"db":"a","db":"b"}"#,
            r#"{"db":"a","db":"a"}"#,
            r#"{"db":"a","d\u0062":"b"}"#,
            r#"{"db":"a","database":"b"}"#,
            r#"{"database":"a","db":"a"}"#,
            r#"{"db":"a","q":"x","q":"y"}"#,
            r#"{"db":null}"#,
            r#"{"db":1}"#,
            r#"{"db":true}"#,
            r#"{"db":["a"]}"#,
            r#"{"db":{"a":1}}"#,
            r#"{"db":"a","db":null}"#,
            r#"{"db":"a",}"#,
            r#"{"db":"a""#,
            r#"{"db":"a}"#,
            r"{'db':'a'}",
            r#"{db:"a"}"#,
            r#"{"db":"a\ud800"}"#,
            r#"{"db":"a"/* */}"#,
            "{\"db\":\"a\nb\"}",
            r#"{"db"="a"}"#,
            r#"{"x":NaN,"db":"a"}"#,
        ] {
            assert_eq!(members(json.as_bytes(), &NAMES), Err(UNCERTAIN), "{json:?}");
        }
        assert_eq!(members(b"{\"db\":\"a\",\"x\":\"\xff\"}", &NAMES), Err(UNCERTAIN));
        assert_eq!(members(b"{\"db\":\"\xc0\xaf\"}", &NAMES), Err(UNCERTAIN));
    }
}

//! The fields of a JSON object that a client sends, by their names, and fields that an endpoint
//! does not have.
//!
//! Unknown fields are ignored, like in InfluxDB 3 Core (`docs/compatibility.md` 2.5). But a client
//! that sends one about a limit of the new token expects that limit, and would get a token without
//! it. Such a field is rejected, with the name of the right one.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use percent_encoding::percent_decode_str;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::problem::Problem;
use crate::redact::sanitize;

/// The field of what a new token may do.
const PERMISSIONS: &str = "permissions";

/// How many bytes of the name of a field are repeated in an error.
const SHOWN_NAME_BYTES: usize = 64;

/// The limit of a token that a field is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// How long the token is accepted.
    Duration,
    /// What the token may do.
    Rights,
}

/// How the names of fields about a limit begin.
const LIMITS: [(&str, Limit); 5] = [
    ("expir", Limit::Duration),
    ("ttl", Limit::Duration),
    ("lifetime", Limit::Duration),
    ("valid", Limit::Duration),
    ("permission", Limit::Rights),
];

impl Limit {
    /// Returns the limit that a field of this name is about. Only its letters count.
    pub fn of_field(name: &str) -> Option<Self> {
        let letters = name.chars().filter(char::is_ascii_alphabetic);
        let letters: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
        LIMITS.into_iter().find_map(|(prefix, limit)| letters.starts_with(prefix).then_some(limit))
    }
}

/// The name of a field of an object, as often as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name.
    pub name: String,
    /// Whether the value is `null`, which counts as absent.
    pub is_null: bool,
}

/// The fields of an object, in their order. Any other JSON value is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(pub Vec<Field>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Option<IgnoredAny>>()? {
                    fields.push(Field { name, is_null: value.is_none() });
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Names)
    }
}

/// The fields of an endpoint that stand in its JSON body.
#[derive(Debug, Clone, Copy)]
pub struct KnownFields {
    /// The names of all of them.
    pub names: &'static [&'static str],
    /// The field that limits the time of the token.
    pub duration: Option<&'static str>,
}

impl KnownFields {
    /// Checks the fields of a JSON body.
    pub fn check_body(self, Fields(fields): &Fields) -> Result<(), Problem> {
        let mut seen = BTreeSet::new();
        for Field { name, is_null } in fields {
            if !seen.insert(name) {
                return Err(Problem::InvalidArgument(format!("the field {} stands twice", shown(name))));
            }
            // A field that is null counts as absent.
            if !is_null && !self.names.contains(&name.as_str()) {
                self.check_name(name, "")?;
            }
        }
        Ok(())
    }

    /// Checks the query string of an endpoint that reads none.
    pub fn check_query(self, query: Option<&str>) -> Result<(), Problem> {
        query
            .into_iter()
            .flat_map(query_names)
            .try_for_each(|name| self.check_name(&name, " of the JSON body"))
    }

    /// Returns the problem of a JSON value that is no object.
    pub fn not_an_object(self) -> Problem {
        Problem::InvalidJson(format!("expected an object with the fields {}", self.names.join(", ")))
    }

    /// Rejects a name about a limit. `place` is where the right field stands.
    fn check_name(self, name: &str, place: &str) -> Result<(), Problem> {
        let advice = match (Limit::of_field(name), self.duration) {
            (None, _) => return Ok(()),
            (Some(Limit::Duration), Some(field)) => format!("use the field {field}{place}, in seconds"),
            (Some(Limit::Duration), None) => {
                "this request sets no expiry; that of a named token is its field expiry_secs".to_owned()
            }
            (Some(Limit::Rights), _) if self.names.contains(&PERMISSIONS) => {
                format!("use the field {PERMISSIONS}{place}")
            }
            (Some(Limit::Rights), _) => {
                "this request makes a token with all permissions; POST /api/v3/enterprise/configure/token makes one with others"
                    .to_owned()
            }
        };
        Err(Problem::InvalidArgument(format!("unknown field {}; {advice}", shown(name))))
    }
}

/// Returns the names in a query string, decoded.
fn query_names(query: &str) -> impl Iterator<Item = String> {
    query.split('&').map(|pair| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name).replace('+', " ");
        match percent_decode_str(&name).decode_utf8_lossy() {
            Cow::Borrowed(_) => name,
            Cow::Owned(decoded) => decoded,
        }
    })
}

/// Returns the name of a field for an error. Clients send a token where a name is expected.
fn shown(name: &str) -> String {
    format!("\"{}\"", sanitize(name, SHOWN_NAME_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_body(known: KnownFields, body: &str) -> Result<(), Problem> {
        known.check_body(&serde_json::from_str(body).unwrap())
    }

    const NAMED: KnownFields =
        KnownFields { names: &["token_name", "expiry_secs"], duration: Some("expiry_secs") };
    const SCOPED: KnownFields =
        KnownFields { names: &["token_name", "permissions", "expiry_secs"], duration: Some("expiry_secs") };
    const REPLACED: KnownFields = KnownFields { names: &["overlap_secs"], duration: None };

    #[test]
    fn fields_about_limits_are_rejected() {
        for (fields, body, advice) in [
            (NAMED, r#"{"token_name":"a","expiry_secs":1}"#, None),
            (NAMED, r#"{"token_name":"a","description":"b","note":{"expires":1}}"#, None),
            (NAMED, r#"{"expires_at":null}"#, None),
            (NAMED, "{}", None),
            (NAMED, r#"{"overlap":1}"#, None),
            (
                NAMED,
                r#"{"expires_at":"2030-01-01"}"#,
                Some("\"expires_at\"; use the field expiry_secs, in seconds"),
            ),
            (NAMED, r#"{"expirySecs":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"Expiry-Secs":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"EXPIRATION":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"_expiry_secs":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"expiry_secs2":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"TTL":"1h"}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"ttl_secs":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"lifetime":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"valid_until":1}"#, Some("use the field expiry_secs")),
            (NAMED, r#"{"validity":false}"#, Some("use the field expiry_secs")),
            (
                NAMED,
                r#"{"permissions":[]}"#,
                Some("POST /api/v3/enterprise/configure/token makes one with others"),
            ),
            (SCOPED, r#"{"token_name":"a","permissions":[],"expiry_secs":1,"type":"resource"}"#, None),
            (SCOPED, r#"{"permission":["db:*:read"]}"#, Some("use the field permissions")),
            (
                NAMED,
                r#"{"permission_level":"read"}"#,
                Some("POST /api/v3/enterprise/configure/token makes one with others"),
            ),
            (NAMED, r#"{"a":1,"a":2}"#, Some("the field \"a\" stands twice")),
            (NAMED, r#"{"a":null,"\u0061":null}"#, Some("the field \"a\" stands twice")),
            (REPLACED, r#"{"overlap_secs":1}"#, None),
            (REPLACED, r#"{"overlap":1}"#, None),
            (REPLACED, r#"{"expiry_secs":1}"#, Some("this request sets no expiry")),
        ] {
            match (check_body(fields, body), advice) {
                (Ok(()), None) => {}
                (Err(Problem::InvalidArgument(text)), Some(advice)) => {
                    assert!(text.contains(advice), "{text}");
                }
                (found, _) => panic!("{body}: {found:?}"),
            }
        }
    }

    #[test]
    fn query_string_about_limits_is_rejected() {
        for (query, valid) in [
            (None, true),
            (Some(""), true),
            (Some("pretty=true"), true),
            (Some("expiry_secs=60"), false),
            (Some("a=b&ttl"), false),
            (Some("e%78pires=60"), false),
            (Some("+expires=60"), false),
            (Some("expires%FF"), false),
            (Some("a=expires"), true),
        ] {
            assert_eq!(NAMED.check_query(query).is_ok(), valid, "{query:?}");
        }
    }

    #[test]
    fn token_as_field_is_not_repeated() {
        let body = r#"{"apiv3_secret":1,"apiv3_secret":2}"#;
        let Err(Problem::InvalidArgument(text)) = check_body(NAMED, body) else { panic!() };
        assert_eq!(text, "the field \"[token]\" stands twice");
    }

    #[test]
    fn text_about_other_values_has_the_names() {
        let Problem::InvalidJson(text) = NAMED.not_an_object() else { panic!() };
        assert_eq!(text, "expected an object with the fields token_name, expiry_secs");
    }
}

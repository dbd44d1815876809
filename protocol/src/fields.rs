//! The fields of a JSON object that a client sends, by their names.
//!
//! Unknown fields are ignored, like in InfluxDB 3 Core (`docs/compatibility.md` 2.5). But a client
//! that sends one about a limit of a token expects that limit, so a server has to know such names.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

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

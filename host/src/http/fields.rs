//! Fields that a client sends and that an endpoint does not have.
//!
//! Unknown fields are ignored, like in InfluxDB 3 Core (docs/compatibility.md 2.5). But a client
//! that sends one about a limit of the new token expects that limit, and would get a token without
//! it. Such a field is rejected, with the name of the right one.

use std::collections::HashSet;

use optoken_protocol::fields::{Field, Fields, Limit};
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::sanitize;

/// How many bytes of the name of a field are repeated in an error.
const SHOWN_NAME_BYTES: usize = 64;

/// The fields of an endpoint that stand in its JSON body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownFields {
    pub(crate) names: &'static [&'static str],
    /// The field that limits the time of the token.
    pub(crate) duration: Option<&'static str>,
}

impl KnownFields {
    /// Checks the fields of a JSON body. Accepts a body that is no object.
    pub(crate) fn check_body(self, body: &[u8]) -> Result<(), Problem> {
        let Ok(Fields(fields)) = serde_json::from_slice(body) else { return Ok(()) };
        let mut seen = HashSet::new();
        for Field { name, is_null } in &fields {
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
    pub(crate) fn check_query(self, query: Option<&str>) -> Result<(), Problem> {
        let pairs = serde_urlencoded::from_str::<Vec<(String, String)>>(query.unwrap_or_default());
        for (name, _) in pairs.unwrap_or_default() {
            self.check_name(&name, " of the JSON body")?;
        }
        Ok(())
    }

    /// Rejects a name about a limit. `place` is where the right field stands.
    fn check_name(self, name: &str, place: &str) -> Result<(), Problem> {
        let advice = match (Limit::of_field(name), self.duration) {
            (None, _) => return Ok(()),
            (Some(Limit::Duration), Some(field)) => format!("use the field {field}{place}, in seconds"),
            (Some(Limit::Duration), None) => {
                "this request sets no expiry; that of a named token is its field expiry_secs".to_owned()
            }
            (Some(Limit::Rights), _) => {
                "there are no permissions to choose: every token has all of them".to_owned()
            }
        };
        Err(Problem::InvalidArgument(format!("unknown field {}; {advice}", shown(name))))
    }
}

/// Returns the name of a field for an error. Clients send a token where a name is expected.
fn shown(name: &str) -> String {
    format!("\"{}\"", sanitize(name, SHOWN_NAME_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: KnownFields =
        KnownFields { names: &["token_name", "expiry_secs"], duration: Some("expiry_secs") };
    const REPLACED: KnownFields = KnownFields { names: &["overlap_secs"], duration: None };

    #[test]
    fn fields_about_limits_are_rejected() {
        for (fields, body, advice) in [
            (NAMED, r#"{"token_name":"a","expiry_secs":1}"#, None),
            (NAMED, r#"{"token_name":"a","description":"b","note":{"expires":1}}"#, None),
            (NAMED, r#"{"expires_at":null}"#, None),
            (NAMED, r#"["a", 1]"#, None),
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
            (NAMED, r#"{"permissions":[]}"#, Some("every token has all of them")),
            (NAMED, r#"{"permission_level":"read"}"#, Some("every token has all of them")),
            (NAMED, r#"{"a":1,"a":2}"#, Some("the field \"a\" stands twice")),
            (NAMED, r#"{"a":null,"\u0061":null}"#, Some("the field \"a\" stands twice")),
            (REPLACED, r#"{"overlap_secs":1}"#, None),
            (REPLACED, r#"{"overlap":1}"#, None),
            (REPLACED, r#"{"expiry_secs":1}"#, Some("this request sets no expiry")),
        ] {
            match (fields.check_body(body.as_bytes()), advice) {
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
        ] {
            assert_eq!(NAMED.check_query(query).is_ok(), valid, "{query:?}");
        }
    }

    #[test]
    fn token_as_field_is_not_repeated() {
        let body = r#"{"apiv3_secret":1,"apiv3_secret":2}"#;
        let Err(Problem::InvalidArgument(text)) = NAMED.check_body(body.as_bytes()) else { panic!() };
        assert_eq!(text, "the field \"[token]\" stands twice");
    }
}

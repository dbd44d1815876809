//! The messages of the JSON gateway: protocol buffers as JSON, with keys and values in Base64 and
//! 64-bit numbers as text. A field with its default value is absent.

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Encodes a key or a value.
pub(super) fn encode(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// Decodes a key or a value; `None` if it is not Base64 of UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    String::from_utf8(Base64::decode_vec(text).ok()?).ok()
}

/// Keys that begin with a text. The text ends with a slash, so the end of the range is the text
/// with the next character.
#[derive(Debug, Clone, Copy)]
pub(super) struct Below<'a>(pub(super) &'a str);

impl Below<'_> {
    pub(super) fn end(self) -> String {
        let text = self.0.strip_suffix('/').unwrap_or(self.0);
        format!("{text}0")
    }
}

/// Asks for one key. Without `serializable` the read is linearizable.
pub(super) fn range(key: &str) -> Value {
    json!({ "key": encode(key.as_bytes()) })
}

/// Asks for the keys that begin with a text, in their order.
pub(super) fn range_below(below: Below<'_>) -> Value {
    json!({ "key": encode(below.0.as_bytes()), "range_end": encode(below.end().as_bytes()) })
}

/// An operation of a transaction.
pub(super) fn put(key: &str, value: &str) -> Value {
    json!({ "request_put": { "key": encode(key.as_bytes()), "value": encode(value.as_bytes()) } })
}

/// Keeps the value of a key, and detaches it from its lease.
pub(super) fn adopt(key: &str) -> Value {
    json!({ "request_put": { "key": encode(key.as_bytes()), "ignore_value": true } })
}

/// Deletes the keys from `first` to the one before `end`.
pub(super) fn delete(first: &str, end: &str) -> Value {
    json!({ "request_delete_range": {
        "key": encode(first.as_bytes()), "range_end": encode(end.as_bytes()),
    } })
}

pub(super) fn delete_one(key: &str) -> Value {
    json!({ "request_delete_range": { "key": encode(key.as_bytes()) } })
}

/// A put beside a transaction, under a lease.
#[derive(Serialize)]
pub(super) struct LeasedPut<'a> {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) lease: &'a str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) cluster_id: String,
    pub(super) revision: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Range {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Transaction {
    pub(super) succeeded: bool,
    pub(super) responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    pub(super) response_range: Option<Range>,
}

impl Transaction {
    /// Returns the keys that the operation with this number has found.
    pub(super) fn found(&self, operation: usize) -> &[KeyValue] {
        let response = self.responses.get(operation);
        response.and_then(|response| response.response_range.as_ref()).map_or(&[], |range| &range.kvs)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    #[serde(rename = "ID")]
    pub(super) id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Authenticated {
    pub(super) token: String,
}

/// What a member states about itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) header: Header,
    pub(super) version: String,
    #[serde(rename = "dbSize")]
    pub(super) database_bytes: String,
    #[serde(rename = "isLearner")]
    pub(super) is_learner: bool,
    pub(super) errors: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Members {
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Member {
    #[serde(rename = "isLearner")]
    pub(super) is_learner: bool,
}

/// An error of etcd. Its form depends on the release.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) code: Option<u16>,
    pub(super) message: String,
    error: Value,
}

impl Fault {
    pub(super) fn text(&self) -> &str {
        match self.error.as_str() {
            Some(error) if self.message.is_empty() => error,
            _ => &self.message,
        }
    }
}

/// A line of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchLine {
    pub(super) result: Option<WatchResult>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchResult {
    pub(super) created: bool,
    pub(super) canceled: bool,
    pub(super) events: Vec<serde::de::IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_have_their_default() {
        let empty: Transaction = serde_json::from_str(r#"{"header":{"revision":"3"}}"#).unwrap();
        assert!(!empty.succeeded && empty.found(0).is_empty());
        let range: Range = serde_json::from_str(r#"{"kvs":[{"key":"aw=="}]}"#).unwrap();
        let [found] = range.kvs.as_slice() else { panic!("{range:?}") };
        assert_eq!(decode(&found.key).as_deref(), Some("k"));
        assert_eq!(decode(&found.value).as_deref(), Some(""));
        assert_eq!(decode("?"), None);
        assert_eq!(decode("/w=="), None);
    }

    #[test]
    fn range_below_ends_before_its_neighbours() {
        assert_eq!(Below("a/chunks/").end(), "a/chunks0");
        assert!("a/chunks/\u{10ffff}" < "a/chunks0" && "a/chunks." < "a/chunks/");
    }

    #[test]
    fn fault_of_each_release_is_read() {
        for text in [
            r#"{"error":"etcdserver: x","message":"etcdserver: x","code":3}"#,
            r#"{"error":"etcdserver: x","code":3}"#,
            r#"{"code":3,"message":"etcdserver: x","details":[]}"#,
        ] {
            let fault: Fault = serde_json::from_str(text).unwrap();
            assert_eq!((fault.code, fault.text()), (Some(3), "etcdserver: x"), "{text}");
        }
    }
}

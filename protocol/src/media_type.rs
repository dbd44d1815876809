//! Media types of requests and answers.

/// JSON.
pub const JSON: &str = "application/json";

/// JSON values, one a line.
pub const JSONL: &str = "application/jsonl";

/// Plain text in UTF-8.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Returns whether a `Content-Type` announces JSON: `application/json`, or `application/` and a
/// subtype with the suffix `+json` (`docs/compatibility.md` 2.5). Parameters are allowed.
pub fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    let json = subtype == "json" || subtype.strip_suffix("+json").is_some_and(is_name);
    let is_parameter = |part: &str| part.split_once('=').is_some_and(|(name, _)| is_name(name));
    json && parts.all(|part| part.is_empty() || is_parameter(part))
}

/// Returns whether this is a restricted name (RFC 6838, section 4.2).
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_media_types_are_recognised() {
        for (content_type, json) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/vnd.x+json", true),
            ("application/vnd.x+json; a=b; c=d", true),
            ("", false),
            ("json", false),
            ("application/", false),
            ("application/+json", false),
            ("application/jsonl", false),
            ("application/json charset=utf-8", false),
            ("application/json; charset", false),
            ("application/v nd+json", false),
            ("text/json", false),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
        ] {
            assert_eq!(is_json(content_type), json, "{content_type:?}");
        }
    }
}

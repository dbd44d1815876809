//! A permission of a new token, as the request for it has it.
//!
//! Splits the text of the command line into its three parts, and checks none of them: the server
//! does, and names the part that is wrong.

use std::str::FromStr;

use serde::Serialize;

/// The type of permissions whose name is one pattern, in which a comma can stand.
const HTTP: &str = "http";

/// A permission, `TYPE:NAMES:ACTIONS`. The fields are named as the command of InfluxDB 3 Enterprise
/// sends them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RequestedPermission {
    resource_type: String,
    resource_names: Vec<String>,
    actions: Vec<String>,
}

impl FromStr for RequestedPermission {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "a permission is TYPE:NAMES:ACTIONS, such as db:sensors:read,write";
        // A pattern can hold colons.
        let (resource_type, rest) = text.split_once(':').ok_or(form)?;
        let (names, actions) = rest.rsplit_once(':').ok_or(form)?;
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        Ok(Self {
            resource_type: resource_type.to_owned(),
            resource_names: if resource_type == HTTP { vec![names.to_owned()] } else { list(names) },
            actions: list(actions),
        })
    }
}

impl RequestedPermission {
    /// Returns the text.
    pub(crate) fn text(&self) -> String {
        let Self { resource_type, resource_names, actions } = self;
        format!("{resource_type}:{}:{}", resource_names.join(","), actions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_split_into_the_fields_of_the_request() {
        for (text, resource_type, names, actions) in [
            ("db:a,b:read,write", "db", &["a", "b"][..], &["read", "write"][..]),
            ("system:*:read", "system", &["*"], &["read"]),
            ("http:h.example/a,b:c/*:GET", "http", &["h.example/a,b:c/*"], &["GET"]),
            ("*:*:*", "*", &["*"], &["*"]),
            // The server names what is wrong with it.
            ("db::", "db", &[""], &[""]),
        ] {
            let permission: RequestedPermission = text.parse().unwrap();
            assert_eq!(
                serde_json::to_value(&permission).unwrap(),
                json!({ "resource_type": resource_type, "resource_names": names, "actions": actions })
            );
            assert_eq!(permission.text(), text);
        }
        for text in ["", "db", "db:a", ":"] {
            assert!(text.parse::<RequestedPermission>().is_err(), "{text}");
        }
    }
}

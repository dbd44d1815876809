//! What a server does not have, by the text of its response. No operator token, no such path and
//! another kind of server are the same status, and need different advice.

use optoken_protocol::paths;
use optoken_protocol::problem::{NO_OPERATOR, PATH_NOT_FOUND, RECOVERY_PATH_NOT_FOUND, TOKEN_NOT_FOUND};
use reqwest::StatusCode;

use crate::client::DEFAULT_HOST;
use crate::client::exchange::{Asked, Operation};

/// What a server does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// There is no operator token to replace.
    Operator,
    /// There is no token of the name.
    Token,
    /// A server of this API has no such path: InfluxDB 3, or an older version.
    Path,
    /// A recovery listener has no such path.
    RecoveryPath,
    /// The text is not that of a server of this API.
    Unknown,
}

impl Absent {
    /// Recognises a response by its status and its whole body.
    pub(super) fn find(status: StatusCode, body: &str) -> Option<Self> {
        let body = body.trim_end();
        // InfluxDB 3 Core answers 500 (docs/compatibility.md 2.8).
        if body.starts_with(NO_OPERATOR)
            && matches!(status, StatusCode::NOT_FOUND | StatusCode::INTERNAL_SERVER_ERROR)
        {
            return Some(Self::Operator);
        }
        (status == StatusCode::NOT_FOUND).then(|| match body {
            PATH_NOT_FOUND => Self::Path,
            RECOVERY_PATH_NOT_FOUND => Self::RecoveryPath,
            _ if body.starts_with(TOKEN_NOT_FOUND) => Self::Token,
            _ => Self::Unknown,
        })
    }

    /// Returns what the user can do.
    pub(super) fn hint(self, asked: &Asked<'_>) -> String {
        let address = asked.address;
        match self {
            Self::Operator if address.is_recovery() => {
                "\nThere is no operator token yet. To create it at the main address of the server, run:\n  \
                 {program} create token --admin"
                    .to_owned()
            }
            Self::Operator => {
                "\nThere is no operator token yet. To create it, run:\n  {program} create token --admin"
                    .to_owned()
            }
            Self::Token => "\nTo list the tokens, run:\n  {program} show tokens".to_owned(),
            Self::Path if asked.operation == Operation::CreateScoped => format!(
                "\nA server of this API answers, and makes no tokens with permissions: it is InfluxDB 3 Core, or an older \
                 version of optoken{}.",
                if address.has_base_path() { ", or the path in --host is not right" } else { "" }
            ),
            Self::Path => format!(
                "\nA server of this API answers, and does not have {}: it is {}{}.",
                asked.url.path(),
                if is_of_influxdb(asked) {
                    "an older version of InfluxDB 3 or optoken"
                } else {
                    "InfluxDB 3, or an older version of optoken"
                },
                if address.has_base_path() { ", or the path in --host is not right" } else { "" }
            ),
            Self::RecoveryPath => format!(
                "\nThis is a recovery listener, which replaces the operator token and does nothing else. Give --host the \
                 main address of the server, such as {DEFAULT_HOST}."
            ),
            Self::Unknown if address.has_base_path() => format!(
                "\nNo token server has answered at {}. Is {} the address of a token server? The path in --host stands \
                 before that of each request.",
                asked.name(),
                address.name()
            ),
            Self::Unknown => format!(
                "\nNo token server has answered at {}. Is {} the address of a token server? If a proxy has the server \
                 below a path, give --host that path, too.",
                asked.name(),
                address.name()
            ),
        }
    }
}

/// Returns whether InfluxDB 3 has the path of a request, with its method (docs/compatibility.md
/// 2.1).
fn is_of_influxdb(asked: &Asked<'_>) -> bool {
    match asked.operation {
        Operation::Create | Operation::Regenerate | Operation::CreateNamed | Operation::Delete => true,
        Operation::List => asked.url.path().ends_with(paths::QUERY_SQL),
        Operation::Stage
        | Operation::Confirm
        | Operation::OperatorStatus
        | Operation::Authenticate
        | Operation::CreateScoped => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_what_is_missing() {
        for (status, body, absent) in [
            (404, "missing admin token, cannot update", Some(Absent::Operator)),
            (500, "missing admin token, cannot update\n", Some(Absent::Operator)),
            (500, "Not found", None),
            (401, "missing admin token, cannot update", None),
            (404, "the requested resource was not found: ci", Some(Absent::Token)),
            (404, "Not found", Some(Absent::Path)),
            (404, "Not found\n", Some(Absent::Path)),
            (404, "not found", Some(Absent::RecoveryPath)),
            (404, "", Some(Absent::Unknown)),
            (404, "Not Found", Some(Absent::Unknown)),
            (404, "404 page not found\n", Some(Absent::Unknown)),
            // InfluxDB 2.
            (404, r#"{"code":"not found","message":"path not found"}"#, Some(Absent::Unknown)),
            (404, r#"{"error":"not found"}"#, Some(Absent::Unknown)),
            (404, "<html><title>404 Not Found</title></html>", Some(Absent::Unknown)),
            (503, "Not found", None),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Absent::find(status, body), absent, "{status} {body}");
        }
    }
}

//! Errors of PostgreSQL: what they mean for a write, whether a read is repeated, and their texts.

use std::error::Error as _;
use std::fmt;
use std::io;

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::store::remote::TimedOut;
use crate::store::remote::password::{FILE_VARIABLE, VARIABLE};

/// Why a step has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    text: String,
    kind: Kind,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server has rolled the transaction back, with this code.
    Rejected(Code),
    /// There is no connection, or it has ended. Another one may do.
    Lost,
    /// All else.
    Other,
}

/// The codes that change what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// Another change came first.
    Serialization,
    MissingTable,
    Forbidden,
    /// The table exists by now, as another node has created it.
    Exists,
    Other,
}

impl Failure {
    /// A failure that a second attempt does not mend.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: Kind::Other }
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Appends what to do next.
    pub(super) fn with_advice(self, advice: &str) -> Self {
        Self { text: format!("{}; {advice}", self.text), ..self }
    }

    /// Puts the name of a server in front.
    pub(super) fn at(self, server: &impl fmt::Display) -> Self {
        Self { text: format!("{server}: {}", self.text), ..self }
    }

    /// One failure of several servers. It is worth a second attempt if one of them is.
    pub(super) fn of_all(failures: Vec<Self>) -> Self {
        let lost = failures.iter().any(|failure| failure.kind == Kind::Lost);
        let kind = match failures.as_slice() {
            [single] => single.kind,
            _ if lost => Kind::Lost,
            _ => Kind::Other,
        };
        let texts: Vec<_> = failures.into_iter().map(|failure| failure.text).collect();
        Self { text: texts.join(" · "), kind }
    }

    pub(super) fn lost(error: &io::Error, advice: &str) -> Self {
        Self { text: format!("{error}; {advice}"), kind: Kind::Lost }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<TimedOut> for Failure {
    fn from(error: TimedOut) -> Self {
        Self::new(format!("{error}; check the server and the network to it"))
    }
}

impl From<&tokio_postgres::Error> for Failure {
    fn from(error: &tokio_postgres::Error) -> Self {
        if let Some(error) = error.as_db_error() {
            return Self::from(error);
        }
        let mut text = error.to_string();
        let mut source = error.source();
        let mut lost = error.is_closed();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            lost |= cause.is::<io::Error>();
            source = cause.source();
        }
        let advice = if text.contains("password missing") {
            lost = false;
            format!("set {FILE_VARIABLE}, {VARIABLE} or PGPASSWORD")
        } else if text.contains("does not support TLS") {
            "turn ssl on in postgresql.conf; only this machine is reached without".to_owned()
        } else if text.contains("invalid peer certificate") {
            // A certificate does not change within a second.
            lost = false;
            "name the file of its authority by sslrootcert, and the host as its certificate does".to_owned()
        } else {
            "check that the server runs at this address".to_owned()
        };
        Self { text: format!("{text}; {advice}"), kind: if lost { Kind::Lost } else { Kind::Other } }
    }
}

impl From<&DbError> for Failure {
    /// Omits the detail, which may hold the document.
    fn from(error: &DbError) -> Self {
        let code = error.code();
        let text = format!("{} (SQLSTATE {})", error.message(), code.code());
        let text = match advice(code) {
            Some(advice) => format!("{text}; {advice}"),
            None => text,
        };
        Self { text, kind: kind(code, error.parsed_severity()) }
    }
}

fn kind(code: &SqlState, severity: Option<Severity>) -> Kind {
    if is_lost(code) {
        return Kind::Lost;
    }
    // A fatal error ends the connection, perhaps after the commit.
    if severity != Some(Severity::Error) || !is_rolled_back(code) {
        return Kind::Other;
    }
    Kind::Rejected(match *code {
        SqlState::T_R_SERIALIZATION_FAILURE => Code::Serialization,
        SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME => Code::MissingTable,
        SqlState::INSUFFICIENT_PRIVILEGE => Code::Forbidden,
        SqlState::DUPLICATE_TABLE | SqlState::UNIQUE_VIOLATION | SqlState::DUPLICATE_OBJECT => Code::Exists,
        _ => Code::Other,
    })
}

/// Whether the server or the connection has ended, or the server does not accept connections yet.
fn is_lost(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(code)
}

/// Whether an error with this code means that the transaction is rolled back. All other errors
/// leave that open.
fn is_rolled_back(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    *code != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
        && matches!(class, "22" | "23" | "25" | "28" | "3D" | "3F" | "40" | "42" | "53" | "54" | "55")
}

fn advice(code: &SqlState) -> Option<&'static str> {
    Some(match *code {
        SqlState::INVALID_PASSWORD => {
            "correct INFLUXDB3_TOKEN_STORE_PASSWORD_FILE, INFLUXDB3_TOKEN_STORE_PASSWORD, PGPASSWORD or the URL"
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "allow the user, database and address in pg_hba.conf"
        }
        SqlState::INVALID_CATALOG_NAME => "create the database, or correct its name in the URL",
        SqlState::READ_ONLY_SQL_TRANSACTION => "name the primary in the URL",
        SqlState::TOO_MANY_CONNECTIONS => {
            "raise max_connections: each node needs three, and one more to check"
        }
        SqlState::DISK_FULL => "make room on the disk of the server",
        SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED => {
            "another session holds the row, perhaps waiting for a standby; look at pg_stat_activity"
        }
        SqlState::UNDEFINED_COLUMN | SqlState::DATATYPE_MISMATCH | SqlState::WRONG_OBJECT_TYPE => {
            "the table is not of this program; name another by the option table"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_classes_are_rolled_back() {
        let error = |code: &str| kind(&SqlState::from_code(code), Some(Severity::Error));
        for code in ["22021", "23514", "25006", "28000", "3D000", "40P01", "42601", "53100", "54000", "55P03"]
        {
            assert_eq!(error(code), Kind::Rejected(Code::Other), "{code}");
        }
        assert_eq!(error("40001"), Kind::Rejected(Code::Serialization));
        assert_eq!(error("42P01"), Kind::Rejected(Code::MissingTable));
        assert_eq!(error("42501"), Kind::Rejected(Code::Forbidden));
        for code in ["40003", "57014", "58030", "XX000", "P0001", "00000", "", "0", "99999"] {
            assert_eq!(error(code), Kind::Other, "{code}");
        }
        for code in ["08006", "57P01", "57P02", "57P03", "53300", "25P03"] {
            assert_eq!(error(code), Kind::Lost, "{code}");
        }
        for severity in [Severity::Fatal, Severity::Panic] {
            assert_eq!(kind(&SqlState::SYNTAX_ERROR, Some(severity)), Kind::Other);
        }
        assert_eq!(kind(&SqlState::SYNTAX_ERROR, None), Kind::Other);
    }

    #[test]
    fn one_lost_server_of_several_is_worth_a_retry() {
        let (other, lost) = (Failure::new("a"), Failure { text: "b".to_owned(), kind: Kind::Lost });
        assert_eq!(Failure::of_all(vec![other.clone()]), other);
        let all = Failure::of_all(vec![other.at(&"h"), lost]);
        assert_eq!((all.to_string().as_str(), all.kind()), ("h: a · b", Kind::Lost));
    }
}

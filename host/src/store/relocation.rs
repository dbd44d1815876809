//! Documents that are no catalog: what `migrate` leaves in a store that the tokens have left, and
//! in one that they have not arrived in.
//!
//! A server refuses all tokens while it finds one, so that two stores never serve at once.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::token::Timestamp;

/// The first line of the document in a store that the tokens have left. One line of JSON follows.
const MOVED: &str = "optoken-moved 1\n";

/// The first line of the document in a store that the tokens have not arrived in. One line of JSON
/// follows, then the catalog.
const ARRIVING: &str = "optoken-arriving 1\n";

/// How the first line of every version begins.
const FAMILIES: [&str; 2] = ["optoken-moved ", "optoken-arriving "];

#[derive(Serialize, Deserialize)]
struct MovedLine {
    to: String,
    catalog_id: String,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct ArrivingLine {
    from: String,
}

/// A document that is no catalog.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Relocation<'a> {
    /// The tokens are in another store.
    Moved {
        /// The address of that store.
        to: String,
        /// The identifier of their catalog.
        catalog_id: String,
        /// When the move was made.
        at: Timestamp,
    },
    /// The tokens are in another store, and a copy of them is here.
    Arriving {
        /// The address of that store.
        from: String,
        /// The copy.
        document: &'a str,
    },
    /// A newer program has written it, or it is damaged.
    Unreadable,
}

impl<'a> Relocation<'a> {
    /// Reads a document; `None` if it is none of these, such as a catalog.
    pub(crate) fn read(document: &'a str) -> Option<Self> {
        if !FAMILIES.iter().any(|family| document.starts_with(family)) {
            return None;
        }
        let moved = || {
            let MovedLine { to, catalog_id, at } =
                serde_json::from_str(document.strip_prefix(MOVED)?).ok()?;
            Some(Self::Moved { to, catalog_id, at })
        };
        let arriving = || {
            let (line, document) = document.strip_prefix(ARRIVING)?.split_once('\n')?;
            let ArrivingLine { from } = serde_json::from_str(line).ok()?;
            Some(Self::Arriving { from, document })
        };
        Some(moved().or_else(arriving).unwrap_or(Self::Unreadable))
    }
}

impl fmt::Display for Relocation<'_> {
    /// Why a server cannot use the store, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { to, .. } => write!(f, "its tokens were moved to {to}; start this server with that store"),
            Self::Arriving { from, .. } => {
                write!(f, "its tokens have not arrived from {from}; run the same `migrate` again, which finishes the move")
            }
            Self::Unreadable => f.write_str(
                "its tokens were moved, and where to cannot be read: a newer version wrote it, or it is damaged; run the \
                 version that moved them",
            ),
        }
    }
}

impl fmt::Debug for Relocation<'_> {
    /// Omits the document: it holds hashes, which do not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns why a server cannot use this document; `None` if it is a catalog, or is meant as one.
pub(crate) fn refusal(document: &str) -> Option<String> {
    Relocation::read(document).map(|relocation| relocation.to_string())
}

/// The document of a store that the tokens of this catalog have left.
#[cfg(feature = "server")]
pub(crate) fn moved(to: &str, catalog_id: &str, at: Timestamp) -> Result<String, serde_json::Error> {
    let line = MovedLine { to: to.to_owned(), catalog_id: catalog_id.to_owned(), at };
    Ok(format!("{MOVED}{}\n", serde_json::to_string(&line)?))
}

/// The document of a store that the tokens of this catalog have not arrived in.
#[cfg(feature = "server")]
pub(crate) fn arriving(from: &str, document: &str) -> Result<String, serde_json::Error> {
    let line = serde_json::to_string(&ArrivingLine { from: from.to_owned() })?;
    Ok(format!("{ARRIVING}{line}\n{document}"))
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests {
    use super::*;

    #[test]
    fn markers_are_read_back() {
        let to = "postgres://h/\"db\"\n";
        let document = moved(to, "id", 7).unwrap();
        assert_eq!(
            Relocation::read(&document),
            Some(Relocation::Moved { to: to.to_owned(), catalog_id: "id".to_owned(), at: 7 })
        );
        assert!(refusal(&document).unwrap().contains("moved to postgres://h/"));
        for copy in ["", "{\"format\":3}\n", "optoken-moved 1\n{}"] {
            let document = arriving("sqlite:/a\nb", copy).unwrap();
            let read = Relocation::Arriving { from: "sqlite:/a\nb".to_owned(), document: copy };
            assert_eq!(Relocation::read(&document), Some(read));
        }
    }

    #[test]
    fn only_markers_are_markers() {
        for document in ["", "{\"format\":3}\n", "optoken-moved", "optoken 1 x -\n"] {
            assert_eq!(Relocation::read(document), None, "{document}");
        }
        for document in [
            "optoken-moved 2\n{\"to\":\"x\",\"catalog_id\":\"y\",\"at\":1}\n",
            "optoken-moved 1\n",
            "optoken-moved 1\n{\"to\":1}\n",
            "optoken-arriving 1\n{\"from\":\"x\"}",
            "optoken-arriving 9\n{\"from\":\"x\"}\n",
        ] {
            assert_eq!(Relocation::read(document), Some(Relocation::Unreadable), "{document}");
        }
    }
}

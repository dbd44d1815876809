//! Store URLs: one text that names a store of any kind, and opens it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

#[cfg(feature = "remote-store")]
use crate::store::remote::{ConnectError, RemoteStore};
use crate::store::{MemoryStore, Store};
#[cfg(feature = "sqlite")]
use crate::store::{OpenError, SqliteStore};

/// The kind and place of a store, with its options: `sqlite:PATH`, `memory:`,
/// `s3://BUCKET/PREFIX`, `gs://…`, `az://CONTAINER/PREFIX`, `postgres://…`, `etcd://…`,
/// `etcds://…`.
///
/// The text may hold a password. `Display` and `Debug` omit it, and every option.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl(Place);

#[derive(Clone, PartialEq, Eq)]
enum Place {
    Memory,
    Sqlite(PathBuf),
    /// The whole URL.
    Remote(Engine, Zeroizing<String>),
}

/// The engine of a store that several nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    ObjectStore,
    Postgres,
    Etcd,
}

/// What a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreKind<'a> {
    /// A store that ends with its process.
    Memory,
    /// A SQLite database at this path.
    Sqlite(&'a Path),
    /// A store that several nodes share over a network.
    Remote,
}

/// A text is no store URL of this build.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// It has no scheme of a store, or its scheme needs something else behind it.
    #[error(
        "a store is sqlite:PATH, memory:, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, \
         postgres://USER@HOST/DATABASE, etcd://HOST:PORT/PREFIX or etcds://HOST:PORT/PREFIX"
    )]
    Malformed,
    /// This build has no such store.
    #[error("{scheme} needs the cargo feature `{feature}`, which this build lacks")]
    NotBuilt {
        /// The scheme of the URL.
        scheme: String,
        /// The feature that adds the store.
        feature: &'static str,
    },
}

/// A store cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenUrlError {
    /// The database cannot be used.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Sqlite(#[from] OpenError),
    /// The URL, or what it names on this machine, cannot be used.
    #[cfg(feature = "remote-store")]
    #[error(transparent)]
    Remote(#[from] ConnectError),
    /// This build has no such store.
    #[error(transparent)]
    Url(#[from] StoreUrlError),
}

impl Engine {
    fn of_scheme(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" | "gs" | "az" => Some(Self::ObjectStore),
            "postgres" | "postgresql" => Some(Self::Postgres),
            "etcd" | "etcds" => Some(Self::Etcd),
            _ => None,
        }
    }

    /// The feature that has it, and whether this build has that.
    const fn feature(self) -> (&'static str, bool) {
        match self {
            Self::ObjectStore => ("object-store", cfg!(feature = "object-store")),
            Self::Postgres => ("postgres", cfg!(feature = "postgres")),
            Self::Etcd => ("etcd", cfg!(feature = "etcd")),
        }
    }
}

impl StoreUrl {
    /// What the URL names.
    pub fn kind(&self) -> StoreKind<'_> {
        match &self.0 {
            Place::Memory => StoreKind::Memory,
            Place::Sqlite(path) => StoreKind::Sqlite(path),
            Place::Remote(..) => StoreKind::Remote,
        }
    }

    /// Whether the text holds a password: it does not belong in an argument, which other users see.
    pub fn has_password(&self) -> bool {
        let Place::Remote(_, text) = &self.0 else { return false };
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['?', '&']).any(|option| option.starts_with("password="))
            || user_with_password(rest).is_some()
    }

    /// Opens the store. A remote store is asked nothing: see
    /// [`probe`](crate::store::remote::probe::probe).
    #[cfg_attr(not(feature = "remote-store"), allow(rustdoc::broken_intra_doc_links))]
    pub fn open(&self) -> Result<Arc<dyn Store>, OpenUrlError> {
        match &self.0 {
            Place::Memory => Ok(Arc::new(MemoryStore::default())),
            #[cfg(feature = "sqlite")]
            Place::Sqlite(path) => Ok(Arc::new(SqliteStore::open(path)?)),
            #[cfg(not(feature = "sqlite"))]
            Place::Sqlite(_) => Err(not_built("sqlite", "sqlite").into()),
            #[cfg(feature = "remote-store")]
            Place::Remote(engine, text) => Ok(open(*engine, text)?),
            #[cfg(not(feature = "remote-store"))]
            Place::Remote(engine, text) => {
                let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
                Err(not_built(scheme, engine.feature().0).into())
            }
        }
    }

    /// Opens the store, if it is one that several nodes share. Asks it nothing.
    #[cfg(feature = "remote-store")]
    pub fn open_remote(&self) -> Result<Option<Arc<dyn RemoteStore>>, ConnectError> {
        match &self.0 {
            Place::Remote(engine, text) => open(*engine, text).map(Some),
            Place::Memory | Place::Sqlite(_) => Ok(None),
        }
    }
}

/// Opens a store of this engine.
#[cfg(feature = "remote-store")]
fn open(engine: Engine, text: &str) -> Result<Arc<dyn RemoteStore>, ConnectError> {
    match engine {
        #[cfg(feature = "object-store")]
        Engine::ObjectStore => Ok(Arc::new(crate::store::ObjectStore::open(text)?)),
        #[cfg(feature = "postgres")]
        Engine::Postgres => Ok(Arc::new(crate::store::PostgresStore::open(text)?)),
        #[cfg(feature = "etcd")]
        Engine::Etcd => Ok(Arc::new(crate::store::EtcdStore::open(text)?)),
        // A URL of an engine that this build lacks is never parsed.
        #[allow(unreachable_patterns, reason = "the build may have all engines")]
        _ => Err(ConnectError::Url {
            url: shown(text),
            reason: format!("this build lacks the feature `{}`", engine.feature().0),
        }),
    }
}

fn not_built(scheme: &str, feature: &'static str) -> StoreUrlError {
    StoreUrlError::NotBuilt { scheme: format!("{scheme}:"), feature }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(url: &str) -> Result<Self, StoreUrlError> {
        let (scheme, rest) = url.split_once(':').ok_or(StoreUrlError::Malformed)?;
        match scheme {
            "memory" if rest.is_empty() => return Ok(Self(Place::Memory)),
            "sqlite" if !rest.is_empty() && cfg!(feature = "sqlite") => {
                return Ok(Self(Place::Sqlite(rest.into())));
            }
            "sqlite" if !rest.is_empty() => return Err(not_built(scheme, "sqlite")),
            _ => {}
        }
        let engine = Engine::of_scheme(scheme).ok_or(StoreUrlError::Malformed)?;
        if rest.strip_prefix("//").is_none_or(str::is_empty) {
            return Err(StoreUrlError::Malformed);
        }
        match engine.feature() {
            (_, true) => Ok(Self(Place::Remote(engine, Zeroizing::new(url.to_owned())))),
            (feature, false) => Err(not_built(scheme, feature)),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Memory => f.write_str("memory:"),
            Place::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Place::Remote(_, text) => f.write_str(&shown(text)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// A URL without password and options. What might be a part of a password, because that is not
/// encoded, is omitted as well.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "a store URL".to_owned() };
    let (user, rest) = match user_with_password(rest) {
        Some((user, rest)) => (format!("{user}@"), rest),
        None => (String::new(), rest),
    };
    let (rest, options) = rest.split_once(['?', '#']).map_or((rest, ""), |(rest, _)| (rest, "?…"));
    format!("{scheme}://{user}{rest}{options}")
}

/// Returns the name of the user and what follows the password, if there is one.
fn user_with_password(rest: &str) -> Option<(&str, &str)> {
    let (before, rest) = rest.rsplit_once('@')?;
    Some((before.split_once(':')?.0, rest))
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests {
    use super::*;

    fn parse(url: &str) -> StoreUrl {
        url.parse().unwrap()
    }

    #[test]
    fn every_scheme_is_known() {
        assert_eq!(parse("memory:").kind(), StoreKind::Memory);
        assert_eq!(parse("sqlite:a/b.db").kind(), StoreKind::Sqlite(Path::new("a/b.db")));
        for url in [
            "s3://bucket/prefix",
            "gs://bucket",
            "az://container/prefix",
            "postgres://h/db",
            "postgresql://h/db",
            "etcd://h1:2379,h2:2379/prefix",
            "etcds://h/prefix",
        ] {
            assert_eq!(parse(url).kind(), StoreKind::Remote, "{url}");
            assert_eq!(parse(url).to_string(), url);
        }
    }

    #[test]
    fn other_texts_are_no_stores() {
        for url in [
            "",
            "nonsense",
            "sqlite:",
            "memory:x",
            "memory",
            "s3:bucket",
            "s3://",
            "http://h/x",
            "https://h/x",
            "S3://b",
            "file:///x",
            ":",
            "postgres:/h/db",
        ] {
            assert_eq!(url.parse::<StoreUrl>(), Err(StoreUrlError::Malformed), "{url}");
        }
    }

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("postgres://u:secret@h1:1,h2/db?sslmode=require", "postgres://u@h1:1,h2/db?…"),
            ("postgres://u:se/cret@h/db", "postgres://u@h/db"),
            ("postgres://u:se?cret@h/db", "postgres://u@h/db"),
            ("postgres://u:se@cret@h/db", "postgres://u@h/db"),
            ("postgres://u:12/secret@h/db", "postgres://u@h/db"),
            ("postgres://:secret@h/db", "postgres://@h/db"),
            ("postgres://h/db?password=secret", "postgres://h/db?…"),
            ("etcds://u:secret@h:2379/p?ca=x#secret", "etcds://u@h:2379/p?…"),
        ] {
            let parsed = parse(url);
            assert!(parsed.has_password(), "{url}");
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(format!("{parsed:?}"), format!("StoreUrl({shown})"));
        }
        for url in
            ["s3://bucket/a@b", "postgres://u@h:5432/db?sslmode=require", "etcd://h:1/p", "sqlite:a:b@c"]
        {
            assert!(!parse(url).has_password(), "{url}");
        }
        assert_eq!(parse("s3://bucket/a@b").to_string(), "s3://bucket/a@b");
    }

    #[test]
    fn local_urls_open_their_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.db");
        for url in ["memory:".to_owned(), format!("sqlite:{}", path.display())] {
            let store = parse(&url).open().unwrap();
            assert_eq!(store.load().unwrap(), None, "{url}");
            assert!(parse(&url).open_remote().unwrap().is_none());
        }
    }
}

//! The token store of `optoken serve`.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::private_file::Mode;
use crate::store::{MemoryStore, SqliteStore, Store};

/// The name of the token store in the data directory.
const STORE_FILE: &str = "tokens.db";

#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct Storage {
    /// Directory of the token store, created with mode 0700 [default: optoken in the data directory
    /// of the user, such as ~/.local/share/optoken]
    #[arg(long, value_name = "DIR", env = "INFLUXDB3_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Token store: sqlite:PATH, or memory:, which loses all tokens at the end [default: sqlite: in
    /// the data directory]
    #[arg(long, value_name = "URL", env = "INFLUXDB3_TOKEN_STORE")]
    store: Option<StoreUrl>,

    /// The same in the words of InfluxDB: file for the data directory, memory for memory:
    #[arg(long, value_name = "KIND", env = "INFLUXDB3_OBJECT_STORE", conflicts_with = "store")]
    object_store: Option<ObjectStore>,
}

/// The kind and place of a store.
#[derive(Debug, Clone)]
enum StoreUrl {
    Sqlite(PathBuf),
    Memory,
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        match url.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("memory", "")) => Ok(Self::Memory),
            _ => Err("a store is sqlite:PATH or memory:".to_owned()),
        }
    }
}

/// The names in InfluxDB of the stores that exist here, too.
#[derive(Debug, Clone, Copy)]
enum ObjectStore {
    File,
    Memory,
}

impl FromStr for ObjectStore {
    type Err = &'static str;

    fn from_str(kind: &str) -> Result<Self, Self::Err> {
        match kind {
            "file" => Ok(Self::File),
            "memory" => Ok(Self::Memory),
            _ => Err("it is file or memory here; use --store for any other store"),
        }
    }
}

impl Storage {
    /// Opens the store, or creates it. Returns it with its file, if it is in one.
    pub(crate) fn open(&self) -> anyhow::Result<(Arc<dyn Store>, Option<PathBuf>)> {
        let path = match (&self.store, self.object_store) {
            (Some(StoreUrl::Memory), _) | (None, Some(ObjectStore::Memory)) => {
                tracing::warn!("token store: memory only, all tokens are lost when the server ends");
                return Ok((Arc::new(MemoryStore::default()), None));
            }
            (Some(StoreUrl::Sqlite(path)), _) => path.clone(),
            (None, Some(ObjectStore::File) | None) => {
                let directory = self.data_dir()?;
                prepare_data_dir(&directory)?;
                directory.join(STORE_FILE)
            }
        };
        let store = SqliteStore::open(&path)?;
        tracing::info!("token store: sqlite:{}", path.display());
        Ok((Arc::new(store), Some(path)))
    }

    /// Returns the data directory, if the store is in it.
    pub(crate) fn directory(&self) -> anyhow::Result<Option<PathBuf>> {
        match (&self.store, self.object_store) {
            (None, Some(ObjectStore::File) | None) => Ok(Some(self.data_dir()?)),
            _ => Ok(None),
        }
    }

    fn data_dir(&self) -> anyhow::Result<PathBuf> {
        self.data_dir.clone().map_or_else(default_data_dir, Ok)
    }
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    // An empty variable counts as unset, a relative one as invalid (XDG Base Directory
    // Specification).
    let directory = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("XDG_DATA_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("optoken"))
        .context(
            "there is no home directory for the token store: name a directory with --data-dir or INFLUXDB3_DATA_DIR",
        )
}

/// Creates the directory if it does not exist. Rejects one in which other users can replace the
/// store.
fn prepare_data_dir(directory: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot use the data directory {}", directory.display());
    if fs::metadata(directory).is_ok_and(|metadata| !metadata.is_dir()) {
        bail!("{}: it is not a directory", named());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
    let mode = Mode::of(&fs::metadata(directory).with_context(named)?);
    if mode.is_writable_by_others() {
        bail!(
            "{0}: others can write to it (mode {mode:o}); run: chmod go-w {1}",
            named(),
            directory.display()
        );
    }
    Ok(())
}

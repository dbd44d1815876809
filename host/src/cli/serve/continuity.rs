//! The options that keep an old catalog from coming back.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::authority::Builder;
use crate::cli::serve::storage::{MARK_FILE, MARK_SUFFIX, Storage, prepare_private_directory};
use crate::private_file::with_suffix;

#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct Continuity {
    /// Directory of the high-water mark, created with mode 0700 [default: beside the token store,
    /// or the data directory if the store is on other machines]
    ///
    /// The mark is the newest state of the catalog that this server has seen. A server does not
    /// start on an older one. On another disk than the token store, the mark also shows that the
    /// whole disk of the store went back. Each server needs a directory of its own.
    #[arg(long, value_name = "DIR", env = "INFLUXDB3_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// Accept the catalog of the token store, which is older than the server has seen, at this
    /// sequence; 0 accepts an empty store
    ///
    /// Tokens that were revoked since are accepted again: `restore` replaces the operator token,
    /// this option does not. The use is noted beside the high-water mark, and a second one for the
    /// same sequence is refused. The option has no effect on a catalog that is not older.
    #[arg(long, value_name = "SEQUENCE", env = "INFLUXDB3_ACCEPT_CATALOG_AT")]
    accept_catalog_at: Option<u64>,
}

impl Continuity {
    /// Adds the options to an authority whose store is this file, if it is in one.
    pub(crate) fn apply<'a>(
        &self,
        builder: Builder<'a>,
        storage: &Storage,
        store_file: Option<&Path>,
    ) -> anyhow::Result<Builder<'a>> {
        let builder = match self.mark(storage, store_file)? {
            Some(mark) => builder.high_water_mark(mark),
            None => builder,
        };
        Ok(match self.accept_catalog_at {
            Some(sequence) => builder.accept_catalog_at(sequence),
            None => builder,
        })
    }

    /// The sequence that the operator accepts.
    pub(crate) const fn accepted(&self) -> Option<u64> {
        self.accept_catalog_at
    }

    /// The file of the high-water mark, if there is a place for it.
    pub(crate) fn mark(
        &self,
        storage: &Storage,
        store_file: Option<&Path>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let Some(directory) = &self.state_dir else {
            return match store_file {
                Some(file) => Ok(Some(mark_beside(file))),
                None => storage.mark_of_remote(),
            };
        };
        prepare_private_directory(directory)
            .with_context(|| format!("--state-dir: cannot use {}", directory.display()))?;
        Ok(Some(directory.join(MARK_FILE)))
    }
}

/// The high-water mark of a server without a state directory.
pub(crate) fn mark_beside(store_file: &Path) -> PathBuf {
    with_suffix(store_file, MARK_SUFFIX)
}

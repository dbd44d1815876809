//! `optoken backup`: copies the token store into one file.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::authority::Authority;
use crate::cli::file_store::FileStore;
use crate::program;
use crate::store::sqlite::copies;
use crate::store::{MemoryStore, Store as _};

/// Copy the token store into a new file.
///
/// The copy has the newest state, and is complete or absent. A server may use the store meanwhile.
/// The file is created with mode 0600 and never replaced. It holds hashes of tokens, no tokens.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Back up the store of this user's server:
    {program} backup tokens-$(date +%F).db
  Back up another store:
    {program} backup --data-dir /var/lib/optoken /mnt/backup/tokens.db
  Put a backup back, see:
    {program} restore --help"))]
pub(crate) struct Backup {
    /// The new file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    storage: FileStore,
}

/// The content of a backup.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    file: &'a str,
    catalog_id: &'a str,
    sequence: u64,
    tokens: usize,
}

impl Backup {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let source = self.storage.0.existing_file()?;
        let entry = copies::backup(&source, &self.file)?;
        let authority = open_copy(&entry.document)?;
        let sequence = authority.catalog_state()?.map_or(0, |state| state.audit_sequence);
        let (catalog_id, tokens) = (authority.catalog_id(), authority.list_tokens()?.len());
        let file = self.file.display().to_string();
        let mut stdout = io::stdout().lock();
        if self.json {
            let summary = Summary { file: &file, catalog_id, sequence, tokens };
            serde_json::to_writer(&mut stdout, &summary)?;
            writeln!(stdout)
        } else {
            writeln!(
                stdout,
                "Backed up catalog {catalog_id} at sequence {sequence}, with {tokens} tokens, to: {file}"
            )
        }
        .context("cannot write to standard output")
    }
}

/// Returns an authority over a copy of a catalog in memory.
fn open_copy(document: &str) -> anyhow::Result<Authority> {
    let store = MemoryStore::default();
    store.swap(None, document)?;
    Authority::builder(store).build().context("cannot read the catalog of the backup")
}

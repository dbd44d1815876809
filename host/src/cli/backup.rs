//! `optoken backup`: copies the token store into one file.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;

use crate::cli::any_store::open_copy;
use crate::cli::file_store::FileStore;
use crate::program;
use crate::store::relocation;
use crate::store::remote::RemoteStore;
use crate::store::sqlite::copies;

/// Copy the token store into a new file.
///
/// The copy has the newest state, and is complete or absent. Servers may use the store meanwhile.
/// The file is created with mode 0600 and never replaced. It holds hashes of tokens, no tokens. It
/// is a database as `sqlite:` has it, whatever the store is.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Back up the store of this user's server:
    {program} backup tokens-$(date +%F).db
  Back up another store:
    {program} backup --data-dir /var/lib/optoken /mnt/backup/tokens.db
  Back up the store that servers on several machines share:
    {program} backup --store s3://bucket/optoken tokens.db
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
        let entry = match self.storage.0.remote()? {
            Some(store) => copies::export(&read_remote(&*store)?, &self.file)?,
            None => copies::backup(&self.storage.0.existing_file()?, &self.file)?,
        };
        let authority = open_copy(&entry.document).context("cannot use the catalog of the backup")?;
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

/// Reads the catalog of a store on other machines.
fn read_remote(store: &dyn RemoteStore) -> anyhow::Result<String> {
    let address = store.address();
    let entry = store.load().with_context(|| format!("cannot read the token store {address}"))?;
    let document = entry.with_context(|| format!("there is no token store at {address}"))?.document;
    match relocation::refusal(&document) {
        Some(refusal) => bail!("{address}: {refusal}"),
        None => Ok(document),
    }
}

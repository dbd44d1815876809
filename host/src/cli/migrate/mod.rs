//! `optoken migrate`: moves the tokens to another store, so that no server is left behind
//! unnoticed.

mod steps;

use std::io::{self, Write as _};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;

use self::steps::{Found, Side, examine, relocate};
use crate::cli::any_store::{AnyStore, open_copy};
use crate::cli::environment::STORE_VARIABLE;
use crate::cli::prompt::ask;
use crate::cli::stderr::{print_stderr, warn};
use crate::cli::store_argument::StoreUrlParser;
use crate::program;
use crate::store::StoreUrl;
use crate::store::remote::Usable;
use crate::store::remote::probe::Extent;
use crate::token::now;
use crate::visible_text::{escape, escape_json};

/// Move all tokens to another token store.
///
/// Tries the target as `store check` does, and refuses one that holds a catalog. Copies the
/// catalog, reads it back and compares it. Then the source is replaced by a note that names the
/// target, in the very state that was copied. Servers that still use the source refuse all tokens
/// (503) from that moment, and their logs name the target. Start them with it.
///
/// Servers may run meanwhile. An interrupted move is continued by the same command. The tokens, the
/// audit chain and the identifier of the catalog stay as they are.
///
/// Where no terminal is, add --yes: a question without an answer ends the command without a change.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  From a file to PostgreSQL, with the password in the variable PGPASSWORD:
    {program} migrate --from sqlite:/var/lib/optoken/tokens.db --to 'postgres://optoken@db.example/optoken'
  From a file to a bucket, with the credentials of the environment:
    {program} migrate --from sqlite:/var/lib/optoken/tokens.db --to s3://bucket/optoken
  Back to a file:
    {program} migrate --from s3://bucket/optoken --to sqlite:/var/lib/optoken/tokens.db"))]
pub(crate) struct Migrate {
    /// The store that holds the tokens, as for `serve --store`
    ///
    /// Other users of this machine can see an argument. A URL with a password belongs into the
    /// variable.
    #[arg(long, value_name = "URL", env = STORE_VARIABLE, hide_env_values = true, value_parser = StoreUrlParser)]
    from: StoreUrl,

    /// The store that gets them, which holds no catalog
    #[arg(
        long,
        value_name = "URL",
        env = "INFLUXDB3_TOKEN_STORE_TO",
        hide_env_values = true,
        value_parser = StoreUrlParser
    )]
    to: StoreUrl,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was moved.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    from: &'a str,
    to: &'a str,
    catalog_id: &'a str,
    sequence: u64,
    tokens: usize,
}

impl Migrate {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let from = AnyStore::open(&self.from).context("cannot use the source")?;
        let to = AnyStore::open(&self.to).context("cannot use the target")?;
        let sides = || (Side::of(&from), Side::of(&to));
        // Before the target is tried, which takes longer.
        let (source, target) = sides();
        let found = examine(source, target)?;
        let catalog = Catalog::read(found.document())?;
        if let Found::Finished { catalog_id, .. } = &found {
            ensure!(
                *catalog_id == catalog.id,
                "the tokens of {} were moved to {1}, but {1} holds another catalog, {2}, in place of {catalog_id}; put a \
                 backup of that catalog into an empty place with `restore`",
                from.address,
                to.address,
                catalog.id
            );
            print_stderr("An earlier run has moved the tokens; nothing is left to do.");
        } else {
            if matches!(found, Found::Unfinished { .. }) {
                print_stderr("An interrupted run has left the source; finishing it.");
            }
            try_target(&to)?;
            print_stderr(&format!("{catalog}: from {} to {}", from.address, to.address));
            self.confirm()?;
        }
        let document = relocate(source, target, &catalog.id, now())?;
        let Catalog { id, sequence, tokens } = Catalog::read(&document)?;
        let summary = Summary { from: &from.address, to: &to.address, catalog_id: &id, sequence, tokens };
        self.print(&summary)
            .context("the tokens were moved, but that cannot be written to standard output")?;
        explain(&from, &to);
        Ok(())
    }

    fn confirm(&self) -> anyhow::Result<()> {
        let question = "Servers that use the source will refuse all tokens until they are started with the target. Enter \
                        'yes' to move the tokens";
        if !self.yes && ask(question)? != "yes" {
            bail!(
                "Cannot move the tokens without confirmation (answer 'yes', or use --yes); nothing was changed"
            );
        }
        Ok(())
    }

    fn print(&self, summary: &Summary<'_>) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        if self.json {
            writeln!(stdout, "{}", escape_json(&serde_json::to_string(summary)?))?;
        } else {
            let Summary { from, to, catalog_id, sequence, tokens } = summary;
            let text = format!(
                "Moved catalog {catalog_id} at sequence {sequence}, with {tokens} tokens, from {from} to: {to}"
            );
            writeln!(stdout, "{}", escape(&text))?;
        }
        Ok(())
    }
}

impl<'a> Side<'a> {
    fn of(store: &'a AnyStore) -> Self {
        Self { address: &store.address, store: &*store.store }
    }
}

/// What is moved.
struct Catalog {
    id: String,
    sequence: u64,
    tokens: usize,
}

impl Catalog {
    fn read(document: &str) -> anyhow::Result<Self> {
        let copy =
            open_copy(document).context("cannot read the catalog of the source; nothing was changed")?;
        Ok(Self {
            id: copy.catalog_id().to_owned(),
            sequence: copy.catalog_state()?.map_or(0, |state| state.audit_sequence),
            tokens: copy.list_tokens()?.len(),
        })
    }
}

impl std::fmt::Display for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, sequence, tokens } = self;
        write!(f, "Catalog {id} at sequence {sequence}, with {tokens} tokens")
    }
}

/// Tries whether the target keeps what a server needs of it.
fn try_target(to: &AnyStore) -> anyhow::Result<()> {
    let report = to
        .probe(Extent::Full)
        .with_context(|| format!("{} could not be tried; nothing was changed", to.address))?;
    if let Some(refusal) = report.refusal() {
        bail!("{} cannot be used: {}: {}; nothing was changed", to.address, refusal.check, refusal.found);
    }
    for limit in report.rows.iter().filter(|row| row.usable == Usable::WithLimit) {
        warn(&format!("{}: {}: {}", to.address, limit.check, limit.found));
    }
    Ok(())
}

/// Prints how the servers follow.
fn explain(from: &AnyStore, to: &AnyStore) {
    print_stderr(
        "Start every server with the target: give its URL with --store or INFLUXDB3_TOKEN_STORE. Until then they refuse all \
         tokens.",
    );
    let mark = match (from.file(), to.file()) {
        (Some(from), None) => Some((
            format!("{}-high-water", from.display()),
            "high-water.json in its data directory".to_owned(),
        )),
        (None, Some(to)) => {
            Some(("high-water.json in its data directory".to_owned(), format!("{}-high-water", to.display())))
        }
        (Some(from), Some(to)) => {
            Some((format!("{}-high-water", from.display()), format!("{}-high-water", to.display())))
        }
        (None, None) => None,
    };
    print_stderr(&match mark {
        Some((from, to)) => format!(
            "High-water mark: a server with --state-dir keeps it. Otherwise copy it on each machine before the start, from \
             {from} to {to}; without it, the server begins with the state that it finds."
        ),
        None => "High-water mark: each server keeps it, as it stays in the same directory.".to_owned(),
    });
    print_stderr(&format!(
        "{} holds a note that names the target, so that no server goes on there. Keep it until no server names it any more. \
         Backups and old versions of it hold hashes of tokens.",
        from.address
    ));
}

//! `optoken store check`: tries whether a token store can be used.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use comfy_table::Table;
use serde::Serialize;

use crate::cli::any_store::AnyStore;
use crate::cli::environment::STORE_VARIABLE;
use crate::cli::store_argument::StoreUrlParser;
use crate::program;
use crate::store::StoreUrl;
use crate::store::remote::probe::{Extent, Report};
use crate::store::remote::{Finding, Usable};
use crate::visible_text::{escape, escape_json};

/// The borders of the other tables of this program, as a preset of `comfy_table`.
const PRESET: &str = "||--+-++|    ++++++";

/// Try a token store.
#[derive(Debug, Args)]
pub(crate) struct StoreCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Check(Check),
}

/// Try whether a store keeps what a server needs of it.
///
/// Writes and removes documents of its own beside the catalog, which is not touched. Writers follow
/// each other, then they race: exactly one of those that expect the same state may win. A server
/// tries the same when it starts, without the large document.
///
/// Exit code 0 means that the store can be used, also with a limit that the table names.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Try a bucket, with the credentials of the environment:
    {program} store check s3://bucket/optoken
  Try a database, with the password in the variable PGPASSWORD:
    {program} store check 'postgres://optoken@db.example/optoken?sslmode=require'
  Try the store of a server, from its environment file:
    INFLUXDB3_TOKEN_STORE=etcds://etcd.example:2379/optoken {program} store check"))]
struct Check {
    /// The store, as for `serve --store`
    ///
    /// Other users of this machine can see an argument. A URL with a password belongs into the
    /// variable.
    #[arg(value_name = "URL", env = STORE_VARIABLE, hide_env_values = true, value_parser = StoreUrlParser)]
    store: StoreUrl,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Summary<'a> {
    store: &'a str,
    usable: bool,
    checks: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    check: &'a str,
    result: &'static str,
    found: &'a str,
}

impl<'a> Row<'a> {
    fn new(finding: &'a Finding) -> Self {
        let result = match finding.usable {
            Usable::Yes => "ok",
            Usable::WithLimit => "limit",
            Usable::No => "failed",
        };
        Self { check: &finding.check, result, found: &finding.found }
    }
}

impl StoreCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Action::Check(check) = self.action;
        check.check()
    }
}

impl Check {
    fn check(&self) -> anyhow::Result<()> {
        let store = AnyStore::open(&self.store)?;
        let report = store
            .probe(Extent::Full)
            .with_context(|| format!("{} could not be tried, so nothing is known of it", store.address))?;
        self.print(&store.address, &report).context("cannot write to standard output")?;
        if let Some(refusal) = report.refusal() {
            bail!("{} cannot be used: {}: {}", store.address, refusal.check, refusal.found);
        }
        Ok(())
    }

    fn print(&self, store: &str, report: &Report) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        let rows = report.rows.iter().map(Row::new);
        if self.json {
            let summary = Summary { store, usable: report.refusal().is_none(), checks: rows.collect() };
            writeln!(stdout, "{}", escape_json(&serde_json::to_string(&summary)?))
        } else {
            let mut table = Table::new();
            table.load_preset(PRESET).set_header(["check", "result", "found"]);
            for row in rows {
                table.add_row([row.check, row.result, row.found]);
            }
            writeln!(stdout, "{}", escape(&table.to_string()))
        }
    }
}

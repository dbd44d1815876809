//! `optoken show tokens`: lists the tokens of a server, without their secrets
//! (docs/compatibility.md 4.3).

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::connection::Connection;
use crate::program;

/// Show the tokens of a server.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(subcommand)]
    resource: Resource,
}

#[derive(Debug, Subcommand)]
enum Resource {
    Tokens(Tokens),
}

/// List all tokens, expired ones included.
///
/// The list has no secrets: the server keeps only hashes, and shows the beginning of each.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  A table, with a token in INFLUXDB3_AUTH_TOKEN:
    {program} show tokens
  The names, for a script:
    {program} show tokens --format json | jq -r '.[].name'"))]
struct Tokens {
    /// Format of the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ListFormat {
    /// A table for people
    #[default]
    Pretty,
    /// One JSON array
    Json,
    /// One JSON object per line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
    /// Binary, which cannot be printed
    Parquet,
}

impl Show {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Resource::Tokens(tokens) = self.resource;
        tokens.show()
    }
}

impl Tokens {
    fn show(&self) -> anyhow::Result<()> {
        let format = match self.format {
            ListFormat::Pretty => "pretty",
            ListFormat::Json => "json",
            ListFormat::Jsonl => "jsonl",
            ListFormat::Csv => "csv",
            ListFormat::Parquet => {
                bail!("parquet is binary and cannot be printed; use --format json, jsonl or csv")
            }
        };
        let token = self.connection.token(None, false)?;
        let list = self.connection.client(token.is_some())?.list(token.as_ref(), format)?;
        let end = if list.ends_with('\n') { "" } else { "\n" };
        write!(io::stdout(), "{list}{end}").context("cannot write the list to standard output")
    }
}

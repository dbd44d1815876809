//! `optoken delete token`: deletes a named token (docs/compatibility.md 4.2).

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use optoken_protocol::redact::redact;

use crate::cli::connection::Connection;
use crate::cli::prompt::ask;
use crate::program;
use crate::token::OPERATOR;
use crate::visible_text::escape;

/// Delete a resource.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(subcommand)]
    resource: Resource,
}

#[derive(Debug, Subcommand)]
enum Resource {
    Token(Token),
}

/// Delete a named token.
///
/// The server refuses it from then on, and its name is free. The operator token can only be
/// replaced: see `create token --admin --help`.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  List the tokens, and delete one:
    {program} show tokens
    {program} delete token --token-name ci
  In a script, with a token in a file:
    {program} delete token --token-name ci --yes --token-file operator-token"))]
struct Token {
    /// Name of the token to delete
    #[arg(long = "token-name", value_name = "NAME")]
    name: String,

    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Delete {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Resource::Token(token) = self.resource;
        token.delete()
    }
}

impl Token {
    fn delete(&self) -> anyhow::Result<()> {
        let name = &self.name;
        if name == OPERATOR {
            bail!(
                "The operator token \"_admin\" is required and cannot be deleted. To regenerate an operator token, use: \
                 {} create token --admin --regenerate --token [TOKEN]",
                program::name()
            );
        }
        let token = self.connection.token(None, !self.yes)?;
        if !self.yes {
            // Users give the token instead of its name.
            let question = format!(
                "Are you sure you want to delete \"{}\"? Enter 'yes' or 'y' to confirm",
                redact(name)
            );
            if !matches!(ask(&question)?.to_lowercase().as_str(), "yes" | "y") {
                bail!("Cannot proceed without confirmation\nAnswer 'yes' or 'y', or use --yes.");
            }
        }
        self.connection.client(token.is_some())?.delete(token.as_ref(), name)?;
        writeln!(io::stdout(), "Token \"{}\" deleted successfully", escape(name))
            .context("the token was deleted, but that cannot be written to standard output")
    }
}

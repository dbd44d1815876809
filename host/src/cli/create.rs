//! `influxdb3 create token --admin`: makes the operator token, or replaces it (COMPAT 4.1).

use std::io::{self, BufRead as _, Write as _};

use anyhow::{Context as _, bail};
use clap::builder::styling::{AnsiColor, Style};
use clap::{Args, CommandFactory as _, Subcommand, ValueEnum};
use serde_json::json;

use crate::client::{Client, DEFAULT_HOST};
use crate::secret::Secret;

/// Create a resource.
#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(subcommand)]
    resource: Resource,
}

#[derive(Debug, Subcommand)]
enum Resource {
    Token(Token),
}

/// Create an admin token, or replace the operator token.
#[derive(Debug, Args)]
struct Token {
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Debug, Subcommand)]
enum Kind {
    #[command(name = "--admin")]
    Admin(Admin),
}

/// Create the operator token, named _admin, or replace it with --regenerate.
///
/// The token is shown once: the server keeps only its hash.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Create the first operator token:
    influxdb3 create token --admin
  Replace it; the old one stops working at once:
    influxdb3 create token --admin --regenerate --token OLD_TOKEN
  It is lost: start the server with --admin-token-recovery-http-bind, then
    influxdb3 create token --admin --regenerate --host http://127.0.0.1:8182")]
struct Admin {
    /// URL of the server, or of its recovery listener
    #[arg(short = 'H', long, value_name = "URL", env = "INFLUXDB3_HOST_URL", default_value = DEFAULT_HOST)]
    host: String,

    /// The operator token that is being replaced
    ///
    /// Other users of this machine can see it in the list of processes while the command runs; the environment
    /// variable is not seen.
    #[arg(long, value_name = "TOKEN", env = "INFLUXDB3_AUTH_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// The same as --token, as older documentation has it
    #[arg(value_name = "TOKEN", hide = true)]
    token_argument: Option<String>,

    /// Replace the operator token; the old one stops working at once
    #[arg(long)]
    regenerate: bool,

    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,

    /// How to show the new token
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// One JSON object and nothing else
    Json,
    /// For people
    #[default]
    Text,
}

impl Create {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Resource::Token(Token { kind }) = self.resource;
        match kind {
            Some(Kind::Admin(admin)) => admin.run(),
            None => super::CommandLine::command()
                .error(
                    clap::error::ErrorKind::MissingSubcommand,
                    "Missing required subcommand. Use: influxdb3 create token --admin [OPTIONS]",
                )
                .exit(),
        }
    }
}

impl Admin {
    fn run(self) -> anyhow::Result<()> {
        // What is said last wins: an argument was typed, the environment may have been forgotten.
        let token = self.token_argument.or(self.token).filter(|token| !token.is_empty()).map(Secret::from);
        let client = Client::new(&self.host)?;
        let issued = if self.regenerate {
            if !self.yes {
                confirm()?;
            }
            client.regenerate_operator(token.as_ref())?
        } else {
            client.create_operator()?
        };
        show(&issued, self.format).context("the token was created, but cannot be written to standard output")
    }
}

/// Asks on stderr, so that stdout stays what the format says.
fn confirm() -> anyhow::Result<()> {
    anstream::eprintln!("Are you sure you want to regenerate admin token? Enter 'yes' to confirm");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("Cannot regenerate token without confirmation (answer 'yes', or use --yes)");
    }
    Ok(())
}

fn show(token: &Secret, format: Format) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    let header = zeroize::Zeroizing::new(format!("Authorization: Bearer {}", token.expose()));
    match format {
        Format::Json => {
            let help = zeroize::Zeroizing::new(format!(
                "Store this token securely, as it will not be shown again. \
                 HTTP requests require the following header: \"{}\"",
                *header
            ));
            serde_json::to_writer_pretty(&mut out, &json!({ "help_msg": *help, "token": token.expose() }))?;
            writeln!(out)?;
        }
        Format::Text => {
            let (bold, underlined) = (Style::new().bold(), Style::new().underline());
            let warning = AnsiColor::Red.on_default().bold();
            writeln!(
                out,
                "\n{underlined}New token created successfully!{underlined:#}\n\n\
                 {bold}Token:{bold:#} {token}\n\
                 {bold}HTTP Requests Header:{bold:#} {header}\n\n\
                 {warning}IMPORTANT:{warning:#} Store this token securely, as it will not be shown again.\n",
                token = token.expose(),
                header = *header,
            )?;
        }
    }
    out.flush()
}

//! `influxdb3 create token --admin`: makes the operator token, or replaces it, or makes a named admin token
//! (COMPAT 4.1).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::builder::styling::{AnsiColor, Style};
use clap::error::ErrorKind;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::confirm::ask;
use super::connection::Connection;
use super::offline::OfflineToken;
use super::replace::may_replace;
use super::rotate::Rotation;
use super::{misuse, say, warn};
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
#[command(after_help = "\
Examples:
  Create the first operator token:
    influxdb3 create token --admin
  All that can be done with it, and more examples:
    influxdb3 create token --admin --help")]
struct Token {
    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Debug, Subcommand)]
enum Kind {
    #[command(name = "--admin")]
    Admin(Admin),
}

/// Create the operator token, named _admin, replace it with --regenerate, or create a named admin token with --name.
///
/// The token is shown once: the server keeps only its hash.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Create the first operator token:
    influxdb3 create token --admin
  Replace it in the file that it is in; the old one stops working at once:
    influxdb3 create token --admin --regenerate --token-file operator-token --output-file operator-token
  Replace it, and accept the old one for another hour:
    influxdb3 create token --admin --regenerate --token-file old-token --output-file new-token --overlap 1h
  It is lost: start the server with --admin-token-recovery-http-bind, then
    influxdb3 create token --admin --regenerate --host http://127.0.0.1:8182
  Create a named admin token, with the operator token in INFLUXDB3_AUTH_TOKEN:
    influxdb3 create token --admin --name ci --expiry 90d
  Make a token without a server, and start a server with it:
    influxdb3 create token --admin --offline --output-file admin-token.json
    influxdb3 serve --admin-token-file admin-token.json")]
struct Admin {
    /// The same as --token, as older documentation has it
    #[arg(value_name = "TOKEN", hide = true)]
    token_argument: Option<Secret>,

    /// Replace the operator token, which is given with --token or --token-file; the old one stops working at once
    ///
    /// With --output-file nobody is locked out, whatever fails: the new token is on the disk before the old one stops
    /// working, and running the same command again finishes what was interrupted.
    #[arg(long)]
    regenerate: bool,

    /// Accept the replaced token for so long, such as 15min or 1h, instead of not at all
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds, requires = "regenerate")]
    overlap: Option<u64>,

    /// The code that token recovery asks for where serve was told --admin-token-recovery-code; - reads it from standard input
    #[arg(long, value_name = "CODE", env = "INFLUXDB3_RECOVERY_CODE", hide_env_values = true)]
    recovery_code: Option<Secret>,

    /// Create an admin token of this name instead of the operator token
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How long the named token is accepted, such as 30min, 12h, 10d or 1y [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    expiry: Option<u64>,

    /// Make the token here, without a server, and write it to --output-file
    #[arg(long, requires = "output_file")]
    offline: bool,

    /// File for the token that is made with --offline or --regenerate
    ///
    /// With --offline it is what influxdb3 serve takes with --admin-token-file. With --regenerate it holds the token alone,
    /// as --token-file takes it, or stays the JSON that it is; the token is not shown, and until it is in force it waits
    /// in FILE.staged. Only the owner can read these files (mode 0600).
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,

    /// File for the SHA-512 of the token that is made with --offline
    ///
    /// With influxdb3 serve --admin-token-file a server takes this file as well. It then accepts the token and never
    /// holds its text, so that the file need not be kept secret.
    #[arg(long, value_name = "FILE", requires = "offline")]
    hash_file: Option<PathBuf>,

    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,

    /// How to show the new token
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// One JSON object and nothing else
    Json,
    /// For people
    #[default]
    Text,
}

/// The whole seconds of a duration.
fn whole_seconds(text: &str) -> Result<u64, String> {
    humantime::parse_duration(text)
        .map(|duration| duration.as_secs())
        .map_err(|error| format!("{error}; a duration is one like 30min, 12h, 10d, 1y or \"1y 6months\""))
}

impl Create {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Resource::Token(Token { kind }) = self.resource;
        match kind {
            Some(Kind::Admin(admin)) => admin.run(),
            None => Err(misuse(
                &["create", "token"],
                ErrorKind::MissingSubcommand,
                "Missing required subcommand. Use: influxdb3 create token --admin [OPTIONS]",
            )
            .into()),
        }
    }
}

impl Admin {
    fn run(self) -> anyhow::Result<()> {
        self.check()?;
        if self.name.is_none() && self.expiry.is_some() {
            warn("the operator token never expires, so --expiry is ignored; it is for a token with a --name");
        }
        match &self.output_file {
            Some(output) if self.offline => return self.make_offline(output),
            Some(_) if !self.regenerate => {
                warn(
                    "--output-file is used with --offline and --regenerate only; the token is not written to it",
                );
            }
            _ => {}
        }
        if self.regenerate {
            return self.regenerate();
        }
        let issued = self.ask_server()?;
        show(&issued, self.format).context("the token was created, but cannot be written to standard output")
    }

    /// What clap does not judge.
    fn check(&self) -> Result<(), clap::Error> {
        let conflict = |text: &str| {
            let yellow = AnsiColor::Yellow.on_default();
            let text = format!("{yellow}{text}{yellow:#}");
            Err(misuse(&["create", "token", "--admin"], ErrorKind::ArgumentConflict, &text))
        };
        if self.regenerate && self.name.is_some() {
            return conflict(
                "--regenerate cannot be used with --name, --regenerate only applies for operator token",
            );
        }
        if self.regenerate && self.offline {
            return conflict(
                "--regenerate cannot be used with --offline: no server is asked, so no token of it would be replaced",
            );
        }
        if self.offline && self.output_file == self.hash_file {
            return conflict("--output-file and --hash-file are one file: the token would be lost");
        }
        Ok(())
    }

    fn ask_server(&self) -> anyhow::Result<Secret> {
        let token = self.connection.token(self.token_argument.as_ref(), false)?;
        let client = self.connection.client(true)?;
        let issued = match &self.name {
            Some(name) => client.create_named(token.as_ref(), name, self.expiry)?,
            None => client.create_operator()?,
        };
        Ok(issued)
    }

    fn regenerate(&self) -> anyhow::Result<()> {
        let token = self.connection.token(self.token_argument.as_ref(), !self.yes)?;
        let client = self.connection.client(true)?;
        if !self.yes {
            confirm_regenerate()?;
        }
        let code = self.recovery_code()?;
        let rotation = Rotation {
            client: &client,
            credential: token.as_ref(),
            code: code.as_ref(),
            overlap: self.overlap.unwrap_or(0),
            show: &|token| show(token, self.format),
        };
        match &self.output_file {
            Some(output) => {
                // That it is to be replaced there has been confirmed.
                let same = self.connection.token_file() == Some(output.as_path());
                may_replace(output, self.yes || same)?;
                rotation.to_file(output)
            }
            None => rotation.to_screen(),
        }
    }

    /// The recovery code, where there is one. An empty variable counts as none.
    fn recovery_code(&self) -> io::Result<Option<Secret>> {
        match &self.recovery_code {
            Some(code) if code.expose() == "-" => Ok(Some(ask("Enter the recovery code")?.into())),
            code => Ok(code.clone().filter(|code| !code.expose().is_empty())),
        }
    }

    fn make_offline(&self, output: &Path) -> anyhow::Result<()> {
        for file in [Some(output), self.hash_file.as_deref()].into_iter().flatten() {
            may_replace(file, self.yes)?;
        }
        let lifetime = self.expiry.filter(|_| self.name.is_some());
        let token = OfflineToken::mint(self.name.as_deref(), lifetime)?;
        token.save(output)?;
        let mut saved = format!("Token saved to: {}", output.display());
        if let Some(hash_file) = &self.hash_file {
            token.save_hash(hash_file).with_context(|| format!("{saved}, but not its hash"))?;
            saved = format!("{saved}\nHash saved to: {}", hash_file.display());
        }
        let shown = match self.format {
            // For stdout is one JSON object.
            Format::Json => {
                say(&saved);
                Ok(())
            }
            Format::Text => writeln!(anstream::stdout(), "{saved}"),
        };
        shown
            .and_then(|()| show(&token.secret, self.format))
            .with_context(|| format!("{saved}, but it cannot be written to standard output"))
    }
}

fn confirm_regenerate() -> anyhow::Result<()> {
    if ask("Are you sure you want to regenerate admin token? Enter 'yes' to confirm")? != "yes" {
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

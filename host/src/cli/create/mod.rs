//! `optoken create token --admin`: creates the operator token, replaces it, or creates a named
//! admin token (docs/compatibility.md 4.1). `--permission` creates a token with permissions.

mod format;
pub(crate) mod offline;
mod rotation;
mod scoped;
pub(crate) mod staged_file;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::builder::styling::AnsiColor;
use clap::error::ErrorKind;
use clap::{Args, Subcommand};

use crate::cli::connection::Connection;
use crate::cli::create::format::TokenFormat;
use crate::cli::create::offline::OfflineToken;
use crate::cli::create::rotation::Rotation;
use crate::cli::create::scoped::Scoped;
use crate::cli::create::staged_file::staged_path;
use crate::cli::duration::{overlap_seconds, whole_seconds};
use crate::cli::output_file::{confirm_overwrite, is_same_file, lock_directory_of, resolve_output_path};
use crate::cli::prompt::ask;
use crate::cli::stderr::warn;
use crate::cli::usage_error::UsageError;
use crate::program;
use crate::secret::Secret;

/// Create a resource.
#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(subcommand)]
    resource: Resource,
}

#[derive(Debug, Subcommand)]
enum Resource {
    Token(Token),
}

/// Create a new auth token, or replace the operator token.
///
/// `--admin` is the name of the subcommand: its options follow it. Without it, --permission and
/// --name create a token that may do less than everything.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = program::named("\
Examples:
  Create the first operator token:
    {program} create token --admin
  List all options of --admin, with more examples:
    {program} create token --admin --help
  Create a token that reads one database, with an admin token in INFLUXDB3_AUTH_TOKEN:
    {program} create token --permission db:sensors:read --name dashboard --expiry 90d
  One that writes to two databases, and reads the health of the server:
    {program} create token --permission db:a,b:write --permission system:health:read --name writer
  One for any other service: all that begins with /api/, and one path of one host:
    {program} create token --permission 'http:/api/*:read' --permission http:db.example/jobs:POST --name app
  Create tokens without a server, each run one more in the file, and start a server with them:
    {program} create token --permission 'db:*:read' --name reader --offline --output-file tokens.json
    {program} serve --permission-tokens-file tokens.json"))]
struct Token {
    #[command(flatten)]
    scoped: Scoped,

    #[command(subcommand)]
    kind: Option<Kind>,
}

#[derive(Debug, Subcommand)]
enum Kind {
    #[command(name = "--admin")]
    Admin(Admin),
}

/// Create the operator token, replace it with --regenerate, or create a named admin token with
/// --name.
///
/// The name of the operator token is _admin. The token is shown once: the server keeps only its
/// hash.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Create the first operator token:
    {program} create token --admin
  Replace it in its file; the old one stops working at once:
    {program} create token --admin --regenerate --token-file operator-token --output-file operator-token
  Replace it, and accept the old one for another hour:
    {program} create token --admin --regenerate --token-file old-token --output-file new-token --overlap 1h
  Replace a lost one: start the server with --admin-token-recovery-http-bind, then
    {program} create token --admin --regenerate --host http://127.0.0.1:8182
  Create a named admin token, with the operator token in INFLUXDB3_AUTH_TOKEN:
    {program} create token --admin --name ci --expiry 90d
  Create a token without a server, and start a server with it:
    {program} create token --admin --offline --output-file admin-token.json
    {program} serve --admin-token-file admin-token.json"))]
struct Admin {
    /// The same as --token, as older documentation has it
    #[arg(value_name = "TOKEN", hide = true)]
    token_argument: Option<Secret>,

    /// Replace the operator token, given with --token or --token-file; the old one stops working at
    /// once
    ///
    /// With --output-file no failure locks you out: the new token is on the disk before the old one
    /// stops working. Run the same command again to finish an interrupted rotation.
    #[arg(long)]
    regenerate: bool,

    /// Accept the replaced token for this long, such as 15min or 1h [default: not at all]
    ///
    /// At least 1s and at most 30d. Requires a server that can stage a token.
    #[arg(long, value_name = "DURATION", value_parser = overlap_seconds, requires = "regenerate")]
    overlap: Option<u64>,

    /// Recovery code, for a server with --admin-token-recovery-code; - reads it from standard input
    #[arg(long, value_name = "CODE", env = "INFLUXDB3_RECOVERY_CODE", hide_env_values = true)]
    recovery_code: Option<Secret>,

    /// Create an admin token of this name instead of the operator token
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Lifetime of the named token, such as 30min, 12h, 10d or 1y [default: unlimited]
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    expiry: Option<u64>,

    /// Create the token without a server, and write it to --output-file
    #[arg(long, requires = "output_file")]
    offline: bool,

    /// File for the token of --offline or --regenerate
    ///
    /// Only the owner can read it (mode 0600). If it is a link, its target is written.
    ///
    /// With --offline it is a file for `serve --admin-token-file`.
    ///
    /// With --regenerate it is a file for --token-file: the token alone, or JSON if it holds JSON
    /// already. The token is not printed. It waits in FILE.staged until it is in force.
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,

    /// File for the SHA-512 of the token of --offline
    ///
    /// `serve --admin-token-file` accepts it, too. The server then accepts the token
    /// without its text, so the file is not secret.
    #[arg(long, value_name = "FILE", requires = "offline")]
    hash_file: Option<PathBuf>,

    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,

    /// Format of the output
    #[arg(long, value_enum, default_value_t)]
    format: TokenFormat,

    #[command(flatten)]
    connection: Connection,
}

impl Create {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Resource::Token(Token { scoped, kind }) = self.resource;
        match kind {
            Some(Kind::Admin(admin)) => admin.run(),
            None if scoped.is_given() => scoped.run(),
            None => bail!(UsageError {
                command: &["create", "token"],
                kind: ErrorKind::MissingSubcommand,
                text: program::named(
                    "Missing required subcommand. Use: {program} create token --admin [OPTIONS], or: {program} create token \
                     --permission TYPE:NAMES:ACTIONS --name NAME [OPTIONS]"
                ),
            }),
        }
    }
}

impl Admin {
    fn run(self) -> anyhow::Result<()> {
        self.check()?;
        if self.name.is_none() && self.expiry.is_some() {
            warn(
                "the operator token never expires, so --expiry is ignored; it applies to a token with a --name",
            );
        }
        match &self.output_file {
            Some(output) if self.offline => return self.create_offline(output),
            Some(_) if !self.regenerate => {
                warn(
                    "--output-file applies to --offline and --regenerate only; the token is not written to it",
                );
            }
            _ => {}
        }
        if self.regenerate {
            return self.regenerate();
        }
        let issued = self.create()?;
        self.format
            .print_created(&issued)
            .context("the token was created, but cannot be written to standard output")
    }

    /// Checks the combinations of options that clap cannot express.
    fn check(&self) -> Result<(), UsageError> {
        let conflict = |text: &str| Err(conflict(text));
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
            return Err(same_file());
        }
        Ok(())
    }

    fn create(&self) -> anyhow::Result<Secret> {
        let token = self.connection.token(self.token_argument.as_ref(), false)?;
        let client = self.connection.client(true)?;
        let issued = match &self.name {
            Some(name) => client.create_named(token.as_ref(), name, self.expiry)?,
            None => client.create_operator()?,
        };
        Ok(issued)
    }

    fn regenerate(&self) -> anyhow::Result<()> {
        let output = self.output_file.as_deref().map(resolve_output_path).transpose()?;
        let token = self.connection.token(self.token_argument.as_ref(), !self.yes)?;
        // A rotation may also present the token that an interrupted one left in these files.
        if let Some(output) = &output {
            self.connection.check_saved_token(&[staged_path(output)?, output.clone()])?;
        }
        let client = self.connection.client(true)?;
        if !self.yes {
            confirm_regenerate()?;
        }
        let code = self.connection.recovery_code(self.recovery_code.as_ref())?;
        let rotation = Rotation {
            client: &client,
            credential: token.as_ref(),
            recovery_code: code.as_ref(),
            overlap: self.overlap.unwrap_or(0),
            output: &self.format,
        };
        match output {
            Some(output) => {
                // The user has confirmed already that the token in this file is replaced.
                let source = self.connection.token_file().and_then(|file| resolve_output_path(file).ok());
                let same = source.is_some_and(|source| is_same_file(&source, &output));
                confirm_overwrite(&output, self.yes || same)?;
                rotation.rotate_to_file(&output)
            }
            None => rotation.rotate_to_stdout(),
        }
    }

    fn create_offline(&self, output: &Path) -> anyhow::Result<()> {
        let output = &resolve_output_path(output)?;
        let hash_file = self.hash_file.as_deref().map(resolve_output_path).transpose()?;
        if hash_file.as_ref().is_some_and(|hash_file| is_same_file(hash_file, output)) {
            return Err(same_file().into());
        }
        for file in [Some(output), hash_file.as_ref()].into_iter().flatten() {
            confirm_overwrite(file, self.yes)?;
        }
        let lifetime = self.expiry.filter(|_| self.name.is_some());
        let token = OfflineToken::generate(self.name.as_deref(), lifetime)?;
        let _lock = lock_directory_of(&[output])?;
        token.save(output)?;
        let mut saved = format!("Token saved to: {}", output.display());
        if let Some(hash_file) = &hash_file {
            token.save_hash(hash_file).with_context(|| format!("{saved}, but not its hash"))?;
            saved = format!("{saved}\nHash saved to: {}", hash_file.display());
        }
        self.format.print_saved_token(&saved, &token.secret)
    }
}

fn conflict(text: &str) -> UsageError {
    let yellow = AnsiColor::Yellow.on_default();
    let text = format!("{yellow}{text}{yellow:#}");
    UsageError { command: &["create", "token", "--admin"], kind: ErrorKind::ArgumentConflict, text }
}

fn same_file() -> UsageError {
    conflict("--output-file and --hash-file are one file: the token would be lost")
}

fn confirm_regenerate() -> anyhow::Result<()> {
    if ask("Are you sure you want to regenerate admin token? Enter 'yes' to confirm")? != "yes" {
        bail!("Cannot regenerate token without confirmation (answer 'yes', or use --yes)");
    }
    Ok(())
}

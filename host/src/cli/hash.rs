//! `optoken hash token`: makes the file with the hash of a token that exists already, for
//! `serve --admin-token-file` (docs/compatibility.md 5.4).
//!
//! The command contacts no server. The component checks the strength of the token: the server,
//! which gets the hash alone, cannot.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::error::ErrorKind;
use clap::{Args, Subcommand};
use serde::Deserialize;

use crate::cli::bounded_read::{line_of_stdin, within};
use crate::cli::create::offline::OfflineToken;
use crate::cli::duration::whole_seconds;
use crate::cli::output_file::{confirm_overwrite, is_same_file, lock_directory_of, resolve_output_path};
use crate::cli::pasted;
use crate::cli::stderr::print_stderr;
use crate::cli::token_file::SavedToken;
use crate::cli::usage_error::UsageError;
use crate::program;
use crate::secret::Secret;
use crate::token::{OPERATOR, Timestamp};
use crate::visible_text::escape;

/// How long the command waits for a token from a pipe.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Print the hash of a token that exists already.
#[derive(Debug, Args)]
pub(crate) struct Hash {
    #[command(subcommand)]
    resource: Resource,
}

#[derive(Debug, Subcommand)]
enum Resource {
    Token(ExistingToken),
}

/// Print the SHA-512 of an existing token as a file for `serve --admin-token-file`.
///
/// The server then accepts the token without its text, so the file is not secret: a mounted secret
/// need not be readable to the server. The token is read from standard input, or from --token-file.
/// White space around it does not count. No server is contacted.
///
/// A token that is easy to guess is refused, because an attacker could find it by its hash.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  The hash of the operator token that clients use already:
    {program} hash token --token-file operator-token --output-file hash.json
    {program} serve --admin-token-file hash.json
  The same with a token in a variable:
    printf %s \"$TOKEN\" | {program} hash token > hash.json
  Of a named token:
    {program} hash token --name ci < ci-token > hash.json"))]
struct ExistingToken {
    /// File with the token, instead of standard input
    ///
    /// It holds the token alone, or JSON as `create token --admin --offline` writes it. Name and
    /// expiry of such JSON are kept.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Name of the token at the server [default: that in --token-file, else _admin]
    ///
    /// The operator token is named _admin.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Lifetime of the token from now, such as 12h, 10d or 1y [default: that in --token-file, else
    /// unlimited]
    #[arg(long, value_name = "DURATION", value_parser = whole_seconds)]
    expiry: Option<u64>,

    /// File for the hash, instead of standard output
    ///
    /// Every user can read it (mode 0644). If it is a link, its target is written. A file that
    /// holds the same already stays as it is.
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,

    /// Replace an existing --output-file without a question
    #[arg(short, long)]
    yes: bool,
}

/// A token, with what its file holds beside it.
struct Given {
    token: Secret,
    name: Option<String>,
    expiry: Option<Timestamp>,
}

impl Hash {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Resource::Token(token) = self.resource;
        token.hash()
    }
}

impl ExistingToken {
    fn hash(&self) -> anyhow::Result<()> {
        let output = self.output_file.as_deref().map(resolve_output_path).transpose()?;
        if let (Some(output), Some(source)) = (&output, &self.token_file)
            && resolve_output_path(source).is_ok_and(|source| is_same_file(&source, output))
        {
            bail!(UsageError {
                command: &["hash", "token"],
                kind: ErrorKind::ArgumentConflict,
                text: "--output-file and --token-file are one file: the token would be lost".to_owned(),
            });
        }
        let given = match &self.token_file {
            Some(path) => read_file(path)?,
            None => Given { token: read_stdin()?, name: None, expiry: None },
        };
        let name = self.name.as_deref().or(given.name.as_deref()).unwrap_or(OPERATOR);
        let expiry = self.expiry.map(OfflineToken::expiry_after).transpose()?.or(given.expiry);
        let token = OfflineToken::from_secret(given.token, name, expiry)?;
        let content = token.hash_file()?;
        let Some(output) = output else {
            return io::stdout().write_all(&content).context("cannot write the hash to standard output");
        };
        let saved = format!("Hash saved to: {}", output.display());
        let may_be_same = fs::metadata(&output).is_ok_and(|found| found.len() == content.len() as u64);
        if may_be_same && fs::read(&output).is_ok_and(|existing| existing == *content) {
            return print(&saved);
        }
        ensure!(
            self.yes || self.token_file.is_some() || io::stdin().is_terminal() || !output.exists(),
            "{} exists already, and the token is read from standard input, so no question can be answered there: add --yes",
            output.display()
        );
        confirm_overwrite(&output, self.yes)?;
        let _lock = lock_directory_of(&[&output])?;
        token.save_hash(&output)?;
        print(&saved)
    }
}

fn print(saved: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{}", escape(saved))
        .with_context(|| format!("{saved}, but that cannot be written to standard output"))
}

fn read_stdin() -> anyhow::Result<Secret> {
    if io::stdin().is_terminal() {
        print_stderr("Enter the token");
    }
    let line = line_of_stdin(TIMEOUT, "the token on standard input")?;
    ensure!(!line.is_empty(), "there is no token on standard input");
    match pasted::token(&line) {
        Ok(token) => Ok(token.to_owned().into()),
        Err(error) => bail!("the token {error}"),
    }
}

/// Reads the token, and what a file for a server has beside it.
fn read_file(path: &Path) -> anyhow::Result<Given> {
    #[derive(Default, Deserialize)]
    struct Described {
        name: Option<String>,
        expiry_millis: Option<i64>,
    }

    let what = format!("the token in {}", path.display());
    let read = path.to_owned();
    let saved = within(TIMEOUT, &what, move || SavedToken::read(&read))?;
    let Described { name, expiry_millis } = match saved.json() {
        None => Described::default(),
        // The message of serde quotes the file.
        Some(json) => serde_json::from_str(json).map_err(|_| {
            anyhow::anyhow!(
                "cannot read {}: a \"name\" is a string, and \"expiry_millis\" a whole number",
                path.display()
            )
        })?,
    };
    // As the server reads it: a token that expired before 1970 is as expired as one of 1970.
    let expiry = expiry_millis.map(|at| Timestamp::try_from(at).unwrap_or(0));
    Ok(Given { token: saved.token, name, expiry })
}

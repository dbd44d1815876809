//! How `create token` prints a new token (docs/compatibility.md 4.1).

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::create::rotation::Output;
use crate::cli::stderr::print_stderr;
use crate::secret::Secret;
use crate::visible_text::{escape, escape_json};

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum TokenFormat {
    /// One JSON object: the token, or the file that holds it
    Json,
    /// Text for people
    #[default]
    Text,
}

impl TokenFormat {
    /// Prints a token that was created (docs/compatibility.md 4.1).
    pub(crate) fn print_created(self, token: &Secret) -> io::Result<()> {
        match self {
            Self::Json => self.print_token(token),
            Self::Text => {
                let mut out = anstream::stdout().lock();
                write!(out, "\n{}\n{}\n{}\n", success_text(), *token_text(token), important_text())?;
                out.flush()
            }
        }
    }

    /// Prints a token that `saved` states the file of, and that statement.
    pub(crate) fn print_saved_token(self, saved: &str, token: &Secret) -> anyhow::Result<()> {
        let printed = match self {
            // Stdout holds one JSON object.
            Self::Json => {
                print_stderr(saved);
                Ok(())
            }
            Self::Text => writeln!(anstream::stdout(), "{}", escape(saved)),
        };
        printed
            .and_then(|()| self.print_created(token))
            .with_context(|| format!("{saved}, but it cannot be written to standard output"))
    }
}

/// Prints the same as [`print_created`](TokenFormat::print_created), but success last.
impl Output for TokenFormat {
    fn print_token(&self, token: &Secret) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        match self {
            Self::Json => {
                let help = Zeroizing::new(format!(
                    "Store this token securely, as it will not be shown again. \
                     HTTP requests require the following header: \"Authorization: Bearer {}\"",
                    token.expose()
                ));
                let json = json!({ "help_msg": *help, "token": token.expose() });
                serde_json::to_writer_pretty(&mut out, &json)?;
                writeln!(out)?;
            }
            Self::Text => write!(out, "\n{}\n", *token_text(token))?,
        }
        out.flush()
    }

    fn print_success(&self) -> io::Result<()> {
        // The one JSON object is printed already.
        if let Self::Text = self {
            let mut out = anstream::stdout().lock();
            write!(out, "{}\n{}\n", success_text(), important_text())?;
            out.flush()?;
        }
        Ok(())
    }

    fn print_saved(&self, path: &Path) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        match self {
            Self::Json => {
                let json = serde_json::to_string_pretty(&json!({ "saved_to": path.to_string_lossy() }))?;
                writeln!(out, "{}", escape_json(&json))?;
            }
            Self::Text => writeln!(out, "Token saved to: {}", escape(&path.display().to_string()))?,
        }
        out.flush()
    }
}

fn success_text() -> String {
    let underlined = Style::new().underline();
    format!("{underlined}New token created successfully!{underlined:#}\n")
}

/// Returns the token, and the header that presents it.
fn token_text(token: &Secret) -> Zeroizing<String> {
    let bold = Style::new().bold();
    let token = token.expose();
    Zeroizing::new(format!(
        "{bold}Token:{bold:#} {token}\n{bold}HTTP Requests Header:{bold:#} Authorization: Bearer {token}\n"
    ))
}

fn important_text() -> String {
    let warning = AnsiColor::Red.on_default().bold();
    format!("{warning}IMPORTANT:{warning:#} Store this token securely, as it will not be shown again.\n")
}

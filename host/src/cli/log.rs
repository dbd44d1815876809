//! The log of `influxdb3 serve`: what is written to stderr, in which form, and that no token ever is.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::secret::redact;

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(super) struct Log {
    /// What to log, such as info, debug, or warn,optoken=debug
    #[arg(long, value_name = "FILTER", env = "LOG_FILTER", default_value = "info")]
    log_filter: String,

    /// Form of the log on standard error: text, or json with one object a line
    #[arg(
        long,
        value_name = "FORMAT",
        env = "LOG_FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// As InfluxDB calls it, too.
    #[value(alias = "full")]
    Text,
    Json,
}

impl Log {
    /// Starts to log what this process does from here on.
    pub(super) fn start(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log_filter)
            .with_context(|| format!("--log-filter: {:?} is not a log filter", self.log_filter))?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| Redacted(io::stderr()))
            .with_target(false)
            // Nobody reads the log any more: that is no reason to stop serving, and complaining about it on the same
            // closed stream would end the task that logs.
            .log_internal_errors(false);
        match self.log_format {
            Format::Text => log.with_ansi(io::stderr().is_terminal()).init(),
            Format::Json => {
                log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
            }
        }
        Ok(())
    }
}

/// Leaves out whatever looks like a token. Our own code logs none, but the HTTP library shows a path that it cannot read,
/// and people write tokens into paths and options.
struct Redacted<W>(W);

impl<W: Write> Write for Redacted<W> {
    /// Takes whole lines, which is how they come.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(redact(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

//! The log of `influxdb3 serve`: what is written to stderr, in which form, and that no token ever is.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _, Write};
use std::panic::{self, PanicHookInfo};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use optoken_protocol::redact::redact;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Log {
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
    pub(crate) fn start(&self) -> anyhow::Result<()> {
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
        panic::set_hook(Box::new(tell_panic));
        Ok(())
    }
}

/// Says in the log what would otherwise be printed as it is. A library may quote in it what it was given.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or_default();
    // Where RUST_BACKTRACE asks for one.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!("panicked at {place}: {message}\n{backtrace}");
    } else {
        tracing::error!("panicked at {place}: {message}");
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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::{env, thread};

    use super::*;

    /// Set in the process that panics.
    const PANICS: &str = "OPTOKEN_TEST_PANICS";

    #[test]
    fn a_panic_is_logged_without_the_token_in_its_message() {
        if env::var_os(PANICS).is_some() {
            Log { log_filter: "info".to_owned(), log_format: Format::Json }.start().unwrap();
            let quoted = "apiv3_in-a-message";
            thread::spawn(move || panic!("cannot read {quoted:?}")).join().unwrap_err();
            return;
        }
        // Another process, because the hook is that of all threads.
        let test = "cli::serve::logging::tests::a_panic_is_logged_without_the_token_in_its_message";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", test])
            .env(PANICS, "1")
            .output()
            .unwrap();
        let said = String::from_utf8(child.stderr).unwrap();
        assert!(child.status.success(), "{said}");
        assert!(said.contains("panicked at ") && said.contains(r#"cannot read \"[token]\""#), "{said}");
        assert!(!said.contains("in-a-message"), "{said}");
    }
}

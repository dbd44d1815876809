//! The log of `optoken serve`: its filter, its format, and the redaction of tokens.

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
    /// Log filter, such as info, debug, or warn,optoken=debug
    #[arg(long, value_name = "FILTER", env = "LOG_FILTER", default_value = "info")]
    log_filter: String,

    /// Format of the log on standard error: text, or json with one object per line
    #[arg(
        long,
        value_name = "FORMAT",
        env = "LOG_FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// InfluxDB calls it `full`.
    #[value(alias = "full")]
    Text,
    Json,
}

impl Log {
    /// Starts the log of this process.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log_filter)
            .with_context(|| format!("--log-filter: {:?} is not a log filter", self.log_filter))?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| RedactingWriter(io::stderr()))
            .with_target(false)
            // Without a reader of the log the server goes on. A message about that on the same
            // closed stream would end the task that logs.
            .log_internal_errors(false);
        match self.log_format {
            LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
            LogFormat::Json => {
                log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
            }
        }
        panic::set_hook(Box::new(log_panic));
        Ok(())
    }
}

/// Logs a panic, which would otherwise be printed unredacted: its message may quote a token.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or_default();
    // RUST_BACKTRACE enables it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!("panicked at {location}: {message}\n{backtrace}");
    } else {
        tracing::error!("panicked at {location}: {message}");
    }
}

/// Redacts tokens. This crate logs none, but the HTTP library logs a malformed path, and users
/// write tokens into paths and options.
struct RedactingWriter<W>(W);

impl<W: Write> Write for RedactingWriter<W> {
    /// Writes whole lines, as the log formatter does.
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

    /// Set in the environment of the process that panics.
    const PANICS: &str = "OPTOKEN_TEST_PANICS";

    #[test]
    fn panic_message_is_logged_without_token() {
        if env::var_os(PANICS).is_some() {
            Log { log_filter: "info".to_owned(), log_format: LogFormat::Json }.start().unwrap();
            let quoted = "apiv3_in-a-message";
            thread::spawn(move || panic!("cannot read {quoted:?}")).join().unwrap_err();
            return;
        }
        // Another process, because the hook applies to all threads.
        let test = "cli::serve::logging::tests::panic_message_is_logged_without_token";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "--nocapture", test])
            .env(PANICS, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8(child.stderr).unwrap();
        assert!(child.status.success(), "{stderr}");
        assert!(stderr.contains("panicked at ") && stderr.contains(r#"cannot read \"[token]\""#), "{stderr}");
        assert!(!stderr.contains("in-a-message"), "{stderr}");
    }
}

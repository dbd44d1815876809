//! The log of `optoken serve`: its filter, its format, and the redaction of tokens.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::panic::{self, PanicHookInfo};
use std::str::FromStr;

use anyhow::Context as _;
use clap::{ArgAction, Args};
use optoken_protocol::redact::redact;
use tracing_subscriber::EnvFilter;

use crate::cli::environment;

/// The filter without any option or variable.
const DEFAULT_FILTER: &str = "info";

#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
#[expect(clippy::struct_field_names, reason = "they are the names of the options")]
pub(crate) struct Log {
    /// Log filter, such as info, debug, or warn,optoken=debug [default: info]
    #[arg(long, value_name = "FILTER", env = environment::LOG_FILTER)]
    log_filter: Option<String>,

    /// Log more, whatever the filter is: -v for info, -vv for debug, -vvv for trace
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,

    /// Format of the log: text, or json with one object per line [default: text]
    ///
    /// The formats pretty and logfmt of InfluxDB are text here.
    #[arg(long, value_name = "FORMAT", env = environment::LOG_FORMAT)]
    log_format: Option<LogFormat>,

    /// Stream of the log: stderr or stdout [default: stderr]
    #[arg(long, value_name = "STREAM", env = environment::LOG_DESTINATION)]
    log_destination: Option<LogDestination>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogFormat {
    Text,
    Json,
    /// A format of InfluxDB that does not exist here.
    Missing(&'static str),
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(format: &str) -> Result<Self, Self::Err> {
        match format.to_ascii_lowercase().as_str() {
            // InfluxDB calls it `full`.
            "text" | "full" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Missing("pretty")),
            "logfmt" => Ok(Self::Missing("logfmt")),
            _ => Err("a format is text or json"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum LogDestination {
    Stderr,
    Stdout,
}

impl FromStr for LogDestination {
    type Err = &'static str;

    fn from_str(destination: &str) -> Result<Self, Self::Err> {
        match destination.to_ascii_lowercase().as_str() {
            "stderr" => Ok(Self::Stderr),
            "stdout" => Ok(Self::Stdout),
            _ => Err("a stream is stderr or stdout"),
        }
    }
}

impl LogDestination {
    fn stream(self) -> Box<dyn Write> {
        match self {
            Self::Stderr => Box::new(io::stderr()),
            Self::Stdout => Box::new(io::stdout()),
        }
    }

    fn is_terminal(self) -> bool {
        match self {
            Self::Stderr => io::stderr().is_terminal(),
            Self::Stdout => io::stdout().is_terminal(),
        }
    }
}

impl Log {
    /// Starts the log of this process.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let mut warnings = Vec::new();
        let filter = self.filter(&mut warnings)?;
        let format = self.log_format.or_else(|| from_generic(environment::LOG_FORMAT, &mut warnings));
        let format = format.unwrap_or(LogFormat::Text);
        let destination =
            self.log_destination.or_else(|| from_generic(environment::LOG_DESTINATION, &mut warnings));
        let destination = destination.unwrap_or(LogDestination::Stderr);
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || RedactingWriter(destination.stream()))
            .with_target(false)
            // Without a reader of the log the server goes on. A message about that on the same
            // closed stream would end the task that logs.
            .log_internal_errors(false);
        if format == LogFormat::Json {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        } else {
            log.with_ansi(destination.is_terminal()).init();
        }
        panic::set_hook(Box::new(log_panic));
        if let LogFormat::Missing(name) = format {
            warnings.push(format!("there is no log format {name} here, so the log is text"));
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    fn filter(&self, warnings: &mut Vec<String>) -> anyhow::Result<EnvFilter> {
        let level = match self.verbose {
            0 => None,
            1 => Some("info"),
            2 => Some("debug"),
            _ => Some("trace"),
        };
        match (level, &self.log_filter) {
            (None, Some(filter)) => EnvFilter::try_new(filter)
                .with_context(|| format!("--log-filter: {filter:?} is not a log filter")),
            (None, None) => {
                let filter = from_generic(environment::LOG_FILTER, warnings);
                Ok(filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER)))
            }
            (Some(level), _) => Ok(EnvFilter::new(level)),
        }
    }
}

/// Returns the value of the generic variable that stands for this one. It may be meant for another
/// program: a value of no use here is a warning.
fn from_generic<T: FromStr>(newest: &str, warnings: &mut Vec<String>) -> Option<T> {
    let (name, value) = environment::generic(newest)?;
    let value = value.to_str().and_then(|value| value.parse().ok());
    if value.is_none() {
        warnings.push(format!(
            "{name} has a value of no use here, and is ignored; {newest} is for this server alone"
        ));
    }
    value
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
        let text = String::from_utf8_lossy(line);
        // Lines of the other format begin with a time.
        let redacted = if text.starts_with('{') { redact_json(&text) } else { redact(&text) };
        self.0.write_all(redacted.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Redacts the strings of a JSON text one by one: a token does not end at a quote, so it would
/// include the rest of the object.
fn redact_json(json: &str) -> Cow<'_, str> {
    let mut redacted = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, string)) = rest.split_once('"') {
        let mut escaped = false;
        let end = string.find(|next| {
            let ends = next == '"' && !escaped;
            escaped = next == '\\' && !escaped;
            ends
        });
        let Some((string, behind)) = end.and_then(|end| string.split_at_checked(end)) else { break };
        redacted = redacted + before + "\"";
        match serde_json::from_str::<String>(&format!("\"{string}\"")) {
            Ok(text) if matches!(redact(&text), Cow::Borrowed(_)) => redacted.push_str(string),
            Ok(text) => {
                let quoted = serde_json::Value::from(redact(&text)).to_string();
                redacted.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
            }
            // Not JSON, so nothing depends on its form.
            Err(_) => return redact(json),
        }
        redacted.push('"');
        rest = behind.strip_prefix('"').unwrap_or(behind);
    }
    (redacted + &redact(rest)).into()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::{env, thread};

    use super::*;

    /// Set in the environment of the process that panics.
    const PANICS: &str = "OPTOKEN_TEST_PANICS";

    #[test]
    fn redacted_json_stays_json() {
        let text = r#"at "apiv3_a"b\c%2F,d" and apiv3_"#;
        let line = serde_json::json!({
            "text": text, "apiv3_key+/=": [{"path": "/apiv3_x\"\\y"}, "apiv3_z", "plain \u{e9} \\ \""], "number": 1e3,
        });
        let redacted = redact_json(&line.to_string()).into_owned();
        let expected = serde_json::json!({
            "text": r#"at "[token]" and apiv3_"#, "[token]": [{"path": "/[token]"}, "[token]", "plain \u{e9} \\ \""],
            "number": 1e3,
        });
        assert_eq!(redacted, expected.to_string());
        for (text, redacted) in [
            ("{\"a\":\"apiv3_x", "{\"a\":\"[token]"),
            ("{\"a\\x\":\"apiv3_x\"}", "{\"a\\x\":\"[token]\"}"),
            ("{apiv3_x\"", "{[token]\""),
            ("{}", "{}"),
        ] {
            assert_eq!(redact_json(text), redacted);
        }
    }

    #[test]
    fn panic_message_is_logged_without_token() {
        if env::var_os(PANICS).is_some() {
            let log_format = Some(LogFormat::Json);
            Log { log_filter: None, verbose: 0, log_format, log_destination: None }.start().unwrap();
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

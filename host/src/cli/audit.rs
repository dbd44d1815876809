//! `optoken audit`: shows the audit records of a server, and verifies an audit log.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use optoken_protocol::redact::redact;
use optoken_protocol::timestamp::rfc3339;

use crate::audit::verify::{Expectations, VerifyError, verify};
use crate::audit::{Actor, AuditRecord, RetainedRecord};
use crate::cli::connection::Connection;
use crate::cli::stderr::print_stderr;
use crate::program;
use crate::visible_text::escape_json;

/// Show and verify the audit records of changes to tokens.
///
/// Every change has one record: time, action, actor, token and origin. Each record holds the hash
/// of the record before it. The server keeps the newest 64; with --audit-log, it writes all of them
/// to a file.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(Show),
    Verify(Verify),
}

/// Show the newest audit records of a server, or all records of an audit log.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  The newest records of a server, with a token in INFLUXDB3_AUTH_TOKEN:
    {program} audit show
  All records of an audit log:
    {program} audit show /var/lib/optoken/audit.jsonl
  The names of deleted tokens, for a script:
    {program} audit show --format json | jq -r 'select(.action == \"delete\") | .subject.name'"))]
struct Show {
    /// Read this audit log instead of asking a server
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Format of the records
    #[arg(long, value_enum, default_value_t)]
    format: RecordFormat,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum RecordFormat {
    /// One line of text per record
    #[default]
    Text,
    /// One line of JSON per record, as in an audit log
    Json,
}

/// Verify an audit log, and report the first violation.
///
/// Checks that the log is consistent: each record holds the hash of the record before it. This
/// detects records that were altered, removed, moved or repeated.
///
/// The hashes need no secret, so a user that can write the file can rebuild the whole chain, or
/// remove records at its end. To detect that, keep the hash that this command prints where that
/// user cannot write, and compare it with --expect-head. Or compare with the server, --with-server.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Verify a log:
    {program} audit verify audit.jsonl
  Verify that it still holds the last record of yesterday:
    {program} audit verify audit.jsonl --expect-head \"$YESTERDAY\"
  Verify that it holds the newest records of the server, with a token in INFLUXDB3_AUTH_TOKEN:
    {program} audit verify audit.jsonl --with-server
  Verify the records that the server keeps, and print the hash of the newest:
    {program} audit show --format json | {program} audit verify /dev/stdin"))]
struct Verify {
    /// The audit log to verify
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Fail unless the log holds the record with this hash
    #[arg(long, value_name = "HASH", value_parser = record_hash)]
    expect_head: Option<String>,

    /// Fail unless the log holds the newest records of the server, unaltered
    ///
    /// These are at most 64, and their hashes depend on all records before them. A consistent log
    /// that holds them was not rebuilt, unless the store of the server was rebuilt, too.
    #[arg(long)]
    with_server: bool,

    /// Fail unless the log begins with record 1; a rotated log does not
    #[arg(long)]
    complete: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Audit {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Show(show) => show.show(),
            Command::Verify(verify) => verify.verify(),
        }
    }
}

impl Show {
    fn show(&self) -> anyhow::Result<()> {
        if let Some(file) = &self.file {
            return self.print(open(file)?, &file.display().to_string());
        }
        let token = self.connection.token(None, false)?;
        let records = self.connection.client(token.is_some())?.audit_records(token.as_ref())?;
        self.print(&records[..], "the response of the server")
    }

    fn print(&self, records: impl Read, from: &str) -> anyhow::Result<()> {
        let mut output = BufWriter::new(io::stdout().lock());
        let unwritten = "cannot write the records to standard output";
        for (number, line) in (1..).zip(BufReader::new(records).split(b'\n')) {
            let line = line.with_context(|| format!("cannot read {from}"))?;
            let shown = match self.format {
                RecordFormat::Text => AuditRecord::read(&line).map(|record| to_text(&record)),
                RecordFormat::Json => AuditRecord::read(&line)
                    .and(String::from_utf8(line).ok())
                    .map(|line| escape_json(&line).into_owned()),
            };
            let shown = shown.ok_or_else(|| anyhow!("{from}: line {number} is no audit record"));
            // The records before the error are printed.
            let shown = shown.or_else(|error| output.flush().context(unwritten).and(Err(error)))?;
            writeln!(output, "{shown}").context(unwritten)?;
        }
        output.flush().context(unwritten)
    }
}

impl Verify {
    fn verify(&self) -> anyhow::Result<()> {
        let name = self.file.display();
        // The log must hold the records that the server has before the log is read.
        let kept = if self.with_server { self.records_of_server()? } else { Vec::new() };
        let expectations = Expectations { complete: self.complete, head: self.expect_head.clone(), kept };
        let verified =
            verify(BufReader::new(open(&self.file)?), &expectations).map_err(|error| match error {
                VerifyError::Io(error) => anyhow::Error::new(error).context(format!("cannot read {name}")),
                VerifyError::Violation(violation) => anyhow!("{name}: {violation}"),
            })?;
        let records = verified.last - verified.first + 1;
        if verified.first > 1 {
            print_stderr(&format!(
                "note: the log begins at record {}; the records before it are not in it",
                verified.first
            ));
        }
        writeln!(
            io::stdout(),
            "{records} {}, chain intact, last sequence {}, head {}{}",
            if records == 1 { "record" } else { "records" },
            verified.last,
            verified.head,
            if self.with_server { ", as the server has it" } else { "" }
        )
        .context("the log is intact, but that cannot be written to standard output")
    }

    /// Returns the records that the server keeps.
    fn records_of_server(&self) -> anyhow::Result<Vec<RetainedRecord>> {
        let token = self.connection.token(None, false)?;
        let records = self.connection.client(token.is_some())?.audit_records(token.as_ref())?;
        let lines = str::from_utf8(&records).ok().map(|lines| lines.lines().map(str::to_owned).collect());
        let kept = lines.and_then(|lines| RetainedRecord::read(lines).ok()).filter(|kept| !kept.is_empty());
        kept.context("the response of the server holds no audit records")
    }
}

fn open(file: &Path) -> anyhow::Result<File> {
    File::open(file).with_context(|| format!("cannot open {}", file.display()))
}

/// Formats a record as a line of text. Names and origins may hold control characters, or a token
/// that a client sent in the wrong place.
fn to_text(record: &AuditRecord) -> String {
    let actor = match record.actor {
        Actor::Bootstrap => "bootstrap".to_owned(),
        Actor::Provision => "provision".to_owned(),
        Actor::Recovery => "recovery".to_owned(),
        Actor::Token(id) => format!("token {id}"),
    };
    let subject = record.subject.as_ref().map_or_else(
        || "the catalog".to_owned(),
        |subject| {
            let permissions = subject.permissions.as_ref().map_or_else(String::new, |permissions| {
                format!(" with {}", permissions.join(" ").escape_debug())
            });
            format!("token {} {:?}{permissions}", subject.id, subject.name)
        },
    );
    let line = format!(
        "{}  {}  {}  by {actor}  on {subject}  from {:?}",
        record.sequence,
        rfc3339(record.at),
        record.action.escape_debug(),
        record.origin
    );
    redact(&line).into_owned()
}

fn record_hash(hash: &str) -> Result<String, &'static str> {
    if hash.len() == 64 && hash.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        Ok(hash.to_owned())
    } else {
        Err("the hash of a record is 64 lower-case hexadecimal digits, such as `audit verify` prints")
    }
}

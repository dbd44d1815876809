//! The command line: what can be said, and how failures leave (COMPAT section 4, DESIGN section 5).
//!
//! One file a subcommand. Answers go to stdout; questions, hints and failures to stderr. Exit codes: 0 for success, 1 for
//! a failure, 2 for a command line that makes no sense.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use optoken_protocol::redact::redact;

mod audit;
mod connection;
mod core_dump;
mod create;
mod delete;
mod dotenv;
mod output_file;
mod prompt;
mod serve;
mod show;
mod token_file;

/// Operator-token authority, compatible with InfluxDB 3 Core.
///
/// Issues, checks, rotates and recovers the one token that guards a service.
#[derive(Debug, Parser)]
#[command(
    name = "influxdb3",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  Run the server, and create the operator token in another terminal:
    influxdb3 serve
    influxdb3 create token --admin
  Let later commands use it:
    export INFLUXDB3_AUTH_TOKEN=OPERATOR_TOKEN
    influxdb3 create token --admin --name ci --expiry 90d
    influxdb3 show tokens

An option beats the environment, which beats a file .env in the working directory or above it."
)]
struct CommandLine {
    /// Print help, as --help does
    #[arg(long, global = true, action = ArgAction::HelpLong, display_order = 999)]
    help_all: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Create(create::Create),
    Delete(delete::Delete),
    Show(show::Show),
    Audit(audit::Audit),
}

/// Carries out the command line of this process.
pub fn run() -> ExitCode {
    // Before anything is read that may be a token.
    if let Err(error) = core_dump::forbid() {
        warn(&format!("a core dump of this process is possible and would hold tokens: {error}"));
    }
    let environment = dotenv::load();
    let command_line = CommandLine::command().try_get_matches().and_then(|matches| {
        let command_line = CommandLine::from_arg_matches(&matches);
        let command_line = command_line.map_err(|error| error.format(&mut CommandLine::command()))?;
        Ok((command_line, matches))
    });
    // Help is shown whatever stands in the way of the rest.
    if let (Err(error), false) = (environment, command_line.as_ref().is_err_and(|error| !error.use_stderr()))
    {
        say(&format!("FATAL Error loading config from: {error}\nAborting"));
        return ExitCode::FAILURE;
    }
    let judged = command_line.and_then(|(command_line, matches)| {
        judge_secrets(&matches)?;
        Ok(command_line)
    });
    let command_line = match judged {
        Ok(command_line) => command_line,
        Err(error) => return refuse(&error),
    };
    let (name, outcome) = match command_line.command {
        Command::Serve(serve) => ("Serve", serve.run()),
        Command::Create(create) => ("Create", create.run()),
        Command::Delete(delete) => ("Delete", delete.run()),
        Command::Show(show) => ("Show", show.run()),
        Command::Audit(audit) => ("Audit", audit.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast() {
            Ok(misuse) => refuse(&misuse),
            Err(error) => {
                // Some of the text comes from elsewhere: a server, an argument in the wrong place.
                say(&redact(&format!("{name} command failed: {error:#}")));
                ExitCode::FAILURE
            }
        },
    }
}

/// What was given for this argument in the command line itself, and not in the environment.
fn typed<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a OsStr> {
    match matches.subcommand() {
        Some((_, matches)) => typed(matches, id),
        None if matches.ids().all(|known| known != id) => None,
        None if matches.value_source(id) != Some(ValueSource::CommandLine) => None,
        None => matches.get_raw(id)?.next(),
    }
}

/// Judges where the secrets of a command line are, and warns where others can see them.
fn judge_secrets(matches: &ArgMatches) -> Result<(), clap::Error> {
    let tokens = ["token", "token_argument"].map(|id| typed(matches, id));
    if typed(matches, "token_file").is_some() && tokens.iter().any(Option::is_some) {
        let text = "--token-file cannot be used with a token as an argument";
        return Err(misuse(&[], ErrorKind::ArgumentConflict, text));
    }
    let is_shown = |secret: &OsStr| !secret.is_empty() && secret != connection::STDIN;
    if typed(matches, "recovery_code").is_some_and(is_shown) {
        warn(
            "other users of this machine can see a recovery code that is an argument; give it with --recovery-code - or \
             INFLUXDB3_RECOVERY_CODE",
        );
    }
    if tokens.into_iter().flatten().any(is_shown) {
        warn(
            "other users of this machine can see a token that is an argument; give it with --token-file, --token - or \
             INFLUXDB3_AUTH_TOKEN",
        );
    }
    Ok(())
}

/// What is wrong with a command line that clap has let through. `command` is the path of the subcommand.
fn misuse(command: &[&str], kind: ErrorKind, text: &str) -> clap::Error {
    let mut root = CommandLine::command();
    root.build();
    let error = |command: &mut clap::Command| command.error(kind, text);
    match command.iter().try_fold(&mut root, |command, name| command.find_subcommand_mut(name)) {
        Some(command) => error(command),
        None => error(&mut CommandLine::command()),
    }
}

/// Tells what is wrong with a command line, without the token that may stand in the wrong place of it. Also shows the
/// help, which clap takes for an error.
fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        let _ = write!(anstream::stderr(), "{}", redact(&text.ansi().to_string()));
    } else if write!(anstream::stdout(), "{}", text.ansi()).is_err() {
        return ExitCode::FAILURE;
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Says something that is no answer. That nobody listens is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Says what may not be what the user wants.
fn warn(text: &str) {
    say(&format!("warning: {text}"));
}

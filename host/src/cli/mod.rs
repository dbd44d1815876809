//! Command-line parsing, and exit codes (docs/compatibility.md 4, docs/design.md 5).
//!
//! Each subcommand has a file or folder of its own. Results go to stdout; questions, hints and
//! errors go to stderr. Exit codes: 0 for success, 1 for a failure, 2 for a usage error.

use std::env;
use std::ffi::OsStr;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use optoken_protocol::redact::redact;

use crate::cli::stderr::{print_stderr, warn};
use crate::cli::usage_error::UsageError;
use crate::program;
use crate::store::StoreUrl;
use crate::visible_text::escape_styled;

mod any_store;
mod audit;
mod backup;
mod bounded_read;
mod completions;
mod connection;
mod core_dump;
mod create;
mod delete;
mod dotenv;
mod duration;
mod environment;
mod file_store;
mod hash;
mod heap;
mod man_pages;
mod migrate;
mod output_file;
mod pasted;
mod permission_file;
mod prompt;
mod restore;
mod serve;
mod show;
mod stderr;
mod store_argument;
mod store_check;
mod token_file;
mod usage_error;
mod without_effect;

/// Operator-token authority, compatible with InfluxDB 3 Core.
///
/// Issues, checks, rotates and recovers the one token that guards a service.
#[derive(Debug, Parser)]
#[command(
    name = program::name(),
    bin_name = program::name(),
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = program::named("\
Examples:
  Run the server, and create the operator token in another terminal:
    {program} serve
    {program} create token --admin
  Use it in later commands:
    export INFLUXDB3_AUTH_TOKEN=OPERATOR_TOKEN
    {program} create token --admin --name ci --expiry 90d
    {program} show tokens

Options take precedence over the environment, and the environment over a file .env in the working directory or above.
Only variables that begin with INFLUXDB3_ are read from that file, and only if no other user can write it.")
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
    Create(Box<create::Create>),
    Delete(delete::Delete),
    Show(show::Show),
    Hash(hash::Hash),
    Audit(audit::Audit),
    Backup(backup::Backup),
    Restore(Box<restore::Restore>),
    Migrate(Box<migrate::Migrate>),
    Store(store_check::StoreCommand),
    Completions(completions::Completions),
    ManPages(man_pages::ManPages),
}

/// Runs the command line of this process. To be called before the process has a second thread.
pub fn run() -> ExitCode {
    heap::limit();
    // Before all else, because everything that follows may read a token.
    if let Err(error) = core_dump::forbid() {
        warn(&format!("core dumps of this process cannot be prevented, and would hold tokens: {error}"));
    }
    let environment = dotenv::load();
    let command_line = parse();
    // Help is printed whatever the state of `.env`.
    if !command_line.as_ref().is_err_and(|error| !error.use_stderr())
        && let Some(failed) = report_dotenv(environment)
    {
        return failed;
    }
    let checked = command_line.and_then(|(command_line, matches)| {
        let command = CommandLine::command();
        check_secret_arguments(&matches).map_err(|error| error.format(command.clone()))?;
        let warnings = variable_warnings(&command, &matches);
        let ignored = match &command_line.command {
            Command::Serve(_) => without_effect::find(&command, &matches),
            _ => Ok(without_effect::Ignored::default()),
        };
        let ignored = ignored.map_err(|error| error.format(command))?;
        Ok((command_line, warnings, ignored))
    });
    let (command_line, warnings, ignored) = match checked {
        Ok(checked) => checked,
        Err(error) => return exit_with_usage_error(&error),
    };
    // A server logs them.
    if !matches!(command_line.command, Command::Serve(_)) {
        for warning in &warnings {
            warn(warning);
        }
    }
    let (name, outcome) = match command_line.command {
        Command::Serve(serve) => ("Serve", serve.run(&warnings, &ignored)),
        Command::Create(create) => ("Create", create.run()),
        Command::Delete(delete) => ("Delete", delete.run()),
        Command::Show(show) => ("Show", show.run()),
        Command::Hash(hash) => ("Hash", hash.run()),
        Command::Audit(audit) => ("Audit", audit.run()),
        Command::Backup(backup) => ("Backup", backup.run()),
        Command::Restore(restore) => ("Restore", restore.run()),
        Command::Migrate(migrate) => ("Migrate", migrate.run()),
        Command::Store(store) => ("Store", store.run()),
        Command::Completions(completions) => ("Completions", completions.run(CommandLine::command())),
        Command::ManPages(pages) => ("Man-pages", pages.run(CommandLine::command())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast::<UsageError>() {
            Ok(error) => exit_with_usage_error(&error.format(CommandLine::command())),
            Err(error) => {
                // Servers send text, and users write tokens into the wrong argument.
                print_stderr(&redact(&format!("{name} command failed: {error:#}")));
                ExitCode::FAILURE
            }
        },
    }
}

/// Parses the command line of this process.
fn parse() -> Result<(CommandLine, ArgMatches), clap::Error> {
    let command = without_effect::accept(CommandLine::command());
    let matches = environment::parse(&environment::resolve(command.clone()));
    let matches = matches.or_else(|error| {
        // Help names every variable by its newest name, the empty ones included.
        if error.use_stderr() { Err(error) } else { command.try_get_matches() }
    })?;
    let command_line = CommandLine::from_arg_matches(&matches);
    let command_line = command_line.map_err(|error| error.format(&mut CommandLine::command()))?;
    Ok((command_line, matches))
}

/// Reports which file `.env` is used and which are not. Returns the exit code if one is unusable.
fn report_dotenv(environment: Result<dotenv::Found, dotenv::DotenvError>) -> Option<ExitCode> {
    match environment {
        Ok(found) => {
            found.ignored.iter().for_each(|ignored| warn(ignored));
            if let Some(path) = found.used {
                print_stderr(&format!("note: using the variables of {}", path.display()));
            }
            None
        }
        Err(error) => {
            print_stderr(&format!("FATAL Error loading config from: {error}\nAborting"));
            Some(ExitCode::FAILURE)
        }
    }
}

/// Returns the warnings about the variables that the subcommand reads.
fn variable_warnings(command: &clap::Command, matches: &ArgMatches) -> Vec<String> {
    match matches.subcommand() {
        Some((name, matches)) => {
            command.find_subcommand(name).map_or_else(Vec::new, |command| variable_warnings(command, matches))
        }
        None => environment::warnings(command),
    }
}

/// Returns the value of this argument, if it is on the command line and not only in the
/// environment.
fn raw_argument<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a OsStr> {
    match matches.subcommand() {
        Some((_, matches)) => raw_argument(matches, id),
        None if matches.ids().all(|known| known != id) => None,
        None if matches.value_source(id) != Some(ValueSource::CommandLine) => None,
        None => matches.get_raw(id)?.next(),
    }
}

/// Checks where the secrets of a command line are, and warns if other users can see them.
fn check_secret_arguments(matches: &ArgMatches) -> Result<(), UsageError> {
    let tokens = ["token", "token_argument"].map(|id| raw_argument(matches, id));
    if raw_argument(matches, "token_file").is_some() && tokens.iter().any(Option::is_some) {
        let text = "--token-file cannot be used with a token as an argument".to_owned();
        return Err(UsageError { command: &[], kind: ErrorKind::ArgumentConflict, text });
    }
    let is_visible = |secret: &OsStr| !secret.is_empty() && secret != connection::STDIN;
    if raw_argument(matches, "recovery_code").is_some_and(is_visible) {
        warn(
            "other users of this machine can see a recovery code that is an argument; give it with --recovery-code - or \
             INFLUXDB3_RECOVERY_CODE",
        );
    }
    let has_password = |url: &OsStr| {
        url.to_str().and_then(|url| url.parse().ok()).is_some_and(|url: StoreUrl| url.has_password())
    };
    if ["store", "from", "to"].iter().filter_map(|id| raw_argument(matches, id)).any(has_password) {
        warn(
            "other users of this machine can see a password that is in an argument; give the URL in INFLUXDB3_TOKEN_STORE, \
             or the password in INFLUXDB3_TOKEN_STORE_PASSWORD or INFLUXDB3_TOKEN_STORE_PASSWORD_FILE",
        );
    }
    if tokens.into_iter().flatten().any(is_visible) {
        warn(
            "other users of this machine can see a token that is an argument; give it with --token-file, --token - or \
             INFLUXDB3_AUTH_TOKEN",
        );
    }
    Ok(())
}

/// Returns the unknown option of this error if it stands before a subcommand and `serve` has it:
/// InfluxDB starts a server without `serve`.
fn option_of_serve(error: &clap::Error) -> Option<String> {
    let is_first = env::args_os().nth(1).is_some_and(|argument| argument.to_string_lossy().starts_with('-'));
    let (ErrorKind::UnknownArgument, Some(ContextValue::String(shown)), true) =
        (error.kind(), error.get(ContextKind::InvalidArg), is_first)
    else {
        return None;
    };
    let command = CommandLine::command();
    let mut options = command.find_subcommand("serve")?.get_arguments();
    let name = shown.trim_start_matches('-');
    let is_shown = |option: &clap::Arg| {
        option.get_long() == Some(name) || option.get_short().is_some_and(|short| name == short.to_string())
    };
    options.any(is_shown).then(|| shown.clone())
}

/// Prints a usage error, without a token in the wrong place. Also prints help, which is an error to
/// clap.
fn exit_with_usage_error(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        let text = redact(&text.ansi().to_string()).into_owned();
        let _ = write!(anstream::stderr(), "{}", escape_styled(&text));
        if let Some(origin) = environment::origin(error, &environment::resolve(CommandLine::command())) {
            print_stderr(&format!("note: {origin}"));
        }
        if let Some(option) = option_of_serve(error) {
            print_stderr(&format!("note: {option} is an option of: {} serve", program::name()));
        }
    } else if write!(anstream::stdout(), "{}", text.ansi()).is_err() {
        return ExitCode::FAILURE;
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

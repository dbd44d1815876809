//! The command line: what can be said, and how failures leave (COMPAT section 4, DESIGN section 5).
//!
//! One file a subcommand. Answers go to stdout; questions, hints and failures to stderr. Exit codes: 0 for success, 1 for
//! a failure, 2 for a command line that makes no sense.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::secret::redact;

mod create;
mod listener_file;
mod listeners;
mod log;
mod serve;
mod storage;

/// Operator-token authority, compatible with InfluxDB 3 Core.
///
/// Issues, checks, rotates and recovers the one token that guards a service.
#[derive(Debug, Parser)]
#[command(name = "influxdb3", version, propagate_version = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::Serve>),
    Create(create::Create),
}

/// Carries out the command line of this process.
pub fn run() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => return refuse(&error),
    };
    let (name, outcome) = match command_line.command {
        Command::Serve(serve) => ("Serve", serve.run()),
        Command::Create(create) => ("Create", create.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Some of the text comes from elsewhere: a server, an argument in the wrong place.
            anstream::eprintln!("{name} command failed: {}", redact(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Tells what is wrong with a command line, without the token that may stand in the wrong place of it. Also shows the
/// help, which clap takes for an error.
fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        anstream::eprint!("{}", redact(&text.ansi().to_string()));
    } else {
        anstream::print!("{}", text.ansi());
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

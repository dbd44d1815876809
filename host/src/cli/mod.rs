//! The command line: what can be said, and how failures leave (COMPAT section 4, DESIGN section 5).
//!
//! One file a subcommand. Answers go to stdout; questions, hints and failures to stderr. Exit codes: 0 for success, 1 for
//! a failure, 2 for a command line that makes no sense.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod create;
mod serve;

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
    let (name, outcome) = match CommandLine::parse().command {
        Command::Serve(serve) => ("Serve", serve.run()),
        Command::Create(create) => ("Create", create.run()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{name} command failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

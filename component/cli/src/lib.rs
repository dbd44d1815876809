//! The operator-token authority as a command over a directory, for WASI runtimes:
//!
//! ```console
//! $ mkdir -m 700 data
//! $ wasmtime run --dir ./data::/data optoken-cli.wasm create
//! $ wasmtime run --dir ./data::/data optoken-cli.wasm regenerate < old-token
//! ```
//!
//! The core is that of the component of `wit/world.wit`. The store is [`optoken_wasi::file_store`],
//! which describes its durability and its requirements on the file system. A change is durable
//! before it is answered. Of concurrent commands with one token, exactly one replaces it.
//!
//! A catalog never goes back: [`optoken_wasi::high_water`] describes the mark that notices it.
//!
//! WASI has no file modes, no exit codes other than 0 and 1, and no identity of the caller. A user
//! with write permission for the directory is trusted with `create` and `recover`. The catalog
//! holds hashes of tokens only.
//!
//! `args` parses the command line, `execute` executes it, `text` and `json` write its output.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod args;
mod execute;
mod json;
mod stdio;
mod text;

use alloc::format;
use alloc::string::String;
use core::fmt::Display;

use optoken_core::authority::{AuthenticateError, Authority, AuthorizeError};
use optoken_core::commit::CommandError;
#[cfg(target_arch = "wasm32")]
use optoken_runtime as _;
use optoken_wasi::Wasi;
use optoken_wasi::high_water::Acceptance;
use wasip2::cli::environment;
use zeroize::Zeroizing;

use self::args::{Command, Invocation};
use self::execute::{Error, Output};

/// The command.
#[derive(Debug)]
pub struct Cli;

impl wasip2::exports::cli::run::Guest for Cli {
    fn run() -> Result<(), ()> {
        run().map_err(|text| stdio::write_stderr(&text))
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)]
mod export {
    use super::Cli;
    wasip2::cli::command::export!(Cli);
}

/// Executes the command line. The error is the text for standard error, which is empty if standard
/// output has the error.
fn run() -> Result<(), String> {
    let arguments = environment::get_arguments().into_iter().skip(1);
    let Invocation { data, state, accepted, origin, json, command } = args::parse(arguments)
        .map_err(|error| format!("Error: {error}\nFor the commands and options: optoken-cli --help\n"))?;
    match command {
        Command::Help => return print(text::HELP),
        Command::Version => return print(text::VERSION),
        _ => {}
    }
    let token =
        if command.takes_token() { stdio::token().map_err(error_line)? } else { Zeroizing::default() };
    let acceptance = Acceptance { sequence: accepted, option: "--accept-catalog-at " };
    let outcome = match Wasi::at(&data, state.as_deref(), acceptance, warn) {
        Ok(ports) => execute::execute(&mut Authority::new(ports), &command, &token, &origin),
        Err(reason) => Err(unavailable(&command, reason)),
    };
    let outcome = outcome.map(|output| output.unwrap_or(Output::Done("")));
    match &outcome {
        Ok(output) => {
            let printed = if json { print_json(&outcome) } else { print(&text::output(output)) };
            printed.map_err(|error| error + text::output_failed_hint(&command))
        }
        Err(failed) if json => {
            print_json(&outcome).map_err(|error| error + &text::failure(failed, &command, &data))?;
            Err(String::new())
        }
        Err(failed) => Err(text::failure(failed, &command, &data)),
    }
}

/// Returns the error of a command that cannot open its directory.
fn unavailable(command: &Command, reason: String) -> Error {
    let error = CommandError::Unavailable(reason);
    match command {
        Command::Authenticate | Command::Describe => AuthenticateError::Unavailable(error).into(),
        Command::Authorize(_) => AuthorizeError::Unavailable(error).into(),
        _ => error.into(),
    }
}

fn warn(warning: &str, _: bool) {
    stdio::write_stderr(&format!("Warning: {warning}\n"));
}

fn print_json(outcome: &Result<Output, Error>) -> Result<(), String> {
    let mut line = json::line(outcome).map_err(error_line)?;
    line.push('\n');
    print(&line)
}

fn print(text: &str) -> Result<(), String> {
    stdio::write(text).map_err(error_line)
}

fn error_line(error: impl Display) -> String {
    format!("Error: {error}\n")
}

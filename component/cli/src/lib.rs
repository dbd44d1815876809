//! The operator-token authority as a command that any WASI runtime runs as it is, over a directory:
//!
//! ```console
//! $ mkdir -m 700 data
//! $ wasmtime run --dir ./data::/data optoken-cli.wasm create
//! $ wasmtime run --dir ./data::/data optoken-cli.wasm regenerate < old-token
//! ```
//!
//! It is the same core as in the component of `wit/world.wit`, and what that asks of its host is here: the store is
//! [`optoken_wasi::store`], which says how durable it is and what it asks of the file system. A change is durable before it
//! is answered; of any number of commands that run at once, with one token, exactly one replaces it. Not possible through
//! WASI are file modes (the catalog holds only hashes of tokens; who may change it is up to the mode of the directory), exit
//! codes other than 0 and 1, and to know who is calling: whoever may write to the directory is trusted with `create` and
//! `recover`. `--help` tells the rest.
//!
//! `args` is what can be asked for, `answer` what comes of it, `text` and `json` how that is written.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod answer;
mod args;
mod json;
mod stdio;
mod text;

use alloc::format;
use alloc::string::String;
use core::fmt::Display;

use optoken_core::authority::{AuthenticateError, Authority};
use optoken_core::commit::CommandError;
#[cfg(target_arch = "wasm32")]
use optoken_runtime as _;
use optoken_wasi::Wasi;
use wasip2::cli::environment;
use zeroize::Zeroizing;

use self::answer::{Answer, Failed};
use self::args::{Command, Invocation};

/// The command.
#[derive(Debug)]
pub struct Cli;

impl wasip2::exports::cli::run::Guest for Cli {
    fn run() -> Result<(), ()> {
        run().map_err(|complaint| stdio::complain(&complaint))
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)]
mod export {
    use super::Cli;
    wasip2::cli::command::export!(Cli);
}

/// Does what the command line asks for. The error is what is complained of; empty if that has been said already.
fn run() -> Result<(), String> {
    let arguments = environment::get_arguments().into_iter().skip(1);
    let Invocation { data, origin, json, command } = args::parse(arguments)
        .map_err(|error| format!("Error: {error}\nSee what is possible with: optoken-cli --help\n"))?;
    match command {
        Command::Help => return told(text::HELP),
        Command::Version => return told(text::VERSION),
        _ => {}
    }
    let token = if command.takes_token() { stdio::token().map_err(error)? } else { Zeroizing::default() };
    let outcome = match Wasi::at(&data) {
        Ok(ports) => answer::carry_out(&mut Authority::new(ports), &command, &token, &origin),
        Err(why) => Err(unavailable(&command, why)),
    };
    let outcome = outcome.map(|answer| answer.unwrap_or(Answer::Done("")));
    match &outcome {
        Ok(answer) => {
            let told = if json { told_to_program(&outcome) } else { told(&text::answer(answer)) };
            told.map_err(|complaint| complaint + text::unshown(&command))
        }
        Err(failed) if json => {
            told_to_program(&outcome)
                .map_err(|complaint| complaint + &text::failure(failed, &command, &data))?;
            Err(String::new())
        }
        Err(failed) => Err(text::failure(failed, &command, &data)),
    }
}

/// What a command comes to that cannot reach its catalog.
fn unavailable(command: &Command, why: String) -> Failed {
    let error = CommandError::Unavailable(why);
    match command {
        Command::Authenticate => AuthenticateError::Unavailable(error).into(),
        _ => error.into(),
    }
}

fn told_to_program(outcome: &Result<Answer, Failed>) -> Result<(), String> {
    let mut line = json::line(outcome).map_err(error)?;
    line.push('\n');
    told(&line)
}

fn told(text: &str) -> Result<(), String> {
    stdio::write(text).map_err(error)
}

fn error(why: impl Display) -> String {
    format!("Error: {why}\n")
}

//! What `tests/bench/run` measures the server against, and what loads it.
//!
//! ```text
//! optoken-baseline constant ADDRESS
//! optoken-baseline check ROUNDS
//! optoken-baseline commits ROUNDS DIRECTORY ADDRESS TOKEN
//! optoken-baseline catalog FILE TOKENS
//! optoken-baseline load ADDRESS TOKEN RATE CONNECTIONS SECONDS
//! ```
//!
//! `constant` serves until it is killed. The others print lines of a name and its value.

// A benchmark ends at the first failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod catalog;
mod check;
mod client;
mod commits;
mod constant;
mod document;
mod load;
mod statistics;
mod units;

use std::env;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["constant", address] => constant::serve(address),
        ["check", rounds] => print!("{}", check::measure(number(rounds))),
        ["commits", rounds, directory, address, token] => {
            commits::measure(number(rounds), Path::new(directory), address, token);
        }
        ["catalog", file, tokens] => catalog::write(Path::new(file), number(tokens)),
        ["load", address, token, rate, connections, seconds] => {
            let load = load::Load {
                address,
                token,
                rate: number(rate),
                connections: number(connections),
                seconds: number(seconds),
            };
            load.run();
        }
        _ => {
            eprintln!("usage: optoken-baseline constant | check | commits | catalog | load …");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

//! Variables of the environment as this program reads them: an empty one counts as none.

use std::env;
use std::ffi::OsString;

use clap::{Arg, Command};

/// Returns the value of a variable, if it has one.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Removes the empty variables from the options of a command and its subcommands. Their help does
/// not name these variables any more.
pub(crate) fn without_empty(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let is_empty =
            argument.get_env().is_some_and(|name| env::var_os(name).is_some_and(|value| value.is_empty()));
        if is_empty { Arg::env(argument, None::<&str>) } else { argument }
    });
    command.mut_subcommands(without_empty)
}

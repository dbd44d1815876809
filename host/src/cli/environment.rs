//! Variables of the environment as this program reads them (docs/compatibility.md 5.1).
//!
//! An empty variable counts as none. InfluxDB has renamed variables: all their names are understood
//! here, and the newest one wins. An option wins over a variable. No text has the value of one.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};

use crate::cli::dotenv;
use crate::visible_text::one_line;

/// What the names of variables begin with that belong to this program or to InfluxDB.
pub(crate) const PREFIX: &str = "INFLUXDB3_";

pub(crate) const LOG_FILTER: &str = "INFLUXDB3_LOG_FILTER";

pub(crate) const LOG_FORMAT: &str = "INFLUXDB3_LOG_FORMAT";

pub(crate) const LOG_DESTINATION: &str = "INFLUXDB3_LOG_DESTINATION";

/// The URL of the token store, which can hold a password.
pub(crate) const STORE_VARIABLE: &str = "INFLUXDB3_TOKEN_STORE";

/// The variables that the stores read by themselves: the password of a store, or its file.
const OF_STORES: [&str; 2] = ["INFLUXDB3_TOKEN_STORE_PASSWORD", "INFLUXDB3_TOKEN_STORE_PASSWORD_FILE"];

/// A variable and its other names.
struct Renamed {
    /// The name that wins, which the options have.
    newest: &'static str,
    /// The other names. An earlier one wins over a later one.
    others: &'static [&'static str],
    kind: Kind,
}

/// How InfluxDB sees the other names of a variable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It warns about them.
    Deprecated,
    /// It documents them and does not read them.
    Documented,
    /// It warns about them. Other programs read them, too, so no value of them prevents a start.
    Generic,
}

/// The variables that InfluxDB 3 has renamed, from its first releases to 3.11 (`env_compat.rs` of
/// its source). This is the one place that lists them.
const RENAMED: [Renamed; 10] = [
    Renamed {
        newest: "INFLUXDB3_DATA_DIR",
        others: &["INFLUXDB3_DB_DIR", "INFLUXDB_IOX_DB_DIR"],
        kind: Kind::Deprecated,
    },
    Renamed {
        newest: "INFLUXDB3_OBJECT_STORE",
        others: &["INFLUXDB_IOX_OBJECT_STORE"],
        kind: Kind::Deprecated,
    },
    Renamed {
        newest: "INFLUXDB3_NODE_ID",
        others: &["INFLUXDB3_NODE_IDENTIFIER_PREFIX", "INFLUXDB3_HOST_IDENTIFIER_PREFIX"],
        kind: Kind::Deprecated,
    },
    Renamed {
        newest: "INFLUXDB3_NODE_ID_FROM_ENV",
        others: &["INFLUXDB3_NODE_IDENTIFIER_FROM_ENV"],
        kind: Kind::Deprecated,
    },
    Renamed {
        newest: "INFLUXDB3_WITHOUT_AUTH",
        others: &["INFLUXDB3_START_WITHOUT_AUTH"],
        kind: Kind::Deprecated,
    },
    Renamed {
        newest: "INFLUXDB3_TCP_LISTENER_FILE_PATH",
        others: &["INFLUXDB3_TCP_LISTINER_FILE_PATH"],
        kind: Kind::Deprecated,
    },
    Renamed {
        newest: "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND_ADDR",
        others: &["INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND"],
        kind: Kind::Documented,
    },
    Renamed { newest: LOG_FILTER, others: &["LOG_FILTER"], kind: Kind::Generic },
    Renamed { newest: LOG_FORMAT, others: &["LOG_FORMAT"], kind: Kind::Generic },
    Renamed { newest: LOG_DESTINATION, others: &["LOG_DESTINATION"], kind: Kind::Generic },
];

/// Returns the value of a variable, if it has one.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn is_set(name: &str) -> bool {
    variable(name).is_some()
}

fn row_of(newest: &str) -> Option<&'static Renamed> {
    RENAMED.iter().find(|renamed| renamed.newest == newest)
}

impl Renamed {
    /// Returns the other names that have a value, in the order in which they win.
    fn others_set(&self) -> impl Iterator<Item = &'static str> {
        self.others.iter().copied().filter(|name| is_set(name))
    }

    /// Returns a warning for each name that is deprecated, and for each that another one overrides.
    fn warnings(&self) -> Vec<String> {
        let newest = is_set(self.newest).then_some(self.newest);
        let mut set = newest.into_iter().chain(self.others_set());
        let Some(winner) = set.next() else { return Vec::new() };
        let mut warnings = Vec::new();
        if winner != self.newest && self.kind != Kind::Documented {
            warnings
                .push(format!("environment variable {winner} is deprecated, use {} instead", self.newest));
        }
        for other in set.filter(|other| variable(other) != variable(winner)) {
            warnings.push(format!("both {other} and {winner} are set; using {winner}"));
        }
        warnings
    }
}

/// Returns the name and the value of the generic variable that stands for this one, where this one
/// has no value. Other programs read it, too.
pub(crate) fn generic(newest: &str) -> Option<(&'static str, OsString)> {
    let row = row_of(newest).filter(|row| row.kind == Kind::Generic && !is_set(row.newest))?;
    let name = row.others_set().next()?;
    Some((name, variable(name)?))
}

/// Returns the warnings about the variables that this command reads.
pub(crate) fn warnings(command: &Command) -> Vec<String> {
    let names = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    names.filter_map(row_of).flat_map(Renamed::warnings).collect()
}

/// Lets each option of a command and its subcommands read the variable that has a value. Without
/// one it reads none, and its help does not name one.
pub(crate) fn resolve(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let Some(newest) = argument.get_env().map(OsStr::to_owned) else { return argument };
        let newest = newest.to_str().unwrap_or_default();
        if is_set(newest) {
            return argument;
        }
        let row = row_of(newest).filter(|row| row.kind != Kind::Generic);
        Arg::env(argument, row.and_then(|row| row.others_set().next()))
    });
    command.mut_subcommands(resolve)
}

/// Parses the arguments of this process. An option takes precedence over a variable that
/// contradicts it.
pub(crate) fn parse(command: &Command) -> Result<ArgMatches, clap::Error> {
    let error = match command.clone().try_get_matches() {
        Err(error) if error.kind() == ErrorKind::ArgumentConflict => error,
        result => return result,
    };
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(argument)) => argument.clone(),
        _ => String::new(),
    };
    let (one, other) = (named(ContextKind::InvalidArg), named(ContextKind::PriorArg));
    for (variable, option) in [(&one, &other), (&other, &one)] {
        if is_on_command_line(option) && !is_on_command_line(variable) {
            return without_variable(command.clone(), variable).try_get_matches();
        }
    }
    Err(error)
}

/// Returns the name of the option that the parser shows so, such as `--store <URL>`.
fn long_name(shown: &str) -> Option<&str> {
    shown.strip_prefix("--")?.split([' ', '=', '[']).next()
}

/// Removes the variable of the option that the parser shows so.
fn without_variable(command: Command, shown: &str) -> Command {
    let command = command.mut_args(|argument| {
        let is_shown = argument.get_long().is_some() && argument.get_long() == long_name(shown);
        if is_shown { Arg::env(argument, None::<&str>) } else { argument }
    });
    command.mut_subcommands(|command| without_variable(command, shown))
}

/// Returns whether the argument that the parser shows so is on the command line.
fn is_on_command_line(shown: &str) -> bool {
    let Some(name) = long_name(shown) else { return true };
    env::args_os().any(|argument| {
        let argument = argument.to_string_lossy();
        let rest = argument.strip_prefix("--").and_then(|option| option.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Returns which variable has the value that this error is about, if one has.
pub(crate) fn origin(error: &clap::Error, command: &Command) -> Option<String> {
    if error.kind() == ErrorKind::InvalidUtf8 {
        return not_text(command);
    }
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    if is_on_command_line(shown) {
        return None;
    }
    let name = variable_of(command, long_name(shown)?).filter(|name| is_set(name))?;
    Some(match dotenv::origin_of(&name) {
        Some(file) => format!("the value is from the variable {name} in {}", file.display()),
        None => format!("the value is from the variable {name}"),
    })
}

/// Names the variables of options whose values are not text. The parser names none of them.
fn not_text(command: &Command) -> Option<String> {
    let mut names = BTreeSet::new();
    add_names(command, &mut names);
    names.retain(|name| variable(name).is_some_and(|value| value.to_str().is_none()));
    let names: Vec<_> = names.into_iter().collect();
    (!names.is_empty()).then(|| format!("the value is not UTF-8: {}", names.join(", ")))
}

/// Returns the variable of the option with this name.
fn variable_of(command: &Command, name: &str) -> Option<String> {
    let mut own = command.get_arguments().filter(|argument| argument.get_long() == Some(name));
    let own = own.find_map(|argument| argument.get_env()?.to_str());
    let below = || command.get_subcommands().find_map(|command| variable_of(command, name));
    own.map(str::to_owned).or_else(below)
}

/// Returns the names of the variables with a value that this program or InfluxDB seems to own, and
/// that no command reads.
pub(crate) fn unread(command: &Command) -> BTreeSet<String> {
    let mut read = BTreeSet::from(OF_STORES.map(str::to_owned));
    add_names(command, &mut read);
    let names = env::vars_os().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name);
    let names = names.map(|name| one_line(&name.to_string_lossy()));
    names.filter(|name| name.starts_with(PREFIX) && !read.contains(name)).collect()
}

/// Adds all names of the variables that a command and its subcommands read.
fn add_names(command: &Command, names: &mut BTreeSet<String>) {
    for name in command.get_arguments().filter_map(|argument| argument.get_env()?.to_str()) {
        names.insert(name.to_owned());
        let others = row_of(name).map_or(&[][..], |row| row.others);
        names.extend(others.iter().map(ToString::to_string));
    }
    command.get_subcommands().for_each(|command| add_names(command, names));
}

/// Parses a boolean as people write it, in any case.
pub(crate) fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err("it is true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read_as_people_write_them() {
        for text in ["true", "TRUE", "True", "t", "yes", "Y", "on", "1", " true\n"] {
            assert_eq!(boolean(text), Ok(true), "{text:?}");
        }
        for text in ["false", "F", "no", "NO", "n", "Off", "0", "\tfalse"] {
            assert_eq!(boolean(text), Ok(false), "{text:?}");
        }
        for text in ["", "maybe", "2", "tru", "yes please", "-1", "\"true\""] {
            assert!(boolean(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_stand_in_one_row_only() {
        let names: Vec<_> = RENAMED.iter().flat_map(|row| row.others.iter().chain([&row.newest])).collect();
        let different: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), different.len());
        assert!(RENAMED.iter().all(|row| row.newest.starts_with(PREFIX) && !row.others.is_empty()));
    }
}

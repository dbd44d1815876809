//! The command line, as text. Knows what can be asked for, nothing of how it is done.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

use thiserror::Error;

/// Where the catalog is, unless something else is said.
pub(crate) const DEFAULT_DATA: &str = "/data";

/// What the audit records say of where a command came from, unless something else is said.
pub(crate) const DEFAULT_ORIGIN: &str = "cli";

/// What is asked for, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// The directory with the catalog.
    pub(crate) data: String,
    /// Where the command comes from, for its audit record.
    pub(crate) origin: String,
    /// Whether the answer is for a program.
    pub(crate) json: bool,
    /// What is asked for.
    pub(crate) command: Command,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Make the operator token.
    CreateOperator,
    /// Make a named admin token, which is accepted for `lifetime` seconds or for ever.
    CreateNamed { name: String, lifetime: Option<u64> },
    /// Replace the operator token; the old one is accepted for so many seconds more.
    Regenerate { overlap: Option<u64> },
    /// Let a secret wait, for `ttl` seconds: the one with this hash, or a new one.
    Stage { sha512: Option<String>, ttl: Option<u64> },
    /// Let the staged secret take over; the old one is accepted for so many seconds more.
    Confirm { overlap: Option<u64> },
    /// Give the staged secret up.
    Cancel,
    /// Accept the replaced secret no longer.
    EndOverlap,
    /// Print number and kind of the token.
    Authenticate,
    /// Print the record of the token.
    Describe,
    /// Take a named admin token out.
    Delete { name: String },
    /// Tell how the operator token stands.
    Status,
    /// Tell of all tokens.
    List,
    /// Print the audit records after this sequence number.
    Audit { after: Option<u64> },
    /// Print version, audit sequence and chain head of the catalog.
    State,
    /// Replace the operator token without a credential.
    Recover,
    /// Give the catalog its name.
    Initialize,
    /// Read the catalog.
    Check,
    /// Import a token by its hash, or by its text on standard input. `expiry` is in milliseconds
    /// since the epoch.
    Import { name: String, expiry: Option<u64>, sha512: Option<String> },
    /// Tell what can be asked for.
    Help,
    /// Tell which version this is.
    Version,
}

impl Command {
    /// Whether a token comes on standard input.
    pub(crate) const fn takes_token(&self) -> bool {
        match self {
            Self::CreateNamed { .. }
            | Self::Regenerate { .. }
            | Self::Stage { .. }
            | Self::Confirm { .. }
            | Self::Cancel
            | Self::EndOverlap
            | Self::Authenticate
            | Self::Describe
            | Self::Delete { .. } => true,
            Self::Import { sha512, .. } => sha512.is_none(),
            Self::CreateOperator
            | Self::Status
            | Self::List
            | Self::Audit { .. }
            | Self::State
            | Self::Recover
            | Self::Initialize
            | Self::Check
            | Self::Help
            | Self::Version => false,
        }
    }
}

/// The command line asks for nothing that there is. No text quotes what could be a token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Usage {
    /// It asks for nothing.
    #[error("there is no command")]
    NoCommand,
    /// It asks for something unknown.
    #[error("there is no command {0}")]
    UnknownCommand(String),
    /// There is no such option.
    #[error("there is no option {0}")]
    UnknownOption(String),
    /// The option is not for this command.
    #[error("{command} takes no {option}")]
    Misplaced { command: String, option: &'static str },
    /// The option is there twice.
    #[error("{0} is given twice")]
    Twice(&'static str),
    /// The option has no value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// The option has one.
    #[error("{0} takes no value")]
    Value(&'static str),
    /// The value is not one.
    #[error("{0} needs a whole number")]
    NoNumber(&'static str),
    /// Something is missing.
    #[error("{command} needs {what}")]
    Missing { command: String, what: &'static str },
    /// There is one argument too many.
    #[error("{0} takes no further argument")]
    Superfluous(String),
    /// It looks like a token.
    #[error("a token is an argument; other users of the machine can see those, so give it on standard input")]
    Token,
}

/// Options with a value.
const VALUED: [&str; 9] =
    ["--data", "--origin", "--name", "--lifetime", "--overlap", "--sha512", "--ttl", "--expiry", "--after"];

/// What stands on the command line, before anybody knows what it means together.
#[derive(Default)]
struct Given {
    options: Vec<(&'static str, String)>,
    words: Vec<String>,
    json: bool,
    help: bool,
    version: bool,
}

/// Reads the arguments, without the name of the program.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Invocation, Usage> {
    let mut given = read(arguments)?;
    let data = given.take("--data").unwrap_or_else(|| DEFAULT_DATA.to_owned());
    let origin = given.take("--origin").unwrap_or_else(|| DEFAULT_ORIGIN.to_owned());
    let json = given.json;
    let command = if given.help {
        Command::Help
    } else if given.version {
        Command::Version
    } else {
        command(given)?
    };
    Ok(Invocation { data, origin, json, command })
}

fn read(arguments: impl IntoIterator<Item = String>) -> Result<Given, Usage> {
    let mut given = Given::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            given.words.extend(arguments.by_ref());
        } else if argument.starts_with('-') {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let flag = match name {
                "--json" => Some(("--json", &mut given.json)),
                "--help" | "-h" => Some(("--help", &mut given.help)),
                "--version" | "-V" => Some(("--version", &mut given.version)),
                _ => None,
            };
            if let Some((name, flag)) = flag {
                if value.is_some() {
                    return Err(Usage::Value(name));
                }
                *flag = true;
                continue;
            }
            let Some(name) = VALUED.into_iter().find(|known| *known == name) else {
                untold(name)?;
                return Err(Usage::UnknownOption(name.to_owned()));
            };
            if given.options.iter().any(|(known, _)| *known == name) {
                return Err(Usage::Twice(name));
            }
            let value = value.or_else(|| arguments.next()).ok_or(Usage::NoValue(name))?;
            // The one is written down, the other repeated; what is refused for a name, the core says.
            if matches!(name, "--origin" | "--data") {
                untold(&value)?;
            }
            given.options.push((name, value));
        } else {
            given.words.push(argument);
        }
    }
    Ok(given)
}

fn command(mut given: Given) -> Result<Command, Usage> {
    let mut words = core::mem::take(&mut given.words).into_iter();
    let word = words.next().ok_or(Usage::NoCommand)?;
    let missing = |what| Usage::Missing { command: word.clone(), what };
    let command = match word.as_str() {
        "create" => match given.take("--name") {
            Some(name) => Command::CreateNamed { name, lifetime: given.number("--lifetime")? },
            None => Command::CreateOperator,
        },
        "regenerate" => Command::Regenerate { overlap: given.number("--overlap")? },
        "stage" => Command::Stage { sha512: given.take("--sha512"), ttl: given.number("--ttl")? },
        "confirm" => Command::Confirm { overlap: given.number("--overlap")? },
        "cancel" => Command::Cancel,
        "end-overlap" => Command::EndOverlap,
        "authenticate" => Command::Authenticate,
        "describe" => Command::Describe,
        "delete" => {
            let name = words.next().ok_or_else(|| missing("the NAME of a token"))?;
            untold(&name)?;
            Command::Delete { name }
        }
        "status" => Command::Status,
        "list" => Command::List,
        "audit" => Command::Audit { after: given.number("--after")? },
        "state" => Command::State,
        "recover" => Command::Recover,
        "initialize" => Command::Initialize,
        "check" => Command::Check,
        "import" => Command::Import {
            name: given.take("--name").ok_or_else(|| missing("--name NAME"))?,
            expiry: given.number("--expiry")?,
            sha512: given.take("--sha512"),
        },
        "help" => Command::Help,
        _ => {
            untold(&word)?;
            return Err(Usage::UnknownCommand(word));
        }
    };
    if let Some((option, _)) = given.options.first() {
        return Err(Usage::Misplaced { command: word, option });
    }
    match words.next() {
        Some(further) => {
            untold(&further)?;
            Err(Usage::Superfluous(word))
        }
        None => Ok(command),
    }
}

impl Given {
    fn take(&mut self, name: &str) -> Option<String> {
        let position = self.options.iter().position(|(given, _)| *given == name)?;
        Some(self.options.swap_remove(position).1)
    }

    fn number(&mut self, name: &'static str) -> Result<Option<u64>, Usage> {
        self.take(name).map(|value| value.parse().map_err(|_| Usage::NoNumber(name))).transpose()
    }
}

/// Refuses what could be a token, so that nobody quotes it or writes it down.
fn untold(argument: &str) -> Result<(), Usage> {
    if argument.contains(optoken_protocol::token::PREFIX) { Err(Usage::Token) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, Usage> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn command(line: &str) -> Result<Command, Usage> {
        parsed(line).map(|invocation| invocation.command)
    }

    #[test]
    fn every_command_is_understood() {
        let name = || "ci".to_owned();
        let hash = || Some("ab".to_owned());
        for (line, expected) in [
            ("create", Command::CreateOperator),
            ("create --name ci", Command::CreateNamed { name: name(), lifetime: None }),
            ("create --lifetime 60 --name ci", Command::CreateNamed { name: name(), lifetime: Some(60) }),
            ("create --name=ci --lifetime=0", Command::CreateNamed { name: name(), lifetime: Some(0) }),
            ("create --name --json", Command::CreateNamed { name: "--json".into(), lifetime: None }),
            ("create --name=", Command::CreateNamed { name: String::new(), lifetime: None }),
            ("create --name=a=b", Command::CreateNamed { name: "a=b".into(), lifetime: None }),
            ("regenerate", Command::Regenerate { overlap: None }),
            ("regenerate --overlap 60", Command::Regenerate { overlap: Some(60) }),
            ("stage", Command::Stage { sha512: None, ttl: None }),
            ("stage --sha512 ab --ttl 5", Command::Stage { sha512: hash(), ttl: Some(5) }),
            ("confirm", Command::Confirm { overlap: None }),
            ("confirm --overlap 18446744073709551615", Command::Confirm { overlap: Some(u64::MAX) }),
            ("cancel", Command::Cancel),
            ("end-overlap", Command::EndOverlap),
            ("authenticate", Command::Authenticate),
            ("delete ci", Command::Delete { name: name() }),
            ("delete -- --ci", Command::Delete { name: "--ci".into() }),
            ("status", Command::Status),
            ("list", Command::List),
            ("audit", Command::Audit { after: None }),
            ("audit --after 7", Command::Audit { after: Some(7) }),
            ("state", Command::State),
            ("describe", Command::Describe),
            ("recover", Command::Recover),
            ("initialize", Command::Initialize),
            ("check", Command::Check),
            ("import --name ci", Command::Import { name: name(), expiry: None, sha512: None }),
            (
                "preset --sha512 ab --expiry 7 --name ci",
                Command::Import { name: name(), expiry: Some(7), sha512: hash() },
            ),
            ("help", Command::Help),
            ("--help", Command::Help),
            ("create -h", Command::Help),
            ("--version", Command::Version),
            ("-V", Command::Version),
        ] {
            assert_eq!(command(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn options_that_every_command_has_stand_anywhere() {
        let plain = parsed("list").unwrap();
        assert_eq!((plain.data.as_str(), plain.origin.as_str(), plain.json), ("/data", "cli", false));
        for line in ["--data /x --origin me --json list", "list --json --origin=me --data=/x"] {
            let told = parsed(line).unwrap();
            assert_eq!((told.data.as_str(), told.origin.as_str(), told.json), ("/x", "me", true), "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (line, text) in [
            ("", "there is no command"),
            ("--json", "there is no command"),
            ("created", "there is no command created"),
            ("create --nmae ci", "there is no option --nmae"),
            ("create -n ci", "there is no option -n"),
            ("create --name", "--name needs a value"),
            ("create --name a --name b", "--name is given twice"),
            ("create --lifetime 5", "create takes no --lifetime"),
            ("create --json=yes", "--json takes no value"),
            ("create --name ci --lifetime 1h", "--lifetime needs a whole number"),
            ("regenerate --overlap -1", "--overlap needs a whole number"),
            ("regenerate --ttl 5", "regenerate takes no --ttl"),
            ("delete", "delete needs the NAME of a token"),
            ("delete a b", "delete takes no further argument"),
            ("preset", "preset needs --name NAME"),
            ("list ci", "list takes no further argument"),
            ("list --=x", "there is no option --"),
            ("list =x", "list takes no further argument"),
        ] {
            assert_eq!(parsed(line).unwrap_err().to_string(), text, "{line}");
        }
    }

    #[test]
    fn a_token_among_the_arguments_is_refused_and_not_repeated() {
        for line in ["regenerate --token=apiv3_x", "regenerate --overlap apiv3_x"] {
            let error = parsed(line).unwrap_err();
            assert!(!error.to_string().contains("apiv3_x"), "{error}");
        }
        for line in [
            "apiv3_x",
            "authenticate apiv3_x",
            "list --apiv3_x",
            "delete apiv3_x",
            "create --origin apiv3_x",
            "list --origin=by:apiv3_x",
            "list --data apiv3_x",
            "list --data=./apiv3_x",
        ] {
            assert_eq!(parsed(line), Err(Usage::Token), "{line}");
        }
    }

    #[test]
    fn who_presents_a_token_does_it_on_standard_input() {
        for (line, takes) in [
            ("create", false),
            ("create --name ci", true),
            ("regenerate", true),
            ("delete ci", true),
            ("recover", false),
            ("import --name ci", true),
            ("preset --name ci --sha512 ab", false),
            ("list", false),
        ] {
            assert_eq!(command(line).unwrap().takes_token(), takes, "{line}");
        }
    }
}

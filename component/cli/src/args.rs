//! Parses the command line. Knows the commands and their options, and nothing of their execution.
//!
//! The core parses permissions, so that its errors are those of every host.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

use optoken_core::access::{Access, DatabaseAction, Target};
use optoken_protocol::token::PREFIX;
use thiserror::Error;

/// The directory with the catalog, without `--data`.
pub(crate) const DEFAULT_DATA: &str = "/data";

/// The origin in audit records, without `--origin`.
pub(crate) const DEFAULT_ORIGIN: &str = "cli";

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// The directory with the catalog.
    pub(crate) data: String,
    /// The directory with the high-water mark, if the option is given.
    pub(crate) state: Option<String>,
    /// The sequence number of an older catalog that the operator accepts once.
    pub(crate) accepted: Option<u64>,
    /// The origin for the audit record.
    pub(crate) origin: String,
    /// Whether the output is JSON, for a program.
    pub(crate) json: bool,
    pub(crate) command: Command,
}

/// A command and its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Creates the operator token.
    CreateOperator,
    /// Creates a named token, which does not expire without a lifetime. Without permissions it has
    /// all.
    CreateNamed { name: String, permissions: Option<Vec<String>>, lifetime_seconds: Option<u64> },
    /// Replaces the operator token; the previous secret stays accepted for the overlap.
    Regenerate { overlap_seconds: Option<u64> },
    /// Stages a secret for the operator token: the one with this hash, or a new one.
    Stage { sha512: Option<String>, ttl_seconds: Option<u64> },
    /// Makes the staged secret the operator's; the previous one stays accepted for the overlap.
    Confirm { overlap_seconds: Option<u64> },
    /// Cancels the staged secret.
    Cancel,
    /// Revokes the previous secret before its deadline.
    EndOverlap,
    /// Prints number and kind of the token.
    Authenticate,
    /// Prints whether the token may send this request.
    Authorize(Request),
    /// Prints the record of the token.
    Describe,
    /// Deletes a named token.
    Delete { name: String },
    /// Prints the operator token and its rotation.
    Status,
    /// Prints all tokens.
    List,
    /// Prints the audit records after this sequence number.
    Audit { after: Option<u64> },
    /// Prints version, audit sequence and chain head of the catalog.
    State,
    /// Replaces the operator token without a credential: because it is lost, or before an older
    /// catalog is put back.
    Recover { restore: bool },
    /// Gives the catalog its id.
    Initialize,
    /// Reads the catalog.
    Check,
    /// Imports a token by its hash, or by its text on standard input. `expiry` is in milliseconds
    /// since the epoch.
    Import {
        name: String,
        permissions: Option<Vec<String>>,
        description: Option<String>,
        expiry: Option<u64>,
        sha512: Option<String>,
    },
    /// Prints the hash of a token.
    Hash,
    /// Replaces the operator token by that of a configuration, whose earlier token has the hash
    /// `current`; the earlier token stays accepted for the overlap.
    Replace { current: String, sha512: String, overlap_seconds: Option<u64> },
    /// Prints the help.
    Help,
    /// Prints the version.
    Version,
}

/// A request of a client of another service, as `access` in `wit/authenticator.wit`. No permission
/// depends on the query string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Empty if it is not known.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) target: RequestTarget,
}

/// What a request acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestTarget {
    Http,
    Database(String, DatabaseAction),
    System(String),
    Administration,
}

impl Request {
    /// Returns the request, as the core reads it.
    pub(crate) fn access(&self) -> Access<'_> {
        let target = match &self.target {
            RequestTarget::Http => Target::Http,
            RequestTarget::Database(name, action) => Target::Database(name, *action),
            RequestTarget::System(name) => Target::System(name),
            RequestTarget::Administration => Target::Administration,
        };
        Access { method: &self.method, host: &self.host, path: &self.path, target }
    }
}

impl RequestTarget {
    fn parse(text: &str) -> Result<Self, UsageError> {
        match text {
            "http" => return Ok(Self::Http),
            "administration" => return Ok(Self::Administration),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("system:") {
            return Ok(Self::System(name.to_owned()));
        }
        // The name of a database may hold colons.
        let (name, action) = text
            .strip_prefix("db:")
            .and_then(|rest| rest.rsplit_once(':'))
            .ok_or(UsageError::UnknownTarget)?;
        let action = match action {
            "read" => DatabaseAction::Read,
            "write" => DatabaseAction::Write,
            "create" => DatabaseAction::Create,
            _ => return Err(UsageError::UnknownTarget),
        };
        Ok(Self::Database(name.to_owned(), action))
    }
}

impl Command {
    /// Returns whether the command reads a token from standard input.
    pub(crate) const fn takes_token(&self) -> bool {
        match self {
            Self::CreateNamed { .. }
            | Self::Regenerate { .. }
            | Self::Stage { .. }
            | Self::Confirm { .. }
            | Self::Cancel
            | Self::EndOverlap
            | Self::Authenticate
            | Self::Authorize(_)
            | Self::Describe
            | Self::Hash
            | Self::Delete { .. } => true,
            Self::Import { sha512, .. } => sha512.is_none(),
            Self::CreateOperator
            | Self::Status
            | Self::List
            | Self::Audit { .. }
            | Self::State
            | Self::Recover { .. }
            | Self::Initialize
            | Self::Check
            | Self::Replace { .. }
            | Self::Help
            | Self::Version => false,
        }
    }
}

/// The command line is not valid. No text quotes an argument that contains a token.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum UsageError {
    #[error("there is no command")]
    NoCommand,
    #[error("there is no command {0}")]
    UnknownCommand(String),
    #[error("there is no option {0}")]
    UnknownOption(String),
    /// The option belongs to another command.
    #[error("{command} takes no {option}")]
    Misplaced { command: String, option: &'static str },
    #[error("{0} is given twice")]
    Duplicate(&'static str),
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// A flag has a value.
    #[error("{0} takes no value")]
    UnexpectedValue(&'static str),
    #[error("{0} needs a whole number")]
    NotANumber(&'static str),
    /// The reason of a recovery is none of the contract.
    #[error("--reason is lost-secret or restore")]
    UnknownReason,
    /// The target of a request is none of the contract.
    #[error("--target is http, db:NAME:read, db:NAME:write, db:NAME:create, system:NAME or administration")]
    UnknownTarget,
    /// A required option or argument is missing.
    #[error("{command} needs {required}")]
    Missing { command: String, required: &'static str },
    #[error("{0} takes no further argument")]
    Superfluous(String),
    /// An argument contains a token. Other users of the machine can read arguments.
    #[error("a token is an argument; other users of the machine can see those, so give it on standard input")]
    Token,
}

/// The options with a value.
const VALUED: [&str; 20] = [
    "--data",
    "--state",
    "--accept-catalog-at",
    "--origin",
    "--name",
    "--lifetime",
    "--overlap",
    "--sha512",
    "--current",
    "--ttl",
    "--expiry",
    "--after",
    "--reason",
    PERMISSION,
    "--description",
    "--method",
    "--host",
    "--path",
    "--query",
    "--target",
];

/// The option that may stand several times.
const PERMISSION: &str = "--permission";

/// The options whose values must not hold a token. The origin and permissions are recorded, and
/// errors repeat the paths of directories. The core rejects tokens as names and in descriptions.
const WITHOUT_TOKEN: [&str; 9] =
    ["--data", "--state", "--origin", PERMISSION, "--method", "--host", "--path", "--query", "--target"];

/// The arguments, split into options and words, before a command checks them.
#[derive(Default)]
struct RawArgs {
    options: Vec<(&'static str, String)>,
    words: Vec<String>,
    json: bool,
    help: bool,
    version: bool,
}

/// Parses the arguments, without the name of the program.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Invocation, UsageError> {
    let mut raw = RawArgs::read(arguments)?;
    let data = raw.take("--data").unwrap_or_else(|| DEFAULT_DATA.to_owned());
    let origin = raw.take("--origin").unwrap_or_else(|| DEFAULT_ORIGIN.to_owned());
    let state = raw.take("--state");
    let accepted = raw.number("--accept-catalog-at")?;
    let json = raw.json;
    let command = if raw.help {
        Command::Help
    } else if raw.version {
        Command::Version
    } else {
        command(raw)?
    };
    Ok(Invocation { data, state, accepted, origin, json, command })
}

fn command(mut raw: RawArgs) -> Result<Command, UsageError> {
    let mut words = core::mem::take(&mut raw.words).into_iter();
    let word = words.next().ok_or(UsageError::NoCommand)?;
    let missing = |required| UsageError::Missing { command: word.clone(), required };
    let command = match word.as_str() {
        "create" => match raw.take("--name") {
            Some(name) => Command::CreateNamed {
                name,
                permissions: raw.permissions(),
                lifetime_seconds: raw.number("--lifetime")?,
            },
            None => Command::CreateOperator,
        },
        "regenerate" => Command::Regenerate { overlap_seconds: raw.number("--overlap")? },
        "stage" => Command::Stage { sha512: raw.take("--sha512"), ttl_seconds: raw.number("--ttl")? },
        "confirm" => Command::Confirm { overlap_seconds: raw.number("--overlap")? },
        "cancel" => Command::Cancel,
        "end-overlap" => Command::EndOverlap,
        "authenticate" => Command::Authenticate,
        "authorize" => {
            let request = Request {
                method: raw.take("--method").ok_or_else(|| missing("--method METHOD"))?,
                host: raw.take("--host").unwrap_or_default(),
                path: raw.take("--path").ok_or_else(|| missing("--path PATH"))?,
                target: RequestTarget::parse(
                    &raw.take("--target").ok_or_else(|| missing("--target TARGET"))?,
                )?,
            };
            raw.take("--query");
            Command::Authorize(request)
        }
        "describe" => Command::Describe,
        "delete" => {
            let name = words.next().ok_or_else(|| missing("the NAME of a token"))?;
            reject_token(&name)?;
            Command::Delete { name }
        }
        "status" => Command::Status,
        "list" => Command::List,
        "audit" => Command::Audit { after: raw.number("--after")? },
        "state" => Command::State,
        "recover" => Command::Recover {
            restore: match raw.take("--reason").as_deref() {
                None | Some("lost-secret") => false,
                Some("restore") => true,
                Some(_) => return Err(UsageError::UnknownReason),
            },
        },
        "initialize" => Command::Initialize,
        "check" => Command::Check,
        "import" => Command::Import {
            name: raw.take("--name").ok_or_else(|| missing("--name NAME"))?,
            permissions: raw.permissions(),
            description: raw.take("--description"),
            expiry: raw.number("--expiry")?,
            sha512: raw.take("--sha512"),
        },
        "hash" => Command::Hash,
        "replace" => Command::Replace {
            current: raw.take("--current").ok_or_else(|| missing("--current HEX"))?,
            sha512: raw.take("--sha512").ok_or_else(|| missing("--sha512 HEX"))?,
            overlap_seconds: raw.number("--overlap")?,
        },
        "help" => Command::Help,
        _ => {
            reject_token(&word)?;
            return Err(UsageError::UnknownCommand(word));
        }
    };
    if let Some((option, _)) = raw.options.first() {
        return Err(UsageError::Misplaced { command: word, option });
    }
    match words.next() {
        Some(further) => {
            reject_token(&further)?;
            Err(UsageError::Superfluous(word))
        }
        None => Ok(command),
    }
}

impl RawArgs {
    fn read(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut raw = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                raw.words.extend(arguments.by_ref());
            } else if argument.starts_with('-') {
                let (name, value) = match argument.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (argument.as_str(), None),
                };
                let flag = match name {
                    "--json" => Some(("--json", &mut raw.json)),
                    "--help" | "-h" => Some(("--help", &mut raw.help)),
                    "--version" | "-V" => Some(("--version", &mut raw.version)),
                    _ => None,
                };
                if let Some((name, flag)) = flag {
                    if value.is_some() {
                        return Err(UsageError::UnexpectedValue(name));
                    }
                    *flag = true;
                    continue;
                }
                let Some(name) = VALUED.into_iter().find(|known| *known == name) else {
                    reject_token(name)?;
                    return Err(UsageError::UnknownOption(name.to_owned()));
                };
                if name != PERMISSION && raw.options.iter().any(|(known, _)| *known == name) {
                    return Err(UsageError::Duplicate(name));
                }
                let value = value.or_else(|| arguments.next()).ok_or(UsageError::NoValue(name))?;
                if WITHOUT_TOKEN.contains(&name) {
                    reject_token(&value)?;
                }
                raw.options.push((name, value));
            } else {
                raw.words.push(argument);
            }
        }
        Ok(raw)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let position = self.options.iter().position(|(option, _)| *option == name)?;
        Some(self.options.remove(position).1)
    }

    /// Takes the permissions in their order, if there are any.
    fn permissions(&mut self) -> Option<Vec<String>> {
        let texts: Vec<_> = core::iter::from_fn(|| self.take(PERMISSION)).collect();
        (!texts.is_empty()).then_some(texts)
    }

    fn number(&mut self, name: &'static str) -> Result<Option<u64>, UsageError> {
        self.take(name).map(|value| value.parse().map_err(|_| UsageError::NotANumber(name))).transpose()
    }
}

/// Rejects an argument that contains a token, before an error quotes it or an audit record keeps
/// it.
fn reject_token(argument: &str) -> Result<(), UsageError> {
    if argument.contains(PREFIX) { Err(UsageError::Token) } else { Ok(()) }
}

#[cfg(test)]
mod tests;

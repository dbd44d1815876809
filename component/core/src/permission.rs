//! The permissions of a token: `TYPE:NAMES:ACTIONS`, as InfluxDB 3 Enterprise writes them, and the
//! type `http` for any other service.
//!
//! A text is parsed once. [`Permissions`] hold each permission in one form, so that the catalog has
//! one text for it, and no other code parses again. Knows nothing of tokens or of the catalog.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use optoken_protocol::database_name::is_database_name;
use optoken_protocol::host::is_normal_host;
use optoken_protocol::request_path;
use thiserror::Error;

use crate::access::{Access, DatabaseAction, Target};
use crate::json_line::{LineReader, push_string};

/// The most permissions of a token.
pub const MAX_PERMISSIONS: usize = 32;

/// The most bytes that the permissions of a token have together.
pub const MAX_PERMISSION_BYTES: usize = 2048;

/// The text of all permissions, which every token has that is no other.
pub const ALL: &str = "*:*:*";

/// All names of a type.
const ALL_NAMES: &str = "*";

/// The database of InfluxDB 3 about the server itself. Only its own name grants it.
const INTERNAL: &str = "_internal";

/// The names of the type `system`.
const SYSTEM: [&str; 3] = ["health", "metrics", "ping"];

/// The begin of the field in stored lines.
const FIELD: &str = ",\"permissions\":[";

/// What a token may do. At least one permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions(Vec<Permission>);

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Permission {
    resource: Resource,
    /// The names, separated by commas; [`ALL_NAMES`]; or the pattern of the type `http`.
    names: Box<str>,
    actions: Actions,
}

/// The type of a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Database,
    System,
    Http,
}

/// A set of actions. The bits are the positions in [`ACTIONS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Actions(u16);

/// The names of the actions, in the order in which they are written.
const ACTIONS: [&str; 10] =
    ["read", "write", "create", "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"];

impl Actions {
    const READ: Self = Self(1);
    const WRITE: Self = Self(1 << 1);
    const CREATE: Self = Self(1 << 2);
    const METHODS: Self = Self(0b11_1111_1000);
    /// The methods that `read` covers.
    const SAFE: Self = Self(0b00_0011_1000);

    /// The actions that cover a method.
    fn of_method(method: &str) -> Self {
        let method = Self::named(method).0 & Self::METHODS.0;
        let group = if method & Self::SAFE.0 == 0 { Self::WRITE } else { Self::READ };
        Self(method | group.0)
    }

    /// The action of this name; an empty set if there is none.
    fn named(name: &str) -> Self {
        let position = ACTIONS.iter().position(|action| *action == name);
        Self(position.map_or(0, |position| 1 << position))
    }

    const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl Resource {
    const fn name(self) -> &'static str {
        match self {
            Self::Database => "db",
            Self::System => "system",
            Self::Http => "http",
        }
    }

    /// The actions that this type has.
    const fn actions(self) -> Actions {
        Actions(match self {
            Self::Database => Actions::READ.0 | Actions::WRITE.0 | Actions::CREATE.0,
            Self::System => Actions::READ.0,
            Self::Http => Actions::READ.0 | Actions::WRITE.0 | Actions::METHODS.0,
        })
    }

    /// The actions that `*` means: those that cover all others.
    const fn all(self) -> Actions {
        match self {
            Self::Http => Actions(Actions::READ.0 | Actions::WRITE.0),
            Self::Database | Self::System => self.actions(),
        }
    }
}

/// What is wrong with a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// It does not have three parts.
    #[error("it must be TYPE:NAMES:ACTIONS")]
    Form,
    /// Its type is unknown.
    #[error("TYPE must be db, system or http")]
    Type,
    /// All permissions stand beside others.
    #[error("{ALL} must be the only permission")]
    NotAlone,
    /// A name of its type `db` is none.
    #[error(
        "NAMES of db are * or names of databases, separated by commas: letters, digits, _, / and -, and a letter or digit \
         first"
    )]
    Database,
    /// A name of its type `system` is unknown.
    #[error("NAMES of system are * or of health, metrics and ping, separated by commas")]
    System,
    /// The pattern of its type `http` is none.
    #[error(
        "the pattern of http is [HOST]/PATH in normal form, with * at its end only: no empty, . or .. segment, host in lower \
         case and without port"
    )]
    Pattern,
    /// An action of its type `db` is unknown.
    #[error("ACTIONS of db are * or of read, write and create, separated by commas")]
    DatabaseAction,
    /// An action of its type `system` is unknown.
    #[error("ACTIONS of system is read")]
    SystemAction,
    /// An action of its type `http` is unknown.
    #[error(
        "ACTIONS of http are * or of read, write, GET, HEAD, OPTIONS, POST, PUT, PATCH and DELETE, separated by commas"
    )]
    HttpAction,
}

/// Why texts are no permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PermissionError {
    /// There are none, or more than [`MAX_PERMISSIONS`].
    #[error("a token must have 1 to {MAX_PERMISSIONS} permissions")]
    Count,
    /// They exceed [`MAX_PERMISSION_BYTES`].
    #[error("the permissions of a token must not have more than {MAX_PERMISSION_BYTES} bytes")]
    TooLong,
    /// The permission at this position, from 1, is none.
    #[error("permission {0}: {1}")]
    Permission(usize, Fault),
}

impl Permissions {
    /// Parses permissions; `None` if they are [`ALL`].
    pub fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Option<Self>, PermissionError> {
        let mut permissions = Vec::new();
        let mut bytes = 0;
        let mut all = false;
        for (position, text) in texts.enumerate() {
            bytes += text.len();
            if position >= MAX_PERMISSIONS {
                return Err(PermissionError::Count);
            }
            if bytes > MAX_PERMISSION_BYTES {
                return Err(PermissionError::TooLong);
            }
            let wrong = |fault| PermissionError::Permission(position + 1, fault);
            if all || text == ALL {
                if position > 0 {
                    return Err(wrong(Fault::NotAlone));
                }
                all = true;
            } else {
                permissions.push(Permission::parse(text).map_err(wrong)?);
            }
        }
        match (all, permissions.is_empty()) {
            (true, _) => Ok(None),
            (false, true) => Err(PermissionError::Count),
            (false, false) => Ok(Some(Self(permissions))),
        }
    }

    /// Whether they cover this.
    pub fn allow(&self, access: &Access<'_>) -> bool {
        // A host that has not normalized them may mean another path than the service sees.
        if !request_path::is_normal(access.path) || !(access.host.is_empty() || is_normal_host(access.host)) {
            return false;
        }
        let (resource, needed) = match access.target {
            Target::Http => (Resource::Http, Actions::of_method(access.method)),
            Target::Database(name, action) => {
                if !is_name(name) {
                    return false;
                }
                let needed = match action {
                    DatabaseAction::Read => Actions::READ,
                    DatabaseAction::Write => Actions::WRITE,
                    DatabaseAction::Create => Actions::CREATE,
                };
                (Resource::Database, needed)
            }
            Target::System(_) => (Resource::System, Actions::READ),
            Target::Administration => return false,
        };
        self.0.iter().any(|permission| {
            permission.resource == resource
                && permission.actions.intersects(needed)
                && permission.covers_name(access)
        })
    }

    /// The texts.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(Permission::text)
    }

    /// Reads the field that [`write`](Self::write) writes; `None` in the result if it is absent. Each
    /// text must be the one that is written.
    #[expect(clippy::option_option, reason = "an absent value is no error")]
    pub(crate) fn read(line: &mut LineReader<'_>) -> Option<Option<Self>> {
        if line.literal(FIELD).is_none() {
            return Some(None);
        }
        let mut texts = Vec::new();
        loop {
            texts.push(line.string()?);
            if line.literal("]").is_some() {
                break;
            }
            line.literal(",")?;
        }
        let permissions = Self::parse(texts.iter().map(String::as_str)).ok()??;
        let same = permissions.texts().eq(texts.iter().map(String::as_str));
        same.then_some(Some(permissions))
    }

    /// Writes a field of a stored line.
    pub(crate) fn write(&self, line: &mut String) {
        let mut separator = FIELD;
        for text in self.texts() {
            line.push_str(separator);
            push_string(line, &text);
            separator = ",";
        }
        line.push(']');
    }

    /// How many bytes they take up in the catalog, about.
    pub(crate) fn bytes(&self) -> usize {
        /// The longest rest of a text: type, all actions and the marks of JSON.
        const REST: usize = 80;

        self.0.iter().map(|permission| permission.names.len() + REST).sum()
    }
}

impl Permission {
    fn parse(text: &str) -> Result<Self, Fault> {
        let (resource, rest) = text.split_once(':').ok_or(Fault::Form)?;
        let (names, actions) = rest.rsplit_once(':').ok_or(Fault::Form)?;
        let (resource, names_fault, actions_fault) = match resource {
            "db" => (Resource::Database, Fault::Database, Fault::DatabaseAction),
            "system" => (Resource::System, Fault::System, Fault::SystemAction),
            "http" => (Resource::Http, Fault::Pattern, Fault::HttpAction),
            _ => return Err(Fault::Type),
        };
        let valid = match resource {
            Resource::Database => names == ALL_NAMES || names.split(',').all(is_name),
            Resource::System => names == ALL_NAMES || names.split(',').all(|name| SYSTEM.contains(&name)),
            Resource::Http => is_pattern(names),
        };
        if !valid {
            return Err(names_fault);
        }
        let mut set = Actions(0);
        if actions == "*" {
            set = resource.all();
        } else {
            for action in actions.split(',') {
                let action = Actions::named(action);
                if !resource.actions().intersects(action) {
                    return Err(actions_fault);
                }
                set.0 |= action.0;
            }
        }
        Ok(Self { resource, names: names.into(), actions: set })
    }

    fn covers_name(&self, access: &Access<'_>) -> bool {
        match access.target {
            Target::Database(INTERNAL, _) => self.names.split(',').any(|name| name == INTERNAL),
            Target::Database(name, _) | Target::System(name) => {
                *self.names == *ALL_NAMES || self.names.split(',').any(|own| own == name)
            }
            Target::Http => {
                let (host, path) = split_pattern(&self.names);
                let path_matches = match path.strip_suffix('*') {
                    Some(begin) => access.path.as_bytes().starts_with(begin.as_bytes()),
                    None => access.path == path,
                };
                path_matches && (host.is_empty() || host == access.host)
            }
            Target::Administration => false,
        }
    }

    fn text(&self) -> String {
        let mut text = String::from(self.resource.name());
        text.push(':');
        text.push_str(&self.names);
        let mut separator = ':';
        for (position, name) in ACTIONS.iter().enumerate() {
            if self.actions.intersects(Actions(1 << position)) {
                text.push(separator);
                text.push_str(name);
                separator = ',';
            }
        }
        text
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, text) in self.texts().enumerate() {
            f.write_str(if position == 0 { "" } else { " " })?;
            f.write_str(&text)?;
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    is_database_name(name) || name == INTERNAL
}

/// Whether a text is the pattern of a path, with or without a host.
fn is_pattern(pattern: &str) -> bool {
    let (host, path) = split_pattern(pattern);
    let begin = path.strip_suffix('*').unwrap_or(path);
    (host.is_empty() || is_normal_host(host))
        && request_path::is_normal(begin)
        && !begin.bytes().any(|byte| byte == b'*')
}

/// The host and the path of a pattern. Without a slash, the path is empty.
fn split_pattern(pattern: &str) -> (&str, &str) {
    let begin = pattern.bytes().position(|byte| byte == b'/').unwrap_or(pattern.len());
    pattern.split_at_checked(begin).unwrap_or(("", ""))
}

#[cfg(test)]
pub(crate) mod tests;

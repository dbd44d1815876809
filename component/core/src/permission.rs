//! The permissions of a token: `TYPE:NAMES:ACTIONS`, as InfluxDB 3 Enterprise writes them, and the
//! type `http` for any other service.
//!
//! A text is parsed once. [`Permissions`] hold each permission in one form, so that the catalog has
//! one text for it, and no other code parses again. Knows nothing of tokens or of the catalog.

use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;

use optoken_hot_path::{NameIndex, Pattern, PatternList};
use optoken_protocol::database_name::is_database_name;
use optoken_protocol::host::is_normal_host;
use optoken_protocol::request_path;
use thiserror::Error;

use crate::access::{Access, DatabaseAction, Target};
use crate::json_line::{LineReader, push_plain_string};

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
pub struct Permissions(Rc<Parsed>);

/// Permissions by what they are about. The cost of a decision hardly depends on their number.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    /// The permissions as they are written, with spaces between them.
    text: String,
    /// The number of permissions.
    count: usize,
    databases: Names,
    systems: Names,
    patterns: PatternList,
}

/// Names, and the actions that are allowed for them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    /// The actions for every name.
    all: Actions,
    /// The actions for single names.
    own: NameIndex,
}

/// The type of a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Database,
    System,
    Http,
}

/// A set of actions. The bits are the positions in [`ACTIONS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

    /// The actions of a text; `None` if one of them is unknown.
    fn parse_actions(self, text: &str) -> Option<Actions> {
        if text == "*" {
            return Some(self.all());
        }
        let mut actions = Actions(0);
        for name in text.split(',') {
            let action = Actions::named(name);
            if !self.actions().intersects(action) {
                return None;
            }
            actions.0 |= action.0;
        }
        Some(actions)
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
    #[error("the pattern of http is [HOST]/PATH in normal form, with * at its end only")]
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
        let mut parsed = Parsed::default();
        let mut all = false;
        for (position, text) in texts.enumerate() {
            if !all && text != ALL {
                parsed.push(text)?;
            } else if position == 0 {
                all = true;
            } else {
                return Err(PermissionError::Permission(position + 1, Fault::NotAlone));
            }
        }
        match (all, parsed.count) {
            (true, _) => Ok(None),
            (false, 0) => Err(PermissionError::Count),
            (false, _) => Ok(Some(Self(Rc::new(parsed)))),
        }
    }

    /// Whether they cover this.
    pub fn allow(&self, access: &Access<'_>) -> bool {
        // A host that has not normalized them may mean another path than the service sees.
        if !request_path::is_normal(access.path) || !(access.host.is_empty() || is_normal_host(access.host)) {
            return false;
        }
        let Parsed { text, databases, systems, patterns, .. } = &*self.0;
        match access.target {
            Target::Http => {
                let needed = Actions::of_method(access.method);
                patterns.cover(text, access.host, access.path, needed.0)
            }
            Target::Database(name, action) => {
                let needed = match action {
                    DatabaseAction::Read => Actions::READ,
                    DatabaseAction::Write => Actions::WRITE,
                    DatabaseAction::Create => Actions::CREATE,
                };
                needed.intersects(Actions(databases.own.actions(text, name)))
                    || databases.all.intersects(needed) && is_database_name(name)
            }
            Target::System(name) => {
                let own = Actions(systems.own.actions(text, name));
                systems.all.intersects(Actions::READ) || own.intersects(Actions::READ)
            }
            Target::Administration => false,
        }
    }

    /// The texts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.text.split(' ')
    }

    /// Reads the field that [`write`](Self::write) writes; `None` in the result if it is absent. Each
    /// text must be the one that is written.
    #[expect(clippy::option_option, reason = "an absent value is no error")]
    pub(crate) fn read(line: &mut LineReader<'_>) -> Option<Option<Self>> {
        if line.literal(FIELD).is_none() {
            return Some(None);
        }
        let mut parsed = Parsed::default();
        loop {
            let text = line.plain_string()?;
            if parsed.push(text).ok()? != text {
                return None;
            }
            if line.literal("]").is_some() {
                return Some(Some(Self(Rc::new(parsed))));
            }
            line.literal(",")?;
        }
    }

    /// Writes a field of a stored line.
    pub(crate) fn write(&self, line: &mut String) {
        let mut separator = FIELD;
        for text in self.texts() {
            line.push_str(separator);
            push_plain_string(line, text);
            separator = ",";
        }
        line.push(']');
    }

    /// How many bytes they take up in the catalog, about.
    pub(crate) fn bytes(&self) -> usize {
        // Each has quotes and a comma; rounded up.
        FIELD.len() + self.0.text.len() + self.0.count * 8
    }
}

impl Parsed {
    /// Adds the permission of this text. Returns how it is written.
    fn push(&mut self, text: &str) -> Result<&str, PermissionError> {
        if self.count == MAX_PERMISSIONS {
            return Err(PermissionError::Count);
        }
        // Of a longer text, not even the faults are looked for.
        if text.len() > MAX_PERMISSION_BYTES {
            return Err(PermissionError::TooLong);
        }
        if self.count > 0 {
            self.text.push(' ');
        }
        let begin = self.text.len();
        self.count += 1;
        self.push_parts(text).map_err(|fault| PermissionError::Permission(self.count, fault))?;
        let separators = self.count - 1;
        if self.text.len() - separators > MAX_PERMISSION_BYTES {
            return Err(PermissionError::TooLong);
        }
        Ok(self.text.get(begin..).unwrap_or_default())
    }

    fn push_parts(&mut self, text: &str) -> Result<(), Fault> {
        let (resource, rest) = text.split_once(':').ok_or(Fault::Form)?;
        let (names, actions) = rest.rsplit_once(':').ok_or(Fault::Form)?;
        let (resource, names_fault, actions_fault) = match resource {
            "db" => (Resource::Database, Fault::Database, Fault::DatabaseAction),
            "system" => (Resource::System, Fault::System, Fault::SystemAction),
            "http" => (Resource::Http, Fault::Pattern, Fault::HttpAction),
            _ => return Err(Fault::Type),
        };
        let set = resource.parse_actions(actions).ok_or(actions_fault)?;
        self.text.push_str(resource.name());
        self.text.push(':');
        let begin = self.text.len();
        self.text.push_str(names);
        match resource {
            Resource::Database => {
                let is_name = |name: &str| is_database_name(name) || name == INTERNAL;
                self.databases.push(&self.text, begin, set, is_name).ok_or(names_fault)?;
            }
            Resource::System => {
                let is_name = |name: &str| SYSTEM.contains(&name);
                self.systems.push(&self.text, begin, set, is_name).ok_or(names_fault)?;
            }
            Resource::Http => {
                self.patterns.add(parse_pattern(names, begin, set).ok_or(names_fault)?);
            }
        }
        let mut separator = ':';
        for (position, name) in ACTIONS.iter().enumerate() {
            if set.intersects(Actions(1 << position)) {
                self.text.push(separator);
                self.text.push_str(name);
                separator = ',';
            }
        }
        Ok(())
    }
}

impl Names {
    /// Adds the names from this place on to the end of the text; `None` if one of them is none.
    fn push(&mut self, text: &str, begin: usize, actions: Actions, is_name: fn(&str) -> bool) -> Option<()> {
        let names = text.get(begin..)?;
        if names == ALL_NAMES {
            self.all.0 |= actions.0;
            return Some(());
        }
        let mut begin = begin;
        for name in names.split(',') {
            if !is_name(name) {
                return None;
            }
            let place = begin..begin + name.len();
            begin = place.end + 1;
            self.own.add(text, place, actions.0);
        }
        Some(())
    }
}

/// Parses the pattern that has this place in [`Parsed::text`].
fn parse_pattern(pattern: &str, begin: usize, Actions(actions): Actions) -> Option<Pattern> {
    let (host, path) = pattern.split_at_checked(pattern.bytes().position(|byte| byte == b'/')?)?;
    let (path, is_prefix) = match path.strip_suffix('*') {
        Some(path) => (path, true),
        None => (path, false),
    };
    let is_valid = (host.is_empty() || is_normal_host(host))
        && request_path::is_normal(path)
        && !path.bytes().any(|byte| byte == b'*');
    let path_begin = begin + host.len();
    let (host, path) = (begin..path_begin, path_begin..path_begin + path.len());
    is_valid.then_some(Pattern { host, path, is_prefix, actions })
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

#[cfg(test)]
pub(crate) mod tests;

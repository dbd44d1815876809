//! Errors of a command line that the parser accepts.

use clap::error::ErrorKind;
use thiserror::Error;

/// The arguments of a command contradict each other, or one is missing.
#[derive(Debug, Error)]
#[error("{text}")]
pub(crate) struct UsageError {
    /// The path of the subcommand, whose usage is printed below the error. Empty for the program.
    pub(crate) command: &'static [&'static str],
    pub(crate) kind: ErrorKind,
    pub(crate) text: String,
}

impl UsageError {
    /// Formats the error as the parser formats its own. `root` is the whole command line.
    pub(crate) fn format(&self, mut root: clap::Command) -> clap::Error {
        root.build();
        let error = |command: &mut clap::Command| command.error(self.kind, &self.text);
        let mut whole = root.clone();
        match self.command.iter().try_fold(&mut root, |command, name| command.find_subcommand_mut(name)) {
            Some(command) => error(command),
            None => error(&mut whole),
        }
    }
}

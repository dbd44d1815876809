//! The options of the commands that work on the file of a token store. They are those of `serve`,
//! so that both find the same file; the help has the words for a command without a server.

use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::cli::serve::continuity::Continuity;
use crate::cli::serve::storage::Storage;

/// Which file holds the token store.
#[derive(Debug)]
pub(crate) struct FileStore(pub(crate) Storage);

/// Where the high-water mark is, and which older catalog is restored in spite of it.
#[derive(Debug)]
pub(crate) struct RestoreContinuity(pub(crate) Continuity);

impl FileStore {
    /// Changes the help. A store in memory is in no file, and ends with its server.
    fn describe(command: Command) -> Command {
        command
            .mut_arg("data_dir", |directory| {
                directory.help(
                    "Directory of the token store [default: optoken in the data directory of the user, such as \
                     ~/.local/share/optoken]",
                )
            })
            .mut_arg("store", |store| {
                let help = "Token store, as `serve --store` has it [default: sqlite: in the data directory]";
                store.help(help).long_help(format!(
                    "{help}\n\nOther users of this machine can see an argument. A URL with a password belongs into \
                     the variable."
                ))
            })
            // It is understood, so that the variables of a server lead to its store.
            .mut_arg("object_store", |kind| kind.hide(true))
    }
}

impl RestoreContinuity {
    fn describe(command: Command) -> Command {
        command
            .mut_arg("state_dir", |state_dir| {
                state_dir.long_help(
                    "Directory of the high-water mark, as the server has it [default: beside the token store]\n\n\
                     The mark is the newest state of the catalog that the server has seen. The restored state takes \
                     its place, so that the server starts on it.",
                )
            })
            .mut_arg("accept_catalog_at", |sequence| {
                sequence
                    .help("Restore a backup that is older than the server has seen, at this sequence")
                    .long_help(
                        "Restore a backup that is older than the server has seen, at this sequence\n\n\
                         Without it such a backup is refused, and the error has the sequence. Named tokens that were \
                         deleted since are accepted again; the operator token is replaced in any case. The use is \
                         noted beside the high-water mark, and a second one for the same sequence is refused.",
                    )
            })
    }
}

impl Args for FileStore {
    fn augment_args(command: Command) -> Command {
        Self::describe(Storage::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::describe(Storage::augment_args_for_update(command))
    }
}

impl FromArgMatches for FileStore {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Storage::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Args for RestoreContinuity {
    fn augment_args(command: Command) -> Command {
        Self::describe(Continuity::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::describe(Continuity::augment_args_for_update(command))
    }
}

impl FromArgMatches for RestoreContinuity {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Continuity::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

//! `completions`: prints a script with which a shell completes command lines of this program.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::program;

/// Print a script that completes commands and options in a shell.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  bash:
    {program} completions bash > ~/.local/share/bash-completion/completions/{program}
  fish:
    {program} completions fish > ~/.config/fish/completions/{program}.fish
  zsh, with a folder that is in its fpath:
    {program} completions zsh > ~/.zfunc/_{program}"))]
pub(crate) struct Completions {
    /// The shell that reads the script
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    /// Prints the script for `command`, the whole command line.
    pub(crate) fn run(&self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, program::name(), &mut script);
        io::stdout().write_all(&script).context("cannot write the script to standard output")
    }
}

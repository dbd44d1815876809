//! `man-pages`: writes the manual pages, for packages of this program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::program;

/// Write a manual page for each command.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct ManPages {
    /// Folder for the pages, created if it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManPages {
    /// Writes the pages of `command`, the whole command line, and of its subcommands.
    pub(crate) fn run(&self, command: Command) -> anyhow::Result<()> {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let written = fs::create_dir_all(&self.folder).and_then(|()| write_pages(&command, &self.folder));
        written.with_context(|| format!("cannot write manual pages to {}", self.folder.display()))
    }
}

fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        write_pages(subcommand, folder)?;
    }
    let source = format!("{} {}", program::name(), env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source);
    fs::write(folder.join(man.get_filename()), page(command, &man)?)
}

/// Renders a page. Differs from [`Man::render`] in the examples, whose lines are not filled: a
/// reader copies them.
fn page(command: &Command, man: &Man) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(text) = command.get_after_help() {
        let text = text.to_string();
        let text = text.strip_prefix("Examples:\n").unwrap_or(&text);
        let mut examples = Roff::new();
        examples.control("SH", ["EXAMPLES"]);
        examples.control("nf", []);
        examples.text([roman(text)]);
        examples.control("fi", []);
        examples.to_writer(&mut page)?;
    }
    man.render_version_section(&mut page)?;
    Ok(page)
}

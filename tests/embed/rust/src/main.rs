//! Hosts the component in a program with its own engine and linker, like a plugin host.
//!
//! ```text
//! optoken-embed example
//! optoken-embed cases DIR    runs the conformance cases in DIR; prints a line of JSON for each
//! optoken-embed bench        prints a line of JSON about the sandbox of `optoken`
//! ```

mod bench;
mod cases;
mod example;
mod faults;

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use optoken::sandbox::wasmtime::error::Context as _;
use optoken::sandbox::wasmtime::{Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["example"] => example::run(),
        ["cases", directory] => {
            let host = cases::Host::new(optoken::sandbox::BUILT_IN_COMPONENT)?;
            for case in directories(Path::new(directory))? {
                writeln!(io::stdout(), "{}", host.play(&case)?)?;
            }
            Ok(())
        }
        ["bench"] => bench::run(),
        _ => bail!("usage: optoken-embed example | cases DIR | bench"),
    }
}

/// Returns the entries of the directory `cases`, sorted.
fn directories(cases: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(cases).with_context(|| cases.display().to_string())?;
    let mut directories: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    directories.sort();
    Ok(directories)
}

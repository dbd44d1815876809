//! A time of day that jumps while a server runs.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::needs::{self, GCC};
use crate::support::Cli;

/// Returns the library that moves the time of day, which is compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/external/nodes/clock.c");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Another process may use the one that is there.
        let library = tempfile::Builder::new().prefix("clock-").suffix(".so").tempfile_in(directory).unwrap();
        let mut gcc = needs::command(GCC);
        gcc.args(["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o"]).arg(library.path());
        assert!(gcc.arg(source).status().unwrap().success());
        let path = directory.join("clock.so");
        library.persist(&path).unwrap();
        path
    })
}

/// The time of day of one server.
pub(crate) struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// One that keeps the seconds it is off in this file.
    pub(crate) fn new(file: PathBuf) -> Self {
        fs::write(&file, 0_i64.to_ne_bytes()).unwrap();
        Self { file }
    }

    /// Lets a server have this time.
    pub(crate) fn of(&self, server: Cli) -> Cli {
        server.env("LD_PRELOAD", library()).env("OPTOKEN_TEST_CLOCK", &self.file)
    }

    /// Sets the time of day this many seconds off.
    pub(crate) fn jump(&self, seconds: i64) {
        // In place, as the server has mapped the file.
        let mut file = File::options().write(true).open(&self.file).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
    }
}

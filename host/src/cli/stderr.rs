//! Lines on stderr: what is neither a result nor an error.

use std::io::Write as _;

use crate::visible_text::escape;

/// Prints a line to stderr. Without a reader, the command goes on. Names of files and texts of
/// servers in it cannot control the terminal.
pub(crate) fn print_stderr(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", escape(text));
}

/// Prints a warning to stderr.
pub(crate) fn warn(text: &str) {
    print_stderr(&format!("warning: {text}"));
}

//! Lines on stderr: what is neither a result nor an error.

use std::io::Write as _;

/// Prints a line to stderr. Without a reader, the command goes on.
pub(crate) fn print_stderr(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints a warning to stderr.
pub(crate) fn warn(text: &str) {
    print_stderr(&format!("warning: {text}"));
}

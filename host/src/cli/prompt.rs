//! Questions to the user. They go to stderr, so that stdout holds the result alone.

use std::io;

use crate::cli::bounded_read::read_line;
use crate::cli::stderr::print_stderr;

/// Returns the answer to a question, without surrounding white space. It is empty at the end of
/// standard input.
pub(crate) fn ask(question: &str) -> anyhow::Result<String> {
    print_stderr(question);
    Ok(read_line(io::stdin().lock(), "the answer")?.to_string())
}

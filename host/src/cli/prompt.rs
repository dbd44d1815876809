//! Questions to the user. They go to stderr, so that stdout holds the result alone.

use std::io::{self, BufRead as _};

use crate::cli::stderr::print_stderr;

/// Returns the answer to a question, without surrounding white space. It is empty at the end of
/// standard input.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    print_stderr(question);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

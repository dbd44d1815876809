//! Questions, which are asked on stderr, so that stdout stays what the format says.

use std::io::{self, BufRead as _};

use crate::cli::say;

/// The answer to a question, without what surrounds it. Empty where nobody answers.
pub(crate) fn ask(question: &str) -> io::Result<String> {
    say(question);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

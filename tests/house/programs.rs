//! Programs of other projects are run by tests/external alone, which lists the needs of each test.

use std::path::Path;

use crate::assert_none;
use crate::sources::{Sources, repository};

/// Calls that start a program, and the only arguments that other tests give them.
const CALLS: [(&str, &[&str]); 2] =
    [("Command::new(", &["PROGRAM)", "program)", "&self.program)"]), (".wrapped_in(", &["\"/bin/sh\","])];

#[test]
fn only_external_tests_run_other_programs() {
    assert_none(&other_programs(&repository()), "a test outside of tests/external runs a program");
}

fn other_programs(sources: &Sources) -> Vec<String> {
    let is_checked = |path: &str| {
        let elsewhere = ["tests/bench/", "tests/embed/", "tests/external/", "tests/house/"];
        path.starts_with("tests/")
            && Path::new(path).extension().is_some_and(|extension| extension == "rs")
            && !elsewhere.iter().any(|dir| path.starts_with(dir))
    };
    let files = sources.iter().filter(|(path, _)| is_checked(path));
    let lines =
        files.flat_map(|(path, text)| text.lines().zip(1..).map(move |(line, number)| (path, line, number)));
    lines
        .filter(|(_, line, _)| {
            CALLS.iter().any(|(call, arguments)| {
                line.split(call)
                    .skip(1)
                    .any(|rest| !arguments.iter().any(|argument| rest.starts_with(argument)))
            })
        })
        .map(|(path, line, number)| format!("{path}:{number}: {}", line.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_programs_are_found() {
        let file = |text: &str| ("tests/a.rs".to_owned(), text.to_owned());
        for (text, found) in [
            ("Command::new(PROGRAM)", 0),
            ("Command::new(\"curl\")", 1),
            ("cli.wrapped_in(\"/bin/sh\", &[])", 0),
            ("let x = 1;\ncli.wrapped_in(\"strace\", &[])", 1),
        ] {
            assert_eq!(other_programs(&Sources::from([file(text)])).len(), found, "{text}");
        }
    }
}

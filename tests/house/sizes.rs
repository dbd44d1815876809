//! How long a source file and the first page may be.

use crate::assert_none;
use crate::sources::{Sources, is_rust, repository};

/// The most lines of a source file. A longer one is two files.
const MAX_LINES: usize = 600;

/// The most words of README.md, which a newcomer reads first. The rest belongs in docs/.
const MAX_README_WORDS: usize = 1_200;

/// The folders of the sources that are counted.
const SOURCES: [&str; 3] = ["protocol/", "component/", "host/"];

#[test]
fn source_files_are_short() {
    assert_none(&long_files(&repository()), "a source file has at most 600 lines");
}

#[test]
fn readme_is_short() {
    let words = repository()["README.md"].split_whitespace().count();
    assert!(words <= MAX_README_WORDS, "README.md: {words} words, of at most {MAX_README_WORDS}");
}

/// `path: lines` for each source file that is too long, the longest first.
fn long_files(sources: &Sources) -> Vec<String> {
    let counted = sources
        .iter()
        .filter(|(path, _)| is_rust(path) && SOURCES.iter().any(|folder| path.starts_with(folder)));
    let lengths = counted.map(|(path, text)| (text.lines().count(), path));
    let mut long: Vec<_> = lengths.filter(|(lines, _)| *lines > MAX_LINES).collect();
    long.sort_by(|a, b| b.cmp(a));
    long.into_iter().map(|(lines, path)| format!("{path}: {lines} lines")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_found() {
        let lines = |count| "\n".repeat(count);
        let sources = Sources::from([
            ("host/src/a.rs".to_owned(), lines(600)),
            ("host/src/b.rs".to_owned(), lines(601)),
            ("tests/c.rs".to_owned(), lines(601)),
            ("component/build".to_owned(), lines(601)),
        ]);
        assert_eq!(long_files(&sources), ["host/src/b.rs: 601 lines"]);
    }
}

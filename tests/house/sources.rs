//! The files of the repository, and the prose within them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr as _;

use proc_macro2::{TokenStream, TokenTree};

/// Text files by their path from the root of the repository, with `/` between its parts.
pub(crate) type Sources = BTreeMap<String, String>;

/// Folders that hold no source: what tools generate or download.
const GENERATED: [&str; 4] = ["target", "node_modules", "__pycache__", "prebuilt"];

/// Every text file of the repository.
pub(crate) fn repository() -> Sources {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is a folder of the workspace");
    let mut sources = Sources::new();
    read_folder(root, "", &mut sources);
    assert!(sources.contains_key("host/src/lib.rs"), "{} is not the root of the repository", root.display());
    sources
}

fn read_folder(folder: &Path, prefix: &str, sources: &mut Sources) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let entry = entry.expect("the folder is readable");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = entry.path();
        let is_hidden = name.starts_with('.') && name != ".ci";
        if is_hidden || GENERATED.contains(&name.as_str()) {
            continue;
        }
        let inner = format!("{prefix}{name}");
        if path.is_dir() {
            read_folder(&path, &format!("{inner}/"), sources);
        } else if let Ok(text) = fs::read_to_string(&path) {
            sources.insert(inner, text);
        }
    }
}

/// What a piece of text is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Comment,
    /// A string literal, without its quotes.
    Literal,
    /// An identifier.
    Name,
    /// Markdown, and all of a file in a language that is not taken apart here.
    Text,
}

/// A piece of text, with a line break between its lines and without comment markers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) kind: Kind,
    /// Its first line in the file, counted from 1.
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Passage {
    /// The line of the file at `offset` bytes into the text.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.line + self.text[..offset].matches('\n').count()
    }
}

/// The passages of a file, in no particular order.
pub(crate) fn passages(path: &str, text: &str) -> Vec<Passage> {
    if is_rust(path) {
        return Rust::read(text).passages();
    }
    let text = if is_markdown(path) {
        text.to_owned()
    } else {
        text.lines().map(without_marker).collect::<Vec<_>>().join("\n")
    };
    vec![Passage { kind: Kind::Text, line: 1, text }]
}

/// Returns each line that is a comment or ends with one, with its number, counted from 1.
pub(crate) fn comment_lines<'a>(path: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    if is_rust(path) {
        let comments = Rust::read(text).comment_by_line();
        numbered.filter(|(number, _)| comments.contains_key(number)).collect()
    } else {
        numbered.filter(|(_, line)| without_marker(line) != *line).collect()
    }
}

pub(crate) fn is_rust(path: &str) -> bool {
    has_extension(path, "rs")
}

pub(crate) fn is_markdown(path: &str) -> bool {
    has_extension(path, "md")
}

pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// A line of a comment without what marks it as one; any other line as it is.
fn without_marker(line: &str) -> &str {
    let trimmed = line.trim_start();
    let mut markers = ["///", "//!", "//", "/**", "/*", "* ", "*/", "#!", "#"].into_iter();
    markers.find_map(|marker| trimmed.strip_prefix(marker)).map_or(line, str::trim_start)
}

/// A Rust file as tokens. What is no token is white space or a comment.
struct Rust<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    comments: Vec<Range<usize>>,
    literals: Vec<Range<usize>>,
    names: Vec<Range<usize>>,
}

impl<'a> Rust<'a> {
    fn read(text: &'a str) -> Self {
        let tokens = TokenStream::from_str(text).expect("Rust");
        let lines = [0].into_iter().chain(text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        let mut rust = Self { text, lines, comments: Vec::new(), literals: Vec::new(), names: Vec::new() };
        let mut end = 0;
        rust.visit(tokens, &mut end);
        rust.comments.push(end..text.len());
        rust
    }

    /// `end` is where the token before ended.
    fn visit(&mut self, tokens: TokenStream, end: &mut usize) {
        for token in tokens {
            let range = token.span().byte_range();
            // A doc comment becomes `#[doc = " text"]`, whose tokens have the span of the comment.
            let is_doc =
                self.text[range.clone()].starts_with("//") || self.text[range.clone()].starts_with("/*");
            match token {
                _ if is_doc => {}
                TokenTree::Group(group) => {
                    self.pass(group.span_open().byte_range(), end);
                    self.visit(group.stream(), end);
                    self.pass(group.span_close().byte_range(), end);
                }
                TokenTree::Ident(_) => {
                    self.names.push(range.clone());
                    self.pass(range, end);
                }
                TokenTree::Literal(_) => {
                    if self.text[range.clone()].ends_with(['"', '#']) {
                        self.literals.push(range.clone());
                    }
                    self.pass(range, end);
                }
                TokenTree::Punct(_) => self.pass(range, end),
            }
        }
    }

    /// Moves `end` behind a token. What stood between is a comment, or white space.
    fn pass(&mut self, token: Range<usize>, end: &mut usize) {
        if *end < token.start {
            self.comments.push(*end..token.start);
        }
        *end = token.end.max(*end);
    }

    fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The text of the comment of each line that has one.
    fn comment_by_line(&self) -> BTreeMap<usize, &'a str> {
        let mut lines = BTreeMap::new();
        for range in &self.comments {
            let first = self.line_of(range.start);
            for (index, line) in self.text[range.clone()].lines().enumerate() {
                if !line.trim().is_empty() {
                    lines.insert(first + index, without_marker(line).trim_end());
                }
            }
        }
        lines
    }

    fn passages(&self) -> Vec<Passage> {
        let mut passages: Vec<Passage> = Vec::new();
        let mut last = 0;
        for (line, text) in self.comment_by_line() {
            match passages.last_mut() {
                Some(passage) if last + 1 == line => passage.text.extend(["\n", text]),
                _ => passages.push(Passage { kind: Kind::Comment, line, text: text.to_owned() }),
            }
            last = line;
        }
        let piece = |kind: Kind, range: &Range<usize>, text: String| Passage {
            kind,
            line: self.line_of(range.start),
            text,
        };
        passages.extend(self.literals.iter().map(|range| piece(Kind::Literal, range, self.literal(range))));
        passages.extend(self.names.iter().map(|range| {
            piece(Kind::Name, range, self.text[range.clone()].trim_start_matches("r#").to_owned())
        }));
        passages
    }

    /// The text of a literal, with blanks in place of quotes and escapes, so that words stay apart.
    fn literal(&self, range: &Range<usize>) -> String {
        let quoted = &self.text[range.clone()];
        let is_raw = quoted.trim_start_matches(['b', 'c']).starts_with('r');
        let inner = quoted.trim_start_matches(['b', 'c', 'r']).trim_matches('#').trim_matches('"');
        let mut text = String::with_capacity(inner.len());
        let mut characters = inner.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' if !is_raw => match characters.next() {
                    Some('\n') => text.push('\n'),
                    _ => text.push(' '),
                },
                _ => text.push(character),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_kind(kind: Kind, text: &str) -> Vec<(usize, String)> {
        let found = passages("a.rs", text).into_iter().filter(|passage| passage.kind == kind);
        found.map(|passage| (passage.line, passage.text)).collect()
    }

    #[test]
    fn rust_comments_are_found_with_lines() {
        let text = "//! About.\n//! More.\n\nfn f() {\n    // First\n    // second.\n    \
            g(\"// none\"); // third\n}\n/* fourth */\n";
        let expected = [(1, "About.\nMore."), (5, "First\nsecond.\nthird"), (9, "fourth */")];
        assert_eq!(of_kind(Kind::Comment, text), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn rust_literals_are_found_without_escapes() {
        let text = "const A: &str = \"one\\ntwo \\\n   three\";\nconst B: &[u8] = br#\"four \\n\"#;\n\
            const C: char = '\"';\n";
        let expected = [(1, "one two \n   three"), (3, "four \\n")];
        assert_eq!(of_kind(Kind::Literal, text), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn comment_markers_of_scripts_are_removed() {
        let found = passages("run", "#!/bin/sh\n# One\n# two\nthree # four\n");
        let expected =
            Passage { kind: Kind::Text, line: 1, text: "/bin/sh\nOne\ntwo\nthree # four".to_owned() };
        assert_eq!(found, [expected]);
        assert_eq!(comment_lines("run", "# One\ntwo\n").len(), 1);
    }
}

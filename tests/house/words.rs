//! Words that no comment, identifier, message or document has, and the width of comments and prose.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::assert_none;
use crate::sources::{Kind, Passage, comment_lines, is_markdown, passages, repository};
use crate::vocabulary;

/// Names that others gave: the word, and the parts of the repository where it may be an identifier.
const GIVEN: [(&str, &str); 1] = [
    // wit-bindgen calls the trait of an exported interface so.
    ("Guest", "component/"),
];

/// Parts of the repository that hold the banned words themselves, what others wrote, or data.
const EXEMPT: [&str; 9] = [
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "package-lock.json",
    "requirements.txt",
    "tests/conformance/cases/",
    "tests/golden/released/",
    "tests/house/vocabulary.rs",
    "tests/house/words.rs",
];

/// The lines around the list for people in CONTRIBUTING.md.
const EXPLAINED: (&str, &str) = ("<!-- banned words -->", "<!-- end of banned words -->");

/// The most columns of a line of prose.
const MAX_WIDTH: usize = 100;

/// Addresses, which cannot be broken: a link's target in Markdown, and what stands there by itself.
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\]\([^)]*\)|\]\[[^\]]*\]|^\W*\[[^\]]+\]:.*|https?://\S+").expect("a pattern")
});

#[test]
fn banned_words_appear_nowhere() {
    let mut violations = Vec::new();
    for (path, text) in repository() {
        if !is_exempt(&path) {
            violations.extend(banned_words(&path, &text));
        }
    }
    assert_none(&violations, "banned words, which tests/house/vocabulary.rs lists");
}

#[test]
fn comments_and_prose_are_narrow() {
    let mut violations = Vec::new();
    for (path, text) in repository() {
        if !is_exempt(&path) {
            violations.extend(wide_lines(&path, &text));
        }
    }
    assert_none(&violations, "comments and prose have at most 100 columns");
}

fn is_exempt(path: &str) -> bool {
    EXEMPT.iter().any(|exempt| path.starts_with(exempt) || path.ends_with(exempt))
}

/// `path:line: word` for each banned word.
fn banned_words(path: &str, text: &str) -> Vec<String> {
    let explained = explained_lines(path, text);
    let mut found = Vec::new();
    for passage in passages(path, text) {
        for (line, word) in banned_in(path, &passage) {
            if !explained.contains(&line) {
                found.push((line, word));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(line, word)| format!("{path}:{line}: {word}")).collect()
}

fn banned_in(path: &str, passage: &Passage) -> Vec<(usize, String)> {
    if passage.kind == Kind::Name
        && GIVEN.iter().any(|(name, part)| passage.text == *name && path.starts_with(part))
    {
        return Vec::new();
    }
    let text = if passage.kind == Kind::Name { separate_words(&passage.text) } else { passage.text.clone() };
    let line_at = |offset| passage.line + text[..offset].matches('\n').count();
    vocabulary::banned_words(&text).into_iter().map(|(offset, word)| (line_at(offset), word)).collect()
}

/// Puts a blank where one word of an identifier in camel case ends and the next begins.
fn separate_words(name: &str) -> String {
    let mut words = String::with_capacity(name.len());
    let mut last = ' ';
    for character in name.chars() {
        if character.is_uppercase() && last.is_lowercase() {
            words.push(' ');
        }
        words.push(character);
        last = character;
    }
    words
}

/// The lines of CONTRIBUTING.md that list the banned words.
fn explained_lines(path: &str, text: &str) -> Range<usize> {
    let line_of = |mark| text.lines().position(|line| line.trim() == mark).map(|index| index + 1);
    match (path, line_of(EXPLAINED.0), line_of(EXPLAINED.1)) {
        ("CONTRIBUTING.md", Some(first), Some(last)) => first..last,
        _ => 0..0,
    }
}

/// `path:line: columns` for each line of prose that is too wide.
fn wide_lines(path: &str, text: &str) -> Vec<String> {
    let lines = if is_markdown(path) {
        text.lines().enumerate().map(|(index, line)| (index + 1, line)).collect()
    } else {
        comment_lines(path, text)
    };
    let mut found = Vec::new();
    let mut is_code = false;
    for (number, line) in lines {
        let prose = line.trim_start().trim_start_matches(['/', '!', '#', '*']).trim_start();
        if prose.starts_with("```") {
            is_code = !is_code;
        }
        let is_table = prose.starts_with('|');
        let width = ADDRESS.replace_all(line, "").chars().count();
        if width > MAX_WIDTH && !is_code && !is_table {
            found.push(format!("{path}:{number}: {width} columns"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_words_are_found_by_line() {
        let text = "//! One.\n\n// A door\n// that is taken\n// in by\n\
            fn guest_of(a: &str) {\n    f(\"Whoever\");\n}\n";
        let expected = ["a.rs:3: door", "a.rs:4: taken in", "a.rs:6: guest", "a.rs:7: Whoever"];
        assert_eq!(banned_words("a.rs", text), expected);
        assert_eq!(banned_words("run", "# One\n# for\n# ever\n"), ["run:2: for ever"]);
        assert_eq!(banned_words("a.md", "says who\n"), ["a.md:1: says", "a.md:1: who"]);
    }

    #[test]
    fn banned_words_in_identifiers_are_found() {
        let names = ["OpenDoor", "is_door", "DOOR", "r#door", "welcomeAll", "judge"];
        for name in names {
            assert_eq!(banned_words("a.rs", &format!("type X = {name};\n")).len(), 1, "{name}");
        }
        assert_eq!(banned_words("component/authority/src/lib.rs", "struct Guest;"), [""; 0]);
        assert_eq!(banned_words("host/src/lib.rs", "struct Guest;").len(), 1);
    }

    #[test]
    fn innocent_words_pass() {
        let innocent = "the other history, this; then outdoor essays, whose whole forever is newer; here, sheds; \
            taken in order, takes in turn, a stake in it; indoors; foretold; adjudged; unwelcome; InfluxDB";
        assert_eq!(banned_words("a.md", innocent), [""; 0]);
    }

    #[test]
    fn explained_words_pass_in_one_file() {
        let text = "A door.\n\n<!-- banned words -->\ndoor\n<!-- end of banned words -->\n";
        assert_eq!(banned_words("CONTRIBUTING.md", text), ["CONTRIBUTING.md:1: door"]);
        assert_eq!(banned_words("README.md", text).len(), 2);
    }

    #[test]
    fn wide_lines_are_found() {
        let wide = "x".repeat(101);
        assert_eq!(wide_lines("a.md", &format!("{wide}\n")), ["a.md:1: 101 columns"]);
        assert_eq!(wide_lines("a.md", &format!("```\n{wide}\n```\n| {wide} |\n[a](b{wide})\n")), [""; 0]);
        assert_eq!(
            wide_lines("a.rs", &format!("const A: &str = \"{wide}\";\n// {wide}\n")),
            ["a.rs:2: 104 columns"]
        );
        assert_eq!(wide_lines("a.toml", &format!("a = \"{wide}\"\n# {wide}\n")), ["a.toml:2: 103 columns"]);
    }
}

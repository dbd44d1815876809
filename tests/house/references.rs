//! References to documents lead to headings and files that exist.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use regex::Regex;

use crate::assert_none;
use crate::sources::{Kind, Passage, Sources, is_markdown, is_rust, passages, repository};

/// A document of docs/, with an anchor or with section numbers.
///
/// The forms are `docs/FILE.md#anchor` and `docs/FILE.md 2.3, 2.4 and 3`.
static CITATION: LazyLock<Regex> = LazyLock::new(|| {
    let number = r"\d+(?:\.\d+)*\b";
    let numbers = format!(r"(?:sections?\s+)?({number}(?:(?:,\s+|\s+and\s+|\s+to\s+|-){number})*)");
    Regex::new(&format!(r"\bdocs/([\w-]+\.md)(?:#([\w-]+)|`?,?\s+{numbers})?")).expect("a pattern")
});

/// The names of documents that are not in the repository.
static ABSENT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b(?:COMPAT|DESIGN|FAULTS|NAMES|HOSTS|CORE|PEER|SPEED|NODES|STYLE)(?:\.md\b|,?\s+(?:section\s+)?\d)|\b(?:COMPAT|DESIGN|FAULTS)\b|(?:\.\./|/work/)shared/")
        .expect("a pattern")
});

/// The target of a link, in place or as a definition at the start of a line.
static LINK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)\]\(<?([^)>\s]+)>?[^)]*\)|^\s*\[[^\]]+\]:\s+(\S+)").expect("a pattern")
});

static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d+(?:\.\d+)*").expect("a pattern"));

#[test]
fn citations_lead_to_sections() {
    assert_none(&dead_citations(&repository()), "a citation of docs/ names a section that exists");
}

#[test]
fn links_of_documents_lead_somewhere() {
    assert_none(&dead_links(&repository()), "a relative link leads to a file, and to a heading of it");
}

#[test]
fn absent_documents_are_not_cited() {
    assert_none(&absent_documents(&repository()), "no document is cited that is not in the repository");
}

/// The function of a test in the table of faults.
static TEST_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+){2,})`").expect("a pattern"));

#[test]
fn table_of_faults_names_tests_that_exist() {
    let sources = repository();
    let names: Vec<_> = TEST_NAME
        .captures_iter(&sources["tests/fault_table.md"])
        .map(|name| format!("fn {}(", &name[1]))
        .collect();
    assert!(names.len() > 40, "the table names {} tests", names.len());
    let code = || sources.iter().filter(|(path, _)| is_rust(path)).map(|(_, text)| text);
    let missing: Vec<_> =
        names.into_iter().filter(|name| !code().any(|text| text.contains(name.as_str()))).collect();
    assert_none(&missing, "a test in the table of faults exists");
}

/// What a Markdown document offers to references.
struct Document {
    /// The numbers that headings begin with.
    numbers: BTreeSet<String>,
    anchors: BTreeSet<String>,
}

impl Document {
    fn read(text: &str) -> Self {
        let mut document = Self { numbers: BTreeSet::new(), anchors: BTreeSet::new() };
        let mut taken: HashMap<String, usize> = HashMap::new();
        for line in without_code(text).lines() {
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            let Some(heading) = line.get(level..).and_then(|rest| rest.strip_prefix(' ')) else { continue };
            if !(1..=6).contains(&level) {
                continue;
            }
            let first = heading.split_whitespace().next().unwrap_or_default().trim_end_matches('.');
            if NUMBER.find(first).is_some_and(|number| number.as_str() == first) {
                document.numbers.insert(first.to_owned());
            }
            let anchor = anchor(heading);
            let count = taken.entry(anchor.clone()).or_default();
            document.anchors.insert(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
            *count += 1;
        }
        document
    }
}

/// What GitHub calls a heading in addresses.
fn anchor(heading: &str) -> String {
    let text = LINK.replace_all(heading.trim(), "]");
    let kept =
        text.chars().filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase)
        .map(|character| if character == ' ' { '-' } else { character })
        .collect()
}

/// A document with blank lines in place of its code blocks, and without code within lines.
fn without_code(text: &str) -> String {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        lines.push(if is_code || is_fence { "" } else { line });
    }
    lines.join("\n")
}

fn documents(sources: &Sources) -> HashMap<&str, Document> {
    let markdown = sources.iter().filter(|(path, _)| is_markdown(path));
    markdown.map(|(path, text)| (path.as_str(), Document::read(text))).collect()
}

/// Every passage of the repository, but for this check and the names of the code.
fn cited_passages(sources: &Sources) -> impl Iterator<Item = (&str, Passage)> {
    let files = sources.iter().filter(|(path, _)| !path.ends_with("house/references.rs"));
    let passages =
        files.flat_map(|(path, text)| passages(path, text).into_iter().map(move |passage| (path, passage)));
    passages.filter(|(_, passage)| passage.kind != Kind::Name).map(|(path, passage)| (path.as_str(), passage))
}

fn dead_citations(sources: &Sources) -> Vec<String> {
    let documents = documents(sources);
    let mut dead = Vec::new();
    for (path, passage) in cited_passages(sources) {
        for citation in CITATION.captures_iter(&passage.text) {
            let line = passage.line_at(citation.get(0).expect("the whole match").start());
            let name = format!("docs/{}", &citation[1]);
            let Some(document) = documents.get(name.as_str()) else {
                dead.push(format!("{path}:{line}: {name} does not exist"));
                continue;
            };
            if let Some(anchor) = citation.get(2)
                && !document.anchors.contains(anchor.as_str())
            {
                dead.push(format!("{path}:{line}: {name} has no heading #{}", anchor.as_str()));
            }
            for number in citation.get(3).iter().flat_map(|numbers| NUMBER.find_iter(numbers.as_str())) {
                if !document.numbers.contains(number.as_str()) {
                    dead.push(format!("{path}:{line}: {name} has no section {}", number.as_str()));
                }
            }
        }
    }
    dead
}

fn dead_links(sources: &Sources) -> Vec<String> {
    let documents = documents(sources);
    let mut dead = Vec::new();
    for (path, text) in sources.iter().filter(|(path, _)| is_markdown(path)) {
        let text = without_code(text);
        for link in LINK.captures_iter(&text) {
            let target = link.get(1).or(link.get(2)).expect("one of both forms");
            let line = text[..target.start()].matches('\n').count() + 1;
            let (file, anchor) = target.as_str().split_once('#').unwrap_or((target.as_str(), ""));
            if file.contains(':') {
                continue;
            }
            let file = if file.is_empty() { path.clone() } else { relative(path, file) };
            let is_folder = sources.keys().any(|found| found.starts_with(&format!("{file}/")));
            if !sources.contains_key(&file) && !is_folder {
                dead.push(format!("{path}:{line}: {} does not exist", target.as_str()));
            } else if !anchor.is_empty()
                && let Some(document) = documents.get(file.as_str())
                && !document.anchors.contains(anchor)
            {
                dead.push(format!("{path}:{line}: {} has no such heading", target.as_str()));
            }
        }
    }
    dead
}

/// The path of what a link in the file `from` leads to.
fn relative(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn absent_documents(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (path, passage) in cited_passages(sources) {
        for name in ABSENT.find_iter(&passage.text) {
            found.push(format!(
                "{path}:{}: {}",
                passage.line_at(name.start()),
                name.as_str().replace('\n', " ")
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Sources {
        let design = "# Design\n\n## 1. The house\n\n### 1.2 `Store`, and its [port](x.md)\n\n\
            ## Notes\n## Notes\n\n```\n## 7 Code\n```\n";
        let design = [("docs/design.md", design)];
        files.iter().chain(&design).map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn citations_of_missing_sections_are_found() {
        let text = "// docs/design.md 1, docs/design.md 1.2 and 1.3\n// docs/design.md, sections 7 and\n// 1.2\n\
            // docs/none.md 1. See `docs/design.md` 4. And docs/design.md#notes-1, docs/design.md#none.\n";
        let expected = [
            "a.rs:1: docs/design.md has no section 1.3",
            "a.rs:2: docs/design.md has no section 7",
            "a.rs:4: docs/none.md does not exist",
            "a.rs:4: docs/design.md has no section 4",
            "a.rs:4: docs/design.md has no heading #none",
        ];
        assert_eq!(dead_citations(&sources(&[("a.rs", text)])), expected);
    }

    #[test]
    fn links_to_nothing_are_found() {
        let text = "[a](design.md#12-store-and-its-port) [b](../README.md) [c](#here)\n\
            [d](none.md) [e](https://x.y/z)\n[f](design.md#none)\n[g]: gone.md\n```\n[h](code.md)\n```\n# Here\n[i](../docs)\n";
        let expected = [
            "docs/a.md:2: none.md does not exist",
            "docs/a.md:3: design.md#none has no such heading",
            "docs/a.md:4: gone.md does not exist",
        ];
        let sources = sources(&[("docs/a.md", text), ("README.md", ""), ("docs/x.md", "")]);
        assert_eq!(dead_links(&sources), expected);
    }

    #[test]
    fn absent_documents_are_found() {
        let text = "// COMPAT 2.3, DESIGN section\n// 4; DESIGN.md; the DESIGNER; `NAMES`, NAMES 3.1\n\
            const NAMES: u8 = 1;\n";
        let expected =
            ["a.rs:1: COMPAT 2", "a.rs:1: DESIGN section 4", "a.rs:2: DESIGN.md", "a.rs:2: NAMES 3"];
        assert_eq!(absent_documents(&sources(&[("a.rs", text)])), expected);
    }
}

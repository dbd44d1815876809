//! The banned words, and how a text is searched for them.

use std::sync::LazyLock;

use regex::Regex;

/// The banned words, as patterns of whole words in any case.
///
/// This is the one list that the check reads. CONTRIBUTING.md explains it to people.
///
/// A blank matches any white space, and so the line break of a wrapped comment. An underscore ends a
/// word. In identifiers, a capital after a small letter begins one: `is_door` and `OpenDoor` contain
/// `door`, `outdoor` does not.
const BANNED: [&str; 14] = [
    // Name the role: client, caller, operator, attacker, embedder, server, process, user.
    "whoever|nobody|somebody|anybody|everybody",
    "he|him|his",
    // "a client that", not "who".
    "who",
    "be had",
    "for ever",
    "anew",
    "doors?",
    "as if it never was",
    // Create, import, delete, remove. "Taken in order" and "in turn" are something else.
    "(?:take|takes|taken|taking|took) (?:in|out)",
    "guests?",
    "complaints?",
    "welcome",
    "judge|judges|judged|judging|judgement",
    // Report, return, log, print, name.
    "tell|tells|telling|told|say|says|saying|said",
];

/// What may follow a banned word and makes it another one.
const HARMLESS: [&str; 2] = ["order", "turn"];

static PATTERN: LazyLock<Regex> = LazyLock::new(|| {
    let words = BANNED.map(|words| words.replace(' ', r"\s+"));
    Regex::new(&format!(r"(?i)\b({})\b(?:\s+(\w+))?", words.join("|"))).expect("a pattern")
});

/// Returns the banned words in `text`, each with its offset in bytes.
pub(crate) fn banned_words(text: &str) -> Vec<(usize, String)> {
    let text = text.replace('_', " ");
    let mut found = Vec::new();
    let mut start = 0;
    // The next word may be banned as well: the search continues before it.
    while let Some(captures) = PATTERN.captures_at(&text, start) {
        let word = captures.get(1).expect("the first group is in every match");
        let next = captures.get(2).map_or("", |next| next.as_str());
        if !(word.as_str().ends_with("in") && HARMLESS.contains(&next)) {
            let shown = word.as_str().split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((word.start(), shown));
        }
        start = word.end();
    }
    found
}

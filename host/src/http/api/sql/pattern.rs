//! The patterns of LIKE and ILIKE, as Apache Arrow reads them.
//!
//! `%` stands for any text, `_` for any character, and a backslash takes the meaning from the
//! character behind it. SQLite's own LIKE knows no backslash. Its time grows with a power of the
//! pattern.

/// The most characters of a pattern. It bounds the time of one comparison.
pub(super) const MAX_CHARACTERS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// Any text.
    Any,
    /// Any character.
    One,
    Character(char),
}

/// A pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
    ignores_case: bool,
}

impl Pattern {
    /// Reads a pattern. Returns nothing if it is too long.
    pub(super) fn parse(pattern: &str, ignores_case: bool) -> Option<Self> {
        let pattern = folded(pattern, ignores_case);
        let mut characters = pattern.chars().peekable();
        let mut pieces = Vec::new();
        while let Some(character) = characters.next() {
            pieces.push(match character {
                '%' => Piece::Any,
                '_' => Piece::One,
                '\\' => {
                    let special = characters.next_if(|next| matches!(next, '%' | '_' | '\\'));
                    Piece::Character(special.unwrap_or(character))
                }
                _ => Piece::Character(character),
            });
        }
        pieces.dedup_by(|next, before| (*next, *before) == (Piece::Any, Piece::Any));
        (pieces.len() <= MAX_CHARACTERS).then_some(Self { pieces, ignores_case })
    }

    /// Returns whether the whole text matches. Takes at most as many steps as the product of both
    /// lengths.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = folded(text, self.ignores_case).chars().collect();
        let (mut at, mut piece) = (0, 0);
        // Where to go on if a character does not match: the last `%`, with one character more.
        let mut again = None;
        while let Some(character) = text.get(at) {
            match self.pieces.get(piece) {
                Some(Piece::Any) => {
                    piece += 1;
                    again = Some((at, piece));
                }
                Some(Piece::One) => (at, piece) = (at + 1, piece + 1),
                Some(Piece::Character(expected)) if expected == character => {
                    (at, piece) = (at + 1, piece + 1);
                }
                _ => match &mut again {
                    Some((from, behind)) => {
                        *from += 1;
                        (at, piece) = (*from, *behind);
                    }
                    None => return false,
                },
            }
        }
        self.pieces.get(piece..).is_some_and(|rest| rest.iter().all(|piece| *piece == Piece::Any))
    }
}

fn folded(text: &str, ignores_case: bool) -> String {
    if ignores_case { text.to_lowercase() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_arrow() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%%", "a", true),
            ("_", "", false),
            ("_", "é", true),
            ("__", "é", false),
            ("%*:*:*%", "*:*:*", true),
            ("%X%", "aXb", true),
            ("%X%", "axb", false),
            ("a%c", "abcbc", true),
            ("a%c", "abcb", false),
            ("%ab%ab%", "aab_ab", true),
            ("%ab%ab%", "aab", false),
            ("_admin", "xadmin", true),
            ("\\_admin", "xadmin", false),
            ("\\_admin", "_admin", true),
            ("100\\%", "100%", true),
            ("100\\%", "100x", false),
            ("a\\\\b", "a\\b", true),
            ("a\\b", "a\\b", true),
            ("a\\", "a\\", true),
            ("%\n%", "two\nlines", true),
        ] {
            let parsed = Pattern::parse(pattern, false).unwrap();
            assert_eq!(parsed.matches(text), matches, "{pattern:?} {text:?}");
        }
        for (pattern, text, matches) in [
            ("%zür%", "Stadt ZÜRICH", true),
            ("%ZÜR%", "zürich", true),
            ("z_", "Zo", true),
            ("z", "zo", false),
        ] {
            let parsed = Pattern::parse(pattern, true).unwrap();
            assert_eq!(parsed.matches(text), matches, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn long_pattern_is_refused() {
        assert!(Pattern::parse(&"_".repeat(MAX_CHARACTERS), false).is_some());
        assert!(Pattern::parse(&"_".repeat(MAX_CHARACTERS + 1), false).is_none());
        // Adjacent signs for any text are one.
        assert!(Pattern::parse(&"%".repeat(MAX_CHARACTERS * 4), false).unwrap().matches("a"));
    }
}

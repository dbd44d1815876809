//! Finds the names and patterns of a text that cover a request. Knows nothing of permissions beyond
//! the bits of their actions.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::Range;

/// Names of a text, and the actions for each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NameIndex(Vec<Name>);

/// A name by its place in the text.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    place: Range<usize>,
    actions: u16,
}

impl NameIndex {
    /// Adds actions for the name at this place.
    pub fn add(&mut self, text: &str, place: Range<usize>, actions: u16) {
        match self.position(text, part(text, &place)) {
            Ok(same) => {
                if let Some(same) = self.0.get_mut(same) {
                    same.actions |= actions;
                }
            }
            Err(next) => self.0.insert(next, Name { place, actions }),
        }
    }

    /// Returns the actions for this very name; 0 if it is none of these.
    #[inline(never)]
    pub fn actions(&self, text: &str, name: &str) -> u16 {
        let position = self.position(text, name.as_bytes()).ok();
        position.and_then(|position| self.0.get(position)).map_or(0, |name| name.actions)
    }

    fn position(&self, text: &str, name: &[u8]) -> Result<usize, usize> {
        self.0.binary_search_by(|own| compare(part(text, &own.place), name))
    }
}

/// Patterns of a text: a host and a path each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PatternList(Vec<Pattern>);

/// A pattern by the places of its parts in the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Empty for every host.
    pub host: Range<usize>,
    /// The path, or its begin.
    pub path: Range<usize>,
    /// Whether it is the begin only.
    pub is_prefix: bool,
    /// The actions for what it covers.
    pub actions: u16,
}

impl PatternList {
    /// Adds a pattern.
    pub fn add(&mut self, pattern: Pattern) {
        self.0.push(pattern);
    }

    /// Returns whether a pattern covers this host and path with one of these actions.
    // Inlined, it would be compiled as its caller, for size.
    #[inline(never)]
    pub fn cover(&self, text: &str, host: &str, path: &str, actions: u16) -> bool {
        let covers_path = |pattern: &Pattern| {
            let own = part(text, &pattern.path);
            let path = path.as_bytes();
            is_same(own, if pattern.is_prefix { path.get(..own.len()).unwrap_or_default() } else { path })
        };
        let covers_host = |pattern: &Pattern| {
            let own = part(text, &pattern.host);
            own.is_empty() || is_same(own, host.as_bytes())
        };
        let mut patterns = self.0.iter().filter(|pattern| pattern.actions & actions != 0);
        patterns.any(|pattern| covers_path(pattern) && covers_host(pattern))
    }
}

fn part<'a>(text: &'a str, place: &Range<usize>) -> &'a [u8] {
    text.as_bytes().get(place.clone()).unwrap_or_default()
}

/// Whether two texts are the same. Compares eight bytes at a time, the last ones first: there, most
/// names of one service differ.
fn is_same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let (Some(left_end), Some(right_end)) = (left.last_chunk(), right.last_chunk()) else {
        return left.iter().zip(right).all(|(left, right)| left == right);
    };
    let (left, _) = left.as_chunks();
    let (right, _) = right.as_chunks();
    word(*left_end) == word(*right_end)
        && left.iter().zip(right).all(|(left, right)| word(*left) == word(*right))
}

/// An order of texts: by length, then by their bytes.
fn compare(left: &[u8], right: &[u8]) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_is_an_order_that_sees_each_byte() {
        for length in 0..40 {
            let text = vec![b'b'; length];
            assert_eq!(compare(&text, &text.clone()), Ordering::Equal);
            assert!(is_same(&text, &text.clone()));
            assert!(!is_same(&text, &vec![b'b'; length + 1]));
            assert_eq!(compare(&text, &vec![b'a'; length + 1]), Ordering::Less);
            assert_eq!(compare(&vec![b'a'; length + 1], &text), Ordering::Greater);
            for position in 0..length {
                let mut other = text.clone();
                other[position] ^= 1;
                assert!(compare(&text, &other).is_ne(), "{length} {position}");
                assert!(!is_same(&text, &other), "{length} {position}");
                assert_eq!(compare(&text, &other), compare(&other, &text).reverse());
            }
        }
    }

    #[test]
    fn every_name_is_found_with_its_actions() {
        let names: Vec<String> =
            (0..500).map(|number| format!("{number:0width$}", width = number % 30)).collect();
        let text = names.join(",");
        let mut index = NameIndex::default();
        for times in [1, 2] {
            let mut begin = 0;
            for (number, name) in names.iter().enumerate() {
                index.add(&text, begin..begin + name.len(), times << (number % 3));
                begin += name.len() + 1;
            }
        }
        for (number, name) in names.iter().enumerate() {
            assert_eq!(index.actions(&text, name), 3 << (number % 3), "{name}");
            assert_eq!(index.actions(&text, &format!("{name}x")), 0);
        }
        assert_eq!(index.actions(&text, ""), 0);
    }

    #[test]
    fn pattern_covers_its_host_and_path() {
        let text = "a.example/path/of/a/resource";
        let mut exact = PatternList::default();
        exact.add(Pattern { host: 0..9, path: 9..text.len(), is_prefix: false, actions: 2 });
        let mut begin = PatternList::default();
        begin.add(Pattern { host: 0..0, path: 9..text.len(), is_prefix: true, actions: 2 });
        for (host, path, actions, is_exact, is_begin) in [
            ("a.example", "/path/of/a/resource", 3, true, true),
            ("a.example", "/path/of/a/resource", 2, true, true),
            ("a.example", "/path/of/a/resource", 1, false, false),
            ("b.example", "/path/of/a/resource", 2, false, true),
            ("", "/path/of/a/resource", 2, false, true),
            ("a.example", "/path/of/a/resource/", 2, false, true),
            ("a.example", "/path/of/a/resourc", 2, false, false),
            ("a.example", "/path/of/b/resource", 2, false, false),
            ("a.example", "", 2, false, false),
        ] {
            assert_eq!(exact.cover(text, host, path, actions), is_exact, "{host}{path}");
            assert_eq!(begin.cover(text, host, path, actions), is_begin, "{host}{path}");
        }
    }
}

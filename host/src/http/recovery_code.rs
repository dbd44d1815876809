//! The code that token recovery asks for, where it is told to: whoever can read the server's terminal or its files has it,
//! another user of the machine has not.
//!
//! Knows nothing of how it is presented.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use zeroize::Zeroizing;

use crate::secret::Secret;

/// Crockford's base 32: no letter that looks like a digit.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 16 digits of 5 bits each: 80 bits, of which a handful of tries tell nothing.
const LENGTH: usize = 16;

/// How many digits stand together, for whoever has to type them.
const GROUP: usize = 2;

/// How many wrong codes are listened to.
const MAX_WRONG: u32 = 5;

/// A code for one run of the recovery listener.
#[derive(Debug)]
pub(crate) struct RecoveryCode {
    code: Secret,
    wrong: AtomicU32,
}

/// What is to be said of a code that was presented.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the one.
    Right,
    /// It is not; this many more tries are left.
    Wrong(u32),
}

impl RecoveryCode {
    /// A new code. Fails where the system has no randomness.
    pub(crate) fn mint() -> Result<Self, getrandom::Error> {
        let mut random = Zeroizing::new([0; LENGTH]);
        getrandom::fill(&mut *random)?;
        let mut code = String::with_capacity(LENGTH + LENGTH / GROUP);
        for (place, byte) in random.iter().enumerate() {
            if place > 0 && place % GROUP == 0 {
                code.push('-');
            }
            // 32 divides 256, so that all digits are equally likely.
            code.extend(DIGITS.get(usize::from(byte % 32)).copied().map(char::from));
        }
        Ok(Self { code: code.into(), wrong: AtomicU32::new(0) })
    }

    /// The code itself, for those who are to have it.
    pub(crate) fn secret(&self) -> &Secret {
        &self.code
    }

    /// Compares in a time that does not depend on where the two differ, and counts what is wrong.
    pub(super) fn judge(&self, presented: &[u8]) -> Verdict {
        let wrong_before = self.wrong.load(Ordering::Relaxed);
        if wrong_before < MAX_WRONG && equal(presented, self.code.expose().as_bytes()) {
            return Verdict::Right;
        }
        let wrong = self.wrong.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Verdict::Wrong(MAX_WRONG.saturating_sub(wrong))
    }
}

/// Whether two texts are the same. Their lengths are no secret.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |found, (one, other)| black_box(found | (one ^ other)));
    one.len() == other.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_eight_groups_of_digits_and_another_one_each_time() {
        let codes: Vec<_> =
            (0..50).map(|_| RecoveryCode::mint().unwrap().secret().expose().to_owned()).collect();
        for code in &codes {
            let groups: Vec<_> = code.split('-').collect();
            assert_eq!(groups.len(), 8, "{code}");
            assert!(groups.iter().all(|group| group.len() == 2), "{code}");
            assert!(code.bytes().all(|digit| digit == b'-' || DIGITS.contains(&digit)), "{code}");
        }
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
        let digits: std::collections::BTreeSet<_> = codes.iter().flat_map(|code| code.bytes()).collect();
        assert!(digits.len() > 25, "800 random digits are of few kinds: {digits:?}");
    }

    #[test]
    fn only_the_very_code_is_right() {
        let code = RecoveryCode::mint().unwrap();
        let text = code.secret().expose().to_owned();
        let last = if text.ends_with('0') { "1" } else { "0" };
        for wrong in [String::new(), text[..22].to_owned(), format!("{text}0"), text[..22].to_owned() + last]
        {
            assert!(!equal(wrong.as_bytes(), text.as_bytes()), "{wrong}");
        }
        assert_eq!(code.judge(text.as_bytes()), Verdict::Right);
    }

    #[test]
    fn after_five_wrong_ones_even_the_right_one_is_wrong() {
        let code = RecoveryCode::mint().unwrap();
        for left in [4, 3, 2, 1, 0] {
            assert_eq!(code.judge(b"nonsense"), Verdict::Wrong(left));
        }
        let right = code.secret().expose().to_owned();
        assert_eq!(code.judge(right.as_bytes()), Verdict::Wrong(0));
    }
}

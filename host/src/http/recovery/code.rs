//! The code that token recovery asks for, where it is told to: whoever can read the server's terminal or its files has it,
//! another user of the machine has not.
//!
//! Knows nothing of how it is presented.

use std::sync::atomic::{AtomicU32, Ordering};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Crockford's base 32: no letter that looks like a digit.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 16 digits of 5 bits each: 80 bits, of which a handful of tries tell nothing.
const LENGTH: usize = 16;

/// How many digits stand together, for whoever has to type them.
const GROUP: usize = 2;

/// How many wrong codes are listened to.
const MAX_ATTEMPTS: u32 = 5;

/// A code for one run of the recovery listener.
#[derive(Debug)]
pub(crate) struct RecoveryCode {
    code: Secret,
    failed_attempts: AtomicU32,
}

/// What is to be said of a code that was presented.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CodeCheck {
    /// It is the one.
    Correct,
    /// It is not; this many more tries are left.
    Wrong(u32),
}

impl RecoveryCode {
    /// A new code. Fails where the system has no randomness.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
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
        Ok(Self { code: code.into(), failed_attempts: AtomicU32::new(0) })
    }

    /// The code itself, for those who are to have it.
    pub(crate) fn secret(&self) -> &Secret {
        &self.code
    }

    /// Compares in a time that does not depend on where the two differ, and counts what is wrong.
    pub(crate) fn verify(&self, presented: &[u8]) -> CodeCheck {
        let wrong_before = self.failed_attempts.load(Ordering::Relaxed);
        // The length of a code is no secret.
        let equal = normalize(presented).ct_eq(&normalize(self.code.expose().as_bytes()));
        if wrong_before < MAX_ATTEMPTS && equal.into() {
            return CodeCheck::Correct;
        }
        let wrong = self.failed_attempts.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        CodeCheck::Wrong(MAX_ATTEMPTS.saturating_sub(wrong))
    }
}

/// The digits of a code that somebody has typed, as Crockford means it to be read: in either case, whatever stands between
/// them, and with the letters that look like digits for these. What is no digit stays, and is none.
fn normalize(code: &[u8]) -> Zeroizing<Vec<u8>> {
    // So that no copy is left behind where it would have to grow.
    let mut normalized = Zeroizing::new(Vec::with_capacity(code.len()));
    normalized.extend(code.iter().filter(|byte| !b"- ".contains(byte)).map(|byte| {
        match byte.to_ascii_uppercase() {
            b'I' | b'L' => b'1',
            b'O' => b'0',
            digit => digit,
        }
    }));
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_eight_groups_of_digits_and_another_one_each_time() {
        let codes: Vec<_> =
            (0..50).map(|_| RecoveryCode::generate().unwrap().secret().expose().to_owned()).collect();
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
        let right = |code: &RecoveryCode, text: &str| code.verify(text.as_bytes()) == CodeCheck::Correct;
        let code = RecoveryCode::generate().unwrap();
        let text = code.secret().expose().to_owned();
        assert!(right(&code, &text));
        let last = if text.ends_with('0') { "1" } else { "0" };
        for wrong in ["", "-", &text[..22], &format!("{text}0"), &(text[..22].to_owned() + last)] {
            assert!(
                !right(
                    &RecoveryCode { code: text.clone().into(), failed_attempts: AtomicU32::new(0) },
                    wrong
                ),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_code_is_read_as_people_write_it() {
        for (written, right) in [
            ("01-23-AB-CD-EF-GH-J0-1Z", true),
            ("01-23-ab-cd-ef-gh-j0-1z", true),
            ("0123ABCDEFGHJ01Z", true),
            ("0123 abcd efgh j01z", true),
            (" 0-1-2-3ABCDEFGHJ01Z-", true),
            ("OI-23-AB-CD-EF-GH-JO-LZ", true),
            ("oi-23-ab-cd-ef-gh-jo-lz", true),
            ("01-23-AB-CD-EF-GH-J0-12", false),
            ("01-23-AB-CD-EF-GH-J0-1Z\u{a0}", false),
            ("01_23_AB_CD_EF_GH_J0_1Z", false),
            ("U1-23-AB-CD-EF-GH-J0-1Z", false),
        ] {
            let code = "01-23-AB-CD-EF-GH-J0-1Z".to_owned();
            let code = RecoveryCode { code: code.into(), failed_attempts: AtomicU32::new(0) };
            assert_eq!(code.verify(written.as_bytes()) == CodeCheck::Correct, right, "{written:?}");
        }
    }

    #[test]
    fn after_five_wrong_ones_even_the_right_one_is_wrong() {
        let code = RecoveryCode::generate().unwrap();
        for left in [4, 3, 2, 1, 0] {
            assert_eq!(code.verify(b"nonsense"), CodeCheck::Wrong(left));
        }
        let right = code.secret().expose().to_owned();
        assert_eq!(code.verify(right.as_bytes()), CodeCheck::Wrong(0));
    }
}

//! The one-time code of token recovery. A user that can read the terminal or the files of the
//! server has it; other local users do not.
//!
//! Knows nothing of how a request presents it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The digits of Crockford's base 32, which leaves out letters that look like digits.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The number of digits. With 5 bits each they are 80 bits, which a few attempts cannot guess.
const LENGTH: usize = 16;

/// The number of digits between hyphens, which help to type the code.
const GROUP: usize = 2;

/// How many wrong codes are allowed at one listener.
const MAX_ATTEMPTS: u32 = 5;

/// The code of token recovery.
#[derive(Debug)]
pub(crate) struct RecoveryCode(Secret);

/// The attempts at one recovery listener. Each listener has its own, so that clients of one cannot
/// close another.
#[derive(Debug)]
pub(crate) struct CodeAttempts {
    code: Arc<RecoveryCode>,
    failed: AtomicU32,
}

/// The result of a presented code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CodeCheck {
    /// The code is correct.
    Correct,
    /// The code is wrong, and this many attempts are left.
    Wrong(u32),
}

impl RecoveryCode {
    /// Generates a code. Fails if the system has no randomness.
    pub(crate) fn generate() -> Result<Self, getrandom::Error> {
        let mut random = Zeroizing::new([0; LENGTH]);
        getrandom::fill(&mut *random)?;
        let mut code = String::with_capacity(LENGTH + LENGTH / GROUP);
        for (place, byte) in random.iter().enumerate() {
            if place > 0 && place % GROUP == 0 {
                code.push('-');
            }
            // All digits are equally likely, because 32 divides 256.
            code.extend(DIGITS.get(usize::from(byte % 32)).copied().map(char::from));
        }
        Ok(Self(code.into()))
    }

    /// Returns the code, to show it or to write it to a file.
    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }
}

impl CodeAttempts {
    /// Begins to count at a listener.
    pub(crate) fn new(code: Arc<RecoveryCode>) -> Self {
        Self { code, failed: AtomicU32::new(0) }
    }

    /// Compares a presented code in constant time, and counts it if it is wrong.
    pub(crate) fn verify(&self, presented: &[u8]) -> CodeCheck {
        let wrong_before = self.failed.load(Ordering::Relaxed);
        // The length of a code is public.
        let equal = normalize(presented).ct_eq(&normalize(self.code.secret().expose().as_bytes()));
        if wrong_before < MAX_ATTEMPTS && equal.into() {
            return CodeCheck::Correct;
        }
        let wrong = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        CodeCheck::Wrong(MAX_ATTEMPTS.saturating_sub(wrong))
    }
}

/// Normalizes a typed code as Crockford specifies: upper and lower case are equal, hyphens and
/// spaces are ignored, and letters that look like digits count as those. Other characters stay.
fn normalize(code: &[u8]) -> Zeroizing<Vec<u8>> {
    // A buffer that grows would leave a copy behind.
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
    fn codes_are_random_groups_of_digits() {
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

    fn attempts(code: &str) -> CodeAttempts {
        CodeAttempts::new(Arc::new(RecoveryCode(code.to_owned().into())))
    }

    #[test]
    fn only_the_exact_code_is_correct() {
        let code = RecoveryCode::generate().unwrap();
        let text = code.secret().expose();
        assert_eq!(attempts(text).verify(text.as_bytes()), CodeCheck::Correct);
        let last = if text.ends_with('0') { "1" } else { "0" };
        for wrong in ["", "-", &text[..22], &format!("{text}0"), &(text[..22].to_owned() + last)] {
            assert_eq!(attempts(text).verify(wrong.as_bytes()), CodeCheck::Wrong(4), "{wrong}");
        }
    }

    #[test]
    fn typed_codes_are_normalized() {
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
            let code = attempts("01-23-AB-CD-EF-GH-J0-1Z");
            assert_eq!(code.verify(written.as_bytes()) == CodeCheck::Correct, right, "{written:?}");
        }
    }

    #[test]
    fn correct_code_fails_after_five_wrong_ones() {
        let code = Arc::new(RecoveryCode::generate().unwrap());
        let attempts = CodeAttempts::new(Arc::clone(&code));
        for left in [4, 3, 2, 1, 0] {
            assert_eq!(attempts.verify(b"nonsense"), CodeCheck::Wrong(left));
        }
        let right = code.secret().expose().as_bytes();
        assert_eq!(attempts.verify(right), CodeCheck::Wrong(0));
        // Another listener has attempts of its own.
        assert_eq!(CodeAttempts::new(Arc::clone(&code)).verify(right), CodeCheck::Correct);
    }
}

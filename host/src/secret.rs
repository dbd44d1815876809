//! The text of a token on the host's side: wiped when dropped, absent from every log and `Debug`
//! output.

use std::fmt;

use zeroize::Zeroizing;

/// The text of a token, presented or issued.
///
/// It is not a `String` so that showing it takes a visible [`expose`](Secret::expose).
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself, for the one place that sends or checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_in_its_debug_output() {
        assert_eq!(format!("{:?}", Secret::from("apiv3_x".to_owned())), "Secret(..)");
    }
}

//! Every token that is made in a test, and the forms in which it would be found in an output.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{LazyLock, Mutex};

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha512};

/// What all tokens begin with, and no message contains.
const TOKEN_PREFIX: &str = "apiv3_";

/// What stands in a log where a token was taken out.
pub(super) const REDACTED: &str = "[token]";

/// The form that COMPAT 1.4 gives: `^apiv3_[A-Za-z0-9_-]{85}[AQgw]$`.
pub(crate) fn assert_token_form(token: &str) {
    let well_formed = token.strip_prefix(TOKEN_PREFIX).is_some_and(|random| {
        random.len() == 86 && random.chars().all(is_token_char) && random.ends_with(['A', 'Q', 'g', 'w'])
    });
    assert!(well_formed, "not the form of a token: {token:?}");
    remember_tokens(token);
}

/// What would give away a token that was made here: what stands behind its prefix, and the random bytes in the forms in which
/// programs print bytes.
///
/// By how they begin, so that a text is looked through once, however many there are.
static KNOWN_FORMS: LazyLock<Mutex<HashMap<[u8; PREFIX_LEN], BTreeSet<String>>>> =
    LazyLock::new(Mutex::default);

/// How many bytes of what would give a token away are looked for first. None of it is shorter.
const PREFIX_LEN: usize = 8;

/// Remembers the tokens in what a server or a command has answered.
pub(crate) fn remember_tokens(answer: &str) {
    for rest in answer.split(TOKEN_PREFIX).skip(1) {
        let random = rest.split(|next| !is_token_char(next)).next().unwrap();
        // Shorter ones are made up by tests, and 64 bytes have no other length.
        if let Ok(bytes) = Base64UrlUnpadded::decode_vec(random)
            && bytes.len() == 64
        {
            let mut forms = BTreeSet::new();
            // As bytes, they come in lists; as numbers, one by one.
            let (list, hex) = (format!("{:?}", &bytes[..8]), format!("{:02x?}", &bytes[..8]));
            forms.extend([&list, &hex].map(|list| list.trim_matches(['[', ']']).to_owned()));
            forms.insert(hex.replace(['[', ']', ',', ' '], ""));
            forms
                .extend(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()).to_string()));
            forms.extend(in_base64(random));
            forms.insert(random.to_owned());
            let mut known = KNOWN_FORMS.lock().unwrap();
            for form in forms {
                // But for a number that has very few digits by chance.
                if let Some(beginning) = form.as_bytes().first_chunk() {
                    known.entry(*beginning).or_default().insert(form);
                }
            }
        }
    }
}

/// How a text stands in the base64 of a longer one, as in Basic credentials: in either alphabet, and wherever it begins.
fn in_base64(text: &str) -> impl Iterator<Item = String> {
    (0..3).flat_map(move |before| {
        let longer = ["x".repeat(before).as_bytes(), text.as_bytes()].concat();
        let (standard, url) =
            (Base64Unpadded::encode_string(&longer), Base64UrlUnpadded::encode_string(&longer));
        // Six bits a character; those at the ends also hold bits of what stands around it.
        let whole = (before * 8).div_ceil(6)..longer.len() * 8 / 6;
        [&standard, &url].map(|encoded| encoded[whole.clone()].to_owned())
    })
}

/// Whether a text holds a token, or the beginning of one, or one that was made here, whatever it looks like.
pub(crate) fn holds_token(text: &str) -> bool {
    text.split(TOKEN_PREFIX).skip(1).any(|rest| rest.starts_with(is_token_char)) || holds_known_token(text)
}

/// Whether a text holds a token that was made here, with or without its prefix.
pub(super) fn holds_known_token(text: &str) -> bool {
    let forms = KNOWN_FORMS.lock().unwrap();
    text.as_bytes().windows(PREFIX_LEN).enumerate().any(|(at, beginning)| {
        let known = beginning.try_into().ok().and_then(|beginning: [u8; PREFIX_LEN]| forms.get(&beginning));
        known.is_some_and(|known| known.iter().any(|form| text.as_bytes()[at..].starts_with(form.as_bytes())))
    })
}

fn is_token_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '-'
}

pub(crate) fn sha512_hex(text: &str) -> String {
    Sha512::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

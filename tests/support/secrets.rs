//! Knows every token that a test creates, and finds it in an output in many forms.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{LazyLock, Mutex};

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha512};

/// Prefix of every token. No message contains it followed by a part of a token.
const TOKEN_PREFIX: &str = "apiv3_";

/// Replacement of a token in a log.
pub(super) const REDACTED: &str = "[token]";

/// Asserts the form of docs/compatibility.md 1.4: `^apiv3_[A-Za-z0-9_-]{85}[AQgw]$`.
pub(crate) fn assert_token_form(token: &str) {
    let well_formed = token.strip_prefix(TOKEN_PREFIX).is_some_and(|random| {
        random.len() == 86 && random.chars().all(is_generated_char) && random.ends_with(['A', 'Q', 'g', 'w'])
    });
    assert!(well_formed, "not the form of a token: {token:?}");
    remember_tokens(token);
}

/// Forms of the known tokens: the text after the prefix, and the random bytes as programs print
/// bytes.
///
/// Keyed by their first bytes, so that one pass over a text finds any of them.
static KNOWN_FORMS: LazyLock<Mutex<HashMap<[u8; PREFIX_LEN], BTreeSet<String>>>> =
    LazyLock::new(Mutex::default);

/// Length of the keys of [`KNOWN_FORMS`]. No form is shorter.
const PREFIX_LEN: usize = 8;

/// Remembers the tokens in the output of a server or a command.
pub(crate) fn remember_tokens(output: &str) {
    for rest in output.split(TOKEN_PREFIX).skip(1) {
        let random = rest.split(|next| !is_generated_char(next)).next().unwrap();
        // Tests invent shorter ones. The encoding of 64 bytes has no other length.
        if let Ok(bytes) = Base64UrlUnpadded::decode_vec(random)
            && bytes.len() == 64
        {
            let mut forms = BTreeSet::new();
            // Debug output has bytes as lists, and numbers one by one.
            let (list, hex) = (format!("{:?}", &bytes[..8]), format!("{:02x?}", &bytes[..8]));
            forms.extend([&list, &hex].map(|list| list.trim_matches(['[', ']']).to_owned()));
            forms.insert(hex.replace(['[', ']', ',', ' '], ""));
            forms
                .extend(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()).to_string()));
            forms.extend(in_base64(random));
            forms.insert(random.to_owned());
            let mut known = KNOWN_FORMS.lock().unwrap();
            for form in forms {
                // Leaves out a number that has few digits by chance.
                if let Some(beginning) = form.as_bytes().first_chunk() {
                    known.entry(*beginning).or_default().insert(form);
                }
            }
        }
    }
}

/// Length of the parts of a token that [`remember_secret`] remembers.
const PART_LEN: usize = 10;

/// Remembers every part of a token of any alphabet, as programs print text: plain, quoted with
/// escapes, percent-encoded and in base64.
pub(crate) fn remember_secret(token: &str) {
    let random = token.strip_prefix(TOKEN_PREFIX).unwrap();
    let percent = |keep: fn(u8) -> bool| {
        let encode = |byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        random.bytes().map(encode).collect::<String>()
    };
    let mut texts = vec![random.to_owned(), format!("{random:?}").trim_matches('"').to_owned()];
    texts.extend([
        percent(|_| false),
        percent(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
    ]);
    texts.extend(in_base64(random));
    let mut known = KNOWN_FORMS.lock().unwrap();
    for part in texts.iter().flat_map(|text| text.as_bytes().windows(PART_LEN)) {
        let form = str::from_utf8(part).unwrap().to_owned();
        known.entry(*part.first_chunk().unwrap()).or_default().insert(form);
    }
}

/// The text inside the base64 of a longer text, as in Basic credentials: both alphabets, and all
/// three alignments.
fn in_base64(text: &str) -> impl Iterator<Item = String> {
    (0..3).flat_map(move |before| {
        let longer = ["x".repeat(before).as_bytes(), text.as_bytes()].concat();
        let (standard, url) =
            (Base64Unpadded::encode_string(&longer), Base64UrlUnpadded::encode_string(&longer));
        // A character holds six bits. Those at the ends also hold bits of the surrounding text.
        let whole = (before * 8).div_ceil(6)..longer.len() * 8 / 6;
        [&standard, &url].map(|encoded| encoded[whole.clone()].to_owned())
    })
}

/// Returns whether a text holds a token, the beginning of one, or a known token in any form.
pub(crate) fn holds_token(text: &str) -> bool {
    text.split(TOKEN_PREFIX).skip(1).any(begins_with_secret) || holds_known_token(text)
}

/// Returns whether the text behind a prefix begins with a part of a token: with any visible ASCII.
/// Messages that name the prefix have a few marks behind it.
fn begins_with_secret(rest: &str) -> bool {
    let visible = rest.split(|next: char| !next.is_ascii_graphic()).next().unwrap();
    visible.len() > 3 || visible.contains(|next: char| !"\"'`,.;:)]}>".contains(next))
}

/// Returns whether a text holds a known token, with or without its prefix.
pub(super) fn holds_known_token(text: &str) -> bool {
    let forms = KNOWN_FORMS.lock().unwrap();
    text.as_bytes().windows(PREFIX_LEN).enumerate().any(|(at, beginning)| {
        let known = beginning.try_into().ok().and_then(|beginning: [u8; PREFIX_LEN]| forms.get(&beginning));
        known.is_some_and(|known| known.iter().any(|form| text.as_bytes()[at..].starts_with(form.as_bytes())))
    })
}

/// Returns whether a generated token may have this character behind its prefix.
fn is_generated_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '-'
}

pub(crate) fn sha512_hex(text: &str) -> String {
    Sha512::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

//! A catalog of many tokens, as a token store holds it.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha512};

/// The secret of the token with this number.
pub(crate) fn secret(number: usize) -> String {
    format!("apiv3_{number:086}")
}

/// A catalog of the operator token, which has the number 0, and named tokens; in the format of the
/// component (docs/design.md 3.1). `scope` is what the record of a named token has at its end.
pub(crate) fn document(tokens: usize, scope: &str) -> String {
    let mut document = format!("{{\"format\":3}}\n{{\"next_id\":{tokens},\"tokens\":{tokens}}}\n");
    for id in 0..tokens {
        let name = if id == 0 { "_admin".to_owned() } else { format!("deployment number {id}") };
        let hash = Sha512::digest(secret(id)).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        let scope = if id == 0 { "" } else { scope };
        writeln!(
            document,
            r#"{{"id":{id},"name":"{name}","hash":"{hash}","created_at":1700000000000{scope}}}"#
        )
        .unwrap();
    }
    document
}

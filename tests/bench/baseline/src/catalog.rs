//! A token store with many tokens.

use std::fmt::Write as _;
use std::path::Path;

use optoken::store::{SqliteStore, Store as _};
use sha2::{Digest as _, Sha512};

/// Writes a SQLite store with an operator token, whose secret is that of the number 0, and named
/// tokens. The document is in the format of the component (docs/design.md 3.1).
pub(crate) fn write(file: &Path, tokens: usize) {
    let mut document = format!("{{\"format\":3}}\n{{\"next_id\":{tokens},\"tokens\":{tokens}}}\n");
    for id in 0..tokens {
        let name = if id == 0 { "_admin".to_owned() } else { format!("deployment number {id}") };
        let hash = Sha512::digest(secret(id)).iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        let record = format!(r#"{{"id":{id},"name":"{name}","hash":"{hash}","created_at":1700000000000}}"#);
        document.push_str(&record);
        document.push('\n');
    }
    SqliteStore::open(file).unwrap().swap(None, &document).unwrap();
    println!("operator {}", secret(0));
}

fn secret(number: usize) -> String {
    format!("apiv3_{number:086}")
}

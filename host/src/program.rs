//! The name of this program in its help and hints: the name that it was called by.
//!
//! Text that leaves through HTTP, or that a library returns to an embedder, does not use it.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

/// The name if this process was called by none, or by one that a terminal cannot show.
const DEFAULT: &str = "optoken";

static NAME: OnceLock<String> = OnceLock::new();

/// Returns the name that this program was called by, without folders.
pub(crate) fn name() -> &'static str {
    NAME.get_or_init(|| called_as(env::args_os().next().as_deref()))
}

/// Puts the name in place of `{program}`.
pub(crate) fn named(text: &str) -> String {
    text.replace("{program}", name())
}

/// Returns the file name in `argument`, the first of a process.
fn called_as(argument: Option<&OsStr>) -> String {
    let name = argument.and_then(|path| Path::new(path).file_name()?.to_str());
    let is_plain =
        |name: &&str| name.chars().all(|character| character.is_alphanumeric() || "-._".contains(character));
    name.filter(is_plain).unwrap_or(DEFAULT).to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn name_is_that_of_the_called_file() {
        let of = |argument: &[u8]| called_as(Some(OsStr::from_bytes(argument)));
        assert_eq!(of(b"influxdb3"), "influxdb3");
        assert_eq!(of(b"/usr/local/bin/optoken-2"), "optoken-2");
        assert_eq!(of(b"./target/debug/op_token"), "op_token");
        for odd in [&b""[..], b"/", b"a b", b"\x1b[31m", b"bin/\xff", b"; reboot"] {
            assert_eq!(of(odd), DEFAULT, "{odd:?}");
        }
        assert_eq!(called_as(None), DEFAULT);
    }
}

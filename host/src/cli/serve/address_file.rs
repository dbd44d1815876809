//! The file that holds the address of a listener while the listener is open
//! (docs/compatibility.md 5.1).

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::private_file::ownership::trust_path;
use crate::private_file::{RemoveOnDrop, create_new};

/// Writes `ip:port`, without a newline, to a file that must not exist. A program that waits for the
/// file finds it complete.
pub(crate) fn write_address_file(path: &Path, address: SocketAddr) -> anyhow::Result<RemoveOnDrop> {
    let content = address.to_string();
    trust_path(path).with_context(|| format!("cannot write the address to {}", path.display()))?;
    match create_new(path, content.as_bytes()) {
        Ok(()) => Ok(RemoveOnDrop::with_content(path.to_owned(), content.as_bytes())),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
            "{0} exists, so another server may be running there; if none is, remove it: rm {0}",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| format!("cannot write the address to {}", path.display())),
    }
}

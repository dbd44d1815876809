//! The file `.env`, which adds to the environment (docs/compatibility.md 4).
//!
//! It may hold a token, so no error quotes it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use thiserror::Error;
use zeroize::Zeroizing;

/// The file exists and cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DotenvError {
    /// The file, or a directory above it, cannot be read.
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: io::Error },
    /// The file does not follow the grammar.
    #[error("{path}: a line of it is not NAME=VALUE in plain text; quote a value that has spaces or #")]
    Malformed { path: PathBuf },
}

/// Adds the variables of the file in the working directory, or in the nearest directory above. A
/// variable that is set already stays. A missing file is no error.
pub(crate) fn load() -> Result<(), DotenvError> {
    let Ok(directory) = env::current_dir() else {
        // The working directory was removed.
        return Ok(());
    };
    let Some(path) = find(&directory)? else { return Ok(()) };
    let malformed = || DotenvError::Malformed { path: path.clone() };
    let content = fs::read(&path)
        .map(Zeroizing::new)
        .map_err(|reason| DotenvError::Unreadable { path: path.clone(), reason })?;
    // No variable can hold a null byte, and `set_var` panics at one.
    if content.contains(&0) {
        return Err(malformed());
    }
    dotenvy::from_read(content.as_slice()).map_err(|_| malformed())
}

fn find(directory: &Path) -> Result<Option<PathBuf>, DotenvError> {
    for directory in directory.ancestors() {
        let path = directory.join(".env");
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => return Ok(Some(path)),
            Ok(_) => {}
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => return Err(DotenvError::Unreadable { path, reason }),
        }
    }
    Ok(None)
}

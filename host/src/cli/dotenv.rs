//! The file `.env`, which adds to the environment (COMPAT section 4).
//!
//! It may hold a token, so nothing of what stands in it is ever repeated.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use thiserror::Error;
use zeroize::Zeroizing;

/// The file is there and cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DotenvError {
    /// It may not be looked at.
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: io::Error },
    /// It is something else.
    #[error(
        "{path}: a line of it is not NAME=VALUE in plain text; a value with spaces or # in it stands in quotes"
    )]
    Malformed { path: PathBuf },
}

/// Adds what the file in the working directory says, or else that in the nearest directory above. What the environment
/// has already stays. That there is no such file is no error.
pub(crate) fn load() -> Result<(), DotenvError> {
    let Ok(directory) = env::current_dir() else {
        // The directory is gone, and with it the file.
        return Ok(());
    };
    let Some(path) = find(&directory)? else { return Ok(()) };
    let malformed = || DotenvError::Malformed { path: path.clone() };
    let content = fs::read(&path)
        .map(Zeroizing::new)
        .map_err(|reason| DotenvError::Unreadable { path: path.clone(), reason })?;
    // No variable can hold it, and setting one that does ends the process.
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

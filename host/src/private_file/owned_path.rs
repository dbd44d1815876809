//! Whether another user could have prepared what a path names, or could replace it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::private_file::walk::{Step, Walked, walk};
use crate::private_file::{Mode, is_own_or_root};

/// Why another user decides what a path names.
#[derive(Debug, Error)]
pub(crate) enum ForeignPath {
    /// A file, a link or a directory on the path is that of another user.
    #[error("{} belongs to another user (uid {uid})", path.display())]
    Owner { path: PathBuf, uid: u32 },
    /// Other users may write to a file or a directory on the path.
    #[error("others can write to {} (mode {mode:o})", path.display())]
    Writable { path: PathBuf, mode: Mode },
    /// The path cannot be followed to its end.
    #[error("{}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: io::Error },
}

/// Rejects a directory in which a user other than root and this one can replace a file of theirs.
/// In a sticky directory, users can remove their own files only.
pub(crate) fn check_directory(path: &Path, metadata: &Metadata) -> Result<(), ForeignPath> {
    check_owner(path, metadata)?;
    let mode = Mode::of(metadata);
    if mode.is_writable_by_others() && !mode.is_sticky() {
        return Err(ForeignPath::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Rejects a file that a user other than root and this one owns or may write.
pub(crate) fn check_file(path: &Path, metadata: &Metadata) -> Result<(), ForeignPath> {
    check_owner(path, metadata)?;
    let mode = Mode::of(metadata);
    if mode.is_writable_by_others() {
        return Err(ForeignPath::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Rejects what belongs to a user other than root and this one.
pub(crate) fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), ForeignPath> {
    if is_own_or_root(metadata) {
        Ok(())
    } else {
        Err(ForeignPath::Owner { path: path.to_owned(), uid: metadata.uid() })
    }
}

/// Follows a path as the kernel does. Rejects it if the owner of a directory, a link or the target
/// is another user, or if others can replace one of them. Returns the target. Its mode is not
/// checked.
pub(crate) fn resolve_owned(path: &Path) -> Result<PathBuf, ForeignPath> {
    let check = |step, path: &Path, metadata: &Metadata| match step {
        Step::Parent => check_directory(path, metadata),
        Step::Link | Step::Entry => check_owner(path, metadata),
    };
    let unreadable = |path: &Path, reason| ForeignPath::Unreadable { path: path.to_owned(), reason };
    let Walked { path, found } = walk(path, check, unreadable)?;
    match found {
        Ok(_) => Ok(path),
        Err(missing) => Err(unreadable(&missing, io::ErrorKind::NotFound.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use super::*;
    use crate::private_file::is_own;

    #[test]
    fn path_is_followed_as_the_kernel_does() {
        let directory = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir_all(home.join("a/b")).unwrap();
        fs::write(home.join("a/b/file"), "").unwrap();
        symlink("a/b", home.join("relative")).unwrap();
        symlink(home.join("a"), home.join("absolute")).unwrap();
        symlink("loop", home.join("loop")).unwrap();
        symlink("nowhere", home.join("dangling")).unwrap();
        for path in ["a/b/file", "relative/file", "absolute/b/file", "a/b/../b/./file", "relative/../b/file"]
        {
            let path = home.join(path);
            assert_eq!(resolve_owned(&path).unwrap(), fs::canonicalize(&path).unwrap(), "{path:?}");
        }
        for path in ["loop", "dangling", "none"] {
            let error = resolve_owned(&home.join(path)).unwrap_err();
            assert!(matches!(error, ForeignPath::Unreadable { .. }), "{error}");
        }
    }

    #[test]
    fn path_that_others_can_change_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(home.join("a")).unwrap();
        fs::write(home.join("a/file"), "").unwrap();
        symlink("a/file", home.join("link")).unwrap();
        let set_mode =
            |path: &str, mode| fs::set_permissions(home.join(path), Permissions::from_mode(mode)).unwrap();
        for (mode, accepted) in [(0o700, true), (0o755, true), (0o775, false), (0o777, false), (0o1777, true)]
        {
            set_mode("a", mode);
            for path in ["a/file", "link"] {
                let result = resolve_owned(&home.join(path));
                assert_eq!(result.is_ok(), accepted, "{mode:o} {path} {result:?}");
            }
        }
        // Another user cannot be imitated without privileges.
        if !is_own(&fs::metadata("/").unwrap()) {
            return;
        }
        let foreign = |path: &str| {
            let error = resolve_owned(&home.join(path)).unwrap_err();
            assert!(matches!(error, ForeignPath::Owner { uid: 65534, .. }), "{error}");
        };
        lchown(home.join("link"), Some(65534), None).unwrap();
        foreign("link");
        assert!(resolve_owned(&home.join("a/file")).is_ok());
        chown(home.join("a/file"), Some(65534), None).unwrap();
        foreign("a/file");
        chown(home.join("a/file"), Some(0), None).unwrap();
        chown(home.join("a"), Some(65534), None).unwrap();
        foreign("a/file");
    }
}

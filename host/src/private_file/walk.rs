//! Follows a path as the kernel does, component by component, links included. The caller decides
//! which components it trusts.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf, absolute};

/// How many links are followed: as many as Linux follows.
const MAX_LINKS: usize = 40;

/// What a component is on the way of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A directory that the next component is in.
    Parent,
    /// A link, which is followed.
    Link,
    /// A directory or a file, which is no link.
    Entry,
}

/// The end of a path.
#[derive(Debug)]
pub(super) struct Walked {
    /// The path without links.
    pub(super) path: PathBuf,
    /// What is there, or the first component that is missing.
    pub(super) found: Result<Metadata, PathBuf>,
}

/// Follows `path`. Calls `check` for each step, and `failed` for an error of the system.
pub(super) fn walk<E>(
    path: &Path,
    check: impl Fn(Step, &Path, &Metadata) -> Result<(), E>,
    failed: impl Fn(&Path, io::Error) -> E,
) -> Result<Walked, E> {
    let mut rest = VecDeque::new();
    push_front(&mut rest, &absolute(path).map_err(|error| failed(path, error))?);
    let mut current = PathBuf::from("/");
    let mut here = fs::metadata(&current).map_err(|error| failed(&current, error))?;
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            current.pop();
            here = fs::metadata(&current).map_err(|error| failed(&current, error))?;
            continue;
        }
        check(Step::Parent, &current, &here)?;
        let next = current.join(&name);
        let found = match fs::symlink_metadata(&next) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = next.join(rest.iter().collect::<PathBuf>());
                return Ok(Walked { path, found: Err(next) });
            }
            found => found.map_err(|error| failed(&next, error))?,
        };
        if found.is_symlink() {
            if is_open_file(&current, &rest) {
                let metadata = fs::metadata(&next).map_err(|error| failed(&next, error))?;
                return Ok(Walked { path: next, found: Ok(metadata) });
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(failed(&next, io::Error::other("it is a link to a link, and so on")));
            }
            check(Step::Link, &next, &found)?;
            let target = fs::read_link(&next).map_err(|error| failed(&next, error))?;
            if target.is_absolute() {
                current = PathBuf::from("/");
                here = fs::metadata(&current).map_err(|error| failed(&current, error))?;
            }
            push_front(&mut rest, &target);
            continue;
        }
        check(Step::Entry, &next, &found)?;
        if !found.is_dir() && !rest.is_empty() {
            return Err(failed(&next, io::ErrorKind::NotADirectory.into()));
        }
        (current, here) = (next, found);
    }
    Ok(Walked { path: current, found: Ok(here) })
}

/// Returns whether a link in this directory leads to a file that a process has open, such as that
/// of `/dev/stdin`: the text of such a link is no path.
fn is_open_file(directory: &Path, rest: &VecDeque<OsString>) -> bool {
    directory.starts_with("/proc")
        && (directory.ends_with("fd") || rest.front().is_some_and(|next| next == "fd"))
}

/// Puts the components of a path in front of the rest.
fn push_front(rest: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        if matches!(component, Component::Normal(_) | Component::ParentDir) {
            rest.push_front(component.as_os_str().to_owned());
        }
    }
}

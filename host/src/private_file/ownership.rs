//! Decides which files and directories another user could have made or can change. This is the one
//! place that decides: nothing of another user is believed (docs/design.md 3.5).
//!
//! A path is walked from the root, component by component, links included. The owner of each
//! component is root or the user of this process, and no other user may replace what is below it.
//! Knows nothing of what the files hold.

use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use thiserror::Error;

use crate::private_file::walk::{Step, Walked, walk};
use crate::private_file::{Mode, directory_of};

/// The user and the groups of a process.
#[derive(Debug, Clone)]
struct User {
    uid: u32,
    groups: Vec<u32>,
}

impl User {
    fn current() -> Self {
        let mut groups: Vec<u32> = rustix::process::getgroups()
            .unwrap_or_default()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        groups.push(rustix::process::getegid().as_raw());
        Self { uid: rustix::process::geteuid().as_raw(), groups }
    }
}

/// Owner, group and mode of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    uid: u32,
    gid: u32,
    mode: Mode,
    /// Whether a file system is mounted at this directory.
    is_mount: bool,
}

/// What is wrong with a component of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Its owner is neither root nor this user.
    Owner,
    /// Others can write to it.
    Writable,
}

/// Decides on a link, of which the owner alone matters.
fn link_fault(user: &User, facts: Facts) -> Option<Fault> {
    (facts.uid != 0 && facts.uid != user.uid).then_some(Fault::Owner)
}

/// Decides on a file, and on a directory that holds private files.
fn file_fault(user: &User, facts: Facts) -> Option<Fault> {
    link_fault(user, facts).or_else(|| facts.mode.is_writable_by_others().then_some(Fault::Writable))
}

/// Decides on a directory that leads to a file. In a sticky one, users can replace their own files
/// only; the owner of the next component is checked, too.
fn parent_fault(user: &User, facts: Facts) -> Option<Fault> {
    file_fault(user, facts)
        .filter(|fault| *fault == Fault::Owner || !(facts.mode.is_sticky() || is_volume(user, facts)))
}

/// Returns whether a directory that others can write is the root of a volume, as Kubernetes makes
/// it: it belongs to root and to a group of this process, or a file system is mounted there. Its
/// other users are the parts of one deployment.
fn is_volume(user: &User, facts: Facts) -> bool {
    let of_own_group = !facts.mode.is_writable_by_all()
        && facts.uid == 0
        && user.uid != 0
        && user.groups.contains(&facts.gid);
    facts.mode.is_writable_by_others() && (facts.is_mount || of_own_group)
}

/// Which users can read a file, beside its owner and root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    None,
    /// The members of a group that this process is in, as in a mounted secret.
    OwnGroup,
    Others,
}

fn readers(user: &User, facts: Facts) -> Readers {
    match facts.mode {
        mode if mode.is_private() => Readers::None,
        mode if mode.is_closed_to_all() && user.groups.contains(&facts.gid) => Readers::OwnGroup,
        _ => Readers::Others,
    }
}

/// A path that no other user can change.
#[derive(Debug)]
pub(crate) struct TrustedPath {
    /// The path without links.
    pub(crate) path: PathBuf,
    /// What is there.
    pub(crate) metadata: Option<Metadata>,
}

/// A path that another user could have prepared.
#[derive(Debug, Error)]
pub(crate) enum OwnershipError {
    #[error("{} belongs to another user ({facts}), which can change it; {advice}", component.display())]
    Owner { component: PathBuf, facts: String, advice: String },
    #[error("others can write to {} ({facts}), and replace what is there; {advice}", component.display())]
    Writable { component: PathBuf, facts: String, advice: String },
    #[error(
        "the user of this process (uid {uid}) may not search the directory {}; run as a user that may, or choose \
         another path",
        directory.display()
    )]
    Closed { directory: PathBuf, uid: u32, source: io::Error },
    #[error("cannot examine {}", component.display())]
    System { component: PathBuf, source: io::Error },
}

impl From<OwnershipError> for io::Error {
    fn from(error: OwnershipError) -> Self {
        match error {
            OwnershipError::Closed { source, .. } | OwnershipError::System { source, .. } => source,
            refused => Self::new(io::ErrorKind::PermissionDenied, refused),
        }
    }
}

/// Walks to `path`, and refuses a link or a directory on the way that another user could have made
/// or can change. Does not check what is at the end of the path.
pub(crate) fn trust_path(path: &Path) -> Result<TrustedPath, OwnershipError> {
    let user = User::current();
    let check = |step, path: &Path, metadata: &Metadata| {
        let fault = match step {
            Step::Parent => parent_fault(&user, facts(path, metadata)),
            Step::Link => link_fault(&user, facts_without_mount(metadata)),
            Step::Entry => None,
        };
        refuse(&user, path, metadata, fault)
    };
    let failed = |component: &Path, source: io::Error| {
        if source.kind() == io::ErrorKind::PermissionDenied {
            let directory = directory_of(component).to_owned();
            OwnershipError::Closed { directory, uid: geteuid().as_raw(), source }
        } else {
            OwnershipError::System { component: component.to_owned(), source }
        }
    };
    let Walked { path, found } = walk(path, check, failed)?;
    Ok(TrustedPath { path, metadata: found.ok() })
}

/// Refuses a file that another user could have written or can write. The caller has walked to it.
pub(crate) fn trust_file(path: &Path, metadata: &Metadata) -> Result<(), OwnershipError> {
    let user = User::current();
    refuse(&user, path, metadata, file_fault(&user, facts(path, metadata)))
}

/// Refuses a file that belongs to another user.
pub(crate) fn trust_owner(path: &Path, metadata: &Metadata) -> Result<(), OwnershipError> {
    let user = User::current();
    refuse(&user, path, metadata, link_fault(&user, facts_without_mount(metadata)))
}

/// Walks to a file and checks it. Returns `None` for its metadata if there is none.
pub(crate) fn trust_file_at(path: &Path) -> Result<TrustedPath, OwnershipError> {
    let trusted = trust_path(path)?;
    if let Some(metadata) = trusted.metadata.as_ref().filter(|metadata| metadata.is_file()) {
        trust_file(&trusted.path, metadata)?;
    }
    Ok(trusted)
}

/// Returns which users can read a file.
pub(crate) fn readers_of(metadata: &Metadata) -> Readers {
    readers(&User::current(), facts_without_mount(metadata))
}

/// Returns whether a directory is the root of a volume, in which others can write.
pub(crate) fn is_shared_volume(path: &Path, metadata: &Metadata) -> bool {
    is_volume(&User::current(), facts(path, metadata))
}

fn facts_without_mount(metadata: &Metadata) -> Facts {
    Facts { uid: metadata.uid(), gid: metadata.gid(), mode: Mode::of(metadata), is_mount: false }
}

fn facts(path: &Path, metadata: &Metadata) -> Facts {
    let facts = facts_without_mount(metadata);
    let shared_directory = metadata.is_dir() && facts.mode.is_writable_by_others();
    Facts { is_mount: shared_directory && is_mount_point(path, metadata), ..facts }
}

/// Returns whether a file system is mounted at a directory.
fn is_mount_point(path: &Path, metadata: &Metadata) -> bool {
    // A bind mount has the device of its parent, and is known to newer kernels only.
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
        let mask = StatxAttributes::MOUNT_ROOT;
        if let Ok(found) = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
            && found.stx_attributes_mask.contains(mask)
        {
            return found.stx_attributes.contains(mask);
        }
    }
    path.parent().is_none_or(|parent| fs::metadata(parent).is_ok_and(|above| above.dev() != metadata.dev()))
}

fn refuse(user: &User, path: &Path, metadata: &Metadata, fault: Option<Fault>) -> Result<(), OwnershipError> {
    let Some(fault) = fault else { return Ok(()) };
    let component = path.to_owned();
    let (uid, gid, mode) = (metadata.uid(), metadata.gid(), Mode::of(metadata));
    let facts = format!("uid {uid}, gid {gid}, mode {mode:04o}");
    let shown = quoted(path);
    Err(match fault {
        Fault::Owner => {
            let no_link = if metadata.is_symlink() { "-h " } else { "" };
            let advice = if user.uid == 0 {
                format!("choose another path, or check what it holds and run: chown {no_link}0 {shown}")
            } else {
                format!(
                    "choose another path, or let root check what it holds and run: chown {no_link}{} {shown}",
                    user.uid
                )
            };
            OwnershipError::Owner { component, facts, advice }
        }
        Fault::Writable => {
            let advice = if user.uid == 0 || user.uid == uid {
                format!("choose another path, or run: chmod go-w {shown}")
            } else {
                format!("choose a path of your own, or let root run: chmod go-w {shown}")
            };
            OwnershipError::Writable { component, facts, advice }
        }
    })
}

/// Returns a path as a word of a shell.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    if !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-+,:@%=".contains(c)) {
        return text;
    }
    let mut quoted = String::new();
    let _ = write!(quoted, "'{}'", text.replace('\'', r"'\''"));
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user that is neither root nor the owner of anything, with two groups.
    const USER: u32 = 1000;
    const OTHER: u32 = 1001;
    const GROUP: u32 = 4242;

    fn user(uid: u32) -> User {
        User { uid, groups: vec![GROUP, uid] }
    }

    fn facts(uid: u32, gid: u32, mode: u32, is_mount: bool) -> Facts {
        Facts { uid, gid, mode: Mode::from_bits(mode), is_mount }
    }

    #[test]
    fn components_are_decided_by_owner_mode_group_and_mount() {
        use Fault::{Owner, Writable};
        // Owner, group, mode, mount point; as a link, a file, a parent; and whether it is a volume.
        for (uid, gid, mode, mount, link, file, parent, volume) in [
            (USER, USER, 0o700, false, None, None, None, false),
            (USER, OTHER, 0o755, false, None, None, None, false),
            (0, 0, 0o755, false, None, None, None, false),
            (0, 0, 0o755, true, None, None, None, false),
            (OTHER, USER, 0o700, false, Some(Owner), Some(Owner), Some(Owner), false),
            (OTHER, GROUP, 0o1777, true, Some(Owner), Some(Owner), Some(Owner), true),
            (USER, USER, 0o775, false, None, Some(Writable), Some(Writable), false),
            (USER, GROUP, 0o2775, false, None, Some(Writable), Some(Writable), false),
            (USER, USER, 0o777, false, None, Some(Writable), Some(Writable), false),
            (0, 0, 0o777, false, None, Some(Writable), Some(Writable), false),
            (0, 0, 0o777, true, None, Some(Writable), None, true),
            (0, 0, 0o1777, false, None, Some(Writable), None, false),
            (0, 0, 0o1777, true, None, Some(Writable), None, true),
            (0, GROUP, 0o2775, false, None, Some(Writable), None, true),
            (0, GROUP, 0o775, false, None, Some(Writable), None, true),
            (0, GROUP, 0o2777, false, None, Some(Writable), Some(Writable), false),
            (0, OTHER, 0o2775, false, None, Some(Writable), Some(Writable), false),
            (0, OTHER, 0o2775, true, None, Some(Writable), None, true),
        ] {
            let facts = facts(uid, gid, mode, mount);
            let of = user(USER);
            let decided = (
                link_fault(&of, facts),
                file_fault(&of, facts),
                parent_fault(&of, facts),
                is_volume(&of, facts),
            );
            assert_eq!(decided, (link, file, parent, volume), "{uid}:{gid} {mode:o} {mount}");
        }
        // Root owns the directory of a group, and can change its mode.
        assert!(!is_volume(&user(0), facts(0, GROUP, 0o2775, false)));
        assert_eq!(file_fault(&user(0), facts(USER, 0, 0o600, false)), Some(Owner));
    }

    #[test]
    fn readers_are_decided_by_mode_and_group() {
        use Readers::{None, Others, OwnGroup};
        for (gid, mode, expected) in [
            (GROUP, 0o600, None),
            (OTHER, 0o400, None),
            (GROUP, 0o440, OwnGroup),
            (GROUP, 0o640, OwnGroup),
            (USER, 0o640, OwnGroup),
            (OTHER, 0o440, Others),
            (GROUP, 0o444, Others),
            (GROUP, 0o604, Others),
        ] {
            assert_eq!(readers(&user(USER), facts(0, gid, mode, false)), expected, "{gid} {mode:o}");
        }
    }

    #[test]
    fn walk_follows_links_and_names_the_component() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let directory = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(directory.path()).unwrap();
        let target = home.join("real/..data/token");
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(&target, "x").unwrap();
        symlink("real/../real/..data/./token", home.join("relative")).unwrap();
        symlink(home.join("relative"), home.join("absolute")).unwrap();
        let found = trust_file_at(&home.join("absolute")).unwrap();
        assert_eq!((found.path, found.metadata.is_some()), (target, true));
        let missing = trust_path(&home.join("new/below")).unwrap();
        assert_eq!((missing.path, missing.metadata.is_some()), (home.join("new/below"), false));
        symlink("loop", home.join("loop")).unwrap();
        let endless = std::io::Error::from(trust_path(&home.join("loop")).unwrap_err());
        assert!(endless.to_string().contains("a link to a link"), "{endless}");
        let open = home.join("real");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let error = trust_path(&home.join("absolute")).unwrap_err().to_string();
        assert!(error.contains(&format!("others can write to {} (uid ", open.display())), "{error}");
        assert!(error.ends_with(&format!("run: chmod go-w {}", open.display())), "{error}");
        // A link of the kernel to a directory hides no component behind it.
        let hidden = Path::new("/proc/self/root").join(home.join("absolute").strip_prefix("/").unwrap());
        assert_eq!(trust_path(&hidden).unwrap_err().to_string(), error);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        trust_path(&home.join("absolute")).unwrap();
        // A file that is open already has no way to walk.
        trust_path(Path::new("/proc/self/fd/0")).unwrap();
    }

    #[test]
    fn paths_are_quoted_for_a_shell() {
        assert_eq!(quoted(Path::new("/var/lib/x.db")), "/var/lib/x.db");
        assert_eq!(quoted(Path::new("/a b'c")), r"'/a b'\''c'");
    }
}

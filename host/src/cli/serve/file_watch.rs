//! Notices that files were changed or replaced: written in place, renamed over, or behind a link
//! that leads elsewhere, as Kubernetes replaces mounted secrets.
//!
//! Compares what the system knows of a file, at each call. So it works on every file system, and
//! holds no file open. Does not read the files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often files are compared.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// How long after a change they are compared again. A writer may be in the middle of it.
pub(crate) const SETTLING_INTERVAL: Duration = Duration::from_secs(1);

/// Files that belong together, such as a certificate and its key.
#[derive(Debug)]
pub(crate) struct FileWatch {
    paths: Vec<PathBuf>,
    /// The last state that was reported.
    reported: Option<Vec<Option<Fingerprint>>>,
    /// A newer state that was seen once.
    unsettled: Option<Vec<Option<Fingerprint>>>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observation {
    /// The files are those of the last report.
    Unchanged,
    /// They differ, and may differ again. Compare them after [`SETTLING_INTERVAL`].
    Unsettled,
    /// They differ, and have been the same at two comparisons.
    Changed,
}

impl Observation {
    /// Returns whether the files must be read. Files that failed are tried again: the cause may be
    /// outside of them.
    pub(crate) fn needs_reading(self, has_failed: bool) -> bool {
        match self {
            Self::Changed => true,
            Self::Unchanged => has_failed,
            Self::Unsettled => false,
        }
    }

    /// Returns when to compare the files again.
    pub(crate) fn pause(self) -> Duration {
        if self == Self::Unsettled { SETTLING_INTERVAL } else { INTERVAL }
    }
}

/// What differs after each change of a file, even of one that keeps its size and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Follows links. Returns `None` if there is no file that can be examined.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl FileWatch {
    /// Watches these files. The first settled state counts as a change. So a file that is replaced
    /// after it was read, and before the first comparison, is noticed.
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { paths: paths.into_iter().collect(), reported: None, unsettled: None }
    }

    /// Compares the files with the last report.
    pub(crate) fn observe(&mut self) -> Observation {
        let found: Vec<_> = self.paths.iter().map(|path| Fingerprint::of(path)).collect();
        if self.reported.as_ref() == Some(&found) {
            self.unsettled = None;
            Observation::Unchanged
        } else if self.unsettled.as_ref() == Some(&found) {
            (self.reported, self.unsettled) = (Some(found), None);
            Observation::Changed
        } else {
            self.unsettled = Some(found);
            Observation::Unsettled
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_kind_of_change_is_reported_once_settled() {
        use Observation::{Changed, Unchanged, Unsettled};
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), version).unwrap();
        }
        symlink("one", at("..data")).unwrap();
        symlink("..data/tls.crt", at("tls.crt")).unwrap();
        fs::write(at("key"), "key").unwrap();
        let mut watch = FileWatch::new([at("tls.crt"), at("key")]);
        assert_eq!([watch.observe(), watch.observe(), watch.observe()], [Unsettled, Changed, Unchanged]);
        let changes: [(&str, &dyn Fn()); 6] = [
            ("a link leads elsewhere", &|| {
                symlink("two", at("..data_tmp")).unwrap();
                fs::rename(at("..data_tmp"), at("..data")).unwrap();
            }),
            ("another file is renamed over it", &|| {
                fs::write(at("new"), "key").unwrap();
                fs::rename(at("new"), at("key")).unwrap();
            }),
            ("it is written in place, with the same size and time", &|| {
                let file = fs::File::options().write(true).open(at("key")).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                // Clocks of file systems have ticks of some milliseconds.
                std::thread::sleep(Duration::from_millis(20));
                fs::write(at("key"), "KEY").unwrap();
                file.set_modified(modified).unwrap();
            }),
            ("it grows", &|| fs::write(at("key"), "longer key").unwrap()),
            ("it is removed", &|| fs::remove_file(at("key")).unwrap()),
            ("it is there again", &|| fs::write(at("key"), "key").unwrap()),
        ];
        for (change, make) in changes {
            make();
            assert_eq!(
                [watch.observe(), watch.observe(), watch.observe()],
                [Unsettled, Changed, Unchanged],
                "{change}"
            );
        }
        // A second change before the first has settled.
        fs::write(at("key"), "a").unwrap();
        assert_eq!(watch.observe(), Unsettled);
        fs::write(at("key"), "ab").unwrap();
        assert_eq!([watch.observe(), watch.observe()], [Unsettled, Changed]);
    }
}

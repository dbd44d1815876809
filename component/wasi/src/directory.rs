//! Directories of `wasi:filesystem`. The only file that knows it.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, OpenFlags, PathFlags,
};

use crate::file_store::{Directory, Failure};

/// The most entries of a directory that are read. A store has far fewer; the limit bounds the cost
/// of a wrong directory.
pub const MAX_ENTRIES: usize = 1 << 16;

/// How many bytes are asked for or handed over at a time. Runtimes give what they like of it.
const CHUNK: usize = 1 << 20;

/// A name that no file has.
const MISSING_NAME: &str = ".optoken-no-such-file";

/// A directory that the runtime has opened, or one in it.
#[derive(Debug)]
pub struct WasiDirectory {
    path: String,
    descriptor: Descriptor,
}

/// Opens the directory at a path, which the runtime has opened, or which is below one that it has.
/// The error has the next step.
pub fn open(path: &str) -> Result<WasiDirectory, String> {
    // Of several that contain the path, the nearest.
    let nearest = get_directories()
        .into_iter()
        .filter_map(|(descriptor, opened)| strip_prefix(path, &opened).map(|rest| (descriptor, rest)))
        .min_by_key(|(_, rest)| rest.len());
    let Some((descriptor, rest)) = nearest else {
        return Err(format!(
            "there is no directory {path} here: the runtime must open one for the component under this name"
        ));
    };
    let descriptor = if rest.is_empty() {
        descriptor
    } else {
        descend(&descriptor, rest)
            .map_err(|code| format!("cannot open the directory {path}: {}; make it first", code.name()))?
    };
    Ok(WasiDirectory { path: path.trim_end_matches('/').into(), descriptor })
}

/// Returns whether the runtime has opened a directory under this name.
pub fn is_opened(path: &str) -> bool {
    get_directories().iter().any(|(_, opened)| normalize(opened) == path)
}

/// Opens a directory below another one, to read and to change its entries.
fn descend(directory: &Descriptor, path: &str) -> Result<Descriptor, ErrorCode> {
    let flags = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
    directory.open_at(PathFlags::empty(), path, OpenFlags::DIRECTORY, flags)
}

/// Returns the path relative to a directory, which is empty for the directory itself; `None` if it
/// is outside.
fn strip_prefix<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    let path = normalize(path);
    match normalize(directory) {
        "" => (!path.starts_with('/')).then_some(path),
        "/" => path.strip_prefix('/'),
        directory => match path.strip_prefix(directory)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        },
    }
}

/// Removes a leading `./` and trailing slashes.
fn normalize(path: &str) -> &str {
    let path = path.strip_prefix("./").unwrap_or(path);
    match path.trim_end_matches('/') {
        "" if path.starts_with('/') => "/",
        "." => "",
        path => path,
    }
}

impl WasiDirectory {
    /// Converts the error code of an operation that makes an entry. Runtimes report a read-only
    /// file system as an I/O error. There, Linux fails to remove even a name that does not exist.
    fn write_failure(&self, code: ErrorCode) -> Failure {
        let read_only = match code {
            ErrorCode::Io => {
                matches!(
                    self.descriptor.unlink_file_at(MISSING_NAME),
                    Err(ErrorCode::Io | ErrorCode::ReadOnly)
                )
            }
            code => code == ErrorCode::ReadOnly,
        };
        if read_only {
            Failure::Refused(
                "the file system is mounted read-only, or its device fails; mount it with the right to write"
                    .into(),
            )
        } else {
            failure(code)
        }
    }
}

impl Directory for WasiDirectory {
    fn path(&self) -> &str {
        &self.path
    }

    fn list(&self) -> Result<Vec<String>, Failure> {
        let entries = self.descriptor.read_directory().map_err(failure)?;
        let mut names = Vec::new();
        for _ in 0..MAX_ENTRIES {
            match entries.read_directory_entry() {
                Ok(Some(entry)) => names.push(entry.name),
                Ok(None) => return Ok(names),
                // The entry was removed meanwhile, or its name is not UTF-8, which no file of the
                // store has.
                Err(ErrorCode::NoEntry | ErrorCode::IllegalByteSequence) => {}
                Err(code) => return Err(failure(code)),
            }
        }
        Err(Failure::Refused(format!("it has more than {MAX_ENTRIES} entries")))
    }

    fn exists(&self, name: &str) -> Result<bool, Failure> {
        match self.descriptor.stat_at(PathFlags::empty(), name) {
            Ok(_) => Ok(true),
            Err(ErrorCode::NoEntry) => Ok(false),
            Err(code) => Err(failure(code)),
        }
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        // Before the open: to open a pipe blocks until another process opens its other end.
        let DescriptorStat { type_, size, .. } =
            self.descriptor.stat_at(PathFlags::empty(), name).map_err(failure)?;
        if type_ != DescriptorType::RegularFile {
            return Err(Failure::Refused("it is not a regular file".into()));
        }
        let file = self
            .descriptor
            .open_at(PathFlags::empty(), name, OpenFlags::empty(), DescriptorFlags::READ)
            .map_err(failure)?;
        let too_long = || Failure::Refused(format!("it has more than {limit} bytes"));
        // The whole capacity at once: growth would move the content, and the heap would wipe every
        // copy.
        let mut content = Vec::with_capacity(usize::try_from(size.min(limit)).map_err(|_| too_long())?);
        loop {
            let (bytes, ended) = file.read(CHUNK as u64, content.len() as u64).map_err(failure)?;
            if (content.len() + bytes.len()) as u64 > limit {
                return Err(too_long());
            }
            content.extend_from_slice(&bytes);
            if ended || bytes.is_empty() {
                return Ok(content);
            }
        }
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let file = self
            .descriptor
            .open_at(
                PathFlags::empty(),
                name,
                OpenFlags::CREATE | OpenFlags::EXCLUSIVE,
                DescriptorFlags::WRITE,
            )
            .map_err(|code| self.write_failure(code))?;
        let mut written = 0;
        while let Some(rest) = content.get(written..).filter(|rest| !rest.is_empty()) {
            let rest = rest.get(..CHUNK).unwrap_or(rest);
            match usize::try_from(file.write(rest, written as u64).map_err(failure)?) {
                Ok(count) if (1..=rest.len()).contains(&count) => written += count,
                _ => return Err(Failure::Refused("the runtime writes nothing".into())),
            }
        }
        file.sync().map_err(failure)
    }

    fn link(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        self.descriptor.link_at(PathFlags::empty(), name, &self.descriptor, new_name).map_err(failure)
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        self.descriptor.unlink_file_at(name).map_err(failure)
    }

    fn sync(&self) -> Result<(), Failure> {
        self.descriptor.sync().map_err(failure)
    }

    fn create_directory(&self, name: &str) -> Result<(), Failure> {
        self.descriptor.create_directory_at(name).map_err(|code| self.write_failure(code))
    }

    fn directory(&self, name: &str) -> Result<Self, Failure> {
        let descriptor = descend(&self.descriptor, name).map_err(failure)?;
        Ok(Self { path: format!("{}/{name}", self.path), descriptor })
    }

    fn rename(&self, name: &str, new_name: &str) -> Result<(), Failure> {
        self.descriptor.rename_at(name, &self.descriptor, new_name).map_err(failure)
    }

    fn remove_directory(&self, name: &str) -> Result<(), Failure> {
        self.descriptor.remove_directory_at(name).map_err(failure)
    }
}

/// Converts an error code. Above all it decides whether the operation certainly had no effect.
fn failure(code: ErrorCode) -> Failure {
    match code {
        ErrorCode::NoEntry => Failure::Missing,
        ErrorCode::Exist | ErrorCode::NotEmpty => Failure::Exists,
        ErrorCode::Already
        | ErrorCode::InProgress
        | ErrorCode::Interrupted
        | ErrorCode::Io
        | ErrorCode::NotRecoverable
        | ErrorCode::WouldBlock => Failure::Unknown(code.name().to_string()),
        code => Failure::Refused(code.name().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_relative_to_its_directory() {
        for (path, directory, rest) in [
            ("/data", "/data", Some("")),
            ("/data/", "/data", Some("")),
            ("/data", "/data/", Some("")),
            ("/data/a/b", "/data", Some("a/b")),
            ("/data/a", "/", Some("data/a")),
            ("/", "/", Some("")),
            ("data", ".", Some("data")),
            ("./data", ".", Some("data")),
            ("data", "data", Some("")),
            ("./data/a", "./data", Some("a")),
            (".", ".", Some("")),
            ("/database", "/data", None),
            ("/data", "/data/a", None),
            ("/data", ".", None),
            ("data", "/", None),
            ("data", "/data", None),
        ] {
            assert_eq!(strip_prefix(path, directory), rest, "{path} in {directory}");
        }
    }
}

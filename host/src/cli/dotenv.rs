//! The file `.env`, which adds to the environment (docs/compatibility.md 4).
//!
//! Another user could have put the file there, so only a file that no other user can write is read,
//! and only the variables of this program are set. It may hold a token, so no error quotes it.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::OFlags;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::private_file::directory_of;
use crate::private_file::owned_path::{ForeignPath, check_directory, check_file, check_owner, resolve_owned};

/// What the names of this program's variables begin with. No other variable is set.
const PREFIX: &str = "INFLUXDB3_";

/// The most bytes of the file.
const MAX_BYTES: u64 = 1 << 20;

/// The file that was read, for [`origin_of`].
static LOADED: OnceLock<Loaded> = OnceLock::new();

/// The file exists and cannot be used.
#[derive(Debug, Error)]
pub(crate) enum DotenvError {
    /// The file cannot be read.
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: io::Error },
    /// A line for this program does not follow the grammar.
    #[error("{path}: a line of it is not NAME=VALUE in plain text; quote a value that has spaces or #")]
    Malformed { path: PathBuf },
    /// The file is larger than any file of variables.
    #[error("{path}: it is larger than 1 MiB")]
    TooLarge { path: PathBuf },
}

/// What the search for the file has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The files that are not used, each with the reason.
    pub(crate) ignored: Vec<String>,
    /// The file that has set a variable.
    pub(crate) used: Option<PathBuf>,
}

#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    /// The variables that the file has set.
    names: BTreeSet<String>,
}

/// Adds the variables of the file in the working directory, or in the nearest directory above. A
/// variable that is set already stays. A missing file is no error.
pub(crate) fn load() -> Result<Found, DotenvError> {
    let mut found = Found::default();
    let Ok(directory) = env::current_dir() else {
        // The working directory was removed.
        return Ok(found);
    };
    let Some((path, file)) = find(&directory, &mut found.ignored)? else { return Ok(found) };
    let content = read(&path, &file)?;
    let Some(variables) = parse(&content) else { return Err(DotenvError::Malformed { path }) };
    let mut names = BTreeSet::new();
    let mut text = Zeroizing::new(String::with_capacity(2 * content.len()));
    for (name, value) in &variables {
        if env::var_os(name).is_none() && names.insert(name.clone()) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}=\"{}\"", *quoted(value));
        }
    }
    if names.is_empty() {
        return Ok(found);
    }
    if dotenvy::from_read(text.as_bytes()).is_err() {
        return Err(DotenvError::Malformed { path });
    }
    found.used = Some(path.clone());
    let _ = LOADED.set(Loaded { path, names });
    Ok(found)
}

/// Returns the file that has set this variable, if a file has.
pub(crate) fn origin_of(name: &str) -> Option<&'static Path> {
    LOADED.get().filter(|loaded| loaded.names.contains(name)).map(|loaded| loaded.path.as_path())
}

/// Opens the file in the directory, or in the nearest one above. The search ends at the first
/// directory in which another user could have put a file in the name of this one.
fn find(directory: &Path, ignored: &mut Vec<String>) -> Result<Option<(PathBuf, File)>, DotenvError> {
    for directory in directory.ancestors() {
        let path = directory.join(".env");
        // Without the right to look, the owner is unknown.
        let Ok(metadata) = fs::metadata(directory) else { return Ok(None) };
        let entry = match fs::symlink_metadata(&path) {
            Ok(entry) => Some(entry),
            // A directory that may not be searched counts as one without the file.
            Err(reason) if is_absent(&reason) => None,
            Err(reason) => return Err(DotenvError::Unreadable { path, reason }),
        };
        if let Err(error) = check_directory(directory, &metadata) {
            if entry.is_some() {
                ignored.push(ignoring(&path, &error));
            }
            return Ok(None);
        }
        let Some(entry) = entry else { continue };
        match open(&path, &entry) {
            Ok(Some(file)) => return Ok(Some((path, file))),
            // A virtual environment of Python is a directory of this name.
            Ok(None) if fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) => {}
            Ok(None) => ignored.push(format!("ignoring {}: it is not a regular file", path.display())),
            Err(ForeignPath::Unreadable { reason, .. }) => {
                return Err(DotenvError::Unreadable { path, reason });
            }
            Err(error) => ignored.push(ignoring(&path, &error)),
        }
    }
    Ok(None)
}

fn is_absent(reason: &io::Error) -> bool {
    matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}

fn ignoring(path: &Path, error: &ForeignPath) -> String {
    let remedy = match error {
        ForeignPath::Writable { path, .. } => format!("; to use it, run: chmod go-w {}", path.display()),
        _ => String::new(),
    };
    format!("ignoring {}: {error}{remedy}", path.display())
}

/// Opens a regular file that only root and this user can have written. Returns `None` if it is
/// none. `entry` is what the directory has, which only its owner can replace.
fn open(path: &Path, entry: &Metadata) -> Result<Option<File>, ForeignPath> {
    check_owner(path, entry)?;
    let unreadable = |reason| ForeignPath::Unreadable { path: path.to_owned(), reason };
    if entry.is_symlink() {
        match fs::metadata(path) {
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(unreadable)?,
        };
        let target = resolve_owned(path)?;
        let directory = directory_of(&target);
        check_directory(directory, &fs::metadata(directory).map_err(unreadable)?)?;
    } else if !entry.is_file() {
        return Ok(None);
    }
    // A pipe in the place of the file would block.
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    check_file(path, &metadata)?;
    Ok(Some(file))
}

fn read(path: &Path, file: &File) -> Result<Zeroizing<Vec<u8>>, DotenvError> {
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|reason| DotenvError::Unreadable { path: path.to_owned(), reason })?;
    if content.len() as u64 > MAX_BYTES {
        return Err(DotenvError::TooLarge { path: path.to_owned() });
    }
    Ok(content)
}

/// Returns the variables of this program, in order. Returns `None` if a line for one of them does
/// not follow the grammar. Lines for other programs may have any form.
fn parse(content: &[u8]) -> Option<Vec<(String, Zeroizing<String>)>> {
    let lines = lines(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content));
    let mut valid = Zeroizing::new(Vec::with_capacity(content.len() + 1));
    for line in lines {
        // No variable can hold a null byte.
        let is_valid = !line.contains(&0) && dotenvy::from_read_iter(line).all(|line| line.is_ok());
        if is_valid {
            valid.extend_from_slice(line);
            valid.push(b'\n');
        } else if is_for_this_program(line) {
            return None;
        }
    }
    let variables = dotenvy::from_read_iter(valid.as_slice());
    let variables = variables.map(|line| line.map(|(name, value)| (name, Zeroizing::new(value))));
    let variables: Vec<_> = variables.collect::<Result<_, _>>().ok()?;
    let is_invalid = |value: &str| value.contains('\0');
    let own: Vec<_> = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    (!own.iter().any(|(_, value)| is_invalid(value))).then_some(own)
}

fn is_for_this_program(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let name = line.strip_prefix(b"export").filter(|rest| rest.first().is_some_and(u8::is_ascii_whitespace));
    name.unwrap_or(line).trim_ascii_start().starts_with(PREFIX.as_bytes())
}

/// Splits the content into lines. A value in quotes may have several lines; a quote that never ends
/// has one.
fn lines(content: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let first = line_end(rest, 0);
        let mut end = first;
        let line = |end| rest.get(..end).unwrap_or_default();
        while has_open_quote(line(end)) && end < rest.len() {
            end = line_end(rest, end + 1);
        }
        if has_open_quote(line(end)) {
            end = first;
        }
        lines.push(line(end).trim_ascii_end());
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    lines
}

fn line_end(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| from + at)
}

/// Returns whether the value in this line begins with a quote that does not end in it.
fn has_open_quote(line: &[u8]) -> bool {
    let is_comment = line.trim_ascii_start().starts_with(b"#");
    let Some(equal) = line.iter().position(|&byte| byte == b'=').filter(|_| !is_comment) else {
        return false;
    };
    let mut bytes = line.get(equal + 1..).unwrap_or_default().trim_ascii_start().iter();
    let Some(quote) = bytes.next().filter(|byte| matches!(byte, b'"' | b'\'')) else { return false };
    while let Some(byte) = bytes.next() {
        if byte == quote {
            return false;
        }
        if *byte == b'\\' {
            bytes.next();
        }
    }
    true
}

/// Escapes a value for a line `NAME="VALUE"`.
fn quoted(value: &str) -> Zeroizing<String> {
    let mut quoted = Zeroizing::new(String::with_capacity(2 * value.len()));
    for character in value.chars() {
        match character {
            '\\' | '"' | '$' => quoted.extend(['\\', character]),
            '\n' => *quoted += "\\n",
            _ => quoted.push(character),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

    use rustix::fs::{CWD, FileType, mknodat};

    use super::*;
    use crate::private_file::is_own;

    fn parsed(text: &[u8]) -> Option<Vec<(String, String)>> {
        let variables = parse(text)?;
        Some(variables.into_iter().map(|(name, value)| (name, value.to_string())).collect())
    }

    #[test]
    fn only_own_variables_are_set() {
        for text in [
            "INFLUXDB3_X=1",
            "\u{feff}INFLUXDB3_X=1\n",
            "export INFLUXDB3_X='1' # comment\nhttp_proxy=http://evil\nLD_PRELOAD=x\n",
            "OTHER=1\r\nINFLUXDB3_X=$OTHER\r\n",
            "not a variable\n=x\nCOMPOSE_ARGS=a b c\nINFLUXDB3_X=1",
            "KEY=\"-----BEGIN\nINFLUXDB3_Y=inside\n-----END\"\nINFLUXDB3_X=1",
            "OPEN='never ends\nINFLUXDB3_X=1",
            "INFLUXDB3_X=1\nNUL=\0\nBAD=\u{80}\n",
            "# it's a comment='\nINFLUXDB3_X=1\n",
        ] {
            let expected = vec![("INFLUXDB3_X".to_owned(), "1".to_owned())];
            assert_eq!(parsed(text.as_bytes()), Some(expected), "{text:?}");
        }
        assert_eq!(parsed(b"A=\xff\nINFLUXDB3_X=1\n").unwrap().len(), 1);
        for text in ["", "\n\n", "OTHER=1\n", "# INFLUXDB3_X=1", "XINFLUXDB3_X=1", "influxdb3_x=1"] {
            assert_eq!(parsed(text.as_bytes()), Some(Vec::new()), "{text:?}");
        }
        for text in [
            &b"INFLUXDB3_X=secret word\n"[..],
            b"INFLUXDB3_X='secret",
            b"INFLUXDB3_X secret",
            b"export  INFLUXDB3_X='secret",
            b"INFLUXDB3_X=secret\0word",
            b"INFLUXDB3_X=\xff",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    #[test]
    fn quoted_value_is_read_back() {
        for value in
            ["", "a b", "\"quoted\"", "it's", "$HOME ${HOME}", "back\\slash", "two\nlines", "#x", "é"]
        {
            let line = format!("INFLUXDB3_X=\"{}\"", *quoted(value));
            assert_eq!(parsed(line.as_bytes()).unwrap(), [("INFLUXDB3_X".to_owned(), value.to_owned())]);
        }
    }

    #[test]
    fn what_is_no_file_is_ignored_with_a_line() {
        let home = tempfile::tempdir().unwrap();
        let below = home.path().join("project");
        fs::create_dir(&below).unwrap();
        let (path, above) = (below.join(".env"), home.path().join(".env"));
        fs::write(&above, "").unwrap();
        let search = || {
            let mut ignored = Vec::new();
            let found = find(&below, &mut ignored).unwrap().map(|(path, _)| path);
            // The search goes on above.
            assert_eq!(found.as_ref(), Some(&above));
            ignored
        };
        let reason = [format!("ignoring {}: it is not a regular file", path.display())];
        mknodat(CWD, &path, FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(search(), reason);
        fs::remove_file(&path).unwrap();
        symlink("nothing", &path).unwrap();
        assert_eq!(search(), reason);
        fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        assert_eq!(search(), reason);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(search(), [""; 0]);
    }

    #[test]
    fn file_that_others_can_write_is_ignored() {
        let home = tempfile::tempdir().unwrap();
        let below = home.path().join("shared/mine/project");
        fs::create_dir_all(&below).unwrap();
        let search = || {
            let mut ignored = Vec::new();
            let found = find(&below, &mut ignored).unwrap().map(|(path, _)| path);
            (found, ignored)
        };
        let set_mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let shared = home.path().join("shared");
        let path = shared.join(".env");
        fs::write(&path, "").unwrap();
        for (directory, file, used, reported) in [
            (0o755, 0o600, true, 0),
            (0o755, 0o644, true, 0),
            (0o1777, 0o600, true, 0),
            (0o755, 0o664, false, 1),
            (0o755, 0o666, false, 1),
            (0o1777, 0o602, false, 1),
            (0o777, 0o600, false, 1),
            (0o775, 0o600, false, 1),
        ] {
            set_mode(&shared, directory);
            set_mode(&path, file);
            let (found, ignored) = search();
            assert_eq!(found, used.then(|| path.clone()), "{directory:o} {file:o}");
            assert_eq!(ignored.len(), reported, "{ignored:?}");
            assert!(ignored.iter().all(|line| line.contains("run: chmod go-w ")), "{ignored:?}");
        }
        set_mode(&shared, 0o1777);
        set_mode(&path, 0o600);
        // Another user cannot be imitated without privileges.
        if !is_own(&fs::metadata("/").unwrap()) {
            return;
        }
        chown(&path, Some(65534), None).unwrap();
        // The search goes on above: of another user is as none.
        fs::write(home.path().join(".env"), "").unwrap();
        let (found, ignored) = search();
        assert_eq!(found, Some(home.path().join(".env")));
        let reason = format!("ignoring {0}: {0} belongs to another user (uid 65534)", path.display());
        assert_eq!(ignored, [reason]);
        // A link of another user to a good file, and a good link to a file of another user.
        fs::rename(&path, shared.join("target")).unwrap();
        symlink(home.path().join(".env"), &path).unwrap();
        lchown(&path, Some(65534), None).unwrap();
        assert_eq!(search().1.len(), 1);
        fs::remove_file(&path).unwrap();
        symlink("target", &path).unwrap();
        assert_eq!(search().1.len(), 1);
        chown(shared.join("target"), Some(0), None).unwrap();
        assert_eq!(search(), (Some(path.clone()), Vec::new()));
        // A directory of another user ends the search.
        chown(shared.join("mine"), Some(65534), None).unwrap();
        assert_eq!(search(), (None, Vec::new()));
        fs::write(shared.join("mine/.env"), "").unwrap();
        assert_eq!((search().0, search().1.len()), (None, 1));
    }
}

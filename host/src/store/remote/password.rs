//! The password of the user: of the URL, of the environment, or of a file.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::private_file::Mode;
use crate::private_file::ownership::{Readers, readers_of, trust_file, trust_path};
use crate::secret::Secret;

/// Has the password, if the URL has none.
pub(crate) const VARIABLE: &str = "INFLUXDB3_TOKEN_STORE_PASSWORD";

/// Names the file of the password.
pub(crate) const FILE_VARIABLE: &str = "INFLUXDB3_TOKEN_STORE_PASSWORD_FILE";

/// The most bytes of a file with a password.
const MAX_BYTES: u64 = 4096;

/// Returns the value of an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where the password comes from.
#[derive(Debug, Clone)]
pub(crate) enum Password {
    /// There is none.
    None,
    Text(Secret),
    /// Read for each connection, so that a new password needs no restart.
    File(PathBuf),
}

impl Password {
    /// The password of the URL comes first, and `own_variable` of the clients of an engine last.
    pub(crate) fn find(
        of_url: Option<&[u8]>,
        own_variable: Option<&str>,
        environment: Environment<'_>,
    ) -> Result<Self, String> {
        if let Some(password) = of_url {
            let text =
                str::from_utf8(password).map_err(|_| "the password of the URL is not UTF-8".to_owned())?;
            return Ok(Self::Text(Secret::from(text.to_owned())));
        }
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let text = |name: &str, value: OsString| {
            value.into_string().map(Secret::from).map_err(|_| format!("{name} is not UTF-8"))
        };
        match (variable(VARIABLE), variable(FILE_VARIABLE)) {
            (Some(_), Some(_)) => Err(format!("{VARIABLE} and {FILE_VARIABLE} are both set; unset one")),
            (Some(value), None) => text(VARIABLE, value).map(Self::Text),
            (None, Some(file)) => {
                let password = Self::File(PathBuf::from(file));
                password.read()?;
                Ok(password)
            }
            (None, None) => match own_variable.and_then(|name| Some((name, variable(name)?))) {
                Some((name, value)) => text(name, value).map(Self::Text),
                None => Ok(Self::None),
            },
        }
    }

    /// Returns the password. Blocks.
    pub(crate) fn read(&self) -> Result<Option<Secret>, String> {
        match self {
            Self::None => Ok(None),
            Self::Text(secret) => Ok(Some(secret.clone())),
            Self::File(path) => read_file(path)
                .map(Some)
                .map_err(|reason| format!("{FILE_VARIABLE}: {}: {reason}", path.display())),
        }
    }
}

fn read_file(path: &Path) -> Result<Secret, String> {
    let text = |error: &dyn fmt::Display| error.to_string();
    let trusted = trust_path(path).map_err(|error| text(&error))?;
    let file = File::open(&trusted.path).map_err(|error| text(&error))?;
    // Of the open file, which no other process can exchange.
    let metadata = file.metadata().map_err(|error| text(&error))?;
    if metadata.is_file() {
        trust_file(&trusted.path, &metadata).map_err(|error| text(&error))?;
        if readers_of(&metadata) == Readers::Others {
            let mode = Mode::of(&metadata);
            return Err(format!("others can read it (mode {mode:o}); run: chmod 0600 {}", path.display()));
        }
    }
    let mut content = Zeroizing::new(String::new());
    file.take(MAX_BYTES + 1).read_to_string(&mut content).map_err(|error| text(&error))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {MAX_BYTES} bytes; is it the right file?"));
    }
    let password = content.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(Secret::from(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A variable of the clients of an engine.
    const OWN: &str = "PGPASSWORD";

    fn find(of_url: Option<&[u8]>, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(*value))
        };
        let password = Password::find(of_url, Some(OWN), &environment)?;
        Ok(password.read()?.map(|secret| secret.expose().to_owned()))
    }

    #[test]
    fn url_then_variables_of_the_store_then_of_the_engine() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"of the file\r\n").unwrap();
        let file = (FILE_VARIABLE, file.path().to_str().unwrap());
        let (variable, libpq) = ((VARIABLE, "of the variable"), (OWN, "of libpq"));
        let found = |of_url: Option<&[u8]>, variables: &[_]| find(of_url, variables).unwrap();
        assert_eq!(found(Some(b"of the URL"), &[file, libpq]).as_deref(), Some("of the URL"));
        assert_eq!(found(None, &[variable, libpq]).as_deref(), Some("of the variable"));
        assert_eq!(found(None, &[file, libpq]).as_deref(), Some("of the file"));
        assert_eq!(found(None, &[(VARIABLE, ""), libpq]).as_deref(), Some("of libpq"));
        assert_eq!(found(None, &[]), None);
        let error = find(None, &[variable, file]).unwrap_err();
        assert!(error.contains("both set"), "{error}");
    }

    #[test]
    fn file_of_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let refused = || find(None, &[(FILE_VARIABLE, path.to_str().unwrap())]).unwrap_err();
        assert!(refused().contains("No such file"), "{}", refused());
        for (content, mode, expected) in [
            ("secret", 0o644, "chmod 0600"),
            ("secret", 0o602, "others can write"),
            ("\n", 0o600, "it is empty"),
            (&"x".repeat(4097), 0o600, "more than 4096 bytes"),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(refused().contains(expected), "{}", refused());
            assert!(refused().contains(path.to_str().unwrap()) && !refused().contains("secret"));
        }
    }

    #[test]
    fn changed_file_has_the_new_password() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"old").unwrap();
        let path = file.path().as_os_str().to_owned();
        let password =
            Password::find(None, None, &|name| (name == FILE_VARIABLE).then(|| path.clone())).unwrap();
        fs::write(file.path(), "new").unwrap();
        assert_eq!(password.read().unwrap().unwrap().expose(), "new");
    }
}

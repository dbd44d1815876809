//! The token store of `optoken serve`.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use clap::error::ErrorKind;

use crate::cli::environment::STORE_VARIABLE;
use crate::cli::store_argument::StoreUrlParser;
use crate::cli::usage_error::UsageError;
use crate::private_file::ownership::{
    TrustedPath, is_shared_volume, quoted, trust_file, trust_owner, trust_path,
};
use crate::private_file::{Mode, directory_of, is_own, is_own_or_root, with_suffix};
use crate::program;
use crate::store::remote::probe::{Extent, probe};
use crate::store::remote::{ConnectError, RemoteStore, Usable};
use crate::store::{MemoryStore, SqliteStore, Store, StoreKind, StoreUrl};

/// The name of the token store in the data directory.
const STORE_FILE: &str = "tokens.db";

/// The name of the high-water mark in a directory that holds no token store.
pub(crate) const MARK_FILE: &str = "high-water.json";

/// The suffix of the high-water mark beside the store.
pub(crate) const MARK_SUFFIX: &str = "-high-water";

/// The error of a command that needs a file.
const NO_FILE: &str = "a store in memory has no file";

/// The name of the private directory in a volume that others can write.
const VOLUME_DIRECTORY: &str = "optoken";

#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct Storage {
    /// Directory of the token store, created with mode 0700 [default: optoken in the data directory
    /// of the user, such as ~/.local/share/optoken]
    #[arg(long, value_name = "DIR", env = "INFLUXDB3_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Token store: sqlite:PATH, a store that several servers share, or memory:, which loses all
    /// tokens at the end [default: sqlite: in the data directory]
    ///
    /// Servers on several machines share `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`,
    /// `az://CONTAINER/PREFIX`, `postgres://USER@HOST/DATABASE`, `etcd://HOST:PORT/PREFIX`, or
    /// `etcds://` with TLS. `store check` tries whether an engine can be used.
    ///
    /// Other users of this machine can see an argument. A URL with a password belongs into the
    /// variable.
    #[arg(long, value_name = "URL", env = STORE_VARIABLE, hide_env_values = true, value_parser = StoreUrlParser)]
    store: Option<StoreUrl>,

    /// The same in the words of InfluxDB: file for the data directory, memory for memory:
    #[arg(long, value_name = "KIND", env = "INFLUXDB3_OBJECT_STORE", conflicts_with = "store")]
    object_store: Option<ObjectStore>,
}

/// Where the options place the store.
enum Location<'a> {
    Memory,
    File(&'a Path),
    /// The data directory.
    Directory(PathBuf),
    /// On other machines.
    Remote(&'a StoreUrl),
}

/// The names of stores in InfluxDB.
#[derive(Debug, Clone, Copy)]
enum ObjectStore {
    File,
    Memory,
    /// Of a cloud, with the form of its URL here.
    Cloud(&'static str),
}

impl FromStr for ObjectStore {
    type Err = &'static str;

    fn from_str(kind: &str) -> Result<Self, Self::Err> {
        match kind {
            "file" => Ok(Self::File),
            "memory" => Ok(Self::Memory),
            "s3" => Ok(Self::Cloud("s3://BUCKET/PREFIX")),
            "google" => Ok(Self::Cloud("gs://BUCKET/PREFIX")),
            "azure" => Ok(Self::Cloud("az://CONTAINER/PREFIX")),
            _ => Err("it is file or memory here; use --store for any other store"),
        }
    }
}

impl Storage {
    /// Opens the store, or creates it. Returns it with its file, if it is in one.
    pub(crate) fn open(&self) -> anyhow::Result<(Arc<dyn Store>, Option<PathBuf>)> {
        if matches!(self.location()?, Location::Memory) {
            tracing::warn!("token store: memory only, all tokens are lost when the server ends");
            return Ok((Arc::new(MemoryStore::default()), None));
        }
        if let Some(store) = self.remote()? {
            tracing::info!("token store: {}", store.address());
            probe_at_start(&*store)?;
            return Ok((store, None));
        }
        let path = self.place()?;
        let store = SqliteStore::open(&path)?;
        // SQLite has opened or created its other files meanwhile.
        check_files(&path)?;
        tracing::info!("token store: sqlite:{}", path.display());
        Ok((Arc::new(store), Some(path)))
    }

    /// Returns the store, if it is on other machines. Asks it nothing.
    pub(crate) fn remote(&self) -> anyhow::Result<Option<Arc<dyn RemoteStore>>> {
        match self.location()? {
            Location::Remote(url) => open_remote(url),
            _ => Ok(None),
        }
    }

    /// Returns the file of the store, which must exist.
    pub(crate) fn existing_file(&self) -> anyhow::Result<PathBuf> {
        let path = match self.location()? {
            Location::Memory | Location::Remote(_) => bail!(NO_FILE),
            Location::File(path) => {
                private_directory(directory_of(path)).join(path.file_name().unwrap_or_default())
            }
            Location::Directory(directory) => private_directory(&directory).join(STORE_FILE),
        };
        ensure!(path.try_exists()?, "there is no token store at {}", path.display());
        check_files(&path)?;
        Ok(path)
    }

    /// Returns the file of the store, which need not exist. Creates the data directory, and rejects
    /// a place where another user can replace the store.
    pub(crate) fn place(&self) -> anyhow::Result<PathBuf> {
        match self.location()? {
            Location::Memory | Location::Remote(_) => bail!(NO_FILE),
            Location::File(path) => place_of_file(path),
            Location::Directory(directory) => {
                let path = place_in(&directory, STORE_FILE)?;
                check_files(&path)?;
                Ok(path)
            }
        }
    }

    /// Returns the data directory, if the store or its high-water mark is in it.
    pub(crate) fn directory(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(match self.location()? {
            Location::Directory(directory) => Some(private_directory(&directory)),
            Location::Remote(_) => {
                self.data_dir().ok().map(|data| private_directory(&data)).filter(|data| data.is_dir())
            }
            Location::Memory | Location::File(_) => None,
        })
    }

    /// Returns the place of the high-water mark of a store on other machines, in the data
    /// directory, which is created; `None` for other stores.
    pub(crate) fn mark_of_remote(&self) -> anyhow::Result<Option<PathBuf>> {
        if !matches!(self.location()?, Location::Remote(_)) {
            return Ok(None);
        }
        let directory = self.data_dir().context(
            "the high-water mark needs a directory: name one with --state-dir or INFLUXDB3_STATE_DIR",
        )?;
        place_in(&directory, MARK_FILE).map(Some)
    }

    fn data_dir(&self) -> anyhow::Result<PathBuf> {
        self.data_dir.clone().map_or_else(default_data_dir, Ok)
    }

    fn location(&self) -> anyhow::Result<Location<'_>> {
        let Some(url) = &self.store else {
            return match self.object_store {
                Some(ObjectStore::Memory) => Ok(Location::Memory),
                Some(ObjectStore::File) | None => self.data_dir().map(Location::Directory),
                Some(ObjectStore::Cloud(form)) => {
                    let text = format!(
                        "--object-store names where InfluxDB has its data, and this server has tokens only; to keep them \
                         there, use --store {form} in its place"
                    );
                    Err(UsageError { command: &[], kind: ErrorKind::InvalidValue, text }.into())
                }
            };
        };
        match url.kind() {
            StoreKind::Memory => Ok(Location::Memory),
            StoreKind::Sqlite(path) => Ok(Location::File(path)),
            StoreKind::Remote => Ok(Location::Remote(url)),
        }
    }
}

/// Returns the path of a database, which need not exist. Rejects a place where another user can
/// replace it.
pub(crate) fn place_of_file(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
    let path = prepare_directory(directory_of(path), "the directory of the token store", name)?.join(name);
    check_files(&path)?;
    Ok(path)
}

/// Returns the path of this file in the data directory, which is created.
fn place_in(directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    create_data_dir(directory)?;
    Ok(prepare_directory(directory, "the data directory", name.as_ref())?.join(name))
}

/// Opens a store on other machines; `None` if it is on this one. Asks it nothing.
pub(crate) fn open_remote(url: &StoreUrl) -> anyhow::Result<Option<Arc<dyn RemoteStore>>> {
    url.open_remote().map_err(|error| match error {
        ConnectError::Url { .. } => {
            UsageError { command: &[], kind: ErrorKind::ValueValidation, text: error.to_string() }.into()
        }
        error => error.into(),
    })
}

/// Tries whether the engine of a store keeps its promises.
fn probe_at_start(store: &dyn RemoteStore) -> anyhow::Result<()> {
    let address = store.address();
    match probe(store, Extent::Start) {
        Ok(report) => {
            if let Some(refusal) = report.refusal() {
                bail!(
                    "cannot use the token store {address}: {}: {}; changes of tokens would be lost there: use another \
                     engine, or a newer version of it, and try it with: {} store check",
                    refusal.check,
                    refusal.found,
                    program::name()
                );
            }
            for limit in report.rows.iter().filter(|row| row.usable == Usable::WithLimit) {
                tracing::warn!("token store {address}: {}: {}", limit.check, limit.found);
            }
            Ok(())
        }
        // A server that has probed the engine has written the catalog. Tokens can be checked while
        // nothing can be written, such as on a full disk.
        Err(error) if matches!(store.load(), Ok(Some(_))) => {
            tracing::warn!(
                "token store {address}: it holds a catalog and refuses trial writes, so changes of tokens will fail: {error}"
            );
            Ok(())
        }
        Err(error) => bail!("cannot use the token store {address}: {error}"),
    }
}

/// Returns the directory of a store that is configured for this one: a private one below it, if it
/// is the root of a volume that others can write.
fn private_directory(directory: &Path) -> PathBuf {
    let metadata = fs::metadata(directory).ok().filter(Metadata::is_dir);
    let is_shared = match (metadata, trust_path(directory)) {
        (Some(metadata), Ok(trusted)) => is_shared_volume(&trusted.path, &metadata),
        _ => false,
    };
    if is_shared { directory.join(VOLUME_DIRECTORY) } else { directory.to_owned() }
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    // An empty variable counts as unset, a relative one as invalid (XDG Base Directory
    // Specification).
    let directory = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("XDG_DATA_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("optoken"))
        .context(
            "there is no home directory for the token store: name a directory with --data-dir or INFLUXDB3_DATA_DIR",
        )
}

/// Returns the directory of the store: a private one below `directory`, if it is the root of a
/// volume that others can write. Rejects every other directory in which another user can replace
/// the store.
fn prepare_directory(directory: &Path, named: &str, store: &OsStr) -> anyhow::Result<PathBuf> {
    let named = || format!("cannot use {named} {}", directory.display());
    let TrustedPath { path, metadata } = trust_path(directory).with_context(named)?;
    // A store reports that its directory is missing.
    let Some(metadata) = metadata else { return Ok(directory.to_owned()) };
    if !metadata.is_dir() {
        bail!("{}: it is not a directory", named());
    }
    if is_shared_volume(&path, &metadata) {
        return prepare_volume(directory, &path, &metadata, store).with_context(named);
    }
    let mode = Mode::of(&metadata);
    if is_own_or_root(&metadata) && mode.is_writable_by_others() && !can_change_mode(&metadata) {
        bail!(
            "{}: others can write to it (mode {mode:o}), and no file system is mounted there; use a directory of its own, \
             or let root run: chmod go-w {}",
            named(),
            quoted(directory)
        );
    }
    if is_own_or_root(&metadata) && mode.is_writable_by_others() {
        bail!("{}: others can write to it (mode {mode:o}); run: chmod go-w {}", named(), quoted(directory));
    }
    trust_file(&path, &metadata).with_context(named)?;
    Ok(directory.to_owned())
}

/// Returns whether this process may change the mode of a file.
fn can_change_mode(metadata: &Metadata) -> bool {
    is_own(metadata) || rustix::process::geteuid().is_root()
}

/// Creates the private directory of the store below the root of a volume.
fn prepare_volume(volume: &Path, path: &Path, metadata: &Metadata, store: &OsStr) -> anyhow::Result<PathBuf> {
    let private = volume.join(VOLUME_DIRECTORY);
    let mode = Mode::of(metadata);
    for suffix in ["", "-wal"] {
        let found = with_suffix(&path.join(store), suffix);
        if fs::symlink_metadata(&found).is_ok() {
            bail!(
                "others can write to it (mode {mode:o}), and could have changed {0}; stop every server that uses it. If the \
                 tokens in it are yours, run: mkdir -p -m 700 {1} && mv {2}* {1}/",
                found.display(),
                quoted(&private),
                quoted(&volume.join(store))
            );
        }
    }
    let place = path.join(VOLUME_DIRECTORY);
    let found = match trust_path(&place)? {
        TrustedPath { metadata: Some(metadata), .. } => metadata,
        TrustedPath { path, .. } => create_private_directories(&path)?,
    };
    if !found.is_dir() {
        bail!("{} is not a directory", private.display());
    }
    trust_file(&place, &found)?;
    tracing::info!(
        "others can write to {} (mode {mode:o}): the token store is in {}, which is private",
        volume.display(),
        private.display()
    );
    Ok(private)
}

/// Creates the data directory if it does not exist.
fn create_data_dir(directory: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot use the data directory {}", directory.display());
    let TrustedPath { path, metadata } = trust_path(directory).with_context(named)?;
    if metadata.is_none() {
        create_private_directories(&path).map_err(|error| {
            let remedy = remedy(&error);
            anyhow::Error::new(error).context(named() + remedy)
        })?;
    }
    Ok(())
}

/// What to do if a directory cannot be created, for this reason.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "; mount its file system writable, or name another directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on its file system",
        io::ErrorKind::PermissionDenied => {
            "; create it for the user of the server, or name another directory"
        }
        _ => "",
    }
}

/// Creates a directory if it does not exist. Rejects one in which another user can replace a file.
pub(crate) fn prepare_private_directory(directory: &Path) -> anyhow::Result<()> {
    let TrustedPath { path, metadata } = trust_path(directory)?;
    let metadata = match metadata {
        Some(metadata) => metadata,
        None => create_private_directories(&path)?,
    };
    Ok(trust_file(&path, &metadata)?)
}

/// Creates a directory and its parents with mode 0700, whatever the umask.
fn create_private_directories(path: &Path) -> io::Result<Metadata> {
    let missing: Vec<_> = path.ancestors().take_while(|path| fs::symlink_metadata(path).is_err()).collect();
    for directory in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => fs::set_permissions(directory, Permissions::from_mode(0o700))?,
            // Another server has created it. It is checked below.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    let TrustedPath { metadata, .. } = trust_path(path)?;
    metadata.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Rejects a store whose files another user could have written.
fn check_files(database: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot use the token store {}", database.display());
    // SQLite follows links, and has its other files beside the file itself.
    let database = trust_path(database).with_context(failed)?.path;
    let directory = trust_path(directory_of(&database)).with_context(failed)?;
    if let Some(metadata) = &directory.metadata {
        trust_file(&directory.path, metadata).with_context(failed)?;
    }
    for suffix in ["", "-wal", "-shm", "-journal", MARK_SUFFIX] {
        let TrustedPath { path, metadata } =
            trust_path(&with_suffix(&database, suffix)).with_context(failed)?;
        if let Some(metadata) = &metadata {
            trust_owner(&path, metadata).with_context(failed)?;
        }
    }
    Ok(())
}

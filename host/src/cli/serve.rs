//! `influxdb3 serve`: puts store, authority and listeners together and runs them until told to stop (COMPAT 5).

use std::env;
use std::fs::{self, DirBuilder};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::authority::{Authority, DEFAULT_MAX_STALENESS};
use crate::client::DEFAULT_HOST;
use crate::http::disable_authz::DisabledAuthz;
use crate::http::listen::Listener;
use crate::http::{Options, main_listener, recovery_listener};
use crate::store::{MemoryStore, SqliteStore, Store};
use crate::token::OPERATOR;

/// The name of the token store in the data directory.
const STORE_FILE: &str = "tokens.db";

/// Run the server.
///
/// Without any option it listens on this machine only and keeps its data in the home directory of its user.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  Run the server, then create the operator token in another terminal:
    influxdb3 serve
    influxdb3 create token --admin
  The operator token is lost:
    influxdb3 serve --admin-token-recovery-http-bind
    influxdb3 create token --admin --regenerate --host http://127.0.0.1:8182")]
pub(super) struct Serve {
    /// Address of the main listener
    #[arg(long, value_name = "ADDR", env = "INFLUXDB3_HTTP_BIND_ADDR", default_value = "127.0.0.1:8181")]
    http_bind: String,

    /// Open a second listener that replaces the operator token without asking for it
    ///
    /// Only on a loopback address, 127.0.0.1:8182 if none is given. It answers that one request and closes for good
    /// after its first success; the main listener goes on. For when the operator token is lost.
    #[arg(
        long,
        value_name = "ADDR",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND_ADDR",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:8182"
    )]
    admin_token_recovery_http_bind: Option<String>,

    /// Directory of the token store, made with mode 0700 if it is missing [default: optoken in the user's data directory,
    /// such as ~/.local/share/optoken]
    #[arg(long, value_name = "DIR", env = "INFLUXDB3_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Where tokens are stored: sqlite:PATH, or memory: to forget them at the end [default: sqlite: in the data directory]
    #[arg(long, value_name = "URL", env = "INFLUXDB3_TOKEN_STORE")]
    store: Option<StoreUrl>,

    /// Refuse all tokens (503) after this many seconds without an answer from the token store
    #[arg(
        long,
        value_name = "SECONDS",
        env = "INFLUXDB3_TOKEN_MAX_STALENESS",
        default_value_t = DEFAULT_MAX_STALENESS.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    max_staleness: u64,

    /// The most bytes that the body of a request may have
    #[arg(long, value_name = "BYTES", env = "INFLUXDB3_MAX_HTTP_REQUEST_SIZE", default_value_t = 10_485_760)]
    max_http_request_size: usize,

    /// Ask for no token
    #[arg(long, env = "INFLUXDB3_START_WITHOUT_AUTH")]
    without_auth: bool,

    /// Ask for no token for these: health, ping, metrics, ready, pprof or `node_stop`
    #[arg(long, value_name = "LIST", env = "INFLUXDB3_DISABLE_AUTHZ")]
    disable_authz: Option<DisabledAuthz>,

    /// Run this WebAssembly component instead of the built-in one
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TOKEN_COMPONENT")]
    component: Option<PathBuf>,

    /// What to log, such as info, debug, or warn,optoken=debug
    #[arg(long, value_name = "FILTER", env = "LOG_FILTER", default_value = "info")]
    log_filter: String,
}

/// Which store, and where.
#[derive(Debug, Clone)]
enum StoreUrl {
    Sqlite(PathBuf),
    Memory,
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        match url.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("memory", "")) => Ok(Self::Memory),
            _ => Err("a store is sqlite:PATH or memory:".to_owned()),
        }
    }
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        self.start_log()?;
        let authority = self.authority()?;
        let runtime = tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
        runtime.block_on(self.listen(authority))
    }

    fn start_log(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(&self.log_filter)
            .with_context(|| format!("--log-filter: {:?} is not a log filter", self.log_filter))?;
        let stderr = std::io::stderr;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal())
            .with_target(false)
            // Nobody reads the log any more: that is no reason to stop serving, and complaining about it on the same
            // closed stream would end the task that logs.
            .log_internal_errors(false)
            .init();
        Ok(())
    }

    fn authority(&self) -> anyhow::Result<Authority> {
        let component = match &self.component {
            Some(file) => Some(
                fs::read(file).with_context(|| format!("cannot read the component {}", file.display()))?,
            ),
            None => None,
        };
        let mut builder = Authority::builder_shared(self.open_store()?)
            .max_staleness(Duration::from_secs(self.max_staleness));
        if let Some(component) = &component {
            builder = builder.component(component);
        }
        builder.build().with_context(|| match &self.component {
            Some(file) => format!("cannot start with the component {}", file.display()),
            None => "cannot start".to_owned(),
        })
    }

    fn open_store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let path = match &self.store {
            Some(StoreUrl::Memory) => {
                tracing::warn!("token store: memory only, tokens are forgotten when the server ends");
                return Ok(Arc::new(MemoryStore::default()));
            }
            Some(StoreUrl::Sqlite(path)) => path.clone(),
            None => {
                let directory = self.data_dir.clone().map_or_else(default_data_dir, Ok)?;
                prepare_data_dir(&directory)?;
                directory.join(STORE_FILE)
            }
        };
        let store = SqliteStore::open(&path)?;
        tracing::info!("token store: sqlite:{}", path.display());
        Ok(Arc::new(store))
    }

    async fn listen(self, authority: Authority) -> anyhow::Result<()> {
        let stop = stop_on_signal()?;
        let main = Listener::bind(&self.http_bind).await.context("--http-bind")?;
        let recovery = match &self.admin_token_recovery_http_bind {
            Some(address) => Some(bind_recovery(address).await.context("--admin-token-recovery-http-bind")?),
            None => None,
        };

        tracing::info!("listening on http://{}", main.address());
        let tokens = authority.list().context("cannot list the tokens")?;
        if !tokens.iter().any(|token| token.name == OPERATOR) {
            tracing::info!(
                "no operator token yet; create it with: influxdb3 create token --admin{}",
                host_option(main.address())
            );
        }
        let recovery = recovery.map(|listener| {
            tracing::warn!(
                "token recovery is open on http://{0}: whoever reaches it can replace the operator token, once; with: \
                 influxdb3 create token --admin --regenerate --host http://{0}",
                listener.address()
            );
            let closed = stop.child_token();
            let router = recovery_listener::router(authority.clone(), closed.clone());
            tokio::spawn(async move {
                listener.serve(router, recovery_listener::MAX_CONNECTIONS, closed).await;
                tracing::info!("token recovery is closed");
            })
        });
        let options = Options {
            max_request_size: self.max_http_request_size,
            without_auth: self.without_auth,
            disabled_authz: self.disable_authz.unwrap_or_default(),
            node_id: None,
        };
        main.serve(main_listener::router(authority, options), main_listener::MAX_CONNECTIONS, stop).await;
        if let Some(recovery) = recovery {
            recovery.await.context("the recovery listener failed")?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// A listener that gives the operator token away is for this machine only.
async fn bind_recovery(address: &str) -> anyhow::Result<Listener> {
    let listener = Listener::bind(address).await?;
    if !listener.address().ip().is_loopback() {
        bail!(
            "{address} is not a loopback address: anybody on the network could take over the operator token"
        );
    }
    Ok(listener)
}

/// How to say where the server is, if that needs saying.
fn host_option(address: SocketAddr) -> String {
    let url = format!("http://{address}");
    if url == DEFAULT_HOST { String::new() } else { format!(" --host {url}") }
}

/// Cancelled by the first SIGTERM or SIGINT. A second one ends the process as it always does.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let cancel = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!("{name}: stopping, requests under way are finished; send it again to stop at once");
        cancel.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // 128 and the number of the signal, as a shell would report it.
        std::process::exit(128 + if name == "SIGTERM" { 15 } else { 2 });
    });
    Ok(stop)
}

fn default_data_dir() -> anyhow::Result<PathBuf> {
    // An empty variable counts as unset, a relative one as invalid (XDG Base Directory Specification).
    let directory = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    directory("XDG_DATA_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("optoken"))
        .context(
            "there is no home directory to keep tokens in: say where with --data-dir or INFLUXDB3_DATA_DIR",
        )
}

/// Makes the directory if it is missing, and refuses one in which others can put a store of their own.
fn prepare_data_dir(directory: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot use the data directory {}", directory.display());
    if fs::metadata(directory).is_ok_and(|metadata| !metadata.is_dir()) {
        bail!("{}: it is not a directory", named());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
    let mode = fs::metadata(directory).with_context(named)?.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        bail!(
            "{0}: others can write to it (mode {mode:o}); run: chmod go-w {1}",
            named(),
            directory.display()
        );
    }
    Ok(())
}

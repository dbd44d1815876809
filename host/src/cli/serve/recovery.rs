//! Token recovery of `optoken serve`: its listeners, its time limit and its code.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use listenfd::ListenFd;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::cli::environment::boolean;
use crate::cli::output_file::replace;
use crate::cli::serve::address_file::write_address_file;
use crate::cli::serve::listeners::take_listen_fd;
use crate::cli::stderr::print_stderr;
use crate::http::recovery;
use crate::http::recovery::code::RecoveryCode;
use crate::metrics::Metrics;
use crate::private_file::ownership::trust_path;
use crate::private_file::{PRIVATE_MODE, RemoveOnDrop};
use crate::program;
use crate::secret::Secret;
use crate::server::listener::Listener;
use crate::server::tls::ServerTls;
use crate::server::unix_socket::UnixListener;

/// Names the listener in errors, even if a variable of the environment opens it.
const BIND: &str = "--admin-token-recovery-http-bind";

const SOCKET: &str = "--admin-token-recovery-socket";

const CODE: &str = "--admin-token-recovery-code";

const ALLOW_REMOTE: &str = "--admin-token-recovery-insecure-allow-remote";

/// The name of the file with the recovery code in the data directory.
const CODE_FILE: &str = "recovery-code";

#[derive(Debug, Args)]
#[command(next_help_heading = "Recovery")]
#[expect(clippy::struct_field_names, reason = "they are the names of the options")]
pub(crate) struct Recovery {
    /// Open a second listener that replaces a lost operator token without a credential [without a
    /// value: 127.0.0.1:8182]
    ///
    /// The address must be a loopback address. The listener serves this one request, to clients
    /// that name it by IP address or localhost, and rejects web pages. It closes after its first
    /// success or the time limit. The main listener goes on.
    #[arg(
        long,
        value_name = "ADDR",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND_ADDR",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:8182"
    )]
    admin_token_recovery_http_bind: Option<String>,

    /// Open token recovery at this unix socket, a new file, for root and the user of the server
    /// only
    ///
    /// It works with or without the listener above. After a success at one of them, both close.
    #[arg(long, value_name = "PATH", env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_SOCKET")]
    admin_token_recovery_socket: Option<PathBuf>,

    /// Time limit of token recovery, such as 30s or 10m
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_TIMEOUT",
        default_value = "10m",
        value_parser = timeout
    )]
    admin_token_recovery_timeout: Duration,

    /// Require a code, which is printed on this terminal and written to a file that only this user
    /// can read
    ///
    /// The file is recovery-code in the data directory; it is removed when token recovery closes.
    /// Five wrong codes at a listener close that listener. Without a terminal, the file alone has
    /// the code. Case and hyphens of the code do not matter.
    #[arg(long, env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE", value_parser = boolean)]
    admin_token_recovery_code: bool,

    /// Write the recovery code to this file instead
    #[arg(
        long,
        value_name = "FILE",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE_FILE",
        requires = "admin_token_recovery_code"
    )]
    admin_token_recovery_code_file: Option<PathBuf>,

    /// Allow an address for the recovery listener that other machines can reach
    ///
    /// The first client that reaches it gets the operator token. Require a code with
    /// --admin-token-recovery-code.
    #[arg(long)]
    admin_token_recovery_insecure_allow_remote: bool,

    /// Write the address of the recovery listener, ip:port, to this new file; it is removed when
    /// the listener closes
    ///
    /// The server does not start if the file exists. Without a recovery listener no file is
    /// written.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_TCP_LISTENER_FILE_PATH")]
    admin_token_recovery_tcp_listener_file_path: Option<PathBuf>,
}

/// The listeners of token recovery, bound and not served yet.
pub(crate) struct RecoveryListeners {
    address: Option<(Listener, Option<RemoveOnDrop>)>,
    socket: Option<UnixListener>,
    code: Option<(RecoveryCode, RemoveOnDrop)>,
    timeout: Duration,
}

impl Recovery {
    /// Binds the listeners that the user wants, and writes the code. `data_dir` is the data
    /// directory, if the token store is in one.
    pub(crate) async fn bind(
        &self,
        listen_fds: &mut ListenFd,
        tls: Option<ServerTls>,
        data_dir: Option<&Path>,
    ) -> anyhow::Result<Option<RecoveryListeners>> {
        let address = self.bind_address(listen_fds).await?.map(|listener| listener.with_tls(tls));
        let socket = match &self.admin_token_recovery_socket {
            Some(path) => Some(UnixListener::bind(path).await.context(SOCKET)?),
            None => None,
        };
        if address.is_none() && self.admin_token_recovery_insecure_allow_remote {
            tracing::warn!("{ALLOW_REMOTE} has no effect without {BIND}");
        }
        if address.is_none() && socket.is_none() {
            if self.admin_token_recovery_code {
                tracing::warn!("{CODE} has no effect without {BIND} or {SOCKET}");
            }
            return Ok(None);
        }
        let address = match address {
            Some(listener) => {
                let file = self.write_address(&listener)?;
                Some((listener, file))
            }
            None => None,
        };
        let code = self.write_code(data_dir)?;
        Ok(Some(RecoveryListeners { address, socket, code, timeout: self.admin_token_recovery_timeout }))
    }

    /// Binds the listener, which must not be reachable from other machines.
    async fn bind_address(&self, listen_fds: &mut ListenFd) -> anyhow::Result<Option<Listener>> {
        let Some(address) = &self.admin_token_recovery_http_bind else {
            return Ok(None);
        };
        let (listener, named) = match take_listen_fd(listen_fds, 1)? {
            Some(listener) => {
                let named = listener.address().to_string();
                (listener, named)
            }
            None => (Listener::bind(address).await.context(BIND)?, address.clone()),
        };
        if !listener.address().ip().is_loopback() {
            if !self.admin_token_recovery_insecure_allow_remote {
                bail!(
                    "{BIND}: {named} is not a loopback address: any client on the network could get the operator token; use \
                     127.0.0.1, or add {ALLOW_REMOTE}"
                );
            }
            tracing::warn!(
                "{ALLOW_REMOTE}: any client that reaches {named} over the network can get the operator token"
            );
        }
        Ok(Some(listener))
    }

    fn write_address(&self, listener: &Listener) -> anyhow::Result<Option<RemoveOnDrop>> {
        self.admin_token_recovery_tcp_listener_file_path
            .as_ref()
            .map(|path| write_address_file(path, listener.address()))
            .transpose()
            .context("--admin-token-recovery-tcp-listener-file-path")
    }

    fn write_code(&self, data_dir: Option<&Path>) -> anyhow::Result<Option<(RecoveryCode, RemoveOnDrop)>> {
        if !self.admin_token_recovery_code {
            return Ok(None);
        }
        let in_data_dir = || data_dir.map(|directory| directory.join(CODE_FILE));
        let path = self.admin_token_recovery_code_file.clone().or_else(in_data_dir).context(
            "--admin-token-recovery-code: there is no data directory for the code; name a file with \
             --admin-token-recovery-code-file",
        )?;
        let code = RecoveryCode::generate().context("cannot make a recovery code")?;
        let file = write_code_file(path, code.secret())?;
        Ok(Some((code, file)))
    }
}

impl RecoveryListeners {
    /// Returns whether one of them has an address.
    pub(crate) fn has_address(&self) -> bool {
        self.address.is_some()
    }

    /// Serves until the first success, the time limit or `stop`.
    pub(crate) fn serve(
        self,
        authority: &Authority,
        metrics: Arc<Metrics>,
        stop: &CancellationToken,
    ) -> JoinHandle<()> {
        self.announce();
        let Self { address, socket, code, timeout } = self;
        let (code, code_file) = code.unzip();
        let closed = stop.child_token();
        let recovery = recovery::Recovery::new(authority.clone(), Arc::clone(&metrics), code, closed.clone());
        metrics.set_recovery_open(true);
        tokio::spawn(async move {
            let limits = recovery::CONNECTION_LIMITS;
            let at_address = async {
                if let Some((listener, file)) = address {
                    let closed = closed.child_token();
                    listener.serve(recovery.listener(closed.clone()), limits, closed).await;
                    drop(file);
                }
            };
            let at_socket = async {
                if let Some(socket) = socket {
                    let closed = closed.child_token();
                    socket.serve(recovery.listener(closed.clone()), limits, closed).await;
                }
            };
            let listeners = async {
                tokio::join!(at_address, at_socket);
                // Too many wrong codes may have closed each.
                closed.cancel();
            };
            let close_in_time = async {
                tokio::select! {
                    () = closed.cancelled() => {}
                    () = time::sleep(timeout) => {
                        let timeout = humantime::format_duration(timeout);
                        tracing::warn!("token recovery was not used within {timeout}, closing it");
                        closed.cancel();
                    }
                }
                // The code is of no use after this.
                drop(code_file);
            };
            tokio::join!(listeners, close_in_time);
            metrics.set_recovery_open(false);
            tracing::info!("token recovery is closed");
        })
    }

    /// Logs how to use token recovery.
    fn announce(&self) {
        let program = program::name();
        let timeout = humantime::format_duration(self.timeout);
        let (with_code, option) = match &self.code {
            Some((_, file)) => (format!(" with the code in {}", file.path().display()), " --recovery-code -"),
            None => (String::new(), ""),
        };
        if let Some((listener, _)) = &self.address {
            tracing::warn!(
                "token recovery is open on {} for {timeout}: a client that reaches it{with_code} can replace the operator \
                 token, once; with: {program} create token --admin --regenerate --host {}{option}",
                listener.url(),
                listener.local_host()
            );
        }
        if let Some(socket) = &self.socket {
            tracing::warn!(
                "token recovery is open at the socket {0} for {timeout}: root and the user of this server can{with_code} \
                 replace the operator token, once; with: {program} create token --admin --regenerate --host unix:{0}{option}",
                socket.path().display()
            );
        }
        // The operator at the terminal gets the code. A log is stored, and other users read it.
        if let Some((code, _)) = self.code.as_ref().filter(|_| std::io::stderr().is_terminal()) {
            print_stderr(&format!("Recovery code: {}", code.secret().expose()));
        }
    }
}

/// Writes the code to a file, and replaces that of a killed server.
fn write_code_file(path: PathBuf, code: &Secret) -> anyhow::Result<RemoveOnDrop> {
    trust_path(&path).with_context(|| format!("cannot write the recovery code to {}", path.display()))?;
    if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
        bail!(
            "cannot write the recovery code to {}: it is there already and not a regular file",
            path.display()
        );
    }
    let content = Secret::from(format!("{}\n", code.expose()));
    replace(&path, content.expose().as_bytes(), PRIVATE_MODE)?;
    Ok(RemoveOnDrop::with_content(path, content.expose().as_bytes()))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("token recovery would close at once".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(format!("{error}; a duration is one like 30s, 10m or 1h")),
    }
}

//! Token recovery as `influxdb3 serve` is told about it: which doors there are, for how long, and what they ask for.

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
use crate::cli::output_file::replace;
use crate::cli::say;
use crate::cli::serve::address_file::write_address_file;
use crate::cli::serve::listeners::adopt;
use crate::http::recovery;
use crate::http::recovery::code::RecoveryCode;
use crate::metrics::Metrics;
use crate::private_file::{PRIVATE_MODE, RemoveOnDrop};
use crate::secret::Secret;
use crate::server::listener::Listener;
use crate::server::tls::ServerTls;
use crate::server::unix_socket::UnixListener;

/// How `--admin-token-recovery-http-bind` is called in errors, where it may also have been said in the environment.
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
    /// Open a second listener that replaces the operator token without asking for it
    ///
    /// Only on a loopback address, 127.0.0.1:8182 if none is given. It answers that one request, asked for by the IP address
    /// or as localhost, and not to web pages; it closes for good after its first success or the time limit. The main listener
    /// goes on. For when the operator token is lost.
    #[arg(
        long,
        value_name = "ADDR",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND_ADDR",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:8182"
    )]
    admin_token_recovery_http_bind: Option<String>,

    /// Open the same at this socket, a new file, for root and the user of the server only
    ///
    /// With or without the listener above; after a success at one, both are closed. Other users of the machine cannot use it.
    #[arg(long, value_name = "PATH", env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_SOCKET")]
    admin_token_recovery_socket: Option<PathBuf>,

    /// How long token recovery is open, such as 30s or 10m
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_TIMEOUT",
        default_value = "10m",
        value_parser = timeout
    )]
    admin_token_recovery_timeout: Duration,

    /// Ask for a code, too, that is shown on this terminal and written to a file that only this user can read
    ///
    /// The file is recovery-code in the data directory, and goes when token recovery closes, which it also does after five
    /// wrong codes. Without a terminal, the file is the only place. Small letters are as good as capital ones, and the
    /// hyphens are for the eye.
    #[arg(long, env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE")]
    admin_token_recovery_code: bool,

    /// Write the recovery code to this file instead
    #[arg(
        long,
        value_name = "FILE",
        env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE_FILE",
        requires = "admin_token_recovery_code"
    )]
    admin_token_recovery_code_file: Option<PathBuf>,

    /// Let the recovery listener be on an address that other machines reach
    ///
    /// Whoever reaches it first takes over the operator token. Use it with --admin-token-recovery-code.
    #[arg(long)]
    admin_token_recovery_insecure_allow_remote: bool,

    /// Write the address of the recovery listener, ip:port, to this new file, and remove it when that closes
    ///
    /// The server does not start if the file exists. Without a recovery listener there is nothing to write.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_TCP_LISTENER_FILE_PATH")]
    admin_token_recovery_tcp_listener_file_path: Option<PathBuf>,
}

/// What is bound and not served yet.
pub(crate) struct Doors {
    address: Option<(Listener, Option<RemoveOnDrop>)>,
    socket: Option<UnixListener>,
    code: Option<(RecoveryCode, RemoveOnDrop)>,
    timeout: Duration,
}

impl Recovery {
    /// Binds what is asked for; nothing of it answers yet. `data_dir` is where tokens are kept, if they are in a directory.
    pub(crate) async fn bind(
        &self,
        passed: &mut ListenFd,
        tls: Option<ServerTls>,
        data_dir: Option<&Path>,
    ) -> anyhow::Result<Option<Doors>> {
        let address = self.bind_address(passed).await?.map(|listener| listener.with_tls(tls));
        let socket = match &self.admin_token_recovery_socket {
            Some(path) => Some(UnixListener::bind(path).await.context(SOCKET)?),
            None => None,
        };
        if address.is_none() && self.admin_token_recovery_insecure_allow_remote {
            tracing::warn!("{ALLOW_REMOTE} is of no use without {BIND}");
        }
        if address.is_none() && socket.is_none() {
            if self.admin_token_recovery_code {
                tracing::warn!("{CODE} is of no use without {BIND} or {SOCKET}");
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
        Ok(Some(Doors { address, socket, code, timeout: self.admin_token_recovery_timeout }))
    }

    /// A listener that is for this machine only, as it gives the operator token away.
    async fn bind_address(&self, passed: &mut ListenFd) -> anyhow::Result<Option<Listener>> {
        let Some(address) = &self.admin_token_recovery_http_bind else {
            return Ok(None);
        };
        let (listener, named) = match adopt(passed, 1)? {
            Some(listener) => {
                let named = listener.address().to_string();
                (listener, named)
            }
            None => (Listener::bind(address).await.context(BIND)?, address.clone()),
        };
        if !listener.address().ip().is_loopback() {
            if !self.admin_token_recovery_insecure_allow_remote {
                bail!(
                    "{BIND}: {named} is not a loopback address: anybody on the network could take over the operator token; \
                     use 127.0.0.1, or say {ALLOW_REMOTE}"
                );
            }
            tracing::warn!(
                "{ALLOW_REMOTE}: whoever reaches {named} over the network can take over the operator token"
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
            "--admin-token-recovery-code: there is no data directory to write it to; say where with \
             --admin-token-recovery-code-file",
        )?;
        let code = RecoveryCode::mint().context("cannot make a recovery code")?;
        let file = write_code_file(path, code.secret())?;
        Ok(Some((code, file)))
    }
}

impl Doors {
    /// Whether there is one with an address.
    pub(crate) fn has_address(&self) -> bool {
        self.address.is_some()
    }

    /// Lets clients in until the first success, the time limit or `stop`.
    pub(crate) fn open(
        self,
        authority: &Authority,
        metrics: Arc<Metrics>,
        stop: &CancellationToken,
    ) -> JoinHandle<()> {
        self.announce();
        let Self { address, socket, code, timeout } = self;
        let (code, code_file) = code.unzip();
        let closed = stop.child_token();
        let service = recovery::service(authority.clone(), Arc::clone(&metrics), code, closed.clone());
        metrics.recovery_is_open(true);
        tokio::spawn(async move {
            let terms = recovery::TERMS;
            let at_address = async {
                if let Some((listener, file)) = address {
                    listener.serve(Arc::clone(&service), terms, closed.clone()).await;
                    drop(file);
                }
            };
            let at_socket = async {
                if let Some(socket) = socket {
                    socket.serve(Arc::clone(&service), terms, closed.clone()).await;
                }
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
                // It opens nothing any more.
                drop(code_file);
            };
            tokio::join!(at_address, at_socket, close_in_time);
            metrics.recovery_is_open(false);
            tracing::info!("token recovery is closed");
        })
    }

    /// Tells how to use what is open.
    fn announce(&self) {
        let timeout = humantime::format_duration(self.timeout);
        let (ask, option) = match &self.code {
            Some((_, file)) => (format!(" with the code in {}", file.path().display()), " --recovery-code -"),
            None => (String::new(), ""),
        };
        if let Some((listener, _)) = &self.address {
            tracing::warn!(
                "token recovery is open on {} for {timeout}: whoever reaches it{ask} can replace the operator token, once; \
                 with: influxdb3 create token --admin --regenerate --host {}{option}",
                listener.url(),
                listener.local_host()
            );
        }
        if let Some(socket) = &self.socket {
            tracing::warn!(
                "token recovery is open at the socket {0} for {timeout}: root and the user of this server can{ask} replace \
                 the operator token, once; with: influxdb3 create token --admin --regenerate --host unix:{0}{option}",
                socket.path().display()
            );
        }
        // For whoever sits there. A log is kept, and read by others.
        if let Some((code, _)) = self.code.as_ref().filter(|_| std::io::stderr().is_terminal()) {
            say(&format!("Recovery code: {}", code.secret().expose()));
        }
    }
}

/// Writes the code to a file. The file of a server that was killed is replaced.
fn write_code_file(path: PathBuf, code: &Secret) -> anyhow::Result<RemoveOnDrop> {
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
        Ok(Duration::ZERO) => Err("it would be closed before anybody can use it".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(format!("{error}; a duration is one like 30s, 10m or 1h")),
    }
}

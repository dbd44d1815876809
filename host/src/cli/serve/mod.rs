//! `optoken serve`: connects store, authority and listeners, and runs them until a signal
//! (docs/compatibility.md 5).

mod address_file;
mod address_space;
mod configured_file;
pub(crate) mod continuity;
mod fd_limit;
mod file_watch;
mod listeners;
mod logging;
mod permission_tokens;
mod preconfigured_token;
mod recovery;
mod reload;
mod service_manager;
pub(crate) mod storage;
mod threads;
mod upstream;

use std::env;
use std::fs;
use std::future;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use listenfd::ListenFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, DEFAULT_MAX_STALENESS};
use crate::cli::duration::{overlap_seconds, poll_interval};
use crate::cli::environment::boolean;
use crate::cli::serve::continuity::Continuity;
use crate::cli::serve::listeners::{Listeners, Tls};
use crate::cli::serve::logging::Log;
use crate::cli::serve::permission_tokens::PermissionTokens;
use crate::cli::serve::preconfigured_token::PreconfiguredToken;
use crate::cli::serve::recovery::{Recovery, RecoveryListeners};
use crate::cli::serve::reload::{CertificateReloader, ReloadTokens, Reloader, TokenReloader};
use crate::cli::serve::storage::Storage;
use crate::cli::serve::upstream::Upstream;
use crate::cli::without_effect::Ignored;
use crate::client::DEFAULT_HOST;
use crate::http::bootstrap::Bootstrap;
use crate::http::disable_authz::DisabledAuthz;
use crate::http::guarded_request::VerifyRequest;
use crate::http::proxy::options::UpstreamOptions;
use crate::http::{Options, main_listener};
use crate::metrics::Metrics;
use crate::private_file::ownership::trust_file_at;
use crate::program;
use crate::server::connections::ConnectionLimits;
use crate::server::listener::Listener;
use crate::server::tls::ServerTls;
use crate::token::OPERATOR;

/// Run the server.
///
/// By default it listens on this machine only, and keeps its data in the home directory of its
/// user. Options of InfluxDB that concern no token are accepted without effect.
///
/// Under systemd (Type=notify or notify-reload) it reports when it is ready, reloads and stops, and
/// sends signs of life to the watchdog. It accepts sockets: the first is the main listener, the
/// second the recovery listener, if that is enabled.
///
/// SIGTERM, SIGINT and SIGQUIT stop the server. It finishes requests in flight, and removes its
/// address files and sockets. At SIGHUP it reads certificate, key, --admin-token-file,
/// --permission-tokens-file and --upstream-token-file again, and opens the audit log again. A file
/// that cannot be used is logged, and changes nothing. Under nohup it ignores SIGHUP. It notices a
/// renewed certificate without a signal, within a minute.
#[derive(Debug, Args)]
#[command(after_help = program::named("\
Examples:
  Run the server, then create the operator token in another terminal:
    {program} serve
    {program} create token --admin
  Replace a lost operator token:
    {program} serve --admin-token-recovery-http-bind
    {program} create token --admin --regenerate --host http://127.0.0.1:8182
  Listen on all addresses of this machine, with TLS:
    {program} serve --http-bind 0.0.0.0:8181 --tls-cert chain.pem --tls-key key.pem"))]
pub(crate) struct Serve {
    /// Name of this server in its log and metrics: 1 to 64 visible ASCII characters
    #[arg(long, value_name = "ID", env = "INFLUXDB3_NODE_ID", alias = "host-id", value_parser = node_id)]
    node_id: Option<String>,

    /// The same from the variable of this name
    #[arg(long, value_name = "VARIABLE", env = "INFLUXDB3_NODE_ID_FROM_ENV", conflicts_with = "node_id")]
    node_id_from_env: Option<String>,

    /// Run this WebAssembly component instead of the built-in one
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_TOKEN_COMPONENT")]
    component: Option<PathBuf>,

    #[command(flatten)]
    listeners: Listeners,

    #[command(flatten)]
    tls: Tls,

    #[command(flatten)]
    recovery: Recovery,

    #[command(flatten)]
    access: Access,

    #[command(flatten)]
    upstream: Upstream,

    #[command(flatten)]
    storage: Storage,

    #[command(flatten)]
    continuity: Continuity,

    /// Refuse all tokens (503) after this many seconds without a response from the token store
    #[arg(
        long,
        value_name = "SECONDS",
        env = "INFLUXDB3_TOKEN_MAX_STALENESS",
        default_value_t = DEFAULT_MAX_STALENESS.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Storage"
    )]
    max_staleness: u64,

    /// Read the token store this often, to learn of changes by other servers: from 50ms to 1h
    /// [default: 250ms, and 1s for a store of several machines]
    ///
    /// A store that reports changes is read at once as well. --max-staleness must be at least two
    /// intervals, and should be four: a lost read then refuses no token.
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_TOKEN_POLL_INTERVAL",
        value_parser = poll_interval,
        help_heading = "Storage"
    )]
    poll_interval: Option<Duration>,

    /// Append an audit record of every change to this file, created with mode 0600
    ///
    /// One line of JSON per record, with the hash of the line before it. The chain detects
    /// accidental or partial edits. A user with write access can rebuild the whole chain; compare
    /// with a stored head hash or with the server (see `audit verify --help`).
    ///
    /// Each server needs a file of its own, even if servers share a store. It records changes by
    /// other servers at every --poll-interval, the newest 64 each time; a metric counts lost
    /// records. The file can be a terminal, but no pipe.
    ///
    /// If a record cannot be appended within a second, the change is made nevertheless. Missing
    /// records are appended later, at least the newest 64.
    ///
    /// To rotate the file, move it away: the next record goes to a new one, without a signal, and
    /// SIGHUP opens that at once. Do not truncate it or compress it at once (logrotate:
    /// delaycompress, no copytruncate).
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_AUDIT_LOG", help_heading = "Storage")]
    audit_log: Option<PathBuf>,

    #[command(flatten)]
    log: Log,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
struct Access {
    /// Accept every request, with any token or none; tokens cannot be created, regenerated or
    /// deleted
    ///
    /// INFLUXDB3_START_WITHOUT_AUTH, an older name of the variable, is accepted, too.
    #[expect(clippy::doc_markdown, reason = "help shows the text as it is here")]
    #[arg(
        long,
        value_name = "true|false",
        env = "INFLUXDB3_WITHOUT_AUTH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = boolean
    )]
    without_auth: Option<bool>,

    /// Import the token of this JSON file, unless a token of its name exists; ignored with
    /// --without-auth
    ///
    /// The file has a `name` (`_admin` is the operator token), and a `token` or its `token_sha512`,
    /// which is not secret. It may have `expiry_millis`, in milliseconds since 1970. A `token` may
    /// be readable to the owner and to a group of the server (modes 0600, 0440), and to no other
    /// user. A token that is easy to guess is refused. To create such a file: `create token --admin
    /// --offline`, or `hash token` for a token that exists already
    ///
    /// A new token of the name `_admin` in the file of a running server replaces the operator
    /// token, at SIGHUP or within a minute, if that still is the earlier token of the file. It must
    /// never have been the operator token before. Otherwise the log has a warning.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,

    /// Accept the earlier operator token this long after a new one in --admin-token-file has
    /// replaced it: from 1s to 30d; without it, not at all
    #[arg(
        long,
        value_name = "DURATION",
        env = "INFLUXDB3_ADMIN_TOKEN_FILE_OVERLAP",
        value_parser = overlap_seconds
    )]
    admin_token_file_overlap: Option<u64>,

    /// Import the tokens with permissions of this JSON file that do not exist yet; ignored with
    /// --without-auth
    ///
    /// The file has `tokens`, a list. Each has a `name`, `permissions` (a list of
    /// TYPE:NAMES:ACTIONS), and a `token` or its `token_sha512`, which is not secret. It may have a
    /// `description`, and `expiry_millis`, in milliseconds since 1970. Owner and mode are as for
    /// --admin-token-file. To create such a file: `create token --permission … --offline`
    ///
    /// The file is read again at SIGHUP, or within a minute after a change. New tokens are
    /// imported. A token that exists is never changed, and one that is no longer in the file stays:
    /// delete it with `delete token`. If one entry is wrong, nothing of the file is imported.
    #[arg(long, value_name = "FILE", env = "INFLUXDB3_PERMISSION_TOKENS_FILE")]
    permission_tokens_file: Option<PathBuf>,

    /// Which clients may create the first operator token without a credential: loopback (on this
    /// machine), any, or off (none)
    ///
    /// Browsers are always rejected. A reverse proxy or tunnel on this machine counts as local
    /// unless it adds a forwarding header (X-Forwarded-For, Via, ...) or uses HTTP/1.0: create the
    /// token before you expose one, or use `off` with --admin-token-file. A client with a named
    /// admin token can create the operator token in any case.
    #[arg(long, value_name = "CLIENTS", env = "INFLUXDB3_ADMIN_TOKEN_BOOTSTRAP", default_value = "loopback")]
    admin_token_bootstrap: Bootstrap,

    /// Resources that require no token, separated by commas: health, ping, metrics, ready, pprof,
    /// node_stop
    #[expect(clippy::doc_markdown, reason = "help shows the text as it is here")]
    #[arg(long, value_name = "LIST", env = "INFLUXDB3_DISABLE_AUTHZ")]
    disable_authz: Option<DisabledAuthz>,

    /// Where a proxy that asks /api/v3/verify states the request that it asks about: forwarded,
    /// original, path, or none
    ///
    /// Tokens with permissions need it, and are refused (403) without it; other tokens do not.
    /// `forwarded` is X-Forwarded-Method, X-Forwarded-Host and X-Forwarded-Uri. `original` is
    /// X-Original-Method, X-Original-Host and X-Original-Uri. `path` is the method and the host of
    /// the question, and its path below /api/v3/verify.
    ///
    /// The proxy must set what is named here for every question, whatever its client sends. See
    /// host/proxies/README.md for the value of each proxy.
    #[arg(long, value_name = "SOURCE", env = "INFLUXDB3_VERIFY_REQUEST", default_value = "none")]
    verify_request: VerifyRequest,
}

impl Serve {
    /// Runs the server. It logs the warnings about variables, and what is ignored.
    pub(crate) fn run(mut self, warnings: &[String], ignored: &Ignored) -> anyhow::Result<()> {
        self.log.start()?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        ignored.log();
        self.node_id = self.node_id()?;
        // Before anything is changed.
        let max_connections = fd_limit::raise_limit()?;
        address_space::check_limit()?;
        threads::check_limit()?;
        // Before there are other threads: it removes its variables from the environment.
        let listen_fds = ListenFd::from_env();
        let tls = self.tls.load()?;
        // A request that is passed on has a connection on each side.
        let max_connections = if self.upstream.is_set() { max_connections / 2 } else { max_connections };
        let upstream = self.upstream.load(max_connections)?;
        let options = self.options();
        let runtime = threads::exit_on_panic(threads::start_runtime)?;
        // From here on, SIGHUP ends the process no longer.
        let hangup = {
            let _context = runtime.enter();
            reload_signal()?
        };
        let metrics = self.metrics().context("cannot set up the metrics")?;
        let component = self.component()?;
        let authority =
            threads::exit_on_panic(|| self.authority(component.as_deref(), Arc::clone(&metrics)))?;
        let mut tokens = if options.without_auth {
            Vec::new()
        } else {
            self.access.import_tokens(&authority, component, &metrics).context("Token error")?
        };
        let limits = main_listener::connection_limits(max_connections, self.listeners.shutdown_timeout);
        if max_connections < main_listener::MAX_CONNECTIONS {
            tracing::info!(
                "no more than {max_connections} connections at a time: this process may not open more files (ulimit -n, \
                 LimitNOFILE)"
            );
        }
        let (upstream, upstream_token) = upstream.unzip();
        if let Some(file) = upstream_token.flatten() {
            tokens.push(Box::new(TokenReloader::new(file, authority.clone(), Arc::clone(&metrics))));
        }
        let reloads = (hangup, tokens);
        runtime.block_on(self.listen(
            listen_fds,
            tls,
            reloads,
            limits,
            (options, upstream),
            authority,
            metrics,
        ))
    }

    fn options(&self) -> Options {
        Options {
            max_request_size: self.listeners.max_request_size(),
            without_auth: self.access.without_auth.unwrap_or_default(),
            disabled_authz: self.access.disable_authz.clone().unwrap_or_default(),
            bootstrap: self.access.admin_token_bootstrap,
            verify_request: self.access.verify_request,
        }
    }

    /// Returns the name of this server.
    fn node_id(&self) -> anyhow::Result<Option<String>> {
        let Some(variable) = &self.node_id_from_env else { return Ok(self.node_id.clone()) };
        let id = env::var(variable).ok().and_then(|id| node_id(&id).ok());
        let id = id.with_context(|| {
            format!("--node-id-from-env: the variable {variable:?} holds no name of 1 to 64 visible ASCII characters")
        });
        id.map(Some)
    }

    fn metrics(&self) -> anyhow::Result<Arc<Metrics>> {
        let metrics = Metrics::new()?;
        metrics.set_build_info(env!("CARGO_PKG_VERSION"), self.node_id.as_deref().unwrap_or_default())?;
        Ok(Arc::new(metrics))
    }

    /// Reads the component of `--component`.
    fn component(&self) -> anyhow::Result<Option<Arc<[u8]>>> {
        let Some(file) = &self.component else { return Ok(None) };
        let failed = || format!("cannot read the component {}", file.display());
        trust_file_at(file).with_context(failed)?;
        Ok(Some(fs::read(file).with_context(failed)?.into()))
    }

    fn authority(&self, component: Option<&[u8]>, metrics: Arc<Metrics>) -> anyhow::Result<Authority> {
        let (store, store_file) = self.storage.open()?;
        let builder = Authority::builder_shared(store)
            .max_staleness(Duration::from_secs(self.max_staleness))
            .observer(metrics);
        let mut builder = self.continuity.apply(builder, &self.storage, store_file.as_deref())?;
        if let Some(interval) = self.poll_interval {
            builder = builder.poll_interval(interval);
        }
        if let Some(file) = &self.audit_log {
            builder = builder.audit_log(file.clone());
        }
        if let Some(component) = component {
            builder = builder.component(component);
        }
        builder.build().with_context(|| match &self.component {
            Some(file) => format!("cannot start with the component {}", file.display()),
            None => "cannot start".to_owned(),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "it connects the parts of the server")]
    async fn listen(
        self,
        mut listen_fds: ListenFd,
        tls: Option<ServerTls>,
        (hangup, token_files): (Option<Signal>, Vec<Box<dyn ReloadTokens>>),
        limits: ConnectionLimits,
        (options, upstream): (Options, Option<UpstreamOptions>),
        authority: Authority,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<()> {
        let stop = stop_on_signal()?;
        let main = self.listeners.bind(&mut listen_fds).await?.with_tls(tls.clone());
        let data_dir = self.storage.directory()?;
        let recovery = self.recovery.bind(&mut listen_fds, tls.clone(), data_dir.as_deref()).await?;
        let used = if recovery.as_ref().is_some_and(RecoveryListeners::has_address) { 2 } else { 1 };
        if listen_fds.len() > used {
            tracing::warn!(
                "{} sockets were passed, and {used} of them used: the others are not served",
                listen_fds.len()
            );
        }
        let main_file = self.listeners.write_address_file(&main)?;

        if options.without_auth {
            tracing::warn!(
                "server started without auth (`--without-auth` switch), all token creation and regeneration of admin \
                 token endpoints are disabled"
            );
        }
        let open = options.disabled_authz.paths();
        if !open.is_empty() {
            tracing::info!(paths_without_authz = ?open, "setting up server with authz disabled for paths");
        }
        tracing::info!(node_id = self.node_id, "listening on {}", main.url());
        let certificate = tls.map(|tls| CertificateReloader::new(tls, main.address(), Arc::clone(&metrics)));
        let tokens = authority.list_tokens().context("cannot list the tokens")?;
        if !tokens.iter().any(|token| token.name == OPERATOR) {
            self.access.log_bootstrap_hint(&main);
        }
        let recovery = recovery.map(|listeners| listeners.serve(&authority, Arc::clone(&metrics), &stop));
        if let Some(upstream) = &upstream {
            tracing::info!("passing requests on to {}", upstream.url);
        }
        self.upstream.reject_loop(main.address()).await?;
        service_manager::ready();
        self.watch(certificate, token_files, hangup, &authority, &metrics, &stop);
        let service = main_listener::service(authority, metrics, options, upstream);
        main.serve(service, limits, stop).await;
        drop(main_file);
        if let Some(recovery) = recovery {
            recovery.await.context("the recovery listener failed")?;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

impl Serve {
    /// Starts what runs beside the listeners: the reload of files, and the signs of life.
    fn watch(
        self,
        certificate: Option<CertificateReloader>,
        tokens: Vec<Box<dyn ReloadTokens>>,
        hangup: Option<Signal>,
        authority: &Authority,
        metrics: &Arc<Metrics>,
        stop: &CancellationToken,
    ) {
        let reloader = Reloader {
            certificate,
            tokens,
            has_audit_log: self.audit_log.is_some(),
            authority: authority.clone(),
            metrics: Arc::clone(metrics),
        };
        tokio::spawn(reloader.run(hangup, stop.clone()));
        if let Some(timeout) = service_manager::watchdog_timeout() {
            let authority = authority.clone();
            // The component answers without the store: a store that hangs is no reason to restart.
            let is_alive = move || authority.component_info().is_ok();
            tokio::spawn(service_manager::watch(timeout, is_alive));
        }
    }
}

impl Access {
    /// Imports the tokens of both files. Returns what reads the files again.
    fn import_tokens(
        &self,
        authority: &Authority,
        component: Option<Arc<[u8]>>,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Vec<Box<dyn ReloadTokens>>> {
        let mut files: Vec<Box<dyn ReloadTokens>> = Vec::new();
        if let Some(file) = &self.admin_token_file {
            let overlap = self.admin_token_file_overlap.unwrap_or(0);
            let token = PreconfiguredToken::import(authority, file.clone(), overlap)?;
            files.push(Box::new(TokenReloader::new(token, authority.clone(), Arc::clone(metrics))));
        }
        if let Some(file) = &self.permission_tokens_file {
            let tokens = PermissionTokens::import(authority, file.clone(), component)?;
            files.push(Box::new(TokenReloader::new(tokens, authority.clone(), Arc::clone(metrics))));
        }
        Ok(files)
    }

    fn log_bootstrap_hint(&self, main: &Listener) {
        let create = format!("create it with: {} create token --admin{}", program::name(), host_option(main));
        match self.admin_token_bootstrap {
            Bootstrap::Loopback if !main.accepts_loopback() => tracing::warn!(
                "no operator token yet, and none can be created, as no client has a loopback address; start with \
                 --admin-token-file, or with --admin-token-bootstrap any"
            ),
            Bootstrap::Loopback => tracing::info!("no operator token yet; {create}"),
            Bootstrap::Any => tracing::warn!(
                "no operator token yet, and the first client that reaches this server can create it; {create}"
            ),
            Bootstrap::Off => tracing::warn!(
                "no operator token yet, and none can be created without a token (--admin-token-bootstrap off); start with \
                 --admin-token-file"
            ),
        }
    }
}

/// Returns the option that commands need to reach the server.
fn host_option(listener: &Listener) -> String {
    let host = listener.local_host();
    if host == DEFAULT_HOST { String::new() } else { format!(" --host {host}") }
}

/// Returns a token that the first signal cancels. A second signal ends the process at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut signals = Vec::new();
    for (name, kind) in [
        ("SIGTERM", SignalKind::terminate()),
        ("SIGINT", SignalKind::interrupt()),
        ("SIGQUIT", SignalKind::quit()),
    ] {
        signals.push((name, kind, signal(kind).with_context(|| format!("cannot wait for {name}"))?));
    }
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        let (name, kind) = next_signal(&mut signals).await;
        tracing::info!("{name}: stopping after the requests in flight; send it again to stop at once");
        // First, because the process does not wait for this task.
        service_manager::stopping();
        cancel.cancel();
        next_signal(&mut signals).await;
        // 128 and the number of the signal, as a shell reports it.
        std::process::exit(128 + kind.as_raw_value());
    });
    Ok(stop)
}

/// Returns SIGHUP, unless the parent has set it to be ignored.
fn reload_signal() -> anyhow::Result<Option<Signal>> {
    let kind = SignalKind::hangup();
    if is_signal_ignored(kind) {
        return Ok(None);
    }
    Ok(Some(signal(kind).context("cannot wait for SIGHUP")?))
}

/// Waits for one of these signals.
async fn next_signal(signals: &mut [(&'static str, SignalKind, Signal)]) -> (&'static str, SignalKind) {
    future::poll_fn(|context| {
        let received = |(name, kind, signal): &mut (_, _, Signal)| {
            signal.poll_recv(context).is_ready().then_some((*name, *kind))
        };
        signals.iter_mut().find_map(received).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Returns whether the parent has set this signal to be ignored, as nohup does with SIGHUP.
fn is_signal_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored >> (kind.as_raw_value() - 1) & 1 == 1
}

fn node_id(id: &str) -> Result<String, &'static str> {
    if (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(id.to_owned())
    } else {
        Err("a node id is 1 to 64 visible ASCII characters, such as its host name")
    }
}

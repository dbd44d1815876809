//! One connection: to the first server of the URL that is a primary.

use std::fmt;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::News;
use crate::store::postgres::address::{Address, Server};
use crate::store::postgres::failure::{Failure, printable};
use crate::store::remote::CALL_TIMEOUT;

/// How long a server may be silent before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// How long sent bytes may stay unacknowledged, which is how long the host of a server may be gone.
/// Shorter than the deadline of a call, so that a read has time for another server.
const UNACKNOWLEDGED: Duration = Duration::from_millis(1500);

/// The times of TCP keepalives on an idle connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// What every server is asked first.
const FACTS: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
                     pg_catalog.current_setting('transaction_read_only') = 'on', \
                     pg_catalog.current_setting('fsync') = 'on', \
                     pg_catalog.current_setting('full_page_writes') = 'on'";

/// An open connection. It ends when this is dropped.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) server: Server,
    tls: Option<MakeRustlsConnect>,
    heard: Arc<Mutex<Heard>>,
    driver: AbortHandle,
    /// Closed when the driver has ended.
    alive: watch::Receiver<()>,
}

/// What the server sends of its own accord.
#[derive(Debug, Default)]
struct Heard {
    warnings: usize,
    last_warning: String,
    /// Why the connection has ended.
    end: Option<Failure>,
}

/// What a server states about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub(super) struct Facts {
    pub(super) in_recovery: bool,
    pub(super) read_only: bool,
    pub(super) fsync: bool,
    pub(super) full_page_writes: bool,
}

impl Facts {
    /// Returns why no document may be kept there.
    pub(super) fn fault(self) -> Option<&'static str> {
        match self {
            Self { in_recovery: true, .. } => Some(
                "it is a standby, which may be behind; name the primary, or all servers with commas between",
            ),
            Self { fsync: false, .. } => Some(
                "fsync is off, so that a power cut undoes changes; set fsync = on in postgresql.conf and reload",
            ),
            Self { full_page_writes: false, .. } => Some(
                "full_page_writes is off, so that a power cut damages tables; set full_page_writes = on in \
                 postgresql.conf and reload",
            ),
            Self { read_only: true, .. } => {
                Some("default_transaction_read_only is on; turn it off for this user and database")
            }
            _ => None,
        }
    }
}

impl Session {
    /// Connects to a server that may keep documents.
    pub(super) async fn connect(address: &Arc<Address>, news: Option<News>) -> Result<Self, Failure> {
        Ok(Self::connect_if(address, news, Facts::fault).await?.0)
    }

    /// Connects to the first server that has no fault, each of which is asked what it is.
    pub(super) async fn connect_if(
        address: &Arc<Address>,
        news: Option<News>,
        fault: fn(Facts) -> Option<&'static str>,
    ) -> Result<(Self, Facts), Failure> {
        let owned = Arc::clone(address);
        let password = spawn_blocking(move || owned.password.read()).await;
        let password = password.map_err(|error| Failure::new(error.to_string()))?.map_err(Failure::new)?;
        let mut config = Config::new();
        config
            .user(&address.user)
            .dbname(&address.database)
            .application_name("optoken")
            .ssl_mode(if address.tls.is_some() { SslMode::Require } else { SslMode::Disable })
            .channel_binding(address.channel_binding)
            .connect_timeout(CALL_TIMEOUT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        if let Some(password) = password {
            config.password(password.expose());
        }
        let attempts = address.servers.iter().map(|server| {
            let attempt = Attempt {
                config: config.clone(),
                server: server.clone(),
                tls: address.tls.clone(),
                news: news.clone(),
                fault,
            };
            attempt.connect()
        });
        first_of(attempts.collect()).await
    }

    /// Whether the connection has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The number of warnings so far.
    pub(super) fn warnings(&self) -> usize {
        self.heard().warnings
    }

    /// Returns the text of the newest warning, if there are more than `before`.
    pub(super) fn warning_since(&self, before: usize) -> Option<String> {
        let heard = self.heard();
        (heard.warnings > before).then(|| heard.last_warning.clone())
    }

    /// Returns the failure of a statement. A server that ends a connection gives its reason apart
    /// from all statements.
    pub(super) fn failure(&self, error: &tokio_postgres::Error) -> Failure {
        let end = if error.is_closed() { self.heard().end.clone() } else { None };
        end.unwrap_or_else(|| Failure::from(error)).at(&self.server)
    }

    /// Ends what the server still does for this connection, in the background. A server does not
    /// notice by itself that a client has gone.
    pub(super) fn cancel(&self) {
        let (token, tls) = (self.client.cancel_token(), self.tls.clone());
        tokio::spawn(timeout(CALL_TIMEOUT, async move {
            // Without an answer the server goes on, as before.
            let _ = match tls {
                Some(tls) => token.cancel_query(tls).await,
                None => token.cancel_query(NoTls).await,
            };
        }));
    }

    /// Ends the connection. Statements that wait on it fail.
    pub(super) fn end(&self) {
        self.driver.abort();
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&self) {
        // Nothing is ever sent.
        while self.alive.clone().changed().await.is_ok() {}
    }

    /// Returns why the connection has ended.
    pub(super) fn end_reason(&self) -> Failure {
        let end = self.heard().end.clone();
        end.unwrap_or_else(|| Failure::new("the connection is closed")).at(&self.server)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        lock(&self.heard)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("server", &self.server).finish_non_exhaustive()
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to one server that is being made.
#[derive(Clone)]
struct Attempt {
    config: Config,
    server: Server,
    tls: Option<MakeRustlsConnect>,
    news: Option<News>,
    fault: fn(Facts) -> Option<&'static str>,
}

impl Attempt {
    async fn connect(self) -> Result<(Session, Facts), Failure> {
        let server = self.server.clone();
        let connected = match &server {
            Server::Network { host, port } => match lookup_host((host.as_str(), *port)).await {
                Ok(found) => {
                    let attempts = found.map(|address| self.clone().connect_to(Some(address)));
                    first_of(attempts.collect()).await
                }
                Err(error) => Err(Failure::lost(&error, "check the name of the host")),
            },
            Server::Socket { .. } => self.connect_to(None).await,
        };
        connected.map_err(|failure| failure.at(&server))
    }

    async fn connect_to(mut self, address: Option<SocketAddr>) -> Result<(Session, Facts), Failure> {
        match &self.server {
            Server::Network { host, port } => self.config.host(host).port(*port),
            Server::Socket { directory, port } => self.config.host_path(directory).port(*port),
        };
        if let Some(address) = address {
            self.config.hostaddr(address.ip());
        }
        let heard = Arc::default();
        let (ends, alive) = watch::channel(());
        let failed = |error| Failure::from(&error);
        let (client, driver) = if let Some(tls) = self.tls.clone() {
            let (client, connection) = self.config.connect(tls).await.map_err(failed)?;
            (client, tokio::spawn(drive(connection, self.news, Arc::clone(&heard), ends)))
        } else {
            let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
            (client, tokio::spawn(drive(connection, self.news, Arc::clone(&heard), ends)))
        };
        let session = Session {
            client,
            server: self.server,
            tls: self.tls,
            heard,
            driver: driver.abort_handle(),
            alive,
        };
        let facts = session.facts().await?;
        match (self.fault)(facts) {
            Some(fault) => Err(Failure::new(fault)),
            None => Ok((session, facts)),
        }
    }
}

impl Session {
    async fn facts(&self) -> Result<Facts, Failure> {
        let row = self.client.query_typed_one(FACTS, &[]).await;
        let facts = row.and_then(|row| {
            Ok(Facts {
                in_recovery: row.try_get(0)?,
                read_only: row.try_get(1)?,
                fsync: row.try_get(2)?,
                full_page_writes: row.try_get(3)?,
            })
        });
        facts.map_err(|error| Failure::from(&error))
    }
}

/// Receives what the server sends, until the connection ends.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    news: Option<News>,
    heard: Arc<Mutex<Heard>>,
    ends: watch::Sender<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let end = loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(_))) => {
                if let Some(news) = &news {
                    news();
                }
            }
            Some(Ok(AsyncMessage::Notice(notice))) if is_warning(&notice) => {
                let mut heard = lock(&heard);
                heard.warnings += 1;
                heard.last_warning = printable(notice.message());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => break Failure::from(&error),
            None => break Failure::new("the connection is closed"),
        }
    };
    lock(&heard).end = Some(end);
    // Statements that wait for a response learn of the end after its reason is there.
    drop(connection);
    drop(ends);
}

/// Whether a notice is more than information. One without a known severity is.
fn is_warning(notice: &DbError) -> bool {
    !matches!(
        notice.parsed_severity(),
        Some(Severity::Debug | Severity::Info | Severity::Log | Severity::Notice)
    )
}

/// Starts the attempts in their order, the next one when those before it have failed or are silent.
/// Returns what the first to succeed returns, and ends the others.
async fn first_of<T, F>(attempts: Vec<F>) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let mut waiting = attempts.into_iter();
    let mut running = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        if let Some(attempt) = waiting.next() {
            running.spawn(attempt);
        }
        let ended = match timeout(STAGGER, running.join_next()).await {
            Ok(ended) => ended,
            Err(_) if waiting.len() > 0 => continue,
            Err(_) => running.join_next().await,
        };
        match ended {
            Some(Ok(Ok(result))) => return Ok(result),
            Some(Ok(Err(failure))) => failures.push(failure),
            Some(Err(panic)) => failures.push(Failure::new(panic.to_string())),
            None if failures.is_empty() => return Err(Failure::new("it has no address")),
            None => return Err(Failure::of_all(failures)),
        }
    }
}

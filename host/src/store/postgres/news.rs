//! News by LISTEN, on a connection of its own. They prove nothing: they wake a reader.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::store::News;
use crate::store::postgres::address::Address;
use crate::store::postgres::engine::jitter;
use crate::store::postgres::failure::Failure;
use crate::store::postgres::session::Session;
use crate::store::remote::{CALL_TIMEOUT, TimedOut};

/// How often the server is asked whether the connection still carries news. A connection that is
/// silent because it is dead looks like one without news.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// The pauses before another connection: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A connection that has lasted for this long begins the pauses from the first one again.
const STEADY: Duration = Duration::from_secs(30);

/// Calls `news` at every change, and whenever changes may have been missed. Never returns.
pub(super) async fn listen(address: Arc<Address>, channel: String, news: News) {
    let mut pause = FIRST_PAUSE;
    loop {
        let start = Instant::now();
        let failure = listen_once(&address, &channel, &news).await;
        tracing::debug!("{}: no news, so that changes elsewhere wait for a poll: {failure}", address.shown);
        if start.elapsed() >= STEADY {
            pause = FIRST_PAUSE;
        }
        sleep(pause + jitter(100)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens until the connection fails.
async fn listen_once(address: &Arc<Address>, channel: &str, news: &News) -> Failure {
    match open(address, channel, news).await {
        Ok(session) => {
            // A change may have come before the connection.
            news();
            watch(&session).await
        }
        Err(failure) => failure,
    }
}

/// Opens a connection that listens.
pub(super) async fn open(address: &Arc<Address>, channel: &str, news: &News) -> Result<Session, Failure> {
    let opening = async {
        let session = Session::connect(address, Some(Arc::clone(news))).await?;
        // The name has no quotes (table.rs).
        let listening = session.client.batch_execute(&format!("LISTEN \"{channel}\"")).await;
        listening.map_err(|error| session.failure(&error))?;
        Ok(session)
    };
    timeout(CALL_TIMEOUT, opening).await.unwrap_or_else(|_| Err(TimedOut(CALL_TIMEOUT).into()))
}

/// Pings the server until that fails.
async fn watch(session: &Session) -> Failure {
    loop {
        if timeout(PING_INTERVAL, session.ended()).await.is_ok() {
            return session.end_reason();
        }
        match timeout(CALL_TIMEOUT, session.client.batch_execute("SELECT 1")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return session.failure(&error),
            Err(_) => return TimedOut(CALL_TIMEOUT).into(),
        }
    }
}

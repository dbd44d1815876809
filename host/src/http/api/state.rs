//! The state that the handlers of the main listener share.

use std::ops::Deref;
use std::sync::Arc;

use hyper::body::Bytes;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact_rest;

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::http::Options;
use crate::http::api::deadline::{COMMAND_TIMEOUT, run_within};
use crate::metrics::Metrics;
use crate::server::log_throttle::LogLimiter;
use crate::server::peer::Peer;
use crate::token::CommandError;

/// How a line about a failed command begins.
pub(crate) const COMMAND_FAILED: &str = "cannot carry out a token command";

/// The state of the main listener.
pub(crate) struct AppState {
    pub(crate) authority: Authority,
    /// The same authority, for calls that block.
    pub(crate) commands: AsyncAuthority,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    /// The OpenAPI document, as JSON.
    pub(crate) document: Option<Bytes>,
    pub(crate) limiters: LogLimiters,
}

/// The limits of the lines that clients of the main listener cause.
pub(crate) struct LogLimiters {
    pub(crate) authentication: LogLimiter,
    pub(crate) commands: LogLimiter,
    pub(crate) bootstrap: LogLimiter,
    pub(crate) malformed: LogLimiter,
}

/// The state, as the handler of one request uses it.
#[derive(Clone)]
pub(crate) struct RequestState {
    app: Arc<AppState>,
    /// The client of the request, which the log names.
    peer: Peer,
}

impl Default for LogLimiters {
    fn default() -> Self {
        Self {
            authentication: LogLimiter::new("cannot authenticate token"),
            commands: LogLimiter::new(COMMAND_FAILED),
            bootstrap: LogLimiter::new("creation of the operator token refused"),
            malformed: LogLimiter::new("malformed request"),
        }
    }
}

impl Deref for RequestState {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.app
    }
}

impl RequestState {
    /// Returns the state for a request of this client.
    pub(crate) fn new(app: Arc<AppState>, peer: Peer) -> Self {
        Self { app, peer }
    }

    fn log(&self, error: &CommandError) {
        log_command_error(error, &self.peer, &self.limiters.commands);
    }

    /// Runs a command on a thread that may block. A command that has begun is completed and
    /// published, even if the client disconnects or gets an error after [`COMMAND_TIMEOUT`].
    pub(crate) async fn command<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, Problem> {
        let result = run_within(&self.commands, COMMAND_TIMEOUT, run).await;
        Ok(result.inspect_err(|error| self.log(error))?)
    }

    /// Reads from the authority, which does not wait for the store.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Authority) -> Result<T, CommandError>,
    ) -> Result<T, Problem> {
        Ok(read(&self.authority).inspect_err(|error| self.log(error))?)
    }
}

/// Logs the cause of a failed command, which the client does not receive.
pub(crate) fn log_command_error(error: &CommandError, peer: &Peer, limiter: &LogLimiter) {
    // Clients send a token where its name is expected.
    let cause = redact_rest(&error.to_string()).into_owned();
    if limiter.allow(peer) {
        tracing::warn!(client_ip = peer.client_ip(), "{COMMAND_FAILED}: {cause}");
    } else {
        tracing::debug!(client_ip = peer.client_ip(), "{COMMAND_FAILED}: {cause}");
    }
}

//! The state that the handlers of the main listener share.

use std::sync::Arc;

use hyper::body::Bytes;
use optoken_protocol::problem::Problem;
use optoken_protocol::redact::redact;

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::http::Options;
use crate::metrics::Metrics;
use crate::server::log_throttle::LogThrottle;
use crate::token::CommandError;

/// The state of the main listener.
pub(crate) struct AppState {
    pub(crate) authority: Authority,
    /// The same authority, for calls that block.
    pub(crate) commands: AsyncAuthority,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    /// The OpenAPI document, as JSON.
    pub(crate) document: Option<Bytes>,
    /// Limits the warnings about rejected creations of the operator token.
    pub(crate) bootstrap_throttle: LogThrottle,
}

impl AppState {
    /// Runs a command on a thread that may block. A command that has begun is completed and
    /// published, even if the client disconnects.
    pub(crate) async fn command<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, Problem> {
        Ok(self.commands.run(run).await.inspect_err(log_command_error)?)
    }

    /// Reads from the authority, which does not wait for the store.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Authority) -> Result<T, CommandError>,
    ) -> Result<T, Problem> {
        Ok(read(&self.authority).inspect_err(log_command_error)?)
    }
}

/// Logs the cause of a failed command, which the client does not receive.
pub(crate) fn log_command_error(error: &CommandError) {
    // Clients send a token where its name is expected.
    tracing::warn!("cannot carry out a token command: {}", redact(&error.to_string()));
}

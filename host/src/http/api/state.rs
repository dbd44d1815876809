//! The state that the handlers of the main listener share.

use std::ops::Deref;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use optoken_protocol::problem::Problem;

use crate::async_authority::AsyncAuthority;
use crate::authority::Authority;
use crate::http::Options;
use crate::http::api::deadline::{COMMAND_TIMEOUT, run_within};
use crate::http::api::ready_headers::ReadyHeaders;
use crate::http::refusal::{Client, Refusals};
use crate::metrics::Metrics;
use crate::secret::Secret;
use crate::token::{CommandError, Principal};

/// The state of the main listener.
pub(crate) struct AppState {
    pub(crate) authority: Authority,
    /// The same authority, for calls that block.
    pub(crate) commands: AsyncAuthority,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    /// The id of the catalog, which every response has.
    pub(crate) cluster_uuid: Option<HeaderValue>,
    /// The responses to accepted tokens.
    pub(crate) verified: ReadyHeaders,
    /// The OpenAPI document, as JSON.
    pub(crate) document: Option<Bytes>,
    pub(crate) refusals: Refusals,
}

/// The state, as the handler of one request uses it.
#[derive(Clone)]
pub(crate) struct RequestState {
    app: Arc<AppState>,
    /// The client of the request, which the log names.
    client: Client,
}

impl Deref for RequestState {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.app
    }
}

impl RequestState {
    /// Returns the state for a request of this client.
    pub(crate) fn new(app: Arc<AppState>, client: Client) -> Self {
        Self { app, client }
    }

    /// Returns the client of the request.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn report(&self, error: &CommandError) {
        self.refusals.command(&self.client, error);
    }

    /// Checks a credential, for a request to this path that no earlier check covers.
    pub(crate) fn authenticate(&self, credential: &Secret, path: &str) -> Result<Principal, Problem> {
        let checked = self.authority.authenticate(credential.expose());
        Ok(checked.inspect_err(|error| self.refusals.authentication(&self.client, error, path))?)
    }

    /// Runs a command on a thread that may block. A command that has begun is completed and
    /// published, even if the client disconnects or gets an error after [`COMMAND_TIMEOUT`].
    pub(crate) async fn command<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, Problem> {
        let result = run_within(&self.commands, COMMAND_TIMEOUT, run).await;
        Ok(result.inspect_err(|error| self.report(error))?)
    }

    /// Reads from the authority, which does not wait for the store.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Authority) -> Result<T, CommandError>,
    ) -> Result<T, Problem> {
        Ok(read(&self.authority).inspect_err(|error| self.report(error))?)
    }
}

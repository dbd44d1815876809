//! The authority for asynchronous programs.
//!
//! A command waits for its store, and the component can only wait by blocking its thread. So
//! commands run on the blocking threads of tokio, a few at a time, and the program awaits them.

use std::sync::Arc;

use tokio::task;

use crate::authority::{Authority, BuildError, Builder};
use crate::token::CommandError;

/// The commands of one authority that block a thread at a time. They wait for each other at the
/// store; a higher number of threads would only wait there. [`AsyncAuthority::read`] needs no
/// permit.
pub const MAX_CONCURRENT_COMMANDS: usize = crate::authority::MAX_CONCURRENT_COMMANDS;

/// An [`Authority`] for asynchronous programs. Clones are the same authority.
///
/// [`run`](Self::run) executes commands and [`read`](Self::read) queries, both in any tokio
/// runtime. [`authenticate`](Authority::authenticate) takes about a microsecond and waits for no
/// store, so a program calls it on [`authority`](Self::authority) directly.
///
/// Dropping a future does not undo a command that has begun: it completes, durable and published,
/// and its secret is lost, as with any lost answer. A command that waits for one of its
/// [`MAX_CONCURRENT_COMMANDS`] permits never begins. So a command in `select!` or a timeout needs a
/// check afterwards; [`stage`](Authority::stage) and [`confirm`](Authority::confirm) can be
/// repeated.
///
/// ```
/// use optoken::authority::Authority;
/// use optoken::store::MemoryStore;
/// use optoken::token::TokenKind;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let authority = Authority::builder(MemoryStore::default()).build_async().await?;
/// let first = authority.run(|authority| authority.create_operator("example")).await?.secret;
/// let old = first.clone();
/// let second = authority.run(move |authority| authority.regenerate(&old, 0, "example")).await?;
///
/// assert!(authority.authority().authenticate(first.expose()).is_err());
/// let principal = authority.authority().authenticate(second.secret.expose())?;
/// assert_eq!(principal.kind, TokenKind::Operator);
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct AsyncAuthority {
    authority: Authority,
}

impl Builder<'_> {
    /// As [`build`](Self::build), on a thread that may block.
    pub async fn build_async(self) -> Result<AsyncAuthority, BuildError> {
        let builder = self.into_owned();
        match task::spawn_blocking(move || builder.build()).await {
            Ok(authority) => Ok(authority?.into_async()),
            Err(error) if error.is_panic() => Err(BuildError::Panicked),
            Err(error) => Err(BuildError::Thread(error.into())),
        }
    }
}

impl Authority {
    /// The same authority, for asynchronous programs.
    pub fn into_async(self) -> AsyncAuthority {
        AsyncAuthority { authority: self }
    }
}

impl AsyncAuthority {
    /// The same authority, for functions that do not wait, such as
    /// [`authenticate`](Authority::authenticate).
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Runs a command on a thread that may block, when one of [`MAX_CONCURRENT_COMMANDS`] permits
    /// is free. A panic is an [`UnknownOutcome`](CommandError::UnknownOutcome).
    pub async fn run<T: Send + 'static>(
        &self,
        command: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        // The semaphore is never closed.
        let permit = Arc::clone(self.authority.command_permits()).acquire_owned().await;
        let permit = permit.map_err(|error| CommandError::Unavailable(error.to_string()))?;
        let run = move |authority: &Authority| {
            let _permit = permit;
            command(authority)
        };
        // The change may have been made before the panic.
        self.spawn_blocking(run, CommandError::UnknownOutcome).await
    }

    /// Runs a query, such as [`Authority::list_tokens`], on a thread that may block, at once. It
    /// waits for no store and no command. A panic is [`Unavailable`](CommandError::Unavailable).
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        self.spawn_blocking(query, CommandError::Unavailable).await
    }

    async fn spawn_blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
        panicked: fn(String) -> CommandError,
    ) -> Result<T, CommandError> {
        let authority = self.authority.clone();
        task::spawn_blocking(move || run(&authority)).await.unwrap_or_else(|error| {
            Err(if error.is_cancelled() {
                CommandError::Unavailable("the runtime is shutting down".to_owned())
            } else {
                panicked("its thread panicked".to_owned())
            })
        })
    }
}

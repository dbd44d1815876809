//! The authority for asynchronous programs.
//!
//! A command waits for its store, and the component has no other way to wait than to block its thread. So commands run on
//! threads that tokio keeps for that, a few at a time, and what is `async` here is the waiting for them.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::authority::{Authority, BuildError, Builder};
use crate::secret::Secret;
use crate::token::{CommandError, IssuedToken, OperatorStatus, Preset, StagedSecret, Timestamp, TokenInfo};

/// How many commands of one authority block a thread at a time. They take turns at the store anyway; more would only wait
/// there. What only reads needs no turn.
pub const MAX_COMMANDS: usize = 4;

/// An [`Authority`] whose commands are awaited. Clones are the same authority.
///
/// Each function does what that of [`Authority`] does that has its name. They must be awaited in a tokio runtime, of any
/// kind.
///
/// Dropping a future before it is ready does not undo a command that has begun: it is carried out, durable and published,
/// and a secret that it has made is lost, as with any answer that is lost. A command that is still waiting for one of its
/// [`MAX_COMMANDS`] turns never begins. So put no command into `select!` or a timeout unless you are prepared to ask
/// afterwards what has become of it; [`stage`](Self::stage) and [`confirm`](Self::confirm) can be repeated, which is what
/// they are for.
///
/// [`authenticate`](Authority::authenticate) is not here: it takes about a microsecond and waits for no store, so it is called on
/// [`blocking`](Self::blocking) from where the request is.
///
/// ```
/// use optoken::authority::Authority;
/// use optoken::store::MemoryStore;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let authority = Authority::builder(MemoryStore::default()).build_async().await?;
/// let first = authority.create_operator("example").await?;
/// let second = authority.regenerate(&first.secret, 0, "example").await?;
///
/// assert!(authority.blocking().authenticate(first.secret.expose()).is_err());
/// assert!(authority.blocking().authenticate(second.secret.expose())?.operator);
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
        let own = self.into_owned();
        match spawn_blocking(move || own.build()).await {
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
    /// The same authority, for what does not wait: [`authenticate`](Authority::authenticate) and what is known without
    /// the store.
    pub fn blocking(&self) -> &Authority {
        &self.authority
    }

    /// [`Authority::create_operator`].
    pub async fn create_operator(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        let origin = origin.to_owned();
        self.command(move |authority| authority.create_operator(&origin)).await
    }

    /// [`Authority::create_named`].
    pub async fn create_named(
        &self,
        credential: &Secret,
        name: &str,
        lifetime_seconds: Option<u64>,
        origin: &str,
    ) -> Result<IssuedToken, CommandError> {
        let (credential, name, origin) = (credential.clone(), name.to_owned(), origin.to_owned());
        self.command(move |authority| authority.create_named(&credential, &name, lifetime_seconds, &origin))
            .await
    }

    /// [`Authority::regenerate`].
    pub async fn regenerate(
        &self,
        credential: &Secret,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<IssuedToken, CommandError> {
        let (credential, origin) = (credential.clone(), origin.to_owned());
        self.command(move |authority| authority.regenerate(&credential, overlap_seconds, &origin)).await
    }

    /// [`Authority::stage`].
    pub async fn stage(
        &self,
        credential: &Secret,
        sha512: Option<&str>,
        ttl_seconds: Option<u64>,
        origin: &str,
    ) -> Result<StagedSecret, CommandError> {
        let (credential, sha512, origin) = (credential.clone(), sha512.map(str::to_owned), origin.to_owned());
        self.command(move |authority| authority.stage(&credential, sha512.as_deref(), ttl_seconds, &origin))
            .await
    }

    /// [`Authority::confirm`].
    pub async fn confirm(
        &self,
        credential: &Secret,
        overlap_seconds: u64,
        origin: &str,
    ) -> Result<TokenInfo, CommandError> {
        let (credential, origin) = (credential.clone(), origin.to_owned());
        self.command(move |authority| authority.confirm(&credential, overlap_seconds, &origin)).await
    }

    /// [`Authority::cancel`].
    pub async fn cancel(&self, credential: &Secret, origin: &str) -> Result<(), CommandError> {
        let (credential, origin) = (credential.clone(), origin.to_owned());
        self.command(move |authority| authority.cancel(&credential, &origin)).await
    }

    /// [`Authority::end_overlap`].
    pub async fn end_overlap(&self, credential: &Secret, origin: &str) -> Result<(), CommandError> {
        let (credential, origin) = (credential.clone(), origin.to_owned());
        self.command(move |authority| authority.end_overlap(&credential, &origin)).await
    }

    /// [`Authority::delete`].
    pub async fn delete(
        &self,
        credential: &Secret,
        name: &str,
        origin: &str,
    ) -> Result<TokenInfo, CommandError> {
        let (credential, name, origin) = (credential.clone(), name.to_owned(), origin.to_owned());
        self.command(move |authority| authority.delete(&credential, &name, &origin)).await
    }

    /// [`Authority::recover`].
    pub async fn recover(&self, origin: &str) -> Result<IssuedToken, CommandError> {
        let origin = origin.to_owned();
        self.command(move |authority| authority.recover(&origin)).await
    }

    /// [`Authority::preset_token`].
    pub async fn preset_token(
        &self,
        name: &str,
        token: &Secret,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        let (name, token, origin) = (name.to_owned(), token.clone(), origin.to_owned());
        self.command(move |authority| authority.preset_token(&name, &token, expiry, &origin)).await
    }

    /// [`Authority::preset_hash`].
    pub async fn preset_hash(
        &self,
        name: &str,
        sha512: &str,
        expiry: Option<Timestamp>,
        origin: &str,
    ) -> Result<Preset, CommandError> {
        let (name, sha512, origin) = (name.to_owned(), sha512.to_owned(), origin.to_owned());
        self.command(move |authority| authority.preset_hash(&name, &sha512, expiry, &origin)).await
    }

    /// [`Authority::list`]. It waits for no store and no command, but lists up to ten thousand tokens.
    pub async fn list(&self) -> Result<Vec<TokenInfo>, CommandError> {
        self.read(Authority::list).await
    }

    /// [`Authority::status`]. It waits for no store and no command.
    pub async fn status(&self) -> Result<Option<OperatorStatus>, CommandError> {
        self.read(Authority::status).await
    }

    /// [`Authority::audit`]. It waits for no store and no command.
    pub async fn audit(&self) -> Result<Vec<String>, CommandError> {
        self.read(Authority::audit).await
    }

    /// Runs this on a thread that may block, when it is its turn.
    pub(crate) async fn command<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        // The semaphore is never closed.
        let turn = Arc::clone(self.authority.turns()).acquire_owned().await;
        let turn = turn.map_err(|error| CommandError::Unavailable(error.to_string()))?;
        let run = move |authority: &Authority| {
            let _turn = turn;
            run(authority)
        };
        // A thread that panics has gone nobody knows how far.
        self.on_a_thread(run, CommandError::UnknownOutcome).await
    }

    /// Runs this, which changes nothing, on a thread that may block, at once.
    async fn read<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        self.on_a_thread(run, CommandError::Unavailable).await
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
        panicked: fn(String) -> CommandError,
    ) -> Result<T, CommandError> {
        let authority = self.authority.clone();
        spawn_blocking(move || run(&authority)).await.unwrap_or_else(|error| {
            Err(if error.is_cancelled() {
                CommandError::Unavailable("the runtime is shutting down".to_owned())
            } else {
                panicked("its thread panicked".to_owned())
            })
        })
    }
}

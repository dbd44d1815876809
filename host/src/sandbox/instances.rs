//! The two kinds of instances and the calls into them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::access::{Access, AuthorizeError};
use crate::command::{Command, Outcome};
use crate::sandbox::bindings;
use crate::sandbox::bindings::exports::optoken::authority::{recovery, types};
use crate::sandbox::engine::{State, instantiate, start_budget};
use crate::sandbox::error::Trap;
use crate::sandbox::limits::{AUTHENTICATE_BUDGET, COMMAND_BUDGET, MAX_COMMANDS};
use crate::sandbox::linker::{CatalogStoreCtx, StoreEffects};
use crate::sandbox::snapshot::VersionedSnapshot;
use crate::secret::Secret;
use crate::store::{Store, Version};
use crate::token::{
    AuditRecords, AuthenticateError, CatalogState, CommandError, ComponentInfo, ConfiguredToken,
    OperatorStatus, Principal, TokenInfo,
};

/// The result of a call into the component; a trap if it returned none.
pub(crate) type CallResult<T> = Result<Result<T, CommandError>, Trap>;

/// An instance for one command. Afterwards it may become a read instance.
pub(crate) struct CommandInstance {
    /// How many commands the instance has executed.
    commands: u32,
    store: wasmtime::Store<State>,
    instance: bindings::Authority,
}

/// What a command returned and did.
pub(crate) struct Executed {
    pub(crate) result: CallResult<Outcome>,
    /// The effects on the store.
    pub(crate) effects: StoreEffects,
    /// The instance, unless the command failed or was its last.
    pub(crate) instance: Option<CommandInstance>,
}

impl CommandInstance {
    pub(crate) fn open(pre: &bindings::AuthorityPre<State>, store: Arc<dyn Store>) -> wasmtime::Result<Self> {
        let (store, instance) = instantiate(pre, CatalogStoreCtx::from_store(store), COMMAND_BUDGET)?;
        Ok(Self { commands: 0, store, instance })
    }

    /// Executes a command. An instance whose command failed is dropped: only a success shows which
    /// state it holds.
    pub(crate) fn execute(mut self, command: &Command<'_>, origin: &str) -> Executed {
        start_budget(&mut self.store);
        let result = self.call(command, origin).map_err(Trap);
        let result = result.map(|result| result.map_err(CommandError::from));
        self.commands = self.commands.saturating_add(1);
        // Without the store from here on.
        let effects = self.store.data_mut().catalog.begin_reading(Arc::default());
        let is_last = self.commands >= MAX_COMMANDS;
        let instance = (matches!(result, Ok(Ok(_))) && !is_last).then_some(self);
        Executed { result, effects, instance }
    }

    /// Makes it a read instance of this snapshot, if it holds that very state.
    pub(crate) fn into_reader(mut self, snapshot: VersionedSnapshot) -> Result<Option<ReadInstance>, Trap> {
        let VersionedSnapshot { number, snapshot, confirmed } = snapshot;
        let state = self.store.data_mut();
        state.catalog.begin_reading(Arc::clone(&snapshot));
        state.budget = AUTHENTICATE_BUDGET;
        let Self { commands, store, instance } = self;
        let mut reader = ReadInstance { number, confirmed, commands, store, instance };
        let held = reader.state()?.ok().flatten().map(|state| state.version);
        let is_same = held.as_deref() == snapshot.version().map(Version::as_str);
        Ok(is_same.then_some(reader))
    }

    fn call<'a>(
        &mut self,
        command: &Command<'a>,
        origin: &'a str,
    ) -> wasmtime::Result<Result<Outcome, types::CommandError>> {
        let Self { store, instance, .. } = self;
        let tokens = instance.optoken_authority_tokens();
        let provision = instance.optoken_authority_provision();
        let caller = |credential: &'a Secret| types::Caller { credential: credential.expose(), origin };
        let texts = |texts: Option<&'a [String]>| {
            texts.map(|texts| texts.iter().map(String::as_str).collect::<Vec<_>>())
        };
        Ok(match *command {
            Command::Initialize => provision.call_initialize(store, origin)?.map(Outcome::CatalogId),
            Command::CreateOperator => tokens.call_create_operator(store, origin)?.map(issued),
            Command::CreateNamed { credential, name, permissions, lifetime_seconds } => tokens
                .call_create_named(
                    store,
                    caller(credential),
                    name,
                    texts(permissions).as_deref(),
                    lifetime_seconds,
                )?
                .map(issued),
            Command::Regenerate { credential, overlap_seconds } => {
                tokens.call_regenerate(store, caller(credential), Some(overlap_seconds))?.map(issued)
            }
            Command::Stage { credential, sha512, ttl_seconds } => tokens
                .call_stage(store, caller(credential), sha512, ttl_seconds)?
                .map(|staged| Outcome::Staged(staged.into())),
            Command::Confirm { credential, overlap_seconds } => {
                tokens.call_confirm(store, caller(credential), Some(overlap_seconds))?.map(changed)
            }
            Command::Cancel { credential } => {
                tokens.call_cancel(store, caller(credential))?.map(|()| Outcome::Done)
            }
            Command::EndOverlap { credential } => {
                tokens.call_end_overlap(store, caller(credential))?.map(|()| Outcome::Done)
            }
            Command::Delete { credential, name } => {
                tokens.call_delete(store, caller(credential), name)?.map(changed)
            }
            Command::Recover => {
                let recovery = instance.optoken_authority_recovery();
                recovery.call_regenerate(store, origin, recovery::Reason::LostSecret)?.map(issued)
            }
            Command::Restore => {
                let recovery = instance.optoken_authority_recovery();
                recovery.call_regenerate(store, origin, recovery::Reason::Restore)?.map(issued)
            }
            Command::ImportHash(ConfiguredToken { name, sha512, permissions, description, expiry }) => {
                provision
                    .call_import_hash(
                        store,
                        name,
                        sha512,
                        texts(*permissions).as_deref(),
                        *description,
                        *expiry,
                        origin,
                    )?
                    .map(|outcome| Outcome::Imported(outcome.into()))
            }
            Command::ReplaceOperator { current, sha512, overlap_seconds } => provision
                .call_replace_operator(store, current, sha512, Some(overlap_seconds), origin)?
                .map(|outcome| Outcome::Replaced(outcome.into())),
        })
    }
}

fn issued(issued: types::IssuedToken) -> Outcome {
    Outcome::Issued(issued.into())
}

fn changed(info: types::TokenInfo) -> Outcome {
    Outcome::Changed(info.into())
}

/// An instance that reads one snapshot.
pub(crate) struct ReadInstance {
    /// The number of the snapshot.
    pub(crate) number: u64,
    /// When the store last confirmed the snapshot.
    pub(crate) confirmed: Arc<AtomicU64>,
    /// How many commands the instance has executed before.
    commands: u32,
    store: wasmtime::Store<State>,
    instance: bindings::Authority,
}

impl ReadInstance {
    pub(crate) fn open(
        pre: &bindings::AuthorityPre<State>,
        VersionedSnapshot { number, snapshot, confirmed }: VersionedSnapshot,
    ) -> Result<Self, Trap> {
        let catalog = CatalogStoreCtx::from_snapshot(snapshot);
        let (store, instance) = instantiate(pre, catalog, AUTHENTICATE_BUDGET).map_err(Trap)?;
        Ok(Self { number, confirmed, commands: 0, store, instance })
    }

    /// Makes it an instance for one command. What it holds spares it to read the document of the
    /// store, if that has the same version.
    pub(crate) fn into_command(mut self, store: Arc<dyn Store>) -> CommandInstance {
        let state = self.store.data_mut();
        state.catalog.begin_commanding(store);
        state.budget = COMMAND_BUDGET;
        let Self { commands, store, instance, .. } = self;
        CommandInstance { commands, store, instance }
    }

    /// `authenticator.authenticate`
    pub(crate) fn authenticate(
        &mut self,
        credential: &str,
    ) -> Result<Result<Principal, AuthenticateError>, Trap> {
        start_budget(&mut self.store);
        let authenticator = self.instance.optoken_authority_authenticator();
        let result = authenticator.call_authenticate(&mut self.store, credential).map_err(Trap)?;
        Ok(result.map(Principal::from).map_err(AuthenticateError::from))
    }

    /// `authenticator.authorize`
    pub(crate) fn authorize(
        &mut self,
        credential: &str,
        access: &Access<'_>,
    ) -> Result<Result<Principal, AuthorizeError>, Trap> {
        start_budget(&mut self.store);
        let authenticator = self.instance.optoken_authority_authenticator();
        let result =
            authenticator.call_authorize(&mut self.store, credential, access.into()).map_err(Trap)?;
        Ok(result.map(Principal::from).map_err(AuthorizeError::from))
    }

    /// `authenticator.describe`
    pub(crate) fn describe(
        &mut self,
        credential: &str,
    ) -> Result<Result<TokenInfo, AuthenticateError>, Trap> {
        start_budget(&mut self.store);
        let authenticator = self.instance.optoken_authority_authenticator();
        let result = authenticator.call_describe(&mut self.store, credential).map_err(Trap)?;
        Ok(result.map(TokenInfo::from).map_err(AuthenticateError::from))
    }

    /// `authenticator.state`
    pub(crate) fn state(&mut self) -> CallResult<Option<CatalogState>> {
        self.read(|instance, store| instance.optoken_authority_authenticator().call_state(store))
            .map(|result| result.map(|state| state.map(Into::into)))
    }

    /// `tokens.list-tokens`
    pub(crate) fn list_tokens(&mut self) -> CallResult<Vec<TokenInfo>> {
        self.read(|instance, store| instance.optoken_authority_tokens().call_list_tokens(store))
            .map(|result| result.map(|tokens| tokens.into_iter().map(Into::into).collect()))
    }

    /// `tokens.audit`
    pub(crate) fn audit(&mut self, after_sequence: Option<u64>) -> CallResult<AuditRecords> {
        self.read(|instance, store| instance.optoken_authority_tokens().call_audit(store, after_sequence))
            .map(|result| result.map(Into::into))
    }

    /// `tokens.status`
    pub(crate) fn status(&mut self) -> CallResult<Option<OperatorStatus>> {
        self.read(|instance, store| instance.optoken_authority_tokens().call_status(store))
            .map(|result| result.map(|status| status.map(Into::into)))
    }

    /// `provision.hash-token`
    pub(crate) fn hash_token(&mut self, token: &Secret) -> CallResult<String> {
        self.read(|instance, store| {
            instance.optoken_authority_provision().call_hash_token(store, token.expose())
        })
    }

    /// `component-info.get-info`
    pub(crate) fn component_info(&mut self) -> CallResult<ComponentInfo> {
        self.read(|instance, store| instance.optoken_authority_component_info().call_get_info(store).map(Ok))
            .map(|result| result.map(Into::into))
    }

    fn read<T>(
        &mut self,
        call: impl FnOnce(
            &bindings::Authority,
            &mut wasmtime::Store<State>,
        ) -> wasmtime::Result<Result<T, types::CommandError>>,
    ) -> CallResult<T> {
        start_budget(&mut self.store);
        Ok(call(&self.instance, &mut self.store).map_err(Trap)?.map_err(CommandError::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::built_in::BUILT_IN_COMPONENT;
    use crate::sandbox::pool::Sandbox;
    use crate::store::MemoryStore;

    #[test]
    fn role_decides_on_store_and_budget() {
        let sandbox = Sandbox::new(BUILT_IN_COMPONENT).unwrap();
        let store = Arc::<MemoryStore>::default();
        let command = sandbox.command_instance(Arc::<MemoryStore>::clone(&store)).unwrap();
        assert_eq!(command.store.data().budget, COMMAND_BUDGET);
        let command = command.execute(&Command::CreateOperator, "test").instance.unwrap();
        let entry = store.load().unwrap();
        let snapshot = Arc::new(entry.clone().into());
        let snapshot = VersionedSnapshot { number: 1, snapshot, confirmed: Arc::default() };

        let reader = command.into_reader(snapshot.clone()).unwrap().unwrap();
        assert_eq!(reader.store.data().budget, AUTHENTICATE_BUDGET);
        let command = reader.into_command(Arc::<MemoryStore>::clone(&store));
        assert_eq!(command.store.data().budget, COMMAND_BUDGET);
        let command = command.execute(&Command::Recover, "test").instance.unwrap();
        let changed = store.load().unwrap();
        assert_ne!(changed, entry);

        // Without the store it can change nothing.
        let snapshot = VersionedSnapshot { snapshot: Arc::new(changed.clone().into()), ..snapshot };
        let mut reader = command.into_reader(snapshot).unwrap().unwrap();
        let recovery = reader.instance.optoken_authority_recovery();
        let reason = recovery::Reason::LostSecret;
        assert!(recovery.call_regenerate(&mut reader.store, "test", reason).is_err());
        assert_eq!(store.load().unwrap(), changed);
    }
}

//! The wasmtime engine: configuration, and instances with their budget.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreLimits, UpdateDeadline,
};

use crate::sandbox::bindings;
use crate::sandbox::contract_check;
use crate::sandbox::engine_config;
use crate::sandbox::epoch::met_call;
use crate::sandbox::error::SandboxError;
use crate::sandbox::limits::{
    MAX_CORE_INSTANCES, MAX_HOSTCALL_DATA, MAX_MEMORIES, MAX_MEMORY, MAX_TABLE_ELEMENTS, MAX_TABLES,
};
use crate::sandbox::linker::{self, CatalogStoreCtx};

/// The memory of a dropped instance that is wiped and stays mapped for the next one, in bytes. The
/// rest goes back to the kernel. The stack of the built-in component ends at one mebibyte; a small
/// catalog lies above it.
const RESIDENT_MEMORY: usize = 2 << 20;
/// The same for its tables: all of them.
const RESIDENT_TABLE: usize = MAX_TABLE_ELEMENTS * size_of::<usize>();

/// The host state of an instance.
pub(crate) struct State {
    pub(crate) catalog: CatalogStoreCtx,
    limits: StoreLimits,
    /// The processor time that a call may use. A change applies from the next tick on.
    pub(crate) budget: Duration,
    /// The processor time of the thread at the first tick of the current call.
    since: Option<Duration>,
}

/// An engine with room for `instances` at a time.
///
/// The pool makes instantiation cheap and bounds all memory in advance. It reserves much address
/// space, which some machines do not grant (`ulimit -v`). Those allocate instances one by one, with
/// the limits of the store alone.
pub(crate) fn engine(instances: u32) -> Result<Engine, SandboxError> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(instances.saturating_mul(MAX_MEMORIES))
        .total_tables(instances.saturating_mul(MAX_TABLES))
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE_ELEMENTS)
        .linear_memory_keep_resident(RESIDENT_MEMORY)
        .table_keep_resident(RESIDENT_TABLE)
        // Wipes only the pages that the instance has used, where the kernel finds them (Linux 6.7).
        .pagemap_scan(Enabled::Auto);
    let mut config = engine_config::config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config).or_else(|error| {
        tracing::warn!("no instance pool on this machine, continuing without: {error:#}");
        config
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            // The default reserves 4 GiB of address space for each memory to save a comparison. The
            // machine is short of address space. The code has the comparison then, so the machine
            // code of the built-in component does not fit.
            .memory_reservation(MAX_MEMORY as u64);
        Engine::new(&config).map_err(SandboxError::Engine)
    })
}

pub(crate) fn link(
    engine: &Engine,
    component: &Component,
) -> Result<bindings::AuthorityPre<State>, SandboxError> {
    let mut linker = Linker::<State>::new(engine);
    linker::add_to_linker(&mut linker, |state| &mut state.catalog)
        .and_then(|()| linker::add_wasi_to_linker(&mut linker))
        .map_err(SandboxError::Engine)?;
    linker
        .instantiate_pre(component)
        .and_then(bindings::AuthorityPre::new)
        // The contract check found most differences before; this reports the rest in the words of
        // wasmtime.
        .map_err(|error| contract_check::mismatch_error(engine, component, format!("{error:#}")))
}

pub(crate) fn instantiate(
    pre: &bindings::AuthorityPre<State>,
    catalog: CatalogStoreCtx,
    budget: Duration,
) -> wasmtime::Result<(wasmtime::Store<State>, bindings::Authority)> {
    let state = State { catalog, limits: linker::store_limits(), budget, since: None };
    let mut store = wasmtime::Store::new(pre.engine(), state);
    store.limiter(|state| &mut state.limits);
    store.set_hostcall_fuel(MAX_HOSTCALL_DATA);
    // Processor time, not wall-clock time: a busy machine or a slow store must not count as a loop.
    // Reading it is a system call. A call that ends before its first tick, as all should, reads
    // none.
    store.epoch_deadline_callback(|mut store| {
        met_call();
        let now: Duration = clock_gettime(ClockId::ThreadCPUTime).try_into()?;
        let state = store.data_mut();
        let since = *state.since.get_or_insert(now);
        let budget = state.budget;
        wasmtime::ensure!(
            now.saturating_sub(since) <= budget,
            "it used more than {budget:?} of processor time"
        );
        Ok(UpdateDeadline::Continue(1))
    });
    start_budget(&mut store);
    let instance = pre.instantiate(&mut store)?;
    Ok((store, instance))
}

/// Starts the budget of a call: its processor time counts from the next tick on.
pub(crate) fn start_budget(store: &mut wasmtime::Store<State>) {
    store.data_mut().since = None;
    store.set_epoch_deadline(1);
}

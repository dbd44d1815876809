//! A store in memory that injects the faults of `faults.json` (`tests/conformance/README.md`).

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use optoken::sandbox::wasmtime::error::Context as _;
use optoken::sandbox::wasmtime::{Result, bail, ensure};
use optoken::store::{Entry, Store, StoreError, SwapOutcome, Version};
use serde_json::Value;

/// The store of the cases, which run one after the other.
#[derive(Default)]
pub(crate) struct ScriptedStore(Mutex<State>);

#[derive(Default)]
struct State {
    /// Keeps its count from case to case, so that no version repeats.
    swaps: u64,
    document: Option<String>,
    faults: Value,
    /// Pending faults of the current call.
    load_faults: VecDeque<Fault>,
    swap_faults: VecDeque<Fault>,
    /// The thread of the current call. Other threads of a host may load the catalog, too.
    caller: Option<ThreadId>,
}

enum Fault {
    /// The operation succeeds.
    None,
    /// The operation does nothing and returns this error.
    Failed(StoreError),
    /// The operation succeeds, and returns this error all the same.
    Written(StoreError),
    /// Another writer stores this document just before.
    Overtaken(String),
}

impl ScriptedStore {
    /// Begins a case: reads its document and its faults.
    pub(crate) fn open(&self, case: &Path) -> Result<()> {
        let read = |name: &str| match fs::read_to_string(case.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text.map(Some).with_context(|| format!("{name} of {}", case.display())),
        };
        let mut state = self.state();
        state.document = read("before.jsonl")?;
        state.swaps += 1;
        state.faults = read("faults.json")?.map_or(Ok(Value::Null), |text| serde_json::from_str(&text))?;
        Ok(())
    }

    /// Returns the value of every random number of the case, if it is fixed.
    pub(crate) fn random(&self) -> Option<u64> {
        self.state().faults.get("random").and_then(Value::as_u64)
    }

    /// Begins call number `call`, counted from 1, of the current thread.
    pub(crate) fn begin(&self, case: &Path, call: usize) -> Result<()> {
        let mut state = self.state();
        let faults = state.faults.get("calls").and_then(|calls| calls.get(call.to_string()));
        let list = |name: &str| {
            let faults = faults.and_then(|faults| faults.get(name)?.as_array());
            faults.into_iter().flatten().map(|fault| read_fault(fault, case, name == "swap")).collect()
        };
        let (loads, swaps): (Result<_>, Result<_>) = (list("load"), list("swap"));
        (state.load_faults, state.swap_faults) = (loads?, swaps?);
        state.caller = Some(thread::current().id());
        Ok(())
    }

    /// Ends the call. Every fault of the call must have occurred.
    pub(crate) fn end(&self) -> Result<()> {
        let mut state = self.state();
        state.caller = None;
        let left = (state.load_faults.len(), state.swap_faults.len());
        ensure!(left == (0, 0), "{} faults of loads and {} of swaps did not occur", left.0, left.1);
        Ok(())
    }

    /// Returns the stored document.
    pub(crate) fn document(&self) -> Option<String> {
        self.state().document.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_fault(fault: &Value, case: &Path, is_swap: bool) -> Result<Fault> {
    if fault.is_null() {
        return Ok(Fault::None);
    }
    let one = fault.as_object().filter(|fault| fault.len() == 1).and_then(|fault| fault.iter().next());
    let (kind, detail) = one.with_context(|| format!("{fault} is not a fault"))?;
    let text = || detail.as_str().map(str::to_owned).with_context(|| format!("{fault} is not a fault"));
    Ok(match (kind.as_str(), is_swap) {
        // `StoreError` has no `other`. These are the errors that the component treats it as.
        ("unavailable", _) | ("other", false) => Fault::Failed(StoreError::Unavailable(text()?)),
        ("unknown-outcome" | "other", true) => Fault::Failed(StoreError::UnknownOutcome(text()?)),
        ("written", true) => match read_fault(detail, case, true)? {
            Fault::Failed(error) => Fault::Written(error),
            _ => bail!("{fault} is not a fault"),
        },
        ("overtaken", true) => Fault::Overtaken(fs::read_to_string(case.join(text()?))?),
        _ => bail!("{fault} is not a fault"),
    })
}

impl State {
    fn is_caller(&self) -> bool {
        self.caller == Some(thread::current().id())
    }

    fn version(&self) -> Option<Version> {
        self.document.as_ref().map(|_| Version::from(self.swaps.to_string()))
    }

    fn put(&mut self, document: String) {
        self.swaps += 1;
        self.document = Some(document);
    }
}

impl Store for ScriptedStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        Ok(self.state().version())
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        let mut state = self.state();
        if state.is_caller()
            && let Some(Fault::Failed(error)) = state.load_faults.pop_front()
        {
            return Err(error);
        }
        let document = state.document.clone();
        Ok(state.version().zip(document).map(|(version, document)| Entry { version, document }))
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let mut state = self.state();
        let fault = if state.is_caller() { state.swap_faults.pop_front() } else { None };
        match &fault {
            Some(Fault::Failed(error)) => return Err(error.clone()),
            Some(Fault::Overtaken(document)) => state.put(document.clone()),
            Some(Fault::None | Fault::Written(_)) | None => {}
        }
        if state.version().as_ref() != expected {
            return Ok(SwapOutcome::Stale);
        }
        state.put(document.to_owned());
        match (fault, state.version()) {
            (Some(Fault::Written(error)), _) => Err(error),
            (_, Some(version)) => Ok(SwapOutcome::Swapped(version)),
            (_, None) => Ok(SwapOutcome::Stale),
        }
    }
}

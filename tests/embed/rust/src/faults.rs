//! A store in memory that fails where `faults.json` says so (`tests/conformance/README.md`).

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

/// The store of one case after the other.
#[derive(Default)]
pub(crate) struct ScriptedStore(Mutex<State>);

#[derive(Default)]
struct State {
    /// Counts on from case to case, so that no version comes twice.
    swaps: u64,
    document: Option<String>,
    faults: Value,
    /// Those of the call that is played, and whose call that is: a host may have a thread that looks at the store by itself.
    loads: VecDeque<Fault>,
    swaps_to_come: VecDeque<Fault>,
    player: Option<ThreadId>,
}

enum Fault {
    Nothing,
    /// Nothing is done, and this is answered.
    Failed(StoreError),
    /// It is done, and this is answered all the same.
    Written(StoreError),
    /// Somebody else stores this document just before.
    Overtaken(String),
}

impl ScriptedStore {
    /// Begins a case: its document, and what is to go wrong.
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

    /// What every random number of the case is, if it is not random.
    pub(crate) fn random(&self) -> Option<u64> {
        self.state().faults.get("random").and_then(Value::as_u64)
    }

    /// Begins the call of this number, counted from 1, which this thread makes.
    pub(crate) fn begin(&self, case: &Path, call: usize) -> Result<()> {
        let mut state = self.state();
        let faults = state.faults.get("calls").and_then(|calls| calls.get(call.to_string()));
        let list = |name: &str| {
            let faults = faults.and_then(|faults| faults.get(name)?.as_array());
            faults.into_iter().flatten().map(|fault| read_fault(fault, case, name == "swap")).collect()
        };
        let (loads, swaps): (Result<_>, Result<_>) = (list("load"), list("swap"));
        (state.loads, state.swaps_to_come) = (loads?, swaps?);
        state.player = Some(thread::current().id());
        Ok(())
    }

    /// Ends the call: all that was to go wrong must have.
    pub(crate) fn end(&self) -> Result<()> {
        let mut state = self.state();
        state.player = None;
        let left = (state.loads.len(), state.swaps_to_come.len());
        ensure!(left == (0, 0), "{} loads and {} swaps that were to fail never came", left.0, left.1);
        Ok(())
    }

    /// What is stored.
    pub(crate) fn document(&self) -> Option<String> {
        self.state().document.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_fault(fault: &Value, case: &Path, of_swap: bool) -> Result<Fault> {
    if fault.is_null() {
        return Ok(Fault::Nothing);
    }
    let one = fault.as_object().filter(|fault| fault.len() == 1).and_then(|fault| fault.iter().next());
    let (kind, detail) = one.with_context(|| format!("{fault} is no fault"))?;
    let text = || detail.as_str().map(str::to_owned).with_context(|| format!("{fault} is no fault"));
    Ok(match (kind.as_str(), of_swap) {
        // Stores here have no word for `other`. They say what the component takes it for.
        ("unavailable", _) | ("other", false) => Fault::Failed(StoreError::Unavailable(text()?)),
        ("unknown-outcome" | "other", true) => Fault::Failed(StoreError::UnknownOutcome(text()?)),
        ("written", true) => match read_fault(detail, case, true)? {
            Fault::Failed(error) => Fault::Written(error),
            _ => bail!("{fault} is no fault"),
        },
        ("overtaken", true) => Fault::Overtaken(fs::read_to_string(case.join(text()?))?),
        _ => bail!("{fault} is no fault"),
    })
}

impl State {
    fn is_player(&self) -> bool {
        self.player == Some(thread::current().id())
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
        if state.is_player()
            && let Some(Fault::Failed(error)) = state.loads.pop_front()
        {
            return Err(error);
        }
        let document = state.document.clone();
        Ok(state.version().zip(document).map(|(version, document)| Entry { version, document }))
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        let mut state = self.state();
        let fault = if state.is_player() { state.swaps_to_come.pop_front() } else { None };
        match &fault {
            Some(Fault::Failed(error)) => return Err(error.clone()),
            Some(Fault::Overtaken(document)) => state.put(document.clone()),
            Some(Fault::Nothing | Fault::Written(_)) | None => {}
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

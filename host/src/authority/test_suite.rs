//! Functions for the conformance runner and the benchmarks of this repository.

use std::sync::Arc;

use crate::authority::api::Authority;
use crate::command::Command;
use crate::sandbox::Trap;
use crate::token::CommandError;

impl Authority {
    /// `provision.initialize` with this origin, which [`Builder::build`](crate::authority::Builder::build)
    /// calls with its own.
    pub fn initialize(&self, origin: &str) -> Result<String, CommandError> {
        self.execute(&Command::Initialize, origin)
    }

    /// Accepts any state as the next one: the runner plays its cases on one store.
    pub fn forget_catalog(&self) {
        self.shared.forget_catalog();
    }

    /// Makes and drops an instance as a command does.
    pub fn instantiate(&self) -> Result<(), Trap> {
        self.shared.sandbox.command_instance(Arc::new(self.shared.checked_store())).map(drop)
    }
}

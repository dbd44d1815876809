//! The prebuilt components are built from the sources of this checkout.

use std::path::Path;

use crate::needs::{self, BASH};

pub(crate) fn prebuilt_components_match_sources() {
    // Compares hashes, which needs no compiler for wasm. CI also builds the components again.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../component/build");
    let check = needs::command(BASH).arg(script).arg("--check").output().unwrap();
    let stderr = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "the component is out of date:\n{stderr}");
}

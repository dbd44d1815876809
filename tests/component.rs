//! The built component as it is shipped: what it may touch, how large it is, and whether it is of these sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest as _, Sha256};
use wit_component::{DecodedWasm, OutputToString, WitPrinter};
use wit_parser::{WorldItem, WorldKey};

/// The largest component that is shipped, in bytes.
const MAX_SIZE: usize = 128 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares with a file beside the tests; `BLESS=1` writes it instead.
fn assert_golden(name: &str, actual: &str) {
    let file = root().join("tests/golden").join(name);
    if env::var_os("BLESS").is_some() {
        fs::write(&file, actual).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        actual == expected,
        "{} differs; if that is right, run again with BLESS=1:\n{actual}",
        file.display()
    );
}

/// The world of the built component, as its own bytes tell it.
fn decoded() -> (wit_parser::Resolve, wit_parser::WorldId) {
    match wit_component::decode(optoken::sandbox::BUILT_IN_COMPONENT).unwrap() {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => panic!("it holds no code"),
    }
}

fn names<'a>(
    resolve: &wit_parser::Resolve,
    items: impl Iterator<Item = (&'a WorldKey, &'a WorldItem)>,
) -> Vec<String> {
    items.map(|(key, _)| resolve.name_world_key(key)).collect()
}

#[test]
fn it_imports_randomness_time_and_the_store_and_nothing_else() {
    let (resolve, world) = decoded();
    let mut imports = names(&resolve, resolve.worlds[world].imports.iter());
    imports.sort();
    let mut text = imports.join("\n");
    text.push('\n');
    assert_golden("imports.txt", &text);
}

#[test]
fn its_contract_is_the_one_that_is_written_down() {
    // The whole of what a host sees, types and functions included: a change of it shows up in review.
    let (resolve, world) = decoded();
    let ours = |id: &wit_parser::PackageId| resolve.packages[*id].name.namespace == "optoken";
    let package = resolve.packages.iter().map(|(id, _)| id).find(ours).unwrap();
    assert_ne!(resolve.worlds[world].package, Some(package), "a decoded component is a package of its own");
    let mut printer = WitPrinter::<OutputToString>::default();
    printer.emit_docs(false);
    printer.print(&resolve, package, &[]).unwrap();
    assert_golden("contract.wit", &printer.output.to_string());

    let exports = names(&resolve, resolve.worlds[world].exports.iter());
    assert_eq!(
        exports,
        ["types", "authenticator", "tokens", "recovery", "provision"]
            .map(|name| format!("optoken:authority/{name}@0.1.0"))
    );
}

#[test]
fn it_is_small() {
    let size = optoken::sandbox::BUILT_IN_COMPONENT.len();
    assert!(size <= MAX_SIZE, "{size} bytes");
}

#[test]
fn it_is_built_from_these_sources() {
    // No compiler for wasm is needed to find out, so this runs everywhere; CI builds it again where it can.
    let check = Command::new("bash").arg(root().join("component/build")).arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "the component is out of date:\n{said}");
}

#[test]
fn its_manifest_tells_its_hash() {
    let manifest = fs::read_to_string(root().join("component/prebuilt/manifest.toml")).unwrap();
    let digest = Sha256::digest(optoken::sandbox::BUILT_IN_COMPONENT);
    let hex = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert!(manifest.contains(&format!("artefact-sha256 = \"{hex}\"")), "{manifest}");
}

#[test]
fn it_knows_no_path_of_the_machine_that_built_it() {
    let text = String::from_utf8_lossy(optoken::sandbox::BUILT_IN_COMPONENT);
    let checkout = root().canonicalize().unwrap();
    for path in [checkout.to_str().unwrap(), "/home/", "/root/", "/usr/", ".cargo", "registry"] {
        assert!(!text.contains(path), "{path}");
    }
}

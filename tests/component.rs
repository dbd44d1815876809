//! The prebuilt components: imports, contract, size and hashes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use optoken::authority::Authority;
use optoken::sandbox::CONTRACT;
use optoken::store::MemoryStore;
use sha2::{Digest as _, Sha256};
use wit_component::{DecodedWasm, OutputToString, WitPrinter};
use wit_parser::{WorldItem, WorldKey};

/// Limit for the size of the component, in bytes.
///
/// The core is compiled for speed as well: nine kilobytes, for a third of the time of a decoding.
/// The inner loop of SHA-512 is unrolled: three, for a tenth of an authentication.
const MAX_SIZE: usize = 160 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a text with a golden file. `BLESS=1` writes the file first.
fn assert_golden(name: &str, actual: &str) {
    let file = root().join("tests/golden").join(name);
    if env::var_os("BLESS").is_some() {
        fs::write(&file, actual).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        actual == expected,
        "{} differs; to accept the change, run again with BLESS=1:\n{actual}",
        file.display()
    );
}

/// Components for unmodified runtimes, which need WASI alone.
const STANDALONE: [&str; 2] = ["optoken-cli", "optoken-http"];

fn prebuilt(name: &str) -> Vec<u8> {
    fs::read(root().join("component/prebuilt").join(name).with_extension("wasm")).unwrap()
}

/// Decodes the world of a component.
fn decode(component: &[u8]) -> (wit_parser::Resolve, wit_parser::WorldId) {
    match wit_component::decode(component).unwrap() {
        DecodedWasm::Component(resolve, world) => (resolve, world),
        DecodedWasm::WitPackage(..) => panic!("a WIT package, not a component"),
    }
}

fn names<'a>(
    resolve: &wit_parser::Resolve,
    items: impl Iterator<Item = (&'a WorldKey, &'a WorldItem)>,
) -> Vec<String> {
    items.map(|(key, _)| resolve.name_world_key(key)).collect()
}

#[test]
fn component_imports_equal_golden_file() {
    assert_golden("imports.txt", &imports(optoken::sandbox::BUILT_IN_COMPONENT));
}

fn imports(component: &[u8]) -> String {
    let (resolve, world) = decode(component);
    let mut imports = names(&resolve, resolve.worlds[world].imports.iter());
    imports.sort();
    let mut text = imports.join("\n");
    text.push('\n');
    text
}

#[test]
fn standalone_components_import_wasi_alone() {
    for (name, export) in STANDALONE.into_iter().zip(["wasi:cli/run", "wasi:http/incoming-handler"]) {
        let component = prebuilt(name);
        let imports = imports(&component);
        assert!(imports.lines().all(|import| import.starts_with("wasi:")), "{imports}");
        assert_golden(&format!("{name}.imports.txt"), &imports);
        let (resolve, world) = decode(&component);
        let exports = names(&resolve, resolve.worlds[world].exports.iter());
        assert_eq!(exports.len(), 1, "{exports:?}");
        assert!(exports[0].starts_with(&format!("{export}@0.2.")), "{exports:?}");
    }
}

#[test]
fn embedding_guide_lists_imports_and_sizes() {
    let guide = fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    for name in ["optoken", STANDALONE[0], STANDALONE[1]] {
        let component = prebuilt(name);
        let row = guide.lines().find(|line| line.starts_with(&format!("| `{name}.wasm` |"))).unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let bytes = component.len().to_string();
        let (thousands, rest) = bytes.split_at(bytes.len() - 3);
        assert_eq!(cells[4], format!("{thousands},{rest}"), "{name}");
        let imports = imports(&component);
        let imported = imports.lines();
        // Packages; for the component of the security claim, every interface.
        let imported: BTreeSet<_> = match name {
            "optoken" => imported.collect(),
            _ => imported.map(|import| import.split('/').next().unwrap()).collect(),
        };
        let listed = cells[3].split('`').skip(1).step_by(2);
        let listed: BTreeSet<_> = match name {
            "optoken" => listed.collect(),
            _ => listed.map(|interface| interface.split('/').next().unwrap()).collect(),
        };
        assert_eq!(listed, imported, "{name}");
    }
}

#[test]
fn component_contract_equals_golden_file() {
    // The golden file has all types and functions, so a review shows any change of them.
    let (resolve, world) = decode(optoken::sandbox::BUILT_IN_COMPONENT);
    let is_own = |id: &wit_parser::PackageId| resolve.packages[*id].name.namespace == "optoken";
    let package = resolve.packages.iter().map(|(id, _)| id).find(is_own).unwrap();
    assert_ne!(resolve.worlds[world].package, Some(package), "a decoded component is a package of its own");
    let mut printer = WitPrinter::<OutputToString>::default();
    printer.emit_docs(false);
    printer.print(&resolve, package, &[]).unwrap();
    assert_golden("contract.wit", &printer.output.to_string());

    let exports = names(&resolve, resolve.worlds[world].exports.iter());
    assert_eq!(
        exports,
        ["types", "component-info", "authenticator", "tokens", "recovery", "provision"]
            .map(|name| format!("optoken:authority/{name}@0.2.0"))
    );
}

#[test]
fn components_name_their_origin_in_custom_sections() {
    // Registries read these sections as OCI annotations.
    let manifest = fs::read_to_string(root().join("component/prebuilt/manifest.toml")).unwrap();
    let sources = manifest.lines().find_map(|line| line.strip_prefix("sources-sha256 = ")).unwrap();
    let revision = format!("sha256:{}", sources.trim_matches('"'));
    for (name, package) in [("optoken", "authority"), (STANDALONE[0], "cli"), (STANDALONE[1], "http")] {
        let cargo = fs::read_to_string(root().join("component").join(package).join("Cargo.toml")).unwrap();
        let description = cargo.lines().find_map(|line| line.strip_prefix("description = ")).unwrap();
        let component = prebuilt(name);
        for (section, expected) in [
            ("version", env!("CARGO_PKG_VERSION")),
            ("description", description.trim_matches('"')),
            ("licenses", env!("CARGO_PKG_LICENSE")),
            ("source", env!("CARGO_PKG_REPOSITORY")),
            ("homepage", env!("CARGO_PKG_REPOSITORY")),
            ("revision", revision.as_str()),
        ] {
            assert_eq!(custom_sections(&component, section), [expected.as_bytes()], "{name}: {section}");
        }
    }
    let info = Authority::builder(MemoryStore::default()).build().unwrap().component_info().unwrap();
    assert_eq!((info.version.as_str(), info.revision), (env!("CARGO_PKG_VERSION"), Some(revision)));
    assert_eq!(info.contract, CONTRACT);
}

/// The contents of the custom sections of this name.
fn custom_sections<'a>(component: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let payloads = wasmparser::Parser::new(0).parse_all(component);
    let sections = payloads.filter_map(|payload| match payload.unwrap() {
        wasmparser::Payload::CustomSection(section) if section.name() == name => Some(section.data()),
        _ => None,
    });
    sections.collect()
}

#[test]
fn component_is_within_size_limit() {
    let size = optoken::sandbox::BUILT_IN_COMPONENT.len();
    assert!(size <= MAX_SIZE, "{size} bytes");
}

#[test]
fn manifest_has_hashes_of_components() {
    let manifest = fs::read_to_string(root().join("component/prebuilt/manifest.toml")).unwrap();
    for name in STANDALONE.into_iter().chain(["optoken"]) {
        let digest = Sha256::digest(prebuilt(name));
        let hex = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert!(manifest.contains(&format!("[{name}]\nartefact-sha256 = \"{hex}\"\n")), "{name}: {manifest}");
    }
    assert_eq!(prebuilt("optoken"), optoken::sandbox::BUILT_IN_COMPONENT);
}

#[test]
fn components_contain_no_build_path() {
    let checkout = root().canonicalize().unwrap();
    for name in STANDALONE.into_iter().chain(["optoken"]) {
        let component = prebuilt(name);
        let text = String::from_utf8_lossy(&component);
        for path in [checkout.to_str().unwrap(), "/home/", "/root/", "/usr/", ".cargo", "registry"] {
            assert!(!text.contains(path), "{path} in {name}");
        }
    }
}

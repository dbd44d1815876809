//! The built components as they are shipped: what they may touch, how large they are, and whether they are of these sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use optoken::authority::Authority;
use optoken::sandbox::CONTRACT;
use optoken::store::MemoryStore;
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

/// The components for stock runtimes, which have no host of ours around them.
const STOCK: [&str; 2] = ["optoken-cli", "optoken-http"];

fn shipped(name: &str) -> Vec<u8> {
    fs::read(root().join("component/prebuilt").join(name).with_extension("wasm")).unwrap()
}

/// The world of a built component, as its own bytes tell it.
fn decoded(component: &[u8]) -> (wit_parser::Resolve, wit_parser::WorldId) {
    match wit_component::decode(component).unwrap() {
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
    assert_golden("imports.txt", &imports(optoken::sandbox::BUILT_IN_COMPONENT));
}

fn imports(component: &[u8]) -> String {
    let (resolve, world) = decoded(component);
    let mut imports = names(&resolve, resolve.worlds[world].imports.iter());
    imports.sort();
    let mut text = imports.join("\n");
    text.push('\n');
    text
}

#[test]
fn those_for_stock_runtimes_need_wasi_alone_and_no_sockets() {
    for (name, export) in STOCK.into_iter().zip(["wasi:cli/run", "wasi:http/incoming-handler"]) {
        let component = shipped(name);
        let imports = imports(&component);
        assert!(imports.lines().all(|import| import.starts_with("wasi:")), "{imports}");
        assert_golden(&format!("{name}.imports.txt"), &imports);
        let (resolve, world) = decoded(&component);
        let exports = names(&resolve, resolve.worlds[world].exports.iter());
        assert_eq!(exports.len(), 1, "{exports:?}");
        assert!(exports[0].starts_with(&format!("{export}@0.2.")), "{exports:?}");
    }
}

#[test]
fn embedding_guide_has_imports_and_sizes_of_components() {
    let guide = fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    for name in ["optoken", STOCK[0], STOCK[1]] {
        let component = shipped(name);
        let row = guide.lines().find(|line| line.starts_with(&format!("| `{name}.wasm` |"))).unwrap();
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let bytes = component.len().to_string();
        let (thousands, rest) = bytes.split_at(bytes.len() - 3);
        assert_eq!(cells[4], format!("{thousands},{rest}"), "{name}");
        let imports = imports(&component);
        let imported = imports.lines();
        // The packages at least; where it is the claim, every interface.
        let imported: BTreeSet<_> = match name {
            "optoken" => imported.collect(),
            _ => imported.map(|import| import.split('/').next().unwrap()).collect(),
        };
        let told = cells[3].split('`').skip(1).step_by(2);
        let told: BTreeSet<_> = match name {
            "optoken" => told.collect(),
            _ => told.map(|interface| interface.split('/').next().unwrap()).collect(),
        };
        assert_eq!(told, imported, "{name}");
    }
}

#[test]
fn its_contract_is_the_one_that_is_written_down() {
    // The whole of what a host sees, types and functions included: a change of it shows up in review.
    let (resolve, world) = decoded(optoken::sandbox::BUILT_IN_COMPONENT);
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
        ["types", "component-info", "authenticator", "tokens", "recovery", "provision"]
            .map(|name| format!("optoken:authority/{name}@0.2.0"))
    );
}

/// The custom sections that registries read as OCI annotations, in a component after its code.
#[test]
fn components_carry_their_metadata() {
    let manifest = fs::read_to_string(root().join("component/prebuilt/manifest.toml")).unwrap();
    let sources = manifest.lines().find_map(|line| line.strip_prefix("sources-sha256 = ")).unwrap();
    let revision = format!("sha256:{}", sources.trim_matches('"'));
    for (name, package) in [("optoken", "authority"), (STOCK[0], "cli"), (STOCK[1], "http")] {
        let package = fs::read_to_string(root().join(format!("component/{package}/Cargo.toml"))).unwrap();
        let description = package.lines().find_map(|line| line.strip_prefix("description = ")).unwrap();
        let sections = custom_sections(&shipped(name));
        for (section, expected) in [
            ("version", env!("CARGO_PKG_VERSION")),
            ("description", description.trim_matches('"')),
            ("licenses", env!("CARGO_PKG_LICENSE")),
            ("source", env!("CARGO_PKG_REPOSITORY")),
            ("homepage", env!("CARGO_PKG_REPOSITORY")),
            ("revision", revision.as_str()),
        ] {
            let values: Vec<_> = sections
                .iter()
                .filter(|(name, _)| name == section)
                .map(|(_, value)| value.as_str())
                .collect();
            assert_eq!(values, [expected], "{section} of {name}");
        }
    }
    let info = Authority::builder(MemoryStore::default()).build().unwrap().component_info().unwrap();
    assert_eq!((info.version.as_str(), info.revision), (env!("CARGO_PKG_VERSION"), Some(revision)));
    assert_eq!(info.contract, CONTRACT);
}

/// The custom sections of a component, nested modules left out.
fn custom_sections(component: &[u8]) -> Vec<(String, String)> {
    let mut sections = Vec::new();
    let mut rest = &component[8..];
    while let [id, behind @ ..] = rest {
        let (size, behind) = leb128(behind);
        let (section, behind) = behind.split_at(size);
        if *id == 0 {
            let (length, section) = leb128(section);
            let (name, value) = section.split_at(length);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            sections.push((text(name), text(value)));
        }
        rest = behind;
    }
    sections
}

/// An unsigned number at the begin of these bytes, and the rest.
fn leb128(bytes: &[u8]) -> (usize, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap();
    let (number, rest) = bytes.split_at(end + 1);
    (number.iter().rev().fold(0, |number, byte| number << 7 | usize::from(byte & 0x7f)), rest)
}

#[test]
fn components_name_their_origin_in_custom_sections() {
    let manifest = fs::read_to_string(root().join("component/prebuilt/manifest.toml")).unwrap();
    let sources = manifest.lines().find_map(|line| line.strip_prefix("sources-sha256 = ")).unwrap();
    for (name, package) in [("optoken", "authority"), (STOCK[0], "cli"), (STOCK[1], "http")] {
        let cargo = fs::read_to_string(root().join("component").join(package).join("Cargo.toml")).unwrap();
        let description = cargo.lines().find_map(|line| line.strip_prefix("description = ")).unwrap();
        let component = shipped(name);
        for (section, expected) in [
            ("version", env!("CARGO_PKG_VERSION")),
            ("description", description.trim_matches('"')),
            ("licenses", env!("CARGO_PKG_LICENSE")),
            ("source", env!("CARGO_PKG_REPOSITORY")),
            ("homepage", env!("CARGO_PKG_REPOSITORY")),
            ("revision", &format!("sha256:{}", sources.trim_matches('"'))),
        ] {
            assert_eq!(custom_sections(&component, section), [expected.as_bytes()], "{name}: {section}");
        }
    }
}

fn custom_sections<'a>(component: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let payloads = wasmparser::Parser::new(0).parse_all(component);
    let sections = payloads.filter_map(|payload| match payload.unwrap() {
        wasmparser::Payload::CustomSection(section) if section.name() == name => Some(section.data()),
        _ => None,
    });
    sections.collect()
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
fn the_manifest_tells_their_hashes() {
    let manifest = fs::read_to_string(root().join("component/prebuilt/manifest.toml")).unwrap();
    for name in STOCK.into_iter().chain(["optoken"]) {
        let digest = Sha256::digest(shipped(name));
        let hex = digest.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert!(manifest.contains(&format!("[{name}]\nartefact-sha256 = \"{hex}\"\n")), "{name}: {manifest}");
    }
    assert_eq!(shipped("optoken"), optoken::sandbox::BUILT_IN_COMPONENT);
}

#[test]
fn they_know_no_path_of_the_machine_that_built_them() {
    let checkout = root().canonicalize().unwrap();
    for name in STOCK.into_iter().chain(["optoken"]) {
        let component = shipped(name);
        let text = String::from_utf8_lossy(&component);
        for path in [checkout.to_str().unwrap(), "/home/", "/root/", "/usr/", ".cargo", "registry"] {
            assert!(!text.contains(path), "{path} in {name}");
        }
    }
}

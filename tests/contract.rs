//! The contract and its releases, which `golden/released` keeps.
//!
//! Within a track (all but the last number of the version) a component of one version works in a
//! host of the other, both ways. A host that gets an incompatible component reports the first
//! difference.
//!
//! The files of a released version never change, comments included, as comments define the meaning.
//! A change of comments needs a new last number, any other change a new track.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use optoken::authority::Authority;
use optoken::sandbox::CONTRACT;
use optoken::store::MemoryStore;
use sha2::{Digest as _, Sha256};
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata, semver_check};
use wit_parser::{
    Interface, InterfaceId, ManglingAndAbi, PackageId, Resolve, SourceMap, Stability, Type, TypeDefKind,
    TypeId, TypeOwner, WorldItem,
};

/// Released files and their SHA-256. A release adds lines. No line is changed or removed.
const RELEASED: [(&str, &str); 0] = [];

/// WIT files by their names.
type Files = BTreeMap<String, String>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn files(directory: &str) -> Files {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let wit = entries.filter(|path| path.extension().is_some_and(|extension| extension == "wit"));
    wit.map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(path).unwrap())
    })
    .collect()
}

/// The released versions, oldest first.
fn releases() -> Vec<String> {
    let mut versions: Vec<_> =
        RELEASED.iter().map(|(file, _)| file.split_once('/').unwrap().0.to_owned()).collect();
    versions.dedup();
    versions
}

fn released(version: &str) -> Files {
    files(&format!("tests/golden/released/{version}"))
}

fn version_of(files: &Files) -> &str {
    let (_, rest) = files["world.wit"].split_once("package optoken:authority@").unwrap();
    rest.split_once(';').unwrap().0
}

/// The same files with another version.
fn as_version(files: &Files, version: &str) -> Files {
    let package = |version: &str| format!("package optoken:authority@{version};");
    let (old, new) = (package(version_of(files)), package(version));
    files.iter().map(|(name, text)| (name.clone(), text.replace(&old, &new))).collect()
}

/// The packages of other owners that the contract imports.
fn with_dependencies() -> Resolve {
    let mut resolve = Resolve::default();
    for directory in ["wit/deps/random", "wit/deps/clocks"] {
        for (name, text) in files(directory) {
            resolve.push_str(name, &text).unwrap();
        }
    }
    resolve
}

fn push(resolve: &mut Resolve, files: &Files) -> PackageId {
    let mut sources = SourceMap::new();
    for (name, text) in files {
        sources.push_str(name, text);
    }
    let group = sources.parse().map_err(|(_, error)| error).unwrap();
    resolve.push_group(group).unwrap()
}

/// Checks that a component of one contract works in a host of another.
fn check_compatible(component: &Files, host: &Files) -> Result<(), String> {
    let mut resolve = with_dependencies();
    // Packages of one name need different versions, which the comparison ignores.
    let component = push(&mut resolve, &as_version(component, "0.2.998"));
    let host = push(&mut resolve, &as_version(host, "0.2.999"));
    let world = |package| resolve.select_world(&[package], Some("authority")).unwrap();
    let (component, host) = (world(component), world(host));
    semver_check(resolve, component, host).map_err(|error| format!("{error:#}"))
}

/// Items of a contract by their names, with the version of their `@since`.
fn since(files: &Files) -> BTreeMap<String, Option<String>> {
    let mut resolve = with_dependencies();
    let package = push(&mut resolve, files);
    let world = &resolve.worlds[resolve.select_world(&[package], Some("authority")).unwrap()];
    let version = |stability: &Stability| match stability {
        Stability::Stable { since, .. } => Some(since.to_string()),
        Stability::Unstable { .. } | Stability::Unknown => None,
    };
    let mut items = BTreeMap::from([("world authority".to_owned(), version(&world.stability))]);
    for (verb, (key, item)) in world
        .imports
        .iter()
        .map(|item| ("import", item))
        .chain(world.exports.iter().map(|item| ("export", item)))
    {
        let name = format!("{verb} {}", resolve.name_world_key(key));
        items.insert(name, version(item.stability(&resolve)));
        // An inline interface is not among the interfaces of the package.
        if let WorldItem::Interface { id, .. } = item
            && resolve.interfaces[*id].name.is_none()
        {
            items.extend(since_in(&resolve, *id, version));
        }
    }
    for id in resolve.packages[package].interfaces.values() {
        items.extend(since_in(&resolve, *id, version));
    }
    // Names of interfaces include the version.
    let suffix = format!("@{}", version_of(files));
    let unversioned = |name: String| match name.strip_suffix(&suffix) {
        Some(interface) if interface.contains("optoken:authority/") => interface.to_owned(),
        _ => name,
    };
    items.into_iter().map(|(name, since)| (unversioned(name), since)).collect()
}

fn since_in(
    resolve: &Resolve,
    id: InterfaceId,
    version: impl Fn(&Stability) -> Option<String>,
) -> Vec<(String, Option<String>)> {
    let Interface { name, types, functions, stability, .. } = &resolve.interfaces[id];
    let name = name.as_deref().unwrap_or("(inline)");
    // A `use` is an item of the other interface.
    let is_defined_here = |ty: TypeId| match resolve.types[ty].kind {
        TypeDefKind::Type(Type::Id(other)) => resolve.types[other].owner == TypeOwner::Interface(id),
        _ => true,
    };
    let types = types.iter().filter(|(_, ty)| is_defined_here(**ty));
    let types = types.map(|(item, ty)| (item, &resolve.types[*ty].stability));
    let items = types.chain(functions.iter().map(|(item, function)| (item, &function.stability)));
    let items = items.map(|(item, stability)| (format!("{name}.{item}"), version(stability)));
    items.chain([(name.to_owned(), version(stability))]).collect()
}

/// The track of a version: all but its last number.
fn track(version: &str) -> &str {
    version.rsplit_once('.').unwrap().0
}

/// Checks that a contract may follow these releases, oldest first.
fn check_successor(current: &Files, releases: &[Files]) -> Result<(), String> {
    let version = version_of(current);
    if let Some(release) = releases.iter().find(|release| version_of(release) == version) {
        let names: BTreeSet<_> = current.keys().chain(release.keys()).collect();
        return match names.into_iter().find(|name| current.get(*name) != release.get(*name)) {
            Some(name) => {
                Err(format!("{name} differs from the release of {version}: it needs a new version"))
            }
            None => Ok(()),
        };
    }
    for release in releases.iter().filter(|release| track(version_of(release)) == track(version)) {
        let old = version_of(release);
        check_compatible(current, release)
            .map_err(|error| format!("it does not work in a host of {old}: {error}"))?;
        check_compatible(release, current)
            .map_err(|error| format!("a component of {old} does not work: {error}"))?;
    }
    let before = releases.last().map(since).unwrap_or_default();
    for (item, since) in since(current) {
        let expected = before.get(&item).cloned().unwrap_or_else(|| Some(version.to_owned()));
        if since != expected {
            return Err(format!("{item} must have @since {expected:?}, not {since:?}"));
        }
    }
    Ok(())
}

/// A component of this contract that traps in every call.
fn component_of(files: &Files) -> Vec<u8> {
    let mut resolve = with_dependencies();
    let package = push(&mut resolve, files);
    let world = resolve.select_world(&[package], Some("authority")).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A change of the contract: file, old text, new text.
type Change = (&'static str, &'static str, &'static str);

fn apply_change(files: &Files, (name, from, to): Change) -> Files {
    let mut files = files.clone();
    let text = files.get_mut(name).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{name} must have exactly one {from:?}");
    *text = text.replace(from, to);
    files
}

const FUNCTION_REMOVED: Change = (
    "tokens.wit",
    "    @since(version = 0.2.0)\n    audit: func(after-sequence: option<u64>) -> result<audit-records, command-error>;\n",
    "",
);
const INTERFACE_REMOVED: Change = ("world.wit", "    @since(version = 0.2.0)\n    export recovery;\n", "");
const PARAMETER_ADDED: Change =
    ("tokens.wit", "cancel: func(caller: caller)", "cancel: func(caller: caller, why: string)");
const PARAMETER_RENAMED: Change = ("tokens.wit", "cancel: func(caller: caller)", "cancel: func(by: caller)");
const PARAMETER_RETYPED: Change =
    ("tokens.wit", "audit: func(after-sequence: option<u64>)", "audit: func(after-sequence: option<u32>)");
const PARAMETER_NOT_OPTIONAL: Change =
    ("tokens.wit", "audit: func(after-sequence: option<u64>)", "audit: func(after-sequence: u64)");
const RESULT_RETYPED: Change =
    ("recovery.wit", "-> result<issued-token, command-error>", "-> result<string, command-error>");
const RESULT_REMOVED: Change = ("recovery.wit", "-> result<issued-token, command-error>", "");
const CASE_ADDED: Change = ("types.wit", "        full(u32),\n", "        full(u32),\n        tired,\n");
const CASE_RETYPED: Change = ("types.wit", "full(u32)", "full(u64)");
const CASE_OF_ENUM_ADDED: Change =
    ("authenticator.wit", "        scoped,\n", "        scoped,\n        auditor,\n");
const FIELD_ADDED: Change = (
    "types.wit",
    "        description: option<string>,\n    }\n",
    "        description: option<string>,\n        note: string,\n    }\n",
);
const FIELD_REMOVED: Change = ("types.wit", "        origin: string,\n", "");
const IMPORT_ADDED: Change = (
    "world.wit",
    "    import catalog-store;\n",
    "    import catalog-store;\n    import log: interface { line: func(text: string); }\n",
);
const IMPORTED_FUNCTION_ADDED: Change =
    ("catalog-store.wit", "    load: func()", "    watch: func();\n    load: func()");
const IMPORTED_PARAMETER_RETYPED: Change =
    ("catalog-store.wit", "document: string) ->", "document: list<u8>) ->");
const IMPORTED_CASE_REMOVED: Change = ("catalog-store.wit", "        other(string),\n", "");

/// Incompatible changes, and the difference that the host reports.
const BREAKING: [(&str, Change, &str); 17] = [
    ("a function removed", FUNCTION_REMOVED, "it does not export optoken:authority/tokens.audit"),
    ("an interface removed", INTERFACE_REMOVED, "it does not export optoken:authority/recovery"),
    (
        "a parameter added",
        PARAMETER_ADDED,
        "optoken:authority/tokens.cancel, parameter 2: expected none, found `why: string`",
    ),
    (
        "a parameter renamed",
        PARAMETER_RENAMED,
        "optoken:authority/tokens.cancel, parameter 1: expected `caller: a record`, found `by: a record`",
    ),
    (
        "a parameter of another type",
        PARAMETER_RETYPED,
        "optoken:authority/tokens.audit, parameter `after-sequence`, value: expected u64, found u32",
    ),
    (
        "a parameter that is not optional",
        PARAMETER_NOT_OPTIONAL,
        "optoken:authority/tokens.audit, parameter `after-sequence`: expected option<u64>, found u64",
    ),
    (
        "a result of another type",
        RESULT_RETYPED,
        "optoken:authority/recovery.regenerate, result, success: expected a record, found string",
    ),
    (
        "no result",
        RESULT_REMOVED,
        "optoken:authority/recovery.regenerate, result: expected result<a record, a variant>, found nothing",
    ),
    (
        "a case added",
        CASE_ADDED,
        "optoken:authority/types.command-error, case 8: expected `conflict(string)`, found `tired`",
    ),
    (
        "a case of another type",
        CASE_RETYPED,
        "optoken:authority/types.command-error, case `full`: expected u32, found u64",
    ),
    (
        "a case of an enum added",
        CASE_OF_ENUM_ADDED,
        "optoken:authority/authenticator.token-kind, case 5: expected none, found `auditor`",
    ),
    (
        "a field added",
        FIELD_ADDED,
        "optoken:authority/types.token-info, field 11: expected none, found `note: string`",
    ),
    (
        "a field removed",
        FIELD_REMOVED,
        "optoken:authority/types.caller, field 2: expected `origin: string`, found none",
    ),
    ("an import added", IMPORT_ADDED, "it imports log, which this host does not have"),
    (
        "an imported function added",
        IMPORTED_FUNCTION_ADDED,
        "it imports optoken:authority/catalog-store.watch, which this host does not have",
    ),
    (
        "an imported parameter of another type",
        IMPORTED_PARAMETER_RETYPED,
        "optoken:authority/catalog-store.swap, parameter `document`: expected string, found list<u8>",
    ),
    (
        "an imported case removed",
        IMPORTED_CASE_REMOVED,
        "optoken:authority/catalog-store.store-error, case 3: expected `other(string)`, found none",
    ),
];

/// Compatible changes.
const COMPATIBLE: [(&str, Change); 5] = [
    ("a function added", ("tokens.wit", "    audit: func(", "    count: func() -> u64;\n    audit: func(")),
    (
        "an interface added",
        (
            "world.wit",
            "    export recovery;\n",
            "    export recovery;\n    export more: interface { f: func(); }\n",
        ),
    ),
    (
        "a type added",
        ("types.wit", "    type token-id = u64;", "    type token-id = u64;\n    enum colour { red }"),
    ),
    ("an import removed", ("world.wit", "    @since(version = 0.2.0)\n    import catalog-store;\n", "")),
    ("other words", ("recovery.wit", "/// Replacement of an", "/// The replacement of an")),
];

const OTHER_WORDS: Change = ("tokens.wit", "0\n    /// expires at once", "0\n    /// never expires");
const AUDIT: &str = "    audit: func(after-sequence: option<u64>) -> result<audit-records, command-error>;\n";
const FUNCTION_OF_0_2_0: Change = (
    "tokens.wit",
    AUDIT,
    "    audit: func(after-sequence: option<u64>) -> result<audit-records, command-error>;\n    @since(version = 0.2.0)\n    count: func() -> u64;\n",
);
const FUNCTION_OF_0_2_1: Change = (
    "tokens.wit",
    AUDIT,
    "    audit: func(after-sequence: option<u64>) -> result<audit-records, command-error>;\n    @since(version = 0.2.1)\n    count: func() -> u64;\n",
);
const FUNCTION_OF_0_3_0: Change = (
    "tokens.wit",
    AUDIT,
    "    audit: func(after-sequence: option<u64>) -> result<audit-records, command-error>;\n    @since(version = 0.3.0)\n    count: func() -> u64;\n",
);
const FUNCTION_OF_NOTHING: Change = (
    "tokens.wit",
    AUDIT,
    "    audit: func(after-sequence: option<u64>) -> result<audit-records, command-error>;\n    count: func() -> u64;\n",
);
const TYPE_OF_0_2_1: Change = (
    "types.wit",
    "    type token-id = u64;\n",
    "    type token-id = u64;\n    @since(version = 0.2.1)\n    enum colour { red }\n",
);
const IMPORT_REMOVED: Change = ("world.wit", "    @since(version = 0.2.0)\n    import catalog-store;\n", "");
const OLD_ITEM_OF_0_3_0: Change =
    ("recovery.wit", "@since(version = 0.2.0)\ninterface", "@since(version = 0.3.0)\ninterface");

/// Versions after a release of 0.2.0, their change, and the error if the change is not allowed.
const SUCCESSORS: [(&str, Change, Option<&str>); 14] = [
    ("0.2.0", OTHER_WORDS, Some("tokens.wit differs from the release of 0.2.0")),
    ("0.2.0", FUNCTION_OF_0_2_0, Some("tokens.wit differs from the release of 0.2.0")),
    ("0.2.1", OTHER_WORDS, None),
    ("0.2.1", FUNCTION_REMOVED, Some("it does not work in a host of 0.2.0: ")),
    ("0.2.1", FUNCTION_OF_0_2_1, Some("a component of 0.2.0 does not work: ")),
    ("0.2.1", IMPORT_REMOVED, Some("a component of 0.2.0 does not work: ")),
    ("0.2.1", TYPE_OF_0_2_1, Some("a component of 0.2.0 does not work: ")),
    ("0.3.0", FUNCTION_OF_0_3_0, None),
    ("0.3.0", FUNCTION_OF_0_2_0, Some("tokens.count must have @since Some(\"0.3.0\")")),
    ("0.3.0", FUNCTION_OF_NOTHING, Some("tokens.count must have @since Some(\"0.3.0\")")),
    ("0.3.0", TYPE_OF_0_2_1, Some("types.colour must have @since Some(\"0.3.0\")")),
    ("0.3.0", OLD_ITEM_OF_0_3_0, Some("recovery must have @since Some(\"0.2.0\")")),
    ("0.3.0", FUNCTION_REMOVED, None),
    ("0.3.0", PARAMETER_ADDED, None),
];

#[test]
fn released_wit_is_unchanged() {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("tests/golden/released")).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_type().unwrap().is_dir() {
            continue;
        }
        let version = entry.file_name().into_string().unwrap();
        for (name, text) in released(&version) {
            let hex = Sha256::digest(text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            found.push((format!("{version}/{name}"), hex));
        }
    }
    found.sort();
    let mut expected: Vec<_> =
        RELEASED.iter().map(|(file, hash)| ((*file).to_owned(), (*hash).to_owned())).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn contract_version_equals_host_constant() {
    let current = files("wit");
    assert_eq!(format!("optoken:authority@{}", version_of(&current)), CONTRACT);
}

#[test]
fn contract_is_valid_successor_of_releases() {
    let releases: Vec<_> = releases().iter().map(|version| released(version)).collect();
    for contract in releases.iter().chain([&files("wit")]) {
        // Every item has a version, or a later item could be without one.
        assert_eq!(since(contract).into_iter().find(|(_, since)| since.is_none()), None);
    }
    assert_eq!(check_successor(&files("wit"), &releases), Ok(()));
}

#[test]
fn successor_check_classifies_changes() {
    // The current contract takes the place of a release.
    let release = as_version(&files("wit"), "0.2.0");
    assert_eq!(check_successor(&release, std::slice::from_ref(&release)), Ok(()));
    for (version, change, error) in SUCCESSORS {
        let next = apply_change(&as_version(&release, version), change);
        let result = check_successor(&next, std::slice::from_ref(&release));
        match error {
            None => assert_eq!(result, Ok(()), "{version}: {change:?}"),
            Some(expected) => {
                let error = result.expect_err(version);
                assert!(error.contains(expected), "{version}: {change:?}: {error}");
            }
        }
    }
}

#[test]
fn semver_check_classifies_changes() {
    let current = ("the current contract".to_owned(), files("wit"));
    let releases = releases().into_iter().map(|version| (version.clone(), released(&version)));
    for (version, release) in releases.chain([current]) {
        for (case, change, _) in BREAKING {
            assert!(
                check_compatible(&apply_change(&release, change), &release).is_err(),
                "{version}: {case}"
            );
        }
        for (case, change) in COMPATIBLE {
            assert_eq!(
                check_compatible(&apply_change(&release, change), &release),
                Ok(()),
                "{version}: {case}"
            );
        }
    }
}

fn build_error(component: &[u8]) -> String {
    Authority::builder(MemoryStore::default()).component(component).build().err().unwrap().to_string()
}

#[test]
fn incompatible_component_error_has_versions_and_difference() {
    let current = files("wit");
    for (case, change, difference) in BREAKING {
        for version in ["0.2.0", "0.2.7", "0.3.0"] {
            let component = component_of(&as_version(&apply_change(&current, change), version));
            let error = build_error(&component);
            let expected = format!(
                "the component does not fit: this host speaks optoken:authority@0.2.0, the component was built for \
                 optoken:authority@{version}.\nThe first difference: {difference}.\n"
            );
            assert!(error.starts_with(&expected), "{case}, {version}: {error}");
        }
    }
}

#[test]
fn other_version_alone_is_incompatible() {
    for version in ["0.3.0", "1.2.0", "0.2.2-draft", "0.2.1-rc.1"] {
        let error = build_error(&component_of(&as_version(&files("wit"), version)));
        let expected = format!(
            "built for optoken:authority@{version}.\nThe first difference: optoken:authority/catalog-store is of \
             version {version}; nothing but the version differs.\n"
        );
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn component_with_additional_exports_is_accepted() {
    // The component fits. It traps in its first call.
    let current = files("wit");
    for (case, change) in COMPATIBLE {
        for version in ["0.2.0", "0.2.1", "0.2.12"] {
            let error = build_error(&component_of(&as_version(&apply_change(&current, change), version)));
            assert!(error.contains("the sandboxed component failed"), "{case}, {version}: {error}");
        }
    }
}

#[test]
fn component_without_contract_is_reported() {
    let empty = b"\0asm\x0d\0\x01\0";
    let error = build_error(empty);
    assert!(error.contains("the component was built for no optoken:authority at all"), "{error}");
    assert!(error.contains("The first difference: it does not export optoken:authority/types."), "{error}");
}

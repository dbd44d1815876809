//! The contract through its releases. What a release has said stands in `golden/released` for good: a component of today
//! must do in every host of that release, and one of that release in a host of today, as long as only the last number of the
//! version differs; and a host that is handed one that does not must say what is different.
//!
//! So of a version that is released not a byte of `wit/` changes, words included, for words are what the contract means. What
//! changes gets a version of its own: other words another last number, everything else another track.

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

/// Every released file and its SHA-256. Whoever releases a contract adds lines; nobody alters or removes one.
const RELEASED: [(&str, &str); 7] = [
    ("0.1.0/authenticator.wit", "1bf26bd32a2575f494a25e075e02c6dbe401b0c33b103994bbb913fa4273c8d3"),
    ("0.1.0/catalog-store.wit", "ae489c1082edcc88e484e7e3ae48f45bf251b303e163d16c3e67c47ce9dcc13c"),
    ("0.1.0/provision.wit", "9259eb78d97ca328ed8fb89c3b1fb2be249d2f40dac34df10e8ccaa1610c6be9"),
    ("0.1.0/recovery.wit", "a4806b2c17ee7aa12eb8536c9c1369464af6660330138138ced3afca6052458d"),
    ("0.1.0/tokens.wit", "620c93db1f4f3448545942ca74ab6395fd2916bef4340105385feb9126d75ef8"),
    ("0.1.0/types.wit", "e16ea75c3d07eb8b78dd359a45f65b23ddffc4ea82595ade6a775fd8e47f3114"),
    ("0.1.0/world.wit", "151cdc4b5b314f318a09effe35d64c0f118ac91d7e08d62c1e84045cba64c73f"),
];

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
    let (_, behind) = files["world.wit"].split_once("package optoken:authority@").unwrap();
    behind.split_once(';').unwrap().0
}

/// The same files as another version.
fn as_version(files: &Files, version: &str) -> Files {
    let package = |version: &str| format!("package optoken:authority@{version};");
    let (old, new) = (package(version_of(files)), package(version));
    files.iter().map(|(name, text)| (name.clone(), text.replace(&old, &new))).collect()
}

fn push(resolve: &mut Resolve, files: &Files) -> PackageId {
    let mut sources = SourceMap::new();
    for (name, text) in files {
        sources.push_str(name, text);
    }
    let group = sources.parse().map_err(|(_, error)| error).unwrap();
    resolve.push_group(group).unwrap()
}

/// Whether a component of the one contract does in a host of the other.
fn does_in(component: &Files, host: &Files) -> Result<(), String> {
    let mut resolve = Resolve::default();
    // Two packages of one name must differ in their version, which the comparison ignores.
    let component = push(&mut resolve, &as_version(component, "0.1.998"));
    let host = push(&mut resolve, &as_version(host, "0.1.999"));
    let world = |package| resolve.select_world(&[package], Some("authority")).unwrap();
    let (component, host) = (world(component), world(host));
    // It asks whether what was made for the first fits where the second is expected.
    semver_check(resolve, component, host).map_err(|error| format!("{error:#}"))
}

/// The items of a contract by their names, and since when each says to be there.
fn since(files: &Files) -> BTreeMap<String, Option<String>> {
    let mut resolve = Resolve::default();
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
        // One that has no name of its own stands nowhere else.
        if let WorldItem::Interface { id, .. } = item
            && resolve.interfaces[*id].name.is_none()
        {
            items.extend(since_in(&resolve, *id, version));
        }
    }
    for id in resolve.packages[package].interfaces.values() {
        items.extend(since_in(&resolve, *id, version));
    }
    // The names of a world's interfaces hold the version.
    let suffix = format!("@{}", version_of(files));
    items.into_iter().map(|(name, since)| (name.replace(&suffix, ""), since)).collect()
}

fn since_in(
    resolve: &Resolve,
    id: InterfaceId,
    version: impl Fn(&Stability) -> Option<String>,
) -> Vec<(String, Option<String>)> {
    let Interface { name, types, functions, stability, .. } = &resolve.interfaces[id];
    let name = name.as_deref().unwrap_or("(inline)");
    // A name that is used here is an item where it is from.
    let is_from_here = |ty: TypeId| match resolve.types[ty].kind {
        TypeDefKind::Type(Type::Id(other)) => resolve.types[other].owner == TypeOwner::Interface(id),
        _ => true,
    };
    let types = types.iter().filter(|(_, ty)| is_from_here(**ty));
    let types = types.map(|(item, ty)| (item, &resolve.types[*ty].stability));
    let items = types.chain(functions.iter().map(|(item, function)| (item, &function.stability)));
    let items = items.map(|(item, stability)| (format!("{name}.{item}"), version(stability)));
    items.chain([(name.to_owned(), version(stability))]).collect()
}

/// The numbers of a version that tell what does not fit together.
fn track(version: &str) -> &str {
    version.rsplit_once('.').unwrap().0
}

/// Whether a contract may follow these releases, which are given oldest first.
fn may_follow(current: &Files, releases: &[Files]) -> Result<(), String> {
    let version = version_of(current);
    if let Some(release) = releases.iter().find(|release| version_of(release) == version) {
        let names: BTreeSet<_> = current.keys().chain(release.keys()).collect();
        return match names.into_iter().find(|name| current.get(*name) != release.get(*name)) {
            Some(name) => Err(format!("{name} is not what was released as {version}: give it a new version")),
            None => Ok(()),
        };
    }
    for release in releases.iter().filter(|release| track(version_of(release)) == track(version)) {
        let old = version_of(release);
        does_in(current, release).map_err(|error| format!("it does not do in a host of {old}: {error}"))?;
        does_in(release, current).map_err(|error| format!("a component of {old} does not do: {error}"))?;
    }
    let before = releases.last().map(since).unwrap_or_default();
    for (item, since) in since(current) {
        let expected = before.get(&item).cloned().unwrap_or_else(|| Some(version.to_owned()));
        if since != expected {
            return Err(format!("{item} must say that it is there since {expected:?}, and says {since:?}"));
        }
    }
    Ok(())
}

/// A component of this contract, which traps wherever it is called.
fn component_of(files: &Files) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = push(&mut resolve, files);
    let world = resolve.select_world(&[package], Some("authority")).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A change of the contract: what for what, in which file.
type Change = (&'static str, &'static str, &'static str);

fn changed(files: &Files, (name, from, to): Change) -> Files {
    let mut files = files.clone();
    let text = files.get_mut(name).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{name} has not exactly one {from:?}");
    *text = text.replace(from, to);
    files
}

const FUNCTION_REMOVED: Change = (
    "tokens.wit",
    "    @since(version = 0.1.0)\n    audit: func() -> result<list<string>, command-error>;\n",
    "",
);
const INTERFACE_REMOVED: Change = ("world.wit", "    @since(version = 0.1.0)\n    export recovery;\n", "");
const PARAMETER_ADDED: Change = (
    "tokens.wit",
    "cancel: func(credential: string, origin: string)",
    "cancel: func(credential: string, origin: string, why: string)",
);
const PARAMETER_RENAMED: Change =
    ("tokens.wit", "cancel: func(credential: string,", "cancel: func(token: string,");
const PARAMETER_RETYPED: Change = (
    "tokens.wit",
    "regenerate: func(credential: string, overlap: u64,",
    "regenerate: func(credential: string, overlap: u32,",
);
const RESULT_RETYPED: Change =
    ("recovery.wit", "-> result<issued-token, command-error>", "-> result<string, command-error>");
const RESULT_REMOVED: Change = ("recovery.wit", "-> result<issued-token, command-error>", "");
const CASE_ADDED: Change = ("types.wit", "        full(u32),\n", "        full(u32),\n        tired,\n");
const CASE_RETYPED: Change = ("types.wit", "full(u32)", "full(u64)");
const CASE_OF_ENUM_ADDED: Change =
    ("authenticator.wit", "        named-admin,\n", "        named-admin,\n        guest,\n");
const FIELD_ADDED: Change = (
    "types.wit",
    "        expiry: option<timestamp>,\n",
    "        expiry: option<timestamp>,\n        note: string,\n",
);
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

/// What a host of the release cannot do with, and what ours says of a component like that.
const BREAKING: [(&str, Change, &str); 15] = [
    ("a function removed", FUNCTION_REMOVED, "it does not export optoken:authority/tokens.audit"),
    ("an interface removed", INTERFACE_REMOVED, "it does not export optoken:authority/recovery"),
    (
        "a parameter added",
        PARAMETER_ADDED,
        "optoken:authority/tokens.cancel, parameter 3: expected none, found `why: string`",
    ),
    (
        "a parameter renamed",
        PARAMETER_RENAMED,
        "optoken:authority/tokens.cancel, parameter 1: expected `credential: string`, found `token: string`",
    ),
    (
        "a parameter of another type",
        PARAMETER_RETYPED,
        "optoken:authority/tokens.regenerate, parameter `overlap`: expected u64, found u32",
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
        "optoken:authority/authenticator.token-kind, case 4: expected none, found `guest`",
    ),
    (
        "a field added",
        FIELD_ADDED,
        "optoken:authority/types.token-info, field 8: expected none, found `note: string`",
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

/// What such a host does not notice.
const COMPATIBLE: [(&str, Change); 5] = [
    ("a function added", ("tokens.wit", "    audit: func()", "    count: func() -> u64;\n    audit: func()")),
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
    (
        "an import not needed any more",
        ("world.wit", "    @since(version = 0.1.0)\n    import catalog-store;\n", ""),
    ),
    ("other words", ("recovery.wit", "/// The way back in", "/// A way back in")),
];

const OTHER_WORDS: Change = ("tokens.wit", "0 is over at once", "0 means for ever");
const FUNCTION_OF_0_1_0: Change = (
    "tokens.wit",
    "    audit: func() -> result<list<string>, command-error>;\n",
    "    audit: func() -> result<list<string>, command-error>;\n    @since(version = 0.1.0)\n    count: func() -> u64;\n",
);
const FUNCTION_OF_0_1_1: Change = (
    "tokens.wit",
    "    audit: func() -> result<list<string>, command-error>;\n",
    "    audit: func() -> result<list<string>, command-error>;\n    @since(version = 0.1.1)\n    count: func() -> u64;\n",
);
const FUNCTION_OF_0_2_0: Change = (
    "tokens.wit",
    "    audit: func() -> result<list<string>, command-error>;\n",
    "    audit: func() -> result<list<string>, command-error>;\n    @since(version = 0.2.0)\n    count: func() -> u64;\n",
);
const FUNCTION_OF_NOTHING: Change = (
    "tokens.wit",
    "    audit: func() -> result<list<string>, command-error>;\n",
    "    audit: func() -> result<list<string>, command-error>;\n    count: func() -> u64;\n",
);
const TYPE_OF_0_1_1: Change = (
    "types.wit",
    "    type token-id = u64;\n",
    "    type token-id = u64;\n    @since(version = 0.1.1)\n    enum colour { red }\n",
);
const IMPORT_NOT_NEEDED: Change =
    ("world.wit", "    @since(version = 0.1.0)\n    import catalog-store;\n", "");
const OLD_ITEM_OF_0_2_0: Change =
    ("recovery.wit", "@since(version = 0.1.0)\ninterface", "@since(version = 0.2.0)\ninterface");

/// What follows 0.1.0 as which version, and why it may not, if it may not.
const FOLLOWING: [(&str, Change, Option<&str>); 14] = [
    ("0.1.0", OTHER_WORDS, Some("tokens.wit is not what was released as 0.1.0")),
    ("0.1.0", FUNCTION_OF_0_1_0, Some("tokens.wit is not what was released as 0.1.0")),
    ("0.1.1", OTHER_WORDS, None),
    ("0.1.1", FUNCTION_REMOVED, Some("it does not do in a host of 0.1.0: ")),
    ("0.1.1", FUNCTION_OF_0_1_1, Some("a component of 0.1.0 does not do: ")),
    ("0.1.1", IMPORT_NOT_NEEDED, Some("a component of 0.1.0 does not do: ")),
    ("0.1.1", TYPE_OF_0_1_1, Some("a component of 0.1.0 does not do: ")),
    ("0.2.0", FUNCTION_OF_0_2_0, None),
    ("0.2.0", FUNCTION_OF_0_1_0, Some("tokens.count must say that it is there since Some(\"0.2.0\")")),
    ("0.2.0", FUNCTION_OF_NOTHING, Some("tokens.count must say that it is there since Some(\"0.2.0\")")),
    ("0.2.0", TYPE_OF_0_1_1, Some("types.colour must say that it is there since Some(\"0.2.0\")")),
    ("0.2.0", OLD_ITEM_OF_0_2_0, Some("recovery must say that it is there since Some(\"0.1.0\")")),
    ("0.2.0", FUNCTION_REMOVED, None),
    ("0.2.0", PARAMETER_ADDED, None),
];

#[test]
fn nobody_edits_what_is_released() {
    let mut found = Vec::new();
    for version in fs::read_dir(root().join("tests/golden/released")).unwrap() {
        let version = version.unwrap().file_name().into_string().unwrap();
        for (name, text) in released(&version) {
            let hex = Sha256::digest(text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            found.push((format!("{version}/{name}"), hex));
        }
    }
    found.sort();
    let mut expected = RELEASED.map(|(file, hash)| (file.to_owned(), hash.to_owned()));
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_contract_is_of_the_version_that_the_host_says_it_speaks() {
    let current = files("wit");
    assert_eq!(format!("optoken:authority@{}", version_of(&current)), CONTRACT);
}

#[test]
fn the_contract_may_follow_its_releases() {
    let releases: Vec<_> = releases().iter().map(|version| released(version)).collect();
    for release in &releases {
        // Nothing without it, or what is added later could say nothing.
        assert_eq!(since(release).into_iter().find(|(_, since)| since.is_none()), None);
    }
    assert_eq!(may_follow(&files("wit"), &releases), Ok(()));
}

#[test]
fn what_may_follow_a_release_is_told_from_what_may_not() {
    let release = released("0.1.0");
    assert_eq!(may_follow(&release, std::slice::from_ref(&release)), Ok(()));
    for (version, change, why_not) in FOLLOWING {
        let next = changed(&as_version(&release, version), change);
        let judged = may_follow(&next, std::slice::from_ref(&release));
        match why_not {
            None => assert_eq!(judged, Ok(()), "{version}: {change:?}"),
            Some(why) => {
                let said = judged.expect_err(version);
                assert!(said.contains(why), "{version}: {change:?}: {said}");
            }
        }
    }
}

#[test]
fn what_breaks_a_host_is_told_from_what_does_not() {
    for version in releases() {
        let release = released(&version);
        for (case, change, _) in BREAKING {
            assert!(does_in(&changed(&release, change), &release).is_err(), "{version}: {case}");
        }
        for (case, change) in COMPATIBLE {
            assert_eq!(does_in(&changed(&release, change), &release), Ok(()), "{version}: {case}");
        }
    }
}

fn refusal(component: &[u8]) -> String {
    Authority::builder(MemoryStore::default()).component(component).build().err().unwrap().to_string()
}

#[test]
fn a_component_of_another_contract_is_refused_with_both_versions_and_the_first_difference() {
    let current = files("wit");
    for (case, change, difference) in BREAKING {
        for version in ["0.1.0", "0.1.7", "0.2.0"] {
            let component = component_of(&as_version(&changed(&current, change), version));
            let said = refusal(&component);
            let expected = format!(
                "the component does not fit: this host speaks optoken:authority@0.1.0, the component was built for \
                 optoken:authority@{version}.\nThe first difference: {difference}.\n"
            );
            assert!(said.starts_with(&expected), "{case}, {version}: {said}");
        }
    }
}

#[test]
fn a_component_of_an_incompatible_version_is_refused_although_nothing_else_differs() {
    for version in ["0.2.0", "1.1.0", "0.1.2-draft", "0.1.1-rc.1"] {
        let said = refusal(&component_of(&as_version(&files("wit"), version)));
        let expected = format!(
            "built for optoken:authority@{version}.\nThe first difference: optoken:authority/catalog-store is of \
             version {version}; nothing but the version differs.\n"
        );
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn a_component_that_offers_more_than_the_contract_is_taken() {
    // It traps as soon as it is called, which is later.
    let current = files("wit");
    for (case, change) in COMPATIBLE {
        for version in ["0.1.0", "0.1.1", "0.1.12"] {
            let said = refusal(&component_of(&as_version(&changed(&current, change), version)));
            assert!(said.contains("the sandboxed component failed"), "{case}, {version}: {said}");
        }
    }
}

#[test]
fn a_component_of_no_contract_is_told_so() {
    let empty = b"\0asm\x0d\0\x01\0";
    let said = refusal(empty);
    assert!(said.contains("the component was built for no optoken:authority at all"), "{said}");
    assert!(said.contains("The first difference: it does not export optoken:authority/types."), "{said}");
}

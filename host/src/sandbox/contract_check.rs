//! Compares a component with the contract, and reports the first difference.
//!
//! Linking compares types. This check runs before, because it also compares names of parameters,
//! cases and fields, and names the item that differs. The built-in component defines the contract.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::OnceLock;

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::{self, ComponentFunc, ComponentItem, Type};

use crate::sandbox::built_in::built_in_component;
use crate::sandbox::error::{CONTRACT, SandboxError};

/// The interface that the contract imports, without its version.
const STORE_INTERFACE: &str = "optoken:authority/catalog-store";

/// The interfaces that the contract exports, in the order of the comparison.
const EXPORTED_INTERFACES: [&str; 6] = [
    "optoken:authority/types",
    "optoken:authority/component-info",
    "optoken:authority/authenticator",
    "optoken:authority/tokens",
    "optoken:authority/recovery",
    "optoken:authority/provision",
];

/// The WASI interfaces that the contract imports. Patch releases of WASI are compatible.
const WASI_INTERFACES: [&str; 2] = ["wasi:clocks/wall-clock@0.2.", "wasi:random/random@0.2."];

/// The depth to which an error prints a type.
const MAX_TYPE_DEPTH: usize = 3;

/// Checks that a component fits this host, for hosts that compile it for an engine of their own;
/// [`Authority`](crate::authority::Authority) does it itself. The error is [`SandboxError::World`],
/// which names both contracts and the first item that differs.
///
/// The first call in a process loads or compiles the built-in component as well, which defines the
/// contract.
pub fn check(engine: &Engine, component: &Component) -> Result<(), SandboxError> {
    let found = component.component_type();
    let Some(difference) = difference(engine, contract(engine)?, &found) else { return Ok(()) };
    Err(mismatch_error(engine, component, difference))
}

/// The error for a component with this difference from the contract.
pub(crate) fn mismatch_error(engine: &Engine, component: &Component, difference: String) -> SandboxError {
    let component = component.component_type();
    let (package, version) = host_contract();
    let names = || component.exports(engine).chain(component.imports(engine)).map(|(name, _)| name);
    let versions: BTreeSet<_> = names()
        .filter_map(|name| name.strip_prefix(package)?.strip_prefix('/')?.split_once('@'))
        .map(|(_, version)| version)
        .collect();
    let contract = match Vec::from_iter(versions).as_slice() {
        [] => format!("no {package} at all"),
        versions => format!("{package}@{}", versions.join(" and @")),
    };
    let interface = |(name, item): (&str, _)| match item {
        ComponentItem::ComponentInstance(_) => name.to_owned(),
        _ => format!("{name} (not an interface)"),
    };
    let wasi = WASI_INTERFACES.map(|name| format!("{name}x"));
    let versioned = |interface: &str| format!("{interface}@{version}");
    SandboxError::World {
        contract,
        difference,
        wanted: describe(
            "This host runs",
            wasi.into_iter().chain([versioned(STORE_INTERFACE)]),
            EXPORTED_INTERFACES.map(versioned),
        ),
        found: describe(
            "The component has",
            component.imports(engine).map(|(name, item)| interface((name, item.ty))),
            component.exports(engine).map(|(name, item)| interface((name, item.ty))),
        ),
    }
}

/// The types of the contract, of the built-in component. They are read once in a process that runs
/// another one.
fn contract(engine: &Engine) -> Result<&'static types::Component, SandboxError> {
    static CONTRACT: OnceLock<types::Component> = OnceLock::new();
    if let Some(contract) = CONTRACT.get() {
        return Ok(contract);
    }
    let built_in = built_in_component(engine).map_err(SandboxError::Engine)?;
    Ok(CONTRACT.get_or_init(|| built_in.component_type()))
}

/// Package and version of [`CONTRACT`].
fn host_contract() -> (&'static str, &'static str) {
    CONTRACT.split_once('@').unwrap_or((CONTRACT, ""))
}

/// Whether wasmtime links this version to the one of the host: a patch release, and no prerelease.
fn is_compatible(version: &str) -> bool {
    let track = host_contract().1.rsplit_once('.').map_or("", |(track, _)| track);
    version
        .strip_prefix(track)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit()))
}

fn difference(engine: &Engine, expected: &types::Component, found: &types::Component) -> Option<String> {
    let imports = found.imports(engine).find_map(|(name, item)| {
        if WASI_INTERFACES.iter().any(|wasi| name.starts_with(wasi)) {
            return None;
        }
        let not_provided = || Some(format!("it imports {name}, which this host does not have"));
        let (interface, _) = name.split_once('@').unwrap_or((name, ""));
        if interface != STORE_INTERFACE {
            return not_provided();
        }
        let Some(wanted) = interface_of(expected.imports(engine), interface) else { return not_provided() };
        let ComponentItem::ComponentInstance(imported) = item.ty else { return not_provided() };
        // An import holds only the items that the component uses.
        imported.exports(engine).find_map(|(item, found)| match (wanted.get_export(engine, item), found.ty) {
            (Some(wanted), found) => differing_items(&format!("{interface}.{item}"), &wanted.ty, &found),
            (None, ComponentItem::Type(_)) => None,
            (None, _) => Some(format!("it imports {interface}.{item}, which this host does not have")),
        })
    });
    let exports = || {
        EXPORTED_INTERFACES.iter().find_map(|interface| {
            let wanted = interface_of(expected.exports(engine), interface)?;
            let Some(exported) = interface_of(found.exports(engine), interface) else {
                return Some(format!("it does not export {interface}"));
            };
            wanted.exports(engine).find_map(|(item, wanted)| {
                match (exported.get_export(engine, item), wanted.ty) {
                    (Some(found), wanted) => {
                        differing_items(&format!("{interface}.{item}"), &wanted, &found.ty)
                    }
                    // A missing type shows in the functions that use it.
                    (None, ComponentItem::Type(_)) => None,
                    (None, _) => Some(format!("it does not export {interface}.{item}")),
                }
            })
        })
    };
    let version = || {
        let mut names = found.imports(engine).chain(found.exports(engine)).map(|(name, _)| name);
        names.find_map(|name| {
            let (interface, version) = name.split_once('@')?;
            let is_of_contract = interface == STORE_INTERFACE || EXPORTED_INTERFACES.contains(&interface);
            (is_of_contract && !is_compatible(version))
                .then(|| format!("{interface} is of version {version}; nothing but the version differs"))
        })
    };
    imports.or_else(exports).or_else(version)
}

/// The interface of this name, in whatever version.
fn interface_of<'a>(
    mut items: impl Iterator<Item = (&'a str, types::ComponentExtern<'a>)>,
    interface: &str,
) -> Option<types::ComponentInstance> {
    items.find_map(|(name, item)| match item.ty {
        ComponentItem::ComponentInstance(instance)
            if name.split_once('@').map_or(name, |(name, _)| name) == interface =>
        {
            Some(instance)
        }
        _ => None,
    })
}

fn differing_items(at: &str, expected: &ComponentItem, found: &ComponentItem) -> Option<String> {
    match (expected, found) {
        (ComponentItem::ComponentFunc(expected), ComponentItem::ComponentFunc(found)) => {
            differing_functions(at, expected, found)
        }
        (ComponentItem::Type(expected), ComponentItem::Type(found)) => differing_types(at, expected, found),
        (ComponentItem::ComponentFunc(_), _) => Some(format!("{at}: expected a function")),
        _ => Some(format!("{at}: expected a type")),
    }
}

fn differing_functions(at: &str, expected: &ComponentFunc, found: &ComponentFunc) -> Option<String> {
    if found.async_() && !expected.async_() {
        return Some(format!("{at}: expected a function that is not async"));
    }
    let parameters = |function: &ComponentFunc| -> Vec<Member> {
        function.params().map(|(name, ty)| (name.to_owned(), Some(ty))).collect()
    };
    differing_members(at, "parameter", &parameters(expected), &parameters(found)).or_else(|| {
        let at = format!("{at}, result");
        differing_payloads(&at, expected.results().next().as_ref(), found.results().next().as_ref())
    })
}

/// A parameter, a field or a case: its name, and its type if it has one.
type Member = (String, Option<Type>);

fn differing_members(at: &str, kind: &str, expected: &[Member], found: &[Member]) -> Option<String> {
    let member = |(name, ty): &Member| match ty {
        Some(ty) if kind == "case" => format!("`{name}({})`", type_name(ty, MAX_TYPE_DEPTH)),
        Some(ty) => format!("`{name}: {}`", type_name(ty, MAX_TYPE_DEPTH)),
        None => format!("`{name}`"),
    };
    (0..expected.len().max(found.len())).find_map(|index| {
        let number = index + 1;
        match (expected.get(index), found.get(index)) {
            (Some((name, expected)), Some((found_name, found))) if name == found_name => {
                differing_payloads(&format!("{at}, {kind} `{name}`"), expected.as_ref(), found.as_ref())
            }
            (Some(expected), Some(found)) => {
                Some(format!("{at}, {kind} {number}: expected {}, found {}", member(expected), member(found)))
            }
            (Some(expected), None) => {
                Some(format!("{at}, {kind} {number}: expected {}, found none", member(expected)))
            }
            (None, Some(found)) => {
                Some(format!("{at}, {kind} {number}: expected none, found {}", member(found)))
            }
            (None, None) => None,
        }
    })
}

fn differing_payloads(at: &str, expected: Option<&Type>, found: Option<&Type>) -> Option<String> {
    match (expected, found) {
        (None, None) => None,
        (Some(expected), Some(found)) => differing_types(at, expected, found),
        (Some(expected), None) => {
            Some(format!("{at}: expected {}, found nothing", type_name(expected, MAX_TYPE_DEPTH)))
        }
        (None, Some(found)) => {
            Some(format!("{at}: expected nothing, found {}", type_name(found, MAX_TYPE_DEPTH)))
        }
    }
}

fn differing_types(at: &str, expected: &Type, found: &Type) -> Option<String> {
    let named = |name: &str| (name.to_owned(), None);
    let inside = match (expected, found) {
        _ if expected == found => return None,
        (Type::List(expected), Type::List(found)) => {
            differing_types(&format!("{at}, element"), &expected.ty(), &found.ty())
        }
        (Type::Option(expected), Type::Option(found)) => {
            differing_types(&format!("{at}, value"), &expected.ty(), &found.ty())
        }
        (Type::Result(expected), Type::Result(found)) => {
            differing_payloads(&format!("{at}, success"), expected.ok().as_ref(), found.ok().as_ref())
                .or_else(|| {
                    differing_payloads(&format!("{at}, error"), expected.err().as_ref(), found.err().as_ref())
                })
        }
        (Type::Record(expected), Type::Record(found)) => {
            let fields = |record: &types::Record| -> Vec<Member> {
                record.fields().map(|field| (field.name.to_owned(), Some(field.ty))).collect()
            };
            differing_members(at, "field", &fields(expected), &fields(found))
        }
        (Type::Variant(expected), Type::Variant(found)) => {
            let cases = |variant: &types::Variant| -> Vec<Member> {
                variant.cases().map(|case| (case.name.to_owned(), case.ty)).collect()
            };
            differing_members(at, "case", &cases(expected), &cases(found))
        }
        (Type::Enum(expected), Type::Enum(found)) => {
            let cases = |of: &types::Enum| -> Vec<Member> { of.names().map(named).collect() };
            differing_members(at, "case", &cases(expected), &cases(found))
        }
        _ => None,
    };
    inside.or_else(|| {
        Some(format!(
            "{at}: expected {}, found {}",
            type_name(expected, MAX_TYPE_DEPTH),
            type_name(found, MAX_TYPE_DEPTH)
        ))
    })
}

/// A type in the syntax of WIT. A component does not hold the names of types, so a type with
/// members is named by its kind. `depth` bounds the output.
fn type_name(ty: &Type, depth: usize) -> String {
    let Some(depth) = depth.checked_sub(1) else { return "…".to_owned() };
    let part = |ty: Option<Type>| ty.map_or_else(|| "_".to_owned(), |ty| type_name(&ty, depth));
    match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(list) => format!("list<{}>", type_name(&list.ty(), depth)),
        Type::Option(option) => format!("option<{}>", type_name(&option.ty(), depth)),
        Type::Result(result) => format!("result<{}, {}>", part(result.ok()), part(result.err())),
        Type::Record(_) => "a record".into(),
        Type::Variant(_) => "a variant".into(),
        Type::Enum(_) => "an enum".into(),
        Type::Flags(_) => "flags".into(),
        Type::Tuple(_) => "a tuple".into(),
        _ => "a type of another kind".into(),
    }
}

fn describe(
    whose: &str,
    imports: impl IntoIterator<Item = String>,
    exports: impl IntoIterator<Item = String>,
) -> String {
    let mut text = format!("{whose} a world with");
    for (verb, names) in
        [("imports", imports.into_iter().collect::<Vec<_>>()), ("exports", exports.into_iter().collect())]
    {
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let _ = write!(text, "\n  {verb}: {names}");
    }
    text
}

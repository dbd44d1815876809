//! Plays the conformance cases (`tests/conformance/README.md`) against the component, linked with the pieces that `optoken`
//! offers. Any function of the contract is called by its name, and any value is written as JSON by its type.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use optoken::sandbox::linker::{CatalogStoreCtx, add_to_linker, add_wasi_to_linker, store_limits};
use optoken::sandbox::wasmtime::component::{Component, Instance, InstancePre, Linker, Type, Val};
use optoken::sandbox::wasmtime::error::Context as _;
use optoken::sandbox::wasmtime::{Engine, Result, Store, StoreLimits, bail, ensure};
use optoken::sandbox::{BUILT_IN_COMPONENT, MAX_HOSTCALL_DATA};
use optoken::store::{MemoryStore, Store as _};
use serde_json::{Value, json};

/// The cases in a directory, in order.
pub(crate) fn directories(cases: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(cases).with_context(|| cases.display().to_string())?;
    let mut directories: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    directories.sort();
    Ok(directories)
}

struct Tenant {
    catalog: CatalogStoreCtx,
    limits: StoreLimits,
}

/// The component, compiled once.
pub(crate) struct Host {
    engine: Engine,
    component: InstancePre<Tenant>,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker, |tenant: &mut Tenant| &mut tenant.catalog)?;
        add_wasi_to_linker(&mut linker)?;
        let component = linker.instantiate_pre(&Component::new(&engine, BUILT_IN_COMPONENT)?)?;
        Ok(Self { engine, component })
    }

    /// The line that a runner writes of this case.
    pub(crate) fn play(&self, case: &Path) -> Result<Value> {
        let name = case.file_name().and_then(|name| name.to_str()).context("a case without a name")?;
        let catalog = Arc::new(MemoryStore::default());
        if let Ok(before) = fs::read_to_string(case.join("before.jsonl")) {
            catalog.swap(None, &before)?;
        }
        let calls: Vec<Value> = serde_json::from_str(&fs::read_to_string(case.join("calls.json"))?)?;

        let tenant = Tenant {
            catalog: CatalogStoreCtx::of_store(Arc::<MemoryStore>::clone(&catalog)),
            limits: store_limits(),
        };
        let mut store = Store::new(&self.engine, tenant);
        store.limiter(|tenant| &mut tenant.limits);
        store.set_hostcall_fuel(MAX_HOSTCALL_DATA);
        let instance = self.component.instantiate(&mut store)?;

        let mut answered = BTreeMap::new();
        let mut answers = Vec::new();
        for call in &calls {
            let answer = answer(&mut store, &instance, call, &answered)
                .with_context(|| format!("{name}, call {}", answers.len() + 1))?;
            if let Some(name) = call.get("as").and_then(Value::as_str) {
                answered.insert(name, answer.get("ok").cloned());
            }
            answers.push(answer);
        }
        let document = catalog.load()?.map(|entry| entry.document);
        Ok(json!({ "case": name, "answers": answers, "document": document }))
    }
}

fn answer(
    store: &mut Store<Tenant>,
    instance: &Instance,
    call: &Value,
    answered: &BTreeMap<&str, Option<Value>>,
) -> Result<Value> {
    let function = call.get("call").and_then(Value::as_str).context("no function")?;
    let (interface, function) = function.split_once('.').context("a function without interface")?;
    let interface = format!("optoken:authority/{interface}@0.1.0");
    let index = instance
        .get_export_index(&mut *store, None, &interface)
        .and_then(|interface| instance.get_export_index(&mut *store, Some(&interface), function))
        .with_context(|| format!("the contract has no {interface}.{function}"))?;
    let function = instance.get_func(&mut *store, index).context("not a function")?;

    let arguments = call.get("args").and_then(Value::as_array).context("no arguments")?;
    let parameters: Vec<Type> = function.ty(&*store).params().map(|(_, of_type)| of_type).collect();
    ensure!(arguments.len() == parameters.len(), "another number of arguments");
    let arguments: Vec<Val> = arguments
        .iter()
        .zip(&parameters)
        .map(|(argument, of_type)| to_wit(&resolved(argument, answered)?, of_type))
        .collect::<Result<_>>()?;
    let mut results = [Val::Bool(false)];
    store.data_mut().catalog.begin_command();
    function.call(store, &arguments, &mut results)?;
    let [result] = results;
    to_json(result)
}

/// An argument, or what `<NAME.FIELD>` stands for.
fn resolved(argument: &Value, answered: &BTreeMap<&str, Option<Value>>) -> Result<Value> {
    let reference =
        argument.as_str().and_then(|text| text.strip_prefix('<')?.strip_suffix('>')?.split_once('.'));
    let Some((name, field)) = reference else { return Ok(argument.clone()) };
    let value = answered.get(name).and_then(|ok| ok.as_ref()?.get(field));
    value.cloned().with_context(|| format!("no call has answered {argument}"))
}

fn to_wit(value: &Value, of_type: &Type) -> Result<Val> {
    Ok(match (of_type, value) {
        (Type::String, Value::String(text)) => Val::String(text.clone()),
        (Type::U64, Value::Number(number)) => Val::U64(number.as_u64().context("not a u64")?),
        (Type::Option(_), Value::Null) => Val::Option(None),
        (Type::Option(option), value) => Val::Option(Some(Box::new(to_wit(value, &option.ty())?))),
        (of_type, value) => bail!("{value} is no {of_type:?}"),
    })
}

fn to_json(value: Val) -> Result<Value> {
    Ok(match value {
        Val::String(text) | Val::Enum(text) => text.into(),
        Val::U32(number) => number.into(),
        Val::U64(number) => number.into(),
        Val::Option(None) => Value::Null,
        Val::Option(Some(value)) => to_json(*value)?,
        Val::List(items) => items.into_iter().map(to_json).collect::<Result<_>>()?,
        Val::Record(fields) => {
            let fields = fields.into_iter().map(|(name, field)| Ok((name, to_json(field)?)));
            Value::Object(fields.collect::<Result<_>>()?)
        }
        Val::Variant(name, None) => name.into(),
        Val::Variant(name, Some(payload)) => json!({ name: to_json(*payload)? }),
        Val::Result(result) => {
            let (name, payload) = match result {
                Ok(payload) => ("ok", payload),
                Err(payload) => ("err", payload),
            };
            json!({ name: payload.map(|payload| to_json(*payload)).transpose()? })
        }
        other => bail!("the contract has no such value: {other:?}"),
    })
}

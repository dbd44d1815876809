//! Runs the conformance cases (`tests/conformance/README.md`) with the component in a separate
//! engine, linked by `optoken::sandbox::linker`.
//!
//! Calls each function of the contract by its name, and converts each value to JSON by its type.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use optoken::sandbox::MAX_HOSTCALL_DATA;
use optoken::sandbox::linker::{CatalogStoreCtx, add_to_linker, add_wasi_to_linker, store_limits};
use optoken::sandbox::wasmtime::component::{Component, Instance, Linker, Type, Val};
use optoken::sandbox::wasmtime::error::Context as _;
use optoken::sandbox::wasmtime::{Engine, Result, Store, StoreContextMut, StoreLimits, bail, ensure};
use serde_json::{Value, json};

use super::faults::ScriptedStore;

struct Tenant {
    catalog: CatalogStoreCtx,
    limits: StoreLimits,
}

/// The component, compiled once.
pub(crate) struct Host {
    engine: Engine,
    component: Component,
    linker: Linker<Tenant>,
}

impl Host {
    pub(crate) fn new(component: &[u8]) -> Result<Self> {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker, |tenant: &mut Tenant| &mut tenant.catalog)?;
        add_wasi_to_linker(&mut linker)?;
        let component = Component::new(&engine, component)?;
        Ok(Self { engine, component, linker })
    }

    /// Runs a case and returns its line of the output.
    pub(crate) fn play(&self, case: &Path) -> Result<Value> {
        let name = case.file_name().and_then(|name| name.to_str()).context("a case without a name")?;
        let catalog = Arc::new(ScriptedStore::default());
        catalog.open(case)?;
        let calls: Vec<Value> = serde_json::from_str(&fs::read_to_string(case.join("calls.json"))?)?;

        let tenant = Tenant {
            catalog: CatalogStoreCtx::from_store(Arc::<ScriptedStore>::clone(&catalog)),
            limits: store_limits(),
        };
        let mut store = Store::new(&self.engine, tenant);
        store.limiter(|tenant| &mut tenant.limits);
        store.set_hostcall_fuel(MAX_HOSTCALL_DATA);
        let instance = self.linker_for(catalog.random())?.instantiate(&mut store, &self.component)?;

        let mut answered = BTreeMap::new();
        let mut answers = Vec::new();
        for call in &calls {
            let context = || format!("{name}, call {}", answers.len() + 1);
            catalog.begin(case, answers.len() + 1).with_context(context)?;
            let answer = answer(&mut store, &instance, call, &answered).with_context(context)?;
            catalog.end().with_context(context)?;
            if let Some(name) = call.get("as").and_then(Value::as_str) {
                answered.insert(name, answer.get("ok").cloned());
            }
            answers.push(answer);
        }
        Ok(json!({ "case": name, "answers": answers, "document": catalog.document() }))
    }

    /// Returns the linker, or one in which every random number is `random`.
    fn linker_for(&self, random: Option<u64>) -> Result<Linker<Tenant>> {
        let mut linker = self.linker.clone();
        if let Some(random) = random {
            linker.allow_shadowing(true);
            // The exact version that the component imports takes precedence over any other.
            let mut interface = linker.instance("wasi:random/random@0.2.0")?;
            interface.func_wrap("get-random-u64", move |_: StoreContextMut<'_, Tenant>, ()| Ok((random,)))?;
        }
        Ok(linker)
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
    let interface = format!("optoken:authority/{interface}@0.2.0");
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
        .map(|(argument, of_type)| to_wit(&resolve(argument, answered)?, of_type))
        .collect::<Result<_>>()?;
    let mut results = [Val::Bool(false)];
    store.data_mut().catalog.begin_command();
    function.call(store, &arguments, &mut results)?;
    let [result] = results;
    match result {
        Val::Result(_) => to_json(result),
        // A function that cannot fail.
        value => Ok(json!({ "ok": to_json(value)? })),
    }
}

/// Returns an argument, or the value that a reference `<NAME.FIELD>` names.
fn resolve(argument: &Value, answered: &BTreeMap<&str, Option<Value>>) -> Result<Value> {
    if let Value::Object(fields) = argument {
        let fields = fields.iter().map(|(name, field)| Ok((name.clone(), resolve(field, answered)?)));
        return Ok(Value::Object(fields.collect::<Result<_>>()?));
    }
    let reference =
        argument.as_str().and_then(|text| text.strip_prefix('<')?.strip_suffix('>')?.split_once('.'));
    let Some((name, field)) = reference else { return Ok(argument.clone()) };
    let value = answered.get(name).and_then(|ok| ok.as_ref()?.get(field));
    value.cloned().with_context(|| format!("no call has answered {argument}"))
}

fn to_wit(value: &Value, of_type: &Type) -> Result<Val> {
    Ok(match (of_type, value) {
        (Type::String, Value::String(text)) => Val::String(text.clone()),
        (Type::Enum(of_enum), Value::String(name)) => {
            ensure!(of_enum.names().any(|known| known == name), "there is no {name}");
            Val::Enum(name.clone())
        }
        (Type::U64, Value::Number(number)) => Val::U64(number.as_u64().context("not a u64")?),
        (Type::Record(record), Value::Object(fields)) => {
            ensure!(fields.len() == record.fields().len(), "another number of fields");
            let fields = record.fields().map(|field| {
                let value = fields.get(field.name).with_context(|| format!("no {}", field.name))?;
                Ok((field.name.to_owned(), to_wit(value, &field.ty)?))
            });
            Val::Record(fields.collect::<Result<_>>()?)
        }
        (Type::List(list), Value::Array(items)) => {
            Val::List(items.iter().map(|item| to_wit(item, &list.ty())).collect::<Result<_>>()?)
        }
        (Type::Variant(variant), value) => {
            // A case without payload is its name, any other an object of one key.
            let (name, payload) = match value {
                Value::String(name) => (name, None),
                Value::Object(fields) if fields.len() == 1 => {
                    fields.iter().next().map(|(name, payload)| (name, Some(payload))).context("no case")?
                }
                value => bail!("{value} is no variant"),
            };
            let case = variant.cases().find(|case| case.name == name);
            let case = case.with_context(|| format!("there is no {name}"))?;
            let payload = match (case.ty, payload) {
                (Some(of_type), Some(payload)) => Some(Box::new(to_wit(payload, &of_type)?)),
                (None, None) => None,
                _ => bail!("{name} has another payload"),
            };
            Val::Variant(name.clone(), payload)
        }
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

use std::io;
use std::sync::{Arc, Mutex};

use tracing::Level;
use wasmtime::{Config, ModuleVersionStrategy};

use super::*;
use crate::sandbox::bindings::Authority;
use crate::sandbox::bindings::exports::optoken::authority::types::IssuedToken;
use crate::sandbox::engine::{State, engine, instantiate, link};
use crate::sandbox::engine_config;
use crate::sandbox::limits::{COMMAND_BUDGET, MAX_MEMORY};
use crate::sandbox::linker::{CatalogStoreCtx, Snapshot};
use crate::store::{MemoryStore, Store};

/// The lines of a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Calls a function, and returns the lines that it logs beside its result.
    fn of<T>(call: impl FnOnce() -> T) -> (T, String) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let result = tracing::subscriber::with_default(subscriber, call);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        (result, text)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn instance(
    engine: &Engine,
    component: &Component,
    catalog: CatalogStoreCtx,
) -> (wasmtime::Store<State>, Authority) {
    instantiate(&link(engine, component).unwrap(), catalog, COMMAND_BUDGET).unwrap()
}

/// Issues an operator token in this store.
fn issue(engine: &Engine, component: &Component, store: &Arc<MemoryStore>) -> IssuedToken {
    let (mut store, instance) = instance(engine, component, CatalogStoreCtx::from_store(store.clone()));
    instance.optoken_authority_tokens().call_create_operator(&mut store, "test").unwrap().unwrap()
}

/// What a component answers to these credentials, and about itself.
fn answers(
    engine: &Engine,
    component: &Component,
    snapshot: &Arc<Snapshot>,
    credentials: &[&str],
) -> Vec<String> {
    let (mut store, instance) = instance(engine, component, CatalogStoreCtx::from_snapshot(snapshot.clone()));
    let authenticator = instance.optoken_authority_authenticator();
    let provision = instance.optoken_authority_provision();
    let mut answers: Vec<_> = credentials
        .iter()
        .flat_map(|credential| {
            let principal = authenticator.call_authenticate(&mut store, credential).unwrap();
            let hash = provision.call_hash_token(&mut store, credential).unwrap();
            [format!("{principal:?}"), format!("{hash:?}")]
        })
        .collect();
    answers.push(format!("{:?}", instance.optoken_authority_tokens().call_audit(&mut store, None).unwrap()));
    answers.push(format!("{:?}", instance.optoken_authority_component_info().call_get_info(&mut store)));
    answers
}

#[test]
fn machine_code_is_used_on_this_machine() {
    let engine = engine(2).unwrap();
    load(&engine, MACHINE_CODE).unwrap();
    let (component, log) = Log::of(|| built_in_component(&engine));
    component.unwrap();
    assert_eq!(log, "");
}

#[test]
fn machine_code_answers_as_compiled_component() {
    let engine = engine(4).unwrap();
    let loaded = load(&engine, MACHINE_CODE).unwrap();
    let compiled = Component::new(&engine, BUILT_IN_COMPONENT).unwrap();
    for issuing in [&loaded, &compiled] {
        let store = Arc::new(MemoryStore::default());
        let IssuedToken { info, secret } = issue(&engine, issuing, &store);
        let snapshot = Arc::new(Snapshot::from(store.load().unwrap()));
        let long = "x".repeat(1000);
        let credentials = ["", &secret, &secret[1..], &long, "apiv3_\u{1f600}"];
        let answers = |component| answers(&engine, component, &snapshot, &credentials);
        let (loaded, compiled) = (answers(&loaded), answers(&compiled));
        assert_eq!(loaded, compiled);
        assert!(loaded[2].contains("Operator") && loaded[3].contains(&info.sha512), "{loaded:?}");
        assert!(loaded[0].contains("UnknownToken"), "{loaded:?}");
    }
}

/// Asserts that the component is compiled, and that the log gives this reason.
fn assert_compiled(engine: &Engine, machine_code: &[u8], reason: &str) {
    let (component, log) = Log::of(|| load_or_compile(engine, machine_code));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("INFO") && log.contains("compiling the built-in component"), "{log}");
    assert!(log.contains(reason), "{log}");
    let info = |component: &Component| {
        let catalog = CatalogStoreCtx::from_snapshot(Arc::new(Snapshot::Empty));
        let (mut store, instance) = instance(engine, component, catalog);
        instance.optoken_authority_component_info().call_get_info(&mut store).unwrap().contract
    };
    assert_eq!(info(&component.unwrap()), crate::sandbox::CONTRACT);
}

#[test]
fn damaged_machine_code_is_replaced_by_compilation() {
    let engine = engine(2).unwrap();
    let (head, _) = MACHINE_CODE.split_at(100);
    assert_compiled(&engine, &[], "another architecture");
    assert_compiled(&engine, head, "section");
    assert_compiled(&engine, &[&[0], &MACHINE_CODE[1..]].concat(), "ELF");
}

#[test]
fn machine_code_of_other_release_is_replaced_by_compilation() {
    let mut config = engine_config::config();
    config.module_version(ModuleVersionStrategy::Custom("another release".into())).unwrap();
    assert_compiled(&Engine::new(&config).unwrap(), MACHINE_CODE, "incompatible version");
}

#[test]
fn machine_code_for_other_settings_is_replaced_by_compilation() {
    let mut config = engine_config::config();
    // The settings of a machine without room for a pool.
    config.memory_reservation(MAX_MEMORY as u64);
    assert_compiled(&Engine::new(&config).unwrap(), MACHINE_CODE, "memory reservation");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn machine_code_is_refused_on_older_processor() {
    let mut config: Config = engine_config::config();
    let lacks = |feature: &str| Some(feature != "avx2" && std::arch::is_x86_feature_detected!("avx"));
    // SAFETY: no code runs on this engine.
    #[allow(unsafe_code)]
    unsafe {
        config.detect_host_feature(lacks);
    }
    let error = load(&Engine::new(&config).unwrap(), MACHINE_CODE).unwrap_err();
    assert!(format!("{error:#}").contains("has_avx2"), "{error:#}");
}

//! What the sandbox does with a component that misbehaves: it is stopped, counted and replaced, and nothing is let in.
//!
//! The components are written here, as core modules in text form that are given the world of `wit/`. Each behaves unless
//! it is handed a credential or origin that begins with `!`; what it does wrong then, the second character says: `a` for
//! the first of its misbehaviours, and so on. A credential that begins with `?` is the operator token's until a command
//! is asked for with it, which then goes wrong in the same ways.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{iter, thread};

use optoken::authority::{Authority, BuildError};
use optoken::sandbox::{self, BUILT_IN_COMPONENT};
use optoken::store::{Entry, MemoryStore, Store, StoreError, SwapOutcome, Version};
use optoken::token::{AuthenticateError, CommandError, TokenKind};
use rustix::time::{ClockId, clock_gettime};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use crate::support::{CREATE, REGENERATE, Server, TestEnv, get, post, sha512_hex};

/// The function of WASI's randomness that a misbehaving component imports. It is of another release than the import of
/// the contract, which declares another function.
const WASI_RANDOM: &str = "
    package wasi:random@0.2.1;
    interface random { get-random-bytes: func(len: u64) -> list<u8>; }
";

/// A world of this repository, with what misbehaving components import on top.
fn world() -> (Resolve, wit_parser::WorldId) {
    let mut resolve = Resolve::default();
    resolve.push_str("random.wit", WASI_RANDOM).unwrap();
    resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap();
    let package = resolve
        .push_str(
            "test.wit",
            "package optoken:test;
             world misbehaving { include optoken:authority/authority@0.2.0; import wasi:random/random@0.2.1; }",
        )
        .unwrap();
    let world = resolve.select_world(&[package], Some("misbehaving")).unwrap();
    (resolve, world)
}

/// A component whose exports misbehave as they are told, and else answer that the token is not known or that the command
/// is forbidden.
fn component(misbehaviours: &[&str]) -> Vec<u8> {
    MisbehavingComponent { commanded: misbehaviours, ..MisbehavingComponent::default() }.component()
}

/// What a component here does other than it should. What is not said answers as it should, with nothing in it.
struct MisbehavingComponent<'a> {
    /// Where it is handed a text that begins with `!` or `?`.
    commanded: &'a [&'a str],
    /// Where it is asked for the tokens, the status or the audit records.
    asked: &'a str,
    initialized: &'a str,
    /// As it is instantiated.
    started: &'a str,
    /// How many core modules it has beside its own.
    extra: usize,
}

/// Success with the empty list, or with nothing, or with the empty name.
const NOTHING: &str = "(i32.const 3072)";

impl Default for MisbehavingComponent<'_> {
    fn default() -> Self {
        Self { commanded: &[], asked: NOTHING, initialized: NOTHING, started: NOTHING, extra: 0 }
    }
}

impl MisbehavingComponent<'_> {
    fn component(&self) -> Vec<u8> {
        let extra: Vec<_> = (0..self.extra).map(|number| format!("extra-{number}")).collect();
        let mut encoder = ComponentEncoder::default().module(&self.module(&extra)).unwrap().validate(true);
        for name in &extra {
            encoder =
                encoder.adapter(name, &wat::parse_str(r#"(module (func (export "f")))"#).unwrap()).unwrap();
        }
        encoder.encode().unwrap()
    }

    fn module(&self, extra: &[String]) -> Vec<u8> {
        let Self { commanded, asked, initialized, started, .. } = self;
        let import = |name: &String| format!(r#"(import "{name}" "f" (func))"#);
        let imports = extra.iter().map(import).collect::<Vec<_>>().concat();
        let cases = commanded.iter().enumerate().fold(String::new(), |cases, (number, misbehaviour)| {
            let letter = b'a' + u8::try_from(number).unwrap();
            format!(
                "{cases}
                (if (i32.eq (local.get $which) (i32.const {letter})) (then (return (block (result i32) {misbehaviour}))))"
            )
        });
        let module = format!(
            r#"(module
                {imports}
                (import "wasi:random/random@0.2.1" "get-random-bytes" (func $random (param i64 i32)))
                (import "optoken:authority/catalog-store@0.2.0" "load" (func $load (param i32)))
                (import "optoken:authority/catalog-store@0.2.0" "swap"
                    (func $swap (param i32 i32 i32 i32 i32 i32)))
                (memory (export "memory") 1)
                (table $elements 0 funcref)
                (global $heap (mut i32) (i32.const 4096))
                (data (i32.const 256) "\ff\fe")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (local $block i32)
                    (local.set $block (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                    (global.set $heap (i32.add (local.get $block) (local.get 3)))
                    (local.get $block))
                (func $begins (param $text i32) (param $length i32) (param $with i32) (result i32)
                    (i32.and
                        (i32.ge_u (local.get $length) (i32.const 2))
                        (i32.eq (i32.load8_u (local.get $text)) (local.get $with))))
                (func $recurse (param i32) (result i32) (i32.add (call $recurse (local.get 0)) (i32.const 1)))
                (func $misbehave (param $text i32) (result i32)
                    (local $which i32)
                    (local.set $which (i32.load8_u offset=1 (local.get $text))) {cases}
                    unreachable)
                (func (export "optoken:authority/authenticator@0.2.0#load") (result i32) (i32.const 3072))
                (func (export "optoken:authority/component-info@0.2.0#get-info") (result i32) (i32.const 3072))
                ;; An error of case 0: `unknown-token`. Success with the token 0, a case 0: `operator`.
                (func $authenticate (param i32 i32) (result i32)
                    (if (call $begins (local.get 0) (local.get 1) (i32.const 33))
                        (then (return (call $misbehave (local.get 0)))))
                    (if (call $begins (local.get 0) (local.get 1) (i32.const 63)) (then (return (i32.const 3072))))
                    (i32.store8 (i32.const 1024) (i32.const 1))
                    (i32.store8 (i32.const 1032) (i32.const 0))
                    (i32.const 1024))
                (export "optoken:authority/authenticator@0.2.0#authenticate" (func $authenticate))
                (export "optoken:authority/authenticator@0.2.0#describe" (func $authenticate))
                ;; An error of case 2: `forbidden`.
                (func $command (param i32 i32) (result i32)
                    (if (i32.or
                            (call $begins (local.get 0) (local.get 1) (i32.const 33))
                            (call $begins (local.get 0) (local.get 1) (i32.const 63)))
                        (then (return (call $misbehave (local.get 0)))))
                    (i32.store8 (i32.const 1024) (i32.const 1))
                    (i32.store8 (i32.const 1032) (i32.const 2))
                    (i32.const 1024))
                (export "optoken:authority/tokens@0.2.0#create-operator" (func $command))
                (export "optoken:authority/recovery@0.2.0#regenerate" (func $command))
                (func $rotate (param i32 i32 i32 i32 i32 i64) (result i32) (call $command (local.get 0) (local.get 1)))
                (export "optoken:authority/tokens@0.2.0#regenerate" (func $rotate))
                (export "optoken:authority/tokens@0.2.0#confirm" (func $rotate))
                (func (export "optoken:authority/tokens@0.2.0#stage")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func $end (param i32 i32 i32 i32) (result i32) (call $command (local.get 0) (local.get 1)))
                (export "optoken:authority/tokens@0.2.0#cancel" (func $end))
                (export "optoken:authority/tokens@0.2.0#end-overlap" (func $end))
                (func (export "optoken:authority/tokens@0.2.0#create-named")
                    (param i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func (export "optoken:authority/tokens@0.2.0#delete") (param i32 i32 i32 i32 i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func $import (param i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (export "optoken:authority/provision@0.2.0#import-token" (func $import))
                (export "optoken:authority/provision@0.2.0#import-hash" (func $import))
                (func $asked (result i32) (block (result i32) {asked}))
                (export "optoken:authority/tokens@0.2.0#list-tokens" (func $asked))
                (export "optoken:authority/authenticator@0.2.0#state" (func $asked))
                (func (export "optoken:authority/tokens@0.2.0#audit") (param i32 i64) (result i32) (call $asked))
                (export "optoken:authority/tokens@0.2.0#status" (func $asked))
                (func (export "optoken:authority/provision@0.2.0#initialize") (param i32 i32) (result i32)
                    (block (result i32) {initialized}))
                (func $start (drop (block (result i32) {started})))
                (start $start)
            )"#
        );
        let mut module = wat::parse_str(&module).unwrap();
        let (resolve, world) = world();
        wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        module
    }
}

/// What a component may do wrong. Case 3 of a command's errors carries text; authentication has no case 3.
///
/// The first ones are found out in doing it, the others by what they answer.
const MISBEHAVIOURS: [(&str, &str); 13] = [
    ("traps", "unreachable"),
    ("loops for ever", "(loop $l (br $l)) unreachable"),
    ("loops over the store", "(loop $l (call $load (i32.const 2048)) (br $l)) unreachable"),
    ("recurses for ever", "(call $recurse (i32.const 0))"),
    (
        "takes all memory",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
    ),
    (
        "takes too much memory at once",
        "(i32.store (i32.mul (memory.grow (i32.const 1024)) (i32.const 65536)) (i32.const 0)) (i32.const 1024)",
    ),
    (
        "asks for huge randomness",
        "(call $random (i64.const 0x10000000000) (i32.const 2048)) (i32.const 1024)",
    ),
    (
        "hands over more than a document",
        "(if (i32.eq (memory.grow (i32.const 273)) (i32.const -1)) (then unreachable))
         (call $swap (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 17825792) (i32.const 2048))
         (i32.const 1024)",
    ),
    ("answers beyond its memory", "(i32.const 0x7ffffff8)"),
    ("answers without alignment", "(i32.const 1025)"),
    (
        "answers with a case that is none",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 99)) (i32.const 1024)",
    ),
    (
        "answers with text that is none",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 3)) (i32.store (i32.const 1040) (i32.const 256)) (i32.store (i32.const 1044) (i32.const 2)) (i32.const 1024)",
    ),
    (
        "answers with endless text",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 3)) (i32.store (i32.const 1040) (i32.const 0)) (i32.store (i32.const 1044) (i32.const 0x7fffffff)) (i32.const 1024)",
    ),
];

/// How many of them are not answers.
const DEEDS: usize = 8;

/// A component that misbehaves in every way, and how it is told to: the rest of the text that begins with `!` or `?`.
fn misbehaving() -> (Vec<u8>, impl Iterator<Item = (&'static str, char)>) {
    let ways = MISBEHAVIOURS.map(|(_, misbehaviour)| misbehaviour);
    (component(&ways), MISBEHAVIOURS.into_iter().map(|(case, _)| case).zip('a'..))
}

fn over(component: &[u8]) -> Authority {
    Authority::builder(MemoryStore::default()).component(component).build().unwrap()
}

/// What this gives, and that it takes little more processor time than the budget. Time on the clock would tell nothing on a
/// busy machine.
#[track_caller]
fn within<T>(budget: Duration, case: &str, run: impl FnOnce() -> T) -> T {
    let processor_time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = processor_time();
    let answer = run();
    let took = processor_time().saturating_sub(before);
    assert!(took < 3 * budget + Duration::from_millis(250), "{case} took {took:?}");
    answer
}

fn failed() -> CommandError {
    CommandError::Unavailable("the sandboxed component failed".to_owned())
}

#[test]
fn whatever_a_command_does_wrong_changes_nothing_and_the_next_one_works() {
    let (component, cases) = misbehaving();
    let authority = over(&component);
    for (case, letter) in cases {
        for _ in 1..=3 {
            let traps = authority.traps();
            let command = || authority.create_operator(&format!("!{letter}"));
            assert_eq!(within(sandbox::COMMAND_BUDGET, case, command).unwrap_err(), failed(), "{case}");
            assert_eq!(authority.traps(), traps + 1, "{case}");
            assert_eq!(authority.create_operator("good").unwrap_err(), CommandError::Forbidden, "{case}");
        }
    }
}

#[test]
fn whatever_an_authentication_does_wrong_lets_nobody_in_and_the_next_one_works() {
    let (component, cases) = misbehaving();
    let authority = over(&component);
    for (case, letter) in cases {
        for _ in 1..=3 {
            let traps = authority.traps();
            let failed = AuthenticateError::Unavailable("the sandboxed component failed".to_owned());
            let authentication = || authority.authenticate(&format!("!{letter}"));
            assert_eq!(within(sandbox::AUTHENTICATE_BUDGET, case, authentication), Err(failed), "{case}");
            assert_eq!(authority.traps(), traps + 1, "{case}");
            assert_eq!(authority.authenticate("other"), Err(AuthenticateError::Unknown), "{case}");
        }
    }
}

#[test]
fn whatever_it_does_wrong_when_it_is_asked_is_an_error_and_counted_and_the_next_request_works() {
    for (case, misbehaviour) in MISBEHAVIOURS {
        let component =
            MisbehavingComponent { asked: misbehaviour, ..MisbehavingComponent::default() }.component();
        // The status is asked for already as it starts.
        let authority = within(sandbox::AUTHENTICATE_BUDGET + COMPILING, case, || over(&component));
        assert_eq!(authority.traps(), 1, "{case}");
        let budget = sandbox::AUTHENTICATE_BUDGET;
        assert_eq!(within(budget, case, || authority.list_tokens().unwrap_err()), failed(), "{case}");
        assert_eq!(within(budget, case, || authority.status().unwrap_err()), failed(), "{case}");
        assert_eq!(within(budget, case, || authority.audit(None).unwrap_err()), failed(), "{case}");
        assert_eq!(within(budget, case, || authority.catalog_state().unwrap_err()), failed(), "{case}");
        assert_eq!(authority.traps(), 5, "{case}");
        assert_eq!(authority.authenticate("other"), Err(AuthenticateError::Unknown), "{case}");
    }
}

/// For a component of this size, with room for a machine that is slow.
const COMPILING: Duration = Duration::from_secs(1);

#[test]
fn whatever_it_does_wrong_as_it_is_started_or_initialized_refuses_the_start() {
    let refused = |case: &str, odd: &MisbehavingComponent<'_>| {
        let component = odd.component();
        let builder = Authority::builder(MemoryStore::default()).component(&component);
        let built = within(sandbox::COMMAND_BUDGET + COMPILING, case, || builder.build());
        let error = built.err().unwrap_or_else(|| panic!("{case}: it starts"));
        assert!(matches!(error, BuildError::Trap(_)), "{case}: {error}");
    };
    for (number, (case, misbehaviour)) in MISBEHAVIOURS.into_iter().enumerate() {
        refused(case, &MisbehavingComponent { initialized: misbehaviour, ..MisbehavingComponent::default() });
        // Nobody looks at what a start function leaves.
        if number < DEEDS {
            refused(case, &MisbehavingComponent { started: misbehaviour, ..MisbehavingComponent::default() });
        }
    }
}

/// An error of case 2: that the command is forbidden.
const FORBIDDEN: &str = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 2)) (i32.const 1024)";

/// What a component may do just so, and then says that the command is forbidden, and what that is one too many of, at which it
/// traps.
fn bounds() -> [(&'static str, String, String); 3] {
    let page = 64 << 10;
    let grown = |what: &str, by: usize| {
        format!("(if (i32.eq ({what} (i32.const {by})) (i32.const -1)) (then unreachable)) {FORBIDDEN}")
    };
    // It has one page already.
    let memory = |pages: usize| grown("memory.grow", pages - 1);
    let table = |elements: usize| grown("table.grow $elements (ref.null func)", elements);
    let document = |bytes: usize| {
        format!(
            "(if (i32.eq (memory.grow (i32.const 300)) (i32.const -1)) (then unreachable))
             (call $swap (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 65536) (i32.const {bytes}) (i32.const 2048)) {FORBIDDEN}"
        )
    };
    let pages = sandbox::MAX_MEMORY / page;
    let data = sandbox::MAX_HOSTCALL_DATA;
    [
        ("memory", memory(pages), memory(pages + 1)),
        ("elements of a table", table(sandbox::MAX_TABLE_ELEMENTS), table(sandbox::MAX_TABLE_ELEMENTS + 1)),
        // Beside a document there is its version.
        ("data in one call", document(data - 1024), document(data + 1)),
    ]
}

#[test]
fn a_component_may_use_what_the_limits_allow_and_no_more() {
    for (case, allowed, too_much) in bounds() {
        let authority = over(&component(&[&allowed, &too_much]));
        assert_eq!(authority.create_operator("!a").unwrap_err(), CommandError::Forbidden, "{case}");
        assert_eq!(authority.traps(), 0, "{case}");
        assert_eq!(authority.create_operator("!b").unwrap_err(), failed(), "{case}");
        assert_eq!(authority.traps(), 1, "{case}");
    }
}

/// How many core instances a component from here has beside those that it is told to have: its own, and two that
/// `wit-component` puts around that.
const USUAL_INSTANCES: usize = 3;

#[test]
fn a_component_may_have_as_many_core_instances_as_the_limits_allow_and_no_more() {
    let allowed = sandbox::MAX_CORE_INSTANCES as usize - USUAL_INSTANCES;
    over(&MisbehavingComponent { extra: allowed, ..MisbehavingComponent::default() }.component());
    let component =
        MisbehavingComponent { extra: allowed + 1, ..MisbehavingComponent::default() }.component();
    let error = Authority::builder(MemoryStore::default()).component(&component).build().err().unwrap();
    assert!(format!("{error:?}").contains("core module instances"), "{error:?}");
}

#[test]
fn whatever_it_does_wrong_in_a_server_is_answered_with_503_and_counted_and_the_next_request_works() {
    let (component, cases) = misbehaving();
    let env = TestEnv::new();
    let file = env.file("misbehaving.wasm", &component);
    let server = env.serve(&["--component", file.to_str().unwrap(), "--disable-authz", "metrics"]);
    are_answered_with_503_and_counted(&server, cases);
}

#[test]
fn a_machine_without_address_space_for_a_pool_has_the_same_limits() {
    let (allowed, too_much): (Vec<_>, Vec<_>) =
        bounds().into_iter().map(|(case, allowed, too_much)| ((case, allowed), (case, too_much))).unzip();
    let wrong = MISBEHAVIOURS.map(|(case, misbehaviour)| (case, misbehaviour.to_owned()));
    let cases: Vec<_> = allowed.into_iter().chain(too_much).chain(wrong).zip('a'..).collect();
    let component = component(&cases.iter().map(|((_, case), _)| case.as_str()).collect::<Vec<_>>());
    let env = TestEnv::new();
    let file = env.file("misbehaving.wasm", &component);
    let cli = env.serve_with(&["--component", file.to_str().unwrap(), "--disable-authz", "metrics"]);
    let server = cli.after(&format!("ulimit -v {}", 4 << 20)).start();
    server.wait_for_log("no instance pool on this machine");
    let mut cases = cases.into_iter().map(|((case, _), letter)| (case, letter));
    for (case, letter) in cases.by_ref().take(bounds().len()) {
        let command = post(REGENERATE).bearer(&format!("?{letter}")).send(server.address);
        assert_eq!(command.status, 403, "{case}: {command:?}");
    }
    are_answered_with_503_and_counted(&server, cases);

    let allowed = sandbox::MAX_CORE_INSTANCES as usize - USUAL_INSTANCES;
    let large = |extra: usize| {
        let file = env.file(
            "large.wasm",
            &MisbehavingComponent { extra, ..MisbehavingComponent::default() }.component(),
        );
        let other = ["--store", "memory:", "--component", file.to_str().unwrap()];
        env.serve_with(&other).after(&format!("ulimit -v {}", 4 << 20))
    };
    large(allowed).start();
    let output = large(allowed + 1).run();
    assert_ne!(output.code, Some(0));
    assert!(output.stderr.contains("instance count too high"), "{output:?}");
}

fn are_answered_with_503_and_counted(server: &Server, cases: impl Iterator<Item = (&'static str, char)>) {
    let traps = || {
        let metrics = get("/metrics").send(server.address).body;
        let line = metrics.lines().find_map(|line| line.strip_prefix("optoken_sandbox_traps_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    for (case, letter) in cases {
        let before = traps();
        let authentication = get("/health").bearer(&format!("!{letter}")).send(server.address);
        assert_eq!(authentication.status, 503, "{case}: {authentication:?}");
        assert_eq!(traps(), before + 1, "{case}");
        assert_eq!(get("/health").bearer("other").send(server.address).status, 401, "{case}");

        let command = post(REGENERATE).bearer(&format!("?{letter}")).send(server.address);
        assert_eq!(command.status, 503, "{case}: {command:?}");
        assert_eq!(traps(), before + 2, "{case}");
        assert_eq!(post(CREATE).send(server.address).status, 403, "{case}");
    }
}

/// Calls `swap(none, "x")` with room for the answer at 2048.
const SWAP: &str = "(i32.store8 (i32.const 512) (i32.const 120))
    (call $swap (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 2048))";

/// A store that counts how often it is loaded, and takes no processor time for it.
#[derive(Default)]
struct Slow {
    there: MemoryStore,
    loads: AtomicU32,
}

impl Store for Slow {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.there.version()
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
        self.there.load()
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.there.swap(expected, document)
    }
}

#[test]
fn a_component_that_loops_over_a_slow_store_is_stopped_by_how_often_it_asks() {
    let store = Arc::new(Slow::default());
    let (component, mut cases) = misbehaving();
    let (_, letter) = cases.find(|(case, _)| *case == "loops over the store").unwrap();
    let authority = Authority::builder_shared(store.clone()).component(&component).build().unwrap();
    store.loads.store(0, Ordering::Relaxed);
    let error = authority.create_operator(&format!("!{letter}")).unwrap_err();
    assert_eq!(error, CommandError::Unavailable("the sandboxed component failed".to_owned()));
    assert_eq!((store.loads.load(Ordering::Relaxed), authority.traps()), (sandbox::MAX_STORE_CALLS, 1));
}

#[test]
fn a_reader_that_tries_to_write_is_stopped() {
    let store = Arc::new(MemoryStore::default());
    let authority = Authority::builder_shared(store.clone())
        .component(component(&[&format!("{SWAP} (i32.const 1024)")]))
        .build()
        .unwrap();
    assert!(matches!(authority.authenticate("!a"), Err(AuthenticateError::Unavailable(_))));
    assert_eq!(authority.traps(), 1);
    assert_eq!(store.load().unwrap(), None);
}

#[test]
fn a_command_that_fails_after_it_wrote_does_not_claim_that_nothing_was_changed() {
    let authority = Authority::builder(MemoryStore::default())
        .component(component(&[&format!("{SWAP} unreachable")]))
        .build()
        .unwrap();
    let error = authority.create_operator("!a").unwrap_err();
    assert_eq!(error, CommandError::UnknownOutcome("the sandboxed component failed".to_owned()));
}

#[test]
fn a_catalog_of_ten_thousand_tokens_is_within_the_limits() {
    let token = |id: usize, name: &str| {
        let hash = sha512_hex(&format!("secret of {id}"));
        format!(r#"{{"id":{id},"name":"{name}","hash":"{hash}","created_at":1700000000000}}"#)
    };
    let named = (1..10_000).map(|id| token(id, &format!("a token with a name of some length, {id}")));
    let tokens: Vec<String> = iter::once(token(0, "_admin")).chain(named).collect();
    let header = r#"{"next_id":10000,"tokens":10000}"#;
    let document = format!("{{\"format\":1}}\n{header}\n{}\n", tokens.join("\n"));
    let store = MemoryStore::default();
    store.swap(None, &document).unwrap();
    let authority = Authority::builder(store).build().unwrap();
    assert_eq!(authority.authenticate("secret of 9999").unwrap().kind, TokenKind::NamedAdmin);
    let issued = authority.regenerate(&"secret of 0".to_owned().into(), 0, "test").unwrap();
    assert_eq!(authority.authenticate(issued.secret.expose()).unwrap().kind, TokenKind::Operator);
    assert_eq!(authority.authenticate("secret of 0"), Err(AuthenticateError::Unknown));
    assert!(authority.authenticate("secret of 1").is_ok());

    let listed = authority.list_tokens().unwrap();
    assert_eq!((listed.len(), listed[9999].id), (10_000, 9999));
    let credential = "secret of 1".to_owned().into();
    let one_more = || authority.create_named(&credential, "one more", None, "test").map(drop);
    assert_eq!(one_more(), Err(CommandError::Full(10_000)));
    authority.delete(&credential, &listed[77].name, "test").unwrap();
    assert_eq!(one_more(), Ok(()));
    assert_eq!(one_more(), Err(CommandError::AlreadyExists("one more".into())));
    assert_eq!(authority.traps(), 0);
}

#[test]
fn what_is_no_component_is_refused() {
    for (case, bytes) in [
        ("nothing", &b""[..]),
        ("text", b"hello"),
        ("a core module", b"\0asm\x01\0\0\0"),
        ("half of it", &BUILT_IN_COMPONENT[..BUILT_IN_COMPONENT.len() / 2]),
    ] {
        let error = Authority::builder(MemoryStore::default()).component(bytes).build().err().unwrap();
        let refused = matches!(error, BuildError::Sandbox(sandbox::SandboxError::NotAComponent(_)));
        assert!(refused, "{case}: {error}");
    }
}

#[test]
fn a_component_of_another_world_is_refused_with_both_worlds_named() {
    let empty = b"\0asm\x0d\0\x01\0";
    let error =
        Authority::builder(MemoryStore::default()).component(empty).build().err().unwrap().to_string();
    assert!(
        error.contains("This host runs a world with\n  imports: wasi:clocks/wall-clock@0.2.x"),
        "{error}"
    );
    assert!(error.contains("The component has a world with\n  imports: none\n  exports: none"), "{error}");
}

#[test]
fn a_component_that_wants_more_is_refused() {
    let module = wat::parse_str(r#"(module (import "wasi:cli/environment@0.2.0" "x" (func)))"#).unwrap();
    let component = {
        let mut resolve = Resolve::default();
        let package = resolve
            .push_str(
                "x.wit",
                "package wasi:cli@0.2.0; interface environment { x: func(); } world greedy { import environment; }",
            )
            .unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        let mut module = module;
        wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
    };
    let error =
        Authority::builder(MemoryStore::default()).component(&component).build().err().unwrap().to_string();
    assert!(error.contains("imports: wasi:cli/environment@0.2.0"), "{error}");
}

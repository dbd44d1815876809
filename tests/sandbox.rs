//! A component that misbehaves is stopped, counted and replaced, and grants no access.
//!
//! The components are core modules in text form with the world of `wit/`. A credential or origin
//! that begins with `!` makes one misbehave: the second character selects how, from `a` on. A
//! credential that begins with `?` authenticates as the operator, and makes commands misbehave in
//! the same ways.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, iter, thread};

use optoken::authority::{Authority, BuildError};
use optoken::sandbox::{self, BUILT_IN_COMPONENT};
use optoken::store::{Entry, MemoryStore, Store, StoreError, SwapOutcome, Version};
use optoken::token::{AuthenticateError, CommandError, TokenKind};
use rustix::time::{ClockId, clock_gettime};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use crate::support::{CREATE, REGENERATE, Server, TestEnv, eventually, get, post, sha512_hex};

/// The part of `wasi:random` that these components import. The contract imports another version of
/// the package, which declares another function.
const WASI_RANDOM: &str = "
    package wasi:random@0.2.1;
    interface random { get-random-bytes: func(len: u64) -> list<u8>; }
";

/// The world of this repository with one more import.
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

/// A component that misbehaves on request. Its other results are `unknown-token` and `forbidden`.
fn component(misbehaviours: &[&str]) -> Vec<u8> {
    MisbehavingComponent { commanded: misbehaviours, ..MisbehavingComponent::default() }.component()
}

/// Misbehaviour of a component. A default field returns an empty success.
struct MisbehavingComponent<'a> {
    /// In a call with a text that begins with `!` or `?`.
    commanded: &'a [&'a str],
    /// In a call for the tokens, the status or the audit records.
    read: &'a str,
    initialized: &'a str,
    /// In its start function.
    started: &'a str,
    /// Number of core modules beside its own.
    extra: usize,
}

/// Success with an empty list, no value, or an empty name.
const NOTHING: &str = "(i32.const 3072)";

impl Default for MisbehavingComponent<'_> {
    fn default() -> Self {
        Self { commanded: &[], read: NOTHING, initialized: NOTHING, started: NOTHING, extra: 0 }
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
        let Self { commanded, read, initialized, started, .. } = self;
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
                (func (export "optoken:authority/authenticator@0.2.0#authorize")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    (call $authenticate (local.get 0) (local.get 1)))
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
                (func (export "optoken:authority/recovery@0.2.0#regenerate") (param i32 i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
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
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func (export "optoken:authority/tokens@0.2.0#delete") (param i32 i32 i32 i32 i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func $import
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func (export "optoken:authority/provision@0.2.0#hash-token") (param i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (func (export "optoken:authority/provision@0.2.0#replace-operator")
                    (param i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
                    (call $command (local.get 0) (local.get 1)))
                (export "optoken:authority/provision@0.2.0#import-hash" (func $import))
                (func $read (result i32) (block (result i32) {read}))
                (export "optoken:authority/tokens@0.2.0#list-tokens" (func $read))
                (export "optoken:authority/authenticator@0.2.0#state" (func $read))
                (func (export "optoken:authority/tokens@0.2.0#audit") (param i32 i64) (result i32) (call $read))
                (export "optoken:authority/tokens@0.2.0#status" (func $read))
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

/// Kinds of misbehaviour. Case 3 of the errors of a command has text. Authentication has no case 3.
///
/// The first ones fail while they run, the others by their result.
const MISBEHAVIOURS: [(&str, &str); 13] = [
    ("traps", "unreachable"),
    ("loops endlessly", "(loop $l (br $l)) unreachable"),
    ("loops over the store", "(loop $l (call $load (i32.const 2048)) (br $l)) unreachable"),
    ("recurses endlessly", "(call $recurse (i32.const 0))"),
    (
        "allocates all memory",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
    ),
    (
        "allocates too much memory at once",
        "(i32.store (i32.mul (memory.grow (i32.const 1024)) (i32.const 65536)) (i32.const 0)) (i32.const 1024)",
    ),
    (
        "asks for huge randomness",
        "(call $random (i64.const 0x10000000000) (i32.const 2048)) (i32.const 1024)",
    ),
    (
        "passes more than a document",
        "(if (i32.eq (memory.grow (i32.const 273)) (i32.const -1)) (then unreachable))
         (call $swap (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 65536) (i32.const 17825792) (i32.const 2048))
         (i32.const 1024)",
    ),
    ("result outside its memory", "(i32.const 0x7ffffff8)"),
    ("unaligned result", "(i32.const 1025)"),
    (
        "unknown case as result",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 99)) (i32.const 1024)",
    ),
    (
        "invalid text as result",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 3)) (i32.store (i32.const 1040) (i32.const 256)) (i32.store (i32.const 1044) (i32.const 2)) (i32.const 1024)",
    ),
    (
        "endless text as result",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 3)) (i32.store (i32.const 1040) (i32.const 0)) (i32.store (i32.const 1044) (i32.const 0x7fffffff)) (i32.const 1024)",
    ),
];

/// Number of those that fail while they run.
const RUNNING_MISBEHAVIOURS: usize = 8;

/// A component with every misbehaviour, and the characters that select them.
fn misbehaving() -> (Vec<u8>, impl Iterator<Item = (&'static str, char)>) {
    let ways = MISBEHAVIOURS.map(|(_, misbehaviour)| misbehaviour);
    (component(&ways), MISBEHAVIOURS.into_iter().map(|(case, _)| case).zip('a'..))
}

fn over(component: &[u8]) -> Authority {
    Authority::builder(MemoryStore::default()).component(component).build().unwrap()
}

/// Runs a function, and asserts that its processor time is close to the budget. Wall clock time
/// shows nothing on a busy machine.
#[track_caller]
fn assert_budget<T>(budget: Duration, case: &str, run: impl FnOnce() -> T) -> T {
    let processor_time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = processor_time();
    let response = run();
    let took = processor_time().saturating_sub(before);
    assert!(took < 3 * budget + Duration::from_millis(250), "{case} took {took:?}");
    response
}

fn failed() -> CommandError {
    CommandError::Unavailable("the sandboxed component failed".to_owned())
}

#[test]
fn command_trap_changes_nothing_and_recovers() {
    let (component, cases) = misbehaving();
    let authority = over(&component);
    for (case, letter) in cases {
        for _ in 1..=3 {
            let traps = authority.traps();
            let command = || authority.create_operator(&format!("!{letter}"));
            assert_eq!(
                assert_budget(sandbox::COMMAND_BUDGET, case, command).unwrap_err(),
                failed(),
                "{case}"
            );
            assert_eq!(authority.traps(), traps + 1, "{case}");
            assert_eq!(authority.create_operator("good").unwrap_err(), CommandError::Forbidden, "{case}");
        }
    }
}

#[test]
fn authenticate_trap_denies_and_recovers() {
    let (component, cases) = misbehaving();
    let authority = over(&component);
    for (case, letter) in cases {
        for _ in 1..=3 {
            let traps = authority.traps();
            let failed = AuthenticateError::Unavailable("the sandboxed component failed".to_owned());
            let authentication = || authority.authenticate(&format!("!{letter}"));
            assert_eq!(
                assert_budget(sandbox::AUTHENTICATE_BUDGET, case, authentication),
                Err(failed),
                "{case}"
            );
            assert_eq!(authority.traps(), traps + 1, "{case}");
            assert_eq!(authority.authenticate("other"), Err(AuthenticateError::Unknown), "{case}");
        }
    }
}

#[test]
fn read_trap_is_an_error_counted_and_recovers() {
    for (case, misbehaviour) in MISBEHAVIOURS {
        let component =
            MisbehavingComponent { read: misbehaviour, ..MisbehavingComponent::default() }.component();
        // The build reads the status.
        let authority =
            assert_budget(sandbox::AUTHENTICATE_BUDGET + COMPILE_BUDGET, case, || over(&component));
        assert_eq!(authority.traps(), 1, "{case}");
        let budget = sandbox::AUTHENTICATE_BUDGET;
        assert_eq!(assert_budget(budget, case, || authority.list_tokens().unwrap_err()), failed(), "{case}");
        assert_eq!(assert_budget(budget, case, || authority.status().unwrap_err()), failed(), "{case}");
        assert_eq!(assert_budget(budget, case, || authority.audit(None).unwrap_err()), failed(), "{case}");
        assert_eq!(
            assert_budget(budget, case, || authority.catalog_state().unwrap_err()),
            failed(),
            "{case}"
        );
        assert_eq!(authority.traps(), 5, "{case}");
        assert_eq!(authority.authenticate("other"), Err(AuthenticateError::Unknown), "{case}");
    }
}

/// Time to compile a component of this size, with a margin for a slow machine.
const COMPILE_BUDGET: Duration = Duration::from_secs(1);

#[test]
fn start_or_initialize_trap_prevents_start() {
    let assert_start_fails = |case: &str, misbehaving: &MisbehavingComponent<'_>| {
        let component = misbehaving.component();
        let builder = Authority::builder(MemoryStore::default()).component(&component);
        let built = assert_budget(sandbox::COMMAND_BUDGET + COMPILE_BUDGET, case, || builder.build());
        let error = built.err().unwrap_or_else(|| panic!("{case}: the start succeeds"));
        assert!(matches!(error, BuildError::Trap(_)), "{case}: {error}");
    };
    for (number, (case, misbehaviour)) in MISBEHAVIOURS.into_iter().enumerate() {
        assert_start_fails(
            case,
            &MisbehavingComponent { initialized: misbehaviour, ..MisbehavingComponent::default() },
        );
        // A start function has no result.
        if number < RUNNING_MISBEHAVIOURS {
            assert_start_fails(
                case,
                &MisbehavingComponent { started: misbehaviour, ..MisbehavingComponent::default() },
            );
        }
    }
}

/// An error of case 2: that the command is forbidden.
const FORBIDDEN: &str = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 2)) (i32.const 1024)";

/// Limits: a name, a use at the limit, which ends with `forbidden`, and a use above it, which
/// traps.
fn limits() -> [(&'static str, String, String); 3] {
    let page = 64 << 10;
    let grown = |what: &str, by: usize| {
        format!("(if (i32.eq ({what} (i32.const {by})) (i32.const -1)) (then unreachable)) {FORBIDDEN}")
    };
    // The module starts with one page.
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
        // The version of the document counts too.
        ("data in one call", document(data - 1024), document(data + 1)),
    ]
}

#[test]
fn limits_hold_from_both_sides() {
    for (case, allowed, too_much) in limits() {
        let authority = over(&component(&[&allowed, &too_much]));
        assert_eq!(authority.create_operator("!a").unwrap_err(), CommandError::Forbidden, "{case}");
        assert_eq!(authority.traps(), 0, "{case}");
        assert_eq!(authority.create_operator("!b").unwrap_err(), failed(), "{case}");
        assert_eq!(authority.traps(), 1, "{case}");
    }
}

/// Core instances of every component: its own, and two of `wit-component`.
const USUAL_INSTANCES: usize = 3;

#[test]
fn core_instance_limit_holds_from_both_sides() {
    let allowed = sandbox::MAX_CORE_INSTANCES as usize - USUAL_INSTANCES;
    over(&MisbehavingComponent { extra: allowed, ..MisbehavingComponent::default() }.component());
    let component =
        MisbehavingComponent { extra: allowed + 1, ..MisbehavingComponent::default() }.component();
    let error = Authority::builder(MemoryStore::default()).component(&component).build().err().unwrap();
    assert!(format!("{error:?}").contains("core module instances"), "{error:?}");
}

#[test]
fn trap_is_503_counted_and_recovers() {
    let (component, cases) = misbehaving();
    let env = TestEnv::new();
    let file = env.file("misbehaving.wasm", &component);
    let server = env.serve(&["--component", file.to_str().unwrap(), "--disable-authz", "metrics"]);
    assert_503_and_counted(&server, cases);
}

#[test]
fn limits_hold_without_instance_pool() {
    let (allowed, too_much): (Vec<_>, Vec<_>) =
        limits().into_iter().map(|(case, allowed, too_much)| ((case, allowed), (case, too_much))).unzip();
    let wrong = MISBEHAVIOURS.map(|(case, misbehaviour)| (case, misbehaviour.to_owned()));
    let cases: Vec<_> = allowed.into_iter().chain(too_much).chain(wrong).zip('a'..).collect();
    let component = component(&cases.iter().map(|((_, case), _)| case.as_str()).collect::<Vec<_>>());
    let env = TestEnv::new();
    let file = env.file("misbehaving.wasm", &component);
    let cli = env.serve_with(&["--component", file.to_str().unwrap(), "--disable-authz", "metrics"]);
    let server = cli.after(&format!("ulimit -v {}", 4 << 20)).start();
    server.wait_for_log("no instance pool on this machine");
    // The contract of the other component is compared with that of the built-in one.
    server.wait_for_log("compiling the built-in component: its machine code does not fit here");
    let mut cases = cases.into_iter().map(|((case, _), letter)| (case, letter));
    for (case, letter) in cases.by_ref().take(limits().len()) {
        let command = post(REGENERATE).bearer(&format!("?{letter}")).send(server.address);
        assert_eq!(command.status, 403, "{case}: {command:?}");
    }
    assert_503_and_counted(&server, cases);

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

/// How often the thread of the epoch of this server has slept.
fn epoch_sleeps(server: &Server) -> u64 {
    let tasks = format!("/proc/{}/task", server.pid().as_raw_pid());
    let is_epoch =
        |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "optoken-epoch\n");
    let mut status = None;
    // A thread takes its name once it runs.
    eventually("the epoch has a thread", || {
        let mut threads = fs::read_dir(&tasks).unwrap().map(|task| task.unwrap().path());
        status = threads.find(|task| is_epoch(task)).map(|task| task.join("status"));
        status.is_some()
    });
    let status = fs::read_to_string(status.unwrap()).unwrap();
    let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    sleeps.unwrap().trim().parse().unwrap()
}

#[test]
fn idle_server_ticks_rarely_until_call_is_long() {
    let (component, mut cases) = misbehaving();
    let env = TestEnv::new();
    let file = env.file("misbehaving.wasm", &component);
    let server = env.serve(&["--component", file.to_str().unwrap()]);
    eventually("the epoch has four ticks a second", || {
        let (started, before) = (Instant::now(), epoch_sleeps(&server));
        eventually("it ticks", || epoch_sleeps(&server) >= before + 5);
        started.elapsed() > Duration::from_millis(500)
    });

    let (_, letter) = cases.find(|(case, _)| *case == "loops endlessly").unwrap();
    let before = epoch_sleeps(&server);
    assert_eq!(get("/health").bearer(&format!("!{letter}")).send(server.address).status, 503);
    // Two, if the ticks of the call were as rare.
    assert!(epoch_sleeps(&server) >= before + 10);
}

fn assert_503_and_counted(server: &Server, cases: impl Iterator<Item = (&'static str, char)>) {
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

/// Calls `swap(none, "x")`, with space for the result at 2048.
const SWAP: &str = "(i32.store8 (i32.const 512) (i32.const 120))
    (call $swap (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 2048))";

/// A store that counts its loads, and sleeps in each.
#[derive(Default)]
struct SlowStore {
    inner: MemoryStore,
    loads: AtomicU32,
}

impl Store for SlowStore {
    fn version(&self) -> Result<Option<Version>, StoreError> {
        self.inner.version()
    }

    fn load(&self) -> Result<Option<Entry>, StoreError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(5));
        self.inner.load()
    }

    fn swap(&self, expected: Option<&Version>, document: &str) -> Result<SwapOutcome, StoreError> {
        self.inner.swap(expected, document)
    }
}

#[test]
fn store_call_limit_stops_loop_over_slow_store() {
    let store = Arc::new(SlowStore::default());
    let (component, mut cases) = misbehaving();
    let (_, letter) = cases.find(|(case, _)| *case == "loops over the store").unwrap();
    let authority = Authority::builder_shared(store.clone()).component(&component).build().unwrap();
    store.loads.store(0, Ordering::Relaxed);
    let error = authority.create_operator(&format!("!{letter}")).unwrap_err();
    assert_eq!(error, CommandError::Unavailable("the sandboxed component failed".to_owned()));
    assert_eq!((store.loads.load(Ordering::Relaxed), authority.traps()), (sandbox::MAX_STORE_CALLS, 1));
}

#[test]
fn reader_that_writes_traps() {
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
fn trap_after_write_is_unknown_outcome() {
    let authority = Authority::builder(MemoryStore::default())
        .component(component(&[&format!("{SWAP} unreachable")]))
        .build()
        .unwrap();
    let error = authority.create_operator("!a").unwrap_err();
    assert_eq!(error, CommandError::UnknownOutcome("the sandboxed component failed".to_owned()));
}

#[test]
fn catalog_of_ten_thousand_tokens_fits_limits() {
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
    let one_more = || authority.create_named(&credential, "one more", None, None, "test").map(drop);
    assert_eq!(one_more(), Err(CommandError::Full(10_000)));
    authority.delete(&credential, &listed[77].name, "test").unwrap();
    assert_eq!(one_more(), Ok(()));
    assert_eq!(one_more(), Err(CommandError::AlreadyExists("one more".into())));
    assert_eq!(authority.traps(), 0);
}

#[test]
fn invalid_bytes_are_not_a_component() {
    for (case, bytes) in [
        ("nothing", &b""[..]),
        ("text", b"hello"),
        ("a core module", b"\0asm\x01\0\0\0"),
        ("half of it", &BUILT_IN_COMPONENT[..BUILT_IN_COMPONENT.len() / 2]),
    ] {
        let error = Authority::builder(MemoryStore::default()).component(bytes).build().err().unwrap();
        let rejected = matches!(error, BuildError::Sandbox(sandbox::SandboxError::NotAComponent(_)));
        assert!(rejected, "{case}: {error}");
    }
}

#[test]
fn other_world_error_names_both_worlds() {
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
fn component_with_additional_imports_is_refused() {
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

//! `--regenerate` locks nobody out: whatever is lost, late, doubled or killed on the way, running the same command again
//! ends with a token in the file that is in force (DESIGN section 3).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::fault_proxy::{ClientResult, Fault, FaultPlan, FaultProxy, ask, read_message};
use crate::support::{
    CREATE, Cli, OVERLAP, RECOVERY, REGENERATE, STAGE, Server, TOKENS, TestEnv, assert_token_form,
    eventually, get, holds_token, post, request, sha512_hex,
};

/// The requests that a rotation consists of, in their order.
const STEPS: [&str; 3] = [
    "POST /api/v3/configure/token/admin/regenerate/stage ",
    "POST /api/v3/configure/token/admin/regenerate/confirm ",
    "GET /api/v3/configure/token/admin ",
];

/// How a server without those steps is asked whether it accepts a token.
const AUTHENTICATE: &str = "GET /api/v3/configure/token ";

/// How often each step meets each fault.
const SEEDS: u64 = 20;

/// How many servers there are at a time.
const AT_ONCE: usize = 6;

/// Xorshift: moments and choices, not secrets.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).unwrap() % sides
    }

    fn coin(&mut self) -> bool {
        self.throw(2) == 0
    }

    fn shuffled<T: Copy>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for last in (1..items.len()).rev() {
            items.swap(last, self.throw(last + 1));
        }
        items
    }
}

/// One command, and what it must not lose.
struct RotationRun<'a> {
    proxy: &'a FaultProxy,
    args: Vec<&'static str>,
    old: String,
    overlap: bool,
}

impl<'a> RotationRun<'a> {
    /// In the file that is rotated in place, or in another one that need not be there before; with the token alone in it,
    /// or as JSON.
    fn new(proxy: &'a FaultProxy, old: &str, in_place: bool, json: bool, overlap: bool) -> Self {
        let home = proxy.env().home();
        let mut args = if in_place {
            let alone = format!("{old}\n");
            let content = json!({ "name": "_admin", "token": old }).to_string();
            private(&home.join("token"), if json { &content } else { &alone });
            vec!["--token-file", "token", "--output-file", "token"]
        } else {
            fs::remove_file(home.join("token")).ok();
            private(&home.join("old"), old);
            vec!["--token-file", "old", "--output-file", "token"]
        };
        if overlap {
            args.extend(["--overlap", "1h"]);
        }
        Self { proxy, args, old: old.to_owned(), overlap }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.proxy.env().home().join(name)
    }

    fn command(&self) -> Cli {
        self.proxy.env().create_token(self.proxy.address, &["--regenerate", "--yes"]).args(&self.args)
    }

    /// Runs the command; whether it has said success, and how often something went wrong on the way.
    fn run(&self, plan: Option<FaultPlan>) -> (Option<i32>, bool, usize) {
        // Only who is never answered gives up early; a busy machine is no reason to.
        let silent = plan.is_some_and(|plan| plan.fault.is_silent());
        let cli = if silent { self.command().args(&["--timeout", "1s"]) } else { self.command() };
        let ClientResult { code, faults, stdout, stderr } = self.proxy.run(cli, plan);
        // Not on stdout either: it is in the file.
        assert!(!holds_token(&stdout) && !holds_token(&stderr), "{stdout}{stderr}");
        if plan.is_none() {
            self.assert_ends_well(code, &stderr);
        }
        let said = stdout == "Token saved to: token\n";
        assert!(said || stdout.is_empty(), "{stdout}");
        assert!(said == (code == Some(0)) || code.is_none(), "{stdout}{stderr}");
        (code, said, faults)
    }

    /// The same command again has finished what was begun. Where the last run was killed when all but its last word was
    /// done, the token in the file is a new one already; to replace that once more is what the overlap forbids.
    #[track_caller]
    fn assert_ends_well(&self, code: Option<i32>, stderr: &str) {
        let new = saved(&self.path("token")).is_some_and(|token| token != self.old);
        let overlapping = self.overlap && new && code == Some(1) && stderr.contains("[409 Conflict]");
        assert!(code == Some(0) || overlapping, "the same command again fails: {stderr}");
    }

    /// Somebody who has the old token or what is in the files has a token that is accepted, and at most one of them has
    /// full power.
    fn nobody_is_locked_out(&self) {
        let held = [Some(self.old.clone()), saved(&self.path("token")), saved(&self.path("token.staged"))];
        let held: BTreeSet<_> = held.into_iter().flatten().collect();
        let look = || {
            self.proxy.with_server(|server| {
                let stands = |token: &String| {
                    let accepted = server.accepts(token);
                    (accepted, accepted && can_rotate(server, token))
                };
                held.iter().map(stands).collect::<Vec<_>>()
            })
        };
        // What a client has sent that was killed may still be under way, and arrive between two looks.
        let mut stands = look();
        while let next = look()
            && next != stands
        {
            stands = next;
        }
        let count = |holds: fn(&(bool, bool)) -> bool| stands.iter().filter(|stands| holds(stands)).count();
        let (accepted, powerful) = (count(|stands| stands.0), count(|stands| stands.1));
        assert_eq!(powerful, 1, "{accepted} are accepted: {:?}", self.args);
        // The other one is that whose time ends.
        assert!(accepted == 1 || self.overlap && accepted == 2, "{accepted} are accepted: {:?}", self.args);
    }

    /// The token that is in the file is the operator's, and no other is.
    fn is_finished(&self) -> String {
        let path = self.path("token");
        let new = saved(&path).unwrap();
        assert_token_form(&new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_ne!(new, self.old);
        let left = |name: &OsStr| name == "token.staged" || name.to_string_lossy().ends_with(".tmp");
        let mut files = fs::read_dir(self.proxy.env().home()).unwrap();
        assert!(!files.any(|file| left(&file.unwrap().file_name())));
        self.proxy.with_server(|server| {
            assert!(can_rotate(server, &new));
            let status = get(CREATE).bearer(&new).send(server.address).json();
            assert_eq!(status["staged"], Value::Null);
            // Whichever run it was that has replaced the old token, and by which of its requests.
            assert_eq!(status["overlap"].is_null(), !self.overlap, "{status}");
            assert_eq!(server.accepts(&self.old), self.overlap);
            if self.overlap {
                // Not with full power: it replaces nothing any more.
                assert_eq!(post(STAGE).bearer(&self.old).send(server.address).status, 403);
                request("DELETE", OVERLAP).bearer(&new).send(server.address).assert_is(200, "");
            }
            assert!(!server.accepts(&self.old));
            assert!(server.accepts(&new));
            let status = get(CREATE).bearer(&new).send(server.address).json();
            assert_eq!((&status["staged"], &status["overlap"]), (&Value::Null, &Value::Null));
            let all = get(TOKENS).bearer(&new).send(server.address).json();
            assert_eq!(all["tokens"].as_array().unwrap().len(), 1, "{all}");
        });
        new
    }
}

/// Whether a token may replace the operator token: asked in a way that is refused to everybody, but later.
fn can_rotate(server: &Server, token: &str) -> bool {
    let body = br#"{"ttl_secs": 604801}"#;
    let probe = post(STAGE).bearer(token).header("Content-Type", "application/json").body(body);
    match probe.send(server.address) {
        answer if answer.status == 400 => true,
        answer if matches!(answer.status, 401 | 403) => false,
        answer => panic!("{answer:?}"),
    }
}

/// The token in a file, if there is one.
pub(crate) fn saved(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    match serde_json::from_str::<Value>(&text) {
        Ok(json) => Some(json["token"].as_str().unwrap().to_owned()),
        Err(_) => Some(text.trim().to_owned()),
    }
}

/// Lets a token wait as an interrupted rotation does.
pub(crate) fn waiting(staged: &Path, token: &str, replaces: &str) {
    private(staged, &json!({ "token": token, "replaces": sha512_hex(replaces) }).to_string());
}

pub(crate) fn private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Lets every step meet every fault once; how many runs were disturbed, and how many of them ended before success.
fn disturb(seed: u64) -> (usize, usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
    let proxy = FaultProxy::new(TestEnv::new());
    let mut token = proxy.with_server(Server::create);
    let (mut disturbed, mut interrupted) = (0, 0);
    let [stage, confirm, authenticate] = STEPS.map(|_| dice.shuffled(Fault::ALL.to_vec()));
    for (number, faults) in stage.into_iter().zip(confirm).zip(authenticate).enumerate() {
        let ((stage, confirm), authenticate) = faults;
        let mut steps = [stage, confirm, authenticate].into_iter().zip(STEPS).peekable();
        while steps.peek().is_some() {
            let (in_place, json, overlap) = (dice.coin(), dice.coin(), dice.throw(6) == 0);
            let rotation = RotationRun::new(&proxy, &token, in_place, json, overlap);
            let mut done = false;
            for (fault, at) in steps.by_ref() {
                let plan =
                    FaultPlan { at, fault, repeats: dice.throw(3) == 0, random: dice.throw(usize::MAX >> 1) };
                proxy.release_before(dice.throw(3));
                let (code, said, faults) = rotation.run(Some(plan));
                assert!(faults > 0, "seed {seed}, job {number}: {plan:?} was not met");
                disturbed += 1;
                interrupted += usize::from(code != Some(0));
                rotation.nobody_is_locked_out();
                done = said && !rotation.path("token.staged").exists();
                // Once more interrupted, or not.
                if done || dice.coin() {
                    break;
                }
            }
            proxy.release_before(dice.throw(4));
            if !done {
                rotation.run(None);
            }
            rotation.nobody_is_locked_out();
            proxy.release();
            token = rotation.is_finished();
        }
    }
    (disturbed, interrupted)
}

#[test]
fn a_rotation_into_a_file_locks_nobody_out_whatever_fails() {
    let next = AtomicU64::new(0);
    let (disturbed, interrupted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < SEEDS)
                {
                    let (runs, ended) = disturb(seed);
                    disturbed.fetch_add(runs, Ordering::Relaxed);
                    interrupted.fetch_add(ended, Ordering::Relaxed);
                }
            });
        }
    });
    let (disturbed, interrupted) = (disturbed.into_inner(), interrupted.into_inner());
    println!("{disturbed} disturbed runs, {interrupted} of them ended before success");
    assert_eq!(disturbed, STEPS.len() * Fault::ALL.len() * usize::try_from(SEEDS).unwrap());
    assert!(disturbed >= 1000 && interrupted > disturbed / 4);
}

/// The system calls by which a run changes what is outside of it, or hears of it.
const CALLS: &str = "openat,write,fchmod,fsync,renameat,unlink,sendto,recvfrom";

/// Kills the command behind each of its system calls in turn, from the first on that has to do with its files, and runs
/// it again; how often.
fn kill_at_every_call(in_place: bool, json: bool, overlap: bool) -> usize {
    let proxy = FaultProxy::new(TestEnv::new());
    let mut token = proxy.with_server(Server::create);
    let log = proxy.env().home().join("calls");
    let strace = |rotation: &RotationRun, what: &[&str]| {
        let args = [&["-qq", "-o", log.to_str().unwrap()], what].concat();
        proxy.run(rotation.command().wrapped_in("strace", &args), None)
    };
    let rotation = RotationRun::new(&proxy, &token, in_place, json, overlap);
    let undisturbed = strace(&rotation, &["-e", &format!("trace={CALLS}")]);
    assert_eq!(undisturbed.code, Some(0), "is there an strace? {}", undisturbed.stderr);
    token = rotation.is_finished();
    let calls = fs::read_to_string(&log).unwrap();
    let calls: Vec<_> = calls.lines().map(|line| (line.split('(').next().unwrap(), line)).collect();
    // What comes before reads libraries and compiles the component.
    let first = calls.iter().position(|(_, line)| line.contains(".token.")).unwrap();
    let mut kills = 0;
    for (number, (call, line)) in calls.iter().enumerate().skip(first) {
        // Each has a number of its own.
        let when = calls[..=number].iter().filter(|(name, _)| name == call).count();
        let rotation = RotationRun::new(&proxy, &token, in_place, json, overlap);
        let killed = strace(&rotation, &["-e", &format!("inject={call}:signal=SIGKILL:when={when}")]);
        rotation.nobody_is_locked_out();
        if killed.code.is_none() {
            kills += 1;
            rotation.run(None);
            rotation.nobody_is_locked_out();
        } else {
            // That one was there by chance.
            assert_eq!(killed.code, Some(0), "{line}: {}", killed.stderr);
        }
        token = rotation.is_finished();
    }
    kills
}

#[test]
fn a_rotation_that_is_killed_behind_any_of_its_system_calls_is_finished_by_the_next() {
    let kinds = [(true, false, false), (true, true, false), (false, false, false), (true, false, true)];
    let kills: Vec<_> = thread::scope(|scope| {
        let runs = kinds.map(|(in_place, json, overlap)| {
            scope.spawn(move || kill_at_every_call(in_place, json, overlap))
        });
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    println!("{kills:?} system calls, and a kill behind each");
    assert!(kills.iter().all(|kills| *kills > 20), "{kills:?}");
}

/// A server that answers these requests, which must come in this order, each with a status and a body; one that is sent
/// again is answered again.
struct Scripted {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Scripted {
    fn new(script: Vec<(&'static str, &'static str, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::<AtomicBool>::default();
        let stop = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let mut script = script.into_iter().peekable();
            let mut last = None;
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let mut stream = stream.unwrap();
                let request = read_message(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
                let request = String::from_utf8(request).unwrap();
                if let Some(next) = script.next_if(|(line, ..)| request.starts_with(line)) {
                    last = Some(next);
                }
                let (line, status, body) = last.unwrap();
                assert!(request.starts_with(line), "{line} or {:?} expected: {request}", script.peek());
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                )
                .unwrap();
            }
            assert!(script.next().is_none());
        });
        Self { address, ended, thread }
    }

    fn end(self) {
        self.ended.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        self.thread.join().unwrap();
    }
}

#[test]
fn a_server_that_cannot_stage_is_asked_in_a_single_call_and_that_is_said() {
    let issued = r#"{"token":"apiv3_new"}"#;
    let single = "POST /api/v3/configure/token/admin/regenerate ";
    let refused = r#"{"error": "the request was not authenticated"}"#;
    let no_stage = (STEPS[0], "404 Not Found", "Not found");
    let replaced = (single, "201 Created", issued);
    let warning = "warning: the server cannot stage a new token (404)";
    for (args, script, code, said) in [
        ("", vec![no_stage, replaced, (AUTHENTICATE, "404 Not Found", "Not found")], 0, warning),
        ("--output-file token", vec![no_stage, replaced, (AUTHENTICATE, "200 OK", "{}")], 0, warning),
        (
            "",
            vec![no_stage, replaced, (AUTHENTICATE, "401 Unauthorized", refused)],
            1,
            "does not authenticate",
        ),
        ("--output-file token", vec![no_stage, (single, "403 Forbidden", "no")], 1, "[403 Forbidden]: no"),
        // Not what was asked for: the old one would be dead at once.
        ("--overlap 1h", vec![no_stage], 1, "without --overlap the old one stops working at once"),
        // A recovery listener, although there is a token in the environment. It is closed afterwards.
        ("", vec![(STEPS[0], "404 Not Found", "not found"), replaced], 0, ""),
    ] {
        let env = TestEnv::new();
        let server = Scripted::new(script);
        let args: Vec<_> = ["--regenerate", "--yes"].into_iter().chain(args.split_whitespace()).collect();
        let output = env.create_token(server.address, &args).env("INFLUXDB3_AUTH_TOKEN", "apiv3_old").run();
        server.end();
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(output.stderr.contains(said) && (!said.is_empty() || output.stderr.is_empty()), "{output:?}");
        let file = env.home().join("token");
        if code == 0 && args.contains(&"token") {
            assert_eq!(
                (saved(&file).as_deref(), output.stdout.as_str()),
                (Some("apiv3_new"), "Token saved to: token\n")
            );
        } else {
            assert_eq!(
                output.stdout.contains("Token: apiv3_new\n"),
                said != "[403 Forbidden]: no" && args.len() == 2
            );
            // Not of a token that does not authenticate.
            assert_eq!(output.stdout.contains("New token created successfully!"), code == 0, "{output:?}");
            assert!(!file.exists());
        }
        assert!(!env.home().join("token.staged").exists());
    }
}

#[test]
fn a_token_is_taken_from_a_file_or_from_stdin_and_one_in_an_argument_is_warned_of() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let host = format!("http://{}", server.address);
    let path = env.home().join("token");
    let argument = "warning: other users of this machine can see a token that is an argument; give it with --token-file, --token - or INFLUXDB3_AUTH_TOKEN\n";
    let json = format!("{{\"name\": \"_admin\", \"token\": \"{token}\"}}");
    for (content, mode, args, input, said) in [
        (token.as_str(), 0o600, "--token-file token", "", ""),
        (json.as_str(), 0o400, "--token-file token", "", ""),
        (
            token.as_str(),
            0o640,
            "--token-file token",
            "",
            "warning: others may read the token in token (mode 640); run: chmod 0600 token\n",
        ),
        ("", 0o600, "--token -", token.as_str(), ""),
        ("", 0o600, "--token ARGUMENT", "", argument),
    ] {
        private(&path, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for command in ["show tokens", "delete token --yes --token-name nobody"] {
            let args: Vec<_> =
                args.split(' ').map(|arg| if arg == "ARGUMENT" { token.as_str() } else { arg }).collect();
            let output = env
                .influxdb3(command.split(' '))
                .args(&["--host", &host])
                .args(&args)
                .env("INFLUXDB3_AUTH_TOKEN", "apiv3_forgotten")
                .input(&format!("{input}\nmore\n"))
                .run();
            let found = if command.starts_with("show") {
                output.code == Some(0)
            } else {
                output.stderr.contains("404")
            };
            assert!(found, "{args:?}: {output:?}");
            let rest = output.stderr.strip_prefix(said).unwrap();
            assert!(!rest.contains("warning"), "{args:?}: {output:?}");
        }
    }
    for (content, args, said) in [
        ("", "--token-file token", "it must hold one token and nothing else, or JSON with a \"token\""),
        ("apiv3_a apiv3_b", "--token-file token", "it must hold one token"),
        ("{\"name\": \"_admin\"}", "--token-file token", "it is not JSON with a \"token\""),
        ("", "--token-file nowhere", "cannot read the token from nowhere: No such file"),
        ("", "--token -", "there is no token on standard input"),
    ] {
        private(&path, content);
        let args: Vec<_> = args.split(' ').collect();
        env.influxdb3(["show", "tokens", "--host", &host]).args(&args).run().assert_failed(1, &[said]);
    }
    let both = ["show", "tokens", "--token", "-", "--token-file", "token"];
    env.influxdb3(both).run().assert_failed(2, &["--token-file cannot be used with a token as an argument"]);
    for command in ["create token --admin --regenerate", "delete token --token-name x"] {
        let output =
            env.influxdb3(command.split(' ')).args(&["--host", &host, "--token", "-"]).input(&token).run();
        output.assert_failed(1, &["the token is read from standard input", "add --yes"]);
    }
    assert!(server.accepts(&token));
}

#[test]
fn what_waits_in_a_file_is_used_only_if_this_user_alone_can_have_put_it_there() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let staged = env.home().join("token.staged");
    let planted =
        "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g";
    let run = |credential: &str| {
        env.create_token(server.address, &["--regenerate", "--yes", "--output-file", "token"])
            .env("INFLUXDB3_AUTH_TOKEN", credential)
            .run()
    };
    let before = env.stored_catalog();
    let waiting = |token: &str, replaces: &str| waiting(&staged, token, replaces);
    waiting(planted, &token);
    for mode in [0o644, 0o620, 0o606] {
        fs::set_permissions(&staged, fs::Permissions::from_mode(mode)).unwrap();
        run(&token)
            .assert_failed(1, &["token.staged is not the staged file of a rotation", "rm token.staged"]);
    }
    fs::remove_file(&staged).unwrap();
    let elsewhere = env.home().join("elsewhere");
    waiting(planted, &token);
    fs::rename(&staged, &elsewhere).unwrap();
    symlink(&elsewhere, &staged).unwrap();
    run(&token).assert_failed(1, &["token.staged is not the staged file of a rotation"]);
    fs::remove_file(&staged).unwrap();
    // Nobody waits for what a pipe might give.
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&staged).status().unwrap().success());
    run(&token).assert_failed(1, &["token.staged is not the staged file of a rotation"]);
    fs::remove_file(&staged).unwrap();
    // Nor has a rotation left what does not tell which token it is to replace.
    for content in [planted.to_owned(), format!("{{\"token\": \"{planted}\"}}")] {
        private(&staged, &content);
        run(&token).assert_failed(1, &["token.staged is not the staged file of a rotation", "\"replaces\""]);
    }

    // A token that can be guessed has not been made by a rotation.
    waiting("apiv3_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &token);
    run(&token).assert_failed(1, &["the token in token.staged is not that of an interrupted rotation"]);
    // What may be the only token that a server accepts stays.
    for (replaces, neither) in [("apiv3_wrong", "is accepted"), ("apiv3_another", "is the operator token")] {
        waiting(planted, replaces);
        let neither = format!("neither the given token nor the one in token.staged {neither}");
        run("apiv3_wrong").assert_failed(1, &[&neither, "--admin-token-recovery-http-bind"]);
        assert_eq!(saved(&staged).as_deref(), Some(planted));
    }
    waiting(planted, &token);
    assert_eq!(env.stored_catalog(), before);
    // It is of this user: the rotation that it is of goes on.
    assert_eq!(run(&token).code, Some(0));
    assert!(server.accepts(planted) && !server.accepts(&token));
    assert!(!staged.exists());

    let output = run("apiv3_wrong");
    assert!(output.stderr.contains("it was replaced by the one in token, which is in force"), "{output:?}");
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "Token saved to: token\n"));
    fs::remove_file(env.home().join("token")).unwrap();
    run("apiv3_wrong").assert_failed(1, &["[401 Unauthorized]", "--admin-token-recovery-http-bind"]);
    assert!(!staged.exists());
}

#[test]
fn a_token_that_cannot_be_shown_or_saved_replaces_nothing() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let run = |args: &[&str]| {
        let cli = env.create_token(server.address, &["--regenerate", "--yes"]).args(args);
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        cli.env("INFLUXDB3_AUTH_TOKEN", &token).stdout(full).run()
    };
    run(&[]).assert_failed(1, &["cannot be written to standard output, so the old one stays in force"]);
    assert!(server.accepts(&token));
    run(&["--output-file", "nowhere/token"]).assert_failed(1, &["cannot write nowhere/token"]);
    run(&["--output-file", "/proc/token"]).assert_failed(1, &["cannot write /proc/token.staged"]);
    assert!(server.accepts(&token));
}

#[test]
fn the_old_token_stays_until_the_end_of_the_overlap() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let old = server.create();
    let run = |token: &str| {
        let cli = env.create_token(server.address, &["--regenerate", "--yes", "--overlap", "90min"]);
        cli.env("INFLUXDB3_AUTH_TOKEN", token).run()
    };
    let output = run(&old);
    let new = output.token();
    let until = get(CREATE).bearer(&new).send(server.address).json()["overlap"]["ends_at"].clone();
    let until = until.as_str().unwrap();
    assert!(
        output
            .stderr
            .ends_with(&format!("\nThe new token is in force, and the old one is accepted until {until}.\n")),
        "{output:?}"
    );
    assert!(server.accepts(&old) && server.accepts(&new));
    run(&new).assert_failed(
        1,
        &["[409 Conflict]", "that was replaced last is accepted until", "DELETE http://", OVERLAP],
    );
    run(&old).assert_failed(1, &["[403 Forbidden]"]);
    request("DELETE", OVERLAP).bearer(&new).send(server.address).assert_is(200, "");
    assert!(!server.accepts(&old));
}

#[test]
fn the_token_is_seen_before_it_takes_over_and_success_is_said_afterwards() {
    let lose = |at| FaultPlan { at, fault: Fault::LoseRequest, repeats: true, random: 0 };
    let success = "New token created successfully!";
    // What is lost, and whether the token is shown, replaces the old one, and is said to.
    for (plan, shown, replaces, said) in [
        (Some(lose(STEPS[0])), false, false, false),
        (Some(lose(STEPS[1])), true, false, false),
        (Some(lose(STEPS[2])), true, true, false),
        (None, true, true, true),
    ] {
        for json in [false, true] {
            let proxy = FaultProxy::new(TestEnv::new());
            let old = proxy.with_server(Server::create);
            let format = if json { "json" } else { "text" };
            let args = ["--regenerate", "--yes", "--format", format];
            let cli = proxy.env().create_token(proxy.address, &args).env("INFLUXDB3_AUTH_TOKEN", &old);
            let output = proxy.run(cli, plan);
            assert_eq!(output.code, Some(i32::from(!said)), "{}", output.stderr);
            let token = match (shown, json) {
                (false, _) => {
                    assert_eq!(output.stdout, "");
                    None
                }
                (true, false) => {
                    output.stdout.lines().find_map(|line| line.strip_prefix("Token: ")).map(str::to_owned)
                }
                (true, true) => serde_json::from_str::<Value>(&output.stdout).unwrap()["token"]
                    .as_str()
                    .map(str::to_owned),
            };
            assert_eq!(output.stdout.contains(success), said && !json, "{}", output.stdout);
            assert_eq!(
                output.stderr.contains("is in force, and the old one is refused"),
                said,
                "{}",
                output.stderr
            );
            proxy.with_server(|server| {
                assert_eq!(server.accepts(&old), !replaces);
                assert_eq!(token.is_some_and(|token| server.accepts(&token)), replaces);
            });
        }
    }
}

/// One address for two servers, which take turns at its requests.
fn round_robin(servers: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let turns = Arc::<AtomicUsize>::default();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, turns) = (client.unwrap(), Arc::clone(&turns));
            thread::spawn(move || {
                let mut reader = BufReader::new(client.try_clone().unwrap());
                while let Ok(request) = read_message(&mut reader) {
                    let turn = turns.fetch_add(1, Ordering::Relaxed);
                    client.write_all(&ask(servers[turn % 2], &request).unwrap()).unwrap();
                }
            });
        }
    });
    address
}

#[test]
fn of_two_servers_on_one_store_the_one_that_hears_later_does_not_stop_a_rotation() {
    let env = TestEnv::new();
    let servers = [env.serve(&[]), env.serve(&[])];
    let address = round_robin([servers[0].address, servers[1].address]);
    let file = env.home().join("token");
    private(&file, &servers[0].create());
    for run in 0..10 {
        let old = saved(&file).unwrap();
        let args = ["--regenerate", "--yes", "--token-file", "token"];
        let output = if run % 2 == 0 {
            env.create_token(address, &args).args(&["--output-file", "token"]).run()
        } else {
            let output = env.create_token(address, &args).run();
            private(&file, &output.token());
            output
        };
        assert_eq!(output.code, Some(0), "run {run}: {output:?}");
        let new = saved(&file).unwrap();
        for server in &servers {
            eventually("it has heard", || server.accepts(&new) && !server.accepts(&old));
        }
        // Only half of the time both have heard before the next run.
        if run % 4 < 2 {
            let output = env.create_token(address, &args).args(&["--output-file", "token"]).run();
            assert_eq!(output.code, Some(0), "run {run}: {output:?}");
            let output = env.create_token(address, &args).args(&["--output-file", "token"]).run();
            assert_eq!(output.code, Some(0), "run {run}: {output:?}");
        }
    }
}

#[test]
fn of_many_runs_at_once_each_ends_with_the_token_in_the_file_in_force() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let old = server.create();
    for credential in ["token", "old"] {
        private(&env.home().join(credential), &saved(&env.home().join("token")).unwrap_or(old.clone()));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let args =
                        ["--regenerate", "--yes", "--token-file", credential, "--output-file", "token"];
                    let output = env.create_token(server.address, &args).run();
                    assert_eq!(output.code, Some(0), "{output:?}");
                });
            }
        });
        assert!(server.accepts(&saved(&env.home().join("token")).unwrap()));
        assert!(!server.accepts(&old));
    }
}

#[test]
fn a_file_that_a_server_starts_with_stays_one() {
    let env = TestEnv::new();
    let offline = ["--offline", "--output-file", "admin-token.json"];
    let old = env.influxdb3(["create", "token", "--admin"]).args(&offline).run().token();
    let server = env.serve(&["--admin-token-file", "admin-token.json"]);
    let args =
        ["--regenerate", "--yes", "--token-file", "admin-token.json", "--output-file", "admin-token.json"];
    let output = env.create_token(server.address, &args).run();
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (Some(0), "Token saved to: admin-token.json\n"),
        "{output:?}"
    );
    let json: Value =
        serde_json::from_slice(&fs::read(env.home().join("admin-token.json")).unwrap()).unwrap();
    let new = json["token"].as_str().unwrap();
    assert_eq!(json["name"], "_admin");
    server.stop();
    let server = env.serve(&["--admin-token-file", "admin-token.json"]);
    server.wait_for_log("already exists, skipping initialization");
    assert!(!server.log().contains("another secret"), "{}", server.log());
    assert!(server.accepts(new) && !server.accepts(&old));
}

#[test]
fn a_recovered_token_is_saved_too_and_ends_what_waits() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let staged = env.home().join("token.staged");
    waiting(&staged, "apiv3_waits", &old);
    let output =
        env.create_token(server.recovery(), &["--regenerate", "--yes", "--output-file", "token"]).run();
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "Token saved to: token\n"), "{output:?}");
    let new = saved(&env.home().join("token")).unwrap();
    assert!(server.accepts(&new) && !server.accepts(&old));
    assert!(!staged.exists());
    post(REGENERATE).bearer(&old).send(server.address).assert_is(401, crate::support::NOT_AUTHENTICATED);
}

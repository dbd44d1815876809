//! Rotation under faults: after any lost, late, repeated or killed step, the same command completes
//! and leaves the operator token in the file (docs/design.md 3).

use std::fs::{self, OpenOptions};
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use fastrand::Rng;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::fault_proxy::{Fault, FaultPlan, FaultProxy, ask, read_message};
use crate::rotation_run::{RotationRun, STEPS, read_token, write_private, write_staged};
use crate::support::{
    CREATE, NOT_AUTHENTICATED, OVERLAP, RECOVERY, REGENERATE, Server, TestEnv, eventually, get, post, request,
};

/// First line of the request that checks a token on a server without staging.
const AUTHENTICATE: &str = "GET /api/v3/configure/token ";

/// Number of times that each step has each fault.
const SEEDS: u64 = 20;

/// Number of servers at the same time.
const CONCURRENCY: usize = 6;

/// Applies every fault to every step once. Returns the number of disturbed runs, and how many of
/// them failed.
fn disturb(seed: u64) -> (usize, usize) {
    let mut rng = Rng::with_seed(seed);
    let proxy = FaultProxy::new(TestEnv::new());
    let mut token = proxy.with_server(Server::create);
    let (mut disturbed, mut interrupted) = (0, 0);
    let [stage, confirm, authenticate] = STEPS.map(|_| {
        let mut faults = Fault::ALL;
        rng.shuffle(&mut faults);
        faults
    });
    for (number, faults) in stage.into_iter().zip(confirm).zip(authenticate).enumerate() {
        let ((stage, confirm), authenticate) = faults;
        let mut steps = [stage, confirm, authenticate].into_iter().zip(STEPS).peekable();
        while steps.peek().is_some() {
            let (in_place, json, overlap) = (rng.bool(), rng.bool(), rng.u8(..6) == 0);
            let rotation = RotationRun::new(&proxy, &token, in_place, json, overlap);
            let mut done = false;
            for (fault, at) in steps.by_ref() {
                let plan = FaultPlan { at, fault, repeats: rng.u8(..3) == 0, random: rng.usize(..) };
                proxy.release_before(rng.usize(..3));
                let (code, reports_success, faults) = rotation.run(Some(plan));
                assert!(faults > 0, "seed {seed}, rotation {number}: {plan:?} was not applied");
                disturbed += 1;
                interrupted += usize::from(code != Some(0));
                rotation.assert_not_locked_out();
                done = reports_success && !rotation.path("token.staged").exists();
                // The next run of the command is disturbed too, or not.
                if done || rng.bool() {
                    break;
                }
            }
            proxy.release_before(rng.usize(..4));
            if !done {
                rotation.run(None);
            }
            rotation.assert_not_locked_out();
            proxy.release();
            token = rotation.assert_finished();
        }
    }
    (disturbed, interrupted)
}

#[test]
fn rotation_with_any_fault_keeps_access() {
    let next = AtomicU64::new(0);
    let (disturbed, interrupted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CONCURRENCY {
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
    println!("{disturbed} disturbed runs, {interrupted} of them failed");
    assert_eq!(disturbed, STEPS.len() * Fault::ALL.len() * usize::try_from(SEEDS).unwrap());
    assert!(disturbed >= 1000 && interrupted > disturbed / 4);
}

/// A server with scripted responses: for each request, in this order, a status and a body. It
/// repeats the response to a request that is sent again.
struct ScriptedServer {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl ScriptedServer {
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
fn server_without_staging_is_rotated_with_warning() {
    let issued = r#"{"token":"apiv3_new"}"#;
    let single = "POST /api/v3/configure/token/admin/regenerate ";
    let refused = r#"{"error": "the request was not authenticated"}"#;
    let no_stage = (STEPS[0], "404 Not Found", "Not found");
    let replaced = (single, "201 Created", issued);
    let warning = "warning: the server cannot stage a new token (404)";
    for (args, script, code, message) in [
        ("", vec![no_stage, replaced, (AUTHENTICATE, "404 Not Found", "Not found")], 0, warning),
        ("--output-file token", vec![no_stage, replaced, (AUTHENTICATE, "200 OK", "{}")], 0, warning),
        (
            "",
            vec![no_stage, replaced, (AUTHENTICATE, "401 Unauthorized", refused)],
            1,
            "does not authenticate",
        ),
        ("--output-file token", vec![no_stage, (single, "403 Forbidden", "no")], 1, "[403 Forbidden]: no"),
        // A single call would revoke the old token at once.
        ("--overlap 1h", vec![no_stage], 1, "without --overlap the old one stops working at once"),
        // A recovery listener, in spite of a token in the environment. It closes afterwards.
        ("", vec![(STEPS[0], "404 Not Found", "not found"), replaced], 0, ""),
    ] {
        let env = TestEnv::new();
        let server = ScriptedServer::new(script);
        let args: Vec<_> = ["--regenerate", "--yes"].into_iter().chain(args.split_whitespace()).collect();
        let output = env.create_token(server.address, &args).env("INFLUXDB3_AUTH_TOKEN", "apiv3_old").run();
        server.end();
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(
            output.stderr.contains(message) && (!message.is_empty() || output.stderr.is_empty()),
            "{output:?}"
        );
        let file = env.home().join("token");
        if code == 0 && args.contains(&"token") {
            assert_eq!(
                (read_token(&file).as_deref(), output.stdout.as_str()),
                (Some("apiv3_new"), "Token saved to: token\n")
            );
        } else {
            assert_eq!(
                output.stdout.contains("Token: apiv3_new\n"),
                message != "[403 Forbidden]: no" && args.len() == 2
            );
            // The token does not authenticate, so the command reports no success.
            assert_eq!(output.stdout.contains("New token created successfully!"), code == 0, "{output:?}");
            assert!(!file.exists());
        }
        assert!(!env.home().join("token.staged").exists());
    }
}

#[test]
fn token_is_read_from_file_or_stdin() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let host = format!("http://{}", server.address);
    let path = env.home().join("token");
    let argument = "warning: other users of this machine can see a token that is an argument; give it with --token-file, --token - or INFLUXDB3_AUTH_TOKEN\n";
    let json = format!("{{\"name\": \"_admin\", \"token\": \"{token}\"}}");
    for (content, mode, args, input, message) in [
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
        write_private(&path, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for command in ["show tokens", "delete token --yes --token-name unknown"] {
            let args: Vec<_> =
                args.split(' ').map(|arg| if arg == "ARGUMENT" { token.as_str() } else { arg }).collect();
            let output = env
                .cli(command.split(' '))
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
            let rest = output.stderr.strip_prefix(message).unwrap();
            assert!(!rest.contains("warning"), "{args:?}: {output:?}");
        }
    }
    for (content, args, message) in [
        ("", "--token-file token", "it must hold one token and nothing else, or JSON with a \"token\""),
        ("apiv3_a apiv3_b", "--token-file token", "it must hold one token"),
        ("{\"name\": \"_admin\"}", "--token-file token", "it is not JSON with a \"token\""),
        ("", "--token-file nowhere", "cannot read the token from nowhere: No such file"),
        ("", "--token -", "there is no token on standard input"),
    ] {
        write_private(&path, content);
        let args: Vec<_> = args.split(' ').collect();
        env.cli(["show", "tokens", "--host", &host]).args(&args).run().assert_failed(1, &[message]);
    }
    let both = ["show", "tokens", "--token", "-", "--token-file", "token"];
    env.cli(both).run().assert_failed(2, &["--token-file cannot be used with a token as an argument"]);
    for command in ["create token --admin --regenerate", "delete token --token-name x"] {
        let output = env.cli(command.split(' ')).args(&["--host", &host, "--token", "-"]).input(&token).run();
        output.assert_failed(1, &["the token is read from standard input", "add --yes"]);
    }
    assert!(server.accepts(&token));
}

#[test]
fn staged_file_must_be_owned_and_private() {
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
    let write_staged = |token: &str, replaces: &str| write_staged(&staged, token, replaces);
    write_staged(planted, &token);
    for mode in [0o644, 0o620, 0o606] {
        fs::set_permissions(&staged, fs::Permissions::from_mode(mode)).unwrap();
        run(&token)
            .assert_failed(1, &["token.staged is not the staged file of a rotation", "rm token.staged"]);
    }
    fs::remove_file(&staged).unwrap();
    let elsewhere = env.home().join("elsewhere");
    write_staged(planted, &token);
    fs::rename(&staged, &elsewhere).unwrap();
    symlink(&elsewhere, &staged).unwrap();
    run(&token).assert_failed(1, &["token.staged is not the staged file of a rotation"]);
    fs::remove_file(&staged).unwrap();
    // The command does not open a pipe.
    mknodat(CWD, &staged, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    run(&token).assert_failed(1, &["token.staged is not the staged file of a rotation"]);
    fs::remove_file(&staged).unwrap();
    // A rotation always writes which token it replaces.
    for content in [planted.to_owned(), format!("{{\"token\": \"{planted}\"}}")] {
        write_private(&staged, &content);
        run(&token).assert_failed(1, &["token.staged is not the staged file of a rotation", "\"replaces\""]);
    }

    // A rotation generates no weak token.
    write_staged("apiv3_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &token);
    run(&token).assert_failed(1, &["the token in token.staged is not that of an interrupted rotation"]);
    // The staged token may be the only valid one, so the file stays.
    for (replaces, neither) in [("apiv3_wrong", "is accepted"), ("apiv3_another", "is the operator token")] {
        write_staged(planted, replaces);
        let neither = format!("neither the given token nor the one in token.staged {neither}");
        run("apiv3_wrong").assert_failed(1, &[&neither, "--admin-token-recovery-http-bind"]);
        assert_eq!(read_token(&staged).as_deref(), Some(planted));
    }
    write_staged(planted, &token);
    assert_eq!(env.stored_catalog(), before);
    // The file belongs to this user, so its rotation continues.
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
fn unwritable_output_keeps_old_token() {
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
fn overlap_keeps_old_token_until_deadline() {
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
fn token_is_printed_before_confirm() {
    let lose = |at| FaultPlan { at, fault: Fault::LoseRequest, repeats: true, random: 0 };
    let success = "New token created successfully!";
    // The lost request, and whether the token is printed, replaces the old one, and is reported.
    for (plan, shown, replaces, reported) in [
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
            assert_eq!(output.code, Some(i32::from(!reported)), "{}", output.stderr);
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
            assert_eq!(output.stdout.contains(success), reported && !json, "{}", output.stdout);
            assert_eq!(
                output.stderr.contains("is in force, and the old one is refused"),
                reported,
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

/// A proxy that sends requests to two servers in turn. Returns its address.
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
fn lagging_replica_does_not_stop_rotation() {
    let env = TestEnv::new();
    let servers = [env.serve(&[]), env.serve(&[])];
    let address = round_robin([servers[0].address, servers[1].address]);
    let file = env.home().join("token");
    write_private(&file, &servers[0].create());
    for run in 0..10 {
        let old = read_token(&file).unwrap();
        let args = ["--regenerate", "--yes", "--token-file", "token"];
        let output = if run % 2 == 0 {
            env.create_token(address, &args).args(&["--output-file", "token"]).run()
        } else {
            let output = env.create_token(address, &args).run();
            write_private(&file, &output.token());
            output
        };
        assert_eq!(output.code, Some(0), "run {run}: {output:?}");
        let new = read_token(&file).unwrap();
        for server in &servers {
            eventually("the server has the new token", || server.accepts(&new) && !server.accepts(&old));
        }
        // Every second time, one server may lag when the next run starts.
        if run % 4 < 2 {
            let output = env.create_token(address, &args).args(&["--output-file", "token"]).run();
            assert_eq!(output.code, Some(0), "run {run}: {output:?}");
            let output = env.create_token(address, &args).args(&["--output-file", "token"]).run();
            assert_eq!(output.code, Some(0), "run {run}: {output:?}");
        }
    }
}

#[test]
fn concurrent_rotations_leave_valid_token_in_file() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let old = server.create();
    for credential in ["token", "old"] {
        write_private(
            &env.home().join(credential),
            &read_token(&env.home().join("token")).unwrap_or(old.clone()),
        );
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
        assert!(server.accepts(&read_token(&env.home().join("token")).unwrap()));
        assert!(!server.accepts(&old));
    }
}

#[test]
fn rotated_admin_token_file_still_starts_server() {
    let env = TestEnv::new();
    let offline = ["--offline", "--output-file", "admin-token.json"];
    let old = env.cli(["create", "token", "--admin"]).args(&offline).run().token();
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
fn recovery_writes_output_file_and_removes_staged() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let staged = env.home().join("token.staged");
    write_staged(&staged, "apiv3_waits", &old);
    let output =
        env.create_token(server.recovery(), &["--regenerate", "--yes", "--output-file", "token"]).run();
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "Token saved to: token\n"), "{output:?}");
    let new = read_token(&env.home().join("token")).unwrap();
    assert!(server.accepts(&new) && !server.accepts(&old));
    assert!(!staged.exists());
    post(REGENERATE).bearer(&old).send(server.address).assert_is(401, NOT_AUTHENTICATED);
}

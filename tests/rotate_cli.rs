//! `--regenerate` locks nobody out: whatever is lost, late, doubled or killed on the way, running the same command again
//! ends with a token in the file that is in force (DESIGN section 3).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::lossy::{Fault, Lossy, Plan};
use crate::support::{
    CREATE, Machine, Server, TOKENS, assert_token_form, get, holds_token, post, read_all, request,
};

const STAGE: &str = "/api/v3/configure/token/admin/regenerate/stage";
const OVERLAP: &str = "/api/v3/configure/token/admin/regenerate/overlap";

/// The requests that a rotation consists of, in their order.
const STEPS: [&str; 3] = [
    "POST /api/v3/configure/token/admin/regenerate/stage ",
    "POST /api/v3/configure/token/admin/regenerate/confirm ",
    "GET /api/v3/configure/token ",
];

/// How often each step meets each fault.
const SEEDS: u64 = 20;

/// How many servers there are at a time.
const AT_ONCE: usize = 10;

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
struct Job<'a> {
    way: &'a Lossy,
    args: Vec<&'static str>,
    old: String,
    overlap: bool,
}

impl Job<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.way.machine().home().join(name)
    }

    /// Runs the command; whether it has said success, and how often something went wrong on the way.
    fn run(&self, plan: Option<Plan>) -> (Option<i32>, bool, usize) {
        let cli =
            self.way.machine().create_token(self.way.address, &["--regenerate", "--yes"]).args(&self.args);
        // A rotation that nothing goes wrong with has all the time that it needs.
        let cli = if plan.is_some() { cli.args(&["--timeout", "300ms"]) } else { cli };
        let mut child = cli.begin();
        let stdout = read_all(child.stdout.take().unwrap());
        let stderr = read_all(child.stderr.take().unwrap());
        let (code, faults) = self.way.run(child, plan);
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        assert!(!holds_token(&stdout) && !holds_token(&stderr), "{stdout}{stderr}");
        assert!(plan.is_some() || code == Some(0), "the same command again fails: {stderr}");
        let said = stdout.contains("Token saved to: token\n");
        assert_eq!(said || stderr.contains("which is in force"), code == Some(0) || said, "{stdout}{stderr}");
        (code, said, faults)
    }

    /// Somebody who has the old token or what is in the files has a token that is accepted.
    fn nobody_is_locked_out(&self) {
        let held = [Some(self.old.clone()), saved(&self.path("token")), saved(&self.path("token.staged"))];
        let accepted =
            self.way.with_server(|server| held.iter().flatten().any(|token| server.accepts(token)));
        assert!(accepted, "locked out: {:?}", self.args);
    }

    /// The token that is in the file is the operator's, and no other is.
    fn is_finished(&self) -> String {
        let path = self.path("token");
        let new = saved(&path).unwrap();
        assert_token_form(&new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(!self.path("token.staged").exists());
        assert_ne!(new, self.old);
        self.way.with_server(|server| {
            assert!(server.accepts(&new));
            let status = get(CREATE).bearer(&new).send(server.address).json();
            assert_eq!(status["staged"], Value::Null);
            if self.overlap && server.accepts(&self.old) {
                // Not with full power: it replaces nothing any more.
                assert_eq!(post(STAGE).bearer(&self.old).send(server.address).status, 403);
                assert_ne!(status["overlap"], Value::Null);
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

/// The token in a file, if there is one.
fn saved(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Lets every step meet every fault once; how many runs were disturbed, and how many of them ended before success.
fn disturb(seed: u64) -> (usize, usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
    let way = Lossy::new(Machine::new());
    let mut token = way.with_server(Server::create);
    let (mut disturbed, mut interrupted) = (0, 0);
    let [stage, confirm, authenticate] = STEPS.map(|_| dice.shuffled(Fault::ALL.to_vec()));
    for (number, faults) in stage.into_iter().zip(confirm).zip(authenticate).enumerate() {
        let ((stage, confirm), authenticate) = faults;
        let mut steps = [stage, confirm, authenticate].into_iter().zip(STEPS).peekable();
        while steps.peek().is_some() {
            // The file that is rotated in place, or another one that need not be there before.
            let (home, overlap) = (way.machine().home(), dice.throw(6) == 0);
            let mut args = if dice.coin() {
                private(&home.join("token"), &format!("{token}\n"));
                vec!["--token-file", "token", "--output-file", "token"]
            } else {
                fs::remove_file(home.join("token")).ok();
                private(&home.join("old"), &token);
                vec!["--token-file", "old", "--output-file", "token"]
            };
            if overlap {
                args.extend(["--overlap", "1h"]);
            }
            let job = Job { way: &way, args, old: token.clone(), overlap };
            let mut done = false;
            for (fault, at) in steps.by_ref() {
                let plan = Plan { at, fault, again: dice.throw(3) == 0, chance: dice.throw(usize::MAX >> 1) };
                way.release_before(dice.throw(3));
                let (code, said, faults) = job.run(Some(plan));
                assert!(faults > 0, "seed {seed}, job {number}: {plan:?} was not met");
                disturbed += 1;
                interrupted += usize::from(code != Some(0));
                job.nobody_is_locked_out();
                done = said && !job.path("token.staged").exists();
                // Once more interrupted, or not.
                if done || dice.coin() {
                    break;
                }
            }
            way.release_before(dice.throw(4));
            if !done {
                job.run(None);
            }
            job.nobody_is_locked_out();
            way.release();
            token = job.is_finished();
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

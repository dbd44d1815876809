//! One run of `create token --admin --regenerate --output-file` over a fault proxy, and the checks
//! that hold after it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fault_proxy::{ClientResult, FaultPlan, FaultProxy};
use crate::support::{
    CREATE, Cli, CommandOutput, OVERLAP, STAGE, Server, TOKENS, TestEnv, assert_token_form, get, holds_token,
    post, request, sha512_hex,
};

/// First lines of the requests of a rotation, in their order.
pub(crate) const STEPS: [&str; 3] = [
    "POST /api/v3/configure/token/admin/regenerate/stage ",
    "POST /api/v3/configure/token/admin/regenerate/confirm ",
    "GET /api/v3/configure/token/admin ",
];

/// A rotation command, and the token that it replaces.
pub(crate) struct RotationRun<'a> {
    proxy: &'a FaultProxy,
    args: Vec<&'static str>,
    old: String,
    overlap: bool,
}

impl<'a> RotationRun<'a> {
    /// The output file is the token file, or another one that does not exist yet. It holds the
    /// plain token or JSON.
    pub(crate) fn new(proxy: &'a FaultProxy, old: &str, in_place: bool, json: bool, overlap: bool) -> Self {
        let home = proxy.env().home();
        let mut args = if in_place {
            let alone = format!("{old}\n");
            let content = json!({ "name": "_admin", "token": old }).to_string();
            write_private(&home.join("token"), if json { &content } else { &alone });
            vec!["--token-file", "token", "--output-file", "token"]
        } else {
            fs::remove_file(home.join("token")).ok();
            write_private(&home.join("old"), old);
            vec!["--token-file", "old", "--output-file", "token"]
        };
        if overlap {
            args.extend(["--overlap", "1h"]);
        }
        Self { proxy, args, old: old.to_owned(), overlap }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.proxy.env().home().join(name)
    }

    pub(crate) fn command(&self) -> Cli {
        self.proxy.env().create_token(self.proxy.address, &["--regenerate", "--yes"]).args(&self.args)
    }

    /// Runs the command. Returns the exit code, whether it reports success, and the number of
    /// faults.
    pub(crate) fn run(&self, plan: Option<FaultPlan>) -> (Option<i32>, bool, usize) {
        // A short timeout only where no response comes, as a busy machine may be slow.
        let silent = plan.is_some_and(|plan| plan.fault.is_silent());
        let cli = if silent { self.command().args(&["--timeout", "1s"]) } else { self.command() };
        let ClientResult { code, faults, stdout, stderr } = self.proxy.run(cli, plan);
        // The token is in the file, so stdout has none either.
        assert!(!holds_token(&stdout) && !holds_token(&stderr), "{stdout}{stderr}");
        if plan.is_none() {
            self.assert_completed(code, &stderr);
        }
        let reports_success = stdout == "Token saved to: token\n";
        assert!(reports_success || stdout.is_empty(), "{stdout}");
        assert!(reports_success == (code == Some(0)) || code.is_none(), "{stdout}{stderr}");
        (code, reports_success, faults)
    }

    /// Asserts that a repeated command completes the rotation. If the last run was killed after all
    /// but its report, the file has the new token, which the server does not replace in an overlap.
    #[track_caller]
    fn assert_completed(&self, code: Option<i32>, stderr: &str) {
        let new = read_token(&self.path("token")).is_some_and(|token| token != self.old);
        let overlapping = self.overlap && new && code == Some(1) && stderr.contains("[409 Conflict]");
        assert!(code == Some(0) || overlapping, "the same command again fails: {stderr}");
    }

    /// The server accepts the old token or a token of the files, and exactly one of these can
    /// rotate.
    pub(crate) fn assert_not_locked_out(&self) {
        let held =
            [Some(self.old.clone()), read_token(&self.path("token")), read_token(&self.path("token.staged"))];
        let held: BTreeSet<_> = held.into_iter().flatten().collect();
        let check = || {
            self.proxy.with_server(|server| {
                let state = |token: &String| {
                    let accepted = server.accepts(token);
                    (accepted, accepted && can_rotate(server, token))
                };
                held.iter().map(state).collect::<Vec<_>>()
            })
        };
        // A request of a killed client may still arrive between two checks.
        let mut states = check();
        while let next = check()
            && next != states
        {
            states = next;
        }
        let count = |holds: fn(&(bool, bool)) -> bool| states.iter().filter(|state| holds(state)).count();
        let (accepted, can_rotate) = (count(|state| state.0), count(|state| state.1));
        assert_eq!(can_rotate, 1, "{accepted} are accepted: {:?}", self.args);
        // The second one is the old token in its overlap.
        assert!(accepted == 1 || self.overlap && accepted == 2, "{accepted} are accepted: {:?}", self.args);
    }

    /// Asserts that the token in the file is the operator token and the only one. Returns it.
    pub(crate) fn assert_finished(&self) -> String {
        let path = self.path("token");
        let new = read_token(&path).unwrap();
        assert_token_form(&new);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_ne!(new, self.old);
        let leftover = |name: &OsStr| name == "token.staged" || name.to_string_lossy().ends_with(".tmp");
        let mut files = fs::read_dir(self.proxy.env().home()).unwrap();
        assert!(!files.any(|file| leftover(&file.unwrap().file_name())));
        self.proxy.with_server(|server| {
            assert!(can_rotate(server, &new));
            let status = get(CREATE).bearer(&new).send(server.address).json();
            assert_eq!(status["staged"], Value::Null);
            // The same holds for each run and request that may have replaced the old token.
            assert_eq!(status["overlap"].is_null(), !self.overlap, "{status}");
            assert_eq!(server.accepts(&self.old), self.overlap);
            if self.overlap {
                // The old token authenticates, and can no longer rotate.
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

/// Returns whether a token may replace the operator token. Sends a request that the server rejects
/// for its body, after the authorization.
pub(crate) fn can_rotate(server: &Server, token: &str) -> bool {
    let body = br#"{"ttl_secs": 604801}"#;
    let probe = post(STAGE).bearer(token).header("Content-Type", "application/json").body(body);
    match probe.send(server.address) {
        response if response.status == 400 => true,
        response if matches!(response.status, 401 | 403) => false,
        response => panic!("{response:?}"),
    }
}

/// Reads the token of a file, if the file exists.
pub(crate) fn read_token(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    match serde_json::from_str::<Value>(&text) {
        Ok(json) => Some(json["token"].as_str().unwrap().to_owned()),
        Err(_) => Some(text.trim().to_owned()),
    }
}

/// Writes a staged file as an interrupted rotation leaves it.
pub(crate) fn write_staged(staged: &Path, token: &str, replaces: &str) {
    write_private(staged, &json!({ "token": token, "replaces": sha512_hex(replaces) }).to_string());
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The command that rotates the token into `file`, with `credential`.
pub(crate) fn rotation(env: &TestEnv, server: &Server, credential: &str, file: &str) -> Cli {
    env.create_token(server.address, &["--regenerate", "--yes", "--output-file", file])
        .env("INFLUXDB3_AUTH_TOKEN", credential)
}

/// Asserts that the file has a new operator token, and the server rejects the old ones. Returns it.
#[track_caller]
pub(crate) fn assert_rotated(
    env: &TestEnv,
    server: &Server,
    output: &CommandOutput,
    file: &str,
    old: &[&str],
) -> String {
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (Some(0), format!("Token saved to: {file}\n").as_str()),
        "{output:?}"
    );
    let path = env.home().join(file);
    let new = read_token(&path).unwrap();
    assert_token_form(&new);
    assert!(server.accepts(&new), "{output:?}");
    for old in old {
        assert!(new != **old && !server.accepts(old), "{output:?}");
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(!path.with_file_name(format!("{file}.staged")).exists());
    new
}

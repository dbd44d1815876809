//! `--regenerate --output-file` and the files that it finds: those of an interrupted run, links, devices, and such that
//! cannot be replaced.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::rotation_faults::{private, saved, waiting};
use crate::support::{
    CONFIRM, CREATE, Cli, CommandOutput, NAMED_ADMIN, RECOVERY, STAGE, Server, TestEnv, assert_token_form,
    get, post, sha512_hex,
};

/// Tokens of the right form that no server has made.
const OTHERS: [&str; 2] = [
    "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g",
    "apiv3_QkqYVzP2bX8mJ4tN7sRw1cLgH5dF9aKpE3uZ6xCvB0nM-iOyTjWlSeDfGhJkLzXcVbNmQwErTyUiOpAsDfGhJg",
];

/// The command that rotates the token into `file`, with `credential`.
fn rotation(env: &TestEnv, server: &Server, credential: &str, file: &str) -> Cli {
    env.create_token(server.address, &["--regenerate", "--yes", "--output-file", file])
        .env("INFLUXDB3_AUTH_TOKEN", credential)
}

/// The token in the file is the operator's, new, and alone.
#[track_caller]
fn assert_rotated(
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
    let new = saved(&path).unwrap();
    assert_token_form(&new);
    assert!(server.accepts(&new), "{output:?}");
    for old in old {
        assert!(new != **old && !server.accepts(old), "{output:?}");
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(!path.with_file_name(format!("{file}.staged")).exists());
    new
}

fn stage(server: &Server, credential: &str, token: &str) {
    let body = json!({ "token_sha512": sha512_hex(token) }).to_string();
    let staged =
        post(STAGE).bearer(credential).header("Content-Type", "application/json").body(body.as_bytes());
    assert_eq!(staged.send(server.address).status, 201);
}

fn confirm(server: &Server, token: &str, overlap: u64) {
    let body = json!({ "overlap_secs": overlap }).to_string();
    let confirmed =
        post(CONFIRM).bearer(token).header("Content-Type", "application/json").body(body.as_bytes());
    assert_eq!(confirmed.send(server.address).status, 200);
}

#[test]
fn what_a_finished_rotation_has_left_is_not_taken_for_a_new_one() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let (file, staged) = (env.home().join("token"), env.home().join("token.staged"));
    // As of a run that was killed before it has taken that away.
    stage(&server, &first, OTHERS[0]);
    confirm(&server, OTHERS[0], 0);
    private(&file, OTHERS[0]);
    waiting(&staged, OTHERS[0], &first);
    let output = rotation(&env, &server, OTHERS[0], "token").run();
    let second = assert_rotated(&env, &server, &output, "token", &[&first, OTHERS[0]]);
    assert!(
        output.stderr.contains("removing token.staged, which it left, and beginning a new one"),
        "{output:?}"
    );

    // And before the file had it: what waits is the only copy. It need not even be in force yet.
    stage(&server, &second, OTHERS[1]);
    waiting(&staged, OTHERS[1], &second);
    let args = ["--regenerate", "--yes", "--token-file", "token.staged", "--output-file", "token"];
    let output = env.create_token(server.address, &args).run();
    let third = assert_rotated(&env, &server, &output, "token", &[&second, OTHERS[1]]);

    // The same command, whose credential was replaced: it is done, and nothing is replaced again.
    waiting(&staged, &third, &second);
    let output = rotation(&env, &server, &second, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&second]);
    assert_eq!(saved(&file), Some(third));
}

#[test]
fn a_token_that_was_revoked_does_not_come_back() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let (first, staged) = (server.create(), env.home().join("token.staged"));
    let revoked = OTHERS[0];
    stage(&server, &first, revoked);
    confirm(&server, revoked, 0);
    let elsewhere = server.regenerate(revoked);
    private(&env.home().join("token"), &elsewhere);
    waiting(&staged, revoked, &first);
    let before = env.stored_catalog();
    // What proves nothing of the operator token changes nothing, and what waits stays.
    let named = post(NAMED_ADMIN)
        .bearer(&elsewhere)
        .header("Content-Type", "application/json")
        .body(br#"{"token_name":"ci"}"#)
        .send(server.address)
        .token();
    let with_named = env.stored_catalog();
    assert_ne!(before, with_named);
    fs::remove_file(env.home().join("token")).unwrap();
    for other in [named.as_str(), OTHERS[1]] {
        let neither = "neither the given token nor the one in token.staged is the operator token";
        rotation(&env, &server, other, "token").run().assert_failed(1, &[neither]);
        assert_eq!(saved(&staged).as_deref(), Some(revoked));
    }
    assert_eq!(env.stored_catalog(), with_named);

    let output = rotation(&env, &server, &elsewhere, "token").run();
    let new = assert_rotated(&env, &server, &output, "token", &[&first, revoked, &elsewhere]);
    assert!(output.stderr.contains("replaced elsewhere meanwhile"), "{output:?}");
    assert_ne!(new, revoked);
}

#[test]
fn what_is_said_of_the_old_token_is_what_holds() {
    for (first, then) in [(3600, ""), (0, "--overlap 1h")] {
        let env = TestEnv::new();
        let server = env.serve(&["--store", "memory:"]);
        let old = server.create();
        // Confirmed, and killed before the answer; then run again with another overlap.
        stage(&server, &old, OTHERS[0]);
        confirm(&server, OTHERS[0], first);
        waiting(&env.home().join("token.staged"), OTHERS[0], &old);
        let args: Vec<_> = then.split_whitespace().collect();
        let output = rotation(&env, &server, &old, "token").args(&args).run();
        assert_eq!(output.code, Some(0), "{output:?}");
        let status = get(CREATE).bearer(OTHERS[0]).send(server.address).json();
        if let Some(ends) = status["overlap"]["ends_at"].as_str() {
            assert!(server.accepts(&old));
            assert!(output.stderr.contains(&format!("the old one is accepted until {ends}.")), "{output:?}");
        } else {
            assert!(!server.accepts(&old));
            assert!(output.stderr.contains("the old one is refused from now on."), "{output:?}");
            assert!(output.stderr.contains("warning: --overlap has no effect"), "{output:?}");
        }
        assert_eq!(server.accepts(&old), first > 0);
    }
}

/// Runs it with one of its system calls failing.
fn failing(cli: Cli, what: &str) -> CommandOutput {
    let inject = format!("inject={what}");
    cli.wrapped_in("strace", &["-qq", "-o", "/dev/null", "-e", &inject]).run()
}

#[test]
fn a_file_that_cannot_be_replaced_costs_nobody_the_token() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut old = server.create();
    let (file, staged) = (env.home().join("token"), env.home().join("token.staged"));
    private(&file, &old);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let before = env.stored_catalog();
    let run = |old: &str, what: &str| failing(rotation(&env, &server, old, "token"), what);
    // Whatever stands in the way does so before the server hears of anything.
    for what in ["renameat:error=EBUSY:when=2", "renameat:error=EBUSY:when=1", "fsync:error=ENOSPC:when=1"] {
        run(&old, what).assert_failed(1, &["cannot write token"]);
        assert_eq!((saved(&file).as_ref(), env.stored_catalog()), (Some(&old), before.clone()), "{what}");
        assert!(!staged.exists(), "{what}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640, "{what}");
    }
    // What comes in between leaves the token where it can be found, and says where.
    let said = ["the new token is in force, and the old one is not", "the new one is in token.staged"];
    let output = run(&old, "renameat:error=EBUSY:when=3");
    output.assert_failed(1, &said);
    assert!(!server.accepts(&old) && server.accepts(&saved(&staged).unwrap()));
    let output = rotation(&env, &server, &old, "token").run();
    old = assert_rotated(&env, &server, &output, "token", &[&old]);

    // As long as a bind mount is in the way, nothing is begun, nor finished.
    run(&old, "renameat:error=EBUSY:when=2+").assert_failed(1, &["no request was sent"]);
    assert!(server.accepts(&old));

    // That what waited is still there is said, and harms nobody.
    let output = run(&old, "unlink:error=EACCES:when=1");
    assert!(output.stderr.contains("warning: cannot remove token.staged"), "{output:?}");
    let new = saved(&file).unwrap();
    assert_eq!((output.code, saved(&staged).as_ref()), (Some(0), Some(&new)));
    let output = rotation(&env, &server, &new, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&old, &new]);
}

#[test]
fn a_recovery_that_could_not_be_saved_is_not_spent() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let recover =
        || env.create_token(server.recovery(), &["--regenerate", "--yes", "--output-file", "token"]);
    failing(recover(), "fsync:error=ENOSPC:when=1").assert_failed(1, &["no request was sent"]);
    private(&env.home().join("token"), "apiv3_lost");
    failing(recover(), "renameat:error=EBUSY:when=1").assert_failed(1, &["no request was sent"]);
    assert!(server.accepts(&old));
    let output = recover().run();
    assert_rotated(&env, &server, &output, "token", &[&old]);
}

#[test]
fn success_that_cannot_be_said_leaves_nothing_behind() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let old = server.create();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = rotation(&env, &server, &old, "token").stdout(full).run();
    output
        .assert_failed(1, &["the operator token is in token, but that cannot be written to standard output"]);
    let new = saved(&env.home().join("token")).unwrap();
    assert!(server.accepts(&new) && !env.home().join("token.staged").exists());
    let output = rotation(&env, &server, &new, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&old, &new]);
}

#[test]
fn a_link_is_followed_and_stays() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut old = server.create();
    let real = env.home().join("real");
    fs::create_dir(&real).unwrap();
    private(&real.join("token"), &old);
    symlink("real/token", env.home().join("link")).unwrap();
    symlink("link", env.home().join("chain")).unwrap();
    symlink(real.join("later"), env.home().join("dangling")).unwrap();
    for (link, file) in [("link", "real/token"), ("chain", "real/token"), ("dangling", "real/later")] {
        let output = rotation(&env, &server, &old, link).run();
        assert_eq!(output.code, Some(0), "{output:?}");
        let new = saved(&env.home().join(file)).unwrap();
        assert!(server.accepts(&new) && !server.accepts(&old), "{link}");
        assert!(fs::symlink_metadata(env.home().join(link)).unwrap().is_symlink());
        old = new;
    }
    symlink("loop", env.home().join("loop")).unwrap();
    rotation(&env, &server, &old, "loop").run().assert_failed(1, &["cannot write loop"]);
    // In a directory of all, anybody may have put it there. Only root can test that.
    if env.file("owner", b"").metadata().unwrap().uid() == 0 {
        std::os::unix::fs::lchown(env.home().join("link"), Some(65534), None).unwrap();
        rotation(&env, &server, &old, "link").run().assert_failed(1, &["it is a link of another user"]);
    }
    assert!(server.accepts(&old));
}

#[test]
fn what_is_no_file_is_refused_before_anything_is_asked() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let before = env.stored_catalog();
    fs::create_dir(env.home().join("directory")).unwrap();
    env.file("token", b"precious");
    let no_file = "it is there already and not a regular file";
    let no_name = "this is not the name of a file";
    for (file, said) in [
        ("token/", no_name),
        ("new/", no_name),
        ("new/.", no_name),
        ("..", no_name),
        ("directory", no_file),
        ("directory/", no_name),
        ("/dev/null", no_file),
        // It leads to a pipe.
        ("/dev/stdout", no_file),
        ("token/token", "Not a directory"),
        ("nowhere/token", "No such file or directory"),
    ] {
        for address in [server.address, server.recovery()] {
            let args = ["--regenerate", "--yes", "--output-file", file];
            let output = env.create_token(address, &args).env("INFLUXDB3_AUTH_TOKEN", &old).run();
            output.assert_failed(1, &[&format!("cannot write {file}"), said]);
        }
    }
    // Here it leads to a file, which would be another one than the one that is written to.
    let out = File::create(env.home().join("out")).unwrap();
    let output = rotation(&env, &server, &old, "/dev/stdout").stdout(out).run();
    output.assert_failed(1, &["this command writes its output there"]);
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&old));
    assert_eq!(fs::read(env.home().join("token")).unwrap(), b"precious");
}

#[test]
fn what_killed_runs_have_left_is_taken_away() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let digits = "0123456789abcdef";
    let ours = [format!(".token.{digits}.tmp"), format!(".token.staged.{digits}.tmp")];
    let others = [
        format!(".other.{digits}.tmp"),
        format!(".token.{digits}0.tmp"),
        format!(".token.json.{digits}.tmp"),
        ".token.tmp".to_owned(),
        format!("token.{digits}.tmp"),
    ];
    let files = |names: &[String]| names.iter().filter(|name| env.home().join(name).exists()).count();
    for name in ours.iter().chain(&others) {
        private(&env.home().join(name), &token);
    }
    let directory = env.home().join(format!(".token.{}.tmp", digits.replace('0', "f")));
    fs::create_dir(&directory).unwrap();
    let output = rotation(&env, &server, &token, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&token]);
    assert_eq!((files(&ours), files(&others), directory.exists()), (0, others.len(), true));

    private(&env.home().join(&ours[0]), &token);
    let offline = ["create", "token", "--admin", "--offline", "--yes", "--output-file", "token"];
    env.influxdb3(offline).run().token();
    assert_eq!(files(&ours), 0);
}

#[test]
fn the_json_form_of_what_was_saved_is_one_object_too() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let old = server.create();
    let run =
        |credential: &str| rotation(&env, &server, credential, "token").args(&["--format", "json"]).run();
    let mut credential = old.clone();
    // Replaced, and found to be replaced.
    for _ in 0..2 {
        let output = run(&credential);
        assert_eq!(output.code, Some(0), "{output:?}");
        let said: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(said, json!({ "saved_to": "token" }), "{output:?}");
        credential = old.clone();
    }
    assert!(server.accepts(&saved(Path::new(&env.home().join("token"))).unwrap()));
}

#[test]
fn a_token_in_json_is_replaced_however_it_is_written() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut old = server.create();
    for (before, after) in [
        (r#"{"name":"_admin","token":"TOKEN","more":[1,{"token":"TOKEN"}]}"#, true),
        (r#"{"token":""}"#, true),
        (r#"{"token":"token"}"#, true),
        (r#"{"name":"_admin","token":"_admin"}"#, true),
        ("not a token at all", false),
        ("", false),
    ] {
        let file = env.home().join("token");
        // As some write it.
        private(&file, &before.replace("TOKEN", &old.replace('_', "\\u005f").replace("apiv", "\\u0061piv")));
        let output = rotation(&env, &server, &old, "token").run();
        let new = assert_rotated(&env, &server, &output, "token", &[&old]);
        let text = fs::read_to_string(&file).unwrap();
        let json = serde_json::from_str::<Value>(&text).ok();
        assert_eq!(json.is_some(), after, "{before}");
        if let (Some(json), Ok(mut was)) =
            (json, serde_json::from_str::<Value>(&before.replace("TOKEN", &old)))
        {
            was["token"] = new.as_str().into();
            assert_eq!(json, was);
        }
        old = new;
    }
}

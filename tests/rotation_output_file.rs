//! `--regenerate --output-file` with existing files: those of an interrupted run, links, devices,
//! and files that are not regular.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::rotation_run::{assert_rotated, read_token, rotation, write_private, write_staged};
use crate::support::{
    CONFIRM, CREATE, RECOVERY, STAGE, Server, TestEnv, create_named, get, post, sha512_hex,
};

/// Valid tokens that no server has created.
const TOKENS: [&str; 2] = [
    "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g",
    "apiv3_QkqYVzP2bX8mJ4tN7sRw1cLgH5dF9aKpE3uZ6xCvB0nM-iOyTjWlSeDfGhJkLzXcVbNmQwErTyUiOpAsDfGhJg",
];

fn stage(server: &Server, credential: &str, token: &str) {
    let staged = post(STAGE).bearer(credential).json(&json!({ "token_sha512": sha512_hex(token) }));
    assert_eq!(staged.send(server.address).status, 201);
}

fn confirm(server: &Server, token: &str, overlap: u64) {
    let confirmed = post(CONFIRM).bearer(token).json(&json!({ "overlap_secs": overlap }));
    assert_eq!(confirmed.send(server.address).status, 200);
}

#[test]
fn completed_staged_file_is_not_resumed() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let (file, staged) = (env.home().join("token"), env.home().join("token.staged"));
    // A run was killed before it removed its staged file.
    stage(&server, &first, TOKENS[0]);
    confirm(&server, TOKENS[0], 0);
    write_private(&file, TOKENS[0]);
    write_staged(&staged, TOKENS[0], &first);
    let output = rotation(&env, &server, TOKENS[0], "token").run();
    let second = assert_rotated(&env, &server, &output, "token", &[&first, TOKENS[0]]);
    assert!(
        output.stderr.contains("removing token.staged, which it left, and beginning a new one"),
        "{output:?}"
    );

    // A run was killed before it wrote the file: the staged file has the only copy, maybe not
    // confirmed.
    stage(&server, &second, TOKENS[1]);
    write_staged(&staged, TOKENS[1], &second);
    let args = ["--regenerate", "--yes", "--token-file", "token.staged", "--output-file", "token"];
    let output = env.create_token(server.address, &args).run();
    let third = assert_rotated(&env, &server, &output, "token", &[&second, TOKENS[1]]);

    // The credential was replaced by the staged token: the command completes without a new
    // rotation.
    write_staged(&staged, &third, &second);
    let output = rotation(&env, &server, &second, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&second]);
    assert_eq!(read_token(&file), Some(third));
}

#[test]
fn revoked_staged_token_is_not_restored() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let (first, staged) = (server.create(), env.home().join("token.staged"));
    let revoked = TOKENS[0];
    stage(&server, &first, revoked);
    confirm(&server, revoked, 0);
    let elsewhere = server.regenerate(revoked);
    write_private(&env.home().join("token"), &elsewhere);
    write_staged(&staged, revoked, &first);
    let before = env.stored_catalog();
    // A credential that is not the operator token changes nothing, and the staged file stays.
    let named = create_named(&elsewhere, "ci").send(server.address).token();
    let with_named = env.stored_catalog();
    assert_ne!(before, with_named);
    fs::remove_file(env.home().join("token")).unwrap();
    for other in [named.as_str(), TOKENS[1]] {
        let neither = "neither the given token nor the one in token.staged is the operator token";
        rotation(&env, &server, other, "token").run().assert_failed(1, &[neither]);
        assert_eq!(read_token(&staged).as_deref(), Some(revoked));
    }
    assert_eq!(env.stored_catalog(), with_named);

    let output = rotation(&env, &server, &elsewhere, "token").run();
    let new = assert_rotated(&env, &server, &output, "token", &[&first, revoked, &elsewhere]);
    assert!(output.stderr.contains("replaced elsewhere meanwhile"), "{output:?}");
    assert_ne!(new, revoked);
}

#[test]
fn reported_old_token_state_matches_server() {
    for (first, then) in [(3600, ""), (0, "--overlap 1h")] {
        let env = TestEnv::new();
        let server = env.serve(&["--store", "memory:"]);
        let old = server.create();
        // A run was killed after its confirmation. The next run has another overlap.
        stage(&server, &old, TOKENS[0]);
        confirm(&server, TOKENS[0], first);
        write_staged(&env.home().join("token.staged"), TOKENS[0], &old);
        let args: Vec<_> = then.split_whitespace().collect();
        let output = rotation(&env, &server, &old, "token").args(&args).run();
        assert_eq!(output.code, Some(0), "{output:?}");
        let status = get(CREATE).bearer(TOKENS[0]).send(server.address).json();
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

#[test]
fn unwritable_stdout_leaves_no_staged_file() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let old = server.create();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = rotation(&env, &server, &old, "token").stdout(full).run();
    output
        .assert_failed(1, &["the operator token is in token, but that cannot be written to standard output"]);
    let new = read_token(&env.home().join("token")).unwrap();
    assert!(server.accepts(&new) && !env.home().join("token.staged").exists());
    let output = rotation(&env, &server, &new, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&old, &new]);
}

#[test]
fn output_link_is_followed_and_kept() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut old = server.create();
    let real = env.home().join("real");
    fs::create_dir(&real).unwrap();
    write_private(&real.join("token"), &old);
    symlink("real/token", env.home().join("link")).unwrap();
    symlink("link", env.home().join("chain")).unwrap();
    symlink(real.join("later"), env.home().join("dangling")).unwrap();
    for (link, file) in [("link", "real/token"), ("chain", "real/token"), ("dangling", "real/later")] {
        let output = rotation(&env, &server, &old, link).run();
        assert_eq!(output.code, Some(0), "{output:?}");
        let new = read_token(&env.home().join(file)).unwrap();
        assert!(server.accepts(&new) && !server.accepts(&old), "{link}");
        assert!(fs::symlink_metadata(env.home().join(link)).unwrap().is_symlink());
        old = new;
    }
    symlink("loop", env.home().join("loop")).unwrap();
    rotation(&env, &server, &old, "loop").run().assert_failed(1, &["cannot write loop"]);
    assert!(server.accepts(&old));
}

#[test]
fn non_regular_output_is_refused_before_any_request() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let old = server.create();
    let before = env.stored_catalog();
    fs::create_dir(env.home().join("directory")).unwrap();
    env.file("token", b"precious");
    let no_file = "it is there already and not a regular file";
    let no_name = "this is not the name of a file";
    for (file, message) in [
        ("token/", no_name),
        ("new/", no_name),
        ("new/.", no_name),
        ("..", no_name),
        ("directory", no_file),
        ("directory/", no_name),
        ("/dev/null", no_file),
        // A link to a pipe.
        ("/dev/stdout", no_file),
        ("token/token", "Not a directory"),
        ("nowhere/token", "No such file or directory"),
    ] {
        for address in [server.address, server.recovery()] {
            let args = ["--regenerate", "--yes", "--output-file", file];
            let output = env.create_token(address, &args).env("INFLUXDB3_AUTH_TOKEN", &old).run();
            output.assert_failed(1, &[&format!("cannot write {file}"), message]);
        }
    }
    // A link to the file that stdout is redirected to.
    let out = File::create(env.home().join("out")).unwrap();
    let output = rotation(&env, &server, &old, "/dev/stdout").stdout(out).run();
    output.assert_failed(1, &["this command writes its output there"]);
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&old));
    assert_eq!(fs::read(env.home().join("token")).unwrap(), b"precious");
}

#[test]
fn temporary_files_of_killed_runs_are_removed() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let digits = "0123456789abcdef";
    let leftovers = [format!(".token.{digits}.tmp"), format!(".token.staged.{digits}.tmp")];
    let others = [
        format!(".other.{digits}.tmp"),
        format!(".token.{digits}0.tmp"),
        format!(".token.json.{digits}.tmp"),
        ".token.tmp".to_owned(),
        format!("token.{digits}.tmp"),
    ];
    let files = |names: &[String]| names.iter().filter(|name| env.home().join(name).exists()).count();
    for name in leftovers.iter().chain(&others) {
        write_private(&env.home().join(name), &token);
    }
    let directory = env.home().join(format!(".token.{}.tmp", digits.replace('0', "f")));
    fs::create_dir(&directory).unwrap();
    let output = rotation(&env, &server, &token, "token").run();
    assert_rotated(&env, &server, &output, "token", &[&token]);
    assert_eq!((files(&leftovers), files(&others), directory.exists()), (0, others.len(), true));

    write_private(&env.home().join(&leftovers[0]), &token);
    let offline = ["create", "token", "--admin", "--offline", "--yes", "--output-file", "token"];
    env.cli(offline).run().token();
    assert_eq!(files(&leftovers), 0);
}

#[test]
fn json_format_with_output_file_is_one_object() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let old = server.create();
    let run =
        |credential: &str| rotation(&env, &server, credential, "token").args(&["--format", "json"]).run();
    let mut credential = old.clone();
    // Rotated, and found to be rotated already.
    for _ in 0..2 {
        let output = run(&credential);
        assert_eq!(output.code, Some(0), "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(report, json!({ "saved_to": "token" }), "{output:?}");
        credential = old.clone();
    }
    assert!(server.accepts(&read_token(Path::new(&env.home().join("token"))).unwrap()));
}

#[test]
fn token_in_json_file_is_replaced() {
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
        // With escapes, which some writers of JSON use.
        write_private(
            &file,
            &before.replace("TOKEN", &old.replace('_', "\\u005f").replace("apiv", "\\u0061piv")),
        );
        let output = rotation(&env, &server, &old, "token").run();
        let new = assert_rotated(&env, &server, &output, "token", &[&old]);
        let text = fs::read_to_string(&file).unwrap();
        let json = serde_json::from_str::<Value>(&text).ok();
        assert_eq!(json.is_some(), after, "{before}");
        if let (Some(json), Ok(mut expected)) =
            (json, serde_json::from_str::<Value>(&before.replace("TOKEN", &old)))
        {
            expected["token"] = new.as_str().into();
            assert_eq!(json, expected);
        }
        old = new;
    }
}

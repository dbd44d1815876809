//! `hash token`: the file with the hash of an existing token, for `serve --admin-token-file`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{Cli, TestEnv, sha512_hex};

/// The token of docs/compatibility.md 1.8.
const TOKEN: &str =
    "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g";

fn hash(env: &TestEnv) -> Cli {
    env.cli(["hash", "token"])
}

/// The content of a file with the hash.
fn file(name: &str, expiry: Option<u64>) -> String {
    let line = expiry.map(|expiry| format!(",\n  \"expiry_millis\": {expiry}")).unwrap_or_default();
    format!("{{\n  \"token_sha512\": \"{}\",\n  \"name\": \"{name}\"{line}\n}}\n", sha512_hex(TOKEN))
}

#[test]
fn hash_of_existing_token_starts_a_server() {
    let env = TestEnv::new();
    // Unreadable to others, as the secret that it stands for.
    let secret = env.file("secret", format!("{TOKEN}\n").as_bytes());
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let output = hash(&env).args(&["--token-file", "secret", "--output-file", "hash.json"]).run();
    assert_eq!((output.code, &*output.stdout, &*output.stderr), (Some(0), "Hash saved to: hash.json\n", ""));
    let path = env.home().join("hash.json");
    assert_eq!(fs::read_to_string(&path).unwrap(), file("_admin", None));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    // Mounted readable for all users.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let server = env.serve(&["--admin-token-file", "hash.json"]);
    assert!(server.accepts(TOKEN));
    drop(server.regenerate(TOKEN));
}

#[test]
fn every_form_of_the_token_has_one_hash() {
    let env = TestEnv::new();
    for input in [TOKEN.to_owned(), format!("{TOKEN}\n"), format!("\u{feff} {TOKEN}\r\nmore\n")] {
        let output = hash(&env).input(&input).run();
        assert_eq!(
            (output.code, output.stdout, &*output.stderr),
            (Some(0), file("_admin", None), ""),
            "{input:?}"
        );
    }
    let whole =
        json!({ "token": TOKEN, "name": "ci", "expiry_millis": 4_102_444_800_000_u64, "description": "x" });
    for (content, args, expected) in [
        (TOKEN.to_owned(), "", file("_admin", None)),
        (TOKEN.to_owned(), "--name ci", file("ci", None)),
        (json!({ "token": TOKEN }).to_string(), "", file("_admin", None)),
        (whole.to_string(), "", file("ci", Some(4_102_444_800_000))),
        (format!("\u{feff}{whole}\n"), "", file("ci", Some(4_102_444_800_000))),
        (whole.to_string(), "--name other", file("other", Some(4_102_444_800_000))),
        (json!({ "token": TOKEN, "name": "ci", "expiry_millis": -1 }).to_string(), "", file("ci", Some(0))),
    ] {
        let path = env.file("token.json", content.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let output = hash(&env)
            .args(&["--token-file", "token.json"])
            .args(&args.split_whitespace().collect::<Vec<_>>())
            .run();
        assert_eq!(
            (output.code, output.stdout, &*output.stderr),
            (Some(0), expected, ""),
            "{content} {args}"
        );
    }
    let before = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    let output = hash(&env).args(&["--token-file", "token.json", "--expiry", "1d"]).run();
    let content: Value = serde_json::from_str(&output.stdout).unwrap();
    let expiry = content["expiry_millis"].as_u64().unwrap() - 86_400_000;
    let after = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
    assert!((before..=after).contains(&expiry), "{content}");
    // What --offline writes is read, and has the same hash file.
    let args = "create token --admin --offline --name ci --expiry 1d --output-file made.json --hash-file made-hash.json";
    assert_eq!(env.cli(args.split(' ')).run().code, Some(0));
    let output = hash(&env).args(&["--token-file", "made.json"]).run();
    assert_eq!(output.stdout, fs::read_to_string(env.home().join("made-hash.json")).unwrap());
}

#[test]
fn unusable_token_has_no_hash() {
    let env = TestEnv::new();
    for (input, message) in [
        ("apiv3_password-password-password", "the token is too weak: at most "),
        ("apiv3_", "the token is too weak: at most 0 bits are random, 112 are asked for"),
        ("secret_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK", "Invalid token format: must start with 'apiv3_'"),
        ("", "there is no token on standard input"),
        ("\"apiv3_x\"", "the token has quotes around it"),
        ("Bearer apiv3_x", "the token begins with the word Bearer"),
        ("TOKEN=apiv3_x", "the name of a variable"),
    ] {
        hash(&env).input(input).run().assert_failed(1, &["Hash command failed: ", message]);
    }
    for name in ["", "_Admin", "x\n"] {
        let output = hash(&env).args(&["--name", name]).input(TOKEN).run();
        output.assert_failed(1, &["Hash command failed: a token name must not "]);
    }
    for (content, message) in [
        (
            json!({ "token_sha512": sha512_hex(TOKEN), "name": "x" }),
            "it holds the hash of a token, and not the token itself",
        ),
        (json!({ "token": TOKEN, "name": 1 }), "a \"name\" is a string"),
        (json!({ "token": TOKEN, "expiry_millis": "soon" }), "\"expiry_millis\" a whole number"),
    ] {
        env.file("token.json", content.to_string().as_bytes());
        hash(&env).args(&["--token-file", "token.json"]).run().assert_failed(1, &[message]);
    }
    let refused = hash(&env).arg(TOKEN).run();
    refused.assert_failed(2, &["unexpected argument"]);
}

#[test]
fn hash_file_is_replaced_only_on_request() {
    let env = TestEnv::new();
    let secret = env.file("secret", TOKEN.as_bytes());
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let output = env.file("hash.json", b"precious");
    let piped = || hash(&env).args(&["--output-file", "hash.json"]).input(TOKEN);
    piped()
        .run()
        .assert_failed(1, &["hash.json exists already", "no question can be answered there: add --yes"]);
    let asked = || hash(&env).args(&["--token-file", "secret", "--output-file", "hash.json"]);
    asked().input("no\n").run().assert_failed(1, &["Cannot replace hash.json without confirmation"]);
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    assert_eq!(piped().arg("--yes").run().code, Some(0));
    let content = fs::read_to_string(&output).unwrap();
    assert_eq!(content, file("_admin", None));
    // The same again needs no question, so that a script can be repeated.
    let again = piped().run();
    assert_eq!((again.code, &*again.stdout, &*again.stderr), (Some(0), "Hash saved to: hash.json\n", ""));
    assert_eq!(asked().args(&["--name", "ci"]).input("yes\n").run().code, Some(0));
    assert_eq!(fs::read_to_string(&output).unwrap(), file("ci", None));

    for same in ["secret", "./secret"] {
        hash(&env)
            .args(&["--yes", "--token-file", "secret", "--output-file", same])
            .run()
            .assert_failed(2, &["--output-file and --token-file are one file"]);
    }
    assert_eq!(fs::read_to_string(secret).unwrap(), TOKEN);
}

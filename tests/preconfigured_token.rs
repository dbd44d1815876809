//! Preconfigured tokens that the server imports at its start: `--admin-token-file`
//! (docs/compatibility.md 5.4).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{Cli, REGENERATE, TestEnv, delete_named, get, post, sha512_hex};

/// The token of docs/compatibility.md 1.8.
const TOKEN: &str =
    "apiv3_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK-eZ7q6hXqyzrJu0kEPB-VE88eGXTTz9GKhwKm38-6qkykKPdhNeduS9g";

/// A token of 16 random bytes, as in the documentation (docs/compatibility.md 1.6).
const OTHER: &str = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";

impl TestEnv {
    fn token_file(&self, content: &str, mode: u32) -> String {
        let path = self.file("token.json", content.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn serve_preconfigured(&self, content: &Value) -> Cli {
        let file = self.token_file(&content.to_string(), 0o600);
        self.serve_with(&["--admin-token-file", &file])
    }
}

#[test]
fn preconfigured_token_is_accepted_after_start() {
    for (content, name) in [
        (json!({ "token": TOKEN, "name": "_admin" }), "_admin"),
        (json!({ "token": TOKEN, "name": "ci", "description": "ignored" }), "ci"),
        (json!({ "token_sha512": sha512_hex(TOKEN), "name": "_admin", "expiry_millis": null }), "_admin"),
    ] {
        let env = TestEnv::new();
        let server = env.serve_preconfigured(&content).start();
        assert!(server.accepts(TOKEN));
        server.wait_for_log(&format!("Loaded admin token from file, name: {name}"));
        server.wait_for_log(&format!("Admin token '{name}' initialized from file"));
        server.stop();
        let stored_catalog = env.stored_catalog();
        let server = env.serve_preconfigured(&content).start();
        server.wait_for_log(&format!("Admin token '{name}' already exists, skipping initialization"));
        assert!(server.accepts(TOKEN));
        assert_eq!(env.stored_catalog(), stored_catalog);
    }
}

#[test]
fn regenerated_preconfigured_operator_is_not_restored() {
    let env = TestEnv::new();
    let content = json!({ "token": TOKEN, "name": "_admin" });
    let server = env.serve_preconfigured(&content).start();
    let token = server.regenerate(TOKEN);
    server.stop();
    let server = env.serve_preconfigured(&content).start();
    server.wait_for_log("WARN Admin token '_admin' already exists with another secret");
    assert!(server.accepts(&token));
    assert!(!server.accepts(TOKEN));
}

#[test]
fn preconfigured_named_token_is_not_operator() {
    let env = TestEnv::new();
    let server = env.serve_preconfigured(&json!({ "token": OTHER, "name": "ci" })).start();
    server.wait_for_log("no operator token yet");
    let response = post(REGENERATE).bearer(OTHER).send(server.address);
    response.assert_is(404, "missing admin token, cannot update");
    let operator = server.create();
    assert!(server.accepts(&operator) && server.accepts(OTHER));
}

#[test]
fn preconfigured_expiry_is_enforced_and_logged() {
    for (expiry, accepted, message) in [
        (4_102_444_800_000_i64, true, "the operator token expires"),
        (1, false, "Admin token '_admin' has expired and is not accepted"),
        (-1, false, "Admin token '_admin' has expired and is not accepted"),
    ] {
        let env = TestEnv::new();
        let content = json!({ "token": TOKEN, "name": "_admin", "expiry_millis": expiry });
        let server = env.serve_preconfigured(&content).start();
        assert_eq!(server.accepts(TOKEN), accepted);
        server.wait_for_log(message);
        server.stop();
        let content = json!({ "token": TOKEN, "name": "_admin", "expiry_millis": 5 });
        let server = env.serve_preconfigured(&content).start();
        server.wait_for_log("Admin token '_admin' keeps the expiry that it has, not that of the file");
    }
}

#[test]
fn unusable_token_file_prevents_start() {
    let env = TestEnv::new();
    let good = json!({ "token": TOKEN, "name": "_admin" }).to_string();
    let hash = json!({ "token_sha512": sha512_hex(TOKEN), "name": "_admin" }).to_string();
    let with = |token: &str, name: &str| json!({ "token": token, "name": name }).to_string();
    for (content, mode, message) in [
        (
            good.as_str(),
            0o644,
            "Admin token file has insecure permissions: 644. Others can read the token; run: chmod 0600 ",
        ),
        (&good, 0o604, "Admin token file has insecure permissions: 604"),
        (&good, 0o444, "run: optoken hash token --token-file "),
        (&good, 0o602, "Others can change it; run: chmod go-w "),
        (&hash, 0o664, "Others can change it; run: chmod go-w "),
        ("", 0o600, "Failed to parse admin token file as JSON: it is not JSON (line 1, column 0)"),
        ("{", 0o600, "Failed to parse admin token file as JSON: it is not JSON"),
        (
            TOKEN,
            0o600,
            "Failed to parse admin token file as JSON: it is a token alone, and not JSON; `hash token`",
        ),
        ("{\"token\": 12345678, \"name\": \"x\"}", 0o600, "\"token\" or \"token_sha512\", which are strings"),
        (&json!({ "token": TOKEN }).to_string(), 0o600, "it must have \"name\""),
        (&json!({ "name": "_admin" }).to_string(), 0o600, "neither \"token\" nor \"token_sha512\""),
        (
            &json!({ "token": TOKEN, "token_sha512": sha512_hex(TOKEN), "name": "x" }).to_string(),
            0o600,
            "both",
        ),
        (
            &json!({ "token": TOKEN, "name": "x", "expiry_millis": "soon" }).to_string(),
            0o600,
            "a whole number",
        ),
        (
            &with("secret_Jkalv-IPKqJR2P7QT0n28gFpf1iEwK", "x"),
            0o600,
            "Invalid token format: must start with 'apiv3_'",
        ),
        (&with("apiv3_", "x"), 0o600, "the token is too weak: at most 0 bits are random, 112 are asked for"),
        (&with("apiv3_password-password-password", "x"), 0o600, "the token is too weak"),
        (&with(TOKEN, ""), 0o600, "a token name must not be empty"),
        (&with(TOKEN, "_Admin"), 0o600, "must not look like _admin"),
        (
            &json!({ "token_sha512": "f9d9", "name": "x" }).to_string(),
            0o600,
            "128 lower-case hexadecimal digits",
        ),
        (&" ".repeat(70_000), 0o600, "it has more than 65536 bytes"),
    ] {
        let file = env.token_file(content, mode);
        let output = env.serve_with(&["--admin-token-file", &file]).run();
        output.assert_failed(1, &["Serve command failed: Token error: ", message]);
        assert!(!output.stderr.contains("12345678"), "the error quotes the file: {}", output.stderr);
    }
    for (path, message) in [
        (env.home().join("missing.json"), "Failed to read admin token file: No such file or directory"),
        (env.home().to_owned(), "it is not a regular file"),
    ] {
        let output = env.serve_with(&["--admin-token-file"]).arg(&path).run();
        output.assert_failed(1, &["Serve command failed: Token error: ", message]);
    }
    let server = env.serve(&[]);
    assert!(!server.accepts(TOKEN));
    assert_eq!(get("/health").bearer(TOKEN).send(server.address).status, 401);
}

#[test]
fn byte_order_mark_before_token_file_is_skipped() {
    for content in [
        json!({ "token": TOKEN, "name": "_admin" }),
        json!({ "token_sha512": sha512_hex(TOKEN), "name": "_admin" }),
    ] {
        let env = TestEnv::new();
        let file = env.token_file(&format!("\u{feff}{content}\r\n"), 0o600);
        assert!(env.serve(&["--admin-token-file", &file]).accepts(TOKEN));
    }
}

#[test]
fn token_file_of_own_group_is_accepted() {
    for mode in [0o440, 0o640] {
        let env = TestEnv::new();
        let file = env.token_file(&json!({ "token": TOKEN, "name": "_admin" }).to_string(), mode);
        assert!(env.serve(&["--admin-token-file", &file]).accepts(TOKEN));
    }
}

#[test]
fn hash_file_may_be_world_readable() {
    let env = TestEnv::new();
    let content = json!({ "token_sha512": sha512_hex(TOKEN), "name": "_admin" });
    let file = env.token_file(&content.to_string(), 0o444);
    let server = env.serve(&["--admin-token-file", &file]);
    assert!(server.accepts(TOKEN));
}

#[test]
fn deleted_token_stays_deleted_after_a_restart() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let operator = server.create();
    server.stop();
    for content in [
        json!({ "token": OTHER, "name": "ci" }),
        // The same token under another name, by its hash.
        json!({ "token_sha512": sha512_hex(OTHER), "name": "another" }),
    ] {
        let server = env.serve_preconfigured(&content).start();
        if content["name"] == "ci" {
            assert!(server.accepts(OTHER));
            delete_named(&operator, "ci").send(server.address).assert_is(200, "");
        } else {
            server.wait_for_log("Admin token 'another' was accepted before and then revoked");
        }
        assert!(!server.accepts(OTHER));
        server.stop();
        let server = env.serve_preconfigured(&content).start();
        server.wait_for_log("was accepted before and then revoked");
        assert!(!server.accepts(OTHER) && server.accepts(&operator));
        server.stop();
    }
}

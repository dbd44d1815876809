//! Staged rotation over HTTP: staged and overlapping secrets, and what they do not authorize
//! (docs/design.md 3).

use serde_json::{Value, json};

use crate::support::{
    CONFIRM, CREATE, OVERLAP, RECOVERY, REGENERATE, STAGE, Server, TestEnv, create_named, eventually, get,
    post, request, sha512_hex,
};

fn stage(server: &Server, token: &str) -> String {
    post(STAGE).bearer(token).send(server.address).token()
}

fn status(server: &Server, token: &str) -> Value {
    let response = get(CREATE).bearer(token).send(server.address);
    assert_eq!(response.status, 200, "{response:?}");
    response.json()
}

#[test]
fn stage_and_confirm_always_keep_one_token_valid() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let second = stage(&server, &first);
    // Before the confirmation the old token is valid, and the new one authenticates nothing.
    assert!(server.accepts(&first) && !server.accepts(&second));
    for request in [
        post(REGENERATE).bearer(&second),
        post(STAGE).bearer(&second),
        request("DELETE", STAGE).bearer(&second),
        get(CREATE).bearer(&second),
        create_named(&second, "x"),
    ] {
        assert_eq!(request.send(server.address).status, 401, "{request:?}");
    }
    let confirmed = post(CONFIRM).bearer(&second).send(server.address);
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    assert_eq!(confirmed.json()["name"], "_admin");
    assert!(!server.accepts(&first) && server.accepts(&second));
    // A client without the response sends the request again.
    let stored_catalog = env.stored_catalog();
    assert_eq!(post(CONFIRM).bearer(&second).send(server.address).json(), confirmed.json());
    assert_eq!(env.stored_catalog(), stored_catalog);
    for credential in [&first, "apiv3_unknown"] {
        assert_eq!(post(CONFIRM).bearer(credential).send(server.address).status, 401);
    }
    assert_eq!(post(CONFIRM).send(server.address).status, 401);
}

#[test]
fn client_secret_is_staged_by_hash() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let client_secret = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";
    let staged = post(STAGE)
        .bearer(&first)
        .json(&json!({ "token_sha512": sha512_hex(client_secret), "ttl_secs": 60 }));
    let response = staged.send(server.address);
    assert_eq!((response.status, &response.json()["token"]), (201, &Value::Null), "{response:?}");
    assert_eq!(response.json()["hash"], sha512_hex(client_secret));
    assert_eq!(post(CONFIRM).bearer(client_secret).send(server.address).status, 200);
    assert!(server.accepts(client_secret) && !server.accepts(&first));
    for (body, message) in [
        (json!({ "token_sha512": "f9d9" }), "a token hash is 128 lower-case hexadecimal digits"),
        (json!({ "ttl_secs": 604_801 }), "at most 604800 seconds are possible"),
        (
            json!({ "token_sha512": sha512_hex(client_secret) }),
            "the token named '_admin' has this secret already",
        ),
    ] {
        post(STAGE).bearer(client_secret).json(&body).send(server.address).assert_is(400, message);
    }
    let untyped = post(STAGE).bearer(client_secret).body(b"{}").send(server.address);
    untyped.assert_is(415, "unacceptable content-type, expected: application/json");
}

#[test]
fn unknown_field_is_400_and_changes_nothing() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let misspelt = json!({ "overlap_seconds": 3600, "token_sha_512": "" });
    let before = env.stored_catalog();
    let refused = post(STAGE).bearer(&first).json(&misspelt).send(server.address);
    assert!(refused.status == 400 && refused.body.contains("unknown field"), "{refused:?}");
    assert_eq!(env.stored_catalog(), before);
    let second = stage(&server, &first);
    let refused = post(CONFIRM).bearer(&second).json(&misspelt).send(server.address);
    assert!(refused.status == 400 && refused.body.contains("unknown field"), "{refused:?}");
    assert!(server.accepts(&first) && !server.accepts(&second));
    // Regenerate ignores its body (docs/compatibility.md 2.4).
    assert_eq!(post(REGENERATE).bearer(&first).json(&misspelt).send(server.address).status, 201);
}

#[test]
fn staged_secret_ends_when_cancelled_replaced_or_expired() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let mut token = server.create();
    let confirm = |staged: &str| post(CONFIRM).bearer(staged).send(server.address).status;

    let staged = stage(&server, &token);
    for _ in 0..2 {
        request("DELETE", STAGE).bearer(&token).send(server.address).assert_is(200, "");
    }
    assert_eq!(confirm(&staged), 401);

    let (earlier, later) = (stage(&server, &token), stage(&server, &token));
    assert_eq!((confirm(&earlier), confirm(&later)), (401, 200));
    token = later;

    let staged = stage(&server, &token);
    token = server.regenerate(&token);
    assert_eq!(confirm(&staged), 401);

    let late = post(STAGE).bearer(&token).json(&json!({ "ttl_secs": 0 })).send(server.address).token();
    assert_eq!(confirm(&late), 401);
    assert_eq!(status(&server, &token)["staged"], Value::Null);

    let staged = stage(&server, &token);
    let recovered = post(REGENERATE).send(server.recovery()).token();
    assert_eq!(confirm(&staged), 401);
    assert!(server.accepts(&recovered) && !server.accepts(&token));
}

#[test]
fn overlapping_token_authenticates_but_cannot_rotate() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let overlapping = |path: &str, token: &str, seconds: u64| {
        post(path).bearer(token).json(&json!({ "overlap_secs": seconds })).send(server.address)
    };
    let second = overlapping(REGENERATE, &first, 3600).token();
    // The status has hash and last use of each token.
    assert!(server.accepts(&first));
    let seen_by_first = status(&server, &first);
    assert_eq!(seen_by_first["hash"], sha512_hex(&second)[..9]);
    assert_eq!(seen_by_first["overlap"]["hash"], sha512_hex(&first)[..9]);
    assert!(seen_by_first["overlap"]["ends_at"].is_string(), "{seen_by_first}");
    assert!(seen_by_first["overlap"]["last_used_at"].is_string(), "{seen_by_first}");
    assert!(seen_by_first["last_used_at"].is_null() && seen_by_first["staged"].is_null(), "{seen_by_first}");
    assert!(server.accepts(&second));
    let operator = status(&server, &second);
    assert!(operator["last_used_at"].is_string(), "{operator}");
    assert_eq!(operator["overlap"], seen_by_first["overlap"], "the first token was not used since");
    assert_eq!(operator["uses_known_since"], seen_by_first["uses_known_since"]);
    assert!(
        operator["uses_known_since"].as_str() <= operator["overlap"]["last_used_at"].as_str(),
        "{operator}"
    );
    for (method, path) in [("POST", REGENERATE), ("POST", STAGE), ("DELETE", STAGE), ("DELETE", OVERLAP)] {
        assert_eq!(request(method, path).bearer(&first).send(server.address).status, 403, "{method} {path}");
    }
    let conflict = post(STAGE).bearer(&second).send(server.address);
    assert_eq!(conflict.status, 409, "{conflict:?}");
    for _ in 0..2 {
        request("DELETE", OVERLAP).bearer(&second).send(server.address).assert_is(200, "");
    }
    assert!(!server.accepts(&first) && server.accepts(&second));

    // An overlap after a staged rotation, until its deadline.
    let third = stage(&server, &second);
    assert_eq!(overlapping(CONFIRM, &third, 1).status, 200);
    assert!(server.accepts(&second) && server.accepts(&third));
    eventually("the overlap ends", || !server.accepts(&second));
    assert_eq!(status(&server, &third)["overlap"], Value::Null);
    overlapping(REGENERATE, &third, 2_592_001).assert_is(400, "at most 2592000 seconds are possible");
}

#[test]
fn status_requires_token_and_has_no_secret() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    assert_eq!(get(CREATE).send(server.address).status, 401);
    let token = server.create();
    let operator = status(&server, &token);
    let hash = sha512_hex(&token);
    assert_eq!(
        (operator["id"].as_u64(), operator["name"].as_str(), operator["hash"].as_str()),
        (Some(0), Some("_admin"), hash.get(..9))
    );
    assert!(
        operator["staged"].is_null() && operator["overlap"].is_null() && operator["updated_at"].is_null(),
        "{operator}"
    );
    let staged = stage(&server, &token);
    let response = get(CREATE).bearer(&token).send(server.address);
    assert!(response.json()["staged"]["expires_at"].is_string(), "{response:?}");
    assert_eq!(response.json()["staged"]["hash"], sha512_hex(&staged)[..9]);
    assert!(!response.body.contains(&sha512_hex(&staged)) && !response.body.contains(&hash), "{response:?}");
    // A named admin can read the status, and change nothing.
    let named = create_named(&token, "ci").send(server.address).token();
    assert_eq!(status(&server, &named)["name"], "_admin");
    for (method, path) in [("POST", STAGE), ("DELETE", STAGE), ("DELETE", OVERLAP), ("POST", CONFIRM)] {
        assert_eq!(request(method, path).bearer(&named).send(server.address).status, 403, "{method} {path}");
    }
}

#[test]
fn tokens_of_an_overlap_are_listed_and_deleted_on_request() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let old = server.create();
    let overlap = json!({ "overlap_secs": 3600 });
    let new = post(REGENERATE).bearer(&old).json(&overlap).send(server.address).token();
    let minted = create_named(&old, "minted").send(server.address).token();
    let kept = create_named(&new, "kept").send(server.address).token();
    let listed = get(OVERLAP).bearer(&new).send(server.address).body;
    assert!(listed.contains("\"minted\"") && !listed.contains("\"kept\""), "{listed}");
    // A misspelt option changes nothing.
    let end = |query: &str| request("DELETE", &format!("{OVERLAP}{query}")).bearer(&new).send(server.address);
    assert_eq!(end("?delete_token=true").status, 400);
    assert!(server.accepts(&old));
    end("").assert_is(200, "");
    assert!(!server.accepts(&old) && server.accepts(&minted));
    end("?delete_tokens=true").assert_is(200, "");
    assert!(!server.accepts(&minted) && server.accepts(&kept) && server.accepts(&new));
}

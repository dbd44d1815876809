//! Staged rotation over HTTP: the secret that waits, the one that is let go slowly, and what nobody may do with either
//! (DESIGN section 3).

use serde_json::{Value, json};

use crate::support::{
    CONFIRM, CREATE, NAMED_ADMIN, OVERLAP, RECOVERY, REGENERATE, Request, STAGE, Server, TestEnv, eventually,
    get, post, request, sha512_hex,
};

fn with_json(request: Request, body: &Value) -> Request {
    request.header("Content-Type", "application/json").body(body.to_string().as_bytes())
}

fn stage(server: &Server, token: &str) -> String {
    post(STAGE).bearer(token).send(server.address).token()
}

fn status(server: &Server, token: &str) -> Value {
    let answer = get(CREATE).bearer(token).send(server.address);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[test]
fn a_rotation_of_stage_and_confirm_locks_nobody_out() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let second = stage(&server, &first);
    // Until it is confirmed, the old one is in force and the new one opens nothing.
    assert!(server.accepts(&first) && !server.accepts(&second));
    for refused in [
        post(REGENERATE).bearer(&second),
        post(STAGE).bearer(&second),
        request("DELETE", STAGE).bearer(&second),
        get(CREATE).bearer(&second),
        with_json(post(NAMED_ADMIN).bearer(&second), &json!({ "token_name": "x" })),
    ] {
        assert_eq!(refused.send(server.address).status, 401, "{refused:?}");
    }
    let confirmed = post(CONFIRM).bearer(&second).send(server.address);
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    assert_eq!(confirmed.json()["name"], "_admin");
    assert!(!server.accepts(&first) && server.accepts(&second));
    // Whoever missed the answer asks again.
    let stored_catalog = env.stored_catalog();
    assert_eq!(post(CONFIRM).bearer(&second).send(server.address).json(), confirmed.json());
    assert_eq!(env.stored_catalog(), stored_catalog);
    for credential in [&first, "apiv3_nobody"] {
        assert_eq!(post(CONFIRM).bearer(credential).send(server.address).status, 401);
    }
    assert_eq!(post(CONFIRM).send(server.address).status, 401);
}

#[test]
fn a_secret_that_the_client_has_made_never_crosses_the_wire() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let mine = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";
    let staged =
        with_json(post(STAGE).bearer(&first), &json!({ "token_sha512": sha512_hex(mine), "ttl_secs": 60 }));
    let answer = staged.send(server.address);
    assert_eq!((answer.status, &answer.json()["token"]), (201, &Value::Null), "{answer:?}");
    assert_eq!(answer.json()["hash"], sha512_hex(mine));
    assert_eq!(post(CONFIRM).bearer(mine).send(server.address).status, 200);
    assert!(server.accepts(mine) && !server.accepts(&first));
    for (body, said) in [
        (json!({ "token_sha512": "f9d9" }), "a token hash is 128 lower-case hexadecimal digits"),
        (json!({ "ttl_secs": 604_801 }), "at most 604800 seconds are possible"),
        (json!({ "token_sha512": sha512_hex(mine) }), "the token named '_admin' has this secret already"),
    ] {
        with_json(post(STAGE).bearer(mine), &body).send(server.address).assert_is(400, said);
    }
    let untyped = post(STAGE).bearer(mine).body(b"{}").send(server.address);
    untyped.assert_is(415, "unacceptable content-type, expected: application/json");
}

#[test]
fn a_misspelt_field_does_not_end_the_old_token_at_once() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let misspelt = json!({ "overlap_seconds": 3600, "token_sha_512": "" });
    let before = env.stored_catalog();
    let refused = with_json(post(STAGE).bearer(&first), &misspelt).send(server.address);
    assert!(refused.status == 400 && refused.body.contains("unknown field"), "{refused:?}");
    assert_eq!(env.stored_catalog(), before);
    let second = stage(&server, &first);
    let refused = with_json(post(CONFIRM).bearer(&second), &misspelt).send(server.address);
    assert!(refused.status == 400 && refused.body.contains("unknown field"), "{refused:?}");
    assert!(server.accepts(&first) && !server.accepts(&second));
    // Regenerate has always taken anything (COMPAT 2.4).
    assert_eq!(with_json(post(REGENERATE).bearer(&first), &misspelt).send(server.address).status, 201);
}

#[test]
fn what_was_staged_ends_when_it_is_given_up_replaced_or_late() {
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

    let late = with_json(post(STAGE).bearer(&token), &json!({ "ttl_secs": 0 })).send(server.address).token();
    assert_eq!(confirm(&late), 401);
    assert_eq!(status(&server, &token)["staged"], Value::Null);

    let staged = stage(&server, &token);
    let recovered = post(REGENERATE).send(server.recovery()).token();
    assert_eq!(confirm(&staged), 401);
    assert!(server.accepts(&recovered) && !server.accepts(&token));
}

#[test]
fn an_overlap_keeps_the_old_token_until_its_end_and_lets_it_rotate_nothing() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let first = server.create();
    let overlapping = |path: &str, token: &str, seconds: u64| {
        with_json(post(path).bearer(token), &json!({ "overlap_secs": seconds })).send(server.address)
    };
    let second = overlapping(REGENERATE, &first, 3600).token();
    // Which token is where, and when it was used: each for itself.
    assert!(server.accepts(&first));
    let by_the_first = status(&server, &first);
    assert_eq!(by_the_first["hash"], sha512_hex(&second)[..9]);
    assert_eq!(by_the_first["overlap"]["hash"], sha512_hex(&first)[..9]);
    assert!(by_the_first["overlap"]["ends_at"].is_string(), "{by_the_first}");
    assert!(by_the_first["overlap"]["last_used_at"].is_string(), "{by_the_first}");
    assert!(by_the_first["last_used_at"].is_null() && by_the_first["staged"].is_null(), "{by_the_first}");
    assert!(server.accepts(&second));
    let told = status(&server, &second);
    assert!(told["last_used_at"].is_string(), "{told}");
    assert_eq!(told["overlap"], by_the_first["overlap"], "nobody has used the first since");
    assert_eq!(told["uses_known_since"], by_the_first["uses_known_since"]);
    assert!(told["uses_known_since"].as_str() <= told["overlap"]["last_used_at"].as_str(), "{told}");
    for (method, path) in [("POST", REGENERATE), ("POST", STAGE), ("DELETE", STAGE), ("DELETE", OVERLAP)] {
        assert_eq!(request(method, path).bearer(&first).send(server.address).status, 403, "{method} {path}");
    }
    let conflict = post(STAGE).bearer(&second).send(server.address);
    assert_eq!(conflict.status, 409, "{conflict:?}");
    for _ in 0..2 {
        request("DELETE", OVERLAP).bearer(&second).send(server.address).assert_is(200, "");
    }
    assert!(!server.accepts(&first) && server.accepts(&second));

    // Together with a staged one, and ended by time.
    let third = stage(&server, &second);
    assert_eq!(overlapping(CONFIRM, &third, 1).status, 200);
    assert!(server.accepts(&second) && server.accepts(&third));
    eventually("the overlap ends", || !server.accepts(&second));
    assert_eq!(status(&server, &third)["overlap"], Value::Null);
    overlapping(REGENERATE, &third, 2_592_001).assert_is(400, "at most 2592000 seconds are possible");
}

#[test]
fn how_the_operator_token_stands_is_told_without_a_secret_and_only_to_who_has_a_token() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    assert_eq!(get(CREATE).send(server.address).status, 401);
    let token = server.create();
    let told = status(&server, &token);
    let hash = sha512_hex(&token);
    assert_eq!(
        (told["id"].as_u64(), told["name"].as_str(), told["hash"].as_str()),
        (Some(0), Some("_admin"), hash.get(..9))
    );
    assert!(told["staged"].is_null() && told["overlap"].is_null() && told["updated_at"].is_null(), "{told}");
    let staged = stage(&server, &token);
    let answer = get(CREATE).bearer(&token).send(server.address);
    assert!(answer.json()["staged"]["expires_at"].is_string(), "{answer:?}");
    assert_eq!(answer.json()["staged"]["hash"], sha512_hex(&staged)[..9]);
    assert!(!answer.body.contains(&sha512_hex(&staged)) && !answer.body.contains(&hash), "{answer:?}");
    // A named admin may look, and change nothing of it.
    let named = with_json(post(NAMED_ADMIN).bearer(&token), &json!({ "token_name": "ci" }))
        .send(server.address)
        .token();
    assert_eq!(status(&server, &named)["name"], "_admin");
    for (method, path) in [("POST", STAGE), ("DELETE", STAGE), ("DELETE", OVERLAP), ("POST", CONFIRM)] {
        assert_eq!(request(method, path).bearer(&named).send(server.address).status, 403, "{method} {path}");
    }
}

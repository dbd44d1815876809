//! The documented flow: create the operator token, use it, regenerate it (COMPAT 2.1 to 2.4, 2.8, 3 and 4.1).

use base64ct::{Base64, Encoding as _};

use crate::http2;
use crate::support::{
    CREATE, Connection, NOT_AUTHENTICATED, REGENERATE, TestEnv, assert_token_form, get, post, request,
    sha512_hex,
};

const MALFORMED: &str = r#"{"error": "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> <token>', supported auth-schemes are Bearer, Token and Basic"}"#;

const ARGUMENT: &str = "warning: other users of this machine can see a token that is an argument; give it with --token-file, --token - or INFLUXDB3_AUTH_TOKEN\n";

const IN_FORCE: &str = "The new token, which is not in force yet:\n\
                        The new token is in force, and the old one is refused from now on.\n";

const PROMPT: &str = "Are you sure you want to regenerate admin token? Enter 'yes' to confirm\n";

#[test]
fn creating_shows_the_token_as_documented_and_works_once() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let created = env.create_token(server.address, &[]).run();
    let token = created.token();
    // COMPAT 4.1, without colours where it does not go to a terminal.
    assert_eq!(
        created.stdout,
        format!(
            "\nNew token created successfully!\n\
             \n\
             Token: {token}\n\
             HTTP Requests Header: Authorization: Bearer {token}\n\
             \n\
             IMPORTANT: Store this token securely, as it will not be shown again.\n\
             \n"
        )
    );
    assert_eq!(created.stderr, "");
    assert!(server.accepts(&token));

    let before = env.stored_catalog();
    env.create_token(server.address, &[])
        .run()
        .assert_failed(1, &["Create command failed: ", "token name already exists, _admin", "--regenerate"]);
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
}

#[test]
fn the_json_format_is_one_object_and_nothing_else() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut old = None::<String>;
    // Created first, then regenerated twice, once with the question.
    for (args, input) in [("", ""), ("--regenerate --yes", ""), ("--regenerate", "yes\n")] {
        let args: Vec<_> = args.split_whitespace().chain(["--format", "json"]).collect();
        let mut cli = env.create_token(server.address, &args).input(input);
        if let Some(old) = &old {
            cli = cli.env("INFLUXDB3_AUTH_TOKEN", old);
        }
        let output = cli.run();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let token = json["token"].as_str().unwrap();
        assert_token_form(token);
        let help = format!(
            "Store this token securely, as it will not be shown again. HTTP requests require the following \
             header: \"Authorization: Bearer {token}\""
        );
        assert_eq!(json, serde_json::json!({ "help_msg": help, "token": token }));
        assert!(server.accepts(token));
        old = Some(token.to_owned());
    }
}

#[test]
fn a_regenerated_token_works_and_the_old_one_is_refused() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut seen = vec![server.create()];
    for way in ["--token", "last argument", "environment"] {
        let old = seen.last().unwrap();
        let cli = env.create_token(server.address, &["--regenerate", "--yes"]);
        let cli = match way {
            "--token" => cli.args(&["--token", old]),
            "last argument" => cli.arg(old),
            _ => cli.env("INFLUXDB3_AUTH_TOKEN", old),
        };
        let output = cli.run();
        let new = output.token();
        // COMPAT 4.1, but that success is said last: when it is one.
        assert_eq!(
            output.stdout,
            format!(
                "\n\
                 Token: {new}\n\
                 HTTP Requests Header: Authorization: Bearer {new}\n\
                 \n\
                 New token created successfully!\n\
                 \n\
                 IMPORTANT: Store this token securely, as it will not be shown again.\n\
                 \n"
            ),
            "{way}"
        );
        let warned = if way == "environment" { "" } else { ARGUMENT };
        assert_eq!(output.stderr, format!("{warned}{IN_FORCE}"), "{way}");
        // At once, without waiting for anything.
        assert!(server.accepts(&new), "{way}");
        for old in &seen {
            assert!(!server.accepts(old), "{way}");
            get("/health").bearer(old).send(server.address).assert_is(401, NOT_AUTHENTICATED);
        }
        seen.push(new);
    }
}

#[test]
fn what_is_typed_beats_the_environment() {
    let env = TestEnv::new();
    let (server, other) = (env.serve(&[]), env.serve(&["--store", "memory:"]));
    let mut token = server.create();
    let wrong = other.create();
    for flag in ["--token", ""] {
        let regenerate = |typed: &str, environment: &str| {
            let args: Vec<_> =
                ["--regenerate", "--yes", flag, typed].into_iter().filter(|arg| !arg.is_empty()).collect();
            env.create_token(server.address, &args).env("INFLUXDB3_AUTH_TOKEN", environment).run()
        };
        let before = env.stored_catalog();
        regenerate(&wrong, &token).assert_failed(
            1,
            &["[401 Unauthorized]: the request was not authenticated", "--admin-token-recovery-http-bind"],
        );
        assert_eq!(env.stored_catalog(), before);
        token = regenerate(&token, &wrong).token();
    }

    // The same for the address.
    let (here, there) = (format!("http://{}", server.address), format!("http://{}", other.address));
    let environment = |host: &str| {
        env.influxdb3(["create", "token", "--admin", "--regenerate", "--yes"]).env("INFLUXDB3_HOST_URL", host)
    };
    token = environment(&here).args(&["--token", &token]).run().token();
    token = environment(&there).args(&["-H", &here, "--token", &token]).run().token();
    assert!(server.accepts(&token));
    assert!(other.accepts(&wrong));
}

#[test]
fn regenerating_without_a_token_tells_how_to_give_one() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    server.create();
    let before = env.stored_catalog();
    for empty in [None, Some("")] {
        let mut cli = env.create_token(server.address, &["--regenerate", "--yes"]);
        if let Some(empty) = empty {
            cli = cli.env("INFLUXDB3_AUTH_TOKEN", empty);
        }
        cli.run().assert_failed(1, &["the request was not authenticated", "--token", "INFLUXDB3_AUTH_TOKEN"]);
    }
    assert_eq!(env.stored_catalog(), before);
}

#[test]
fn only_the_whole_word_yes_confirms() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut token = server.create();
    for (answer, confirms) in [
        ("", false),
        ("\n", false),
        ("y\n", false),
        ("Yes\n", false),
        ("YES\n", false),
        ("yes please\n", false),
        ("no\nyes\n", false),
        ("yes", true),
        ("yes\nno\n", true),
        ("\t yes \r\n", true),
    ] {
        let before = env.stored_catalog();
        let cli = env.create_token(server.address, &["--regenerate"]).input(answer);
        let output = cli.env("INFLUXDB3_AUTH_TOKEN", &token).run();
        assert!(output.stderr.starts_with(PROMPT), "{answer:?}: {}", output.stderr);
        if confirms {
            token = output.token();
            assert_eq!(output.stderr, format!("{PROMPT}{IN_FORCE}"), "{answer:?}");
        } else {
            output.assert_failed(1, &["Create command failed: Cannot regenerate token without confirmation"]);
            assert_eq!(env.stored_catalog(), before, "{answer:?}");
        }
        assert!(server.accepts(&token), "{answer:?}");
    }
    for yes in ["--yes", "-y"] {
        let output = env.create_token(server.address, &["--regenerate", yes, &token]).input("no\n").run();
        token = output.token();
        assert_eq!(output.stderr, format!("{ARGUMENT}{IN_FORCE}"), "{yes}");
    }
}

#[test]
fn the_http_api_answers_a_new_token_in_the_documented_form() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let body = |token: &str, created_at: &str| {
        format!(
            r#"{{"id":0,"name":"_admin","token":"{token}","hash":"{}","created_at":"{created_at}","expiry":null}}"#,
            sha512_hex(token)
        )
    };
    // As curl sends it.
    let curl = |path| post(path).header("User-Agent", "curl/8.14.1").header("Accept", "application/json");

    let created = curl(CREATE).send(server.address);
    let first = created.token();
    let created_at = created.json()["created_at"].as_str().unwrap().to_owned();
    let moment: jiff::Timestamp = created_at.parse().unwrap();
    let age = jiff::Timestamp::now().as_millisecond() - moment.as_millisecond();
    assert!((0..60_000).contains(&age) && created_at.ends_with('Z'), "{created_at}");

    let regenerated = curl(REGENERATE).bearer(&first).send(server.address);
    let second = regenerated.token();
    assert_ne!(first, second);
    // The record stays, only the secret is new (COMPAT 2.4).
    for (answer, token) in [(&created, &first), (&regenerated, &second)] {
        assert_eq!(answer.body, body(token, &created_at));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert!(!server.accepts(&first));
    assert!(server.accepts(&second));

    // What comes with the request means nothing.
    let third = post(&format!("{REGENERATE}?token=x"))
        .bearer(&second)
        .header("Content-Type", "text/csv")
        .body(b"{")
        .send(server.address)
        .token();
    post(CREATE).send(server.address).assert_is(409, "token name already exists, _admin");
    post(REGENERATE).bearer(&second).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    assert!(server.accepts(&third));
}

#[test]
fn creating_looks_at_nothing_that_comes_with_the_request() {
    let env = TestEnv::new();
    for (case, request) in [
        ("unknown token", post(CREATE).bearer("apiv3_unknown")),
        ("malformed credential", post(CREATE).authorization("Nonsense")),
        (
            "body that is no JSON",
            post(CREATE).header("Content-Type", "application/json").body(b"{\"name\": "),
        ),
        (
            "body of another type",
            post(CREATE).header("Content-Type", "image/png").chunked(b"\x89PNG\0\xff", 2),
        ),
        ("query", post(&format!("{CREATE}?name=other&token=%ff"))),
    ] {
        let server = env.serve(&["--store", "memory:"]);
        let created = request.send(server.address);
        assert_eq!(created.status, 201, "{case}: {created:?}");
        assert_eq!(created.json()["name"], "_admin", "{case}");
        assert!(server.accepts(&created.token()), "{case}");
        request.send(server.address).assert_is(409, "token name already exists, _admin");
    }
}

#[test]
fn three_schemes_carry_a_token() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let basic = |pair: &str| format!("Basic {}", Base64::encode_string(pair.as_bytes()));
    for (value, status) in [
        (format!("Bearer {token}"), 200),
        (format!("Token {token}"), 200),
        (basic(&format!("admin:{token}")), 200),
        (basic(&format!(":{token}")), 200),
        (basic(&format!("{token}:")), 401),
        (format!("Bearer {}", &token[..91]), 401),
        (format!("Bearer {token}x"), 401),
        (format!("Bearer {}", token.to_uppercase()), 401),
        (format!("Bearer {}", sha512_hex(&token)), 401),
    ] {
        let answer = get("/health").authorization(&value).send(server.address);
        assert_eq!(answer.status, status, "{value}");
        assert_eq!(answer.body, if status == 200 { "OK" } else { NOT_AUTHENTICATED }, "{value}");
    }
    // The first header counts, and only this one.
    for (good_first, status) in [(true, 200), (false, 401)] {
        let wrong = "apiv3_wrong";
        let (first, second) = if good_first { (token.as_str(), wrong) } else { (wrong, token.as_str()) };
        assert_eq!(get("/health").bearer(first).bearer(second).send(server.address).status, status);
    }
    get("/health")
        .header("Auth", &format!("Bearer {token}"))
        .send(server.address)
        .assert_is(401, NOT_AUTHENTICATED);
}

#[test]
fn a_refusal_says_how_to_authenticate() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    server.create();
    for (request, reason) in [
        (get("/health"), ""),
        (get("/health").bearer("apiv3_wrong"), r#", error="invalid_token""#),
        (post(REGENERATE), ""),
        (post(REGENERATE).bearer("apiv3_wrong"), r#", error="invalid_token""#),
    ] {
        let answer = request.send(server.address);
        answer.assert_is(401, NOT_AUTHENTICATED);
        let challenge = format!(r#"Bearer realm="influxdb3"{reason}"#);
        assert_eq!(answer.header("www-authenticate"), Some(challenge.as_str()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn a_malformed_credential_is_told_from_a_wrong_one() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let before = env.stored_catalog();
    let basic = |pair: &[u8]| format!("Basic {}", Base64::encode_string(pair));
    let pair = format!("u:{token}");
    for value in [
        String::new(),
        "Bearer".to_owned(),
        token.clone(),
        format!("Bearer  {token}"),
        format!("Bearer {token} x"),
        format!("Bearer\t{token}"),
        format!("bearer {token}"),
        format!("BEARER {token}"),
        format!("token {token}"),
        format!("ApiKey {token}"),
        format!("Bearer {token}\u{e9}"),
        format!("Basic {pair}"),
        basic(token.as_bytes()),
        basic(format!("a:b:{token}").as_bytes()),
        basic(b"u:\xff\xfe"),
        basic(pair.as_bytes()).trim_end_matches('=').to_owned(),
    ] {
        for request in [get("/health"), post(REGENERATE)] {
            let answer = request.authorization(&value).send(server.address);
            answer.assert_is(400, MALFORMED);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="influxdb3", error="invalid_request""#)
            );
        }
    }
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
}

#[test]
fn what_is_not_served_is_not_found_and_only_told_to_who_is_authenticated() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let before = env.stored_catalog();
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("POST", "/health"),
        ("GET", REGENERATE),
        ("PUT", REGENERATE),
        ("post", REGENERATE),
        ("POST", "/api/v3/configure/token/admin/regenerate/"),
        ("POST", "/api/v3/configure/token/admin/%72egenerate"),
        ("POST", "//api/v3/configure/token/admin/regenerate"),
        ("POST", "/api/v3/configure/token/admin/"),
        ("POST", "/api/v3/configure/token/Admin"),
    ] {
        let request = request(method, path);
        request.send(server.address).assert_is(401, NOT_AUTHENTICATED);
        let found = request.bearer(&token).send(server.address);
        found.assert_is(404, "Not found");
    }
    // Nothing is asked for here, whatever the method (COMPAT 2.2).
    for method in ["PUT", "DELETE", "PATCH"] {
        request(method, CREATE).send(server.address).assert_is(404, "Not found");
    }
    assert_eq!(env.stored_catalog(), before);
    for path in ["/health", "/api/v1/health"] {
        get(path).send(server.address).assert_is(401, NOT_AUTHENTICATED);
        get(path).bearer(&token).send(server.address).assert_is(200, "OK");
    }
}

#[test]
fn no_web_page_is_invited() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let from_page = |request: crate::support::Request| {
        request
            .header("Origin", "https://example.com")
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization")
            .send(server.address)
    };
    // That no answer has a CORS header is checked where it is read.
    assert_eq!(from_page(post(CREATE)).status, 403);
    let token = server.create();
    for path in [CREATE, REGENERATE, "/health"] {
        let preflight = from_page(request("OPTIONS", path));
        // It is told the methods, and not that it may use them.
        preflight.assert_is(204, "");
    }
    assert_eq!(from_page(get("/health").bearer(&token)).status, 200);
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let mut connection = Connection::open(server.address).unwrap();
    let mut send = |request: crate::support::Request| {
        connection.write(&request.to_bytes());
        connection.read().unwrap()
    };
    let first = send(post(CREATE).body(b"ignored")).token();
    let second = send(post(REGENERATE).bearer(&first).chunked(b"ignored", 3)).token();
    send(get("/health").bearer(&first)).assert_is(401, NOT_AUTHENTICATED);
    send(get("/health").authorization("x")).assert_is(400, MALFORMED);
    send(get("/nowhere").bearer(&second)).assert_is(404, "Not found");
    send(get("/health").bearer(&second)).assert_is(200, "OK");
}

#[test]
fn http_2_is_spoken_with_who_starts_with_it() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let authorization = format!("Bearer {token}");
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(&http2::opening());
    connection.write(&http2::request("GET", "/health", &[("authorization", &authorization)], true));
    let answer = loop {
        let (kind, payload) = http2::read_frame(&mut connection);
        if kind == http2::HEADERS {
            break payload;
        }
    };
    assert_eq!(answer.first(), Some(&http2::STATUS_200), "{answer:?}");
}

#[test]
fn a_proxy_is_not_told_the_token_of_this_machine() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let mut cli = env.create_token(server.address, &[]);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        // Nobody listens there.
        cli = cli.env(name, "http://127.0.0.1:1");
    }
    assert!(server.accepts(&cli.run().token()));
}

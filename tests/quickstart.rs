//! The documented flow: create the operator token, use it, and regenerate it (docs/compatibility.md
//! 2.1 to 2.4, 2.8, 3 and 4.1).

use base64ct::{Base64, Encoding as _};

use crate::http2;
use crate::support::{
    CREATE, Connection, NOT_AUTHENTICATED, REGENERATE, Request, TestEnv, assert_token_form, get, post,
    request, sha512_hex,
};

const MALFORMED: &str = r#"{"error": "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> <token>', supported auth-schemes are Bearer, Token and Basic"}"#;

const ARGUMENT: &str = "warning: other users of this machine can see a token that is an argument; give it with --token-file, --token - or INFLUXDB3_AUTH_TOKEN\n";

const IN_FORCE: &str = "The new token, which is not in force yet:\n\
                        The new token is in force, and the old one is refused from now on.\n";

const PROMPT: &str = "Are you sure you want to regenerate admin token? Enter 'yes' to confirm\n";

#[test]
fn create_prints_documented_text_and_works_once() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&[]);
    let created = env.create_token(server.address, &[]).run();
    let token = created.token();
    // docs/compatibility.md 4.1, without colours, as stdout is not a terminal.
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
fn json_format_is_one_object() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&[]);
    let mut old = None::<String>;
    // A creation, and two regenerations, one of them with the question.
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
fn regenerate_replaces_token() {
    let env = TestEnv::named("influxdb3");
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
        // docs/compatibility.md 4.1. Success is reported last, after the confirmation.
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
        // At once.
        assert!(server.accepts(&new), "{way}");
        for old in &seen {
            assert!(!server.accepts(old), "{way}");
            get("/health").bearer(old).send(server.address).assert_is(401, NOT_AUTHENTICATED);
        }
        seen.push(new);
    }
}

#[test]
fn flag_overrides_environment() {
    let env = TestEnv::named("influxdb3");
    let (server, other) = (env.serve(&[]), env.serve(&["--store", "memory:"]));
    let mut token = server.create();
    let wrong = other.create();
    for flag in ["--token", ""] {
        let regenerate = |flag_token: &str, environment: &str| {
            let args: Vec<_> = ["--regenerate", "--yes", flag, flag_token]
                .into_iter()
                .filter(|arg| !arg.is_empty())
                .collect();
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

    // The same holds for the URL of the server.
    let (here, there) = (format!("http://{}", server.address), format!("http://{}", other.address));
    let environment = |host: &str| {
        env.cli(["create", "token", "--admin", "--regenerate", "--yes"]).env("INFLUXDB3_HOST_URL", host)
    };
    token = environment(&here).args(&["--token", &token]).run().token();
    token = environment(&there).args(&["-H", &here, "--token", &token]).run().token();
    assert!(server.accepts(&token));
    assert!(other.accepts(&wrong));
}

#[test]
fn regenerate_without_token_prints_hint() {
    let env = TestEnv::named("influxdb3");
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
fn regenerate_requires_yes() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&[]);
    let mut token = server.create();
    for (response, confirms) in [
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
        let cli = env.create_token(server.address, &["--regenerate"]).input(response);
        let output = cli.env("INFLUXDB3_AUTH_TOKEN", &token).run();
        assert!(output.stderr.starts_with(PROMPT), "{response:?}: {}", output.stderr);
        if confirms {
            token = output.token();
            assert_eq!(output.stderr, format!("{PROMPT}{IN_FORCE}"), "{response:?}");
        } else {
            output.assert_failed(1, &["Create command failed: Cannot regenerate token without confirmation"]);
            assert_eq!(env.stored_catalog(), before, "{response:?}");
        }
        assert!(server.accepts(&token), "{response:?}");
    }
    for yes in ["--yes", "-y"] {
        let output = env.create_token(server.address, &["--regenerate", yes, &token]).input("no\n").run();
        token = output.token();
        assert_eq!(output.stderr, format!("{ARGUMENT}{IN_FORCE}"), "{yes}");
    }
}

#[test]
fn http_api_returns_documented_token_object() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&[]);
    let body = |token: &str, created_at: &str| {
        format!(
            r#"{{"id":0,"name":"_admin","token":"{token}","hash":"{}","created_at":"{created_at}","expiry":null}}"#,
            sha512_hex(token)
        )
    };
    // A request of curl.
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
    // Only the secret of the record changes (docs/compatibility.md 2.4).
    for (response, token) in [(&created, &first), (&regenerated, &second)] {
        assert_eq!(response.body, body(token, &created_at));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
    assert!(!server.accepts(&first));
    assert!(server.accepts(&second));

    // The server ignores query, type and body.
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
fn create_ignores_body_and_credentials() {
    let env = TestEnv::named("influxdb3");
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
fn three_auth_schemes_are_accepted() {
    let env = TestEnv::named("influxdb3");
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
        let response = get("/health").authorization(&value).send(server.address);
        assert_eq!(response.status, status, "{value}");
        assert_eq!(response.body, if status == 200 { "OK" } else { NOT_AUTHENTICATED }, "{value}");
    }
    // Only the first header counts.
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
fn unauthenticated_response_has_challenge() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&["--store", "memory:"]);
    server.create();
    for (request, reason) in [
        (get("/health"), ""),
        (get("/health").bearer("apiv3_wrong"), r#", error="invalid_token""#),
        (post(REGENERATE), ""),
        (post(REGENERATE).bearer("apiv3_wrong"), r#", error="invalid_token""#),
    ] {
        let response = request.send(server.address);
        response.assert_is(401, NOT_AUTHENTICATED);
        let challenge = format!(r#"Bearer realm="influxdb3"{reason}"#);
        assert_eq!(response.header("www-authenticate"), Some(challenge.as_str()));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn malformed_credential_is_400() {
    let env = TestEnv::named("influxdb3");
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
            let response = request.authorization(&value).send(server.address);
            response.assert_is(400, MALFORMED);
            assert_eq!(response.header("content-type"), Some("application/json"));
            assert_eq!(
                response.header("www-authenticate"),
                Some(r#"Bearer realm="influxdb3", error="invalid_request""#)
            );
        }
    }
    assert_eq!(env.stored_catalog(), before);
    assert!(server.accepts(&token));
}

#[test]
fn unknown_path_is_404_only_when_authenticated() {
    let env = TestEnv::named("influxdb3");
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
    // This path requires no credential for any method (docs/compatibility.md 2.2).
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
fn no_cors_headers() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&["--store", "memory:"]);
    let from_page = |request: Request| {
        request
            .header("Origin", "https://example.com")
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization")
            .send(server.address)
    };
    // The fixture asserts that no response has a CORS header.
    assert_eq!(from_page(post(CREATE)).status, 403);
    let token = server.create();
    for path in [CREATE, REGENERATE, "/health"] {
        let preflight = from_page(request("OPTIONS", path));
        // The response lists the methods, and allows none to a page.
        preflight.assert_is(204, "");
    }
    assert_eq!(from_page(get("/health").bearer(&token)).status, 200);
}

#[test]
fn keepalive_connection_serves_several_requests() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&["--store", "memory:"]);
    let mut connection = Connection::open(server.address).unwrap();
    let mut send = |request: Request| {
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
fn http2_with_prior_knowledge_is_served() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    let authorization = format!("Bearer {token}");
    let mut connection = Connection::open(server.address).unwrap();
    connection.write(&http2::opening());
    connection.write(&http2::request("GET", "/health", &[("authorization", &authorization)], true));
    let response = loop {
        let (kind, payload) = http2::read_frame(&mut connection);
        if kind == http2::HEADERS {
            break payload;
        }
    };
    assert_eq!(response.first(), Some(&http2::STATUS_200), "{response:?}");
}

#[test]
fn proxy_variables_are_ignored_for_loopback() {
    let env = TestEnv::named("influxdb3");
    let server = env.serve(&["--store", "memory:"]);
    let mut cli = env.create_token(server.address, &[]);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        // No proxy listens there.
        cli = cli.env(name, "http://127.0.0.1:1");
    }
    assert!(server.accepts(&cli.run().token()));
}

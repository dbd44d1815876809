//! Tokens of every alphabet that a token file may have, in every place where a client can misplace
//! them: no part of one reaches a log, an answer, the audit records or an error of the program.

use std::os::unix::fs::PermissionsExt as _;

use base64ct::{Base64, Encoding as _};
use serde_json::json;

use crate::http2;
use crate::support::{
    CREATE, CaseName, Connection, NAMED_ADMIN, OVERLAP, RECOVERY, REGENERATE, Request, STAGE, Server, TOKENS,
    TestEnv, VERIFY, get, holds_token, post, remember_secret, request,
};

/// One token of each alphabet: standard base64, hexadecimal, marks that end a word, a quotation, a
/// value or a path elsewhere, and all visible ASCII.
const TOKENS_OF_ALPHABETS: [&str; 6] = [
    "apiv3_vT+9a/kQ2x8Lr0+ZpW3/bN7sYc5DfJ+Hg1uE/mXoRiKq4t6w==",
    "apiv3_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    r#"apiv3_k"Qz'7x,Wm;p:V)t]R}8>b`L.2"h'Yc,9(N[s{4<f"#,
    r"apiv3_q?M&8#z=W%2Fj/e+R%41x\n7%25K~u!5@c^A*6|Ty",
    "apiv3_%71%54%2B8w%5Fz%22Kd%20Lm%00Rb%7Epq%26Vx%3D",
    "apiv3_Zr4u7x!A%D*G-KaPdSgVkYp3s6v9y$B&E)H@MbQe",
];

/// Every byte percent-encoded.
fn encode_all(text: &str) -> String {
    text.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).map(char::from).collect()
}

/// Percent-encoded as a component of a URL.
fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// A server that has imported this token as the operator's.
fn serve_with_token(env: &TestEnv, token: &str, args: &[&str]) -> Server {
    remember_secret(token);
    let file = env.file("token.json", json!({ "token": token, "name": "_admin" }).to_string().as_bytes());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = env.serve(&[&["--admin-token-file", file.to_str().unwrap()], args].concat());
    server.allow_redaction();
    assert!(server.accepts(token), "{token}");
    server
}

/// Requests with a token where none belongs, with the valid one as their credential.
fn misplaced(token: &str) -> Vec<Request> {
    let mut requests = Vec::new();
    for text in [token.to_owned(), encode(token), encode_all(token), encode(&encode(token))] {
        for target in [
            format!("/{text}"),
            format!("/{text}/more?{text}"),
            format!("/query?token={text}&p=x"),
            format!("/api/v3/query_sql?db={text}&q=select"),
            format!("/api/v3/query_sql?db=_internal&q={text}"),
            format!("/api/v3/query_sql?db=_internal&q=select&format={text}"),
            format!("/api/v3/query_sql?{text}=x"),
            format!("{VERIFY}/{text}"),
            // A URL ends its host at a slash, wherever that stands in a token.
            format!("http://user:{text}@host/path"),
            format!("http://{text}/path"),
        ] {
            requests.push(get(&target));
            requests.push(get(&target).bearer(token));
        }
        for target in
            [format!("{TOKENS}?token_name={text}"), format!("{TOKENS}?{text}"), format!("{OVERLAP}?{text}")]
        {
            requests.push(request("DELETE", &target).bearer(token));
        }
        for header in ["X-Forwarded-For", "X-Real-IP", "Origin", "User-Agent", "Content-Encoding"] {
            let json = post(NAMED_ADMIN).bearer("apiv3_x").header("Content-Type", "application/json");
            requests.push(json.clone().header(header, &text));
            requests.push(json.header(header, &text).bearer(token));
            requests.push(post(CREATE).header(header, &text));
            let json = post(STAGE).bearer(token).header("Content-Type", "application/json");
            requests.push(json.header("Content-Encoding", &text).body(b"{}"));
        }
    }
    let basic = Base64::encode_string(format!("user:{token}").as_bytes());
    requests.push(get(&format!("/Basic/{basic}")));
    requests.push(get("/health").authorization(&format!("Digest {token}")));
    requests.push(get("/health").authorization(&format!("Bearer {token} {token}")));
    for body in [
        json!({ "token_name": token, "expiry_secs": 60 }),
        json!({ "token_name": "x", "expiry_secs": token }),
        json!({ "token_name": "x", format!("expires {token}"): 1 }),
        json!({ token: 1, "ttl": 1 }),
        json!(token),
        json!([token]),
    ] {
        for path in [NAMED_ADMIN, STAGE, REGENERATE] {
            // Nothing is replaced: each of these is rejected, or creates nothing.
            let with_limit =
                if path == NAMED_ADMIN { path.to_owned() } else { format!("{path}?ttl={}", encode(token)) };
            requests.push(post(&with_limit).bearer(token).json(&body));
        }
    }
    requests
}

#[test]
fn misplaced_tokens_of_every_alphabet_stay_secret() {
    for token in TOKENS_OF_ALPHABETS {
        for format in ["text", "json"] {
            let _case = CaseName(format!("{token} {format}"));
            let env = TestEnv::new();
            let server = serve_with_token(&env, token, &["--log-format", format, "--log-filter", "trace"]);
            for request in misplaced(token) {
                let mut connection = Connection::open(server.address).unwrap();
                connection.write(&request.header("Connection", "close").to_bytes());
                // A request line with some of these characters is no HTTP.
                let Ok(response) = connection.read() else { continue };
                assert!(!holds_token(&format!("{response:?}")), "{response:?}");
                assert_ne!(response.status, 201, "{response:?}");
            }
            let mut connection = Connection::open(server.address).unwrap();
            let bearer = format!("Bearer {token}");
            let head =
                http2::request("GET", &format!("/{}", encode(token)), &[("authorization", &bearer)], true);
            connection.write(&[http2::opening(), head].concat());
            while http2::read_frame(&mut connection).0 != http2::HEADERS {}
            let audit = get("/api/v3/configure/token/audit").bearer(token).send(server.address);
            assert!(audit.status == 200 && !holds_token(&audit.body), "{audit:?}");
            let metrics = get("/metrics").bearer(token).send(server.address);
            assert!(metrics.status == 200 && !holds_token(&metrics.body), "{metrics:?}");
            // The fixture searches the log.
            server.wait_for_log("[token]");
            if format == "json" {
                let log = server.log();
                for line in log.lines() {
                    let object = serde_json::from_str::<serde_json::Value>(line);
                    assert!(object.is_ok_and(|object| object["level"].is_string()), "{line}");
                }
            }
        }
    }
}

#[test]
fn recovery_keeps_misplaced_tokens_secret() {
    for token in TOKENS_OF_ALPHABETS {
        let _case = CaseName(token);
        let env = TestEnv::new();
        let server = serve_with_token(&env, token, &[&RECOVERY[..], &["--log-filter", "trace"]].concat());
        let recovery = server.recovery();
        for request in [
            post(REGENERATE).header("Origin", token),
            post(REGENERATE).header("X-Forwarded-For", token),
            post(&format!("/{}", encode(token))),
        ] {
            let response = request.send(recovery);
            assert!(!holds_token(&format!("{response:?}")), "{response:?}");
        }
        // A malformed name of the host is logged.
        let mut connection = Connection::open(recovery).unwrap();
        connection.write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: {token}\r\n\r\n").as_bytes());
        let _ = connection.read();
    }
}

#[test]
fn misplaced_tokens_stay_out_of_errors_of_commands() {
    // The fixture searches stderr.
    for token in TOKENS_OF_ALPHABETS {
        remember_secret(token);
        let _case = CaseName(token);
        let env = TestEnv::new();
        let server = env.serve(&["--store", "memory:"]);
        server.allow_redaction();
        server.create();
        let host = format!("http://{}", server.address);
        let url = format!("http://me:{token}@127.0.0.1:1");
        for args in [
            &["show", "tokens", token][..],
            &["show", "tokens", "--host", token],
            &["show", "tokens", "--host", &url],
            &["show", "tokens", "--host", &host, "--token", "apiv3_unknown", "--format", token],
            &["create", "token", token],
            &["create", token],
            &[token],
            &["create", "token", "--admin", "--format", token],
            &["create", "token", "--admin", "--name", "ci", "--expiry", token],
            &["create", "token", "--admin", "--host", &host, "--name", token, "--token", "apiv3_unknown"],
            &["create", "token", "--admin", "--regenerate", "--yes", "--host", &host, "--token", token],
            &["delete", "token", "--host", &host, "--token", "apiv3_unknown", "--yes", "--token-name", token],
            &["delete", "token", "--host", &host, "--token-name", token],
            &["delete", "token", token],
            &["serve", token],
            &["serve", "--http-bind", token],
            &["serve", "--store", token],
            &["serve", "--log-filter", &format!("==={token}")],
            &["serve", "--admin-token-file", token],
        ] {
            let output = env.cli(args).run();
            assert!(matches!(output.code, Some(1 | 2)), "{output:?}");
            assert!(!output.stderr.is_empty() && !holds_token(&output.stdout), "{output:?}");
        }
    }
}

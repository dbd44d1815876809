//! Where the client sends a request, and what it reports of an answer that is not the expected one:
//! a server below a path, three kinds of 404, redirects, proxies, and secrets with something around
//! them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::support::{CaseName, Cli, CommandOutput, TIMEOUT, TestEnv, get};

const TOKEN: &str = "apiv3_presented";

/// First lines of the requests, in their order.
type Lines = Arc<Mutex<Vec<String>>>;

fn read_head(stream: &mut BufReader<TcpStream>) -> Vec<String> {
    let lines = stream.lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect()
}

/// Accepts connections, and gives each to `serve` in a thread of its own.
fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A server that responds to each request with the same text.
fn responding(response: &str) -> (SocketAddr, Lines) {
    let (lines, response) = (Lines::default(), response.to_owned());
    let received = Arc::clone(&lines);
    let address = listen(move |stream| {
        let mut stream = BufReader::new(stream);
        received.lock().unwrap().extend(read_head(&mut stream).into_iter().next());
        // The client may have closed the connection.
        let _ = stream.get_mut().write_all(response.as_bytes());
    });
    (address, lines)
}

/// A proxy that has a server below a path, and nothing beside it.
fn below(prefix: &'static str, server: SocketAddr) -> (SocketAddr, Lines) {
    let lines = Lines::default();
    let received = Arc::clone(&lines);
    let address = listen(move |stream| {
        let mut client = BufReader::new(stream);
        let head = read_head(&mut client);
        let Some((line, fields)) = head.split_first() else { return };
        received.lock().unwrap().push(line.clone());
        let Some((method, rest)) = line.split_once(&format!(" {prefix}/")) else {
            client.get_mut().write_all(http("404 Not Found", "no such site").as_bytes()).unwrap();
            return;
        };
        let upstream = TcpStream::connect(server).unwrap();
        let (mut to, mut from) = (upstream.try_clone().unwrap(), upstream);
        // The next request comes on a connection of its own.
        write!(to, "{method} /{rest}\r\nConnection: close\r\n{}\r\n\r\n", fields.join("\r\n")).unwrap();
        let mut back = client.get_ref().try_clone().unwrap();
        let response = thread::spawn(move || {
            std::io::copy(&mut from, &mut back).ok();
            back.shutdown(Shutdown::Both).ok();
        });
        std::io::copy(&mut client, &mut to).ok();
        response.join().unwrap();
    });
    (address, lines)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn run(env: &TestEnv, command: &str, host: &str) -> CommandOutput {
    let cli = env.cli(command.split_whitespace()).args(&["--host", host]);
    cli.env("INFLUXDB3_AUTH_TOKEN", TOKEN).run()
}

#[test]
fn server_below_a_path_is_used_whole() {
    for (prefix, bases) in
        [("/influxdb", &["/influxdb", "/influxdb/"][..]), ("/a%20b/%C3%A9", &["/a%20b/%C3%A9/", "/a b/é"])]
    {
        let env = TestEnv::new();
        let server = env.serve(&["--store", "memory:"]);
        let (address, lines) = below(prefix, server.address);
        let operator = server.create();
        fs::write(env.home().join("operator"), &operator).unwrap();
        for base in bases {
            let host = format!("http://{address}{base}");
            let run = |args: &str| {
                let cli = env.cli(args.split_whitespace()).args(&["--host", &host]);
                let output = cli.args(&["--token-file", "operator"]).run();
                assert_eq!(output.code, Some(0), "{host}: {output:?}");
                output.stdout
            };
            run("create token --admin --name ci --format json");
            assert!(run("show tokens --format csv").contains(",ci,"));
            run("create token --admin --regenerate --yes --output-file operator");
            assert!(run("audit show").contains("confirm"));
            run("delete token --token-name ci --yes");
        }
        let asked = lines.lock().unwrap().clone();
        assert!(asked.iter().all(|line| line.contains(&format!(" {prefix}/api/v3/"))), "{asked:?}");
        assert!(asked.len() > 12, "{asked:?}");
        // Without the path the proxy has no such site, and the advice names the way.
        let output = env.cli(["show", "tokens", "--host", &format!("http://{address}")]).run();
        output.assert_failed(1, &["[404 Not Found]: no such site", "give --host that path, too"]);
    }
}

#[test]
fn host_with_query_fragment_or_credential_is_refused_unsent() {
    let env = TestEnv::new();
    let (address, lines) = responding(&http("200 OK", "[]"));
    for (host, message) in [
        (
            format!("http://{address}/?db=x"),
            "--host: the URL of a server has no query and no fragment, and \"?db=x\"",
        ),
        (format!("http://{address}/influxdb#top"), "\"#top\" would be lost"),
        (format!("http://me:word@{address}/influxdb"), "no user name or password"),
        (format!("'http://{address}'"), "has quotes around it: give the URL without them"),
    ] {
        let output = run(&env, "show tokens", &host);
        output.assert_failed(2, &[message, "--help"]);
        assert!(!output.stderr.contains("word@"), "{output:?}");
        let cli = env.cli(["show", "tokens"]).env("INFLUXDB3_HOST_URL", &host);
        cli.run().assert_failed(2, &["error: INFLUXDB3_HOST_URL: "]);
    }
    assert!(lines.lock().unwrap().is_empty());
}

#[test]
fn errors_name_the_url_that_was_asked() {
    let env = TestEnv::new();
    let (closing, _) = responding("");
    let (foreign, _) = responding(&http("200 OK", "<html>"));
    for (command, path) in [
        ("create token --admin", "/api/v3/configure/token/admin"),
        ("create token --admin --name ci", "/api/v3/configure/token/named_admin"),
        ("create token --admin --regenerate --yes", "/api/v3/configure/token/admin/regenerate/stage"),
        ("delete token --yes --token-name ci", "/api/v3/configure/token?token_name=ci"),
        ("audit show", "/api/v3/configure/token/audit"),
        ("show tokens", "/api/v3/query_sql"),
    ] {
        for base in ["", "/influxdb"] {
            let host = format!("http://127.0.0.1:1{base}/");
            run(&env, command, &host)
                .assert_failed(1, &[&format!("cannot reach http://127.0.0.1:1{base}{path}: ")]);
            let host = format!("http://{closing}{base}");
            run(&env, command, &host).assert_failed(1, &[&format!(" {host}{path} did not answer: ")]);
            if !matches!(command, "show tokens" | "audit show") {
                let host = format!("http://{foreign}{base}");
                let named = format!(" {host}{path} answers, but not as a token server: ");
                run(&env, command, &host).assert_failed(1, &[&named]);
            }
        }
    }
    let socket = env.home().join("socket");
    let output = run(&env, "create token --admin --regenerate --yes", &format!("unix:{}", socket.display()));
    output.assert_failed(1, &[&format!("cannot reach unix:{}: ", socket.display())]);
}

/// What a command must not report of a server that is not the one that lacks it.
const UNTRUE: [&str; 3] =
    ["cannot stage a new token", "accept the old one a while longer", "is the operator token or"];

#[test]
fn kinds_of_404_have_different_advice() {
    let rotations = [
        "create token --admin --regenerate --yes",
        "create token --admin --regenerate --yes --overlap 1h",
        "create token --admin --regenerate --yes --output-file saved",
    ];
    let others =
        ["create token --admin --name ci", "delete token --yes --token-name ci", "show tokens", "audit show"];
    let create = "There is no operator token yet. To create it, run:\n  optoken create token --admin\n";
    let no_path = "A server of this API answers, and does not have /base/api/v3/";
    let recovery = "This is a recovery listener, which replaces the operator token and does nothing else.";
    let foreign = "the address of a token server? The path in --host stands before that of each request.";
    for (status, body, advice, commands) in [
        ("404 Not Found", "missing admin token, cannot update", create, &rotations[..]),
        // InfluxDB 3 Core.
        ("500 Internal Server Error", "missing admin token, cannot update", create, &rotations),
        ("404 Not Found", "Not found", no_path, &others),
        (
            "404 Not Found",
            "Not found",
            "is InfluxDB 3, or an older version of optoken, or the path",
            &others[3..],
        ),
        (
            "404 Not Found",
            "Not found",
            "is an older version of InfluxDB 3 or optoken, or the path",
            &others[..3],
        ),
        ("404 Not Found", "not found", recovery, &others),
        ("404 Not Found", "404 page not found\n", foreign, &rotations),
        ("404 Not Found", "404 page not found\n", foreign, &others),
        ("404 Not Found", r#"{"error":"not found"}"#, foreign, &rotations),
        ("404 Not Found", "<html><head><title>404 Not Found</title>", foreign, &rotations),
        ("404 Not Found", "", foreign, &rotations),
        ("404 Not Found", "", foreign, &others),
        (
            "404 Not Found",
            "the requested resource was not found: ci",
            "To list the tokens, run:\n  optoken show tokens\n",
            &others[1..2],
        ),
    ] {
        for command in commands {
            let _case = CaseName(&format!("{status} {body} {command}"));
            let env = TestEnv::new();
            let (address, lines) = responding(&http(status, body));
            let output = run(&env, command, &format!("http://{address}/base"));
            output.assert_failed(1, &[&format!("server responded with error [{status}]: "), advice]);
            for untrue in UNTRUE {
                assert!(!output.stderr.contains(untrue), "{output:?}");
            }
            // No further request has followed, and no file is left.
            assert_eq!(lines.lock().unwrap().len(), 1, "{output:?}");
            assert_eq!(fs::read_dir(env.home()).unwrap().count(), 0);
        }
    }
}

#[test]
fn rotation_without_operator_token_advises_to_create_it() {
    let env = TestEnv::new();
    let named = "apiv3_kM2vQ8xTz0yB3nWfR7uJpA";
    let content = json!({ "token": named, "name": "ci" }).to_string();
    let file = env.file("preset.json", content.as_bytes());
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = env.serve(&["--admin-token-file", file.to_str().unwrap()]);
    let rotate = |args: &[&str]| {
        let cli = env.create_token(server.address, &["--regenerate", "--yes"]).args(args);
        cli.env("INFLUXDB3_AUTH_TOKEN", named).run()
    };
    for args in [&[][..], &["--overlap", "1h"], &["--output-file", "saved"]] {
        let output = rotate(args);
        output.assert_failed(
            1,
            &[
                "[404 Not Found]: missing admin token, cannot update (code: 404)\n",
                "There is no operator token yet. To create it, run:\n  optoken create token --admin\n",
            ],
        );
        assert!(UNTRUE.iter().all(|untrue| !output.stderr.contains(untrue)), "{output:?}");
    }
    let left: BTreeSet<_> =
        fs::read_dir(env.home()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().starts_with("saved")), "{left:?}");
    assert_eq!(get("/health").bearer(named).send(server.address).status, 200);
}

#[test]
fn answers_of_other_servers_have_own_advice() {
    let env = TestEnv::new();
    let stage = "/api/v3/configure/token/admin/regenerate/stage";
    let moved = |to: &str| http(&format!("307 Temporary Redirect\r\nLocation: {to}"), "");
    let follows_none = "This program follows no redirect, because the token would go there.";
    let rotate = "create token --admin --regenerate --yes";
    for (command, response, messages) in [
        (
            rotate,
            moved(&format!("https://db.example{stage}")),
            &[
                follows_none,
                "If https://db.example/ is the address of your server, give it with --host https://db.example/",
            ][..],
        ),
        (
            rotate,
            moved(&format!("/influxdb{stage}")),
            &["/influxdb is the address of your server, give it with --host http://127.0.0.1:"],
        ),
        (
            "delete token --yes --token-name ci",
            moved("https://db.example/api/v3/configure/token?token_name=ci"),
            &["give it with --host https://db.example/\n"],
        ),
        (
            rotate,
            moved("https://login.example/start?to=x"),
            &[follows_none, "leads to https://login.example/start?to=x, which"],
        ),
        (rotate, moved("https://me:word@db.example/"), &[follows_none, "the address of a token server?"]),
        (rotate, moved("javascript:alert(1)"), &[follows_none, "the address of a token server?"]),
        (rotate, http("302 Found", ""), &["[302 Found]: the response has no text", follows_none]),
        (
            "show tokens",
            http("401 Unauthorized", "login first"),
            &["[401 Unauthorized]: login first\n", "not the text of a token server", "a login of its own"],
        ),
        (
            "create token --admin --name ci",
            http(
                "504 Gateway Timeout",
                "<html><head><title>504 Gateway</title></head><body>\n<h1>Sorry</h1>",
            ),
            &[
                "[504 Gateway Timeout]: the response is a web page: 504 Gateway Sorry (code: 504)\n",
                "A proxy got no answer of the server.\nThe token may have been created",
            ],
        ),
    ] {
        let (address, _) = responding(&response);
        let output = run(&env, command, &format!("http://{address}"));
        output.assert_failed(1, messages);
        assert!(!output.stderr.contains("word@") && !output.stderr.contains("javascript"), "{output:?}");
    }
    // A refused token is tried again for some seconds, because another server may have changed it.
    // Each refusal may count against the client.
    for (body, requests) in [(r#"{"error": "the request was not authenticated"}"#, 4), ("login first", 1)] {
        let (address, lines) = responding(&http("401 Unauthorized", body));
        run(&env, rotate, &format!("http://{address}")).assert_failed(1, &["[401 Unauthorized]: "]);
        assert_eq!(lines.lock().unwrap().len(), requests, "{body}");
    }
    // A full catalog is no reason to replace the operator token.
    let full = "there are 10000 tokens already, which is as many as there can be; delete some first";
    for command in ["create token --admin", "create token --admin --name ci"] {
        let (address, _) = responding(&http("409 Conflict", full));
        let output = run(&env, command, &format!("http://{address}"));
        output.assert_failed(1, &[&format!("[409 Conflict]: {full} (code: 409)\n")]);
        assert!(!output.stderr.contains("--regenerate"), "{output:?}");
    }
    // The outcome at another server is unknown, that of this one is in its text.
    let new = "create token --admin --name ci";
    for (text, hint) in [
        ("object store error: Generic { store: \"x\" }", true),
        ("the server cannot do this, its log has the cause; nothing was changed", false),
    ] {
        let (address, _) = responding(&http("500 Internal Server Error", text));
        let output = run(&env, new, &format!("http://{address}"));
        output.assert_failed(1, &[&format!("[500 Internal Server Error]: {text} (code: 500)\n")]);
        assert_eq!(output.stderr.contains("The token may have been created"), hint, "{output:?}");
        assert!(!output.stderr.contains("recovery"), "{output:?}");
    }
    // A hostile server cannot fill the terminal.
    for body in ["x".repeat(5000), "é".repeat(5000), format!("<title>{}", "é".repeat(5000))] {
        let (address, _) = responding(&http("500 Internal Server Error", &body));
        let output = run(&env, "show tokens", &format!("http://{address}"));
        output.assert_failed(1, &["…\n"]);
        assert!(output.stderr.len() < 450, "{}: {}", output.stderr.len(), output.stderr);
    }
    let (address, _) = responding(&moved(&format!("https://db.example/{}", "y".repeat(5000))));
    assert!(run(&env, "show tokens", &format!("http://{address}")).stderr.len() < 450);
}

#[test]
fn failures_of_create_hold_the_words_of_influxdb() {
    let env = TestEnv::new();
    // The assertions of the tests of InfluxDB 3 Core on the output of its client.
    let server = env.serve(&["--store", "memory:"]);
    server.create();
    let host = format!("http://{}", server.address);
    run(&env, "create token --admin", &host)
        .assert_failed(1, &["code: 409", "token name already exists, _admin (code: 409)\n"]);
    let open = env.serve(&["--store", "memory:", "--without-auth"]);
    let host = format!("http://{}", open.address);
    for command in ["create token --admin", "create token --admin --regenerate --yes"] {
        run(&env, command, &host)
            .assert_failed(1, &["code: 405", "endpoint disabled, started without auth (code: 405)\n"]);
    }
    run(&env, "create token --admin --name ci", "http://127.0.0.1:1")
        .assert_failed(1, &["Connection refused (os error 111) (ConnectError)\n"]);
    // Its other commands fail with the words that are here.
    let deleted = run(&env, "delete token --yes --token-name ci", &host);
    deleted
        .assert_failed(1, &["Delete command failed: server responded with error [405 Method Not Allowed]: "]);
    assert!(!deleted.stderr.contains("code:"), "{deleted:?}");
    let output = env.cli(["create", "token", "--help"]).run();
    assert!(output.code == Some(0) && output.stdout.contains("Create a new auth token"), "{output:?}");
}

#[test]
fn unreachable_proxy_is_named_with_its_variable() {
    let env = TestEnv::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = format!("http://{closed}");
    for (variable, host, messages) in [
        (
            "HTTPS_PROXY",
            "https",
            &["HTTPS_PROXY names the proxy.", "unset HTTPS_PROXY, or add the server to NO_PROXY"][..],
        ),
        ("https_proxy", "https", &["https_proxy names the proxy.", "unset https_proxy"]),
        ("all_proxy", "https", &["all_proxy names the proxy.", "unset all_proxy"]),
        ("INFLUXDB3_PROXY", "https", &["INFLUXDB3_PROXY names the proxy.", "unset INFLUXDB3_PROXY."]),
        ("INFLUXDB3_PROXY", "http", &["INFLUXDB3_PROXY names the proxy."]),
    ] {
        let cli = env.cli(["show", "tokens", "--host", &format!("{host}://server.invalid/base")]);
        let output = cli.env(variable, &proxy).run();
        let through =
            format!("cannot reach {host}://server.invalid/base/api/v3/query_sql through the proxy {proxy}");
        output.assert_failed(1, &[&through, "Connection refused", "Is the proxy running there"]);
        output.assert_failed(1, messages);
    }
    let cli = env.cli(["show", "tokens", "--host", "http://server.invalid", "--proxy", &proxy]);
    cli.env("INFLUXDB3_PROXY", "http://other.invalid")
        .run()
        .assert_failed(1, &["--proxy names the proxy.", "leave out --proxy.\n"]);
    let cli = env.cli(["show", "tokens", "--host", "https://server.invalid"]);
    let unsupported = cli.env("ALL_PROXY", "socks5://127.0.0.1:1").run();
    unsupported.assert_failed(1, &["ALL_PROXY names the proxy socks5://127.0.0.1:1", "NO_PROXY"]);
    let help = env.cli(["show", "tokens", "--help"]).run().stdout;
    for variable in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "HTTP_PROXY", "INFLUXDB3_PROXY"] {
        assert!(help.contains(variable), "{variable}");
    }
}

#[test]
fn surroundings_of_secrets_are_named_unsent() {
    let env = TestEnv::new();
    let (address, lines) = responding(&http("200 OK", "[]"));
    let host = format!("http://{address}");
    let list = || env.cli(["show", "tokens", "--host", &host]);
    for (text, message) in [
        ("\"apiv3_x\"", "has quotes around it: give it without them"),
        ("Bearer apiv3_x", "begins with the word Bearer, as a header does"),
        ("Token apiv3_x", "begins with the word Token"),
        ("basic OmFwaXYzX3g=", "begins with the word Basic"),
        ("Authorization: Bearer apiv3_x", "begins with \"Authorization:\", the name of a header"),
        ("INFLUXDB3_AUTH_TOKEN=apiv3_x", "begins with the name of a variable and =: give the value alone"),
        ("\u{feff}'apiv3_x'", "has quotes around it"),
    ] {
        let file = env.file("token", text.as_bytes());
        let ways: [Cli; 5] = [
            list().env("INFLUXDB3_AUTH_TOKEN", text),
            list().args(&["--token", text]),
            list().args(&["--token", "-"]).input(text),
            list().arg("--token-file").arg(&file),
            env.cli(["create", "token", "--admin", "--regenerate", "--yes", "--host", &host, text]),
        ];
        for way in ways {
            way.run().assert_failed(1, &["the token", message]);
        }
    }
    let json = json!({ "token": "Bearer apiv3_x" }).to_string();
    let file = env.file("token.json", json.as_bytes());
    list().arg("--token-file").arg(file).run().assert_failed(1, &["begins with the word Bearer"]);
    list()
        .env("INFLUXDB3_AUTH_TOKEN", json)
        .run()
        .assert_failed(1, &["is a JSON object", "give the value of its \"token\" alone"]);

    let recover = || env.cli(["create", "token", "--admin", "--regenerate", "--yes", "--host", &host]);
    for (text, message) in [
        ("\"01-23\"", "the recovery code has quotes around it"),
        ("X-Recovery-Code: 01-23", "the recovery code begins with \"X-Recovery-Code:\""),
        ("INFLUXDB3_RECOVERY_CODE=01-23", "the recovery code begins with the name of a variable"),
    ] {
        for way in [
            recover().env("INFLUXDB3_RECOVERY_CODE", text),
            recover().args(&["--recovery-code", text]),
            recover().args(&["--recovery-code", "-"]).input(text),
        ] {
            way.run().assert_failed(1, &[message]);
        }
    }
    assert!(lines.lock().unwrap().is_empty());
    // A byte order mark and white space are no part of a secret, wherever it comes from.
    let marked = "\u{feff} apiv3_presented\r\n";
    let file = env.file("marked", marked.as_bytes());
    let json = format!("\u{feff}{}", json!({ "token": marked }));
    let json = env.file("marked.json", json.as_bytes());
    for way in [
        list().env("INFLUXDB3_AUTH_TOKEN", marked),
        list().args(&["--token", "-"]).input(marked),
        list().args(&["--token", marked]),
        list().arg("--token-file").arg(file),
        list().arg("--token-file").arg(json),
    ] {
        assert_eq!(way.run().code, Some(0));
    }
    assert_eq!(lines.lock().unwrap().len(), 5);
    // Not the form of a token, which the advice names.
    let (address, _) =
        responding(&http("401 Unauthorized", r#"{"error": "the request was not authenticated"}"#));
    let other = env.cli(["show", "tokens", "--host", &format!("http://{address}"), "--token", "-"]);
    other
        .input("nonsense")
        .run()
        .assert_failed(1, &["or no longer. It does not begin with apiv3_, as tokens do."]);
}

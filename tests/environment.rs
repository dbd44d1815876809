//! What the environment of the command line decides: `.env`, proxies, variables, pipes, and the
//! answers of a hostile server.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::support::{CaseName, Cli, TIMEOUT, TestCertificate, TestEnv, recover_at};

const TOKEN: &str = "apiv3_presented";

/// Records the heads that clients send, and responds to each with the same bytes.
struct Listener {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn new(response: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (received, response) = (Arc::clone(&heads), response.into());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_head(&stream);
                received.lock().unwrap().push(head);
                // The client may have closed the connection.
                let _ = stream.write_all(&response);
            }
        });
        Self { address, heads }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the heads so far, in lower case.
    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn read_head(stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").to_lowercase()
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn list(env: &TestEnv) -> Cli {
    env.cli(["show", "tokens"])
}

#[test]
fn dotenv_host_never_gets_token_from_elsewhere() {
    let env = TestEnv::new();
    let token_file = env.file("token", TOKEN.as_bytes());
    let listener = Listener::new(http("200 OK", "[]"));
    let named = format!("INFLUXDB3_HOST_URL={}\n", listener.url());
    env.file(".env", named.as_bytes());
    let refusals = [
        list(&env).env("INFLUXDB3_AUTH_TOKEN", TOKEN),
        list(&env).arg("--token-file").arg(&token_file),
        list(&env).args(&["--token", TOKEN]),
        list(&env).args(&["--token", "-"]).input(TOKEN),
        env.cli(["audit", "show"]).env("INFLUXDB3_AUTH_TOKEN", TOKEN),
        env.cli(["delete", "token", "--yes", "--token-name", "x"]).env("INFLUXDB3_AUTH_TOKEN", TOKEN),
        env.cli(["create", "token", "--admin", "--name", "x"]).env("INFLUXDB3_AUTH_TOKEN", TOKEN),
        env.cli(["create", "token", "--admin", "--regenerate", "--yes", TOKEN]),
        env.cli(["create", "token", "--admin", "--regenerate", "--yes"])
            .env("INFLUXDB3_RECOVERY_CODE", "secret-code"),
        env.cli(["create", "token", "--admin", "--regenerate", "--yes", "--recovery-code", "-"])
            .input("secret-code"),
    ];
    for refusal in refusals {
        let output = refusal.run();
        let host = format!("names the server {} (INFLUXDB3_HOST_URL)", listener.url());
        let path = env.home().join(".env").display().to_string();
        output.assert_failed(1, &[&path, &host, &format!("add --host {}", listener.url())]);
        assert!(!output.stderr.contains("secret-code"), "{output:?}");
    }
    assert_eq!(listener.heads(), [""; 0]);
    // The user names the server, or the file has the token.
    let named_by_user = list(&env).env("INFLUXDB3_AUTH_TOKEN", TOKEN).args(&["--host", &listener.url()]);
    assert_eq!(named_by_user.run().code, Some(0));
    env.file(".env", format!("{named}INFLUXDB3_AUTH_TOKEN={TOKEN}\n").as_bytes());
    assert_eq!(list(&env).run().code, Some(0));
    assert_eq!(listener.heads().iter().filter(|head| head.contains(TOKEN)).count(), 2);
    // A rotation would present the tokens that an earlier one has saved.
    for saved in ["saved", "saved.staged"] {
        let path = env.file(saved, b"apiv3_saved");
        let rotate = ["create", "token", "--admin", "--regenerate", "--yes", "--output-file", "saved"];
        let what = format!("the token in {saved} is not from that file");
        env.cli(rotate).run().assert_failed(1, &[&what, "so it is not sent"]);
        fs::remove_file(path).unwrap();
    }
    assert_eq!(listener.heads().len(), 2);
}

#[test]
fn dotenv_cannot_weaken_connection_of_token() {
    let fixture = TestCertificate::new();
    let (env, server) = (&fixture.env, fixture.serve(&[]));
    let port = server.address.port();
    let token = env
        .cli(["create", "token", "--admin", "--host", &format!("https://localhost:{port}"), "--tls-ca"])
        .arg(&fixture.authority)
        .run()
        .token();
    let proxy = Listener::new(http("200 OK", "[]"));
    let host = format!("https://localhost:{port}");
    for (line, host, option) in [
        ("INFLUXDB3_TLS_NO_VERIFY=true".to_owned(), &*host, "add --tls-no-verify"),
        (format!("INFLUXDB3_TLS_CA={}", fixture.authority.display()), &host, "add --tls-ca FILE"),
        (format!("INFLUXDB3_PROXY={}", proxy.url()), "http://server.invalid", "add --proxy URL"),
    ] {
        env.file(".env", line.as_bytes());
        let cli = list(env).env("INFLUXDB3_AUTH_TOKEN", &token).args(&["--host", host]);
        cli.run().assert_failed(1, &[option, "so it is not sent"]);
        // The file that weakens the connection has the token itself.
        env.file(".env", format!("{line}\nINFLUXDB3_AUTH_TOKEN={token}").as_bytes());
        assert_eq!(list(env).args(&["--host", host]).run().code, Some(0), "{line}");
    }
    // Of other programs, also of libraries, no variable is set.
    fs::remove_file(env.home().join(".env")).unwrap();
    let ca = format!("SSL_CERT_FILE={}\nhttps_proxy={}\n", fixture.authority.display(), proxy.url());
    env.file(".env", ca.as_bytes());
    let output = list(env).env("INFLUXDB3_AUTH_TOKEN", &token).args(&["--host", &host]).run();
    output.assert_failed(1, &["is not trusted"]);
    assert!(!output.stderr.contains(".env"), "{output:?}");
    assert_eq!(proxy.heads().len(), 1);
}

#[test]
fn foreign_lines_of_dotenv_are_not_read() {
    let env = TestEnv::new();
    let listener = Listener::new(http("200 OK", "[]"));
    let content = format!(
        "COMPOSE_ARGS=--build now\nnot a variable\nKEY=\"two\nlines\"\nLOG_FILTER=nonsense=[\nINFLUXDB3_HOST_URL={}\n",
        listener.url()
    );
    let path = env.file(".env", content.as_bytes());
    let output = list(&env).args(&["--format", "json"]).run();
    let used = format!("note: using the variables of {}\n", path.display());
    assert_eq!((output.code, &*output.stdout, output.stderr), (Some(0), "[]\n", used));
    // A file that others can write is ignored, with the reason.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let output = list(&env).args(&["--host", &listener.url()]).run();
    let reason = format!("warning: ignoring {0}: others can write to {0} (mode 666)", path.display());
    assert!(output.code == Some(0) && output.stderr.starts_with(&reason), "{output:?}");
}

#[test]
fn environment_proxy_never_sees_token() {
    let env = TestEnv::new();
    let proxy = Listener::new(http("502 Bad Gateway", "no"));
    let variables = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    let asked = |args: &[&str]| {
        let mut cli = list(&env).env("INFLUXDB3_AUTH_TOKEN", TOKEN).args(args);
        for variable in variables {
            cli = cli.env(variable, proxy.url());
        }
        cli.run()
    };
    // No name that ends so exists.
    let bypassed = format!("The proxy {}/ of the environment is not used", proxy.url());
    let names = |args: &[&str]| if args.len() == 2 { "HTTP_PROXY names it" } else { "HTTPS_PROXY names it" };
    for args in
        [&["--host", "http://server.invalid"][..], &["--host", "https://server.invalid", "--tls-no-verify"]]
    {
        asked(args).assert_failed(1, &["cannot reach", &bypassed, names(args), "give it with --proxy"]);
    }
    for host in ["localhost", "localhost.", "db.localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1", "[::1]"]
    {
        for scheme in ["http", "https"] {
            let output = asked(&["--host", &format!("{scheme}://{host}:1")]);
            output.assert_failed(1, &["cannot reach"]);
            assert!(!output.stderr.contains("proxy"), "{output:?}");
        }
    }
    assert_eq!(proxy.heads(), [""; 0]);
    // To a verified server the proxy gets the name alone.
    let output = asked(&["--host", "https://server.invalid"]);
    let asked = "cannot reach https://server.invalid/api/v3/query_sql through the proxy";
    let through = format!("{asked} {}/", proxy.url());
    let question = "HTTPS_PROXY names the proxy. Is the proxy running there";
    output.assert_failed(1, &[&through, question, "unset HTTPS_PROXY", "NO_PROXY"]);
    let heads = proxy.heads();
    assert!(heads.len() == 1 && heads[0].starts_with("connect server.invalid:443 "), "{heads:?}");
    assert!(!heads[0].contains("apiv3"), "{heads:?}");
}

#[test]
fn named_proxy_is_used_and_named_in_errors() {
    let env = TestEnv::new();
    let host = ["--host", "http://server.invalid"];
    let proxy = Listener::new(http("200 OK", "[]"));
    let token = |cli: Cli| cli.env("INFLUXDB3_AUTH_TOKEN", TOKEN).args(&host);
    assert_eq!(token(list(&env)).args(&["--proxy", &proxy.url()]).run().code, Some(0));
    assert_eq!(token(list(&env)).env("INFLUXDB3_PROXY", proxy.url()).run().code, Some(0));
    let heads = proxy.heads();
    assert!(heads.len() == 2 && heads.iter().all(|head| head.contains(TOKEN)), "{heads:?}");

    let refusing = Listener::new(http("407 Proxy Authentication Required", "no credential"));
    let output = token(list(&env)).args(&["--proxy", &refusing.url()]).run();
    output.assert_failed(1, &["[407 ", &format!("passed the proxy {}", refusing.url())]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = token(list(&env)).args(&["--proxy", &format!("http://user:word@{closed}")]).run();
    output.assert_failed(1, &[&format!("through the proxy http://{closed}: "), "Is the proxy running there"]);
    assert!(!output.stderr.contains("word"), "{output:?}");
    for proxy in ["nonsense", "socks5://127.0.0.1:1", "http://127.0.0.1:1/path", "127.0.0.1:1"] {
        token(list(&env))
            .args(&["--proxy", proxy])
            .run()
            .assert_failed(2, &["--proxy is not the URL of a proxy"]);
    }
}

#[test]
fn empty_variables_count_as_none() {
    let env = TestEnv::new();
    // Every variable that the help names, and the older ones.
    let mut commands = Vec::new();
    for args in ["serve", "show tokens", "create token --admin"] {
        let help = env.cli(args.split_whitespace()).arg("--help").run().stdout;
        let names =
            help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().to_owned());
        commands.push((args, names.collect::<Vec<_>>()));
    }
    assert!(commands[0].1.len() > 20 && commands[1].1.len() > 4, "{commands:?}");
    let older = [
        "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND",
        "INFLUXDB3_DB_DIR",
        "INFLUXDB3_NODE_IDENTIFIER_FROM_ENV",
        "INFLUXDB3_NODE_IDENTIFIER_PREFIX",
        "INFLUXDB3_START_WITHOUT_AUTH",
        "INFLUXDB3_TCP_LISTINER_FILE_PATH",
        "LOG_DESTINATION",
        "LOG_FILTER",
        "LOG_FORMAT",
    ]
    .map(str::to_owned);
    let mut server = env.serve_with(&[]);
    for name in commands[0].1.iter().chain(&older) {
        server = server.env(name, "");
    }
    let server = server.start();
    let token = env.create_token(server.address, &[]).run().token();
    let mut cli = list(&env).arg("--host").arg(format!("http://{}", server.address));
    for name in &commands[1].1 {
        cli = cli.env(name, if name == "INFLUXDB3_AUTH_TOKEN" { &token } else { "" });
    }
    assert_eq!(cli.run().code, Some(0));
    let mut cli = env.create_token(server.address, &["--regenerate", "--yes"]);
    for name in &commands[2].1 {
        cli = cli.env(name, "");
    }
    // Without a token, and not for a variable.
    cli.run().assert_failed(1, &["[401 Unauthorized]"]);
    // Help names a variable that is empty.
    let help = list(&env).arg("--help").env("INFLUXDB3_TLS_CA", "").run();
    assert!(help.stdout.contains("[env: INFLUXDB3_TLS_CA="), "{}", help.stdout);
}

#[test]
fn token_variable_is_trimmed_or_refused_unsent() {
    let env = TestEnv::new();
    let listener = Listener::new(http("200 OK", "[]"));
    let ask =
        |token: &str| list(&env).args(&["--host", &listener.url()]).env("INFLUXDB3_AUTH_TOKEN", token).run();
    for token in ["apiv3_presented\n", "\r\n apiv3_presented \r\n", "\u{feff}apiv3_presented"] {
        assert_eq!(ask(token).code, Some(0), "{token:?}");
    }
    let file = env.file("token", "\u{feff}apiv3_presented\r\n".as_bytes());
    let from_file = list(&env).args(&["--host", &listener.url()]).arg("--token-file").arg(file).run();
    assert_eq!(from_file.code, Some(0));
    let heads = listener.heads();
    assert_eq!(heads.len(), 4);
    assert!(heads.iter().all(|head| head.contains("\nauthorization: bearer apiv3_presented\n")), "{heads:?}");
    for (token, message) in [
        ("\"apiv3_x\"", "has quotes around it"),
        ("Bearer apiv3_x", "the word Bearer"),
        ("INFLUXDB3_AUTH_TOKEN=apiv3_x", "the name of a variable"),
        ("apiv3_x\napiv3_y", "was it copied whole?"),
    ] {
        ask(token).assert_failed(1, &[message]);
    }
    assert_eq!(listener.heads().len(), 4);
}

#[test]
fn endless_response_is_cut_off() {
    let env = TestEnv::new();
    for (head, message) in [
        ("200 OK\r\nConnection: close", "answers with more than 16.0 MiB, which no token server does"),
        ("200 OK\r\nContent-Length: 9000000000", "answers with more than 16.0 MiB"),
        ("200 OK\r\nTransfer-Encoding: chunked", "answers with more than 16.0 MiB"),
        // The beginning is shown.
        ("500 Internal Server Error\r\nConnection: close", "error [500 Internal Server Error]: xxx"),
    ] {
        let _case = CaseName(head);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let chunked = head.contains("chunked");
        let head = format!("HTTP/1.1 {head}\r\n\r\n");
        let writer = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_head(&stream);
            stream.set_write_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            let text = "x".repeat(1 << 16);
            let part = if chunked { format!("10000\r\n{text}\r\n") } else { text };
            let mut written = 0_u64;
            loop {
                match stream.write_all(part.as_bytes()) {
                    Ok(()) => written += 1 << 16,
                    Err(error) => return (written, error.kind()),
                }
            }
        });
        let output = list(&env).args(&["--host", &format!("http://{address}")]).run();
        output.assert_failed(1, &[message]);
        assert!(output.stderr.len() < 1500, "{}", output.stderr.len());
        let (written, error) = writer.join().unwrap();
        // Buffers of the kernel hold a part.
        assert!(written < 64 << 20, "{written}");
        assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error:?}");
    }
}

#[test]
fn server_text_reaches_terminal_visible_only() {
    let env = TestEnv::new();
    let hostile = "a\u{1b}[2J\u{9b}\u{202e}\u{2066}\u{200b}\u{200d}\u{feff}\u{2028}\u{e0041}\u{ad}\u{7f}b";
    let is_hostile = |text: &str| {
        text.chars().any(|character| {
            character != '\n' && hostile.contains(character) && !character.is_ascii_graphic()
        })
    };
    for format in ["pretty", "csv", "json", "jsonl"] {
        let listener = Listener::new(http("200 OK", &format!("[\"{hostile}\"]")));
        let output = list(&env).args(&["--format", format, "--host", &listener.url()]).run();
        assert_eq!(output.code, Some(0));
        assert!(!is_hostile(&output.stdout), "{format}: {:?}", output.stdout);
        if format == "json" {
            let value: Value = serde_json::from_str(&output.stdout).unwrap();
            // Control characters are gone, the rest is there.
            assert_eq!(value[0], hostile.replace(char::is_control, ""));
        } else if !format.starts_with("json") {
            assert!(output.stdout.contains("\\u{202e}"), "{}", output.stdout);
        }
    }
    let error = Listener::new(http("500 Internal Server Error", &format!("{hostile}\nwarning: forged")));
    for args in ["show tokens", "create token --admin", "delete token --yes --token-name x", "audit show"] {
        let output = env.cli(args.split_whitespace()).args(&["--host", &error.url()]).run();
        output.assert_failed(1, &["a[2Jb warning: forged"]);
        assert!(!is_hostile(&output.stderr), "{:?}", output.stderr);
    }
    // Names of files, in errors of the parser, too.
    for cli in [
        list(&env).args(&["--token-file", hostile]),
        list(&env).args(&[hostile]),
        list(&env).args(&["--host", hostile]),
    ] {
        let output = cli.run();
        assert!(output.code != Some(0) && !is_hostile(&output.stderr), "{output:?}");
    }
    for format in ["text", "json"] {
        let output = env
            .cli(["create", "token", "--admin", "--offline", "--format", format, "--output-file", hostile])
            .run();
        assert_eq!(output.code, Some(0));
        fs::remove_file(env.home().join(hostile)).unwrap();
        assert!(!is_hostile(&output.stderr) && !is_hostile(&output.stdout), "{output:?}");
    }
}

#[test]
fn reading_of_secrets_is_bounded() {
    let env = TestEnv::new();
    let pipe = env.home().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let listener = Listener::new(http("200 OK", "[]"));
    let host = listener.url();
    let quick = ["--timeout", "100ms", "--host", &host];
    // No process writes to the pipe.
    list(&env).args(&quick).arg("--token-file").arg(&pipe).run().assert_failed(
        1,
        &["the token in ", "did not arrive within 100ms", "--timeout DURATION waits longer"],
    );
    for (file, message) in [
        ("/dev/zero", "the token in /dev/zero is longer than 64 KiB"),
        ("/dev/urandom", "cannot read the token from /dev/urandom"),
    ] {
        list(&env).args(&["--token-file", file]).run().assert_failed(1, &[message]);
    }
    let long = "x".repeat(70_000);
    list(&env).args(&["--token", "-"]).input(&long).run().assert_failed(1, &["longer than 64 KiB"]);
    let recover = |args: &[&str]| {
        env.cli(["create", "token", "--admin", "--regenerate", "--yes", "--recovery-code", "-"]).args(args)
    };
    recover(&[]).input(&long).run().assert_failed(1, &["the recovery code", "longer than 64 KiB"]);
    // A line that never ends: the shell keeps the writing end open.
    for secret in ["--token", "--recovery-code"] {
        let cli = match secret {
            "--token" => list(&env).args(&["--token", "-"]).args(&quick),
            _ => recover(&quick),
        };
        let script = r#"exec 5<>"$PIPE"; printf 'apiv3_half' >&5; "$0" "$@" <&5"#;
        let output = cli.env("PIPE", &pipe).in_shell(script).run();
        output.assert_failed(1, &["on standard input did not arrive within 100ms"]);
        drain(&pipe);
    }
    assert_eq!(listener.heads(), [""; 0]);
    list(&env)
        .args(&["--host", "https://localhost:1", "--tls-ca", "/dev/zero"])
        .run()
        .assert_failed(1, &["--tls-ca: /dev/zero is larger than 4 MiB"]);
}

/// Opens and closes a pipe, which discards what it holds.
fn drain(pipe: &std::path::Path) {
    drop(fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap());
}

#[test]
fn replaceable_socket_receives_nothing() {
    let env = TestEnv::new();
    let directory = env.home().join("shared");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let attempt = || {
        recover_at(&env, &path)
            .env("INFLUXDB3_AUTH_TOKEN", TOKEN)
            .args(&["--recovery-code", "-", "--output-file", "saved", "--timeout", "5s"])
            .input("secret-code")
    };
    for mode in [0o777, 0o775] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        let reason = format!("others can write to {} (mode {mode:o})", directory.display());
        attempt().run().assert_failed(1, &["nothing was sent to unix:", &reason]);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a client has connected");
    }
    // In a directory of this user, a process of this user gets the request.
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    listener.set_nonblocking(false).unwrap();
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(http("403 Forbidden", "no").as_bytes()).unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    });
    attempt().run().assert_failed(1, &["[403 Forbidden]: no"]);
    let head = reader.join().unwrap();
    assert!(head.contains("secret-code") && head.contains("host: localhost\r\n"), "{head}");
    assert!(!env.home().join("saved").exists());
}

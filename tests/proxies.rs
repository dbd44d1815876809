//! The configurations in `host/proxies`, each with its own proxy, between a client and a service: who may pass, who
//! may not, and what the service is told.
//!
//! The proxies are the packages of Debian: `nginx`, `caddy` and `haproxy`, and Envoy, where `OPTOKEN_TEST_ENVOY` in the environment
//! says which program that is. Of a configuration nothing is replaced but addresses.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use tokio::net::TcpSocket;

use crate::support::{
    Connection, NAMED_ADMIN, Request, Response, TOKENS, TestEnv, VERIFY, eventually, get, post, request,
};

/// As every shell has it, and root's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Addresses in the configurations.
const AUTHORITY: &str = "127.0.0.1:8181";
const SERVICE: &str = "127.0.0.1:3000";

const NAME: &str = "Grüße, 50%";
const ENCODED_NAME: &str = "Gr%C3%BC%C3%9Fe%2C%2050%25";

const BARE: &str = r#"Bearer realm="influxdb3""#;
const INVALID_TOKEN: &str = r#"Bearer realm="influxdb3", error="invalid_token""#;
const INVALID_REQUEST: &str = r#"Bearer realm="influxdb3", error="invalid_request""#;

/// How to run one of the proxies.
struct ProxyKind {
    name: &'static str,
    /// Its files in `host/proxies`; the first is the one to run with.
    files: &'static [&'static str],
    /// Where it listens, as its configuration has it, and the same on this port.
    listens: (&'static str, fn(u16) -> String),
    /// Its command line, for the configuration in this file.
    command: fn(&Path) -> Command,
}

/// The variable that says where Envoy is, which is no package of Debian; `tests/proxies/envoy` fetches it.
const ENVOY: &str = "OPTOKEN_TEST_ENVOY";

const KINDS: [ProxyKind; 4] = [
    ProxyKind {
        name: "nginx",
        files: &["nginx.conf"],
        listens: ("127.0.0.1:8080", |port| format!("127.0.0.1:{port}")),
        command: |file| {
            // What a system has around such a file.
            let directory = file.parent().unwrap();
            let around = format!(
                "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi; include {}; }}",
                file.display()
            );
            fs::write(directory.join("around.conf"), around).unwrap();
            let mut command = Command::new("nginx");
            command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(directory.join("around.conf"));
            command
        },
    },
    ProxyKind {
        name: "caddy",
        files: &["Caddyfile"],
        listens: ("http://:8080", |port| format!("http://:{port}")),
        command: |file| {
            let around = file.with_file_name("around.Caddyfile");
            fs::write(&around, format!("{{\n\tadmin off\n}}\nimport {}\n", file.display())).unwrap();
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(around);
            command
        },
    },
    ProxyKind {
        name: "haproxy",
        files: &["haproxy.cfg", "haproxy.lua"],
        listens: ("127.0.0.1:8080", |port| format!("127.0.0.1:{port}")),
        command: |file| {
            let mut command = Command::new("haproxy");
            // Without it, it may go to the background.
            command.arg("-db").arg("-f").arg(file);
            command
        },
    },
    ProxyKind {
        name: "envoy",
        files: &["envoy.yaml"],
        listens: ("port_value: 8080", |port| format!("port_value: {port}")),
        command: |file| {
            let mut command = Command::new(env::var_os(ENVOY).unwrap());
            // Several of them run at once.
            command
                .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "-c"])
                .arg(file);
            command
        },
    },
];

/// A port that the system has picked and gives to nobody else. There is nobody on it until a proxy listens there: they all
/// bind with `SO_REUSEADDR`, as this does.
struct Port(TcpSocket);

impl Port {
    fn any() -> Self {
        Self::of(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn of(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A running proxy; ended when dropped.
struct Proxy {
    name: &'static str,
    child: Child,
    port: Port,
    log: PathBuf,
}

impl Proxy {
    fn start(kind: &ProxyKind, env: &TestEnv, authority: SocketAddr, service: SocketAddr) -> Self {
        let ProxyKind { name, files, listens: (listens, on_port), command } = kind;
        let port = Port::any();
        let home = env.home().join(name);
        fs::create_dir(&home).unwrap();
        for file in *files {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies").join(file);
            let mut text = fs::read_to_string(&shipped).unwrap();
            // In this order no address that is put in looks like one that is to be replaced.
            for (from, to) in [
                ("port_value: 3000", format!("port_value: {}", service.port())),
                ("port_value: 8181", format!("port_value: {}", authority.port())),
                (SERVICE, service.to_string()),
                (AUTHORITY, authority.to_string()),
                (listens, on_port(port.address().port())),
                ("/etc/haproxy/", format!("{}/", home.display())),
            ] {
                text = text.replace(from, &to);
            }
            fs::write(home.join(file), text).unwrap();
        }
        let log = home.join("log");
        let output = File::create(&log).unwrap();
        let child = command(&home.join(files[0]))
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot run {name}: {error}; run: apt-get install -y --no-install-recommends nginx caddy haproxy"
                )
            });
        let mut proxy = Self { name, child, port, log };
        eventually("the proxy listens", || {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ends: {}", proxy.log());
            TcpStream::connect(proxy.address()).is_ok()
        });
        proxy
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn send(&self, request: &Request) -> Response {
        let mut connection = Connection::open(self.address()).unwrap();
        connection.write(&request.to_bytes());
        connection
            .read()
            .unwrap_or_else(|error| panic!("{} does not answer: {error}\n{}", self.name, self.log()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request as the service has got it. The names of its headers are in lower case.
#[derive(Debug)]
struct Received {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The lines behind the last chunk.
    trailers: Vec<String>,
}

impl Received {
    fn read(stream: &mut impl BufRead) -> Option<Self> {
        let mut lines = stream.by_ref().lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut words = first.split(' ').map(str::to_owned);
        let headers: Vec<_> = lines
            .take_while(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        let (method, target) = (words.next()?, words.next()?);
        let mut received = Self { method, target, headers, body: Vec::new(), trailers: Vec::new() };
        if let Some(length) = received.header("content-length") {
            received.body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut received.body).unwrap();
        } else if received.header("transfer-encoding").is_some() {
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
                if length == 0 {
                    break;
                }
                let mut chunk = vec![0; length + 2];
                stream.read_exact(&mut chunk).unwrap();
                received.body.extend_from_slice(&chunk[..length]);
            }
            let trailers = stream.by_ref().lines().map_while(Result::ok);
            received.trailers = trailers.take_while(|line| !line.is_empty()).collect();
        }
        Some(received)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// All that some service may take for what optoken says, sorted.
    fn said_by_optoken(&self) -> Vec<(&str, &str)> {
        let said = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut said: Vec<_> =
            said.filter(|(name, _)| name.replace('_', "-").starts_with("x-auth-")).collect();
        said.sort_unstable();
        said
    }
}

/// A service that lets everybody do everything, and keeps what it has got.
struct Service {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let received = Arc::clone(&service.received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let received = Arc::clone(&received);
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    if let Some(request) = Received::read(&mut stream) {
                        received.lock().unwrap().push(request);
                        let answer = "HTTP/1.1 200 OK\r\nX-Reached: yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                        // Whoever has asked may have gone.
                        let _ = stream.get_mut().write_all(answer.as_bytes());
                    }
                });
            }
        });
        service
    }

    /// What it has got since it was last asked.
    fn received(&self) -> Vec<Received> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

/// As a client does it that wants to be taken for somebody.
fn forged(request: Request) -> Request {
    request
        .header("X-Auth-Token-Id", "7")
        .header("X-AUTH-TOKEN-NAME", "forged")
        .header("X_Auth_Token_Id", "7")
        .header("x_auth_token_name", "forged")
        .header("X-Auth_Token-Name", "forged")
}

/// As a client does it that wants a connection to be something else from here on.
fn upgraded(to: &[&str], connection: &str) -> Request {
    let request =
        get("/").header("Connection", connection).header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA");
    let request =
        request.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==").header("Sec-WebSocket-Version", "13");
    to.iter().fold(request, |request, to| request.header("Upgrade", to))
}

/// One proxy of each kind.
fn proxies(env: &TestEnv, authority: SocketAddr, service: SocketAddr) -> Vec<Proxy> {
    let envoy = env::var_os(ENVOY).is_some();
    if !envoy {
        println!("skipped: envoy, as {ENVOY} is not set");
    }
    let here = KINDS.iter().filter(|kind| envoy || kind.name != "envoy");
    here.map(|kind| Proxy::start(kind, env, authority, service)).collect()
}

/// Nothing gets to the service, and the client is told that it cannot be done now.
#[track_caller]
fn assert_unavailable(proxies: &[Proxy], service: &Service, token: &str) {
    let requests = || [get("/").bearer(token), get("/"), forged(post("/").bearer(token).body(b"{}"))];
    // All at once: some wait until they give up.
    let answers: Vec<_> = thread::scope(|scope| {
        let sent = proxies.iter().flat_map(|proxy| requests().map(|request| (proxy, request)));
        let sending: Vec<_> =
            sent.map(|(proxy, request)| (proxy.name, scope.spawn(move || proxy.send(&request)))).collect();
        sending.into_iter().map(|(name, answer)| (name, answer.join().unwrap())).collect()
    });
    for (name, answer) in answers {
        assert!(matches!(answer.status, 500..=599), "{name}: {answer:?}");
        assert_eq!(answer.header("x-reached"), None, "{name}: {answer:?}");
    }
    let received = service.received();
    assert!(received.is_empty(), "{received:?}");
}

#[test]
fn a_good_token_passes_and_the_service_is_told_whose_it_is() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let operator = authority.create();
    let body = json!({ "token_name": NAME }).to_string();
    let create = post(NAMED_ADMIN).bearer(&operator).header("Content-Type", "application/json");
    let named = create.body(body.as_bytes()).send(authority.address).token();
    let service = Service::start();
    let large = vec![b'x'; 200_000];
    for proxy in proxies(&env, authority.address, service.address) {
        for (request, method, target, body) in [
            (get("/"), "GET", "/", &b""[..]),
            (get("/path?p=apiv3_x"), "GET", "/path?p=apiv3_x", b""),
            (request("HEAD", "/"), "HEAD", "/", b""),
            (request("DELETE", "/x"), "DELETE", "/x", b""),
            (request("OPTIONS", "/"), "OPTIONS", "/", b""),
            (post("/empty").body(b""), "POST", "/empty", b""),
            (post("/").body(b"{}"), "POST", "/", b"{}"),
            (request("PUT", "/").body(&large), "PUT", "/", &large),
            (request("PATCH", "/").chunked(&large, 50_000), "PATCH", "/", &large),
            (get("http://localhost/absolute?a=b"), "GET", "/absolute?a=b", b""),
            (get("/api/v3/verify"), "GET", "/api/v3/verify", b""),
        ] {
            for (token, id, name) in [(&operator, "0", "_admin"), (&named, "1", ENCODED_NAME)] {
                for request in [
                    request.clone(),
                    forged(request.clone()),
                    request.clone().header("Connection", "X-Auth-Token-Id, X-Auth-Token-Name"),
                ] {
                    let case = format!("{}: {request:?}", proxy.name);
                    let answer = proxy.send(&request.bearer(token));
                    assert_eq!((answer.status, answer.header("x-reached")), (200, Some("yes")), "{case}");
                    let received = service.received();
                    let [received] = received.as_slice() else { panic!("{case}: {received:?}") };
                    assert_eq!(
                        received.said_by_optoken(),
                        [("x-auth-token-id", id), ("x-auth-token-name", name)],
                        "{case}"
                    );
                    assert_eq!(received.header("authorization"), None, "{case}");
                    let path = received.target.trim_start_matches("http://localhost");
                    assert_eq!((received.method.as_str(), path), (method, target), "{case}");
                    assert!(received.body == body, "{case}: another body");
                }
            }
        }
    }
}

#[test]
fn without_a_good_token_nothing_passes_and_the_client_gets_the_challenge() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let old = authority.create();
    let token = authority.regenerate(&old);
    let service = Service::start();
    for proxy in proxies(&env, authority.address, service.address) {
        for (request, challenge) in [
            (get("/"), BARE),
            (get("/").bearer("apiv3_unknown"), INVALID_TOKEN),
            (get("/").bearer(&old), INVALID_TOKEN),
            (get("/").authorization("nonsense"), INVALID_REQUEST),
            (get(&format!("/?p={token}")), BARE),
            (get("/").header("X-Forwarded-Authorization", &token), BARE),
            (get("http://localhost/"), BARE),
            (get("//"), BARE),
            (get("/x/../y"), BARE),
            (get("/api/v3/verify"), BARE),
            (get("/health"), BARE),
            (request("OPTIONS", "/"), BARE),
            (request("OPTIONS", VERIFY), BARE),
            (request("DELETE", "/"), BARE),
            (post("/").body(b"{}"), BARE),
            (post("/").chunked(b"{}", 1), BARE),
            // They do not wait for what they will not pass on; up to 256 KiB, Caddy does.
            (post("/").header("Content-Length", "300000"), BARE),
        ] {
            for request in [request.clone(), forged(request)] {
                let case = format!("{}: {request:?}", proxy.name);
                let answer = proxy.send(&request);
                let told = (answer.status, answer.header("www-authenticate"));
                assert_eq!(told, (401, Some(challenge)), "{case}: {answer:?}");
                assert_eq!(answer.header("x-reached"), None, "{case}");
            }
        }
        // What some refuse by themselves: where one of them asks, and headers that could be read in two ways.
        for request in [
            get("/.optoken"),
            get("/").bearer("x").bearer(&token),
            get("/").bearer(&old).header("Connection", "Authorization"),
        ] {
            let answer = proxy.send(&request);
            assert!(matches!(answer.status, 400 | 401 | 404), "{}: {request:?}: {answer:?}", proxy.name);
        }
        let received = service.received();
        assert!(received.is_empty(), "{}: {received:?}", proxy.name);
        // It was none of these for another reason.
        assert_eq!(proxy.send(&get("/").bearer(&token)).header("x-reached"), Some("yes"), "{}", proxy.name);
        service.received();
    }
}

#[test]
fn a_connection_stays_what_every_request_on_it_is_asked_about() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    for proxy in proxies(&env, authority.address, service.address) {
        let asked = [
            upgraded(&["h2c"], "Upgrade, HTTP2-Settings"),
            upgraded(&["h2c"], "Upgrade"),
            upgraded(&["websocket"], "Upgrade"),
            upgraded(&["websocket, h2c"], "Upgrade, HTTP2-Settings"),
            upgraded(&["websocket", "h2c"], "keep-alive, upgrade"),
            upgraded(&["h2c"], "close"),
            upgraded(&["TLS/1.3"], "UPGRADE"),
            request("CONNECT", "localhost:80"),
            request("CONNECT", "/"),
        ];
        for request in asked {
            let case = format!("{}: {request:?}", proxy.name);
            let answer = proxy.send(&request.bearer(&token));
            for received in service.received() {
                assert_eq!(received.header("upgrade"), None, "{case}: {received:?}");
                assert_ne!(received.method, "CONNECT", "{case}: {received:?}");
            }
            // It is passed on as what it is otherwise, or refused.
            assert!(matches!(answer.status, 200 | 400 | 403 | 404 | 405), "{case}: {answer:?}");
        }
        // The next request on a connection is another client's, for all that is known.
        let mut connection = Connection::open(proxy.address()).unwrap();
        for (request, status) in [
            (get("/").bearer(&token), 200),
            (get("/").bearer("apiv3_unknown"), 401),
            (get("/"), 401),
            (get("/").bearer(&token), 200),
        ] {
            connection.write(&request.to_bytes());
            assert_eq!(connection.read().unwrap().status, status, "{}: {request:?}", proxy.name);
        }
        let received = service.received();
        assert_eq!(received.len(), 2, "{}: {received:?}", proxy.name);
    }
}

#[test]
fn what_comes_behind_a_body_names_nobody() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    for proxy in proxies(&env, authority.address, service.address) {
        let request = post("/").bearer(&token).header("Trailer", "X-Auth-Token-Id");
        let request = request.chunked_with_trailer(b"{}", "X-Auth-Token-Id: 7");
        assert_eq!(proxy.send(&request).status, 200, "{}", proxy.name);
        let received = service.received();
        let [received] = received.as_slice() else { panic!("{}: {received:?}", proxy.name) };
        // Before HAProxy 3.2, which has an option against it, such lines cannot be dropped.
        assert!(received.trailers.is_empty() || proxy.name == "haproxy", "{}: {received:?}", proxy.name);
        assert_eq!(received.said_by_optoken()[0], ("x-auth-token-id", "0"), "{}: {received:?}", proxy.name);
    }
}

#[test]
fn a_head_that_the_authority_does_not_read_does_not_pass() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    for proxy in proxies(&env, authority.address, service.address) {
        // Hardly anything but Authorization gets to optoken; Caddy asks with all that its client has sent.
        let many = |request| (0..150).fold(request, |request: Request, _| request.header("X", "x"));
        for request in [
            many(get("/")),
            get("/").bearer(&"x".repeat(12_000)),
            get("/").bearer(&"x".repeat(20_000)),
            get("/").bearer("\u{1}"),
            get("/").authorization(""),
        ] {
            let answer = proxy.send(&request);
            let case = format!("{}: {:.90}", proxy.name, format!("{request:?}"));
            assert!(matches!(answer.status, 400 | 401 | 431 | 503), "{case}: {answer:?}");
        }
        if proxy.name == "caddy" {
            assert_eq!(proxy.send(&many(get("/").bearer(&token))).status, 431);
        }
        let received = service.received();
        assert!(received.is_empty(), "{}: {received:?}", proxy.name);
    }
}

#[test]
fn nothing_passes_while_the_authority_is_gone_or_does_not_answer() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let here = proxies(&env, authority.address, service.address);
    for proxy in &here {
        assert_eq!(proxy.send(&get("/").bearer(&token)).status, 200, "{}", proxy.name);
    }
    service.received();
    let address = authority.address;
    authority.stop();
    // So that no other test gets a server there.
    let _gone = Port::of(address);
    assert_unavailable(&here, &service, &token);
    drop(here);

    // It takes connections, and that is all.
    let other = TestEnv::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = proxies(&other, silent.local_addr().unwrap(), service.address);
    assert_unavailable(&here, &service, &token);
}

#[test]
fn nothing_passes_while_the_store_is_silent() {
    let env = TestEnv::new();
    let authority = env.serve(&["--max-staleness", "1"]);
    let token = authority.create();
    let service = Service::start();
    let here = proxies(&env, authority.address, service.address);
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("tokens cannot be checked", || {
        get(VERIFY).bearer(&token).send(authority.address).status == 503
    });
    for proxy in &here {
        let answer = proxy.send(&get("/").bearer(&token));
        // Of an authority that fails, Envoy passes nothing on.
        let retry_after = (proxy.name != "envoy").then_some("1");
        assert_eq!((answer.status, answer.header("retry-after")), (503, retry_after), "{}", proxy.name);
    }
    for proxy in &here {
        // Whoever presents nothing is told so all the same.
        assert_eq!(proxy.send(&get("/")).status, 401, "{}", proxy.name);
    }
    let received = service.received();
    assert!(received.is_empty(), "{received:?}");
    store.execute_batch("ALTER TABLE away RENAME TO catalog").unwrap();
    eventually("they can again", || {
        here.iter().all(|proxy| proxy.send(&get("/").bearer(&token)).status == 200)
    });
}

#[test]
fn without_authentication_everything_passes_and_nobody_can_be_forged() {
    let env = TestEnv::new();
    let authority = env.serve(&["--store", "memory:", "--without-auth"]);
    let service = Service::start();
    for proxy in proxies(&env, authority.address, service.address) {
        assert_eq!(proxy.send(&forged(get("/"))).status, 200, "{}", proxy.name);
        let received = service.received();
        let said = received[0].said_by_optoken();
        // Some say that there is nothing to say.
        assert!(said.iter().all(|(_, value)| value.is_empty()), "{}: {said:?}", proxy.name);
    }
}

#[test]
fn a_token_that_is_deleted_does_not_pass_any_more() {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let operator = authority.create();
    let service = Service::start();
    for proxy in proxies(&env, authority.address, service.address) {
        let create = post(NAMED_ADMIN).bearer(&operator).header("Content-Type", "application/json");
        let token = create.body(br#"{"token_name":"ci"}"#).send(authority.address).token();
        let status = || proxy.send(&get("/").bearer(&token)).status;
        assert_eq!(status(), 200, "{}", proxy.name);
        let delete = request("DELETE", &format!("{TOKENS}?token_name=ci")).bearer(&operator);
        assert_eq!(delete.send(authority.address).status, 200);
        assert_eq!(status(), 401, "{}", proxy.name);
    }
}

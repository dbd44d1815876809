//! The configurations of host/proxies, each in its own proxy between a client and a service: which
//! requests pass, and which identity headers the service receives.
//!
//! Only what host/proxies/README.md lists is replaced: three addresses of the first file, each of
//! which occurs once, and the directory of `HAProxy`'s files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::net::TcpSocket;

use crate::needs::{self, CADDY, HAPROXY, NGINX, Need, WGET};
use crate::support::{
    ChildGuard, Connection, Request, Response, TestEnv, VERIFY, create_named, delete_named, eventually, get,
    post, request,
};

/// `PATH` of root.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NAME: &str = "Grüße, 50%";
const ENCODED_NAME: &str = "Gr%C3%BC%C3%9Fe%2C%2050%25";

const BARE: &str = r#"Bearer realm="influxdb3""#;
const BASIC: &str = r#"Basic realm="influxdb3""#;
const INVALID_TOKEN: &str = r#"Bearer realm="influxdb3", error="invalid_token""#;
const INVALID_REQUEST: &str = r#"Bearer realm="influxdb3", error="invalid_request""#;

/// A proxy, and how to run it.
pub(crate) struct ProxyKind {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    /// The value of `--verify-request` that fits.
    pub(crate) verify_request: &'static str,
    /// Files in host/proxies. The command line gets the first one.
    files: &'static [&'static str],
    /// Addresses in its configuration by their port, from which the port is left out: the one to
    /// listen on, and those of optoken and of the service.
    addresses: [&'static str; 3],
    /// Command line for the configuration in this file.
    command: fn(&Path) -> Command,
}

pub(crate) const KINDS: [ProxyKind; 4] = [
    ProxyKind {
        name: "nginx",
        verify_request: "original",
        need: NGINX,
        files: &["nginx.conf"],
        addresses: ["127.0.0.1:"; 3],
        command: nginx_command,
    },
    ProxyKind {
        name: "caddy",
        verify_request: "forwarded",
        need: CADDY,
        files: &["Caddyfile"],
        addresses: ["http://:", "127.0.0.1:", "127.0.0.1:"],
        command: |file| {
            let around = file.with_file_name("around.Caddyfile");
            fs::write(&around, format!("{{\n\tadmin off\n}}\nimport {}\n", file.display())).unwrap();
            let mut command = needs::command(CADDY);
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(around);
            command
        },
    },
    ProxyKind {
        name: "haproxy",
        verify_request: "original",
        need: HAPROXY,
        files: &["haproxy.cfg", "haproxy.lua"],
        addresses: ["127.0.0.1:"; 3],
        command: |file| {
            let mut command = needs::command(HAPROXY);
            // Keeps it in the foreground.
            command.arg("-db").arg("-f").arg(file);
            command
        },
    },
    ProxyKind {
        name: "envoy",
        verify_request: "path",
        need: Need::Envoy,
        files: &["envoy.yaml"],
        addresses: ["port_value: "; 3],
        command: |file| {
            let mut command = needs::command(Need::Envoy);
            // Tests run several at the same time.
            command
                .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "-c"])
                .arg(file);
            command
        },
    },
];

/// Returns the command that runs nginx with this file, which a system includes in its own
/// configuration.
pub(crate) fn nginx_command(file: &Path) -> Command {
    let directory = file.parent().unwrap();
    let around = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; \
         uwsgi_temp_path uwsgi; scgi_temp_path scgi; include {}; }}",
        file.display()
    );
    fs::write(directory.join("around.conf"), around).unwrap();
    let mut command = needs::command(NGINX);
    command.args(["-e", "stderr", "-p"]).arg(directory).arg("-c").arg(directory.join("around.conf"));
    command
}

impl ProxyKind {
    /// The file that README.md lists.
    pub(crate) fn file(&self) -> &'static str {
        self.files[0]
    }
}

/// A port that the system has reserved. It refuses connections until a proxy listens on it: all
/// proxies bind with `SO_REUSEADDR`, as this does.
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

/// Replaces the three addresses of a configuration, of which each occurs once.
fn with_addresses(kind: &ProxyKind, shipped: &str, addresses: [SocketAddr; 3]) -> String {
    let mut text = shipped.to_owned();
    // No port of an address here begins with another one's.
    let replaced = ["8080", "8181", "3000"].map(|port| format!("<{port}>"));
    for ((before, port), mark) in kind.addresses.into_iter().zip(["8080", "8181", "3000"]).zip(&replaced) {
        assert_eq!(text.matches(port).count(), 1, "{}: {port}", kind.name);
        let from = format!("{before}{port}");
        assert!(text.contains(&from), "{}: {from}", kind.name);
        text = text.replace(&from, &format!("{before}{mark}"));
    }
    for (mark, address) in replaced.iter().zip(addresses) {
        text = text.replace(mark, &address.port().to_string());
    }
    text
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    child: ChildGuard,
    port: Port,
    log: PathBuf,
}

impl Proxy {
    pub(crate) fn start(kind: &ProxyKind, env: &TestEnv, authority: SocketAddr, service: SocketAddr) -> Self {
        Self::start_with(kind, env, authority, service, |shipped| shipped)
    }

    /// Starts it after a change of its configuration.
    fn start_with(
        kind: &ProxyKind,
        env: &TestEnv,
        authority: SocketAddr,
        service: SocketAddr,
        change: impl Fn(String) -> String,
    ) -> Self {
        let ProxyKind { name, files, command, .. } = kind;
        let port = Port::any();
        let home = env.home().join(name);
        fs::create_dir(&home).unwrap();
        for file in *files {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies").join(file);
            let mut text = fs::read_to_string(&shipped).unwrap();
            if file == &files[0] {
                text = change(with_addresses(kind, &text, [port.address(), authority, service]));
                text = text.replace("/etc/haproxy/", &format!("{}/", home.display()));
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
            .unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
        let mut proxy = Self { name, child: ChildGuard(child), port, log };
        eventually("the proxy listens", || {
            let ended = proxy.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "{name} exits: {}", proxy.log());
            TcpStream::connect(proxy.address()).is_ok()
        });
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub(crate) fn send(&self, request: &Request) -> Response {
        let mut connection = Connection::open(self.address()).unwrap();
        connection.write(&request.to_bytes());
        connection
            .read()
            .unwrap_or_else(|error| panic!("{} does not respond: {error}\n{}", self.name, self.log()))
    }
}

/// A request that the service received. Header names are in lower case.
#[derive(Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Lines after the last chunk.
    pub(crate) trailers: Vec<String>,
}

impl ReceivedRequest {
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

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Headers that some service may read as identity headers, sorted.
    pub(crate) fn identity_headers(&self) -> Vec<(&str, &str)> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut identity: Vec<_> =
            headers.filter(|(name, _)| name.replace('_', "-").starts_with("x-auth-")).collect();
        identity.sort_unstable();
        identity
    }
}

/// A service without access control, which keeps the requests that it receives.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl Service {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let received = Arc::clone(&service.received);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let received = Arc::clone(&received);
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    if let Some(request) = ReceivedRequest::read(&mut stream) {
                        received.lock().unwrap().push(request);
                        let response = "HTTP/1.1 200 OK\r\nX-Reached: yes\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                        // The client may have closed the connection.
                        let _ = stream.get_mut().write_all(response.as_bytes());
                    }
                });
            }
        });
        service
    }

    /// Requests since the last call.
    pub(crate) fn received(&self) -> Vec<ReceivedRequest> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

/// Adds identity headers, as an attacker does.
fn forged(request: Request) -> Request {
    request
        .header("X-Auth-Token-Id", "7")
        .header("X-AUTH-TOKEN-NAME", "forged")
        .header("X_Auth_Token_Id", "7")
        .header("x_auth_token_name", "forged")
        .header("X-Auth_Token-Name", "forged")
}

/// A request that asks for an upgrade of the connection.
fn upgraded(to: &[&str], connection: &str) -> Request {
    let request =
        get("/").header("Connection", connection).header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA");
    let request =
        request.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==").header("Sec-WebSocket-Version", "13");
    to.iter().fold(request, |request, to| request.header("Upgrade", to))
}

/// No request reaches the service, and the client receives a server error.
#[track_caller]
fn assert_unavailable(proxy: &Proxy, service: &Service, token: &str) {
    let requests = [get("/").bearer(token), get("/"), forged(post("/").bearer(token).body(b"{}"))];
    // At the same time, as a proxy waits for its timeout with each of them.
    let responses: Vec<_> = thread::scope(|scope| {
        let sending = requests.map(|request| scope.spawn(move || proxy.send(&request)));
        sending.into_iter().map(|response| response.join().unwrap()).collect()
    });
    for response in responses {
        assert!(matches!(response.status, 500..=599), "{}: {response:?}", proxy.name);
        assert_eq!(response.header("x-reached"), None, "{}: {response:?}", proxy.name);
    }
    let received = service.received();
    assert!(received.is_empty(), "{received:?}");
}

pub(crate) fn valid_token_passes_with_identity_headers(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let operator = authority.create();
    let named = create_named(&operator, NAME).send(authority.address).token();
    let service = Service::start();
    let large = vec![b'x'; 200_000];
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
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
                request.clone().header("Connection", "close, x-auth-token-id"),
            ] {
                let case = format!("{}: {request:?}", proxy.name);
                let response = proxy.send(&request.bearer(token));
                assert_eq!((response.status, response.header("x-reached")), (200, Some("yes")), "{case}");
                let received = service.received();
                let [received] = received.as_slice() else { panic!("{case}: {received:?}") };
                assert_eq!(
                    received.identity_headers(),
                    [("x-auth-token-id", id), ("x-auth-token-name", name)],
                    "{case}"
                );
                assert_eq!(received.header("authorization"), None, "{case}");
                // A hop behind the proxy drops what this header lists.
                let connection = received.header("connection").unwrap_or_default().to_ascii_lowercase();
                assert!(!connection.contains("auth"), "{case}: {connection}");
                let path = received.target.trim_start_matches("http://localhost");
                assert_eq!((received.method.as_str(), path), (method, target), "{case}");
                assert!(received.body == body, "{case}: another body");
            }
        }
    }
}

pub(crate) fn invalid_token_gets_challenge(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let old = authority.create();
    let token = authority.regenerate(&old);
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
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
        // The body never comes. Caddy waits for bodies of up to 256 KiB.
        (post("/").header("Content-Length", "300000"), BARE),
    ] {
        for request in [request.clone(), forged(request)] {
            let case = format!("{}: {request:?}", proxy.name);
            let response = proxy.send(&request);
            let challenged = (response.status, response.header("www-authenticate"));
            assert_eq!(challenged, (401, Some(challenge)), "{case}: {response:?}");
            assert_eq!(response.header("x-reached"), None, "{case}");
        }
    }
    // Some proxies reject these themselves: an internal path, and ambiguous headers.
    for request in [
        get("/.optoken"),
        get("/").bearer("x").bearer(&token),
        get("/").bearer(&old).header("Connection", "Authorization"),
    ] {
        let response = proxy.send(&request);
        assert!(matches!(response.status, 400 | 401 | 404), "{}: {request:?}: {response:?}", proxy.name);
    }
    let received = service.received();
    assert!(received.is_empty(), "{}: {received:?}", proxy.name);
    // A valid token passes, so the rejections had no other reason.
    assert_eq!(proxy.send(&get("/").bearer(&token)).header("x-reached"), Some("yes"), "{}", proxy.name);
    service.received();
}

pub(crate) fn every_request_on_keepalive_connection_is_checked(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let requests = [
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
    for request in requests {
        let case = format!("{}: {request:?}", proxy.name);
        let response = proxy.send(&request.bearer(&token));
        for received in service.received() {
            assert_eq!(received.header("upgrade"), None, "{case}: {received:?}");
            assert_ne!(received.method, "CONNECT", "{case}: {received:?}");
        }
        // The proxy forwards it without the upgrade, or rejects it.
        assert!(matches!(response.status, 200 | 400 | 403 | 404 | 405), "{case}: {response:?}");
    }
    // The next request on a connection may be of another client.
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

pub(crate) fn trailers_cannot_set_identity_headers(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let request = post("/").bearer(&token).header("Trailer", "X-Auth-Token-Id");
    let request = request.chunked_with_trailer(b"{}", "X-Auth-Token-Id: 7");
    assert_eq!(proxy.send(&request).status, 200, "{}", proxy.name);
    let received = service.received();
    let [received] = received.as_slice() else { panic!("{}: {received:?}", proxy.name) };
    // HAProxy can drop trailers from version 3.2 on.
    assert!(received.trailers.is_empty() || proxy.name == "haproxy", "{}: {received:?}", proxy.name);
    assert_eq!(received.identity_headers()[0], ("x-auth-token-id", "0"), "{}: {received:?}", proxy.name);
}

pub(crate) fn oversized_or_malformed_head_is_rejected(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let many = |request| (0..150).fold(request, |request: Request, _| request.header("X", "x"));
    for request in [
        many(get("/")),
        get("/").bearer(&"x".repeat(12_000)),
        get("/").bearer(&"x".repeat(20_000)),
        get("/").bearer("\u{1}"),
        get("/").authorization(""),
    ] {
        let response = proxy.send(&request);
        let case = format!("{}: {:.90}", proxy.name, format!("{request:?}"));
        assert!(matches!(response.status, 400 | 401 | 431 | 503), "{case}: {response:?}");
    }
    let received = service.received();
    assert!(received.is_empty(), "{}: {received:?}", proxy.name);
    // A valid token passes, so the rejections had no other reason.
    assert_eq!(proxy.send(&get("/").bearer(&token)).status, 200, "{}", proxy.name);
}

pub(crate) fn large_cookie_reaches_service(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    // A head of more than 8 or 16 KiB exceeds a limit of nginx or HAProxy itself.
    let length = if matches!(proxy.name, "nginx" | "haproxy") { 6_000 } else { 20_000 };
    let cookie = "c".repeat(length);
    let response = proxy.send(&get("/").bearer(&token).header("Cookie", &cookie));
    assert_eq!(response.status, 200, "{}: {response:?}", proxy.name);
    let received = service.received();
    let [received] = received.as_slice() else { panic!("{}: {received:?}", proxy.name) };
    assert_eq!(received.header("cookie"), Some(cookie.as_str()), "{}", proxy.name);
}

/// Headers of the answer with a challenge.
fn challenges(response: &Response) -> Vec<&str> {
    let headers = response.headers.iter().filter(|(name, _)| name == "www-authenticate");
    headers.map(|(_, value)| value.as_str()).collect()
}

/// A browser would keep the token, and send it with requests that other sites cause.
pub(crate) fn basic_is_offered_to_programs_and_to_no_browser(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let wget = || get("/").header("User-Agent", "Wget/1.21.3");
    for request in [
        get("/"),
        get("/").header("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        wget().header("Origin", "https://example.com"),
        wget().header("Sec-Fetch-Site", "none"),
        wget().header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", "navigate"),
    ] {
        let response = proxy.send(&request);
        assert_eq!(
            (response.status, challenges(&response)),
            (401, vec![BARE]),
            "{}: {request:?}",
            proxy.name
        );
    }
    let response = proxy.send(&wget());
    let offered = (response.status, challenges(&response));
    assert_eq!(offered, (401, vec![BARE, BASIC]), "{}: {response:?}", proxy.name);
    assert!(service.received().is_empty(), "{}", proxy.name);
    // A success has no challenge.
    let response = proxy.send(&wget().bearer(&token));
    assert_eq!((response.status, challenges(&response)), (200, vec![]), "{}: {response:?}", proxy.name);
    service.received();
    // The program itself asks without a token first.
    let mut wget = needs::command(WGET);
    let url = format!("http://{}/", proxy.address());
    wget.args(["--no-config", "--no-proxy", "--tries=1", "--quiet", "--output-document=-", "--user=x"]);
    let run = wget.arg(format!("--password={token}")).arg(url).output().unwrap();
    assert!(run.status.success(), "{}: {}", proxy.name, String::from_utf8_lossy(&run.stderr));
    assert_eq!(service.received().len(), 1, "{}", proxy.name);
}

/// The code blocks of a language in host/proxies/README.md.
fn readme_blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies/README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = readme.split(&fence).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Inserts the lines for CORS where the README has them.
fn with_preflight(name: &str, shipped: &str) -> String {
    let insert = |text: &str, block: &str, before: &str| {
        assert_eq!(text.matches(before).count(), 1, "{before}");
        text.replace(before, &format!("{block}{before}"))
    };
    match name {
        "nginx" => {
            let blocks = readme_blocks("nginx");
            let [map, location] = blocks.as_slice() else { panic!("{blocks:?}") };
            insert(&insert(shipped, map, "server {\n"), location, "    # A service may treat")
        }
        "caddy" => insert(shipped, &readme_blocks("caddyfile")[0], "\t\t# Requests inside an upgraded"),
        "haproxy" => insert(shipped, &readme_blocks("haproxy")[0], "    http-request lua.optoken\n"),
        name => panic!("{name}"),
    }
}

pub(crate) fn preflight_lines_answer_one_origin(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let change = |shipped: String| with_preflight(kind.name, &shipped);
    let proxy = Proxy::start_with(kind, &env, authority.address, service.address, change);
    let send = |request: &Request| {
        let mut connection = Connection::open(proxy.address()).unwrap();
        connection.write(&request.to_bytes());
        connection.read_head().unwrap()
    };
    let asks = |method: &str, origin: &str, asked: &[&str]| {
        let request = request(method, "/path?a=b").header("Origin", origin);
        asked.iter().fold(request, |request, asked| request.header("Access-Control-Request-Method", asked))
    };
    let page = "https://app.example.com";
    let preflight = send(&asks("OPTIONS", page, &["POST"]));
    assert_eq!(preflight.status, 204, "{}: {preflight:?}", proxy.name);
    for (name, value) in [
        ("access-control-allow-origin", page),
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-allow-headers", "Authorization"),
        ("vary", "Origin"),
    ] {
        assert_eq!(preflight.header(name), Some(value), "{}: {preflight:?}", proxy.name);
    }
    for request in [
        asks("OPTIONS", "https://app.example.com.evil.example", &["POST"]),
        asks("OPTIONS", "https://appxexample.com", &["POST"]),
        asks("OPTIONS", "null", &["POST"]),
        asks("OPTIONS", page, &[]),
        asks("GET", page, &["POST"]),
        asks("POST", page, &["OPTIONS"]).body(b"{}"),
    ] {
        let response = send(&request);
        let allowed = response.header("access-control-allow-origin");
        assert_eq!((response.status, allowed), (401, None), "{}: {request:?}", proxy.name);
    }
    let received = service.received();
    assert!(received.is_empty(), "{}: {received:?}", proxy.name);
    // Other requests pass by their tokens, a preflight with one included.
    assert_eq!(send(&asks("GET", page, &[]).bearer(&token)).status, 200, "{}", proxy.name);
    assert_eq!(send(&asks("OPTIONS", "null", &["GET"]).bearer(&token)).status, 200, "{}", proxy.name);
    assert_eq!(service.received().len(), 2, "{}", proxy.name);
}

/// The log of optoken has the address of the client that the proxy states.
pub(crate) fn refused_client_is_logged(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let request = get("/").bearer("apiv3_unknown").header("X-Forwarded-For", "192.0.2.9");
    assert_eq!(proxy.send(&request).status, 401, "{}", proxy.name);
    // Envoy cannot state the request in headers.
    let path = if proxy.name == "envoy" { "/api/v3/verify/" } else { VERIFY };
    authority.wait_for_log(&format!(
        "the token is not known client_ip=\"127.0.0.1\" forwarded_for=\"127.0.0.1\" reason=\"unknown\" \
         path=\"{path}\""
    ));
    assert!(!authority.log().contains("192.0.2.9"), "{}: {}", proxy.name, authority.log());
}

/// The question has no other header of the client than those that optoken reads, and goes to the
/// configured address.
pub(crate) fn question_has_only_authorization(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = Service::start();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    // Envoy cannot state the request in headers.
    let target = if proxy.name == "envoy" { "/api/v3/verify/path" } else { VERIFY };
    for credential in [Some("Bearer apiv3_x"), None] {
        let request = forged(post("/path").body(b"{}")).header("Cookie", "c").header("X-Other", "x");
        let request = credential.into_iter().fold(request, Request::authorization);
        assert_eq!(proxy.send(&request).status, 200, "{}", proxy.name);
        let asked = authority.received();
        let [asked] = asked.as_slice() else { panic!("{}: {asked:?}", proxy.name) };
        assert_eq!((asked.target.as_str(), asked.header("authorization")), (target, credential), "{asked:?}");
        assert_eq!(asked.identity_headers(), [], "{}: {asked:?}", proxy.name);
        assert!(asked.body.is_empty(), "{}: {asked:?}", proxy.name);
        for name in ["cookie", "x-other"] {
            assert_eq!(asked.header(name), None, "{}: {asked:?}", proxy.name);
        }
    }
}

/// A default of the script would receive the tokens instead.
pub(crate) fn haproxy_without_address_refuses_to_start() {
    let env = TestEnv::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies");
    let script = fs::read_to_string(shipped.join("haproxy.lua")).unwrap();
    assert!(!script.contains("8181") && !script.contains("127.0.0.1"), "{script}");
    fs::write(env.home().join("haproxy.lua"), script).unwrap();
    let shipped = fs::read_to_string(shipped.join("haproxy.cfg")).unwrap();
    let shipped = shipped.replace("/etc/haproxy/", &format!("{}/", env.home().display()));
    let without: String =
        shipped.split_inclusive('\n').filter(|line| !line.contains("OPTOKEN_VERIFY_URL")).collect();
    let empty = shipped.replace("http://127.0.0.1:8181/api/v3/verify", "\"\"");
    for (configuration, starts) in [(&shipped, true), (&without, false), (&empty, false)] {
        let file = env.file("haproxy.cfg", configuration.as_bytes());
        let mut check = needs::command(HAPROXY);
        let check = check.arg("-c").arg("-f").arg(file).env_remove("OPTOKEN_VERIFY_URL").output().unwrap();
        let stderr = String::from_utf8_lossy(&check.stderr);
        assert_eq!(check.status.success(), starts, "{configuration}\n{stderr}");
        let named = stderr.contains("the address of optoken is missing. Add to the section global");
        assert_eq!(named, !starts, "{stderr}");
    }
}

pub(crate) fn unreachable_or_silent_authority_denies(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    assert_eq!(proxy.send(&get("/").bearer(&token)).status, 200, "{}", proxy.name);
    service.received();
    let address = authority.address;
    authority.stop();
    // Keeps the port from the server of another test.
    let _port = Port::of(address);
    assert_unavailable(&proxy, &service, &token);
    drop(proxy);

    // An authority that accepts connections and sends nothing.
    let other = TestEnv::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(kind, &other, silent.local_addr().unwrap(), service.address);
    assert_unavailable(&proxy, &service, &token);
}

pub(crate) fn unavailable_store_denies(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&["--max-staleness", "1"]);
    let token = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let store = rusqlite::Connection::open(env.store()).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("tokens cannot be checked", || {
        get(VERIFY).bearer(&token).send(authority.address).status == 503
    });
    let response = proxy.send(&get("/").bearer(&token));
    // Envoy forwards no header of an authority that fails.
    let retry_after = (proxy.name != "envoy").then_some("1");
    assert_eq!((response.status, response.header("retry-after")), (503, retry_after), "{}", proxy.name);
    // A request without a credential gets its 401 all the same.
    assert_eq!(proxy.send(&get("/")).status, 401, "{}", proxy.name);
    let received = service.received();
    assert!(received.is_empty(), "{received:?}");
    store.execute_batch("ALTER TABLE away RENAME TO catalog").unwrap();
    eventually("tokens are checked again", || proxy.send(&get("/").bearer(&token)).status == 200);
}

pub(crate) fn disabled_auth_passes_without_identity_headers(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&["--store", "memory:", "--without-auth"]);
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    assert_eq!(proxy.send(&forged(get("/"))).status, 200, "{}", proxy.name);
    let received = service.received();
    let headers = received[0].identity_headers();
    // Some proxies send empty headers.
    assert!(headers.iter().all(|(_, value)| value.is_empty()), "{}: {headers:?}", proxy.name);
}

pub(crate) fn deleted_token_is_rejected_at_once(kind: &ProxyKind) {
    let env = TestEnv::new();
    let authority = env.serve(&[]);
    let operator = authority.create();
    let service = Service::start();
    let proxy = Proxy::start(kind, &env, authority.address, service.address);
    let token = create_named(&operator, "ci").send(authority.address).token();
    let status = || proxy.send(&get("/").bearer(&token)).status;
    assert_eq!(status(), 200, "{}", proxy.name);
    assert_eq!(delete_named(&operator, "ci").send(authority.address).status, 200);
    assert_eq!(status(), 401, "{}", proxy.name);
}

//! Bootstrap requests through a proxy on the same machine, and over IPv6.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::forgery_cases::assert_all_rejected;
use crate::needs::{self, HAPROXY, NGINX};
use crate::support::{CREATE, ChildGuard, TIMEOUT, TestEnv, eventually, remember_tokens};

pub(crate) fn forged_requests_over_ipv6_are_rejected() {
    assert_all_rejected("[::1]:0");
}

/// A proxy that forwards all requests to a server.
struct Proxy {
    _child: ChildGuard,
    socket: PathBuf,
}

impl Proxy {
    /// nginx with a minimal configuration, and these directives.
    fn nginx(env: &TestEnv, to: SocketAddr, more: &str) -> Self {
        let socket = env.home().join("proxy");
        let configuration = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxied; fastcgi_temp_path fastcgi; \
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
             server {{ listen unix:{}; location / {{ proxy_pass http://{to}; {more} }} }} }}",
            socket.display()
        );
        let file = env.file("nginx.conf", configuration.as_bytes());
        let mut command = needs::command(NGINX);
        command.args(["-e", "stderr", "-p"]).arg(env.home()).arg("-c").arg(file);
        Self::start(command, socket)
    }

    /// `HAProxy` with a minimal configuration, and these directives.
    fn haproxy(env: &TestEnv, to: SocketAddr, more: &str) -> Self {
        let socket = env.home().join("proxy");
        let configuration = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend near\n bind unix@{}\n default_backend far\nbackend far\n {more}\n server server {to}\n",
            socket.display()
        );
        let mut command = needs::command(HAPROXY);
        command.arg("-db").arg("-f").arg(env.file("haproxy.cfg", configuration.as_bytes()));
        Self::start(command, socket)
    }

    fn start(mut command: Command, socket: PathBuf) -> Self {
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let proxy = Self { _child: ChildGuard(child), socket };
        eventually("the proxy listens", || UnixStream::connect(&proxy.socket).is_ok());
        proxy
    }

    /// Status of a bootstrap request of a client with this Host header.
    fn create(&self, host: &str) -> u16 {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let request = format!("POST {CREATE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        remember_tokens(&response);
        response.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{response:?}"))
    }
}

/// Starts a proxy for a server, with these directives.
type Start = fn(&TestEnv, SocketAddr, &str) -> Proxy;

pub(crate) fn nginx_clients_cannot_bootstrap() {
    assert_cannot_bootstrap(
        Proxy::nginx,
        &[
            ("", "db.example"),
            ("proxy_set_header Host $http_host;", "localhost"),
            ("proxy_http_version 1.1; proxy_set_header X-Forwarded-Proto $scheme;", "localhost"),
            ("proxy_http_version 1.1; proxy_set_header X-Real-IP $remote_addr;", "localhost"),
            ("proxy_http_version 1.1; proxy_set_header Host $host;", "db.example"),
        ],
        "proxy_http_version 1.1;",
    );
}

pub(crate) fn haproxy_clients_cannot_bootstrap() {
    assert_cannot_bootstrap(
        Proxy::haproxy,
        &[("", "db.example"), ("http-request set-header X-Forwarded-Proto http", "localhost")],
        "",
    );
}

/// Asserts that clients of a proxy cannot bootstrap with these directives and Host headers.
///
/// With the directives `transparent` a request has no trace of the proxy. So `--help` and
/// host/proxies/README.md advise to create the token first, or to start with
/// `--admin-token-bootstrap off`.
fn assert_cannot_bootstrap(start: Start, cases: &[(&str, &str)], transparent: &str) {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let before = env.stored_catalog();
    for (directives, host) in cases {
        let proxy_env = TestEnv::new();
        let proxy = start(&proxy_env, server.address, directives);
        assert_eq!(proxy.create(host), 403, "{directives} {host}");
        assert_eq!(env.stored_catalog(), before, "{directives} {host}");
    }
    for (bootstrap, status) in [("loopback", 201), ("off", 403)] {
        let (env, proxy_env) = (TestEnv::new(), TestEnv::new());
        let server = env.serve(&["--admin-token-bootstrap", bootstrap]);
        let created = start(&proxy_env, server.address, transparent).create("localhost");
        assert_eq!(created, status, "{bootstrap}");
    }
}

//! TLS on both listeners, with curl and a tunnel as clients (docs/compatibility.md 5.1, 5.5).

use std::fmt::Display;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::http2;
use crate::memory::assert_forgotten;
use crate::needs::{self, CURL};
use crate::support::{
    CREATE, CaseName, Connection, NOT_AUTHENTICATED, RECOVERY, REGENERATE, Server, TIMEOUT, TestCertificate,
    assert_closed, assert_token_form, assert_too_late, get, post,
};

/// Exit code of curl if the handshake fails.
const SSL_CONNECT_ERROR: i32 = 35;

/// Limit of a server for a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

impl TestCertificate {
    /// Sends a request with curl.
    fn curl(&self, args: &[&str], to: impl Display, path: &str) -> CurlOutput {
        let output = needs::command(CURL)
            .env_clear()
            // Reads no configuration, and stops in any case.
            .args(["-q", "--silent", "--show-error", "--max-time", &TIMEOUT.as_secs().to_string()])
            .args(["--write-out", "\n%{http_code} %{http_version}", "--cacert"])
            .arg(&self.authority)
            .args(args)
            .arg(format!("https://{to}{path}"))
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let (body, (status, version)) = stdout
            .rsplit_once('\n')
            .and_then(|(body, last)| Some((body.to_owned(), last.split_once(' ')?)))
            .unwrap();
        CurlOutput {
            code: output.status.code().unwrap(),
            status: status.parse().unwrap(),
            version: version.to_owned(),
            body,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Requests a new token with curl.
    #[track_caller]
    fn token(&self, args: &[&str], to: impl Display, path: &str, credential: Option<&str>) -> String {
        let header = credential.map(|token| format!("Authorization: Bearer {token}"));
        let header = header.as_ref().map_or(vec![], |header| vec!["--header", header.as_str()]);
        let response = self.curl(&[&["--request", "POST"], args, &header].concat(), to, path);
        assert_eq!((response.code, response.status), (0, 201), "{response:?}");
        token_in(&response.body)
    }

    /// Status of a request with this token.
    fn status(&self, to: SocketAddr, token: &str) -> u16 {
        self.curl(&["--header", &format!("Authorization: Bearer {token}")], to, "/health").status
    }
}

pub(crate) fn token_in(body: &str) -> String {
    let token = serde_json::from_str::<Value>(body).unwrap()["token"].as_str().unwrap().to_owned();
    assert_token_form(&token);
    token
}

#[derive(Debug)]
struct CurlOutput {
    code: i32,
    status: u16,
    version: String,
    body: String,
    #[expect(dead_code, reason = "shown by Debug")]
    stderr: String,
}

/// Carries bytes of clients without TLS to a server with TLS, and back.
pub(crate) struct TlsTunnel {
    entrance: SocketAddr,
    open: mpsc::Receiver<()>,
    _runtime: Runtime,
}

impl TlsTunnel {
    /// A tunnel to the server at `to`, which negotiates `protocol` (ALPN).
    fn new(fixture: &TestCertificate, to: SocketAddr, protocol: &str) -> Self {
        Self::trusting(&fixture.authority, to, protocol)
    }

    /// The same, with this certificate of an authority, or that of the server itself.
    pub(crate) fn trusting(certificate: &Path, to: SocketAddr, protocol: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![protocol.into()];
        let connector = TlsConnector::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let entrance = listener.local_addr().unwrap();
        let (opened, open) = mpsc::channel();
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut near, _)) = listener.accept().await {
                let (connector, opened) = (connector.clone(), opened.clone());
                tokio::spawn(async move {
                    let far = tokio::net::TcpStream::connect(to).await?;
                    let name = ServerName::from(to.ip());
                    let mut far = connector.connect(name, far).await?;
                    let _ = opened.send(());
                    tokio::io::copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { entrance, open, _runtime: runtime }
    }

    /// A connection that has finished the handshake and sent nothing.
    pub(crate) fn connect(&self) -> Connection {
        let connection = Connection::open(self.entrance).unwrap();
        self.open.recv_timeout(TIMEOUT).unwrap();
        connection
    }
}

pub(crate) fn curl_creates_regenerates_and_recovers() {
    rotate_with_curl(|_, _| ());
}

pub(crate) fn server_memory_has_no_token_after_tls_use() {
    rotate_with_curl(assert_forgotten);
}

/// Creates, regenerates and recovers the token with both versions of TLS. Calls `check` with the
/// server, which is still running, and all its tokens.
fn rotate_with_curl(check: impl Fn(&Server, &[&str])) {
    for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let fixture = TestCertificate::new();
        let server = fixture.serve(&RECOVERY);
        let (main, recovery) = (server.address, server.recovery());
        for message in [
            format!("listening on https://{main}\n"),
            format!(
                "optoken create token --admin --host https://{main} --tls-ca {}\n",
                fixture.certificate.display()
            ),
            format!("token recovery is open on https://{recovery} for 10m: "),
            format!(
                "optoken create token --admin --regenerate --host https://{recovery} --tls-ca {}\n",
                fixture.certificate.display()
            ),
        ] {
            server.wait_for_log(&message);
        }

        let created = fixture.token(version, main, CREATE, None);
        let regenerated = fixture.token(version, main, REGENERATE, Some(&created));
        let recovered = fixture.token(version, recovery, REGENERATE, None);
        assert_closed(recovery);
        for (token, status) in [(&created, 401), (&regenerated, 401), (&recovered, 200)] {
            assert_eq!(fixture.status(main, token), status);
        }
        let anonymous = fixture.curl(version, main, "/health");
        assert_eq!((anonymous.status, anonymous.body.as_str()), (401, NOT_AUTHENTICATED));
        check(&server, &[&created, &regenerated, &recovered]);
        server.stop();
    }
}

pub(crate) fn certificate_names_are_valid_hosts() {
    let fixture = TestCertificate::with_names(&["db.example", "*.wild.example"]);
    let server = fixture.serve(&RECOVERY);
    for (to, path) in [(server.address, CREATE), (server.recovery(), REGENERATE)] {
        let send = |host: &str, args: &[&str]| {
            let host = format!("{host}:{}", to.port());
            let resolve = format!("{host}:127.0.0.1");
            let args = [&["--request", "POST", "--resolve", &resolve], args].concat();
            fixture.curl(&args, host, path)
        };
        for host in ["a.wild.example", "evil.example"] {
            let response = send(host, &["--insecure"]);
            assert_eq!(response.status, 403, "{response:?}");
            assert!(response.body.starts_with("the Host header names no address"), "{response:?}");
        }
        // A browser is recognised by its headers, whatever the host.
        let page = send("db.example", &["--header", "Sec-Fetch-Site: same-origin"]);
        assert_eq!(page.status, 403, "{page:?}");
        let response = send("db.example", &[]);
        assert_eq!(response.status, 201, "{response:?}");
        token_in(&response.body);
    }
}

pub(crate) fn tls_below_minimum_is_refused() {
    // Most builds of OpenSSL disable old versions above security level 0.
    let old = ["--ciphers", "DEFAULT@SECLEVEL=0", "--tlsv1.0", "--tls-max", "1.1"];
    for (minimum, refused, accepted) in [
        (&[][..], &old[..], &["--tls-max", "1.2"][..]),
        (&["--tls-minimum-version", "tls-1.2"], &old, &["--tls-max", "1.2"]),
        (&["--tls-minimum-version", "tls-1.3"], &["--tls-max", "1.2"], &["--tlsv1.3"]),
    ] {
        let fixture = TestCertificate::new();
        let server = fixture.serve(&[&RECOVERY, minimum].concat());
        for to in [server.address, server.recovery()] {
            let response = fixture.curl(refused, to, "/");
            assert_eq!((response.code, response.status), (SSL_CONNECT_ERROR, 0), "{response:?}");
            assert_eq!(fixture.curl(accepted, to, "/").code, 0);
        }
        // The server has rejected the handshake, not curl.
        server.wait_for_log("TLS handshake failed: peer is incompatible");
    }
}

pub(crate) fn tls_variables_equal_tls_options() {
    let fixture = TestCertificate::new();
    let server = fixture
        .env
        .serve_with(&[])
        .env("INFLUXDB3_TLS_CERT", &fixture.certificate)
        .env("INFLUXDB3_TLS_KEY", &fixture.key)
        .env("INFLUXDB3_TLS_MINIMUM_VERSION", "tls-1.3")
        .start();
    assert_eq!(fixture.curl(&["--tls-max", "1.2"], server.address, "/").code, SSL_CONNECT_ERROR);
    fixture.token(&[], server.address, CREATE, None);
}

pub(crate) fn alpn_selects_http_version() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&RECOVERY);
    for (to, status) in [(server.address, 401), (server.recovery(), 404)] {
        for (offered, agreed) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
            let response = fixture.curl(&[offered], to, "/");
            assert_eq!(
                (response.status, response.version.as_str()),
                (status, agreed),
                "{offered}: {response:?}"
            );
        }
    }
    let token = fixture.token(&["--http2"], server.address, CREATE, None);
    fixture.token(&["--http2"], server.recovery(), REGENERATE, None);
    assert_closed(server.recovery());
    assert_eq!(fixture.status(server.address, &token), 401);
}

pub(crate) fn plaintext_gets_no_response_and_ten_warnings() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&[&RECOVERY, &["--log-filter", "info"][..]].concat());
    for to in [server.address, server.recovery()] {
        let plain = post(REGENERATE).to_bytes();
        let other = [&http2::opening()[..], b"\0", b"\x16\x03\x01\0\x01\0"];
        for bytes in other.into_iter().chain([&plain[..]; 15]) {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut response = Vec::new();
            match stream.read_to_end(&mut response) {
                // At most a TLS alert (RFC 8446, section 6).
                Ok(_) => assert!(response.first().is_none_or(|first| *first == 0x15), "{response:?}"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    }
    fixture.token(&[], server.address, CREATE, None);
    fixture.token(&[], server.recovery(), REGENERATE, None);
    server.wait_for_log("token recovery is closed");
    // Any client can cause this as often as it likes, so each listener logs it ten times a minute.
    let log = server.log();
    let warnings =
        log.lines().filter(|line| line.contains("TLS handshake failed") && line.contains(" peer="));
    assert_eq!(warnings.count(), 20, "{log}");
}

pub(crate) fn recovery_over_tls_closes_after_use() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&RECOVERY);
    let recovery = server.recovery();
    let old = fixture.token(&[], server.address, CREATE, None);
    let tunnel = TlsTunnel::new(&fixture, recovery, "http/1.1");

    // Connections that are already open: before the handshake, after it, after a request, and in
    // the middle of a request.
    let silent = Connection::open(recovery).unwrap();
    let unused = tunnel.connect();
    let mut used = tunnel.connect();
    used.write(&get("/").to(recovery).to_bytes());
    assert_eq!(used.read().unwrap().status, 404);
    let mut begun = tunnel.connect();
    begun.write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: ").as_bytes());

    let new = fixture.token(&[], recovery, REGENERATE, None);
    assert_closed(recovery);
    begun.write(format!("{recovery}\r\n\r\n").as_bytes());
    assert_too_late(begun.read());
    for mut connection in [silent, unused, used] {
        assert!(connection.read().is_err());
    }
    server.wait_for_log("token recovery is closed");
    assert_eq!([&old, &new].map(|token| fixture.status(server.address, token)), [401, 200]);
    server.stop();
}

pub(crate) fn idle_tls_connections_do_not_block_recovery() {
    let begin = |to, bytes: &[u8]| {
        let mut connection = Connection::open(to).unwrap();
        connection.write(bytes);
        connection
    };
    for (case, count) in [("silent", 24), ("in the handshake", 24), ("after the handshake", 8)] {
        let fixture = TestCertificate::new();
        let server = fixture.serve(&RECOVERY);
        let recovery = server.recovery();
        let old = fixture.token(&[], server.address, CREATE, None);
        let tunnel = TlsTunnel::new(&fixture, recovery, "http/1.1");
        // More than the listener allows.
        let waiting: Vec<_> = (0..count)
            .map(|_| match case {
                "silent" => begin(recovery, b""),
                "after the handshake" => tunnel.connect(),
                // The beginning of a ClientHello.
                _ => begin(recovery, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
            })
            .collect();
        let _case = CaseName(case);
        let new = fixture.token(&[], recovery, REGENERATE, None);
        assert_eq!([&old, &new].map(|token| fixture.status(server.address, token)), [401, 200], "{case}");
        drop(waiting);
    }
}

pub(crate) fn shutdown_finishes_tls_requests_in_flight() {
    let fixture = TestCertificate::new();
    for protocol in ["http/1.1", "h2"] {
        let store = fixture.env.home().join(format!("{}.db", &protocol[..2]));
        let store = format!("sqlite:{}", store.display());
        let mut server = fixture.serve(&["--store", &store]);
        let tunnel = TlsTunnel::new(&fixture, server.address, protocol);
        // The server reads a request, and waits for its body of two bytes.
        let mut connection = tunnel.connect();
        if protocol == "h2" {
            let head = http2::request("POST", CREATE, &[("content-length", "2")], false);
            connection.write(&[http2::opening(), head].concat());
            http2::synchronize(&mut connection);
        } else {
            let head = post(CREATE).header("Content-Length", "2").header("Expect", "100-continue");
            connection.write(&head.to_bytes());
            assert_eq!(connection.read().unwrap().status, 100);
        }
        // A connection before the handshake does not delay the shutdown.
        let silent = Connection::open(server.address).unwrap();
        server.signal(Signal::TERM);
        server.wait_for_log("SIGTERM: stopping");
        let token = if protocol == "h2" {
            connection.write(&http2::body(b"{}"));
            token_in(&http2::read_data(&mut connection))
        } else {
            connection.write(b"{}");
            connection.read().unwrap().token()
        };
        let responded_at = Instant::now();
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
        assert!(responded_at.elapsed() < HANDSHAKE_LIMIT, "the server has waited for a handshake");
        drop(silent);
        let server = fixture.serve(&["--store", &store]);
        assert_eq!(fixture.status(server.address, &token), 200, "{protocol}");
    }
}

pub(crate) fn certificate_chain_in_one_file_is_sent() {
    let fixture = TestCertificate::new();
    let all = [&fixture.key, &fixture.certificate, &fixture.authority]
        .map(|path| fs::read_to_string(path).unwrap());
    let all = fixture.env.file("all.pem", all.concat().as_bytes());
    let server = fixture.serve_files(&all, &all).start();
    let response = fixture.curl(&["--write-out", "%{certs}\n%{http_code} x"], server.address, "/");
    assert_eq!(response.body.matches("BEGIN CERTIFICATE").count(), 2, "{response:?}");
}

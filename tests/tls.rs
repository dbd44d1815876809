//! TLS on both listeners, as curl and other clients see it (COMPAT 5.1, 5.5).

use std::env;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::http2;
use crate::memory::assert_forgotten;
use crate::recovery::{assert_closes, assert_too_late};
use crate::support::{
    CREATE, Cli, Connection, NOT_AUTHENTICATED, RECOVERY, REGENERATE, Server, TIMEOUT, TestEnv,
    assert_token_form, eventually, get, post,
};

/// What curl ends with where it and the server do not agree on TLS.
const SSL_CONNECT_ERROR: i32 = 35;

/// How long a server waits for a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// A machine with the certificate of a server, and that of the authority that has signed it.
struct TestCertificate {
    env: TestEnv,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl TestCertificate {
    fn new() -> Self {
        Self::with_names(&["127.0.0.1", "localhost"])
    }

    /// With a certificate for these names and addresses.
    fn with_names(names: &[&str]) -> Self {
        let env = TestEnv::new();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "authority of a test");
        let authority_key = KeyPair::generate().unwrap();
        let signed = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let issuer = Issuer::from_params(&authority, &authority_key);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let private = env.file("key.pem", key.serialize_pem().as_bytes());
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            authority: env.file("authority.pem", signed.pem().as_bytes()),
            certificate: env.file("certificate.pem", certificate.pem().as_bytes()),
            key: private,
            env,
        }
    }

    fn serve_with(&self, args: &[&str]) -> Cli {
        self.serve_files(&self.certificate, &self.key).args(args)
    }

    fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args).start()
    }

    fn serve_files(&self, certificate: &Path, key: &Path) -> Cli {
        self.env.serve_with(&["--tls-cert"]).arg(certificate).arg("--tls-key").arg(key)
    }

    /// Asks with the real curl.
    fn curl(&self, args: &[&str], to: impl Display, path: &str) -> CurlOutput {
        let output = Command::new("curl")
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            // No configuration, and an end in any case.
            .args(["-q", "--silent", "--show-error", "--max-time", &TIMEOUT.as_secs().to_string()])
            .args(["--write-out", "\n%{http_code} %{http_version}", "--cacert"])
            .arg(&self.authority)
            .args(args)
            .arg(format!("https://{to}{path}"))
            .output()
            .unwrap_or_else(|error| panic!("this test asks with curl, which has to be installed: {error}"));
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

    /// Asks with the real curl for a new token, and with a credential if there is one.
    #[track_caller]
    fn token(&self, args: &[&str], to: impl Display, path: &str, credential: Option<&str>) -> String {
        let header = credential.map(|token| format!("Authorization: Bearer {token}"));
        let header = header.as_ref().map_or(vec![], |header| vec!["--header", header.as_str()]);
        let answer = self.curl(&[&["--request", "POST"], args, &header].concat(), to, path);
        assert_eq!((answer.code, answer.status), (0, 201), "{answer:?}");
        token_in(&answer.body)
    }

    /// The status of a request with this token.
    fn status(&self, to: SocketAddr, token: &str) -> u16 {
        self.curl(&["--header", &format!("Authorization: Bearer {token}")], to, "/health").status
    }
}

fn token_in(body: &str) -> String {
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

/// Speaks TLS for what knows none: bytes that are sent into it arrive at a server, and the other way round.
struct TlsTunnel {
    entrance: SocketAddr,
    open: mpsc::Receiver<()>,
    _runtime: Runtime,
}

impl TlsTunnel {
    /// A way to the server at `to` that speaks `protocol` there (ALPN).
    fn new(fixture: &TestCertificate, to: SocketAddr, protocol: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&fixture.authority).unwrap()).unwrap();
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

    /// A connection on which TLS has been agreed upon, and nothing sent.
    fn connect(&self) -> Connection {
        let connection = Connection::open(self.entrance).unwrap();
        self.open.recv_timeout(TIMEOUT).unwrap();
        connection
    }
}

#[test]
fn curl_creates_regenerates_and_recovers_with_both_versions_of_tls() {
    for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let fixture = TestCertificate::new();
        let server = fixture.serve(&RECOVERY);
        let (main, recovery) = (server.address, server.recovery());
        for said in [
            format!("listening on https://{main}\n"),
            format!("influxdb3 create token --admin --host https://{main}\n"),
            format!("token recovery is open on https://{recovery} for 10m: "),
            format!("influxdb3 create token --admin --regenerate --host https://{recovery}\n"),
        ] {
            server.wait_for_log(&said);
        }

        let created = fixture.token(version, main, CREATE, None);
        let regenerated = fixture.token(version, main, REGENERATE, Some(&created));
        let recovered = fixture.token(version, recovery, REGENERATE, None);
        assert_closes(recovery);
        for (token, status) in [(&created, 401), (&regenerated, 401), (&recovered, 200)] {
            assert_eq!(fixture.status(main, token), status);
        }
        let anonymous = fixture.curl(version, main, "/health");
        assert_eq!((anonymous.status, anonymous.body.as_str()), (401, NOT_AUTHENTICATED));
        assert_forgotten(&server, &[&created, &regenerated, &recovered]);
        server.stop();
    }
}

#[test]
fn a_server_answers_to_the_names_in_its_certificate() {
    let fixture = TestCertificate::with_names(&["db.example", "*.wild.example"]);
    let server = fixture.serve(&RECOVERY);
    for (to, path) in [(server.address, CREATE), (server.recovery(), REGENERATE)] {
        let ask = |host: &str, args: &[&str]| {
            let host = format!("{host}:{}", to.port());
            let resolve = format!("{host}:127.0.0.1");
            let args = [&["--request", "POST", "--resolve", &resolve], args].concat();
            fixture.curl(&args, host, path)
        };
        for host in ["a.wild.example", "evil.example"] {
            let answer = ask(host, &["--insecure"]);
            assert_eq!(answer.status, 403, "{answer:?}");
            assert!(answer.body.starts_with("the Host header names no address"), "{answer:?}");
        }
        // That is for clients; a page is told by what its browser says.
        let page = ask("db.example", &["--header", "Sec-Fetch-Site: same-origin"]);
        assert_eq!(page.status, 403, "{page:?}");
        let answer = ask("db.example", &[]);
        assert_eq!(answer.status, 201, "{answer:?}");
        token_in(&answer.body);
    }
}

#[test]
fn the_commands_that_a_server_tells_of_work() {
    for (names, bind, host) in [
        (&["127.0.0.1"][..], "127.0.0.1", "https://127.0.0.1:PORT"),
        (&["localhost"], "127.0.0.1", "https://localhost:PORT"),
        (&["db.example"], "127.0.0.1", "https://127.0.0.1:PORT --tls-no-verify"),
        (&["db.example"], "0.0.0.0", "https://127.0.0.1:PORT --tls-no-verify"),
        (&["localhost", "db.example"], "0.0.0.0", "https://localhost:PORT"),
        (&[], "0.0.0.0", "http://127.0.0.1:PORT"),
    ] {
        let fixture = TestCertificate::with_names(names);
        let env = &fixture.env;
        let any = format!("{bind}:0");
        let mut serve = env.influxdb3(["serve", "--http-bind", &any]);
        serve = serve.args(&["--admin-token-recovery-http-bind", &any]);
        serve = serve.args(&["--admin-token-recovery-insecure-allow-remote", "--admin-token-recovery-code"]);
        if !names.is_empty() {
            serve = serve.arg("--tls-cert").arg(&fixture.certificate).arg("--tls-key").arg(&fixture.key);
        }
        let server = serve.arg("--data-dir").arg(env.data_dir()).start();
        let code = fs::read_to_string(env.data_dir().join("recovery-code")).unwrap();
        for (address, said, more) in [
            (server.address, "create it with: influxdb3 ", &[][..]),
            (server.recovery(), "with: influxdb3 create token --admin --regenerate ", &["--yes"]),
        ] {
            let log = server.log();
            let (before, command) = log.rsplit_once(said).unwrap();
            let command =
                format!("{}{}", said.split_once("influxdb3 ").unwrap().1, command.lines().next().unwrap());
            let host = host.replace("PORT", &address.port().to_string());
            assert!(command.contains(&format!(" --host {host}")), "{before}{said}: {command}");
            let cli = env.influxdb3(command.split_whitespace()).args(more);
            let cli = cli.env("INFLUXDB3_TLS_CA", &fixture.authority).input(&code);
            cli.run().token();
        }
    }
}

#[test]
fn a_client_below_the_minimum_is_refused() {
    // Old versions are off in most builds of OpenSSL, until that level is 0.
    let old = ["--ciphers", "DEFAULT@SECLEVEL=0", "--tlsv1.0", "--tls-max", "1.1"];
    for (minimum, refused, accepted) in [
        (&[][..], &old[..], &["--tls-max", "1.2"][..]),
        (&["--tls-minimum-version", "tls-1.2"], &old, &["--tls-max", "1.2"]),
        (&["--tls-minimum-version", "tls-1.3"], &["--tls-max", "1.2"], &["--tlsv1.3"]),
    ] {
        let fixture = TestCertificate::new();
        let server = fixture.serve(&[&RECOVERY, minimum].concat());
        for to in [server.address, server.recovery()] {
            let answer = fixture.curl(refused, to, "/");
            assert_eq!((answer.code, answer.status), (SSL_CONNECT_ERROR, 0), "{answer:?}");
            assert_eq!(fixture.curl(accepted, to, "/").code, 0);
        }
        // It was the server that said no.
        server.wait_for_log("TLS handshake failed: peer is incompatible");
    }
}

#[test]
fn the_environment_says_what_the_options_of_tls_say() {
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

#[test]
fn the_version_of_http_is_agreed_upon() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&RECOVERY);
    for (to, status) in [(server.address, 401), (server.recovery(), 404)] {
        for (offered, agreed) in [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")] {
            let answer = fixture.curl(&[offered], to, "/");
            assert_eq!((answer.status, answer.version.as_str()), (status, agreed), "{offered}: {answer:?}");
        }
    }
    let token = fixture.token(&["--http2"], server.address, CREATE, None);
    fixture.token(&["--http2"], server.recovery(), REGENERATE, None);
    assert_closes(server.recovery());
    assert_eq!(fixture.status(server.address, &token), 401);
}

#[test]
fn who_speaks_no_tls_gets_no_answer_and_harms_nobody() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&[&RECOVERY, &["--log-filter", "info"][..]].concat());
    for to in [server.address, server.recovery()] {
        for bytes in [&post(REGENERATE).to_bytes()[..], &http2::opening(), b"\0", b"\x16\x03\x01\0\x01\0"] {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer) {
                // An alert of TLS at most (RFC 8446, section 6).
                Ok(_) => assert!(answer.first().is_none_or(|first| *first == 0x15), "{answer:?}"),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
    }
    fixture.token(&[], server.address, CREATE, None);
    fixture.token(&[], server.recovery(), REGENERATE, None);
    server.wait_for_log("token recovery is closed");
    // Anybody can do this as often as he likes; each listener mentions it once.
    assert_eq!(server.log().matches("TLS handshake failed: ").count(), 2, "{}", server.log());
}

#[test]
fn every_handshake_that_fails_is_a_detail_in_the_log() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&["--log-filter", "debug"]);
    for count in 1..4 {
        drop(TcpStream::connect(server.address).unwrap());
        eventually("it is logged", || server.log().matches("TLS handshake failed: ").count() == count);
    }
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

#[test]
fn recovery_closes_for_good_over_tls_too() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&RECOVERY);
    let recovery = server.recovery();
    let old = fixture.token(&[], server.address, CREATE, None);
    let tunnel = TlsTunnel::new(&fixture, recovery, "http/1.1");

    // Connections that are open already: before the handshake, behind it, used, and in the middle of a request.
    let silent = Connection::open(recovery).unwrap();
    let unused = tunnel.connect();
    let mut used = tunnel.connect();
    used.write(&get("/").to(recovery).to_bytes());
    assert_eq!(used.read().unwrap().status, 404);
    let mut begun = tunnel.connect();
    begun.write(format!("POST {REGENERATE} HTTP/1.1\r\nHost: ").as_bytes());

    let new = fixture.token(&[], recovery, REGENERATE, None);
    assert_closes(recovery);
    begun.write(format!("{recovery}\r\n\r\n").as_bytes());
    assert_too_late(begun.read());
    for mut connection in [silent, unused, used] {
        assert!(connection.read().is_err());
    }
    server.wait_for_log("token recovery is closed");
    assert_eq!([&old, &new].map(|token| fixture.status(server.address, token)), [401, 200]);
    server.stop();
}

#[test]
fn connections_that_say_nothing_do_not_keep_others_out() {
    // The beginning of a greeting, as if the rest were on its way.
    let begin = |to, bytes: &[u8]| {
        let mut connection = Connection::open(to).unwrap();
        connection.write(bytes);
        connection
    };
    for (case, count) in [("silent", 24), ("in the middle of the handshake", 24), ("behind the handshake", 8)]
    {
        let fixture = TestCertificate::new();
        let server = fixture.serve(&RECOVERY);
        let recovery = server.recovery();
        let old = fixture.token(&[], server.address, CREATE, None);
        let tunnel = TlsTunnel::new(&fixture, recovery, "http/1.1");
        // As many as it has room for, and more.
        let waiting: Vec<_> = (0..count)
            .map(|_| match case {
                "silent" => begin(recovery, b""),
                "behind the handshake" => tunnel.connect(),
                _ => begin(recovery, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
            })
            .collect();
        // Shown only where the test fails.
        println!("{case}");
        let new = fixture.token(&[], recovery, REGENERATE, None);
        assert_eq!([&old, &new].map(|token| fixture.status(server.address, token)), [401, 200], "{case}");
        drop(waiting);
    }
}

#[test]
fn a_request_under_way_is_finished_before_it_stops() {
    let fixture = TestCertificate::new();
    for protocol in ["http/1.1", "h2"] {
        let store = fixture.env.home().join(format!("{}.db", &protocol[..2]));
        let store = format!("sqlite:{}", store.display());
        let mut server = fixture.serve(&["--store", &store]);
        let tunnel = TlsTunnel::new(&fixture, server.address, protocol);
        // The server has begun to read a request that it cannot finish before its two bytes of body are there.
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
        // One that is not that far does not hold it up.
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
        let answered = Instant::now();
        assert_eq!(server.exit_code(), Some(0), "{}", server.log());
        assert!(answered.elapsed() < HANDSHAKE_LIMIT, "it has waited for a handshake");
        drop(silent);
        let server = fixture.serve(&["--store", &store]);
        assert_eq!(fixture.status(server.address, &token), 200, "{protocol}");
    }
}

#[test]
fn files_that_tls_cannot_work_with_are_named_before_anything_is_opened() {
    let fixture = TestCertificate::new();
    let other = TestCertificate::new();
    let env = &fixture.env;
    let (certificate, key) = (&fixture.certificate, &fixture.key);
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let file = |name, content: &str| env.file(name, content.as_bytes());
    let missing = env.home().join("missing.pem");
    let letter = file("letter.pem", "Dear all,\n");
    let empty = file("empty.pem", "");
    let der = env.file("der.pem", &CertificateDer::from_pem_file(certificate).unwrap());
    let cut = file("cut.pem", &text(certificate)[..200]);
    let cut_key = file("cut-key.pem", &text(key)[..100]);
    let reversed = file("reversed.pem", &(text(&fixture.authority) + &text(certificate)));
    let pem = |name: &str, body: &str| format!("-----BEGIN {name}-----\n{body}\n-----END {name}-----\n");
    let encrypted = file("encrypted.pem", &pem("ENCRYPTED PRIVATE KEY", "AAAA"));
    let legacy = file(
        "legacy.pem",
        &pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA"),
    );
    let nonsense = file("nonsense.pem", &pem("PRIVATE KEY", "AAAA"));
    let nonsense_certificate = file("nonsense-certificate.pem", &pem("CERTIFICATE", "AAAA"));
    let home = env.home().to_owned();
    for (certificate, key, culprit, said) in [
        (&missing, key, &missing, "cannot read the TLS certificate"),
        (&missing, key, &missing, "No such file or directory"),
        (certificate, &missing, &missing, "cannot read the TLS key"),
        (certificate, &missing, &missing, "No such file or directory"),
        (&home, key, &home, "Is a directory"),
        (certificate, &home, &home, "Is a directory"),
        (&letter, key, &letter, "the TLS certificate"),
        (&letter, key, &letter, "is not a PEM file"),
        (&empty, key, &empty, "is not a PEM file"),
        (&der, key, &der, "openssl x509 -inform DER -in"),
        (certificate, &letter, &letter, "openssl pkey -inform DER -in"),
        (&cut, key, &cut, "is a damaged PEM file"),
        (certificate, &cut_key, &cut_key, "is a damaged PEM file"),
        // In each other's place.
        (key, key, key, "there is no certificate in"),
        (certificate, certificate, certificate, "there is no key in"),
        (certificate, &encrypted, &encrypted, "is encrypted; decrypt it with: openssl pkey -in"),
        (certificate, &legacy, &legacy, "is encrypted; decrypt it with: openssl pkey -in"),
        (certificate, &other.key, &other.key, "does not belong to the first certificate in"),
        (&reversed, key, &reversed, "does not belong to the first certificate in"),
        (certificate, &nonsense, &nonsense, "cannot be used; a key is RSA with 2048 bits or more, ECDSA"),
        (&nonsense_certificate, key, &nonsense_certificate, "cannot be used"),
    ] {
        let output = fixture.serve_files(certificate, key).run();
        output.assert_failed(1, &["Serve command failed: ", &culprit.display().to_string(), said]);
        assert!(!env.data_dir().exists());
    }
    for (option, file) in [("--tls-cert", certificate), ("--tls-key", key)] {
        let output = env.serve_with(&[option]).arg(file).run();
        output.assert_failed(
            1,
            &["Serve command failed: tls requires both a cert and a key file to be passed in to work\n"],
        );
        assert!(!env.data_dir().exists());
    }
}

#[test]
fn a_chain_is_sent_whole_and_one_file_may_hold_it_all() {
    let fixture = TestCertificate::new();
    let all = [&fixture.key, &fixture.certificate, &fixture.authority]
        .map(|path| fs::read_to_string(path).unwrap());
    let all = fixture.env.file("all.pem", all.concat().as_bytes());
    let server = fixture.serve_files(&all, &all).start();
    let verbose = fixture.curl(&["--write-out", "%{certs}\n%{http_code} x"], server.address, "/");
    assert_eq!(verbose.body.matches("BEGIN CERTIFICATE").count(), 2, "{verbose:?}");
}

#[test]
fn a_key_that_everybody_can_read_is_warned_about() {
    let fixture = TestCertificate::new();
    for (mode, warned) in [(0o644, true), (0o604, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&fixture.key, fs::Permissions::from_mode(mode)).unwrap();
        let server = fixture.serve(&[]);
        let warning = format!(
            "every user of this machine can read the TLS key (mode {mode:o}); run: chmod o-r {}",
            fixture.key.display()
        );
        assert_eq!(server.log().contains(&warning), warned, "{mode:o}: {}", server.log());
    }
}

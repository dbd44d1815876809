//! TLS of the server without an external client: hints, logs, and unusable files
//! (docs/compatibility.md 5.1, 5.5).

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::support::{TestCertificate, eventually};

#[test]
fn commands_in_log_work() {
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
        let mut serve = env.cli(["serve", "--http-bind", &any]);
        serve = serve.args(&["--admin-token-recovery-http-bind", &any]);
        serve = serve.args(&["--admin-token-recovery-insecure-allow-remote", "--admin-token-recovery-code"]);
        if !names.is_empty() {
            serve = serve.arg("--tls-cert").arg(&fixture.certificate).arg("--tls-key").arg(&fixture.key);
        }
        let server = serve.arg("--data-dir").arg(env.data_dir()).start();
        let code = fs::read_to_string(env.data_dir().join("recovery-code")).unwrap();
        for (address, message, more) in [
            (server.address, "create it with: optoken ", &[][..]),
            (server.recovery(), "with: optoken create token --admin --regenerate ", &["--yes"]),
        ] {
            let log = server.log();
            let (before, command) = log.rsplit_once(message).unwrap();
            let command =
                format!("{}{}", message.split_once("optoken ").unwrap().1, command.lines().next().unwrap());
            let host = host.replace("PORT", &address.port().to_string());
            assert!(command.contains(&format!(" --host {host}")), "{before}{message}: {command}");
            let cli = env.cli(command.split_whitespace()).args(more);
            let cli = cli.env("INFLUXDB3_TLS_CA", &fixture.authority).input(&code);
            cli.run().token();
        }
    }
}

#[test]
fn command_in_log_needs_no_file_for_known_authority() {
    let fixture = TestCertificate::new();
    // The variable replaces the authorities of the system, for server and client.
    let server = fixture.serve_with(&[]).env("SSL_CERT_FILE", &fixture.authority).start();
    let message = format!("create it with: optoken create token --admin --host https://{}\n", server.address);
    server.wait_for_log(&message);
    let command = message.trim().split_once("optoken ").unwrap().1;
    let cli = fixture.env.cli(command.split_whitespace());
    cli.env("SSL_CERT_FILE", &fixture.authority).run().token();
}

#[test]
fn refused_certificate_is_named_in_log_of_server() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&[]);
    let show = |scheme: &str| {
        let host = format!("{scheme}://{}", server.address);
        fixture.env.cli(["show", "tokens", "--host", &host]).run().assert_failed(1, &[]);
    };
    show("https");
    server.wait_for_log("; the client refuses the certificate of this server");
    show("http");
    server.wait_for_log("; if the client speaks plain HTTP, its URL must begin with https://");
}

#[test]
fn handshake_failures_are_logged_at_debug() {
    let fixture = TestCertificate::new();
    let server = fixture.serve(&["--log-filter", "debug"]);
    for count in 1..4 {
        drop(TcpStream::connect(server.address).unwrap());
        eventually("the failure is logged", || {
            server.log().matches("TLS handshake failed: ").count() == count
        });
    }
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

#[test]
fn unusable_tls_files_are_named_before_start() {
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
    let pipe = env.home().join("pipe.pem");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (certificate, key, named, message) in [
        (&missing, key, &missing, "cannot read the TLS certificate"),
        (&missing, key, &missing, "No such file or directory"),
        (certificate, &missing, &missing, "cannot read the TLS key"),
        (certificate, &missing, &missing, "No such file or directory"),
        (&home, key, &home, "Is a directory"),
        (&pipe, key, &pipe, "it is a pipe"),
        (certificate, &pipe, &pipe, "it is a pipe"),
        (certificate, &home, &home, "Is a directory"),
        (&letter, key, &letter, "the TLS certificate"),
        (&letter, key, &letter, "is not a PEM file"),
        (&empty, key, &empty, "is not a PEM file"),
        (&der, key, &der, "openssl x509 -inform DER -in"),
        (certificate, &letter, &letter, "openssl pkey -inform DER -in"),
        (&cut, key, &cut, "is a damaged PEM file"),
        (certificate, &cut_key, &cut_key, "is a damaged PEM file"),
        // Certificate and key swapped.
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
        output.assert_failed(1, &["Serve command failed: ", &named.display().to_string(), message]);
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
fn world_readable_key_warns() {
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

//! Certificates as openssl makes them, and their renewal while a server runs
//! (docs/compatibility.md 5.1).

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::needs::{self, CURL, ENV, FAKETIME, OPENSSL, path};
use crate::support::{CREATE, CaseName, RECOVERY, Server, TestEnv, eventually, get, within};
use crate::tls::TlsTunnel;

/// How soon a renewed certificate is served without a signal.
const RENEWAL_LIMIT: Duration = Duration::from_mins(1);

/// The options that errors and warnings name.
const OPTIONS: &str =
    "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";

const NAMES: &str = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1";

/// Runs openssl in the home directory, at another time if `time` is one.
fn openssl(env: &TestEnv, time: Option<&str>, args: &str) {
    let mut command = match time {
        None => needs::command(OPENSSL),
        Some(time) => {
            let mut command = needs::command(FAKETIME);
            command.arg(time).arg(path(OPENSSL));
            command
        }
    };
    let output = command.args(args.split_whitespace()).current_dir(env.home()).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes `NAME.pem` and `NAME.key` with `openssl req -x509`.
fn self_signed(env: &TestEnv, name: &str, options: &str) -> (PathBuf, PathBuf) {
    let key = if options.contains("-newkey") || options.contains("-key ") { "" } else { EC };
    let subject = if options.contains("-subj") { "" } else { "-subj /CN=localhost" };
    let command = format!("req -x509 {key} {subject} -keyout {name}.key -out {name}.pem {options}");
    openssl(env, None, &command);
    files(env, name)
}

/// A key that is made in no time.
const EC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

fn files(env: &TestEnv, name: &str) -> (PathBuf, PathBuf) {
    let file = |suffix: &str| env.home().join(format!("{name}.{suffix}"));
    (file("pem"), file("key"))
}

fn serve(env: &TestEnv, (certificate, key): &(PathBuf, PathBuf)) -> Server {
    env.serve_with(&["--tls-cert"]).arg(certificate).arg("--tls-key").arg(key).start()
}

/// The command in the log that creates the operator token, without the program.
fn hint(server: &Server) -> String {
    server.wait_for_log("create it with: optoken ");
    let log = server.log();
    let (_, command) = log.rsplit_once("create it with: optoken ").unwrap();
    command.lines().next().unwrap().to_owned()
}

/// The certificate that a server presents to openssl.
fn presented(address: SocketAddr) -> String {
    let output = needs::command(OPENSSL)
        .args(["s_client", "-connect", &address.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    pem(&String::from_utf8_lossy(&output.stdout))
}

/// The first certificate of a text.
fn pem(text: &str) -> String {
    let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap_or_else(|| panic!("{text}"));
    let (certificate, _) = text[begin..].split_once("-----END").unwrap();
    certificate.to_owned()
}

fn is_presented(address: SocketAddr, certificate: &Path) -> bool {
    presented(address) == pem(&fs::read_to_string(certificate).unwrap())
}

pub(crate) fn certificates_of_openssl_work_as_the_log_states() {
    // The key, and the options.
    for (key, options) in [
        ("-newkey rsa:2048 -nodes", NAMES),
        ("-newkey rsa:2048 -nodes -sha1", OPTIONS),
        (EC, NAMES),
        ("-key parameters.key -nodes", NAMES),
        ("-newkey ed25519 -nodes", NAMES),
        (EC, OPTIONS),
        (EC, "-addext subjectAltName=DNS:localhost"),
        (EC, "-addext subjectAltName=IP:127.0.0.1 -days 3650"),
    ] {
        let _case = CaseName(format!("{key} {options}"));
        let env = TestEnv::new();
        // With an EC PARAMETERS section in front.
        openssl(&env, None, "ecparam -name prime256v1 -genkey -out parameters.key");
        let (certificate, mut key_file) = self_signed(&env, "own", &format!("{key} {options}"));
        if key.contains("parameters") {
            key_file = env.home().join("parameters.key");
            let text = fs::read_to_string(&key_file).unwrap();
            assert!(text.starts_with("-----BEGIN EC PARAMETERS-----"), "{text}");
            fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let server = serve(&env, &(certificate.clone(), key_file));
        assert!(!server.log().contains("WARN"), "{}", server.log());
        let command = hint(&server);
        assert!(command.ends_with(&format!(" --tls-ca {}", certificate.display())), "{command}");
        env.cli(command.split_whitespace()).run().token();
        // Without it, the same server is not trusted.
        let (without, _) = command.split_once(" --tls-ca").unwrap();
        let output = env.cli(without.split_whitespace()).run();
        output.assert_failed(1, &["is not trusted: invalid peer certificate: ", "--tls-ca FILE"]);
        server.stop();
    }
}

pub(crate) fn issued_certificates_work_with_their_authority_or_alone() {
    let env = TestEnv::new();
    env.file("names", b"subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    openssl(&env, None, &format!("req {EC} -subj /CN=localhost -keyout leaf.key -out leaf.csr"));
    let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial";
    self_signed(&env, "other", NAMES);
    // An authority with a name of its own, and one with the name of the server and of the other
    // certificate.
    for (subject, unknown) in [
        (
            "authority",
            "its issuer is unknown (UnknownIssuer)\nIf the server is yours, give the certificate of the",
        ),
        ("localhost", "its issuer has the name of an authority that is trusted here, and another key"),
    ] {
        let _case = CaseName(subject);
        self_signed(&env, "ca", &format!("-subj /CN={subject} -addext keyUsage=keyCertSign"));
        openssl(&env, None, &format!("{sign} -extfile names -out leaf.pem"));
        let server = env.serve_with(&["--store", "memory:", "--tls-cert"]).arg(env.home().join("leaf.pem"));
        let server = server.arg("--tls-key").arg(env.home().join("leaf.key")).start();
        let command = hint(&server);
        env.cli(command.split_whitespace()).run().token();
        let host = format!("https://{}", server.address);
        for (given, message) in [
            ("ca.pem", "401"),
            ("leaf.pem", "401"),
            ("other.pem", unknown),
            ("other.pem", "The file that was given has neither; was the certificate renewed?"),
        ] {
            let output = env.cli(["show", "tokens", "--host", &host, "--tls-ca", given]).run();
            output.assert_failed(1, &[message]);
        }
        server.stop();
    }

    // What openssl makes from a request without -extfile has no extensions, so no client takes it.
    openssl(&env, None, &format!("{sign} -out bare.pem"));
    let (bare, key) = (env.home().join("bare.pem"), env.home().join("leaf.key"));
    let output = env.serve_with(&["--tls-cert"]).arg(&bare).arg("--tls-key").arg(&key).run();
    output.assert_failed(
        1,
        &["bare.pem cannot be used: it is an X.509 certificate of version 1", "add -extfile FILE"],
    );
}

pub(crate) fn refused_certificates_have_their_cause_and_remedy() {
    let other_name = "-addext subjectAltName=DNS:db.example,IP:192.0.2.7";
    // The time of openssl, its options, the warning of the server, and the error of the client,
    // which is given the certificate.
    for (time, options, warning, cause, remedy) in [
        (
            None,
            "",
            OPTIONS,
            "it has no names (subjectAltName); a common name (CN) alone does not count",
            OPTIONS,
        ),
        (
            None,
            other_name,
            "names db.example, 192.0.2.7, but neither localhost nor 127.0.0.1",
            "it is not valid for name \"127.0.0.1\"; it names db.example, 192.0.2.7",
            "Give --host the name that the certificate was made for",
        ),
        (
            Some("2020-01-01 00:00:00"),
            NAMES,
            "has expired at 2020-01-31T00:00:00Z",
            "it expired at 2020-01-31T00:00:00Z",
            "Renew the certificate of the server, or set the clock",
        ),
        (
            Some("2049-01-01 00:00:00"),
            NAMES,
            "is not valid before 2049-01-01T00:00:00Z",
            "it is not valid before 2049-01-01T00:00:00Z",
            "Set the clock of this machine",
        ),
        (
            None,
            &format!("{OPTIONS} -addext extendedKeyUsage=clientAuth"),
            "is not for servers (extendedKeyUsage)",
            "it is not for servers (extendedKeyUsage)",
            "Add extendedKeyUsage=serverAuth",
        ),
    ] {
        let _case = CaseName(format!("{time:?} {options}"));
        let env = TestEnv::new();
        let names =
            format!("req -x509 {EC} -days 30 -subj /CN=localhost -keyout own.key -out own.pem {options}");
        openssl(&env, time, &names);
        let server = serve(&env, &files(&env, "own"));
        server.wait_for_log(warning);
        let host = format!("https://{}", server.address);
        let show = |more: &[&str]| env.cli(["show", "tokens", "--host", &host]).args(more).run();
        for more in [&[][..], &["--tls-ca", "own.pem"]] {
            show(more).assert_failed(1, &["is not trusted: invalid peer certificate: ", cause, remedy]);
        }
        // The command in the log works nevertheless.
        env.cli(hint(&server).split_whitespace()).run().token();
        server.stop();
    }
    // An authority that is not given, and a server with the protocol of the other port.
    let env = TestEnv::new();
    let server = serve(&env, &self_signed(&env, "own", NAMES));
    let plain = TestEnv::new();
    let plain = plain.serve(&[]);
    for (host, messages) in [
        (
            format!("https://{}", server.address),
            &[
                "it is that of an authority (CA:TRUE)",
                "give exactly this certificate with --tls-ca FILE",
                OPTIONS,
            ][..],
        ),
        (
            format!("https://{}", plain.address),
            &["cannot reach https://", "If the server speaks plain HTTP, its URL begins with http://."],
        ),
        (
            format!("http://{}", server.address),
            &["did not answer: ", "If the server expects TLS, its URL begins with https://."],
        ),
    ] {
        env.cli(["show", "tokens", "--host", &host]).run().assert_failed(1, messages);
    }
}

pub(crate) fn renewed_certificate_is_served_without_signal() {
    let env = TestEnv::new();
    for name in ["one", "two", "three", "four", "five"] {
        let (certificate, key) = self_signed(&env, name, NAMES);
        let directory = env.home().join(format!("..{name}"));
        fs::create_dir(&directory).unwrap();
        fs::rename(certificate, directory.join("tls.crt")).unwrap();
        fs::rename(key, directory.join("tls.key")).unwrap();
    }
    let at = |name: &str| env.home().join(name);
    // As Kubernetes mounts a secret.
    symlink("..one", at("..data")).unwrap();
    symlink("..data/tls.crt", at("tls.crt")).unwrap();
    symlink("..data/tls.key", at("tls.key")).unwrap();
    let server = env
        .serve_with(&RECOVERY)
        .arg("--tls-cert")
        .arg(at("tls.crt"))
        .arg("--tls-key")
        .arg(at("tls.key"))
        .start();
    let listeners = [server.address, server.recovery()];
    let is_served = |name: &str| {
        let certificate = at(name).join("tls.crt");
        listeners.iter().all(|address| is_presented(*address, &certificate))
    };
    assert!(is_served("..one"));

    symlink("..two", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    within(RENEWAL_LIMIT, "the link leads to another pair", || is_served("..two"));

    // One file after the other: a key of another certificate is not served.
    fs::copy(at("..two/tls.crt"), at("old.crt")).unwrap();
    fs::copy(at("..three/tls.crt"), at("..two/tls.crt")).unwrap();
    server.wait_for_log("does not belong to the first certificate in");
    server.wait_for_log("the previous certificate stays in use");
    assert!(listeners.iter().all(|address| is_presented(*address, &at("old.crt"))));
    fs::copy(at("..three/tls.key"), at("..two/tls.key")).unwrap();
    within(RENEWAL_LIMIT, "both files are written", || is_served("..three"));

    for file in ["tls.key", "tls.crt"] {
        fs::copy(at("..four").join(file), at("new")).unwrap();
        fs::rename(at("new"), at("..two").join(file)).unwrap();
    }
    within(RENEWAL_LIMIT, "both files are renamed", || is_served("..four"));

    // What was refused is tried again, because the cause need not be in the files.
    let set_mode = |mode| fs::set_permissions(at("..five"), fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o777);
    symlink("..five", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    server.wait_for_log(&format!("others can write to {}", at("..five").display()));
    assert!(is_served("..four"));
    set_mode(0o755);
    within(RENEWAL_LIMIT, "the directory is private", || is_served("..five"));
    assert_eq!(
        server.log().matches("new connections get the new certificate").count(),
        4,
        "{}",
        server.log()
    );
    // The log has each failure once, and not at each attempt.
    assert!(server.log().matches("does not belong to").count() <= 2, "{}", server.log());
}

/// The body and, on a line of its own, the status of a response.
fn curl(more: &[&str], url: &str) -> String {
    let output = needs::command(CURL)
        .env_clear()
        .args(["-q", "--silent", "--insecure", "--max-time", "30", "--write-out", "\n%{http_code}"])
        .args(more)
        .arg(url)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn sighup_serves_new_certificate_or_keeps_the_old() {
    let env = TestEnv::new();
    let first = self_signed(&env, "first", OPTIONS);
    let second =
        self_signed(&env, "second", "-addext subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:new.example");
    let other = self_signed(&env, "other", NAMES);
    openssl(
        &env,
        Some("2020-01-01"),
        &format!("req -x509 {EC} -days 30 -subj /CN=localhost -keyout old.key -out old.pem {NAMES}"),
    );
    let own = files(&env, "own");
    let install = |(certificate, key): &(PathBuf, PathBuf)| {
        fs::copy(certificate, &own.0).unwrap();
        fs::copy(key, &own.1).unwrap();
    };
    install(&first);
    let server = env
        .serve_with(&RECOVERY)
        .arg("--tls-cert")
        .arg(&own.0)
        .arg("--tls-key")
        .arg(&own.1)
        // The tests may run under nohup, which ignores the signal in all their processes.
        .wrapped_in(&path(ENV), &["--default-signal=HUP"])
        .start();
    let listeners = [server.address, server.recovery()];
    let is_served = |certificate: &Path| listeners.iter().all(|address| is_presented(*address, certificate));
    let port = server.address.port();
    let as_new_name = || {
        let (resolve, url) =
            (format!("new.example:{port}:127.0.0.1"), format!("https://new.example:{port}{CREATE}"));
        curl(&["--request", "POST", "--resolve", &resolve], &url)
    };
    assert!(as_new_name().ends_with("\n403"));

    // A connection that is open goes on, with its old certificate.
    let tunnel = TlsTunnel::trusting(&first.0, server.address, "http/1.1");
    let mut connection = tunnel.connect();
    let mut is_open = |server: &Server| {
        connection.write(&get("/").to(server.address).to_bytes());
        connection.read().unwrap().status == 401
    };
    assert!(is_open(&server));
    install(&second);
    server.signal(Signal::HUP);
    server.wait_for_log("new connections get the new certificate");
    assert!(is_served(&second.0));
    assert!(is_open(&server));
    let created = as_new_name();
    assert!(created.ends_with("\n201"), "{created}");
    let token = crate::tls::token_in(created.rsplit_once('\n').unwrap().0);
    let header = format!("Authorization: Bearer {token}");
    let metrics = || curl(&["--header", &header], &format!("https://127.0.0.1:{port}/metrics"));

    // What cannot be used changes nothing.
    let garbage = env.file("garbage.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n");
    let old = files(&env, "old");
    let message = "ERROR ";
    for (certificate, key, reason) in [
        (&garbage, &second.1, "own.pem is a damaged PEM file; was it copied whole?"),
        (&other.0, &second.1, "own.key does not belong to the first certificate in "),
        (&second.0, &garbage, "own.key is a damaged PEM file"),
        (
            &old.0,
            &old.1,
            "own.pem is valid from 2020-01-01T00:00:00Z to 2020-01-31T00:00:00Z, which is not now",
        ),
    ] {
        let _case = CaseName(reason);
        fs::copy(certificate, &own.0).unwrap();
        fs::copy(key, &own.1).unwrap();
        server.signal(Signal::HUP);
        server.wait_for_log(reason);
        let log = server.log();
        let line = log.lines().rfind(|line| line.contains(reason)).unwrap();
        assert!(
            line.contains(message) && line.ends_with("; the previous certificate stays in use"),
            "{line}"
        );
        assert!(is_served(&second.0));
    }
    fs::remove_file(&own.0).unwrap();
    server.signal(Signal::HUP);
    server.wait_for_log(
        "own.pem: No such file or directory (os error 2); the previous certificate stays in use",
    );
    assert!(is_served(&second.0));
    let expiry = "optoken_tls_certificate_expiry_timestamp_seconds ";
    let value = |name: &str| -> f64 {
        let text = metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    };
    assert!(value(r#"optoken_reloads_total{file="tls_certificate",outcome="failed"}"#) >= 5.0);
    // 30 days by default.
    let until = value(expiry);
    install(&self_signed(&env, "third", &format!("{NAMES} -days 60")));
    server.signal(Signal::HUP);
    eventually("the third is served", || is_served(&env.home().join("third.pem")));
    eventually("its expiry is a metric", || value(expiry) > until + 29.0 * 86400.0);
    assert!(value(r#"optoken_reloads_total{file="tls_certificate",outcome="done"}"#) >= 2.0);
    assert!(is_open(&server));
    server.stop();
}

//! Command lines and environments that were made for InfluxDB 3, and start this server unchanged
//! (docs/compatibility.md 5.1).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::support::{CaseName, Cli, Connection, TestEnv};

/// The variables of the image of InfluxDB 3 Core, from its Dockerfile.
const IMAGE: [(&str, &str); 3] =
    [("PACKAGE", "influxdb3"), ("INFLUXDB3_PLUGIN_DIR", "/plugins"), ("INFLUXDB3_LOG_FILTER", "info")];

const WITHOUT_EFFECT: &str = "WARN without effect, as this server has tokens only: ";

const UNKNOWN: &str = "WARN these variables mean nothing to this server: ";

/// Tests listen on a port that the system picks. No documented line has this variable.
const BIND: (&str, &str) = ("INFLUXDB3_HTTP_BIND_ADDR", "127.0.0.1:0");

fn with_variables(mut cli: Cli, variables: &[(&str, &str)]) -> Cli {
    for (name, value) in variables {
        cli = cli.env(name, value);
    }
    cli
}

/// Returns the lines of a log that have this text, without the time.
fn lines(log: &str, text: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| Some(text.to_owned() + line.split_once(text)?.1));
    lines.collect()
}

#[test]
fn documented_command_lines_start_the_server() {
    let env = TestEnv::named("influxdb3");
    let data = env.data_dir().display().to_string();
    let of_tests = "--disable-telemetry-upload --wal-flush-interval 10ms --wal-snapshot-size 1 --gen1-duration 1m \
                    --gen1-lookback-duration=1month --snapshotted-wal-files-to-keep 10 --test-mode \
                    --disable-log-filter-noise-reduction --telemetry-endpoint http://localhost:1 --package-manager pip \
                    --virtual-env-location /tmp/venv --restrict-plugin-triggers-to wal schedule \
                    --exec-mem-pool-bytes 20% --traces-exporter none --object-store-tls-ca /ca.pem \
                    --object-store-tls-allow-insecure";
    let cloud = "--bucket b --aws-access-key-id A --aws-secret-access-key=apiv3_aws-secret --aws-allow-http \
                 --aws-endpoint http://minio:9000 --aws-default-region us-east-1";
    let environment = [
        ("INFLUXDB3_NODE_IDENTIFIER_PREFIX", "node0"),
        ("INFLUXDB3_OBJECT_STORE", "file"),
        ("INFLUXDB3_DB_DIR", &*data),
        ("INFLUXDB3_ENTERPRISE_NUM_CORES", "4"),
        ("INFLUXDB3_NUM_IO_THREADS", "4"),
    ];
    for (line, variables, ignored) in [
        // The get-started page, with docker run.
        (
            format!("serve --node-id my_host --object-store file --data-dir {data}"),
            &IMAGE[..],
            "INFLUXDB3_PLUGIN_DIR",
        ),
        // Its compose file.
        (
            format!(
                "serve --node-id=node0 --object-store=file --data-dir={data} --plugin-dir={data}/plugins"
            ),
            &IMAGE,
            "--plugin-dir, INFLUXDB3_PLUGIN_DIR",
        ),
        // The page of global options.
        (
            "--num-io-threads=8 serve --node-id=node0 --object-store=file --verbose".to_owned(),
            &[],
            "--num-io-threads",
        ),
        ("--num-io-threads 8 serve --object-store=memory -vv".to_owned(), &[], "--num-io-threads"),
        ("serve --num-io-threads=8 --host-id old".to_owned(), &[], "--num-io-threads"),
        ("serve".to_owned(), &environment, "INFLUXDB3_ENTERPRISE_NUM_CORES, INFLUXDB3_NUM_IO_THREADS"),
        // The tests of InfluxDB.
        (
            format!("serve --object-store memory {of_tests}"),
            &[],
            "--disable-log-filter-noise-reduction, --disable-telemetry-upload, --object-store-tls-allow-insecure, \
             --test-mode, --exec-mem-pool-bytes, --gen1-duration, --gen1-lookback-duration, --object-store-tls-ca, \
             --package-manager, --snapshotted-wal-files-to-keep, --telemetry-endpoint, --traces-exporter, \
             --virtual-env-location, --wal-flush-interval, --wal-snapshot-size, --restrict-plugin-triggers-to",
        ),
        (
            format!("serve {cloud} --without-user-auth true"),
            &[],
            "--aws-allow-http, --without-user-auth, --aws-access-key-id, --aws-default-region, --aws-endpoint, \
             --aws-secret-access-key, --bucket",
        ),
    ] {
        let _case = CaseName(&line);
        let cli = with_variables(env.cli(line.split_whitespace()), variables);
        let server = with_variables(cli, &[BIND]).start();
        let log = server.log();
        assert_eq!(lines(&log, WITHOUT_EFFECT), [format!("{WITHOUT_EFFECT}{ignored}")], "{log}");
        assert_eq!(lines(&log, UNKNOWN), [""; 0], "{log}");
        assert!(!log.contains("aws-secret\"") && !log.contains("minio"), "{log}");
    }
    let server = with_variables(env.cli(["serve"]), &[BIND]).start();
    assert_eq!(lines(&server.log(), "WARN"), [""; 0], "{}", server.log());
}

#[test]
fn options_without_effect_are_hidden_and_checked() {
    let env = TestEnv::new();
    let help = env.cli(["serve", "--help"]).run().stdout;
    let completions = env.cli(["completions", "bash"]).run().stdout;
    for text in [&help, &completions] {
        assert!(text.contains("--shutdown-timeout") && !text.contains("--bucket"), "{text}");
    }
    for args in ["serve --bucket x --help", "--num-io-threads=2 serve --help"] {
        assert_eq!(env.cli(args.split_whitespace()).run().stdout, help);
    }
    for (args, message) in [
        ("serve --buckets x", "unexpected argument '--buckets'"),
        ("serve --bucket", "a value is required for '--bucket <bucket>'"),
        ("serve --test-mode please", "unexpected argument 'please'"),
        ("show tokens --bucket x", "unexpected argument '--bucket'"),
        ("--bucket x serve", "unexpected argument '--bucket'"),
        ("--num-io-threads=8", "requires a subcommand"),
    ] {
        env.cli(args.split_whitespace()).run().assert_failed(2, &[message]);
    }
    // The quick start of InfluxDB has no subcommand.
    for (args, option) in
        [("--object-store memory", "--object-store"), ("-v", "-v"), ("--node-id=x", "--node-id")]
    {
        let note = format!("note: {option} is an option of: optoken serve\n");
        env.cli(args.split_whitespace()).run().assert_failed(2, &["unexpected argument", &note]);
    }
    for args in ["--bucket x", "show tokens --node-id x", "--nonsense"] {
        assert!(!env.cli(args.split_whitespace()).run().stderr.contains("note: "));
    }
    // Without arguments: a server that was not asked for would offer its bootstrap.
    let bare = env.cli([""; 0]).run();
    assert!(bare.code == Some(2) && bare.stderr.contains("Usage: "), "{bare:?}");
}

#[test]
fn what_concerns_access_is_refused() {
    let env = TestEnv::new();
    for (option, reason) in [
        ("--cluster-id=c", "nodes of a cluster share their tokens"),
        ("--jwt-key-id=k", "no users, roles or JWT"),
        ("--user-auth-type=basic,oauth", "no users, roles or JWT"),
        ("--oauth-issuer=https://issuer", "no users, roles or JWT"),
        ("--without-user-auth=false", "no users, roles or JWT"),
        ("--internode-tls-cert=c.pem", "no listener for other nodes"),
    ] {
        let (name, value) = option.split_once('=').unwrap();
        let refused =
            |named: &str| [format!("{named} concerns access and has no effect here"), reason.to_owned()];
        let assert_refused = |cli: Cli, named: &str| {
            let [concerns, reason] = refused(named);
            cli.run().assert_failed(2, &[&concerns, &reason, "Remove it"]);
        };
        assert_refused(env.serve_with(&[option]), name);
        assert_refused(env.serve_with(&[name, value]), name);
        let key = name.trim_start_matches('-').replace('-', "_").to_uppercase();
        for variable in [format!("INFLUXDB3_{key}"), format!("INFLUXDB3_ENTERPRISE_{key}")] {
            assert_refused(env.serve_with(&[]).env(&variable, value), &variable);
            assert!(env.cli(["create", "token", "--help"]).env(&variable, value).run().code == Some(0));
        }
    }
    assert!(!env.data_dir().exists());
}

#[test]
fn every_name_of_a_variable_is_understood() {
    let env = TestEnv::new();
    let elsewhere = env.home().join("elsewhere").display().to_string();
    let in_elsewhere = format!("sqlite:{elsewhere}/tokens.db");
    let file = env.home().join("address").display().to_string();
    for (newest, others, value, effect) in [
        ("INFLUXDB3_DATA_DIR", &["INFLUXDB3_DB_DIR", "INFLUXDB_IOX_DB_DIR"][..], &*elsewhere, &*in_elsewhere),
        ("INFLUXDB3_OBJECT_STORE", &["INFLUXDB_IOX_OBJECT_STORE"], "memory", "memory only"),
        (
            "INFLUXDB3_NODE_ID",
            &["INFLUXDB3_NODE_IDENTIFIER_PREFIX", "INFLUXDB3_HOST_IDENTIFIER_PREFIX"],
            "node-1",
            "node_id=\"node-1\"",
        ),
        (
            "INFLUXDB3_NODE_ID_FROM_ENV",
            &["INFLUXDB3_NODE_IDENTIFIER_FROM_ENV"],
            "HOSTNAME",
            "node_id=\"host-1\"",
        ),
        ("INFLUXDB3_WITHOUT_AUTH", &["INFLUXDB3_START_WITHOUT_AUTH"], "true", "started without auth"),
        (
            "INFLUXDB3_TCP_LISTENER_FILE_PATH",
            &["INFLUXDB3_TCP_LISTINER_FILE_PATH"],
            &file,
            "no operator token yet",
        ),
        ("INFLUXDB3_LOG_FILTER", &["LOG_FILTER"], "info,optoken=debug", "no operator token yet"),
        ("INFLUXDB3_LOG_FORMAT", &["LOG_FORMAT"], "json", "\"message\":\"listening on"),
    ] {
        let start = |variables: &[(&str, &str)]| {
            let cli = env.cli(["serve"]).without_env("LOG_FILTER").without_env("INFLUXDB3_LOG_FILTER");
            let server =
                with_variables(with_variables(cli, variables), &[BIND, ("HOSTNAME", "host-1")]).start();
            server.wait_for_log(effect);
            if newest.contains("FILE_PATH") {
                assert_eq!(std::fs::read_to_string(&file).unwrap(), server.address.to_string());
            }
            let log = server.log();
            server.stop();
            log
        };
        let _case = CaseName(newest);
        let log = start(&[(newest, value)]);
        assert!(!log.contains("deprecated") && !log.contains("both"), "{log}");
        for other in others {
            let log = start(&[(other, value)]);
            let warning = format!("environment variable {other} is deprecated, use {newest} instead");
            assert_eq!(log.matches(&warning).count(), 1, "{log}");
            assert!(!log.contains("mean nothing"), "{log}");
            // Of two values the newest counts. Twice the same is no contradiction.
            let log = start(&[(newest, value), (other, "anything")]);
            assert!(log.contains(&format!("both {other} and {newest} are set; using {newest}")), "{log}");
            assert!(!log.contains("anything"), "{log}");
            assert!(!start(&[(newest, value), (other, value)]).contains("both"));
        }
    }
    // The documentation of InfluxDB has this name, and InfluxDB itself does not read it.
    let documented = "INFLUXDB3_ADMIN_TOKEN_RECOVERY_HTTP_BIND";
    let server = env.serve_with(&[]).env(documented, "127.0.0.1:0").start();
    server.recovery();
    assert!(!server.log().contains(documented), "{}", server.log());
}

#[test]
fn commands_on_the_store_read_the_older_names() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    server.create();
    let copy = env.home().join("copy").display().to_string();
    let backup = || env.cli(["backup", &copy]).env("INFLUXDB3_DB_DIR", env.data_dir());
    let output = backup().run();
    assert_eq!(output.code, Some(0), "{output:?}");
    let warning =
        "warning: environment variable INFLUXDB3_DB_DIR is deprecated, use INFLUXDB3_DATA_DIR instead\n";
    assert!(output.stderr.contains(warning), "{output:?}");
    // A command that has no such option does not mention it.
    let output = env.cli(["completions", "bash"]).env("INFLUXDB3_DB_DIR", "x").run();
    assert_eq!(output.stderr, "");
}

#[test]
fn unknown_variables_are_named_in_one_line() {
    let env = TestEnv::new();
    let variables = [
        ("INFLUXDB3_ADMIN_TOKEN", "secret-value"),
        ("INFLUXDB3_HTTP_BIND", "secret-value"),
        ("INFLUXDB3_PLUGIN_DIR", "secret-value"),
        ("INFLUXDB3_\u{1b}[31m\nX", "secret-value"),
        ("INFLUXDB3_EMPTY", ""),
        ("INFLUXDB3_AUTH_TOKEN", "apiv3_of-a-client"),
        ("INFLUXDB3_HOST_URL", "http://127.0.0.1:1"),
        ("INFLUXDB_TOKEN", "secret-value"),
        ("XINFLUXDB3_X", "secret-value"),
    ];
    let server = with_variables(env.serve_with(&[]), &variables).start();
    let log = server.log();
    let found = lines(&log, UNKNOWN);
    assert_eq!(found.len(), 1, "{log}");
    assert!(found[0].starts_with(&format!("{UNKNOWN}INFLUXDB3_")), "{log}");
    assert!(
        found[0]
            .contains("INFLUXDB3_ADMIN_TOKEN, INFLUXDB3_HTTP_BIND, INFLUXDB3_[31m X; optoken serve --help"),
        "{log}"
    );
    assert!(!found[0].contains("INFLUXDB3_EMPTY") && !found[0].contains("AUTH_TOKEN"), "{log}");
    assert!(!log.contains("secret-value") && !log.contains("\u{1b}[31m"), "{log}");
    // From a file, too, and not for a client.
    drop(server);
    env.file(".env", b"INFLUXDB3_NONSENSE=secret-value\n");
    let server = env.serve(&[]);
    assert_eq!(lines(&server.log(), UNKNOWN).len(), 1, "{}", server.log());
    let output = env.cli(["show", "tokens", "--host", "http://127.0.0.1:1"]).run();
    assert!(!output.stderr.contains("NONSENSE"), "{output:?}");
}

#[test]
fn generic_variables_never_prevent_the_start() {
    let env = TestEnv::new();
    for (variable, value, warning) in [
        ("LOG_FORMAT", "yaml", Some("LOG_FORMAT has a value of no use here")),
        ("LOG_FORMAT", "pretty", Some("there is no log format pretty here, so the log is text")),
        ("LOG_FORMAT", "LOGFMT", Some("there is no log format logfmt here, so the log is text")),
        ("LOG_FORMAT", "Full", None),
        ("INFLUXDB3_LOG_FORMAT", "pretty", Some("there is no log format pretty")),
        ("LOG_FILTER", "nonsense=[", Some("LOG_FILTER has a value of no use here")),
        ("LOG_DESTINATION", "syslog", Some("LOG_DESTINATION has a value of no use here")),
        ("LOG_DESTINATION", "stderr", None),
        ("LOG_LEVEL", "nonsense", None),
    ] {
        let _case = CaseName(variable);
        let cli = env.serve_with(&[]).without_env("INFLUXDB3_LOG_FILTER").env(variable, value);
        let server = cli.start();
        let log = server.log();
        match warning {
            Some(warning) => assert_eq!(lines(&log, &format!("WARN {warning}")).len(), 1, "{log}"),
            None => assert!(!log.contains("no use") && !log.contains("no log format"), "{log}"),
        }
        assert!(!log.contains("syslog") && !log.contains("yaml"), "{log}");
    }
    // A variable of this server alone is meant.
    for (variable, value) in [
        ("INFLUXDB3_LOG_FORMAT", "yaml"),
        ("INFLUXDB3_LOG_DESTINATION", "syslog"),
        ("INFLUXDB3_NODE_ID", "a b"),
        ("INFLUXDB3_NODE_IDENTIFIER_PREFIX", "a b"),
        ("INFLUXDB3_WITHOUT_AUTH", "maybe"),
        ("INFLUXDB3_START_WITHOUT_AUTH", "maybe"),
        ("INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE", "maybe"),
        ("INFLUXDB3_MAX_HTTP_REQUEST_SIZE", "much"),
    ] {
        let named = format!("note: the value is from the variable {variable}\n");
        env.serve_with(&[]).env(variable, value).run().assert_failed(2, &["error: invalid value", &named]);
        let path = env.file(".env", format!("{variable}=\"{value}\"\n").as_bytes());
        let named = format!("note: the value is from the variable {variable} in {}\n", path.display());
        env.serve_with(&[]).run().assert_failed(2, &[&named]);
        std::fs::remove_file(path).unwrap();
    }
    let typed = env.serve_with(&["--node-id", "a b"]).env("INFLUXDB3_NODE_ID", "a b").run();
    assert!(!typed.stderr.contains("note: "), "{typed:?}");
    let not_text = OsStr::from_bytes(b"\xff");
    let not_text = env.serve_with(&[]).env("INFLUXDB3_NODE_IDENTIFIER_PREFIX", not_text).run();
    not_text.assert_failed(2, &["note: the value is not UTF-8: INFLUXDB3_NODE_IDENTIFIER_PREFIX\n"]);
    let filter = env.serve_with(&[]).env("INFLUXDB3_LOG_FILTER", "nonsense=[").run();
    filter.assert_failed(1, &["is not a log filter"]);
}

#[test]
fn option_overrides_contradicting_variable() {
    let env = TestEnv::new();
    let server = env.serve_with(&["--store", "memory:"]).env("INFLUXDB3_OBJECT_STORE", "file").start();
    server.wait_for_log("memory only");
    let server = env.serve_with(&["--object-store=file"]).env("INFLUXDB3_TOKEN_STORE", "memory:").start();
    server.wait_for_log("data/tokens.db");
    let server = env
        .serve_with(&["--node-id", "named"])
        .env("INFLUXDB3_NODE_IDENTIFIER_FROM_ENV", "HOSTNAME")
        .env("HOSTNAME", "host-1")
        .start();
    server.wait_for_log("node_id=\"named\"");
    drop(server);
    for cli in [
        env.serve_with(&["--store", "memory:", "--object-store", "memory"]),
        env.serve_with(&[]).env("INFLUXDB3_TOKEN_STORE", "memory:").env("INFLUXDB3_OBJECT_STORE", "memory"),
    ] {
        cli.run().assert_failed(2, &["cannot be used with"]);
    }
    env.serve_with(&["--node-id-from-env", "UNSET"])
        .run()
        .assert_failed(1, &["--node-id-from-env: the variable \"UNSET\" holds no name"]);
}

#[test]
fn log_goes_to_the_stream_that_is_named() {
    let env = TestEnv::new();
    // What the harness reads as stderr is stdout here.
    let swapped = r#"exec "$0" "$@" 3>&2 2>&1 1>&3"#;
    for cli in [
        env.serve_with(&["--log-destination", "stdout"]),
        env.serve_with(&[]).env("INFLUXDB3_LOG_DESTINATION", "STDOUT"),
        env.serve_with(&[]).env("LOG_DESTINATION", "stdout"),
    ] {
        let server = cli.in_shell(swapped).start();
        server.wait_for_log("no operator token yet");
    }
    env.serve_with(&["--log-destination", "file"]).run().assert_failed(2, &["a stream is stderr or stdout"]);
}

#[test]
fn verbose_overrides_the_filter() {
    for (args, level) in [("-v", "INFO"), ("--verbose", "INFO"), ("-vv", "DEBUG"), ("-v -v -v", "DEBUG")] {
        let env = TestEnv::new();
        let args = [&["--log-filter", "error"][..], &args.split(' ').collect::<Vec<_>>()].concat();
        let server = env.serve(&args);
        // Not HTTP: the end of the connection is logged at level debug.
        let mut connection = Connection::open(server.address).unwrap();
        connection.write(b"\x01\r\n\r\n");
        assert_eq!(connection.read().unwrap().status, 400);
        server.wait_for_log(&format!(" {level} "));
        assert_eq!(server.log().contains(" DEBUG "), level != "INFO", "{args:?} {}", server.log());
    }
}

#[test]
fn large_request_limit_is_lowered_with_a_warning() {
    let env = TestEnv::new();
    let lowered = "WARN --max-http-request-size: the limit is 64 MiB";
    for size in ["67108865", "65MiB", "1GB", "100000000000"] {
        let server = env.serve_with(&[]).env("INFLUXDB3_MAX_HTTP_REQUEST_SIZE", size).start();
        assert_eq!(lines(&server.log(), lowered).len(), 1, "{size} {}", server.log());
    }
    let server = env.serve(&["--max-http-request-size", "64MiB"]);
    assert_eq!(lines(&server.log(), lowered), [""; 0]);
}

#[test]
fn booleans_are_read_in_every_place() {
    let env = TestEnv::new();
    for (value, without_auth) in
        [("yes", true), ("1", true), ("ON", true), ("T", true), ("no", false), ("0", false)]
    {
        for cli in [
            env.serve_with(&[]).env("INFLUXDB3_WITHOUT_AUTH", value),
            env.serve_with(&[]).env("INFLUXDB3_START_WITHOUT_AUTH", value),
            env.serve_with(&[&format!("--without-auth={value}")]),
        ] {
            let server = cli.start();
            assert_eq!(
                server.log().contains("started without auth"),
                without_auth,
                "{value} {}",
                server.log()
            );
        }
        // Without a listener, the code has no effect, and the server logs that.
        let server = env.serve_with(&[]).env("INFLUXDB3_ADMIN_TOKEN_RECOVERY_CODE", value).start();
        assert_eq!(
            server.log().contains("--admin-token-recovery-code has no effect"),
            without_auth,
            "{value}"
        );
        let client = env
            .cli(["show", "tokens", "--host", "https://127.0.0.1:1"])
            .env("INFLUXDB3_TLS_NO_VERIFY", value);
        assert_eq!(client.run().stderr.contains("the server is not verified"), without_auth, "{value}");
    }
}

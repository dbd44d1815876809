//! `serve --upstream`: what the upstream receives, and what comes back.

mod client;
mod failures;
mod permissions;
mod service;
mod streams;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use hyper::header::HeaderValue;
use rustix::process::Signal;

use self::client::{BOTH, Client, Http, body, data, no_body};
use self::service::Service;
use crate::support::{Server, TestCertificate, TestEnv, create_named, eventually, get, remember_secret};

/// A server in front of a service, and its operator token.
struct Setup {
    _env: TestEnv,
    service: Service,
    server: Server,
    token: String,
}

impl Setup {
    fn start(args: &[&str]) -> Self {
        let (env, service) = (TestEnv::new(), Service::start());
        let server = env.serve(&[&["--upstream", &service.url()], args].concat());
        let token = server.create();
        Self { _env: env, service, server, token }
    }

    fn client(&self, http: Http) -> Client {
        Client::open(http, self.server.address)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Value of a metric, with its labels; 0 if there is none.
    fn metric(&self, series: &str) -> u64 {
        let text = get("/api/v3/optoken/metrics").bearer(&self.token).send(self.server.address).body;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

#[test]
fn requests_are_passed_on_with_their_origin_alone() {
    for (upstream_version, version) in [("1.1", "1.1"), ("2", "2")] {
        let setup = Setup::start(&["--upstream-http-version", upstream_version]);
        for http in BOTH {
            let mut client = setup.client(http);
            let (sender, chunks) = body();
            let mut headers = vec![
                ("authorization", setup.bearer()),
                ("x-auth-token-id", "77".to_owned()),
                ("x_auth_token_name", "root".to_owned()),
                ("x-forwarded-for", "1.2.3.4".to_owned()),
                ("x-forwarded-host", "evil.example".to_owned()),
                ("forwarded", "for=1.2.3.4".to_owned()),
                ("x-real-ip", "1.2.3.4".to_owned()),
                ("x-original-uri", "/evil".to_owned()),
                ("proxy-authorization", "Basic x".to_owned()),
                ("x-kept", "yes".to_owned()),
                ("accept-encoding", "br".to_owned()),
            ];
            if http == Http::One {
                headers.push(("connection", "x-hop, x-auth-token-id, x-forwarded-for".to_owned()));
                headers.push(("x-hop", "1".to_owned()));
                headers.push(("keep-alive", "timeout=1".to_owned()));
                headers.push(("upgrade", "websocket".to_owned()));
            }
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let sent = client.start("PUT", "/a/./b//../c%2e%7Ed/x?q=%20&p=kept", &headers, chunks);
            client.run(sender.send(data("the body"))).unwrap();
            drop(sender);
            let sent = client.run(sent).unwrap();
            assert!(sent.headers().get("cluster-uuid").is_none());
            let report = client.report(sent);
            assert_eq!(report.text("version"), version);
            assert_eq!(report.text("method"), "PUT");
            assert_eq!(report.text("host"), "service.example:81", "{http:?}");
            assert_eq!(report.text("body"), "the body");
            assert_eq!(report.header("x-auth-token-id"), ["0"]);
            assert_eq!(report.header("x-auth-token-name"), ["_admin"]);
            assert_eq!(report.header("x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!(report.header("x-real-ip"), ["127.0.0.1"]);
            assert_eq!(report.header("x-forwarded-proto"), ["http"]);
            assert_eq!(report.header("x-forwarded-host"), ["service.example:81"]);
            let framing = if version == "2" { vec![] } else { vec!["host", "transfer-encoding"] };
            let mut names = [
                &["accept-encoding", "x-auth-token-id", "x-auth-token-name", "x-forwarded-for"][..],
                &["x-forwarded-host", "x-forwarded-proto", "x-kept", "x-real-ip"],
                &framing,
            ]
            .concat();
            names.sort_unstable();
            assert_eq!(report.names(), names);
        }
    }
}

#[test]
fn target_is_in_normal_form_below_the_base() {
    let (env, service) = (TestEnv::new(), Service::start());
    let server = env.serve(&["--upstream", &format!("{}/base/", service.url())]);
    let token = format!("Bearer {}", server.create());
    let mut client = Client::open(Http::One, server.address);
    for (path, target) in [
        ("/", "/base/"),
        ("/a/../b/./c", "/base/b/c"),
        ("/../../x", "/base/x"),
        ("/%61%2D%zz", "/base/%61%2D%zz"),
        ("/a//b?x=//..", "/base/a/b?x=//.."),
        ("/%c3%a9", "/base/%C3%A9"),
        // Without a normal form, it is passed on as it stands to a token with all permissions.
        ("/group%2Fproject", "/base/group%2Fproject"),
        ("/write?db=a&p=secret&u=x&precision=ns", "/base/write?db=a&precision=ns"),
    ] {
        let headers: &[_] = if path.contains("p=secret") { &[] } else { &[("authorization", &*token)] };
        let response = client.get(path, headers);
        if headers.is_empty() {
            // The query string takes precedence, and holds no token.
            assert_eq!(response.status(), 401);
            client.text(response);
            let path = path.replace("secret", token.strip_prefix("Bearer ").unwrap());
            let response = client.get(&path, &[]);
            assert_eq!(client.report(response).text("target"), target);
            continue;
        }
        assert_eq!(client.report(response).text("target"), target, "{path}");
    }
    server.allow_redaction();
}

#[test]
fn unaccepted_requests_do_not_reach_the_upstream() {
    let setup = Setup::start(&[]);
    for http in BOTH {
        let mut client = setup.client(http);
        for (method, path, authorization, status) in [
            ("GET", "/x", None, 401),
            ("OPTIONS", "/x", None, 401),
            ("GET", "/ping", None, 401),
            ("GET", "/health", None, 401),
            ("GET", "/x", Some("Bearer apiv3_unknown"), 401),
            ("GET", "/x", Some("Digest x"), 400),
            ("TRACE", "/x", Some(&*setup.bearer()), 501),
        ] {
            let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
            let response = client.send(method, path, &headers, no_body());
            assert_eq!(response.status(), status, "{http:?} {method} {path} {authorization:?}");
            client.text(response);
        }
    }
    let mut client = setup.client(Http::Two);
    for (authorization, status) in [(None, "16"), (Some("Bearer apiv3_unknown"), "16")] {
        let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
        headers.extend(authorization.map(|value| ("authorization", value)));
        let response = client.send("POST", "/arrow.flight.protocol.FlightService/DoGet", &headers, no_body());
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], status);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(client.text(response), "");
    }
    setup.server.allow_redaction();
    assert_eq!(setup.service.all_hits(), 0);
}

#[test]
fn own_paths_are_answered_here() {
    let setup = Setup::start(&["--disable-authz", "health,metrics,ready"]);
    let mut client = setup.client(Http::One);
    let bearer = setup.bearer();
    for (path, status) in [
        ("/api/v3/configure/token", 200),
        ("/api/v3/configure/token/admin", 200),
        ("/api/v3/configure/token/unknown", 404),
        ("/api/v3/enterprise/configure/token", 404),
        ("/api/v3/optoken/status", 200),
        ("/api/v3/optoken/unknown", 404),
        ("/api/v3/verify/x", 200),
        ("/api/v3/openapi.json", 200),
        // In another spelling they are none of the upstream, either.
        ("/api/v3//configure/token", 404),
        ("/x/../api/v3/configure/token", 404),
        ("/api/v3/configure/%74oken", 404),
    ] {
        let response = client.get(path, &[("authorization", &bearer)]);
        assert_eq!(response.status(), status, "{path}");
        client.text(response);
    }
    for path in ["/api/v3/optoken/health", "/api/v3/optoken/metrics", "/api/v3/optoken/ready"] {
        assert_eq!(get(path).send(setup.server.address).status, 200, "{path}");
    }
    assert_eq!(setup.service.all_hits(), 0);
    let document = get("/api/v3/openapi.json").bearer(&setup.token).send(setup.server.address).json();
    let paths: Vec<_> = document["paths"].as_object().unwrap().keys().collect();
    assert!(paths.iter().any(|path| *path == "/api/v3/optoken/health"), "{paths:?}");
    assert!(!paths.iter().any(|path| ["/ping", "/health", "/metrics"].contains(&path.as_str())), "{paths:?}");
    // These are other paths.
    for path in ["/api/v3/configure/tokens", "/api/v3/configure/database", "/api/v3/verifying", "/metrics"] {
        let response = client.get(path, &[("authorization", &bearer)]);
        assert_eq!(client.report(response).text("target"), path);
    }
    // Open, so that no token is read, and none of a client is believed.
    let response = client.get("/health", &[("authorization", "Bearer x"), ("x-auth-token-id", "0")]);
    let report = client.report(response);
    assert_eq!((report.header("authorization").len(), report.header("x-auth-token-id").len()), (0, 0));
}

#[test]
fn token_of_the_upstream_is_put_in_place_of_that_of_the_client() {
    let (env, service) = (TestEnv::new(), Service::start());
    let file = env.file("upstream-token", b"\xef\xbb\xbfapiv3_of-the-upstream\n");
    let serve = |mode| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        env.serve_with(&["--upstream", &service.url(), "--upstream-token-file"]).arg(&file)
    };
    remember_secret("apiv3_of-the-upstream");
    serve(0o644).run().assert_failed(1, &["others can read the token"]);
    serve(0o660).run().assert_failed(1, &["others can change it"]);
    let server = serve(0o600).start();
    let token = server.create();
    let mut client = Client::open(Http::One, server.address);
    let mut presented = || {
        let response = client.get("/x", &[("authorization", &format!("bearer {token}"))]);
        client.report(response).header("authorization").join(",")
    };
    assert_eq!(presented(), "Bearer apiv3_of-the-upstream");
    fs::write(&file, r#"{"token": "apiv3_next-of-the-upstream", "name": "x"}"#).unwrap();
    remember_secret("apiv3_next-of-the-upstream");
    server.signal(Signal::HUP);
    eventually("the new token is presented", || presented() == "Bearer apiv3_next-of-the-upstream");
    // A file that cannot be used changes nothing.
    fs::write(&file, "two words").unwrap();
    server.signal(Signal::HUP);
    server.wait_for_log("the upstream gets the previous token");
    assert_eq!(presented(), "Bearer apiv3_next-of-the-upstream");
}

#[test]
fn identity_is_that_of_the_token() {
    let setup = Setup::start(&[]);
    let named = create_named(&setup.token, "two words").send(setup.server.address).token();
    let mut client = setup.client(Http::Two);
    let response = client.get("/x", &[("authorization", &format!("Token {named}"))]);
    let report = client.report(response);
    assert_eq!(report.header("x-auth-token-id"), ["1"]);
    assert_eq!(report.header("x-auth-token-name"), ["two%20words"]);
}

#[test]
fn responses_come_back_without_the_headers_of_the_hop() {
    let setup = Setup::start(&[]);
    for http in BOTH {
        let mut client = setup.client(http);
        let bearer = setup.bearer();
        let authorization = ("authorization", &*bearer);
        let response = client.get("/headers", &[authorization]);
        let headers = response.headers();
        for name in ["connection", "x-hop", "keep-alive", "proxy-authenticate", "transfer-encoding"] {
            assert!(headers.get(name).is_none(), "{http:?} {name}: {headers:?}");
        }
        assert_eq!(headers["server"], "the service");
        assert_eq!(headers["date"], "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(client.text(response), "x");

        let response = client.send("HEAD", "/length", &[authorization], no_body());
        assert_eq!(response.headers()["content-length"], "12345", "{http:?}");
        assert_eq!(client.text(response), "");
        // The service states no length here.
        let response = client.send("HEAD", "/trailers", &[authorization], no_body());
        assert!(response.headers().get("content-length").is_none(), "{http:?} {response:?}");
        assert_eq!(client.text(response), "");
        let response = client.get("/length", &[authorization]);
        assert_eq!(response.headers()["content-length"], "12345");
        assert_eq!(client.text(response).len(), 12345);
        let response = client.get("/not-modified", &[authorization, ("if-none-match", "x")]);
        assert_eq!(response.status(), 304);
        assert_eq!(client.text(response), "");
        let response = client.get("/no-content", &[authorization]);
        assert_eq!((response.status().as_u16(), response.headers().get("content-length")), (204, None));
        assert_eq!(client.text(response), "");
        let response = client.get("/range", &[authorization, ("range", "bytes=0-1")]);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-range"]),
            (206, &HeaderValue::from_static("bytes 0-1/9"))
        );
        assert_eq!(client.text(response), "ab");
    }
}

#[test]
fn upstream_with_tls_must_prove_its_identity() {
    let certificate = TestCertificate::new();
    let mut operator = None;
    for (protocols, version) in [(&["h2", "http/1.1"][..], "2"), (&["http/1.1"], "1.1"), (&[], "1.1")] {
        let service = Service::start_tls(&certificate.certificate, &certificate.key, protocols);
        let url = format!("https://localhost:{}", service.address.port());
        let trusted = certificate.env.serve_with(&["--upstream", &url, "--upstream-ca"]);
        let server = trusted.arg(&certificate.authority).start();
        // The store of the environment has it from the second server on.
        let token = operator.get_or_insert_with(|| server.create());
        let mut client = Client::open(Http::Two, server.address);
        let response = client.get("/x", &[("authorization", &format!("Bearer {token}"))]);
        let report = client.report(response);
        assert_eq!((report.text("version"), report.text("host")), (version, "service.example:81"));
        server.stop();

        let env = TestEnv::new();
        let server = env.serve(&["--upstream", &url]);
        let token = server.create();
        let response = get("/x").bearer(&token).send(server.address);
        assert_eq!(response.status, 502, "{response:?}");
        server.wait_for_log("--upstream-ca FILE or INFLUXDB3_UPSTREAM_CA");
        let metrics = get("/api/v3/optoken/metrics").bearer(&token).send(server.address).body;
        assert!(metrics.contains(r#"optoken_upstream_failures_total{reason="tls"} 1"#), "{metrics}");
        // The request of the server that trusts it.
        assert_eq!(service.all_hits(), 1);
    }
}

#[test]
fn options_of_the_upstream_are_checked() {
    let env = TestEnv::new();
    for (args, message) in [
        (&["--upstream", "127.0.0.1:1"][..], "begins with http:// or https://"),
        (&["--upstream", "http://u:secret@x"], "--upstream-token-file"),
        (&["--upstream", "http://x/?a"], "query string"),
        (&["--upstream-kind", "http"], "--upstream <URL>"),
        (&["--upstream-timeout", "1s"], "--upstream <URL>"),
        (&["--upstream-upgrade", "websocket"], "--upstream <URL>"),
        (&["--upstream", "http://x", "--upstream-timeout", "0s"], "no request could be done"),
        (&["--upstream", "http://x", "--upstream-upgrade", "h2c"], "websocket"),
        (&["--upstream", "http://x", "--upstream-kind", "influxdb"], "auto, influxdb3 or http"),
        (&["--upstream", "http://x", "--upstream-http-version", "3"], "auto, 1.1 or 2"),
    ] {
        let output = env.serve_with(args).run();
        output.assert_failed(2, &[message]);
        assert!(!output.stderr.contains("secret"), "{}", output.stderr);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (bind, upstream) in [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")] {
        let (bind, upstream) = (format!("{bind}:{port}"), format!("http://{upstream}:{port}"));
        let serve = env.cli(["serve", "--http-bind", &bind, "--upstream", &upstream, "--data-dir"]);
        serve.arg(env.data_dir()).run().assert_failed(1, &["is the address of this server"]);
    }
}

#[test]
fn kind_of_the_upstream_is_asked() {
    let setup = Setup::start(&[]);
    setup.server.wait_for_log("is InfluxDB 3");
    assert_eq!(setup.service.hits("/ping"), 1);
    let setup = Setup::start(&["--upstream-kind", "http"]);
    assert_eq!(get("/x").bearer(&setup.token).send(setup.server.address).status, 200);
    assert_eq!(setup.service.hits("/ping"), 0);
    let env = TestEnv::new();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = env.serve(&["--upstream", &format!("http://{gone}")]);
    server.wait_for_log("is not known yet");
}

#[test]
fn without_auth_requests_pass_without_identity() {
    let (env, service) = (TestEnv::new(), Service::start());
    let server = env.serve(&["--upstream", &service.url(), "--without-auth"]);
    let mut client = Client::open(Http::One, server.address);
    for headers in [&[("x-auth-token-id", "0"), ("authorization", "Bearer x")][..], &[]] {
        let response = client.get("/x", headers);
        let names = client.report(response);
        assert!(names.header("x-auth-token-id").is_empty() && names.header("authorization").is_empty());
        assert_eq!(names.header("x-forwarded-for"), ["127.0.0.1"]);
    }
    let response = client.get("/x", &[("authorization", "Digest x")]);
    assert_eq!(response.status(), 400);
}

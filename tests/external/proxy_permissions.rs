//! Tokens with permissions behind the configurations of host/proxies: what each token reaches, and
//! that no hostile request reaches more.
//!
//! The service reports what it received. A second, simple matcher decides on that, in every reading
//! that a service may have of it.

use std::collections::BTreeSet;

use crate::proxies::{Proxy, ProxyKind, ReceivedRequest, Service};
use crate::support::{Connection, Request, Response, TestEnv, create_scoped, get, request};

const INSUFFICIENT_SCOPE: &str = r#"Bearer realm="influxdb3", error="insufficient_scope""#;

/// What a token may do, as the second matcher knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// `http:/a/*:read`.
    ReadA,
    /// `http:a.example/x:write`.
    WriteX,
    /// `db:a:read`.
    Query,
    /// `db:a:write`.
    Write,
    /// The operator token.
    Everything,
}

const TOKENS: [(May, &str); 4] = [
    (May::ReadA, "http:/a/*:read"),
    (May::WriteX, "http:a.example/x:write"),
    (May::Query, "db:a:read"),
    (May::Write, "db:a:write"),
];

/// A proxy between a client and a service, with the tokens of these tests.
struct Setup {
    env: TestEnv,
    /// Each with its id.
    tokens: Vec<(May, String, String)>,
    service: Service,
}

/// Runs a test with a proxy in front of a service.
fn with_proxy(kind: &ProxyKind, run: impl FnOnce(&Proxy, &Setup)) {
    let env = TestEnv::new();
    let authority = env.serve(&["--verify-request", kind.verify_request]);
    authority.allow_redaction();
    let operator = authority.create();
    let mut tokens = Vec::new();
    for (position, (may, permission)) in TOKENS.into_iter().enumerate() {
        let token = create_scoped(authority.address, &operator, &format!("t{position}"), &[permission]);
        tokens.push((may, token, (position + 1).to_string()));
    }
    tokens.push((May::Everything, operator, "0".to_owned()));
    let setup = Setup { env, tokens, service: Service::start() };
    let proxy = Proxy::start(kind, &setup.env, authority.address, setup.service.address);
    run(&proxy, &setup);
}

/// The document names the source that each configuration fits.
pub(crate) fn configuration_names_its_source(kind: &ProxyKind) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proxies");
    // The comment may be wrapped.
    let shipped = std::fs::read_to_string(folder.join(kind.file())).unwrap().replace("\n# ", " ");
    let option = format!("optoken serve --verify-request {}.", kind.verify_request);
    assert!(shipped.contains(&option), "{}: {option}", kind.name);
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let row = readme.lines().find(|line| line.starts_with(&format!("| `{}`", kind.file()))).unwrap();
    assert!(row.contains(&format!("`{}`", kind.verify_request)), "{row}");
}

/// The head of a response: one to HEAD has a length and no body.
fn send(proxy: &Proxy, request: &[u8]) -> Option<Response> {
    let mut connection = Connection::open(proxy.address()).unwrap();
    connection.write(request);
    // Some proxies close the connection without a response.
    connection.read_head().ok()
}

pub(crate) fn permissions_decide_what_reaches_service(kind: &ProxyKind) {
    use May::{Query, ReadA, Write, WriteX};
    with_proxy(kind, |proxy, Setup { tokens, service, .. }| {
        for (method, host, target, allowed) in [
            ("GET", "any.example", "/a/b", Some(ReadA)),
            ("HEAD", "any.example:8080", "/a/b?c=d", Some(ReadA)),
            ("OPTIONS", "ANY.example", "/a/", Some(ReadA)),
            ("GET", "any.example", "/a/%C3%A9%20b", Some(ReadA)),
            ("POST", "any.example", "/a/b", None),
            ("DELETE", "any.example", "/a/b", None),
            ("PROPFIND", "any.example", "/a/b", None),
            ("GET", "any.example", "/a", None),
            ("GET", "any.example", "/ab/c", None),
            ("GET", "any.example", "/", None),
            ("POST", "a.example", "/x", Some(WriteX)),
            ("DELETE", "A.Example:81", "/x?y=/a/", Some(WriteX)),
            ("GET", "a.example", "/x", None),
            ("POST", "b.example", "/x", None),
            ("POST", "a.example", "/x/y", None),
            ("GET", "h", "/api/v3/query_sql?db=a&q=select+1", Some(Query)),
            ("GET", "h", "/query?q=select+*+from+m&db=a", Some(Query)),
            ("GET", "h", "/api/v3/query_sql?db=b&q=select+1", None),
            ("GET", "h", "/query?db=a&q=drop+database+a", None),
            ("POST", "h", "/api/v3/write_lp?db=a&precision=ns", Some(Write)),
            ("POST", "h", "/api/v2/write?bucket=a&org=o", Some(Write)),
            ("POST", "h", "/write?db=a", Some(Write)),
            ("POST", "h", "/api/v3/write_lp?db=b", None),
            ("POST", "h", "/api/v3/write_lp", None),
            // The body names the database, and no proxy passes it to optoken.
            ("POST", "h", "/api/v3/query_sql", None),
            ("POST", "h", "/api/v3/configure/database", None),
            ("GET", "h", "/api/v3/configure/token", None),
        ] {
            for (may, token, id) in tokens {
                let mut asked = request(method, target).with_host(host).bearer(token);
                if method == "POST" {
                    asked = asked.body(b"m v=1");
                }
                let case = format!("{}: {may:?}: {method} {host} {target}", proxy.name);
                let response = send(proxy, &asked.to_bytes()).unwrap();
                let received = service.received();
                if *may == May::Everything || Some(*may) == allowed {
                    assert_eq!(response.status, 200, "{case}: {response:?}");
                    let [received] = received.as_slice() else { panic!("{case}: {received:?}") };
                    assert_eq!(
                        (received.method.as_str(), received.target.as_str()),
                        (method, target),
                        "{case}"
                    );
                    assert_eq!(received.identity_headers()[0], ("x-auth-token-id", id.as_str()), "{case}");
                } else {
                    assert_eq!(response.status, 403, "{case}: {response:?}");
                    assert_eq!(response.header("www-authenticate"), Some(INSUFFICIENT_SCOPE), "{case}");
                    assert!(received.is_empty(), "{case}: {received:?}");
                }
            }
        }
        // A token with all permissions reaches what has no certain reading, as it stands.
        let (_, operator, _) = tokens.last().unwrap();
        for target in ["/a/../b", "/a//b", "/a%2Fb", "/%61", "/a;b", "/a%25", "/api/v3/verify/../x"] {
            let response = send(proxy, &get(target).bearer(operator).to_bytes()).unwrap();
            let received = service.received();
            let case = format!("{}: {target}: {response:?}: {received:?}", proxy.name);
            assert_eq!(response.status, 200, "{case}");
            assert_eq!(received[0].target, target, "{case}");
        }
    });
}

/// Method, target and header lines of hostile requests. `Host` is `a.example` if no line names it.
/// What a client forges has the word `forged`.
const HOSTILE: [(&str, &str, &[&str]); 123] = [
    // Dot segments.
    ("GET", "/a/..", &[]),
    ("GET", "/a/../", &[]),
    ("GET", "/a/../secret", &[]),
    ("GET", "/a/./../secret", &[]),
    ("GET", "/a/b/../../secret", &[]),
    ("GET", "/a/%2e%2e/secret", &[]),
    ("GET", "/a/%2E./secret", &[]),
    ("GET", "/a/.%2e/secret", &[]),
    ("GET", "/a/%2e%2e%2fsecret", &[]),
    ("GET", "/a/..%2fsecret", &[]),
    ("GET", "/a/..%2Fsecret", &[]),
    ("GET", "/a/..%5csecret", &[]),
    ("GET", "/a/..\\secret", &[]),
    ("GET", "/a/%252e%252e/secret", &[]),
    ("GET", "/a/..%252fsecret", &[]),
    ("GET", "/a/..%c0%afsecret", &[]),
    ("GET", "/a/%c0%ae%c0%ae/secret", &[]),
    ("GET", "/a/..;/secret", &[]),
    ("GET", "/a/..;x=y/secret", &[]),
    ("GET", "/a/..%3b/secret", &[]),
    ("GET", "/a/..%00/secret", &[]),
    ("GET", "/a/..%0a/secret", &[]),
    ("GET", "/a/..%09/secret", &[]),
    ("GET", "/a/.. /secret", &[]),
    ("GET", "/a/..%20/secret", &[]),
    ("GET", "/a/..?/secret", &[]),
    ("GET", "/a/..#/secret", &[]),
    ("GET", "/secret/../a/b", &[]),
    ("GET", "/secret/..;/a/b", &[]),
    ("GET", "/secret%2f..%2fa%2fb", &[]),
    ("GET", "/./secret", &[]),
    ("GET", "/../secret", &[]),
    ("GET", "/a/...//../secret", &[]),
    // Slashes.
    ("GET", "//a/b", &[]),
    ("GET", "/a//", &[]),
    ("GET", "/a//../secret", &[]),
    ("GET", "/a//../../secret", &[]),
    ("GET", "//secret/a/b", &[]),
    ("GET", "//a.example/a/b", &[]),
    ("GET", "/\\secret", &[]),
    ("GET", "\\a\\b", &[]),
    ("GET", "/a%2fb", &[]),
    ("GET", "/a%5Cb", &[]),
    ("GET", "%2fa%2fb", &[]),
    ("GET", "a/b", &[]),
    // Encodings.
    ("GET", "/%61/b", &[]),
    ("GET", "/a/%", &[]),
    ("GET", "/a/%zz", &[]),
    ("GET", "/a/%u002e", &[]),
    ("GET", "/a/%25", &[]),
    ("GET", "/a/%00", &[]),
    ("GET", "/a/\0", &[]),
    ("GET", "/a/\u{1}", &[]),
    ("GET", "/a/\u{7f}", &[]),
    ("GET", "/a/\u{e9}", &[]),
    ("GET", "/a/%ff", &[]),
    ("GET", "/a/;/../../secret", &[]),
    ("GET", "/a;/b", &[]),
    ("GET", "/a/b;c=d", &[]),
    ("GET", "/A/b", &[]),
    ("GET", "/a/{http.request.uri}", &[]),
    ("GET", "/a/%7Bhttp.request.uri%7D", &[]),
    ("GET", "/a/b#/../../secret", &[]),
    ("GET", "/secret#/a/b", &[]),
    ("GET", "/secret?/a/b", &[]),
    ("GET", "/secret%3f/a/b", &[]),
    // Hosts.
    ("POST", "/x", &["Host: A.EXAMPLE"]),
    ("POST", "/x", &["Host: a.example."]),
    ("POST", "/x", &["Host: a.example.:81"]),
    ("POST", "/x", &["Host: a.example:99999"]),
    ("POST", "/x", &["Host: a.example:forged"]),
    ("POST", "/x", &["Host: forged@a.example"]),
    ("POST", "/x", &["Host: a.example, forged.example"]),
    ("POST", "/x", &["Host: a.example forged.example"]),
    ("POST", "/x", &["Host: forged.example"]),
    ("POST", "/x", &["Host: a.example", "Host: forged.example"]),
    ("POST", "/x", &["Host: forged.example", "Host: a.example"]),
    ("POST", "/x", &["Host: forged.example", "X-Forwarded-Host: a.example"]),
    ("POST", "/x", &["Host: forged.example", "X-Original-Host: a.example"]),
    ("POST", "/x", &["Host:"]),
    ("POST", "http://a.example/x", &["Host: forged.example"]),
    ("POST", "http://forged.example/x", &["Host: a.example"]),
    ("POST", "http://a.example./x", &["Host: a.example"]),
    ("POST", "http://forged@a.example/x", &["Host: a.example"]),
    ("POST", "//forged.example/x", &[]),
    ("GET", "http://a.example/a/../secret", &[]),
    ("GET", "http://a.example/secret", &["X-Original-Uri: /a/forged"]),
    // Another request in the headers.
    ("GET", "/secret", &["X-Original-Uri: /a/forged", "X-Original-Method: GET", "X-Original-Host: forged"]),
    (
        "GET",
        "/secret",
        &["X-Forwarded-Uri: /a/forged", "X-Forwarded-Method: GET", "X-Forwarded-Host: forged"],
    ),
    ("GET", "/secret", &["X_Original_Uri: /a/forged", "X_Forwarded_Uri: /a/forged"]),
    ("GET", "/secret", &["X-Original_Uri: /a/forged", "X-Forwarded_Uri: /a/forged"]),
    ("GET", "/secret", &["X-Original-Uri: /a/forged", "Connection: X-Original-Uri, X-Forwarded-Uri"]),
    ("GET", "/secret", &["Connection: X-Original-Method, X-Original-Host, X-Forwarded-Method, Host"]),
    ("GET", "/a/b", &["X-Original-Url: /forged", "X-Rewrite-Url: /forged", "X-Original-Uri: /forged"]),
    ("GET", "/a/b", &["X_Rewrite_Url: /forged", "X_Original_Url: /forged", "X-Rewrite_Url: /forged"]),
    ("GET", "/a/b", &["X-Forwarded-Prefix: /forged", "X-Forwarded-Path: /forged", "Forwarded: host=forged"]),
    ("GET", "/a/b", &["X-Forwarded-For: forged", "X-Real-Ip: forged", "X-Forwarded-User: forged"]),
    ("DELETE", "/a/b", &["X-Original-Method: GET", "X-Forwarded-Method: GET"]),
    (
        "GET",
        "/a/b",
        &["X-Http-Method-Override: forged", "X-Method-Override: forged", "X-Http-Method: forged"],
    ),
    ("GET", "/a/b", &["X_HTTP_Method_Override: forged", "X_Method_Override: forged"]),
    // Methods.
    ("get", "/a/b", &[]),
    ("Get", "/a/b", &[]),
    ("post", "/x", &[]),
    ("GETX", "/a/b", &[]),
    ("G\u{0}ET", "/a/b", &[]),
    // Identity.
    ("GET", "/a/b", &["X-Auth-Token-Id: 0", "X-Auth-Token-Name: forged"]),
    ("GET", "/a/b", &["X_Auth_Token_Id: 0", "X-Auth_Token-Name: forged"]),
    ("GET", "/a/b", &["Connection: X-Auth-Token-Id, X-Auth-Token-Name"]),
    // Rows of InfluxDB.
    ("POST", "/api/v3/write_lp?db=b&db=a", &[]),
    ("POST", "/api/v3/write_lp?db=a&d%62=b", &[]),
    ("POST", "/api/v3//write_lp?db=b", &["X-Original-Uri: /api/v3/write_lp?db=a#forged"]),
    ("POST", "/api/v3/write%5flp?db=b", &[]),
    ("GET", "/a/../api/v3/query_sql?db=b", &[]),
    ("GET", "/a/..;/secret", &[]),
    ("GET", "/a/%2E%2E;x/secret", &[]),
    ("GET", "/a/.%2e/.%2E/secret", &[]),
    ("GET", "/a%0d%0aX-Auth-Token-Id:%200", &[]),
    ("GET", "/a/%ff", &[]),
    ("POST", "/api/v3/write_lp?db=a&db=%62", &[]),
    ("POST", "/api/v3/write_lp?d%62=b", &[]),
    ("POST", "/write?db=b&rp=autogen", &[]),
    ("GET", "/query?db=a&q=SELECT+*+FROM+b..m", &[]),
    ("GET", "/query?db=a&q=SELECT+*+INTO+b..m+FROM+m", &[]),
];

pub(crate) fn hostile_requests_reach_no_more_than_allowed(kind: &ProxyKind) {
    with_proxy(kind, |proxy, Setup { tokens, service, .. }| {
        let mut reached = 0;
        for (method, target, lines) in HOSTILE {
            for (may, token, id) in tokens {
                let case = format!("{}: {may:?}: {method} {target} {lines:?}", proxy.name);
                let mut head = format!("{method} {target} HTTP/1.1\r\n");
                if !lines.iter().any(|line| line.starts_with("Host:")) {
                    head.push_str("Host: a.example\r\n");
                }
                for line in lines.iter().copied().chain(["Content-Length: 0"]) {
                    head.extend([line, "\r\n"]);
                }
                head.extend(["Authorization: Bearer ", token, "\r\n\r\n"]);
                let response = send(proxy, head.as_bytes());
                for received in service.received() {
                    reached += usize::from(*may != May::Everything);
                    assert!(is_allowed(*may, &received), "{case}: {received:?}: {response:?}");
                    assert_nothing_forged(&received, id, &case);
                }
            }
        }
        // A harmless part of the rows is allowed, such as a host in upper case.
        assert!(reached >= 5, "{}: {reached}", proxy.name);
        // None of them has broken the proxy.
        let (_, token, _) = &tokens[0];
        let asked: Request = get("/a/b").bearer(token);
        assert_eq!(proxy.send(&asked).status, 200, "{}", proxy.name);
    });
}

/// What the client states about itself or about the request does not arrive.
#[track_caller]
fn assert_nothing_forged(received: &ReceivedRequest, id: &str, case: &str) {
    let identity: Vec<_> = received.identity_headers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(identity, ["x-auth-token-id", "x-auth-token-name"], "{case}: {received:?}");
    assert_eq!(received.header("x-auth-token-id"), Some(id), "{case}: {received:?}");
    assert_eq!(received.header("authorization"), None, "{case}: {received:?}");
    for (name, value) in &received.headers {
        let name = name.replace('_', "-");
        let states = ["x-original-", "x-rewrite-", "x-forwarded-", "x-real-", "x-http-method", "x-method-"];
        if states.iter().any(|prefix| name.starts_with(prefix)) || name == "forwarded" {
            let own = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];
            assert!(own.contains(&name.as_str()) || value.is_empty(), "{case}: {received:?}");
            let is_host = name == "x-forwarded-host" && Some(value.as_str()) == received.header("host");
            assert!(is_host || !value.contains("forged"), "{case}: {received:?}");
        }
    }
}

/// Whether a token may do what the service received, in each of its readings.
fn is_allowed(may: May, received: &ReceivedRequest) -> bool {
    let is_upper = received.method.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_read = ["GET", "HEAD", "OPTIONS"].contains(&received.method.as_str());
    let (authority, target) = match received.target.strip_prefix("http://") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => (received.header("host").unwrap_or_default(), received.target.as_str()),
    };
    let hosts: Vec<_> = received.headers.iter().filter(|(name, _)| name == "host").collect();
    let same_host = hosts.len() == 1 && hosts[0].1.eq_ignore_ascii_case(authority);
    let name = authority.to_ascii_lowercase();
    let name = name.split_once(':').map_or(name.as_str(), |(name, _)| name);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let paths = readings(path);
    let is_row = |path: &String| {
        let path = path.trim_end_matches('/');
        ["/write", "/query"].contains(&path) || path.starts_with("/api/v")
    };
    let names = |key: &str, value: &str| {
        let mut pairs = query.split('&').filter(|pair| pair.contains(key) || pair.contains('%'));
        pairs.next() == Some(&format!("{key}={value}")) && pairs.next().is_none()
    };
    let is_path = |wanted: &str| paths.iter().all(|path| path == wanted);
    match may {
        May::Everything => true,
        _ if !is_upper || !same_host => false,
        May::ReadA => is_read && paths.iter().all(|path| path.starts_with("/a/") && !is_row(path)),
        May::WriteX => !is_read && name == "a.example" && is_path("/x"),
        May::Query => {
            received.method == "GET"
                && (is_path("/api/v3/query_sql") || is_path("/query"))
                && names("db", "a")
        }
        May::Write => {
            let of_db = is_path("/api/v3/write_lp") || is_path("/write");
            let of_bucket = is_path("/api/v2/write") && names("bucket", "a");
            received.method == "POST" && (of_db && names("db", "a") || of_bucket)
        }
    }
}

/// A step that some service takes before it compares a path.
type Step = fn(&str) -> String;

/// All paths that a service may see in one.
fn readings(path: &str) -> BTreeSet<String> {
    let steps: [Step; 6] = [
        decoded,
        |path| path.replace('\\', "/"),
        |path| {
            path.split('/').map(|segment| segment.split(';').next().unwrap()).collect::<Vec<_>>().join("/")
        },
        |path| path.split(['\0', '#', '?']).next().unwrap().to_owned(),
        |path| {
            path.split('/')
                .filter(|segment| !segment.is_empty())
                .fold(String::new(), |path, segment| format!("{path}/{segment}"))
                + if path.ends_with('/') { "/" } else { "" }
        },
        without_dot_segments,
    ];
    let mut found = BTreeSet::from([path.to_owned()]);
    loop {
        let more: Vec<_> = found.iter().flat_map(|path| steps.map(|step| step(path))).collect();
        let before = found.len();
        found.extend(more);
        if found.len() == before {
            return found;
        }
    }
}

fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.extend([&[byte], &part.as_bytes()[2..]].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in path.split('/').skip(1) {
        is_folder = matches!(segment.trim(), "." | "..");
        match segment.trim() {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{}", kept.join("/"), if is_folder && !kept.is_empty() { "/" } else { "" })
}

/// The matcher above finds what it must not let pass.
pub(crate) fn second_matcher_reads_hostile_paths() {
    let received = |method: &str, host: &str, target: &str| ReceivedRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        headers: vec![("host".to_owned(), host.to_owned())],
        body: Vec::new(),
        trailers: Vec::new(),
    };
    for (may, method, host, target, expected) in [
        (May::ReadA, "GET", "h", "/a/b", true),
        (May::ReadA, "GET", "h", "/a/b?c", true),
        (May::ReadA, "GET", "h", "/a/%C3%A9", true),
        (May::ReadA, "POST", "h", "/a/b", false),
        (May::ReadA, "get", "h", "/a/b", false),
        (May::ReadA, "GET", "h", "/a/../b", false),
        (May::ReadA, "GET", "h", "/a/%2e%2e/b", false),
        (May::ReadA, "GET", "h", "/a/%252e%252e/b", false),
        (May::ReadA, "GET", "h", "/a/..%2fb", false),
        (May::ReadA, "GET", "h", "/a/..%5cb", false),
        (May::ReadA, "GET", "h", "/a/..;x/b", false),
        (May::ReadA, "GET", "h", "/b/../a/c", false),
        (May::ReadA, "GET", "h", "//a/b", false),
        (May::ReadA, "GET", "h", "/%61/b", false),
        (May::WriteX, "POST", "A.example:80", "/x", true),
        (May::WriteX, "POST", "a.example.", "/x", false),
        (May::WriteX, "POST", "a.example", "http://b/x", false),
        (May::Query, "GET", "h", "/query?db=a&q=x", true),
        (May::Query, "GET", "h", "/query?db=a&db=b", false),
        (May::Query, "GET", "h", "/query?db=a&d%62=b", false),
        (May::Write, "POST", "h", "/api/v2/write?bucket=a", true),
        (May::Write, "POST", "h", "/api/v3/write_lp?db=b", false),
    ] {
        assert_eq!(is_allowed(may, &received(method, host, target)), expected, "{may:?} {method} {target}");
    }
}

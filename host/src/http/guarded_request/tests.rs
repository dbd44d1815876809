use super::*;
use crate::access::{DatabaseAction, Target};

/// A question with this method and target, and with these headers.
fn question(method: &str, uri: &str, headers: &[(&str, &[u8])]) -> Request<()> {
    let request = Request::builder().method(method).uri(uri);
    let add = |request: hyper::http::request::Builder, (name, value): &(&str, &[u8])| {
        request.header(*name, HeaderValue::from_bytes(value).unwrap())
    };
    headers.iter().fold(request, add).body(()).unwrap()
}

/// The request that headers of this prefix state.
fn stated(source: VerifyRequest, prefix: &str, parts: [&[u8]; 3]) -> Result<GuardedRequest, UnknownRequest> {
    let names = ["method", "host", "uri"].map(|part| format!("{prefix}-{part}"));
    let headers: Vec<_> = names.iter().map(String::as_str).zip(parts).collect();
    source.read(&question("GET", paths::VERIFY, &headers))
}

/// Method, host, path and query string of a request.
fn parts(request: &GuardedRequest) -> [&str; 4] {
    let access = request.access();
    [access.method, access.host, access.path, access.query.unwrap_or("-")]
}

const SOURCES: [(VerifyRequest, &str); 2] =
    [(VerifyRequest::Forwarded, "x-forwarded"), (VerifyRequest::Original, "x-original")];

#[test]
fn sources_have_names() {
    for (name, source) in [
        ("forwarded", VerifyRequest::Forwarded),
        ("original", VerifyRequest::Original),
        ("path", VerifyRequest::Path),
        ("none", VerifyRequest::None),
    ] {
        assert_eq!(name.parse(), Ok(source));
    }
    for name in ["", "Forwarded", "forwarded,original", "headers", "x-forwarded"] {
        assert!(name.parse::<VerifyRequest>().is_err(), "{name:?}");
    }
    assert_eq!(VerifyRequest::default(), VerifyRequest::None);
}

#[test]
fn headers_state_the_request() {
    for (source, prefix) in SOURCES {
        for (stated_parts, expected) in [
            (["GET", "db.example", "/a/b?c=d"], ["GET", "db.example", "/a/b", "c=d"]),
            (["POST", "DB.example:8443", "/"], ["POST", "db.example", "/", "-"]),
            (["PROPFIND", "[::1]:80", "/a/?"], ["PROPFIND", "[::1]", "/a/", ""]),
            (["M-SEARCH", "a", "/%c3%A9?x=/../y?z"], ["M-SEARCH", "a", "/%C3%A9", "x=/../y?z"]),
            (["GET", "a", "/..b/c./%20d%20"], ["GET", "a", "/..b/c./%20d%20", "-"]),
        ] {
            let request = stated(source, prefix, stated_parts.map(str::as_bytes)).unwrap();
            assert_eq!(parts(&request), expected, "{source:?}");
            assert_eq!(request.access().target, Target::Http);
        }
    }
}

#[test]
fn header_that_is_missing_or_stands_twice_states_nothing() {
    for (source, prefix) in SOURCES {
        let names = ["method", "host", "uri"].map(|part| format!("{prefix}-{part}"));
        let all: Vec<_> = names.iter().map(String::as_str).zip([&b"GET"[..], b"a", b"/"]).collect();
        assert!(source.read(&question("GET", paths::VERIFY, &all)).is_ok());
        for position in 0..3 {
            let mut without = all.clone();
            let (name, value) = without.remove(position);
            let read = source.read(&question("GET", paths::VERIFY, &without));
            assert!(matches!(read, Err(UnknownRequest::Missing(missing)) if missing == name), "{read:?}");
            // The same value twice, and in the spelling of some services.
            let mut twice = all.clone();
            twice.push((name, value));
            let read = source.read(&question("GET", paths::VERIFY, &twice));
            assert!(matches!(read, Err(UnknownRequest::Twice(header)) if header == name), "{read:?}");
            let underscored = name.replace('-', "_");
            without.push((&underscored, value));
            assert!(source.read(&question("GET", paths::VERIFY, &without)).is_err(), "{underscored}");
        }
        // The headers of the other source.
        for (other, _) in SOURCES.iter().filter(|(other, _)| *other != source) {
            assert!(other.read(&question("GET", paths::VERIFY, &all)).is_err(), "{other:?}");
        }
        assert_eq!(
            VerifyRequest::None.read(&question("GET", "/api/v3/verify/a", &all)),
            Err(UnknownRequest::NoSource)
        );
    }
}

#[test]
fn uncertain_statements_are_refused() {
    use UnknownRequest::{Host, Method, Path, Query};
    for (stated_parts, reason) in [
        ([&b"get"[..], b"a", b"/"], Method),
        ([b"Get", b"a", b"/"], Method),
        ([b"GET POST", b"a", b"/"], Method),
        ([b"", b"a", b"/"], Method),
        ([b"GET,POST", b"a", b"/"], Method),
        ([b"GET", b"", b"/"], Host),
        ([b"GET", b"a.", b"/"], Host),
        ([b"GET", b"a.:80", b"/"], Host),
        ([b"GET", b"a, b", b"/"], Host),
        ([b"GET", b"a:b", b"/"], Host),
        ([b"GET", b"u@a", b"/"], Host),
        ([b"GET", b"a..b", b"/"], Host),
        ([b"GET", b"a%2eb", b"/"], Host),
        ([b"GET", b"http://a", b"/"], Host),
        ([b"GET", b"a/b", b"/"], Host),
        ([b"GET", b"\xff", b"/"], Host),
        ([b"GET", b"a", b""], Path),
        ([b"GET", b"a", b"*"], Path),
        ([b"GET", b"a", b"a"], Path),
        ([b"GET", b"a", b"?/"], Path),
        ([b"GET", b"a", b"http://a/"], Path),
        ([b"GET", b"a", b"//"], Path),
        ([b"GET", b"a", b"//b/c"], Path),
        ([b"GET", b"a", b"/b//c"], Path),
        ([b"GET", b"a", b"/."], Path),
        ([b"GET", b"a", b"/b/./c"], Path),
        ([b"GET", b"a", b"/b/../c"], Path),
        ([b"GET", b"a", b"/b/%2e%2e/c"], Path),
        ([b"GET", b"a", b"/b/.%2E/c"], Path),
        ([b"GET", b"a", b"/%61"], Path),
        ([b"GET", b"a", b"/b%2fc"], Path),
        ([b"GET", b"a", b"/b%5Cc"], Path),
        ([b"GET", b"a", b"/b\\c"], Path),
        ([b"GET", b"a", b"/b%252e"], Path),
        ([b"GET", b"a", b"/b;c"], Path),
        ([b"GET", b"a", b"/b%3Bc"], Path),
        ([b"GET", b"a", b"/b%00"], Path),
        ([b"GET", b"a", b"/b%0a"], Path),
        ([b"GET", b"a", b"/b c"], Path),
        ([b"GET", b"a", b"/b#c"], Path),
        ([b"GET", b"a", b"/b|c"], Path),
        ([b"GET", b"a", b"/b/..%20/c"], Path),
        ([b"GET", b"a", b"/b/.%20."], Path),
        ([b"GET", b"a", b"/b/%20/c"], Path),
        ([b"GET", b"a", b"/b/.../c"], Path),
        ([b"GET", b"a", b"/b/..%23/c"], Path),
        ([b"GET", b"a", b"/b/..%3fc"], Path),
        ([b"GET", b"a", b"/%"], Path),
        ([b"GET", b"a", b"/%ff"], Path),
        ([b"GET", b"a", b"/\xc3\xa9"], Path),
        ([b"GET", b"a", b"/?a#b"], Query),
    ] {
        for (source, prefix) in SOURCES {
            let text = String::from_utf8_lossy(stated_parts[2]);
            assert_eq!(stated(source, prefix, stated_parts), Err(reason), "{source:?} {text}");
        }
    }
}

#[test]
fn question_states_the_request_in_its_path() {
    let host: &[(&str, &[u8])] = &[("host", b"DB.example:80")];
    for (method, uri, headers, expected) in [
        ("GET", "/api/v3/verify/a/b?c=d", host, Ok(["GET", "db.example", "/a/b", "c=d"])),
        ("HEAD", "/api/v3/verify/", host, Ok(["HEAD", "db.example", "/", "-"])),
        ("DELETE", "/api/v3/verify/api/v3/verify", host, Ok(["DELETE", "db.example", "/api/v3/verify", "-"])),
        // Of HTTP/2.
        ("GET", "http://db.example/api/v3/verify/a", &[], Ok(["GET", "db.example", "/a", "-"])),
        ("GET", "http://db.EXAMPLE:80/api/v3/verify/a", host, Ok(["GET", "db.example", "/a", "-"])),
        ("GET", "http://other/api/v3/verify/a", host, Err(UnknownRequest::Host)),
        ("GET", "/api/v3/verify/a", &[], Err(UnknownRequest::Missing("host"))),
        ("GET", "/api/v3/verify/a", &[("host", b"a"), ("host", b"a")], Err(UnknownRequest::Twice("host"))),
        ("GET", "/api/v3/verify/a", &[("host", b"a.")], Err(UnknownRequest::Host)),
        ("GET", "/api/v3/verify/a", &[("host", b"")], Err(UnknownRequest::Host)),
        ("GET", "/api/v3/verify", host, Err(UnknownRequest::NoPath)),
        ("GET", "/api/v3/verify?c", host, Err(UnknownRequest::NoPath)),
        ("get", "/api/v3/verify/a", host, Err(UnknownRequest::Method)),
        ("GET", "/api/v3/verify//a", host, Err(UnknownRequest::Path)),
        ("GET", "/api/v3/verify/../a", host, Err(UnknownRequest::Path)),
        ("GET", "/api/v3/verify/a/..", host, Err(UnknownRequest::Path)),
        ("GET", "/api/v3/verify/%2e%2e/a", host, Err(UnknownRequest::Path)),
        ("GET", "/api/v3/verify/a%2Fb", host, Err(UnknownRequest::Path)),
        ("GET", "/api/v3/verify/a;b", host, Err(UnknownRequest::Path)),
    ] {
        let read = VerifyRequest::Path.read(&question(method, uri, headers));
        assert_eq!(read.as_ref().map(parts), expected.as_ref().map(|parts| *parts), "{method} {uri}");
    }
    // Headers of the other sources do not count.
    let headers: &[(&str, &[u8])] = &[("host", b"a"), ("x-forwarded-uri", b"/b"), ("x-original-uri", b"/b")];
    let read = VerifyRequest::Path.read(&question("GET", "/api/v3/verify/c", headers)).unwrap();
    assert_eq!(parts(&read), ["GET", "a", "/c", "-"]);
}

#[test]
fn rows_of_influxdb_are_no_resources_of_any_service() {
    let database = |name, action| Target::Database { name, action };
    for (method, uri, target) in [
        ("POST", "/api/v3/write_lp?db=a", database("a", DatabaseAction::Write)),
        ("POST", "/write?db=a", database("a", DatabaseAction::Write)),
        ("POST", "/api/v2/write?bucket=a", database("a", DatabaseAction::Write)),
        ("GET", "/api/v3/query_sql?db=a&q=x", database("a", DatabaseAction::Read)),
        ("GET", "/query?db=a&q=select+*+from+m", database("a", DatabaseAction::Read)),
        // Not in the URI.
        ("POST", "/api/v3/query_sql", Target::Administration),
        ("POST", "/api/v3/query_sql?db=a&q=x", Target::Administration),
        ("POST", "/query?db=a&q=select+*+from+m", Target::Administration),
        ("POST", "/api/v3/configure/database?db=a", Target::Administration),
        ("GET", "/api/v3/configure/database", Target::Administration),
        ("POST", "/arrow.flight.protocol.FlightService/DoGet", Target::Administration),
        ("POST", "/arrow.flight.protocol.FlightService/GetFlightInfo", Target::Administration),
        // Not certain.
        ("POST", "/api/v3/write_lp", Target::Administration),
        ("POST", "/api/v3/write_lp?db=a&db=b", Target::Administration),
        ("POST", "/api/v3/write_lp/?db=a", Target::Administration),
        ("GET", "/query?db=a&q=drop+measurement+m", Target::Administration),
        ("PUT", "/api/v3/write_lp?db=a", Target::Administration),
        // No row.
        ("GET", "/health", Target::Http),
        ("GET", "/a?db=a", Target::Http),
    ] {
        let read =
            stated(VerifyRequest::Original, "x-original", [method.as_bytes(), b"h", uri.as_bytes()]).unwrap();
        assert_eq!(read.access().target, target, "{method} {uri}");
    }
}

//! What is served, and the order in which a request is judged: credential, path, body (COMPAT 2.1 and 2.2). Knows requests
//! and answers as values, and no WASI.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;

use optoken_core::authority::{AuthenticateError, Authority, Caller, Issued};
use optoken_core::commit::CommandError;
use optoken_core::ports::{CatalogStore, Clock, Entropy};
use optoken_core::redact::redact;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::body;
use crate::credentials;
use crate::issued;
use crate::problem::Problem;

const CREATE_PATH: &str = "/api/v3/configure/token/admin";
const REGENERATE_PATH: &str = "/api/v3/configure/token/admin/regenerate";
const VERIFY_PATH: &str = "/api/v3/verify";
const HEALTH_PATHS: [&str; 2] = ["/health", "/api/v1/health"];

pub(crate) const JSON: &str = "application/json";
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// What the audit records say of where a change comes from. There is no more to know.
const ORIGIN: &str = "http";

/// A request, as far as it is looked at.
pub(crate) trait Request {
    /// The method, in capitals as it was sent.
    fn method(&self) -> &str;
    /// As it was sent, byte for byte, without the query string.
    fn path(&self) -> &str;
    /// The first header of this name.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
    /// The names of all headers.
    fn header_names(&self) -> Vec<String>;
    /// The whole body, of at most [`body::MAX_BODY_BYTES`].
    fn body(&mut self) -> Result<Vec<u8>, Problem>;
    /// Tells whoever runs the server, who learns the cause where the client learns what it can act on.
    fn log(&self, what: &str);
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// What whoever runs the server has said, in its environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether anybody may create the operator token: `OPTOKEN_BOOTSTRAP=any`.
    pub(crate) bootstrap: bool,
    /// Whether the paths of `health` need no token: `OPTOKEN_DISABLE_AUTHZ=health`.
    pub(crate) open_health: bool,
}

impl Options {
    pub(crate) fn from_environment(environment: &[(String, String)]) -> Self {
        let is = |name, value| environment.iter().any(|(its, said)| its == name && said == value);
        Self { bootstrap: is("OPTOKEN_BOOTSTRAP", "any"), open_health: is("OPTOKEN_DISABLE_AUTHZ", "health") }
    }
}

/// Answers a request.
pub(crate) fn answer<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    ports: P,
    options: Options,
) -> Answer {
    // Not for a proxy that asks with the method of its client: who lets any 2xx pass would let this pass.
    if request.method() == "OPTIONS" && request.path() != VERIFY_PATH {
        let allow = methods(request.path());
        let headers = allow.map(|allow| ("allow", allow.into())).into_iter().collect();
        return Answer { status: 204, headers, body: vec![].into() };
    }
    match carry_out(request, &mut Authority::new(ports), options) {
        Ok(answer) => answer,
        Err(problem) => refused(request, problem),
    }
}

/// Answers a request with what is wrong.
pub(crate) fn refused(request: &impl Request, problem: Problem) -> Answer {
    if request.path() == VERIFY_PATH { problem.unverified() } else { problem.into() }
}

/// What can be asked for at a path, if it exists.
fn methods(path: &str) -> Option<&'static str> {
    match path {
        CREATE_PATH | REGENERATE_PATH => Some("POST, OPTIONS"),
        _ if HEALTH_PATHS.contains(&path) => Some("GET, OPTIONS"),
        _ => None,
    }
}

fn carry_out<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    authority: &mut Authority<P>,
    options: Options,
) -> Result<Answer, Problem> {
    let health = HEALTH_PATHS.contains(&request.path());
    // Open to everybody without a look at the header (COMPAT 2.2, 2.3), for every method but one (2.9).
    let open = request.path() == CREATE_PATH && request.method() != "GET" || health && options.open_health;
    let presented = if open { None } else { Some(authenticate(request, authority)?) };
    match (request.method(), request.path(), presented) {
        ("POST", CREATE_PATH, _) => create(request, authority, options),
        ("POST", REGENERATE_PATH, Some(token)) => regenerate(request, authority, &token),
        (_, VERIFY_PATH, Some(token)) => verify(authority, &token),
        ("GET", _, _) if health => {
            let headers = vec![("content-type", TEXT.into())];
            Ok(Answer { status: 200, headers, body: b"OK".to_vec().into() })
        }
        // A wrong method is no path either.
        _ => Err(Problem::NoSuchPath),
    }
}

/// The presented token, if it is accepted. Of several headers the first counts.
fn authenticate<P: CatalogStore + Entropy + Clock>(
    request: &impl Request,
    authority: &mut Authority<P>,
) -> Result<Zeroizing<String>, Problem> {
    let header = request.header("authorization").map(Zeroizing::new).ok_or(Problem::NoCredential)?;
    let token = credentials::parse(&header)?;
    authority.authenticate(&token).inspect_err(|error| {
        if let AuthenticateError::Unavailable(why) = error {
            request.log(&format!("cannot authenticate tokens: {why}"));
        }
    })?;
    Ok(token)
}

fn create<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    authority: &mut Authority<P>,
    options: Options,
) -> Result<Answer, Problem> {
    // Before anything is read of who may not even ask.
    if !options.bootstrap {
        return Err(Problem::NoBootstrap);
    }
    if is_from_a_page(request) {
        return Err(Problem::Page);
    }
    request.body()?;
    let issued = authority.create_operator(ORIGIN);
    shown(request, issued)
}

fn regenerate<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    authority: &mut Authority<P>,
    token: &str,
) -> Result<Answer, Problem> {
    /// How the operator token is to be replaced.
    #[derive(Default, Deserialize)]
    struct Regenerate {
        overlap_secs: Option<u64>,
    }

    // Whoever says nothing of an overlap may send anything, as always (COMPAT 2.4).
    let Regenerate { overlap_secs } = body::json_or_nothing(request)?;
    let issued = authority.regenerate(Caller { credential: token, origin: ORIGIN }, overlap_secs);
    shown(request, issued)
}

fn shown(request: &impl Request, issued: Result<Issued, CommandError>) -> Result<Answer, Problem> {
    let issued = issued.inspect_err(|error| {
        // Somebody may have taken a token for its name.
        request.log(&redact(&format!("cannot carry out a token command: {error}")));
    })?;
    let body = issued::body(&issued).map_err(|_| Problem::Internal)?;
    let headers = vec![("content-type", JSON.into()), ("cache-control", "no-store".into())];
    Ok(Answer { status: 201, headers, body: body.into() })
}

/// Forward authentication: a proxy asks about every request, with the `Authorization` header of that request, whether it may
/// pass. There is never a body, and the one of the request is not read.
fn verify<P: CatalogStore + Entropy + Clock>(
    authority: &mut Authority<P>,
    token: &str,
) -> Result<Answer, Problem> {
    let token = authority.describe(token)?;
    let headers = vec![
        ("cache-control", "no-store".into()),
        ("x-auth-token-id", token.id.to_string()),
        ("x-auth-token-name", percent_encoded(&token.name)),
    ];
    Ok(Answer { status: 200, headers, body: vec![].into() })
}

/// Whether a page in a browser has sent this: it cannot keep the browser from saying so.
fn is_from_a_page(request: &impl Request) -> bool {
    request.header_names().iter().any(|name| {
        let harmless = name == "sec-fetch-site" && request.header(name).as_deref() == Some(b"none");
        name == "origin" || name.starts_with("sec-fetch-") && !harmless
    })
}

/// As a component of a URL: all but the unreserved characters of RFC 3986 section 2.3.
fn percent_encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Nothing can go wrong in writing to a string.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use optoken_core::ports::{EntropyError, Entry, StoreError, SwapOutcome, Timestamp};

    use super::*;
    use crate::body::MAX_BODY_BYTES;

    /// Ports in memory, of which the store can be made to fail.
    #[derive(Clone, Default)]
    struct Ports(Rc<RefCell<State>>);

    #[derive(Default)]
    struct State {
        stored: Option<Entry>,
        random: u8,
        broken: bool,
    }

    impl CatalogStore for Ports {
        fn load(&mut self) -> Result<Option<Entry>, StoreError> {
            let state = self.0.borrow();
            if state.broken {
                Err(StoreError::Unavailable("no disk".into()))
            } else {
                Ok(state.stored.clone())
            }
        }

        fn swap(&mut self, expected: Option<&str>, document: &str) -> Result<SwapOutcome, StoreError> {
            let mut state = self.0.borrow_mut();
            assert_eq!(state.stored.as_ref().map(|entry| entry.version.as_str()), expected);
            let version = format!("{}x", expected.unwrap_or_default());
            state.stored = Some(Entry { version: version.clone(), document: document.into() });
            Ok(SwapOutcome::Swapped(version))
        }
    }

    impl Entropy for Ports {
        fn fill(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
            let mut state = self.0.borrow_mut();
            state.random += 1;
            bytes.fill(state.random);
            Ok(())
        }
    }

    impl Clock for Ports {
        fn now(&mut self) -> Timestamp {
            1_795_456_443_229
        }
    }

    #[derive(Default)]
    struct Told {
        method: &'static str,
        path: &'static str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
        log: RefCell<String>,
    }

    impl Request for Told {
        fn method(&self) -> &str {
            self.method
        }

        fn path(&self) -> &str {
            self.path
        }

        fn header(&self, name: &str) -> Option<Vec<u8>> {
            let header = self.headers.iter().find(|(its, _)| *its == name);
            header.map(|(_, value)| value.clone().into_bytes())
        }

        fn header_names(&self) -> Vec<String> {
            self.headers.iter().map(|(name, _)| (*name).to_owned()).collect()
        }

        fn body(&mut self) -> Result<Vec<u8>, Problem> {
            if self.body.len() > MAX_BODY_BYTES { Err(Problem::BodyTooLarge) } else { Ok(self.body.clone()) }
        }

        fn log(&self, what: &str) {
            self.log.borrow_mut().push_str(what);
        }
    }

    fn told(method: &'static str, path: &'static str, token: &str) -> Told {
        let headers =
            if token.is_empty() { vec![] } else { vec![("authorization", format!("Bearer {token}"))] };
        Told { method, path, headers, ..Told::default() }
    }

    fn asked(ports: &Ports, mut request: Told) -> Answer {
        let options = Options { bootstrap: true, open_health: false };
        answer(&mut request, ports.clone(), options)
    }

    fn text(answer: &Answer) -> &str {
        std::str::from_utf8(&answer.body).unwrap()
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
        answer.headers.iter().find(|(its, _)| *its == name).map_or("", |(_, value)| value)
    }

    /// Ports with an operator token, and that token.
    fn bootstrapped() -> (Ports, String) {
        let ports = Ports::default();
        let answer = asked(&ports, told("POST", CREATE_PATH, ""));
        assert_eq!(answer.status, 201, "{}", text(&answer));
        let token = token_of(&answer);
        (ports, token)
    }

    fn token_of(answer: &Answer) -> String {
        text(answer).split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    }

    #[test]
    fn the_operator_token_is_created_once_and_shown_as_clients_know_it() {
        let ports = Ports::default();
        let created = asked(&ports, told("POST", CREATE_PATH, ""));
        assert_eq!(created.status, 201);
        assert_eq!(header(&created, "content-type"), "application/json");
        assert_eq!(header(&created, "cache-control"), "no-store");
        assert!(text(&created).starts_with(r#"{"id":0,"name":"_admin","token":"apiv3_"#));
        assert!(text(&created).ends_with(r#","created_at":"2026-11-23T17:54:03.229Z","expiry":null}"#));
        let again = asked(&ports, told("POST", CREATE_PATH, ""));
        assert_eq!((again.status, text(&again)), (409, "token name already exists, _admin"));
    }

    #[test]
    fn nobody_creates_it_by_a_request_unless_that_was_said() {
        let ports = Ports::default();
        let mut request = told("POST", CREATE_PATH, "");
        let refused = answer(&mut request, ports.clone(), Options::default());
        assert_eq!(refused.status, 403);
        assert!(text(&refused).contains("optoken-cli create"));
        assert!(text(&refused).contains("--env OPTOKEN_BOOTSTRAP=any"));
        for (name, value, status) in [
            ("origin", "http://localhost", 403),
            ("sec-fetch-site", "cross-site", 403),
            ("sec-fetch-mode", "cors", 403),
            ("sec-fetch-site", "none", 201),
        ] {
            let headers = vec![(name, value.to_owned())];
            let request = Told { headers, ..told("POST", CREATE_PATH, "") };
            assert_eq!(asked(&ports, request).status, status, "{name}: {value}");
        }
    }

    #[test]
    fn what_was_said_in_the_environment_counts_word_for_word() {
        let said = |name: &str, value: &str| Options::from_environment(&[(name.into(), value.into())]);
        assert_eq!(said("OPTOKEN_BOOTSTRAP", "any"), Options { bootstrap: true, open_health: false });
        assert_eq!(said("OPTOKEN_DISABLE_AUTHZ", "health"), Options { bootstrap: false, open_health: true });
        for value in ["", "Any", "1", "loopback", "any "] {
            assert_eq!(said("OPTOKEN_BOOTSTRAP", value), Options::default(), "{value:?}");
        }
    }

    #[test]
    fn regenerating_takes_the_operator_token_and_refuses_it_from_then_on() {
        let (ports, old) = bootstrapped();
        let answer = asked(&ports, told("POST", REGENERATE_PATH, &old));
        assert_eq!(answer.status, 201);
        let new = token_of(&answer);
        assert_eq!(asked(&ports, told("GET", VERIFY_PATH, &old)).status, 401);
        assert_eq!(asked(&ports, told("GET", VERIFY_PATH, &new)).status, 200);
        let again = asked(&ports, told("POST", REGENERATE_PATH, &old));
        assert_eq!((again.status, text(&again)), (401, r#"{"error": "the request was not authenticated"}"#));
        assert_eq!(header(&again, "www-authenticate"), r#"Bearer realm="influxdb3", error="invalid_token""#);
    }

    #[test]
    fn an_overlap_is_asked_for_in_json_and_anything_else_is_ignored() {
        let request = |token: &str, content_type: &str, body: &str| {
            let mut request = told("POST", REGENERATE_PATH, token);
            request.headers.push(("content-type", content_type.to_owned()));
            request.body = body.into();
            request
        };
        let (ports, first) = bootstrapped();
        for (content_type, body, status, said) in [
            (
                "application/json",
                "{\"overlap_secs\":\"apiv3_secret\"}",
                400,
                "serde json error: invalid type: string \"[token]\"",
            ),
            ("application/json", "{", 400, "serde json error: EOF while parsing"),
            ("application/json", "{\"overlap_secs\":2592001}", 400, "at most 2592000 seconds are possible"),
        ] {
            let answer = asked(&ports, request(&first, content_type, body));
            assert_eq!(answer.status, status);
            assert!(text(&answer).starts_with(said), "{}", text(&answer));
        }
        let mut zipped = request(&first, "application/json", "zip");
        zipped.headers.push(("content-encoding", "gzip".into()));
        let answer = asked(&ports, zipped);
        assert_eq!((answer.status, text(&answer)), (400, "unacceptable content-encoding: gzip"));
        let large = Told { body: vec![b' '; MAX_BODY_BYTES + 1], ..request(&first, "text/plain", "") };
        let answer = asked(&ports, large);
        assert_eq!((answer.status, text(&answer)), (413, "max request size (65536 bytes) exceeded"));
        assert_eq!(asked(&ports, told("GET", VERIFY_PATH, &first)).status, 200, "nothing has changed");

        let overlapping = asked(&ports, request(&first, "application/json", "{\"overlap_secs\":60}"));
        let second = token_of(&overlapping);
        assert_eq!(asked(&ports, told("GET", VERIFY_PATH, &first)).status, 200);
        for (content_type, body) in [("text/plain", "{"), ("application/json", "")] {
            let (ports, token) = bootstrapped();
            assert_eq!(asked(&ports, request(&token, content_type, body)).status, 201);
        }
        let replaced = asked(&ports, told("POST", REGENERATE_PATH, &first));
        assert_eq!(replaced.status, 403);
        assert_eq!(
            text(&replaced),
            r#"{"error": "only the operator token may regenerate the operator token"}"#
        );
        assert_eq!(asked(&ports, told("POST", REGENERATE_PATH, &second)).status, 201);
    }

    #[test]
    fn a_proxy_is_told_by_status_and_headers_alone() {
        let (ports, token) = bootstrapped();
        for method in ["GET", "POST", "OPTIONS", "HEAD", "PATCH", "QUERY"] {
            let answer = asked(&ports, told(method, VERIFY_PATH, &token));
            assert_eq!((answer.status, text(&answer)), (200, ""), "{method}");
            assert_eq!(header(&answer, "x-auth-token-id"), "0");
            assert_eq!(header(&answer, "x-auth-token-name"), "_admin");
            assert_eq!(header(&answer, "cache-control"), "no-store");
        }
        let headers = vec![("authorization", "Digest x".to_owned())];
        let malformed = Told { headers, ..told("GET", VERIFY_PATH, "") };
        for (request, error) in [
            (told("GET", VERIFY_PATH, ""), ""),
            (told("GET", VERIFY_PATH, "apiv3_other"), r#", error="invalid_token""#),
            (malformed, r#", error="invalid_request""#),
        ] {
            let answer = asked(&ports, request);
            assert_eq!((answer.status, text(&answer)), (401, ""));
            assert_eq!(header(&answer, "www-authenticate"), format!(r#"Bearer realm="influxdb3"{error}"#));
        }
        ports.0.borrow_mut().broken = true;
        let answer = asked(&ports, told("GET", VERIFY_PATH, &token));
        assert_eq!((answer.status, text(&answer)), (503, ""));
        assert_eq!(header(&answer, "retry-after"), "1");
    }

    #[test]
    fn what_the_store_says_is_for_the_log_alone() {
        let (ports, token) = bootstrapped();
        ports.0.borrow_mut().broken = true;
        let mut request = told("POST", REGENERATE_PATH, &token);
        let refused = answer(&mut request, ports.clone(), Options::default());
        assert_eq!(refused.status, 503);
        assert_eq!(text(&refused), "tokens are not available at the moment, nothing was changed, try again");
        assert!(request.log.borrow().contains("no disk"));
        ports.0.borrow_mut().broken = false;
        ports.0.borrow_mut().stored.as_mut().unwrap().document = "damaged".into();
        assert_eq!(asked(&ports, told("POST", CREATE_PATH, "")).status, 500);
    }

    #[test]
    fn everything_else_is_nowhere() {
        let (ports, token) = bootstrapped();
        for (method, path, token, status) in [
            ("GET", "/health", token.as_str(), 200),
            ("GET", "/api/v1/health", &token, 200),
            ("GET", "/health", "", 401),
            ("POST", "/health", &token, 404),
            ("GET", "/", &token, 404),
            ("GET", "/", "", 401),
            ("GET", CREATE_PATH, "", 401),
            ("GET", CREATE_PATH, &token, 404),
            ("PUT", CREATE_PATH, "", 404),
            ("POST", "/api/v3/configure/token/admin/", &token, 404),
            ("GET", REGENERATE_PATH, &token, 404),
            ("OPTIONS", REGENERATE_PATH, "", 204),
            ("OPTIONS", "/", "", 204),
        ] {
            assert_eq!(asked(&ports, told(method, path, token)).status, status, "{method} {path}");
        }
        let options = asked(&ports, told("OPTIONS", REGENERATE_PATH, ""));
        assert_eq!(header(&options, "allow"), "POST, OPTIONS");
        let mut open = told("GET", "/health", "");
        let options = Options { bootstrap: false, open_health: true };
        let healthy = answer(&mut open, ports, options);
        assert_eq!((healthy.status, text(&healthy)), (200, "OK"));
    }

    #[test]
    fn names_are_percent_encoded() {
        for (name, encoded) in [
            ("_admin", "_admin"),
            ("a-Z.0~", "a-Z.0~"),
            ("two words", "two%20words"),
            ("Grüße \u{1f511}", "Gr%C3%BC%C3%9Fe%20%F0%9F%94%91"),
        ] {
            assert_eq!(percent_encoded(name), encoded);
        }
    }
}

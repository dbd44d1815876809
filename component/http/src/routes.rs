//! The paths that are served, and the order of checks: credential, path, body
//! (`docs/compatibility.md` 2.1 and 2.2). Knows requests and answers as values, and no WASI.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;

use optoken_core::access::{Access, Target};
use optoken_core::authority::{AuthenticateError, Authority, AuthorizeError, Caller, Issued};
use optoken_core::commit::CommandError;
use optoken_core::ports::{CatalogStore, Clock, Entropy};
use optoken_core::transition::TokenKind;
use optoken_protocol::credentials::SchemeCase;
use optoken_protocol::fields::KnownFields;
use optoken_protocol::issued_token::IssuedToken;
use optoken_protocol::media_type::{JSON, TEXT};
use optoken_protocol::problem::{BASIC_CHALLENGE, Problem, SENT_BY_PAGE};
use optoken_protocol::redact::redact_rest;
use optoken_protocol::{credentials, headers, paths, percent};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::problem::{self, BOOTSTRAP_DISABLED};
use crate::request::{Request, check_fields, is_sent_by_page, json_or_default, may_offer_basic};
use crate::response::Response;

/// The origin in audit records: `wasi:http` does not give the address of a client.
const ORIGIN: &str = "http";

/// The fields of a request that creates the operator token.
const NO_FIELDS: KnownFields = KnownFields { names: &[], duration: None };

/// The fields of a request that replaces it.
const REPLACEMENT_FIELDS: KnownFields = KnownFields { names: &["overlap_secs"], duration: None };

const NO_STORE: (&str, Cow<'static, str>) = ("cache-control", Cow::Borrowed("no-store"));

/// The options that the operator sets in the environment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether a request may create the operator token: `OPTOKEN_BOOTSTRAP=any`.
    pub(crate) bootstrap: bool,
    /// Whether the paths of `health` need no token: `OPTOKEN_DISABLE_AUTHZ=health`.
    pub(crate) open_health: bool,
}

impl Options {
    pub(crate) fn from_environment(environment: &[(String, String)]) -> Self {
        let is = |name, value| environment.iter().any(|(key, set)| key == name && set == value);
        Self { bootstrap: is("OPTOKEN_BOOTSTRAP", "any"), open_health: is("OPTOKEN_DISABLE_AUTHZ", "health") }
    }
}

/// Returns the sequence number of the older catalog that the operator accepts, if any. The error
/// has the next step.
pub(crate) fn accepted_sequence(environment: &[(String, String)]) -> Result<Option<u64>, String> {
    let set = environment.iter().find(|(key, _)| key == "OPTOKEN_ACCEPT_CATALOG_AT");
    let number = |value: &String| {
        value.parse().map_err(|_| "OPTOKEN_ACCEPT_CATALOG_AT needs the audit sequence of the catalog".into())
    };
    set.map(|(_, value)| number(value)).transpose()
}

/// Answers a request.
pub(crate) fn respond<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    ports: P,
    options: Options,
) -> Response {
    // Forward authentication has the method of the proxied request, and any 2xx would let that
    // pass.
    if request.method() == "OPTIONS" && !paths::is_verify(request.path()) {
        let allow = methods(request.path());
        let headers = allow.map(|allow| ("allow", allow.into())).into_iter().collect();
        return Response { status: 204, headers, body: vec![].into() };
    }
    match dispatch(request, &mut Authority::new(ports), options) {
        Ok(response) => response,
        Err(problem) => reject(request, problem),
    }
}

/// Answers a request with a problem.
pub(crate) fn reject(request: &impl Request, problem: Problem) -> Response {
    let problem = if paths::is_verify(request.path()) { problem.for_forward_auth() } else { problem };
    let mut response = Response::from(problem);
    if response.status == 401 && may_offer_basic(request) {
        response.headers.push(("www-authenticate", BASIC_CHALLENGE.into()));
    }
    response
}

/// Returns the methods of a path, if it exists.
fn methods(path: &str) -> Option<&'static str> {
    match path {
        paths::OPERATOR | paths::REGENERATE => Some("POST, OPTIONS"),
        _ if paths::HEALTH.contains(&path) => Some("GET, HEAD, OPTIONS"),
        _ => None,
    }
}

fn dispatch<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    authority: &mut Authority<P>,
    options: Options,
) -> Result<Response, Problem> {
    let health = paths::HEALTH.contains(&request.path());
    // The same response, whose body the runtime leaves out (RFC 9110, section 9.3.2).
    let method = if request.method() == "HEAD" { "GET" } else { request.method() };
    // The header is not read here (`docs/compatibility.md` 2.2, 2.3): for every method but GET,
    // which is an addition (2.9).
    let open = request.path() == paths::OPERATOR && method != "GET" || health && options.open_health;
    let presented = if open { None } else { Some(authenticate(request, authority)?) };
    match (method, request.path(), presented) {
        ("POST", paths::OPERATOR, _) => create(request, authority, options),
        ("POST", paths::REGENERATE, Some(token)) => regenerate(request, authority, &token),
        (_, path, Some(token)) if paths::is_verify(path) => verify(authority, &token),
        ("GET", _, _) if health => {
            let headers = vec![("content-type", TEXT.into())];
            Ok(Response { status: 200, headers, body: b"OK".to_vec().into() })
        }
        // A wrong method has the answer of an unknown path.
        _ => Err(Problem::PathNotFound),
    }
}

/// Returns the presented token, if it is accepted and may send this request. The first of several
/// headers counts. The body is not read.
fn authenticate<P: CatalogStore + Entropy + Clock>(
    request: &impl Request,
    authority: &mut Authority<P>,
) -> Result<Zeroizing<String>, Problem> {
    let header = request.header("authorization").map(Zeroizing::new).ok_or(Problem::MissingCredential)?;
    // No client of InfluxDB asks there.
    let case = if paths::is_verify(request.path()) { SchemeCase::Any } else { SchemeCase::Exact };
    let token = credentials::parse(&header, case)?;
    let unavailable = |cause: &CommandError| request.log(&format!("cannot authenticate tokens: {cause}"));
    if paths::HEALTH.contains(&request.path()) {
        let access = Access {
            method: request.method(),
            host: "",
            path: request.path(),
            target: Target::System("health"),
        };
        authority.authorize(&token, &access).map_err(|error| {
            if let AuthorizeError::Unavailable(cause) = &error {
                unavailable(cause);
            }
            problem::of_authorization(&error)
        })?;
        return Ok(token);
    }
    let principal = authority.authenticate(&token).map_err(|error| {
        if let AuthenticateError::Unavailable(cause) = &error {
            unavailable(cause);
        }
        problem::of_authentication(&error)
    })?;
    match principal.kind {
        TokenKind::Operator | TokenKind::PreviousOperator | TokenKind::NamedAdmin => Ok(token),
        // No permission covers a path of this component. Of a request that forward authentication
        // asks about, it knows neither host nor path.
        TokenKind::Scoped => Err(Problem::MissingPermission),
    }
}

fn create<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    authority: &mut Authority<P>,
    options: Options,
) -> Result<Response, Problem> {
    // Before the body of a forbidden request is read.
    if !options.bootstrap {
        return Err(Problem::Forbidden(BOOTSTRAP_DISABLED.into()));
    }
    if is_sent_by_page(request) {
        return Err(Problem::Forbidden(SENT_BY_PAGE.into()));
    }
    NO_FIELDS.check_query(request.query())?;
    check_fields(&request.body()?, NO_FIELDS)?;
    issued_response(request, authority.create_operator(ORIGIN))
}

fn regenerate<P: CatalogStore + Entropy + Clock>(
    request: &mut impl Request,
    authority: &mut Authority<P>,
    token: &str,
) -> Result<Response, Problem> {
    #[derive(Default, Deserialize)]
    struct Regenerate {
        overlap_secs: Option<u64>,
    }

    // Existing clients send any body, or none (`docs/compatibility.md` 2.4).
    REPLACEMENT_FIELDS.check_query(request.query())?;
    let Regenerate { overlap_secs } = json_or_default(request, REPLACEMENT_FIELDS)?;
    let issued = authority.regenerate(Caller { credential: token, origin: ORIGIN }, overlap_secs);
    issued_response(request, issued)
}

fn issued_response(
    request: &impl Request,
    issued: Result<Issued, CommandError>,
) -> Result<Response, Problem> {
    let Issued { token, secret } = issued.map_err(|error| failed_command(request, error))?;
    let body = IssuedToken {
        id: token.id,
        name: &token.name,
        token: secret.expose(),
        hash: &token.hash.to_string(),
        created_at: token.created_at,
        expiry: token.expiry,
    }
    .to_json();
    Ok(Response { status: 201, headers: vec![("content-type", JSON.into()), NO_STORE], body })
}

fn failed_command(request: &impl Request, error: CommandError) -> Problem {
    // The name of a token may be a token: clients mix them up.
    request.log(&redact_rest(&format!("cannot carry out a token command: {error}")));
    problem::of_command(error)
}

/// Answers forward authentication: a proxy asks for each request, with its `Authorization` header,
/// whether the request may pass. The answer has no body, and the body of the request is not read.
fn verify<P: CatalogStore + Entropy + Clock>(
    authority: &mut Authority<P>,
    token: &str,
) -> Result<Response, Problem> {
    let token = authority.describe(token).map_err(|error| problem::of_authentication(&error))?;
    let headers = vec![
        NO_STORE,
        (headers::TOKEN_ID, token.id.to_string().into()),
        (headers::TOKEN_NAME, percent::encode(&token.name).into()),
    ];
    Ok(Response { status: 200, headers, body: vec![].into() })
}

#[cfg(test)]
mod tests;

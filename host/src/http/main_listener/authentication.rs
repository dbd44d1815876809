//! Authenticates the requests to the main listener (docs/compatibility.md 2.2, 3).

use hyper::Method;
use optoken_protocol::credentials::SchemeCase;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::access::{is_confirmation, is_open};
use crate::http::api::ready_headers::CheckedToken;
use crate::http::api::state::AppState;
use crate::http::credentials::Credential;
use crate::http::refusal::{self, Client, Reason, Refused, RequestText};
use crate::http::{Options, credentials};
use crate::server::message::Request;
use crate::server::peer::Peer;

/// How the credential of a request is read.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Whether the request needs none.
    pub(super) is_open: bool,
    /// Whether it presents a staged token, which only its endpoint accepts.
    pub(super) is_confirmation: bool,
    pub(super) case: SchemeCase,
}

impl Rules {
    /// Returns the rules of a request to this server itself.
    pub(super) fn of(options: &Options, method: &Method, path: &str) -> Self {
        Self {
            is_open: is_open(options, method, path),
            is_confirmation: is_confirmation(method, path),
            // No client of InfluxDB asks there.
            case: if paths::is_verify(path) { SchemeCase::Any } else { SchemeCase::Exact },
        }
    }
}

/// What authentication found in a request that it does not reject.
#[derive(Default)]
pub(super) struct Authenticated<'a> {
    /// The credential. Requests that need none may have none.
    pub(super) credential: Option<Credential<'a>>,
    /// The token of the credential; `None` if it was not checked.
    pub(super) token: Option<CheckedToken>,
}

/// Rejects a request that needs an accepted token and has none. Copies nothing of the request,
/// unless it rejects it.
pub(super) fn authenticate<'a>(
    state: &AppState,
    peer: &Peer,
    request: &'a Request,
    rules: Rules,
) -> Result<Authenticated<'a>, Problem> {
    // The header is not read (docs/compatibility.md 2.2, 2.3).
    if rules.is_open {
        return Ok(Authenticated::default());
    }
    let client = || Client::new(peer.clone(), request.headers());
    let path = || refusal::path_for_log(request.uri());
    let refuse = |label, cause: &str| {
        let (reason, path) = (Reason { label, cause }, RequestText::Path(path()));
        state.refusals.report(Refused::Authentication, &client(), &reason, path);
    };
    match credentials::find(request.headers(), request.uri(), rules.case) {
        Err(malformed) => {
            state.metrics.credential_malformed();
            refuse("malformed", &malformed.to_string());
            Err(malformed.into())
        }
        // Any well-formed credential is accepted (docs/compatibility.md 2.10).
        Ok(credential) if state.options.without_auth => Ok(Authenticated { credential, token: None }),
        Ok(None) => {
            state.metrics.credential_missing();
            refuse("missing", "there is none");
            Err(Problem::MissingCredential)
        }
        Ok(credential) if rules.is_confirmation => Ok(Authenticated { credential, token: None }),
        Ok(Some(credential)) => match state.authority.authenticate_on_snapshot(credential.expose()) {
            Ok((principal, snapshot)) => {
                let token = Some(CheckedToken { principal, snapshot });
                Ok(Authenticated { credential: Some(credential), token })
            }
            Err(error) => {
                state.refusals.authentication(&client(), &error, path());
                Err(error.into())
            }
        },
    }
}

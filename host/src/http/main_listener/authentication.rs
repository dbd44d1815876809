//! Authenticates the requests to the main listener (docs/compatibility.md 2.2, 3).

use optoken_protocol::credentials::SchemeCase;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;

use crate::http::access::{is_confirmation, is_open};
use crate::http::api::state::AppState;
use crate::http::refusal::{self, Client, Reason, Refused, RequestText};
use crate::http::{Options, credentials};
use crate::secret::Secret;
use crate::server::peer::Peer;
use crate::server::serve::Request;
use crate::token::Principal;

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
    pub(super) fn of(options: &Options, request: &Request) -> Self {
        let (method, path) = (request.method(), request.uri().path());
        Self {
            is_open: is_open(options, method, path),
            is_confirmation: is_confirmation(method, path),
            // No client of InfluxDB asks there.
            case: if paths::is_verify(path) { SchemeCase::Any } else { SchemeCase::Exact },
        }
    }
}

/// Rejects a request that needs an accepted token and has none.
pub(super) fn authenticate(
    state: &AppState,
    peer: &Peer,
    request: &mut Request,
    rules: Rules,
) -> Result<(Option<Secret>, Option<Principal>), Problem> {
    // The header is not read (docs/compatibility.md 2.2, 2.3).
    if rules.is_open {
        return Ok((None, None));
    }
    // The query string takes precedence; the header may then be malformed (docs/compatibility.md
    // 3.3).
    let presented = match credentials::from_query(request.uri()) {
        Some(secret) => Ok(Some(secret)),
        None => credentials::take(request.headers_mut(), rules.case),
    };
    let client = || Client::new(peer.clone(), request.headers());
    let path = refusal::path_for_log(request.uri());
    let refuse = |label, cause: &str| {
        let (reason, path) = (Reason { label, cause }, RequestText::Path(path));
        state.refusals.report(Refused::Authentication, &client(), &reason, path);
    };
    match presented {
        Err(malformed) => {
            state.metrics.credential_malformed();
            refuse("malformed", &malformed.to_string());
            Err(malformed.into())
        }
        // Any well-formed credential is accepted (docs/compatibility.md 2.10).
        Ok(credential) if state.options.without_auth => Ok((credential, None)),
        Ok(None) => {
            state.metrics.credential_missing();
            refuse("missing", "there is none");
            Err(Problem::MissingCredential)
        }
        Ok(Some(credential)) if rules.is_confirmation => Ok((Some(credential), None)),
        Ok(Some(credential)) => match state.authority.authenticate(credential.expose()) {
            Ok(principal) => Ok((Some(credential), Some(principal))),
            Err(error) => {
                state.refusals.authentication(&client(), &error, path);
                Err(error.into())
            }
        },
    }
}

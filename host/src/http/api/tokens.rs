//! What the main listener does about tokens: create, regenerate, delete, list (COMPAT 2.3 to 2.6).

use std::sync::Arc;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::authority::Authority;
use crate::http::api::system_tokens::{PERMISSIONS, short_hash};
use crate::http::api::{Call, issued_token};
use crate::http::main_listener::Served;
use crate::http::problem::Problem;
use crate::http::{body, response};
use crate::secret::Secret;
use crate::server::serve::{Request, Response};
use crate::token::{CommandError, TokenInfo, rfc3339};

/// What a new named admin token is to be.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateNamedAdminTokenRequest {
    /// A text that is no token's name yet, of at most 128 bytes. Upper and lower case differ. It holds nothing that cannot
    /// be seen, neither begins nor ends with a space, and does not look like `_admin` without being it.
    #[schema(min_length = 1, max_length = 128)]
    token_name: String,
    /// How many seconds from now it is accepted; for ever if absent or null.
    #[schema(format = "uint64")]
    expiry_secs: Option<u64>,
}

/// Which token is to be deleted.
#[derive(Deserialize)]
struct DeleteRequest {
    token_name: String,
}

/// All tokens, expired ones included, in the order they were made.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenList {
    tokens: Vec<ListedToken>,
}

/// What is known of a token.
#[derive(Serialize, ToSchema)]
pub(crate) struct ListedToken {
    /// Counted from 0, never used twice.
    id: u64,
    /// `_admin` is the operator token's.
    name: String,
    /// The first nine hexadecimal digits of the SHA-512 of the token.
    #[schema(pattern = "^[0-9a-f]{9}$")]
    hash: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was regenerated last.
    #[schema(required, format = DateTime)]
    updated_at: Option<String>,
    /// The id of the token that did it.
    #[schema(required)]
    updated_by: Option<u64>,
    /// The first moment at which it is refused; null for never.
    #[schema(required, format = DateTime)]
    expiry: Option<String>,
    /// What it may do, which is everything.
    permissions: Vec<String>,
}

impl From<TokenInfo> for ListedToken {
    fn from(token: TokenInfo) -> Self {
        Self {
            id: token.id,
            hash: short_hash(&token.sha512),
            name: token.name,
            created_at: rfc3339(token.created_at),
            updated_at: token.updated_at.map(rfc3339),
            updated_by: token.updated_by,
            expiry: token.expiry.map(rfc3339),
            permissions: vec![PERMISSIONS.to_owned()],
        }
    }
}

pub(crate) async fn create_operator(call: Call) -> Result<Response, Problem> {
    let origin = call.origin();
    let Call { served, peer, request, .. } = call;
    // Before anything is read of who may not even ask.
    served.options.bootstrap.judge(&request, &peer).map_err(|refusal| {
        refusal.log("creation of the operator token", &request, &peer, &served.refusals);
        Problem::Unwelcome(refusal)
    })?;
    body::discard(request.into_body()).await?;
    let issued = command(&served, move |authority| authority.create_operator(&origin)).await?;
    issued_token::answer(&issued)
}

pub(crate) async fn create_named(call: Call) -> Result<Response, Problem> {
    let (served, credential, origin, request) = with_credential(call)?;
    body::require_json(request.headers())?;
    let CreateNamedAdminTokenRequest { token_name, expiry_secs } =
        body::json(request, served.options.max_request_size).await?;
    let create =
        move |authority: &Authority| authority.create_named(&credential, &token_name, expiry_secs, &origin);
    issued_token::answer(&command(&served, create).await?)
}

pub(crate) async fn delete(call: Call) -> Result<Response, Problem> {
    let (served, credential, origin, request) = with_credential(call)?;
    let query = request.uri().query().unwrap_or_default();
    let DeleteRequest { token_name } =
        serde_urlencoded::from_str(query).map_err(|error| Problem::bad_query(&error))?;
    body::discard(request.into_body()).await?;
    command(&served, move |authority| authority.delete(&credential, &token_name, &origin)).await?;
    Ok(response::empty(StatusCode::OK))
}

pub(crate) fn list(call: &Call) -> Result<Response, Problem> {
    let tokens = call.served.authority.list_tokens()?.into_iter().map(Into::into).collect();
    response::json(&TokenList { tokens })
}

/// Takes a call apart that cannot be without a credential: who has none is turned away before.
pub(crate) fn with_credential(call: Call) -> Result<(Arc<Served>, Secret, String, Request), Problem> {
    let origin = call.origin();
    let Call { served, credential, request, .. } = call;
    Ok((served, credential.ok_or(Problem::NoCredential)?, origin, request))
}

/// Carries out a command on a thread that may block. Once begun it is finished and published, also if the client
/// goes away meanwhile.
pub(crate) async fn command<T: Send + 'static>(
    served: &Served,
    run: impl FnOnce(&Authority) -> Result<T, CommandError> + Send + 'static,
) -> Result<T, Problem> {
    Ok(served.commands.run(run).await?)
}

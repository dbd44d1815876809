//! The types of the API: an endpoint, as it is routed and documented, and the request that its
//! handler receives.

use std::pin::Pin;

use hyper::{Method, StatusCode};
use optoken_protocol::problem::Problem;
use utoipa::ToSchema;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, RefOr, Required, Schema, Type};

use crate::authority::Authority;
use crate::http::api::ready_headers::CheckedToken;
use crate::http::api::state::{AppState, RequestState};
use crate::http::body::MAX_IGNORED_BYTES;
use crate::http::refusal::Client;
use crate::http::{Options, problem};
use crate::secret::Secret;
use crate::server::message::{Request, Response};
use crate::server::peer::Peer;
use crate::token::CommandError;

/// A request, as the handler of its endpoint receives it.
pub(crate) struct ApiRequest {
    pub(crate) state: RequestState,
    /// The presented credential. Requests that need none may have none.
    pub(crate) credential: Option<Secret>,
    pub(crate) request: Request,
}

impl ApiRequest {
    /// Returns the origin of the request, for the audit record of a command.
    pub(crate) fn origin(&self) -> String {
        format!("http {}", self.state.client().peer)
    }

    /// Splits a request into state, credential, origin and HTTP request. Authentication rejects a
    /// request without a credential earlier.
    pub(crate) fn into_parts(self) -> Result<(RequestState, Secret, String, Request), Problem> {
        let origin = self.origin();
        let Self { state, credential, request, .. } = self;
        Ok((state, credential.ok_or(Problem::MissingCredential)?, origin, request))
    }
}

/// A request whose response needs no more than the check of its token. Borrowed, so that nothing is
/// copied for a response that needs no copy.
pub(crate) struct CheckedRequest<'a> {
    pub(crate) state: &'a AppState,
    peer: &'a Peer,
    /// With its credential, which handlers do not see.
    request: &'a Request,
    /// The token of the request; `None` if its credential was not checked.
    pub(crate) token: Option<CheckedToken>,
}

impl<'a> CheckedRequest<'a> {
    /// Returns a request of this client whose token was checked.
    pub(crate) fn new(
        state: &'a AppState,
        peer: &'a Peer,
        request: &'a Request,
        token: Option<CheckedToken>,
    ) -> Self {
        Self { state, peer, request, token }
    }

    /// Reads from the authority, which does not wait for the store.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Authority) -> Result<T, CommandError>,
    ) -> Result<T, Problem> {
        let read = read(&self.state.authority);
        Ok(read.inspect_err(|error| {
            let client = Client::new(self.peer.clone(), self.request.headers());
            self.state.refusals.command(&client, error);
        })?)
    }
}

/// The future of a handler.
pub(crate) type Handling = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// Handles a request.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Responds at once: waits for nothing, and reads no body.
    Now(fn(&CheckedRequest<'_>) -> Result<Response, Problem>),
    /// May wait.
    Later(fn(ApiRequest) -> Handling),
}

/// A method on a path: its handler, its input, and all its responses.
pub(crate) struct Endpoint {
    /// The method; `None` if all methods are equal. OPTIONS never reaches an endpoint.
    pub(crate) method: Option<Method>,
    /// The path, which is compared byte for byte. That of forward authentication has paths below
    /// it.
    pub(crate) path: &'static str,
    pub(crate) handler: Handler,
    /// The operation id in the document, by which generated clients call it. An endpoint of all
    /// methods leaves out the method.
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) parameters: Vec<Parameter>,
    /// The schema of the JSON body, if the endpoint reads one.
    pub(crate) body: Option<BodySchema>,
    pub(crate) success: SuccessResponse,
    /// The problems that the handler can return. A text that depends on the request is a
    /// placeholder.
    pub(crate) problems: Vec<Problem>,
}

/// The methods that the document lists for an endpoint of all methods, in the order of OpenAPI.
const DOCUMENTED_METHODS: [Method; 6] =
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD, Method::PATCH];

impl Endpoint {
    /// Returns whether this endpoint handles a request for its path with this method.
    pub(crate) fn handles(&self, method: &Method) -> bool {
        self.method.as_ref().is_none_or(|expected| expected == method)
    }

    /// Returns the documented methods, each with its operation id.
    pub(crate) fn operations(&self) -> Vec<(Method, String)> {
        match &self.method {
            Some(method) => vec![(method.clone(), self.name.to_owned())],
            None => DOCUMENTED_METHODS
                .map(|method| {
                    let name = format!("{}{}", method.as_str().to_ascii_lowercase(), self.name);
                    (method, name)
                })
                .into(),
        }
    }
}

/// The response to a request that succeeded.
pub(crate) struct SuccessResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<&'static str>,
    /// The content types of the body, each with its schema. Empty if there is no body.
    pub(crate) content: Vec<(&'static str, BodySchema)>,
}

/// The schema of a body.
pub(crate) struct BodySchema {
    pub(crate) schema: RefOr<Schema>,
    /// The schemas that this one refers to, by name.
    pub(crate) components: Vec<(String, RefOr<Schema>)>,
    /// Whether a request must have the body.
    pub(crate) required: bool,
}

impl BodySchema {
    /// The schema of a Rust type.
    pub(crate) fn of<T: ToSchema>() -> Self {
        let mut components = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut components);
        Self { schema: utoipa::openapi::Ref::from_schema_name(T::name()).into(), components, required: true }
    }

    /// The schema of a plain text.
    pub(crate) fn text() -> Self {
        Self { schema: Object::with_type(Type::String).into(), components: Vec::new(), required: true }
    }

    /// The schema of any JSON object.
    pub(crate) fn object() -> Self {
        Self { schema: Object::with_type(Type::Object).into(), components: Vec::new(), required: true }
    }

    /// Makes the body optional.
    pub(crate) fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    /// The schema of an array of this one.
    pub(crate) fn array(self) -> Self {
        Self { schema: utoipa::openapi::schema::Array::new(self.schema).into(), ..self }
    }
}

/// A response of status 200 with these content types.
pub(crate) fn ok_response(content: Vec<(&'static str, BodySchema)>) -> SuccessResponse {
    SuccessResponse { status: StatusCode::OK, headers: vec![], content }
}

/// A parameter of the query string.
pub(crate) fn parameter(name: &str, description: &str, required: Required, schema: Schema) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(description))
        .required(required)
        .schema(Some(schema))
        .build()
}

/// The schema of a text parameter.
pub(crate) fn text_schema() -> Schema {
    Object::with_type(Type::String).into()
}

/// Problems of a new token.
pub(crate) fn create_problems() -> Vec<Problem> {
    // The limit of the built-in component.
    vec![Problem::AlreadyExists("…".to_owned()), Problem::Full(10_000)]
}

/// Problems of an ignored body.
pub(crate) fn ignored_body_problems() -> Vec<Problem> {
    vec![Problem::BodyTooLarge(MAX_IGNORED_BYTES), Problem::BodyUnreadable, Problem::BodyTimeout]
}

/// Problems of a JSON body.
pub(crate) fn json_body_problems(options: &Options) -> Vec<Problem> {
    vec![
        Problem::UnsupportedEncoding("…".to_owned()),
        Problem::BodyTooLarge(options.max_request_size),
        Problem::BodyUnreadable,
        Problem::BodyTimeout,
        Problem::InvalidGzip("…".to_owned()),
        Problem::InvalidJson("…".to_owned()),
    ]
}

/// Problems of every command.
pub(crate) fn command_problems() -> Vec<Problem> {
    vec![Problem::Unavailable, problem::unknown_outcome(), Problem::Internal]
}

/// Problems of a command that can be repeated.
pub(crate) fn retryable_command_problems() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::UnknownOutcomeRetryable, Problem::Internal]
}

/// Problems of reading the catalog.
pub(crate) fn read_problems() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::Internal]
}

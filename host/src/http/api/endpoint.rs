//! A method on a path, as it is routed and as it is documented, and the request that its handler gets.

use std::pin::Pin;
use std::sync::Arc;

use hyper::{Method, StatusCode};
use optoken_protocol::problem::Problem;
use utoipa::ToSchema;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{Object, RefOr, Required, Schema, Type};

use crate::http::api::state::AppState;
use crate::http::body::MAX_IGNORED_BYTES;
use crate::http::{Options, problem};
use crate::secret::Secret;
use crate::server::peer::Peer;
use crate::server::serve::{Request, Response};
use crate::token::Principal;

/// A request that has got as far as its endpoint.
pub(crate) struct ApiRequest {
    pub(crate) state: Arc<AppState>,
    /// What was presented; absent where none is needed.
    pub(crate) credential: Option<Secret>,
    /// Where it came from.
    pub(crate) peer: Peer,
    /// Whose it is; absent where nobody has looked.
    pub(crate) principal: Option<Principal>,
    pub(crate) request: Request,
}

impl ApiRequest {
    /// Where it came from, for the audit record of a command.
    pub(crate) fn origin(&self) -> String {
        format!("http {}", self.peer)
    }

    /// Takes a request apart that cannot be without a credential: who has none is turned away before.
    pub(crate) fn into_parts(self) -> Result<(Arc<AppState>, Secret, String, Request), Problem> {
        let origin = self.origin();
        let Self { state, credential, request, .. } = self;
        Ok((state, credential.ok_or(Problem::MissingCredential)?, origin, request))
    }
}

/// Carries out a request.
pub(crate) type Handler = fn(ApiRequest) -> Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// A method on a path: who answers, what it takes, and everything that it can answer.
pub(crate) struct Endpoint {
    /// Absent if it does not matter. OPTIONS is none of the endpoints' affairs.
    pub(crate) method: Option<Method>,
    /// As it stands in the request, byte for byte.
    pub(crate) path: &'static str,
    pub(crate) handler: Handler,
    /// Its name in the document: what a generated client calls it. Without its method, where that does not matter.
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) parameters: Vec<Parameter>,
    /// A body of JSON, if it takes one.
    pub(crate) body: Option<BodySchema>,
    pub(crate) success: SuccessResponse,
    /// What the handler can answer instead. With placeholders where the text depends on the request.
    pub(crate) problems: Vec<Problem>,
}

/// The methods that are told of where all will do, in the order of OpenAPI.
const DOCUMENTED_METHODS: [Method; 6] =
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD, Method::PATCH];

impl Endpoint {
    pub(crate) fn matches(&self, method: &Method, path: &str) -> bool {
        self.path == path && self.method.as_ref().is_none_or(|its| its == method)
    }

    /// The methods that it can be told to have, each with the name of what it does.
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

/// The answer to a request that was carried out.
pub(crate) struct SuccessResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<&'static str>,
    /// The content types that its body can have; none if it has no body.
    pub(crate) content: Vec<(&'static str, BodySchema)>,
}

/// What a body looks like.
pub(crate) struct BodySchema {
    pub(crate) schema: RefOr<Schema>,
    /// The schemas by name that it refers to.
    pub(crate) components: Vec<(String, RefOr<Schema>)>,
    /// Whether a request must have it.
    pub(crate) required: bool,
}

impl BodySchema {
    pub(crate) fn by<T: ToSchema>() -> Self {
        let mut components = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut components);
        Self { schema: utoipa::openapi::Ref::from_schema_name(T::name()).into(), components, required: true }
    }

    pub(crate) fn text() -> Self {
        Self { schema: Object::with_type(Type::String).into(), components: Vec::new(), required: true }
    }

    /// Any JSON object.
    pub(crate) fn object() -> Self {
        Self { schema: Object::with_type(Type::Object).into(), components: Vec::new(), required: true }
    }

    /// Of a body that may be left out.
    pub(crate) fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    pub(crate) fn array(self) -> Self {
        Self { schema: utoipa::openapi::schema::Array::new(self.schema).into(), ..self }
    }
}

pub(crate) fn ok_response(content: Vec<(&'static str, BodySchema)>) -> SuccessResponse {
    SuccessResponse { status: StatusCode::OK, headers: vec![], content }
}

pub(crate) fn parameter(name: &str, description: &str, required: Required, schema: Schema) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .description(Some(description))
        .required(required)
        .schema(Some(schema))
        .build()
}

pub(crate) fn text_schema() -> Schema {
    Object::with_type(Type::String).into()
}

/// Why there can be no other token.
pub(crate) fn create_problems() -> Vec<Problem> {
    // As many as the built-in component holds.
    vec![Problem::AlreadyExists("…".to_owned()), Problem::Full(10_000)]
}

/// What can be wrong with a body that means nothing.
pub(crate) fn ignored_body_problems() -> Vec<Problem> {
    vec![Problem::BodyTooLarge(MAX_IGNORED_BYTES), Problem::BodyUnreadable, Problem::BodyTimeout]
}

/// What can be wrong with a body of JSON.
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

/// What can become of a change, whatever it is.
pub(crate) fn command_problems() -> Vec<Problem> {
    vec![Problem::Unavailable, problem::unknown_outcome(), Problem::Internal]
}

/// What can become of a step of a rotation.
pub(crate) fn retryable_command_problems() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::UnknownOutcomeRetryable, Problem::Internal]
}

pub(crate) fn read_problems() -> Vec<Problem> {
    vec![Problem::Unavailable, Problem::Internal]
}

//! `GET /api/v3/openapi.json`: the OpenAPI document, built from the table of endpoints.
//!
//! It describes the server that sends it, with its limits and its open paths.

use std::collections::BTreeMap;

use hyper::header::{CONNECTION, CONTENT_TYPE};
use hyper::{Method, StatusCode};
use optoken_protocol::headers::{CLUSTER_UUID, TOKEN_ID, TOKEN_NAME};
use optoken_protocol::media_type::JSON;
use optoken_protocol::paths;
use optoken_protocol::problem::Problem;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    Components, Content, ContentBuilder, Header, Info, InfoBuilder, License, Object, ObjectBuilder, OpenApi,
    OpenApiBuilder, Paths, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
};

use crate::http::access::{auth_problems, requires_token};
use crate::http::api::endpoint::{ApiRequest, BodySchema, Endpoint, Handler, SuccessResponse, ok_response};
use crate::http::api::service::{BUILD_HEADER, REQUEST_ID_HEADERS, VERSION_HEADER};
use crate::http::{Options, problem, response};
use crate::server::message;

const DESCRIPTION: &str = "\
The token API of InfluxDB 3 Core, with the extensions of optoken.

Rules for every request:

- Paths are compared byte for byte. An unknown path, or an unknown method on a path, is answered with 404 `Not found`, or \
with 401 without an accepted token.
- HEAD is answered like GET, without the body.
- OPTIONS needs no token. It is answered with 204, and with the methods of the path in `Allow`; `/api/v3/verify` treats it \
like any method.
- Every path below `/api/v3/verify/` is answered like `/api/v3/verify`.
- An answer of status 401 has a second challenge, `Basic realm=\"influxdb3\"`, for a client that names itself in \
`User-Agent` and is no browser.
- Responses have no CORS headers.
- A malformed request, or one with a head that is too large, is answered with 400, 414 or 431 and no body.
- The recovery listener has a port of its own and is not part of this document.

Bodies may be compressed with gzip (`Content-Encoding`).";

const BEARER: &str = "bearer";
const TOKEN: &str = "token";
const BASIC: &str = "basic";

/// The name of the schema of all problems of credentials.
const CREDENTIAL_PROBLEM: &str = "CredentialProblem";

/// Builds the document of these endpoints under these options.
pub(crate) fn document(endpoints: &[Endpoint], options: &Options) -> OpenApi {
    let mut paths = Paths::new();
    let mut components = Components::new();
    components.schemas.insert(CREDENTIAL_PROBLEM.to_owned(), credential_problem());
    for endpoint in endpoints {
        let bodies = endpoint.success.content.iter().map(|(_, described)| described);
        for (name, schema) in bodies.chain(&endpoint.body).flat_map(|described| &described.components) {
            components.schemas.insert(name.clone(), schema.clone());
        }
        for (method, name) in endpoint.operations() {
            if let Some(method) = http_method(&method) {
                paths.add_path_operation(endpoint.path, vec![method], operation(endpoint, name, options));
            }
        }
    }
    for (name, scheme) in security_schemes() {
        components.add_security_scheme(name, scheme);
    }
    OpenApiBuilder::new()
        .info(info())
        .paths(paths)
        .components(Some(components))
        .security(Some([BEARER, TOKEN, BASIC].map(|name| SecurityRequirement::new(name, [""; 0]))))
        .build()
}

fn info() -> Info {
    let mut license = License::new(env!("CARGO_PKG_LICENSE"));
    license.identifier = Some(env!("CARGO_PKG_LICENSE").to_owned());
    InfoBuilder::new()
        .title("optoken")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(license))
        .build()
}

fn security_schemes() -> [(&'static str, SecurityScheme); 3] {
    let http = |scheme, description| {
        let mut http = Http::new(scheme);
        http.description = Some(String::from(description));
        SecurityScheme::Http(http)
    };
    [
        (
            BEARER,
            http(HttpAuthScheme::Bearer, "`Authorization: Bearer TOKEN`. The scheme is case-sensitive."),
        ),
        (
            TOKEN,
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
                "Authorization",
                "`Authorization: Token TOKEN`. The scheme is case-sensitive.",
            ))),
        ),
        (
            BASIC,
            http(
                HttpAuthScheme::Basic,
                "The token as the password, with any user. The scheme is case-sensitive.",
            ),
        ),
    ]
}

fn operation(endpoint: &Endpoint, name: String, options: &Options) -> Operation {
    let method = endpoint.method.as_ref().unwrap_or(&Method::GET);
    let before = auth_problems(options, method, endpoint.path);
    let reached = !before.iter().any(|problem| matches!(problem, Problem::AuthDisabled));
    let handled = if reached { endpoint.problems.as_slice() } else { &[] };

    let mut problems: BTreeMap<StatusCode, Vec<&Problem>> = BTreeMap::new();
    for problem in before.iter().chain(handled) {
        problems.entry(problem::status(problem)).or_default().push(problem);
    }

    let mut operation = OperationBuilder::new()
        .operation_id(Some(name))
        .summary(Some(endpoint.summary))
        .parameters(Some(endpoint.parameters.clone()));
    if let Some(body) = &endpoint.body {
        let content = Content::new(Some(body.schema.clone()));
        let required = if body.required { Required::True } else { Required::False };
        let body = RequestBodyBuilder::new().content(JSON, content).required(Some(required));
        operation = operation.request_body(Some(body.build()));
    }
    if !requires_token(options, method, endpoint.path) {
        operation = operation.securities(Some([]));
    }
    if reached {
        operation = operation.response(endpoint.success.status.as_str(), success_response(&endpoint.success));
    }
    for (status, problems) in problems {
        operation = operation.response(status.as_str(), problem_response(&problems));
    }
    operation.build()
}

fn success_response(success: &SuccessResponse) -> Response {
    let empty = success.content.is_empty();
    let mut response =
        ResponseBuilder::new().description(if empty { "Success, with an empty body." } else { "Success." });
    for (content_type, described) in &success.content {
        response = response.content(*content_type, Content::new(Some(described.schema.clone())));
    }
    with_headers(response, &success.headers)
}

/// Describes all problems of one status as one response.
fn problem_response(problems: &[&Problem]) -> Response {
    let mut texts: Vec<_> = problems.iter().map(|problem| problem.text()).collect();
    texts.dedup();
    let mut response = ResponseBuilder::new().description(texts.join("; or: "));
    for problem in problems {
        let Some(content_type) = problem.content_type() else { continue };
        let content = if content_type == JSON {
            Content::new(Some(Ref::from_schema_name(CREDENTIAL_PROBLEM)))
        } else {
            ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build()
        };
        response = response.content(content_type, content);
    }
    let headers: Vec<_> = problems.iter().flat_map(|problem| problem.headers()).collect();
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    with_headers(response, &names)
}

fn with_headers(mut response: ResponseBuilder, names: &[&str]) -> Response {
    for name in names.iter().copied().chain([CLUSTER_UUID]) {
        // OpenAPI describes the content type elsewhere. `Connection` is for the next hop alone.
        if name != CONTENT_TYPE && name != CONNECTION {
            response = response.header(name, header(name));
        }
    }
    response.build()
}

fn header(name: &str) -> Header {
    let uuid = name == CLUSTER_UUID || REQUEST_ID_HEADERS.contains(&name);
    let description = match name {
        "www-authenticate" => "How to authenticate (RFC 6750, RFC 7617).",
        "retry-after" => "How many seconds to wait before the next attempt.",
        "allow" => "The methods that the path supports.",
        "cache-control" => "The response must not be cached.",
        CLUSTER_UUID => "The id of the catalog.",
        TOKEN_ID => "The id of the token, in decimal; absent if the server runs without authentication.",
        TOKEN_NAME => {
            "The name of the token, percent-encoded (RFC 3986): all bytes of its UTF-8 but ASCII letters, digits, `-`, `.`, \
             `_` and `~`. Absent if the server runs without authentication."
        }
        VERSION_HEADER => "The version of InfluxDB 3 Core that has this API.",
        BUILD_HEADER => "The edition of InfluxDB 3 that has this API.",
        _ => "The unique id of this response.",
    };
    let schema: Schema = if uuid {
        ObjectBuilder::new().schema_type(Type::String).format(Some(format("uuid"))).into()
    } else {
        Object::with_type(Type::String).into()
    };
    let mut header = Header::new(schema);
    header.description = Some(description.to_owned());
    header
}

fn format(name: &str) -> utoipa::openapi::SchemaFormat {
    utoipa::openapi::SchemaFormat::Custom(name.to_owned())
}

fn credential_problem() -> RefOr<Schema> {
    let error = ObjectBuilder::new().schema_type(Type::String).description(Some("The reason."));
    ObjectBuilder::new().schema_type(Type::Object).property("error", error).required("error").into()
}

pub(crate) fn http_method(method: &Method) -> Option<HttpMethod> {
    Some(match *method {
        Method::GET => HttpMethod::Get,
        Method::HEAD => HttpMethod::Head,
        Method::POST => HttpMethod::Post,
        Method::PUT => HttpMethod::Put,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => return None,
    })
}

fn get_document(request: &ApiRequest) -> Result<message::Response, Problem> {
    let document = request.state.document.clone().ok_or(Problem::Internal)?;
    Ok(response::content(JSON, document))
}

/// Returns the endpoints of this file.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Some(Method::GET),
        path: paths::OPENAPI,
        handler: Handler::Later(|request| Box::pin(async move { get_document(&request) })),
        name: "getOpenapi",
        summary: "Describe this server in OpenAPI 3.1",
        parameters: vec![],
        body: None,
        success: ok_response(vec![(JSON, BodySchema::object())]),
        problems: vec![],
    }]
}

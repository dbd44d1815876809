//! The OpenAPI document, and responses that must match it.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::{
    CREATE, NOT_AUTHENTICATED, REGENERATE, Request, Response, Server, TestEnv, get, post, request,
};

pub(crate) const OPENAPI: &str = "/api/v3/openapi.json";

/// The OpenAPI document of a server.
pub(crate) struct Document(Value);

impl Document {
    pub(crate) fn of(server: &Server, token: &str) -> Self {
        let response = get(OPENAPI).bearer(token).send(server.address);
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        let document = Self(response.json());
        document.check(&get(OPENAPI), &response);
        document
    }

    /// The methods and paths of all operations.
    pub(crate) fn methods_and_paths(&self) -> Vec<(String, String)> {
        self.operations().map(|(path, method, _)| (method, path.to_owned())).collect()
    }

    /// The operations of each path, with methods in upper case.
    fn operations(&self) -> impl Iterator<Item = (&str, String, &Value)> {
        self.0["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (path.as_str(), method.to_uppercase(), operation))
        })
    }

    /// Asserts that the document has the response to a request: status, content type, headers and
    /// the properties of JSON. A request that is not documented must have been rejected.
    #[track_caller]
    pub(crate) fn check(&self, request: &Request, response: &Response) {
        let (method, path) = request.target();
        let found =
            self.operations().find(|(its_path, its_method, _)| *its_path == path && *its_method == method);
        let Some((.., operation)) = found else {
            assert!(matches!(response.status, 204 | 400 | 401 | 404 | 405), "{method} {path}: {response:?}");
            return;
        };
        let documented = &operation["responses"][response.status.to_string()];
        assert!(documented.is_object(), "{method} {path}: this status is not documented: {response:?}");
        for (name, value) in &response.headers {
            let known = match name.as_str() {
                "date" | "content-length" | "connection" => true,
                "content-type" => documented["content"][value].is_object(),
                name => documented["headers"][name].is_object(),
            };
            assert!(known, "{method} {path}: {name} is not documented: {response:?}");
        }
        match response.header("content-type") {
            Some("application/json") => {
                let schema = &documented["content"]["application/json"]["schema"];
                self.check_value(schema, &response.json(), &format!("{method} {path} {}", response.status));
            }
            Some(_) => {}
            None => assert!(
                documented["content"].is_null() && response.body.is_empty(),
                "{method} {path}: {response:?}"
            ),
        }
    }

    /// Checks the part of JSON Schema that the document uses. Rejects properties that are not
    /// documented.
    fn check_value(&self, schema: &Value, value: &Value, at: &str) {
        if let Some(reference) = schema["$ref"].as_str() {
            return self.check_value(self.resolve(reference), value, at);
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let types = &schema["type"];
        let allowed = types == kind || types.as_array().is_some_and(|types| types.contains(&json!(kind)));
        assert!(allowed, "{at}: {value} is not {types}");
        if let Value::Array(items) = value {
            for item in items {
                self.check_value(&schema["items"], item, at);
            }
        }
        if let (Value::Object(value), Some(properties)) = (value, schema["properties"].as_object()) {
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(value.contains_key(name.as_str().unwrap()), "{at}: {name} is missing");
            }
            for (name, value) in value {
                assert!(properties.contains_key(name), "{at}: {name} is not documented");
                self.check_value(&properties[name], value, &format!("{at} {name}"));
            }
        }
    }

    fn resolve(&self, reference: &str) -> &Value {
        let found = self.0.pointer(reference.strip_prefix('#').unwrap());
        found.unwrap_or_else(|| panic!("{reference} does not resolve"))
    }
}

/// Collects all values of this key, at any depth.
fn all<'a>(key: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get(key));
            object.values().for_each(|value| all(key, value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| all(key, item, found)),
        _ => {}
    }
}

#[test]
fn document_lists_every_operation() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:"]);
    let token = server.create();
    get(OPENAPI).send(server.address).assert_is(401, NOT_AUTHENTICATED);
    let document = Document::of(&server, &token);
    assert_eq!(document.0["openapi"], "3.1.0");

    let operations: Vec<_> =
        document.operations().map(|(path, method, _)| format!("{method} {path}")).collect();
    assert_eq!(
        operations,
        [
            &format!("GET {CREATE}"),
            &format!("POST {CREATE}"),
            &format!("POST {REGENERATE}"),
            &format!("POST {REGENERATE}/stage"),
            &format!("DELETE {REGENERATE}/stage"),
            &format!("POST {REGENERATE}/confirm"),
            &format!("GET {REGENERATE}/overlap"),
            &format!("DELETE {REGENERATE}/overlap"),
            "POST /api/v3/configure/token/named_admin",
            "GET /api/v3/configure/token",
            "DELETE /api/v3/configure/token",
            "POST /api/v3/enterprise/configure/token",
            "GET /api/v3/configure/token/self",
            "GET /api/v3/configure/token/audit",
            "GET /api/v3/query_sql",
            "POST /api/v3/query_sql",
            "GET /api/v3/verify",
            "PUT /api/v3/verify",
            "POST /api/v3/verify",
            "DELETE /api/v3/verify",
            "HEAD /api/v3/verify",
            "PATCH /api/v3/verify",
            "GET /api/v3/optoken/status",
            "GET /health",
            "GET /api/v1/health",
            "GET /ping",
            "POST /ping",
            "GET /metrics",
            "GET /api/v3/optoken/health",
            "GET /api/v3/optoken/metrics",
            "GET /api/v3/optoken/ready",
            "GET /api/v3/openapi.json",
        ]
    );
    // The response to OPTIONS lists the same methods.
    for (path, ..) in document.operations().filter(|(path, ..)| *path != "/api/v3/verify") {
        let there = document.operations().filter(|(other, ..)| *other == path).map(|(_, method, _)| method);
        // HEAD is described once, for all paths.
        let with_head = there.flat_map(|method| match method.as_str() {
            "GET" => vec![method, "HEAD".to_owned()],
            _ => vec![method],
        });
        let there: Vec<_> = with_head.chain(["OPTIONS".to_owned()]).collect();
        let response = request("OPTIONS", path).send(server.address);
        assert_eq!(response.header("allow"), Some(there.join(", ").as_str()), "{path}");
    }

    let mut references = Vec::new();
    all("$ref", &document.0, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        assert!(document.resolve(reference.as_str().unwrap()).is_object(), "{reference}");
    }
    let names: HashSet<_> = document.operations().map(|(.., operation)| &operation["operationId"]).collect();
    assert_eq!(names.len(), document.operations().count());
    assert!(document.operations().all(|(.., operation)| operation["summary"].is_string()));
}

#[test]
fn document_lists_required_credentials() {
    let env = TestEnv::new();
    for (args, open) in [
        (&[][..], &[CREATE][..]),
        (
            &["--disable-authz", "health,ping"],
            &[CREATE, "/health", "/api/v1/health", "/api/v3/optoken/health", "/ping"],
        ),
    ] {
        let server = env.serve(&[&["--store", "memory:"], args].concat());
        let document = Document::of(&server, &server.create());
        for (path, method, operation) in document.operations() {
            let requires_token = !open.contains(&path) || (path == CREATE && method == "GET");
            assert_eq!(operation["security"] != json!([]), requires_token, "{method} {path}");
            assert_eq!(operation["responses"]["401"].is_object(), requires_token, "{method} {path}");
            let sent = request(&method, path);
            let response = sent.send(server.address);
            document.check(&sent, &response);
            assert_eq!(response.status == 401, requires_token, "{method} {path}: {response:?}");
        }
        let schemes = document.0["components"]["securitySchemes"].as_object().unwrap();
        assert_eq!(schemes.keys().collect::<Vec<_>>(), ["basic", "bearer", "token"]);
    }
}

#[test]
fn document_without_auth_has_no_security() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:", "--without-auth"]);
    let document = Document::of(&server, "anything");
    for (path, method, operation) in document.operations() {
        let statuses: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
        assert_eq!(operation["security"], json!([]), "{method} {path}");
        assert!(!statuses.contains(&&"401".to_owned()), "{method} {path}");
        let disabled = ["/api/v3/configure/token", "/api/v3/enterprise/configure/token"]
            .iter()
            .any(|tokens| path.starts_with(tokens));
        assert_eq!(statuses == ["405"], disabled, "{method} {path}: {statuses:?}");
        let sent = post(path);
        document.check(&sent, &sent.send(server.address));
    }
}

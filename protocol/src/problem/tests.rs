use alloc::borrow::ToOwned as _;

use super::*;

/// A problem, its status, its text, and its headers beside `cache-control`, `content-type` and
/// `www-authenticate`.
type Case = (Problem, u16, &'static str, &'static [(&'static str, &'static str)]);

/// One problem of every kind.
#[expect(clippy::too_many_lines, reason = "one table of all problems")]
fn problems() -> Vec<Case> {
    const CLOSE: &[(&str, &str)] = &[("connection", "close")];
    const RETRY: &[(&str, &str)] = &[("retry-after", "1")];
    let reason = || "reason".to_owned();
    vec![
        (Problem::MissingCredential, 401, "the request was not authenticated", &[]),
        (Problem::InvalidToken, 401, "the request was not authenticated", &[]),
        (
            Problem::MalformedCredential,
            400,
            "Authorization header was malformed, the request was not in the form of 'Authorization: <auth-scheme> \
             <token>', supported auth-schemes are Bearer, Token and Basic",
            &[],
        ),
        (Problem::InsufficientScope, 403, "only the operator token may regenerate the operator token", &[]),
        (Problem::MissingPermission, 403, "the token lacks the permission for this", &[]),
        (Problem::PathNotFound, 404, "Not found", &[]),
        (Problem::RecoveryPathNotFound, 404, "not found", &[]),
        (Problem::NoOperator, 404, "missing admin token, cannot update", &[]),
        (
            Problem::TokenNotFound("apiv3_x".to_owned()),
            404,
            "the requested resource was not found: [token]",
            &[],
        ),
        (
            Problem::DatabaseNotFound("\"y\" apiv3_x".to_owned()),
            404,
            "query error: database not found: \"y\" [token]",
            &[],
        ),
        (Problem::AlreadyExists("_admin".to_owned()), 409, "token name already exists, _admin", &[]),
        (Problem::OperatorProtected, 405, "cannot delete operator token", &[("allow", "GET, HEAD, OPTIONS")]),
        (
            Problem::Full(10_000),
            409,
            "there are 10000 tokens already, which is as many as there can be; delete some first",
            &[],
        ),
        (Problem::Conflict(reason()), 409, "reason", &[]),
        (Problem::InvalidArgument(reason()), 400, "reason", &[]),
        (Problem::AuthDisabled, 405, "endpoint disabled, started without auth", &[("allow", "OPTIONS")]),
        (Problem::InvalidQuery(reason()), 400, "serde error: reason", &[]),
        (Problem::UnsupportedMediaType, 415, "unacceptable content-type, expected: application/json", &[]),
        (Problem::UnsupportedEncoding("br".to_owned()), 400, "unacceptable content-encoding: br", &[]),
        (Problem::BodyTooLarge(1024), 413, "max request size (1024 bytes) exceeded", CLOSE),
        (Problem::BodyUnreadable, 400, "Failed to read request body", CLOSE),
        (Problem::BodyTimeout, 408, "Failed to read request body: it did not arrive in time", CLOSE),
        (Problem::InvalidGzip(reason()), 400, "error decoding gzip stream: reason", &[]),
        (Problem::InvalidJson(reason()), 400, "serde json error: reason", &[]),
        (
            Problem::Unavailable,
            503,
            "tokens are not available at the moment, nothing was changed, try again",
            RETRY,
        ),
        (
            Problem::UnknownOutcome("token recovery"),
            503,
            "the token store failed in the middle of the change; if the token that was used is refused from now on, \
             the change was made and its new token is lost: use token recovery",
            &[],
        ),
        (
            Problem::UnknownOutcomeRetryable,
            503,
            "the token store failed in the middle of the change, which may have been made; nothing is lost, do it \
             again",
            &[],
        ),
        (
            Problem::UnknownOutcomeOfNamed,
            503,
            "the token store failed in the middle of the change, which may have been made; if the list has a token of \
             this name, its secret is lost: delete it and do it again",
            &[],
        ),
        (
            Problem::UnknownOutcomeOfFirst("token recovery"),
            503,
            "the token store failed in the middle of the change, which may have been made; if there is an operator \
             token now, its secret is lost: use token recovery",
            &[],
        ),
        (
            Problem::Internal,
            500,
            "the server cannot do this, its log has the cause; nothing was changed",
            &[],
        ),
        (Problem::Forbidden("reason".into()), 403, "reason", CLOSE),
        (
            Problem::MissingRecoveryCode,
            403,
            "token recovery asks for the code that the server has written down: present it with --recovery-code -, \
             or in the header X-Recovery-Code",
            &[],
        ),
        (
            Problem::WrongRecoveryCode(4),
            403,
            "this is not the recovery code; wrong codes left before this listener is closed: 4",
            &[],
        ),
        (
            Problem::WrongRecoveryCode(0),
            403,
            "this is not the recovery code; this listener of token recovery is closed now",
            &[],
        ),
        (
            Problem::RecoveryClosed,
            410,
            "token recovery is closed at this listener: one success, too many wrong codes or the time limit closes \
             it; the next start of the server can open it again",
            CLOSE,
        ),
    ]
}

#[test]
fn every_problem_has_its_status_text_and_headers() {
    for (problem, status, text, extra) in problems() {
        assert_eq!(problem.status().code(), status, "{problem:?}");
        assert_eq!(problem.text(), text, "{problem:?}");
        let mut headers = problem.headers();
        assert_eq!(headers.remove(0), ("cache-control", "no-store"), "{problem:?}");
        let known = |(name, _): &(&str, &str)| !matches!(*name, "content-type" | "www-authenticate");
        headers.retain(known);
        assert_eq!(headers, extra, "{problem:?}");
    }
}

#[test]
fn credential_problems_are_json_with_a_challenge_and_others_are_text() {
    for (problem, challenge) in [
        (Problem::MissingCredential, r#"Bearer realm="influxdb3""#),
        (Problem::InvalidToken, r#"Bearer realm="influxdb3", error="invalid_token""#),
        (Problem::MalformedCredential, r#"Bearer realm="influxdb3", error="invalid_request""#),
        (Problem::InsufficientScope, r#"Bearer realm="influxdb3", error="insufficient_scope""#),
        (Problem::MissingPermission, r#"Bearer realm="influxdb3", error="insufficient_scope""#),
    ] {
        let headers = problem.headers();
        assert!(headers.contains(&("content-type", "application/json")), "{problem:?}");
        assert!(headers.contains(&("www-authenticate", challenge)), "{problem:?}");
        assert_eq!(problem.body(), format!("{{\"error\": \"{}\"}}", problem.text()));
    }
    for (problem, ..) in problems().into_iter().filter(|(problem, ..)| problem.challenge().is_none()) {
        let headers = problem.headers();
        assert!(!headers.iter().any(|(name, _)| *name == "www-authenticate"), "{problem:?}");
        // Clients of queries expect JSON.
        if matches!(problem, Problem::DatabaseNotFound(_)) {
            assert!(headers.contains(&("content-type", "application/json")), "{problem:?}");
            let expected = "{\"error\": \"query error: database not found: \\\"y\\\" [token]\"}";
            assert_eq!(problem.body(), expected);
            continue;
        }
        assert!(headers.contains(&("content-type", "text/plain; charset=utf-8")), "{problem:?}");
        assert_eq!(problem.body(), problem.text());
    }
}

#[test]
fn forward_auth_answers_401_403_or_503_without_a_body() {
    for (problem, ..) in problems() {
        let (challenge, text) = (problem.challenge(), problem.text());
        let lacks_right = matches!(problem, Problem::InsufficientScope | Problem::MissingPermission);
        let answer = problem.for_forward_auth();
        let last = match challenge {
            Some(challenge) => ("www-authenticate", challenge),
            None => ("retry-after", "1"),
        };
        let status = match challenge {
            Some(_) if lacks_right => 403,
            Some(_) => 401,
            None => 503,
        };
        assert_eq!(answer.status().code(), status);
        assert_eq!(answer.headers(), [("cache-control", "no-store"), last]);
        assert_eq!((answer.content_type(), answer.body().as_str()), (None, ""));
        assert_eq!(answer.text(), text, "for the log");
    }
}

#[test]
fn clients_recognise_problems_by_the_constants() {
    let beginnings = [
        (Problem::MalformedCredential, MALFORMED_CREDENTIAL),
        (Problem::AlreadyExists("x".to_owned()), ALREADY_EXISTS),
        (Problem::NoOperator, NO_OPERATOR),
        (Problem::TokenNotFound("x".to_owned()), TOKEN_NOT_FOUND),
        (Problem::AuthDisabled, ENDPOINT_DISABLED),
    ];
    for (problem, beginning) in &beginnings {
        assert!(problem.text().starts_with(beginning), "{problem:?}");
        let others = problems().into_iter().filter(|(other, ..)| other.text().starts_with(beginning));
        assert_eq!(others.count(), 1, "{beginning:?} is ambiguous");
    }
    assert_eq!(Problem::PathNotFound.text(), PATH_NOT_FOUND);
    assert_eq!(Problem::MissingPermission.text(), MISSING_PERMISSION);
    assert_eq!(Problem::RecoveryPathNotFound.text(), RECOVERY_PATH_NOT_FOUND);
}

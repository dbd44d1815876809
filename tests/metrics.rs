//! Metrics for Prometheus.

#![allow(clippy::float_cmp, reason = "counters are whole numbers")]

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::{
    CONFIRM, CREATE, NAMED_ADMIN, RECOVERY, REGENERATE, STAGE, Server, TestEnv, create_named, delete_named,
    eventually, get, post,
};

/// Value of a series.
#[track_caller]
fn value(server: &Server, token: &str, series: &str) -> f64 {
    let response = get("/metrics").bearer(token).send(server.address);
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let line = response.body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{}", response.body)).parse().unwrap()
}

#[test]
fn requests_authentications_and_rotations_are_counted() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    let first = server.create();
    let token = server.regenerate(&first);
    assert!(!server.accepts(&first));
    get("/health").send(server.address);
    get("/health").authorization("nonsense").send(server.address);
    get("/nowhere?apiv3_secret").bearer(&token).send(server.address);
    post(CREATE).send(server.address);
    let metric = |series: &str| value(&server, &token, series);
    for (series, expected) in [
        (r#"optoken_authentications_total{outcome="unknown"}"#, 1.0),
        (r#"optoken_authentications_total{outcome="missing"}"#, 1.0),
        (r#"optoken_authentications_total{outcome="malformed"}"#, 1.0),
        (r#"optoken_http_requests_total{listener="main",path="/health",status="401"}"#, 2.0),
        (r#"optoken_http_requests_total{listener="main",path="/health",status="400"}"#, 1.0),
        (r#"optoken_http_requests_total{listener="main",path="other",status="404"}"#, 1.0),
        (
            r#"optoken_http_requests_total{listener="main",path="/api/v3/configure/token/admin",status="409"}"#,
            1.0,
        ),
        (r#"optoken_commands_total{command="create_operator",outcome="done"}"#, 1.0),
        (r#"optoken_commands_total{command="create_operator",outcome="denied"}"#, 1.0),
        (r#"optoken_rotations_total{by="regenerate"}"#, 1.0),
        (r#"optoken_rotations_total{by="recovery"}"#, 0.0),
        ("optoken_recovery_listener_open", 1.0),
        ("optoken_sandbox_traps_total", 0.0),
        ("optoken_audit_append_failures_total", 0.0),
        ("optoken_audit_records_lost_total", 0.0),
        ("optoken_tokens", 1.0),
    ] {
        assert_eq!(metric(series), expected, "{series}");
    }
    assert!(metric(r#"optoken_authentications_total{outcome="accepted"}"#) >= 3.0);
    // Initialization, creation, regeneration.
    let swaps = r#"optoken_store_operation_duration_seconds_count{operation="swap",outcome="answered"}"#;
    assert_eq!(metric(swaps), 3.0);
    assert!((0.0..60.0).contains(&metric("optoken_operator_token_age_seconds")));
}

#[test]
fn reads_of_the_store_and_its_status_are_shown() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let other = env.serve(&["--poll-interval", "100ms"]);
    let token = server.create();
    let polls = |server: &Server, outcome: &str| {
        value(server, &token, &format!(r#"optoken_polls_total{{cause="interval",outcome="{outcome}"}}"#))
    };
    eventually("the other server has read the change", || other.accepts(&token));
    assert!(polls(&other, "changed") >= 1.0);
    let before = polls(&server, "unchanged");
    eventually("the store is read", || polls(&server, "unchanged") > before);
    for (series, expected) in [
        (r#"optoken_polls_total{cause="interval",outcome="unavailable"}"#, 0.0),
        (r#"optoken_polls_total{cause="interval",outcome="refused"}"#, 0.0),
        (r#"optoken_polls_total{cause="news",outcome="unchanged"}"#, 0.0),
    ] {
        assert_eq!(value(&server, &token, series), expected, "{series}");
    }
    assert!(value(&server, &token, "optoken_store_clock_ahead_seconds").is_nan());

    let status = |server: &Server| get("/api/v3/optoken/status").bearer(&token).send(server.address).json();
    for (server, interval) in [(&server, 250), (&other, 100)] {
        eventually("a poll is the newest proof", || status(server)["store"]["confirmed_by"] == "poll");
        let store = &status(server)["store"];
        assert_eq!(store["location"], format!("sqlite:{}", env.store().display()), "{store}");
        assert_eq!(store["poll_interval_ms"], interval, "{store}");
        assert_eq!(store["max_staleness_ms"], 10_000, "{store}");
        assert_eq!(store["clock"], json!(null), "{store}");
        assert!(store["staleness_ms"].is_u64(), "{store}");
    }
}

#[test]
fn token_age_is_that_of_newest_secret() {
    let env = TestEnv::new();
    let server = env.serve(&["--disable-authz", "metrics"]);
    let response = get("/metrics").send(server.address);
    assert!(response.body.contains("optoken_operator_token_age_seconds NaN"), "{}", response.body);
    let token = server.create();
    let age = || value(&server, &token, "optoken_operator_token_age_seconds");
    eventually("time passes", || age() > 0.3);
    let before = age();
    server.regenerate(&token);
    let response = get("/metrics").send(server.address);
    let after =
        response.body.lines().find_map(|line| line.strip_prefix("optoken_operator_token_age_seconds "));
    assert!(after.unwrap().parse::<f64>().unwrap() < before, "{}", response.body);
}

#[test]
fn recovery_is_counted_and_listener_gauge_falls() {
    let env = TestEnv::new();
    let server = env.serve(&RECOVERY);
    server.create();
    get("/health").send(server.recovery());
    let token = post(REGENERATE).send(server.recovery()).token();
    server.wait_for_log("token recovery is closed");
    for (series, expected) in [
        (r#"optoken_rotations_total{by="recovery"}"#, 1.0),
        ("optoken_recovery_listener_open", 0.0),
        (r#"optoken_http_requests_total{listener="recovery",path="other",status="404"}"#, 1.0),
        (
            r#"optoken_http_requests_total{listener="recovery",path="/api/v3/configure/token/admin/regenerate",status="201"}"#,
            1.0,
        ),
    ] {
        assert_eq!(value(&server, &token, series), expected, "{series}");
    }
}

#[test]
fn next_expiry_is_that_of_accepted_tokens() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let token = server.create();
    let next = || value(&server, &token, "optoken_next_token_expiry_timestamp_seconds");
    assert!(next().is_nan());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    for (name, seconds) in [("expired", 0), ("a year", 31_536_000), ("an hour", 3600), ("a day", 86_400)] {
        let body = json!({ "token_name": name, "expiry_secs": seconds });
        let response = post(NAMED_ADMIN).bearer(&token).json(&body).send(server.address);
        assert_eq!(response.status, 201, "{response:?}");
    }
    assert!((now + 3599.0..now + 3660.0).contains(&next()), "{} at {now}", next());
}

/// Each line names the client in the same fields, and each reason has its counter.
#[test]
fn refusals_are_logged_with_client_and_counted_by_reason() {
    let env = TestEnv::new();
    let server = env.serve(&[RECOVERY[0], RECOVERY[1], "--admin-token-recovery-code"]);
    let first = server.create();
    let token = server.regenerate(&first);
    let named = create_named(&token, "ci").send(server.address).token();
    let expired = post("/api/v3/configure/token/named_admin").bearer(&token);
    let expired = expired.json(&serde_json::json!({ "token_name": "expired", "expiry_secs": 0 }));
    let expired = expired.send(server.address).token();
    let scoped = json!({
        "token_name": "scoped",
        "permissions": [{ "resource_type": "db", "resource_names": ["a"], "actions": ["read"] }],
    });
    let scoped = post("/api/v3/enterprise/configure/token").bearer(&token).json(&scoped);
    let scoped = scoped.send(server.address).token();
    let (main, recovery) = (server.address, server.recovery());
    let zero = r#"optoken_refusals_total{kind="recovery",reason="wrong_code"}"#;
    assert_eq!(value(&server, &token, zero), 0.0);
    for (to, request, kind, reason, line) in [
        (main, get("/x"), "authentication", "missing", "cannot authenticate token: there is none"),
        (
            main,
            get("/x").authorization("x"),
            "authentication",
            "malformed",
            "cannot authenticate token: Authorization",
        ),
        (
            main,
            get("/x").bearer(&first),
            "authentication",
            "unknown",
            "cannot authenticate token: the token is not",
        ),
        (
            main,
            get("/x").bearer(&expired),
            "authentication",
            "expired",
            "cannot authenticate token: the token expired",
        ),
        (
            main,
            post(REGENERATE).bearer(&named),
            "command",
            "not_operator",
            "cannot carry out a token command: the token lacks the permission",
        ),
        (
            main,
            get("/metrics").bearer(&scoped),
            "authorization",
            "missing_permission",
            "request not permitted: token",
        ),
        (
            main,
            delete_named(&token, "none"),
            "command",
            "not_found",
            "cannot carry out a token command: there is no",
        ),
        (
            main,
            post(CREATE),
            "bootstrap",
            "forwarded",
            "creation of the operator token refused: the request came",
        ),
        (recovery, post(REGENERATE), "recovery", "forwarded", "token recovery refused: the request came"),
    ] {
        let forwarded = request.header("X-Forwarded-For", "203.0.113.7, 10.0.0.1");
        assert!(forwarded.send(to).status >= 400);
        let series = format!("optoken_refusals_total{{kind=\"{kind}\",reason=\"{reason}\"}}");
        assert_eq!(value(&server, &token, &series), 1.0, "{series}");
        let fields = format!(r#" client_ip="127.0.0.1" forwarded_for="203.0.113.7" reason="{reason}""#);
        let logged = |log: &str| log.lines().any(|text| text.contains(line) && text.contains(&fields));
        eventually(&format!("{line} and {fields}"), || logged(&server.log()));
    }
    // The forwarding header itself is refused there.
    post(REGENERATE).send(recovery);
    post(REGENERATE).header("X-Recovery-Code", "00").send(recovery);
    // A staged token makes its check a command.
    post(CONFIRM).bearer("apiv3_unknown").send(main);
    post(STAGE).bearer(&token).send(main).token();
    post(CONFIRM).bearer("apiv3_unknown").send(main);
    for (kind, reason, count) in [
        ("recovery", "missing_code", 1.0),
        ("recovery", "wrong_code", 1.0),
        ("authentication", "unknown", 2.0),
        ("command", "unknown", 1.0),
    ] {
        let series = format!("optoken_refusals_total{{kind=\"{kind}\",reason=\"{reason}\"}}");
        assert_eq!(value(&server, &token, &series), count, "{series}");
    }
    server.wait_for_log(
        "token recovery refused: wrong recovery code, attempts left: 4 client_ip=\"127.0.0.1\" reason=\"wrong_code\"",
    );
    let confirm = "the token is not known client_ip=\"127.0.0.1\" reason=\"unknown\" path=\"/api/v3/configure/token/admin/regenerate/confirm\"";
    server.wait_for_log(confirm);
}

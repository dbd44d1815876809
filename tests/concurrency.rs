//! Concurrent commands that exclude each other: exactly one succeeds (docs/design.md 3, invariant
//! 4).

use std::net::SocketAddr;

use crate::support::{
    CREATE, NOT_AUTHENTICATED, REGENERATE, Request, Server, TestEnv, eventually, post, send_concurrently,
};

/// Number of concurrent requests.
const CONCURRENCY: usize = 64;

/// Repetitions of a race that takes milliseconds. A second success would need the right moment.
const ROUNDS: usize = 40;

/// Sends the same request many times at the same moment, to these servers in turn. Returns the
/// token of the one success. All other responses have `status` and `body`.
fn race(servers: &[SocketAddr], request: &Request, status: u16, body: &str) -> String {
    let requests =
        servers.iter().cycle().take(CONCURRENCY).map(|server| (*server, request.clone())).collect();
    let responses: Vec<_> = send_concurrently(requests).into_iter().map(Result::unwrap).collect();
    let (succeeded, failed): (Vec<_>, Vec<_>) =
        responses.into_iter().partition(|response| response.status == 201);
    assert_eq!(succeeded.len(), 1, "{} succeeded, {} failed", succeeded.len(), failed.len());
    for response in failed {
        response.assert_is(status, body);
    }
    succeeded[0].token()
}

/// Number of changes that the catalog has records of.
fn changes(env: &TestEnv) -> usize {
    let (_, document) = env.stored_catalog().unwrap();
    let is_change = |line: &&str| line.starts_with("{\"sequence\":") && !line.contains("\"initialize\"");
    document.lines().filter(is_change).count()
}

fn assert_winner(env: &TestEnv, servers: &[&Server], old: Option<&str>, new: &str, expected: usize) {
    for server in servers {
        // At once on the server that responded, within the bound on the others.
        eventually("the new token is accepted everywhere", || server.accepts(new));
        assert!(old.is_none_or(|old| !server.accepts(old)));
    }
    assert_eq!(changes(env), expected);
}

#[test]
fn one_of_concurrent_regenerates_succeeds() {
    let env = TestEnv::new();
    let server = env.serve(&[]);
    let mut token = server.create();
    for round in 0..ROUNDS {
        let request = post(REGENERATE).bearer(&token);
        let new = race(&[server.address], &request, 401, NOT_AUTHENTICATED);
        assert_winner(&env, &[&server], Some(&token), &new, round + 2);
        token = new;
    }
}

#[test]
fn one_of_concurrent_regenerates_on_two_servers_succeeds() {
    let env = TestEnv::new();
    let (one, two) = (env.serve(&[]), env.serve(&[]));
    let mut token = one.create();
    for round in 0..ROUNDS / 8 {
        eventually("both servers know the token", || one.accepts(&token) && two.accepts(&token));
        let request = post(REGENERATE).bearer(&token);
        let new = race(&[one.address, two.address], &request, 401, NOT_AUTHENTICATED);
        assert_winner(&env, &[&one, &two], Some(&token), &new, round + 2);
        token = new;
    }
}

#[test]
fn one_of_concurrent_creates_succeeds() {
    let conflict = "token name already exists, _admin";
    for _ in 0..ROUNDS / 8 {
        let env = TestEnv::new();
        let server = env.serve(&[]);
        let token = race(&[server.address], &post(CREATE), 409, conflict);
        assert_winner(&env, &[&server], None, &token, 1);

        let env = TestEnv::new();
        let (one, two) = (env.serve(&[]), env.serve(&[]));
        let token = race(&[one.address, two.address], &post(CREATE), 409, conflict);
        assert_winner(&env, &[&one, &two], None, &token, 1);
    }
}

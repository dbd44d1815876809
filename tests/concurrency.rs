//! Many at once: of any number of commands that exclude each other, exactly one succeeds (DESIGN section 3, number 4).

use std::net::SocketAddr;

use crate::support::{
    CREATE, NOT_AUTHENTICATED, REGENERATE, Request, Server, TestEnv, eventually, post, send_concurrently,
};

const MANY: usize = 64;

/// How often a race is run where that takes milliseconds: a second winner would need the right moment.
const ROUNDS: usize = 40;

/// Sends the same request many times at one moment, in turn to these servers, and gives the one token that came of it.
/// All others are told `status` and `body`.
fn race(servers: &[SocketAddr], request: &Request, status: u16, body: &str) -> String {
    let requests = servers.iter().cycle().take(MANY).map(|server| (*server, request.clone())).collect();
    let answers: Vec<_> = send_concurrently(requests).into_iter().map(Result::unwrap).collect();
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(won.len(), 1, "{} won and {} lost", won.len(), lost.len());
    for answer in lost {
        answer.assert_is(status, body);
    }
    won[0].token()
}

/// How many changes the stored catalog remembers.
fn changes(env: &TestEnv) -> usize {
    let (_, document) = env.stored_catalog().unwrap();
    let made = |line: &&str| line.starts_with("{\"sequence\":") && !line.contains("\"initialize\"");
    document.lines().filter(made).count()
}

fn assert_winner(env: &TestEnv, servers: &[&Server], old: Option<&str>, new: &str, expected: usize) {
    for server in servers {
        // On the server that answered at once, on the others within the bound.
        eventually("the new token is accepted everywhere", || server.accepts(new));
        assert!(old.is_none_or(|old| !server.accepts(old)));
    }
    assert_eq!(changes(env), expected);
}

#[test]
fn of_many_regenerates_with_one_token_one_succeeds() {
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
fn of_many_regenerates_on_two_servers_of_one_store_one_succeeds() {
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
fn of_many_creates_one_succeeds() {
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

//! Many at once: of any number of commands that exclude each other, exactly one succeeds (DESIGN section 3, number 4).

use std::net::SocketAddr;

use crate::support::{
    CREATE, Machine, NOT_AUTHENTICATED, REGENERATE, Request, Server, at_once, eventually, post,
};

const MANY: usize = 64;

/// How often a race is run where that takes milliseconds: a second winner would need the right moment.
const ROUNDS: usize = 40;

/// Sends the same request many times at one moment, in turn to these servers, and gives the one token that came of it.
/// All others are told `status` and `body`.
fn race(servers: &[SocketAddr], request: &Request, status: u16, body: &str) -> String {
    let requests = servers.iter().cycle().take(MANY).map(|server| (*server, request.clone())).collect();
    let answers: Vec<_> = at_once(requests).into_iter().map(Result::unwrap).collect();
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(won.len(), 1, "{} won and {} lost", won.len(), lost.len());
    for answer in lost {
        answer.assert_is(status, body);
    }
    won[0].token()
}

/// How many changes the stored catalog remembers.
fn changes(machine: &Machine) -> usize {
    let (_, document) = machine.stored().unwrap();
    let made = |line: &&str| line.starts_with("{\"sequence\":") && !line.contains("\"initialize\"");
    document.lines().filter(made).count()
}

fn assert_winner(machine: &Machine, servers: &[&Server], old: Option<&str>, new: &str, expected: usize) {
    for server in servers {
        // On the server that answered at once, on the others within the bound.
        eventually("the new token is accepted everywhere", || server.accepts(new));
        assert!(old.is_none_or(|old| !server.accepts(old)));
    }
    assert_eq!(changes(machine), expected);
}

#[test]
fn of_many_regenerates_with_one_token_one_succeeds() {
    let machine = Machine::new();
    let server = machine.serve(&[]);
    let mut token = server.create();
    for round in 0..ROUNDS {
        let request = post(REGENERATE).bearer(&token);
        let new = race(&[server.address], &request, 401, NOT_AUTHENTICATED);
        assert_winner(&machine, &[&server], Some(&token), &new, round + 2);
        token = new;
    }
}

#[test]
fn of_many_regenerates_on_two_servers_of_one_store_one_succeeds() {
    let machine = Machine::new();
    let (one, two) = (machine.serve(&[]), machine.serve(&[]));
    let mut token = one.create();
    for round in 0..ROUNDS / 8 {
        eventually("both servers know the token", || one.accepts(&token) && two.accepts(&token));
        let request = post(REGENERATE).bearer(&token);
        let new = race(&[one.address, two.address], &request, 401, NOT_AUTHENTICATED);
        assert_winner(&machine, &[&one, &two], Some(&token), &new, round + 2);
        token = new;
    }
}

#[test]
fn of_many_creates_one_succeeds() {
    let conflict = "token name already exists, _admin";
    for _ in 0..ROUNDS / 8 {
        let machine = Machine::new();
        let server = machine.serve(&[]);
        let token = race(&[server.address], &post(CREATE), 409, conflict);
        assert_winner(&machine, &[&server], None, &token, 1);

        let machine = Machine::new();
        let (one, two) = (machine.serve(&[]), machine.serve(&[]));
        let token = race(&[one.address, two.address], &post(CREATE), 409, conflict);
        assert_winner(&machine, &[&one, &two], None, &token, 1);
    }
}

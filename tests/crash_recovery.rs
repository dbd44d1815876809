//! A server that is killed at any moment (SIGKILL) loses nothing that it has acknowledged, shows nothing half, and starts
//! again by itself.
//!
//! Two clients change tokens as fast as they are answered, until the server under them is killed; the next one is held to
//! what they were told. Of a change whose answer never came nothing is expected, but that it was made whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{
    Connection, NAMED_ADMIN, RECOVERY, REGENERATE, Request, Response, TOKENS, TestEnv, get, post, request,
};

/// How often each of the two tests kills a server.
const KILLS: usize = 105;

/// The longest that a server is let work, in microseconds. A change takes some milliseconds.
const LONGEST: u64 = 30_000;

/// What the clients have been told. Secrets by the names of their tokens; `None` where the answer with it never came.
struct Acknowledged {
    operator: String,
    keeper: String,
    named: BTreeMap<String, Option<String>>,
    deleted: BTreeSet<String>,
}

/// How a client's last request ended.
enum LastRequest {
    /// The server was gone between two requests, or before it had one.
    Between,
    /// It was gone before it had answered.
    During,
}

/// Xorshift: moments and choices, not secrets.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One request after the other on one connection; an error is a server that is gone.
struct Client(Option<Connection>);

impl Client {
    fn open(address: SocketAddr) -> Self {
        Self(Connection::open(address).ok())
    }

    fn ask(&mut self, request: &Request) -> Option<Response> {
        let connection = self.0.as_mut()?;
        connection.write(&request.to_bytes());
        connection.read().ok()
    }
}

fn create(credential: &str, name: &str) -> Request {
    let body = json!({ "token_name": name }).to_string();
    post(NAMED_ADMIN).bearer(credential).header("Content-Type", "application/json").body(body.as_bytes())
}

fn delete(credential: &str, name: &str) -> Request {
    request("DELETE", &format!("{TOKENS}?token_name={name}")).bearer(credential)
}

/// Creates and deletes named tokens until the server is gone.
fn work_on_names(
    address: SocketAddr,
    acknowledged: &mut Acknowledged,
    dice: &mut Dice,
    round: usize,
) -> LastRequest {
    let mut client = Client::open(address);
    for number in 0.. {
        let known: Vec<&String> = acknowledged.named.keys().collect();
        if known.len() > 20 || (known.len() > 3 && dice.throw(2) == 0) {
            let name = known[usize::try_from(dice.throw(known.len() as u64)).unwrap()].clone();
            match client.ask(&delete(&acknowledged.keeper, &name)) {
                Some(answer) => {
                    assert_eq!(answer.status, 200, "{answer:?}");
                    acknowledged.named.remove(&name);
                    acknowledged.deleted.insert(name);
                }
                None => {
                    // Gone or not; if not, with the secret that it had.
                    return if client.0.is_some() { LastRequest::During } else { LastRequest::Between };
                }
            }
        } else {
            let name = format!("t{round}-{number}");
            match client.ask(&create(&acknowledged.keeper, &name)) {
                Some(answer) => acknowledged.named.insert(name, Some(answer.token())),
                None if client.0.is_some() => return LastRequest::During,
                None => return LastRequest::Between,
            };
        }
    }
    LastRequest::Between
}

/// Replaces the operator token until the server is gone; then whether the one that is known may have been replaced.
fn work_on_operator(address: SocketAddr, mut operator: String) -> (String, LastRequest) {
    let mut client = Client::open(address);
    loop {
        match client.ask(&post(REGENERATE).bearer(&operator)) {
            Some(answer) => operator = answer.token(),
            None if client.0.is_some() => return (operator, LastRequest::During),
            None => return (operator, LastRequest::Between),
        }
    }
}

fn kill_repeatedly(seed: u64) {
    let env = TestEnv::new();
    let mut dice = Dice(seed);
    let server = env.serve(&RECOVERY);
    let operator = server.create();
    let keeper = create_named(server.address, &operator, "keeper");
    let mut acknowledged =
        Acknowledged { operator, keeper, named: BTreeMap::new(), deleted: BTreeSet::new() };
    let mut during = 0;
    let mut recovered = 0;
    let mut server = server;
    for round in 0..KILLS {
        let (address, operator) = (server.address, acknowledged.operator.clone());
        let on_operator = thread::spawn(move || work_on_operator(address, operator));
        let moment = Duration::from_micros(dice.throw(LONGEST));
        let killer = thread::spawn(move || {
            thread::sleep(moment);
            server.kill();
        });
        let names_ended = work_on_names(address, &mut acknowledged, &mut dice, round);
        let (operator, operator_ended) = on_operator.join().unwrap();
        killer.join().unwrap();
        acknowledged.operator = operator;
        during += usize::from(
            matches!(names_ended, LastRequest::During) || matches!(operator_ended, LastRequest::During),
        );

        server = env.serve(&RECOVERY);
        // The token that was shown last, unless the answer that would have shown another one never came.
        if !server.accepts(&acknowledged.operator) {
            assert!(matches!(operator_ended, LastRequest::During), "an acknowledged operator token is lost");
            acknowledged.operator = post(REGENERATE).send(server.recovery()).token();
            recovered += 1;
        }
        check_acknowledged(&server, &mut acknowledged, matches!(names_ended, LastRequest::During));
    }
    println!(
        "{KILLS} kills, {during} of them during a change, {recovered} lost the answer with the operator token"
    );
    assert!(during > KILLS / 4, "{during} of {KILLS} kills came during a change: that shows little");
}

fn create_named(address: SocketAddr, credential: &str, name: &str) -> String {
    create(credential, name).send(address).token()
}

/// What was told holds, and at most one change about a name is there that was not, or the other way round.
fn check_acknowledged(server: &crate::support::Server, acknowledged: &mut Acknowledged, in_doubt: bool) {
    assert!(server.accepts(&acknowledged.keeper));
    let listed = get(TOKENS).bearer(&acknowledged.keeper).send(server.address).json();
    let mut names: BTreeSet<String> = listed["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.remove("_admin") && names.remove("keeper"));
    let lost: Vec<String> =
        acknowledged.named.keys().filter(|name| !names.contains(*name)).cloned().collect();
    let gained: Vec<String> =
        names.iter().filter(|name| !acknowledged.named.contains_key(*name)).cloned().collect();
    assert!(lost.len() + gained.len() <= usize::from(in_doubt), "lost {lost:?}, gained {gained:?}");
    for name in lost {
        let secret = acknowledged.named.remove(&name).unwrap();
        assert!(!secret.is_some_and(|secret| server.accepts(&secret)), "half a deletion");
        acknowledged.deleted.insert(name);
    }
    for name in gained {
        assert!(!acknowledged.deleted.contains(&name), "{name} was deleted and is there again");
        acknowledged.named.insert(name, None);
    }
    for (name, secret) in &acknowledged.named {
        assert!(secret.as_ref().is_none_or(|secret| server.accepts(secret)), "{name} is not accepted");
    }
}

#[test]
fn a_killed_server_keeps_what_it_has_acknowledged() {
    kill_repeatedly(0x5eed_0001);
}

#[test]
fn a_server_that_is_killed_at_other_moments_does_so_too() {
    kill_repeatedly(0x5eed_0002);
}

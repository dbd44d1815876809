//! What three nodes do while the network, an engine, a node or a clock fails. No acknowledged
//! change is lost, and no revoked token is accepted beyond the bound.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{BOUND, Engine, Node, Traffic};
use crate::support::{
    Connection, REGENERATE, create_named, delete_named, eventually, get, holds_within, post,
};

/// How long a node may need to notice that its store answers again.
pub(super) const RECOVERY: Duration = Duration::from_secs(15);

/// Asks about a token until the node denies it for want of a proof. Returns when it accepted last.
/// After `revoked`, no acceptance begins beyond the bound.
pub(super) fn accepted_until_unavailable(node: &Node, token: &str, revoked: Instant) -> Option<Duration> {
    let mut last = None;
    loop {
        let begin = revoked.elapsed();
        match node.answer(token) {
            200 => {
                assert!(begin <= BOUND, "accepted {begin:?} after the revocation");
                last = Some(begin);
            }
            503 => return last,
            status => panic!("{status}"),
        }
        assert!(begin < BOUND * 10, "neither 503 nor 401");
        thread::sleep(Duration::from_millis(3));
    }
}

/// Returns whether all nodes accept or refuse these tokens.
pub(super) fn all_answer(nodes: &[Node], answers: &[(&str, u16)]) -> bool {
    nodes.iter().all(|node| answers.iter().all(|(token, status)| node.answer(token) == *status))
}

/// The nodes of a test, their operator token, and a named token that all nodes know.
pub(super) fn nodes_with_token(
    store: &dyn super::SharedStore,
    has_clock: bool,
) -> (Vec<Node>, String, String) {
    let nodes = Node::start_all(store, has_clock);
    let operator = nodes[0].server.create();
    let named = create_named(&operator, "ci").send(nodes[0].address()).token();
    eventually("all nodes know the tokens", || all_answer(&nodes, &[(&operator, 200), (&named, 200)]));
    (nodes, operator, named)
}

/// Deletes the named token by this node. Returns when that was acknowledged.
pub(super) fn revoke(node: &Node, operator: &str) -> Instant {
    let response = delete_named(operator, "ci").send(node.address());
    assert_eq!(response.status, 200, "{response:?}");
    Instant::now()
}

pub(crate) fn cut_off_node_denies_after_the_bound_and_comes_back(engine: &'static Engine) {
    let store = (engine.share)();
    let (nodes, operator, named) = nodes_with_token(&*store, false);
    nodes[2].set(Traffic::Cut);
    let revoked = revoke(&nodes[0], &operator);
    let last = accepted_until_unavailable(&nodes[2], &named, revoked);
    // It has answered from memory, and denies every token now.
    assert!(last.is_some());
    assert_eq!(nodes[2].answer(&operator), 503);
    // A command does nothing, or its outcome is unknown.
    let response = create_named(&operator, "late").send(nodes[2].address());
    assert_eq!(response.status, 503, "{response:?}");
    // The others go on, and know the revocation.
    let new = post(REGENERATE).bearer(&operator).send(nodes[1].address()).token();
    assert!(all_answer(&nodes[..1], &[(&named, 401)]));
    nodes[2].set(Traffic::Passes);
    let healed = Instant::now();
    let answers = [(new.as_str(), 200), (&operator, 401), (&named, 401)];
    assert!(holds_within(RECOVERY, || all_answer(&nodes, &answers)), "it does not come back");
    println!(
        "{}: last acceptance {last:?} after the revocation, of {BOUND:?}; back {:?} after the cut",
        engine.name,
        healed.elapsed()
    );
}

pub(crate) fn stopped_node_accepts_no_revoked_token(engine: &'static Engine) {
    let store = (engine.share)();
    let (nodes, operator, named) = nodes_with_token(&*store, false);
    // Requests that a stopped node has, and that it gets while it is stopped.
    let request = get("/health").bearer(&named).to_bytes();
    let (last, first) = request.split_last().unwrap();
    let mut waiting: Vec<_> = (0..8).map(|_| Connection::open(nodes[2].address()).unwrap()).collect();
    for connection in &mut waiting {
        connection.write(first);
    }
    nodes[2].server.signal(Signal::STOP);
    let revoked = revoke(&nodes[0], &operator);
    thread::sleep((BOUND + Duration::from_millis(200)).saturating_sub(revoked.elapsed()));
    for connection in &mut waiting {
        connection.write(&[*last]);
    }
    nodes[2].server.signal(Signal::CONT);
    for connection in &mut waiting {
        let status = connection.read().unwrap().status;
        assert!([401, 503].contains(&status), "{status}");
    }
    assert!(holds_within(RECOVERY, || all_answer(&nodes, &[(&operator, 200), (&named, 401)])));
}

pub(crate) fn frozen_engine_delays_nothing_beyond_the_bound(engine: &'static Engine) {
    let store = (engine.start)();
    let (nodes, operator, named) = nodes_with_token(&*store, false);
    for member in 0..engine.members {
        store.freeze(member);
    }
    let frozen = Instant::now();
    // All nodes answer from memory, and then no longer.
    for node in &nodes {
        accepted_until_unavailable(node, &named, frozen);
    }
    let response = delete_named(&operator, "ci").send(nodes[0].address());
    assert_eq!(response.status, 503, "{response:?}");
    for member in 0..engine.members {
        store.thaw(member);
    }
    assert!(holds_within(RECOVERY, || all_answer(&nodes, &[(&operator, 200), (&named, 200)])));
    revoke(&nodes[1], &operator);
    assert!(holds_within(BOUND, || all_answer(&nodes, &[(&operator, 200), (&named, 401)])));
}

pub(crate) fn lost_member_and_lost_majority_lose_no_change(engine: &'static Engine) {
    let store = (engine.start)();
    let (nodes, operator, named) = nodes_with_token(&*store, false);
    // Without one member, changes are made and seen; perhaps not by the first request.
    store.kill(0);
    let mut revoked = None;
    eventually("a change without a member", || {
        let response = delete_named(&operator, "ci").send(nodes[0].address());
        // 404: made before, and not acknowledged.
        revoked = Some(Instant::now());
        matches!(response.status, 200 | 404)
    });
    for node in &nodes {
        while let begin = revoked.unwrap().elapsed()
            && node.answer(&named) == 200
        {
            assert!(begin <= BOUND, "accepted {begin:?} after the revocation");
        }
    }
    eventually("all nodes work", || all_answer(&nodes, &[(&operator, 200), (&named, 401)]));
    // Without a majority, there is no change and no proof.
    store.freeze(1);
    let lost = Instant::now();
    for node in &nodes {
        accepted_until_unavailable(node, &operator, lost);
    }
    let response = create_named(&operator, "lost").send(nodes[1].address());
    assert_eq!(response.status, 503, "{response:?}");
    store.thaw(1);
    store.restart(0);
    assert!(holds_within(RECOVERY, || all_answer(&nodes, &[(&operator, 200), (&named, 401)])));
    let created = create_named(&operator, "after").send(nodes[1].address()).token();
    assert!(holds_within(BOUND, || all_answer(&nodes, &[(&created, 200)])));
}

pub(crate) fn clock_that_jumps_changes_no_answer(engine: &'static Engine) {
    const HOUR: i64 = 3600;
    let store = (engine.share)();
    let (nodes, mut operator, named) = nodes_with_token(&*store, true);
    let clock = nodes[2].clock.as_ref().unwrap();
    for seconds in [HOUR, -HOUR, 24 * HOUR, 0] {
        clock.jump(seconds);
        assert!(all_answer(&nodes, &[(&operator, 200), (&named, 200)]), "{seconds}");
        // Changes of both clocks follow each other.
        for node in [2, 0] {
            operator = post(REGENERATE).bearer(&operator).send(nodes[node].address()).token();
            assert!(holds_within(BOUND, || all_answer(&nodes, &[(&operator, 200)])), "{seconds}");
        }
    }
    if engine.is_remote {
        // A clock that is set back makes no proof younger.
        clock.jump(HOUR);
        nodes[2].set(Traffic::Cut);
        let revoked = revoke(&nodes[0], &operator);
        clock.jump(-HOUR);
        accepted_until_unavailable(&nodes[2], &named, revoked);
        clock.jump(0);
        nodes[2].set(Traffic::Passes);
    } else {
        revoke(&nodes[0], &operator);
    }
    assert!(holds_within(RECOVERY, || all_answer(&nodes, &[(&operator, 200), (&named, 401)])));
    let records = nodes[0].verified_audit_log(&operator);
    let times: Vec<_> = records.iter().map(|record| record["at"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

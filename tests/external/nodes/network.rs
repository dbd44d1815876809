//! A machine of its own for a node: a network namespace, whose packets to the engine can be
//! dropped.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::faults::{RECOVERY, accepted_until_unavailable, all_answer, nodes_with_token, revoke};
use super::link::Link;
use super::{BOUND, Engine, Node};
use crate::needs::{self, IP, NFT};
use crate::support::{create_named, eventually, holds_within};

/// A network namespace, joined to this one by a pair of interfaces.
struct Namespace {
    name: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn ip(arguments: &str) {
    run(needs::command(IP).args(arguments.split(' ')));
}

impl Namespace {
    fn new() -> Self {
        static USED: AtomicU8 = AtomicU8::new(0);
        let number = USED.fetch_add(1, Ordering::Relaxed);
        // Other runs of this program may have theirs at the same time.
        let [high, low] = u16::try_from(id() % 0xFFFF).unwrap().to_be_bytes();
        let address = |last| Ipv4Addr::new(10, high, low, number * 4 + last);
        let namespace =
            Self { name: format!("optoken-{}-{number}", id()), here: address(1), there: address(2) };
        let Self { name, here, there } = &namespace;
        let interface = format!("ot{}x{number}", id());
        ip(&format!("netns add {name}"));
        ip(&format!("link add {interface} type veth peer name eth0 netns {name}"));
        ip(&format!("address add {here}/30 dev {interface}"));
        ip(&format!("link set {interface} up"));
        ip(&format!("-netns {name} address add {there}/30 dev eth0"));
        ip(&format!("-netns {name} link set eth0 up"));
        ip(&format!("-netns {name} link set lo up"));
        namespace
    }

    fn nft(&self, rules: &str) {
        let mut nft = needs::command(IP);
        nft.args(["netns", "exec", &self.name, &needs::path(NFT), "-f", "-"]).stdin(Stdio::piped());
        let mut nft = nft.spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// Drops the packets of these links: all, or those of the answers alone.
    fn cut(&self, links: &[Link], answers_only: bool) {
        let ports: Vec<_> = links.iter().map(|link| link.address.port().to_string()).collect();
        let (ports, here) = (ports.join(", "), self.here);
        let requests = format!("add rule inet cut to ip daddr {here} tcp dport {{ {ports} }} drop\n");
        self.nft(&format!(
            "add table inet cut\n\
             add chain inet cut to {{ type filter hook output priority 0; policy accept; }}\n\
             add chain inet cut from {{ type filter hook input priority 0; policy accept; }}\n\
             add rule inet cut from ip saddr {here} tcp sport {{ {ports} }} drop\n{}",
            if answers_only { "" } else { &requests }
        ));
    }

    fn heal(&self) {
        self.nft("delete table inet cut\n");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its interfaces end with it.
        let _ = needs::command(IP).args(["netns", "delete", &self.name]).status();
    }
}

pub(crate) fn node_behind_dropped_packets_denies_and_comes_back(engine: &'static Engine) {
    let store = (engine.share)();
    let (nodes, operator, named) = nodes_with_token(&*store, false);
    let namespace = Namespace::new();
    let here = IpAddr::from(namespace.here);
    let links = store.addresses().into_iter().map(|engine| Link::start_on(here, engine)).collect();
    let bound = BOUND.as_secs().to_string();
    let node = Node::start_with(
        &*store,
        links,
        &format!("{}:0", namespace.there),
        &["--max-staleness", &bound],
        |cli, _| cli.wrapped_in(&needs::path(IP), &["netns", "exec", &namespace.name]),
    );
    let mut named = named;
    for answers_only in [false, true] {
        eventually("the node knows the token", || node.answer(&named) == 200);
        namespace.cut(&node.links, answers_only);
        let revoked = revoke(&nodes[0], &operator);
        let last = accepted_until_unavailable(&node, &named, revoked);
        assert_eq!(node.answer(&operator), 503);
        // Long enough for what a connection that does not end makes of it.
        thread::sleep(BOUND);
        namespace.heal();
        let healed = Instant::now();
        let back = || node.answer(&operator) == 200 && node.answer(&named) == 401;
        assert!(holds_within(RECOVERY, back), "it does not come back");
        println!(
            "{}: last acceptance {last:?} after the revocation, of {BOUND:?}; back {:?} after the cut",
            engine.name,
            healed.elapsed()
        );
        named = create_named(&operator, "ci").send(nodes[0].address()).token();
    }
    assert!(holds_within(Duration::from_secs(5), || all_answer(&nodes, &[(&operator, 200)])));
}

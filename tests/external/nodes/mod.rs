//! Several servers on one store: they are one authority.

mod clock;
mod engine;
mod faults;
mod history;
mod link;
mod network;
mod race;
mod seeded;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use self::clock::WallClock;
use self::engine::SharedStore;
pub(crate) use self::engine::{ENGINES, Engine};
pub(crate) use self::faults::{
    clock_that_jumps_changes_no_answer, cut_off_node_denies_after_the_bound_and_comes_back,
    frozen_engine_delays_nothing_beyond_the_bound, lost_member_and_lost_majority_lose_no_change,
    stopped_node_accepts_no_revoked_token,
};
pub(crate) use self::history::{
    nodes_under_faults_have_one_history, store_of_nodes_under_faults_has_one_history,
};
use self::link::{Link, Traffic};
pub(crate) use self::network::node_behind_dropped_packets_denies_and_comes_back;
pub(crate) use self::race::one_of_concurrent_regenerates_on_three_nodes_succeeds;
pub(crate) use self::seeded::default_retries_of_writes_are_a_denied_write;
use crate::support::{Cli, Server, TestEnv, get};

/// The servers of a test.
const NODES: usize = 3;

/// The maximum staleness of a node in the tests of faults.
const BOUND: Duration = Duration::from_secs(3);

/// A server, and the environment that is its machine.
pub(crate) struct Node {
    env: TestEnv,
    server: Server,
    /// Its ways to the engine.
    links: Vec<Link>,
    clock: Option<WallClock>,
}

impl Node {
    fn audit_log(env: &TestEnv) -> PathBuf {
        env.home().join("audit.log")
    }

    /// Starts a node, which has a link to each address of the engine.
    fn start(store: &dyn SharedStore, args: &[&str], has_clock: bool) -> Self {
        let links = store.addresses().into_iter().map(Link::start).collect();
        let mut clock = None;
        let adjust = |cli, env: &TestEnv| {
            if !has_clock {
                return cli;
            }
            let clock = clock.insert(WallClock::new(env.home().join("clock")));
            clock.of(cli)
        };
        let node = Self::start_with(store, links, "127.0.0.1:0", args, adjust);
        Self { clock, ..node }
    }

    /// Starts a node with these links on this address, by a command that `adjust` changes.
    fn start_with(
        store: &dyn SharedStore,
        links: Vec<Link>,
        bind: &str,
        args: &[&str],
        adjust: impl FnOnce(Cli, &TestEnv) -> Cli,
    ) -> Self {
        let addresses: Vec<_> = links.iter().map(|link| link.address).collect();
        let env = TestEnv::new();
        let cli = env.cli(["serve", "--http-bind", bind, "--store"]).arg(store.url("tokens", &addresses));
        let cli = cli.arg("--audit-log").arg(Self::audit_log(&env));
        let cli = cli.arg("--state-dir").arg(env.home().join("state")).args(args);
        let cli = store.variables().iter().fold(cli, |cli, (name, value)| cli.env(name, value));
        let server = adjust(cli, &env).start();
        Self { env, server, links, clock: None }
    }

    /// Starts the nodes of a test, with [`BOUND`].
    fn start_all(store: &dyn SharedStore, has_clock: bool) -> Vec<Self> {
        let bound = BOUND.as_secs().to_string();
        (0..NODES).map(|_| Self::start(store, &["--max-staleness", &bound], has_clock)).collect()
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Changes what passes between this node and the engine.
    fn set(&self, traffic: Traffic) {
        for link in &self.links {
            link.set(traffic);
        }
    }

    /// The status of the answer to this token: 200, 401, or 503 if the node does not know.
    fn answer(&self, token: &str) -> u16 {
        get("/health").bearer(token).send(self.address()).status
    }

    /// What the node knows of its catalog and its store.
    fn status(&self, token: &str) -> Value {
        let response = get("/api/v3/optoken/status").bearer(token).send(self.address());
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    fn sequence(&self, token: &str) -> u64 {
        self.status(token)["catalog"]["sequence"].as_u64().unwrap()
    }

    /// The lines of its audit log, which is consistent and holds the newest records of the node. A
    /// node that has seen none of many changes lacks records, and counts them.
    fn verified_audit_log(&self, token: &str) -> Vec<Value> {
        let file = Self::audit_log(&self.env);
        let log = fs::read_to_string(&file).unwrap();
        let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let newest = records[records.len() - 1]["sequence"].as_u64().unwrap();
        let lost = newest - records.len() as u64;
        assert_eq!(self.server.metric(token, "optoken_audit_records_lost_total"), lost);
        let verify = self.env.cli(["audit", "verify", "--with-server", "--host"]);
        let verify = verify.arg(format!("http://{}", self.address())).arg(&file);
        let output = verify.env("INFLUXDB3_AUTH_TOKEN", token).run();
        assert_eq!(output.code, Some(i32::from(lost > 0)), "{lost} records are lost: {output:?}");
        assert!(lost == 0 || output.stderr.contains("missing: records"), "{output:?}");
        records
    }
}

//! Several servers on one store: they are one authority.

mod race;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

pub(crate) use self::race::one_of_concurrent_regenerates_on_three_nodes_succeeds;
use crate::needs::Need;
use crate::support::{Cli, Server, TestEnv, get};

/// The servers of a test.
const NODES: usize = 3;

/// An engine that holds the store of several nodes.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    start: fn() -> SharedStore,
}

/// The engines that this machine can run.
pub(crate) const ENGINES: [Engine; 1] = [Engine { name: "sqlite", needs: &[], start: SharedStore::sqlite }];

/// A store, as the command line names it.
pub(crate) struct SharedStore {
    url: String,
    /// Variables of its credentials.
    env: Vec<(String, String)>,
    /// What ends with it.
    _guard: Box<dyn Send + Sync>,
}

impl SharedStore {
    fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("tokens.db").display());
        Self { url, env: Vec::new(), _guard: Box::new(directory) }
    }
}

/// A server, and the environment that is its machine.
pub(crate) struct Node {
    env: TestEnv,
    server: Server,
}

impl Node {
    fn audit_log(env: &TestEnv) -> PathBuf {
        env.home().join("audit.log")
    }

    /// The command of a node.
    fn command(env: &TestEnv, store: &SharedStore, args: &[&str]) -> Cli {
        let cli = env.cli(["serve", "--http-bind", "127.0.0.1:0", "--store"]).arg(&store.url);
        let cli = cli.arg("--audit-log").arg(Self::audit_log(env));
        let cli = cli.arg("--state-dir").arg(env.home().join("state")).args(args);
        store.env.iter().fold(cli, |cli, (name, value)| cli.env(name, value))
    }

    fn start(store: &SharedStore, args: &[&str]) -> Self {
        let env = TestEnv::new();
        let server = Self::command(&env, store, args).start();
        Self { env, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
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

    /// The lines of its audit log, which is consistent and holds the newest records of the node.
    fn verified_audit_log(&self, token: &str) -> Vec<Value> {
        let file = Self::audit_log(&self.env);
        let verify = self.env.cli(["audit", "verify", "--with-server", "--host"]);
        let verify = verify.arg(format!("http://{}", self.address())).arg("--token").arg(token).arg(&file);
        let output = verify.run();
        assert_eq!(output.code, Some(0), "{output:?}");
        let log = fs::read_to_string(file).unwrap();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

//! Stores on other machines, by the endpoint of an object store in this process: servers that share
//! one, engines that break a promise, backups, and moves.

use std::fs;

use serde_json::Value;

use crate::object_endpoint::{Conditions, Endpoint, Fault};
use crate::support::{Cli, CommandOutput, Server, TestEnv, eventually, get};

/// A machine, and the store that it shares with others.
struct Node<'a> {
    env: TestEnv,
    endpoint: &'a Endpoint,
}

impl<'a> Node<'a> {
    fn new(endpoint: &'a Endpoint) -> Self {
        Self { env: TestEnv::new(), endpoint }
    }

    fn url(&self) -> String {
        format!("s3://bucket/nodes?endpoint=http://{}", self.endpoint.address)
    }

    fn with_credentials(&self, cli: Cli) -> Cli {
        let cli = cli.env("AWS_ACCESS_KEY_ID", "id").env("AWS_SECRET_ACCESS_KEY", "secret");
        cli.env("INFLUXDB3_TOKEN_STORE", self.url())
    }

    fn serve_with(&self, args: &[&str]) -> Cli {
        self.with_credentials(self.env.serve_with(args))
    }

    fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args).start()
    }

    fn run(&self, command: &[&str]) -> CommandOutput {
        self.with_credentials(self.env.cli(command)).run()
    }
}

fn is_refusing(server: &Server, token: &str) -> bool {
    get("/health").bearer(token).send(server.address).status == 503
}

#[test]
fn servers_on_several_machines_share_their_tokens() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let (one, other) = (Node::new(&endpoint), Node::new(&endpoint));
    let first = one.serve(&[]);
    first.wait_for_log(&format!("token store: s3://bucket/nodes?endpoint=http://{}", endpoint.address));
    let second = other.serve(&[]);
    let token = first.create();
    eventually("the other server has the token", || second.accepts(&token));
    let next = second.regenerate(&token);
    eventually("the old token is refused everywhere", || !first.accepts(&token));
    assert!(first.accepts(&next));
    let names: Vec<_> = endpoint.objects().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["nodes/catalog"], "trials are removed");

    // Each machine has its mark.
    for (node, server) in [(&one, first), (&other, second)] {
        server.stop();
        let mark = fs::read_to_string(node.env.data_dir().join("high-water.json")).unwrap();
        assert!(mark.contains("\"sequence\": 3"), "{mark}");
    }
}

#[test]
fn older_state_of_the_engine_is_refused_by_the_mark() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let node = Node::new(&endpoint);
    let server = node.serve(&[]);
    let leaked = server.create();
    let [(name, old)] = &endpoint.objects()[..] else { panic!("one object") };
    let current = server.regenerate(&leaked);
    server.stop();
    endpoint.put(name, old);
    node.serve_with(&[]).run().assert_failed(1, &["older state, sequence 2", "--accept-catalog-at 2"]);
    // A mark elsewhere knows nothing of it.
    let state = node.env.home().join("state");
    let server = node.serve(&["--state-dir", state.to_str().unwrap()]);
    assert!(server.accepts(&leaked) && !server.accepts(&current));
    server.stop();
    assert!(state.join("high-water.json").exists());
    let homeless = node.with_credentials(node.env.cli(["serve", "--http-bind", "127.0.0.1:0"]));
    let homeless = homeless.without_env("HOME").run();
    homeless.assert_failed(1, &["the high-water mark needs a directory: name one with --state-dir"]);
}

#[test]
fn engine_that_breaks_a_promise_is_refused_by_name() {
    for (conditions, check, found) in [
        (Conditions::CheckedThenWritten, "race", "writers that expected the same state won at once"),
        (Conditions::Ignored, "first write", "a second first write was accepted"),
    ] {
        let endpoint = Endpoint::start(conditions);
        let node = Node::new(&endpoint);
        let start = node.serve_with(&[]).run();
        let address = format!("s3://bucket/nodes?endpoint=http://{}", endpoint.address);
        start.assert_failed(1, &["cannot use the token store", &address, check, found, "store check"]);
        let table = node.run(&["store", "check"]);
        assert_eq!(table.code, Some(1), "{table:?}");
        let is_row = |line: &str| line.starts_with(&format!("| {check} ")) && line.contains("| failed |");
        assert!(table.stdout.lines().any(is_row), "{}", table.stdout);
        assert!(table.stderr.contains(found), "{}", table.stderr);
        let json = node.run(&["store", "check", "--json"]);
        let report: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((json.code, &report["usable"]), (Some(1), &Value::from(false)));
        let rows = report["checks"].as_array().unwrap();
        assert_eq!(
            (&rows.last().unwrap()["check"], &rows.last().unwrap()["result"]),
            (&check.into(), &"failed".into())
        );
        // A move does not begin.
        let from = TestEnv::new();
        from.serve(&[]).stop();
        let before = from.stored_catalog();
        let source = format!("sqlite:{}", from.store().display());
        let target = node.url();
        let moved = node.run(&["migrate", "--yes", "--from", &source, "--to", &target]);
        moved.assert_failed(1, &["cannot be used", found, "nothing was changed"]);
        assert_eq!(from.stored_catalog(), before);
        assert_eq!(endpoint.objects(), [], "nothing is left");
    }
}

#[test]
fn engine_that_refuses_writes_serves_its_catalog() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let node = Node::new(&endpoint);
    let server = node.serve(&[]);
    let token = server.create();
    server.stop();
    endpoint.next_write(Fault::Status(403, "AccessDenied"));
    let server = node.serve(&[]);
    server.wait_for_log("it holds a catalog and refuses trial writes");
    assert!(server.accepts(&token));

    let endpoint = Endpoint::start(Conditions::Atomic);
    let empty = Node::new(&endpoint);
    endpoint.next_write(Fault::Status(403, "AccessDenied"));
    empty.serve_with(&[]).run().assert_failed(1, &["cannot use the token store s3://bucket/nodes"]);
    endpoint.next_write(Fault::Status(403, "AccessDenied"));
    empty.run(&["store", "check"]).assert_failed(1, &["could not be tried, so nothing is known of it"]);
    empty.run(&["backup", "backup.db"]).assert_failed(1, &["there is no token store at s3://bucket/nodes"]);
}

#[test]
fn backup_is_restored_where_servers_share_the_store() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let (node, other) = (Node::new(&endpoint), Node::new(&endpoint));
    let server = node.serve(&[]);
    let leaked = server.create();
    let backup = node.run(&["backup", "backup.db"]);
    assert_eq!(backup.code, Some(0), "{}", backup.stderr);
    assert!(backup.stdout.contains("at sequence 2, with 1 tokens"), "{}", backup.stdout);
    let left_running = other.serve(&["--max-staleness", "2"]);
    let current = server.regenerate(&leaked);
    eventually("the other server follows", || left_running.accepts(&current));
    server.stop();

    let restore = |args: &[&str]| {
        let data = node.env.data_dir();
        let options = ["restore", "--yes", "--data-dir", data.to_str().unwrap()];
        node.run(&[&options, args, &["backup.db"]].concat())
    };
    let before = endpoint.objects();
    restore(&[]).assert_failed(1, &["this server has seen sequence 3", "add --accept-catalog-at 2"]);
    assert_eq!(endpoint.objects(), before);
    let restored = restore(&["--accept-catalog-at", "2"]);
    let token = restored.token();
    for text in ["to: s3://bucket/nodes", "Start each of them once with --accept-catalog-at 3"] {
        assert!(restored.stderr.contains(text), "{text}: {}", restored.stderr);
    }
    let server = node.serve(&[]);
    assert!(server.accepts(&token) && !server.accepts(&current) && !server.accepts(&leaked));

    eventually("a server that has seen more refuses", || is_refusing(&left_running, &token));
    left_running.stop();
    other.serve_with(&[]).run().assert_failed(1, &["--accept-catalog-at 3"]);
    let accepting = other.serve(&["--accept-catalog-at", "3"]);
    assert!(accepting.accepts(&token) && !accepting.accepts(&current));
    // The newest state needs no option.
    assert_eq!(node.run(&["backup", "now.db"]).code, Some(0));
    let data = node.env.data_dir();
    let now = node.run(&["restore", "--yes", "--json", "--data-dir", data.to_str().unwrap(), "now.db"]);
    assert_eq!(now.code, Some(0), "{}", now.stderr);
    let now: Value = serde_json::from_str(&now.stdout).unwrap();
    assert!(now["store"].as_str().unwrap().starts_with("s3://bucket/nodes"));
    let token = now["token"].as_str().unwrap();
    eventually("both servers follow", || server.accepts(token) && accepting.accepts(token));
}

#[test]
fn tokens_move_to_a_shared_store_and_back() {
    let endpoint = Endpoint::start(Conditions::Atomic);
    let node = Node::new(&endpoint);
    let alone = node.env.serve(&[]);
    let token = alone.create();
    let (file, shared) = (format!("sqlite:{}", node.env.store().display()), node.url());
    let moved = node.run(&["migrate", "--yes", "--from", &file, "--to", &shared]);
    assert_eq!(moved.code, Some(0), "{}", moved.stderr);
    assert!(moved.stdout.contains(&format!("from {file} to: s3://bucket/nodes")), "{}", moved.stdout);
    eventually("the server that stays refuses", || is_refusing(&alone, &token));
    alone.wait_for_log("its tokens were moved to s3://bucket/nodes");
    drop(alone);
    node.env.serve_with(&[]).run().assert_failed(1, &["were moved to s3://bucket/nodes"]);
    let server = node.serve(&[]);
    assert!(server.accepts(&token));
    let token = server.regenerate(&token);
    let back = node.run(&["migrate", "--yes", "--json", "--to", &file]);
    assert_eq!(back.code, Some(0), "{}", back.stderr);
    let back: Value = serde_json::from_str(&back.stdout).unwrap();
    assert_eq!((&back["to"], &back["sequence"]), (&file.as_str().into(), &3.into()));
    eventually("the servers of the shared store refuse", || is_refusing(&server, &token));
    server.wait_for_log(&format!("its tokens were moved to {file}"));
    assert!(node.env.serve(&[]).accepts(&token));
}

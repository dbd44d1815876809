//! `migrate` between real engines: the tokens go from one to the next, and come back to a file.

use crate::engines::{ENVIRONMENT, Kind, etcd, fresh_name, postgres, seaweedfs};
use crate::support::{Cli, Server, TestEnv, eventually, get};

/// The servers that use the store at each stage.
const SERVERS: usize = 3;

fn with_credentials(cli: Cli) -> Cli {
    ENVIRONMENT.into_iter().fold(cli, |cli, (name, value)| cli.env(name, value))
}

/// Starts servers on a store, each with a machine of its own.
fn serve(machines: &[TestEnv], store: &str) -> Vec<Server> {
    let serve = |machine: &TestEnv| {
        let args = ["--state-dir", "state", "--admin-token-bootstrap", "off"];
        with_credentials(machine.serve_with(&args)).env("INFLUXDB3_TOKEN_STORE", store).start()
    };
    machines.iter().map(serve).collect()
}

/// Tokens follow from a file through every kind of engine, and back to a file.
pub(crate) fn tokens_follow_through_all_engines() {
    let s3: &Kind = &seaweedfs::KIND;
    let postgres = postgres::Server::shared();
    let database = postgres.database();
    let operator = TestEnv::new();
    let file = |name: &str| format!("sqlite:{}", operator.home().join(name).display());
    let stores = [
        file("first.db"),
        postgres.url(&database),
        etcd::Cluster::shared().url(&etcd::prefix()),
        s3.shared().url(&fresh_name(), &s3.shared().addresses()),
        file("last.db"),
    ];
    let mut token =
        operator.cli(["serve", "--http-bind", "127.0.0.1:0", "--store", &stores[0]]).start().create();
    let machines: Vec<_> = (0..SERVERS).map(|_| TestEnv::new()).collect();
    let mut servers = serve(&machines, &stores[0]);
    for (from, to) in stores.iter().zip(&stores[1..]) {
        // Each server has seen the newest change, so its mark refuses an older copy.
        token = servers[0].regenerate(&token);
        let accepted = |server: &Server| server.accepts(&token);
        eventually("all servers agree", || servers.iter().all(accepted));
        let migrate = with_credentials(operator.cli(["migrate", "--yes"]));
        let migrate = migrate.env("INFLUXDB3_TOKEN_STORE", from).env("INFLUXDB3_TOKEN_STORE_TO", to);
        let output = migrate.run();
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stderr.contains(postgres::PASSWORD), "{output:?}");
        for server in &servers {
            let refuses = || get("/health").bearer(&token).send(server.address).status == 503;
            eventually("a server that stays refuses", refuses);
            server.wait_for_log("its tokens were moved to ");
        }
        let left = with_credentials(machines[0].serve_with(&["--state-dir", "elsewhere"]));
        left.env("INFLUXDB3_TOKEN_STORE", from).run().assert_failed(1, &["its tokens were moved to "]);
        drop(servers);
        servers = serve(&machines, to);
        assert!(servers.iter().all(|server| server.accepts(&token)));
    }
}

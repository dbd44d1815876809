//! `SeaweedFS`: all its servers in one process.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::OnceLock;

use super::{Directory, Engine, Kind, Port, Process, s3, until_ready};
use crate::needs::{self, DEATH_SIGNAL, SEAWEEDFS};

/// Its lock of an object makes losers wait, so that 24 racers need seconds.
pub(crate) static KIND: Kind = Kind {
    racers: 8,
    speaks_http: true,
    secrets: &[s3::SECRET_KEY],
    ..Kind::new("seaweedfs", &[SEAWEEDFS, DEATH_SIGNAL], start, shared)
};

/// Servers of `SeaweedFS`, each of which has a port for HTTP and one for gRPC.
const SERVERS: [&str; 4] = ["master", "volume", "filer", "s3"];

struct SeaweedFs {
    gateway: SocketAddr,
    process: Process,
    _ports: Vec<Port>,
    _directory: Directory,
}

impl Engine for SeaweedFs {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.gateway]
    }

    fn url(&self, store: &str, addresses: &[SocketAddr]) -> String {
        s3::url(store, addresses)
    }

    fn freeze(&self) {
        self.process.freeze();
    }

    fn thaw(&self) {
        self.process.thaw();
    }
}

fn shared() -> &'static dyn Engine {
    static SHARED: OnceLock<Box<dyn Engine>> = OnceLock::new();
    &**SHARED.get_or_init(start)
}

fn start() -> Box<dyn Engine> {
    let directory = Directory::new();
    let path = directory.path();
    let mut command = Command::new(needs::path(SEAWEEDFS));
    command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]);
    let mut ports = Vec::new();
    for server in SERVERS {
        for protocol in ["", ".grpc"] {
            let port = Port::any();
            command.arg(format!("-{server}.port{protocol}={}", port.number()));
            ports.push(port);
        }
    }
    let gateway = ports[ports.len() - 2].address();
    for server in ["filer", "s3"] {
        command.arg(format!("-{server}.localSocket={}", path.join(server).display()));
    }
    command.arg(format!("-dir={}", path.display()));
    // It reports to its makers otherwise, listens on fixed ports, and reserves disk space.
    command.args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command.args(["-master.volumeSizeLimitMB=64", "-volume.max=8"]);
    // Its one identity. Without any it checks no signature.
    command.env("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", s3::SECRET_KEY);
    let process = Process::start("weed", path, &command);
    until_ready("SeaweedFS has a bucket", &[&process], || s3::create_bucket(gateway));
    Box::new(SeaweedFs { gateway, process, _ports: ports, _directory: directory })
}

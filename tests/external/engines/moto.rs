//! The server of moto, which keeps S3 in memory. It starts faster than the others, and knows no
//! signatures.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::{Directory, Engine, Kind, Port, Process, s3, until_ready};
use crate::needs::{self, DEATH_SIGNAL, MOTO};

pub(crate) static KIND: Kind = Kind {
    speaks_http: true,
    secrets: &[s3::SECRET_KEY],
    ..Kind::new("moto", &[MOTO, DEATH_SIGNAL], start, shared)
};

/// Runs moto so that each write is atomic.
const SERVER: &str = include_str!("../../engines/moto_one_at_a_time.py");

pub(crate) struct Moto {
    process: Process,
    port: Port,
    _directory: Directory,
}

impl Engine for Moto {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.port.address()]
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

fn start() -> Box<dyn Engine> {
    let directory = Directory::new();
    let port = Port::any();
    // The Python of its environment, which is beside the program.
    let mut command = Command::new(Path::new(&needs::path(MOTO)).with_file_name("python"));
    command.args(["-c", SERVER, "-H", "127.0.0.1", "-p", &port.number().to_string()]);
    let process = Process::start("moto", directory.path(), &command);
    until_ready("moto has a bucket", &[&process], || s3::create_bucket(port.address()));
    Box::new(Moto { process, port, _directory: directory })
}

fn shared() -> &'static dyn Engine {
    static SHARED: OnceLock<Box<dyn Engine>> = OnceLock::new();
    &**SHARED.get_or_init(start)
}

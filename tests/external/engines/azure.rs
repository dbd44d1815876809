//! Azurite, the emulator of Azure Blob Storage by its makers.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding as _};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::http_fault::read_head;
use super::{Directory, Engine, Kind, Port, Process, until_ready};
use crate::needs::{self, AZURITE, DEATH_SIGNAL};

/// The account of every Azurite, and its key, which are public.
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
pub(crate) const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const CONTAINER: &str = "optoken";

/// The version of the API of the only request here.
const API: &str = "2021-08-06";

/// The block of SHA-256, which HMAC fills.
const BLOCK: usize = 64;

pub(crate) static KIND: Kind = Kind {
    speaks_http: true,
    secrets: &[KEY],
    ..Kind::new("azurite", &[AZURITE, DEATH_SIGNAL], start, shared)
};

struct Azurite {
    process: Process,
    port: Port,
    _directory: Directory,
}

impl Engine for Azurite {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.port.address()]
    }

    fn url(&self, store: &str, addresses: &[SocketAddr]) -> String {
        format!("az://{CONTAINER}/{store}?endpoint=http://{}/{ACCOUNT}", addresses[0])
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
    let mut command = Command::new(needs::path(AZURITE));
    command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.number().to_string()]);
    // It reports to its makers otherwise.
    command.args(["--disableTelemetry", "--silent", "--location"]).arg(directory.path());
    let process = Process::start("azurite", directory.path(), &command);
    until_ready("Azurite has a container", &[&process], || create_container(port.address()));
    Box::new(Azurite { process, port, _directory: directory })
}

fn shared() -> &'static dyn Engine {
    static SHARED: OnceLock<Box<dyn Engine>> = OnceLock::new();
    &**SHARED.get_or_init(start)
}

/// Creates the container of all stores. Returns whether the engine has done it, which it may not
/// be ready for.
fn create_container(address: SocketAddr) -> bool {
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let now = Timestamp::try_from(SystemTime::now()).unwrap();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    // The empty lines are the headers that the request lacks.
    let signed = format!(
        "PUT{}x-ms-date:{date}\nx-ms-version:{API}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container",
        "\n".repeat(12),
    );
    let signature = Base64::encode_string(&hmac(&Base64::decode_vec(KEY).unwrap(), signed.as_bytes()));
    let request = format!(
        "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\nHost: {address}\r\nx-ms-date: {date}\r\n\
         x-ms-version: {API}\r\nAuthorization: SharedKey {ACCOUNT}:{signature}\r\nContent-Length: 0\r\n\
         Connection: close\r\n\r\n"
    );
    if connection.write_all(request.as_bytes()).is_err() {
        return false;
    }
    let mut connection = BufReader::new(connection);
    let Ok(head) = read_head(&mut connection) else { return false };
    let mut body = String::new();
    let _ = connection.read_to_string(&mut body);
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 201 "), "the container cannot be created: {head}{body}");
    true
}

/// HMAC-SHA-256 (RFC 2104) with a key of one block at most.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

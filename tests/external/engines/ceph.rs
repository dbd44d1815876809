//! Ceph's gateway for S3, with one monitor and one store of objects in memory.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{Directory, Engine, Kind, Port, Process, run, s3, until_ready};
use crate::needs::{self, CEPH_MON, CEPH_OSD, DEATH_SIGNAL, Need, RADOSGW};

pub(crate) static KIND: Kind = Kind {
    speaks_http: true,
    secrets: &[s3::SECRET_KEY],
    ..Kind::new("ceph", &[CEPH_MON, CEPH_OSD, RADOSGW, DEATH_SIGNAL], start, shared)
};

/// Name and key of the store of objects are chosen by Ceph; it has no other.
const OSD: &str = "0";

struct Ceph {
    gateway: Port,
    /// The gateway first.
    processes: [Process; 3],
    _monitor: Port,
    _directory: Directory,
}

impl Engine for Ceph {
    fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.gateway.address()]
    }

    fn url(&self, store: &str, addresses: &[SocketAddr]) -> String {
        s3::url(store, addresses)
    }

    fn freeze(&self) {
        self.processes.iter().for_each(Process::freeze);
    }

    fn thaw(&self) {
        self.processes.iter().for_each(Process::thaw);
    }
}

/// The configuration of all programs of Ceph.
fn configuration(directory: &Path, cluster: &str, monitor: &Port, gateway: &Port) -> String {
    let directory = directory.display();
    let (monitor, gateway) = (monitor.address(), gateway.address());
    format!(
        "[global]
fsid = {cluster}
mon_host = v2:{monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# Without keys there is no mode that encrypts, which the gateway insists on otherwise.
ms_mon_client_mode = crc
ms_bind_msgr1 = false
run_dir = {directory}
admin_socket =
pid_file =
keyring = {directory}/keyring
crash_dir = {directory}
log_file =
mon_cluster_log_file =
mon_data = {directory}/monitor
# A full disk of the machine is not the test's.
mon_data_avail_crit = 0
mon_data_avail_warn = 0
mon_allow_pool_size_one = true
# The gateway creates its pools one after the other, with a proposal each: a second by default.
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
osd_data = {directory}/osd
osd_objectstore = memstore
memstore_device_bytes = 1G
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
rgw_data = {directory}/gateway
rgw_frontends = beast endpoint={gateway}
"
    )
}

fn shared() -> &'static dyn Engine {
    static SHARED: OnceLock<Box<dyn Engine>> = OnceLock::new();
    &**SHARED.get_or_init(start)
}

fn start() -> Box<dyn Engine> {
    let directory = Directory::new();
    let path = directory.path();
    let (monitor, gateway) = (Port::any(), Port::any());
    let [cluster, osd] = [uuid(), uuid()];
    directory.file("ceph.conf", &configuration(path, &cluster, &monitor, &gateway));
    for name in ["monitor", "osd", "gateway"] {
        fs::create_dir(path.join(name)).unwrap();
    }
    let ceph = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-c", "ceph.conf"]).args(arguments);
        command
    };
    // The administration programs are in packages that these depend on.
    let beside = |name: &str| Path::new(&needs::path(CEPH_MON)).with_file_name(name);
    let program = |need: Need| PathBuf::from(needs::path(need));
    let once = |program: PathBuf, arguments: &[&str]| run(path, &mut ceph(&program, arguments));
    let serve = |name: &'static str, need: Need, arguments: &[&str]| {
        Process::start(name, path, &ceph(&program(need), arguments))
    };

    let address = format!("[v2:{}]", monitor.address());
    once(beside("monmaptool"), &["--create", "--addv", "a", &address, "--fsid", &cluster, "monmap"]);
    once(program(CEPH_MON), &["--mkfs", "-i", "a", "--monmap", "monmap"]);
    let monitor_process = serve("ceph-mon", CEPH_MON, &["-f", "-i", "a"]);
    // It waits for the monitor.
    once(beside("ceph"), &["osd", "create", &osd]);
    once(program(CEPH_OSD), &["-i", OSD, "--mkfs", "--osd-uuid", &osd]);
    once(beside("ceph"), &["osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default"]);
    let osd_process = serve("ceph-osd", CEPH_OSD, &["-f", "-i", OSD]);
    once(beside("ceph-authtool"), &["--create-keyring", "keyring", "--gen-key", "-n", "client.rgw.a"]);
    let gateway_process = serve("radosgw", RADOSGW, &["-f", "-n", "client.rgw.a"]);

    let processes = [gateway_process, osd_process, monitor_process];
    let all: Vec<_> = processes.iter().collect();
    until_ready("Ceph's gateway listens", &all, || TcpStream::connect(gateway.address()).is_ok());
    let user = ["user", "create", "--uid", "test", "--display-name", "test"];
    let keys = ["--access-key", s3::ACCESS_KEY, "--secret", s3::SECRET_KEY];
    once(beside("radosgw-admin"), &[user.as_slice(), &keys].concat());
    until_ready("Ceph has a bucket", &all, || s3::create_bucket(gateway.address()));
    Box::new(Ceph { gateway, processes, _monitor: monitor, _directory: directory })
}

fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

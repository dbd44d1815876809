//! The files of dist/ for several nodes, with the programs that read them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::needs::{self, CURL, HAPROXY, NGINX, Need, PROMETHEUS, SYSTEMD_ANALYZE};
use crate::proxies::nginx_command;
use crate::support::{ChildGuard, PROGRAM, Server, TestCertificate, TestEnv, eventually, get};

/// The oldest version of Kubernetes that the documents name.
const KUBERNETES: &str = "1.30";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn dist(file: &str) -> PathBuf {
    root().join("dist").join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Runs the script that compares manifests with the schemas of Kubernetes.
fn kubernetes(files: &[PathBuf]) -> Result<Vec<Value>, String> {
    let script = root().join("tests/kubernetes/run");
    needs::prepare_once(Command::new(&script).arg("install"));
    let output = Command::new(script).args(["read", KUBERNETES]).args(files).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// All manifests, by their kind and name.
struct Manifests(Vec<Value>);

impl Manifests {
    fn read() -> Self {
        let entries = fs::read_dir(dist("kubernetes")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
        files.sort();
        Self(kubernetes(&files).unwrap())
    }

    fn one(&self, kind: &str, name: &str) -> &Value {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.0.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The pods of the nodes, and the pod for recovery.
    fn pods(&self) -> [&Value; 2] {
        let nodes = &self.one("StatefulSet", "optoken")["spec"]["template"];
        [&nodes["spec"], &self.one("Pod", "optoken-recovery")["spec"]]
    }
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// The values of a field in each entry of a list.
fn fields<'a>(list: &'a Value, field: &str) -> BTreeSet<&'a str> {
    list.as_array().into_iter().flatten().map(|entry| entry[field].as_str().unwrap()).collect()
}

pub(crate) fn manifests_fit_each_other_and_kubernetes() {
    let manifests = Manifests::read();
    let nodes = &manifests.one("StatefulSet", "optoken")["spec"];
    assert_eq!(nodes["replicas"], 3);
    let labels = &nodes["template"]["metadata"]["labels"];
    let port = &nodes["template"]["spec"]["containers"][0]["ports"][0];
    let headless = nodes["serviceName"].as_str().unwrap();
    for service in ["optoken", headless] {
        let service = &manifests.one("Service", service)["spec"];
        assert_eq!((&service["selector"], &service["ports"][0]["targetPort"]), (labels, &port["name"]));
    }
    assert_eq!(manifests.one("Service", headless)["spec"]["clusterIP"], "None");
    let budget = &manifests.one("PodDisruptionBudget", "optoken")["spec"];
    assert_eq!((&budget["selector"]["matchLabels"], &budget["maxUnavailable"]), (labels, &1.into()));
    assert_eq!(&nodes["selector"]["matchLabels"], labels);
    // The pod for recovery gets no request of a client.
    assert_eq!(manifests.one("Pod", "optoken-recovery")["metadata"]["labels"], Value::Null);

    let listed = manifests.0.iter().find(|object| object["kind"] == "Kustomization").unwrap();
    for file in strings(&listed["resources"]) {
        assert!(dist("kubernetes").join(file).is_file(), "{file}");
    }
    let page = read("docs/operations.md");
    let image = &listed["images"][0];
    let image = format!("{}:{}", image["newName"].as_str().unwrap(), image["newTag"].as_str().unwrap());
    assert_eq!(manifests.pods()[1]["containers"][0]["image"].as_str(), Some(image.as_str()));
    for (pod, claims) in manifests.pods().into_iter().zip([&nodes["volumeClaimTemplates"], &Value::Null]) {
        let container = &pod["containers"][0];
        let mut volumes = fields(&pod["volumes"], "name");
        volumes
            .extend(claims.as_array().into_iter().flatten().filter_map(|it| it["metadata"]["name"].as_str()));
        assert_eq!(fields(&container["volumeMounts"], "name"), volumes);
        // The documents make each object that the pod needs.
        for volume in pod["volumes"].as_array().unwrap() {
            for (kind, name) in
                [("secret", &volume["secret"]["secretName"]), ("configmap", &volume["configMap"]["name"])]
            {
                let Some(name) = name.as_str() else { continue };
                let is_made = page.lines().any(|line| {
                    line.starts_with(&format!("kubectl -n optoken create {kind} "))
                        && line.contains(&format!(" {name} "))
                });
                assert!(is_made, "{kind} {name}");
            }
        }
        assert!(page.contains(&format!(
            "secret generic {} ",
            container["envFrom"][0]["secretRef"]["name"].as_str().unwrap()
        )));
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
    }

    // The schema sees a misspelt field.
    let env = TestEnv::new();
    let wrong = read("dist/kubernetes/disruption-budget.yaml").replace("maxUnavailable", "maxUnavailible");
    let error = kubernetes(&[env.file("wrong.yaml", wrong.as_bytes())]).unwrap_err();
    assert!(error.contains("maxUnavailible"), "{error}");
}

/// Starts the server of a pod, with its files below `home`.
fn start_pod(pod: &Value, certificate: &TestCertificate) -> Server {
    let home = certificate.env.home();
    let mut cli = certificate.env.cli(&[] as &[&str]);
    for arg in strings(&pod["containers"][0]["args"]) {
        let arg = match arg {
            "--http-bind=0.0.0.0:8181" | "--http-bind=127.0.0.1:8181" => "--http-bind=127.0.0.1:0".to_owned(),
            "--admin-token-recovery-http-bind=127.0.0.1:8182" => {
                "--admin-token-recovery-http-bind=127.0.0.1:0".to_owned()
            }
            "--log-format=json" => "--log-format=full".to_owned(),
            arg => arg
                .replace("=/etc/optoken/tls/tls.crt", &format!("={}", certificate.certificate.display()))
                .replace("=/etc/optoken/tls/tls.key", &format!("={}", certificate.key.display()))
                .replace("=/etc/optoken/operator", &format!("={}", home.display()))
                .replace("=/state", &format!("={}", home.display())),
        };
        assert!(!arg.contains("/etc/") && !arg.contains("8181"), "{arg}");
        cli = cli.arg(arg);
    }
    cli.env("POD_NAME", "optoken-0").env("INFLUXDB3_TOKEN_STORE", "memory:").start()
}

pub(crate) fn pods_start_and_their_probes_succeed() {
    let manifests = Manifests::read();
    let certificate = TestCertificate::new();
    let [node, recovery] = manifests.pods();
    let home = certificate.env.home();
    let created = ["create", "token", "--admin", "--offline", "--yes"];
    let created =
        certificate.env.cli(created).args(&["--output-file", "token.json", "--hash-file", "hash.json"]);
    assert_eq!(created.run().code, Some(0));
    let server = start_pod(node, &certificate);
    server.wait_for_log("Admin token '_admin' initialized from file");
    let curl = |path: &str| {
        let mut command = needs::command(CURL);
        command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert"]);
        command.arg(&certificate.authority).arg(format!("https://{}{path}", server.address));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let container = &node["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let request = &container[probe]["httpGet"];
        assert_eq!((&request["scheme"], &request["port"]), (&"HTTPS".into(), &container["ports"][0]["name"]));
        assert_eq!(curl(request["path"].as_str().unwrap()), "200", "{probe}");
    }
    assert_eq!(curl("/health"), "200");
    assert_eq!(curl("/metrics"), "401");
    eventually("the mark is written", || home.join("optoken/high-water.json").is_file());
    drop(server);

    fs::remove_dir_all(home.join("optoken")).unwrap();
    let server = start_pod(recovery, &certificate);
    assert!(server.recovery().ip().is_loopback());
}

pub(crate) fn drop_in_is_valid() {
    let env = TestEnv::new();
    let service = read("dist/optoken.service");
    env.file("optoken.service", service.replace("/usr/local/bin/optoken", PROGRAM).as_bytes());
    fs::create_dir(env.home().join("optoken.service.d")).unwrap();
    let verify = |text: &str| {
        env.file("optoken.service.d/nodes.conf", text.as_bytes());
        let mut command = needs::command(SYSTEMD_ANALYZE);
        let output = command.args(["verify", "./optoken.service"]).current_dir(env.home()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let shipped = read("dist/nodes/optoken.service.d/nodes.conf");
    assert_eq!(verify(&shipped), (true, String::new()));
    let (_, found) = verify(&shipped.replace("RestartSec=", "RestartSeconds="));
    assert!(found.contains("RestartSeconds"), "{found}");
}

/// The rules for Prometheus in a document.
fn rules(page: &str) -> Vec<&str> {
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.filter(|block| block.starts_with("groups:")).collect()
}

pub(crate) fn alerts_are_valid_and_their_metrics_exist() {
    let env = TestEnv::new();
    let server = env.serve(&["--store", "memory:", "--disable-authz", "metrics"]);
    // A family without a value has no line.
    server.create();
    let metrics = get("/metrics").send(server.address).body;
    let page = read("docs/operations.md");
    let rules = rules(&page);
    assert_eq!(rules.len(), 2);
    let promtool = needs::path(PROMETHEUS).replace("/prometheus", "/promtool");
    for rules in rules {
        let file = env.file("rules.yml", rules.as_bytes());
        let output = Command::new(&promtool).args(["check", "rules"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let name = |next: char| next.is_ascii_alphanumeric() || next == '_';
        let words = rules.split(|next| !name(next)).filter(|word| word.starts_with("optoken_"));
        for metric in words {
            let family = ["_bucket", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
            let family = family.unwrap_or(metric);
            assert!(metrics.contains(&format!("# TYPE {family} ")), "{metric}");
        }
    }
}

/// A load balancer of dist/nodes.
pub(crate) struct Balancer {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    file: &'static str,
    /// Places of the certificate with its key, of the certificate alone, of the key, and of the
    /// authority of the nodes.
    files: [&'static str; 4],
    command: fn(&Path) -> Command,
}

pub(crate) const BALANCERS: [Balancer; 2] = [
    Balancer {
        name: "haproxy",
        need: HAPROXY,
        file: "haproxy.cfg",
        files: ["/etc/haproxy/optoken.pem", "", "", "/etc/haproxy/nodes-ca.pem"],
        command: |file| {
            let mut command = needs::command(HAPROXY);
            command.arg("-db").arg("-f").arg(file);
            command
        },
    },
    Balancer {
        name: "nginx",
        need: NGINX,
        file: "nginx.conf",
        files: ["", "/etc/nginx/optoken.crt", "/etc/nginx/optoken.key", "/etc/nginx/nodes-ca.pem"],
        command: nginx_command,
    },
];

/// Starts a balancer before these nodes, with one certificate for all.
fn balance(
    balancer: &Balancer,
    certificate: &TestCertificate,
    nodes: &[SocketAddr],
) -> (ChildGuard, SocketAddr) {
    let home = certificate.env.home();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let both = read(&certificate.certificate) + &read(&certificate.key);
    let both = certificate.env.file("both.pem", both.as_bytes());
    fs::set_permissions(&both, fs::Permissions::from_mode(0o600)).unwrap();
    let mut text = read(&dist("nodes").join(balancer.file));
    let used = [&both, &certificate.certificate, &certificate.key, &certificate.authority];
    for (shipped, path) in balancer.files.into_iter().zip(used).filter(|(shipped, _)| !shipped.is_empty()) {
        assert_eq!(text.matches(shipped).count(), 1, "{shipped}");
        text = text.replace(shipped, path.to_str().unwrap());
    }
    for (number, node) in nodes.iter().enumerate() {
        let shipped = format!("192.0.2.1{}:8181", number + 1);
        assert_eq!(text.matches(&shipped).count(), 1, "{shipped}");
        text = text.replace(&shipped, &node.to_string());
    }
    for name in ["node1.example.com", "node2.example.com", "node3.example.com", "optoken-nodes.example.com"] {
        text = text.replace(name, "localhost");
    }
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    text = text
        .replace("bind :443", &format!("bind {address}"))
        .replace("listen 443", &format!("listen {address}"));
    let file = certificate.env.file(balancer.file, text.as_bytes());
    let log = File::create(home.join("balancer.log")).unwrap();
    let mut command = (balancer.command)(&file);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = ChildGuard(command.spawn().unwrap());
    eventually("the balancer listens", || {
        let log = || fs::read_to_string(home.join("balancer.log")).unwrap();
        assert!(child.0.try_wait().unwrap().is_none(), "{}: {}", balancer.name, log());
        TcpStream::connect(address).is_ok()
    });
    (child, address)
}

pub(crate) fn balancer_passes_over_stale_and_dead_nodes(balancer: &Balancer) {
    let certificate = TestCertificate::new();
    let env = &certificate.env;
    let created =
        env.cli(["create", "token", "--admin", "--offline", "--yes", "--output-file", "token.json"]);
    assert_eq!(created.run().code, Some(0));
    let token: Value =
        serde_json::from_str(&fs::read_to_string(env.home().join("token.json")).unwrap()).unwrap();
    let token = token["token"].as_str().unwrap();
    // Nodes with a store each, so that one of them loses its own.
    let mut nodes: Vec<_> = (0..3)
        .map(|number| {
            let store = format!("sqlite:{}", env.home().join(format!("{number}.db")).display());
            let args = ["--store", &store, "--max-staleness", "1", "--disable-authz", "health,ready"];
            certificate.serve(
                &[&args[..], &["--admin-token-bootstrap", "off", "--admin-token-file", "token.json"]]
                    .concat(),
            )
        })
        .collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let (_running, address) = balance(balancer, &certificate, &addresses);
    let verify_at = |address: SocketAddr| {
        let mut command = needs::command(CURL);
        command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert"]);
        command.arg(&certificate.authority).args(["--header", &format!("Authorization: Bearer {token}")]);
        command.arg(format!("https://{address}/api/v3/verify"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let verify = || verify_at(address);
    eventually("the nodes are ready", || verify() == "200");
    // A node that refuses all tokens, and one that is gone: clients notice neither.
    let store = rusqlite::Connection::open(env.home().join("0.db")).unwrap();
    store.execute_batch("ALTER TABLE catalog RENAME TO away").unwrap();
    eventually("one node refuses all tokens", || verify_at(addresses[0]) == "503");
    nodes.remove(1).kill();
    let mut good = 0;
    eventually("no client is refused", || {
        good = if verify() == "200" { good + 1 } else { 0 };
        good == 30
    });
}

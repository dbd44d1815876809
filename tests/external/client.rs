//! The client at a server that a real proxy has below a path.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use crate::needs::{self, NGINX};
use crate::support::{ChildGuard, CommandOutput, TestEnv, eventually};

/// Starts nginx, which has the server below `/influxdb`.
fn nginx(env: &TestEnv, server: SocketAddr) -> (ChildGuard, SocketAddr) {
    // nginx does not report a port that the system picks.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events {{}}\n\
         http {{ access_log off; client_body_temp_path body; proxy_temp_path proxied; fastcgi_temp_path fastcgi; \
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{ listen {address};\n\
         location /influxdb/ {{ proxy_pass http://{server}/; }}\n\
         location /gone/ {{ proxy_pass http://127.0.0.1:1/; }}\n\
         location /moved/ {{ rewrite ^/moved(.*)$ https://db.example/influxdb$1 redirect; }} }} }}"
    );
    let file = env.file("nginx.conf", configuration.as_bytes());
    let mut command = needs::command(NGINX);
    command.args(["-e", "stderr", "-p"]).arg(env.home()).arg("-c").arg(file);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    let child = ChildGuard(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("nginx listens", || TcpStream::connect(address).is_ok());
    (child, address)
}

pub(crate) fn nginx_has_the_server_below_a_path() {
    let (env, proxy_env) = (TestEnv::new(), TestEnv::new());
    let server = env.serve(&["--store", "memory:"]);
    let (_nginx, address) = nginx(&proxy_env, server.address);
    let operator = env.file("operator", server.create().as_bytes());
    let run = |path: &str, args: &str| -> CommandOutput {
        let cli = env.cli(args.split_whitespace()).args(&["--host", &format!("http://{address}{path}")]);
        cli.arg("--token-file").arg(&operator).run()
    };
    let rotate = "create token --admin --regenerate --yes --output-file operator";
    for path in ["/influxdb", "/influxdb/"] {
        for args in [
            "create token --admin --name ci",
            rotate,
            "show tokens",
            "audit show",
            "delete token --yes --token-name ci",
        ] {
            let output = run(path, args);
            assert_eq!(output.code, Some(0), "{path} {args}: {output:?}");
        }
    }
    // The pages and statuses of the proxy itself have advice, and the file keeps its token.
    let before = fs::read(&operator).unwrap();
    for (path, messages) in [
        (
            "",
            &["[404 Not Found]: the response is a web page: 404 Not Found", "give --host that path, too"][..],
        ),
        ("/gone", &["[502 Bad Gateway]: the response is a web page: 502", "the old token is still in force"]),
        ("/moved", &["[302 ", "give it with --host https://db.example/influxdb\n"]),
        (
            "/influxdb/more",
            &[
                "[404 Not Found]: Not found (code: 404)\n",
                "does not have /influxdb/more/api/v3/configure/token/admin/regenerate: it is an older version",
                "or the path in --host is not right",
            ],
        ),
    ] {
        let output = run(path, rotate);
        assert!(
            output.code == Some(1) && messages.iter().all(|text| output.stderr.contains(text)),
            "{output:?}"
        );
    }
    assert_eq!(fs::read(&operator).unwrap(), before);
    assert!(server.accepts(std::str::from_utf8(&before).unwrap().trim()));
}
